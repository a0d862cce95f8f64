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
#include "cpu.h"
#include "ops.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

static void expect_sane(const AdamWStep& a) {
    CHECK(a.step >= 1, "adamw: step is {}, expected 1 or more (1 is the first update)", a.step);
    CHECK(a.beta1 >= 0 && a.beta1 < 1 && a.beta2 >= 0 && a.beta2 < 1,
          "adamw: beta1 is {} and beta2 {}, expected [0, 1)", a.beta1, a.beta2);
}

// The numbers of one step, each computed once in double.
struct AdamWScales {
    float m_keep, m_take, v_keep, v_take;  // β1, 1 - β1, β2, 1 - β2
    float m_hat, v_hat;                    // 1 / (1 - β1^step), 1 / (1 - β2^step)
    explicit AdamWScales(const AdamWStep& a)
        : m_keep(a.beta1),
          m_take(float(1 - double(a.beta1))),
          v_keep(a.beta2),
          v_take(float(1 - double(a.beta2))),
          m_hat(float(1 / (1 - std::pow(double(a.beta1), double(a.step))))),
          v_hat(float(1 / (1 - std::pow(double(a.beta2), double(a.step))))) {}
};

namespace cpu {

inline floats root(floats x) {
    for (int i = 0; i < lanes; i++) x[i] = std::sqrt(x[i]);
    return x;
}

template <class T>
static void adamw(Tensor w, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor grad_norm2, AdamWStep a) {
    const float norm2 = *grad_norm2.data<float>();
    if (!std::isfinite(norm2)) return;
    const float norm = std::sqrt(norm2), shrink = a.clip > 0 && norm > a.clip ? a.clip / norm : 1.f;
    const AdamWScales k(a);
    T* w_at           = w.data<T>();
    float* master_at  = master.data<float>();
    float* m_at       = m.data<float>();
    float* v_at       = v.data<float>();
    const float* g_at = grad.data<float>();
    parallel_lanes(grad.numel(), [=](int64_t i, auto n) {
        const floats g    = load(g_at + i, n) * shrink;
        const floats mean = load(m_at + i, n) * k.m_keep + g * k.m_take;
        const floats var  = load(v_at + i, n) * k.v_keep + g * g * k.v_take;
        const floats old  = load(master_at + i, n);
        const floats now  = old - a.lr * (mean * k.m_hat / (root(var * k.v_hat) + a.eps) + a.weight_decay * old);
        store(m_at + i, mean, n);
        store(v_at + i, var, n);
        store(master_at + i, now, n);
        store(w_at + i, now, n);
    });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// 4 parameters to a thread: 16 bytes of each fp32 tensor. w may be master, so neither is __restrict__.
template <int W, class T>
static __global__ void adamw_kernel(T* w, float* master, float* m, float* v, const float* grad, const float* grad_norm2,
                                    int64_t n, AdamWStep a, AdamWScales k) {
    const float norm2 = *grad_norm2;
    if (!isfinite(norm2)) return;
    const float norm = sqrtf(norm2), shrink = a.clip > 0 && norm > a.clip ? a.clip / norm : 1.f;
    for_grid<W>(n, [=](int64_t i, auto width) {
        Floats<width> g = load<width>(grad + i), mean = load<width>(m + i), var = load<width>(v + i),
                      now = load<width>(master + i);
        for (int j = 0; j < width; j++) {
            const float gj = g[j] * shrink;
            mean[j]        = mean[j] * k.m_keep + gj * k.m_take;
            var[j]         = var[j] * k.v_keep + gj * gj * k.v_take;
            now[j] -= a.lr * (mean[j] * k.m_hat / (sqrtf(var[j] * k.v_hat) + a.eps) + a.weight_decay * now[j]);
        }
        store(m + i, mean);
        store(v + i, var);
        store(master + i, now);
        if constexpr (!std::is_same_v<T, float>) store(w + i, now);
    });
}

template <class T>
static void adamw(Tensor w, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor grad_norm2, AdamWStep a, Queue& q) {
    if (std::is_same_v<T, float> && w.ptr != master.ptr) {  // fp32 weights with a master of their own
        adamw<T>(master, master, m, v, grad, grad_norm2, a, q);
        CUDA_RUN(cudaMemcpyAsync(w.ptr, master.ptr, size_t(w.bytes()), cudaMemcpyDeviceToDevice, q.stream));
        return;
    }
    const int64_t n = w.numel();
    for_width<float>(aligned(w.ptr, master.ptr, m.ptr, v.ptr, grad.ptr), [&](auto width) {
        launch(adamw_kernel<width, T>, grid_over(n, width), q, w.data<T>(), master.data<float>(), m.data<float>(),
               v.data<float>(), grad.data<float>(), grad_norm2.data<float>(), n, a, AdamWScales(a));
    });
}

}  // namespace gpu
#endif

void adamw(Tensor w, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor grad_norm2, AdamWStep step, Stream s) {
    expect(w, w.shape, w.dtype, w);
    expect(master, w.shape, DType::F32, w);
    expect(m, w.shape, DType::F32, w);
    expect(v, w.shape, DType::F32, w);
    expect(grad, w.shape, DType::F32, w);
    expect(grad_norm2, Shape({1}), DType::F32, w);
    expect_sane(step);
    RUN_ON(s, adamw, w, master, m, v, grad, grad_norm2, step);
}
