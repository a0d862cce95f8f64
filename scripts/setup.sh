#!/usr/bin/env bash
# setup.sh - installs what the build needs, from the packages of Debian or Ubuntu
#   scripts/setup.sh              names what is missing and installs it, with sudo when not root; without sudo it does as --local
#   scripts/setup.sh --local      needs no root: unpacks the same packages into build-deps, where the Makefile finds them
#   scripts/setup.sh --check      says what is missing and how to get it; the exit code is 2 when something is missing
#   scripts/setup.sh --versions   prints the versions of the libraries that the build uses, in one line
# CXX= names another compiler. ONEDNN=0 leaves oneDNN out, as in make ONEDNN=0, and MPI=0 leaves Open MPI out. The build does
# without Open MPI where it is missing, so --check does not ask for it, and --local leaves it out, because it works only where
# it was built for.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
cd "$(dirname "$0")/.."

# header to look for                   Debian and Ubuntu       Fedora               Arch            conda-forge
needs="
omp.h                                  g++                     gcc-c++              gcc             gxx
oneapi/dnnl/dnnl.hpp|dnnl.hpp          libdnnl-dev             onednn-devel         onednn          onednn
fmt/format.h                           libfmt-dev              fmt-devel            fmt             fmt
nlohmann/json.hpp                      nlohmann-json3-dev      json-devel           nlohmann-json   nlohmann_json
CLI/CLI.hpp                            libcli11-dev            cli11-devel          cli11           cli11
utf8proc.h                             libutf8proc-dev         utf8proc-devel       libutf8proc     libutf8proc
zstd.h                                 libzstd-dev             libzstd-devel        zstd            zstd
zlib.h                                 zlib1g-dev              zlib-devel           zlib            zlib
stb/stb_image_write.h                  libstb-dev              stb-devel            stb             stb
catch2/catch.hpp|catch2/catch_all.hpp  catch2                  catch-devel          catch2          catch2
"
# What the build uses where it is there, and does without otherwise. It is installed together with what is missing.
optional=(libedit-dev)
[ "${ONEDNN:-1}" != 0 ] || needs=$(grep -v dnnl <<<"$needs")$'\n'
mode=${1:-}
as_root=()
if [ -z "$mode" ] && [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null; then as_root=(sudo); else mode=--local; fi
fi
if [ "${MPI:-1}" != 0 ] && [ -z "$mode" ]; then
    needs+="mpi.h                          libopenmpi-dev          openmpi-devel        openmpi         openmpi"$'\n'
fi
cxx=${CXX:-g++} deps=$PWD/build-deps

finds() {  # finds 'a.h|b.h': succeeds if the compiler finds one of these headers
    local header
    for header in ${1//|/ }; do
        echo "#include <$header>" | $cxx -I"$deps/usr/include" -I"/usr/lib/$($cxx -print-multiarch)/openmpi/include" -x c++ -std=c++17 -fopenmp -M - >/dev/null 2>&1 && return 0
    done
    return 1
}

missing=() rows=""
look() {
    missing=() rows=""
    local header debian rest
    command -v make >/dev/null || { missing+=(make); rows+="make make make make"$'\n'; }
    if ! command -v "${cxx%% *}" >/dev/null; then  # every header would seem to be missing
        [ "$cxx" = g++ ] || { echo "error: the compiler CXX=$cxx is not installed" >&2; exit 2; }
        missing+=(g++) rows+="g++ gcc-c++ gcc gxx"$'\n'
    fi
    while read -r header debian rest; do
        [ -n "$header" ] || continue
        if [ "$debian" = g++ ] && [[ " ${missing[*]-} " == *" g++ "* ]]; then continue; fi
        finds "$header" || { missing+=("$debian"); rows+="$debian $rest"$'\n'; }
    done <<<"$needs"
}

# Prints what other systems call the missing packages, and exits.
elsewhere() {
    local column
    column() { awk -v c="$1" 'NF {printf "%s ", $c}' <<<"$rows"; }
    echo "This script needs apt-get (Debian, Ubuntu). On other systems:" >&2
    echo "    Fedora          dnf install $(column 2)" >&2
    echo "    Arch            pacman -S $(column 3)" >&2
    echo "    conda-forge     conda install -c conda-forge $(column 4)" >&2
    exit 2
}

# Unpacks the missing packages and those that they depend on into $deps. apt-get keeps its lists there as well, because
# those of the system may be missing or old.
unpack() {
    local apt=(apt-get -qq -o Debug::NoLocking=1 -o Dir::State::Lists="$deps/lists" -o Dir::Cache="$deps/cache"
        -o APT::Sandbox::User="$(id -un)") names package
    for package in make g++; do
        if [[ " ${missing[*]} " == *" $package "* ]]; then
            echo "error: $package is not installed, and only root can install it; please ask whoever runs this machine" >&2
            exit 2
        fi
    done
    echo "unpacking into $deps: ${missing[*]}"
    mkdir -p "$deps"/{lists/partial,cache/archives/partial}
    "${apt[@]}" update
    names=$("${apt[@]}" install --print-uris --no-install-recommends "${missing[@]}" | awk '{print $2}' | sed 's/_.*//')
    for package in $names; do
        (cd "$deps/cache" && "${apt[@]}" download "$package" && dpkg-deb -x "${package}"_*.deb "$deps")
    done
    rm -rf "${deps:?}"/{lists,cache}
}

case "$mode" in
--versions)
    [ "${ONEDNN:-1}" != 0 ] || { echo "no oneDNN, openmp"; exit 0; }
    version=$(printf '#include <%s>\nDNNL_VERSION_MAJOR DNNL_VERSION_MINOR DNNL_VERSION_PATCH\n' dnnl.hpp |
        $cxx -I"$deps/usr/include" -x c++ -std=c++17 -E -P - 2>/dev/null | tail -1 | tr ' ' .)
    echo "oneDNN $version, openmp"
    exit 0 ;;
--check)
    look
    [ ${#missing[@]} -eq 0 ] && exit 0
    echo "missing: ${missing[*]}" >&2
    echo "get them with: scripts/setup.sh        (or: apt-get install ${missing[*]})" >&2
    exit 2 ;;
"" | --local) ;;
*)
    echo "error: $mode is unknown; --help shows the usage" >&2
    exit 2 ;;
esac

look
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
command -v apt-get >/dev/null || { echo "missing: ${missing[*]}" >&2; elsewhere; }
if [ "$mode" = --local ]; then
    [ -n "${1:-}" ] || echo "there is no sudo, so the packages are unpacked here and not installed in the system"
    unpack
else
    echo "installing: ${missing[*]}"
    if ! { "${as_root[@]}" apt-get update -qq && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" "${optional[@]}" >/dev/null; }; then
        echo "error: apt-get could not install them; scripts/setup.sh --local needs no root" >&2
        exit 1
    fi
fi
look
if [ ${#missing[@]} -gt 0 ]; then
    echo "error: still missing: ${missing[*]}" >&2
    exit 1
fi
echo "everything that the build needs is installed"
