// In a cluster the highest byte of an address in shared memory has to do with the block's rank. A matrix descriptor
// that is made of the whole address has it in its next field, the distance of chunks along K.
// finding: uninitialised
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

__global__ void __cluster_dims__(2, 1, 1) square(float* out, const bf16* in, bool fixed) {
    __shared__ alignas(1024) bf16 a[64 * 64], b[2][64 * 16];
    for (int k = threadIdx.x; k < 64 * 64; k += 128) a[k] = in[k];
    for (int k = threadIdx.x; k < 64 * 16; k += 128) b[0][k] = in[k];
    fence_async();
    __syncthreads();
    // Without a swizzle: 8 rows of 16 bytes follow each other, then those of the next 8 rows, then those further along
    // K.
    const uint32_t address = shared_address(b[0]);
    const uint64_t matrix =
        uint64_t((fixed ? address & 0x3ffff : address) >> 4) | uint64_t(1024 >> 4) << 16 | uint64_t(128 >> 4) << 32;
    float sum[32];
    fence_wgmma();
    multiply(sum, describe(a), matrix, false);  // <-
    commit_wgmma();
    wait_wgmma();
    for (int k = 0; k < 32; k++) out[(blockIdx.x * 32 + k) * 128 + threadIdx.x] = sum[k];
}

int main(int argc, char**) {
    const auto numbers = whole_numbers(64 * 64);
    Device<bf16> in(std::vector<bf16>(numbers.begin(), numbers.end()));
    Device<float> out(2 * 64 * 64);
    square<<<2, 128>>>(out, in, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
