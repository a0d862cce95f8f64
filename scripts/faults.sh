#!/usr/bin/env bash
# faults.sh - kills one process of a run on several CPU processes at a random moment, many times, and checks that nothing is lost
#   scripts/faults.sh [TIMES]                  kills 50 times by default; each rank has its turn
#   MORE=--save-async scripts/faults.sh        with more options of train_gpt
#   RANKS=4 LEVEL=none scripts/faults.sh       four processes that share nothing; by default three and --shard weights
#   scripts/faults.sh --netns                  cuts the network between two "hosts" instead, which are network namespaces; needs root
# After each kill the job must end within LIMIT seconds (60), the checkpoints before must still be there, and no folder with a number
# may be incomplete. The run goes on from the newest checkpoint. Whenever it gets to its end, its weights must be those of a run that
# nobody killed. It saves every 5 steps, so many kills hit a save. PROGRAM names the program; ./train_gpt by default.
# With --netns the same holds for a job whose second host is cut off in the midst of a step.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
[[ $# -le 1 && ${1:-50} =~ ^([0-9]+|--netns)$ ]] || { echo "error: expected how many times to kill, not '$*' (--help says more)" >&2; exit 2; }
times=${1:-50} ranks=${RANKS:-3} limit=${LIMIT:-60}
program=$(realpath "${PROGRAM:-./train_gpt}")
command -v mpirun >/dev/null || { echo "error: there is no mpirun (apt-get install openmpi-bin)" >&2; exit 2; }
export MASTER_PORT=${MASTER_PORT:-$((20000 + $$ % 10000))}
folder=$(mktemp -d)
trap 'for n in ${namespaces:-}; do ip netns del "$n"; done; rm -rf "$folder"' EXIT
fail() { echo "error: $*; the output of the last job:" >&2; tail -n 20 "$folder/output" >&2; exit 1; }

# A shard of 20,000 random tokens: a header of 256 numbers of 4 bytes, and 2 bytes for each token.
head -c 20000 /dev/urandom | od -An -v -tu1 -w1 | awk '
    function int32(n) { printf "%c%c%c%c", n % 256, int(n / 256) % 256, int(n / 65536) % 256, int(n / 16777216) }
    BEGIN { int32(20240520); int32(1); int32(20000); for (i = 3; i < 256; i++) int32(0) }
    { printf "%c%c", $1, 0 }' >"$folder/data.bin"

# train FOLDER OPTION…: ends with 124 when it takes longer than the limit.
train() {
    OMPI_MCA_mpi_yield_when_idle=1 exec timeout -k 5 "$((limit + 30))" mpirun --allow-run-as-root --oversubscribe --bind-to none \
        -n "$ranks" "$program" "${options[@]}" --steps 60 --save-every 5 --timeout 20 --out "$@" >"$folder/output" 2>&1
}
# The options of a run, but for how long it is.
options=(--model nano --device cpu --threads 1 --batch 1 --context 16 --keep 0 --eval-every 0 --shard "${LEVEL:-weights}" --train-data "$folder/data.bin" ${MORE:-})
finished() { grep -q '"event":"end".*"step":60\b' "$1/log.jsonl" 2>/dev/null; }
weights() { grep -o '"fingerprint":"[^"]*"' "$1/log.jsonl" | tail -1; }
checkpoints() { ls "$1/checkpoints" 2>/dev/null | grep '^[0-9]*$' || true; }

losses() { sed -n 's/.*"event":"step","step":\([0-9]*\),.*"loss":\([^,]*\),.*/\1 \2/p' "$1/log.jsonl"; }

# Two hosts with an address each, connected by a pair of virtual network cards. mpirun runs on the first and starts its daemon on the
# second. It notices that a host is gone when TCP gives up sending to it, after a quarter of an hour unless tcp_retries2 is smaller.
cut_network() {
    local a=faults-a-$$ b=faults-b-$$ n run=$folder/run since code=0
    if ! ip netns add "$a" 2>/dev/null; then echo "skipped: network namespaces need root and ip (apt-get install iproute2)"; exit; fi
    namespaces=$a
    ip netns add "$b"
    namespaces="$a $b"
    ip link add to-b netns "$a" type veth peer name to-a netns "$b"
    ip -n "$a" addr add 10.77.0.1/24 dev to-b && ip -n "$a" link set to-b up
    ip -n "$b" addr add 10.77.0.2/24 dev to-a && ip -n "$b" link set to-a up
    for n in $namespaces; do
        ip -n "$n" link set lo up
        ip netns exec "$n" sh -c 'echo 5 >/proc/sys/net/ipv4/tcp_retries2'
    done
    printf '#!/bin/sh\nshift\nexec ip netns exec %s unshare --uts sh -c "hostname host-b; exec $*"\n' "$b" >"$folder/agent"
    chmod +x "$folder/agent"
    on_hosts() {  # on_hosts FOLDER OPTION…
        exec ip netns exec "$a" unshare --uts sh -c 'hostname host-a; exec "$0" "$@"' timeout -k 5 "$((limit + 60))" \
            mpirun --allow-run-as-root --bind-to none --mca plm_rsh_agent "$folder/agent" --mca btl tcp,self \
            --mca oob_tcp_if_include 10.77.0.0/24 --mca btl_tcp_if_include 10.77.0.0/24 --mca mpi_yield_when_idle 1 \
            --host 10.77.0.1,10.77.0.2 -x MASTER_ADDR=10.77.0.1 -x MASTER_PORT -n 2 \
            "$program" "${options[@]}" --steps 60 --save-every 10 --timeout 5 --out "$@" >"$folder/output" 2>&1
    }
    (on_hosts "$folder/whole") || fail "the run whose network is not cut ends with exit code $?"
    (on_hosts "$run") &
    n=$!
    for ((i = 0; i < 600; i++)); do
        [ ! -e "$run/checkpoints/0000020/COMPLETE" ] || break
        sleep 0.1
    done
    ip -n "$a" link set to-b down
    since=$SECONDS
    wait "$n" || code=$?
    [ "$code" != 0 ] || fail "the job got to its end before the network was cut"
    [ "$code" != 124 ] && [ $((SECONDS - since)) -le "$limit" ] || fail "the job goes on $((SECONDS - since)) s after its second host was cut off"
    grep -q "error: rank 1 on host-b has not answered for 5 s (--timeout)" "$folder/output" || fail "the host that was cut off is not named"
    for c in 0000010 0000020; do [ -e "$run/checkpoints/$c/COMPLETE" ] || fail "checkpoint $c is lost"; done
    for c in $(checkpoints "$run"); do [ -e "$run/checkpoints/$c/COMPLETE" ] || fail "checkpoint $c is not complete"; done
    ip -n "$a" link set to-b up
    (on_hosts "$run" --resume) || fail "the run that goes on ends with exit code $?"
    [ "$(losses "$run")" = "$(losses "$folder/whole")" ] || fail "the losses differ from those of the run whose network was not cut"
    [ "$(weights "$run")" = "$(weights "$folder/whole")" ] || fail "the weights differ from those of the run whose network was not cut"
    echo "a job whose second host was cut off ended by itself, and went on with the same losses"
}

export LC_ALL=C  # awk and printf write bytes
if [ "${1:-}" = --netns ]; then
    cut_network
    exit
fi
(train "$folder/whole") || fail "the run that nobody kills ends with exit code $?"
run=$folder/run kills=0 ends=0
while [ "$kills" -lt "$times" ]; do
    if finished "$run"; then
        [ "$(weights "$run")" = "$(weights "$folder/whole")" ] || fail "the weights differ from those of the run that nobody killed"
        ends=$((ends + 1))
        rm -rf "$run"
    fi
    before=$(checkpoints "$run")
    if [ -e "$run/run.json" ]; then resume=--resume; else resume=; rm -rf "$run"; fi
    (train "$run" $resume) &
    job=$!
    sleep "$((RANDOM % 3)).$((RANDOM % 10))$((RANDOM % 10))"
    rank=$((kills % ranks)) victim=
    for process in $(pgrep -P "$(pgrep -P "$job" || echo 0)" || true); do
        if { tr '\0' '\n' <"/proc/$process/environ"; } 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$rank"; then victim=$process; fi
    done
    [ -z "$victim" ] || kill -9 "$victim" 2>/dev/null || victim=
    since=$SECONDS code=0
    wait "$job" || code=$?
    [ "$code" != 124 ] && [ $((SECONDS - since)) -le "$limit" ] || fail "the job goes on $((SECONDS - since)) s after rank $rank was killed"
    [ -n "$victim" ] || [ "$code" = 0 ] || fail "a job that nobody killed ends with exit code $code"
    [ -z "$victim" ] || kills=$((kills + 1))
    for c in $(checkpoints "$run"); do [ -e "$run/checkpoints/$c/COMPLETE" ] || fail "checkpoint $c is not complete"; done
    for c in $before; do [ -e "$run/checkpoints/$c/COMPLETE" ] || fail "checkpoint $c is lost"; done
done
if ! finished "$run"; then
    if [ -e "$run/run.json" ]; then resume=--resume; else resume=; rm -rf "$run"; fi
    (train "$run" $resume) || fail "the last run ends with exit code $?"
fi
[ "$(weights "$run")" = "$(weights "$folder/whole")" ] || fail "the weights differ from those of the run that nobody killed"
echo "$kills processes were killed, $((ends + 1)) runs got to their end with the weights of an unbroken one"
