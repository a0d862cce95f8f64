// reference.h - what every op should compute, in the shortest form
//
// With Real = double a formula is the reference. With Real = float it is `plain`, whose errors set the tolerance
// (close.h). Sums are taken from first to last. Arrays are row-major. Where an op adds to a tensor (+=), its old values
// are an argument, and the result holds the new ones.
#pragma once
#include "kernels/ops.h"
#include "test/close.h"

namespace reference {

template <class Real>
Values add(const Values& a, const Values& b) {
    Values out(a.size());
    for (size_t i = 0; i < a.size(); i++) out[i] = Real(a[i]) + Real(b[i]);
    return out;
}

// x (N,C) times scale (C) plus shift (C)
template <class Real>
Values scale_shift(const Values& x, const Values& scale, const Values& shift) {
    Values out(x.size());
    for (size_t i = 0; i < x.size(); i++)
        out[i] = Real(x[i]) * Real(scale[i % scale.size()]) + Real(shift[i % shift.size()]);
    return out;
}

// ---- embedding ------------------------------------------------------------------------------------------------------

// The position of each row: as given, or counted from the start of its sequence.
inline Values positions_or_count(const Values& positions, size_t N, int64_t T) {
    Values p = positions;
    if (p.empty())
        for (size_t n = 0; n < N; n++) p.push_back(double(n % T));
    return p;
}

template <class Real>
Values embedding_forward(const Values& tokens, const Values& positions, const Values& wte, const Values& wpe,
                         int64_t C) {
    Values out;
    for (size_t n = 0; n < tokens.size(); n++)
        for (int64_t c = 0; c < C; c++)
            out.push_back(Real(wte[int64_t(tokens[n]) * C + c]) +
                          (wpe.empty() ? 0 : Real(wpe[int64_t(positions[n]) * C + c])));
    return out;
}

// Adds row n of d to row ids[n] of the table.
template <class Real>
Values add_rows(Values table, const Values& d, const Values& ids, int64_t C) {
    for (size_t n = 0; n < ids.size(); n++)
        for (int64_t c = 0; c < C; c++) {
            double& sum = table[int64_t(ids[n]) * C + c];
            sum         = Real(sum) + Real(d[n * C + c]);
        }
    return table;
}

// ---- layernorm ------------------------------------------------------------------------------------------------------

struct Norm {
    Values y, mean, rstd;
};
template <class Real>
Norm layernorm_forward(const Values& x, const Values& w, const Values& b, double eps) {
    const size_t C = w.size(), N = x.size() / C;
    Norm r;
    for (size_t n = 0; n < N; n++) {
        Real mean = 0, variance = 0;
        for (size_t c = 0; c < C; c++) mean += Real(x[n * C + c]);
        mean /= Real(C);
        for (size_t c = 0; c < C; c++) variance += (Real(x[n * C + c]) - mean) * (Real(x[n * C + c]) - mean);
        const Real rstd = 1 / std::sqrt(variance / Real(C) + Real(eps));
        for (size_t c = 0; c < C; c++) r.y.push_back((Real(x[n * C + c]) - mean) * rstd * Real(w[c]) + Real(b[c]));
        r.mean.push_back(mean);
        r.rstd.push_back(rstd);
    }
    return r;
}

struct NormGrads {
    Values dx, dw, db;
};
template <class Real>
NormGrads layernorm_backward(NormGrads r, const Values& dy, const Values& x, const Values& w, const Values& mean,
                             const Values& rstd) {
    const size_t C = w.size(), N = x.size() / C;
    for (size_t n = 0; n < N; n++) {
        Real g_sum = 0, gx_sum = 0;
        auto xhat = [&](size_t c) { return (Real(x[n * C + c]) - Real(mean[n])) * Real(rstd[n]); };
        for (size_t c = 0; c < C; c++) {
            const Real d = Real(dy[n * C + c]), g = d * Real(w[c]);
            g_sum += g;
            gx_sum += g * xhat(c);
            r.dw[c] = Real(r.dw[c]) + d * xhat(c);
            r.db[c] = Real(r.db[c]) + d;
        }
        for (size_t c = 0; c < C; c++) {
            const Real g = Real(dy[n * C + c]) * Real(w[c]);
            r.dx[n * C + c] =
                Real(r.dx[n * C + c]) + Real(rstd[n]) * (g - g_sum / Real(C) - xhat(c) * (gx_sum / Real(C)));
        }
    }
    return r;
}

// ---- matmul ---------------------------------------------------------------------------------------------------------

// out (M,N) += a (M,K) b (K,N). Functions a(m,k) and b(k,n) give the elements; without `out` the sum starts at 0.
template <class Real, class A, class B>
Values product(int64_t M, int64_t N, int64_t K, A a, B b, Values out = {}) {
    out.resize(M * N, 0.0);
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            Real sum = Real(out[m * N + n]);
            for (int64_t k = 0; k < K; k++) sum += Real(a(m, k)) * Real(b(k, n));
            out[m * N + n] = sum;
        }
    return out;
}
template <class Real>
Values matmul_forward(const Values& x, const Values& w, const Values& b, int64_t N, int64_t IC, int64_t OC) {
    Values out = product<Real>(
        N, OC, IC, [&](int64_t n, int64_t k) { return x[n * IC + k]; },
        [&](int64_t k, int64_t o) { return w[o * IC + k]; });
    for (size_t i = 0; i < out.size() && !b.empty(); i++) out[i] = Real(out[i]) + Real(b[i % OC]);
    return out;
}
struct MatmulGrads {
    Values dx, dw, db;
};
template <class Real>
MatmulGrads matmul_backward(const Values& dw, const Values& db, const Values& dy, const Values& x, const Values& w,
                            int64_t N, int64_t IC, int64_t OC) {
    auto dy_at         = [&](int64_t n, int64_t o) { return dy[n * OC + o]; };
    auto dy_transposed = [&](int64_t o, int64_t n) { return dy[n * OC + o]; };
    auto w_at          = [&](int64_t o, int64_t i) { return w[o * IC + i]; };
    auto x_at          = [&](int64_t n, int64_t i) { return x[n * IC + i]; };
    auto one           = [](int64_t, int64_t) { return 1.0; };
    return {product<Real>(N, IC, OC, dy_at, w_at), product<Real>(OC, IC, N, dy_transposed, x_at, dw),
            product<Real>(OC, 1, N, dy_transposed, one, db)};
}

// ---- gelu -----------------------------------------------------------------------------------------------------------

template <class Real>
Real gelu(Real x, Gelu kind) {
    if (kind == Gelu::erf) return x / 2 * (1 + std::erf(x * Real(M_SQRT1_2)));
    return x / 2 * (1 + std::tanh(Real(M_SQRT1_2 * M_2_SQRTPI) * (x + Real(0.044715) * x * x * x)));
}
template <class Real>
Real gelu_slope(Real x, Gelu kind) {
    const Real root_2_pi = Real(M_SQRT1_2 * M_2_SQRTPI);  // √(2/π)
    if (kind == Gelu::erf) return (1 + std::erf(x * Real(M_SQRT1_2))) / 2 + x * std::exp(-x * x / 2) * root_2_pi / 2;
    const Real t = std::tanh(root_2_pi * (x + Real(0.044715) * x * x * x));
    return (1 + t) / 2 + x / 2 * (1 - t * t) * root_2_pi * (1 + Real(0.134145) * x * x);
}
template <class Real>
Values gelu_forward(const Values& x, Gelu kind) {
    Values y;
    for (double v : x) y.push_back(gelu(Real(v), kind));
    return y;
}
template <class Real>
Values gelu_backward(const Values& dy, const Values& x, Gelu kind) {
    Values dx;
    for (size_t i = 0; i < x.size(); i++) dx.push_back(Real(dy[i]) * gelu_slope(Real(x[i]), kind));
    return dx;
}

// ---- cross entropy --------------------------------------------------------------------------------------------------

struct Loss {
    Values losses, dlogits;
};
template <class Real>
Loss cross_entropy(const Values& logits, const Values& targets, int64_t V, int64_t Vp, double grad_scale) {
    Loss r;
    r.dlogits.assign(logits.size(), 0.0);
    for (size_t n = 0; n < targets.size(); n++) {
        const double* l = logits.data() + n * Vp;
        if (targets[n] < 0) {
            r.losses.push_back(0);
            continue;
        }
        Real top = Real(l[0]), sum = 0;
        for (int64_t v = 1; v < V; v++) top = std::max(top, Real(l[v]));
        for (int64_t v = 0; v < V; v++) sum += std::exp(Real(l[v]) - top);
        r.losses.push_back(std::log(sum) + top - Real(l[int64_t(targets[n])]));
        for (int64_t v = 0; v < V; v++)
            r.dlogits[n * Vp + v] =
                Real(grad_scale) * (std::exp(Real(l[v]) - top) / sum - Real(v == int64_t(targets[n])));
    }
    return r;
}

// ---- adamw ----------------------------------------------------------------------------------------------------------

struct Moments {
    Values master, m, v;
};
struct AdamWStep {
    float lr, beta1, beta2, eps, weight_decay, clip;
    int64_t step;
    AdamWRule rule() const { return {beta1, beta2, eps, clip}; }
    AdamWUpdate update() const { return adamw_update(lr, beta1, beta2, step); }
};
template <class Real>
Moments adamw(Moments r, const Values& grad, double grad_norm2, const AdamWStep& a) {
    if (!std::isfinite(grad_norm2)) return r;
    const Real norm   = std::sqrt(Real(grad_norm2)),
               shrink = a.clip > 0 ? std::min(Real(1), Real(a.clip) / norm) : Real(1);
    const Real b1 = Real(a.beta1), b2 = Real(a.beta2);
    for (size_t i = 0; i < grad.size(); i++) {
        const Real g = Real(grad[i]) * shrink;
        const Real m = b1 * Real(r.m[i]) + (1 - b1) * g, v = b2 * Real(r.v[i]) + (1 - b2) * g * g;
        const Real m_hat = m / (1 - std::pow(b1, Real(a.step))), v_hat = v / (1 - std::pow(b2, Real(a.step)));
        const Real w = Real(r.master[i]);
        r.master[i]  = w - Real(a.lr) * (m_hat / (std::sqrt(v_hat) + Real(a.eps)) + Real(a.weight_decay) * w);
        r.m[i]       = m;
        r.v[i]       = v;
    }
    return r;
}

// ---- sums -----------------------------------------------------------------------------------------------------------

template <class Real>
Values squared_norm(const Values& x) {
    Real sum = 0;
    for (double v : x) sum += Real(v) * Real(v);
    return {double(sum)};
}
template <class Real>
Values sum(const Values& out, const Values& x, double scale) {
    Real total = 0;
    for (double v : x) total += Real(v);
    return {double(Real(out[0]) + Real(scale) * total)};
}

}  // namespace reference
