// A multicast copy goes to a block that the cluster doesn't have, a rank is beyond the cluster, an address is beyond
// the other block's shared memory, a copy and its mbarrier are in different blocks.
// finding: out of bounds
// cases: mask, rank, address, barrier
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

__device__ void store(uint32_t address) { asm volatile("st.shared::cluster.u32 [%0], 7;" ::"r"(address) : "memory"); }
__device__ void send(uint32_t to, const void* from, uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], 16, [%2];" ::"r"(to),
        "r"(shared_address(from)), "r"(barrier)
        : "memory");
}

__global__ void __cluster_dims__(2, 1, 1)
    copy(int* out, const __grid_constant__ CUtensorMap in, uint16_t mask, int far, int beyond, int home) {
    __shared__ alignas(1024) bf16 tile[8 * 64];
    __shared__ alignas(16) int numbers[4], more[4];
    __shared__ uint64_t full, sent;
    const int t = threadIdx.x, rank = cluster_rank();
    if (t == 0) {
        init_barrier(&full, 1);
        init_barrier(&sent, 1);
        fence_init();
        arrive_expecting(&full, sizeof tile);
        arrive_expecting(&sent, sizeof numbers);
    }
    if (t < 4) more[t] = t;
    fence_async();
    sync_cluster();
    if (rank == 0 && t == 0) {
        load_tile(tile, in, 0, 0, &full, mask);    // <- mask
        store(address_in(&numbers[beyond], far));  // <- rank, address
    }
    sync_cluster();
    if (t == 0) send(address_in(numbers, rank ^ 1), more, address_in(&sent, rank ^ home));  // <- barrier
    wait(&full, 0);
    wait(&sent, 0);
    sync_cluster();
    out[blockIdx.x * 64 + t] = int(float(tile[t])) + numbers[t % 4];
}

int main(int argc, char** argv) {
    const std::string which = argc > 2 ? "" : argv[1];
    const auto rows         = whole_numbers(8 * 64);
    Device<bf16> in(std::vector<bf16>(rows.begin(), rows.end()));
    Device<int> out(128);
    copy<<<2, 64>>>(out, tensor_map(in, 8, 64, 8, 64, CU_TENSOR_MAP_SWIZZLE_NONE), which == "mask" ? 7 : 3,
                    which == "rank" ? 2 : 1, which == "address" ? 1 << 19 : 0, which == "barrier" ? 0 : 1);
    CUDA(cudaDeviceSynchronize());
}
