// swizzled_tile.cu - a transpose by tensor maps: tiles of 64 x 64 bf16, swizzled so that columns have no bank conflicts
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

constexpr int T = 64;

// A row of the tile has 128 bytes, eight chunks of 16. The swizzle puts chunk c of row r where chunk c ^ (r % 8) was.
__device__ bf16& at(bf16* tile, int row, int column) {
    return tile[row * T + ((column / 8) ^ (row % 8)) * 8 + column % 8];
}

__global__ void transpose(const __grid_constant__ CUtensorMap out, const __grid_constant__ CUtensorMap in) {
    __shared__ alignas(1024) bf16 from[T * T], to[T * T];  // the pattern repeats every 1024 bytes
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        init_barrier(&full, 1);
        fence_async();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        arrive_expecting(&full, sizeof from);  // the whole tile, also where it reaches beyond the matrix
        load_tile(from, in, blockIdx.x * T, blockIdx.y * T, &full);
    }
    wait(&full, 0);
    // The lanes of a warp read a column and write a row. Rows are 128 bytes apart, so without the swizzle all 32
    // elements of the column would lie in one bank; with it, they lie in eight groups of banks.
    for (int k = threadIdx.x; k < T * T; k += blockDim.x) at(to, k / T, k % T) = at(from, k % T, k / T);
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        store_tile(out, blockIdx.y * T, blockIdx.x * T, to);  // elements beyond the matrix are not written
        commit_bulk();
        wait_bulk();
    }
}

int main() {
    const int rows = 136, columns = 200;  // no multiples of 64
    const auto numbers = whole_numbers(rows * columns);
    Device<bf16> in(std::vector<bf16>(numbers.begin(), numbers.end())), out(rows * columns);
    const dim3 tiles((columns + T - 1) / T, (rows + T - 1) / T);
    transpose<<<tiles, 256>>>(tensor_map(out, columns, rows, T, T), tensor_map(in, rows, columns, T, T));
    CUDA(cudaDeviceSynchronize());
    const auto got = out.host();
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) EXPECT(float(got[c * rows + r]) == numbers[r * columns + c]);
    std::puts("ok");
}
