// The barrier of a cluster is used in a wrong way: a warp waits for its block instead, a thread arrives once more
// before it has waited, or waits though it has not arrived, or the lanes of a warp arrive at two places.
// finding: barrier divergence
// cases: absent, again, alone, places
// arch: -arch=compute_90
#include "../check.h"

__device__ void arrive() { asm volatile("barrier.cluster.arrive;" ::: "memory"); }
__device__ void await() { asm volatile("barrier.cluster.wait;" ::: "memory"); }

__global__ void __cluster_dims__(2, 1, 1) meet(int* out, int mistake) {
    if (mistake == 1 && blockIdx.x == 1 && threadIdx.x >= 32) __syncthreads();                          // <- absent
    if (mistake == 4 && threadIdx.x % 2) asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");  // <- places
    else if (mistake == 4) {
        out[threadIdx.x] = 1;
        asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");  // <- places
    } else if (mistake != 3) arrive();
    if (mistake == 2) arrive();  // <- again
    await();                     // <- alone, absent
}

int main(int argc, char** argv) {
    const std::string which = argc > 2 ? "" : argv[1];
    Device<int> out(std::vector<int>(64));
    meet<<<2, 64>>>(out, which == "absent"   ? 1
                         : which == "again"  ? 2
                         : which == "alone"  ? 3
                         : which == "places" ? 4
                                             : 0);
    CUDA(cudaDeviceSynchronize());
}
