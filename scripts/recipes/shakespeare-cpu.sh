#!/usr/bin/env bash
# shakespeare-cpu.sh - nanoGPT's model of Shakespeare's characters, in the size for a CPU
#
# nanoGPT draws sequences from any position of the text and estimates the loss on 20 batches. Here the text is cut into sequences,
# and the loss is that of the whole validation part. nanoGPT's layers have no biases.
about="nanoGPT's model of Shakespeare's characters, 4 layers × 128, on a CPU"
expected="validation loss 1.88 after 2,000 steps"
source="nanoGPT, README.md (quick start, 'I only have a macbook') and config/train_shakespeare_char.py"
set=tinyshakespeare fetch="data/fetch.sh tinyshakespeare (1.1 MB)"
hardware="two CPU cores"
tried="in full: 1.8904 ± 0.0025 with three seeds (2026-11-27, two cores of an AMD EPYC)"
most_loss=1.8849 seeds=3   # what rounds to 1.88
model=(--model gpt2 --activation gelu --layers 4 --width 128 --heads 4 --learning-rate 1e-3 --final-learning-rate 1e-4
    --beta2 0.99 --weight-decay 0.1)
size=(--vocab 65 --context 64 --batch 12 --steps 2000 --warmup-steps 100 --eval-every 1000 --eval-batches 145 --save-every 0
    --dtype fp32 --log-every 500)
short=()
prepare() { characters "$data/input.txt"; }
. "$(dirname "$0")/common.sh"
reproduce "$@"
