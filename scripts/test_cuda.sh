#!/usr/bin/env bash
# test_cuda.sh - the GPU half under the emulator (test/emulator): every op's tests with the checker on, then a short training run on
# both machines. `make test-cuda` builds what it needs and calls it. On a machine with a GPU, `build/test_gpt` alone runs on it.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${GPT_BUILD:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== ops on the emulated GPU, every access checked, streams as late as they may be"
scripts/emulate --check all --streams late "$build/test_gpt" '~[programs]~[shared]~[tokenizer]~[presets]~[cli]~[data]~[plot]'

echo "== 20 steps of a small GPT-2 and a small GPT-NeoX: CPU beside the emulated GPU"
perl -e 'srand 1; print pack "v*", map { int rand(257) * rand } 1 .. 4000' >"$work/tokens.bin"
for model in nano nano-neox; do
    common=(--model "$model" --dtype fp32 --train-data "$work/tokens.bin" --val-data "$work/tokens.bin" --batch 2 --context 16 --steps 20 --eval-every 20
            --eval-batches 2 --save-every 10 --keep 0)
    "$build/train_gpt" "${common[@]}" --device cpu --out "$work/$model-cpu" >/dev/null
    scripts/emulate --check all --streams late "$build/train_gpt" "${common[@]}" --device cuda --out "$work/$model-cuda" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    tail -1 "$work/log"
    paste <(grep '"event":"step"' "$work/$model-cpu/log.jsonl") <(grep '"event":"step"' "$work/$model-cuda/log.jsonl") |
        perl -ne 'my @l = /"loss":([\d.e+-]+)/g; my $d = abs($l[0] - $l[1]) / $l[0]; $w = $d if $d > $w; $n++; END { printf "%-10s %d steps, losses within %.1e of the CPU'"'"'s\n", "'$model'", $n, $w; exit !($n == 20 && $w <= 1e-5) }'
    # Saved on the emulated GPU at step 10, continued on the CPU: the same losses again.
    rm -rf "$work/$model-cuda/checkpoints/0000020"
    "$build/train_gpt" --resume --device cpu --out "$work/$model-cuda" >/dev/null
    paste <(grep '"event":"step"' "$work/$model-cpu/log.jsonl") <(grep '"event":"step"' "$work/$model-cuda/log.jsonl") |
        perl -ne 'my @l = /"loss":([\d.e+-]+)/g; my $d = abs($l[0] - $l[1]) / $l[0]; $w = $d if $d > $w; $n++; END { printf "%-10s resumed on the CPU at step 10: within %.1e\n", "'$model'", $w; exit !($n == 20 && $w <= 1e-5) }'
done
