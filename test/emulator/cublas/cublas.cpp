// cublas.cpp - libcublas: the handle, matrix products and copies, in BLAS's column-major order
#include "context.h"

namespace emu {
namespace {

struct Operand {
    const void* data;
    cudaDataType type;
    int64_t ld, stride;
};

// The caller holds the lock.
cublasStatus_t gemm(const char* function, cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int64_t m,
                    int64_t n, int64_t k, const void* alpha, Operand a, Operand b, const void* beta, Operand c,
                    int batches, cublasComputeType_t compute) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (m < 0 || n < 0 || k < 0 || batches < 0 || !alpha || !beta)
        return say(CUBLAS_STATUS_INVALID_VALUE, "a size is negative, or alpha or beta is null");
    for (const cublasOperation_t t : {ta, tb})
        if (t != CUBLAS_OP_N && t != CUBLAS_OP_T && t != CUBLAS_OP_C)
            return say(CUBLAS_STATUS_INVALID_VALUE, "unknown operation " + std::to_string(t));
    if (m == 0 || n == 0 || batches == 0) return CUBLAS_STATUS_SUCCESS;
    Product p;
    p.function    = function;
    p.transpose_a = ta != CUBLAS_OP_N;
    p.transpose_b = tb != CUBLAS_OP_N;
    auto matrix   = [&](const Operand& x, bool transpose, int64_t rows, int64_t cols) {
        if (transpose) std::swap(rows, cols);
        return Matrix{x.type, rows, cols, x.ld, false, batches, x.stride, address_of(x.data)};
    };
    p.a = matrix(a, p.transpose_a, m, k);
    p.b = matrix(b, p.transpose_b, k, n);
    p.c = p.d    = matrix(c, false, m, n);
    p.scale_type = compute == CUBLAS_COMPUTE_64F || compute == CUBLAS_COMPUTE_64F_PEDANTIC   ? CUDA_R_64F
                   : compute == CUBLAS_COMPUTE_16F || compute == CUBLAS_COMPUTE_16F_PEDANTIC ? CUDA_R_16F
                                                                                             : CUDA_R_32F;
    if (compute == CUBLAS_COMPUTE_32F && a.type == CUDA_R_32F && handle->math == CUBLAS_TF32_TENSOR_OP_MATH)
        compute = CUBLAS_COMPUTE_32F_FAST_TF32;
    if (a.type != CUDA_R_32F && (compute == CUBLAS_COMPUTE_32F_FAST_16F || compute == CUBLAS_COMPUTE_32F_FAST_16BF ||
                                 compute == CUBLAS_COMPUTE_32F_FAST_TF32))
        compute = CUBLAS_COMPUTE_32F;  // cublas accepts the fast modes for any input; cublasLt does not
    p.compute            = compute;
    const bool on_device = handle->pointer == CUBLAS_POINTER_MODE_DEVICE;
    p.alpha              = scalar_of(alpha, p.scale_type, on_device);
    p.beta               = scalar_of(beta, p.scale_type, on_device);
    p.sums_may_be_empty  = true;
    std::string why;
    cublasStatus_t status = check_product(p, why);
    if (!status) status = check_pointers(p, why);
    return status ? say(status, why) : submit_product(p, handle->stream);
}

}  // namespace
}  // namespace emu

using namespace emu;

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
    if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
    *handle = new cublasContext;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    NEED(handle);
    SITE;
    std::lock_guard guard(runtime_lock());
    if (is_capturing(handle->stream) || wait_stream(handle->stream)) return CUBLAS_STATUS_EXECUTION_FAILED;
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int* version) {
    if (!version) return CUBLAS_STATUS_INVALID_VALUE;
    *version = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetProperty(libraryPropertyType type, int* value) { return cublasLtGetProperty(type, value); }
size_t cublasGetCudartVersion() { return CUDART_VERSION; }
const char* cublasGetStatusName(cublasStatus_t status) { return cublasLtGetStatusName(status); }
const char* cublasGetStatusString(cublasStatus_t status) { return cublasLtGetStatusString(status); }
#define SETTING(NAME, T, MEMBER)                                 \
    cublasStatus_t cublasSet##NAME(cublasHandle_t h, T value) {  \
        NEED(h);                                                 \
        h->MEMBER = value;                                       \
        return CUBLAS_STATUS_SUCCESS;                            \
    }                                                            \
    cublasStatus_t cublasGet##NAME(cublasHandle_t h, T* value) { \
        NEED(h);                                                 \
        if (!value) return CUBLAS_STATUS_INVALID_VALUE;          \
        *value = h->MEMBER;                                      \
        return CUBLAS_STATUS_SUCCESS;                            \
    }
SETTING(Stream_v2, cudaStream_t, stream)
SETTING(MathMode, cublasMath_t, math)
SETTING(PointerMode_v2, cublasPointerMode_t, pointer)
SETTING(AtomicsMode, cublasAtomicsMode_t, atomics)
#undef SETTING
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t h, void*, size_t) {
    NEED(h);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetSmCountTarget(cublasHandle_t h, int) {
    NEED(h);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLoggerConfigure(int, int, int, const char*) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetLoggerCallback(cublasLogCallback) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGetLoggerCallback(cublasLogCallback* callback) {
    *callback = nullptr;
    return CUBLAS_STATUS_SUCCESS;
}

// --- matrix products ------------------------------------------------------------------------------------------------

// The arrays of pointers are in device memory, so the call waits until it can read them.
static cublasStatus_t batched(const char* function, cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m,
                              int n, int k, const void* alpha, const void* const* a, cudaDataType at, int lda,
                              const void* const* b, cudaDataType bt, int ldb, const void* beta, void* const* c,
                              cudaDataType ct, int ldc, int batches, cublasComputeType_t compute) {
    NEED(h);
    if (batches < 0) return say(CUBLAS_STATUS_INVALID_VALUE, "the number of batches is negative");
    if (batches == 0) return CUBLAS_STATUS_SUCCESS;
    if (!a || !b || !c) return say(CUBLAS_STATUS_INVALID_VALUE, "an array of pointers is null");
    std::lock_guard guard(runtime_lock());
    if (is_capturing(h->stream))
        return say(CUBLAS_STATUS_NOT_SUPPORTED, "the emulator lacks products of arrays of pointers in a capture");
    if (wait_stream(h->stream)) return CUBLAS_STATUS_EXECUTION_FAILED;
    const size_t bytes = size_t(batches) * sizeof(void*);
    for (const void* list : {static_cast<const void*>(a), static_cast<const void*>(b), static_cast<const void*>(c)})
        if (!Memory::get().check(address_of(list), bytes, Access::Read, function))
            return CUBLAS_STATUS_EXECUTION_FAILED;
    for (int i = 0; i < batches; i++)
        if (const cublasStatus_t status =
                gemm(function, h, ta, tb, m, n, k, alpha, {on_host(a)[i], at, lda, 0}, {on_host(b)[i], bt, ldb, 0},
                     beta, {on_host(c)[i], ct, ldc, 0}, 1, compute))
            return status;
    return CUBLAS_STATUS_SUCCESS;
}

#define PRODUCT_CALLS(NAME, BATCHED, STRIDED, T, TYPE, COMPUTE)                                                     \
    cublasStatus_t NAME(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,          \
                        const T* alpha, const T* a, int lda, const T* b, int ldb, const T* beta, T* c, int ldc) {   \
        SITE;                                                                                                       \
        std::lock_guard guard(runtime_lock());                                                                      \
        return gemm(__func__, h, ta, tb, m, n, k, alpha, {a, TYPE, lda, 0}, {b, TYPE, ldb, 0}, beta,                \
                    {c, TYPE, ldc, 0}, 1, COMPUTE);                                                                 \
    }                                                                                                               \
    cublasStatus_t STRIDED(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,       \
                           const T* alpha, const T* a, int lda, long long sa, const T* b, int ldb, long long sb,    \
                           const T* beta, T* c, int ldc, long long sc, int batches) {                               \
        SITE;                                                                                                       \
        std::lock_guard guard(runtime_lock());                                                                      \
        return gemm(__func__, h, ta, tb, m, n, k, alpha, {a, TYPE, lda, sa}, {b, TYPE, ldb, sb}, beta,              \
                    {c, TYPE, ldc, sc}, batches, COMPUTE);                                                          \
    }                                                                                                               \
    cublasStatus_t BATCHED(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,       \
                           const T* alpha, const T* const a[], int lda, const T* const b[], int ldb, const T* beta, \
                           T* const c[], int ldc, int batches) {                                                    \
        SITE;                                                                                                       \
        return batched(__func__, h, ta, tb, m, n, k, alpha, reinterpret_cast<const void* const*>(a), TYPE, lda,     \
                       reinterpret_cast<const void* const*>(b), TYPE, ldb, beta, reinterpret_cast<void* const*>(c), \
                       TYPE, ldc, batches, COMPUTE);                                                                \
    }
PRODUCT_CALLS(cublasSgemm_v2, cublasSgemmBatched, cublasSgemmStridedBatched, float, CUDA_R_32F, CUBLAS_COMPUTE_32F)
PRODUCT_CALLS(cublasDgemm_v2, cublasDgemmBatched, cublasDgemmStridedBatched, double, CUDA_R_64F, CUBLAS_COMPUTE_64F)
PRODUCT_CALLS(cublasHgemm, cublasHgemmBatched, cublasHgemmStridedBatched, __half, CUDA_R_16F, CUBLAS_COMPUTE_16F)
#undef PRODUCT_CALLS
cublasStatus_t cublasSgemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                             const float* alpha, const void* a, cudaDataType at, int lda, const void* b,
                             cudaDataType bt, int ldb, const float* beta, void* c, cudaDataType ct, int ldc) {
    SITE;
    std::lock_guard guard(runtime_lock());
    return gemm(__func__, h, ta, tb, m, n, k, alpha, {a, at, lda, 0}, {b, bt, ldb, 0}, beta, {c, ct, ldc, 0}, 1,
                CUBLAS_COMPUTE_32F);
}
cublasStatus_t cublasGemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                            const void* alpha, const void* a, cudaDataType at, int lda, const void* b, cudaDataType bt,
                            int ldb, const void* beta, void* c, cudaDataType ct, int ldc, cublasComputeType_t compute,
                            cublasGemmAlgo_t) {
    SITE;
    std::lock_guard guard(runtime_lock());
    return gemm(__func__, h, ta, tb, m, n, k, alpha, {a, at, lda, 0}, {b, bt, ldb, 0}, beta, {c, ct, ldc, 0}, 1,
                compute);
}
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                                          int k, const void* alpha, const void* a, cudaDataType at, int lda,
                                          long long sa, const void* b, cudaDataType bt, int ldb, long long sb,
                                          const void* beta, void* c, cudaDataType ct, int ldc, long long sc,
                                          int batches, cublasComputeType_t compute, cublasGemmAlgo_t) {
    SITE;
    std::lock_guard guard(runtime_lock());
    return gemm(__func__, h, ta, tb, m, n, k, alpha, {a, at, lda, sa}, {b, bt, ldb, sb}, beta, {c, ct, ldc, sc},
                batches, compute);
}

cublasStatus_t cublasGemmBatchedEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                   const void* alpha, const void* const a[], cudaDataType at, int lda,
                                   const void* const b[], cudaDataType bt, int ldb, const void* beta, void* const c[],
                                   cudaDataType ct, int ldc, int batches, cublasComputeType_t compute,
                                   cublasGemmAlgo_t) {
    SITE;
    return batched(__func__, h, ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, batches, compute);
}

// --- moving data ----------------------------------------------------------------------------------------------------

static cublasStatus_t moved(cudaError_t error) { return error ? CUBLAS_STATUS_MAPPING_ERROR : CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetVector(int n, int bytes, const void* x, int ix, void* y, int iy) {
    if (n < 0 || bytes <= 0 || ix <= 0 || iy <= 0) return CUBLAS_STATUS_INVALID_VALUE;
    return moved(
        cudaMemcpy2D(y, size_t(iy) * bytes, x, size_t(ix) * bytes, size_t(bytes), size_t(n), cudaMemcpyDefault));
}
cublasStatus_t cublasGetVector(int n, int bytes, const void* x, int ix, void* y, int iy) {
    return cublasSetVector(n, bytes, x, ix, y, iy);
}
cublasStatus_t cublasSetMatrix(int rows, int cols, int bytes, const void* a, int lda, void* b, int ldb) {
    if (rows < 0 || cols < 0 || bytes <= 0 || lda <= 0 || ldb <= 0) return CUBLAS_STATUS_INVALID_VALUE;
    return moved(cudaMemcpy2D(b, size_t(ldb) * bytes, a, size_t(lda) * bytes, size_t(rows) * bytes, size_t(cols),
                              cudaMemcpyDefault));
}
cublasStatus_t cublasGetMatrix(int rows, int cols, int bytes, const void* a, int lda, void* b, int ldb) {
    return cublasSetMatrix(rows, cols, bytes, a, lda, b, ldb);
}
