// The warps of a warpgroup come to different products, or one of them to none.
// finding: barrier divergence
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: other, absent
#include "../hopper.h"

__global__ void square(float* out, const bf16* in, bool absent, bool fixed) {
    __shared__ alignas(1024) bf16 tile[64 * 64];
    for (int k = threadIdx.x; k < 64 * 64; k += 128) tile[k] = in[k];
    fence_async();
    __syncthreads();
    const int warp = threadIdx.x / 32;
    if (absent && !fixed && warp == 3) return;
    float sum[32];
    fence_wgmma();
    multiply(sum, describe(tile + (fixed || absent ? 0 : 16 * (warp / 2))), describe(tile), false);  // <- other
    commit_wgmma();
    wait_wgmma();  // <- absent
    for (int k = 0; k < 32; k++) out[k * 128 + threadIdx.x] = sum[k];
}

int main(int argc, char** argv) {
    const auto numbers = whole_numbers(64 * 64);
    Device<bf16> in(std::vector<bf16>(numbers.begin(), numbers.end()));
    Device<float> out(64 * 64);
    square<<<1, 128>>>(out, in, argv[1][0] == 'a', argc > 2);
    CUDA(cudaDeviceSynchronize());
}
