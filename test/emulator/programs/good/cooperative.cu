// cooperative.cu - a reduction in one launch with grid.sync()
#include <cooperative_groups.h>

#include "../check.h"
namespace cg = cooperative_groups;

__global__ void reduce(float* sums, const float* in, int n) {
    cg::grid_group grid = cg::this_grid();
    __shared__ float part[128];
    float sum = 0;
    for (int i = grid.thread_rank(); i < n; i += grid.size()) sum += in[i];
    part[threadIdx.x] = sum;
    for (int half = 64; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = part[0];
    for (int half = gridDim.x / 2; half > 0; half /= 2) {  // a tree over the blocks
        grid.sync();
        if (threadIdx.x == 0 && blockIdx.x < half) sums[blockIdx.x] += sums[blockIdx.x + half];
    }
}

int main() {
    const int n = 10'000, blocks = 8;
    const auto x   = whole_numbers(n);
    float expected = 0;
    for (float v : x) expected += v;
    Device<float> in(x), sums(blocks);
    float* sums_pointer     = sums;
    const float* in_pointer = in;
    int count               = n;
    void* args[]            = {&sums_pointer, &in_pointer, &count};
    CUDA(cudaLaunchCooperativeKernel((const void*)reduce, dim3(blocks), dim3(128), args, 0, nullptr));
    EXPECT(sums.host()[0] == expected);

    int per_sm = 0, sms = 0;
    CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, reduce, 128, 0));
    CUDA(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    const cudaError_t error =
        cudaLaunchCooperativeKernel((const void*)reduce, dim3(per_sm * sms + 1), dim3(128), args, 0, nullptr);
    EXPECT(error == cudaErrorCooperativeLaunchTooLarge);
    cudaGetLastError();
    std::puts("ok");
}
