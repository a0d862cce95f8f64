#!/usr/bin/env bash
# pythia-160m.sh - Pythia-160M on its own sequences, with checkpoints at its published steps
#
# LAMBADA is scored at step 123,000, for which EleutherAI published a figure: 33.1 % with a standard error of 0.66 %. Pythia's
# sequences are of 2049 ids, in the order of its training. Its trainer ran the tanh form of GELU (README.md of this project).
about="Pythia-160M on the Pile, in the published order of sequences, with checkpoints at the published steps"
expected="LAMBADA 33.1 % ± 0.7 % at step 123,000"
source="EleutherAI/pythia, models/160M/pythia-160m.yml and evals/pythia-v1/pythia-160m/zero-shot/160m_step123000.json"
set=pile-pythia fetch="data/fetch.sh pile-pythia (600 GB), data/fetch.sh pythia-tokenizer, data/fetch.sh lambada"
hardware="Pythia took 32 A100"
tried="in short; never in full"
model=(--model pythia-160m --activation gelu_fast --learning-rate 6e-4 --final-learning-rate 6e-5 --weight-decay 0.1)
size=(--batch 32 --context 2048 --tokens-per-step 2097152 --steps 143000 --warmup-steps 1430 --eval-every 0
    --save-steps 0,1,2,4,8,16,32,64,128,256,512 --save-every 1000 --keep 0)
short=(--layers 2)
prepare() {
    need data/sets/lambada/lambada_test.jsonl  # for the verdict
    on=(--sequences --train-data "$data/document-*.bin" --tokenizer data/sets/pythia-tokenizer/tokenizer.json)
}
verdict() {
    local acc
    acc=$("$build/infer_gpt" --model "$1/checkpoints/0123000" --eval lambada data/sets/lambada/lambada_test.jsonl --json |
        sed 's/.*"acc":\([0-9.]*\).*/\1/')
    awk -v acc="$acc" 'BEGIN {
        good = acc >= 0.331 - 2 * 0.0066
        printf "pythia-160m: %s. LAMBADA at step 123,000 is %.1f %%, and at least 33.1 %% less two standard errors was to be reached.\n",
            good ? "passed" : "FAILED", 100 * acc
        exit !good
    }'
}
. "$(dirname "$0")/common.sh"
reproduce "$@"
