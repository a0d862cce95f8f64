// Two warps read a tile, the second one long after the first, and a third warp overwrites it when both have said that
// they have read it. The barriers are named ones, for some of the warps.
#include "../check.h"

__device__ void arrive(int barrier) { asm volatile("bar.arrive %0, 96;" ::"r"(barrier) : "memory"); }
__device__ void sync(int barrier) { asm volatile("bar.sync %0, 96;" ::"r"(barrier) : "memory"); }

__global__ void relay(int* out) {
    __shared__ int tile[32], numbers[32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int seen = 0;
    if (warp == 0) {
        tile[lane] = lane;
        arrive(1);  // the tile is full
        sync(2);    // the tile has been read
        tile[lane] = -1;
    } else {
        sync(1);
        int sum = 0;
        if (warp == 2) {
            numbers[lane] = lane;
            __syncwarp();
            for (int k = 0; k < 2000; k++) sum += numbers[(sum + k) & 31] + __shfl_xor_sync(~0u, sum, 1);
            sum &= 1;
        }
        seen = tile[lane] + sum;
        arrive(2);
    }
    __syncthreads();  // keeps all warps alive until then
    out[threadIdx.x] = seen;
}

int main() {
    Device<int> out(96);
    relay<<<1, 96>>>(out);
    CUDA(cudaDeviceSynchronize());
    const auto x = out.host();
    for (int t = 32; t < 64; t++) EXPECT(x[t] == t - 32);
    for (int t = 64; t < 96; t++) EXPECT(x[t] == t - 64 || x[t] == t - 63);
    std::puts("ok");
}
