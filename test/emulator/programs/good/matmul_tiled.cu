// matmul_tiled.cu - matrix product through tiles in shared memory
#include "../check.h"

constexpr int tile = 16;

__global__ void matmul(float* c, const float* a, const float* b, int M, int N, int K) {
    __shared__ float as[tile][tile], bs[tile][tile];
    const int r = blockIdx.y * tile + threadIdx.y, col = blockIdx.x * tile + threadIdx.x;
    float sum = 0;
    for (int k = 0; k < K; k += tile) {
        as[threadIdx.y][threadIdx.x] = r < M && k + threadIdx.x < K ? a[r * K + k + threadIdx.x] : 0;
        bs[threadIdx.y][threadIdx.x] = col < N && k + threadIdx.y < K ? b[(k + threadIdx.y) * N + col] : 0;
        __syncthreads();
        for (int i = 0; i < tile; i++) sum += as[threadIdx.y][i] * bs[i][threadIdx.x];
        __syncthreads();
    }
    if (r < M && col < N) c[r * N + col] = sum;
}

int main() {
    const int M = 70, N = 45, K = 99;
    const auto a = whole_numbers(M * K, 1), b = whole_numbers(K * N, 2);
    Device<float> da(a), db(b), dc(M * N);
    matmul<<<dim3((N + tile - 1) / tile, (M + tile - 1) / tile), dim3(tile, tile)>>>(dc, da, db, M, N, K);
    CUDA(cudaGetLastError());
    const auto c = dc.host();
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            float sum = 0;
            for (int k = 0; k < K; k++) sum += a[i * K + k] * b[k * N + j];
            EXPECT(c[i * N + j] == sum);
        }
    std::puts("ok");
}
