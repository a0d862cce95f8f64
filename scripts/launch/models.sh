# models.sh - the runs that the scripts of this folder start: their options, and the GPUs that they are planned for
#
# The others read this file. `recipe NAME` sets gpus, per_node, card, link and the array options; `with OPTION…` adds options, which
# take the place of the recipe's. scripts/launch/plan.sh NAME shows what a recipe takes.
recipes="gpt2-1558m-8 pythia-12b-16 neox-20b-96x40 neox-20b-16x80 neox-20b-8x80"
recipe() {
    per_node=8 link=800Gb
    case $1 in
    gpt2-1558m-8)  # llm.c's run of 1558M: 32,000 steps of 1,048,576 tokens
        gpus=8 card=h100-80gb link=nvlink
        options=(--model gpt2-xl --batch 16 --context 1024 --accumulate 8 --shard optimizer --steps 32000) ;;
    pythia-12b-16)  # Pythia's 2,097,152 tokens a step
        gpus=16 card=a100-80gb
        options=(--model pythia-12b --batch 16 --context 2048 --accumulate 4 --shard weights --recompute block --steps 143000) ;;
    neox-20b-96x40)  # the GPUs and the 3,145,728 tokens a step of the published run
        gpus=96 card=a100-40gb
        options=(--model gpt-neox-20b --batch 8 --context 2048 --accumulate 2 --shard weights --recompute block --steps 150000) ;;
    neox-20b-16x80)
        gpus=16 card=a100-80gb
        options=(--model gpt-neox-20b --batch 16 --context 2048 --accumulate 6 --shard weights --recompute block --steps 150000) ;;
    neox-20b-8x80)
        gpus=8 card=h100-80gb link=nvlink
        options=(--model gpt-neox-20b --batch 8 --context 2048 --accumulate 24 --shard weights --recompute block --steps 150000) ;;
    *)
        echo "error: there is no recipe '$1'; the recipes are: $recipes" >&2
        exit 2 ;;
    esac
}
with() {
    local kept=() i word
    for ((i = 0; i < ${#options[@]}; i += 2)); do
        for word in "$@"; do
            case $word in "${options[i]}" | "${options[i]}="*) continue 2 ;; esac
        done
        kept+=("${options[@]:i:2}")
    done
    options=("${kept[@]}" "$@")
}
# The name comes first. usage prints the comment at the head of the script.
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"; }
first_is_a_recipe() {
    [ "${2:-}" != --help ] || { usage "$1"; exit 0; }
    [ $# -ge 2 ] || { echo "error: the name of a recipe is missing; the recipes are: $recipes (--help says more)" >&2; exit 2; }
    recipe "$2"
}
program=${PROGRAM:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/train_gpt}
