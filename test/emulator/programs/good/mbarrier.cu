// Barriers in shared memory (cuda::barrier): with an asynchronous copy, with many phases, with threads that drop out,
// and between warps that fill buffers and warps that read them. Lanes of one warp that do both wait for each other,
// too.
#include <cooperative_groups.h>

#include <cuda/barrier>
#include <cuda/pipeline>

#include "../check.h"

using Barrier = cuda::barrier<cuda::thread_scope_block>;
#pragma nv_diag_suppress static_var_with_dynamic_init

__global__ void rotate(int* out, const int4* in, int rounds) {
    __shared__ Barrier barrier;
    __shared__ int4 row[256];
    const int t = threadIdx.x, n = blockDim.x;
    if (t == 0) init(&barrier, n);
    __syncthreads();
    cuda::memcpy_async(&row[t], &in[t], cuda::aligned_size_t<16>(16), barrier);
    barrier.arrive_and_wait();
    int sum = 0;
    for (int round = 0; round < rounds; round++) {
        const int next = row[(t + 1) % n].x;
        barrier.arrive_and_wait();
        row[t].x   = next + round;
        auto token = barrier.arrive();
        sum += round;
        barrier.wait(std::move(token));
    }
    out[t] = row[t].x + sum;
    if (t >= n / 2) {  // the other half goes on alone
        barrier.arrive_and_drop();
        return;
    }
    barrier.arrive_and_wait();
    row[t].y = t;
    barrier.arrive_and_wait();
    out[t] += row[n / 2 - 1 - t].y;
}

// The first warp fills the two buffers, and the other warps read them.
__global__ void fill_and_sum(int* out, const int* in, int rounds) {
    __shared__ Barrier full[2], empty[2];
    __shared__ int buffers[2][64];
    const int t = threadIdx.x, readers = blockDim.x - 32;
    if (t < 2) init(&full[t], blockDim.x), init(&empty[t], blockDim.x);
    __syncthreads();
    if (t < 32) {
        for (int round = 0; round < rounds; round++) {
            empty[round % 2].arrive_and_wait();
            for (int k = t; k < 64; k += 32) buffers[round % 2][k] = in[k] + round;
            (void)full[round % 2].arrive();
        }
        return;
    }
    int sum = 0;
    for (auto& barrier : empty) (void)barrier.arrive();
    for (int round = 0; round < rounds; round++) {
        full[round % 2].arrive_and_wait();
        for (int k = t - 32; k < 64; k += readers) sum += buffers[round % 2][k];
        (void)empty[round % 2].arrive();
    }
    out[t - 32] = sum;
}

// Every fourth lane copies into the two buffers, and the others read them, by a pipeline whose waits are such barriers.
__global__ void roles_in_a_warp(int* out, const int* in, int rounds) {
    __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state;
    __shared__ int buffers[2][64];
    const int t        = threadIdx.x;
    const bool copies  = t % 4 == 0;
    constexpr auto put = cuda::pipeline_role::producer, take = cuda::pipeline_role::consumer;
    auto pipe = cuda::make_pipeline(cooperative_groups::this_thread_block(), &state, copies ? put : take);
    int sum   = 0;
    for (int round = 0; round < rounds; round++) {
        int* buffer = buffers[round % 2];
        if (copies) {
            pipe.producer_acquire();
            for (int k = t / 4; k < 64; k += blockDim.x / 4) cuda::memcpy_async(&buffer[k], &in[k], sizeof(int), pipe);
            pipe.producer_commit();
        } else {
            pipe.consumer_wait();
            sum += buffer[t % 64];
            pipe.consumer_release();
        }
    }
    out[t] = sum;
}

int main() {
    const int n = 256, rounds = 5;
    std::vector<int> numbers(4 * n);
    for (int k = 0; k < 4 * n; k++) numbers[k] = k;
    Device<int> in(numbers), out(n);
    rotate<<<1, n>>>(out, reinterpret_cast<const int4*>(in.data), rounds);
    CUDA(cudaDeviceSynchronize());
    const std::vector<int> got = out.host();
    bool good                  = true;
    for (int t = 0; t < n; t++) good &= got[t] == 4 * ((t + rounds) % n) + 10 + 10 + (t < n / 2 ? n / 2 - 1 - t : 0);
    fill_and_sum<<<1, 96>>>(out, in, rounds);  // in[k] is k, and readers 0 to 63 have one element each
    CUDA(cudaDeviceSynchronize());
    const std::vector<int> sums = out.host();
    for (int t = 0; t < 64; t++) good &= sums[t] == rounds * t + 10;
    roles_in_a_warp<<<1, n>>>(out, in, rounds);
    CUDA(cudaDeviceSynchronize());
    const std::vector<int> taken = out.host();
    for (int t = 0; t < n; t++) good &= taken[t] == (t % 4 == 0 ? 0 : rounds * (t % 64));
    std::puts(good ? "ok" : "wrong");
    return !good;
}
