// The async proxy reads what threads have written, with no fence.proxy.async between: a tile, or a fresh mbarrier.
// finding: missing proxy fence
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: tile, barrier
#include "../hopper.h"

__global__ void store(float* out, const float* in, bool fixed) {
    __shared__ alignas(16) float tile[64];
    tile[threadIdx.x] = in[threadIdx.x];
    if (fixed) fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        store_bulk(out, tile, sizeof tile);  // <- tile
        commit_bulk();
        wait_bulk();
    }
}

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
        load_bulk(tile, in, sizeof tile, &full);  // <- barrier
    }
    wait(&full, 0);
    out[threadIdx.x] = tile[threadIdx.x];
}

int main(int argc, char** argv) {
    Device<float> in(whole_numbers(64)), out(64);
    (argv[1][0] == 't' ? store : load)<<<1, 64>>>(out, in, argc > 2);
    CUDA(cudaDeviceSynchronize());
}
