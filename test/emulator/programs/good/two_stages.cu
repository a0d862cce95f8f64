// two_stages.cu - the sums of a matrix's columns. One warp keeps copying tiles into two stages of shared memory, while
// four others add the tile that is there. No tile is waited for that could have been copied ahead.
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

constexpr int kHigh = 32, kWide = 64, kStages = 2, kReaders = 128;

__global__ void add_rows(float* out, const __grid_constant__ CUtensorMap in, int tiles) {
    __shared__ alignas(1024) bf16 tile[kStages][kHigh * kWide];
    __shared__ float sums[2][kWide];
    __shared__ uint64_t full[kStages], empty[kStages];
    const int t = threadIdx.x;
    if (t == 0) {
        for (int s = 0; s < kStages; s++) {
            init_barrier(&full[s], 1);          // the producer arrives, and the bytes
            init_barrier(&empty[s], kReaders);  // the consumers arrive when they have read the stage
        }
        fence_async();
    }
    __syncthreads();
    if (t >= kReaders) {
        if (!elect_one()) return;
        for (int k = 0; k < tiles; k++) {
            // Tile k is in round k / 2 of its stage. The wait for parity 1 is over at once in round 0: a phase before
            // the first one has ended.
            const int stage = k % kStages, round = k / kStages;
            wait(&empty[stage], round % 2 ^ 1);
            arrive_expecting(&full[stage], sizeof tile[stage]);
            load_tile(tile[stage], in, blockIdx.x * kWide, k * kHigh, &full[stage]);
        }
        return;
    }
    const int column = t % kWide, half = t / kWide;
    float sum = 0;
    for (int k = 0; k < tiles; k++) {
        const int stage = k % kStages, round = k / kStages;
        wait(&full[stage], round % 2);
        for (int row = half; row < kHigh; row += 2)
            sum += float(tile[stage][row * kWide + (column / 8 ^ row % 8) * 8 + column % 8]);
        arrive(&empty[stage]);
    }
    sums[half][column] = sum;
    asm volatile("bar.sync 1, 128;" ::: "memory");  // of the readers: the producer may have ended
    if (t < kWide) out[blockIdx.x * kWide + t] = sums[0][t] + sums[1][t];
}

int main() {
    const int rows = 400, columns = 192;  // the last tile has 16 rows beyond the matrix, which are zeros
    const auto numbers = whole_numbers(rows * columns);
    Device<bf16> in(std::vector<bf16>(numbers.begin(), numbers.end()));
    Device<float> out(columns);
    add_rows<<<columns / kWide, kReaders + 32>>>(out, tensor_map(in, rows, columns, kHigh, kWide),
                                                 (rows + kHigh - 1) / kHigh);
    CUDA(cudaDeviceSynchronize());
    const auto got = out.host();
    for (int c = 0; c < columns; c++) {
        float sum = 0;
        for (int r = 0; r < rows; r++) sum += numbers[r * columns + c];
        EXPECT(got[c] == sum);
    }
    std::puts("ok");
}
