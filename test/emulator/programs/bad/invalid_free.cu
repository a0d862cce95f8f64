// cudaFree gets a pointer that cudaMalloc did not return.
// finding: invalid free
#include "../check.h"

int main(int argc, char**) {
    int* x;
    CUDA(cudaMalloc(&x, 128));
    cudaFree(argc == 1 ? x + 16 : x);  // <-
}
