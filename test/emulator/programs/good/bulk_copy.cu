// bulk_copy.cu - one thread copies a whole tile into shared memory and back. The mbarrier counts the bytes that arrive.
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

constexpr int N = 1024;

__global__ void add_one(float* out, const float* in) {
    __shared__ alignas(16) float tile[N];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        init_barrier(&full, 1);
        fence_async();  // so that the async proxy, which makes the copy, sees the barrier
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        arrive_expecting(&full, sizeof tile);
        load_bulk(tile, in + blockIdx.x * N, sizeof tile, &full);
    }
    wait(&full, 0);
    for (int k = threadIdx.x; k < N; k += blockDim.x) tile[k] += 1;
    fence_async();  // each thread orders its own writes before the copy that reads them
    __syncthreads();
    if (threadIdx.x == 0) {
        store_bulk(out + blockIdx.x * N, tile, sizeof tile);
        commit_bulk();
        wait_bulk();
    }
}

// Here the last warp stores the tile. The others arrive at a barrier without waiting, and end.
__global__ void add_two(float* out, const float* in) {
    __shared__ alignas(16) float tile[128];
    tile[threadIdx.x] = in[blockIdx.x * 128 + threadIdx.x] + 2;
    fence_async();
    asm volatile("bar.arrive 1, 160;" ::: "memory");
    if (threadIdx.x / 32 < 3) return;
    asm volatile("bar.sync 1, 160;" ::: "memory");
    if (!elect_one()) return;
    store_bulk(out + blockIdx.x * 128, tile, sizeof tile);
    commit_bulk();
    wait_bulk();
}

// All blocks add their tiles to the same numbers.
__global__ void add_up(float* sums, const float* in) {
    __shared__ alignas(16) float tile[128];
    tile[threadIdx.x] = in[blockIdx.x * 128 + threadIdx.x];
    fence_async();
    __syncthreads();
    if (threadIdx.x) return;
    add_bulk(sums, tile, sizeof tile);
    commit_bulk();
    wait_bulk();
}

int main() {
    const auto numbers = whole_numbers(4 * N);
    Device<float> in(numbers), out(4 * N);
    add_one<<<4, 128>>>(out, in);
    CUDA(cudaDeviceSynchronize());
    const auto got = out.host();
    for (int k = 0; k < 4 * N; k++) EXPECT(got[k] == numbers[k] + 1);
    add_two<<<4 * N / 128, 128>>>(out, in);
    CUDA(cudaDeviceSynchronize());
    const auto two = out.host();
    for (int k = 0; k < 4 * N; k++) EXPECT(two[k] == numbers[k] + 2);
    Device<float> sums(std::vector<float>(128, 1));
    add_up<<<32, 128>>>(sums, in);
    CUDA(cudaDeviceSynchronize());
    const auto added = sums.host();
    for (int k = 0; k < 128; k++) {
        float sum = 1;
        for (int b = 0; b < 32; b++) sum += numbers[b * 128 + k];
        EXPECT(added[k] == sum);
    }
    std::puts("ok");
}
