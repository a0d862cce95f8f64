// missing.cpp - every other name that the runtime's headers declare, so that a program that only mentions them loads
//
// Each says its own name on standard error and answers cudaErrorNotSupported (801): arrays and textures, other graphics
// and compute interfaces, memory shared between processes, memory and conditional nodes built by hand. The list is made
// from the toolkit's headers, and a name that we have is stronger. This file does not include them: what a function
// takes does not matter to one that looks at nothing.
#include <cstdio>

extern "C" {
static int missing(const char* name) {
    std::fprintf(stderr, "emulate: the program calls %s, which the emulator lacks: cudaErrorNotSupported\n", name);
    return 801;
}
#define MISSING(name) \
    __attribute__((weak)) int name() { return missing(#name); }
#include "cudart_names.inc"
}  // extern "C"
