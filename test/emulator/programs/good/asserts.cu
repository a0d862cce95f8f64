// An assertion that fails in four lanes of a warp: one line for each lane, the launch is told of it, and no more runs.
#include <cassert>

#include "../check.h"

__global__ void below(int n) { assert(int(threadIdx.x) % 32 < n); }

int main() {
    below<<<1, 32>>>(28);
    EXPECT(cudaDeviceSynchronize() == cudaErrorAssert);
    EXPECT(cudaGetLastError() == cudaErrorAssert);
    std::puts("ok");
}
