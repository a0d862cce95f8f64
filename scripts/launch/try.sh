#!/usr/bin/env bash
# try.sh - runs the scripts of this folder under the launchers that are installed here, each with two processes and a tiny model
#   scripts/launch/try.sh [mpirun|slurm|gpu]…     all three by default. What is not installed is skipped, and it says so.
#     mpirun   starts processes on CPUs; all other runs on CPUs must end with the weights of this one
#     slurm    likewise, with PMIx and without it: a run to its end, one that is stopped by SIGTERM, one of which a process is killed, and
#              one that always fails. It starts a Slurm of its own on this machine, which needs root (apt-get install slurm-wlm).
#     gpu      one_node.sh and torchrun.sh with two GPUs, which the emulator of this repository provides. It needs a build with a CUDA
#              half and `make emulator`. TORCHRUN names torchrun when it is not in PATH. Behind `slurm` it tries slurm.sh as well.
# PROGRAM names the program for CPUs (./train_gpt by default), and GPU_PROGRAM the one for GPUs (build/train_gpt).
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
cd "$(dirname "$0")/../.."
PROGRAM=$(realpath "${PROGRAM:-./train_gpt}") gpu_program=$(realpath -m "${GPU_PROGRAM:-build/train_gpt}")
export PROGRAM OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 LC_ALL=C
folder=$(mktemp -d)
chmod 755 "$folder"  # munge wants that
stop_slurm() {
    [ ! -s "$folder/slurmctld.pid" ] || [ -z "$(squeue -h)" ] || { scancel --full --signal=KILL -u "$(id -un)"; sleep 2; } || true
    for daemon in slurmd slurmctld munged; do [ ! -s "$folder/$daemon.pid" ] || kill "$(cat "$folder/$daemon.pid")" || true; done
}
trap 'stop_slurm; sleep 1; rm -rf "$folder"' EXIT
fail() { echo "error: $*" >&2; [ ! -e "$folder/output" ] || tail -n 25 "$folder/output" >&2; exit 1; }
skip() { echo "skipped: $*"; }
has() { command -v "$1" >/dev/null; }

# 20,000 random tokens behind a header of 256 numbers of 4 bytes.
{ printf '\x88\xd8\x34\x01\x01\0\0\0\x20\x4e\0\0'; head -c 1012 /dev/zero; head -c 20000 /dev/urandom | od -An -v -tu1 -w1 | awk '{ printf "%c%c", $1, 0 }'; } >"$folder/data.bin"
recipe=gpt2-1558m-8
options=(--train-data "$folder/data.bin" --model nano --batch 1 --context 16 --accumulate 1 --eval-every 0 --save-every 20)
weights() { grep -o '"fingerprint":"[^"]*"' "$1/log.jsonl" | tail -n 1; }
same_weights() { [ -n "$(weights "$1")" ] && [ "$(weights "$1")" = "$(weights "$2")" ] || fail "$3 ends with other weights"; }

by_mpirun() {
    has mpirun || { skip "mpirun: it is not installed (apt-get install openmpi-bin)"; return; }
    echo "localhost slots=2" >"$folder/hosts"
    WORLD=2 scripts/launch/mpirun.sh $recipe "$folder/hosts" "${options[@]}" --device cpu --steps 60 --out "$folder/mpirun" >"$folder/output" 2>&1 ||
        fail "mpirun.sh ends with exit code $?"
    echo "mpirun: two processes on CPUs"
}

start_slurm() {
    local port=$((20000 + $$ % 10000))
    cat >"$folder/slurm.conf" <<END
ClusterName=try
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
SlurmUser=root
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmdSpoolDir=$folder/spool
StateSaveLocation=$folder/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    mkdir -p "$folder/spool" "$folder/state"
    head -c 1024 /dev/urandom >"$folder/munge.key"
    chmod 400 "$folder/munge.key"
    export SLURM_CONF=$folder/slurm.conf
    munged --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munge.log" --seed-file="$folder/munge.seed" && slurmctld && slurmd || fail "Slurm does not start"
    for ((i = 0; i < 100; i++)); do
        [ "$(sinfo -h -o %t 2>/dev/null)" != idle ] || return 0
        sleep 0.2
    done
    fail "Slurm's node does not get ready: $(sinfo -h 2>&1) $(tail -n 3 "$folder/slurmd.log")"
}
# submit NAME STEPS [DEVICE]: prints the number of the job.
submit() {
    local name=$1 steps=$2 device=${3:-cpu}
    sbatch --parsable --nodes 1 --ntasks-per-node 2 --gpus-per-node 0 --cpus-per-task 1 --output "$folder/$name.out" \
        scripts/launch/slurm.sh $recipe "$folder/$name" "${options[@]}" --device "$device" --steps "$steps"
}
# Waits until a job has gone. A job that was queued again waits for two minutes by itself, and starts at once here.
wait_for() {
    for ((i = 0; i < 1500; i++)); do
        case $(squeue -h -j "$1" -o '%T %r' 2>/dev/null) in
        "") return 0 ;;
        *BeginTime*) scontrol update "JobId=$1" StartTime=now 2>/dev/null || true ;;
        esac
        sleep 0.2
    done
    fail "job $1 does not end: $(squeue -h -j "$1")"
}
wait_for_checkpoint() {
    for ((i = 0; i < 300; i++)); do
        [ ! -e "$1/checkpoints/0000020/COMPLETE" ] || return 0
        sleep 0.1
    done
    fail "there is no checkpoint in $1"
}
starts() { grep -c '^start ' "$folder/$1.out"; }
by_slurm() {
    has slurmctld && has slurmd && has munged || { skip "slurm: it is not installed (apt-get install slurm-wlm)"; return; }
    [ "$(id -u)" = 0 ] || { skip "slurm: starting one needs root"; return; }
    start_slurm
    local job
    srun --mpi=list 2>&1 | grep -q pmix || { skip "slurm: this Slurm has no PMIx"; return; }
    export MPI=pmix
    job=$(submit whole 60)
    wait_for "$job"
    cp "$folder/whole.out" "$folder/output"
    same_weights "$folder/whole" "$folder/mpirun" "a job of Slurm with PMIx"
    echo "slurm: two processes on CPUs, with PMIx"

    # Runs that are long enough to be met before their end.
    job=$(submit long 600)
    wait_for "$job"
    job=$(submit stopped 600)
    wait_for_checkpoint "$folder/stopped"
    scancel --signal=TERM "$job"
    wait_for "$job"
    cp "$folder/stopped.out" "$folder/output"
    [ "$(starts stopped)" = 2 ] || fail "a job that got SIGTERM was started $(starts stopped) times, expected 2"
    same_weights "$folder/stopped" "$folder/long" "a job that was stopped by SIGTERM and queued again"
    echo "slurm: SIGTERM saves, and the job that is queued again goes on to the same weights"

    job=$(submit killed 600)
    wait_for_checkpoint "$folder/killed"
    kill -9 "$(pgrep -f "^$PROGRAM .*$folder/killed" | tail -n 1)"
    wait_for "$job"
    cp "$folder/killed.out" "$folder/output"
    [ "$(starts killed)" = 2 ] || fail "a job of which a process was killed was started $(starts killed) times, expected 2"
    same_weights "$folder/killed" "$folder/long" "a job of which a process was killed"
    echo "slurm: a job of which a process is killed goes on to the same weights"

    job=$(PROGRAM=/bin/false submit failing 60)
    wait_for "$job"
    cp "$folder/failing.out" "$folder/output"
    grep -q "3 failures without a new checkpoint" "$folder/output" || fail "a job that always fails does not give up"
    job=$(MPI=none submit refused 60)
    wait_for "$job"
    cp "$folder/refused.out" "$folder/output"
    grep -q "srun --mpi=pmix" "$folder/output" || fail "without PMIx a job on CPUs does not name the remedy"
    [ -z "$(ls slurm-*.failures 2>/dev/null)" ] || fail "a job leaves $(ls slurm-*.failures)"
    echo "slurm: a job that always fails gives up, and one that MPI cannot serve is refused"
}

by_gpu() {
    local torchrun=${TORCHRUN:-torchrun} emulate
    "$gpu_program" --version 2>/dev/null | grep -q "NCCL" || { skip "gpu: $gpu_program has no CUDA half with NCCL"; return; }
    ls build/emulator/libcudart.so.* >/dev/null 2>&1 || { skip "gpu: there is no emulator (make emulator)"; return; }
    printf '#!/bin/sh\nexec %q --devices 2 --check memory %q "$@"\n' "$PWD/scripts/emulate" "$gpu_program" >"$folder/emulated"
    chmod +x "$folder/emulated"
    GPUS=2 PROGRAM=$folder/emulated scripts/launch/one_node.sh $recipe "${options[@]}" --device cuda --steps 3 --out "$folder/one_node" \
        >"$folder/output" 2>&1 || fail "one_node.sh ends with exit code $?"
    echo "gpu: one_node.sh"
    has "$torchrun" || { skip "torchrun: it is not installed (pip install torch); TORCHRUN names another"; return; }
    GPUS=2 PROGRAM=$folder/emulated PATH=$(dirname "$(command -v "$torchrun")"):$PATH scripts/launch/torchrun.sh $recipe "${options[@]}" \
        --device cuda --steps 3 --out "$folder/torchrun" >"$folder/output" 2>&1 || fail "torchrun.sh ends with exit code $?"
    same_weights "$folder/torchrun" "$folder/one_node" "torchrun.sh"
    echo "gpu: torchrun.sh, with the same weights"
}
# Where both of them are there, two GPUs under Slurm, which need no PMIx.
by_slurm_on_gpus() {
    local job
    [ -e "$folder/slurm.conf" ] && [ -e "$folder/one_node" ] || return 0
    job=$(MPI=none PROGRAM=$folder/emulated submit gpus 3 cuda)
    wait_for "$job"
    cp "$folder/gpus.out" "$folder/output"
    same_weights "$folder/gpus" "$folder/one_node" "a job of Slurm on two GPUs"
    echo "gpu: slurm.sh without PMIx, with the same weights"
}

for launcher in ${*:-mpirun slurm gpu}; do
    case $launcher in
    mpirun) by_mpirun ;;
    slurm) [ -e "$folder/mpirun" ] || by_mpirun && by_slurm ;;
    gpu) by_gpu && by_slurm_on_gpus ;;
    *) echo "error: $launcher is no launcher that is tried here (--help says which are)" >&2; exit 2 ;;
    esac
done
