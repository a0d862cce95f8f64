// Each block writes a row of 33 floats and one element more. The rows begin inside of the lines of 64 bytes that have
// records in the checker.
// finding: race between blocks
// check: all
#include "../check.h"

__global__ void fill(float* rows, int width, bool fixed) {
    for (int k = threadIdx.x; k < width + !fixed; k += blockDim.x)
        rows[blockIdx.x * width + k] = float(blockIdx.x * 1000 + k);  // <-
}

int main(int argc, char**) {
    constexpr int kWidth = 33, kRows = 8;
    Device<float> rows(kWidth * kRows + 1);
    fill<<<kRows, 32>>>(rows, kWidth, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
