#!/usr/bin/env bash
# manual.sh - makes a program's man page and its completion for bash from its list of options
#   scripts/manual.sh man build/train_gpt     prints docs/train_gpt.1 with the options in place of the line @OPTIONS@
#   scripts/manual.sh bash build/train_gpt    prints the completion, which bash reads with `source`
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
[[ $# -eq 2 && ${1:-} =~ ^(man|bash)$ ]] || { echo "error: expected man or bash, and a program (--help shows the usage)" >&2; exit 2; }
name=${2##*/}
options=$("$2" --help=table)  # group, name, form and help of each option, with tabs between them

if [ "$1" = man ]; then
    roff=$(awk -F'\t' '
        function escaped(text) {  # as roff reads it
            gsub(/\\/, "\\e", text); gsub(/-/, "\\-", text); gsub(/\047/, "\\(aq", text); gsub(/`/, "\\(ga", text)
            gsub(/\^/, "\\(ha", text); gsub(/~/, "\\(ti", text); gsub(/…/, "...", text); gsub(/×/, "\\(mu", text)
            return text
        }
        function breakable(form) { form = escaped(form); gsub(/\|/, "|\\:", form); return form }  # a line may end after |
        $1 != group { print ".SS " (group = $1) }
        { print ".TP\n\\fB" escaped($2) "\\fR" ($3 == "" ? "" : ($3 ~ /[A-Z]/ ? " \\fI" : " ") breakable($3) "\\fR") "\n\\&" escaped($4) }
        ' <<<"$options")
    version=$("$2" --version | sed 's/.* of \(gpt.cu [^,]*\),.*/\1/')
    awk -v version="$version" -v options="${roff//\\/\\\\}" '
        /^@OPTIONS@$/ { print options; next }
        { sub(/@VERSION@/, version); print }' "$(dirname "$0")/../docs/$name.1"
    exit
fi

cat <<BASH
# Completion of the options of $name for bash, made by scripts/manual.sh. A form says what follows an option: FILE and
# similar words stand for paths, words in small letters for themselves, and … for as many as there are.
_$name() {
    local -A forms=(
$(awk -F'\t' '{gsub(/\047/, "", $3); printf "        [%s]=\047%s\047\n", $2, $3}' <<<"$options")
        [--help]= [--version]=)
BASH
cat <<'BASH'
    local word=${2-} option=- at=0 i part
    [[ $word != = ]] || word=
    for ((i = 1; i < COMP_CWORD; i++)); do  # the option that the word belongs to, and which of its values the word is
        case ${COMP_WORDS[i]} in
        --*) option=${COMP_WORDS[i]} at=0 ;;
        = | :) ;;
        *) at=$((at + 1)) ;;
        esac
    done
    local parts=(${forms[$option]-})
    [[ ${forms[$option]-} == *… && $at -ge ${#parts[@]} ]] && at=$((${#parts[@]} - 1))
    part=${parts[at]-}
    if [[ $word == -* || -z $part ]]; then
        COMPREPLY=($(compgen -W "${!forms[*]}" -- "$word"))
    elif [[ $part =~ FILE|DIR|GLOB|PREFIX ]]; then
        compopt -o filenames 2>/dev/null
        if [[ $part == *DIR && $part != *FILE* ]]; then i=-d; else i=-f; fi
        mapfile -t COMPREPLY < <(compgen $i -- "$word")
    elif [[ $part =~ [a-z] ]]; then
        COMPREPLY=($(compgen -W "${part//|/ }" -- "$word"))
    fi
}
BASH
echo "complete -F _$name $name"
