#!/usr/bin/env bash
# fetch.sh - downloads a data set
#
#   data/fetch.sh NAME [--parts FIRST-LAST] [--mirror URL] [--out FOLDER] [--tokenizer FILE]
#
#   --parts       downloads only these parts of a set that has several
#   --mirror      replaces https://HOST in each address by URL
#   --out         names the folder for the files; left out, it is data/sets/NAME
#   --tokenizer   also makes token shards of the text with this tokenizer.json
#
# Without NAME it lists the sets. PYTHON= names a python3 that has pyarrow, which reads Parquet files for --tokenizer.
#
# The script prints the size before it starts, resumes an interrupted download, and compares sizes, and SHA-256 sums
# where they are known.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
cd "$(dirname "$0")/.."
hub=https://huggingface.co/datasets

die() { echo "error: $1" >&2; exit "${2:-2}"; }
name=${1:-} parts='' mirror='' out='' tokenizer=''
[ $# -eq 0 ] || shift
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || die "$1 needs a value"
    case $1 in
        --parts) parts=$2 ;; --mirror) mirror=${2%/} ;; --out) out=$2 ;; --tokenizer) tokenizer=$2 ;;
        *) die "$1 is unknown; --help shows the usage" ;;
    esac
    shift 2
done

#  name              parts    address, in which printf puts the number of the part                SHA-256, if it is known
table="
tinyshakespeare      0-0      https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt 86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed
tinystories          0-0      $hub/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt
tinystories          0-0      $hub/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-valid.txt
openwebtext          0-79     $hub/Skylion007/openwebtext/resolve/refs%%2Fconvert%%2Fparquet/plain_text/train/%04d.parquet
fineweb-edu          0-13     $hub/HuggingFaceFW/fineweb-edu/resolve/main/sample/10BT/%03d_00000.parquet
fineweb-10B          0-0      $hub/kjj0/fineweb10B-gpt2/resolve/main/fineweb_val_%06d.bin
fineweb-10B          1-103    $hub/kjj0/fineweb10B-gpt2/resolve/main/fineweb_train_%06d.bin
fineweb-100B         0-0      $hub/kjj0/fineweb100B-gpt2/resolve/main/fineweb_val_%06d.bin
fineweb-100B         1-1030   $hub/kjj0/fineweb100B-gpt2/resolve/main/fineweb_train_%06d.bin
fineweb-edu-10B      0-0      $hub/karpathy/fineweb-edu-100B-gpt2-token-shards/resolve/main/edu_fineweb_val_%06d.bin
fineweb-edu-10B      1-100    $hub/karpathy/fineweb-edu-100B-gpt2-token-shards/resolve/main/edu_fineweb_train_%06d.bin
fineweb-edu-100B     0-0      $hub/karpathy/fineweb-edu-100B-gpt2-token-shards/resolve/main/edu_fineweb_val_%06d.bin
fineweb-edu-100B     1-1001   $hub/karpathy/fineweb-edu-100B-gpt2-token-shards/resolve/main/edu_fineweb_train_%06d.bin
pile                 0-29     $hub/monology/pile-uncopyrighted/resolve/main/train/%02d.jsonl.zst
pile-pythia          0-20     $hub/EleutherAI/pile-standard-pythia-preshuffled/resolve/main/document-%05d-of-00020.bin
pile-pythia-deduped  0-20     $hub/EleutherAI/pile-deduped-pythia-preshuffled/resolve/main/document-%05d-of-00020.bin
gpt2-tokenizer       0-0      https://huggingface.co/openai-community/gpt2/resolve/main/tokenizer.json 8414cab924d8b9b33013f0d221c5862f365ee9be39c5c2bfae8a5a9e970478a6
pythia-tokenizer     0-0      https://huggingface.co/EleutherAI/pythia-160m/resolve/main/tokenizer.json
hellaswag            0-0      https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl
lambada              0-0      https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl
"
rows=$(grep "^$name " <<<"$table") || die "there is no data set '$name'; the sets are: $(awk 'NF {print $1}' <<<"$table" | uniq | paste -sd' ') (--help shows the usage)"
command -v curl >/dev/null || die "curl is missing: apt-get install curl"
[ -z "$parts" ] || [[ $parts =~ ^[0-9]+-[0-9]+$ ]] || die "--parts $parts: expected FIRST-LAST, such as 1-10"
out=${out:-data/sets/$name} python=${PYTHON:-python3}
if [ -n "$tokenizer" ]; then   # checked before anything is downloaded
    case $rows in
        *.bin* | *.json | *.json\ * | hellaswag* | lambada*) die "$name is used as it is, so leave --tokenizer out" ;;
        *.parquet*) "$python" -c 'import pyarrow' 2>/dev/null ||
            die "$name comes as Parquet files, and $python has no pyarrow: \
python3 -m venv .venv && .venv/bin/pip install pyarrow, then PYTHON=.venv/bin/python data/fetch.sh …" ;;
    esac
fi

urls=() sums=() sizes=() total=0
while read -r _ range url sum; do
    first=${range%-*} last=${range#*-}
    # The single files of a set, such as its validation part, are downloaded with any choice of parts.
    if [ -n "$parts" ] && [ "$first" != "$last" ]; then
        ((${parts%-*} >= first && ${parts#*-} <= last)) || die "--parts $parts: $name has $range"
        first=${parts%-*} last=${parts#*-}
    fi
    for ((i = first; i <= last; i++)); do
        # shellcheck disable=SC2059
        u=$(printf "$url" "$i")
        [ -z "$mirror" ] || u=$mirror/${u#https://*/}
        head=$(curl --fail --silent --show-error --location --head --retry 3 "$u" | tr -d '\r') || die "cannot get $u" 1
        # For a large file the hub sends its SHA-256 with the redirection.
        published=$(sed -n 's/^x-linked-etag: "\?\([0-9a-f]\{64\}\)"\?$/\1/Ip' <<<"$head" | tail -1)
        size=$(sed -n 's/^content-length: //Ip' <<<"$head" | tail -1)
        urls+=("$u") sums+=("${sum:-$published}") sizes+=("${size:-0}")
        total=$((total + ${size:-0}))
    done
done <<<"$rows"
echo "$name: ${#urls[@]} files, $(awk "BEGIN {printf \"%.1f\", $total / 1e6}") MB, to $out"
mkdir -p "$out"
flaw_of() {  # flaw_of FILE NUMBER: says what is wrong with a file, or nothing
    local bytes
    bytes=$(wc -c <"$1")
    if [ "${sizes[$2]}" != 0 ] && [ "$bytes" != "${sizes[$2]}" ]; then
        echo "has $bytes bytes, where ${sizes[$2]} are expected"
    elif [ -n "${sums[$2]}" ] && ! echo "${sums[$2]}  $1" | sha256sum --check --status; then
        echo "has another SHA-256 than ${sums[$2]}"
    fi
}
files=()
for i in "${!urls[@]}"; do
    file=$out/$(basename "${urls[i]}")
    files+=("$file")
    if [ -s "$file" ]; then
        flaw=$(flaw_of "$file" "$i")
        [ -z "$flaw" ] || die "$file is there already, and $flaw; remove or rename it, and run this again" 1
    else
        # The server would refuse to go on behind the end of a download that is complete.
        [ -s "$file.part" ] && [ "$(wc -c <"$file.part")" = "${sizes[i]}" ] ||
            curl --fail --silent --show-error --location --retry 3 --continue-at - --output "$file.part" "${urls[i]}" ||
            die "cannot get ${urls[i]}; run this again to go on where it stopped" 1
        flaw=$(flaw_of "$file.part" "$i")
        [ -z "$flaw" ] || { rm "$file.part"; die "$file: the file from ${urls[i]} $flaw" 1; }
        mv "$file.part" "$file"
    fi
    echo "$file: $(wc -c <"$file") bytes, $([ -n "${sums[i]}" ] && echo "the SHA-256 is right" || echo "no SHA-256 is published")"
done
[ -n "$tokenizer" ] || exit 0
shards() { "${BUILD:-build}/tokenize" --tokenizer "$tokenizer" --val-fraction 0.005 --output "$out/$name" --input "$@"; }
if [[ ${files[0]} == *.parquet ]]; then
    # If the reader fails, it is followed by a line that is no JSON, so tokenize refuses the incomplete text.
    { "$python" data/parquet_text.py "${files[@]}" || echo "the text above is incomplete"; } | shards - --format jsonl
else
    shards "${files[@]}"
fi
