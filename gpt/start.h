// start.h - what a program does before anything else
#pragma once
#include <unistd.h>

#include <cstdlib>

// Lets idle OpenMP threads sleep after a few microseconds. The OpenMP library reads GOMP_SPINCOUNT once, before main(),
// so this sets it to 3000 and starts the program again. Spinning for longer, as by default, makes a step four times
// slower as soon as another program wants one of the cores; not spinning at all makes decoding a third slower. An
// OMP_WAIT_POLICY or GOMP_SPINCOUNT that is set already stays.
inline void let_idle_threads_sleep(char** argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    setenv("GOMP_SPINCOUNT", "3000", 1);
    execv("/proc/self/exe", argv);  // returns only where there is no /proc; then threads spin
}
