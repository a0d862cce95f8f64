#!/usr/bin/env bash
# gpt2-124m.sh - llm.c's reproduction of GPT-2 124M
#
# llm.c normalises HellaSwag's likelihoods by tokens, lm-evaluation-harness by characters, as we do. OpenAI's GPT-2 124M has
# 29.55 % by the first and 31.14 % by the second (llm.c, dev/data/hellaswag.py), so the verdict on HellaSwag is the weaker one.
# llm.c reads 20 batches of 8 × 64 × 1024 tokens for its validation loss. One process with --batch 32 reads as many.
about="GPT-2 124M on 10 billion tokens of FineWeb"
expected="validation loss 3.272 and HellaSwag 29.9 % after 19,560 steps"
source="llm.c, discussion 481 and scripts/run_gpt2_124M.sh"
set=fineweb-10B fetch="data/fetch.sh fineweb-10B (21 GB), data/fetch.sh hellaswag, data/fetch.sh gpt2-tokenizer"
hardware="llm.c took 90 minutes on eight A100"
tried="in short; never in full"
most_loss=3.272 least_hellaswag=29.9
model=(--model gpt2 --learning-rate 6e-4 --final-learning-rate 0 --weight-decay 0.1)
size=(--batch 32 --context 1024 --tokens-per-step 524288 --steps 19560 --warmup-steps 700 --eval-every 250 --eval-batches 320 --save-every 5000)
short=(--layers 2)
prepare() {
    on=(--train-data "$data/fineweb_train_*.bin" --val-data "$data/fineweb_val_*.bin"
        --hellaswag data/sets/hellaswag/hellaswag_val.jsonl --tokenizer data/sets/gpt2-tokenizer/tokenizer.json)
}
. "$(dirname "$0")/common.sh"
reproduce "$@"
