// test_attention.cpp - attention and rotary positions against their formulas in double
#include "test/reference_attention.h"

namespace {

using Sizes   = AttentionSizes;
using Indices = AttentionIndices;
using Forward = AttentionResults;

Buffer starts_buffer(const Device* dev, const Sizes& sizes, const Values& starts) {
    return starts.empty() ? Buffer(dev, {sizes.B, sizes.T}, DType::I32, Kind::zeros)
                          : Buffer(dev, {sizes.B, sizes.T}, DType::I32, starts);
}

// T is near multiples of the panels of 32 queries and the tiles of 64 keys, D near multiples of the 16 lanes, and the
// window is smaller or larger than T. Every case has hundreds of rows, so plain's largest error hardly depends on luck.
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

// Tiles of dropout have 16 queries and 16 keys. With a window or documents, the first key is seldom a multiple of 16.
const std::vector<Sizes>& dropped_sizes() {
    static const std::vector<Sizes> sizes = {
        {90, 2, 3, 3, 2, false},    {20, 31, 1, 8, 31, false},  {9, 63, 1, 64, 63, true},    {3, 65, 3, 80, 1000, true},
        {2, 130, 1, 96, 50, true},  {4, 130, 3, 17, 40, true},  {3, 97, 1, 256, 97, false},  {2, 130, 2, 33, 64, false},
        {2, 257, 1, 64, 100, true}, {3, 130, 2, 32, 37, false}, {2, 150, 2, 128, 90, false}, {2, 97, 1, 192, 50, true},
    };
    return sizes;
}

struct Case {
    Sizes sizes;
    ScoreKind kind;
};
std::vector<Case> all_cases() {
    std::vector<Case> cases;
    for (const Sizes& sizes : all_sizes()) cases.push_back({sizes, ScoreKind::ordinary});
    for (ScoreKind kind :
         {ScoreKind::large, ScoreKind::equal, ScoreKind::alternating, ScoreKind::tiny, ScoreKind::rising}) {
        cases.push_back({{2, 130, 2, 64, 130, false}, kind});
        cases.push_back({{8, 65, 1, 20, 50, true}, kind});
    }
    return cases;
}

// The positions (B,T) of rows that go to `past` and after it in a cache.
Buffer positions_from(const Device* dev, int64_t B, int64_t T, int64_t past) {
    Values at;
    for (int64_t n = 0; n < B * T; n++) at.push_back(double(past + n % T));
    return Buffer(dev, {B, T}, DType::I32, at);
}

}  // namespace

// ---- attention ------------------------------------------------------------------------------------------------------

TEST_CASE("the reference gradient of attention agrees with finite differences", "[attention]") {
    const Sizes sizes = GENERATE(Sizes{2, 5, 2, 3, 5, false}, Sizes{1, 9, 1, 4, 3, false}, Sizes{1, 17, 2, 2, 6, true});
    const bool drops  = GENERATE(false, true);
    const double scale = 0.7;
    CAPTURE(sizes, drops);
    const MaskOf mask   = drops ? mask_of(sizes, {0.4f, 9}, 3) : nullptr;
    const Values starts = document_starts(sizes);
    Values qkv          = qkv_values(sizes, ScoreKind::ordinary, DType::F32, scale);
    const Forward y     = forward_formula<double>(sizes, qkv, starts, scale, mask);
    Values dout(y.out.size());
    Dice random(3);
    for (double& v : dout) v = random.normal();
    const auto loss = [&] {
        const Values out = forward_formula<double>(sizes, qkv, starts, scale, mask).out;
        double sum       = 0;
        for (size_t i = 0; i < out.size(); i++) sum += out[i] * dout[i];
        return sum;
    };
    const Values gradient = backward_formula<double>(sizes, dout, y.out, y.lse, qkv, starts, scale, DType::F32, mask);
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
    const auto sizes  = c.sizes;
    const float scale = sizes.H == 3 ? 1.f : default_scale(sizes);
    CAPTURE(dev, dtype, sizes, int(c.kind));
    const Values qkv = qkv_values(sizes, c.kind, dtype, scale), starts          = document_starts(sizes);
    const Buffer x(dev, {sizes.B, sizes.T, 3, sizes.H, sizes.D}, dtype, qkv), s = starts_buffer(dev, sizes, starts);
    const Buffer out(dev, {sizes.B, sizes.T, sizes.H, sizes.D}, dtype),
        lse(dev, {sizes.B, sizes.H, sizes.T}, DType::F32);
    attention_forward(out, lse, x, sizes.documents ? s.tensor() : Tensor{}, scale, sizes.window, dev->stream());
    const Forward reference = forward_formula<double>(sizes, qkv, starts, scale);
    const Forward plain     = forward_formula<float>(sizes, qkv, starts, scale);
    CHECK_CLOSE(out, reference.out, plain.out);
    CHECK_CLOSE(lse, reference.lse, plain.lse);
}

TEST_CASE("attention_backward", "[attention]") {
    const auto* dev   = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(DType::F32, DType::BF16);
    const auto c      = GENERATE(from_range(all_cases()));
    const auto sizes  = c.sizes;
    const float scale = sizes.H == 3 ? 1.f : default_scale(sizes);
    CAPTURE(dev, dtype, sizes, int(c.kind));
    const Values qkv = qkv_values(sizes, c.kind, dtype, scale), starts = document_starts(sizes);
    const Forward y = forward_formula<double>(sizes, qkv, starts, scale);
    const Buffer x(dev, {sizes.B, sizes.T, 3, sizes.H, sizes.D}, dtype, qkv), s = starts_buffer(dev, sizes, starts);
    const Buffer dx(dev, {sizes.B, sizes.T, 3, sizes.H, sizes.D}, dtype),
        dout(dev, {sizes.B, sizes.T, sizes.H, sizes.D}, dtype, Kind::ordinary, 5);
    const Buffer out(dev, {sizes.B, sizes.T, sizes.H, sizes.D}, dtype, rounded(y.out, dtype));
    const Buffer lse(dev, {sizes.B, sizes.H, sizes.T}, DType::F32, rounded(y.lse, DType::F32));
    attention_backward(dx, dout, out, lse, x, sizes.documents ? s.tensor() : Tensor{}, scale, sizes.window,
                       dev->stream());
    // Tensor cores multiply bf16, so p and ds are rounded before their products. On ordinary values that adds an error
    // as large as rounding the result does: over T = 33..512 and D = 16..256, the largest error of a gradient is 1.1 to
    // 1.5 times that of the rounded fp32 formula. So for ordinary values plain is the fp32 formula, as for other ops.
    // Where all terms cancel (equal keys: dq = k Σ ds = 0), only the rounding of the terms is left, and plain must
    // round them too.
    const bool tensor_cores = dev->where() == Machine::cuda && sizes.D % 8 == 0;
    const DType factors     = tensor_cores && c.kind != ScoreKind::ordinary ? dtype : DType::F32;
    CHECK_CLOSE(dx, backward_formula<double>(sizes, dout.values(), out.values(), lse.values(), qkv, starts, scale),
                backward_formula<float>(sizes, dout.values(), out.values(), lse.values(), qkv, starts, scale, factors));
}

TEST_CASE("attention with dropout equals its masks, written out", "[attention][dropout]") {
    const auto* dev   = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(DType::F32, DType::BF16);
    const auto sizes  = GENERATE(from_range(dropped_sizes()));
    const float scale = sizes.H == 3 ? 1.f : default_scale(sizes), rate = sizes.H == 1 ? 0.1f : 0.5f;
    CAPTURE(dev, dtype, sizes, rate);
    const Values qkv = qkv_values(sizes, ScoreKind::ordinary, dtype, scale), starts = document_starts(sizes);
    const Buffer x(dev, {sizes.B, sizes.T, 3, sizes.H, sizes.D}, dtype, qkv), s     = starts_buffer(dev, sizes, starts);
    const Tensor maybe = sizes.documents ? s.tensor() : Tensor{};
    const Buffer out(dev, {sizes.B, sizes.T, sizes.H, sizes.D}, dtype),
        lse(dev, {sizes.B, sizes.H, sizes.T}, DType::F32), step(dev, {1}, DType::I32, Values{4});
    const Dropout drop{rate, 0x123456789abcdef, step, 7 * sizes.T, 2};
    const MaskOf mask = mask_of(sizes, drop, 4);
    attention_forward(out, lse, x, maybe, scale, sizes.window, dev->stream(), drop);
    const Forward y     = forward_formula<double>(sizes, qkv, starts, scale, mask);
    const Forward plain = forward_formula<float>(sizes, qkv, starts, scale, mask);
    CHECK_CLOSE(out, y.out, plain.out);
    CHECK_CLOSE(lse, y.lse, plain.lse);

    const Buffer dx(dev, {sizes.B, sizes.T, 3, sizes.H, sizes.D}, dtype),
        dout(dev, {sizes.B, sizes.T, sizes.H, sizes.D}, dtype, Kind::ordinary, 5);
    const Buffer exact(dev, {sizes.B, sizes.T, sizes.H, sizes.D}, dtype, rounded(y.out, dtype));
    const Buffer exact_lse(dev, {sizes.B, sizes.H, sizes.T}, DType::F32, rounded(y.lse, DType::F32));
    attention_backward(dx, dout, exact, exact_lse, x, maybe, scale, sizes.window, dev->stream(), drop);
    const auto gradient = [&](auto zero) {
        return backward_formula<decltype(zero)>(sizes, dout.values(), exact.values(), exact_lse.values(), qkv, starts,
                                                scale, DType::F32, mask);
    };
    CHECK_CLOSE(dx, gradient(0.), gradient(0.f));
}

TEST_CASE("the masks of attention do not depend on how the sequences of a step are divided", "[attention][dropout]") {
    const auto* dev  = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(DType::F32, DType::BF16);
    const Sizes all{4, 70, 2, 32, 70, false};
    CAPTURE(dev, dtype);
    const Buffer step(dev, {1}, DType::I32, Values{4});
    const Values qkv = qkv_values(all, ScoreKind::ordinary, dtype, 1);
    const auto run   = [&](int64_t first, int64_t B) {
        const size_t row = size_t(all.T * 3 * all.H * all.D);
        const Buffer x(dev, {B, all.T, 3, all.H, all.D}, dtype,
                         Values(qkv.begin() + first * row, qkv.begin() + (first + B) * row));
        const Buffer out(dev, {B, all.T, all.H, all.D}, dtype), lse(dev, {B, all.H, all.T}, DType::F32);
        attention_forward(out, lse, x, {}, 1, all.T, dev->stream(), {0.3f, 9, step, first * all.T, 1});
        return out.values();
    };
    Values parts = run(0, 1);
    for (const double v : run(1, 3)) parts.push_back(v);
    CHECK(run(0, 4) == parts);
}

TEST_CASE("attention_forward takes scores of 1e9", "[attention]") {
    const auto* dev   = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(DType::F32, DType::BF16);
    const Sizes sizes = {1, 150, 1, 64, 150, false};
    CAPTURE(dev, dtype);
    const Indices at{sizes};
    Values qkv = qkv_values(sizes, ScoreKind::ordinary, DType::F32, 1);
    Dice random(5);
    each_attention_row(sizes, [&](int64_t b, int64_t h, int64_t t) {  // the first column alone makes the scores
        for (int64_t d = 0; d < sizes.D; d++) qkv[at.qkv(b, t, 0, h, d)] = d == 0;
        qkv[at.qkv(b, t, 1, h, 0)] = (2 * random.uniform() - 1) * 1e9;
    });
    qkv = rounded(qkv, dtype);
    const Buffer x(dev, {1, sizes.T, 3, 1, sizes.D}, dtype, qkv), out(dev, {1, sizes.T, 1, sizes.D}, dtype),
        lse(dev, {1, 1, sizes.T}, DType::F32);
    attention_forward(out, lse, x, {}, 1, sizes.window, dev->stream());
    const Forward reference = forward_formula<double>(sizes, qkv, {}, 1),
                  plain     = forward_formula<float>(sizes, qkv, {}, 1);
    CHECK_CLOSE(out, reference.out, plain.out);
    CHECK_CLOSE(lse, reference.lse, plain.lse);
}

TEST_CASE("a key that the mask hides from a row does not change one bit of it", "[attention]") {
    const auto* dev     = GENERATE(from_range(devices()));
    const auto dtype    = GENERATE(DType::F32, DType::BF16);
    const Sizes sizes   = GENERATE(Sizes{1, 200, 1, 32, 50, true}, Sizes{1, 200, 1, 128, 200, false});
    const float scale   = default_scale(sizes);
    const Values starts = document_starts(sizes), qkv = qkv_values(sizes, ScoreKind::ordinary, dtype, scale);
    CAPTURE(dev, dtype, sizes);
    const Indices at{sizes};
    const Buffer s  = starts_buffer(dev, sizes, starts);
    const auto rows = [&](const Values& values) {
        const Buffer x(dev, {sizes.B, sizes.T, 3, sizes.H, sizes.D}, dtype, values);
        const Buffer out(dev, {sizes.B, sizes.T, sizes.H, sizes.D}, dtype),
            lse(dev, {sizes.B, sizes.H, sizes.T}, DType::F32);
        attention_forward(out, lse, x, sizes.documents ? s.tensor() : Tensor{}, scale, sizes.window, dev->stream());
        return out.values();
    };
    const Values before = rows(qkv);
    for (int64_t changed : {0, 40, 100, 199}) {
        CAPTURE(changed);
        Values other = qkv;
        for (int64_t d = 0; d < sizes.D; d++) {
            other[at.qkv(0, changed, 1, 0, d)] = 100 + double(d);
            other[at.qkv(0, changed, 2, 0, d)] = -1e6;
        }
        const Values after = rows(other);
        for (int64_t t = 0; t < sizes.T; t++) {
            const bool sees = first_seen(sizes, starts, 0, t) <= changed && changed <= t;
            const bool same = std::equal(&before[t * sizes.D], &before[t * sizes.D] + sizes.D, &after[t * sizes.D]);
            if (sees == same)
                FAIL_CHECK("row " << t << (sees ? " ignores a key that it sees" : " changes with a hidden key"));
        }
    }
}

TEST_CASE("every row sees itself, whatever the start of its document is", "[attention]") {
    const auto* dev   = GENERATE(from_range(devices()));
    const Sizes sizes = {1, 40, 1, 8, 40, false};
    Values starts(sizes.T), clamped(sizes.T);
    for (int64_t t = 0; t < sizes.T; t++) {
        starts[t]  = t % 3 == 0 ? double(t) : t % 3 == 1 ? -5 : 1e9;
        clamped[t] = t % 3 == 1 ? 0 : double(t);
    }
    const Values qkv = qkv_values(sizes, ScoreKind::ordinary, DType::F32, 1);
    const Buffer x(dev, {sizes.B, sizes.T, 3, sizes.H, sizes.D}, DType::F32, qkv),
        s(dev, {sizes.B, sizes.T}, DType::I32, starts);
    const Buffer out(dev, {sizes.B, sizes.T, sizes.H, sizes.D}, DType::F32),
        lse(dev, {sizes.B, sizes.H, sizes.T}, DType::F32);
    attention_forward(out, lse, x, s, 1, sizes.window, dev->stream());
    CHECK_CLOSE(out, forward_formula<double>(sizes, qkv, clamped, 1).out,
                forward_formula<float>(sizes, qkv, clamped, 1).out);
}

TEST_CASE("attention is the same for any number of threads", "[attention]") {
    const auto* dev  = devices()[0];
    const auto dtype = GENERATE(DType::F32, DType::BF16);
    const auto sizes =
        GENERATE(Sizes{1, 300, 1, 64, 300, false}, Sizes{1, 300, 3, 24, 70, true}, Sizes{4, 70, 6, 16, 70, false});
    const float rate = GENERATE(0.f, 0.3f);  // of dropout
    CAPTURE(dtype, sizes, rate);
    const float scale = default_scale(sizes);
    const Buffer step(dev, {1}, DType::I32, Values{4});
    const Dropout drop{rate, 9, step};
    const Values qkv = qkv_values(sizes, ScoreKind::ordinary, dtype, scale), starts = document_starts(sizes);
    const auto run = [&] {
        const Buffer x(dev, {sizes.B, sizes.T, 3, sizes.H, sizes.D}, dtype, qkv), s = starts_buffer(dev, sizes, starts);
        const Buffer out(dev, {sizes.B, sizes.T, sizes.H, sizes.D}, dtype),
            lse(dev, {sizes.B, sizes.H, sizes.T}, DType::F32);
        const Buffer dx(dev, {sizes.B, sizes.T, 3, sizes.H, sizes.D}, dtype),
            dout(dev, {sizes.B, sizes.T, sizes.H, sizes.D}, dtype, Kind::ordinary, 5);
        const Tensor maybe = sizes.documents ? s.tensor() : Tensor{};
        attention_forward(out, lse, x, maybe, scale, sizes.window, dev->stream(), drop);
        attention_backward(dx, dout, out, lse, x, maybe, scale, sizes.window, dev->stream(), drop);

        const Buffer k(dev, {sizes.B, sizes.H, sizes.T, sizes.D}, dtype),
            v(dev, {sizes.B, sizes.H, sizes.T, sizes.D}, dtype);
        const Buffer cached(dev, {sizes.B, sizes.T, sizes.H, sizes.D}, dtype),
            one(dev, {sizes.B, 1, sizes.H, sizes.D}, dtype);
        const Buffer row(dev, {sizes.B, 1, 3, sizes.H, sizes.D}, dtype, Kind::ordinary, 9);
        attention_cached(cached, k, v, x, positions_from(dev, sizes.B, sizes.T, 0), {}, scale, sizes.window,
                         dev->stream());
        attention_cached(one, k, v, row, positions_from(dev, sizes.B, 1, sizes.T - 1), {}, scale, sizes.window,
                         dev->stream());
        return Bytes{out.bytes(), lse.bytes(), dx.bytes(), cached.bytes(), one.bytes()};
    };
    CHECK_SAME_FOR_ANY_THREADS(run);
}

// ---- with a cache ---------------------------------------------------------------------------------------------------

TEST_CASE("attention_cached, called for a few rows at a time, gives the rows of attention_forward", "[attention]") {
    const auto* dev  = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(DType::F32, DType::BF16);
    const auto sizes = GENERATE(Sizes{2, 150, 3, 64, 150, false}, Sizes{1, 150, 1, 20, 33, false},
                                Sizes{3, 70, 7, 3, 1, false}, Sizes{1, 70, 2, 256, 1000, false});
    const auto chunk = GENERATE(1, 2, 33, 64, 1000);
    CAPTURE(dev, dtype, sizes, chunk);
    const float scale = default_scale(sizes);
    const int64_t S   = sizes.T + 5;  // the caches are longer than the sequence; rows not yet written are NaN
    const Indices at{sizes};
    const Values qkv = qkv_values(sizes, ScoreKind::ordinary, dtype, scale);
    const Buffer k(dev, {sizes.B, sizes.H, S, sizes.D}, dtype), v(dev, {sizes.B, sizes.H, S, sizes.D}, dtype);
    Values ours(sizes.B * sizes.T * sizes.H * sizes.D);
    for (int64_t past = 0; past < sizes.T; past += chunk) {
        const Sizes small = {sizes.B, std::min<int64_t>(chunk, sizes.T - past), sizes.H, sizes.D, sizes.window, false};
        const Indices in{small};
        Values rows(small.B * small.T * 3 * small.H * small.D);
        for (int64_t which = 0; which < 3; which++)
            each_attention_row(small, [&](int64_t b, int64_t h, int64_t t) {
                for (int64_t d = 0; d < sizes.D; d++)
                    rows[in.qkv(b, t, which, h, d)] = qkv[at.qkv(b, past + t, which, h, d)];
            });
        const Buffer x(dev, {small.B, small.T, 3, small.H, small.D}, dtype, rows);
        const Buffer out(dev, {small.B, small.T, small.H, small.D}, dtype);
        attention_cached(out, k, v, x, positions_from(dev, small.B, small.T, past), {}, scale, sizes.window,
                         dev->stream());
        const Values y = out.values();
        each_attention_row(small, [&](int64_t b, int64_t h, int64_t t) {
            for (int64_t d = 0; d < sizes.D; d++) ours[at.out(b, past + t, h, d)] = y[in.out(b, t, h, d)];
        });
    }
    const Forward reference = forward_formula<double>(sizes, qkv, {}, scale),
                  plain     = forward_formula<float>(sizes, qkv, {}, scale);
    const std::string off =
        difference("out", ours, {sizes.B, sizes.T, sizes.H, sizes.D}, dtype, reference.out, plain.out);
    if (!off.empty()) FAIL_CHECK(off);

    const Values k_kept = k.values(), v_kept = v.values();
    bool appended = true, rest_untouched = true;
    for (int64_t b = 0; b < sizes.B; b++)
        for (int64_t h = 0; h < sizes.H; h++)
            for (int64_t t = 0; t < S; t++)
                for (int64_t d = 0; d < sizes.D; d++) {
                    const int64_t i = ((b * sizes.H + h) * S + t) * sizes.D + d;
                    if (t < sizes.T)
                        appended = appended && k_kept[i] == qkv[at.qkv(b, t, 1, h, d)] &&
                                   v_kept[i] == qkv[at.qkv(b, t, 2, h, d)];
                    else
                        rest_untouched = rest_untouched && std::isnan(k_kept[i]) && std::isnan(v_kept[i]);
                }
    CHECK(appended);
    CHECK(rest_untouched);
}

TEST_CASE("attention_cached with extreme scores", "[attention]") {
    const auto* dev  = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(DType::F32, DType::BF16);
    const auto kind =
        GENERATE(ScoreKind::large, ScoreKind::equal, ScoreKind::alternating, ScoreKind::tiny, ScoreKind::rising);
    CAPTURE(dev, dtype, int(kind));
    const Sizes sizes   = {1, 150, 1, 24, 150, false};
    const float scale   = default_scale(sizes);
    const Values qkv    = qkv_values(sizes, kind, dtype, scale);
    const int64_t split = sizes.T - 1, row = 3 * sizes.H * sizes.D;
    const Buffer k(dev, {sizes.B, sizes.H, sizes.T, sizes.D}, dtype),
        v(dev, {sizes.B, sizes.H, sizes.T, sizes.D}, dtype);
    const Buffer head(dev, {1, split, 3, sizes.H, sizes.D}, dtype, Values(qkv.begin(), qkv.begin() + split * row));
    const Buffer tail(dev, {1, 1, 3, sizes.H, sizes.D}, dtype, Values(qkv.begin() + split * row, qkv.end()));
    const Buffer first(dev, {1, split, sizes.H, sizes.D}, dtype), last(dev, {1, 1, sizes.H, sizes.D}, dtype);
    attention_cached(first, k, v, head, positions_from(dev, 1, split, 0), {}, scale, sizes.window, dev->stream());
    attention_cached(last, k, v, tail, positions_from(dev, 1, 1, split), {}, scale, sizes.window, dev->stream());
    Values ours      = first.values();
    const Values end = last.values();
    ours.insert(ours.end(), end.begin(), end.end());
    const std::string off = difference("out", ours, {sizes.B, sizes.T, sizes.H, sizes.D}, dtype,
                                       forward_formula<double>(sizes, qkv, {}, scale).out,
                                       forward_formula<float>(sizes, qkv, {}, scale).out);
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
    const Buffer step(dev, {1}, DType::I32, Values{0});
    for (const float rate : {-0.1f, 1.f, NAN})
        CHECK_REFUSED((attention_forward(out, lse, qkv, {}, 1, 3, s, {rate, 1, step})), "attention_forward",
                      "the rate is");
    CHECK_REFUSED((attention_forward(out, lse, qkv, {}, 1, 3, s, {0.1f, 1})), "drop.step is null");
    CHECK_REFUSED((attention_backward(qkv, out, out, lse, qkv, {}, 1, 3, s, {0.1f, 1, step, 4})), "attention_backward",
                  "drop.first is 4", "sequence of 3");
    CHECK_REFUSED((attention_backward(out, out, out, lse, qkv, {}, 1, 3, s)), "attention_backward", "dqkv is");
    CHECK_REFUSED((attention_backward(qkv, short_out, out, lse, qkv, {}, 1, 3, s)), "dout is");
    const Buffer at = positions_from(dev, 2, 3, 0), beyond = positions_from(dev, 2, 3, 3),
                 before = positions_from(dev, 2, 3, -1), tall(dev, {2, 4, 2, 8}, f);
    CHECK_REFUSED((attention_cached(out, cache, other_cache, qkv, at, {}, 1, 3, s)), "v_cache is (2, 4, 6, 8)");
    CHECK_REFUSED((attention_cached(out, cache, cache, qkv, starts, {}, 1, 3, s)), "positions is (3, 2)");
    CHECK_REFUSED((attention_cached(out, tall, tall, qkv, at, {}, 1, 3, s)), "3 new rows", "holds 2");
    CHECK_REFUSED((attention_cached(out, cache, cache, qkv, beyond, {}, 1, 3, s)), "position at (0, 2) is 5", "0..4");
    CHECK_REFUSED((attention_cached(out, cache, cache, qkv, before, {}, 1, 3, s)), "position at (0, 0) is -1");
}

TEST_CASE("attention_cached refuses a place outside of its cache", "[attention][errors]") {
    const auto* dev    = GENERATE(from_range(devices()));
    const int64_t T    = GENERATE(1, 3);
    const int64_t past = GENERATE(5, -1, 1 << 30);
    CAPTURE(dev, T, past);
    Values at;  // the first of the two sequences is in its place
    for (int64_t n = 0; n < 2 * T; n++) at.push_back(double(n < T ? n : past + n - T));
    const Buffer qkv(dev, {2, T, 3, 4, 8}, DType::F32, Kind::ordinary), out(dev, {2, T, 4, 8}, DType::F32),
        cache(dev, {2, 4, 5, 8}, DType::F32, Kind::zeros), positions(dev, {2, T}, DType::I32, at);
    const auto run = [&] {
        attention_cached(out, cache, cache, qkv, positions, {}, 1, 3, dev->stream());
        sync(dev->stream());
    };
    CHECK_REFUSED(run(), "attention_cached: position at (1, 0) is", "0..4");
}

// ---- rope -----------------------------------------------------------------------------------------------------------

namespace {
// Angles are in double for every R, because rounding them to float is not part of the formula.
template <class R>
Values rope_formula(const Sizes& sizes, Values x, const std::function<double(int64_t, int64_t)>& position, Rope rope,
                    double direction) {
    const Indices at{sizes};
    for (int64_t which = 0; which < 2; which++)
        each_attention_row(sizes, [&](int64_t b, int64_t h, int64_t t) {
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

TEST_CASE("rope rotates q and k, and backward rotates them back", "[rope]") {
    const auto* dev  = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(DType::F32, DType::BF16);
    const auto sizes =
        GENERATE(Sizes{1, 1, 1, 2, 0, false}, Sizes{2, 7, 3, 80, 0, false}, Sizes{1, 300, 1, 64, 0, false},
                 Sizes{3, 5, 2, 9, 0, false}, Sizes{1, 2, 40, 130, 0, false}, Sizes{1, 3, 48, 128, 0, false});
    const auto part  = GENERATE(1., 0.5, 0.25);
    const bool given = GENERATE(false, true);
    const Rope rope{int64_t(double(sizes.D) * part) / 2 * 2, GENERATE(10000.f, 500.f)};
    CAPTURE(dev, dtype, sizes, rope.dim, rope.base, given);
    const auto position = [&](int64_t b, int64_t t) { return double(given ? (b * 37 + t * 101) % 2048 : t); };
    Values positions(sizes.B * sizes.T);
    for (int64_t i = 0; i < sizes.B * sizes.T; i++) positions[i] = position(i / sizes.T, i % sizes.T);
    const Buffer p(dev, {sizes.B, sizes.T}, DType::I32, positions);
    const Tensor maybe = given ? p.tensor() : Tensor{};
    const Values x     = qkv_values(sizes, ScoreKind::ordinary, dtype, 1);
    const Buffer qkv(dev, {sizes.B, sizes.T, 3, sizes.H, sizes.D}, dtype, x);

    rope_forward(qkv, maybe, rope, dev->stream());
    CHECK_CLOSE(qkv, rope_formula<double>(sizes, x, position, rope, 1),
                rope_formula<float>(sizes, x, position, rope, 1));
    const Values forward = qkv.values();
    const Indices at{sizes};
    each_attention_row(sizes, [&](int64_t b, int64_t h, int64_t t) {
        for (int64_t which = 0; which < 3; which++)
            for (int64_t d = which == 2 ? 0 : rope.dim; d < sizes.D; d++)
                if (forward[at.qkv(b, t, which, h, d)] != x[at.qkv(b, t, which, h, d)])
                    FAIL("a coordinate outside rope.dim changed");
    });
    rope_backward(qkv, maybe, rope, dev->stream());
    CHECK_CLOSE(qkv, rope_formula<double>(sizes, forward, position, rope, -1),
                rope_formula<float>(sizes, forward, position, rope, -1));
    const Values there = rounded(rope_formula<float>(sizes, x, position, rope, 1), dtype);
    CHECK_CLOSE(qkv, x, rope_formula<float>(sizes, there, position, rope, -1));
}

TEST_CASE("rope of 2 dimensions at a far position is a rotation by the position", "[rope]") {
    const auto* dev = GENERATE(from_range(devices()));
    const Buffer qkv(dev, {1, 1, 3, 1, 2}, DType::F32, Values{1, 0, 0, 1, 5, 6}),
        p(dev, {1, 1}, DType::I32, Values{2047});
    rope_forward(qkv, p, Rope{2, 10000.f}, dev->stream());
    const double c = rounded(std::cos(2047.), DType::F32), s = rounded(std::sin(2047.), DType::F32);
    CHECK(qkv.values() == Values{c, s, -s, c, 5, 6});
}

TEST_CASE("rope says what is wrong with its arguments", "[rope]") {
    const auto* dev = devices()[0];
    const Stream s  = dev->stream();
    const Buffer qkv(dev, {1, 2, 3, 2, 8}, DType::F32, Kind::ordinary), flat(dev, {2, 48}, DType::F32, Kind::zeros);
    const Buffer positions(dev, {2, 1}, DType::I32, Kind::zeros);
    CHECK_REFUSED((rope_forward(qkv, {}, Rope{3}, s)), "rope_forward", "rope.dim is 3", "even");
    CHECK_REFUSED((rope_forward(qkv, {}, Rope{10}, s)), "rope.dim is 10", "head width 8");
    CHECK_REFUSED((rope_backward(qkv, {}, Rope{-2}, s)), "rope_backward", "rope.dim is -2");
    CHECK_REFUSED((rope_forward(qkv, {}, Rope{8, 0.f}, s)), "rope.base is 0");
    CHECK_REFUSED((rope_forward(flat, {}, Rope{8}, s)), "qkv is (2, 48)");
    CHECK_REFUSED((rope_forward(qkv, positions, Rope{8}, s)), "positions is (2, 1)");
    const auto before = qkv.bytes();
    rope_forward(qkv, {}, Rope{}, s);  // dim 0: nothing rotates
    CHECK(qkv.bytes() == before);
}
