// start.h - what a program does before anything else
#pragma once
#include <unistd.h>

#include <cstdlib>

// Lets idle OpenMP threads sleep after spinning for about 30 us, which is 1000 turns of their loop on an EPYC (Zen 3).
// The OpenMP library reads GOMP_SPINCOUNT once, before main(), so this sets it to 1000 and starts the program again.
//
// A thread that spins keeps its core from other programs; spinning for milliseconds, as by default, can make a small
// step a hundred times slower beside a second run. Sleeping costs too: not spinning at all makes decoding a third
// slower, and small steps three times as slow beside programs that never sleep, because a Linux without preemption lets
// a thread that wakes wait for the next tick. On two cores of that EPYC (2026-11-27), 1000 turns in place of 3000 took
// two runs at once from 23 to 12 ms for a step of 1.5 ms, and from 60 to 47 for one of 40. Decoding alone was as fast.
// A small step beside such programs took 6.8 ms in place of 6.3. An OMP_WAIT_POLICY or GOMP_SPINCOUNT that is set
// already stays.
inline void let_idle_threads_sleep(char** argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    setenv("GOMP_SPINCOUNT", "1000", 1);
    execv("/proc/self/exe", argv);  // returns only where there is no /proc; then threads spin
}
