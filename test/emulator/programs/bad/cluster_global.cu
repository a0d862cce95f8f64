// A block of a cluster reads what another one has written to global memory, with only a barrier of the block between.
// finding: race between blocks
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

__global__ void __cluster_dims__(2, 1, 1) turn(int* out, int* in, bool fixed) {
    const int t = threadIdx.x, other = blockIdx.x ^ 1;
    in[blockIdx.x * 64 + t] = t;  // <-
    if (fixed) sync_cluster();
    else __syncthreads();
    out[blockIdx.x * 64 + t] = in[other * 64 + 63 - t];  // <-
}

int main(int argc, char**) {
    Device<int> out(128), in(std::vector<int>(128));
    turn<<<2, 64>>>(out, in, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
