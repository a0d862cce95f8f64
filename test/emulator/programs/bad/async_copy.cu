// The data of a cp.async is used before the wait for it.
// finding: cp.async data before its wait
// check: all
#include "../check.h"

__global__ void copy(float* out, const float* in, bool fixed) {
    __shared__ __align__(16) float tile[128];
    const unsigned to = unsigned(__cvta_generic_to_shared(&tile[threadIdx.x * 4]));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(in + threadIdx.x * 4) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
    if (fixed) asm volatile("cp.async.wait_group 0;" ::: "memory");
    out[threadIdx.x] = tile[threadIdx.x * 4];  // <- block 0, thread 0
}

int main(int argc, char**) {
    Device<float> in(whole_numbers(128)), out(32);
    copy<<<1, 32>>>(out, in, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
