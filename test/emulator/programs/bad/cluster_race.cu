// Blocks of a cluster use each other's shared memory with nothing that orders them: no barrier of the cluster before a
// read, or one at which threads arrive relaxed and with no fence, or a barrier of the block alone.
// finding: shared-memory race
// check: all
// cases: read, relaxed, block
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

__device__ int load(uint32_t address) {
    int got;
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(got) : "r"(address));
    return got;
}

__global__ void __cluster_dims__(2, 1, 1) exchange(int* out, int mistake) {
    __shared__ int mine[64];
    const int t = threadIdx.x, other = cluster_rank() ^ 1;
    mine[t] = t;  // <- read, relaxed, block
    if (mistake == 1) cluster_arrive_relaxed(), cluster_wait();
    if (mistake == 2) __syncthreads();
    if (mistake == 3) sync_cluster();
    const int got = load(address_in(&mine[63 - t], other));  // <- read, relaxed, block
    sync_cluster();
    out[blockIdx.x * 64 + t] = got;
}

int main(int argc, char** argv) {
    const std::string which = argc > 2 ? "" : argv[1];
    Device<int> numbers(128);
    exchange<<<2, 64>>>(numbers, which == "read" ? 0 : which == "relaxed" ? 1 : which == "block" ? 2 : 3);
    CUDA(cudaDeviceSynchronize());
}
