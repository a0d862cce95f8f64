// In a cooperative launch all warps but the last wait for a flag in shared memory, so every warp must get a turn.
#include <cooperative_groups.h>

#include "../check.h"

__global__ void relay(int* out) {
    __shared__ volatile int flag;
    if (threadIdx.x == 0) flag = 0;
    __syncthreads();
    if (threadIdx.x / 32 == blockDim.x / 32 - 1) {
        __threadfence_block();
        if (threadIdx.x % 32 == 0) flag = 41;
    } else
        while (flag == 0) {}
    __threadfence_block();
    if (threadIdx.x == 0) out[blockIdx.x] = flag + 1;
    cooperative_groups::this_grid().sync();
    if (threadIdx.x == 0) out[gridDim.x + blockIdx.x] = out[(blockIdx.x + 1) % gridDim.x];
}

int main() {
    constexpr int blocks = 2;
    Device<int> out(2 * blocks);
    int* to      = out;
    void* args[] = {&to};
    CUDA(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(relay), dim3(blocks), dim3(256), args, 0, nullptr));
    CUDA(cudaDeviceSynchronize());
    for (int x : out.host()) EXPECT(x == 42);
    std::puts("ok");
}
