// A bulk copy brings more bytes than its mbarrier was told to expect: the phase may end before the last ones are there.
// finding: mbarrier transaction
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

__global__ void load(float* out, const float* in, uint32_t expected) {
    __shared__ alignas(16) float tile[64];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        init_barrier(&full, 1);
        fence_async();
        arrive_expecting(&full, expected);
        load_bulk(tile, in, sizeof tile, &full);  // <- block 0, thread 0
    }
    __syncthreads();
    wait(&full, 0);
    out[threadIdx.x] = tile[threadIdx.x];
}

int main(int argc, char**) {
    Device<float> in(whole_numbers(64)), out(64);
    load<<<1, 64>>>(out, in, argc > 1 ? 256 : 128);
    CUDA(cudaDeviceSynchronize());
}
