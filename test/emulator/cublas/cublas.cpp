// cublas.cpp - libcublas: the handful of calls that trainers and samples use, in column-major order as BLAS has it
#include <cublas_v2.h>

#include <cmath>
#include <cstdio>

#include "product.h"

struct cublasContext {
    cudaStream_t stream         = nullptr;
    cublasMath_t math           = CUBLAS_DEFAULT_MATH;
    cublasPointerMode_t pointer = CUBLAS_POINTER_MODE_HOST;
    cublasAtomicsMode_t atomics = CUBLAS_ATOMICS_NOT_ALLOWED;
};

namespace emu {
namespace {

Address address_of(const void* pointer) { return reinterpret_cast<Address>(pointer); }

cublasStatus_t say(const char* function, cublasStatus_t status, const std::string& why) {
    std::fprintf(stderr, "emulate: %s: %s: %s\n", function, cublasLtGetStatusName(status), why.c_str());
    return status;
}

struct Operand {
    const void* data;
    cudaDataType type;
    int64_t ld, stride;
};

Scalar scalar_of(cublasHandle_t handle, const void* value, cudaDataType type) {
    if (handle->pointer == CUBLAS_POINTER_MODE_DEVICE) return {0, address_of(value)};
    if (type == CUDA_R_64F) return {*static_cast<const double*>(value), 0};
    if (type == CUDA_R_16F) return {double(*static_cast<const _Float16*>(value)), 0};
    return {double(*static_cast<const float*>(value)), 0};
}

// Call under the lock.
cublasStatus_t gemm(const char* function, cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int64_t m,
                    int64_t n, int64_t k, const void* alpha, Operand a, Operand b, const void* beta, Operand c,
                    int batches, cublasComputeType_t compute) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (m < 0 || n < 0 || k < 0 || batches < 0 || !alpha || !beta)
        return say(function, CUBLAS_STATUS_INVALID_VALUE, "a negative size, or alpha or beta is null");
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
        compute = CUBLAS_COMPUTE_32F;  // cublas, unlike cublasLt, takes the fast modes for any input
    p.compute = compute;
    p.alpha   = scalar_of(handle, alpha, p.scale_type);
    p.beta    = scalar_of(handle, beta, p.scale_type);
    std::string why;
    if (k == 0) return say(function, CUBLAS_STATUS_NOT_SUPPORTED, "k = 0");
    cublasStatus_t status = check_product(p, why);
    if (!status) status = check_pointers(p, why);
    return status ? say(function, status, why) : submit_product(p, handle->stream);
}

// A small operation on device vectors: check the ranges, compute on the host's view of them.
struct Vector {
    const void* data;
    int64_t n, stride;
    size_t element;
    Access access;
};
template <class Body>
cublasStatus_t simple(const char* function, cublasHandle_t handle, std::vector<Vector> vectors, Body body) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    std::lock_guard guard(runtime_lock());
    Work work;
    work.type = cudaGraphNodeTypeKernel;
    work.what = call_site();
    work.run  = [function, vectors, body](uint32_t op) {
        for (const Vector& v : vectors) {
            const bool dense = std::abs(v.stride) == 1;
            for (int64_t i = 0; i < (dense ? 1 : v.n); i++) {
                const Address at   = address_of(v.data) + size_t(i * std::abs(v.stride)) * v.element;
                const size_t bytes = v.element * size_t(dense ? v.n : 1);
                if (v.n > 0 && !Memory::get().check(at, bytes, v.access, function, op)) return cudaErrorIllegalAddress;
                if (v.n > 0 && v.access == Access::Write) Memory::get().mark_written(at, bytes);
            }
        }
        body();
        return cudaSuccess;
    };
    return submit(handle->stream, std::move(work)) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
template <class T>
T* on_host(const T* pointer) {
    return reinterpret_cast<T*>(Memory::get().host(address_of(pointer)));
}
template <class T>
T at(const T* x, int64_t i, int64_t n, int64_t stride) {  // BLAS: a negative stride starts at the far end
    return on_host(x)[stride >= 0 ? i * stride : (i - n + 1) * stride];
}

// A result goes to the host at once, or to the device in stream order.
template <class R, class Body>
cublasStatus_t reduce(const char* function, cublasHandle_t handle, std::vector<Vector> vectors, R* result, Body body) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!result) return CUBLAS_STATUS_INVALID_VALUE;
    if (handle->pointer == CUBLAS_POINTER_MODE_DEVICE) {
        vectors.push_back({result, 1, 1, sizeof(R), Access::Write});
        return simple(function, handle, vectors, [=] { *on_host(result) = body(); });
    }
    if (const cublasStatus_t status = simple(function, handle, vectors, [=] { *result = body(); })) return status;
    std::lock_guard guard(runtime_lock());
    return wait_stream(handle->stream) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t dot(const char* f, cublasHandle_t h, int n, const T* x, int ix, const T* y, int iy, T* result) {
    return reduce(f, h, {{x, n, ix, sizeof(T), Access::Read}, {y, n, iy, sizeof(T), Access::Read}}, result, [=] {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += double(at(x, i, n, ix)) * double(at(y, i, n, iy));
        return T(sum);
    });
}
template <class T>
cublasStatus_t norm(const char* f, cublasHandle_t h, int n, const T* x, int ix, T* result) {
    return reduce(f, h, {{x, n, ix, sizeof(T), Access::Read}}, result, [=] {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += double(at(x, i, n, ix)) * double(at(x, i, n, ix));
        return T(std::sqrt(sum));
    });
}
template <class T>
cublasStatus_t sum_of_magnitudes(const char* f, cublasHandle_t h, int n, const T* x, int ix, T* result) {
    return reduce(f, h, {{x, n, ix, sizeof(T), Access::Read}}, result, [=] {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += std::abs(double(at(x, i, n, ix)));
        return T(sum);
    });
}
template <class T>
cublasStatus_t index_of_extreme(const char* f, cublasHandle_t h, int n, const T* x, int ix, int* result, bool largest) {
    return reduce(f, h, {{x, n, ix, sizeof(T), Access::Read}}, result, [=] {
        int best = 0;
        for (int i = 1; i < n; i++) {
            const T a = std::abs(at(x, i, n, ix)), b = std::abs(at(x, best, n, ix));
            if (largest ? a > b : a < b) best = i;
        }
        return n > 0 ? best + 1 : 0;  // BLAS counts from one
    });
}
template <class T>
cublasStatus_t axpy(const char* f, cublasHandle_t h, int n, const T* alpha, const T* x, int ix, T* y, int iy) {
    if (!h) return CUBLAS_STATUS_NOT_INITIALIZED;
    const bool device = h->pointer == CUBLAS_POINTER_MODE_DEVICE;
    const T value     = device ? T(0) : *alpha;
    return simple(f, h,
                  {{x, n, ix, sizeof(T), Access::Read},
                   {y, n, iy, sizeof(T), Access::Read},
                   {y, n, iy, sizeof(T), Access::Write}},
                  [=] {
                      const T a = device ? *on_host(alpha) : value;
                      for (int i = 0; i < n; i++) {
                          T& to = on_host(y)[iy >= 0 ? i * iy : (i - n + 1) * iy];
                          to    = T(std::fma(a, at(x, i, n, ix), to));
                      }
                  });
}
template <class T>
cublasStatus_t scale(const char* f, cublasHandle_t h, int n, const T* alpha, T* x, int ix) {
    if (!h) return CUBLAS_STATUS_NOT_INITIALIZED;
    const bool device = h->pointer == CUBLAS_POINTER_MODE_DEVICE;
    const T value     = device ? T(0) : *alpha;
    return simple(f, h, {{x, n, ix, sizeof(T), Access::Read}, {x, n, ix, sizeof(T), Access::Write}}, [=] {
        const T a = device ? *on_host(alpha) : value;
        for (int i = 0; i < n; i++) on_host(x)[i * std::abs(ix)] *= a;
    });
}
template <class T>
cublasStatus_t copy_vector(const char* f, cublasHandle_t h, int n, const T* x, int ix, T* y, int iy) {
    return simple(f, h, {{x, n, ix, sizeof(T), Access::Read}, {y, n, iy, sizeof(T), Access::Write}}, [=] {
        for (int i = 0; i < n; i++) on_host(y)[iy >= 0 ? i * iy : (i - n + 1) * iy] = at(x, i, n, ix);
    });
}
template <class T>
cublasStatus_t gemv(const char* f, cublasHandle_t h, cublasOperation_t t, int m, int n, const T* alpha, const T* a,
                    int lda, const T* x, int ix, const T* beta, T* y, int iy) {
    if (!h) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (lda < m || m < 0 || n < 0) return say(f, CUBLAS_STATUS_INVALID_VALUE, "lda < m, or a negative size");
    if (h->pointer == CUBLAS_POINTER_MODE_DEVICE) return say(f, CUBLAS_STATUS_NOT_SUPPORTED, "scalars on the device");
    const T s = *alpha, b = *beta;
    const int rows = t == CUBLAS_OP_N ? m : n, length = t == CUBLAS_OP_N ? n : m;
    std::vector<Vector> touched{{a, int64_t(lda) * (n - 1) + m, 1, sizeof(T), Access::Read},
                                {x, length, ix, sizeof(T), Access::Read}};
    if (lda != m) touched.erase(touched.begin());  // the gaps between columns may be anything
    if (b != T(0)) touched.push_back({y, rows, iy, sizeof(T), Access::Read});
    touched.push_back({y, rows, iy, sizeof(T), Access::Write});
    return simple(f, h, touched, [=] {
        for (int r = 0; r < rows; r++) {
            double sum = 0;
            for (int c = 0; c < length; c++)
                sum += double(on_host(a)[t == CUBLAS_OP_N ? r + int64_t(c) * lda : c + int64_t(r) * lda]) *
                       double(at(x, c, length, ix));
            T& to = on_host(y)[iy >= 0 ? r * iy : (r - rows + 1) * iy];
            to    = T(double(s) * sum + (b != T(0) ? double(b) * double(to) : 0));
        }
    });
}

}  // namespace
}  // namespace emu

using namespace emu;
#define SITE ::emu::Call site_(__func__, __builtin_return_address(0))
#define NEED(handle) \
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED

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
    return *version = CUBLAS_VERSION, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetProperty(libraryPropertyType type, int* value) { return cublasLtGetProperty(type, value); }
size_t cublasGetCudartVersion() { return CUDART_VERSION; }
const char* cublasGetStatusName(cublasStatus_t status) { return cublasLtGetStatusName(status); }
const char* cublasGetStatusString(cublasStatus_t status) { return cublasLtGetStatusString(status); }
cublasStatus_t cublasSetStream_v2(cublasHandle_t h, cudaStream_t stream) {
    NEED(h);
    return h->stream = stream, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetStream_v2(cublasHandle_t h, cudaStream_t* stream) {
    NEED(h);
    return *stream = h->stream, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t h, void*, size_t) {
    NEED(h);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t h, cublasMath_t mode) {
    NEED(h);
    return h->math = mode, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetMathMode(cublasHandle_t h, cublasMath_t* mode) {
    NEED(h);
    return *mode = h->math, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t h, cublasPointerMode_t mode) {
    NEED(h);
    return h->pointer = mode, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t h, cublasPointerMode_t* mode) {
    NEED(h);
    return *mode = h->pointer, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetAtomicsMode(cublasHandle_t h, cublasAtomicsMode_t mode) {
    NEED(h);
    return h->atomics = mode, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetAtomicsMode(cublasHandle_t h, cublasAtomicsMode_t* mode) {
    NEED(h);
    return *mode = h->atomics, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetSmCountTarget(cublasHandle_t h, int) {
    NEED(h);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLoggerConfigure(int, int, int, const char*) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetLoggerCallback(cublasLogCallback) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGetLoggerCallback(cublasLogCallback* callback) {
    return *callback = nullptr, CUBLAS_STATUS_SUCCESS;
}

// --- matrix products ------------------------------------------------------------------------------------------------

cublasStatus_t cublasSgemm_v2(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                              const float* alpha, const float* a, int lda, const float* b, int ldb, const float* beta,
                              float* c, int ldc) {
    SITE;
    std::lock_guard guard(runtime_lock());
    return gemm(__func__, h, ta, tb, m, n, k, alpha, {a, CUDA_R_32F, lda, 0}, {b, CUDA_R_32F, ldb, 0}, beta,
                {c, CUDA_R_32F, ldc, 0}, 1, CUBLAS_COMPUTE_32F);
}
cublasStatus_t cublasDgemm_v2(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                              const double* alpha, const double* a, int lda, const double* b, int ldb,
                              const double* beta, double* c, int ldc) {
    SITE;
    std::lock_guard guard(runtime_lock());
    return gemm(__func__, h, ta, tb, m, n, k, alpha, {a, CUDA_R_64F, lda, 0}, {b, CUDA_R_64F, ldb, 0}, beta,
                {c, CUDA_R_64F, ldc, 0}, 1, CUBLAS_COMPUTE_64F);
}
cublasStatus_t cublasHgemm(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                           const __half* alpha, const __half* a, int lda, const __half* b, int ldb, const __half* beta,
                           __half* c, int ldc) {
    SITE;
    std::lock_guard guard(runtime_lock());
    return gemm(__func__, h, ta, tb, m, n, k, alpha, {a, CUDA_R_16F, lda, 0}, {b, CUDA_R_16F, ldb, 0}, beta,
                {c, CUDA_R_16F, ldc, 0}, 1, CUBLAS_COMPUTE_16F);
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
cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                                         int k, const float* alpha, const float* a, int lda, long long sa,
                                         const float* b, int ldb, long long sb, const float* beta, float* c, int ldc,
                                         long long sc, int batches) {
    SITE;
    std::lock_guard guard(runtime_lock());
    return gemm(__func__, h, ta, tb, m, n, k, alpha, {a, CUDA_R_32F, lda, sa}, {b, CUDA_R_32F, ldb, sb}, beta,
                {c, CUDA_R_32F, ldc, sc}, batches, CUBLAS_COMPUTE_32F);
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

// The pointers lie on the device, so the products can only be described when they run.
static cublasStatus_t batched(const char* function, cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m,
                              int n, int k, const void* alpha, const void* const* a, cudaDataType at, int lda,
                              const void* const* b, cudaDataType bt, int ldb, const void* beta, void* const* c,
                              cudaDataType ct, int ldc, int batches, cublasComputeType_t compute) {
    NEED(h);
    std::lock_guard guard(runtime_lock());
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
cublasStatus_t cublasSgemmBatched(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                  const float* alpha, const float* const a[], int lda, const float* const b[], int ldb,
                                  const float* beta, float* const c[], int ldc, int batches) {
    SITE;
    return batched(__func__, h, ta, tb, m, n, k, alpha, reinterpret_cast<const void* const*>(a), CUDA_R_32F, lda,
                   reinterpret_cast<const void* const*>(b), CUDA_R_32F, ldb, beta, reinterpret_cast<void* const*>(c),
                   CUDA_R_32F, ldc, batches, CUBLAS_COMPUTE_32F);
}
cublasStatus_t cublasGemmBatchedEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                   const void* alpha, const void* const a[], cudaDataType at, int lda,
                                   const void* const b[], cudaDataType bt, int ldb, const void* beta, void* const c[],
                                   cudaDataType ct, int ldc, int batches, cublasComputeType_t compute,
                                   cublasGemmAlgo_t) {
    SITE;
    return batched(__func__, h, ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, batches, compute);
}

// --- vectors --------------------------------------------------------------------------------------------------------

#define VECTOR_CALLS(L, T)                                                                                         \
    cublasStatus_t cublas##L##dot_v2(cublasHandle_t h, int n, const T* x, int ix, const T* y, int iy, T* r) {      \
        SITE;                                                                                                      \
        return dot(__func__, h, n, x, ix, y, iy, r);                                                               \
    }                                                                                                              \
    cublasStatus_t cublas##L##nrm2_v2(cublasHandle_t h, int n, const T* x, int ix, T* r) {                         \
        SITE;                                                                                                      \
        return norm(__func__, h, n, x, ix, r);                                                                     \
    }                                                                                                              \
    cublasStatus_t cublas##L##asum_v2(cublasHandle_t h, int n, const T* x, int ix, T* r) {                         \
        SITE;                                                                                                      \
        return sum_of_magnitudes(__func__, h, n, x, ix, r);                                                        \
    }                                                                                                              \
    cublasStatus_t cublas##L##axpy_v2(cublasHandle_t h, int n, const T* a, const T* x, int ix, T* y, int iy) {     \
        SITE;                                                                                                      \
        return axpy(__func__, h, n, a, x, ix, y, iy);                                                              \
    }                                                                                                              \
    cublasStatus_t cublas##L##scal_v2(cublasHandle_t h, int n, const T* a, T* x, int ix) {                         \
        SITE;                                                                                                      \
        return scale(__func__, h, n, a, x, ix);                                                                    \
    }                                                                                                              \
    cublasStatus_t cublas##L##copy_v2(cublasHandle_t h, int n, const T* x, int ix, T* y, int iy) {                 \
        SITE;                                                                                                      \
        return copy_vector(__func__, h, n, x, ix, y, iy);                                                          \
    }                                                                                                              \
    cublasStatus_t cublas##L##gemv_v2(cublasHandle_t h, cublasOperation_t t, int m, int n, const T* s, const T* a, \
                                      int l, const T* x, int ix, const T* b, T* y, int iy) {                       \
        SITE;                                                                                                      \
        return gemv(__func__, h, t, m, n, s, a, l, x, ix, b, y, iy);                                               \
    }
VECTOR_CALLS(S, float)
VECTOR_CALLS(D, double)
#undef VECTOR_CALLS
cublasStatus_t cublasIsamax_v2(cublasHandle_t h, int n, const float* x, int ix, int* r) {
    SITE;
    return index_of_extreme(__func__, h, n, x, ix, r, true);
}
cublasStatus_t cublasIsamin_v2(cublasHandle_t h, int n, const float* x, int ix, int* r) {
    SITE;
    return index_of_extreme(__func__, h, n, x, ix, r, false);
}
cublasStatus_t cublasIdamax_v2(cublasHandle_t h, int n, const double* x, int ix, int* r) {
    SITE;
    return index_of_extreme(__func__, h, n, x, ix, r, true);
}

// --- moving data ----------------------------------------------------------------------------------------------------

static cublasStatus_t moved(cudaError_t error) { return error ? CUBLAS_STATUS_MAPPING_ERROR : CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetVector(int n, int bytes, const void* x, int ix, void* y, int iy) {
    return moved(
        cudaMemcpy2D(y, size_t(iy) * bytes, x, size_t(ix) * bytes, size_t(bytes), size_t(n), cudaMemcpyDefault));
}
cublasStatus_t cublasGetVector(int n, int bytes, const void* x, int ix, void* y, int iy) {
    return cublasSetVector(n, bytes, x, ix, y, iy);
}
cublasStatus_t cublasSetMatrix(int rows, int cols, int bytes, const void* a, int lda, void* b, int ldb) {
    return moved(cudaMemcpy2D(b, size_t(ldb) * bytes, a, size_t(lda) * bytes, size_t(rows) * bytes, size_t(cols),
                              cudaMemcpyDefault));
}
cublasStatus_t cublasGetMatrix(int rows, int cols, int bytes, const void* a, int lda, void* b, int ldb) {
    return cublasSetMatrix(rows, cols, bytes, a, lda, b, ldb);
}
