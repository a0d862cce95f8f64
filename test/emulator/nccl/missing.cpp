// missing.cpp - the functions of NCCL that the emulator lacks. Each prints its name and returns ncclInvalidUsage (5);
// cudart/missing.cpp explains how.
#include <cstdio>

extern "C" {
static int missing(const char* name) {
    std::fprintf(stderr, "emulate: the program calls %s, which the emulator lacks: ncclInvalidUsage\n", name);
    return 5;
}
#define MISSING(name) \
    __attribute__((weak)) int name() { return missing(#name); }
#include "nccl_names.inc"
}  // extern "C"
