#!/usr/bin/env bash
# gpu_check.sh - checks and measures everything that needs a GPU, and writes one report that ends with a verdict
#   scripts/gpu_check.sh --minutes 4     is it right? tests on all CPU cores at once, compute-sanitizer over every op
#   scripts/gpu_check.sh --minutes 10    also how fast: ops, training, generation, variants of attention, and what ncu counts
#   scripts/gpu_check.sh --minutes 30    also the tests of the programs, synccheck and racecheck, fp32, TF32, Muon, two GPUs
#   … --emulated                         tries the script itself on test/emulator, with small sizes, and measures nothing
# In a checkout it builds first, which the minutes do not count. In the archive of `make dist`, where it is libexec/gpu_check.sh,
# it needs no compiler and no network: only a driver, and NVIDIA's libraries from a toolkit or from PyTorch's packages.
# The report is docs/measured/DATE-GPU.txt, in an archive DATE-GPU.txt. A part whose tool is missing is skipped, and the report says
# why. The exit code is 0 when every part that ran passed, 1 when one failed or ran out of time, and 2 without a GPU.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
here=$(cd "$(dirname "$0")" && pwd)
minutes=10 emulated=
while [ $# -gt 0 ]; do
    case "$1 ${2:-}" in
    "--minutes 4" | "--minutes 10" | "--minutes 30") minutes=$2; shift 2 ;;
    "--minutes "*) echo "error: --minutes takes 4, 10 or 30" >&2; exit 2 ;;
    "--emulated "*) emulated=1; shift ;;
    *) echo "error: $1 is unknown; --help shows the usage" >&2; exit 2 ;;
    esac
done
limit=$((minutes * 60))  # seconds, for all parts together

# ---- where it runs ------------------------------------------------------------------------------------------------------
if [ -x "$here/test_gpt" ]; then  # an archive
    cd "$here"
    build=$here programs=$(cd "$here/../bin" && pwd) results=$PWD/.. archive=1
else
    cd "$here/.."
    build=$PWD/${BUILD:-build} programs=$build results=docs/measured archive=
fi
on() { "$@"; }
if [ "$emulated" ]; then
    on() { EMU_CHECK=${EMU_CHECK:-memory} scripts/emulate "$@"; }
    gpu="emulated-${EMU_GPU:-h100}" results=$(mktemp -d)  # docs/measured is for GPUs only
else
    gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1) || true
    [ -n "$gpu" ] || {
        echo "gpu_check: nvidia-smi finds no GPU; scripts/gpu_check.sh --emulated tries the script itself" >&2; exit 2; }
    case "${LD_LIBRARY_PATH:-}" in
    *emulator*) echo "gpu_check: LD_LIBRARY_PATH names the emulator, so the GPU would not be used" >&2; exit 2 ;;
    esac
fi
mkdir -p "$results"
report=$results/$(date -I)-$(tr -cs 'A-Za-z0-9\n' - <<<"$gpu" | sed 's/-*$//').txt
work=$(mktemp -d)
trap '[ "$BASHPID" != $$ ] || rm -rf "$work"' EXIT  # a job that is stopped early must not remove it
: >"$report"
say() { echo "$*" | tee -a "$report"; }
failed=() start=$SECONDS  # failed: the names of parts

# part NAME SECONDS COMMAND...: runs the command and appends its output to the report. The command is stopped after so many
# seconds, or when the limit for all parts is reached.
part() {
    local name=$1 most=$2 began=$SECONDS left=$((limit - SECONDS + start)) code=0
    shift 2
    say "" && say "== $name"
    if ((left < 5)); then
        say "NOT RUN: the $limit seconds are over"
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
    0) say "-- $name: $((SECONDS - began)) s" ;;
    143) say "-- $name: STOPPED after $((SECONDS - began)) s, the time that it may take"; failed+=("$name (stopped)") ;;
    *) say "-- $name: FAILED with exit code $code"; failed+=("$name") ;;
    esac
}
skip() { say "" && say "== $1" && say "skipped: $2"; }
here_is() { command -v "$1" >/dev/null; }

# ---- is it right? -------------------------------------------------------------------------------------------------------
compile() {
    make -j"$(nproc)" "$build"/{test_gpt,train_gpt,infer_gpt,tokenize,bench_ops} $([ -z "$emulated" ] || echo emulator) >"$work/make" 2>&1 ||
        { tail -30 "$work/make"; return 1; }
    "$build/train_gpt" --version
    scripts/ptxas.sh --spills "$build"/kernels/*.ptxas && echo "no kernel spills"
}

# On a machine without a usable GPU the tests pass and say that they ran on the CPU. Here that is a failure.
on_the_gpu() { ! grep -h -A 2 'tests run on the CPU alone' "$@"; }

# tests TAGS: deals the test cases of these tags to as many processes as there are CPU cores, because a core bounds most of them.
tests() {
    local jobs cores
    cores=$(nproc) jobs=$(($(nproc) > 16 ? 16 : $(nproc)))
    rm -f "$work"/{names,tests}.*
    "$build/test_gpt" --list-test-names-only "$1" | sed '/^$/d' >"$work/all" || true  # Catch2 gives the number of tests as the exit code
    [ -s "$work/all" ] || { echo "no test has the tags $1"; return 1; }
    awk -v n="$jobs" -v to="$work/names." '{print > (to (NR % n))}' "$work/all"
    local code=0 pids=() f
    for f in "$work"/names.*; do
        OMP_NUM_THREADS=$((cores / jobs > 0 ? cores / jobs : 1)) GPT_BUILD=$programs on "$build/test_gpt" --input-file "$f" \
            >"${f/names/tests}" 2>&1 &
        pids+=($!)
    done
    trap 'for f in "$work"/tests.*; do tail -n 2 "$f"; done; exit 143' TERM  # shows how far they came
    for f in "${pids[@]}"; do wait "$f" || code=1; done
    for f in "$work"/tests.*; do grep -q 'All tests passed' "$f" || tail -n 40 "$f"; done
    cat "$work"/tests.* | awk '/^All tests passed/ {sub(/\(/, "", $4); a += $4; t += $7}
                               END {printf "passed: %d assertions in %d test cases, in %d processes\n", a, t, '"${#pids[@]}"'}'
    on_the_gpu "$work"/tests.* && return $code
}

# sanitize TOOL...: every op and block once under each of compute-sanitizer's tools, all at the same time. Our code checks every
# status itself, so memcheck need not report calls of the CUDA API that fail.
sanitize() {
    local tool code=0 pids=() tools=("$@")
    for tool in "${tools[@]}"; do
        compute-sanitizer --tool "$tool" $([ "$tool" != memcheck ] || echo --report-api-errors no) --error-exitcode 9 \
            "$build/bench_ops" --device cuda --profiled "$work/$tool.json" --batch 1 --context 256 >"$work/$tool.txt" 2>&1 &
        pids+=($!)
    done
    trap 'for tool in "${tools[@]}"; do echo "$tool:"; tail -n 3 "$work/$tool.txt"; done; exit 143' TERM
    for tool in "${!tools[@]}"; do
        wait "${pids[tool]}" || { code=1; grep -m 30 '^========= ' "$work/${tools[tool]}.txt" || tail -n 5 "$work/${tools[tool]}.txt"; }
        echo "${tools[tool]}: $(grep 'ERROR SUMMARY\|RACECHECK SUMMARY' "$work/${tools[tool]}.txt" || echo 'no summary')"
    done
    return $code
}

# ---- how fast is it? ----------------------------------------------------------------------------------------------------
tokens() { [ -s "$work/tokens.bin" ] || perl -e 'srand 1; print pack "v*", map { int rand 50257 } 1 .. 400000' >"$work/tokens.bin"; }
median() { grep '"event":"step"' "$1/log.jsonl" | tail -n +4 | grep -o "\"$2\":[0-9.e+-]*" | cut -d: -f2 | sort -g |
    awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
fingerprint() { grep -o '"fingerprint":"[^"]*"' "$1/log.jsonl"; }
# train OPTIONS...: a run on random tokens, in a folder that holds nothing but $products, if that is set.
train() {
    tokens
    rm -rf "$work/run"
    [ -z "${products:-}" ] || install -D "$products" "$work/run/products.json"
    on "$programs/train_gpt" --device cuda --train-data "$work/tokens.bin" --eval-every 0 --save-every 0 --log-every 0 --out "$work/run" "$@" \
        >"$work/train" 2>&1 || { tail -20 "$work/train"; return 1; }
    printf '%s: %.2f ms a step, %.0f tokens/s, %.1f %% of the product peak (medians)\n' "$*" "$(median "$work/run" ms)" \
        "$(median "$work/run" tokens_per_s)" "$(median "$work/run" peak | awk '{print 100 * $1}')"
}
# The same run without and with a CUDA graph must have the same weights, and with --tune as well when it is repeated.
same_bits() {
    local size=("$@") want
    train "${size[@]}" && want=$(fingerprint "$work/run")
    train "${size[@]}" --graph && [ "$(fingerprint "$work/run")" = "$want" ] || { echo "with a graph the weights differ"; return 1; }
    train "${size[@]}" --tune && want=$(fingerprint "$work/run") && cp "$work/run/products.json" "$work"
    echo "timed products: $(grep -c '"product"' "$work/products.json"), of which another than cuBLASLt's first choice is faster: $(
        awk -F'[:,]' '/"us"/ {u = $2} /"first_us"/ && $2 > u {n++} END {print n + 0}' "$work/products.json")"
    products=$work/products.json train "${size[@]}" && [ "$(fingerprint "$work/run")" = "$want" ] ||
        { echo "with the same products.json the weights differ"; return 1; }
}
# decode TOKENS SAMPLES...: GPT-2 124M with random weights, so many samples at once.
decode() {
    local count=$1 n
    shift
    tokens
    rm -rf "$work/model"
    on "$programs/train_gpt" --model gpt2 --device cuda --dtype bf16 --batch 1 --context 16 --steps 1 --save-every 1 --eval-every 0 \
        --train-data "$work/tokens.bin" --out "$work/model" >"$work/decode" 2>&1 || { tail -5 "$work/decode"; return 1; }
    for n in "$@"; do
        echo "$n at once: $(on "$programs/infer_gpt" --model "$work/model" --device cuda --dtype bf16 --ids 1,2,3 --tokens "$count" \
            --samples "$n" --temperature 0 --stats 2>&1 >/dev/null | grep tokens/s)"
    done
}
variants() { on "$build/bench_ops" --device cuda --variants --only attention; }
# What the hardware counts for every op at the sizes of the table of kernels/README.md, beside what the emulator counts, which runs
# meanwhile on CPU cores.
count() {
    local size=(--device cuda --batch 1 --context 256) emulator=
    if [ ! "$archive" ] && make -j"$(nproc)" emulator >"$work/make" 2>&1; then
        EMU_CHECK=off scripts/emulate --profile "$work/counts.json" "$build/bench_ops" "${size[@]}" --profiled "$work/emulated.json" \
            >"$work/emulated.txt" 2>&1 &
        emulator=$!
    fi
    ncu --profile-from-start off --cache-control all --csv --page raw --print-units base --metrics \
gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum,l1tex__data_bank_conflicts_pipe_lsu.sum,launch__registers_per_thread,sm__warps_active.avg.pct_of_peak_sustained_active \
        "$build/bench_ops" "${size[@]}" --profiled "$work/ops.json" >"$work/ncu.csv" 2>"$work/ncu.txt" ||
        { tail -5 "$work/ncu.txt" "$work/ncu.csv"; return 1; }
    if [ ! "$emulator" ]; then grep '^"' "$work/ncu.csv" | head -400; return; fi
    wait "$emulator" || { tail -5 "$work/emulated.txt"; return 1; }
    "$build/bench_ops" --hardware "$work/counts.json,$work/ncu.csv"
}

losses() { grep '"event":"step"' "$1/log.jsonl" | grep -o '"loss":[0-9.]*' | cut -d: -f2; }
# Compares the losses of a run on two GPUs, each with half the batch, with those of a run on one.
two() {
    perl -e 'srand 1; print pack "v*", map { int rand 257 } 1 .. 20000' >"$work/bytes.bin"
    local words=(--model nano --dtype fp32 --device cuda --context 32 --steps 10 --eval-every 0 --save-every 0 --graph
                 --train-data "$work/bytes.bin") rank pids=()
    on "$programs/train_gpt" "${words[@]}" --batch 4 --out "$work/one" >"$work/one.txt" 2>&1 || { tail -5 "$work/one.txt"; return 1; }
    for rank in 0 1; do
        WORLD_SIZE=2 RANK=$rank LOCAL_RANK=$rank EMU_DEVICES=2 on "$programs/train_gpt" "${words[@]}" --batch 2 --out "$work/two" \
            >"$work/two$rank.txt" 2>&1 &
        pids+=($!)
    done
    for rank in 0 1; do wait "${pids[rank]}" || { tail -5 "$work/two$rank.txt"; return 1; }; done
    grep '^device' "$work/two0.txt"
    paste <(losses "$work/one") <(losses "$work/two") | awk '
        { off = ($1 - $2) / $1; if (off < 0) off = -off; if (off > most) most = off }
        END { printf "losses of %d steps differ by at most %.1e, allowed 1e-5\n", NR, most; exit !(NR == 10 && most <= 1e-5) }'
}

# ---- the parts ----------------------------------------------------------------------------------------------------------
say "gpu_check --minutes $minutes · $(date -Iseconds) · $gpu · $(git describe --always --dirty 2>/dev/null || "$programs/train_gpt" --version)"
if [ "$emulated" ]; then
    say "EMULATED: no GPU was used. Every time and rate below is of the emulator on a CPU and says nothing about a GPU."
else
    nvidia-smi --format=csv,noheader \
        --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu | tee -a "$report" ||
        say "nvidia-smi says nothing more about it"
fi
if [ ! "$archive" ]; then
    limit=3600
    part "build" 1200 compile
    if ((${#failed[@]})); then
        say "" && say "verdict: FAILED: the build failed, so nothing else was run"
        echo "report: $report"
        exit 1
    fi
    limit=$((minutes * 60)) start=$SECONDS
fi

if [ "$emulated" ]; then
    small=(--dtype bf16 --batch 1 --context 8 --steps 4 --model nano --vocab 50304)
    part "tests" 240 tests 'gelu*,cross_entropy*'
    part "rates of the ops" 120 on "$build/bench_ops" --device cuda --batch 1 --context 32 --only gelu
    part "training" 240 train "${small[@]}"
    part "the same bits" 240 same_bits "${small[@]}"
    part "generation, GPT-2 124M bf16" 200 decode 3 1 2
    part "two GPUs by NCCL" 60 two
else
    part "tests of ops and models" $((minutes * 20)) tests '[ops],[attention],[rope],[gradients],[model],[families],[evaluation]~[programs]'
    if here_is compute-sanitizer; then
        part "compute-sanitizer over every op" $((minutes * 30)) sanitize memcheck initcheck $( ((minutes < 30)) || echo synccheck racecheck)
    else
        skip "compute-sanitizer" "it is not on PATH; it comes with the CUDA toolkit"
    fi
    if ((minutes >= 10)); then
        gpt2=(--model gpt2 --dtype bf16 --context 1024 --steps 30)
        part "training GPT-2 124M, batch 8, 32, 64" 60 eval 'for b in 8 32 64; do train "${gpt2[@]}" --batch $b --graph; done'
        part "a graph, --tune, and the same bits" 60 same_bits "${gpt2[@]}" --batch 8
        part "training GPT-2 1558M" 60 train --model gpt2-xl --dtype bf16 --context 1024 --batch 8 --steps 12 --graph
        part "training Pythia-1.4b" 60 train --model pythia-1.4b --dtype bf16 --context 2048 --batch 4 --steps 12 --graph
        part "generation, GPT-2 124M bf16" 60 decode 400 1 8 64
        part "rates of the ops, beside this GPU's copy and products" 90 on "$build/bench_ops" --device cuda --batch 32
        if [ "$archive" ]; then
            skip "variants of attention" "the archive's bench_ops has none; a build in a checkout does"
        else
            part "variants of attention" 90 variants
        fi
        if here_is ncu; then part "ncu" 90 count; else skip "ncu" "it is not on PATH; it comes with the CUDA toolkit"; fi
    fi
    if ((minutes >= 30)); then
        part "training GPT-2 124M in fp32 and TF32" 90 eval 'train --model gpt2 --dtype fp32 --context 1024 --batch 8 --steps 10;
            train --model gpt2 --dtype fp32 --context 1024 --batch 8 --steps 10 --tf32'
        part "training GPT-2 124M with Muon" 90 train "${gpt2[@]}" --batch 32 --optimizer muon
        if [ "$archive" ]; then
            skip "tests of the programs" "they need files of a checkout"
        else
            part "tests of the programs" 400 tests '[programs]'
        fi
    fi
    if [ "$(nvidia-smi -L | wc -l)" -ge 2 ]; then
        part "two GPUs by NCCL" 60 two
    else
        skip "two GPUs by NCCL" "there is one GPU"
    fi
fi
say ""
if ((${#failed[@]})); then
    say "verdict: FAILED in $((SECONDS - start)) s: $(printf '%s; ' "${failed[@]}" | sed 's/; $//')"
else
    say "verdict: every part that was run passed, in $((SECONDS - start)) s"
fi
echo "report: $report"
exit $((${#failed[@]} > 0))
