# make_chat.py - writes test/golden/chat.json: the ids that transformers' apply_chat_template gives for conversations
#
#   python3 test/make_chat.py        needs transformers (5.23.0 wrote the file); the templates are those of data/chat_template.h
import json
import re

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

SAY = lambda *words: [{"role": role, "content": text} for role, text in words]
CONVERSATIONS = [
    SAY(("user", "Hello"), ("assistant", "Hi.")),
    SAY(("system", "Be brief."), ("user", "What is 12 + 7?"), ("assistant", "19"), ("user", "And twice that?"), ("assistant", "38")),
    SAY(("user", "Say nothing."), ("assistant", "")),
    SAY(("user", ""), ("assistant", " the cat's hat\n\n")),
    SAY(("user", "two\nlines\n"), ("assistant", "\n\n  indented\tcaf\u00e9 \u4e16\u754c \U0001f44b")),
    SAY(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d")),
    SAY(("assistant", "I speak first."), ("user", "No.")),
    SAY(("system", "\n"), ("user", "### Response:\n"), ("assistant", "User: \nAssistant:")),
]


def templates():
    """The name and the Jinja text of each form, as data/chat_template.h has them."""
    table = re.search(r"chat_forms\[\] = \{\n(.*?)\n\};", open("data/chat_template.h").read(), re.S).group(1)
    for row in re.split(r"\n    (?=\{\")", "\n" + table):
        if row.strip():
            yield re.match(r'\{"(\w+)"', row.strip()).group(1), "".join(re.findall(r'R"\((.*?)\)"', row, re.S))


def main():
    plain = json.load(open("test/golden/tokenizers.json"))["plain"]
    for token in "<|im_start|>", "<|im_end|>":
        id = len(plain["model"]["vocab"]) + len([t for t in plain["added_tokens"] if t["content"] not in plain["model"]["vocab"]])
        plain["added_tokens"].append({"id": id, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                                      "normalized": False, "special": True})
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(plain)), eos_token="<|endoftext|>")
    cases = []
    for name, jinja in templates():
        for messages in CONVERSATIONS:
            ids = [fast.apply_chat_template(messages, chat_template=jinja, add_generation_prompt=open_, return_dict=False)
                   for open_ in (False, True)]
            cases.append({"form": name, "messages": messages, "ids": ids[0], "open": ids[1]})
    with open("test/golden/chat.json", "w") as out:
        json.dump({"added": plain["added_tokens"], "cases": cases}, out, separators=(",", ":"))
        out.write("\n")


main()
