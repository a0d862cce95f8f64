// No call after the launch would return an error of it.
// info: unchecked launch
// check: all
#include "../check.h"

__global__ void nothing() {}

int main(int argc, char**) {
    nothing<<<1, 32>>>();
    if (argc > 1) CUDA(cudaDeviceSynchronize());
}
