// A product is added to sums that were never set, or multiplies a matrix of which a part was never written.
// finding: uninitialised
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: sums, matrix
#include "../hopper.h"

__global__ void square(float* out, const bf16* in, bool sums, bool fixed) {
    __shared__ alignas(1024) bf16 tile[64 * 64];
    const int elements = sums || fixed ? 64 * 64 : 64 * 64 - 1;
    for (int k = threadIdx.x; k < elements; k += 128) tile[k] = in[k];
    fence_async();
    __syncthreads();
    float sum[32];
    fence_wgmma();
    for (int k = 0; k < 64; k += 16)
        multiply(sum, describe(tile + k), describe(tile + k), k > 0 || (sums && !fixed));  // <-
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
