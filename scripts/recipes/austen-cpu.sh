#!/usr/bin/env bash
# austen-cpu.sh - the model of shakespeare-cpu on Jane Austen's characters, which Debian has
about="the model of shakespeare-cpu on the characters of Jane Austen's novels"
expected="validation loss 1.5803 after 2,000 steps: our own figure, because nobody published one"
source="our run of 2026-11-27 on two cores of an AMD EPYC"
set=austen fetch="data/austen.sh (4.0 MB from Debian)"
hardware="two CPU cores"
tried="in full: 1.5803 (2026-11-27, two cores of an AMD EPYC)"
most_loss=1.5903   # a hundredth more
model=(--model gpt2 --activation gelu --layers 4 --width 128 --heads 4 --learning-rate 1e-3 --final-learning-rate 1e-4
    --beta2 0.99 --weight-decay 0.1)
size=(--vocab 257 --context 64 --batch 12 --steps 2000 --warmup-steps 100 --eval-every 1000 --eval-batches 145 --save-every 0
    --dtype fp32 --log-every 500)
short=()
prepare() {
    local ids=$runs/austen-bytes
    [ -s "$ids/byte_val_000000.bin" ] || {
        mkdir -p "$ids"
        "$build/tokenize" --train-bpe 257 --input "$data/austen.txt" --output "$ids/tokenizer.json"
        "$build/tokenize" --tokenizer "$ids/tokenizer.json" --input "$data/austen.txt" --val-fraction 0.1 --output "$ids/byte"
    }
    on=(--train-data "$ids/byte_train_*.bin" --val-data "$ids/byte_val_*.bin")
}
. "$(dirname "$0")/common.sh"
reproduce "$@"
