// One warp hands a row to another through shared memory, again and again. Each arrives at a barrier without waiting
// when the other may go on: barrier 1 says that the row is there, and barrier 2 that it has been read.
// finding: shared-memory race
// check: all
// cases: not_there, not_read
#include "../check.h"

__device__ void wait(int barrier) { asm volatile("bar.sync %0, 64;" ::"r"(barrier) : "memory"); }
__device__ void arrive(int barrier) { asm volatile("bar.arrive %0, 64;" ::"r"(barrier) : "memory"); }

__global__ void hand_over(float* to, bool is_there, bool is_read) {
    __shared__ float row[32];
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++)
        if (threadIdx.x < 32) {
            if (is_read && i > 0) wait(2);
            row[lane] = float(i);  // <-
            if (!is_read && i > 0) wait(2);
            arrive(1);
        } else {
            if (is_there) wait(1);
            to[lane] = row[31 - lane];  // <-
            if (!is_there) wait(1);
            if (i < 3) arrive(2);
        }
}

int main(int argc, char** argv) {
    const std::string which = argv[1];
    const bool fixed        = argc > 2;
    Device<float> to(32);
    hand_over<<<1, 64>>>(to, fixed || which != "not_there", fixed || which != "not_read");
    CUDA(cudaDeviceSynchronize());
}
