// A descriptor names more shared memory than the block has, or has bits that must be zero: the address was not divided.
// finding: out of bounds
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: stride, bits
#include "../hopper.h"

__global__ void square(float* out, const bf16* in, bool stride, bool fixed) {
    __shared__ alignas(1024) bf16 tile[64 * 64];
    for (int k = threadIdx.x; k < 64 * 64; k += 128) tile[k] = in[k];
    fence_async();
    __syncthreads();
    uint64_t wrong = describe(tile);
    if (!fixed) wrong += stride ? 64ull << 32 : 1ull << 15;
    float sum[32];
    fence_wgmma();
    multiply(sum, describe(tile), wrong, false);  // <-
    commit_wgmma();
    wait_wgmma();
    for (int k = 0; k < 32; k++) out[k * 128 + threadIdx.x] = sum[k];
}

int main(int argc, char** argv) {
    const auto numbers = whole_numbers(64 * 64);
    Device<bf16> in(std::vector<bf16>(numbers.begin(), numbers.end()));
    Device<float> out(64 * 64);
    square<<<1, 128>>>(out, in, argv[1][0] == 's', argc > 2);
    CUDA(cudaDeviceSynchronize());
}
