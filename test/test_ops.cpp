// test_ops.cpp - embedding, layernorm, gelu, add, cross entropy and sums against test/reference.h
//
// test_matmul.cpp tests the products, test_attention.cpp attention and rope, test_adamw.cpp AdamW. Every case runs on
// every device, and in both dtypes where the op has both.
#include <zlib.h>

#include <cstdio>

#include "kernels/host.h"
#include "kernels/ops.h"
#include "test/reference.h"

namespace {

constexpr auto F32 = DType::F32, BF16 = DType::BF16, I32 = DType::I32;
const Tensor none;

Values ids(size_t count, int64_t below, uint64_t seed) {
    Dice random(seed);
    Values v;
    for (size_t i = 0; i < count; i++) v.push_back(double(random.below(below)));
    return v;
}

}  // namespace

// ---- exp ------------------------------------------------------------------------------------------------------------

TEST_CASE("exp_shifted", "[ops]") {
    std::vector<float> x(1 << 20), y(x.size());
    for (size_t i = 0; i < x.size(); i++) x[i] = -86.9f + float(i) * (86.9f + 88.7f) / float(x.size());
    host::exp_shifted(y.data(), x.data(), int64_t(x.size()), 0, 1);
    double worst = 0;
    for (size_t i = 0; i < x.size(); i++) {
        const double want = std::exp(double(x[i]));
        worst             = std::max(worst, std::fabs(double(y[i]) - want) / ulp(want, F32));
    }
    CHECK(worst < 1.2);

    uint32_t bits = 0xffffffffu;  // a NaN whose payload and sign are all ones
    float odd;
    std::memcpy(&odd, &bits, 4);
    // A short row ends within a vector of every width.
    const std::vector<float> edges = {0.f, -0.f, 1e-40f, 88.8f, 3e38f, INFINITY, -87.5f, -3e38f, -INFINITY, NAN, odd};
    const Values wanted            = {1, 1, 1, INFINITY, INFINITY, INFINITY, 0, 0, 0, NAN, NAN};
    std::vector<float> out(edges.size() + 1, 7.f);
    host::exp_shifted(out.data(), edges.data(), int64_t(edges.size()), 0, 1);
    for (size_t i = 0; i < edges.size(); i++) {
        CAPTURE(i, edges[i], out[i]);
        CHECK((std::isnan(wanted[i]) ? std::isnan(out[i]) : double(out[i]) == wanted[i]));
    }
    CHECK(out.back() == 7.f);
    host::exp_shifted(out.data(), edges.data(), 3, 1.f, 2.f);
    CHECK(out[0] == Approx(std::exp(-0.5)));
}

// ---- embedding ------------------------------------------------------------------------------------------------------

TEST_CASE("embedding", "[ops]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(F32, BF16);
    const auto [B, T, C] =
        GENERATE(table<int, int, int>({{1, 1, 1}, {2, 3, 7}, {3, 17, 65}, {2, 33, 768}, {1, 5, 2056}}));
    const bool learned = GENERATE(true, false), given = GENERATE(false, true);
    const int64_t Vp = 11, max_T = 40;  // a small vocabulary, so that most tokens occur more than once
    CAPTURE(dev, dtype, B, T, C, learned, given);
    const Stream s = dev->stream();

    const Values token = ids(B * T, Vp, 3), position = ids(B * T, max_T, 4);
    const Buffer tokens(dev, {B, T}, I32, token), positions(dev, {B, T}, I32, position);
    const Tensor at     = given ? positions.tensor() : none;
    const Values row_of = reference::positions_or_count(given ? position : Values(), token.size(), T);

    const Buffer wte(dev, {Vp, C}, dtype, Kind::ordinary, 1), wpe(dev, {max_T, C}, dtype, Kind::ordinary, 2);
    const Values no_rows;
    Buffer out(dev, {B, T, C}, dtype);
    embedding_forward(out, tokens, at, wte, learned ? wpe.tensor() : none, s);
    const Values& wpe_values = learned ? wpe.values() : no_rows;
    CHECK_CLOSE(out, reference::embedding_forward<double>(token, row_of, wte.values(), wpe_values, C),
                reference::embedding_forward<float>(token, row_of, wte.values(), wpe_values, C));

    const Buffer dout(dev, {B, T, C}, dtype, Kind::ordinary, 5);
    Buffer dwte(dev, {Vp, C}, F32, Kind::ordinary, 6), dwpe(dev, {max_T, C}, F32, Kind::ordinary, 7);
    const Values dwte_before = dwte.values(), dwpe_before = dwpe.values();
    embedding_backward(dwte, learned ? dwpe.tensor() : none, dout, tokens, at, s);
    CHECK_CLOSE(dwte, reference::add_rows<double>(dwte_before, dout.values(), token, C),
                reference::add_rows<float>(dwte_before, dout.values(), token, C));
    if (learned)
        CHECK_CLOSE(dwpe, reference::add_rows<double>(dwpe_before, dout.values(), row_of, C),
                    reference::add_rows<float>(dwpe_before, dout.values(), row_of, C));
    else
        CHECK(dwpe.values() == dwpe_before);
}

// On a GPU the rows are sorted by 8 bits of the id at a time, in at most 64 chunks, and added up in tiles of 16.
TEST_CASE("embedding_backward adds the rows of ids that are frequent, rare and large", "[ops]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(F32, BF16);
    const int64_t B = 2, T = GENERATE(8, 16, 17, 2111, 33001), C = GENERATE(8, 9), N = B * T;
    using IdOf             = int64_t (*)(int64_t);
    const auto [Vp, id_of] = GENERATE(table<int64_t, IdOf>({
        {1, [](int64_t) { return int64_t(0); }},
        {70001, [](int64_t n) { return 70000 - 16 * (n % 4375); }},
        {70001, [](int64_t n) { return n % 2 ? int64_t(70000) : int64_t(255); }},
        {257, [](int64_t n) { return n % 3 ? int64_t(256) : n % 256; }},
    }));
    CAPTURE(dev, dtype, T, C, Vp, id_of(0), id_of(1));
    Values token(N), position(N);
    for (int64_t n = 0; n < N; n++) {
        token[n]    = double(id_of(n));
        position[n] = double(n % T);
    }
    const Buffer tokens(dev, {B, T}, I32, token), dout(dev, {B, T, C}, dtype, Kind::ordinary, 5);
    Buffer dwte(dev, {Vp, C}, F32, Kind::ordinary, 6), dwpe(dev, {T, C}, F32, Kind::ordinary, 7);
    const Values dwte_before = dwte.values(), dwpe_before = dwpe.values();
    embedding_backward(dwte, dwpe, dout, tokens, none, dev->stream());
    CHECK_CLOSE(dwte, reference::add_rows<double>(dwte_before, dout.values(), token, C),
                reference::add_rows<float>(dwte_before, dout.values(), token, C));
    CHECK_CLOSE(dwpe, reference::add_rows<double>(dwpe_before, dout.values(), position, C),
                reference::add_rows<float>(dwpe_before, dout.values(), position, C));
}

TEST_CASE("embedding is the same for any number of threads", "[ops]") {
    const auto dev  = devices()[0];
    const int64_t B = 4, T = 61, C = 200, Vp = 13;
    const Buffer tokens(dev, {B, T}, I32, ids(B * T, Vp, 3)), dout(dev, {B, T, C}, BF16, Kind::ordinary, 5);
    auto run = [&] {
        Buffer dwte(dev, {Vp, C}, F32, Kind::zeros), dwpe(dev, {T, C}, F32, Kind::zeros);
        embedding_backward(dwte, dwpe, dout, tokens, none, dev->stream());
        return Bytes{dwte.bytes(), dwpe.bytes()};
    };
    CHECK_SAME_FOR_ANY_THREADS(run);
}

TEST_CASE("embedding refuses ids outside its tables", "[ops][errors]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto wrong = GENERATE(-1, 11, 2147483647, -2147483647 - 1);
    const Stream s   = dev->stream();
    const Buffer bad(dev, {2, 3}, I32, Values{0, 1, 2, 3, 4, double(wrong)}), good(dev, {2, 3}, I32, ids(6, 11, 1));
    const Buffer wte(dev, {11, 8}, F32, Kind::ordinary), wpe(dev, {11, 8}, F32, Kind::ordinary);
    Buffer out(dev, {2, 3, 8}, F32), dwte(dev, {11, 8}, F32, Kind::zeros), dwpe(dev, {11, 8}, F32, Kind::zeros);
    const std::string id = std::to_string(wrong);
    // On a GPU the op does nothing, and the next sync() throws.
    CHECK_REFUSED((embedding_forward(out, bad, none, wte, wpe, s), sync(s)), "embedding_forward", "token", "(1, 2)",
                  id.c_str(), "0..10");
    CHECK_REFUSED((embedding_forward(out, good, bad, wte, wpe, s), sync(s)), "embedding_forward", "position", "(1, 2)",
                  id.c_str());
    CHECK_REFUSED((embedding_backward(dwte, dwpe, out, bad, none, s), sync(s)), "embedding_backward", "token", "(1, 2)",
                  id.c_str());
    CHECK_REFUSED((embedding_backward(dwte, dwpe, out, good, bad, s), sync(s)), "embedding_backward", "position",
                  "(1, 2)", id.c_str());
    CHECK(dwte.values() == Values(11 * 8, 0.0));
}

TEST_CASE("embedding refuses wrong shapes", "[ops][errors]") {
    const auto dev = devices()[0];
    const Stream s = dev->stream();
    const Buffer tokens(dev, {2, 3}, I32, ids(6, 11, 1)), flat(dev, {6}, I32, ids(6, 11, 1));
    const Buffer wte(dev, {11, 8}, F32, Kind::ordinary), wpe(dev, {3, 8}, F32, Kind::ordinary);
    const Buffer short_wpe(dev, {2, 8}, F32, Kind::ordinary), narrow_wpe(dev, {3, 7}, F32, Kind::ordinary);
    Buffer out(dev, {2, 3, 8}, F32), flat_out(dev, {6, 8}, F32), half_out(dev, {2, 3, 8}, BF16);
    CHECK_REFUSED(embedding_forward(out, flat, none, wte, wpe, s), "embedding_forward", "tokens is (6)");
    CHECK_REFUSED(embedding_forward(out, wte, none, wte, wpe, s), "embedding_forward", "tokens is (11, 8) fp32");
    CHECK_REFUSED(embedding_forward(out, tokens, flat, wte, wpe, s), "embedding_forward", "positions is (6)");
    CHECK_REFUSED(embedding_forward(out, tokens, none, none, wpe, s), "embedding_forward", "token table is null");
    CHECK_REFUSED(embedding_forward(out, tokens, none, wte, short_wpe, s), "embedding_forward",
                  "position table is (2, 8)");
    CHECK_REFUSED(embedding_forward(out, tokens, none, wte, narrow_wpe, s), "embedding_forward",
                  "position table is (3, 7)");
    CHECK_REFUSED(embedding_forward(flat_out, tokens, none, wte, wpe, s), "embedding_forward", "out is (6, 8)");
    CHECK_REFUSED(embedding_forward(half_out, tokens, none, wte, wpe, s), "embedding_forward", "out is (2, 3, 8) bf16");
    CHECK_REFUSED(embedding_backward(half_out, none, out, tokens, none, s), "embedding_backward", "table is (2, 3, 8)");
}

// ---- layernorm ------------------------------------------------------------------------------------------------------

TEST_CASE("layernorm_forward", "[ops]") {
    const auto dev    = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(F32, BF16);
    const auto [N, C] = GENERATE(table<int, int>({{1, 1}, {3, 7}, {1, 64}, {2, 65}, {129, 768}, {8, 1600}}));
    const auto kind =
        GENERATE(Kind::ordinary, Kind::large_mean, Kind::constant_rows, Kind::huge, Kind::tiny, Kind::zeros);
    CAPTURE(dev, dtype, N, C, kind);
    const Buffer x(dev, {N, C}, dtype, kind, 1), w(dev, {C}, dtype, Kind::ordinary, 2),
        b(dev, {C}, dtype, Kind::ordinary, 3);
    Buffer y(dev, {N, C}, dtype), mean(dev, {N}, F32), rstd(dev, {N}, F32);
    layernorm_forward(y, mean, rstd, x, w, b, 1e-5f, dev->stream());
    const auto want  = reference::layernorm_forward<double>(x.values(), w.values(), b.values(), 1e-5f);
    const auto plain = reference::layernorm_forward<float>(x.values(), w.values(), b.values(), 1e-5f);
    CHECK_CLOSE(mean, want.mean, plain.mean);
    CHECK_CLOSE(rstd, want.rstd, plain.rstd);
    CHECK_CLOSE(y, want.y, plain.y);
    // The norm of the same rows by other weights
    const Buffer w2(dev, {C}, dtype, Kind::ordinary, 4), b2(dev, {C}, dtype, Kind::ordinary, 5);
    Buffer again(dev, {N, C}, dtype), mean2(dev, {N}, F32), rstd2(dev, {N}, F32), y2(dev, {N, C}, dtype);
    layernorm_forward(again, mean2, rstd2, x, w, b, 1e-5f, dev->stream(), {y2, w2, b2});
    CHECK(again.bytes() == y.bytes());
    CHECK(mean2.bytes() == mean.bytes());
    CHECK(rstd2.bytes() == rstd.bytes());
    CHECK_CLOSE(y2, reference::layernorm_forward<double>(x.values(), w2.values(), b2.values(), 1e-5f).y,
                reference::layernorm_forward<float>(x.values(), w2.values(), b2.values(), 1e-5f).y);
}

TEST_CASE("in layernorm a NaN stays in its row", "[ops]") {
    const auto dev = GENERATE(from_range(devices()));
    const Buffer w(dev, {20}, F32, Kind::ordinary, 2), b(dev, {20}, F32, Kind::ordinary, 3);
    Values v(60, 1.0);
    v[25] = GENERATE(double(NAN), double(INFINITY));
    for (size_t i = 0; i < v.size(); i += 3) v[i] += 1;
    const Buffer x(dev, {3, 20}, F32, v);
    Buffer y(dev, {3, 20}, F32), mean(dev, {3}, F32), rstd(dev, {3}, F32);
    layernorm_forward(y, mean, rstd, x, w, b, 1e-5f, dev->stream());
    const Values out = y.values();
    for (size_t i = 0; i < out.size(); i++) CHECK(std::isnan(out[i]) == (i / 20 == 1));
}

TEST_CASE("layernorm_backward", "[ops]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(F32, BF16);
    // On a GPU, rows of 1600 and of 5120 have a block to themselves, and a thread has more than one vector of the
    // latter.
    const auto [N, C] =
        GENERATE(table<int, int>({{1, 1}, {3, 7}, {1, 64}, {2, 65}, {130, 768}, {700, 33}, {21, 1600}, {9, 5120}}));
    const auto kind = GENERATE(Kind::ordinary, Kind::large_mean, Kind::constant_rows);
    const auto into = GENERATE(Into::set, Into::add);
    CAPTURE(dev, dtype, N, C, kind, into == Into::add);
    const Buffer x(dev, {N, C}, dtype, kind, 1), w(dev, {C}, dtype, Kind::ordinary, 2),
        dy(dev, {N, C}, dtype, Kind::ordinary, 3);
    const auto saved = reference::layernorm_forward<double>(x.values(), w.values(), Values(C, 0.0), 1e-5f);
    const Buffer mean(dev, {N}, F32, saved.mean), rstd(dev, {N}, F32, saved.rstd);
    Buffer dx(dev, {N, C}, dtype, Kind::ordinary, 4), dw(dev, {C}, F32, Kind::ordinary, 5),
        db(dev, {C}, F32, Kind::ordinary, 6);
    const Values zeros(C, 0.);
    const reference::NormGrads before{dx.values(), into == Into::add ? dw.values() : zeros,
                                      into == Into::add ? db.values() : zeros};
    layernorm_backward(dx, dw, db, dy, x, w, mean, rstd, into, dev->stream());
    const auto want = reference::layernorm_backward<double>(before, dy.values(), x.values(), w.values(), mean.values(),
                                                            rstd.values());
    const auto plain =
        reference::layernorm_backward<float>(before, dy.values(), x.values(), w.values(), mean.values(), rstd.values());
    CHECK_CLOSE(dx, want.dx, plain.dx);
    CHECK_CLOSE(dw, want.dw, plain.dw);
    CHECK_CLOSE(db, want.db, plain.db);
    // Setting dx gives the bits of adding to zeros, whatever was there.
    Buffer zeroed(dev, {N, C}, dtype, Kind::zeros), set(dev, {N, C}, dtype, Values(N * C, NAN));
    layernorm_backward(zeroed, dw, db, dy, x, w, mean, rstd, into, dev->stream());
    layernorm_backward(set, dw, db, dy, x, w, mean, rstd, into, dev->stream(), {}, {}, Into::set);
    CHECK(set.bytes() == zeroed.bytes());
}

// Prints checksums for a test of test_emulated.cpp, which runs this in several orders of blocks.
TEST_CASE("the bits of sums that the last block adds up", "[.last-block]") {
    for (const Device* dev : devices()) {
        const Stream s = dev->stream();
        const int N = 700, C = 33;  // 88 chunks of rows
        const Buffer x(dev, {N, C}, F32, Kind::ordinary, 1), dy(dev, {N, C}, F32, Kind::ordinary, 2),
            w(dev, {C}, F32, Kind::ordinary, 3), ones(dev, {N}, F32, Values(N, 1.));
        Buffer dx(dev, {N, C}, F32), dw(dev, {C}, F32), db(dev, {C}, F32), norm(dev, {1}, F32);
        layernorm_backward(dx, dw, db, dy, x, w, ones, ones, Into::set, s, {}, {}, Into::set);
        squared_norm(norm, x, s);
        for (const Buffer* b : {&dw, &db, &norm}) {
            const auto bytes = b->bytes();
            std::printf("%s: %08lx\n", b == &norm ? "squared norm" : "layernorm",
                        crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), uInt(bytes.size())));
        }
    }
}

TEST_CASE("add_layernorm_forward equals add then layernorm to the bit", "[ops]") {
    const auto dev    = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(F32, BF16);
    const auto [N, C] = GENERATE(table<int, int>({{1, 1}, {3, 7}, {5, 65}, {33, 768}}));
    CAPTURE(dev, dtype, N, C);
    const Stream s = dev->stream();
    const Buffer a(dev, {N, C}, dtype, Kind::ordinary, 1), b(dev, {N, C}, dtype, Kind::large_mean, 2);
    const Buffer w(dev, {C}, dtype, Kind::ordinary, 3), bias(dev, {C}, dtype, Kind::ordinary, 4);
    Buffer sum(dev, {N, C}, dtype), y(dev, {N, C}, dtype), mean(dev, {N}, F32), rstd(dev, {N}, F32);
    Buffer sum2(dev, {N, C}, dtype), y2(dev, {N, C}, dtype), mean2(dev, {N}, F32), rstd2(dev, {N}, F32);
    add_layernorm_forward(sum, y, mean, rstd, a, {b}, w, bias, 1e-5f, s);
    add_forward(sum2, a, b, s);
    layernorm_forward(y2, mean2, rstd2, sum2, w, bias, 1e-5f, s);
    CHECK(sum.bytes() == sum2.bytes());
    CHECK(y.bytes() == y2.bytes());
    CHECK(mean.bytes() == mean2.bytes());
    CHECK(rstd.bytes() == rstd2.bytes());
}

TEST_CASE("the pass at the end of a parallel block equals the ops apart to the bit", "[ops]") {
    const auto dev    = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(F32, BF16);
    const auto [N, C] = GENERATE(table<int64_t, int64_t>({{1, 1}, {3, 7}, {5, 65}, {9, 96}, {2, 768}, {1, 16392}}));
    const bool third = GENERATE(false, true), two_norms = GENERATE(false, true), in_place = GENERATE(false, true);
    const int64_t shift = GENERATE(0, 1);  // with 1, the streams are not aligned for vectors
    CAPTURE(dev, dtype, N, C, third, two_norms, in_place, shift);
    const Stream s = dev->stream();
    const Buffer a_of(dev, {N * C + shift}, dtype, Kind::ordinary, 1),
        b_of(dev, {N * C + shift}, dtype, Kind::large_mean, 2), c_of(dev, {N * C + shift}, dtype, Kind::ordinary, 3);
    const auto rows = [&, N = N, C = C](Tensor t) { return t.rows(shift, N * C).view({N, C}); };
    const Buffer to_of(dev, {N * C + shift}, dtype), sum_of(dev, {N * C + shift}, dtype);
    const Tensor a = rows(a_of), b = rows(b_of), c = rows(c_of), to = in_place ? a : rows(to_of), sum = rows(sum_of);
    const Buffer w(dev, {C}, dtype, Kind::ordinary, 4), bias(dev, {C}, dtype, Kind::ordinary, 5);
    const Buffer w2(dev, {C}, dtype, Kind::ordinary, 6), bias2(dev, {C}, dtype, Kind::ordinary, 7);
    Buffer y(dev, {N, C}, dtype), mean(dev, {N}, F32), rstd(dev, {N}, F32);
    Buffer y2(dev, {N, C}, dtype), mean2(dev, {N}, F32), rstd2(dev, {N}, F32);
    Buffer second(dev, {N, C}, dtype), second2(dev, {N, C}, dtype);
    add_forward(sum, a, b, s);
    if (third) add_forward(sum, sum, c, s);
    layernorm_forward(second2, mean2, rstd2, sum, w2, bias2, 1e-5f, s);
    layernorm_forward(y2, mean2, rstd2, sum, w, bias, 1e-5f, s);
    add_layernorm_forward(to, y, mean, rstd, a, {b}, w, bias, 1e-5f, s, {third ? c : Tensor{}},
                          {two_norms ? second.tensor() : Tensor{}, w2, bias2});
    CHECK(floats_of(to, s) == floats_of(sum, s));
    CHECK(y.bytes() == y2.bytes());
    CHECK(mean.bytes() == mean2.bytes());
    CHECK(rstd.bytes() == rstd2.bytes());
    if (two_norms) CHECK(second.bytes() == second2.bytes());
}

TEST_CASE("layernorm is the same for any number of threads", "[ops]") {
    const auto dev  = devices()[0];
    const int64_t N = 301, C = 97;
    const Buffer x(dev, {N, C}, F32, Kind::ordinary, 1), w(dev, {C}, F32, Kind::ordinary, 2),
        dy(dev, {N, C}, F32, Kind::ordinary, 3);
    auto run = [&] {
        Buffer y(dev, {N, C}, F32), mean(dev, {N}, F32), rstd(dev, {N}, F32);
        Buffer dx(dev, {N, C}, F32, Kind::zeros), dw(dev, {C}, F32, Kind::zeros), db(dev, {C}, F32, Kind::zeros);
        layernorm_forward(y, mean, rstd, x, w, w, 1e-5f, dev->stream());
        layernorm_backward(dx, dw, db, dy, x, w, mean, rstd, Into::add, dev->stream());
        return Bytes{y.bytes(), dx.bytes(), dw.bytes(), db.bytes()};
    };
    CHECK_SAME_FOR_ANY_THREADS(run);
}

TEST_CASE("layernorm refuses wrong shapes", "[ops][errors]") {
    const auto dev = devices()[0];
    const Stream s = dev->stream();
    const Buffer x(dev, {4, 8}, F32, Kind::ordinary), w(dev, {8}, F32, Kind::ordinary),
        long_w(dev, {9}, F32, Kind::ordinary);
    const Buffer half_w(dev, {8}, BF16, Kind::ordinary), cube(dev, {2, 2, 8}, F32, Kind::ordinary);
    Buffer y(dev, {4, 8}, F32), m(dev, {4}, F32), r(dev, {4}, F32), short_m(dev, {3}, F32), half_y(dev, {4, 8}, BF16);
    Buffer dw(dev, {8}, F32, Kind::zeros), db(dev, {8}, F32, Kind::zeros), half_db(dev, {8}, BF16, Kind::zeros);
    CHECK_REFUSED(layernorm_forward(y, m, r, x, long_w, w, 1e-5f, s), "layernorm_forward",
                  "w is (9) fp32, expected (8)");
    CHECK_REFUSED(layernorm_forward(y, m, r, x, half_w, w, 1e-5f, s), "layernorm_forward", "w is (8) bf16");
    CHECK_REFUSED(layernorm_forward(y, m, r, x, w, none, 1e-5f, s), "layernorm_forward", "b is null");
    CHECK_REFUSED(layernorm_forward(y, short_m, r, x, w, w, 1e-5f, s), "layernorm_forward", "mean is (3)");
    CHECK_REFUSED(layernorm_forward(half_y, m, r, x, w, w, 1e-5f, s), "layernorm_forward", "y is (4, 8) bf16");
    CHECK_REFUSED(layernorm_forward(y, m, r, cube, w, w, 1e-5f, s), "layernorm_forward", "x is (2, 2, 8)");
    CHECK_REFUSED(add_layernorm_forward(y, half_y, m, r, x, {x}, w, w, 1e-5f, s), "add_layernorm_forward",
                  "y is (4, 8) bf16");
    CHECK_REFUSED(add_layernorm_forward(y, y, m, r, x, {x}, w, w, 1e-5f, s, {cube}), "add_layernorm_forward",
                  "c.x is (2, 2, 8)");
    CHECK_REFUSED(add_layernorm_forward(y, y, m, r, x, {x}, w, w, 1e-5f, s, {}, {y, long_w, w}),
                  "add_layernorm_forward", "second.w is (9)");
    CHECK_REFUSED(layernorm_forward(y, m, r, x, w, w, 1e-5f, s, {half_y, w, w}), "second.out is (4, 8) bf16");
    CHECK_REFUSED(layernorm_forward(y, m, r, x, w, w, 1e-5f, s, {y, w, none}), "second.b is null");
    CHECK_REFUSED(layernorm_backward(y, dw, half_db, x, x, w, m, r, Into::add, s), "layernorm_backward",
                  "db is (8) bf16");
    CHECK_REFUSED(layernorm_backward(y, dw, db, x, x, w, m, short_m, Into::add, s), "layernorm_backward",
                  "rstd is (3)");
}

// ---- gelu and add ---------------------------------------------------------------------------------------------------

TEST_CASE("gelu", "[ops]") {
    const auto dev           = GENERATE(from_range(devices()));
    const auto dtype         = GENERATE(F32, BF16);
    const auto form          = GENERATE(Gelu::tanh, Gelu::erf);
    const auto n             = GENERATE(1, 7, 16, 33, 40000);
    const auto [kind, scale] = GENERATE(table<Kind, double>({{Kind::ordinary, 1.},
                                                             {Kind::ordinary, 1e-3},
                                                             {Kind::ordinary, 10.},
                                                             {Kind::huge, 1.},
                                                             {Kind::tiny, 1.},
                                                             {Kind::zeros, 1.}}));
    CAPTURE(dev, dtype, int(form), n, kind, scale);
    const Buffer x(dev, {n}, dtype, kind, 1, scale), dy(dev, {n}, dtype, Kind::ordinary, 2);
    Buffer y(dev, {n}, dtype), dx(dev, {n}, dtype);
    gelu_forward(y, x, form, dev->stream());
    CHECK_CLOSE(y, reference::gelu_forward<double>(x.values(), form), reference::gelu_forward<float>(x.values(), form));
    gelu_backward(dx, dy, x, form, dev->stream());
    const Values want = reference::gelu_backward<double>(dy.values(), x.values(), form);
    CHECK_CLOSE(dx, want, reference::gelu_backward<float>(dy.values(), x.values(), form));

    Buffer in_place(dev, {n}, dtype, dy.values());
    gelu_backward(in_place, in_place, x, form, dev->stream());
    CHECK(in_place.bytes() == dx.bytes());
}

TEST_CASE("gelu of every bf16 number", "[ops]") {
    const auto dev  = GENERATE(from_range(devices()));
    const auto form = GENERATE(Gelu::tanh, Gelu::erf);
    Values all;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        bf16 h;
        h.bits = uint16_t(bits);
        all.push_back(float(h));
    }
    const Buffer x(dev, {65536}, F32, all), one(dev, {65536}, F32, Values(65536, 1.0));
    Buffer y(dev, {65536}, F32), slope(dev, {65536}, F32);
    gelu_forward(y, x, form, dev->stream());
    gelu_backward(slope, one, x, form, dev->stream());
    const Values y_ours = y.values(), slope_ours = slope.values();
    double worst = 0, worst_slope = 0;
    for (size_t i = 0; i < all.size(); i++) {
        const double wanted       = rounded(reference::gelu(all[i], form), F32),
                     slope_wanted = reference::gelu_slope(all[i], form);
        if (!std::isfinite(wanted)) {
            INFO("x = " << all[i]);
            CHECK((std::isnan(wanted) ? std::isnan(y_ours[i]) : y_ours[i] == wanted));
            continue;
        }
        // The error of y relative to x, and of the slope relative to 1, is that of Φ(x).
        worst       = std::max(worst, std::fabs(y_ours[i] - wanted) / std::max(std::fabs(all[i]), 1e-37));
        worst_slope = std::max(worst_slope, std::fabs(slope_ours[i] - slope_wanted));
    }
    CHECK(worst < 2 * 0x1p-23);
    CHECK(worst_slope < 4 * 0x1p-23);
}

TEST_CASE("add_forward", "[ops]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(F32, BF16);
    const auto n     = GENERATE(1, 15, 33, 40001);
    const auto kind  = GENERATE(Kind::ordinary, Kind::tiny, Kind::huge, Kind::garbage);
    CAPTURE(dev, dtype, n, kind);
    const Buffer a(dev, {n}, dtype, kind, 1), b(dev, {n}, dtype, Kind::ordinary, 2);
    Buffer out(dev, {n}, dtype), in_place(dev, {n}, dtype, b.values());
    add_forward(out, a, b, dev->stream());
    CHECK_CLOSE(out, reference::add<double>(a.values(), b.values()), reference::add<float>(a.values(), b.values()));
    add_forward(in_place, a, in_place, dev->stream());
    CHECK(in_place.bytes() == out.bytes());
}

TEST_CASE("scale_shift", "[ops]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(F32, BF16);
    const auto N     = GENERATE(1, 3, 37);
    const auto C     = GENERATE(1, 7, 48, 769);
    const auto kind  = GENERATE(Kind::ordinary, Kind::tiny, Kind::huge);
    CAPTURE(dev, dtype, N, C, kind);
    const Stream s = dev->stream();
    const Buffer scale(dev, {C}, F32, Kind::ordinary, 1), shift(dev, {C}, F32, Kind::ordinary, 2);
    const Values start = Buffer(dev, {N, C}, dtype, kind, 3).values();
    Buffer x(dev, {N, C}, dtype, start);
    scale_shift(x, scale, shift, s);
    CHECK_CLOSE(x, reference::scale_shift<double>(start, scale.values(), shift.values()),
                reference::scale_shift<float>(start, scale.values(), shift.values()));

    // One column is set, and the others keep their values to the bit.
    Values ones(C, 1.), zeros(C, 0.), expected = start;
    ones[C / 2]  = 0;
    zeros[C / 2] = -1.5;
    for (int64_t n = 0; n < N; n++) expected[n * C + C / 2] = -1.5;
    Buffer y(dev, {N, C}, dtype, start);
    scale_shift(y, Buffer(dev, {C}, F32, ones), Buffer(dev, {C}, F32, zeros), s);
    CHECK(y.values() == expected);
}

TEST_CASE("gelu, add and scale_shift refuse wrong shapes", "[ops][errors]") {
    const auto dev = devices()[0];
    const Stream s = dev->stream();
    const Buffer x(dev, {4, 8}, F32, Kind::ordinary), half(dev, {4, 8}, BF16, Kind::ordinary),
        transposed(dev, {8, 4}, F32, Kind::ordinary);
    const Buffer ints(dev, {4, 8}, I32, Values(32, 1.0));
    Buffer y(dev, {4, 8}, F32);
    CHECK_REFUSED(gelu_forward(y, transposed, Gelu::tanh, s), "gelu_forward", "y is (4, 8) fp32, expected (8, 4)");
    CHECK_REFUSED(gelu_forward(y, none, Gelu::tanh, s), "gelu_forward", "x is null");
    CHECK_REFUSED(gelu_forward(ints, ints, Gelu::tanh, s), "int32");
    CHECK_REFUSED(gelu_backward(y, half, x, Gelu::erf, s), "gelu_backward", "dy is (4, 8) bf16");
    CHECK_REFUSED(gelu_backward(none, x, x, Gelu::erf, s), "gelu_backward", "dx is null");
    CHECK_REFUSED(add_forward(y, x, transposed, s), "add_forward", "b is (8, 4)");
    CHECK_REFUSED(add_forward(half, x, x, s), "add_forward", "out is (4, 8) bf16");
    const Buffer column(dev, {8}, F32, Kind::ordinary), short_column(dev, {4}, F32, Kind::ordinary);
    CHECK_REFUSED(scale_shift(y, column, short_column, s), "scale_shift", "shift is (4) fp32, expected (8)");
    CHECK_REFUSED(scale_shift(y, none, column, s), "scale_shift", "scale is null");
}

// ---- cross entropy --------------------------------------------------------------------------------------------------

TEST_CASE("cross_entropy", "[ops]") {
    const auto dev          = GENERATE(from_range(devices()));
    const auto dtype        = GENERATE(F32, BF16);
    const auto [N, V, Vp]   = GENERATE(table<int, int, int>(
        {{1, 1, 1}, {1, 1, 8}, {3, 7, 7}, {5, 65, 128}, {4, 1000, 1008}, {2, 50257, 50304}, {1, 130001, 130048}}));
    const auto scale        = GENERATE(0.f, 1.f, 0.01f);
    // From logits that are all equal to those of a run that has diverged.
    const auto [kind, size] = GENERATE(table<Kind, double>({{Kind::ordinary, 1.},
                                                            {Kind::ordinary, 10.},
                                                            {Kind::ordinary, 1e4},
                                                            {Kind::constant_rows, 3.},
                                                            {Kind::large_mean, 1.},
                                                            {Kind::tiny, 1.}}));
    CAPTURE(dev, dtype, N, V, Vp, scale, kind, size);
    Buffer logits(dev, {N, Vp}, dtype, kind, 1, size), losses(dev, {N}, F32);
    Values l = logits.values();
    for (size_t i = 0; i < l.size(); i++)
        if (int64_t(i % Vp) >= V) l[i] = NAN;  // whatever the padding holds must not matter
    logits.set(l);
    Values target = ids(N, V, 7);
    if (N > 2) target[1] = -1;
    const Buffer targets(dev, {N}, I32, target);
    const auto want   = reference::cross_entropy<double>(logits.values(), target, V, Vp, scale);
    const auto plain  = reference::cross_entropy<float>(logits.values(), target, V, Vp, scale);
    const auto before = logits.bytes();
    cross_entropy(losses, logits, targets, {}, V, scale, dev->stream());
    CHECK_CLOSE(losses, want.losses, plain.losses);
    if (scale == 0)
        CHECK(logits.bytes() == before);
    else
        CHECK_CLOSE(logits, want.dlogits, plain.dlogits);
}

TEST_CASE("cross_entropy with a scale for each row", "[ops]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(F32, BF16);
    const auto sizes = GENERATE(table<int, int>({{1, 8}, {65, 65}, {1000, 1008}}));
    const int64_t V = std::get<0>(sizes), Vp = std::get<1>(sizes);  // a lambda cannot capture the names of a binding
    const float grad_scale = GENERATE(0.f, 0.3f);
    CAPTURE(dev, dtype, V, Vp, grad_scale);
    const int64_t N = 6;
    const Values factor{1, -0.5, 0, 3.25, 1e-3, 7};
    Values target = ids(N, V, 7);
    target[4]     = -1;
    const Buffer targets(dev, {N}, I32, target), scales(dev, {N}, F32, factor), ones(dev, {N}, F32, Values(N, 1.));
    const auto run = [&](Tensor by) {
        Buffer logits(dev, {N, Vp}, dtype, Kind::ordinary, 1, 3.), losses(dev, {N}, F32);
        reference::Loss want  = reference::cross_entropy<double>(logits.values(), target, V, Vp, grad_scale),
                        plain = reference::cross_entropy<float>(logits.values(), target, V, Vp, grad_scale);
        for (reference::Loss* r : {&want, &plain})
            for (int64_t n = 0; n < N && by.ptr == Tensor(scales).ptr; n++) {
                r->losses[n] *= factor[n];
                for (int64_t v = 0; v < Vp; v++) r->dlogits[n * Vp + v] *= factor[n];
            }
        cross_entropy(losses, logits, targets, by, V, grad_scale, dev->stream());
        CHECK_CLOSE(losses, want.losses, plain.losses);
        if (grad_scale != 0) CHECK_CLOSE(logits, want.dlogits, plain.dlogits);
        return Bytes{losses.bytes(), logits.bytes()};
    };
    run(scales);
    CHECK(run(ones) == run(Tensor{}));
    Buffer logits(dev, {N, Vp}, dtype, Kind::ordinary), losses(dev, {N}, F32), five(dev, {5}, F32);
    CHECK_REFUSED(cross_entropy(losses, logits, targets, five, V, 1.f, dev->stream()), "cross_entropy",
                  "scales is (5)");
}

TEST_CASE("cross_entropy of extreme rows", "[ops]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(F32, BF16);
    const int64_t V = 37, Vp = 48;
    const double inf = INFINITY;
    Values l(6 * Vp, 0.0);
    for (int64_t v = 0; v < V; v++) {
        l[0 * Vp + v] = v == 5 ? 1e30 : -1e30;  // one logit is far above the rest: the target
        l[1 * Vp + v] = v == 36 ? 1e30 : 0;     // one logit is far above the rest: not the target
        l[2 * Vp + v] = v == 5 ? 2 : -inf;      // all but the target have probability 0
        l[3 * Vp + v] = v == 5 ? -inf : 1;      // the target has probability 0: infinite loss
        l[4 * Vp + v] = v == 11 ? NAN : 1;      // one logit is NaN: NaN loss
        l[5 * Vp + v] = -inf;                   // no probabilities at all: NaN loss
    }
    Buffer logits(dev, {6, Vp}, dtype, l), losses(dev, {6}, F32);
    const Values target(6, 5.0);
    const Buffer targets(dev, {6}, I32, target);
    const auto want  = reference::cross_entropy<double>(logits.values(), target, V, Vp, 1);
    const auto plain = reference::cross_entropy<float>(logits.values(), target, V, Vp, 1);
    cross_entropy(losses, logits, targets, {}, V, 1.f, dev->stream());
    CHECK_CLOSE(losses, want.losses, plain.losses);
    CHECK_CLOSE(logits, want.dlogits, plain.dlogits);
    const Values loss = losses.values();
    CHECK(loss[0] == 0);
    CHECK(loss[2] == 0);
    CHECK(loss[3] == inf);
    CHECK(std::isnan(loss[4]));
    CHECK(std::isnan(loss[5]));
}

TEST_CASE("cross_entropy is the same for any number of threads", "[ops]") {
    const auto dev  = devices()[0];
    const int64_t N = 37, V = 1001, Vp = 1008;
    const Buffer targets(dev, {N}, I32, ids(N, V, 7));
    auto run = [&] {
        Buffer logits(dev, {N, Vp}, BF16, Kind::ordinary, 1), losses(dev, {N}, F32);
        cross_entropy(losses, logits, targets, {}, V, 0.5f, dev->stream());
        return Bytes{losses.bytes(), logits.bytes()};
    };
    CHECK_SAME_FOR_ANY_THREADS(run);
}

TEST_CASE("cross_entropy refuses wrong targets and shapes", "[ops][errors]") {
    const auto dev = GENERATE(from_range(devices()));
    const Stream s = dev->stream();
    Buffer logits(dev, {3, 16}, F32, Kind::ordinary), losses(dev, {3}, F32);
    const Buffer targets(dev, {3}, I32, Values{0, 1, 2}), four(dev, {4}, I32, Values{0, 1, 2, 3});
    const Values before = logits.values();
    for (const double wrong : {-2.0, 10.0, 15.0, 2147483647.0}) {
        const Buffer bad(dev, {3}, I32, Values{0, wrong, 1});
        const std::string id = std::to_string(int32_t(wrong));
        CHECK_REFUSED((cross_entropy(losses, logits, bad, {}, 10, 1.f, s), sync(s)), "cross_entropy", "target 1 is",
                      id.c_str(), "-1..9");
    }
    CHECK_REFUSED(cross_entropy(losses, logits, targets, {}, 17, 1.f, s), "cross_entropy", "V is 17");
    CHECK_REFUSED(cross_entropy(losses, logits, targets, {}, 0, 1.f, s), "cross_entropy", "V is 0");
    CHECK_REFUSED(cross_entropy(losses, logits, four, {}, 10, 1.f, s), "cross_entropy", "targets is (4)");
    CHECK_REFUSED(cross_entropy(logits, logits, targets, {}, 10, 1.f, s), "cross_entropy", "losses is (3, 16)");
    CHECK_REFUSED(cross_entropy(losses, none, targets, {}, 10, 1.f, s), "cross_entropy", "logits is null");
    CHECK(logits.values() == before);
}

// ---- sums -----------------------------------------------------------------------------------------------------------

// On a GPU these are from 1 to 1024 blocks, the most that there are.
TEST_CASE("squared_norm and sum", "[ops]") {
    const auto dev  = GENERATE(from_range(devices()));
    const auto n    = GENERATE(1, 17, 4095, 4096, 4097, 100003, 200003, 4200003);
    const auto kind = GENERATE(Kind::ordinary, Kind::large_mean, Kind::tiny, Kind::huge, Kind::zeros);
    CAPTURE(dev, n, kind);
    const Buffer x(dev, {n}, F32, kind, 1);
    Buffer norm(dev, {1}, F32), total(dev, {1}, F32, Values{3});
    squared_norm(norm, x, dev->stream());
    CHECK_CLOSE(norm, reference::squared_norm<double>(x.values()), reference::squared_norm<float>(x.values()));
    sum(total, x, 0.25f, dev->stream());
    CHECK_CLOSE(total, reference::sum<double>({3}, x.values(), 0.25), reference::sum<float>({3}, x.values(), 0.25));
}

TEST_CASE("squared_norm and sum are not finite when an element is not", "[ops]") {
    const auto dev = GENERATE(from_range(devices()));
    const auto bad = GENERATE(double(NAN), double(INFINITY), -double(INFINITY));
    const auto at  = GENERATE(0, 4099, 9998);
    Values v(9999, 1.0);
    v[at] = bad;
    const Buffer x(dev, {9999}, F32, v);
    Buffer norm(dev, {1}, F32), total(dev, {1}, F32, Values{3});
    squared_norm(norm, x, dev->stream());
    sum(total, x, 1.f, dev->stream());
    CHECK_FALSE(std::isfinite(norm.values()[0]));
    CHECK_FALSE(std::isfinite(total.values()[0]));
}

TEST_CASE("elementwise ops and sums are the same for any number of threads", "[ops]") {
    const auto dev  = devices()[0];
    const int64_t n = 100003;
    const Buffer x(dev, {n}, F32, Kind::ordinary, 1);
    auto run = [&] {
        Buffer y(dev, {n}, F32), norm(dev, {1}, F32), total(dev, {1}, F32, Values{0});
        gelu_forward(y, x, Gelu::tanh, dev->stream());
        squared_norm(norm, x, dev->stream());
        sum(total, x, 1.f, dev->stream());
        return Bytes{y.bytes(), norm.bytes(), total.bytes()};
    };
    CHECK_SAME_FOR_ANY_THREADS(run);
}

TEST_CASE("squared_norm and sum refuse wrong shapes", "[ops][errors]") {
    const auto dev = devices()[0];
    const Buffer x(dev, {8}, F32, Kind::ordinary), half(dev, {8}, BF16, Kind::ordinary);
    Buffer one(dev, {1}, F32, Kind::zeros);
    CHECK_REFUSED(squared_norm(one, half, dev->stream()), "squared_norm", "x is (8) bf16");
    CHECK_REFUSED(squared_norm(x, x, dev->stream()), "squared_norm", "out is (8)");
    CHECK_REFUSED(sum(one, none, 1.f, dev->stream()), "sum", "x is null");
    CHECK_REFUSED(sum(half, x, 1.f, dev->stream()), "sum", "out is (8) bf16");
}

TEST_CASE("ops refuse tensors without elements", "[ops][errors]") {
    const auto dev = GENERATE(from_range(devices()));
    CAPTURE(dev);
    const Stream s = dev->stream();
    const Buffer rows(dev, {4, 8}, F32, Kind::zeros), matrix(dev, {8, 8}, F32, Kind::zeros), row(dev, {8}, F32),
        one(dev, {1}, F32), of_rows(dev, {4}, F32);
    const Tensor empty = rows.tensor().rows(0, 0), none_of_them = of_rows.tensor().rows(0, 0), w = matrix;
    const Tensor ids{of_rows.tensor().ptr, DType::I32, {0}};
    CHECK_REFUSED(add_forward(empty, empty, empty, s), "add_forward", "a tensor is (0, 8) fp32");
    CHECK_REFUSED(gelu_forward(empty, empty, Gelu::tanh, s), "gelu_forward", "(0, 8) fp32");
    CHECK_REFUSED(layernorm_forward(empty, none_of_them, none_of_them, empty, row, row, 1e-5f, s), "(0, 8) fp32");
    CHECK_REFUSED(matmul_forward(empty, empty, w, none, s), "matmul_forward", "(0, 8) fp32");
    CHECK_REFUSED(matmul_gelu_forward(empty, none, empty, w, none, Gelu::tanh, s), "(0, 8) fp32");
    CHECK_REFUSED(matmul_backward(empty, w, none, empty, empty, w, Into::set, s), "matmul_backward", "(0, 8) fp32");
    CHECK_REFUSED(matmul(w, transposed(empty), empty, s), "matmul", "(0, 8) fp32");
    CHECK_REFUSED(cross_entropy(none_of_them, empty, ids, {}, 8, 0.f, s), "cross_entropy", "(0) fp32");
    CHECK_REFUSED(squared_norm(one, none_of_them, s), "squared_norm", "(0) fp32");
    CHECK_REFUSED(copy(empty, empty, s), "copy", "(0, 8) fp32");
}
