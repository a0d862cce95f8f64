// cublaslt_layer.cu - a feed-forward layer, forward and backward: cublasLt with epilogues, kernels, two streams
// libraries: -lcublasLt
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <nvtx3/nvToolsExt.h>

#include "../check.h"

#define LT(call) EXPECT((call) == CUBLAS_STATUS_SUCCESS)

static cublasLtHandle_t lt;
static void* workspace;
constexpr size_t workspace_bytes = 1 << 20;

// Row-major: y (n,out) = x (n,in) · w (out,in)ᵀ in column-major terms is yᵀ = wᵀᵀ xᵀ.
static void product(__nv_bfloat16* y, const __nv_bfloat16* a, bool ta, const __nv_bfloat16* b, bool tb, int m, int n,
                    int k, cublasLtEpilogue_t epilogue, void* bias, void* aux, cudaStream_t s) {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t la, lb, ly;
    cublasLtMatmulPreference_t preference;
    LT(cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t opa = ta ? CUBLAS_OP_T : CUBLAS_OP_N, opb = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    LT(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSA, &opa, sizeof opa));
    LT(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSB, &opb, sizeof opb));
    LT(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    if (bias) LT(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    if (aux) {
        const int64_t ld = m;
        LT(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux));
        LT(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &ld, sizeof ld));
    }
    LT(cublasLtMatrixLayoutCreate(&la, CUDA_R_16BF, ta ? k : m, ta ? m : k, ta ? k : m));
    LT(cublasLtMatrixLayoutCreate(&lb, CUDA_R_16BF, tb ? n : k, tb ? k : n, tb ? n : k));
    LT(cublasLtMatrixLayoutCreate(&ly, CUDA_R_16BF, m, n, m));
    LT(cublasLtMatmulPreferenceCreate(&preference));
    LT(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                            sizeof workspace_bytes));
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    LT(cublasLtMatmulAlgoGetHeuristic(lt, op, la, lb, ly, ly, preference, 1, &best, &found));
    EXPECT(found == 1);
    const float one = 1, zero = 0;
    LT(cublasLtMatmul(lt, op, &one, a, la, b, lb, &zero, y, ly, y, ly, &best.algo, workspace, workspace_bytes, s));
    cublasLtMatmulPreferenceDestroy(preference);
    for (auto layout : {la, lb, ly}) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(op);
}

__global__ void minus(__nv_bfloat16* d, const __nv_bfloat16* y, const __nv_bfloat16* target, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) d[i] = y[i] - target[i];
}

int main() {
    const int N = 40, C = 32, F = 64;
    auto make = [](size_t n, unsigned seed) {
        std::vector<__nv_bfloat16> x(n);
        const auto whole = whole_numbers(n, seed);
        for (size_t i = 0; i < n; i++) x[i] = __float2bfloat16(whole[i] / 32);
        return x;
    };
    const auto hx = make(N * C, 1), hw = make(F * C, 2), hb = make(F, 3), ht = make(N * F, 4);
    Device<__nv_bfloat16> x(hx), w(hw), b(hb), target(ht), y(N * F), pre(N * F), dy(N * F), dw(F * C), dx(N * C), db(F);
    cudaStream_t s, side;
    cudaEvent_t ready, done;
    CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CUDA(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
    CUDA(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming));
    CUDA(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
    CUDA(cudaMalloc(&workspace, workspace_bytes));
    LT(cublasLtCreate(&lt));

    nvtxRangePushA("layer");
    product(y, w, true, x, false, F, N, C, CUBLASLT_EPILOGUE_GELU_AUX_BIAS, b.data, pre.data, s);
    minus<<<(N * F + 255) / 256, 256, 0, s>>>(dy, y, target, N * F);
    CUDA(cudaGetLastError());
    CUDA(cudaEventRecord(ready, s));
    CUDA(cudaStreamWaitEvent(side, ready, 0));
    product(dw, x, false, dy, true, C, F, N, CUBLASLT_EPILOGUE_BGRADB, db.data, nullptr, side);  // dw (F,C), db (F)
    product(dx, w, false, dy, false, C, N, F, CUBLASLT_EPILOGUE_DEFAULT, nullptr, nullptr, s);
    CUDA(cudaEventRecord(done, side));
    CUDA(cudaStreamWaitEvent(s, done, 0));
    CUDA(cudaStreamSynchronize(s));
    nvtxRangePop();

    auto f     = [](__nv_bfloat16 v) { return double(__bfloat162float(v)); };
    auto close = [&](__nv_bfloat16 got, double expected, double slack) {
        return std::fabs(f(got) - expected) <= slack;
    };
    const auto gy = y.host(), gpre = pre.host(), gdy = dy.host(), gdw = dw.host(), gdx = dx.host(), gdb = db.host();
    for (int i = 0; i < N; i++)
        for (int j = 0; j < F; j++) {
            double sum = f(hb[j]);
            for (int c = 0; c < C; c++) sum += f(hx[i * C + c]) * f(hw[j * C + c]);
            EXPECT(close(gpre[i * F + j], sum, 4e-3 * (1 + std::fabs(sum))));
            const double g = 0.5 * sum * (1 + std::tanh(0.79788456 * (sum + 0.044715 * sum * sum * sum)));
            EXPECT(close(gy[i * F + j], g, 4e-3 * (1 + std::fabs(g))));
        }
    for (int j = 0; j < F; j++) {
        double bias = 0;
        for (int i = 0; i < N; i++) bias += f(gdy[i * F + j]);
        EXPECT(close(gdb[j], bias, 1e-2 * (1 + std::fabs(bias))));
        for (int c = 0; c < C; c++) {
            double sum = 0;
            for (int i = 0; i < N; i++) sum += f(gdy[i * F + j]) * f(hx[i * C + c]);
            EXPECT(close(gdw[j * C + c], sum, 1e-2 * (1 + std::fabs(sum))));
        }
    }
    for (int i = 0; i < N; i++)
        for (int c = 0; c < C; c++) {
            double sum = 0;
            for (int j = 0; j < F; j++) sum += f(gdy[i * F + j]) * f(hw[j * C + c]);
            EXPECT(close(gdx[i * C + c], sum, 1e-2 * (1 + std::fabs(sum))));
        }
    cublasLtDestroy(lt);
    CUDA(cudaFree(workspace));
    CUDA(cudaStreamDestroy(s));
    CUDA(cudaStreamDestroy(side));
    std::puts("ok");
}
