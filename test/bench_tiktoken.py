# bench_tiktoken.py - times tiktoken on one text and one core, with the vocabulary of a tokenizer.json
#
#   python3 test/bench_tiktoken.py TOKENIZER.json TEXT
#
# Prints the CPU seconds of the fastest of five runs, the number of ids, and the CRC-32 of the ids as int32.
import array
import json
import sys
import time
import zlib

try:
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str  # GPT-2's split pattern in the form that tiktoken runs fastest
except ImportError:
    sys.exit(f"skipped tiktoken: {sys.executable} does not have it (PYTHON= names a python3 that does)")

file = json.load(open(sys.argv[1], encoding="utf-8"))
glyphs = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
byte_of = {chr(b): b for b in glyphs}
byte_of |= {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in glyphs)}
special = {t["content"]: t["id"] for t in file["added_tokens"]}
# tiktoken merges in the order of the resulting ids; in vocabularies of GPT-2's kind that is the order of the merges.
ranks = {bytes(byte_of[c] for c in word): id for word, id in file["model"]["vocab"].items() if word not in special}
encoding = tiktoken.Encoding("bench", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens=special)

text = open(sys.argv[2], encoding="utf-8", newline="").read()
seconds = []
for _ in range(5):
    begin = time.process_time()
    ids = encoding.encode_ordinary(text)
    seconds.append(time.process_time() - begin)
print(min(seconds), len(ids), zlib.crc32(array.array("i", ids).tobytes()))
