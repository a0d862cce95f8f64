#!/usr/bin/env bash
# dist.sh - makes an archive of the programs and of all libraries that they need but glibc's; `make dist` calls it
#   make dist            build-dist/gpt.cu-VERSION-linux-x86_64-cuda13.tar.gz, with a CUDA half, where there is nvcc
#   make dist CUDA=0     build-dist/gpt.cu-VERSION-linux-x86_64.tar.gz, without one
#   make dist ARCH='…'   with machine code for these GPUs, and PTX that later ones translate; as it is: 80 90, whatever GPU is here
#
# The archive with a CUDA half also has libexec/gpu_check.sh, with the tests and the bench that it runs on a GPU.
# The kernels are in the archive once for each level of x86-64. NVIDIA's libraries are not: programs find those of the machine
# (kernels/host.cu), and without them they run on the CPU. Licences come from Debian's packages, so dpkg is needed.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
[ $# -eq 0 ] || { echo "error: $1: scripts/dist.sh takes no arguments (--help says what it does)" >&2; exit 2; }
cd "$(dirname "$0")/.."
build=${BUILD:-build-dist} cuda=${CUDA:-0}
[ "$(uname -m)" = x86_64 ] || { echo "error: make dist is for x86-64, and this is $(uname -m)" >&2; exit 2; }
command -v dpkg-query >/dev/null || { echo "error: there is no dpkg, which knows the licences of the libraries" >&2; exit 2; }

make() { command make --no-print-directory -j"$(nproc)" PORTABLE=1 "$@"; }
make BUILD="$build" CUDA=0 NVCC= BUNDLE=1 "$build"/{train_gpt,infer_gpt,tokenize}
version=$("$build/train_gpt" --version | sed 's/.* of gpt.cu \([^,]*\),.*/\1/')
name=gpt.cu-$version-linux-x86_64
if [ "$cuda" != 0 ]; then
    make BUILD="$build/cuda" BUNDLE=1 ARCH="${ARCH:-80 90}" "$build"/cuda/glibc-hwcaps/x86-64-v{2,3,4}/libgpt_kernels.so
    name+=-cuda$(ldd "$build/cuda/glibc-hwcaps/x86-64-v2/libgpt_kernels.so" | sed -n 's/.*libcudart\.so\.\([0-9]*\) .*/\1/p')
fi
stage=$build/$name
rm -rf "$stage"
make BUILD="$build" CUDA=0 NVCC= BUNDLE=1 PREFIX= DESTDIR="$stage" install >/dev/null
if [ "$cuda" != 0 ]; then
    for level in v2 v3 v4; do
        install -D -m 644 -t "$stage/lib/gpt.cu/cuda/glibc-hwcaps/x86-64-$level" "$build/cuda/glibc-hwcaps/x86-64-$level/libgpt_kernels.so"
    done
    make BUILD="$build" CUDA=0 NVCC= BUNDLE=1 "$build"/{test_gpt,bench_ops}
    install -D -s -t "$stage/libexec" "$build"/{test_gpt,bench_ops}
    install -t "$stage/libexec" scripts/{gpu_check,test_parallel}.sh
    install -m 644 -t "$stage/libexec" test/bench_attention.py
    mkdir "$stage/libexec/test" && cp -r test/golden "$stage/libexec/test"
    install -D -m 644 -t "$stage/libexec/kernels" kernels/README.md  # tests compare tables of these two pages
    install -D -m 644 -t "$stage/libexec/docs" docs/scaling.md
    # What the emulator counts for every op, which gpu_check.sh sets beside what ncu counts.
    make emulator
    EMU_CHECK=off scripts/emulate --profile "$stage/libexec/counts.json" "$stage/libexec/bench_ops" --device cuda --batch 1 --context 256 \
        --profiled "$build/ops.json" >"$build/counted" 2>&1 || { rm -f "$stage/libexec/counts.json"; echo "the archive has no counts of the emulator:"; tail -5 "$build/counted"; }
fi

# The licences of what the archive holds: its libraries, and the headers that are compiled in.
docs=$stage/share/doc/gpt.cu
mkdir -p "$docs/licences"
cp README.md LICENSE "$docs"
packages=(libcli11-dev nlohmann-json3-dev libstb-dev)
for file in "$stage"/lib/gpt.cu/*.so.*; do
    package=$(dpkg-query -S "*/x86_64-linux-gnu/${file##*/}" | sed 's/:.*//;q') || true
    [ "$package" ] || { echo "error: no package has ${file##*/}, so its licence is unknown" >&2; exit 1; }
    packages+=("$package")
done
for package in "${packages[@]}"; do cp "/usr/share/doc/$package/copyright" "$docs/licences/$package"; done

# glibc's version is that of the newest of its functions which a file refers to.
needs=$(find "$stage" -type f \( -name '*.so*' -o -path '*/bin/*' \) -exec objdump -T {} + | grep -o 'GLIBC_2\.[0-9]*' | sort -uV | tail -1)
tar --sort=name --owner=0 --group=0 --numeric-owner -C "$build" -cf - "$name" | gzip -9n >"$build/$name.tar.gz"
echo "$build/$name.tar.gz: $(($(wc -c <"$build/$name.tar.gz") / 1000000)) MB, for glibc ${needs#GLIBC_} or newer"
