// The warps of a warpgroup write a matrix and multiply it, with no barrier between. Of matrix A each warp reads its own
// 16 rows alone, so it must have written those. Matrix B is read by all.
// finding: shared-memory race or cp.async data before its wait
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: rows, both
#include "../hopper.h"

__global__ void product(float* out, const bf16* in, int shift, bool all, bool fixed) {
    __shared__ alignas(1024) bf16 a[64 * 64], b[64 * 64];
    for (int k = threadIdx.x; k < 64 * 64; k += 128) b[k] = in[k];  // <- both
    fence_async();
    if (!all) __syncthreads();
    for (int k = threadIdx.x % 32; k < 16 * 64; k += 32) {
        const int at = ((threadIdx.x / 32 + shift) % 4 * 16) * 64 + k;
        a[at]        = in[at];  // <- rows, both
    }
    fence_async();
    if (fixed) __syncthreads();
    float sum[32];
    fence_wgmma();
    multiply(sum, describe(a), describe(b), false);  // <- rows, both
    commit_wgmma();
    wait_wgmma();
    for (int k = 0; k < 32; k++) out[k * 128 + threadIdx.x] = sum[k];
}

int main(int argc, char** argv) {
    const auto numbers = whole_numbers(64 * 64);
    Device<bf16> in(std::vector<bf16>(numbers.begin(), numbers.end()));
    Device<float> out(64 * 64);
    product<<<1, 128>>>(out, in, argv[1][0] == 'r', argv[1][0] == 'b', argc > 2);
    CUDA(cudaDeviceSynchronize());
}
