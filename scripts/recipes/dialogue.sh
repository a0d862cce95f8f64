#!/usr/bin/env bash
# dialogue.sh - tunes the quick start's model on 2,000 made conversations, and counts how many answers end properly before and after
#
#   scripts/recipes/dialogue.sh [BASE [OUT]]     BASE: a model folder or run (runs/quickstart); OUT: a new folder (runs/dialogue)
#
# The conversations are made by conversations.py, always the same. An answer ends properly when it has words and the model ends it
# with the token that ends a message, within 40 tokens. The questions are new ones, and the likeliest tokens are taken.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
[ $# -le 2 ] || { echo "error: $3: scripts/recipes/dialogue.sh takes a model and a folder (--help says more)" >&2; exit 2; }
# The defaults lie in the repository. Names that are given count from the caller's folder.
base=runs/quickstart out=runs/dialogue
[ $# -lt 1 ] || base=$(realpath -m -- "$1")
[ $# -lt 2 ] || out=$(realpath -m -- "$2")
cd "$(dirname "$0")/../.."
[ -d "$base" ] || { echo "error: there is no $base; make quickstart trains it, or name another model" >&2; exit 2; }
[ -e "$out" ] && { echo "error: $out exists; name another folder" >&2; exit 2; }
model=$base
[ -e "$base/config.json" ] || model=$base/checkpoints/latest
mkdir -p "$out"

step() { printf '\n== %s\n' "$*"; }

step "2,000 conversations, and the tokens of chatml for the model's tokenizer"
python3 scripts/recipes/conversations.py 2000 1 >"$out/chats.jsonl"
python3 scripts/recipes/conversations.py 100 2 >"$out/questions.jsonl"
./tokenize --tokenizer "$model" --input "$out/chats.jsonl" --chat-template chatml --add-tokens "$out/tokenizer" \
    --val-fraction 0.05 --output "$out/chats"

train() {  # train FOLDER STEPS RATE
    ./train_gpt --model "$base" --tokenizer "$out/tokenizer" --add-tokens --train-data "$out/chats_train_*.bin" \
        --val-data "$out/chats_val_*.bin" --batch 8 --steps "$2" --learning-rate "$3" --warmup-steps 0 --out "$out/$1"
}
count() { python3 scripts/recipes/proper_ends.py "$out/$1" "$out/questions.jsonl"; }

step "before: the model with the new tokens, and nothing learned"
train before 1 1e-12 >"$out/before.txt"
count before

step "tuning: about two minutes on two cores"
train tuned 150 1e-3

step "after"
count tuned
