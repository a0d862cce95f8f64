// layernorm.cu - each row to mean 0 and variance 1, then a scale and a shift per column
//
//   forward    x̂ = (x - mean) rstd,  rstd = 1/√(variance + eps),  y = x̂ w + b
//   backward   g = dy w:   dx += rstd (g - mean(g) - x̂ mean(g x̂)),   dw += Σ_n dy x̂,   db += Σ_n dy
//
//   x, y, dx, dy (N,C); w, b, dw, db (C); mean, rstd (N) fp32, kept from forward for backward.
//   Ba, Kiros, Hinton 2016: arXiv 1607.06450
#include <vector>

#include "cpu.h"
#include "ops.h"

namespace cpu {

static int64_t row_grain(int64_t C) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(C, 1)); }

// Two passes for the variance, not E[x²] - E[x]²: with |mean| ≫ std the subtraction cancels, and the row is in cache.
template <class T>
static void normalise_row(T* y, float& mean, float& rstd, const T* x, const T* w, const T* b, float eps, int64_t C) {
    const float m               = sum_lanes(C, [=](int64_t i, auto n) { return load(x + i, n); }) / C;
    const auto squared_distance = [=](int64_t i, auto n) {
        const floats d = load(x + i, n) - m;
        return d * d;
    };
    const float r = 1.f / std::sqrt(sum_lanes(C, squared_distance) / C + eps);
    for_lanes(C,
              [=](int64_t i, auto n) { store(y + i, (load(x + i, n) - m) * r * load(w + i, n) + load(b + i, n), n); });
    mean = m;
    rstd = r;
}

template <class T>
static void layernorm_forward(Tensor x, Tensor y, Tensor mean, Tensor rstd, Tensor w, Tensor b, float eps) {
    const int64_t N = x.shape[0], C = x.shape[1];
    const T *in = x.data<T>(), *scale = w.data<T>(), *shift = b.data<T>();
    T* out   = y.data<T>();
    float *m = mean.data<float>(), *r = rstd.data<float>();
    parallel_ranges(N, row_grain(C), [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; n++) normalise_row(out + n * C, m[n], r[n], in + n * C, scale, shift, eps, C);
    });
}

// The sum is read back as it was stored, so rounding is that of the pair of ops.
template <class T>
static void add_layernorm_forward(Tensor a, Tensor b, Tensor sum, Tensor y, Tensor mean, Tensor rstd, Tensor w,
                                  Tensor bias, float eps) {
    const int64_t N = a.shape[0], C = a.shape[1];
    const T *left = a.data<T>(), *right = b.data<T>(), *scale = w.data<T>(), *shift = bias.data<T>();
    T *both = sum.data<T>(), *out = y.data<T>();
    float *m = mean.data<float>(), *r = rstd.data<float>();
    parallel_ranges(N, row_grain(C), [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; n++) {
            const int64_t at = n * C;
            for_lanes(C, [=](int64_t i, auto k) {
                store(both + at + i, load(left + at + i, k) + load(right + at + i, k), k);
            });
            normalise_row(out + at, m[n], r[n], both + at, scale, shift, eps, C);
        }
    });
}

// One row: dx, and what the row adds to dw and db. Lanes past the end of the row load dy = 0, so they add nothing.
template <class T>
static void layernorm_backward_row(T* dx, float* dw, float* db, const T* dy, const T* x, const T* w, float mean,
                                   float rstd, int64_t C) {
    floats g_sum = {}, gx_sum = {};
    for_lanes(C, [&](int64_t i, auto n) {
        const floats d = load(dy + i, n), xhat = (load(x + i, n) - mean) * rstd, g = d * load(w + i, n);
        g_sum += g;
        gx_sum += g * xhat;
        store(dw + i, load(dw + i, n) + d * xhat, n);
        store(db + i, load(db + i, n) + d, n);
    });
    const float g_mean = sum(g_sum) / C, gx_mean = sum(gx_sum) / C;
    for_lanes(C, [=](int64_t i, auto n) {
        const floats xhat = (load(x + i, n) - mean) * rstd, g = load(dy + i, n) * load(w + i, n);
        store(dx + i, load(dx + i, n) + rstd * (g - g_mean - xhat * gx_mean), n);
    });
}

// dw and db are sums down the columns. Rows are cut into at most 64 chunks whatever the number of threads; each chunk
// has its own sums, which are then added in order.
template <class T>
static void layernorm_backward(Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Tensor mean,
                               Tensor rstd) {
    const int64_t N = x.shape[0], C = x.shape[1];
    const int64_t rows = std::max<int64_t>(8, (N + 63) / 64), chunks = (N + rows - 1) / rows;
    std::vector<float> partial(chunks * 2 * C);
    float* sums = partial.data();
    T* to       = dx.data<T>();
    const T *d = dy.data<T>(), *in = x.data<T>(), *scale = w.data<T>();
    const float *m = mean.data<float>(), *r = rstd.data<float>();
    parallel_ranges(chunks, 1, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin * rows; n < std::min(end * rows, N); n++) {
            float* chunk = sums + n / rows * 2 * C;
            layernorm_backward_row(to + n * C, chunk, chunk + C, d + n * C, in + n * C, scale, m[n], r[n], C);
        }
    });
    for (const auto& [total, offset] :
         {std::make_pair(dw.data<float>(), int64_t(0)), std::make_pair(db.data<float>(), C)})
        parallel_lanes(C, [=, total = total, first = sums + offset](int64_t i, auto n) {
            floats s = load(first + i, n);
            for (int64_t c = 1; c < chunks; c++) s += load(first + c * 2 * C + i, n);
            store(total + i, load(total + i, n) + s, n);
        });
}

}  // namespace cpu

static void expect_rows(const char* op, Tensor x) {
    CHECK(x && x.shape.dims == 2 && x.shape[1] > 0, "{}: x is {}, expected (N, C)", op, x.str());
}

void layernorm_forward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b, float eps, Stream s) {
    expect_rows(__func__, x);
    expect(y, x.shape, x.dtype, x);
    expect(mean, Shape({x.shape[0]}), DType::F32, x);
    expect(rstd, Shape({x.shape[0]}), DType::F32, x);
    expect(w, Shape({x.shape[1]}), x.dtype, x);
    expect(b, Shape({x.shape[1]}), x.dtype, x);
    RUN_ON(s, layernorm_forward, x, y, mean, rstd, w, b, eps);
}

void add_layernorm_forward(Tensor sum, Tensor y, Tensor mean, Tensor rstd, Tensor a, Tensor b, Tensor w, Tensor bias,
                           float eps, Stream s) {
    expect_rows(__func__, a);
    expect(b, a.shape, a.dtype, a);
    expect(sum, a.shape, a.dtype, a);
    expect(y, a.shape, a.dtype, a);
    expect(mean, Shape({a.shape[0]}), DType::F32, a);
    expect(rstd, Shape({a.shape[0]}), DType::F32, a);
    expect(w, Shape({a.shape[1]}), a.dtype, a);
    expect(bias, Shape({a.shape[1]}), a.dtype, a);
    RUN_ON(s, add_layernorm_forward, a, b, sum, y, mean, rstd, w, bias, eps);
}

void layernorm_backward(Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Tensor mean, Tensor rstd,
                        Stream s) {
    expect_rows(__func__, x);
    expect(dx, x.shape, x.dtype, x);
    expect(dw, Shape({x.shape[1]}), DType::F32, x);
    expect(db, Shape({x.shape[1]}), DType::F32, x);
    expect(dy, x.shape, x.dtype, x);
    expect(w, Shape({x.shape[1]}), x.dtype, x);
    expect(mean, Shape({x.shape[0]}), DType::F32, x);
    expect(rstd, Shape({x.shape[0]}), DType::F32, x);
    RUN_ON(s, layernorm_backward, dx, dw, db, dy, x, w, mean, rstd);
}
