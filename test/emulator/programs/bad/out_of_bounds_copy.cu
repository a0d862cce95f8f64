// The size of a copy is computed from the wrong element type.
// finding: out of bounds
#include "../check.h"

int main(int argc, char**) {
    std::vector<double> host(100);
    float* device;
    CUDA(cudaMalloc(&device, 100 * sizeof(float)));
    const size_t element = argc > 1 ? sizeof(float) : sizeof(double);
    cudaMemcpy(device, host.data(), 100 * element, cudaMemcpyHostToDevice);  // <-
    CUDA(cudaFree(device));
}
