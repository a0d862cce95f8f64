// A block of a cluster ends before another one has read its shared memory, has arrived at its mbarrier, or has sent it
// what it doesn't wait for.
// finding: use after free
// check: all
// cases: read, arrive, send
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

__global__ void __cluster_dims__(2, 1, 1) use(int* out, int mistake) {
    __shared__ alignas(16) int mine[64];
    __shared__ uint64_t barrier;
    const int t = threadIdx.x, rank = cluster_rank();
    mine[t] = t;
    if (t == 0) init_barrier(&barrier, 1), fence_init();
    fence_async();
    sync_cluster();
    int got = 0;
    if (rank == 1) {
        if (mistake == 0)
            asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(got) : "r"(address_in(&mine[t], 0)));   // <- read
        if (mistake == 1 && t == 0) arrive_in(&barrier, 0);                                                // <- arrive
        if (mistake == 2) asm volatile("st.shared::cluster.u32 [%0], 7;" ::"r"(address_in(&mine[t], 0)));  // <- send
    }
    if (mistake == 3) sync_cluster();
    out[blockIdx.x * 64 + t] = got;
}

int main(int argc, char** argv) {
    const std::string which = argc > 2 ? "" : argv[1];
    Device<int> out(128);
    use<<<2, 64>>>(out, which == "read" ? 0 : which == "arrive" ? 1 : which == "send" ? 2 : 3);
    CUDA(cudaDeviceSynchronize());
}
