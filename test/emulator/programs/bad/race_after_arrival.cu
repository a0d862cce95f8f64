// A warp arrives at a barrier for a number of threads, then writes and ends. Those who wait there may read before.
// finding: shared-memory race
// check: all
#include "../check.h"

__global__ void hand_over(int* out, const int* in, bool fixed) {
    __shared__ int s[32];
    const int lane = threadIdx.x % 32;
    if (threadIdx.x < 32) {
        if (fixed) s[lane] = in[lane];
        asm volatile("bar.arrive 1, 64;" ::: "memory");
        if (!fixed) s[lane] = in[lane];  // <-
        return;
    }
    asm volatile("bar.sync 1, 64;" ::: "memory");
    out[lane] = s[31 - lane];  // <-
}

int main(int argc, char**) {
    Device<int> in(std::vector<int>(32, 7)), out(32);
    hand_over<<<1, 64>>>(out, in, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
