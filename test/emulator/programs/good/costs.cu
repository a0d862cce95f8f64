// Kernels whose checks once took too long. With --check all they may take at most three times as long as with memory.
// costs: calls, prints, shared_infos, global_infos, wmma, mbarriers, one_works, sums, updates
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_fp16.h>
#include <mma.h>

#include <cassert>
#include <cuda/barrier>

#include "../check.h"

__global__ void calls(float* p, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    assert(n > 0);
    if (i < n) p[i] += 1.0f;
}
__global__ void prints(float* p, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) std::printf("%d of %d\n", i, n);
    p[i % n] = p[i % n] * 0.5f + 1.0f;
}
__global__ void shared_infos(float* p, int n) {
    __shared__ float s[32];
    for (int i = 0; i < n; i++) s[(threadIdx.x + i) % 32] = 1.0f;
    __syncthreads();
    p[blockIdx.x] = s[0];
}
__global__ void global_infos(float* p, int n) {
    for (int i = 0; i < n; i++) p[(threadIdx.x + i) % 32] = 1.0f;
}
__global__ void products(const half* a, const half* b, float* c, int n) {
    using namespace nvcuda::wmma;
    fragment<accumulator, 16, 16, 16, float> sum;
    fill_fragment(sum, 0.0f);
    for (int i = 0; i < n; i++) {
        fragment<matrix_a, 16, 16, 16, half, row_major> left;
        fragment<matrix_b, 16, 16, 16, half, col_major> right;
        load_matrix_sync(left, a, 16), load_matrix_sync(right, b, 16);
        mma_sync(sum, left, right, sum);
    }
    store_matrix_sync(c + blockIdx.x * 256, sum, 16, mem_row_major);
}
__global__ void mbarriers(float* p, int n) {
    __shared__ cuda::barrier<cuda::thread_scope_block> all;
    if (threadIdx.x == 0) init(&all, blockDim.x);
    __syncthreads();
    for (int i = 0; i < n; i++) all.arrive_and_wait();
    p[blockIdx.x * blockDim.x + threadIdx.x] = float(n);
}
__global__ void one_works(float* p, int n) {  // the others wait for one warp
    __shared__ cuda::barrier<cuda::thread_scope_block> all;
    __shared__ float s[32];
    if (threadIdx.x == 0) init(&all, blockDim.x);
    if (threadIdx.x < 32) s[threadIdx.x] = 0;
    __syncthreads();
    for (int i = 0; i < n; i++) {
        if (threadIdx.x < 32)
            for (int k = 0; k < 100; k++) s[threadIdx.x] += 1.0f;
        all.arrive_and_wait();
    }
    p[blockIdx.x * blockDim.x + threadIdx.x] = s[threadIdx.x % 32];
}
// The next two are what a plain trainer's kernels do: reductions of groups, and sums by atomics in both memories.
__global__ void sums(float* p, int n) {
    namespace cg = cooperative_groups;
    __shared__ float s[32];
    const auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    for (int i = 0; i < n; i++) {
        const float part =
            cg::reduce(warp, p[(blockIdx.x * blockDim.x + threadIdx.x + i) % (1 << 18)], cg::plus<float>{});
        if (warp.thread_rank() == 0) s[warp.meta_group_rank()] = part;
        __syncthreads();
        const float mine = warp.thread_rank() < warp.meta_group_size() ? s[warp.thread_rank()] : 0.0f;
        const float all  = cg::reduce(warp, mine, cg::plus<float>{});
        __syncthreads();
        if (all < 0) p[threadIdx.x] = all;
    }
}
__global__ void updates(float* p, int n) {
    __shared__ float s[256];
    s[threadIdx.x] = 0;
    __syncthreads();
    for (int i = 0; i < n; i++) atomicAdd(&s[(threadIdx.x + i) % 256], 1.0f);
    __syncthreads();
    for (int i = 0; i < n; i++) atomicAdd(&p[(threadIdx.x + 32 * i) % 4096], s[threadIdx.x]);
}

int main(int argc, char** argv) {
    const std::string which = argc > 1 ? argv[1] : "";
    const int n = 1 << 18, some = argc > 1 ? 1 : 0;  // without an argument all kernels run with small sizes
    Device<float> p(std::vector<float>(n, 1.0f));
    Device<half> a(std::vector<half>(256)), b(std::vector<half>(256));
    const auto runs = [&](const char* name) { return which.empty() || which == name; };
    if (runs("calls")) calls<<<some ? n / 1024 : 2, 1024>>>(p, n);
    if (runs("prints")) prints<<<some ? n / 1024 : 2, 1024>>>(p, n);
    if (runs("shared_infos")) shared_infos<<<some ? 2000 : 2, 256>>>(p, some ? 50 : 2);
    if (runs("global_infos")) global_infos<<<some ? 200 : 2, 256>>>(p, some ? 50 : 2);
    if (runs("wmma")) products<<<some ? 64 : 2, 32>>>(a, b, p, some ? 400 : 2);
    if (runs("mbarriers")) mbarriers<<<some ? 40 : 2, 256>>>(p, some ? 100 : 2);
    if (runs("one_works")) one_works<<<some ? 10 : 2, 256>>>(p, some ? 40 : 2);
    if (runs("sums")) sums<<<some ? 200 : 2, 256>>>(p, some ? 50 : 2);
    if (runs("updates")) updates<<<some ? 200 : 2, 256>>>(p, some ? 50 : 2);
    CUDA(cudaDeviceSynchronize());
    std::puts("ok");
}
