#!/usr/bin/env bash
# compilers.sh - builds the tests of the kernels with other compilers and for other CPUs, and runs them
#   scripts/compilers.sh              all of these
#   scripts/compilers.sh portable     PORTABLE=1: the kernels for each level of x86-64 that this CPU has
#   scripts/compilers.sh clang        clang++ with its own OpenMP library
#   scripts/compilers.sh g++-11       the oldest g++ that the README names
#   scripts/compilers.sh aarch64      aarch64-linux-gnu-g++; qemu-aarch64-static runs the tests
# --install before the name installs a compiler that is missing, with apt-get as root. Without it, the script names what is
# missing and goes on. Libraries for aarch64 are always unpacked into build-aarch64, and never installed.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
cd "$(dirname "$0")/.."

install=no
if [ "${1:-}" = --install ]; then install=yes; shift; fi

# needs PROGRAM PACKAGE...: succeeds when the program is there, or can be had
needs() {
    local program=$1; shift
    command -v "$program" >/dev/null && return 0
    if [ $install = yes ] && apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null; then return 0; fi
    echo "skipped: $program is not installed (apt-get install $*)"
    return 1
}

# build NAME MAKE-ARGUMENT...: makes build-NAME/test_ops; a warning is an error
build() {
    local name=$1; shift
    echo "== the tests of the kernels: build-$name"
    CXXFLAGS="${CXXFLAGS:-} -Werror" make --no-print-directory -j"$(nproc)" CUDA=0 BUILD="build-$name" "$@" "build-$name/test_ops"
}

# run_tests COMMAND...: runs all tests but those of whole programs and models
run_tests() { OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} scripts/test_parallel.sh "$@" '~[.]~[programs]~[model]'; }

test_portable() {
    build portable PORTABLE=1
    local level cpu
    for level in v2 v3 v4; do
        if ! grep -qw "$([ $level = v2 ] && echo sse4_2 || { [ $level = v3 ] && echo avx2 || echo avx512vl; })" /proc/cpuinfo; then
            echo "skipped: this CPU does not have x86-64-$level"
            continue
        fi
        run_tests build-portable/test_ops --cpu $level
    done
    # Emulated CPUs without AVX and without AVX-512 would stop at an instruction of a higher level.
    needs qemu-x86_64-static qemu-user-static || return 0
    for cpu in Nehalem Haswell; do
        OMP_NUM_THREADS=1 qemu-x86_64-static -cpu $cpu build-portable/test_ops 'exp_shifted,layernorm*,matmul_b*,gelu*'
    done
}

test_clang() {
    needs clang++ clang libomp-dev || return 0
    build clang CXX=clang++
    run_tests build-clang/test_ops
}

test_gcc11() {
    needs g++-11 g++-11 || return 0
    build g++-11 CXX=g++-11
    run_tests build-g++-11/test_ops
}

test_aarch64() {
    needs aarch64-linux-gnu-g++ g++-aarch64-linux-gnu || return 0
    needs qemu-aarch64-static qemu-user-static || return 0
    command -v apt-get >/dev/null || { echo "skipped: the libraries for aarch64 come by apt-get, which is not installed"; return 0; }
    local root=build-aarch64/root lists=$PWD/build-aarch64/apt
    if [ ! -e $root/complete ]; then
        local apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::status=/dev/null
            -o Debug::NoLocking=1 -o Dir::State::Lists="$lists/lists" -o Dir::Cache="$lists/cache"
            -o APT::Sandbox::User="$(id -un)") name
        mkdir -p $root "$lists"/{lists/partial,cache/archives/partial}
        "${apt[@]}" update
        for name in $("${apt[@]}" install --print-uris --no-install-recommends libdnnl-dev libfmt-dev libutf8proc-dev \
            libzstd-dev zlib1g-dev nlohmann-json3-dev catch2 | awk '{print $2}' | sed 's/_.*//' | grep -vE 'libc6-dev|linux-libc-dev'); do   # the compiler has its own
            (cd "$lists" && "${apt[@]}" download "$name")
            dpkg-deb -x "$lists/${name}"_*.deb $root
        done
        touch $root/complete
    fi
    # `libraries` would look for the headers of this machine's own packages.
    build aarch64 -o libraries PORTABLE=1 CXX=aarch64-linux-gnu-g++ DEPS=$root/usr
    OMP_NUM_THREADS=1 QEMU_LD_PREFIX=$root run_tests qemu-aarch64-static build-aarch64/test_ops
}

case "${1:-all}" in
all) test_portable; test_clang; test_gcc11; test_aarch64 ;;
portable) test_portable ;;
clang) test_clang ;;
g++-11) test_gcc11 ;;
aarch64) test_aarch64 ;;
*) echo "error: $1 is unknown; --help shows the usage" >&2; exit 2 ;;
esac
