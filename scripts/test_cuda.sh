#!/usr/bin/env bash
# test_cuda.sh - tests the CUDA half under the emulator (test/emulator): every op and model with all checks on, then the programs,
# whose results are compared with those on the CPU. `make test-cuda` builds what it needs and calls it. On a machine with a GPU,
# `build/test_gpt` by itself uses the GPU.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
[ $# -eq 0 ] || { echo "error: $1: scripts/test_cuda.sh takes no arguments (--help says what it does)" >&2; exit 2; }
cd "$(dirname "$0")/.."
export GPT_BUILD=${GPT_BUILD:-build}

echo "== ops and models on the emulated GPU, every access checked, streams as late as they may be"
scripts/test_parallel.sh scripts/emulate --check all --streams late "$GPT_BUILD/test_gpt" \
    '~[.]~[programs]~[shared]~[tokenizer]~[presets]~[cli]~[data]~[plot]~[comm]'

echo "== attention as GPUs without Hopper's instructions compute it"
scripts/test_parallel.sh scripts/emulate --gpu a100 --check all "$GPT_BUILD/test_gpt" '[attention]'

echo "== Hopper's attention with warps in another order, and blocks that take one tile after another"
scripts/test_parallel.sh scripts/emulate --sms 1 --schedule random:1 --check all "$GPT_BUILD/test_gpt" '[attention][hopper]'

echo "== the programs on the emulated GPU"
if "$GPT_BUILD/train_gpt" --version | grep -q 'without oneDNN'; then
    echo "skipped: this build has no oneDNN (ONEDNN=0), so there is no result of the CPU to compare with"
    exit
fi
which='[.emulated]'
if ! "$GPT_BUILD/train_gpt" --version | grep -q NCCL; then
    which+='~[two]'
    echo "skipped: runs on two GPUs, because this build has no NCCL"
fi
scripts/test_parallel.sh "$GPT_BUILD/test_gpt" "$which"
