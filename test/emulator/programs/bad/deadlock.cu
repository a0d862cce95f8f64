// A thread waits for a flag that is never set.
// finding: deadlock
// options: --timeout 1
#include "../check.h"

__global__ void wait(volatile int* flag) {
    while (*flag == 0) {}  // <- block 0, thread 0
}

int main(int argc, char**) {
    Device<int> flag(1);
    CUDA(cudaMemset(flag, argc > 1 ? 1 : 0, 4));
    wait<<<1, 1>>>(flag);
    CUDA(cudaDeviceSynchronize());
}
