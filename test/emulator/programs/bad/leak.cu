// Memory is never freed.
// finding: leak
// check: all
#include "../check.h"

int main(int argc, char**) {
    int* x;
    CUDA(cudaMalloc(&x, 128));  // <-
    if (argc > 1) CUDA(cudaFree(x));
}
