# make_tokenizers.py - writes test/golden/tokenizers.json: tokenizers of many habits, texts, and the ids of Hugging Face's library
#
#   python3 test/make_tokenizers.py        needs tokenizers (0.23.3 wrote the file)
import copy
import json
import random

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

PAGE = """It was a bright cold day, and the clocks were striking; the cat sat on the mat, the cat's hat was on the cat.
    for (int i = 0; i < 10; i++) { total += i; }   // the sum of the first ten numbers, 1234 and 1234 and 1234

The other day the mother of the brother gathered the weather together: na\u00efve caf\u00e9, \u4e16\u754c \u4e16\u754c, aaaaaaaa, \U0001f44b\U0001f44b
cafe\u0301 e\u0301 fi\ufb01 \u00bd \uff21\uff22 \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab \u212b \u2460\n"""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TIKTOKEN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
KINDS = ["the", " the", "'s", "'ll", "'LL", "'", " ", "  ", "\n", "\t", "\r\n", "1234", " 9", "!?", " --", "<|endoftext|>", "<|user|>",
         "<s>", "\u00a0", "\u3000", "e\u0301", "\u0323\u0301", "\u1112\u1161\u11ab", "\uac00\u11a7", "\u00bd", "\u0663", "\U0001f44b",
         "\u00e9", "\u212b", "\ufb01", "\uff21", "\uff76\uff9e", "\ufdfa", "\u1e9b\u0323", "\u0344", "\u00a8", "\u2460", "\u32ff",
         "\U0001f16c", "\U0001fbf5", "\U00011938", "\u0958", "\u4e16\u754c", "\ud55c", "cat's", "  x", "aaaa", "\x00", "\x7f", "\u200d", "\ufffd"]


def base():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<|endoftext|>", "<|user|>", "<s>", "<unk>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([PAGE] * 4, trainer)
    return json.loads(tokenizer.to_str())


def without_bytes(file, chars):
    model = file["model"]
    keep = lambda word: not any(c in word for c in chars)
    special = {t["content"] for t in file["added_tokens"]}
    model["vocab"] = {w: i for w, i in model["vocab"].items() if w in special or keep(w)}
    model["merges"] = [m for m in model["merges"] if keep(m[0]) and keep(m[1])]


def habits():
    plain = base()
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    prefixed, bare = dict(level, add_prefix_space=True), dict(level, use_regex=False)
    split = lambda pattern, behavior, invert: {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}
    several = lambda key, *parts: {"type": "Sequence", key: list(parts)}
    ids = {t["content"]: t["id"] for t in plain["added_tokens"]}
    special = lambda word: {"SpecialToken": {"id": word, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    template = lambda *parts: {
        "type": "TemplateProcessing", "single": list(parts), "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {w: {"id": w, "ids": [i], "tokens": [w]} for w, i in ids.items()}}
    added = [dict(plain["added_tokens"][0], id=420 + i, content=content, special=special, normalized=normalized)
             for i, (content, special, normalized) in enumerate([("the cat", False, False), ("  ", False, True), ("\u00e9t", False, True)])]
    changes = {
        "plain": {},
        "prefix space": {"pre_tokenizer": prefixed},
        "NFC": {"normalizer": {"type": "NFC"}},
        "NFD": {"normalizer": {"type": "NFD"}},
        "NFKC": {"normalizer": {"type": "NFKC"}},
        "NFKD": {"normalizer": {"type": "NFKD"}},
        "NFKD, then NFC": {"normalizer": several("normalizers", {"type": "NFKD"}, several("normalizers", {"type": "NFC"}))},
        "no normalizers": {"normalizer": several("normalizers")},
        "split": {"pre_tokenizer": several("pretokenizers", split(GPT2, "Isolated", False), bare)},
        "split twice": {"pre_tokenizer": several("pretokenizers", split(GPT2, "Isolated", False), level)},
        "split, inverted": {"pre_tokenizer": several("pretokenizers", split(TIKTOKEN, "Removed", True), bare)},
        "sequence of one": {"pre_tokenizer": several("pretokenizers", prefixed)},
        "BOS": {"post_processor": template(special("<s>"), text)},
        "BOS and EOS": {"post_processor": several("processors", level, template(special("<s>"), text, special("<|endoftext|>")))},
        "Roberta": {"post_processor": {"type": "RobertaProcessing", "sep": ["<|user|>", ids["<|user|>"]], "cls": ["<s>", ids["<s>"]],
                                       "trim_offsets": True, "add_prefix_space": False}},
        "added tokens, prefix space, NFKC": {"pre_tokenizer": prefixed, "normalizer": {"type": "NFKC"},
                                             "added_tokens": plain["added_tokens"] + added},
        "added tokens, NFD": {"normalizer": {"type": "NFD"}, "added_tokens": plain["added_tokens"] + added},
        "fewer bytes": {"normalizer": {"type": "NFKC"}},
        "fewer bytes, unknown": {},
        "fewer bytes, unknown fused": {"pre_tokenizer": prefixed},
    }
    for name, change in changes.items():
        file = copy.deepcopy(plain)
        file.update(copy.deepcopy(change))
        if name.startswith("fewer"):
            without_bytes(file, "a\u0122\u00f0\u00ef\u00c3\u010ai9")
            file["model"]["unk_token"] = "<unk>" if "unknown" in name else None
            file["model"]["fuse_unk"] = "fused" in name
        yield name, file


def texts(count, seed):
    draw = random.Random(seed)
    page = PAGE
    for _ in range(count):
        yield "".join(draw.choice(KINDS) if draw.random() < 0.7 else page[(at := draw.randrange(len(page))):at + draw.randrange(12)]
                      for _ in range(1 + draw.randrange(7)))


def main():
    plain, cases, all_texts = None, [], list(texts(120, 7))
    for name, file in habits():
        plain = plain or file
        tokenizer = Tokenizer.from_str(json.dumps(file))
        change = {key: value for key, value in file.items() if value != plain[key] and key != "model"}
        if file["model"] != plain["model"]:
            change["model"] = file["model"]
        cases.append({"name": name, "change": change, "ids": [tokenizer.encode(t).ids for t in all_texts]})
    with open("test/golden/tokenizers.json", "w") as out:
        out.write(json.dumps({"plain": plain, "texts": all_texts, "cases": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
