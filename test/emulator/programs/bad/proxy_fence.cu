// A bulk copy reads a tile that threads have written, with no fence.proxy.async between.
// finding: missing proxy fence
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

__global__ void store(float* out, const float* in, bool fixed) {
    __shared__ alignas(16) float tile[64];
    tile[threadIdx.x] = in[threadIdx.x];
    if (fixed) fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        store_bulk(out, tile, sizeof tile);  // <-
        commit_bulk();
        wait_bulk();
    }
}

int main(int argc, char**) {
    Device<float> in(whole_numbers(64)), out(64);
    store<<<1, 64>>>(out, in, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
