// Correct things that block libraries do: they exchange tiles that are partly uninitialised, copy structures with
// padding, store one value with all lanes, poll for other warps, and use alloca.
#include <alloca.h>
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>

#include "../check.h"

namespace cg = cooperative_groups;

// Each thread loads two adjacent elements if they exist, and gets two that are 128 elements apart.
__global__ void exchange(float* out, const float* x, int n) {
    __shared__ float tile[256];
    float mine[2];
    for (int k = 0; k < 2; k++)
        if (int(threadIdx.x) * 2 + k < n) mine[k] = x[threadIdx.x * 2 + k];
    for (int k = 0; k < 2; k++) tile[threadIdx.x * 2 + k] = mine[k];
    __syncthreads();
    for (int k = 0; k < 2; k++) mine[k] = tile[threadIdx.x + k * 128];
    for (int k = 0; k < 2; k++)
        if (int(threadIdx.x) + k * 128 < n) out[threadIdx.x + k * 128] = mine[k];
}

struct Padded {
    int key;
    long long value;
};
__global__ void fill(Padded* p) {
    p[threadIdx.x].key   = int(threadIdx.x);
    p[threadIdx.x].value = threadIdx.x * 3ll;
}
__global__ void reverse(Padded* to, const Padded* from, int n) { to[threadIdx.x] = from[n - 1 - threadIdx.x]; }

__global__ void any_above(int* found, const float* x, float limit) {
    __shared__ int any;
    any = 0;  // all threads store the same value
    __syncthreads();
    if (x[threadIdx.x] > limit) any = 1;
    __syncthreads();
    if (threadIdx.x == 0) *found = any;
}

__global__ void tiles(int* sums) {
    __shared__ cg::block_tile_memory<256> memory;
    const auto tile = cg::tiled_partition<128>(cg::this_thread_block(memory));
    const int sum   = cg::reduce(tile, int(threadIdx.x), cg::plus<int>());
    if (tile.thread_rank() == 0) sums[tile.meta_group_rank()] = sum;
}

__global__ void scratch(int* out, int n) {
    int* mine = static_cast<int*>(alloca(n * sizeof(int)));
    for (int k = 0; k < n; k++) mine[k] = k * int(threadIdx.x);
    int sum = 0;
    for (int k = n; k-- > 0;) sum += mine[k];
    out[threadIdx.x] = sum;
}

__global__ void divide(unsigned long long* out) {
    const __int128 x = __int128(threadIdx.x + 1) << 90;
    out[threadIdx.x] = (unsigned long long)((x / 7) >> 40);
}

int main() {
    const int n = 201;
    Device<float> x(whole_numbers(n)), y(n);
    exchange<<<1, 128>>>(y, x, n);
    EXPECT(y.host() == x.host());

    Device<Padded> p(64), q(64);
    fill<<<1, 64>>>(p);
    reverse<<<1, 64>>>(q, p, 64);
    const auto r = q.host();
    for (int i = 0; i < 64; i++) EXPECT(r[i].key == 63 - i && r[i].value == (63 - i) * 3ll);

    Device<int> out(256);
    any_above<<<1, 128>>>(out, x, -1e9f);
    EXPECT(out.host()[0] == 1);
    tiles<<<1, 256>>>(out);
    EXPECT(out.host()[0] == 127 * 64 && out.host()[1] == 127 * 64 + 128 * 128);
    scratch<<<1, 256>>>(out, 10);
    EXPECT(out.host()[5] == 225);
    Device<unsigned long long> wide(32);
    divide<<<1, 32>>>(wide);
    for (int i = 0; i < 32; i++) EXPECT(wide.host()[i] == (unsigned long long)(((__int128(i + 1) << 90) / 7) >> 40));
    std::puts("ok");
}
