// dependent.h - programmatic dependent launch (sm_90): a kernel that begins before the kernel in front of it has ended
#pragma once
#include <cuda_runtime.h>

#include "check.h"

// Waits until the kernels in front of this one have ended, and sees what they wrote.
__device__ inline void wait_for_grids() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
// When every block has called this or has ended, the next kernel may begin.
__device__ inline void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;"); }

// Launches 4 blocks of 64 threads with programmatic stream serialization.
template <class... P, class... A> void launch_early(cudaStream_t s, void (*kernel)(P...), A&&... args) {
    cudaLaunchAttribute attribute;
    attribute.id                                         = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = {4, 1, 1}, config.blockDim = {64, 1, 1}, config.stream = s;
    config.attrs = &attribute, config.numAttrs = 1;
    CUDA(cudaLaunchKernelEx(&config, kernel, P(args)...));
}
