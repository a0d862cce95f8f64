// pipeline_cluster.cu - pipeline.cu with clusters of two blocks, one above the other: they need the same tiles of b.
// Each block's producer loads one half of such a tile for both blocks, so that b is read once for 256 rows of c.
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

constexpr int T = 64, M = 256, N = 192, K = 320;      // T: the rows and columns of a tile
constexpr int Stages = 2, Consumers = 2, Blocks = 2;  // Blocks: of a cluster

struct Stage {
    bf16 a[Consumers][T * T], b[T * T];  // the consumers share the tile of b
};

__global__ void __cluster_dims__(1, Blocks, 1) __launch_bounds__(128 * (1 + Consumers), 1)
    product(float* c, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b) {
    extern __shared__ __align__(1024) Stage stages[];
    // A stage goes round: the copies make it full, and each consumer then says that it is empty again, to the producers
    // of both blocks. The k-th tile is in stage k % Stages, for the (k / Stages)-th time. Waiting for the phase before
    // the first one succeeds at once.
    __shared__ uint64_t full[Stages], empty[Stages];
    if (threadIdx.x == 0) {
        for (int s = 0; s < Stages; s++) init_barrier(&full[s], 1), init_barrier(&empty[s], Blocks * Consumers);
        fence_init();
    }
    cluster_arrive_relaxed();
    cluster_wait();
    const int row = blockIdx.y * T * Consumers, column = blockIdx.x * T, consumer = int(threadIdx.x) / 128 - 1;
    if (consumer < 0) {
        give_registers<24>();
        const int part = T / Blocks, rank = cluster_rank();
        for (int k = 0; threadIdx.x == 0 && k < K / T; k++) {
            Stage& stage   = stages[k % Stages];
            uint64_t* done = &full[k % Stages];
            wait(&empty[k % Stages], (k / Stages + 1) % 2);
            arrive_expecting(done, sizeof(Stage));
            for (int w = 0; w < Consumers; w++) load_tile(stage.a[w], a, k * T, row + w * T, done);
            load_tile(stage.b + rank * part * T, b, column, k * T + rank * part, done, (1 << Blocks) - 1);
        }
        sync_cluster();
        return;
    }
    take_registers<240>();
    float sum[32];
    for (int k = 0; k < K / T; k++) {
        const Stage& stage = stages[k % Stages];
        wait(&full[k % Stages], k / Stages % 2);
        fence_wgmma();
        for (int step = 0; step < T; step += 16)
            multiply<1>(sum, describe(stage.a[consumer] + step), describe(stage.b + step * T), k + step > 0);
        commit_wgmma();
        // The products of the tile before are over. Those of this one go on while the next tile is waited for.
        if (k) wait_wgmma<1>();
        // One thread for each block speaks for its warpgroup.
        if (k && threadIdx.x % 128 < Blocks) arrive_in(&empty[(k - 1) % Stages], threadIdx.x % 128);
    }
    wait_wgmma();
    sync_cluster();  // this block's barriers are not needed any more
    for (int k = 0; k < 32; k++) c[(row + consumer * T + row_of(k)) * N + column + column_of(k)] = sum[k];
}

int main() {
    const auto numbers = whole_numbers(M * K + K * N);
    std::vector<bf16> a(numbers.begin(), numbers.begin() + M * K), b(numbers.begin() + M * K, numbers.end());
    Device<bf16> da(a), db(b);
    Device<float> c(M * N);
    CUDA(cudaFuncSetAttribute(product, cudaFuncAttributeMaxDynamicSharedMemorySize, Stages * sizeof(Stage)));
    product<<<dim3(N / T, M / T / Consumers), 128 * (1 + Consumers), Stages * sizeof(Stage)>>>(
        c, tensor_map(da, M, K, T, T), tensor_map(db, K, N, T / Blocks, T));
    CUDA(cudaDeviceSynchronize());
    const auto got = c.host();
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double sum = 0;
            for (int k = 0; k < K; k++) sum += double(float(a[m * K + k])) * double(float(b[k * N + n]));
            EXPECT(got[m * N + n] == float(sum));
        }
    std::puts("ok");
}
