// reference_attention.h - the formulas of attention and its gradient, and inputs that are hard for them
#pragma once
#include <functional>
#include <memory>

#include "kernels/ops.h"
#include "test/close.h"

// ---- the formulas, in double (the reference) or float (plain) -------------------------------------------------------

struct AttentionSizes {
    int64_t B, T, H, D;
    int64_t window;
    bool documents;  // whether a sequence holds several documents
};
namespace Catch {
template <>
struct StringMaker<AttentionSizes> {
    static std::string convert(const AttentionSizes& sizes) {
        return fmt::format("B {} T {} H {} D {} window {}{}", sizes.B, sizes.T, sizes.H, sizes.D, sizes.window,
                           sizes.documents ? " documents" : "");
    }
};
}  // namespace Catch

// The first row that row t sees.
inline int64_t first_seen(const AttentionSizes& sizes, const Values& starts, int64_t b, int64_t t) {
    const int64_t start = starts.empty() ? 0 : int64_t(starts[b * sizes.T + t]);
    return std::max({start, t - sizes.window + 1, int64_t(0)});
}

// Where the elements of tensors are, by the layouts in ops.h.
struct AttentionIndices {
    AttentionSizes sizes;
    int64_t qkv(int64_t b, int64_t t, int64_t which, int64_t h, int64_t d) const {
        return (((b * sizes.T + t) * 3 + which) * sizes.H + h) * sizes.D + d;
    }
    int64_t out(int64_t b, int64_t t, int64_t h, int64_t d) const {
        return ((b * sizes.T + t) * sizes.H + h) * sizes.D + d;
    }
    int64_t lse(int64_t b, int64_t h, int64_t t) const { return (b * sizes.H + h) * sizes.T + t; }
};

template <class R>
R attention_score(const Values& qkv, const AttentionIndices& at, int64_t b, int64_t h, int64_t t, int64_t s,
                  double scale) {
    R dot = 0;
    for (int64_t d = 0; d < at.sizes.D; d++) dot += R(qkv[at.qkv(b, t, 0, h, d)]) * R(qkv[at.qkv(b, s, 1, h, d)]);
    return dot * R(scale);
}

template <class F>
void each_attention_row(const AttentionSizes& sizes, F f) {
    for (int64_t b = 0; b < sizes.B; b++)
        for (int64_t h = 0; h < sizes.H; h++)
            for (int64_t t = 0; t < sizes.T; t++) f(b, h, t);
}

// What dropout multiplies the probability of key s for query t of head h with, asked for each element; null: with 1.
using MaskOf = std::function<double(int64_t b, int64_t h, int64_t t, int64_t s)>;
inline MaskOf mask_of(const AttentionSizes& sizes, Dropout drop, int32_t step) {
    const auto number = std::make_shared<int32_t>(step);
    drop.step         = {number.get(), DType::I32, {1}};
    const HeadDropouts heads(drop, sizes.T, sizes.H);
    const double scale = 65536. / (65536 - drop.threshold());
    return [=, H = sizes.H, kept = number](int64_t b, int64_t h, int64_t t, int64_t s) {
        return heads.head(b * H + h).keeps(uint32_t(t), uint32_t(s)) ? scale : 0;
    };
}

struct AttentionResults {
    Values out, lse;
};
template <class R>
AttentionResults forward_formula(const AttentionSizes& sizes, const Values& qkv, const Values& starts, double scale,
                                 const MaskOf& mask = nullptr) {
    const AttentionIndices at{sizes};
    AttentionResults y{Values(sizes.B * sizes.T * sizes.H * sizes.D), Values(sizes.B * sizes.H * sizes.T)};
    each_attention_row(sizes, [&](int64_t b, int64_t h, int64_t t) {
        const int64_t first = first_seen(sizes, starts, b, t);
        std::vector<R> p(t + 1);
        R top = -std::numeric_limits<R>::infinity(), sum = 0;
        for (int64_t s = first; s <= t; s++) {
            p[s] = attention_score<R>(qkv, at, b, h, t, s, scale);
            top  = std::max(top, p[s]);
        }
        for (int64_t s = first; s <= t; s++) {
            p[s] = std::exp(p[s] - top);
            sum += p[s];
            if (mask) p[s] *= R(mask(b, h, t, s));
        }
        for (int64_t d = 0; d < sizes.D; d++) {
            R o = 0;
            for (int64_t s = first; s <= t; s++) o += p[s] * R(qkv[at.qkv(b, s, 2, h, d)]);
            y.out[at.out(b, t, h, d)] = double(o / sum);
        }
        y.lse[at.lse(b, h, t)] = double(top + std::log(sum));
    });
    return y;
}

// Returns the gradient of qkv. p and ds are rounded to the dtype `factors` before they are multiplied with dout, q and
// k.
template <class R>
Values backward_formula(const AttentionSizes& sizes, const Values& dout, const Values& out, const Values& lse,
                        const Values& qkv, const Values& starts, double scale, DType factors = DType::F32,
                        const MaskOf& mask = nullptr) {
    const auto factor = [=](R x) { return factors == DType::F32 ? x : R(rounded(double(x), factors)); };
    const AttentionIndices at{sizes};
    std::vector<R> g(qkv.size());
    each_attention_row(sizes, [&](int64_t b, int64_t h, int64_t t) {
        // From last to first. A row that sees one key has dp m = δ, and if both were summed in the same order, their
        // rounding errors would cancel as well. A kernel's errors do not.
        R delta = 0;
        for (int64_t d = sizes.D; d-- > 0;) delta += R(dout[at.out(b, t, h, d)]) * R(out[at.out(b, t, h, d)]);
        for (int64_t s = first_seen(sizes, starts, b, t); s <= t; s++) {
            const R p = std::exp(attention_score<R>(qkv, at, b, h, t, s, scale) - R(lse[at.lse(b, h, t)]));
            R dp      = 0;
            for (int64_t d = 0; d < sizes.D; d++) dp += R(dout[at.out(b, t, h, d)]) * R(qkv[at.qkv(b, s, 2, h, d)]);
            const R m  = mask ? R(mask(b, h, t, s)) : R(1);
            const R ds = factor(p * (dp * m - delta)) * R(scale);
            for (int64_t d = 0; d < sizes.D; d++) {
                g[at.qkv(b, t, 0, h, d)] += ds * R(qkv[at.qkv(b, s, 1, h, d)]);
                g[at.qkv(b, s, 1, h, d)] += ds * R(qkv[at.qkv(b, t, 0, h, d)]);
                g[at.qkv(b, s, 2, h, d)] += factor(p * m) * R(dout[at.out(b, t, h, d)]);
            }
        }
    });
    return Values(g.begin(), g.end());
}

// ---- inputs ---------------------------------------------------------------------------------------------------------

enum class ScoreKind { ordinary, large, equal, alternating, tiny, rising };

inline Values qkv_values(const AttentionSizes& sizes, ScoreKind kind, DType dtype, double scale, uint64_t seed = 7) {
    Dice random(seed);
    const AttentionIndices at{sizes};
    Values x(sizes.B * sizes.T * 3 * sizes.H * sizes.D);
    const double to_1e4 =
        std::sqrt(1e4 / scale / std::sqrt(double(sizes.D)));  // scale q·k is then about 1e4 normal(0,1)
    for (double& v : x) v = random.normal();
    each_attention_row(sizes, [&](int64_t b, int64_t h, int64_t t) {
        for (int64_t d = 0; d < sizes.D; d++) {
            double &q = x[at.qkv(b, t, 0, h, d)], &k = x[at.qkv(b, t, 1, h, d)], &v = x[at.qkv(b, t, 2, h, d)];
            switch (kind) {
                case ScoreKind::ordinary: break;
                case ScoreKind::large:  // whole numbers, so that scores are exact, in whatever order they are summed
                    q = std::nearbyint(q * to_1e4);
                    k = std::nearbyint(k * to_1e4);
                    break;
                case ScoreKind::equal:
                    q = 0.5;
                    k = -2;
                    break;
                case ScoreKind::alternating:
                    q = 1;
                    k = (t % 2 ? 1 : -1) * 1e4 / scale / double(sizes.D);
                    break;
                case ScoreKind::tiny:
                    q *= 1e-39;
                    k *= 1e-39;
                    v *= 1e-39;
                    break;
                case ScoreKind::rising:  // by 1 per key, so that the sums of an online softmax soon need another scale
                    q = 1 + q / 16;
                    k = double(t) / scale / double(sizes.D);
                    break;
            }
        }
    });
    return rounded(x, dtype);
}

// A new document starts at row `first`, and then every `least` to `most` rows, at other rows in each sequence.
inline Values document_starts(const AttentionSizes& sizes, int64_t first = 7, int64_t least = 7, int64_t most = 40) {
    if (!sizes.documents) return {};
    Dice random(11);
    Values starts(sizes.B * sizes.T);
    for (int64_t b = 0; b < sizes.B; b++)
        for (int64_t t = 0, start = 0, next = first; t < sizes.T; t++) {
            if (t == next) {
                start = t;
                next  = t + least + random.below(most - least + 1);
            }
            starts[b * sizes.T + t] = double(start);
        }
    return starts;
}

inline float default_scale(const AttentionSizes& sizes) { return 1.f / std::sqrt(float(sizes.D)); }
