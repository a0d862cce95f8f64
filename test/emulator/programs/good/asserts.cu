// An assertion fails in four lanes of a warp. Each lane prints a line, and the launch ends with an error.
#include <cassert>

#include "../check.h"

__global__ void below(int n) { assert(int(threadIdx.x) % 32 < n); }

int main() {
    below<<<1, 32>>>(28);
    EXPECT(cudaDeviceSynchronize() == cudaErrorAssert);
    EXPECT(cudaGetLastError() == cudaErrorAssert);
    std::puts("ok");
}
