#!/usr/bin/env bash
#SBATCH --job-name=gpt
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
# slurm.sh - a batch job for a recipe, which goes on in a new job when its time is over or a machine fails
#   sbatch --nodes 2 scripts/launch/slurm.sh NAME RUN --train-data 'data/x_train_*.bin' [OPTION…]
#     RUN is the run's folder, for --out. Call it from the repository, and choose --nodes so that the GPUs are those of the recipe.
# Slurm itself says to each process which one it is, so this works with PMIx and without it (MPI=none, which is the default here). On
# CPUs the processes need MPI, so MPI=pmix there; Debian's Open MPI knows no PMI-2. Five minutes before the end of its time each process
# gets SIGTERM: it finishes its step and saves, and the job is queued again. scancel alone also saves, and ends the job for good. A job
# that fails without a new checkpoint three times in a row is not queued again.
set -euo pipefail
here=${SLURM_SUBMIT_DIR:-$PWD}/scripts/launch
. "$here/models.sh"
program=${PROGRAM:-${SLURM_SUBMIT_DIR:-$PWD}/train_gpt}
first_is_a_recipe "$0" "$@"
[ $# -ge 2 ] || { echo "error: the folder of the run is missing (--help says how to call this)" >&2; exit 2; }
run=$2
shift 2
with "$@"
export MASTER_ADDR MASTER_PORT
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1)
MASTER_PORT=$((20000 + (SLURM_JOB_ID + ${SLURM_RESTART_COUNT:-0}) % 10000))  # another one when it is taken
export SUPERVISE_ONCE=${SLURM_SUBMIT_DIR:-$PWD}/slurm-$SLURM_JOB_ID.failures  # Slurm restarts, because a machine may have to be replaced
code=0
"$here/supervise.sh" "$run" -- srun --mpi="${MPI:-none}" --kill-on-bad-exit=1 "$program" "${options[@]}" || code=$?
[ "$code" = 75 ] || exit "$code"  # 75: it should go on
scontrol requeue "$SLURM_JOB_ID"
