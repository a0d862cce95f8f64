// Kernels whose checks once took too long. With --check all they may take at most three times as long as with memory.
// costs: calls, prints, shared_infos, global_infos, wmma
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
    CUDA(cudaDeviceSynchronize());
    std::puts("ok");
}
