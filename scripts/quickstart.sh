#!/usr/bin/env bash
# quickstart.sh - prepares the text of Jane Austen's novels, learns a vocabulary, trains a small GPT, and lets it write.
# `make quickstart` builds the programs and calls it. Files that exist already are used. A run that was stopped goes on,
# and a run after one that is complete gets a folder of its own.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
[ $# -eq 0 ] || { echo "error: $1: scripts/quickstart.sh takes no arguments (--help says what it does)" >&2; exit 2; }
cd "$(dirname "$0")/.."
home=data/sets/austen

bold='' plain=''
[ -t 1 ] && [ "${TERM:-dumb}" != dumb ] && bold=$'\033[1m' plain=$'\033[0m'
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }

step "text: Jane Austen's six novels ($home/austen.txt)"
data/austen.sh $home/austen.txt

step "tokenizer: a byte-pair encoding of 4096 entries learned from it ($home/tokenizer.json)"
[ -s $home/tokenizer.json ] || ./tokenize --train-bpe 4096 --input $home/austen.txt --output $home/tokenizer.json

step "shards: the text as token ids, a twentieth of it for validation"
[ -s $home/austen_train_000000.bin ] ||
    ./tokenize --tokenizer $home/tokenizer.json --input $home/austen.txt --val-fraction 0.05 --output $home/austen

step "training: three to ten minutes on two cores (Ctrl-C stops and saves)"
run=runs/quickstart newest=
for ((n = 2; ; n++)); do
    [ -e $run/run.json ] || break
    newest=$run run=runs/quickstart-$n
done
saved=$(readlink "$newest/checkpoints/latest" || true)
steps=$(sed -n 's/^ *"--steps": "\([0-9]*\)".*/\1/p' "$newest/run.json" 2>/dev/null || true)
if [ "$saved" ] && [ "$steps" ] && ((10#$saved < steps)); then
    run=$newest
    echo "$run was stopped after step $((10#$saved)) of $steps and goes on from there (./train_gpt starts a new run)"
    ./train_gpt --out $run --resume
else
    ./train_gpt --out $run
fi

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
