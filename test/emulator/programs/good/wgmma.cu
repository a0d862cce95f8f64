// wgmma.cu - a product by the tensor cores of Hopper: c (M x N) = a (M x K) . b, with b as (N x K) and as (K x N)
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

constexpr int T = 64, M = 128, N = 192, K = 320;  // T: the rows and columns of a tile

// A block of one warpgroup computes one tile of c. Its 32 sums per thread stay in registers for all of K.
template <bool AcrossB>
__global__ void product(float* c, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b) {
    __shared__ alignas(1024) bf16 tile_a[T * T], tile_b[T * T];
    __shared__ uint64_t full;
    const int row = blockIdx.y * T, column = blockIdx.x * T;
    if (threadIdx.x == 0) {
        init_barrier(&full, 1);
        fence_async();
    }
    __syncthreads();
    float sum[32];
    for (int k = 0; k < K; k += T) {
        if (threadIdx.x == 0) {
            arrive_expecting(&full, sizeof tile_a + sizeof tile_b);
            load_tile(tile_a, a, k, row, &full);
            load_tile(tile_b, b, AcrossB ? column : k, AcrossB ? k : column, &full);
        }
        wait(&full, k / T % 2);
        fence_wgmma();  // the registers are in order before the first product
        for (int step = 0; step < T; step += 16)
            // 16 columns are 32 bytes of each row: the start moves along, and the swizzle follows from the address.
            multiply<AcrossB>(sum, describe(tile_a + step), describe(tile_b + step * (AcrossB ? T : 1)), k + step > 0);
        commit_wgmma();
        wait_wgmma();  // for all four warps: now the sums may be read, and thread 0 may overwrite the tiles
    }
    for (int k = 0; k < 32; k++) c[(row + row_of(k)) * N + column + column_of(k)] = sum[k];
}

int main() {
    const auto numbers = whole_numbers(M * K + N * K);
    std::vector<bf16> a(numbers.begin(), numbers.begin() + M * K), b(numbers.begin() + M * K, numbers.end()), t(K * N);
    for (int n = 0; n < N; n++)
        for (int k = 0; k < K; k++) t[k * N + n] = b[n * K + k];
    Device<bf16> da(a), db(b), dt(t);
    Device<float> c(M * N), ct(M * N);
    const dim3 tiles(N / T, M / T);
    product<false><<<tiles, 128>>>(c, tensor_map(da, M, K, T, T), tensor_map(db, N, K, T, T));
    product<true><<<tiles, 128>>>(ct, tensor_map(da, M, K, T, T), tensor_map(dt, K, N, T, T));
    CUDA(cudaDeviceSynchronize());
    const auto got = c.host(), across = ct.host();
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double sum = 0;
            for (int k = 0; k < K; k++) sum += double(float(a[m * K + k])) * double(float(b[n * K + k]));
            EXPECT(got[m * N + n] == float(sum));
            EXPECT(across[m * N + n] == float(sum));
        }
    std::puts("ok");
}
