#!/usr/bin/env bash
# torchrun.sh - starts the processes of a recipe by PyTorch's torchrun; call it on every machine
#   scripts/launch/torchrun.sh NAME --train-data 'data/x_train_*.bin' [OPTION…]                        one machine
#   NODES=2 NODE=0 MASTER_ADDR=host0 scripts/launch/torchrun.sh NAME …                                 on host0
#   NODES=2 NODE=1 MASTER_ADDR=host0 scripts/launch/torchrun.sh NAME …                                 on the other
#   GPUS=4 scripts/launch/torchrun.sh …     takes four GPUs of each machine
# torchrun itself listens on MASTER_PORT (29500), and rank 0 of the run on the port after it.
set -euo pipefail
. "$(dirname "$0")/models.sh"
first_is_a_recipe "$0" "$@"
shift
with "$@"
nodes=${NODES:-$(((gpus + per_node - 1) / per_node))}
exec torchrun --no-python --nnodes "$nodes" --node-rank "${NODE:-0}" --nproc-per-node "${GPUS:-$((gpus < per_node ? gpus : per_node))}" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" "$program" "${options[@]}"
