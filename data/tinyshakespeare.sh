#!/usr/bin/env bash
# tinyshakespeare.sh - 1.1 MB of Shakespeare's plays, the text that nanoGPT and llm.c begin with
#
#   data/tinyshakespeare.sh [FILE]     default data/tinyshakespeare/tinyshakespeare.txt
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-data/tinyshakespeare/tinyshakespeare.txt}
url=https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
sha256=86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed

is_right() { echo "$sha256  $1" | sha256sum --check --status; }

if [ -s "$out" ] && is_right "$out"; then
    echo "$out is there"
    exit 0
fi
if [ -e "$out" ]; then
    echo "error: $out exists and is not Tiny Shakespeare; move it away" >&2
    exit 1
fi
command -v curl >/dev/null || { echo "error: curl is missing: apt-get install curl" >&2; exit 1; }

mkdir -p "$(dirname "$out")"
trap 'rm -f "$out.tmp"' EXIT
if ! curl --fail --location --silent --show-error --retry 3 --output "$out.tmp" "$url"; then
    echo "error: cannot get $url" >&2
    exit 1
fi
if ! is_right "$out.tmp"; then
    echo "error: what came from $url has another SHA-256 than $sha256" >&2
    exit 1
fi
mv "$out.tmp" "$out"
echo "$out: $(wc -c <"$out") bytes"
