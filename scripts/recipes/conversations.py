#!/usr/bin/env python3
"""Writes made conversations as JSON lines: sums, counts, opposites and orders of words, in one to three turns.

    python3 scripts/recipes/conversations.py COUNT SEED

The same COUNT and SEED give the same lines. Every answer is one short sentence, so what can be learned in minutes is the form.
"""
import json
import random
import sys

WORDS = """apple bridge candle desert engine forest garden harbour island jacket kettle ladder meadow needle orange pencil quarry river
saddle table umbrella valley window yellow""".split()
OPPOSITES = {"hot": "cold", "early": "late", "long": "short", "heavy": "light", "open": "closed", "near": "far", "old": "new",
             "quick": "slow", "wide": "narrow", "loud": "quiet", "full": "empty", "wet": "dry"}


def exchange(rng):
    """A question and its answer."""
    kind, a, b = rng.randrange(5), rng.randrange(2, 50), rng.randrange(2, 50)
    words = rng.sample(WORDS, 3)
    if kind == 0:
        return f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."
    if kind == 1:
        return f"How many letters has the word {words[0]}?", f"The word {words[0]} has {len(words[0])} letters."
    if kind == 2:
        word = rng.choice(sorted(OPPOSITES))
        return f"What is the opposite of {word}?", f"The opposite of {word} is {OPPOSITES[word]}."
    if kind == 3:
        return f"Put these words in order: {', '.join(words)}.", f"In order they are {', '.join(sorted(words)[:2])} and {sorted(words)[2]}."
    return f"Which is more, {a} or {b}?", f"{max(a, b)} is more than {min(a, b)}." if a != b else "They are the same."


def conversation(rng):
    messages = [{"role": "system", "content": "Answer in one short sentence."}] if rng.random() < 0.3 else []
    for _ in range(rng.choice([1, 1, 2, 3])):
        question, answer = exchange(rng)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    rng = random.Random(int(sys.argv[2]))
    for _ in range(int(sys.argv[1])):
        print(json.dumps(conversation(rng)))


main()
