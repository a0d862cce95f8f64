#!/usr/bin/env bash
# scripts/transformers.sh - prints a python3 that has torch and transformers: the one on PATH, else one of its own in
# ~/.cache, made from PyPI within ten minutes. Exit code 1 where neither is to be had.
#
# PyPI's torch for Linux is made for CUDA: 5 GB with all it asks for. To be imported it wants the libraries that it is
# linked with; what it would load later, for a GPU, stays away: triton, cuSOLVER, cuDNN's engines. That leaves 3.0 GB. The
# versions are those that the comparison was last made with, so that a new release cannot break a build.
set -euo pipefail

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
