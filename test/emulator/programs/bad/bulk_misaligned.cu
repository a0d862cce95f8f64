// Bulk copies need addresses and sizes that are multiples of 16, and tiles of a tensor shared addresses of 128.
// finding: misaligned access
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: size, global, shared, tile, store
#include "../hopper.h"

__global__ void load(float* out, const float* in, uint32_t bytes, int at) {
    __shared__ alignas(128) float tile[64];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        init_barrier(&full, 1);
        fence_async();
        arrive_expecting(&full, bytes);
        load_bulk(tile + at, in, bytes, &full);  // <- size, global, shared
    }
    __syncthreads();
    wait(&full, 0);
    out[threadIdx.x] = tile[threadIdx.x % 8 + at];
}

__global__ void load_and_store(const __grid_constant__ CUtensorMap out, const __grid_constant__ CUtensorMap in, int at,
                               int back) {
    __shared__ alignas(128) bf16 tile[128];
    __shared__ uint64_t full;
    if (threadIdx.x) return;
    init_barrier(&full, 1);
    fence_async();
    arrive_expecting(&full, 128);
    load_tile(tile + at, in, 0, 0, &full);  // <- tile
    wait(&full, 0);
    store_tile(out, 0, 0, tile + back);  // <- store
    commit_bulk();
    wait_bulk();
}

int main(int argc, char** argv) {
    const std::string mistake = argv[1], which = argc > 2 ? "" : mistake;
    if (mistake == "tile" || mistake == "store") {
        Device<bf16> in(std::vector<bf16>(8 * 64)), out(8 * 64);
        load_and_store<<<1, 32>>>(tensor_map(out, 8, 64, 1, 64), tensor_map(in, 8, 64, 1, 64), which == "tile" ? 8 : 0,
                                  which == "store" ? 8 : 0);
        CUDA(cudaDeviceSynchronize());
    } else {
        Device<float> in(whole_numbers(64)), out(64);
        load<<<1, 64>>>(out, in + (which == "global"), which == "size" ? 56 : 64, which == "shared" ? 2 : 0);
        CUDA(cudaDeviceSynchronize());
    }
}
