#!/usr/bin/env bash
# test_cuda.sh - the GPU half under the emulator (test/emulator): every op's and model's tests with the checker on, then the programs
# beside themselves on the CPU. `make test-cuda` builds what it needs and calls it. On a machine with a GPU, `build/test_gpt` alone
# runs on it.
set -euo pipefail
cd "$(dirname "$0")/.."
export GPT_BUILD=${GPT_BUILD:-build}

echo "== ops and models on the emulated GPU, every access checked, streams as late as they may be"
scripts/emulate --check all --streams late "$GPT_BUILD/test_gpt" '~[.]~[programs]~[shared]~[tokenizer]~[presets]~[cli]~[data]~[plot]~[comm]'

echo "== the programs on the emulated GPU"
which='[.emulated]'
if ! ldd "$GPT_BUILD/test_gpt" | grep -q libnccl; then
    which+='~[two]'
    echo "skipped: runs on two GPUs, because this build has no NCCL"
fi
"$GPT_BUILD/test_gpt" "$which"
