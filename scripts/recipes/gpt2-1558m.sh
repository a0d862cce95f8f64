#!/usr/bin/env bash
# gpt2-1558m.sh - llm.c's reproduction of GPT-2 1558M in 24 hours
#
# llm.c normalises HellaSwag's likelihoods by tokens, lm-evaluation-harness by characters, as we do. OpenAI's GPT-2 1558M has
# 48.93 % by the first and 50.89 % by the second (llm.c, dev/data/hellaswag.py). llm.c passed its 48.93 % at step 25,000.
about="GPT-2 1558M on 33.6 billion tokens of FineWeb-Edu"
expected="HellaSwag 50.9 % (that of OpenAI's model, which llm.c passed at step 25,000 of 32,000)"
source="llm.c, discussion 677, scripts/run_gpt2_1558M.sh and dev/data/hellaswag.py"
set=fineweb-edu-100B fetch="data/fetch.sh fineweb-edu-100B --parts 1-336 (67 GB), data/fetch.sh hellaswag, data/fetch.sh gpt2-tokenizer"
hardware="llm.c took 24 hours on eight H100"
tried="in short; never in full"
least_hellaswag=50.9
model=(--model gpt2-xl --learning-rate 6e-4 --final-learning-rate 6e-5 --weight-decay 0.1)
size=(--batch 8 --context 1024 --tokens-per-step 1048576 --steps 32000 --warmup-steps 700 --eval-every 250 --eval-batches 320 --save-every 2000)
short=(--layers 1)
prepare() {
    on=(--train-data "$data/edu_fineweb_train_*.bin" --val-data "$data/edu_fineweb_val_*.bin"
        --hellaswag data/sets/hellaswag/hellaswag_val.jsonl --tokenizer data/sets/gpt2-tokenizer/tokenizer.json)
}
. "$(dirname "$0")/common.sh"
reproduce "$@"
