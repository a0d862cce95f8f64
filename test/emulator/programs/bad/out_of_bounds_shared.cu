// A stencil reads one element past its tile, or one in front of it.
// finding: out of bounds
// cases: behind, before
#include "../check.h"

__global__ void slope(float* y, const float* x, int step) {
    __shared__ float tile[128];
    const int i = threadIdx.x;
    tile[i]     = x[i];
    __syncthreads();
    y[i] = tile[i + step] - tile[i];  // <-
}

int main(int argc, char** argv) {
    Device<float> x(whole_numbers(128)), y(128);
    const int wrong = argv[1] == std::string("behind") ? 1 : -1;
    slope<<<1, 128>>>(y, x, argc > 2 ? 0 : wrong);
    CUDA(cudaDeviceSynchronize());
}
