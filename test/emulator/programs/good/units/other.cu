// The other unit of good/units.cu.
#include "../../check.h"

__device__ int counter = 5;
__constant__ float factors[4];
static __device__ int calls;
static __device__ __noinline__ float own(float x) { return x * 10; }
static __device__ float negative(float x) { return -x; }
__device__ float (*operation)(float) = negative;
__device__ float twice(float x) { return 2 * x; }

__global__ void use_own(float* p) {
    if (*p < 0) std::printf("below zero: %g\n", *p);
    *p = own(*p);
    calls++;
}

void fill_factors() {
    const float f[4] = {1, 2, 3, 4};
    CUDA(cudaMemcpyToSymbol(factors, f, sizeof f));
}
int count() {
    int n = 0;
    CUDA(cudaMemcpyFromSymbol(&n, counter, sizeof n));
    return n;
}
float other_unit(float x) {
    Device<float> p(std::vector<float>{x});
    use_own<<<1, 1>>>(p);
    return p.host()[0];
}
