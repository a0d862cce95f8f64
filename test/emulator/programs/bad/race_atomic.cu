// A thread clears a counter, and others add to it with no barrier between.
// finding: shared-memory race
// check: all
#include "../check.h"

__global__ void count(int* out, bool fixed) {
    __shared__ int n;
    if (threadIdx.x == 0) n = 0;  // <-
    if (fixed) __syncthreads();
    atomicAdd(&n, 1);  // <-
    __syncthreads();
    if (threadIdx.x < 32) out[threadIdx.x] = n;
}

int main(int argc, char**) {
    Device<int> out(32);
    count<<<1, 64>>>(out, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
