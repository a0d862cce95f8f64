// A product is added to sums that were never set, or multiplies a matrix of which a part was never written. In the case
// "rows" only the last warp reads this part.
// finding: uninitialised
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: sums, matrix, rows
#include "../hopper.h"

__global__ void square(float* out, const bf16* in, const char which, bool fixed) {
    __shared__ alignas(1024) bf16 tile[64 * 64], left[64 * 64];
    const int elements = which != 'm' || fixed ? 64 * 64 : 64 * 64 - 1;
    const int lefts    = which != 'r' || fixed ? 64 * 64 : 64 * 64 - 1;
    for (int k = threadIdx.x; k < elements; k += 128) tile[k] = in[k];
    for (int k = threadIdx.x; k < lefts; k += 128) left[k] = in[k];
    fence_async();
    __syncthreads();
    float sum[32];
    fence_wgmma();
    for (int k = 0; k < 64; k += 16)
        multiply(sum, describe(left + k), describe(tile + k), k > 0 || (which == 's' && !fixed));  // <-
    commit_wgmma();
    wait_wgmma();
    for (int k = 0; k < 32; k++) out[k * 128 + threadIdx.x] = sum[k];
}

int main(int argc, char** argv) {
    const auto numbers = whole_numbers(64 * 64);
    Device<bf16> in(std::vector<bf16>(numbers.begin(), numbers.end()));
    Device<float> out(64 * 64);
    square<<<1, 128>>>(out, in, argv[1][0], argc > 2);
    CUDA(cudaDeviceSynchronize());
}
