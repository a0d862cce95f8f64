// scan.cu - prefix sums: Hillis-Steele in shared memory, Blelloch's, and by warp shuffles over many blocks
#include "../check.h"

constexpr int N = 512;

__global__ void hillis_steele(int* out, const int* in) {
    __shared__ int buffer[2][N];
    int side               = 0;
    buffer[0][threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    for (int step = 1; step < N; step *= 2) {
        const int x                   = buffer[side][threadIdx.x];
        buffer[1 - side][threadIdx.x] = threadIdx.x >= step ? x + buffer[side][threadIdx.x - step] : x;
        side                          = 1 - side;
        __syncthreads();
    }
    out[threadIdx.x] = buffer[side][threadIdx.x];
}

__global__ void blelloch(int* out, const int* in) {  // exclusive
    extern __shared__ int tree[];
    const int t     = threadIdx.x;
    tree[2 * t]     = in[2 * t];
    tree[2 * t + 1] = in[2 * t + 1];
    int offset      = 1;
    for (int d = N / 2; d > 0; d /= 2, offset *= 2) {
        __syncthreads();
        if (t < d) tree[offset * (2 * t + 2) - 1] += tree[offset * (2 * t + 1) - 1];
    }
    if (t == 0) tree[N - 1] = 0;
    for (int d = 1; d < N; d *= 2) {
        offset /= 2;
        __syncthreads();
        if (t < d) {
            const int a = offset * (2 * t + 1) - 1, b = offset * (2 * t + 2) - 1, left = tree[a];
            tree[a] = tree[b];
            tree[b] += left;
        }
    }
    __syncthreads();
    out[2 * t]     = tree[2 * t];
    out[2 * t + 1] = tree[2 * t + 1];
}

__device__ int warp_scan(int x) {
    for (int d = 1; d < 32; d *= 2) {
        const int y = __shfl_up_sync(~0u, x, d);
        if (threadIdx.x % 32 >= d) x += y;
    }
    return x;
}
__global__ void block_scan(int* out, int* sums, const int* in, int n) {
    __shared__ int warps[32];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    int x       = warp_scan(i < n ? in[i] : 0);
    if (threadIdx.x % 32 == 31) warps[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x < 32) warps[threadIdx.x] = warp_scan(threadIdx.x < blockDim.x / 32 ? warps[threadIdx.x] : 0);
    __syncthreads();
    if (threadIdx.x >= 32) x += warps[threadIdx.x / 32 - 1];
    if (i < n) out[i] = x;
    if (threadIdx.x == blockDim.x - 1) sums[blockIdx.x] = x;
}
__global__ void add_offsets(int* out, const int* sums, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (blockIdx.x > 0 && i < n) out[i] += sums[blockIdx.x - 1];
}

int main() {
    const int n = 20'000, blocks = (n + 511) / 512;
    std::vector<int> x(n), inclusive(n);
    for (int i = 0, sum = 0; i < n; i++) inclusive[i] = sum += x[i] = (i * 7919) % 23 - 11;
    Device<int> in(x), out(n), sums(blocks), scanned(blocks), unused(1);
    hillis_steele<<<1, N>>>(out, in);
    auto got = out.host();
    for (int i = 0; i < N; i++) EXPECT(got[i] == inclusive[i]);
    blelloch<<<1, N / 2, N * sizeof(int)>>>(out, in);
    got = out.host();
    for (int i = 0; i < N; i++) EXPECT(got[i] == inclusive[i] - x[i]);
    block_scan<<<blocks, 512>>>(out, sums, in, n);
    block_scan<<<1, 512>>>(scanned, unused, sums, blocks);
    add_offsets<<<blocks, 512>>>(out, scanned, n);
    got = out.host();
    for (int i = 0; i < n; i++) EXPECT(got[i] == inclusive[i]);
    CUDA(cudaGetLastError());
    std::puts("ok");
}
