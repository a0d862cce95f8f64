// Lanes of one warp exchange values through shared memory. Since Volta this needs a __syncwarp between write and read.
// finding: shared-memory race
// check: all
#include "../check.h"

__global__ void rotate(int* x, bool fixed) {
    __shared__ int tile[32];
    tile[threadIdx.x] = x[threadIdx.x];  // <-
    if (fixed) __syncwarp();
    x[threadIdx.x] = tile[(threadIdx.x + 1) % 32];  // <-
}

int main(int argc, char**) {
    Device<int> x(std::vector<int>(32, 7));
    rotate<<<1, 32>>>(x, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
