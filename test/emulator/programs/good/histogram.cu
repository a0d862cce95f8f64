// histogram.cu - atomics on global and shared memory, and a warp that counts without atomics
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

// place[i] becomes the number of elements in data[0..i) with the value of data[i]. All lanes with a value read its
// count, and then the first of them adds their number.
__global__ void by_match(unsigned* counts, unsigned* place, const unsigned char* data, int n) {
    __shared__ unsigned own[bins];
    const unsigned lane = threadIdx.x;
    for (int b = lane; b < bins; b += 32) own[b] = 0;
    __syncwarp();
    for (int i = lane; i < n; i += 32) {  // n is a multiple of 32
        const int value      = data[i] % bins;
        const unsigned peers = __match_any_sync(~0u, value);
        place[i]             = own[value] + __popc(peers & ((1u << lane) - 1));
        __syncwarp();
        if (lane == __ffs(peers) - 1) own[value] += __popc(peers);
        __syncwarp();
    }
    for (int b = lane; b < bins; b += 32) counts[b] = own[b];
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

    const int whole = n / 32 * 32;
    Device<unsigned> place(whole);
    by_match<<<1, 32>>>(counts, place, in, whole);
    std::vector<unsigned> before(bins), expected_place;
    for (int i = 0; i < whole; i++) expected_place.push_back(before[data[i] % bins]++);
    EXPECT(counts.host() == before);
    EXPECT(place.host() == expected_place);
    CUDA(cudaGetLastError());
    std::puts("ok");
}
