// Memory is freed twice.
// finding: double free
#include "../check.h"

int main(int argc, char**) {
    int* x;
    CUDA(cudaMalloc(&x, 128));
    CUDA(cudaFree(x));
    if (argc == 1) cudaFree(x);  // <-
}
