// The producers of both blocks of a cluster fill a stage of both blocks, but wait only until the consumers of their own
// block are done with it.
// finding: cp.async data before its wait
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

__global__ void __cluster_dims__(2, 1, 1) weigh(float* out, const __grid_constant__ CUtensorMap in, bool fixed) {
    __shared__ alignas(1024) bf16 tile[16 * 64];
    __shared__ uint64_t full, empty;
    const int t = threadIdx.x, rank = cluster_rank();
    if (t == 0) {
        init_barrier(&full, 1);
        init_barrier(&empty, fixed ? 4 : 2);
        fence_init();
    }
    sync_cluster();
    float sum = 0;
    if (t == 64) {
        for (int k = 0; k < 8; k++) {
            wait(&empty, k % 2 ^ 1);
            arrive_expecting(&full, sizeof tile);
            load_tile(&tile[rank * 8 * 64], in, 0, k * 16 + rank * 8, &full, 3);  // <-
        }
    } else if (t < 64) {
        for (int k = 0; k < 8; k++) {
            wait(&full, k % 2);
            for (int row = 0; row < 16; row++) sum += float(tile[row * 64 + t]);
            __syncwarp();
            if (t % 32 == 0) arrive(&empty);
            if (fixed && t % 32 == 0) arrive_in(&empty, rank ^ 1);
        }
    }
    sync_cluster();
    if (t < 64) out[blockIdx.x * 64 + t] = sum;
}

int main(int argc, char**) {
    const auto rows = whole_numbers(128 * 64);
    Device<bf16> in(std::vector<bf16>(rows.begin(), rows.end()));
    Device<float> out(128);
    weigh<<<2, 96>>>(out, tensor_map(in, 128, 64, 8, 64, CU_TENSOR_MAP_SWIZZLE_NONE), argc > 1);
    CUDA(cudaDeviceSynchronize());
}
