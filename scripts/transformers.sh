#!/usr/bin/env bash
# transformers.sh - prints a python3 that has torch and transformers
#
# That is the one on PATH, or else one in ~/.cache, which this script makes from PyPI within ten minutes. The exit code is 1
# when there is neither.
#
# PyPI's torch for Linux is built for CUDA and takes 5 GB with all that it requires. Importing it needs only the libraries that
# it is linked with. What it would load later, for a GPU, is left out: triton, cuSOLVER, cuDNN's engines. That leaves 3.0 GB.
# The versions are fixed, so that a new release cannot break a build.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
[ $# -eq 0 ] || { echo "error: $1: scripts/transformers.sh takes no arguments (--help says what it does)" >&2; exit 2; }

has_both() { "$1" -c 'import torch, transformers' 2>/dev/null; }
home=${XDG_CACHE_HOME:-$HOME/.cache}/gpt.cu/transformers
for python in python3 "$home/bin/python"; do
    has_both "$python" && echo "$python" && exit
done

get() {
    timeout 300 "$home/bin/pip" install -q --disable-pip-version-check --no-cache-dir --no-compile --retries 1 "$@" \
        >"$home/pip.log" 2>&1 || { tail -5 "$home/pip.log" >&2; exit 1; }
}
rm -rf "$home"
python3 -m venv "$home" >&2
get --no-deps torch==2.15.0
"$python" -c '
from importlib.metadata import requires
needs = [r for r in requires("torch") if "extra ==" not in r and not r.startswith(("triton", "cuda-bindings"))]
print("\n".join(r.replace(",cusolver", "") for r in needs))' >"$home/needs.txt"
get -r "$home/needs.txt" transformers==5.23.0 numpy
cd "$home"/lib/python3*/site-packages
rm -rf nvidia/cudnn/lib/libcudnn_* nvidia/nvshmem/lib/*.bc nvidia/cu*/lib/libnvperf* nvidia/*/include torch/include
has_both "$python" && echo "$python"
