// The last block has threads beyond the end of the array.
// finding: out of bounds
#include "../check.h"

__global__ void square(float* x, int n, bool fixed) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n || !fixed) x[i] = float(i) * float(i);  // <- block 3, thread 232
}

int main(int argc, char**) {
    const int n = 1000;
    Device<float> x(n);
    square<<<4, 256>>>(x, n, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
