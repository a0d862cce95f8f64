// Every block adds to the same word without an atomic.
// finding: race between blocks
// check: all
#include "../check.h"

__global__ void count(int* total, bool fixed) {
    if (threadIdx.x != 0) return;
    if (fixed) atomicAdd(total, int(blockIdx.x));
    else *total += int(blockIdx.x);  // <-
}

int main(int argc, char**) {
    Device<int> total(1);
    CUDA(cudaMemset(total, 0, 4));
    count<<<4, 32>>>(total, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
