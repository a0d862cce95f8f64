// missing.cpp - the functions of cublas and cublasLt that the emulator lacks. Each prints its name and returns
// CUBLAS_STATUS_NOT_SUPPORTED (15); cudart/missing.cpp explains how.
#include <cstdio>

extern "C" {
static int missing(const char* name) {
    std::fprintf(stderr, "emulate: the program calls %s, which the emulator lacks: CUBLAS_STATUS_NOT_SUPPORTED\n",
                 name);
    return 15;
}
#define MISSING(name) \
    __attribute__((weak)) int name() { return missing(#name); }
#include "cublas_names.inc"
}  // extern "C"
