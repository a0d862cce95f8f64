// Shared memory is used while a bulk copy is under way: its data is read before the wait, by the thread itself or by
// another warp than the one that waits; what it reads is overwritten; the block ends.
// finding: cp.async data before its wait
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: early, other, overwrite, end
#include "../hopper.h"

__global__ void load(float* out, const float* in, int waiting) {
    __shared__ alignas(16) float tile[64];
    __shared__ uint64_t full;
    const int t = threadIdx.x;
    if (t == 0) {
        init_barrier(&full, 1);
        fence_async();
        arrive_expecting(&full, sizeof tile);
        load_bulk(tile, in, sizeof tile, &full);
    }
    __syncthreads();
    if (t < waiting) wait(&full, 0);
    out[t] = tile[t];  // <- early, other
}

// The thread that started the copy must not end the block before the copy has read the tile.
__global__ void store(float* out, const float* in, bool overwrites, bool fixed) {
    __shared__ alignas(16) float tile[64];
    tile[threadIdx.x] = in[threadIdx.x];
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        store_bulk(out, tile, sizeof tile);  // <- end
        commit_bulk();
        if (fixed) wait_bulk();
        if (overwrites) tile[0] = 0;  // <- overwrite
    }
}

int main(int argc, char** argv) {
    const std::string which = argv[1];
    const bool fixed        = argc > 2;
    Device<float> in(whole_numbers(64)), out(64);
    if (which == "early") load<<<1, 64>>>(out, in, fixed ? 64 : 0);
    else if (which == "other") load<<<1, 64>>>(out, in, fixed ? 64 : 32);
    else store<<<1, 64>>>(out, in, which == "overwrite", fixed);
    CUDA(cudaDeviceSynchronize());
}
