#!/usr/bin/env bash
# plan.sh - says what a recipe takes: memory of each GPU, time of a step, bytes on the wire. It needs no GPU.
#   scripts/launch/plan.sh                  lists the recipes with the memory and the time of each
#   scripts/launch/plan.sh NAME [OPTION…]   prints the whole plan of one; options of train_gpt change it
set -euo pipefail
. "$(dirname "$0")/models.sh"
[ $# -eq 0 ] || first_is_a_recipe "$0" "$@"
[ -x "$program" ] || { echo "error: there is no $program; make builds it" >&2; exit 2; }
plan() { "$program" --dry-run --gpu "$card" --world "$gpus" --gpus-per-node "$per_node" --link "$link" "${options[@]}"; }
if [ $# -eq 0 ]; then
    for name in $recipes; do
        recipe "$name"
        echo "$name: $gpus × $card"
        plan | grep -E '^(memory|time|network)'
    done
    exit
fi
shift
with "$@"
plan
