// start.h - what a program does before anything else
#pragma once
#include <unistd.h>

#include <cstdlib>

// Lets idle OpenMP threads sleep after about 30 us, which is 1000 turns on an EPYC (Zen 3). The OpenMP library reads
// GOMP_SPINCOUNT once, before main(), so this sets it to 1000 and starts the program again.
//
// A thread that spins keeps its core from other programs; spinning for milliseconds, as by default, can make a small
// step a hundred times slower beside a second run. Sleeping costs too: not spinning at all makes decoding a third
// slower, and small steps three times as slow beside programs that never sleep, because a Linux without preemption lets
// a thread that wakes wait for the next tick. With 1000 turns both are as fast as with 3000, and two runs at once are
// faster: 12 instead of 23 ms for a step of 1.5 ms, and 47 instead of 60 for one of 40. An OMP_WAIT_POLICY or
// GOMP_SPINCOUNT that is set already stays.
inline void let_idle_threads_sleep(char** argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    setenv("GOMP_SPINCOUNT", "1000", 1);
    execv("/proc/self/exe", argv);  // returns only where there is no /proc; then threads spin
}
