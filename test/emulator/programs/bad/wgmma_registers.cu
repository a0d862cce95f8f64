// Registers of a wgmma are used before the wait for it, or with no wgmma.fence.
// finding: wgmma registers in use
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: read, fence, open, group
#include "../hopper.h"

__global__ void square(float* out, const bf16* in, const char which, bool fixed) {
    __shared__ alignas(1024) bf16 tile[64 * 64];
    for (int k = threadIdx.x; k < 64 * 64; k += 128) tile[k] = in[k];
    fence_async();
    __syncthreads();
    float sum[32], next[32];
    for (int k = 0; k < 32; k++) sum[k] = out[k * 128 + threadIdx.x];
    if (which != 'f' || fixed) fence_wgmma();
    multiply(sum, describe(tile), describe(tile), true);  // <- fence
    commit_wgmma();
    if (which != 'r' || fixed) wait_wgmma();
    for (int k = 0; k < 32; k++) out[k * 128 + threadIdx.x] = sum[k];  // <- read
    wait_wgmma();
    fence_wgmma();
    multiply(sum, describe(tile), describe(tile), false);  // <- open
    commit_wgmma();
    multiply(next, describe(tile), describe(tile), false);
    commit_wgmma();
    if (which == 'o' && !fixed) return;
    wait_wgmma<1>();  // the sums of the first group are there
    if (which != 'g' || fixed) wait_wgmma();
    for (int k = 0; k < 32; k++) out[k * 128 + threadIdx.x] = next[k];  // <- group
    wait_wgmma();
}

int main(int argc, char** argv) {
    const auto numbers = whole_numbers(64 * 64);
    Device<bf16> in(std::vector<bf16>(numbers.begin(), numbers.end()));
    Device<float> out(numbers);
    square<<<1, 128>>>(out, in, argv[1][0], argc > 2);
    CUDA(cudaDeviceSynchronize());
}
