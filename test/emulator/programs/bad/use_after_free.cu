// A kernel gets memory that has been freed.
// finding: use after free
#include "../check.h"

__global__ void clear(int* x) { x[threadIdx.x] = 0; }  // <- block 0, thread 0

int main(int argc, char**) {
    int* x;
    CUDA(cudaMalloc(&x, 128));
    if (argc == 1) CUDA(cudaFree(x));
    clear<<<1, 32>>>(x);
    CUDA(cudaDeviceSynchronize());
    if (argc > 1) CUDA(cudaFree(x));
}
