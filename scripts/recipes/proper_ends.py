#!/usr/bin/env python3
"""Counts how many answers of a model tuned with chatml end properly: with words, and with the token that ends a message.

    python3 scripts/recipes/proper_ends.py MODEL QUESTIONS.jsonl

The first question of each conversation is asked, with the likeliest token each time and at most 40 of them.
"""
import json
import re
import subprocess
import sys

MOST = 40


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    model, questions = sys.argv[1:]
    ended = right = total = 0
    for line in open(questions, encoding="utf-8"):
        messages = [m for m in json.loads(line)["messages"] if m["role"] != "system"]
        prompt = f"<|im_start|>user\n{messages[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
        done = subprocess.run(["./infer_gpt", "--model", model, "--prompt", prompt, "--tokens", str(MOST), "--temperature", "0", "--stats"],
                              capture_output=True, text=True, check=True)
        made = re.search(r"· (\d+) tokens? at", done.stderr)  # nothing is said about fewer than two
        words = done.stdout.rsplit("assistant\n", 1)[1].strip()
        ends = bool(words) and (int(made.group(1)) if made else 0) < MOST
        ended += ends
        right += ends and words == messages[1]["content"]
        total += 1
        if total <= 3:
            print(f"    {messages[0]['content']}\n    → {words if ends else words + ' …'}")
    print(f"{ended} of {total} answers end properly, and {right} are word for word right")


main()
