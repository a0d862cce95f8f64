#!/usr/bin/env bash
# austen.sh - writes Jane Austen's six novels, 4.0 MB of public-domain prose, to one text file for the quick start
#
#   data/austen.sh [FILE]     FILE is data/sets/austen/austen.txt if it is left out
#
# The novels are in the Debian and Ubuntu package r-cran-janeaustenr (MIT; texts of Project Gutenberg). This script takes
# the data file out of the package without installing it, and build/austen turns that file into text (austen.cpp).
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
case ${1:-} in -*) echo "error: $1: expected a file to write (--help shows the usage)" >&2; exit 2 ;; esac
[ $# -le 1 ] || { echo "error: $2: expected one file to write" >&2; exit 2; }
cd "$(dirname "$0")/.."
out=${1:-data/sets/austen/austen.txt}
build=${BUILD:-build}
package=r-cran-janeaustenr
installed=/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb

if [ -s "$out" ]; then
    echo "$out exists already"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tried=()

give_up() {
    echo "error: cannot download Debian's package $package:" >&2
    printf '    %s\n' "${tried[@]}" >&2
    cat >&2 <<HELP
Any other text will do. Write it to $out, or name it to the programs:
    data/fetch.sh tinyshakespeare                downloads 1.1 MB of Shakespeare with curl
    ./tokenize --train-bpe 4096 --input your.txt --output data/sets/your/tokenizer.json
    ./tokenize --tokenizer data/sets/your/tokenizer.json --input your.txt --val-fraction 0.05 --output data/sets/your/your
HELP
    exit 1
}

try() {  # try COMMAND…: runs it in $work; if it fails, its last line of output goes to `tried`
    local said
    if said=$(cd "$work" && "$@" 2>&1); then return 0; fi
    tried+=("$*: $(grep -v '^W:' <<<"$said" | tail -1)")
    return 1
}

update_lists() {
    local root=()
    if [ "$(id -u)" != 0 ]; then root=(sudo); fi
    echo "there are no lists of packages yet; running ${root:+sudo }apt-get update"
    try "${root[@]}" apt-get update -q
}
fetch() { try apt-get download -q -o APT::Sandbox::User= "$package"; }

if [ -s "$installed" ]; then
    rdb=$installed
else
    command -v apt-get >/dev/null || { tried+=("apt-get: this system does not have it"); give_up; }
    # A fresh container has no package lists yet.
    fetch || { update_lists && fetch; } || give_up
    dpkg-deb --fsys-tarfile "$work/$package"_*.deb | tar -x -C "$work" ".$installed"
    rdb=$work$installed
fi

[ -x "$build/austen" ] || make --no-print-directory BUILD="$build" "$build/austen"
mkdir -p "$(dirname "$out")"
"$build/austen" "$rdb" >"$work/austen.txt"
cp "$work/austen.txt" "$out.tmp"
mv "$out.tmp" "$out"
echo "$out: $(wc -c <"$out") bytes, $(($(grep -cxF '<|endoftext|>' "$out") + 1)) novels"
