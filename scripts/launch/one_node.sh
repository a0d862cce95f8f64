#!/usr/bin/env bash
# one_node.sh - starts a process for each GPU of this machine, without any launcher
#   scripts/launch/one_node.sh NAME --train-data 'data/x_train_*.bin' [OPTION…]
#   GPUS=4 scripts/launch/one_node.sh …     takes the first four GPUs
# When one process ends with an error, the others end themselves. Ctrl-C asks all of them to save.
set -euo pipefail
. "$(dirname "$0")/models.sh"
first_is_a_recipe "$0" "$@"
shift
with "$@"
world=${GPUS:-$gpus} pids=() code=0
export WORLD_SIZE=$world MASTER_ADDR=127.0.0.1 MASTER_PORT=${MASTER_PORT:-29500}
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM
trap : INT  # a terminal sends Ctrl-C to the processes as well, and this script waits until they have saved
for ((rank = 0; rank < world; rank++)); do
    RANK=$rank LOCAL_RANK=$rank "$program" "${options[@]}" &
    pids+=($!)
done
for pid in "${pids[@]}"; do  # a signal ends wait, so it is called until the process has ended
    while :; do
        wait "$pid" && one=0 || one=$?
        kill -0 "$pid" 2>/dev/null || break
    done
    [ "$one" = 0 ] || [ "$code" != 0 ] || code=$one
done
exit $code
