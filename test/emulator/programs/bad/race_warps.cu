// Warps of one block race in global memory: two write a word, one reads what another writes, one sums up.
// finding: race between warps
// check: all
// cases: write, hand_over, sum
#include "../check.h"

__global__ void write(float* p, bool fixed) {
    if (!fixed || threadIdx.x < 32) p[threadIdx.x % 32] = float(threadIdx.x);  // <-
}
__global__ void hand_over(float* p, float* q, bool fixed) {
    p[threadIdx.x] = float(threadIdx.x);  // <-
    if (fixed) __syncthreads();
    q[threadIdx.x] = p[blockDim.x - 1 - threadIdx.x];  // <-
}
__global__ void sum(float* p, float* q, bool fixed) {
    if (threadIdx.x % 32 == 0) p[threadIdx.x / 32] = float(threadIdx.x);  // <-
    if (fixed) __syncthreads();
    if (threadIdx.x == 0) *q = p[0] + p[1] + p[2] + p[3];  // <-
}

int main(int argc, char** argv) {
    const std::string which = argv[1];
    const bool fixed        = argc > 2;
    Device<float> p(128), q(128);
    if (which == "write") write<<<1, 128>>>(p, fixed);
    if (which == "hand_over") hand_over<<<1, 128>>>(p, q, fixed);
    if (which == "sum") sum<<<1, 128>>>(p, q, fixed);
    CUDA(cudaDeviceSynchronize());
}
