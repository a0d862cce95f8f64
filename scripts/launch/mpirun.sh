#!/usr/bin/env bash
# mpirun.sh - starts the processes of a recipe on several machines by Open MPI
#   scripts/launch/mpirun.sh NAME HOSTS --train-data 'data/x_train_*.bin' [OPTION…]
#     HOSTS is a file with a line `host slots=8` for each machine. The program and the data have the same paths on all of them.
#   WORLD=16 scripts/launch/mpirun.sh …     starts that many processes
# Rank 0 runs on the first host of the file, and the others find it there. mpirun ends all processes when one of them fails. When a host is
# cut off, the processes end after --timeout seconds, but mpirun itself when TCP gives up: after a quarter of an hour, or in less time with
# `sysctl net.ipv4.tcp_retries2=5` on the host where mpirun runs. On Ctrl-C or SIGTERM the run is saved.
set -euo pipefail
. "$(dirname "$0")/models.sh"
first_is_a_recipe "$0" "$@"
[ -f "${2:-}" ] || { echo "error: HOSTS is '${2:-}', expected a file with a line 'host slots=$per_node' for each machine" >&2; exit 2; }
hosts=$2
shift 2
with "$@"
first=$(awk 'NF && $1 !~ /^#/ {print $1; exit}' "$hosts")
# mpirun kills a process one second after it has passed SIGTERM on, perhaps before it has saved. SIGUSR1 is passed on alone. So mpirun gets
# a process group of its own (set -m), where Ctrl-C does not reach it.
child=
trap '[ -z "$child" ] || kill -USR1 "$child" 2>/dev/null' TERM INT HUP
set -m
mpirun -n "${WORLD:-$gpus}" --hostfile "$hosts" --map-by slot --bind-to none -x MASTER_ADDR="$first" \
    -x MASTER_PORT="${MASTER_PORT:-29500}" ${MPIRUN_OPTIONS:-} "$program" "${options[@]}" </dev/null &
child=$!
while :; do  # a signal ends wait
    wait "$child" && code=0 || code=$?
    kill -0 "$child" 2>/dev/null || exit "$code"
done
