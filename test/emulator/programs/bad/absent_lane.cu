// The member mask of a shuffle names all lanes, but half of them take the other branch.
// finding: absent lane
#include "../check.h"

__global__ void pairs(int* x, bool fixed) {
    const int lane = threadIdx.x;
    int y          = x[lane];
    if (fixed) y += __shfl_xor_sync(~0u, y, 1);
    else if (lane < 16) y += __shfl_xor_sync(~0u, y, 1);  // <-
    x[lane] = y;
}

int main(int argc, char**) {
    Device<int> x(std::vector<int>(32, 3));
    pairs<<<1, 32>>>(x, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
