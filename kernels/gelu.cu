// gelu.cu - the feed-forward nonlinearity y = x Φ(x), Φ the normal distribution (erf form) or close to it (tanh form)
//
//   tanh form   y = x/2 (1 + tanh u),   u = √(2/π) (x + 0.044715 x³)
//   erf form    y = x/2 (1 + erf(x/√2))
//
// For large negative x, 1 + tanh u and 1 + erf cancel. So both forms are computed in terms that lose no digits there:
//
//   tanh form   (1 + tanh u)/2 = σ(2u), the logistic function, and σ' = σ(2u) σ(-2u)
//               y' = σ(2u) + x σ(2u) σ(-2u) 2u',   2u' = 2√(2/π) (1 + 0.134145 x²)
//   erf form    Φ(-a) = exp(-a²/2) R(a) for a >= 0, and Φ(a) = 1 - Φ(-a)
//               y' = Φ(x) + x φ(x),   φ(x) = exp(-x²/2)/√(2π)
//
//   x, y, dx, dy have one shape, which may be any. Arithmetic is in float, storage in the tensor's dtype.
#include "gelu.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

template <Gelu kind, class F>
HD F gelu_slope(F x) {
    const F a = limited_abs(x);
    if constexpr (kind == Gelu::tanh) {
        const F e = exp_of(-1.5957691216f * a * (1.f + 0.044715f * a * a)), s = 1.f / (1.f + e);  // s = σ(|2u|)
        return (x < 0.f ? e : F{} + 1.f) * s + x * (e * s) * s * (1.5957691216f + 0.2140644532f * a * a);
    } else {
        const F e = exp_of(-0.5f * a * a), tail = e * mills(a);
        return (x < 0.f ? tail : 1.f - tail) + x * e * 0.3989422804f;
    }
}

// Calls f(form), where decltype(form)::value is the kind at compile time.
template <class F>
static void for_form(Gelu kind, F f) {
    if (kind == Gelu::tanh)
        f(std::integral_constant<Gelu, Gelu::tanh>{});
    else
        f(std::integral_constant<Gelu, Gelu::erf>{});
}

namespace cpu {

template <class T>
static void gelu_forward(Tensor y, Tensor x, Gelu kind) {
    T* out      = y.data<T>();
    const T* in = x.data<T>();
    for_form(kind, [&](auto form) {
        constexpr Gelu k = decltype(form)::value;
        parallel_lanes(x.numel(), [=](int64_t i, auto n) { store(out + i, gelu<k>(load(in + i, n)), n); });
    });
}

template <class T>
static void gelu_backward(Tensor dx, Tensor dy, Tensor x, Gelu kind) {
    T* out      = dx.data<T>();
    const T *in = x.data<T>(), *d = dy.data<T>();
    for_form(kind, [&](auto form) {
        constexpr Gelu k = decltype(form)::value;
        parallel_lanes(x.numel(),
                       [=](int64_t i, auto n) { store(out + i, load(d + i, n) * gelu_slope<k>(load(in + i, n)), n); });
    });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

template <int W, Gelu kind, class T>
static __global__ void gelu_forward_kernel(T* y, const T* x, int64_t n) {
    for_grid<W>(n, [=](int64_t i, auto width) {
        Floats<width> v = load<width>(x + i);
        for (int k = 0; k < width; k++) v[k] = gelu<kind>(v[k]);
        store(y + i, v);
    });
}
template <class T>
static void gelu_forward(Tensor y, Tensor x, Gelu kind, Queue& q) {
    const int64_t n = x.numel();
    for_form(kind, [&](auto form) {
        for_width<T>(aligned(y.ptr, x.ptr), [&](auto width) {
            launch(gelu_forward_kernel<width, decltype(form)::value, T>, grid_over(n, width), q, y.data<T>(),
                   x.data<T>(), n);
        });
    });
}

template <int W, Gelu kind, class T>
static __global__ void gelu_backward_kernel(T* dx, const T* dy, const T* x, int64_t n) {
    for_grid<W>(n, [=](int64_t i, auto width) {
        Floats<width> d = load<width>(dy + i), v = load<width>(x + i);
        for (int k = 0; k < width; k++) d[k] *= gelu_slope<kind>(v[k]);
        store(dx + i, d);
    });
}
template <class T>
static void gelu_backward(Tensor dx, Tensor dy, Tensor x, Gelu kind, Queue& q) {
    const int64_t n = x.numel();
    for_form(kind, [&](auto form) {
        for_width<T>(aligned(dx.ptr, dy.ptr, x.ptr), [&](auto width) {
            launch(gelu_backward_kernel<width, decltype(form)::value, T>, grid_over(n, width), q, dx.data<T>(),
                   dy.data<T>(), x.data<T>(), n);
        });
    });
}

}  // namespace gpu
#endif

void gelu_forward(Tensor y, Tensor x, Gelu kind, Stream s) {
    expect_there(x);
    expect(y, x.shape, x.dtype, x);
    RUN_ON(s, x.dtype, gelu_forward, y, x, kind);
}

void gelu_backward(Tensor dx, Tensor dy, Tensor x, Gelu kind, Stream s) {
    expect_there(x);
    expect(dx, x.shape, x.dtype, x);
    expect(dy, x.shape, x.dtype, x);
    RUN_ON(s, x.dtype, gelu_backward, dx, dy, x, kind);
}

Cost gelu_forward_cost(int64_t numel, DType x) { return {2. * double(numel * size_of(x))}; }
Cost gelu_backward_cost(int64_t numel, DType x) { return {3. * double(numel * size_of(x))}; }
