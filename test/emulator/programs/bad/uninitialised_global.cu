// cudaMalloc does not clear: the accumulator starts from whatever was there.
// finding: uninitialised
// check: all
#include "../check.h"

__global__ void accumulate(float* sum, const float* x) { sum[threadIdx.x] += x[threadIdx.x]; }  // <- block 0, thread 0

int main(int argc, char**) {
    Device<float> x(whole_numbers(64)), sum(64);
    if (argc > 1) CUDA(cudaMemset(sum, 0, 256));
    accumulate<<<1, 64>>>(sum, x);
    CUDA(cudaDeviceSynchronize());
}
