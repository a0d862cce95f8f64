#!/usr/bin/env bash
# check.sh - what must hold before a change goes in: layering, no warnings, and the tests under address and undefined-behaviour sanitizers
set -euo pipefail
cd "$(dirname "$0")/.."

echo "== layering: kernels/ knows nothing of gpt/, gpt/ knows nothing of flags"
if grep -nE '#include "(gpt|test|data)/' kernels/*; then echo "kernels/ must not include these" >&2; exit 1; fi
if grep -nE '#include "gpt/(options|log|cli)\.h"' $(ls gpt/*.h | grep -vE 'gpt/(options|log|cli)\.h'); then echo "only the programs include options.h, log.h and cli.h" >&2; exit 1; fi

echo "== scripts parse"
for f in scripts/*.sh data/*.sh; do bash -n "$f"; done

echo "== build with warnings as errors and sanitizers, and run the tests"
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
sanitize='-fsanitize=address -fsanitize=undefined'   # one option each: nvcc splits at commas what it hands to g++
# GCC's manual: sanitizers make for false positives of -Wmaybe-uninitialized (libstdc++'s own <regex> gives one).
CXXFLAGS="-Werror -Wno-maybe-uninitialized -g1 $sanitize -fno-sanitize-recover=all" \
    make --no-print-directory -j"$(nproc)" BUILD=build-check OPT=-O1 LDFLAGS="$sanitize" \
    build-check/{train_gpt,infer_gpt,tokenize,austen,test_gpt} >build-check.log 2>&1 ||
    { tail -30 build-check.log >&2; exit 1; }
rm -f build-check.log
GPT_BUILD=build-check build-check/test_gpt
echo "== all is well"
