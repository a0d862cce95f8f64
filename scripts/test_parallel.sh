#!/usr/bin/env bash
# test_parallel.sh - runs the test cases of a Catch2 program in several processes at a time, because one core bounds most of them
#   scripts/test_parallel.sh [COMMAND...] PROGRAM TAGS    for example: scripts/emulate --check all build/test_gpt '[ops]~[.]'
# COMMAND... stands in front of the program, as scripts/emulate does here. One process more than there are CPU cores runs at a time,
# because some test cases wait, and at most 16. It prints the end of what a process wrote that failed, what was skipped, and how many
# test cases and assertions passed. The exit code is 1 when a process failed or not every test case passed, and else 0.
set -euo pipefail
if [ "${1:-}" = --help ]; then sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; fi
[ $# -ge 2 ] || { echo "error: a program and its tags are missing (--help shows the usage)" >&2; exit 2; }
program=("${@:1:$#-1}") tags=${*: -1}
cores=$(env -u OMP_NUM_THREADS nproc) jobs=$((cores >= 16 ? 16 : cores + 1))  # nproc prints OMP_NUM_THREADS where it is set
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'tail -qn 2 "$work"/*.out; exit 143' TERM  # shows how far they came

# The exit code of Catch2 2 is the number of tests. Catch2 3 knows another option. In a list of names a comma is a separator.
names() { "${program[@]}" "$@" "$tags" 2>/dev/null | sed '/^$/d; s/,/\\,/g' >"$work/all"; }
names --list-test-names-only || [ -s "$work/all" ] || names --list-tests --verbosity quiet || true
[ -s "$work/all" ] || { echo "error: ${program[*]: -1} has no test for $tags, or does not run" >&2; exit 1; }

# Idle OpenMP threads sleep soon, as those of the programs do (gpt/start.h); where they spin, tests of ops take twice as long.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}
# Four groups for each process: some test cases take a hundred times as long as others.
awk -v n=$((4 * jobs)) -v to="$work/group." '{print > (to (NR % n))}' "$work/all"
code=0
printf '%s\0' "$work"/group.* | OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > jobs ? cores / jobs : 1))} xargs -0 -P "$jobs" -I{} \
    sh -c '"$@" --input-file "$0" >"$0.out" 2>&1 || { touch "$0.failed"; exit 1; }' {} "${program[@]}" &
wait $! || code=1
for f in "$work"/*.failed; do [ ! -e "$f" ] || tail -n 40 "${f%failed}out"; done
grep -hE '^skipped: |tests run on the CPU alone' "$work"/*.out | sort -u || true
cat "$work"/*.out | awk -v jobs="$jobs" -v all="$(wc -l <"$work/all")" '
    # Test cases that "failed as expected" have passed.
    function passed(i, n) {for (i = 4; i <= NF; i++) if ($i == "passed" || $i == "failed" && $(i + 1) == "as") n += $(i - 1); return n}
    /^All tests passed/ {sub(/\(/, "", $4); checks += $4; cases += $7}
    # Catch2 prints the next two lines in place of that one where a check failed or none was made.
    /^test cases:/ {cases += passed()}
    /^assertions:/ {checks += passed()}
    /^emulate: .* launches/ {launches += $2; findings += $(NF - 1)}
    END {
        printf "passed: %d of %d test cases, %d assertions, %d processes at a time\n", cases, all, checks, jobs
        if (launches) printf "emulate: %d launches, %d findings\n", launches, findings
        exit cases != all
    }' || code=1
exit $code
