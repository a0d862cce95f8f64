// A thread clears a counter, and threads of another warp, or all of them, add to it with no barrier between.
// finding: shared-memory race
// check: all
// cases: others, all
#include "../check.h"

__global__ void count(int* out, bool all, bool fixed) {
    __shared__ int n;
    if (threadIdx.x == 0) n = 0;  // <-
    if (fixed) __syncthreads();
    if (all || threadIdx.x >= 32) atomicAdd(&n, 1);  // <-
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(out, n);
}

int main(int argc, char** argv) {
    Device<int> out(std::vector<int>{0});
    count<<<1, 64>>>(out, argv[1][0] == 'a', argc > 2);
    CUDA(cudaDeviceSynchronize());
}
