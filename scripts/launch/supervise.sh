#!/usr/bin/env bash
# supervise.sh - runs a command that trains into a folder, and starts it again from the newest checkpoint when it fails
#   scripts/launch/supervise.sh RUN -- COMMAND…        COMMAND is train_gpt or a script of this folder, without --out and --resume
#   TRIES=5 scripts/launch/supervise.sh …              gives up after five failures without a new checkpoint; 3 by default
#   SUPERVISE_ONCE=FILE scripts/launch/supervise.sh …  does not restart, but exits with 75 when the run should go on (slurm.sh); FILE
#                                                      keeps the number of failures for the next call
# Exit codes: 0 when the run has done all its steps, 2 for bad input, which no restart mends, 75 as above, else that of the command. A
# signal is passed on, and the run saves and ends; then nothing is started again.
set -uo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
[ $# -ge 3 ] && [ "$2" = -- ] || { echo "error: expected RUN -- COMMAND… (--help says more)" >&2; exit 2; }
run=$1
shift 2
say() { echo "supervise: $*" >&2; }
# The newest complete checkpoint, or nothing.
newest() { for c in "$run"/checkpoints/[0-9]*; do [ ! -e "$c/COMPLETE" ] || basename "$c"; done 2>/dev/null | sort -n | tail -1; }
# Whether the last record of the run says that all steps are done.
done_all() {
    local end
    end=$(tail -n 1 "$run/log.jsonl" 2>/dev/null | grep '"event":"end"') || return 1
    field() { grep -o "\"$1\":[0-9]*" <<<"$end" | cut -d: -f2; }
    [ "$(field step)" = "$(field steps)" ]
}
child= stopped=
trap 'stopped=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT HUP
tries=${TRIES:-3} failures=0 before=$(newest) memory=${SUPERVISE_ONCE:-}
[ ! -s "$memory" ] || read -r failures before <"$memory"
while :; do
    if [ -e "$run/run.json" ]; then resume=--resume; else resume=; fi
    "$@" --out "$run" $resume &
    child=$!
    while :; do  # a signal ends wait
        wait "$child" && code=0 || code=$?
        kill -0 "$child" 2>/dev/null || break
    done
    [ -z "$stopped" ] || exit "$code"
    [ "$code" != 2 ] || { say "the command refuses its input (exit code 2), so it is not started again"; exit 2; }
    if [ "$code" = 0 ] && done_all; then rm -f "$memory"; exit 0; fi
    now=$(newest)
    if [ "$now" != "$before" ]; then failures=0; else failures=$((failures + 1)); fi
    before=$now
    if [ "$failures" -ge "$tries" ]; then
        say "$failures failures without a new checkpoint; the last exit code is $code. The run is in $run"
        rm -f "$memory"
        exit $((code ? code : 1))
    fi
    if [ -n "$memory" ]; then
        rm -f "$memory"
        [ "$failures" = 0 ] || echo "$failures $before" >"$memory"
        exit 75
    fi
    say "ended with exit code $code; starting again from ${now:+checkpoint }${now:-the beginning}"
    sleep "${PAUSE:-5}"
done
