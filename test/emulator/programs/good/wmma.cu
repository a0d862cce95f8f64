// wmma.cu - a matrix product through nvcuda::wmma with half inputs
#include <cuda_fp16.h>
#include <mma.h>

#include "../check.h"
using namespace nvcuda;

__global__ void matmul(float* c, const half* a, const half* b, int N, int K) {
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    wmma::fill_fragment(sum, 0.0f);
    for (int k = 0; k < K; k += 16) {
        wmma::load_matrix_sync(fa, a + blockIdx.y * 16 * K + k, K);
        wmma::load_matrix_sync(fb, b + blockIdx.x * 16 * K + k, K);
        wmma::mma_sync(sum, fa, fb, sum);
    }
    wmma::store_matrix_sync(c + blockIdx.y * 16 * N + blockIdx.x * 16, sum, N, wmma::mem_row_major);
}

int main() {
    const int M = 32, N = 48, K = 64;
    const auto a = whole_numbers(M * K, 1), b = whole_numbers(N * K, 2);
    std::vector<half> ha(a.begin(), a.end()), hb(b.begin(), b.end());
    Device<half> da(ha), db(hb);
    Device<float> dc(M * N);
    matmul<<<dim3(N / 16, M / 16), 32>>>(dc, da, db, N, K);
    CUDA(cudaGetLastError());
    const auto c = dc.host();
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            float sum = 0;
            for (int k = 0; k < K; k++) sum += a[i * K + k] * b[j * K + k];
            EXPECT(c[i * N + j] == sum);
        }
    std::puts("ok");
}
