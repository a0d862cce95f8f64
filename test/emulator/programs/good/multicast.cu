// multicast.cu - two blocks of a cluster weigh the rows of the same matrix, each with its own weights. Each tile is
// read once: either block's producer copies one half of it to both blocks. A stage may be filled again when the
// consumers of both blocks have read it, so they tell the producers of both.
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

constexpr int kHigh = 32, kWide = 64, kStages = 2, kReaders = 128, kHalf = kHigh / 2;

__global__ void __cluster_dims__(2, 1, 1)
    weigh(float* out, const __grid_constant__ CUtensorMap in, const float* weights, int tiles) {
    __shared__ alignas(1024) bf16 tile[kStages][kHigh * kWide];
    __shared__ float sums[2][kWide];
    __shared__ uint64_t full[kStages], empty[kStages];
    const int t = threadIdx.x, rank = cluster_rank();
    if (t == 0) {
        for (int s = 0; s < kStages; s++) {
            init_barrier(&full[s], 1);                   // this block's producer arrives, and the bytes of both halves
            init_barrier(&empty[s], 2 * kReaders / 32);  // the consumers' warps of both blocks arrive
        }
        fence_init();
    }
    cluster_arrive_relaxed();  // tells only of the barriers
    cluster_wait();            // the other block's barriers are initialised, too
    const int column = t % kWide, half = t / kWide, x = blockIdx.x / 2 * kWide;
    float sum = 0;
    if (t >= kReaders) {
        if (elect_one())
            for (int k = 0; k < tiles; k++) {
                const int stage = k % kStages, round = k / kStages;
                wait(&empty[stage], round % 2 ^ 1);
                arrive_expecting(&full[stage], sizeof tile[stage]);
                load_tile(&tile[stage][rank * kHalf * kWide], in, x, k * kHigh + rank * kHalf, &full[stage], 3);
            }
    } else
        for (int k = 0; k < tiles; k++) {
            const int stage = k % kStages, round = k / kStages;
            wait(&full[stage], round % 2);
            for (int row = half; row < kHigh; row += 2)
                sum += float(tile[stage][row * kWide + column]) * weights[(rank * tiles + k) * kHigh + row];
            __syncwarp();
            if (t % 32 < 2) arrive_in(&empty[stage], t % 32);
        }
    if (t < kReaders) sums[half][column] = sum;
    sync_cluster();  // also because the other block may still arrive at this block's barriers
    if (t < kWide) out[rank * gridDim.x / 2 * kWide + x + t] = sums[0][t] + sums[1][t];
}

// The blocks of a cluster pass a line of 16 numbers around: each waits for it, adds 1 and sends it on. Behind the line
// comes the number of blocks that have sent it.
__global__ void __cluster_dims__(4, 1, 1) pass_on(int* out) {
    __shared__ alignas(16) int box[16], next[16], senders;
    __shared__ uint64_t full;
    const int t = threadIdx.x, rank = cluster_rank();
    if (t == 0) {
        init_barrier(&full, 1);
        fence_init();
        arrive_expecting(&full, sizeof box + sizeof senders);
    }
    sync_cluster();
    if (rank == 0) {
        if (t < 16) next[t] = t;
    } else {
        wait(&full, 0);
        if (t < 16) next[t] = box[t] + 1;
    }
    fence_async();
    __syncthreads();
    if (t == 0) {
        send_bulk(box, next, sizeof box, &full, (rank + 1) % 4);
        send(&senders, rank ? senders + 1 : 1, &full, (rank + 1) % 4);
    }
    if (rank == 0) wait(&full, 0);
    sync_cluster();  // the next block has its numbers: this one's are not read any more
    if (rank == 0 && t < 16) out[t] = box[t];
    if (rank == 0 && t == 16) out[t] = senders;
}

int main() {
    const int rows = 400, columns = 192, tiles = (rows + kHigh - 1) / kHigh;
    const auto numbers = whole_numbers(rows * columns);
    Device<bf16> in(std::vector<bf16>(numbers.begin(), numbers.end()));
    const auto factors = whole_numbers(2 * tiles * kHigh, 5);
    Device<float> weights(factors), out(2 * columns);
    weigh<<<2 * columns / kWide, kReaders + 32>>>(
        out, tensor_map(in, rows, columns, kHalf, kWide, CU_TENSOR_MAP_SWIZZLE_NONE), weights, tiles);
    CUDA(cudaDeviceSynchronize());
    const auto got = out.host();
    for (int b = 0; b < 2; b++)
        for (int c = 0; c < columns; c++) {
            float sum = 0;
            for (int r = 0; r < rows; r++) sum += numbers[r * columns + c] * factors[b * tiles * kHigh + r];
            EXPECT(got[b * columns + c] == sum);
        }
    Device<int> line(17);
    pass_on<<<4, 64>>>(line);
    CUDA(cudaDeviceSynchronize());
    for (int k = 0; k < 16; k++) EXPECT(line.host()[k] == k + 3);
    EXPECT(line.host()[16] == 4);
    std::puts("ok");
}
