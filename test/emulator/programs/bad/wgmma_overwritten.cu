// A matrix is overwritten before the wait for the wgmma that reads it: by a thread, a bulk copy or a cp.async.
// finding: cp.async data before its wait
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: thread, copy, async
#include "../hopper.h"

enum How { kThread, kCopy, kAsync };

__device__ inline void copy_async(void* to, const void* from) {  // 16 bytes
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

__global__ void square(float* out, const __grid_constant__ CUtensorMap in, const bf16* next, How how, bool fixed) {
    __shared__ alignas(1024) bf16 tile[64 * 64];
    __shared__ uint64_t full, empty;
    if (threadIdx.x == 0) {
        init_barrier(&full, 1);
        init_barrier(&empty, 1);
        fence_async();
    }
    __syncthreads();
    if (threadIdx.x >= 128) {  // the producer
        if (threadIdx.x > 128) return;
        for (int k = 0; k < 2; k++) {
            if (k) wait(&empty, 0);
            arrive_expecting(&full, sizeof tile);
            load_tile(tile, in, 0, 0, &full);  // <- copy
        }
        return;
    }
    float sum[32];
    for (int k = 0; k < 2; k++) {
        wait(&full, k);
        fence_wgmma();
        multiply(sum, describe(tile), describe(tile), k);
        commit_wgmma();
        const bool early = how == kCopy && !fixed;
        if (early && threadIdx.x == 0) arrive(&empty);
        if (how == kThread && !fixed && k) tile[threadIdx.x] = 0.f;                                    // <- thread
        if (how == kAsync && !fixed && k) copy_async(tile + 8 * threadIdx.x, next + 8 * threadIdx.x);  // <- async
        wait_wgmma();
        if (!early && threadIdx.x == 0) arrive(&empty);  // one thread may speak for the warpgroup
    }
    for (int k = 0; k < 32; k++) out[k * 128 + threadIdx.x] = sum[k];
}

int main(int argc, char** argv) {
    const auto numbers = whole_numbers(64 * 64);
    Device<bf16> in(std::vector<bf16>(numbers.begin(), numbers.end()));
    Device<float> out(64 * 64);
    const How how = argv[1][0] == 't' ? kThread : argv[1][0] == 'c' ? kCopy : kAsync;
    square<<<1, 160>>>(out, tensor_map(in, 64, 64, 64, 64), in, how, argc > 2);
    CUDA(cudaDeviceSynchronize());
}
