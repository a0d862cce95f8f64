#!/usr/bin/env bash
# finetune-gpt2.sh - nanoGPT's fine-tuning of GPT-2 XL on Shakespeare
#
# These are the settings of nanoGPT's file: batch_size 1, gradient_accumulation_steps 32, max_iters 20, learning_rate 3e-5 and
# decay_lr False, with which train.py has no warm-up; weight decay 0.1 is train.py's. Its first versions, such as that of commit
# 74d39be, took 1,000 steps of one sequence of 512 tokens at 1e-5. nanoGPT evaluates 40 random sequences, and here it is all 35.
about="fine-tuning GPT-2 XL on Shakespeare"
expected="a validation loss below that of the published weights; nanoGPT published no figure"
source="nanoGPT, config/finetune_shakespeare.py"
set=tinyshakespeare fetch="data/fetch.sh tinyshakespeare, and the hub's folder gpt2-xl as data/sets/gpt2-xl"
hardware="one GPU of 80 GB"
tried="in short; never in full"
fine_tunes=gpt2-xl
model=(--learning-rate 3e-5 --schedule constant --weight-decay 0.1)
size=(--batch 1 --accumulate 32 --context 1024 --steps 20 --warmup-steps 0 --eval-every 5 --eval-batches 35)
short=(--layers 2 --width 256 --heads 4)
prepare() { words "$data/input.txt" data/sets/gpt2-xl; }
. "$(dirname "$0")/common.sh"
reproduce "$@"
