#!/usr/bin/env bash
# bench.sh - times the ops, training steps, decoding, start-up and memory on this machine, all in one run
#   make bench                       everything (about six minutes on two cores)
#   make bench ARGS='ops layernorm'  the ops whose name has that
#   make bench ARGS=train            training steps of whole models, and their memory
#   make bench ARGS=decode           generation, and start-up from a model folder
#   make bench ARGS=tokenize         text to tokens; PYTHON= names a python3 with tiktoken, TOKENIZER= GPT-2's tokenizer.json
#   make bench ARGS=emulator         instructions that a warp executes per second under test/emulator, where nvcc is installed
# These run only when they are chosen:
#   make bench ARGS=peers            GPT-2 124M steps of ours and of PyTorch in turn; PYTHON= names a python3 with torch and transformers
#   make bench ARGS=costs            measures nothing: what each op costs by its formula, the table of kernels/README.md
#   make bench ARGS=cuda             measures no time: what the emulator counts of the CUDA half, beside the fewest possible. It takes
#                                    half a minute on two idle cores. The last digits of bytes vary with the addresses of memory.
# Step times are medians without the first step. Percentages are of what the same process measured on this machine.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
case ${1:-all} in
all | ops | train | decode | tokenize | emulator | peers | costs | cuda) ;;
*) echo "error: $1 is no part of the benchmark; --help lists them" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
home=$PWD build=$PWD/${BUILD:-build}
what=${1:-all}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# expect_op FILE NAME: fails when a table has no row, because no op has that in its name
expect_op() { grep -qE '(fp32|bf16)  +[0-9]|tokens/s' "$1" || { echo "error: no op has '$2' in its name; make bench ARGS=ops times all of them" >&2; exit 2; }; }
if [ "$what" = costs ]; then exec "$build/bench_ops" --costs; fi
if [ "$what" = cuda ]; then  # ARGS='cuda layernorm' runs only the ops whose name contains that
    EMU_CHECK=off "$home/scripts/emulate" --profile counts.json "$build/bench_ops" --device cuda --batch 1 --context 256 \
        ${2:+--only "$2"} --profiled ops.json >log 2>&1 || { cat log >&2; exit 1; }
    grep -o 'bounds for.*' log | head -1
    "$build/bench_ops" --table ops.json,counts.json | tee table
    expect_op table "${2:-}"
    exit 0
fi
if [ "$what" = tokenize ]; then program=tokenize; else program=train_gpt; fi
echo "$(date -I) · $("$build/$program" --version)"
perl -e 'srand 1; print pack "v*", map { int rand 50257 } 1 .. 200000' >tokens.bin   # GPT-2 ids, as nanoGPT writes them

# median RUN FIELD: the median of a field over the step records of a run, without the first
median() { grep '"event":"step"' "$1/log.jsonl" | tail -n +2 | grep -o "\"$2\":[0-9.e+-]*" | cut -d: -f2 | sort -g | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
# field RUN EVENT FIELD: a field of the last record of that event
field() { grep "\"event\":\"$2\"" "$1/log.jsonl" | tail -1 | grep -o "\"$3\":[0-9.e+-]*" | cut -d: -f2; }

train() {  # train MODEL DTYPE BATCH CONTEXT STEPS
    local run="$1-$2-$3-$4" planned peak
    "$build/train_gpt" --model "$1" --dtype "$2" --batch "$3" --context "$4" --steps "$5" --train-data tokens.bin --save-every 0 --out "$run" >"$run.txt"
    planned=$(field "$run" start planned_bytes) peak=$(field "$run" end peak_bytes)
    printf '%-12s %-5s B=%-2s T=%-5s %8.0f ms a step %8.0f tokens/s %5.1f%% of the product peak   memory %5.2f GiB, planned %5.2f (%+.1f%%)\n' "$1" "$2" "$3" "$4" \
        "$(median "$run" ms)" "$(median "$run" tokens_per_s)" "$(awk "BEGIN {print 100 * $(median "$run" peak)}")" \
        "$(awk "BEGIN {print $peak / 2^30}")" "$(awk "BEGIN {print $planned / 2^30}")" "$(awk "BEGIN {print 100 * ($peak / $planned - 1)}")"
}

if [ "$what" = all ] || [ "$what" = ops ]; then
    "$build/bench_ops" ${2:+--only "$2"} | tee ops
    expect_op ops "${2:-}"
fi
if [ "$what" = all ] || [ "$what" = train ]; then
    train gpt2 bf16 4 64 20
    train gpt2 fp32 4 64 10
    train gpt2 bf16 4 1024 4
    train gpt2 fp32 4 1024 3
    train pythia-160m bf16 4 1024 3
fi
if [ "$what" = peers ]; then
    for shape in "4 64 12" "1 1024 6"; do
        read -r batch context steps <<<"$shape"
        for dtype in bf16 fp32; do
            for turn in 1 2 3; do  # the two take turns, so that other load slows both
                run=peers-$dtype-$batch-$context-$turn
                "$build/train_gpt" --model gpt2 --dtype $dtype --batch "$batch" --context "$context" --accumulate 1 --steps "$steps" \
                    --train-data tokens.bin --save-every 0 --out "$run" >"$run.txt"
                ours=$(median "$run" ms)
                theirs=$("${PYTHON:-python3}" "$home/test/bench_pytorch.py" --batch "$batch" --context "$context" --dtype $dtype --steps "$steps" --threads "$(nproc)")
                echo "$ours $theirs"
            done >turns.txt
            middle() { cut -d' ' -f"$1" turns.txt | sort -g | sed -n 2p; }
            printf 'gpt2 %s B=%s T=%-5s %6.0f ms a step, %s %6.0f ms (medians of three turns): ours is %s times as fast\n' $dtype "$batch" "$context" \
                "$(middle 1)" "$(cut -d' ' -f3,4 turns.txt | head -1)" "$(middle 2)" "$(awk "BEGIN {printf \"%.2f\", $(middle 2) / $(middle 1)}")"
        done
    done
fi
if [ "$what" = all ] || [ "$what" = decode ]; then
    "$build/train_gpt" --model gpt2 --dtype bf16 --batch 1 --context 64 --steps 1 --train-data tokens.bin --out model >/dev/null
    copy=$("$build/bench_ops" --only none | grep -o 'copy [0-9.]*' | cut -d' ' -f2)
    weights=$((2 * $(field model start parameters)))   # bytes in bf16, which are read once for each token
    for i in 1 2 3; do "$build/infer_gpt" --model model/checkpoints/latest --dtype bf16 --ids 1,2,3 --tokens 200 --temperature 0 --stats 2>&1 >/dev/null; done | grep -o '[0-9.]* tokens/s' | sort -g | sed -n 2p |
        awk -v w="$weights" -v c="$copy" '{printf "gpt2         bf16  decoding   %.1f tokens/s   %.0f%% of copy %.1f GB/s / %.0f MB of weights a token\n", $1, 100 * $1 * w / (c * 1e9), c, w / 1e6}'
    for i in 1 2 3; do "$build/train_gpt" --model model/checkpoints/latest --dtype bf16 --batch 4 --context 64 --steps 1 --train-data tokens.bin --save-every 0 --out "start$i" >/dev/null; field "start$i" start startup_s; done |
        sort -g | sed -n 2p | awk '{printf "gpt2         bf16  start-up from a folder until the first step begins   %.2f s\n", $1}'
fi
if [ "$what" = all ] || [ "$what" = tokenize ]; then
    [ -s "$home/data/sets/austen/austen.txt" ] && ln -s "$home/data/sets/austen/austen.txt" prose.txt ||
        "$home/data/austen.sh" "$PWD/prose.txt" >/dev/null
    find "$home"/{kernels,gpt,data,test} -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' | sort |
        xargs cat >code.txt
    if [ -z "${TOKENIZER:=}" ] && [ -s "$home/data/sets/gpt2-tokenizer/tokenizer.json" ]; then
        TOKENIZER=$home/data/sets/gpt2-tokenizer/tokenizer.json
    elif [ -z "$TOKENIZER" ]; then
        echo "there is no GPT-2 vocabulary (data/fetch.sh gpt2-tokenizer fetches it, or name it with TOKENIZER=), so this uses 8000 entries learned from the prose"
        "$build/tokenize" --train-bpe 8000 --input prose.txt --output tokenizer.json >/dev/null
        TOKENIZER=$PWD/tokenizer.json
    fi
    echo "prose is Jane Austen's novels, and code is the C++ and CUDA sources of this repository; times are CPU seconds"
    (cd "$home" && "$build/bench_tokenizer" --tokenizer "$TOKENIZER" --prose "$work/prose.txt" --code "$work/code.txt" \
        --program "$build/tokenize" --python "${PYTHON:-python3}")
fi
if [ "$what" = emulator ] || { [ "$what" = all ] && [ -x "$home/build/emulator/bench" ]; }; then
    echo
    "$home/build/emulator/bench" "${2:-}"
fi
