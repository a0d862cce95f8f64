// All blocks read the whole table several times, while the last one changes a single word of it.
// finding: race between blocks
// check: all
#include "../check.h"

__global__ void sum(float* out, float* table, bool fixed) {
    float s = 0;
    for (int again = 0; again < 3; again++)
        for (int k = threadIdx.x; k < 256; k += blockDim.x) s += table[k];  // <-
    out[blockIdx.x * blockDim.x + threadIdx.x] = s;
    if (!fixed && blockIdx.x == gridDim.x - 1 && threadIdx.x == 5) table[77] = s;  // <-
}

int main(int argc, char**) {
    Device<float> table(std::vector<float>(256, 1.f)), out(4 * 64);
    sum<<<4, 64>>>(out, table, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
