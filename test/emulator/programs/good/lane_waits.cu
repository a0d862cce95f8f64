// lane_waits.cu - one lane waits for other warps, and mma, ldmatrix and wgmma of its warp wait for this lane
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include <mma.h>

#include "../hopper.h"

using namespace nvcuda;

// Lane 0 of the first warp waits until the second warp has come.
__device__ void lane_0_waits(int* flag) {
    if (threadIdx.x == 0)
        while (!atomicAdd(flag, 0)) {}
    if (threadIdx.x == 32) atomicExch(flag, 1);
}

// The first warp computes c = a . b of 16 x 16 numbers, and transposes 8 x 8 pairs of bytes.
__global__ void of_a_warp(float* c, uint32_t* turned, const bf16* a, const bf16* b) {
    __shared__ alignas(16) bf16 rows[8][8];
    __shared__ int flags[5];
    if (threadIdx.x < 5) flags[threadIdx.x] = 0;
    if (threadIdx.x < 64) rows[threadIdx.x / 8][threadIdx.x % 8] = a[threadIdx.x];
    __syncthreads();
    wmma::fragment<wmma::matrix_a, 16, 16, 16, bf16, wmma::row_major> left;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, bf16, wmma::row_major> right;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    uint32_t x = 0, y = 0;
    lane_0_waits(flags);
    if (threadIdx.x < 32) {
        wmma::load_matrix_sync(left, a, 16);
        wmma::load_matrix_sync(right, b, 16);
        wmma::fill_fragment(sum, 0.f);
    }
    lane_0_waits(flags + 1);
    if (threadIdx.x < 32) wmma::mma_sync(sum, left, right, sum);
    lane_0_waits(flags + 2);
    if (threadIdx.x < 32) wmma::store_matrix_sync(c, sum, 16, wmma::mem_row_major);
    lane_0_waits(flags + 3);
    if (threadIdx.x < 32)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                     : "=r"(x)
                     : "r"(shared_address(rows[threadIdx.x % 8])));
    lane_0_waits(flags + 4);
    if (threadIdx.x < 32) {
        asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
        turned[threadIdx.x] = y;
    }
}

// Lanes that end are not waited for by __syncwarp and the like.
__global__ void of_those_left(int* sum) {
    if (threadIdx.x % 3 == 0) return;
    __syncwarp();
    const unsigned all = __reduce_add_sync(~0u, threadIdx.x), left = __ballot_sync(~0u, true);
    if (threadIdx.x == 1) *sum = int(all) + __popc(left) * 1000;
}

constexpr int T = 64, K = 5 * T;

// A warpgroup whose first thread loads the tiles, too, two ahead. It waits until all have read a tile that it replaces.
__global__ void of_a_warpgroup(float* c, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b) {
    __shared__ alignas(1024) bf16 tile_a[2][T * T], tile_b[2][T * T];
    __shared__ uint64_t full[2], empty[2];
    if (threadIdx.x == 0) {
        for (int s = 0; s < 2; s++) init_barrier(&full[s], 1), init_barrier(&empty[s], 128);
        fence_async();
    }
    __syncthreads();
    const auto fetch = [&](int k) {
        arrive_expecting(&full[k % 2], sizeof tile_a[0] + sizeof tile_b[0]);
        load_tile(tile_a[k % 2], a, k * T, 0, &full[k % 2]);
        load_tile(tile_b[k % 2], b, k * T, 0, &full[k % 2]);
    };
    if (threadIdx.x == 0) fetch(0), fetch(1);
    float sum[32];
    for (int k = 0; k < K / T; k++) {
        wait(&full[k % 2], k / 2 % 2);
        fence_wgmma();
        for (int step = 0; step < T; step += 16)
            multiply(sum, describe(tile_a[k % 2] + step), describe(tile_b[k % 2] + step), k + step > 0);
        commit_wgmma();
        wait_wgmma();
        arrive(&empty[k % 2]);
        if (threadIdx.x == 0 && k + 2 < K / T) {
            wait(&empty[k % 2], k / 2 % 2);
            fetch(k + 2);
        }
    }
    for (int k = 0; k < 32; k++) c[row_of(k) * T + column_of(k)] = sum[k];
}

// c (64 x 64) = a (64 x 64) . b, where each warp writes its own rows of a, which no other warp reads. With AcrossA
// these are columns of the tile.
template <bool AcrossA> __global__ void of_own_rows(float* c, const bf16* in, const __grid_constant__ CUtensorMap b) {
    __shared__ alignas(1024) bf16 tile_a[T * T], tile_b[T * T];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        init_barrier(&full, 1);
        fence_async();
        arrive_expecting(&full, sizeof tile_b);
        load_tile(tile_b, b, 0, 0, &full);
    }
    __syncthreads();
    for (int i = threadIdx.x % 32; i < 16 * T; i += 32) {
        const int m = threadIdx.x / 32 * 16 + i / T, k = i % T;
        const int row = AcrossA ? k : m, column = AcrossA ? m : k;
        tile_a[row * T + (column / 8 ^ row % 8) * 8 + column % 8] = in[m * T + k];  // swizzled, as TMA does
    }
    fence_async();
    __syncwarp();
    wait(&full, 0);
    float sum[32];
    fence_wgmma();
    for (int step = 0; step < T; step += 16)
        multiply<0, AcrossA>(sum, describe(tile_a + step * (AcrossA ? T : 1)), describe(tile_b + step), step);
    commit_wgmma();
    wait_wgmma();
    for (int k = 0; k < 32; k++) c[row_of(k) * T + column_of(k)] = sum[k];
}

int main() {
    const auto numbers = whole_numbers(2 * T * K);
    const std::vector<bf16> a(numbers.begin(), numbers.begin() + T * K), b(numbers.begin() + T * K, numbers.end());
    const auto exact = [](const std::vector<bf16>& x, const std::vector<bf16>& y, int m, int n, int count, int pitch,
                          int along) {
        double sum = 0;
        for (int k = 0; k < count; k++)
            sum += double(float(x[m * pitch + k])) * double(float(along ? y[n * pitch + k] : y[k * pitch + n]));
        return float(sum);
    };
    Device<bf16> da(a), db(b);
    Device<float> c(T * T);
    Device<uint32_t> turned(32);

    of_a_warp<<<1, 64>>>(c, turned, da, db);
    CUDA(cudaDeviceSynchronize());
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) EXPECT(c.host()[m * 16 + n] == exact(a, b, m, n, 16, 16, 0));
    const auto pairs   = turned.host();
    const auto* halves = reinterpret_cast<const bf16*>(pairs.data());
    for (int k = 0; k < 64; k++) EXPECT(float(halves[k]) == float(a[k % 8 * 8 + k / 8]));

    Device<int> sum(1);
    of_those_left<<<1, 32>>>(sum);
    CUDA(cudaDeviceSynchronize());
    EXPECT(sum.host()[0] == 21331);  // 21 lanes, and 0 + … + 31 without the multiples of 3

    of_a_warpgroup<<<1, 128>>>(c, tensor_map(da, T, K, T, T), tensor_map(db, T, K, T, T));
    CUDA(cudaDeviceSynchronize());
    for (int m = 0; m < T; m++)
        for (int n = 0; n < T; n++) EXPECT(c.host()[m * T + n] == exact(a, b, m, n, K, K, 1));

    for (const auto kernel : {of_own_rows<false>, of_own_rows<true>}) {
        kernel<<<1, 128>>>(c, da, tensor_map(db, T, T, T, T));
        CUDA(cudaDeviceSynchronize());
        for (int m = 0; m < T; m++)
            for (int n = 0; n < T; n++) EXPECT(c.host()[m * T + n] == exact(a, b, m, n, T, T, 1));
    }
    std::puts("ok");
}
