// missing.cpp - the functions of the runtime that the emulator lacks, so that programs that link against them can start
//
// Each prints its name and returns cudaErrorNotSupported (801). Among them are arrays and textures, graphics
// interfaces, memory shared between processes, and memory and conditional nodes in graphs built by hand. The list has
// every name in the toolkit's headers, and the functions are weak, so the ones that the emulator has are used instead.
// The headers are not included, because these functions ignore their arguments.
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
