// test_dropout.cpp - the op against its mask, ops that drop in their own pass, and the statistics of masks;
// test_model.cpp has whole models
#include "kernels/dropout.h"

#include "kernels/random.h"
#include "test/close.h"

constexpr DType F32 = DType::F32, BF16 = DType::BF16;

// The mask, written out: 1 where the element is kept.
static std::vector<int> mask_of(const Dropout& d, uint32_t step, int64_t N, int64_t C) {
    std::vector<int> mask(size_t(N * C));
    for (int64_t i = 0; i < N * C; i++) {
        const uint64_t element = uint64_t(d.first * C + i);
        mask[size_t(i)] = dropout_keeps(dropout_block(d.key, step, d.place, element / 8), element, d.threshold());
    }
    return mask;
}

TEST_CASE("dropout equals its mask", "[dropout]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(F32, BF16);
    const auto N     = GENERATE(1, 3, 37);
    const auto C     = GENERATE(1, 7, 48, 769);
    const auto rate  = GENERATE(0.f, 0.1f, 0.5f, 0.9f);
    const auto first = GENERATE(0, 5);
    CAPTURE(dev, dtype, N, C, rate, first);
    const Buffer step(dev, {1}, DType::I32, Values{12}), x(dev, {N, C}, dtype, Kind::ordinary, 1);
    Buffer out(dev, {N, C}, dtype), in_place(dev, {N, C}, dtype, x.values());
    const Dropout d{rate, Random(1, "dropout").key(), step, first, 3};
    dropout(out, x, d, dev->stream());
    const std::vector<int> mask = mask_of(d, 12, N, C);
    Values reference            = x.values(), plain;
    for (size_t i = 0; i < reference.size(); i++) {
        const float value = float(reference[i]);
        reference[i]      = mask[i] ? reference[i] * 65536 / (65536 - d.threshold()) : 0;
        plain.push_back(mask[i] ? double(value * d.scale()) : 0);
    }
    CHECK_CLOSE(out, reference, plain);
    dropout(in_place, in_place, d, dev->stream());
    CHECK(in_place.bytes() == out.bytes());
    if (rate == 0) CHECK(out.bytes() == x.bytes());
}

TEST_CASE("a mask does not depend on threads, nor on how the rows are divided", "[dropout]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(F32, BF16);
    const auto C     = GENERATE(7, 24);
    CAPTURE(dev, dtype, C);
    const int64_t N = 2001;
    const Buffer step(dev, {1}, DType::I32, Values{3}), x(dev, {N, C}, dtype, Kind::ordinary, 1);
    const auto run = [&](const std::vector<int64_t>& parts) {
        Buffer out(dev, {N, C}, dtype);
        int64_t first = 0;
        for (const int64_t n : parts) {
            dropout(out.tensor().rows(first, n), x.tensor().rows(first, n), {0.3f, 9, step, first, 1}, dev->stream());
            first += n;
        }
        return Bytes{out.bytes()};
    };
    CHECK_SAME_FOR_ANY_THREADS([&] { return run({N}); });
    CHECK(run({1, 999, 1001}) == run({N}));
}

// On a GPU, rows of 768 share a block with others, and those of 1600, 5120 and 9000 take three other kernels of
// layernorm backward.
TEST_CASE("ops that drop elements in their own pass have the bits of dropout apart from it", "[dropout]") {
    const auto dev    = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(F32, BF16);
    const auto [N, C] = GENERATE(
        table<int, int>({{1, 1}, {3, 7}, {5, 20}, {2, 65}, {37, 48}, {130, 768}, {13, 1600}, {9, 5120}, {3, 9000}}));
    const auto rate = GENERATE(0.f, 0.3f);
    CAPTURE(dev, dtype, N, C, rate);
    const Stream s = dev->stream();
    const Buffer step(dev, {1}, DType::I32, Values{12}), a(dev, {N, C}, dtype, Kind::ordinary, 1),
        b(dev, {N, C}, dtype, Kind::ordinary, 2), w(dev, {C}, dtype, Kind::ordinary, 3),
        bias(dev, {C}, dtype, Kind::ordinary, 4);
    const Dropout drop{rate, Random(1, "dropout").key(), step, 5, 3};
    Buffer kept(dev, {N, C}, dtype);
    dropout(kept, b, drop, s);

    Buffer sum(dev, {N, C}, dtype), y(dev, {N, C}, dtype), mean(dev, {N}, F32), rstd(dev, {N}, F32);
    Buffer sum2(dev, {N, C}, dtype), y2(dev, {N, C}, dtype), mean2(dev, {N}, F32), rstd2(dev, {N}, F32);
    add_layernorm_forward(sum, y, mean, rstd, a, {kept}, w, bias, 1e-5f, s);
    add_layernorm_forward(sum2, y2, mean2, rstd2, a, {b, drop}, w, bias, 1e-5f, s);
    CHECK(sum.bytes() == sum2.bytes());
    CHECK(y.bytes() == y2.bytes());
    CHECK(mean.bytes() == mean2.bytes());
    CHECK(rstd.bytes() == rstd2.bytes());

    // Two branches, each with a mask of its own or none
    const Dropout other{GENERATE(0.f, 0.3f), Random(1, "dropout").key(), step, 5, 4};
    const Buffer c(dev, {N, C}, dtype, Kind::ordinary, 7);
    Buffer kept_c(dev, {N, C}, dtype), sum3(dev, {N, C}, dtype);
    dropout(kept_c, c, other, s);
    add_forward(sum3, sum, kept_c, s);
    add_layernorm_forward(sum2, y2, mean2, rstd2, a, {b, drop}, w, bias, 1e-5f, s, {c, other});
    CHECK(sum2.bytes() == sum3.bytes());
    layernorm_forward(y, mean, rstd, sum3, w, bias, 1e-5f, s);
    CHECK(y.bytes() == y2.bytes());

    Buffer added(dev, {N, C}, dtype);
    add_forward(added, a, b, s, drop);
    CHECK(added.bytes() == sum.bytes());
    for (const bool first : {true, false}) {  // the result may take the place of either
        Buffer in_place(dev, {N, C}, dtype, (first ? a : b).values());
        if (first)
            add_forward(in_place, in_place, b, s, drop);
        else
            add_forward(in_place, a, in_place, s, drop);
        CHECK(in_place.bytes() == sum.bytes());
    }

    Values ids;
    for (int n = 0; n < N; n++) ids.push_back(n * 7 % N);
    const Buffer tokens(dev, {1, N}, DType::I32, ids);
    Buffer rows(dev, {1, N, C}, dtype), rows2(dev, {1, N, C}, dtype);
    embedding_forward(rows, tokens, {}, a, b, s);
    dropout(rows.tensor().view({N, C}), rows.tensor().view({N, C}), drop, s);
    embedding_forward(rows2, tokens, {}, a, b, s, drop);
    CHECK(rows.bytes() == rows2.bytes());

    const auto backward = [&, C = C](Buffer& dx, Tensor dropped) {
        Buffer dw(dev, {C}, F32), db(dev, {C}, F32);
        layernorm_backward(dx, dw, db, b, sum, w, mean, rstd, Into::set, s, drop, dropped);
        return Bytes{dw.bytes(), db.bytes()};
    };
    Buffer dx(dev, {N, C}, dtype, a.values()), dx2(dev, {N, C}, dtype, a.values()), dx3(dev, {N, C}, dtype, a.values()),
        dropped(dev, {N, C}, dtype);
    Buffer dw(dev, {C}, F32), db(dev, {C}, F32);
    layernorm_backward(dx, dw, db, b, sum, w, mean, rstd, Into::set, s);
    const Bytes weights{dw.bytes(), db.bytes()};
    CHECK(backward(dx2, dropped) == weights);
    CHECK(backward(dx3, dx3) == weights);
    CHECK(dx2.bytes() == dx.bytes());
    dropout(kept, dx, drop, s);
    CHECK(dx3.bytes() == kept.bytes());  // also without dropout
    if (rate > 0) CHECK(dropped.bytes() == kept.bytes());
}

// Under independence each count is binomial. 5 standard deviations are exceeded once in 1.7 million counts.
static void check_binomial(int64_t count, int64_t of, double p) {
    CAPTURE(count, of, p);
    CHECK(std::fabs(double(count) - double(of) * p) <= 5 * std::sqrt(double(of) * p * (1 - p)));
}

TEST_CASE("masks drop at their rate, and no two of them are correlated", "[dropout]") {
    const auto rate = GENERATE(0.1f, 0.5f, 0.9f);
    CAPTURE(rate);
    const int64_t N = 512, C = 384, n = N * C;
    const Dropout d{rate, Random(1, "dropout").key(), {}, 0, 1};
    const double kept = 1 - double(d.threshold()) / 65536;
    CHECK(std::fabs(1 - kept - rate) <= 0x1p-17);
    const std::vector<int> mask = mask_of(d, 7, N, C);
    check_binomial(std::count(mask.begin(), mask.end(), 1), n, kept);
    const auto both = [&](const std::vector<int>& other, int64_t shift) {
        int64_t count = 0;
        for (int64_t i = 0; i + shift < n; i++) count += mask[size_t(i)] & other[size_t(i + shift)];
        check_binomial(count, n - shift, kept * kept);
    };
    for (const int64_t shift : {1, 2, 3, 4, 7, 8, 16, 383, 384, 385}) both(mask, shift);  // neighbours
    const auto with = [&](auto change) {
        Dropout other = d;
        change(other);
        both(mask_of(other, 7, N, C), 0);
    };
    for (const uint32_t place : {0u, 2u, 3u, 97u}) with([=](Dropout& o) { o.place = place; });
    with([=](Dropout& o) { o.first = N; });  // another micro-step or process
    with([](Dropout& o) { o.key = Random(2, "dropout").key(); });
    for (const uint32_t step : {0u, 6u, 8u, 4000000000u}) both(mask_of(d, step, N, C), 0);
}

TEST_CASE("masks of attention drop at their rate, and no two of them are correlated", "[dropout]") {
    const auto rate = GENERATE(0.1f, 0.5f, 0.9f);
    CAPTURE(rate);
    const int64_t T = 400, H = 3;
    using Mask = std::vector<char>;  // (T,T), queries by keys
    struct Which {
        int64_t head   = 1;
        uint32_t place = 3;
        int32_t step   = 7;
        uint64_t key   = Random(1, "dropout").key();
        int64_t first  = 5;  // sequences
    };
    const auto mask_of = [&](Which w) {
        const Dropout d{rate, w.key, {&w.step, DType::I32, {1}}, w.first * T, w.place};
        const HeadDropout head = HeadDropouts(d, T, H).head(w.head);
        Mask mask(size_t(T * T));
        for (int64_t i = 0; i < T * T; i++) mask[size_t(i)] = head.keeps(uint32_t(i / T), uint32_t(i % T));
        return mask;
    };
    const double kept = 1 - double(Dropout{rate}.threshold()) / 65536;
    const Mask mask   = mask_of({});
    check_binomial(std::count(mask.begin(), mask.end(), 1), T * T, kept);
    // Counts the pairs of kept elements that are so many queries and keys apart.
    const auto both = [&](const Mask& other, int64_t queries, int64_t keys) {
        CAPTURE(queries, keys);
        int64_t count = 0, of = 0;
        for (int64_t t = 0; t + queries < T; t++)
            for (int64_t s = 0; s + keys < T; s++, of++)
                count += mask[size_t(t * T + s)] & other[size_t((t + queries) * T + s + keys)];
        check_binomial(count, of, kept * kept);
    };
    for (const int64_t queries : {0, 1, 2, 7, 8, 9, 16, 17, 64})
        for (const int64_t keys : {0, 1, 2, 7, 8, 9, 16, 17, 64})
            if (queries + keys > 0) both(mask, queries, keys);
    Mask transposed(mask.size());
    for (int64_t i = 0; i < T * T; i++) transposed[size_t(i)] = mask[size_t(i % T * T + i / T)];
    both(transposed, 0, 1);
    const auto with = [&](auto change) {
        Which other;
        change(other);
        both(mask_of(other), 0, 0);
    };
    for (const int64_t head : {0, 2, 3, 6}) with([=](Which& w) { w.head = head; });
    for (const uint32_t place : {0u, 1u, 2u, 4u}) with([=](Which& w) { w.place = place; });
    for (const int32_t step : {0, 6, 8, 1 << 30}) with([=](Which& w) { w.step = step; });
    for (const int64_t first : {0, 4, 6}) with([=](Which& w) { w.first = first; });
    with([](Which& w) { w.key = Random(2, "dropout").key(); });
    with([](Which& w) { w.key++; });

    // The next sequence's heads follow, wherever the tensor is cut.
    const auto same = [&](Which w) { CHECK(mask_of(w) == mask); };
    same({1 + H, 3, 7, Random(1, "dropout").key(), 4});
}

TEST_CASE("dropping elements in other ops' passes is the same for any number of threads", "[dropout]") {
    const auto dev  = devices()[0];
    const int64_t N = 301, C = 97;
    const Buffer x(dev, {N, C}, F32, Kind::ordinary, 1), w(dev, {C}, F32, Kind::ordinary, 2),
        step(dev, {1}, DType::I32, Values{2});
    const Stream s = dev->stream();
    const Dropout drop{0.2f, 1, step, 3, 1};
    const auto run = [&] {
        Buffer y(dev, {N, C}, F32), sum(dev, {N, C}, F32), added(dev, {N, C}, F32), mean(dev, {N}, F32),
            rstd(dev, {N}, F32);
        Buffer dx(dev, {N, C}, F32, Kind::zeros), dropped(dev, {N, C}, F32), dw(dev, {C}, F32), db(dev, {C}, F32);
        add_forward(added, x, x, s, drop);
        add_layernorm_forward(sum, y, mean, rstd, x, {x, drop}, w, w, 1e-5f, s);
        layernorm_backward(dx, dw, db, y, x, w, mean, rstd, Into::set, s, drop, dropped);
        return Bytes{added.bytes(), y.bytes(), sum.bytes(), dropped.bytes()};
    };
    CHECK_SAME_FOR_ANY_THREADS(run);
}

TEST_CASE("dropout refuses rates outside [0, 1) and tensors that do not fit", "[dropout]") {
    const auto dev = devices()[0];
    const Stream s = dev->stream();
    const Buffer step(dev, {1}, DType::I32, Values{0}), x(dev, {2, 3}, F32, Kind::zeros), other(dev, {3, 2}, F32);
    for (const float rate : {-0.1f, 1.f, 2.f, NAN})
        CHECK_REFUSED(dropout(x, x, {rate, 1, step, 0, 0}, s), "dropout", "the rate is", "less than 1");
    CHECK_REFUSED(dropout(other, x, {0.1f, 1, step, 0, 0}, s), "dropout", "out is (3, 2)");
    CHECK_REFUSED(dropout(x, x, {0.1f, 1, {}, 0, 0}, s), "dropout", "drop.step is null");
    const Buffer w(dev, {3}, F32, Kind::zeros), n(dev, {2}, F32, Kind::zeros);
    CHECK_REFUSED(add_forward(x, x, x, s, {1.f, 1, step, 0, 0}), "add_forward", "the rate is 1");
    CHECK_REFUSED(add_layernorm_forward(x, x, n, n, x, {x, {0.1f, 1, {}, 0, 0}}, w, w, 1, s), "drop.step is null");
    CHECK_REFUSED(add_layernorm_forward(x, x, n, n, x, {x}, w, w, 1, s, {x, {1.f, 1, step, 0, 0}}), "the rate is 1");
    CHECK_REFUSED(layernorm_backward(x, w, w, x, x, w, n, n, Into::set, s, {0.1f, 1, step, 0, 0}), "dropped is null");
}
