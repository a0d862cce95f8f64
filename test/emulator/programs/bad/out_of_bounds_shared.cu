// A stencil reads one element past its tile.
// finding: out of bounds
#include "../check.h"

__global__ void slope(float* y, const float* x, bool fixed) {
    __shared__ float tile[128];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    const int right = fixed ? min(int(threadIdx.x) + 1, 127) : threadIdx.x + 1;
    y[threadIdx.x]  = tile[right] - tile[threadIdx.x];  // <- block 0, thread 127
}

int main(int argc, char**) {
    Device<float> x(whole_numbers(128)), y(128);
    slope<<<1, 128>>>(y, x, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
