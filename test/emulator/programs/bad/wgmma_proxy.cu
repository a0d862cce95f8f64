// wgmma reads what threads have written to shared memory, with no fence.proxy.async between.
// finding: missing proxy fence
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

__global__ void square(float* out, const bf16* in, bool fixed) {
    __shared__ alignas(1024) bf16 tile[64 * 64];
    for (int k = threadIdx.x; k < 64 * 64; k += 128) tile[k] = in[k];
    if (fixed) fence_async();
    __syncthreads();
    float sum[32];
    fence_wgmma();
    multiply(sum, describe(tile), describe(tile), false);  // <-
    commit_wgmma();
    wait_wgmma();
    for (int k = 0; k < 32; k++) out[k * 128 + threadIdx.x] = sum[k];
}

int main(int argc, char**) {
    const auto numbers = whole_numbers(64 * 64);
    Device<bf16> in(std::vector<bf16>(numbers.begin(), numbers.end()));
    Device<float> out(64 * 64);
    square<<<1, 128>>>(out, in, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
