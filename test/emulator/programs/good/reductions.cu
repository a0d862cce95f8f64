// reductions.cu - six ways to add up an array
#include <cooperative_groups.h>

#include "../check.h"
namespace cg = cooperative_groups;

constexpr int threads = 256;

// 1. Interleaved: half of the remaining threads of every warp idle.
__global__ void interleaved(float* out, const float* in, int n) {
    __shared__ float part[threads];
    const int i       = blockIdx.x * threads + threadIdx.x;
    part[threadIdx.x] = i < n ? in[i] : 0;
    __syncthreads();
    for (int step = 1; step < threads; step *= 2) {
        if (threadIdx.x % (2 * step) == 0) part[threadIdx.x] += part[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = part[0];
}

// 2. Sequential addressing: whole warps retire.
__global__ void sequential(float* out, const float* in, int n) {
    __shared__ float part[threads];
    const int i       = blockIdx.x * threads + threadIdx.x;
    part[threadIdx.x] = i < n ? in[i] : 0;
    for (int half = threads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) out[blockIdx.x] = part[0];
}

// 3. Shuffles inside the warp, shared memory between warps.
__device__ float warp_sum(float x) {
    for (int lane = 16; lane > 0; lane /= 2) x += __shfl_down_sync(~0u, x, lane);
    return x;
}
__global__ void shuffles(float* out, const float* in, int n) {
    __shared__ float part[threads / 32];
    float sum = 0;
    for (int i = blockIdx.x * threads + threadIdx.x; i < n; i += gridDim.x * threads) sum += in[i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = warp_sum(threadIdx.x < threads / 32 ? part[threadIdx.x] : 0);
        if (threadIdx.x == 0) out[blockIdx.x] = sum;
    }
}

// 4. One atomic per warp.
__global__ void atomics(float* out, const float* in, int n) {
    const int i     = blockIdx.x * threads + threadIdx.x;
    const float sum = warp_sum(i < n ? in[i] : 0);
    if (threadIdx.x % 32 == 0) atomicAdd(out, sum);
}

// 5. Cooperative groups: a tile of 16 threads.
__global__ void tiles(float* out, const float* in, int n) {
    auto tile   = cg::tiled_partition<16>(cg::this_thread_block());
    const int i = blockIdx.x * threads + threadIdx.x;
    float sum   = i < n ? in[i] : 0;
    for (int lane = 8; lane > 0; lane /= 2) sum += tile.shfl_xor(sum, lane);
    if (tile.thread_rank() == 0) atomicAdd(out, sum);
}

// 6. The last block to finish adds the blocks' sums: one launch, no atomics on floats, always the same order.
__device__ unsigned int finished;
__global__ void last_block(float* out, float* partial, const float* in, int n) {
    __shared__ float part[threads];
    __shared__ bool last;
    float sum = 0;
    for (int i = blockIdx.x * threads + threadIdx.x; i < n; i += gridDim.x * threads) sum += in[i];
    part[threadIdx.x] = sum;
    for (int half = threads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = part[0];
        __threadfence();
        last = atomicInc(&finished, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last || threadIdx.x != 0) return;
    __threadfence();
    float total = 0;
    for (int b = 0; b < gridDim.x; b++) total += ((volatile float*)partial)[b];
    *out = total;
}

int main() {
    const int n = 30'011, blocks = (n + threads - 1) / threads;
    const auto x   = whole_numbers(n);
    float expected = 0;
    for (float v : x) expected += v;
    Device<float> in(x), out(blocks), partial(blocks);
    auto total = [&](int count) {
        const auto parts = out.host();
        float sum        = 0;
        for (int i = 0; i < count; i++) sum += parts[i];
        return sum;
    };
    interleaved<<<blocks, threads>>>(out, in, n);
    EXPECT(total(blocks) == expected);
    sequential<<<blocks, threads>>>(out, in, n);
    EXPECT(total(blocks) == expected);
    shuffles<<<7, threads>>>(out, in, n);
    EXPECT(total(7) == expected);
    CUDA(cudaMemset(out, 0, 4));
    atomics<<<blocks, threads>>>(out, in, n);
    EXPECT(total(1) == expected);
    CUDA(cudaMemset(out, 0, 4));
    tiles<<<blocks, threads>>>(out, in, n);
    EXPECT(total(1) == expected);
    for (int again = 0; again < 2; again++) {
        last_block<<<9, threads>>>(out, partial, in, n);
        EXPECT(total(1) == expected);
    }
    CUDA(cudaGetLastError());
    std::puts("ok");
}
