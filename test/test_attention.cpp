// test_attention.cpp - attention and rotary positions against their formulas in double
#include <functional>

#include "kernels/ops.h"
#include "test/close.h"

// ---- the formulas, in double (the reference) or float (plain) -------------------------------------------------------

struct Sizes {
    int64_t B, T, H, D;
    int64_t window;
    bool documents;  // several in each sequence
};
namespace Catch {
template <>
struct StringMaker<Sizes> {
    static std::string convert(const Sizes& z) {
        return fmt::format("B {} T {} H {} D {} window {}{}", z.B, z.T, z.H, z.D, z.window,
                           z.documents ? " documents" : "");
    }
};
}  // namespace Catch

namespace {

int64_t first_seen(const Sizes& z, const Values& starts, int64_t b, int64_t t) {
    const int64_t start = starts.empty() ? 0 : int64_t(starts[b * z.T + t]);
    return std::max({start, t - z.window + 1, int64_t(0)});
}

struct Indices {  // of the layouts in ops.h
    Sizes z;
    int64_t qkv(int64_t b, int64_t t, int64_t which, int64_t h, int64_t d) const {
        return (((b * z.T + t) * 3 + which) * z.H + h) * z.D + d;
    }
    int64_t out(int64_t b, int64_t t, int64_t h, int64_t d) const { return ((b * z.T + t) * z.H + h) * z.D + d; }
    int64_t lse(int64_t b, int64_t h, int64_t t) const { return (b * z.H + h) * z.T + t; }
};

template <class R>
R score(const Values& qkv, const Indices& at, int64_t b, int64_t h, int64_t t, int64_t s, double scale) {
    R dot = 0;
    for (int64_t d = 0; d < at.z.D; d++) dot += R(qkv[at.qkv(b, t, 0, h, d)]) * R(qkv[at.qkv(b, s, 1, h, d)]);
    return dot * R(scale);
}

template <class F>
void each_row(const Sizes& z, F f) {
    for (int64_t b = 0; b < z.B; b++)
        for (int64_t h = 0; h < z.H; h++)
            for (int64_t t = 0; t < z.T; t++) f(b, h, t);
}

struct Forward {
    Values out, lse;
};
template <class R>
Forward forward_formula(const Sizes& z, const Values& qkv, const Values& starts, double scale) {
    const Indices at{z};
    Forward y{Values(z.B * z.T * z.H * z.D), Values(z.B * z.H * z.T)};
    each_row(z, [&](int64_t b, int64_t h, int64_t t) {
        const int64_t first = first_seen(z, starts, b, t);
        std::vector<R> p(t + 1);
        R top = -std::numeric_limits<R>::infinity(), sum = 0;
        for (int64_t s = first; s <= t; s++) top = std::max(top, p[s] = score<R>(qkv, at, b, h, t, s, scale));
        for (int64_t s = first; s <= t; s++) sum += p[s] = std::exp(p[s] - top);
        for (int64_t d = 0; d < z.D; d++) {
            R o = 0;
            for (int64_t s = first; s <= t; s++) o += p[s] * R(qkv[at.qkv(b, s, 2, h, d)]);
            y.out[at.out(b, t, h, d)] = double(o / sum);
        }
        y.lse[at.lse(b, h, t)] = double(top + std::log(sum));
    });
    return y;
}

// factors: what p and ds are rounded to before they are multiplied with dout, q and k.
template <class R>
Values backward_formula(const Sizes& z, const Values& dout, const Values& out, const Values& lse, const Values& qkv,
                        const Values& starts, double scale, DType factors = DType::F32) {
    const auto factor = [=](R x) { return factors == DType::F32 ? x : R(stored(double(x), factors)); };
    const Indices at{z};
    std::vector<R> g(qkv.size());
    each_row(z, [&](int64_t b, int64_t h, int64_t t) {
        R delta = 0;
        for (int64_t d = 0; d < z.D; d++) delta += R(dout[at.out(b, t, h, d)]) * R(out[at.out(b, t, h, d)]);
        for (int64_t s = first_seen(z, starts, b, t); s <= t; s++) {
            const R p = std::exp(score<R>(qkv, at, b, h, t, s, scale) - R(lse[at.lse(b, h, t)]));
            R dp      = 0;
            for (int64_t d = 0; d < z.D; d++) dp += R(dout[at.out(b, t, h, d)]) * R(qkv[at.qkv(b, s, 2, h, d)]);
            const R ds = factor(p * (dp - delta)) * R(scale);
            for (int64_t d = 0; d < z.D; d++) {
                g[at.qkv(b, t, 0, h, d)] += ds * R(qkv[at.qkv(b, s, 1, h, d)]);
                g[at.qkv(b, s, 1, h, d)] += ds * R(qkv[at.qkv(b, t, 0, h, d)]);
                g[at.qkv(b, s, 2, h, d)] += factor(p) * R(dout[at.out(b, t, h, d)]);
            }
        }
    });
    return Values(g.begin(), g.end());
}

// ---- inputs ---------------------------------------------------------------------------------------------------------

enum class Scores { ordinary, large, equal, alternating, tiny };

Values qkv_values(const Sizes& z, Scores kind, DType dtype, double scale, uint64_t seed = 7) {
    Dice random(seed);
    const Indices at{z};
    Values x(z.B * z.T * 3 * z.H * z.D);
    const double to_1e4 = std::sqrt(1e4 / scale / std::sqrt(double(z.D)));  // scale q·k is then about 1e4 normal(0,1)
    for (double& v : x) v = random.normal();
    each_row(z, [&](int64_t b, int64_t h, int64_t t) {
        for (int64_t d = 0; d < z.D; d++) {
            double &q = x[at.qkv(b, t, 0, h, d)], &k = x[at.qkv(b, t, 1, h, d)], &v = x[at.qkv(b, t, 2, h, d)];
            if (kind == Scores::large) q *= to_1e4, k *= to_1e4;
            if (kind == Scores::equal) q = 0.5, k = -2;
            if (kind == Scores::alternating) q = 1, k = (t % 2 ? 1 : -1) * 1e4 / scale / double(z.D);
            if (kind == Scores::tiny) q *= 1e-39, k *= 1e-39, v *= 1e-39;
        }
    });
    return stored(x, dtype);
}

// A new document every 7 to 40 rows, at other places in each sequence.
Values document_starts(const Sizes& z) {
    if (!z.documents) return {};
    Dice random(11);
    Values starts(z.B * z.T);
    for (int64_t b = 0; b < z.B; b++)
        for (int64_t t = 0, start = 0, next = 7; t < z.T; t++) {
            if (t == next) start = t, next = t + 7 + random.below(34);
            starts[b * z.T + t] = double(start);
        }
    return starts;
}

Buffer starts_buffer(const Device* dev, const Sizes& z, const Values& starts) {
    return starts.empty() ? Buffer(dev, {z.B, z.T}, DType::I32, Kind::zeros)
                          : Buffer(dev, {z.B, z.T}, DType::I32, starts);
}

// Sizes around the panels of 32 queries and the tiles of 64 keys, head widths around the 16 lanes, windows inside and
// outside. Hundreds of rows each, so that plain's largest error is no matter of luck.
const std::vector<Sizes>& all_sizes() {
    static const std::vector<Sizes> sizes = {
        {500, 1, 1, 1, 1, false},   {90, 2, 3, 3, 2, false},        {20, 31, 1, 8, 31, false},
        {6, 33, 3, 16, 5, false},   {9, 63, 1, 64, 63, true},       {3, 64, 3, 64, 64, false},
        {8, 65, 1, 64, 1, false},   {3, 65, 3, 80, 1000, true},     {4, 130, 1, 96, 130, false},
        {4, 130, 3, 17, 40, true},  {5, 97, 1, 256, 97, false},     {2, 130, 2, 33, 64, false},
        {2, 257, 1, 64, 100, true}, {2, 150, 7, 24, 1 << 20, true}, {3, 200, 1, 48, INT64_MAX, false},
    };
    return sizes;
}

struct Case {
    Sizes z;
    Scores kind;
};
std::vector<Case> all_cases() {
    std::vector<Case> cases;
    for (const Sizes& z : all_sizes()) cases.push_back({z, Scores::ordinary});
    for (Scores kind : {Scores::large, Scores::equal, Scores::alternating, Scores::tiny}) {
        cases.push_back({{2, 130, 2, 64, 130, false}, kind});
        cases.push_back({{8, 65, 1, 20, 50, true}, kind});
    }
    return cases;
}

float default_scale(const Sizes& z) { return 1.f / std::sqrt(float(z.D)); }

}  // namespace

// ---- attention ------------------------------------------------------------------------------------------------------

TEST_CASE("the reference gradient of attention agrees with finite differences", "[attention]") {
    const Sizes z = GENERATE(Sizes{2, 5, 2, 3, 5, false}, Sizes{1, 9, 1, 4, 3, false}, Sizes{1, 17, 2, 2, 6, true});
    const double scale = 0.7;
    CAPTURE(z);
    const Values starts = document_starts(z);
    Values qkv          = qkv_values(z, Scores::ordinary, DType::F32, scale);
    const Forward y     = forward_formula<double>(z, qkv, starts, scale);
    Values dout(y.out.size());
    Dice random(3);
    for (double& v : dout) v = random.normal();
    const auto loss = [&] {
        const Values out = forward_formula<double>(z, qkv, starts, scale).out;
        double sum       = 0;
        for (size_t i = 0; i < out.size(); i++) sum += out[i] * dout[i];
        return sum;
    };
    const Values gradient = backward_formula<double>(z, dout, y.out, y.lse, qkv, starts, scale);
    double worst          = 0;
    for (size_t i = 0; i < qkv.size(); i++) {
        const double x = qkv[i], step = 1e-4;
        qkv[i]           = x + step;
        const double up  = loss();
        qkv[i]           = x - step;
        const double low = loss();
        qkv[i]           = x;
        worst            = std::max(worst, std::fabs((up - low) / (2 * step) - gradient[i]));
    }
    CHECK(worst < 1e-7);  // the difference quotient's own error is of order step²
}

TEST_CASE("attention_forward", "[attention]") {
    const auto* dev   = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(DType::F32, DType::BF16);
    const auto c      = GENERATE(from_range(all_cases()));
    const auto z      = c.z;
    const float scale = z.H == 3 ? 1.f : default_scale(z);
    CAPTURE(dev, dtype, z, int(c.kind));
    const Values qkv = qkv_values(z, c.kind, dtype, scale), starts = document_starts(z);
    const Buffer x(dev, {z.B, z.T, 3, z.H, z.D}, dtype, qkv), s    = starts_buffer(dev, z, starts);
    const Buffer out(dev, {z.B, z.T, z.H, z.D}, dtype), lse(dev, {z.B, z.H, z.T}, DType::F32);
    attention_forward(out, lse, x, z.documents ? s.tensor() : Tensor{}, scale, z.window, dev->stream());
    const Forward reference = forward_formula<double>(z, qkv, starts, scale);
    const Forward plain     = forward_formula<float>(z, qkv, starts, scale);
    CHECK_CLOSE(out, reference.out, plain.out);
    CHECK_CLOSE(lse, reference.lse, plain.lse);
}

TEST_CASE("attention_backward", "[attention]") {
    const auto* dev   = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(DType::F32, DType::BF16);
    const auto c      = GENERATE(from_range(all_cases()));
    const auto z      = c.z;
    const float scale = z.H == 3 ? 1.f : default_scale(z);
    CAPTURE(dev, dtype, z, int(c.kind));
    const Values qkv = qkv_values(z, c.kind, dtype, scale), starts = document_starts(z);
    const Forward y = forward_formula<double>(z, qkv, starts, scale);
    const Buffer x(dev, {z.B, z.T, 3, z.H, z.D}, dtype, qkv), s = starts_buffer(dev, z, starts);
    const Buffer dx(dev, {z.B, z.T, 3, z.H, z.D}, dtype), dout(dev, {z.B, z.T, z.H, z.D}, dtype, Kind::ordinary, 5);
    const Buffer out(dev, {z.B, z.T, z.H, z.D}, dtype, stored(y.out, dtype));
    const Buffer lse(dev, {z.B, z.H, z.T}, DType::F32, stored(y.lse, DType::F32));
    attention_backward(dx, dout, out, lse, x, z.documents ? s.tensor() : Tensor{}, scale, z.window, dev->stream());
    // Tensor cores multiply bf16, so p and ds are rounded before their products. On ordinary values that costs what
    // rounding the result costs: over T = 33..512, D = 16..256, rms errors are 0.9 to 1.1 of each other, and the largest
    // error of a gradient 1.1 to 1.5 of what the fp32 formula has after rounding. So there plain is the fp32 formula, as
    // anywhere. Where all terms cancel (equal keys: dq = k Σ ds = 0), what is left is the rounding of the terms, and
    // plain has to round them too.
    const bool tensor_cores = dev->where() == Machine::cuda && z.D % 8 == 0;
    const DType factors     = tensor_cores && c.kind != Scores::ordinary ? dtype : DType::F32;
    CHECK_CLOSE(dx, backward_formula<double>(z, dout.values(), out.values(), lse.values(), qkv, starts, scale),
                backward_formula<float>(z, dout.values(), out.values(), lse.values(), qkv, starts, scale, factors));
}

TEST_CASE("what the mask hides from a row cannot move one bit of it", "[attention]") {
    const auto* dev     = GENERATE(from_range(devices()));
    const Sizes z       = {1, 200, 1, 32, 50, true};
    const float scale   = default_scale(z);
    const Values starts = document_starts(z), qkv = qkv_values(z, Scores::ordinary, DType::F32, scale);
    const Indices at{z};
    const Buffer s  = starts_buffer(dev, z, starts);
    const auto rows = [&](const Values& values) {
        const Buffer x(dev, {z.B, z.T, 3, z.H, z.D}, DType::F32, values);
        const Buffer out(dev, {z.B, z.T, z.H, z.D}, DType::F32), lse(dev, {z.B, z.H, z.T}, DType::F32);
        attention_forward(out, lse, x, s, scale, z.window, dev->stream());
        return out.values();
    };
    const Values before = rows(qkv);
    for (int64_t changed : {0, 40, 100, 199}) {
        CAPTURE(changed);
        Values other = qkv;
        for (int64_t d = 0; d < z.D; d++)
            other[at.qkv(0, changed, 1, 0, d)] = 100 + double(d), other[at.qkv(0, changed, 2, 0, d)] = -1e6;
        const Values after = rows(other);
        for (int64_t t = 0; t < z.T; t++) {
            const bool sees = first_seen(z, starts, 0, t) <= changed && changed <= t;
            const bool same = std::equal(&before[t * z.D], &before[t * z.D] + z.D, &after[t * z.D]);
            if (sees == same)
                FAIL_CHECK("row " << t << (sees ? " ignores a key that it sees" : " is moved by a hidden key"));
        }
    }
}

TEST_CASE("starts that make no sense still let every row see itself", "[attention]") {
    const auto* dev = GENERATE(from_range(devices()));
    const Sizes z   = {1, 40, 1, 8, 40, false};
    Values starts(z.T), honest(z.T);
    for (int64_t t = 0; t < z.T; t++)
        starts[t] = t % 3 ? t % 3 == 1 ? -5 : 1e9 : double(t), honest[t] = t % 3 == 1 ? 0 : double(t);
    const Values qkv = qkv_values(z, Scores::ordinary, DType::F32, 1);
    const Buffer x(dev, {z.B, z.T, 3, z.H, z.D}, DType::F32, qkv), s(dev, {z.B, z.T}, DType::I32, starts);
    const Buffer out(dev, {z.B, z.T, z.H, z.D}, DType::F32), lse(dev, {z.B, z.H, z.T}, DType::F32);
    attention_forward(out, lse, x, s, 1, z.window, dev->stream());
    CHECK_CLOSE(out, forward_formula<double>(z, qkv, honest, 1).out, forward_formula<float>(z, qkv, honest, 1).out);
}

TEST_CASE("attention does not depend on the number of threads", "[attention]") {
    const auto* dev  = devices()[0];
    const auto dtype = GENERATE(DType::F32, DType::BF16);
    const auto z =
        GENERATE(Sizes{1, 300, 1, 64, 300, false}, Sizes{1, 300, 3, 24, 70, true}, Sizes{4, 70, 6, 16, 70, false});
    CAPTURE(dtype, z);
    const float scale = default_scale(z);
    const Values qkv = qkv_values(z, Scores::ordinary, dtype, scale), starts = document_starts(z);
    using Bytes = std::vector<unsigned char>;
    std::vector<std::vector<Bytes>> results;
    for (int threads : {1, 2, 5})
        with_threads(threads, [&] {
            const Buffer x(dev, {z.B, z.T, 3, z.H, z.D}, dtype, qkv), s = starts_buffer(dev, z, starts);
            const Buffer out(dev, {z.B, z.T, z.H, z.D}, dtype), lse(dev, {z.B, z.H, z.T}, DType::F32);
            const Buffer dx(dev, {z.B, z.T, 3, z.H, z.D}, dtype),
                dout(dev, {z.B, z.T, z.H, z.D}, dtype, Kind::ordinary, 5);
            const Tensor maybe = z.documents ? s.tensor() : Tensor{};
            attention_forward(out, lse, x, maybe, scale, z.window, dev->stream());
            attention_backward(dx, dout, out, lse, x, maybe, scale, z.window, dev->stream());

            const Buffer k(dev, {z.B, z.H, z.T, z.D}, dtype), v(dev, {z.B, z.H, z.T, z.D}, dtype);
            const Buffer cached(dev, {z.B, z.T, z.H, z.D}, dtype), one(dev, {z.B, 1, z.H, z.D}, dtype);
            const Buffer row(dev, {z.B, 1, 3, z.H, z.D}, dtype, Kind::ordinary, 9);
            attention_cached(cached, k, v, x, 0, scale, z.window, dev->stream());
            attention_cached(one, k, v, row, z.T - 1, scale, z.window, dev->stream());
            results.push_back({out.bytes(), lse.bytes(), dx.bytes(), cached.bytes(), one.bytes()});
        });
    CHECK(results[0] == results[1]);
    CHECK(results[0] == results[2]);
}

// ---- with a cache ---------------------------------------------------------------------------------------------------

TEST_CASE("attention_cached, in pieces, gives the rows of the whole", "[attention]") {
    const auto* dev  = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(DType::F32, DType::BF16);
    const auto z     = GENERATE(Sizes{2, 150, 3, 64, 150, false}, Sizes{1, 150, 1, 20, 33, false},
                                Sizes{3, 70, 7, 3, 1, false}, Sizes{1, 70, 2, 256, 1000, false});
    const auto piece = GENERATE(1, 2, 33, 64, 1000);
    CAPTURE(dev, dtype, z, piece);
    const float scale  = default_scale(z);
    const int64_t room = z.T + 5;  // the caches are larger than the text; what is not written yet is NaN
    const Indices at{z};
    const Values qkv = qkv_values(z, Scores::ordinary, dtype, scale);
    const Buffer k(dev, {z.B, z.H, room, z.D}, dtype), v(dev, {z.B, z.H, room, z.D}, dtype);
    Values ours(z.B * z.T * z.H * z.D);
    for (int64_t past = 0; past < z.T; past += piece) {
        const Sizes small = {z.B, std::min<int64_t>(piece, z.T - past), z.H, z.D, z.window, false};
        const Indices in{small};
        Values rows(small.B * small.T * 3 * small.H * small.D);
        for (int64_t which = 0; which < 3; which++)
            each_row(small, [&](int64_t b, int64_t h, int64_t t) {
                for (int64_t d = 0; d < z.D; d++)
                    rows[in.qkv(b, t, which, h, d)] = qkv[at.qkv(b, past + t, which, h, d)];
            });
        const Buffer x(dev, {small.B, small.T, 3, small.H, small.D}, dtype, rows);
        const Buffer out(dev, {small.B, small.T, small.H, small.D}, dtype);
        attention_cached(out, k, v, x, past, scale, z.window, dev->stream());
        const Values y = out.values();
        each_row(small, [&](int64_t b, int64_t h, int64_t t) {
            for (int64_t d = 0; d < z.D; d++) ours[at.out(b, past + t, h, d)] = y[in.out(b, t, h, d)];
        });
    }
    const Forward reference = forward_formula<double>(z, qkv, {}, scale),
                  plain     = forward_formula<float>(z, qkv, {}, scale);
    const std::string off   = difference("out", ours, {z.B, z.T, z.H, z.D}, dtype, reference.out, plain.out);
    if (!off.empty()) FAIL_CHECK(off);

    const Values k_kept = k.values(), v_kept = v.values();
    bool kept = true, rest = true;
    for (int64_t b = 0; b < z.B; b++)
        for (int64_t h = 0; h < z.H; h++)
            for (int64_t t = 0; t < room; t++)
                for (int64_t d = 0; d < z.D; d++) {
                    const int64_t i = ((b * z.H + h) * room + t) * z.D + d;
                    if (t < z.T)
                        kept =
                            kept && k_kept[i] == qkv[at.qkv(b, t, 1, h, d)] && v_kept[i] == qkv[at.qkv(b, t, 2, h, d)];
                    else
                        rest = rest && std::isnan(k_kept[i]) && std::isnan(v_kept[i]);
                }
    CHECK(kept);
    CHECK(rest);
}

TEST_CASE("attention_cached takes hostile scores", "[attention]") {
    const auto* dev  = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(DType::F32, DType::BF16);
    const auto kind  = GENERATE(Scores::large, Scores::equal, Scores::alternating, Scores::tiny);
    CAPTURE(dev, dtype, int(kind));
    const Sizes z       = {1, 150, 1, 24, 150, false};
    const float scale   = default_scale(z);
    const Values qkv    = qkv_values(z, kind, dtype, scale);
    const int64_t split = z.T - 1, row = 3 * z.H * z.D;
    const Buffer k(dev, {z.B, z.H, z.T, z.D}, dtype), v(dev, {z.B, z.H, z.T, z.D}, dtype);
    const Buffer head(dev, {1, split, 3, z.H, z.D}, dtype, Values(qkv.begin(), qkv.begin() + split * row));
    const Buffer tail(dev, {1, 1, 3, z.H, z.D}, dtype, Values(qkv.begin() + split * row, qkv.end()));
    const Buffer first(dev, {1, split, z.H, z.D}, dtype), last(dev, {1, 1, z.H, z.D}, dtype);
    attention_cached(first, k, v, head, 0, scale, z.window, dev->stream());
    attention_cached(last, k, v, tail, split, scale, z.window, dev->stream());
    Values ours      = first.values();
    const Values end = last.values();
    ours.insert(ours.end(), end.begin(), end.end());
    const std::string off =
        difference("out", ours, {z.B, z.T, z.H, z.D}, dtype, forward_formula<double>(z, qkv, {}, scale).out,
                   forward_formula<float>(z, qkv, {}, scale).out);
    if (!off.empty())
        FAIL_CHECK(off);
    else
        SUCCEED("close");
}

TEST_CASE("attention says what is wrong with its arguments", "[attention]") {
    const auto* dev = devices()[0];
    const Stream s  = dev->stream();
    const DType f = DType::F32, h = DType::BF16;
    const Buffer qkv(dev, {2, 3, 3, 4, 8}, f, Kind::ordinary), out(dev, {2, 3, 4, 8}, f), lse(dev, {2, 4, 3}, f);
    const Buffer short_out(dev, {2, 2, 4, 8}, f), half_out(dev, {2, 3, 4, 8}, h), flat(dev, {2, 3, 96}, f, Kind::zeros);
    const Buffer wide(dev, {1, 1, 3, 1, 257}, f, Kind::zeros), starts(dev, {3, 2}, DType::I32, Kind::zeros);
    const Buffer cache(dev, {2, 4, 5, 8}, f), other_cache(dev, {2, 4, 6, 8}, f);
    CHECK_REFUSED((attention_forward(short_out, lse, qkv, {}, 1, 3, s)), "attention_forward", "out is (2, 2, 4, 8)",
                  "(2, 3, 4, 8)");
    CHECK_REFUSED((attention_forward(half_out, lse, qkv, {}, 1, 3, s)), "out is", "bf16", "expected", "fp32");
    CHECK_REFUSED((attention_forward(out, {}, qkv, {}, 1, 3, s)), "lse is null");
    CHECK_REFUSED((attention_forward(out, lse, {}, {}, 1, 3, s)), "qkv is null");
    CHECK_REFUSED((attention_forward(out, lse, flat, {}, 1, 3, s)), "qkv is (2, 3, 96)", "(B,T,3,H,D)");
    const Tensor none{qkv.tensor().ptr, f, {2, 0, 3, 4, 8}};
    CHECK_REFUSED((attention_forward(out, lse, none, {}, 1, 3, s)), "qkv is (2, 0, 3, 4, 8)", "at least one row");
    CHECK_REFUSED((attention_forward(out, lse, wide, {}, 1, 3, s)), "head width 257", "1..256");
    CHECK_REFUSED((attention_forward(out, lse, qkv, starts, 1, 3, s)), "starts is (3, 2)");
    CHECK_REFUSED((attention_forward(out, lse, qkv, {}, 0, 3, s)), "scale is 0");
    CHECK_REFUSED((attention_forward(out, lse, qkv, {}, NAN, 3, s)), "scale is nan");
    CHECK_REFUSED((attention_forward(out, lse, qkv, {}, 1, 0, s)), "window is 0");
    CHECK_REFUSED((attention_backward(out, out, out, lse, qkv, {}, 1, 3, s)), "attention_backward", "dqkv is");
    CHECK_REFUSED((attention_backward(qkv, short_out, out, lse, qkv, {}, 1, 3, s)), "dout is");
    CHECK_REFUSED((attention_cached(out, cache, other_cache, qkv, 0, 1, 3, s)), "v_cache is (2, 4, 6, 8)");
    CHECK_REFUSED((attention_cached(out, cache, cache, qkv, 3, 1, 3, s)), "3 new rows at 3", "holds 5");
    CHECK_REFUSED((attention_cached(out, cache, cache, qkv, -1, 1, 3, s)), "3 new rows at -1");
    CHECK_REFUSED((attention_cached(out, cache, cache, qkv, INT64_MAX, 1, 3, s)), "new rows at");
}

// ---- rope -----------------------------------------------------------------------------------------------------------

namespace {
// Angles in double for both: rounding them to float is a choice, not a part of the formula.
template <class R>
Values rope_formula(const Sizes& z, Values x, const std::function<double(int64_t, int64_t)>& position, Rope rope,
                    double direction) {
    const Indices at{z};
    for (int64_t which = 0; which < 2; which++)
        each_row(z, [&](int64_t b, int64_t h, int64_t t) {
            for (int64_t i = 0; i < rope.dim / 2; i++) {
                const double angle =
                    position(b, t) * std::pow(double(rope.base), -2. * double(i) / double(rope.dim)) * direction;
                const R c = R(std::cos(angle)), s = R(std::sin(angle));
                double &a = x[at.qkv(b, t, which, h, i)], &b2 = x[at.qkv(b, t, which, h, i + rope.dim / 2)];
                const R a0 = R(a), b0 = R(b2);
                a  = double(a0 * c - b0 * s);
                b2 = double(b0 * c + a0 * s);
            }
        });
    return x;
}
}  // namespace

TEST_CASE("rope turns q and k, and backward turns them back", "[rope]") {
    const auto* dev  = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(DType::F32, DType::BF16);
    const auto z = GENERATE(Sizes{1, 1, 1, 2, 0, false}, Sizes{2, 7, 3, 80, 0, false}, Sizes{1, 300, 1, 64, 0, false},
                            Sizes{3, 5, 2, 9, 0, false});
    const auto part  = GENERATE(1., 0.5, 0.25);
    const bool given = GENERATE(false, true);
    const Rope rope{int64_t(double(z.D) * part) / 2 * 2, GENERATE(10000.f, 500.f)};
    CAPTURE(dev, dtype, z, rope.dim, rope.base, given);
    const auto position = [&](int64_t b, int64_t t) { return double(given ? (b * 37 + t * 101) % 2048 : t); };
    Values places(z.B * z.T);
    for (int64_t i = 0; i < z.B * z.T; i++) places[i] = position(i / z.T, i % z.T);
    const Buffer p(dev, {z.B, z.T}, DType::I32, places);
    const Tensor maybe = given ? p.tensor() : Tensor{};
    const Values x     = qkv_values(z, Scores::ordinary, dtype, 1);
    const Buffer qkv(dev, {z.B, z.T, 3, z.H, z.D}, dtype, x);

    rope_forward(qkv, maybe, rope, dev->stream());
    CHECK_CLOSE(qkv, rope_formula<double>(z, x, position, rope, 1), rope_formula<float>(z, x, position, rope, 1));
    const Values turned = qkv.values();
    const Indices at{z};
    each_row(z, [&](int64_t b, int64_t h, int64_t t) {
        for (int64_t which = 0; which < 3; which++)
            for (int64_t d = which == 2 ? 0 : rope.dim; d < z.D; d++)
                if (turned[at.qkv(b, t, which, h, d)] != x[at.qkv(b, t, which, h, d)])
                    FAIL("a coordinate outside rope.dim moved");
    });
    rope_backward(qkv, maybe, rope, dev->stream());
    CHECK_CLOSE(qkv, rope_formula<double>(z, turned, position, rope, -1),
                rope_formula<float>(z, turned, position, rope, -1));
    const Values there = stored(rope_formula<float>(z, x, position, rope, 1), dtype);
    CHECK_CLOSE(qkv, x, rope_formula<float>(z, there, position, rope, -1));
}

TEST_CASE("rope of 2 dimensions at a far position is a rotation by the position", "[rope]") {
    const auto* dev = GENERATE(from_range(devices()));
    const Buffer qkv(dev, {1, 1, 3, 1, 2}, DType::F32, Values{1, 0, 0, 1, 5, 6}),
        p(dev, {1, 1}, DType::I32, Values{2047});
    rope_forward(qkv, p, Rope{2, 10000.f}, dev->stream());
    const double c = stored(std::cos(2047.), DType::F32), s = stored(std::sin(2047.), DType::F32);
    CHECK(qkv.values() == Values{c, s, -s, c, 5, 6});
}

TEST_CASE("rope says what is wrong with its arguments", "[rope]") {
    const auto* dev = devices()[0];
    const Stream s  = dev->stream();
    const Buffer qkv(dev, {1, 2, 3, 2, 8}, DType::F32, Kind::ordinary), flat(dev, {2, 48}, DType::F32, Kind::zeros);
    const Buffer places(dev, {2, 1}, DType::I32, Kind::zeros);
    CHECK_REFUSED((rope_forward(qkv, {}, Rope{3}, s)), "rope_forward", "rope.dim is 3", "even");
    CHECK_REFUSED((rope_forward(qkv, {}, Rope{10}, s)), "rope.dim is 10", "head width 8");
    CHECK_REFUSED((rope_backward(qkv, {}, Rope{-2}, s)), "rope_backward", "rope.dim is -2");
    CHECK_REFUSED((rope_forward(qkv, {}, Rope{8, 0.f}, s)), "rope.base is 0");
    CHECK_REFUSED((rope_forward(flat, {}, Rope{8}, s)), "qkv is (2, 48)");
    CHECK_REFUSED((rope_forward(qkv, places, Rope{8}, s)), "positions is (2, 1)");
    const auto before = qkv.bytes();
    rope_forward(qkv, {}, Rope{}, s);  // dim 0: nothing rotates
    CHECK(qkv.bytes() == before);
}
