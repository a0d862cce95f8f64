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
