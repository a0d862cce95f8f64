// The host waits for the operations of device 1, but reads what device 0 copies.
// finding: host access to memory in use
// check: all
// options: --devices 2
#include "../check.h"

int main(int argc, char**) {
    int* buffer;
    cudaStream_t s;
    CUDA(cudaMallocHost(&buffer, 4096));
    CUDA(cudaStreamCreate(&s));
    Device<int> x(std::vector<int>(1024, 5));
    CUDA(cudaMemcpyAsync(buffer, x, 4096, cudaMemcpyDeviceToHost, s));
    CUDA(cudaSetDevice(argc > 1 ? 0 : 1));
    CUDA(cudaDeviceSynchronize());
    EXPECT(buffer[1023] == 5);  // <-
    CUDA(cudaFreeHost(buffer));
    CUDA(cudaStreamDestroy(s));
}
