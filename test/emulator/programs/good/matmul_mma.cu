// matmul_mma.cu - bf16 matrix product on the tensor cores: cp.async in two stages, ldmatrix, mma.m16n8k16
#include <cuda_bf16.h>

#include "../check.h"

constexpr int BM = 64, BN = 32, BK = 32, pad = 8;  // a padded row keeps ldmatrix free of bank conflicts

__device__ unsigned shared_address(const void* p) { return unsigned(__cvta_generic_to_shared(p)); }
__device__ void copy16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from));
}

// C (M,N) = A (M,K) · B (N,K)ᵀ; four warps of 16 rows each
__global__ void matmul(float* c, const __nv_bfloat16* a, const __nv_bfloat16* b, int N, int K) {
    __shared__ __align__(16) __nv_bfloat16 as[2][BM][BK + pad], bs[2][BN][BK + pad];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row0 = blockIdx.y * BM, col0 = blockIdx.x * BN;
    float sum[BN / 8][4] = {};

    auto fetch = [&](int stage, int k) {
        for (int i = threadIdx.x; i < BM * BK / 8; i += blockDim.x)
            copy16(&as[stage][i / (BK / 8)][i % (BK / 8) * 8], &a[(row0 + i / (BK / 8)) * K + k + i % (BK / 8) * 8]);
        for (int i = threadIdx.x; i < BN * BK / 8; i += blockDim.x)
            copy16(&bs[stage][i / (BK / 8)][i % (BK / 8) * 8], &b[(col0 + i / (BK / 8)) * K + k + i % (BK / 8) * 8]);
        asm volatile("cp.async.commit_group;");
    };
    fetch(0, 0);
    for (int k = 0; k < K; k += BK) {
        const int stage = k / BK % 2;
        if (k + BK < K) {
            fetch(1 - stage, k + BK);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
        for (int kk = 0; kk < BK; kk += 16) {
            unsigned fa[4], fb[2];
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3])
                         : "r"(shared_address(&as[stage][warp * 16 + lane % 16][kk + lane / 16 * 8])));
            for (int n = 0; n < BN / 8; n++) {
                asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                             : "=r"(fb[0]), "=r"(fb[1])
                             : "r"(shared_address(&bs[stage][n * 8 + lane % 8][kk + lane / 8 % 2 * 8])));
                asm volatile(
                    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                    "{%0,%1,%2,%3};"
                    : "+f"(sum[n][0]), "+f"(sum[n][1]), "+f"(sum[n][2]), "+f"(sum[n][3])
                    : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
            }
        }
        __syncthreads();  // the next round overwrites the other stage
    }
    for (int n = 0; n < BN / 8; n++)
        for (int i = 0; i < 4; i++)
            c[(row0 + warp * 16 + lane / 4 + i / 2 * 8) * N + col0 + n * 8 + lane % 4 * 2 + i % 2] = sum[n][i];
}

int main() {
    const int M = 128, N = 96, K = 160;
    const auto a = whole_numbers(M * K, 1), b = whole_numbers(N * K, 2);
    std::vector<__nv_bfloat16> ha(a.begin(), a.end()), hb(b.begin(), b.end());
    Device<__nv_bfloat16> da(ha), db(hb);
    Device<float> dc(M * N);
    matmul<<<dim3(N / BN, M / BM), 128>>>(dc, da, db, N, K);
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
