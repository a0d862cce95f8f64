// Two blocks write the same value to the same place. That is harmless here, but the work may be done twice.
// info: same-value overlap
// check: all
#include "../check.h"

__global__ void flag(int* x, bool fixed) {
    if (threadIdx.x == 0 && (!fixed || blockIdx.x == 0)) *x = 1;  // <-
}

int main(int argc, char**) {
    Device<int> x(1);
    flag<<<2, 32>>>(x, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
