#!/usr/bin/env bash
# finetune-gpt-j.sh - fine-tuning GPT-J-6B on Shakespeare
about="fine-tuning GPT-J-6B on Shakespeare, one epoch"
expected="a validation loss below that of the published weights; nobody published a figure"
source="mesh-transformer-jax, howto_finetune.md (Learning Rate Notes)"
set=tinyshakespeare fetch="data/fetch.sh tinyshakespeare, and the hub's folder gpt-j-6b as data/sets/gpt-j-6b"
hardware="two GPUs of 80 GB, with --shard weights"
tried="in short; never in full"
fine_tunes=gpt-j-6b
model=(--learning-rate 5e-5 --final-learning-rate 1e-5 --weight-decay 0.1)
size=(--batch 1 --context 2048 --tokens-per-step 32768 --steps 10 --warmup-steps 1 --eval-every 5 --eval-batches 16)
short=(--layers 2 --width 256 --heads 4)
prepare() { words "$data/input.txt" data/sets/gpt-j-6b; }
. "$(dirname "$0")/common.sh"
reproduce "$@"
