// A reversal through shared memory has no barrier. Its result is right whenever the other warp ran first.
// finding: shared-memory race
// check: all
#include "../check.h"

__global__ void reverse(int* x, bool fixed) {
    __shared__ int tile[128];
    tile[threadIdx.x] = x[threadIdx.x];  // <-
    if (fixed) __syncthreads();
    x[threadIdx.x] = tile[127 - threadIdx.x];  // <-
}

int main(int argc, char**) {
    Device<int> x(std::vector<int>(128, 7));
    reverse<<<1, 128>>>(x, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
