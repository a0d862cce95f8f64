// An uninitialised value goes through arithmetic, a store to shared memory and another warp before it is used.
// finding: uninitialised
// check: all
#include "../check.h"

__global__ void carry(float* out, const float* x, int n, bool fixed) {
    __shared__ float tile[64], next[64];
    const int t = threadIdx.x;
    if (t < n || fixed) tile[t] = x[t];
    __syncthreads();
    next[t] = 2 * tile[t] + 1;  // <- block 0, thread 50
    __syncthreads();
    const float other = next[63 - t];
    __syncthreads();
    next[t] = t > 32 ? 0 : other;
    __syncthreads();
    if (t < 32) out[t] = next[t] * next[63 - t];
}

int main(int argc, char**) {
    Device<float> x(whole_numbers(64)), out(32);
    carry<<<1, 64>>>(out, x, 50, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
