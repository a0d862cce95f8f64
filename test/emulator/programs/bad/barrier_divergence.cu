// The barrier is inside of a branch that only some threads take.
// finding: barrier divergence
#include "../check.h"

__global__ void normalise(float* x, int n, bool fixed) {
    __shared__ float largest;
    if (threadIdx.x == 0) largest = x[0];
    const bool mine = threadIdx.x < n;
    if (fixed) {
        __syncthreads();
        if (mine) x[threadIdx.x] /= largest;
    } else if (mine) {
        __syncthreads();  // <-
        x[threadIdx.x] /= largest;
    } else {
        x[threadIdx.x] = 0;
        __syncthreads();
    }
}

int main(int argc, char**) {
    Device<float> x(std::vector<float>(64, 2));
    normalise<<<1, 64>>>(x, 40, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
