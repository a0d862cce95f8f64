// Writes beside an array: just behind it and just before it, where another one lies close, and far away in another one.
// finding: out of bounds
// cases: behind, before, far
#include "../check.h"

__global__ void fill(float* p, int first, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) p[first + i] = 7.0f;  // <-
}

int main(int argc, char** argv) {
    const std::string which = argv[1];
    const int n             = 1024;  // 4096 bytes: real allocations of this size lie wall to wall
    Device<float> a(n), b(n), c(n);
    const int wrong = which == "behind" ? 1 : which == "before" ? -1 : int(c.data - b.data);
    fill<<<4, 256>>>(b, argc > 2 ? 0 : wrong, n);
    CUDA(cudaDeviceSynchronize());
}
