#!/usr/bin/env bash
# setup.sh - what the build needs from Debian or Ubuntu
#   scripts/setup.sh              install what is missing, naming it first (sudo when not root)
#   scripts/setup.sh --check      say what is missing and how to get it; exit 2 when something is
#   scripts/setup.sh --versions   one line: the libraries that the build uses
set -euo pipefail

# header to look for                package
needs="
omp.h                               g++
oneapi/dnnl/dnnl.hpp|dnnl.hpp       libdnnl-dev
fmt/format.h                        libfmt-dev
nlohmann/json.hpp                   nlohmann-json3-dev
CLI/CLI.hpp                         libcli11-dev
utf8proc.h                          libutf8proc-dev
zstd.h                              libzstd-dev
zlib.h                              zlib1g-dev
stb/stb_image_write.h               libstb-dev
catch2/catch.hpp|catch2/catch_all.hpp  catch2
"
cxx=${CXX:-g++}

finds() {  # finds 'a.h|b.h': does the compiler find one of these headers?
    local header
    for header in ${1//|/ }; do
        echo "#include <$header>" | "$cxx" -x c++ -std=c++17 -fopenmp -M - >/dev/null 2>&1 && return 0
    done
    return 1
}

missing=()
look() {
    missing=()
    command -v make >/dev/null || missing+=(make)
    while read -r headers package; do
        [ -n "$headers" ] || continue
        finds "$headers" || missing+=("$package")
    done <<<"$needs"
}

case "${1:-}" in
--versions)
    version=$(printf '#include <%s>\nDNNL_VERSION_MAJOR DNNL_VERSION_MINOR DNNL_VERSION_PATCH\n' dnnl.hpp |
        "$cxx" -x c++ -std=c++17 -E -P - 2>/dev/null | tail -1 | tr ' ' .)
    echo "oneDNN $version, openmp"
    exit 0 ;;
--check)
    look
    [ ${#missing[@]} -eq 0 ] && exit 0
    echo "missing: ${missing[*]}" >&2
    echo "get them with: scripts/setup.sh        (or: apt-get install ${missing[*]})" >&2
    exit 2 ;;
"") ;;
*)
    echo "usage: scripts/setup.sh [--check | --versions]" >&2
    exit 2 ;;
esac

look
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
echo "installing: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "this script knows apt-get (Debian, Ubuntu); please install the equivalents of: ${missing[*]}" >&2
    exit 2
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "please run as root: apt-get install ${missing[*]}" >&2; exit 2; }
    as_root=(sudo)
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
look
if [ ${#missing[@]} -gt 0 ]; then
    echo "still missing after installing: ${missing[*]}" >&2
    exit 1
fi
echo "all libraries are here"
