// test_attention_hopper.cpp - attention's kernels for Hopper, against the formulas in double and against mma.sync
//
// They need a GPU of compute capability 9.0, which the emulator is. Elsewhere these tests do nothing.
#include "test/reference_attention.h"

namespace {

using Sizes = AttentionSizes;

// Lets a device use these kernels for as long as it lives.
struct Using {
    const Device* dev;
    Using(const Device* dev, AttentionKernels which) : dev(dev) { dev->use_attention(which); }
    ~Using() { dev->use_attention(AttentionKernels::automatic); }
};

// The first element of a row of q (0), k (1) or v (2).
int64_t row_of_qkv(const Sizes& s, int64_t b, int64_t t, int64_t which, int64_t h) {
    return AttentionIndices{s}.qkv(b, t, which, h, 0);
}
Values qkv_in_bf16(const Sizes& s, ScoreKind kind, double scale) { return qkv_values(s, kind, DType::BF16, scale); }
// Documents of 20 to 80 rows, which begin and end within the large tiles.
Values long_documents(const Sizes& s) { return document_starts(s, 13, 20, 80); }

struct Tensors {
    Buffer qkv, starts, out, lse, dout, dqkv, step;
    bool documents;
    Dropout dropout;
    Tensors(const Device* dev, const Sizes& s, const Values& x, const Values& starts)
        : qkv(dev, {s.B, s.T, 3, s.H, s.D}, DType::BF16, x),
          starts(dev, {s.B, s.T}, DType::I32, starts.empty() ? Values(s.B * s.T) : starts),
          out(dev, {s.B, s.T, s.H, s.D}, DType::BF16),
          lse(dev, {s.B, s.H, s.T}, DType::F32),
          dout(dev, {s.B, s.T, s.H, s.D}, DType::BF16, Kind::ordinary, 5),
          dqkv(dev, {s.B, s.T, 3, s.H, s.D}, DType::BF16),
          step(dev, {1}, DType::I32, Values{4}),
          documents(s.documents) {}
    // Drops probabilities from here on, as for the sequences of step 4 from the seventh on.
    void drop(float rate) { dropout = {rate, 0x123456789abcdef, step, 7 * qkv.tensor().shape[1], 2}; }
    void forward(const Device* dev, AttentionKernels which, float scale, int64_t window) {
        const Using those(dev, which);
        attention_forward(out, lse, qkv, documents ? starts.tensor() : Tensor{}, scale, window, dev->stream(), dropout);
    }
    // Takes `y` as the results of the forward pass.
    void backward(const Device* dev, AttentionKernels which, const AttentionResults& y, float scale, int64_t window) {
        out.set(y.out);
        lse.set(y.lse);
        const Using those(dev, which);
        attention_backward(dqkv, dout, out, lse, qkv, documents ? starts.tensor() : Tensor{}, scale, window,
                           dev->stream(), dropout);
    }
    template <class R>
    Values gradient(const Sizes& s, float scale, DType factors = DType::F32) const {
        return backward_formula<R>(s, dout.values(), out.values(), lse.values(), qkv.values(),
                                   documents ? starts.values() : Values(), scale, factors);
    }
};

}  // namespace

// Tiles are of 128 rows, streamed ones of 128, 64 or 48, a warpgroup has 64 rows and a warp 16.
static const std::vector<Sizes>& all_sizes() {
    static const std::vector<Sizes> all = {
        {3, 1, 1, 64, 1, false},      {1, 17, 1, 64, 17, false},    {2, 64, 3, 64, 64, false},
        {1, 65, 1, 64, 1, false},     {2, 128, 1, 64, 128, false},  {1, 129, 2, 64, INT64_MAX, false},
        {2, 300, 1, 64, 300, true},   {1, 300, 1, 64, 100, false},  {1, 300, 1, 80, 1000, true},
        {1, 257, 1, 96, 40, true},    {2, 200, 1, 128, 200, false}, {1, 300, 1, 128, 130, true},
        {1, 300, 1, 256, 300, false}, {1, 150, 2, 256, 70, true},   {1, 130, 2, 40, 130, false},
        {1, 130, 1, 72, 50, true},    {1, 130, 1, 88, 130, false},  {1, 130, 1, 104, 130, false},
        {1, 130, 1, 136, 130, false}, {1, 200, 1, 192, 64, true},
    };
    return all;
}

TEST_CASE("attention on Hopper agrees with the formula and with mma.sync", "[attention][hopper]") {
    const Device* dev = hopper();
    if (!dev) return;
    const Sizes s     = GENERATE(from_range(all_sizes()));
    const float scale = s.H == 3 ? 1.f : default_scale(s);
    CAPTURE(s);
    const Values x = qkv_in_bf16(s, ScoreKind::ordinary, scale), starts = long_documents(s);
    Tensors on_hopper(dev, s, x, starts), on_any(dev, s, x, starts);
    on_hopper.forward(dev, AttentionKernels::hopper, scale, s.window);
    on_any.forward(dev, AttentionKernels::mma, scale, s.window);
    const AttentionResults reference = forward_formula<double>(s, x, starts, scale),
                           plain     = forward_formula<float>(s, x, starts, scale);
    CHECK_CLOSE(on_hopper.out, reference.out, plain.out);
    CHECK_CLOSE(on_hopper.lse, reference.lse, plain.lse);
    CHECK_CLOSE(on_any.out, reference.out, plain.out);
    // The bits show that other kernels ran: they add in another order.
    if (s.T > 128) CHECK(on_hopper.out.bytes() != on_any.out.bytes());
}

TEST_CASE("attention on Hopper and with mma.sync, with scores that are hard to weigh", "[attention][hopper]") {
    const Device* dev = hopper();
    if (!dev) return;
    const auto which = GENERATE(AttentionKernels::hopper, AttentionKernels::mma);
    const auto kind =
        GENERATE(ScoreKind::large, ScoreKind::equal, ScoreKind::alternating, ScoreKind::tiny, ScoreKind::rising);
    const Sizes s = GENERATE(Sizes{1, 300, 1, 64, 300, false}, Sizes{1, 200, 1, 128, 90, true});
    CAPTURE(s, int(which), int(kind));
    const float scale = default_scale(s);
    const Values x = qkv_in_bf16(s, kind, scale), starts = long_documents(s);
    Tensors t(dev, s, x, starts);
    t.forward(dev, which, scale, s.window);
    const AttentionResults reference = forward_formula<double>(s, x, starts, scale),
                           plain     = forward_formula<float>(s, x, starts, scale);
    CHECK_CLOSE(t.out, reference.out, plain.out);
    CHECK_CLOSE(t.lse, reference.lse, plain.lse);
    t.backward(dev, which, reference, scale, s.window);
    CHECK_CLOSE(t.dqkv, t.gradient<double>(s, scale), t.gradient<float>(s, scale, DType::BF16));
}

TEST_CASE("attention's backward pass on Hopper agrees with the formula and with mma.sync", "[attention][hopper]") {
    const Device* dev = hopper();
    if (!dev) return;
    const Sizes s     = GENERATE(from_range(all_sizes()));
    const float scale = s.H == 3 ? 1.f : default_scale(s);
    CAPTURE(s);
    const Values x = qkv_in_bf16(s, ScoreKind::ordinary, scale), starts = long_documents(s);
    Tensors on_hopper(dev, s, x, starts), on_any(dev, s, x, starts);
    const AttentionResults y = forward_formula<double>(s, x, starts, scale);
    on_hopper.backward(dev, AttentionKernels::hopper, y, scale, s.window);
    on_any.backward(dev, AttentionKernels::mma, y, scale, s.window);
    const Values reference = on_hopper.gradient<double>(s, scale), plain = on_hopper.gradient<float>(s, scale);
    CHECK_CLOSE(on_hopper.dqkv, reference, plain);
    CHECK_CLOSE(on_any.dqkv, reference, plain);
}

// test_attention.cpp compares attention with dropout with the formula. Here every element of the mask is told from the
// results. All scores are 0, because q or k is, and with lse = δ = 0 every p is 1 and every ds is dp. Row r of what is
// multiplied has one power of 4, in column r % D, so each element of a result is the sum of the powers that were kept.
// With a window of 66, one query of the third 64 sees one key of the first 64.
TEST_CASE("attention on Hopper drops those probabilities that the masks say", "[attention][hopper][dropout]") {
    const Device* dev = hopper();
    if (!dev) return;
    const auto which = GENERATE(AttentionKernels::hopper, AttentionKernels::mma);
    const Sizes s =
        GENERATE(Sizes{2, 200, 2, 64, 200, false}, Sizes{1, 131, 2, 80, 50, false}, Sizes{1, 150, 2, 128, 150, true},
                 Sizes{1, 200, 1, 256, 70, true}, Sizes{2, 200, 2, 64, 66, false});
    CAPTURE(s, int(which));
    const Values starts = long_documents(s);
    const auto power    = [&](int64_t row) { return std::ldexp(1., int(2 * (row / s.D))); };
    const auto each_row = [&](auto f) {
        for (int64_t b = 0; b < s.B; b++)
            for (int64_t h = 0; h < s.H; h++)
                for (int64_t t = 0; t < s.T; t++) f(b, h, t, ((b * s.T + t) * s.H + h) * s.D);
    };
    Values only_q(s.B * s.T * 3 * s.H * s.D), only_k = only_q, dout(s.B * s.T * s.H * s.D);
    each_row([&](int64_t b, int64_t h, int64_t t, int64_t row) {
        only_q[row_of_qkv(s, b, t, 0, h) + t % s.D] = 1;
        for (int64_t d = 0; d < s.D; d++) only_q[row_of_qkv(s, b, t, 2, h) + d] = 1;
        only_k[row_of_qkv(s, b, t, 1, h) + t % s.D] = 1;
        only_k[row_of_qkv(s, b, t, 2, h) + t % s.D] = power(t);
        dout[row + t % s.D]                         = power(t);
    });
    const AttentionResults zeros{Values(dout.size()), Values(s.B * s.H * s.T)};
    Tensors t(dev, s, only_k, starts);
    t.drop(0.5f);  // so what is kept is multiplied by 2
    t.forward(dev, which, 1, s.window);
    const Values out = t.out.values();
    t.dout.set(Values(dout.size(), 1.));
    t.backward(dev, which, zeros, 1, s.window);
    const Values dq = t.dqkv.values();
    t.qkv.set(only_q);
    t.dout.set(dout);
    t.backward(dev, which, zeros, 1, s.window);
    const Values dkv = t.dqkv.values();

    int32_t step   = 4;
    Dropout masks  = t.dropout;
    masks.step.ptr = &step;
    const HeadDropouts heads(masks, s.T, s.H);
    int64_t wrong      = 0;
    const auto compare = [&](const Values& result, int64_t row, const Values& right, double factor) {
        for (int64_t d = 0; d < s.D; d++) wrong += std::nearbyint(result[row + d] / factor) != right[d];
    };
    each_row([&](int64_t b, int64_t h, int64_t t, int64_t row) {
        const HeadDropout mask = heads.head(b * s.H + h);
        const int64_t first    = first_seen(s, starts, b, t);
        Values of_row(s.D), of_column(s.D);
        for (int64_t u = first; u <= t; u++)
            if (mask.keeps(uint32_t(t), uint32_t(u))) of_row[u % s.D] += power(u);
        for (int64_t u = t; u < s.T; u++)
            if (first_seen(s, starts, b, u) <= t && mask.keeps(uint32_t(u), uint32_t(t)))
                of_column[u % s.D] += power(u);
        compare(out, row, of_row, 2. / double(t + 1 - first));
        compare(dq, row_of_qkv(s, b, t, 0, h), of_row, 2);
        compare(dkv, row_of_qkv(s, b, t, 1, h), of_column, 2);
        compare(dkv, row_of_qkv(s, b, t, 2, h), of_column, 2);
    });
    CHECK(wrong == 0);
}

// There are more tiles than multiprocessors, so blocks take several, and the phases of all barriers go round.
TEST_CASE("attention on Hopper does not depend on what else a block computes", "[attention][hopper]") {
    const Device* dev = hopper();
    if (!dev) return;
    const Sizes s = {150, 24, 2, 64, 24, false}, one = {1, 24, 2, 64, 24, false};
    CAPTURE(s);
    const float scale = default_scale(s);
    const Values x    = qkv_in_bf16(s, ScoreKind::ordinary, scale);
    const auto bits   = [&](Tensors& t, const Values& dout) {
        t.dout.set(dout);
        t.forward(dev, AttentionKernels::hopper, scale, s.window);
        const Using those(dev, AttentionKernels::hopper);
        attention_backward(t.dqkv, t.dout, t.out, t.lse, t.qkv, {}, scale, s.window, dev->stream());
        return std::vector<std::vector<unsigned char>>{t.out.bytes(), t.lse.bytes(), t.dqkv.bytes()};
    };
    Tensors all(dev, s, x, {});
    const Values dout     = all.dout.values();
    const auto everything = bits(all, dout);
    for (int64_t b : {0, 70, 149}) {
        const auto part = [&](const Values& v) {
            const int64_t size = int64_t(v.size()) / s.B;
            return Values(v.begin() + b * size, v.begin() + (b + 1) * size);
        };
        Tensors alone(dev, one, part(x), {});
        const auto of_one = bits(alone, part(dout));
        for (size_t i = 0; i < of_one.size(); i++)
            CHECK(
                std::equal(of_one[i].begin(), of_one[i].end(), everything[i].begin() + b * int64_t(of_one[i].size())));
    }
    // Blocks take tiles from a counter, which has to be 0 again for the next op that counts in it.
    const Buffer norm(dev, {1}, DType::F32), ones(dev, {1 << 20}, DType::F32, Values(1 << 20, 1.));
    squared_norm(norm, ones, dev->stream());
    CHECK(norm.values()[0] == 1 << 20);
}

TEST_CASE("a key that is hidden from a row does not change one bit of it on Hopper", "[attention][hopper]") {
    const Device* dev = hopper();
    if (!dev) return;
    const Sizes s = {1, 200, 1, 64, 50, true};
    CAPTURE(s);
    const float scale = default_scale(s);
    const Values x = qkv_in_bf16(s, ScoreKind::ordinary, scale), starts = long_documents(s);
    const auto rows = [&](const Values& values) {
        Tensors t(dev, s, values, starts);
        t.forward(dev, AttentionKernels::hopper, scale, s.window);
        return t.out.values();
    };
    const Values before = rows(x);
    for (int64_t changed : {0, 100, 199}) {
        Values other = x;
        for (int64_t d = 0; d < s.D; d++) {
            other[row_of_qkv(s, 0, changed, 1, 0) + d] = 100 + double(d);
            other[row_of_qkv(s, 0, changed, 2, 0) + d] = -1e6;
        }
        const Values after = rows(other);
        for (int64_t t = 0; t < s.T; t++) {
            const bool sees = changed <= t && changed >= first_seen(s, starts, 0, t),
                       same = std::equal(&before[t * s.D], &before[t * s.D] + s.D, &after[t * s.D]);
            CAPTURE(changed, t);
            if (same == sees)
                FAIL_CHECK("a row " << (sees ? "does not see a key that it should" : "sees a hidden key"));
        }
    }
}

TEST_CASE("the first results of Hopper's kernels are compared, and others take over where they differ",
          "[attention][hopper]") {
    if (!hopper()) return;
    const Device device("cuda");  // has compared nothing yet
    const Device* dev = &device;
    const Sizes s     = {2, 256, 1, 64, 256, false};
    const float scale = default_scale(s);
    Values x          = qkv_in_bf16(s, ScoreKind::ordinary, scale);
    Tensors t(dev, s, x, {});
    const auto bits = [&](AttentionKernels which) {
        t.forward(dev, which, scale, s.window);
        return t.out.bytes();
    };
    const auto agreed = bits(AttentionKernels::automatic);
    CHECK(agreed == bits(AttentionKernels::hopper));
    CHECK(agreed == bits(AttentionKernels::automatic));
    t.drop(0.1f);
    const auto dropped = bits(AttentionKernels::automatic);
    CHECK(dropped != agreed);
    CHECK(dropped == bits(AttentionKernels::hopper));
    t.dropout = {};

    // A window makes another kind of call, which was not compared before. A NaN in v reaches every row whose warps
    // multiply its tile with weights of 0. Hopper's tiles are larger, so the two differ, and neither is wrong.
    const auto narrow = [&](AttentionKernels which) {
        t.forward(dev, which, scale, 200);
        return t.out.bytes();
    };
    Values with_nan = x;
    for (int64_t d = 0; d < s.D; d++) with_nan[row_of_qkv(s, 1, 255, 2, 0) + d] = NAN;
    t.qkv.set(with_nan);
    const auto mma = narrow(AttentionKernels::mma), nan_on_hopper = narrow(AttentionKernels::hopper);
    REQUIRE(mma != nan_on_hopper);
    CHECK(narrow(AttentionKernels::automatic) == mma);  // shows nothing
    t.qkv.set(x);
    CHECK(narrow(AttentionKernels::automatic) == narrow(AttentionKernels::hopper));  // they agree
    t.qkv.set(with_nan);
    CHECK(narrow(AttentionKernels::automatic) == nan_on_hopper);

    // The second half of the keys gets 203 times the weight of the first. Hopper's kernel keeps the first half's
    // largest score as its top until a weight is 256, so 128 products of 203 and 5e34 are too large for a float. With
    // mma.sync the top rises, because weights of a lane add up to more than 1024. A third kind of call is compared.
    Values large = x;
    for (int64_t row = 0; row < s.T; row++)
        for (int64_t d = 0; d < s.D; d++) {
            large[row_of_qkv(s, 0, row, 0, 0) + d] = 1;
            large[row_of_qkv(s, 0, row, 1, 0) + d] = row < 128 ? 0 : 0.6640625;
            large[row_of_qkv(s, 0, row, 2, 0) + d] = rounded(row < 128 ? 1 : 5e34, DType::BF16);
        }
    t.qkv.set(large);
    t.drop(0.1f);
    const auto dropping_mma = narrow(AttentionKernels::mma);
    REQUIRE(dropping_mma != narrow(AttentionKernels::hopper));
    CHECK(narrow(AttentionKernels::automatic) == dropping_mma);
    t.qkv.set(x);
    REQUIRE(narrow(AttentionKernels::mma) != narrow(AttentionKernels::hopper));
    CHECK(narrow(AttentionKernels::automatic) == narrow(AttentionKernels::mma));  // none is compared any more
    t.dropout = {};
    CHECK(narrow(AttentionKernels::automatic) == narrow(AttentionKernels::hopper));  // this kind agreed before
    CHECK_REFUSED(Device("cpu").use_attention(AttentionKernels::hopper), "--attention hopper");
}
