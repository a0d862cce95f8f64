// histogram.cu - atomics on global and on shared memory
#include "../check.h"

constexpr int bins = 64;

__global__ void global_atomics(unsigned* counts, const unsigned char* data, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(&counts[data[i] % bins], 1u);
}

__global__ void shared_atomics(unsigned* counts, const unsigned char* data, int n) {
    __shared__ unsigned own[bins];
    for (int b = threadIdx.x; b < bins; b += blockDim.x) own[b] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(&own[data[i] % bins], 1u);
    __syncthreads();
    for (int b = threadIdx.x; b < bins; b += blockDim.x) atomicAdd(&counts[b], own[b]);
}

int main() {
    const int n = 25'000;
    std::vector<unsigned char> data(n);
    std::vector<unsigned> expected(bins);
    unsigned seed = 7;
    for (auto& d : data) expected[(d = (seed = seed * 1664525u + 1013904223u) >> 24) % bins]++;
    Device<unsigned char> in(data);
    Device<unsigned> counts(bins);
    CUDA(cudaMemset(counts, 0, bins * 4));
    global_atomics<<<13, 128>>>(counts, in, n);
    EXPECT(counts.host() == expected);
    CUDA(cudaMemset(counts, 0, bins * 4));
    shared_atomics<<<13, 128>>>(counts, in, n);
    EXPECT(counts.host() == expected);
    CUDA(cudaGetLastError());
    std::puts("ok");
}
