// The reduction of a bulk copy is atomic, so blocks may add to the same place. But it does not tell a block what others
// have written before theirs.
// finding: race between blocks
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: handed, plain
#include "../hopper.h"

__global__ void count(float* sum, float* x, bool handed, bool fixed) {
    __shared__ alignas(16) float one[4];
    if (threadIdx.x) return;
    for (float& v : one) v = 1;
    if (handed && blockIdx.x == 0) {
        *x = 5;  // <- handed
        __threadfence();
    }
    if (!handed && !fixed && blockIdx.x == 1) {
        sum[1] = 3;  // <- plain
        return;
    }
    fence_async();
    add_bulk(sum, one, sizeof one);  // <- plain
    commit_bulk();
    wait_bulk();
    if (handed && !fixed && blockIdx.x == 1) sum[4] = *x;  // <- handed
}

int main(int argc, char** argv) {
    Device<float> sum(std::vector<float>(8)), x(std::vector<float>(1));
    count<<<2, 32>>>(sum, x, argv[1][0] == 'h', argc > 2);
    CUDA(cudaDeviceSynchronize());
}
