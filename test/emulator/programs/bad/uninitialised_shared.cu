// The last tile is not full: threads beyond the end write nothing to shared memory, but the sum reads their elements.
// finding: uninitialised
// check: all
#include "../check.h"

__global__ void sum(float* out, const float* x, int n, bool fixed) {
    __shared__ float tile[64];
    if (threadIdx.x < n) tile[threadIdx.x] = x[threadIdx.x];
    else if (fixed) tile[threadIdx.x] = 0;
    __syncthreads();
    for (int half = 32; half > 0; half /= 2) {
        if (threadIdx.x < half) tile[threadIdx.x] += tile[threadIdx.x + half];  // <- block 0, thread 18
        __syncthreads();
    }
    if (threadIdx.x == 0) *out = tile[0];
}

int main(int argc, char**) {
    Device<float> x(whole_numbers(50)), out(1);
    sum<<<1, 64>>>(out, x, 50, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
