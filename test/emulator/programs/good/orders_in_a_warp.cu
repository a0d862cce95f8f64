// Lanes of one warp can also be ordered without __syncwarp: by a fence and an atomic, by cuda::atomic_ref, and by
// cuda::barrier and cuda::pipeline when lanes have different roles.
#include <cooperative_groups.h>

#include <cuda/atomic>
#include <cuda/barrier>
#include <cuda/pipeline>

#include "../check.h"

template <bool Library> __global__ void last_arrival(float* out) {
    __shared__ float s[64];
    __shared__ unsigned count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    s[threadIdx.x] = threadIdx.x;
    unsigned before;
    if (Library) {
        before = cuda::atomic_ref<unsigned, cuda::thread_scope_block>(count).fetch_add(1, cuda::memory_order_acq_rel);
    } else {
        __threadfence_block();
        before = atomicAdd(&count, 1u);
        __threadfence_block();
    }
    if (before != 63) return;
    float sum = 0;
    for (int i = 0; i < 64; i++) sum += s[i];
    *out = sum;
}

__global__ void barrier_of_roles(float* out) {
    __shared__ float s[16];
    __shared__ cuda::barrier<cuda::thread_scope_block> full;
    if (threadIdx.x == 0) init(&full, 32);
    __syncthreads();
    if (threadIdx.x % 2) {
        s[threadIdx.x / 2] = threadIdx.x;
        (void)full.arrive();
    } else {
        full.arrive_and_wait();
        out[threadIdx.x / 2] = s[15 - threadIdx.x / 2];
    }
}

__global__ void pipeline_of_roles(float* out, const float* in) {
    constexpr auto scope = cuda::thread_scope_block;
    __shared__ float s[2][32];
    __shared__ cuda::pipeline_shared_state<scope, 2> state;
    const auto block = cooperative_groups::this_thread_block();
    const auto role  = threadIdx.x % 2 ? cuda::pipeline_role::producer : cuda::pipeline_role::consumer;
    auto pipe        = cuda::make_pipeline(block, &state, role);
    if (role == cuda::pipeline_role::producer)
        for (int k = 0; k < 6; k++) {
            pipe.producer_acquire();
            cuda::memcpy_async(&s[k % 2][threadIdx.x / 2], in + k * 32 + threadIdx.x / 2, sizeof(float), pipe);
            pipe.producer_commit();
        }
    else
        for (int k = 0; k < 6; k++) {
            pipe.consumer_wait();
            out[k * 32 + threadIdx.x / 2] = s[k % 2][31 - threadIdx.x / 2];
            pipe.consumer_release();
        }
}

int main() {
    const auto in = whole_numbers(192);
    Device<float> out(192), from(in);
    last_arrival<false><<<1, 64>>>(out);
    EXPECT(out.host()[0] == 2016);
    last_arrival<true><<<1, 64>>>(out);
    EXPECT(out.host()[0] == 2016);
    barrier_of_roles<<<1, 32>>>(out);
    for (int i = 0; i < 16; i++) EXPECT(out.host()[i] == 2 * (15 - i) + 1);
    pipeline_of_roles<<<1, 64>>>(out, from);
    for (int k = 0; k < 6; k++)
        for (int i = 0; i < 32; i++) EXPECT(out.host()[k * 32 + i] == in[k * 32 + 31 - i]);
    std::puts("ok");
}
