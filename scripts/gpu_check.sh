#!/usr/bin/env bash
# gpu_check.sh - checks and measures everything that needs a GPU, and writes one report that ends with a verdict
#   scripts/gpu_check.sh --minutes 4     is it right? tests on all CPU cores at once, compute-sanitizer over every op
#   scripts/gpu_check.sh --minutes 10    also how fast: training, generation, attention beside PyTorch's, ops, what ncu counts, and
#                                        a table of what was measured beside the targets; from 8 minutes on
#   scripts/gpu_check.sh --minutes 30    also the tests of the programs, synccheck and racecheck, fp32, TF32, Muon; from 25 on
#   … --emulated                         tries the script itself on test/emulator, with small sizes, and measures nothing
#   … --to FOLDER                        where the report goes: docs/measured in a checkout, else beside libexec
# In a checkout it builds first, which the minutes do not count. In the archive of `make dist`, where it is libexec/gpu_check.sh,
# it needs no compiler and no network: only a driver, and NVIDIA's libraries from a toolkit or from PyTorch's packages.
# The report is DATE-GPU.txt, or DATE-GPU-2.txt where there is one already. A part whose tool is missing is skipped, and the
# report says why. The exit code is 0 when every part that ran passed, 1 when one failed or ran out of time, and 2 without a GPU
# that our programs can use.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
here=$(cd "$(dirname "$0")" && pwd)
minutes=10 emulated='' results=''
while [ $# -gt 0 ]; do
    case "$1 ${2:-}" in
    "--minutes "[1-9] | "--minutes "[1-9][0-9]) minutes=$2; shift 2 ;;
    "--minutes "*) echo "error: --minutes takes a whole number from 1 to 99" >&2; exit 2 ;;
    "--to ") echo "error: --to takes a folder" >&2; exit 2 ;;
    "--to "?*) mkdir -p "$2" && results=$(cd "$2" && pwd) || exit 2; shift 2 ;;
    "--emulated "*) emulated=1; shift ;;
    *) echo "error: $1 is unknown; --help shows the usage" >&2; exit 2 ;;
    esac
done
limit=$((minutes * 60))  # seconds, for all parts together

# ---- where it runs ------------------------------------------------------------------------------------------------------
if [ -x "$here/test_gpt" ]; then  # an archive
    cd "$here"
    build=$here programs=$(cd "$here/../bin" && pwd) archive=1 peers=$here/bench_attention.py
    results=${results:-$PWD/..}
else
    cd "$here/.."
    build=$PWD/${BUILD:-build} programs=$build archive='' peers=test/bench_attention.py
    results=${results:-docs/measured}
fi
python=${PYTHON:-python3}
for folder in /usr/local/cuda/bin /opt/nvidia/nsight-compute/*/; do  # where a toolkit puts ncu and compute-sanitizer
    [ ! -d "$folder" ] || PATH=$PATH:$folder
done
under=()  # what stands in front of a program
if [ "$emulated" ]; then
    export EMU_CHECK=${EMU_CHECK:-memory}
    under=(scripts/emulate)
    gpu="emulated-${EMU_GPU:-h100}" results=$(mktemp -d)  # docs/measured is for GPUs only
else
    gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1) || true
    [ -n "$gpu" ] || {
        echo "gpu_check: nvidia-smi finds no GPU; scripts/gpu_check.sh --emulated tries the script itself" >&2; exit 2; }
    case "${LD_LIBRARY_PATH:-}" in
    *emulator*) echo "gpu_check: LD_LIBRARY_PATH names the emulator, so the GPU would not be used" >&2; exit 2 ;;
    esac
fi
mkdir -p "$results" 2>/dev/null && [ -w "$results" ] || results=$(mktemp -d)
name=$results/$(date -I)-$(tr -cs 'A-Za-z0-9\n' - <<<"$gpu" | sed 's/-*$//')
report=$name.txt
for ((n = 2; ; n++)); do
    [ -e "$report" ] || break
    report=$name-$n.txt
done
work=$(mktemp -d)
export TMPDIR=$work  # ncu keeps a lock in the folder of temporary files, which another user may hold
trap '[ "$BASHPID" != $$ ] || rm -rf "$work"' EXIT  # a job that is stopped early must not remove it
: >"$report"
: >"$work/measured"  # lines NAME|VALUE, for the table of targets
on() { "${under[@]}" "$@"; }
say() { echo "$*" | tee -a "$report"; }
failed=() start=$SECONDS job=''  # failed: the names of parts; job: the process group of the part that runs

# verdict [WHY]: ends the report. A signal ends it as well.
verdict() {
    say ""
    if [ "${1:-}" ]; then
        say "verdict: FAILED: $1"
    elif ((${#failed[@]})); then
        say "verdict: FAILED in $((SECONDS - start)) s: $(printf '%s; ' "${failed[@]}" | sed 's/; $//')"
    else
        say "verdict: every part that was run passed, in $((SECONDS - start)) s"
    fi
    echo "report: $report"
}
stopped() {
    [ ! "$job" ] || kill -KILL -- -"$job" 2>/dev/null || true
    [ ! "$job" ] || tee -a "$report" <"$work/out"
    verdict "it was stopped by a signal after $((SECONDS - start)) s"
    exit 1
}
trap stopped TERM INT HUP

# part NAME SECONDS COMMAND...: runs the command and appends its output to the report. The command is stopped after so many
# seconds, or when the limit for all parts is reached: by SIGTERM, and five seconds later by SIGKILL.
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
    job=$!
    ( sleep $((most < left ? most : left)); kill -TERM -- -"$job"; sleep 5; kill -KILL -- -"$job" ) >/dev/null 2>&1 &
    local dog=$!
    set +m
    wait "$job" || code=$?
    kill -TERM -- -"$dog" 2>/dev/null || true
    case $code in
    137 | 143)  # what it started may not end by itself: train_gpt saves a checkpoint first
        sleep 1
        kill -KILL -- -"$job" 2>/dev/null || true ;;
    esac
    job=''
    tee -a "$report" <"$work/out"
    case $code in
    0) say "-- $name: $((SECONDS - began)) s" ;;
    137 | 143) say "-- $name: STOPPED after $((SECONDS - began)) s, the time that it may take"; failed+=("$name (stopped)") ;;
    *) say "-- $name: FAILED with exit code $code"; failed+=("$name") ;;
    esac
}
skip() { say "" && say "== $1" && say "skipped: $2"; }
here_is() { command -v "$1" >/dev/null; }

# ---- is it right? -------------------------------------------------------------------------------------------------------
compile() {
    make -j"$(nproc)" "$build"/{test_gpt,train_gpt,infer_gpt,tokenize,bench_ops} $([ -z "$emulated" ] || echo emulator) \
        >"$work/make" 2>&1 || { tail -30 "$work/make"; return 1; }
    "$build/train_gpt" --version
    scripts/ptxas.sh --spills "$build"/kernels/*.ptxas || return
    echo "no kernel spills"
    # What the emulator counts for every op, for the part with ncu. The archive brings it along.
    [ "$emulated" ] || [ "$build/counts.json" -nt "$build/bench_ops" ] || {
        make -j"$(nproc)" emulator >"$work/make" 2>&1 &&
            EMU_CHECK=off scripts/emulate --profile "$build/counts.json" "$build/bench_ops" "${counted[@]}" \
                --profiled "$work/ops.json" >"$work/counted" 2>&1 || tail -5 "$work/make" "$work/counted"; }
}
counted=(--device cuda --batch 1 --context 256)  # the sizes of the table of kernels/README.md

# tests TAGS: on a machine without a usable GPU the tests pass and say that they ran on the CPU. Here that is a failure.
tests() {
    local code=0
    trap 'cat "$work/tests"; exit 143' TERM  # which says how far they came
    GPT_BUILD=$programs "$here/test_parallel.sh" "${under[@]}" "$build/test_gpt" "$1" >"$work/tests" 2>&1 || code=$?
    cat "$work/tests"
    ! grep -q 'tests run on the CPU alone' "$work/tests" && return $code
}

# sanitize TOOL...: every op and block once under each of compute-sanitizer's tools, all at the same time. Our code checks every
# status itself, so memcheck need not report calls of the CUDA API that fail. compute-sanitizer 12.9 and 13.5 take these options.
sanitize() {
    local tool code=0 pids=() tools=("$@")
    for tool in "${tools[@]}"; do
        compute-sanitizer --target-processes all --tool "$tool" --error-exitcode 9 --launch-timeout 60 \
            $([ "$tool" != memcheck ] || echo --report-api-errors no) \
            "$build/bench_ops" "${counted[@]}" --profiled "$work/$tool.json" >"$work/$tool.txt" 2>&1 &
        pids+=($!)
    done
    trap 'for tool in "${tools[@]}"; do echo "$tool:"; tail -n 3 "$work/$tool.txt"; done; exit 143' TERM
    for tool in "${!tools[@]}"; do
        wait "${pids[tool]}" || { code=1; grep -m 30 '^========= ' "$work/${tools[tool]}.txt" || tail -n 5 "$work/${tools[tool]}.txt"; }
        # Without a summary the tool did not reach the program's end.
        echo "${tools[tool]}: $(grep 'ERROR SUMMARY\|RACECHECK SUMMARY' "$work/${tools[tool]}.txt" || echo 'no summary')"
        grep -q 'SUMMARY: ' "$work/${tools[tool]}.txt" || code=1
    done
    return $code
}

# ---- how fast is it? ----------------------------------------------------------------------------------------------------
# random_ids COUNT BELOW: token ids, two bytes each.
random_ids() {
    if here_is perl; then
        perl -e 'srand 1; print pack "v*", map { int rand $ARGV[1] } 1 .. $ARGV[0]' "$@"
    else
        "$python" -c 'import array, random, sys; n, below = map(int, sys.argv[1:]); random.seed(1)
array.array("H", [random.randrange(below) for _ in range(n)]).tofile(sys.stdout.buffer)' "$@"
    fi
}
tokens() { [ -s "$work/tokens.bin" ] || random_ids 400000 50257 >"$work/tokens.bin"; }
median() { grep '"event":"step"' "$1/log.jsonl" | tail -n +4 | grep -o "\"$2\":[0-9.e+-]*" | cut -d: -f2 | sort -g |
    awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
fingerprint() { grep -o '"fingerprint":"[^"]*"' "$1/log.jsonl"; }
note() { echo "$1|$2" >>"$work/measured"; }
# train OPTIONS...: a run on random tokens, in a folder that holds nothing but $products, if that is set.
train() {
    tokens
    rm -rf "$work/run"
    [ -z "${products:-}" ] || install -D "$products" "$work/run/products.json"
    on "$programs/train_gpt" --device cuda --train-data "${data:-$work/tokens.bin}" --eval-every 0 --save-every 0 --log-every 0 \
        --out "$work/run" "$@" >"$work/train" 2>&1 || { tail -20 "$work/train"; return 1; }
    printf '%s: %.2f ms a step, %.0f tokens/s, %.1f %% of the product peak (medians), ready in %.2f s\n' "$*" "$(median "$work/run" ms)" \
        "$(median "$work/run" tokens_per_s)" "$(median "$work/run" peak | awk '{print 100 * $1}')" \
        "$(grep -o '"startup_s":[0-9.e+-]*' "$work/run/log.jsonl" | cut -d: -f2)"
}
# speed NAME OPTIONS...: the same, and its tokens/s for the table of targets.
speed() {
    local name=$1
    shift
    train "$@" || return  # the caller's && turns set -e off
    note "$name" "$(median "$work/run" tokens_per_s)"
    note "start-up of $name" "$(grep -o '"startup_s":[0-9.e+-]*' "$work/run/log.jsonl" | cut -d: -f2)"
}
# The same twice, without and with --tune, which may take other algorithms of cuBLASLt, and our kernels for products.
speeds() {
    local name=$1
    shift
    speed "$name" "$@" && speed "$name, --tune" "$@" --tune && of_products
}
of_products() {
    awk '/"product"/ {all++} /"algorithm": "hopper/ {ours++} match($0, /"ours": "[^"]*/) {ways[substr($0, RSTART + 9, RLENGTH - 9)]++}
        END {printf "products: %d, of which %d take our kernels; the fastest of ours:", all, ours
             for (way in ways) printf " %s (%d)", way, ways[way]; print ""}' "$work/run/products.json"
}
# nanoGPT's model of characters: 65 of them.
characters() {
    random_ids 400000 65 >"$work/characters.bin"
    data=$work/characters.bin speeds "the model of characters" --model gpt2 --layers 6 --width 384 --heads 6 --vocab 65 --dtype bf16 --context 256 \
        --batch 64 --steps 100 --graph
}
# The same run without and with a CUDA graph must have the same weights, and with --tune as well when it is repeated.
same_bits() {
    local size=("$@") want
    train "${size[@]}"
    want=$(fingerprint "$work/run")
    train "${size[@]}" --graph
    [ "$(fingerprint "$work/run")" = "$want" ] || { echo "with a graph the weights differ"; return 1; }
    train "${size[@]}" --tune
    want=$(fingerprint "$work/run")
    cp "$work/run/products.json" "$work"
    echo "timed products: $(grep -c '"product"' "$work/products.json"), of which another than cuBLASLt's first choice is faster: $(
        awk -F'[:,]' '/"us"/ {u = $2} /"first_us"/ && $2 > u {n++} END {print n + 0}' "$work/products.json")"
    products=$work/products.json train "${size[@]}"
    [ "$(fingerprint "$work/run")" = "$want" ] || { echo "with the same products.json the weights differ"; return 1; }
}
# decode TOKENS SAMPLES...: GPT-2 124M with random weights, so many samples at once.
decode() {
    local count=$1 n early line
    shift
    tokens
    rm -rf "$work/model"
    on "$programs/train_gpt" --model gpt2 --device cuda --dtype bf16 --batch 1 --context 16 --steps 1 --save-every 1 --eval-every 0 \
        --train-data "$work/tokens.bin" --out "$work/model" >"$work/decode" 2>&1 || { tail -5 "$work/decode"; return 1; }
    for n in "$@"; do
        for early in "" ", no early launch"; do  # without early launches each kernel waits for the end of the one before it
            on "$programs/infer_gpt" --model "$work/model" --device cuda --dtype bf16 --ids 1,2,3 --tokens "$count" --samples "$n" \
                --temperature 0 --stats $([ -z "$early" ] || echo --no-early-launch) >"$work/ids$early" 2>"$work/stats" ||
                { tail -5 "$work/stats"; return 1; }
            line=$(grep tokens/s "$work/stats")
            echo "$n at once$early: $line"
            note "generation, $n at once$early" "$(sed 's/.* at \([0-9.]*\) tokens\/s.*/\1/' <<<"$line")"
        done
        cmp -s "$work/ids" "$work/ids, no early launch" || { echo "$n at once: early launches change the ids"; return 1; }
    done
}
# products OPTIONS...: products by cuBLASLt's first algorithm and by each of our kernels.
products() { on "$build/bench_ops" --device cuda --compare-products "$@"; }
variants() { on "$build/bench_ops" --device cuda --variants --only attention; }
# rates OPTIONS...: each op beside this GPU's copy and products, of which the table of targets has the percentages.
rates() {
    on "$build/bench_ops" --device cuda "$@" | tee "$work/rates"
    sed -nE 's/^(.*[^ ]) +(bf16|fp32) .* ([0-9]+)% of .*/\1 \2|\3/p' "$work/rates" >>"$work/measured"
}
# attentions OPTIONS...: attention by each of our kernels and by PyTorch's, as a table of TFLOP/s.
attentions() {
    on "$build/bench_ops" --device cuda --compare-attention "$@" >"$work/attention" 2>"$work/attention.err" ||
        { tail -5 "$work/attention" "$work/attention.err"; return 1; }
    head -1 "$work/attention"
    # A PyTorch that is missing, or refuses, fails nothing.
    timeout 60 "$python" "$peers" --tokens 32768 >"$work/peers" 2>&1 || echo "PyTorch: $(tail -1 "$work/peers")"
    sed '/GFLOP/d' "$work/peers" | head -5
    awk '/^attention .* GFLOP/ {
            sub(",", "", $6)
            for (i = 7; i < NF; i++) if ($(i + 1) ~ /^GFLOP/) rate = $i / 1000
            row = $2 " D " $4 " T " $6
            if (!(row in known)) { known[row] = 1; rows[++n] = row }
            of[row, $7] = rate
            print "attention " row " " $7 "|" rate >measured
        }
        END {
            printf "\n%-24s %8s %8s %8s %15s   TFLOP/s\n", "", "mma", "hopper", "cuDNN", "FlashAttention"
            for (r = 1; r <= n; r++) {
                printf "%-24s", rows[r]
                split("mma hopper cuDNN FlashAttention", who, " ")
                for (i = 1; i <= 4; i++) {
                    has = (rows[r], who[i]) in of
                    printf(i < 4 ? " %8s" : " %15s", has ? sprintf("%.0f", of[rows[r], who[i]]) : "-")
                }
                printf "\n"
            }
        }' measured="$work/attention.measured" "$work/attention" "$work/peers"
    cat "$work/attention.measured" >>"$work/measured"
}
# What the hardware counts for every op at the sizes of the table of kernels/README.md, beside what the emulator counted.
# ncu 2024.1 takes these options and lists these metrics for an H100 (ncu --query-metrics --chips gh100).
count() {
    local ask=gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum,l1tex__data_bank_conflicts_pipe_lsu.sum
    local more=,launch__registers_per_thread,sm__warps_active.avg.pct_of_peak_sustained_active
    more+=,l1tex__data_pipe_lsu_wavefronts_mem_shared.sum,smsp__inst_executed.sum
    # A GPU or an ncu that lacks one of the metrics refuses all, so that it is asked for fewer then.
    local metrics
    for metrics in "$ask$more" "$ask"; do
        ncu --target-processes all --profile-from-start off --cache-control all --clock-control none --csv --page raw --print-units base \
            --print-kernel-base demangled --metrics "$metrics" \
            "$build/bench_ops" "${counted[@]}" --profiled "$work/ops.json" >"$work/ncu.csv" 2>"$work/ncu.txt" || true
        ! grep -q '^"ID"' "$work/ncu.csv" || break
        grep -h -m 3 '==ERROR==\|==WARNING==' "$work/ncu.csv" "$work/ncu.txt" || true
    done
    grep -q '^"ID"' "$work/ncu.csv" || { tail -n 5 "$work/ncu.txt" "$work/ncu.csv"; return 1; }
    if [ -s "$build/counts.json" ]; then
        "$build/bench_ops" --hardware "$build/counts.json,$work/ncu.csv" | tee "$work/hardware"
        note "kernels of ten with the emulator's counts" "$(sed -n 's/^verdict: \([0-9]*\) of.*/\1/p' "$work/hardware")"
    else
        echo "there are no counts of the emulator here, so these are ncu's alone"
        grep '^"' "$work/ncu.csv" | head -400
    fi
}
# targets: what was measured beside what is wanted of an H100: at least so much, or less where it begins with <.
targets() {
    cat >"$work/targets"
    say "" && say "== targets for an H100"
    awk -F'|' 'FILENAME == ARGV[1] { value[$1] = $2; next }
        {
            have = $1 in value && value[$1] > 0
            less = sub(/^</, "", $2)
            if (have) part = less ? $2 / value[$1] : value[$1] / $2
            printf "%-44s %10s %10s  %-10s %s\n", $1, have ? sprintf("%.6g", value[$1]) : "-", (less ? "<" : "") $2, $3,
                have ? sprintf("%.2f%s", part, part < 1 ? "" : "  reached") : ""
            n++
            measured += have
            reached += have && part >= 1
        }
        END { printf "%d of %d targets were measured, and %d are reached\n", measured, n, reached }' "$work/measured" "$work/targets" |
        tee -a "$report"
}
all_targets() { targets <<'END'
GPT-2 124M, batch 32|580000|tokens/s
GPT-2 124M, batch 32, --tune|580000|tokens/s
GPT-2 1558M|50000|tokens/s
GPT-2 1558M, --tune|50000|tokens/s
Pythia-1.4b|60000|tokens/s
Pythia-1.4b, --tune|60000|tokens/s
the model of characters|4000000|tokens/s
the model of characters, --tune|4000000|tokens/s
start-up of GPT-2 1558M|<1.5|s
generation, 1 at once|5000|tokens/s
generation, 64 at once|100000|tokens/s
attention forward D 64 T 1024 mma|300|TFLOP/s
attention backward D 64 T 1024 mma|230|TFLOP/s
attention forward D 64 T 1024 hopper|350|TFLOP/s
attention backward D 64 T 1024 hopper|260|TFLOP/s
attention forward D 128 T 2048 hopper|550|TFLOP/s
attention backward D 128 T 2048 hopper|400|TFLOP/s
attention decode bf16|80|% of copy
cross_entropy with gradient bf16|85|% of copy
cross_entropy loss only bf16|85|% of copy
layernorm backward bf16|85|% of copy
embedding forward bf16|85|% of copy
embedding backward bf16|85|% of copy
rope, a quarter of D bf16|85|% of copy
squared_norm, 124M fp32|85|% of copy
kernels of ten with the emulator's counts|10|kernels
END
}

losses() { grep '"event":"step"' "$1/log.jsonl" | grep -o '"loss":[0-9.]*' | cut -d: -f2; }
# Compares the losses of a run on two GPUs, each with half the batch, with those of a run on one.
two() {
    random_ids 20000 257 >"$work/bytes.bin"
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
version=$({ [ ! "$archive" ] && git describe --always --dirty 2>/dev/null; } || "$programs/train_gpt" --version || echo "no version")
say "gpu_check --minutes $minutes · $(date -Iseconds) · $gpu · $version"
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
    ((${#failed[@]} == 0)) || { verdict "the build failed, so nothing else was run"; exit 1; }
    limit=$((minutes * 60)) start=$SECONDS
fi
# With a driver that is too old, or without one of NVIDIA's libraries, each part would fail for the same reason.
on "$build/bench_ops" --device cuda --only "no op" --profiled "$work/none" >"$work/out" 2>&1 || {
    tee -a "$report" <"$work/out"; verdict "our programs cannot use this GPU, so nothing else was run"; exit 2; }

small=(--dtype bf16 --batch 1 --context 8 --steps 4 --model nano --vocab 50304)
gpt2=(--model gpt2 --dtype bf16 --context 1024 --steps 30)
of() { local tag; for tag; do printf '[%s]~[programs],' "$tag"; done | sed 's/,$//'; }
sanitizers() {
    if here_is compute-sanitizer; then
        part "compute-sanitizer over every op" $((minutes * 30)) sanitize memcheck initcheck \
            $( ((minutes < 25)) || echo synccheck racecheck)
    else
        skip "compute-sanitizer" "it is not on PATH; it comes with the CUDA toolkit"
    fi
}
sizes_of_gpt2() {
    for b in 8 64; do speed "GPT-2 124M, batch $b" "${gpt2[@]}" --batch $b --graph || return; done
    speeds "GPT-2 124M, batch 32" "${gpt2[@]}" --batch 32 --graph
}
if [ "$emulated" ]; then
    part "tests" 240 tests 'gelu*,cross_entropy*'
    part "rates of the ops" 120 rates --batch 1 --context 32 --only gelu
    part "attention" 240 attentions --batch 1 --context 1024
    part "products" 120 products --batch 1 --context 128 --only "projection dw"
    part "training" 240 speeds "GPT-2 124M, batch 32" "${small[@]}"
    part "the same bits" 240 same_bits "${small[@]}"
    part "generation, GPT-2 124M bf16" 200 decode 3 1
    part "two GPUs by NCCL" 60 two
    all_targets
else
    part "tests of ops and models" $((minutes * 20 < 240 ? minutes * 20 : 240)) \
        tests "$(of ops attention dropout rope gradients random model families evaluation inside preferences)"
    ((minutes >= 8)) || sanitizers
    if ((minutes >= 8)); then
        # What is known least comes first, and what takes longest last.
        part "training GPT-2 124M, batch 8, 32, 64" 90 sizes_of_gpt2
        part "attention beside PyTorch's" 100 attentions --batch 32
        part "products by cuBLASLt and by our kernels" 40 products --batch 32
        part "generation, GPT-2 124M bf16" 45 decode 400 1 8 64
        part "training GPT-2 1558M" 90 speeds "GPT-2 1558M" --model gpt2-xl --dtype bf16 --context 1024 --batch 8 --steps 12 --graph
        part "training Pythia-1.4b" 90 speeds "Pythia-1.4b" --model pythia-1.4b --dtype bf16 --context 2048 --batch 4 --steps 12 --graph
        part "training nanoGPT's model of characters" 60 characters
        part "a graph, --tune, and the same bits" 60 same_bits "${gpt2[@]}" --batch 8
        part "rates of the ops, beside this GPU's copy and products" 90 rates --batch 32
        if here_is ncu; then part "ncu" 120 count; else skip "ncu" "it is not on PATH; it comes with the CUDA toolkit"; fi
        if [ "$archive" ]; then
            skip "variants of attention" "the archive's bench_ops has none; a build in a checkout does"
        else
            part "variants of attention" 90 variants
        fi
        sanitizers
    fi
    if ((minutes >= 25)); then
        part "training GPT-2 124M in fp32 and TF32" 90 eval 'train --model gpt2 --dtype fp32 --context 1024 --batch 8 --steps 10;
            train --model gpt2 --dtype fp32 --context 1024 --batch 8 --steps 10 --tf32'
        part "training GPT-2 124M with Muon" 90 train "${gpt2[@]}" --batch 32 --optimizer muon
        if [ "$archive" ]; then
            skip "tests of the programs" "they need files of a checkout"
        else
            part "tests of the programs" 400 tests '[programs]'
        fi
    fi
    # Of the GPUs that nvidia-smi lists, programs may see only some. A part of a GPU (MIG) is a line that begins otherwise.
    visible=${CUDA_VISIBLE_DEVICES-$(nvidia-smi -L | grep -c '^GPU' | xargs seq -s ,)}
    if [[ $visible == *,* ]]; then
        part "two GPUs by NCCL" 60 two
    else
        skip "two GPUs by NCCL" "there is one GPU"
    fi
    ((minutes < 8)) || all_targets
fi
verdict
exit $((${#failed[@]} > 0))
