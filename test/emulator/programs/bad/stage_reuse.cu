// A stage of a pipeline is used again too early. A producer refills it when it is full, though the consumers have not
// said that they are done with it, or they say so before they have read it. A tile is overwritten by a warp that learns
// of the end of a store by a flag with no fence.
// finding: shared-memory race
// check: all
// cases: refill, early, store
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

__global__ void sum(float* out, const float* in, int tiles, bool early, bool refill) {
    __shared__ alignas(16) float tile[64];
    __shared__ uint64_t full, empty;
    if (threadIdx.x == 0) {
        init_barrier(&full, 1);
        init_barrier(&empty, 64);
        fence_async();
    }
    __syncthreads();
    if (threadIdx.x == 64) {
        for (int k = 0; k < tiles; k++) {
            wait(refill ? &full : &empty, k % 2 ^ 1);
            arrive_expecting(&full, sizeof tile);
            load_bulk(tile, in + 64 * k, sizeof tile, &full);  // <- refill, early
        }
    } else if (threadIdx.x < 64) {
        float sum = 0;
        for (int k = 0; k < tiles; k++) {
            wait(&full, k % 2);
            if (early) arrive(&empty);
            sum += tile[63 - threadIdx.x];  // <- early
            if (!early) arrive(&empty);
        }
        out[threadIdx.x] = sum;
    }
}

__global__ void store(float* out, const float* in, bool fixed) {
    __shared__ alignas(16) float tile[64];
    __shared__ volatile int flag;
    flag              = 0;
    tile[threadIdx.x] = in[threadIdx.x];
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        store_bulk(out, tile, sizeof tile);
        commit_bulk();
        wait_bulk();
        if (fixed) __threadfence_block();
        flag = 1;
    } else if (threadIdx.x >= 32) {
        while (!flag) {}
        if (fixed) __threadfence_block();
        tile[threadIdx.x - 32] = 0;  // <- store
    }
}

int main(int argc, char** argv) {
    const std::string mistake = argv[1], which = argc > 2 ? "" : mistake;
    Device<float> in(whole_numbers(64 * 8)), out(64);
    if (mistake == "store") store<<<1, 64>>>(out, in, which.empty());
    else sum<<<1, 96>>>(out, in, 8, which == "early", which == "refill");
    CUDA(cudaDeviceSynchronize());
}
