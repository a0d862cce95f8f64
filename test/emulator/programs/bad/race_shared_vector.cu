// Vectors are written to shared memory lane after lane and read as single floats by columns; in the second round a
// barrier is missing.
// finding: shared-memory race
// check: all
#include "../check.h"

__global__ void columns(float* out, const float4* in, bool fixed) {
    __shared__ float4 tile[64];
    const float* words = reinterpret_cast<const float*>(tile);
    float s            = 0;
    for (int round = 0; round < 2; round++) {
        tile[threadIdx.x] = in[round * 64 + threadIdx.x];  // <-
        __syncthreads();
        for (int again = 0; again < 2; again++) s += words[threadIdx.x * 2 % 64 * 4 + threadIdx.x / 32];  // <-
        if (fixed) __syncthreads();
    }
    out[threadIdx.x] = s;
}

int main(int argc, char**) {
    std::vector<float> numbers(512);
    for (int k = 0; k < 512; k++) numbers[k] = float(k);
    Device<float> in(numbers), out(64);
    columns<<<1, 64>>>(out, reinterpret_cast<const float4*>(in.data), argc > 1);
    CUDA(cudaDeviceSynchronize());
}
