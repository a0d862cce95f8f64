// vectors.cpp - libcublas: operations on vectors, products of a matrix and a vector, sums of matrices
#include <cmath>

#include "context.h"

namespace emu {
namespace {

// A range of elements that an operation touches.
struct Vector {
    const void* data;
    int64_t n, stride;
    size_t element;
    Access access;
};
// Queues an operation that checks its ranges and then runs the body.
template <class Body> cublasStatus_t submit_vectors(cublasHandle_t handle, std::vector<Vector> vectors, Body body) {
    NEED(handle);
    std::lock_guard guard(runtime_lock());
    Work work{cudaGraphNodeTypeKernel, call_site()};
    work.run = [where = work.what, vectors, body, device = current_device()](uint32_t op) {
        for (const Vector& v : vectors) {
            const bool dense = std::abs(v.stride) == 1;
            for (int64_t i = 0; i < (dense ? 1 : v.n); i++) {
                const Address at   = address_of(v.data) + size_t(i * std::abs(v.stride)) * v.element;
                const size_t bytes = v.element * size_t(dense ? v.n : 1);
                if (v.n > 0 && !Memory::get().check(at, bytes, v.access, where.c_str(), op, device))
                    return cudaErrorIllegalAddress;
                if (v.n > 0 && v.access == Access::Write) Memory::get().mark_written(at, bytes);
            }
        }
        body();
        return cudaSuccess;
    };
    return submit(handle->stream, std::move(work)) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
// In BLAS a vector with a negative stride begins at its far end.
template <class T> T& at(const T* x, int64_t i, int64_t n, int64_t stride) {
    return on_host(x)[stride >= 0 ? i * stride : (i - n + 1) * stride];
}

// Queues an operation that has one result. A result on the host is complete when the call returns.
template <class R, class Body>
cublasStatus_t reduce(cublasHandle_t handle, std::vector<Vector> vectors, R* result, Body body) {
    NEED(handle);
    if (!result) return CUBLAS_STATUS_INVALID_VALUE;
    if (handle->pointer == CUBLAS_POINTER_MODE_DEVICE) {
        vectors.push_back({result, 1, 1, sizeof(R), Access::Write});
        return submit_vectors(handle, vectors, [=] { *on_host(result) = body(); });
    }
    if (const cublasStatus_t status = submit_vectors(handle, vectors, [=] { *result = body(); })) return status;
    std::lock_guard guard(runtime_lock());
    return wait_stream(handle->stream) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

template <class T> cublasStatus_t dot(cublasHandle_t h, int n, const T* x, int ix, const T* y, int iy, T* result) {
    return reduce(h, {{x, n, ix, sizeof(T), Access::Read}, {y, n, iy, sizeof(T), Access::Read}}, result, [=] {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += double(at(x, i, n, ix)) * double(at(y, i, n, iy));
        return T(sum);
    });
}
template <class T> cublasStatus_t norm(cublasHandle_t h, int n, const T* x, int ix, T* result) {
    return reduce(h, {{x, n, ix, sizeof(T), Access::Read}}, result, [=] {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += double(at(x, i, n, ix)) * double(at(x, i, n, ix));
        return T(std::sqrt(sum));
    });
}
template <class T> cublasStatus_t sum_of_magnitudes(cublasHandle_t h, int n, const T* x, int ix, T* result) {
    return reduce(h, {{x, n, ix, sizeof(T), Access::Read}}, result, [=] {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += std::abs(double(at(x, i, n, ix)));
        return T(sum);
    });
}
template <class T>
cublasStatus_t index_of_extreme(cublasHandle_t h, int n, const T* x, int ix, int* result, bool largest) {
    return reduce(h, {{x, n, ix, sizeof(T), Access::Read}}, result, [=] {
        int best = 0;
        for (int i = 1; i < n; i++) {
            const T a = std::abs(at(x, i, n, ix)), b = std::abs(at(x, best, n, ix));
            if (largest ? a > b : a < b) best = i;
        }
        return n > 0 ? best + 1 : 0;  // BLAS counts from one
    });
}
cublasStatus_t null_scalar() { return say(CUBLAS_STATUS_INVALID_VALUE, "alpha or beta is null"); }
template <class T> cublasStatus_t axpy(cublasHandle_t h, int n, const T* alpha, const T* x, int ix, T* y, int iy) {
    NEED(h);
    if (!alpha) return null_scalar();
    const bool device = h->pointer == CUBLAS_POINTER_MODE_DEVICE;
    const T value     = device ? T(0) : *alpha;
    return submit_vectors(h,
                          {{x, n, ix, sizeof(T), Access::Read},
                           {y, n, iy, sizeof(T), Access::Read},
                           {y, n, iy, sizeof(T), Access::Write}},
                          [=] {
                              const T a = device ? *on_host(alpha) : value;
                              for (int i = 0; i < n; i++) {
                                  T& to = at(y, i, n, iy);
                                  to    = T(std::fma(a, at(x, i, n, ix), to));
                              }
                          });
}
template <class T> cublasStatus_t scale(cublasHandle_t h, int n, const T* alpha, T* x, int ix) {
    NEED(h);
    if (!alpha) return null_scalar();
    const bool device = h->pointer == CUBLAS_POINTER_MODE_DEVICE;
    const T value     = device ? T(0) : *alpha;
    return submit_vectors(h, {{x, n, ix, sizeof(T), Access::Read}, {x, n, ix, sizeof(T), Access::Write}}, [=] {
        const T a = device ? *on_host(alpha) : value;
        for (int i = 0; i < n; i++) on_host(x)[i * std::abs(ix)] *= a;
    });
}
template <class T> cublasStatus_t copy_vector(cublasHandle_t h, int n, const T* x, int ix, T* y, int iy) {
    return submit_vectors(h, {{x, n, ix, sizeof(T), Access::Read}, {y, n, iy, sizeof(T), Access::Write}}, [=] {
        for (int i = 0; i < n; i++) at(y, i, n, iy) = at(x, i, n, ix);
    });
}
// Adds a range for each column of a matrix, because the gaps between the columns need not be accessible.
template <class T>
void touch_columns(std::vector<Vector>& touched, const T* a, int rows, int columns, int ld, Access access) {
    for (int c = 0; c < columns; c++) touched.push_back({a + int64_t(c) * ld, rows, 1, sizeof(T), access});
}
template <class T>
cublasStatus_t gemv(cublasHandle_t h, cublasOperation_t t, int m, int n, const T* alpha, const T* a, int lda,
                    const T* x, int ix, const T* beta, T* y, int iy) {
    NEED(h);
    if (lda < std::max(1, m) || m < 0 || n < 0)
        return say(CUBLAS_STATUS_INVALID_VALUE, "lda is less than m or 1, or a size is negative");
    if (!ix || !iy) return say(CUBLAS_STATUS_INVALID_VALUE, "a stride of a vector is 0");
    if (!alpha || !beta) return null_scalar();
    if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
    if (h->pointer == CUBLAS_POINTER_MODE_DEVICE)
        return say(CUBLAS_STATUS_NOT_SUPPORTED, "the emulator lacks scalars on the device here");
    const T s = *alpha, b = *beta;
    const int rows = t == CUBLAS_OP_N ? m : n, length = t == CUBLAS_OP_N ? n : m;
    std::vector<Vector> touched{{x, length, ix, sizeof(T), Access::Read}};
    touch_columns(touched, a, m, n, lda, Access::Read);
    if (b != T(0)) touched.push_back({y, rows, iy, sizeof(T), Access::Read});
    touched.push_back({y, rows, iy, sizeof(T), Access::Write});
    return submit_vectors(h, touched, [=] {
        for (int r = 0; r < rows; r++) {
            double sum = 0;
            for (int c = 0; c < length; c++)
                sum += double(on_host(a)[t == CUBLAS_OP_N ? r + int64_t(c) * lda : c + int64_t(r) * lda]) *
                       double(at(x, c, length, ix));
            T& to = at(y, r, rows, iy);
            to    = T(double(s) * sum + (b != T(0) ? double(b) * double(to) : 0));
        }
    });
}

template <class T>
cublasStatus_t add_matrices(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, const T* alpha,
                            const T* a, int lda, const T* beta, const T* b, int ldb, T* c, int ldc) {
    NEED(h);
    const bool flip_a = ta != CUBLAS_OP_N, flip_b = tb != CUBLAS_OP_N;
    if (!alpha || !beta) return null_scalar();
    if (m < 0 || n < 0 || ldc < m || lda < (flip_a ? n : m) || ldb < (flip_b ? n : m))
        return say(CUBLAS_STATUS_INVALID_VALUE, "a leading dimension is too small, or a size is negative");
    if ((c == a && (flip_a || lda != ldc)) || (c == b && (flip_b || ldb != ldc)))
        return say(CUBLAS_STATUS_INVALID_VALUE,
                   "C may be A or B only without transposition and with equal leading dimensions");
    if (h->pointer == CUBLAS_POINTER_MODE_DEVICE)
        return say(CUBLAS_STATUS_NOT_SUPPORTED, "the emulator lacks scalars on the device here");
    std::vector<Vector> touched;
    if (*alpha != T(0)) touch_columns(touched, a, flip_a ? n : m, flip_a ? m : n, lda, Access::Read);
    if (*beta != T(0)) touch_columns(touched, b, flip_b ? n : m, flip_b ? m : n, ldb, Access::Read);
    touch_columns(touched, c, m, n, ldc, Access::Write);
    return submit_vectors(h, touched, [=, p = *alpha, q = *beta] {
        for (int64_t j = 0; j < n; j++)
            for (int64_t i = 0; i < m; i++) {
                const T left            = p != T(0) ? p * on_host(a)[flip_a ? j + i * lda : i + j * lda] : T(0);
                const T right           = q != T(0) ? q * on_host(b)[flip_b ? j + i * ldb : i + j * ldb] : T(0);
                on_host(c)[i + j * ldc] = left + right;
            }
    });
}

}  // namespace
}  // namespace emu

using namespace emu;

#define VECTOR_CALLS(L, I, T)                                                                                      \
    cublasStatus_t cublas##L##dot_v2(cublasHandle_t h, int n, const T* x, int ix, const T* y, int iy, T* r) {      \
        SITE;                                                                                                      \
        return dot(h, n, x, ix, y, iy, r);                                                                         \
    }                                                                                                              \
    cublasStatus_t cublas##L##nrm2_v2(cublasHandle_t h, int n, const T* x, int ix, T* r) {                         \
        SITE;                                                                                                      \
        return norm(h, n, x, ix, r);                                                                               \
    }                                                                                                              \
    cublasStatus_t cublas##L##asum_v2(cublasHandle_t h, int n, const T* x, int ix, T* r) {                         \
        SITE;                                                                                                      \
        return sum_of_magnitudes(h, n, x, ix, r);                                                                  \
    }                                                                                                              \
    cublasStatus_t cublas##L##axpy_v2(cublasHandle_t h, int n, const T* a, const T* x, int ix, T* y, int iy) {     \
        SITE;                                                                                                      \
        return axpy(h, n, a, x, ix, y, iy);                                                                        \
    }                                                                                                              \
    cublasStatus_t cublas##L##scal_v2(cublasHandle_t h, int n, const T* a, T* x, int ix) {                         \
        SITE;                                                                                                      \
        return scale(h, n, a, x, ix);                                                                              \
    }                                                                                                              \
    cublasStatus_t cublas##L##copy_v2(cublasHandle_t h, int n, const T* x, int ix, T* y, int iy) {                 \
        SITE;                                                                                                      \
        return copy_vector(h, n, x, ix, y, iy);                                                                    \
    }                                                                                                              \
    cublasStatus_t cublas##L##gemv_v2(cublasHandle_t h, cublasOperation_t t, int m, int n, const T* s, const T* a, \
                                      int l, const T* x, int ix, const T* b, T* y, int iy) {                       \
        SITE;                                                                                                      \
        return gemv(h, t, m, n, s, a, l, x, ix, b, y, iy);                                                         \
    }                                                                                                              \
    cublasStatus_t cublas##L##geam(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n,     \
                                   const T* s, const T* a, int la, const T* t, const T* b, int lb, T* c, int lc) { \
        SITE;                                                                                                      \
        return add_matrices(h, ta, tb, m, n, s, a, la, t, b, lb, c, lc);                                           \
    }                                                                                                              \
    cublasStatus_t cublasI##I##amin_v2(cublasHandle_t h, int n, const T* x, int ix, int* r) {                      \
        SITE;                                                                                                      \
        return index_of_extreme(h, n, x, ix, r, false);                                                            \
    }                                                                                                              \
    cublasStatus_t cublasI##I##amax_v2(cublasHandle_t h, int n, const T* x, int ix, int* r) {                      \
        SITE;                                                                                                      \
        return index_of_extreme(h, n, x, ix, r, true);                                                             \
    }
VECTOR_CALLS(S, s, float)
VECTOR_CALLS(D, d, double)
#undef VECTOR_CALLS
