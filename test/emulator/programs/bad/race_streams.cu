// The second stream reads what the first writes, and no event holds it back.
// finding: race between streams
// check: all
#include "../check.h"

__global__ void produce(int* x) { x[threadIdx.x] = int(threadIdx.x); }              // <-
__global__ void consume(int* y, const int* x) { y[threadIdx.x] = x[threadIdx.x]; }  // <-

int main(int argc, char**) {
    Device<int> x(64), y(64);
    CUDA(cudaMemset(x, 0, 256));
    CUDA(cudaDeviceSynchronize());
    cudaStream_t a, b;
    cudaEvent_t made;
    CUDA(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
    CUDA(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    CUDA(cudaEventCreate(&made));
    produce<<<1, 64, 0, a>>>(x);
    CUDA(cudaEventRecord(made, a));
    if (argc > 1) CUDA(cudaStreamWaitEvent(b, made, 0));
    consume<<<1, 64, 0, b>>>(y, x);
    CUDA(cudaDeviceSynchronize());
}
