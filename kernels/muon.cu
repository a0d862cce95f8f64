// muon.cu - the update of hidden matrices by an orthogonalised momentum (Jordan 2024:
// https://kellerjordan.github.io/posts/muon)
//
//   g  = min(1, clip / norm) · grad                      norm: of all gradients of the model
//   b  = β b + g                                         momentum
//   u  = g + β b                                         Nesterov's form; it replaces grad in memory
//   X  = u / (‖u‖ + 1e-7)                                Frobenius norm: no singular value is above 1
//   X  = p X + (q A + r A²) X,   A = X Xᵀ                five times: the quintic Newton-Schulz iteration, which brings
//                                                        the singular values to about 0.7 … 1.2 and keeps the
//                                                        directions
//   master -= lr (√max(1, rows / columns) · X + weight_decay · master)
//   w  = master, rounded to w's dtype
//
//   Where X has more rows than columns, A = XᵀX and X (q A + r A²) cost less and give the same matrix. X, A and A² are
//   stored in the dtype of w. Jordan reports that the iteration is stable in bf16. Every product sums in fp32.
//   Memory moved is small beside the products: 5 (4 m² n + 2 m³) FLOPs for a matrix whose sides are m <= n.
#include "cpu.h"
#include "ops.h"
#include "update.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

constexpr int newton_schulz_steps = 5;

namespace cpu {

static void muon_momentum(Tensor momentum, Tensor grad, Tensor grad_norm2, Tensor loss, float beta, float clip) {
    const float grad_factor = clip_factor(*grad_norm2.data<float>(), loss.data_or_null<float>(), clip);
    if (grad_factor < 0) return;
    float* b = momentum.data<float>();
    float* u = grad.data<float>();
    parallel_lanes(grad.numel(), [=](int64_t i, auto n) {
        const floats g = load(u + i, n) * grad_factor, b_i = load(b + i, n) * beta + g;
        store(b + i, b_i, n);
        store(u + i, g + b_i * beta, n);
    });
}

template <class T>
static void normalise(Tensor x, Tensor u, Tensor norm2) {
    T* out            = x.data<T>();
    const float* in   = u.data<float>();
    const float scale = 1.f / (std::sqrt(*norm2.data<float>()) + 1e-7f);
    parallel_lanes(x.numel(), [=](int64_t i, auto n) { store(out + i, load(in + i, n) * scale, n); });
}

template <class T>
static void blend(Tensor out, float alpha, Tensor a, float beta, Tensor b) {
    T* to       = out.data<T>();
    const T *pa = a.data<T>(), *pb = b.data<T>();
    parallel_lanes(out.numel(),
                   [=](int64_t i, auto n) { store(to + i, alpha * load(pa + i, n) + beta * load(pb + i, n), n); });
}

template <class T>
static void muon_apply(Tensor w, Tensor master, Tensor x, Tensor grad_norm2, Tensor loss, Tensor update, float scale,
                       float weight_decay, Rounding rounding) {
    if (clip_factor(*grad_norm2.data<float>(), loss.data_or_null<float>(), 0.f) < 0) return;
    const MuonUpdate u = *static_cast<const MuonUpdate*>(update.ptr);
    T* to              = w.data<T>();
    const T* direction = x.data<T>();
    float* masters     = master.data<float>();
    parallel_lanes(w.numel(), [=](int64_t i, auto n) {
        const floats old     = load(masters + i, n);
        const floats updated = old - u.lr * (scale * load(direction + i, n) + weight_decay * old);
        store_weights(to, masters, updated, i, n, rounding, u.step);
    });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

template <int W>
static __global__ void muon_momentum_kernel(float* b, float* u, int64_t n, const float* norm2, const float* loss,
                                            float beta, float clip) {
    const float grad_factor = clip_factor(*norm2, loss, clip);
    if (grad_factor < 0) return;
    for_grid<W>(n, [=](int64_t i, auto width) {
        Floats<width> g = load<width>(u + i), b_i = load<width>(b + i);
        for (int k = 0; k < width; k++) {
            g[k] *= grad_factor;
            b_i[k] = b_i[k] * beta + g[k];
            g[k] += b_i[k] * beta;
        }
        store(b + i, b_i);
        store(u + i, g);
    });
}
static void muon_momentum(Tensor momentum, Tensor grad, Tensor grad_norm2, Tensor loss, float beta, float clip,
                          Queue& q) {
    const int64_t n = grad.numel();
    for_width<float>(aligned(momentum.ptr, grad.ptr), [&](auto width) {
        launch(muon_momentum_kernel<width>, grid_over(n, width), q, momentum.data<float>(), grad.data<float>(), n,
               grad_norm2.data<float>(), loss.data_or_null<float>(), beta, clip);
    });
}

template <int W, class T>
static __global__ void normalise_kernel(T* x, const float* u, int64_t n, const float* norm2) {
    const float scale = 1.f / (sqrtf(*norm2) + 1e-7f);
    for_grid<W>(n, [=](int64_t i, auto width) {
        Floats<width> v = load<width>(u + i);
        for (int k = 0; k < width; k++) v[k] *= scale;
        store(x + i, v);
    });
}
template <class T>
static void normalise(Tensor x, Tensor u, Tensor norm2, Queue& q) {
    const int64_t n = x.numel();
    for_width<float>(aligned(x.ptr, u.ptr), [&](auto width) {
        launch(normalise_kernel<width, T>, grid_over(n, width), q, x.data<T>(), u.data<float>(), n,
               norm2.data<float>());
    });
}

// out may be a or b.
template <int W, class T>
static __global__ void blend_kernel(T* out, float alpha, const T* a, float beta, const T* b, int64_t n) {
    for_grid<W>(n, [=](int64_t i, auto width) {
        Floats<width> v = load<width>(a + i), more = load<width>(b + i);
        for (int k = 0; k < width; k++) v[k] = alpha * v[k] + beta * more[k];
        store(out + i, v);
    });
}
template <class T>
static void blend(Tensor out, float alpha, Tensor a, float beta, Tensor b, Queue& q) {
    const int64_t n = out.numel();
    for_width<T>(aligned(out.ptr, a.ptr, b.ptr), [&](auto width) {
        launch(blend_kernel<width, T>, grid_over(n, width), q, out.data<T>(), alpha, a.data<T>(), beta, b.data<T>(), n);
    });
}

// Weights may be their own masters, so neither is __restrict__.
template <int W, class T>
static __global__ void muon_apply_kernel(T* w, float* master, const T* x, int64_t n, const float* norm2,
                                         const float* loss, const MuonUpdate* update, float scale, float weight_decay,
                                         Rounding rounding) {
    if (clip_factor(*norm2, loss, 0.f) < 0) return;
    const MuonUpdate u = *update;
    for_grid<W>(n, [=](int64_t i, auto width) {
        const Floats<width> direction = load<width>(x + i);
        Floats<width> updated         = load<width>(master + i);
        for (int k = 0; k < width; k++) updated[k] -= u.lr * (scale * direction[k] + weight_decay * updated[k]);
        store_weights(w, master, updated, i, rounding, u.step);
    });
}
template <class T>
static void muon_apply(Tensor w, Tensor master, Tensor x, Tensor grad_norm2, Tensor loss, Tensor update, float scale,
                       float weight_decay, Rounding rounding, Queue& q) {
    const int64_t n = w.numel();
    for_width<float>(aligned(w.ptr, master.ptr, x.ptr), [&](auto width) {
        launch(muon_apply_kernel<width, T>, grid_over(n, width), q, w.data<T>(), master.data<float>(), x.data<T>(), n,
               grad_norm2.data<float>(), loss.data_or_null<float>(), static_cast<const MuonUpdate*>(update.ptr), scale,
               weight_decay, rounding);
    });
}

}  // namespace gpu
#endif

// ---- the ops --------------------------------------------------------------------------------------------------------

void muon_momentum(Tensor momentum, Tensor grad, Tensor grad_norm2, Tensor loss, float beta, float clip, Stream s) {
    expect_dtype(grad, DType::F32);
    expect(momentum, grad.shape, DType::F32, grad);
    expect(grad_norm2, Shape({1}), DType::F32, grad);
    expect_maybe(loss, Shape({1}), DType::F32, grad);
    RUN_UNTYPED(s, muon_momentum, momentum, grad, grad_norm2, loss, beta, clip);
}

void muon_orthogonalise(Tensor x, Tensor u, const MuonSpace& space, Stream s) {
    CHECK_CALL(x && x.shape.dims == 2, "muon_orthogonalise: x is {}, expected a matrix", x.str());
    const int64_t rows = x.shape[0], columns = x.shape[1], m = std::min(rows, columns);
    expect(u, x.shape, DType::F32, x);
    expect(space.product, x.shape, x.dtype, x);
    expect(space.gram, Shape({m, m}), x.dtype, x);
    expect(space.gram2, Shape({m, m}), x.dtype, x);
    expect(space.norm2, Shape({1}), DType::F32, x);
    constexpr float p = 3.4445f, q = -4.7750f, r = 2.0315f;  // Jordan's: steep at 0 and yet bounded
    squared_norm(space.norm2, u, s);
    RUN_ON(s, x.dtype, normalise, x, u, space.norm2);
    for (int step = 0; step < newton_schulz_steps; step++) {
        if (rows <= columns)
            matmul(space.gram, x, transposed(x), s);
        else
            matmul(space.gram, transposed(x), x, s);
        matmul(space.gram2, space.gram, space.gram, s);
        RUN_ON(s, x.dtype, blend, space.gram, q, space.gram, r, space.gram2);
        if (rows <= columns)
            matmul(space.product, space.gram, x, s);
        else
            matmul(space.product, x, space.gram, s);
        RUN_ON(s, x.dtype, blend, x, p, x, 1.f, space.product);
    }
}

void muon_apply(Tensor w, Tensor master, Tensor x, Tensor grad_norm2, Tensor loss, Tensor update, float scale,
                float weight_decay, Rounding rounding, Stream s) {
    expect_there(w);
    expect(master, w.shape, DType::F32, w);
    expect(x, w.shape, w.dtype, w);
    expect(grad_norm2, Shape({1}), DType::F32, w);
    expect_maybe(loss, Shape({1}), DType::F32, w);
    static_assert(sizeof(MuonUpdate) == 8, "two words");
    expect(update, Shape({2}), DType::I32, w);
    RUN_ON(s, w.dtype, muon_apply, w, master, x, grad_norm2, loss, update, scale, weight_decay, rounding);
}

// Momentum and gradient are read and written.
Cost muon_momentum_cost(int64_t numel) { return {double(numel) * 4 * size_of(DType::F32)}; }

// The bytes are those of the direction and the result. The iterates between the products may stay in the cache.
Cost muon_orthogonalise_cost(int64_t R, int64_t C, DType x) {
    const int64_t small = std::min(R, C), large = std::max(R, C);
    const double step = matmul_cost(small, small, large, x).flops + matmul_cost(small, small, small, x).flops +
                        matmul_cost(small, large, small, x).flops;
    return {double(R * C) * double(size_of(DType::F32) + size_of(x)), newton_schulz_steps * step,
            sum_cost(R * C).scratch};
}

// The direction is read, the master is read and written, and w is written where it is not its own master.
Cost muon_apply_cost(int64_t numel, DType x) {
    return {double(numel) * double(size_of(x) + 2 * size_of(DType::F32) + (x == DType::F32 ? 0 : size_of(x)))};
}
