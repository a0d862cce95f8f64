// Another stream uses memory of a stream's pool: before it is allocated, while it is freed, or while it is read again.
// finding: race between streams
// check: all
// cases: early, freed, filled
#include "../check.h"

__global__ void set(int* p) { p[threadIdx.x] = 1; }
__global__ void get(const int* p, int* sum) { atomicAdd(sum, p[threadIdx.x]); }

int main(int argc, char** argv) {
    const std::string which = argv[1];
    cudaStream_t one, two;
    cudaEvent_t event;
    CUDA(cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking));
    CUDA(cudaStreamCreateWithFlags(&two, cudaStreamNonBlocking));
    CUDA(cudaEventCreate(&event));
    const auto order = [&](const char* where, cudaStream_t first, cudaStream_t then) {
        if (which == where && argc == 2) return;
        CUDA(cudaEventRecord(event, first));
        CUDA(cudaStreamWaitEvent(then, event));
    };
    Device<int> sum(std::vector<int>(1));
    CUDA(cudaDeviceSynchronize());
    int* p;
    CUDA(cudaMallocAsync(&p, 4096, one));
    CUDA(cudaMemsetAsync(p, 0, 4096, one));
    order("early", one, two);
    set<<<1, 32, 0, two>>>(p);
    order("filled", two, one);
    get<<<1, 32, 0, which == "freed" ? two : one>>>(p, sum);
    order("freed", two, one);
    CUDA(cudaFreeAsync(p, one));
    CUDA(cudaDeviceSynchronize());
}
