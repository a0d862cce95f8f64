#!/usr/bin/env bash
# ptxas.sh - reads what ptxas -v wrote about our CUDA kernels
#   scripts/ptxas.sh FILE...             prints registers, shared memory, stack and spilled bytes; exit code 1 when a kernel spills
#   scripts/ptxas.sh --spills FILE...    prints only the kernels that spill; exit code 1 when there is one
#   scripts/ptxas.sh --others FILE...    prints the other lines: warnings of nvcc, and remarks of ptxas with a number, such as (C7512)
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi

mode=table
case "${1:-}" in
--spills | --others) mode=${1#--}; shift ;;
"") echo "error: FILE is missing; --help shows the usage" >&2; exit 2 ;;
-*) echo "error: $1 is unknown; --help shows the usage" >&2; exit 2 ;;
esac

if [ "$mode" = others ]; then
    grep -hv -e '^ptxas info *: *[^( ]' -e '^ *[0-9]* bytes stack frame' "$@" | grep -v '^$' || true
    exit 0
fi

# One line per kernel and target: spilled bytes, registers, shared, stack, target, name.
c++filt < <(cat "$@") | awk -v mode="$mode" '
    /Compiling entry function/ {
        name = $0; target = $0
        sub(/.*Compiling entry function \x27/, "", name); sub(/\x27 for \x27sm_[0-9a-z]*\x27.*/, "", name)
        sub(/.*\x27 for \x27/, "", target); sub(/\x27.*/, "", target)
        sub(/^void /, "", name); sub(/^gpu::/, "", name); sub(/\([^()]*\)$/, "", name); gsub(/gpu::/, "", name)
    }
    /bytes stack frame/ { stack = $1; spilled = $5 + $9 }
    /: Used [0-9]+ registers/ {
        shared = 0
        for (i = 1; i < NF; i++) {
            if ($i == "Used") registers = $(i + 1)
            if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) shared = $i
        }
        if (mode == "table" && !header++) printf "%9s %9s %7s %7s  %-6s  %s\n", "registers", "shared", "stack", "spilled", "target", "kernel"
        if (mode == "table" || spilled) printf "%9d %9d %7d %7d  %-6s  %s\n", registers, shared, stack, spilled, target, name
        kernels++; if (spilled) spills++
    }
    END {
        if (mode == "table") printf "%d kernels, %d spill\n", kernels, spills
        exit spills > 0
    }'
