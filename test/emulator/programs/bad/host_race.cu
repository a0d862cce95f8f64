// The host refills a pinned buffer that a copy may still be reading.
// finding: host access to memory in use
// check: all
#include "../check.h"

int main(int argc, char**) {
    int* buffer;
    CUDA(cudaMallocHost(&buffer, 4096));
    for (int i = 0; i < 1024; i++) buffer[i] = i;
    Device<int> x(1024);
    cudaStream_t s;
    CUDA(cudaStreamCreate(&s));
    CUDA(cudaMemcpyAsync(x, buffer, 4096, cudaMemcpyHostToDevice, s));
    if (argc > 1) CUDA(cudaStreamSynchronize(s));
    for (int i = 0; i < 1024; i++) buffer[i] = -i;  // <-
    CUDA(cudaStreamSynchronize(s));
    CUDA(cudaFreeHost(buffer));
}
