#!/usr/bin/env bash
# finetune-gpt-neox.sh - fine-tuning GPT-NeoX-20B on Shakespeare
about="fine-tuning GPT-NeoX-20B on Shakespeare, one epoch"
expected="a validation loss below that of the published weights; nobody published a recipe or a figure"
source="gpt-neox, configs/20B.yml; the rate is the one with which its training ended"
set=tinyshakespeare fetch="data/fetch.sh tinyshakespeare, and the hub's folder gpt-neox-20b as data/sets/gpt-neox-20b"
hardware="eight GPUs of 80 GB, with --shard weights"
tried="in short; never in full"
fine_tunes=gpt-neox-20b
model=(--learning-rate 0.97e-5 --schedule constant --weight-decay 0.01)
size=(--batch 1 --context 2048 --tokens-per-step 32768 --steps 10 --warmup-steps 1 --eval-every 5 --eval-batches 16 --recompute block)
short=(--layers 2 --width 256 --heads 4)
prepare() { words "$data/input.txt" data/sets/gpt-neox-20b; }
. "$(dirname "$0")/common.sh"
reproduce "$@"
