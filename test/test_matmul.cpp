// test_matmul.cpp - products of matrices, and what is fused with them, against test/reference.h
#include <set>

#include "kernels/ops.h"
#include "test/onednn.h"
#include "test/reference.h"

namespace {
constexpr auto F32 = DType::F32, BF16 = DType::BF16;
const Tensor none;
}  // namespace

TEST_CASE("matmul_forward and matmul_gelu_forward", "[ops]") {
    const auto dev         = GENERATE(from_range(devices()));
    const auto dtype       = GENERATE(F32, BF16);
    const auto [N, IC, OC] = GENERATE(table<int, int, int>({{1, 1, 1},
                                                            {3, 7, 5},
                                                            {2, 768, 33},
                                                            {4, 65, 7},
                                                            {5, 1, 9},
                                                            {8, 2056, 11},
                                                            {3, 1033, 6},
                                                            {65, 33, 17},
                                                            {129, 768, 40}}));
    const bool bias        = GENERATE(true, false);
    CAPTURE(dev, dtype, N, IC, OC, bias);
    const Stream s = dev->stream();
    const Buffer x(dev, {N, IC}, dtype, Kind::ordinary, 1), w(dev, {OC, IC}, dtype, Kind::ordinary, 2, 0.1);
    const Buffer b(dev, {OC}, dtype, Kind::ordinary, 3);
    const Values b_values = bias ? b.values() : Values();
    const Tensor b_tensor = bias ? b.tensor() : none;
    const Values want     = reference::matmul_forward<double>(x.values(), w.values(), b_values, N, IC, OC);
    const Values plain    = reference::matmul_forward<float>(x.values(), w.values(), b_values, N, IC, OC);
    Buffer out(dev, {N, OC}, dtype);
    matmul_forward(out, x, w, b_tensor, s);
    CHECK_CLOSE(out, want, plain);

    for (const Gelu kind : {Gelu::tanh, Gelu::erf}) {
        CAPTURE(int(kind));
        Buffer act(dev, {N, OC}, dtype), act_alone(dev, {N, OC}, dtype), pre(dev, {N, OC}, dtype);
        matmul_gelu_forward(act, pre, x, w, b_tensor, kind, s);
        matmul_gelu_forward(act_alone, none, x, w, b_tensor, kind, s);
        const Values act_want  = reference::gelu_forward<double>(want, kind);
        const Values act_plain = reference::gelu_forward<float>(rounded(plain, dtype), kind);
        CHECK_CLOSE(pre, want, plain);
        CHECK_CLOSE(act, act_want, act_plain);
        CHECK_CLOSE(act_alone, act_want, act_plain);
    }
}

TEST_CASE("a row of a few has the same bits alone", "[ops]") {
    const auto dev      = GENERATE(from_range(devices()));
    const auto dtype    = GENERATE(F32, BF16);
    const auto [IC, OC] = GENERATE(table<int, int>({{65, 7}, {768, 33}, {3072, 5}, {16, 8300}}));
    const int most      = dev->where() == Machine::cpu ? 4 : 8;  // rows that take a kernel of our own
    CAPTURE(dev, dtype, IC, OC);
    const Buffer w(dev, {OC, IC}, dtype, Kind::ordinary, 2), b(dev, {OC}, dtype, Kind::ordinary, 3);
    const Buffer x(dev, {most, IC}, dtype, Kind::ordinary, 1);
    Bytes alone;
    for (int n = 0; n < most; n++) {
        const Buffer out(dev, {1, OC}, dtype);
        matmul_forward(out, x.tensor().rows(n, 1), w, b, dev->stream());
        alone.push_back(out.bytes());
    }
    for (int N = 1; N <= most; N++) {
        const Buffer out(dev, {N, OC}, dtype);
        matmul_forward(out, x.tensor().rows(0, N), w, b, dev->stream());
        const auto together = out.bytes();
        std::vector<unsigned char> rows;
        for (int n = 0; n < N; n++) rows.insert(rows.end(), alone[n].begin(), alone[n].end());
        CHECK(together == rows);
    }
}

TEST_CASE("norm_matmul_forward and matmul_add_forward equal the ops apart to the bit", "[ops]") {
    const auto dev         = GENERATE(from_range(devices()));
    const auto dtype       = GENERATE(F32, BF16);
    const auto [N, IC, OC] = GENERATE(table<int, int, int>({{1, 1, 1},
                                                            {3, 65, 7},
                                                            {1, 768, 33},
                                                            {8, 768, 40},
                                                            {2, 3072, 17},  // long rows: four warps share an output
                                                            {8, 1600, 9},   // 51 KB of rows in fp32
                                                            {2, 16, 8300},  // more outputs than warps
                                                            {9, 24, 5}}));  // more rows than few
    const auto kind        = GENERATE(values<std::optional<Gelu>>({{}, Gelu::tanh, Gelu::erf}));
    const bool has_bias    = !kind || *kind == Gelu::tanh;
    CAPTURE(dev, dtype, N, IC, OC, int(kind.value_or(Gelu(9))));
    const Stream s = dev->stream();
    const Buffer x(dev, {N, IC}, dtype, Kind::large_mean, 1), w(dev, {OC, IC}, dtype, Kind::ordinary, 2);
    const Buffer bias(dev, {OC}, dtype, Kind::ordinary, 3), residual(dev, {N, OC}, dtype, Kind::ordinary, 4);
    const Buffer norm_w(dev, {IC}, dtype, Kind::ordinary, 5), norm_b(dev, {IC}, dtype, Kind::ordinary, 6);
    const Tensor b = has_bias ? bias.tensor() : none;
    Buffer y(dev, {N, IC}, dtype), mean(dev, {N}, F32), rstd(dev, {N}, F32);
    Buffer out(dev, {N, OC}, dtype), apart(dev, {N, OC}, dtype);

    norm_matmul_forward(out, {y, mean, rstd, norm_w, norm_b}, x, w, b, kind, 1e-5f, s);
    layernorm_forward(y, mean, rstd, x, norm_w, norm_b, 1e-5f, s);
    if (kind)
        matmul_gelu_forward(apart, none, y, w, b, *kind, s);
    else
        matmul_forward(apart, y, w, b, s);
    CHECK(out.bytes() == apart.bytes());

    matmul_add_forward(out, residual, x, w, b, s);
    matmul_forward(apart, x, w, b, s);
    add_forward(apart, residual, apart, s);
    CHECK(out.bytes() == apart.bytes());
}

TEST_CASE("products in TF32 have its precision, on a GPU alone", "[ops]") {
    const Device* any = GENERATE(from_range(devices()));
    if (any->where() == Machine::cpu) {
        CHECK_REFUSED(any->use_tf32(), "--tf32", "GPU");
        return;
    }
    const Device own("cuda");  // the others go on in fp32
    own.use_tf32();
    const int N = 65, IC = 96, OC = 40;
    for (const DType dtype : {F32, BF16}) {
        CAPTURE(dtype);
        const Buffer x(&own, {N, IC}, dtype, Kind::ordinary, 1), w(&own, {OC, IC}, dtype, Kind::ordinary, 2, 0.1);
        const Values want = reference::matmul_forward<double>(x.values(), w.values(), {}, N, IC, OC);
        const Values sums = [&] {  // Σ |x| |w|
            Values a = x.values(), b = w.values();
            for (double& v : a) v = std::fabs(v);
            for (double& v : b) v = std::fabs(v);
            return reference::matmul_forward<double>(a, b, {}, N, IC, OC);
        }();
        Buffer out(&own, {N, OC}, dtype);
        matmul_forward(out, x, w, none, own.stream());
        double worst     = 0;  // error / Σ |x| |w|, of which rounding both operands to 11 bits gives at most 2^-10
        const Values got = out.values();
        for (size_t i = 0; i < got.size(); i++) worst = std::max(worst, std::fabs(got[i] - want[i]) / sums[i]);
        CAPTURE(worst);
        if (dtype == F32) {
            CHECK(worst < 0x1p-10);
            CHECK(worst > 0x1p-18);  // fp32 would be closer
        } else {
            CHECK(worst < 0x1p-8);  // of the result's own rounding
        }
    }
}

TEST_CASE("the products of a GPU are timed once, and take the algorithms that were chosen before", "[ops]") {
    const Device* const any = devices().back();
    if (any->where() == Machine::cpu) {
        CHECK_REFUSED(choose_products(*any, {}, "", nullptr), "only the products of a GPU");
        CHECK(product_library(*any).empty());
        return;
    }
    CHECK(product_library(*any).find("cuBLASLt") == 0);
    const int N = 40, IC = 48, OC = 24;
    const DType dtype = GENERATE(F32, BF16);
    CAPTURE(dtype);
    // Runs one product of each kind on a device of its own, and returns all results.
    const auto results = [&](const std::vector<ProductChoice>& choices, std::vector<ProductChoice>* timed) {
        const Device own("cuda");
        const Stream s = own.stream();
        std::function<void(const ProductChoice&)> hear;
        if (timed) hear = [=](const ProductChoice& choice) { timed->push_back(choice); };
        choose_products(own, choices, "choices of the test", hear);
        const Buffer x(&own, {N, IC}, dtype, Kind::ordinary, 1), w(&own, {OC, IC}, dtype, Kind::ordinary, 2),
            b(&own, {OC}, dtype, Kind::ordinary, 3), dy(&own, {N, OC}, dtype, Kind::ordinary, 4);
        Buffer out(&own, {N, OC}, dtype), act(&own, {N, OC}, dtype), dx(&own, {N, IC}, dtype), dw(&own, {OC, IC}, F32),
            db(&own, {OC}, F32), dpre(&own, {N, IC}, dtype);
        for (int twice = 0; twice < 2; twice++) {
            matmul_forward(out, x, w, b, s);
            matmul_gelu_forward(act, none, x, w, b, Gelu::tanh, s);
            matmul_backward(dx, dw, db, dy, x, w, Into::set, s);
            matmul_backward(none, dw, db, dy, x, w, Into::add, s);
            matmul_gelu_backward(dpre, dw, db, dy, x, w, x, Gelu::tanh, Into::add, s);
        }
        Values all;
        for (const Buffer* r : {&out, &act, &dx, &dw, &db, &dpre})
            for (const double v : r->values()) all.push_back(v);
        return all;
    };
    std::vector<ProductChoice> timed, again;
    const Values wanted = results({}, nullptr);
    CHECK(results({}, &timed) == wanted);  // timing touches no operand of ours
    REQUIRE(timed.size() >= 4);
    std::set<std::string> once;
    for (const ProductChoice& choice : timed) {
        CHECK(once.insert(choice.product).second);
        CHECK((choice.seconds > 0 && choice.seconds <= choice.seconds_of_first));
        CHECK(choice.algorithm.size() == 128);
    }
    CHECK(results(timed, &again) == wanted);
    CHECK(again.empty());
    const ProductChoice last = timed.back();
    timed.pop_back();
    results(timed, &again);  // only what is missing is timed
    CHECK((again.size() == 1 && again[0].product == last.product));
    for (const std::string& wrong : {std::string("zz"), std::string(128, '0'), last.algorithm + "0"}) {
        CAPTURE(wrong);
        CHECK_REFUSED(results({{last.product, wrong}}, nullptr), "choices of the test", last.product.c_str());
    }
}

TEST_CASE("matmul_backward", "[ops]") {
    const auto dev         = GENERATE(from_range(devices()));
    const auto dtype       = GENERATE(F32, BF16);
    const auto [N, IC, OC] = GENERATE(
        table<int, int, int>({{1, 1, 1}, {3, 7, 5}, {1, 768, 33}, {65, 33, 17}, {129, 96, 100}, {200, 3, 768}}));
    CAPTURE(dev, dtype, N, IC, OC);
    const Stream s = dev->stream();
    const Buffer x(dev, {N, IC}, dtype, Kind::ordinary, 1), w(dev, {OC, IC}, dtype, Kind::ordinary, 2, 0.1);
    const Buffer dy(dev, {N, OC}, dtype, Kind::ordinary, 3);
    Buffer dx(dev, {N, IC}, dtype), dw(dev, {OC, IC}, F32, Kind::ordinary, 4), db(dev, {OC}, F32, Kind::ordinary, 5);
    auto want =
        reference::matmul_backward<double>(dw.values(), db.values(), dy.values(), x.values(), w.values(), N, IC, OC);
    auto plain =
        reference::matmul_backward<float>(dw.values(), db.values(), dy.values(), x.values(), w.values(), N, IC, OC);
    Buffer set(dev, {OC, IC}, F32), added(dev, {OC, IC}, F32, Kind::zeros);
    matmul_backward(none, set, none, dy, x, w, Into::set, s);
    matmul_backward(none, added, none, dy, x, w, Into::add, s);
    CHECK(set.values() == added.values());
    matmul_backward(dx, dw, db, dy, x, w, Into::add, s);
    CHECK_CLOSE(dx, want.dx, plain.dx);
    CHECK_CLOSE(dw, want.dw, plain.dw);
    CHECK_CLOSE(db, want.db, plain.db);

    // A second call adds to dw again, without dx and db.
    const Values db_once = db.values();
    want  = reference::matmul_backward<double>(want.dw, want.db, dy.values(), x.values(), w.values(), N, IC, OC);
    plain = reference::matmul_backward<float>(plain.dw, plain.db, dy.values(), x.values(), w.values(), N, IC, OC);
    matmul_backward(none, dw, none, dy, x, w, Into::add, s);
    CHECK_CLOSE(dw, want.dw, plain.dw);
    CHECK(db.values() == db_once);
}

TEST_CASE("matmul_backward and matmul_gelu_backward set or add to gradients", "[ops]") {
    const auto dev         = GENERATE(from_range(devices()));
    const auto dtype       = GENERATE(F32, BF16);
    const auto kind        = GENERATE(Gelu::tanh, Gelu::erf);
    const auto into        = GENERATE(Into::set, Into::add);
    const auto [N, IC, OC] = GENERATE(table<int, int, int>({{1, 1, 1}, {65, 33, 17}, {129, 96, 100}, {70, 64, 48}}));
    CAPTURE(dev, dtype, int(kind), int(into), N, IC, OC);
    const Stream s = dev->stream();
    const Buffer pre(dev, {N, IC}, dtype, Kind::ordinary, 1), w(dev, {OC, IC}, dtype, Kind::ordinary, 2, 0.1);
    const Buffer dy(dev, {N, OC}, dtype, Kind::ordinary, 3);
    Buffer act(dev, {N, IC}, dtype);
    gelu_forward(act, pre, kind, s);
    const bool add  = into == Into::add;
    const Kind from = add ? Kind::ordinary : Kind::garbage;
    for (const bool through_gelu : {false, true}) {
        CAPTURE(through_gelu);
        Buffer dx(dev, {N, IC}, dtype), dw(dev, {OC, IC}, F32, from, 4), db(dev, {OC}, F32, from, 5);
        const Values dw_before = add ? dw.values() : Values(OC * IC, 0.),
                     db_before = add ? db.values() : Values(OC, 0.);
        const auto want =
            reference::matmul_backward<double>(dw_before, db_before, dy.values(), act.values(), w.values(), N, IC, OC);
        const auto plain =
            reference::matmul_backward<float>(dw_before, db_before, dy.values(), act.values(), w.values(), N, IC, OC);
        if (through_gelu)
            matmul_gelu_backward(dx, dw, db, dy, act, w, pre, kind, into, s);
        else
            matmul_backward(dx, dw, db, dy, act, w, into, s);
        CHECK_CLOSE(dw, want.dw, plain.dw);
        CHECK_CLOSE(db, want.db, plain.db);
        if (through_gelu)
            CHECK_CLOSE(dx, reference::gelu_backward<double>(want.dx, pre.values(), kind),
                        reference::gelu_backward<float>(rounded(plain.dx, dtype), pre.values(), kind));
        else
            CHECK_CLOSE(dx, want.dx, plain.dx);
    }
}

TEST_CASE("matmul is the same for any number of threads", "[ops]") {
    const auto dev   = devices()[0];
    const auto dtype = GENERATE(F32, BF16);
    const auto [N, IC, OC] =
        GENERATE(table<int, int, int>({{2, 300, 100}, {65, 33, 17}, {512, 64, 48}, {256, 256, 768}}));
    CAPTURE(dtype, N, IC, OC);
    const Shape x_shape = {N, IC}, w_shape = {OC, IC}, y_shape = {N, OC}, b_shape = {OC};
    const Buffer x(dev, x_shape, dtype, Kind::ordinary, 1), w(dev, w_shape, dtype, Kind::ordinary, 2);
    const Buffer dy(dev, y_shape, dtype, Kind::ordinary, 3);
    const bool few_rows = N <= 4;  // a kernel of our own
    auto run            = [&] {
        Buffer y(dev, y_shape, dtype), dx(dev, x_shape, dtype), dw(dev, w_shape, F32, Kind::zeros),
            db(dev, b_shape, F32, Kind::zeros);
        matmul_forward(y, x, w, none, dev->stream());
        matmul_backward(dx, dw, db, dy, x, w, Into::add, dev->stream());
        if (!onednn_has_avx512()) return Bytes{few_rows ? y.bytes() : Bytes::value_type(), db.bytes()};
        return Bytes{y.bytes(), dx.bytes(), dw.bytes(), db.bytes()};
    };
    CHECK_SAME_FOR_ANY_THREADS(run);
}

TEST_CASE("matmul refuses wrong shapes", "[ops][errors]") {
    const auto dev = devices()[0];
    const Stream s = dev->stream();
    const Buffer x(dev, {4, 8}, F32, Kind::ordinary), w(dev, {6, 8}, F32, Kind::ordinary),
        b(dev, {6}, F32, Kind::ordinary);
    const Buffer narrow(dev, {6, 7}, F32, Kind::ordinary), half_w(dev, {6, 8}, BF16, Kind::ordinary);
    Buffer out(dev, {4, 6}, F32), transposed(dev, {6, 4}, F32), half_out(dev, {4, 6}, BF16), dx(dev, {4, 8}, F32);
    Buffer dw(dev, {6, 8}, F32, Kind::zeros), half_dw(dev, {6, 8}, BF16, Kind::zeros);
    CHECK_REFUSED(matmul_forward(out, x, narrow, b, s), "matmul_forward", "w is (6, 7)");
    CHECK_REFUSED(matmul_forward(out, x, half_w, b, s), "matmul_forward", "w is (6, 8) bf16");
    CHECK_REFUSED(matmul_forward(out, x, none, b, s), "matmul_forward", "w is null");
    CHECK_REFUSED(matmul_forward(transposed, x, w, b, s), "matmul_forward", "(6, 4)", "(4, 6)");
    CHECK_REFUSED(matmul_forward(half_out, x, w, b, s), "matmul_forward", "bf16");
    CHECK_REFUSED(matmul_forward(out, x, w, x, s), "matmul_forward", "b is (4, 8)", "expected (6)");
    CHECK_REFUSED(matmul_gelu_forward(out, transposed, x, w, b, Gelu::tanh, s), "matmul_gelu_forward", "pre is (6, 4)");
    Buffer mean(dev, {4}, F32), rstd(dev, {4}, F32), y(dev, {4, 8}, F32);
    const Buffer scale(dev, {8}, F32, Kind::ordinary);
    const auto norm_matmul = [&](const Norm& n) { norm_matmul_forward(out, n, x, w, b, {}, 1e-5f, s); };
    CHECK_REFUSED(norm_matmul({y, mean, rstd, scale, b}), "norm_matmul_forward", "(6)", "expected (8)");
    CHECK_REFUSED(norm_matmul({y, scale, rstd, scale, scale}), "norm_matmul_forward", "(8)", "expected (4)");
    CHECK_REFUSED(norm_matmul({out, mean, rstd, scale, scale}), "norm.out is (4, 6)", "expected (4, 8)");
    CHECK_REFUSED(matmul_add_forward(out, x, x, w, b, s), "matmul_add_forward", "residual is (4, 8)");
    CHECK_REFUSED(matmul_add_forward(out, out, x, w, b, s), "matmul_add_forward", "the same tensor");
    CHECK_REFUSED(matmul_backward(dx, half_dw, none, out, x, w, Into::add, s), "matmul_backward", "dw is (6, 8) bf16");
    CHECK_REFUSED(matmul_backward(out, dw, none, out, x, w, Into::add, s), "matmul_backward", "dx is (4, 6)");
    CHECK_REFUSED(matmul_backward(dx, dw, dw, out, x, w, Into::add, s), "matmul_backward", "db is (6, 8)");
    CHECK_REFUSED(matmul_gelu_backward(dx, dw, none, out, x, w, out, Gelu::tanh, Into::set, s), "pre is (4, 6)");
    CHECK_REFUSED(matmul_gelu_backward(dx, x, none, out, x, w, x, Gelu::tanh, Into::set, s), "dw is", "(4, 8)");
    CHECK_REFUSED(matmul_gelu_backward(dx, dw, dw, out, x, w, x, Gelu::tanh, Into::set, s), "db is (6, 8)");
}
