#!/usr/bin/env bash
# quickstart.sh - prepares the text of Jane Austen's novels, learns a vocabulary, trains a small GPT, and lets it write.
# `make quickstart` builds the programs and calls it. Files that exist already are used, and every run gets a new folder.
set -euo pipefail
cd "$(dirname "$0")/.."
home=data/sets/austen

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

step "text: Jane Austen's six novels ($home/austen.txt)"
data/austen.sh $home/austen.txt

step "tokenizer: a byte-pair encoding of 4096 entries learned from it ($home/tokenizer.json)"
[ -s $home/tokenizer.json ] || ./tokenize --train-bpe 4096 --input $home/austen.txt --output $home/tokenizer.json

step "shards: the text as token ids, a twentieth of it for validation"
[ -s $home/austen_train_000000.bin ] ||
    ./tokenize --tokenizer $home/tokenizer.json --input $home/austen.txt --val-fraction 0.05 --output $home/austen

step "training: about three minutes on two cores (Ctrl-C stops and saves)"
run=runs/quickstart
for ((n = 2; ; n++)); do [ -e $run/run.json ] || break; run=runs/quickstart-$n; done
./train_gpt --out $run

[ -e $run/checkpoints/latest ] || { echo "no checkpoint was saved, so there is nothing to sample from"; exit 1; }
step "what it writes"
./infer_gpt --model $run/checkpoints/latest --prompt "It was a fine morning, and Elizabeth" --tokens 200 --temperature 0.7

step "next"
cat <<TXT
look at the losses         $run/loss.png, $run/log.jsonl
use another prompt         ./infer_gpt --model $run/checkpoints/latest --prompt "Mr. Darcy" --tokens 300 --temperature 0.7
train it longer            ./train_gpt --out $run --resume --steps 6000
list sizes and families    ./train_gpt --list-models
use your own text          ./tokenize --train-bpe 4096 --input your.txt --output data/sets/your/tokenizer.json
                           ./tokenize --tokenizer data/sets/your/tokenizer.json --input your.txt --val-fraction 0.05 --output data/sets/your/your
                           ./train_gpt --train-data 'data/sets/your/your_train_*.bin' --val-data 'data/sets/your/your_val_*.bin'
list all options           ./train_gpt --help
TXT
