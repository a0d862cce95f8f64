// context.h - the cublas handle, and what every cublas call needs
#pragma once
#include <cublas_v2.h>

#include "product.h"

struct cublasContext {
    cudaStream_t stream         = nullptr;
    cublasMath_t math           = CUBLAS_DEFAULT_MATH;
    cublasPointerMode_t pointer = CUBLAS_POINTER_MODE_HOST;
    cublasAtomicsMode_t atomics = CUBLAS_ATOMICS_NOT_ALLOWED;
};

namespace emu {

// Returns the emulator's own pointer for a device pointer.
template <class T> T* on_host(const T* pointer) {
    return reinterpret_cast<T*>(Memory::get().host(address_of(pointer)));
}

}  // namespace emu

#define NEED(handle) \
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED
