// Barriers in shared memory (cuda::barrier): with an asynchronous copy, with many phases, with threads that drop out.
#include <cuda/barrier>

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
    std::puts(good ? "ok" : "wrong");
    return !good;
}
