// open_nccl.h - the calls of NCCL that collective.cu makes, through a library that is opened when it is needed
//
// The library is not linked. So a program on one GPU starts without its 200 MB, and a binary also runs where NCCL is
// not installed.
#pragma once
#include <dlfcn.h>
#include <nccl.h>

#include "check.h"

namespace nccl {

// Returns the library, or null where it is not installed.
inline void* library() {
    static void* const opened = dlopen("libnccl.so.2", RTLD_NOW);
    return opened;
}
template <class F>
F* find(const char* name) {
    void* const symbol = dlsym(library(), name);
    CHECK_RUN(symbol, "the NCCL library has no {}; NCCL {}.{} or newer is needed", name, NCCL_MAJOR, NCCL_MINOR);
    return reinterpret_cast<F*>(symbol);
}
// Makes a call, and returns what it returns.
#define NCCL_CALL(function, ...) (nccl::find<decltype(function)>(#function)(__VA_ARGS__))

}  // namespace nccl
