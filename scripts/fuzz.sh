#!/usr/bin/env bash
# fuzz.sh - runs the fuzz targets that `make fuzz` built, each for SECONDS_EACH (60) seconds, as many at a time as there are cores
#
# A target starts from the files in test/fuzz/corpus/NAME. An input that crashes, or takes 10 seconds or 1 GB, is kept in build/fuzz.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
[ $# -eq 0 ] || { echo "error: $1: scripts/fuzz.sh takes no arguments (--help says what it does)" >&2; exit 2; }
cd "$(dirname "$0")/.."
export out=${BUILD:-build}/fuzz seconds=${SECONDS_EACH:-60}
[ -w /dev/shm ] && export TMPDIR=/dev/shm  # targets write small files and flush them to disk, which takes no time in memory

run() {
    name=${1##*/fuzz_}
    mkdir -p "$out/found/$name"
    # A zstd window may reserve 2 GB that it does not touch, hence the larger limit on one allocation. What the readers print is
    # not shown: they warn of much.
    "$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=4096 -print_final_stats=1 -close_fd_mask=3 \
        -artifact_prefix="$out/$name-" "$out/found/$name" "test/fuzz/corpus/$name" >"$out/$name.log" 2>&1 ||
        { echo "== fuzz $name failed: $out/$name.log"; tail -40 "$out/$name.log"; return 1; }
    awk -v name="$name" '/number_of_executed_units/ { runs = $2 } /peak_rss_mb/ { mb = $2 }
        END { printf "fuzz %-12s %9d inputs, %4d MB at most\n", name, runs, mb }' "$out/$name.log"
}
export -f run
ls "$out"/fuzz_* | grep -v '\.[od]$' | xargs -P "$(nproc)" -I{} bash -c 'run {}'
