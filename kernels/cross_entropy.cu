// cross_entropy.cu - logits to losses, and to their own gradient in place
//
//   loss_n  = log Σ_{v<V} exp(l_nv - max_n) + max_n - l_n,target
//   l_nv    = grad_scale (exp(l_nv - max_n) / Σ - [v = target]), 0 for V <= v < Vp; only when grad_scale ≠ 0
//
//   losses (N) fp32, logits (N,Vp), targets (N) int32; a target of -1 counts for nothing: loss 0, gradient 0. A row
//   that holds a NaN has a NaN loss and gradient.
//
//   A row is read more than once but comes from memory once: 50304 columns take 200 KB at most, which second-level
//   caches hold. The exponentials are kept in a row of floats, so each is taken once and rounded only as a gradient.
#include <vector>

#include "cpu.h"
#include "ops.h"

namespace cpu {

template <class T>
static float row_max(const T* x, int64_t V) {
    floats a = broadcast(-INFINITY), b = a;
    const int64_t half = V / (2 * lanes) * lanes;  // two running maxima overlap
    for (int64_t i = 0; i < half; i += lanes) {
        a = max(a, load(x + i));
        b = max(b, load(x + half + i));
    }
    for_lanes(V - 2 * half, [&](int64_t i, auto n) { a = max(a, load(x + 2 * half + i, n, -INFINITY)); });
    return max(max(a, b));
}

// exps receives exp(x - top), unless it is null; returns their sum.
template <class T>
static float row_exps(float* exps, const T* x, float top, int64_t V) {
    return sum_lanes(V, [=](int64_t i, auto n) {
        const floats e = exp(load(x + i, n) - top);
        if (exps) store(exps + i, e, n);
        return e;
    });
}

template <class T>
static void cross_entropy(Tensor logits, Tensor losses, Tensor targets, int64_t V, float grad_scale) {
    const int64_t N = logits.shape[0], Vp = logits.shape[1];
    T* all                = logits.data<T>();
    float* loss           = losses.data<float>();
    const int32_t* target = targets.data<int32_t>();
    for (int64_t n = 0; n < N; n++)
        CHECK(target[n] >= -1 && target[n] < V, "cross_entropy: target {} is {}, expected -1 or 0..{}", n, target[n],
              V - 1);
    const bool grad = grad_scale != 0;
    parallel_ranges(N, 1, [=](int64_t begin, int64_t end) {
        std::vector<float> exps(grad ? V : 0);
        for (int64_t n = begin; n < end; n++) {
            T* x = all + n * Vp;
            if (target[n] < 0) {
                loss[n] = 0;
                if (grad) std::fill(x, x + Vp, T(0.f));
                continue;
            }
            const float top = row_max(x, V), total = row_exps(grad ? exps.data() : nullptr, x, top, V);
            loss[n] = float(std::log(double(total)) + double(top) - double(float(x[target[n]])));
            if (!grad) continue;
            const float scale = grad_scale / total;
            exps[target[n]] -= total;  // exp / total - 1 = (exp - total) / total
            for_lanes(V, [&](int64_t i, auto k) { store(x + i, load(exps.data() + i, k) * scale, k); });
            std::fill(x + V, x + Vp, T(0.f));
        }
    });
}

}  // namespace cpu

void cross_entropy(Tensor losses, Tensor logits, Tensor targets, int64_t V, float grad_scale, Stream s) {
    CHECK(logits && logits.shape.dims == 2, "cross_entropy: logits is {}, expected (N, Vp)", logits.str());
    CHECK(V >= 1 && V <= logits.shape[1], "cross_entropy: V is {}, expected 1..{} because logits is {}", V,
          logits.shape[1], logits.str());
    expect(losses, Shape({logits.shape[0]}), DType::F32, logits);
    expect(targets, Shape({logits.shape[0]}), DType::I32, logits);
    RUN_ON(s, cross_entropy, logits, losses, targets, V, grad_scale);
}
