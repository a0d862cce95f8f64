// A bulk copy uses an mbarrier that was initialised with no fence.proxy.async since. The PTX manual asks for one, but
// NVIDIA's cuda::memcpy_async does without, so this does not end the program.
// info: mbarrier without a proxy fence
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

__global__ void load(float* out, const float* in, bool fixed) {
    __shared__ alignas(16) float tile[64];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        init_barrier(&full, 1);
        if (fixed) fence_async();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        arrive_expecting(&full, sizeof tile);
        load_bulk(tile, in, sizeof tile, &full);  // <-
    }
    wait(&full, 0);
    out[threadIdx.x] = tile[threadIdx.x];
}

int main(int argc, char**) {
    Device<float> in(whole_numbers(64)), out(64);
    load<<<1, 64>>>(out, in, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
