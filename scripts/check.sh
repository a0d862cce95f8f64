#!/usr/bin/env bash
# check.sh - checks a change: which way includes point, the format, scripts, no warnings, and the tests under sanitizers
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
[ $# -eq 0 ] || { echo "error: $1: scripts/check.sh takes no arguments (--help says what it does)" >&2; exit 2; }
cd "$(dirname "$0")/.."

echo "== layering: programs -> gpt/ -> data/ -> kernels/; the model knows nothing of options"
points_up() {  # points_up "FILES" PATTERN: fails when one of the files includes a header of that pattern
    if grep -nE "#include \"$2" $1; then echo "these includes point the wrong way" >&2; exit 1; fi
}
talkers='gpt/(options|shared_options|infer_options|resolve|machine|model_folder|resume|report|run|run_folder|run_weights|reference|products|log|cli|values|plot|probe_plot|chat|inference|inspect)\.h'
points_up "$(echo kernels/*)" '(gpt|data|test)/'
points_up "$(ls data/*.h)" '(gpt|test)/'
points_up "$(ls gpt/*.h)" 'test/'
points_up "$(ls gpt/*.h | grep -vE "$talkers")" "$talkers"
# tsort fails when headers include each other in a circle. Files of kernels/ name their neighbours without the folder.
grep -oE '^#include "[^"]+"' {gpt,data,kernels}/*.h kernels/*.cuh | tr -d '"' |
    sed -E 's|^(kernels)/([^:]+):#include ([^/]+)$|\1/\2 \1/\3|; s|:#include | |' | tsort >/dev/null

echo "== format: clang-format changes no file"
if ! clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
    echo "skipped: clang-format 14 is not installed (apt-get install clang-format-14, or pip install clang-format==14.0.6)"
else
    git ls-files '*.h' '*.cu' '*.cuh' '*.cpp' | xargs clang-format --dry-run -Werror
fi

echo "== scripts parse"
for f in .ci/run scripts/*.sh scripts/{launch,recipes}/*.sh data/*.sh; do bash -n "$f"; done

echo "== build with warnings as errors and sanitizers, and run the tests"
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
sanitize='-fsanitize=address -fsanitize=undefined'   # two options, because nvcc splits options for g++ at commas
# With sanitizers -Wmaybe-uninitialized has false positives, as GCC's manual says; libstdc++'s own <regex> is one.
CXXFLAGS="-Werror -Wno-maybe-uninitialized -g1 $sanitize -fno-sanitize-recover=all" \
    make --no-print-directory -j"$(nproc)" BUILD=build-check OPT=-O1 LDFLAGS="$sanitize" \
    build-check/{train_gpt,infer_gpt,tokenize,austen,bench_ops,test_gpt} >build-check.log 2>&1 ||
    { tail -30 build-check.log >&2; exit 1; }
rm -f build-check.log
GPT_BUILD=build-check OMP_NUM_THREADS=2 scripts/test_parallel.sh build-check/test_gpt '~[.]'
echo "== every check passed"
