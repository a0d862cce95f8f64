// missing.cpp - every other name that the headers of cublas and cublasLt declare, so that a program that only mentions
// them loads. Each says its name and answers CUBLAS_STATUS_NOT_SUPPORTED (15). The list is made from the toolkit's
// headers; a name that we have is stronger. This file does not include them: its arguments do not matter.
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
