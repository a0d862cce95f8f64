#!/usr/bin/env bash
# shakespeare-gpu.sh - nanoGPT's model of Shakespeare's characters, in the size for a GPU
about="nanoGPT's model of Shakespeare's characters, 6 layers × 384, with dropout 0.2"
expected="best validation loss 1.4697 in 5,000 steps"
source="nanoGPT, README.md (quick start) and config/train_shakespeare_char.py"
set=tinyshakespeare fetch="data/fetch.sh tinyshakespeare (1.1 MB)"
hardware="one GPU; nanoGPT took 3 minutes on an A100"
tried="in short; never in full"
most_loss=1.4697 best=1
model=(--model gpt2 --activation gelu --layers 6 --width 384 --heads 6 --dropout 0.2 --learning-rate 1e-3 --final-learning-rate 1e-4
    --beta2 0.99 --weight-decay 0.1)
size=(--vocab 65 --context 256 --batch 64 --steps 5000 --warmup-steps 100 --eval-every 250 --eval-batches 200)
short=()
prepare() { characters "$data/input.txt"; }
. "$(dirname "$0")/common.sh"
reproduce "$@"
