#!/usr/bin/env bash
# gpu_check.sh - checks and measures everything that needs a GPU, in one command and under ten minutes
#   scripts/gpu_check.sh                builds, tests on the GPU, times every op, trains, decodes, and runs compute-sanitizer
#   scripts/gpu_check.sh --emulated     does the same on test/emulator, which checks this script and measures nothing
# The report is docs/measured/DATE-GPU.txt and ends with a verdict. A part whose tool is missing is skipped, and the report
# says why. The exit code is 0 when every part that ran passed, 1 when one failed or ran out of time, and 2 without a GPU.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
cd "$(dirname "$0")/.."
build=${BUILD:-build}
limit=600  # seconds, for all parts together

emulated=
case "${1:-}" in
"") ;;
--emulated) emulated=1 ;;
*) echo "error: $1 is unknown; --help shows the usage" >&2; exit 2 ;;
esac

# ---- where it runs ------------------------------------------------------------------------------------------------------
nvcc=${NVCC:-$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)}
[ -n "$nvcc" ] || {
    echo "gpu_check: there is no nvcc on PATH or in /usr/local/cuda; install the CUDA toolkit" >&2; exit 2; }
if [ "$emulated" ]; then
    on() { EMU_CHECK=${EMU_CHECK:-memory} scripts/emulate "$@"; }
    gpu="emulated-${EMU_GPU:-h100}"
    report=$(mktemp -d)/$(date -I)-$gpu.txt  # docs/measured is for GPUs only
else
    gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1) || true
    [ -n "$gpu" ] || {
        echo "gpu_check: nvidia-smi finds no GPU; scripts/gpu_check.sh --emulated tries the script itself" >&2; exit 2; }
    case "${LD_LIBRARY_PATH:-}" in
    *emulator*) echo "gpu_check: LD_LIBRARY_PATH names the emulator, so the GPU would not be used" >&2; exit 2 ;;
    esac
    on() { "$@"; }
    report=docs/measured/$(date -I)-$(tr -cs 'A-Za-z0-9\n' - <<<"$gpu" | sed 's/-*$//').txt
    mkdir -p docs/measured
fi
work=$(mktemp -d)
trap '[ "$BASHPID" != $$ ] || rm -rf "$work"' EXIT  # a job that is stopped early must not remove it
: >"$report"
say() { echo "$*" | tee -a "$report"; }
failed=()  # names of parts

# part NAME SECONDS COMMAND...: runs the command and appends its output to the report. The command is stopped after so many
# seconds, or when the limit for all parts is reached.
part() {
    local name=$1 most=$2 start=$SECONDS left=$((limit - SECONDS)) code=0
    shift 2
    say "" && say "== $name"
    if ((left < 5)); then
        say "NOT RUN: the $limit seconds are over; a second run need not build again"
        failed+=("$name (not run)")
        return
    fi
    set -m  # each job is a process group, so that all of it can be stopped
    ( "$@" ) >"$work/out" 2>&1 &
    local pid=$!
    ( sleep $((most < left ? most : left)); kill -TERM -- -"$pid" ) 2>/dev/null &
    local dog=$!
    set +m
    wait "$pid" || code=$?
    kill -TERM -- -"$dog" 2>/dev/null || true
    tee -a "$report" <"$work/out"
    case $code in
    0) say "-- $name: $((SECONDS - start)) s" ;;
    143) say "-- $name: STOPPED after $((SECONDS - start)) s, the time that it may take"; failed+=("$name (stopped)") ;;
    *) say "-- $name: FAILED with exit code $code"; failed+=("$name") ;;
    esac
}
skip() { say "" && say "== $1" && say "skipped: $2"; }

# ---- the parts ----------------------------------------------------------------------------------------------------------
compile() {
    make -j"$(nproc)" "$build/test_gpt" "$build/train_gpt" "$build/infer_gpt" "$build/bench_ops" \
        $([ -z "$emulated" ] || echo emulator) >"$work/make" 2>&1 || { tail -30 "$work/make"; return 1; }
    "$build/train_gpt" --version
    scripts/ptxas.sh --spills "$build"/kernels/*.ptxas && echo "no kernel spills"
}

# On a machine without a usable GPU the tests pass and say that they ran on the CPU. Here that is a failure.
on_the_gpu() { ! grep -A 2 'tests run on the CPU alone' "$1"; }

# Runs the tests that make tensors, each of them on the CPU and on the GPU, and those that run the programs. Under the emulator
# two tests are enough to try this part.
tests() {
    local code=0 which='[ops],[attention],[rope],[gradients],[model],[families],[evaluation],[programs]'
    [ -z "$emulated" ] || which='gelu*,cross_entropy*'
    trap 'tail -n 5 "$work/tests"; exit 143' TERM  # shows how far it came
    GPT_BUILD=$build on "$build/test_gpt" "$which" --durations yes >"$work/tests" 2>&1 || code=$?
    grep -v '^[0-9.]* s: ' "$work/tests" | tail -n 60
    on_the_gpu "$work/tests" && return $code
}

# Our code checks every status itself, so memcheck need not report calls of the CUDA API that fail.
sanitize() {  # sanitize TOOL OPTIONS...
    local tool=$1 code=0
    shift
    trap 'tail -n 5 "$work/$tool"; exit 143' TERM
    compute-sanitizer --tool "$tool" "$@" --error-exitcode 9 "$build/test_gpt" '[ops],[attention],[rope]' --durations yes \
        >"$work/$tool" 2>&1 || code=$?
    grep -m 30 '^========= ' "$work/$tool" || { echo "compute-sanitizer printed nothing:"; code=1; }
    grep -v -e '^[0-9.]* s: ' -e '^===' "$work/$tool" | tail -n 5
    on_the_gpu "$work/$tool" && return $code
}

median() { grep '"event":"step"' "$1/log.jsonl" | tail -n +2 | grep -o "\"$2\":[0-9.e+-]*" | cut -d: -f2 | sort -g |
    awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
# train OPTIONS...: trains GPT-2 124M on random tokens. If the last option is --graph, the run must end with the weights of the run before.
train() {
    perl -e 'srand 1; print pack "v*", map { int rand 50257 } 1 .. 400000' >"$work/tokens.bin"
    rm -rf "$work/run"
    on "$build/train_gpt" --model gpt2 --device cuda --train-data "$work/tokens.bin" --save-every 0 --out "$work/run" "$@" \
        >"$work/train" 2>&1 || { tail -20 "$work/train"; return 1; }
    grep -E 'memory|GiB' "$work/train" | head -5 || true
    grep -o '"fingerprint":"[^"]*"' "$work/run/log.jsonl" >"$work/weights"
    case "$*" in
    *--graph) cmp -s "$work/weights" "$work/weights-before" || { echo "the weights differ from those without a graph"; return 1; } ;;
    *) mv "$work/weights" "$work/weights-before" ;;
    esac
    printf '%s: %.1f ms a step, %.0f tokens/s, %.1f %% of the product peak (medians)\n' "$*" "$(median "$work/run" ms)" \
        "$(median "$work/run" tokens_per_s)" "$(median "$work/run" peak | awk '{print 100 * $1}')"
}
decode() {  # decode TOKENS
    on "$build/train_gpt" --model gpt2 --device cuda --dtype bf16 --batch 1 --context 16 --steps 1 --save-every 1 \
        --train-data "$work/tokens.bin" --out "$work/model" >"$work/decode" 2>&1 || { tail -5 "$work/decode"; return 1; }
    on "$build/infer_gpt" --model "$work/model/checkpoints/latest" --device cuda --dtype bf16 --ids 1,2,3 --tokens "$1" \
        --temperature 0 --stats 2>&1 >/dev/null
}

losses() { grep '"event":"step"' "$1/log.jsonl" | grep -o '"loss":[0-9.]*' | cut -d: -f2; }
# Compares the losses of a run on two GPUs, each with half the batch, with those of a run on one.
two() {
    perl -e 'srand 1; print pack "v*", map { int rand 257 } 1 .. 20000' >"$work/bytes.bin"
    local words=(--model nano --dtype fp32 --device cuda --context 32 --steps 10 --eval-every 0 --save-every 0 --graph
                 --train-data "$work/bytes.bin") rank pids=()
    on "$build/train_gpt" "${words[@]}" --batch 4 --out "$work/one" >"$work/one.txt" 2>&1 || { tail -5 "$work/one.txt"; return 1; }
    for rank in 0 1; do
        WORLD_SIZE=2 RANK=$rank LOCAL_RANK=$rank EMU_DEVICES=2 on "$build/train_gpt" "${words[@]}" --batch 2 --out "$work/two" \
            >"$work/two$rank.txt" 2>&1 &
        pids+=($!)
    done
    for rank in 0 1; do wait "${pids[rank]}" || { tail -5 "$work/two$rank.txt"; return 1; }; done
    grep '^device' "$work/two0.txt"
    paste <(losses "$work/one") <(losses "$work/two") | awk '
        { off = ($1 - $2) / $1; if (off < 0) off = -off; if (off > most) most = off }
        END { printf "losses of %d steps differ by at most %.1e, allowed 1e-5\n", NR, most; exit !(NR == 10 && most <= 1e-5) }'
}

say "gpu_check $(date -Iseconds) · $gpu · commit $(git describe --always --dirty 2>/dev/null || echo unknown)"
if [ "$emulated" ]; then
    say "EMULATED: no GPU was used. Every time and rate below is of the emulator on a CPU and says nothing about a GPU."
else
    nvidia-smi --format=csv,noheader \
        --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu | tee -a "$report" ||
        say "nvidia-smi says nothing more about it"
fi

part "build" 400 compile
if ((${#failed[@]})); then
    say "" && say "verdict: FAILED: the build failed, so nothing else was run"
    echo "report: $report"
    exit 1
fi
part "tests on the GPU" 240 tests
if [ "$emulated" ]; then
    part "rates of the ops" 120 on "$build/bench_ops" --device cuda --batch 1 --context 32 --only gelu
    part "training GPT-2 124M on random tokens" 240 train --dtype bf16 --batch 1 --context 8 --steps 2
    part "the same, as a CUDA graph" 240 train --dtype bf16 --batch 1 --context 8 --steps 2 --graph
    part "decoding, GPT-2 124M bf16" 120 decode 3
else
    part "rates of the ops, beside this GPU's copy and products" 90 on "$build/bench_ops" --device cuda
    part "training GPT-2 124M on random tokens, bf16" 60 train --dtype bf16 --batch 8 --context 1024 --steps 30
    part "the same, as a CUDA graph" 60 train --dtype bf16 --batch 8 --context 1024 --steps 30 --graph
    part "the same, fp32" 60 train --dtype fp32 --batch 4 --context 1024 --steps 10
    part "decoding, GPT-2 124M bf16" 60 decode 400
fi
if [ "$emulated" ] || [ "$(nvidia-smi -L | wc -l)" -ge 2 ]; then
    part "two GPUs by NCCL" 60 two
else
    skip "two GPUs by NCCL" "there is one GPU"
fi
# These come last, because they take all the time that is left.
if [ "$emulated" ]; then
    skip "compute-sanitizer" "the emulator checks every access itself"
elif command -v compute-sanitizer >/dev/null; then
    part "compute-sanitizer memcheck" 100 sanitize memcheck --report-api-errors no
    part "compute-sanitizer racecheck" 100 sanitize racecheck
    part "compute-sanitizer initcheck" 100 sanitize initcheck
else
    skip "compute-sanitizer" "it is not on PATH; it comes with the CUDA toolkit"
fi
say ""
if ((${#failed[@]})); then
    say "verdict: FAILED in $SECONDS s: $(printf '%s; ' "${failed[@]}" | sed 's/; $//')"
else
    say "verdict: every part that was run passed, in $SECONDS s"
fi
echo "report: $report"
exit $((${#failed[@]} > 0))
