#!/usr/bin/env bash
# fuzz.sh - runs the fuzz targets that `make fuzz` built, each for SECONDS_EACH (60) seconds
#
# A target starts from the files in test/fuzz/corpus/NAME. An input that crashes, or takes 10 seconds or 1 GB, is kept in build/fuzz.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
[ $# -eq 0 ] || { echo "error: $1: scripts/fuzz.sh takes no arguments (--help says what it does)" >&2; exit 2; }
cd "$(dirname "$0")/.."
out=${BUILD:-build}/fuzz
for target in "$out"/fuzz_*; do
    [ -x "$target" ] && [ ! -d "$target" ] || continue
    name=${target##*/fuzz_}
    mkdir -p "$out/found/$name"
    echo "== fuzz $name, ${SECONDS_EACH:-60} seconds"
    # A zstd window may reserve 2 GB that it does not touch, hence the larger limit on one allocation.
    "$target" -max_total_time="${SECONDS_EACH:-60}" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="$out/$name-" "$out/found/$name" "test/fuzz/corpus/$name" >"$out/$name.log" 2>&1 ||
        { tail -40 "$out/$name.log" >&2; exit 1; }
    grep -E 'number_of_executed_units|peak_rss_mb' "$out/$name.log"
done
