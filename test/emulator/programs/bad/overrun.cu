// Writes miss their array: just past its end, just before its begin, or far away in another array.
// finding: out of bounds
// cases: behind, before, far
#include "../check.h"

__global__ void fill(float* p, int first, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) p[first + i] = 7.0f;  // <-
}

int main(int argc, char** argv) {
    const std::string which = argv[1];
    const int n             = 1024;  // a GPU places allocations of 4096 bytes without a gap
    Device<float> a(n), b(n), c(n);
    const int wrong = which == "behind" ? 1 : which == "before" ? -1 : int(c.data - b.data);
    fill<<<4, 256>>>(b, argc > 2 ? 0 : wrong, n);
    CUDA(cudaDeviceSynchronize());
}
