#!/usr/bin/env bash
# sweep.sh - trains with several learning rates and seeds, and ends in a table of validation losses with mean and deviation
#
#   scripts/sweep.sh --out FOLDER --rates 3e-4,1e-3 --seeds 1,2,3 -- OPTIONS OF TRAIN_GPT
#
# Each run has its folder in FOLDER. The same command goes on where it was stopped: runs that are complete stay, and one that was
# stopped is resumed, to the same bits. The options must have --val-data. BUILD= names the folder of the programs, and LAUNCH= starts
# train_gpt, for example LAUNCH='torchrun --no-python --nproc-per-node 8'.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
die() { echo "error: $1 (--help shows the usage)" >&2; exit 2; }
out='' rates='' seeds=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in --out | --rates | --seeds) [ $# -ge 2 ] || die "$1 needs a value" ;; *) die "$1 is unknown" ;; esac
    case $1 in --out) out=$2 ;; --rates) rates=$2 ;; --seeds) seeds=$2 ;; esac
    shift 2
done
[ "$out" ] && [ "$rates" ] && [ "$seeds" ] || die "--out, --rates and --seeds must be given"
[ $# -ge 2 ] || die "the options of train_gpt are missing; they come behind --"
shift
[[ " $* " = *' --val-data'[\ =]* ]] || die "the options of train_gpt must have --val-data, of which the table is"
for own in --learning-rate --seed --out; do
    [[ " $* " != *" $own"[\ =]* ]] || die "$own of train_gpt is the sweep's own: --rates, --seeds and --out in front of -- choose it"
done
program=${BUILD:-$(dirname "$0")/../build}/train_gpt
[ -x "$program" ] || die "there is no $program; make builds it"

# Runs of other options in the same table would mean nothing.
mkdir -p "$out"
if [ -e "$out/options.txt" ]; then
    [ "$(cat "$out/options.txt")" = "$*" ] || die "$out is a sweep of other options: $(cat "$out/options.txt")"
fi
echo "$*" >"$out/options.txt"

# The steps of a run, and the step with which its last process ended.
steps_of() { sed -n 's/^ *"--steps": "\([0-9]*\)".*/\1/p' "$1/run.json"; }
end_of() { sed -n 's/.*"event":"end","step":\([0-9]*\),.*/\1/p' "$1/log.jsonl" | tail -1; }
for rate in ${rates//,/ }; do
    for seed in ${seeds//,/ }; do
        run=$out/rate-$rate-seed-$seed
        if [ -e "$run/run.json" ]; then
            # A complete run may have no checkpoint (--save-every 0), so it is not asked to go on.
            [ "$(end_of "$run")" != "$(steps_of "$run")" ] || continue
            ${LAUNCH:-} "$program" --out "$run" --resume
        else
            ${LAUNCH:-} "$program" "$@" --learning-rate "$rate" --seed "$seed" --out "$run"
        fi
        done=$(end_of "$run") steps=$(steps_of "$run")
        [ "$done" = "$steps" ] || { echo "$run was stopped after step $done of $steps; the same command goes on" >&2; exit 1; }
    done
done

printf '\n%-12s %5s %10s %10s %10s\n' rate seeds mean deviation least
for rate in ${rates//,/ }; do
    for seed in ${seeds//,/ }; do
        loss=$(sed -n 's/.*"val_loss":\([-0-9.e+]*\).*/\1/p' "$out/rate-$rate-seed-$seed/log.jsonl" | tail -1)
        [ "$loss" ] || die "$out/rate-$rate-seed-$seed has no validation loss; give --val-data"
        echo "$loss"
    done | awk -v rate="$rate" '
        { all[NR] = $1; sum += $1; if (NR == 1 || $1 < least) least = $1 }
        END {
            for (i = 1; i <= NR; i++) square += (all[i] - sum / NR) ^ 2
            printf "%-12s %5d %10.4f %10s %10.4f\n", rate, NR, sum / NR, (NR > 1 ? sprintf("%.4f", sqrt(square / (NR - 1))) : "-"), least
        }'
done
