#!/usr/bin/env bash
# recipes.sh - lists the recipes that reproduce published results, or tries them
#
#   scripts/recipes.sh            the expected figures, what each takes as planned, and whether it was tried
#   scripts/recipes.sh --check    runs each in short, and the one for CPUs in full, with three seeds
#
# $GPT_DATA/data/tinyshakespeare.txt is the text of the one for CPUs, or else what data/fetch.sh tinyshakespeare has fetched. Without
# it, Jane Austen's novels take its place. The exit code is 1 when a recipe fails.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
case "$*" in '' | --check) ;; *) echo "error: $*: expected --check or nothing (--help shows the usage)" >&2; exit 2 ;; esac
cd "$(dirname "$0")/.."
recipes=$(grep -l common.sh scripts/recipes/*.sh | grep -v /common.sh)  # those that have a verdict on a published figure

if [ $# -eq 0 ]; then
    printf '%-18s %10s %8s %8s  %s\n' recipe memory here '1 H100' 'expected · tried'
    for recipe in $recipes; do
        IFS=$'\t' read -r name memory here there expected tried <<<"$("$recipe" --plan)"
        printf '%-18s %10s %8s %8s  %s · %s\n' "$name" "$memory" "$here" "$there" "$expected" "$tried"
    done
    echo "Memory is that of one process, and - stands where it has no room. Times are predictions: on a CPU the least, at the rate of large"
    echo "products; on a GPU by gpt/time_model.h. d are days, y years."
    exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=''
verdict() { # verdict COMMAND…: runs a recipe and prints what it says at its end
    if "$@" >"$work/out" 2>&1; then tail -1 "$work/out"; else tail -20 "$work/out"; failed+=" $1"; fi
}
for recipe in $recipes; do
    [ -s "scripts/recipes/curves/$(basename "$recipe" .sh).txt" ] || { echo "skipped: $recipe, which has no stored losses yet"; continue; }
    verdict "$recipe" --short
done
for text in "${GPT_DATA:+$GPT_DATA/data/tinyshakespeare.txt}" data/sets/tinyshakespeare/input.txt; do
    [ -s "$text" ] && mkdir -p "$work/text" && cp "$text" "$work/text/input.txt" && break
done
if [ -s "$work/text/input.txt" ]; then
    verdict scripts/recipes/shakespeare-cpu.sh --data "$work/text" --out "$work/runs"
else
    echo "skipped: shakespeare-cpu in full, because its text is not here (data/fetch.sh tinyshakespeare); austen-cpu takes its place"
    verdict scripts/recipes/austen-cpu.sh --out "$work/runs"
fi
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
