// cudaMalloc does not clear memory, so the accumulator starts with an arbitrary value.
// finding: uninitialised
// check: all
#include "../check.h"

__global__ void accumulate(float* sum, const float* x) { sum[threadIdx.x] += x[threadIdx.x]; }  // <- block 0, thread 0

int main(int argc, char**) {
    Device<float> x(whole_numbers(32)), sum(32);
    if (argc > 1) CUDA(cudaMemset(sum, 0, 128));
    accumulate<<<1, 32>>>(sum, x);
    CUDA(cudaDeviceSynchronize());
}
