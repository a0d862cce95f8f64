# common.sh - what the recipes share: their options, their data, training, and the verdict
#
# A recipe sets the variables below, defines prepare(), reads this file, and calls `reproduce "$@"`.
#
#   about, expected, source, fetch, hardware, tried     what `make recipes` and --help print
#   model=(…)         the options of train_gpt that every run of the recipe has: model, rates, dropout
#   size=(…)          those that --short replaces: steps, batch, context, evaluations
#   short=(…)         those that make the model small enough for two CPU cores, for --short
#   prepare()         makes ready what is in the folder $data, and sets on=(…): --train-data, --val-data and files
#   verdict RUN       a verdict of the recipe's own, in place of these two:
#   most_loss         the last validation loss, or with best=1 the least, must not be more than this; left out: it must be less than the first
#   least_hellaswag   the same for HellaSwag's acc_norm, in per cent; left out: it is not scored
#   seeds             how many runs, with seeds from 1337 on; the verdict is about their mean
#   fine_tunes        the preset whose published weights the run starts from; left out: random weights
set -euo pipefail
seeds=${seeds:-1} set=${set:-}
usage="usage: scripts/recipes/$(basename "$0") [--short] [--data FOLDER] [--out FOLDER] [--seeds N] [-- OPTIONS OF TRAIN_GPT]

  --short    trains the beginning, in a minute or so on two cores, and compares its losses with stored ones
  --data     the folder with the data; left out: data/sets/$set
  --out      the folder for the runs; left out: runs/recipes. A run that is there goes on where it was stopped
  --seeds    how many runs, with seeds from 1337 on; left out: $seeds
  --plan     prints memory and time as planned for this machine and for one H100, and ends
  --record   with --short: stores the losses instead of comparing them

An option of train_gpt takes the place of the recipe's own, and --accumulate and --tokens-per-step that of each other; --short takes none. LAUNCH= starts train_gpt, for example LAUNCH='torchrun --no-python --nproc-per-node 8'. BUILD= names the folder of the programs."

name=$(basename "$0" .sh) from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${BUILD:-build} curve=scripts/recipes/curves/$name.txt
train() { ${LAUNCH:-} "$build/train_gpt" "$@"; }
die() { echo "error: $1" >&2; exit 2; }
describe() {
    printf '%s - %s\n\nsource    %s\nexpected  %s\ndata      %s\nhardware  %s\ntried     %s\n\n' \
        "$name" "$about" "$source" "$expected" "$fetch" "$hardware" "$tried"
}

need() { compgen -G "$1" >/dev/null || die "there is no $1; it takes: $fetch"; }  # need FILE, in which * stands for many

# The value of a field in the last record of an event in a run's log.
last_of() { # last_of RUN EVENT FIELD
    sed -n "/\"event\":\"$2\"/s/.*\"$3\":\([-0-9.e+]*\).*/\1/p" "$1/log.jsonl" | tail -1
}

# ---- data ----------------------------------------------------------------------------------------------------------------

# Makes nanoGPT's train.bin and val.bin of tiny Shakespeare: each of its 65 characters is a number, two bytes each, and the last
# tenth is for validation. The numbers are the places of the characters in ASCII's order, as in nanoGPT's prepare.py.
characters() { # characters TEXT
    local ids=$runs/shakespeare-characters number
    need "$1"
    number() { LC_ALL=C tr "\\n !\$&',\\-.3:;?A-Za-z" '\000-\100' | iconv -f ASCII -t UTF-16LE; }
    if [ ! -s "$ids/val.bin" ]; then
        mkdir -p "$ids"
        head -c 1003854 "$1" | number >"$ids/train.bin"
        tail -c +1003855 "$1" | number >"$ids/val.bin"
    fi
    on=(--train-data "$ids/train.bin" --val-data "$ids/val.bin")
}

# Encodes a text with the tokenizer of a model folder; the last tenth is for validation.
words() { # words TEXT MODEL
    [ -s "$2/config.json" ] || die "there is no $2/config.json: download the folder of the model from the Hugging Face hub"
    local ids=$runs/$name-data
    mkdir -p "$ids"
    [ -s "$ids/text_summary.json" ] || "$build/tokenize" --tokenizer "$2/tokenizer.json" --input "$1" --val-fraction 0.1 --val-by tail --output "$ids/text"
    on=(--model "$2" --train-data "$ids/text_train_*.bin" --val-data "$ids/text_val_*.bin")
}

# Whether the user has given an option of train_gpt, or the one that decides the same in another way.
is_given() { # is_given OPTION
    local other=$1
    case $1 in --accumulate) other=--tokens-per-step ;; --tokens-per-step) other=--accumulate ;; esac
    [[ " ${extra[*]} " = *" $1"[\ =]* || " ${extra[*]} " = *" $other"[\ =]* ]]
}
# Leaves out of a list of options those that the user has given.
unless_given() { # unless_given NAME
    local -n list=$1
    local kept=() word drop=''
    for word in "${list[@]}"; do
        [[ $word != --* ]] || { is_given "$word" && drop=1 || drop=''; }
        [ "$drop" ] || kept+=("$word")
    done
    list=("${kept[@]}")
}

# ---- the whole run ------------------------------------------------------------------------------------------------------

full() {
    [ -d "$data" ] || die "there is no folder $data; it takes: $fetch (--data names another folder)"
    prepare
    unless_given on
    local word
    for word in "${on[@]}"; do [[ $word = --* ]] || need "$word"; done
    local values=() scores=() value seed out learns=''
    [ "${most_loss:-}" ] || learns=1
    for ((seed = 1337; seed < 1337 + seeds; seed++)); do
        out=$runs/$name-$seed
        if [ ! -e "$out/run.json" ]; then
            train "${model[@]}" "${size[@]}" "${on[@]}" --seed "$seed" --out "$out" "${extra[@]}"
        elif [ ${#extra[@]} -gt 0 ] || [ "$(last_of "$out" end step)" != "$(steps_of "$out")" ]; then
            train --out "$out" --resume "${extra[@]}"  # not of a complete run, which may have no checkpoint (--save-every 0)
        fi
        [ "$(last_of "$out" end step)" = "$(steps_of "$out")" ] || { echo "$name: $out was stopped; the same command goes on"; exit 1; }
        [ "$(type -t verdict)" != function ] || { verdict "$out"; continue; }
        value=$(val_losses "$out" | if [ "${best:-}" ]; then sed '/^$/d' | sort -g | head -1; else tail -1; fi)
        [ "$value" ] || { echo "$name: FAILED. $out has no validation loss, or its last one is not finite"; exit 1; }
        values+=("$value") scores+=("$(last_of "$out" hellaswag acc_norm)")
        most_loss=${most_loss:-$(val_losses "$out" | head -1)}
    done
    [ ${#values[@]} -gt 0 ] || return 0
    awk -v name="$name" -v most="$most_loss" -v least="${least_hellaswag:-0}" -v learns="$learns" -v scores="${scores[*]}" -v n="$seeds" 'BEGIN {
        for (i = 1; i < ARGC; i++) sum += ARGV[i]
        mean = sum / n
        for (i = 1; i < ARGC; i++) square += (ARGV[i] - mean) ^ 2
        m = split(scores, s, " ")
        for (i = 1; i <= m; i++) score += 100 * s[i] / n
        good = (learns ? mean < most + 0 : sprintf("%.4f", mean) + 0 <= most + 0) && score >= least
        printf "\n%s: %s. The validation loss is %.4f", name, good ? "passed" : "FAILED", mean
        if (n > 1) printf " (mean of %d seeds, standard deviation %.4f)", n, sqrt(square / (n - 1))
        printf ", and %s %s was to be reached", learns ? "less than" : "at most", most
        if (least > 0) printf "; HellaSwag is %.1f %%, and at least %s %% was to be reached", score, least
        print "."
        exit !good
    }' "${values[@]}"
}
# The validation losses of a run, one on each line. The line of one that is not finite is empty.
val_losses() { sed -n 's/.*"val_loss":\([0-9.]*\).*/\1/p' "$1/log.jsonl"; }
steps_of() { sed -n 's/^ *"--steps": "\([0-9]*\)".*/\1/p' "$1/run.json"; }

# ---- the beginning, on a CPU ----------------------------------------------------------------------------------------------

# Jane Austen's novels as token ids of 4096 entries, for recipes whose own data is large. They are fetched from Debian.
novels() {
    local home=data/sets/austen
    [ -s "$home/austen_train_000000.bin" ] && return
    BUILD=$build data/austen.sh "$home/austen.txt" >&2
    [ -s "$home/tokenizer.json" ] || "$build/tokenize" --train-bpe 4096 --input "$home/austen.txt" --output "$home/tokenizer.json" >&2
    "$build/tokenize" --tokenizer "$home/tokenizer.json" --input "$home/austen.txt" --val-fraction 0.05 --output "$home/austen" >&2
}

# Trains 20 steps into the folder $1, in fp32 on a CPU. What is fine-tuned is first trained a little.
short_run() {
    novels
    local on=(--train-data 'data/sets/austen/austen_train_*.bin' --tokenizer data/sets/austen/tokenizer.json --device cpu --dtype fp32
        --batch 2 --context 64 --accumulate 1 --steps 20 --eval-every 0 --save-every 0 --log-every 5)
    if [ "${fine_tunes:-}" ]; then
        train --model "$fine_tunes" "${short[@]}" "${on[@]}" --save-steps 20 --learning-rate 1e-3 --warmup-steps 5 --out "$1-base" >&2
        train "${model[@]}" "${on[@]}" --model "$1-base" --warmup-steps 5 --out "$1" >&2
    else
        train "${model[@]}" "${short[@]}" "${on[@]}" --warmup-steps 5 --out "$1" >&2
    fi
}
losses() { sed -n 's/.*"event":"step","step":\([0-9]*\),"loss":\([-0-9.e+]*\),.*/\1 \2/p' "$1/log.jsonl"; }

begin() {
    local work
    [ ${#extra[@]} -eq 0 ] || die "--short takes no options of train_gpt, because they would change the losses"
    work=$(mktemp -d)
    trap "rm -rf '$work'" EXIT
    short_run "$work/run"
    if [ "$record" ]; then
        mkdir -p "$(dirname "$curve")"
        { echo "# $(date -u +%F), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(nproc) cores, commit $(git describe --always --abbrev=7)"
          echo "# scripts/recipes/$name.sh --short"
          losses "$work/run"; } >"$curve"
        echo "$name: $(grep -vc '^#' "$curve") losses are stored in $curve"
        return
    fi
    [ -s "$curve" ] || die "$curve is missing; --short --record makes it"
    # fp32 sums of another CPU are taken in another order. Their rounding grows in training, and stays far below a hundredth here.
    losses "$work/run" | awk -v name="$name" -v curve="$curve" '
        FILENAME == curve { if ($1 != "#") want[$1] = $2; next }
        { n++; off = ($2 - want[$1]) / want[$1]; off = off < 0 ? -off : off; if (off > most) { most = off; at = $1 } }
        END {
            for (step in want) stored++
            good = n == stored && n > 0 && most < 0.01
            printf "%s: %s. The first %d losses are within %.4f %% of the stored ones (most at step %d), and 1 %% is allowed.\n",
                name, good ? "passed in short" : "FAILED in short", n, 100 * most, at
            exit !good
        }' "$curve" -
}

# ---- what it takes --------------------------------------------------------------------------------------------------------

show_plan() {
    planned() { "$build/train_gpt" "${model[@]}" "${size[@]}" "${on[@]}" "${extra[@]}" --dry-run "$@" 2>/dev/null; }
    local here there on=(${fine_tunes:+--model "$fine_tunes"})
    unless_given on
    here=$(planned || true) there=$(planned --gpu h100-80gb || true)
    part() { sed -n "$1" <<<"$2" | grep . || echo -; }
    hours() { # the time of a plan, or how many GPUs have room for it, or - where nothing does
        case $1 in *'room for no '*) echo - ;; *'room for '[0-9]*' GPUs'*) part 's/.*room for \([0-9]* GPUs\).*/\1/p' "$1" ;;
            *) part 's/^time.* \([^ ]*\) in all.*/\1/p' "$1" ;; esac
    }
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$name" "$(part 's/^memory.*total \(.*B\).*/\1/p' "$here")" "$(hours "$here")" "$(hours "$there")" \
        "$expected" "$tried"
}

reproduce() {
    data=data/sets/$set runs=runs/recipes extra=() record='' what=full
    while [ $# -gt 0 ]; do
        case $1 in
            --help) describe; echo "$usage"; exit ;;
            --short) what=begin; shift ;;
            --record) record=1; shift ;;
            --plan) what=show_plan; shift ;;
            --data | --out | --seeds)
                [ $# -ge 2 ] || die "$1 needs a value"
                [ "$1" = --seeds ] || [[ $2 = /* ]] || set -- "$1" "$from/$2" "${@:3}"
                case $1 in --data) data=$2 ;; --out) runs=$2 ;; --seeds) seeds=$2 ;; esac
                shift 2 ;;
            --) shift; extra=("$@"); break ;;
            *) die "$1 is unknown; --help shows the usage" ;;
        esac
    done
    [[ $seeds =~ ^[1-9][0-9]*$ ]] || die "--seeds $seeds: expected a number, 1 or more"
    ! is_given --seed && ! is_given --out || die "--seed and --out of train_gpt are the recipe's: --seeds and --out in front of -- choose them"
    [ -x "$build/train_gpt" ] || die "there is no $build/train_gpt; make builds it"
    unless_given model
    unless_given size
    [ "$what" = show_plan ] || describe
    "$what"
}
