// adamw.cu - one fused update (Loshchilov & Hutter 2017: arXiv 1711.05101, algorithm 2)
//
//   g  = min(1, clip / norm) · grad
//   m  = β1 m + (1 - β1) g           m̂ = m / (1 - β1^step)
//   v  = β2 v + (1 - β2) g²          v̂ = v / (1 - β2^step)
//   master -= lr (m̂ / (√v̂ + eps) + weight_decay · master)
//   w  = master, rounded to w's dtype
//
//   All tensors share one shape; grad_norm2 is (1) and holds norm². Memory is the cost: 28 bytes a parameter in fp32,
//   where w is its own master, and 30 in bf16.
//
//   Rounded at random, a bf16 weight goes up with the probability of what nearest rounding would drop, so that its mean
//   is the master. Element i takes the upper half of word i mod 4 of Philox block i / 4 of (rule.rounding, step): the
//   same for any number of threads, on both machines and in every process.
#include "cpu.h"
#include "ops.h"
#include "philox.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

AdamWUpdate adamw_update(float lr, float beta1, float beta2, int64_t step) {
    CHECK(step >= 1 && step <= UINT32_MAX, "adamw: step is {}, expected 1 (the first update) to 2^32 - 1", step);
    CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "adamw: beta1 is {} and beta2 {}, expected [0, 1)", beta1,
          beta2);
    const auto hat = [&](double beta) { return float(1 / (1 - std::pow(beta, double(step)))); };
    return {lr, hat(beta1), hat(beta2), uint32_t(step)};
}

// 1 - β, taken in double: close to 1, a float of β has few digits left of it.
struct AdamWShares {
    float m, v;
    explicit AdamWShares(const AdamWRule& r) : m(float(1 - double(r.beta1))), v(float(1 - double(r.beta2))) {}
};

HD Philox rounding_bits(uint64_t key, uint32_t step, int64_t block) {
    return philox({{uint32_t(block), uint32_t(block >> 32), step, 0}}, uint32_t(key), uint32_t(key >> 32));
}
// Adding 16 random bits below the last place that is kept, then dropping them; what is not finite stays what it is.
HD bf16 up_or_down(float x, uint32_t random) {
    union {
        float f;
        uint32_t u;
    } bits{x};
    if ((bits.u & 0x7f800000u) == 0x7f800000u) return bf16(x);
    bf16 rounded;
    rounded.bits = uint16_t((bits.u + (random >> 16)) >> 16);
    return rounded;
}

namespace cpu {

inline floats root(floats x) {
    for (int i = 0; i < lanes; i++) x[i] = std::sqrt(x[i]);
    return x;
}

// count lanes of elements i, i + 1, …; i is a multiple of 4.
template <class Count>
static void store_at_random(bf16* w, floats x, int64_t i, Count count, uint64_t key, uint32_t step) {
    for (int64_t j = 0; j < count; j += 4) {
        const Philox bits = rounding_bits(key, step, (i + j) / 4);
        for (int64_t k = j; k < std::min<int64_t>(j + 4, count); k++) w[i + k] = up_or_down(x[k], bits.word[k - j]);
    }
}

template <class T>
static void adamw(Tensor w, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor grad_norm2, Tensor update,
                  AdamWRule r) {
    const float norm2 = *grad_norm2.data<float>();
    if (!std::isfinite(norm2)) return;
    const float norm = std::sqrt(norm2), shrink = r.clip > 0 && norm > r.clip ? r.clip / norm : 1.f;
    const AdamWUpdate u = *static_cast<const AdamWUpdate*>(update.ptr);
    const AdamWShares share(r);
    T* w_at           = w.data<T>();
    float* master_at  = master.data<float>();
    float* m_at       = m.data<float>();
    float* v_at       = v.data<float>();
    const float* g_at = grad.data<float>();
    parallel_lanes(grad.numel(), [=](int64_t i, auto n) {
        const floats g    = load(g_at + i, n) * shrink;
        const floats mean = load(m_at + i, n) * r.beta1 + g * share.m;
        const floats var  = load(v_at + i, n) * r.beta2 + g * g * share.v;
        const floats old  = load(master_at + i, n);
        const floats now  = old - u.lr * (mean * u.m_hat / (root(var * u.v_hat) + r.eps) + r.weight_decay * old);
        store(m_at + i, mean, n);
        store(v_at + i, var, n);
        store(master_at + i, now, n);
        if constexpr (std::is_same_v<T, bf16>)
            if (r.rounding) return store_at_random(w_at, now, i, n, r.rounding, u.step);
        store(w_at + i, now, n);
    });
}

template <class>  // w is bf16
static void round_at_random(Tensor w, Tensor master, uint64_t key, uint32_t step) {
    bf16* w_at             = w.data<bf16>();
    const float* master_at = master.data<float>();
    parallel_lanes(w.numel(),
                   [=](int64_t i, auto n) { store_at_random(w_at, load(master_at + i, n), i, n, key, step); });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// Elements i, i + 1, …, all of one block of random numbers.
template <int W>
static __device__ Floats<W> at_random(Floats<W> x, int64_t i, uint64_t key, uint32_t step) {
    const Philox bits = rounding_bits(key, step, i / 4);
    for (int j = 0; j < W; j++) x[j] = float(up_or_down(x[j], bits.word[(i + j) % 4]));
    return x;
}

// 4 parameters to a thread: 16 bytes of each fp32 tensor. w may be master, so neither is __restrict__.
template <int W, bool random, class T>
static __global__ void adamw_kernel(T* w, float* master, float* m, float* v, const float* grad, const float* grad_norm2,
                                    const AdamWUpdate* update, int64_t n, AdamWRule r, AdamWShares share) {
    const float norm2 = *grad_norm2;
    if (!isfinite(norm2)) return;
    const float norm = sqrtf(norm2), shrink = r.clip > 0 && norm > r.clip ? r.clip / norm : 1.f;
    const AdamWUpdate u = *update;
    for_grid<W>(n, [=](int64_t i, auto width) {
        Floats<width> g = load<width>(grad + i), mean = load<width>(m + i), var = load<width>(v + i),
                      now = load<width>(master + i);
        for (int j = 0; j < width; j++) {
            const float gj = g[j] * shrink;
            mean[j]        = mean[j] * r.beta1 + gj * share.m;
            var[j]         = var[j] * r.beta2 + gj * gj * share.v;
            now[j] -= u.lr * (mean[j] * u.m_hat / (sqrtf(var[j] * u.v_hat) + r.eps) + r.weight_decay * now[j]);
        }
        store(m + i, mean);
        store(v + i, var);
        store(master + i, now);
        if constexpr (random) now = at_random(now, i, r.rounding, u.step);
        if constexpr (!std::is_same_v<T, float>) store(w + i, now);
    });
}

template <class T>
static void adamw(Tensor w, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor grad_norm2, Tensor update,
                  AdamWRule r, Queue& q) {
    if (std::is_same_v<T, float> && w.ptr != master.ptr) {  // fp32 weights with a master of their own
        adamw<T>(master, master, m, v, grad, grad_norm2, update, r, q);
        CUDA_RUN(cudaMemcpyAsync(w.ptr, master.ptr, size_t(w.bytes()), cudaMemcpyDeviceToDevice, q.stream));
        return;
    }
    const int64_t n = w.numel();
    for_width<float>(aligned(w.ptr, master.ptr, m.ptr, v.ptr, grad.ptr), [&](auto width) {
        const auto run = [&](auto kernel) {
            launch(kernel, grid_over(n, width), q, w.data<T>(), master.data<float>(), m.data<float>(), v.data<float>(),
                   grad.data<float>(), grad_norm2.data<float>(), static_cast<const AdamWUpdate*>(update.ptr), n, r,
                   AdamWShares(r));
        };
        if (r.rounding && std::is_same_v<T, bf16>)
            run(adamw_kernel<width, std::is_same_v<T, bf16>, T>);
        else
            run(adamw_kernel<width, false, T>);
    });
}

template <int W>
static __global__ void round_at_random_kernel(bf16* w, const float* master, int64_t n, uint64_t key, uint32_t step) {
    for_grid<W>(n, [=](int64_t i, auto width) { store(w + i, at_random(load<width>(master + i), i, key, step)); });
}

template <class>  // w is bf16
static void round_at_random(Tensor w, Tensor master, uint64_t key, uint32_t step, Queue& q) {
    const int64_t n = w.numel();
    for_width<float>(aligned(w.ptr, master.ptr), [&](auto width) {
        launch(round_at_random_kernel<width>, grid_over(n, width), q, w.data<bf16>(), master.data<float>(), n, key,
               step);
    });
}

}  // namespace gpu
#endif

void adamw(Tensor w, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor grad_norm2, Tensor update, AdamWRule rule,
           Stream s) {
    expect(w, w.shape, w.dtype, w);
    expect(master, w.shape, DType::F32, w);
    expect(m, w.shape, DType::F32, w);
    expect(v, w.shape, DType::F32, w);
    expect(grad, w.shape, DType::F32, w);
    expect(grad_norm2, Shape({1}), DType::F32, w);
    static_assert(sizeof(AdamWUpdate) == 16, "four words");
    expect(update, Shape({4}), DType::I32, w);
    RUN_ON(s, adamw, w, master, m, v, grad, grad_norm2, update, rule);
}

void round_at_random(Tensor w, Tensor master, uint64_t key, uint32_t step, Stream s) {
    expect(w, w.shape, DType::BF16, w);
    expect(master, w.shape, DType::F32, w);
    RUN_ON(s, round_at_random, w, master, key, step);
}
