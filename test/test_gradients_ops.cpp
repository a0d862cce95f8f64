// test_gradients_ops.cpp - the backward references against central finite differences, in double
//
// test_ops.cpp compares the ops with test/reference.h; this file tests those references. Each forward formula is
// reduced to one number, L = Σ weight_i y_i with random weights. The gradient of L by y is then the weights.
#include <functional>

#include "test/reference.h"

namespace {

Values normals(size_t n, uint64_t seed) {
    Dice random(seed);
    Values v(n);
    for (double& x : v) x = random.normal();
    return v;
}
double dot(const Values& a, const Values& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); i++) sum += a[i] * b[i];
    return sum;
}

// dL/dx by central differences. Their error is of the order of h² = 1e-10, plus a rounding error divided by h, 1e-11.
Values differences(const std::function<double(const Values&)>& L, Values x) {
    const double h = 1e-5;
    Values d(x.size());
    for (size_t i = 0; i < x.size(); i++) {
        const double here = x[i];
        x[i]              = here + h;
        const double up   = L(x);
        x[i]              = here - h;
        d[i]              = (up - L(x)) / (2 * h);
        x[i]              = here;
    }
    return d;
}

// The largest difference of a and b, relative to the largest element of b.
double mismatch(const Values& a, const Values& b) {
    REQUIRE(a.size() == b.size());
    double worst = 0, size = 1e-3;
    for (size_t i = 0; i < a.size(); i++) {
        worst = std::max(worst, std::fabs(a[i] - b[i]));
        size  = std::max(size, std::fabs(b[i]));
    }
    return worst / size;
}
constexpr double close_enough = 1e-7;

}  // namespace

TEST_CASE("gradient of the embedding reference", "[gradients]") {
    const int64_t C = 3, Vp = 4, max_T = 5;
    const Values tokens{0, 3, 3, 1, 3, 0}, positions{0, 1, 2, 2, 4, 0};
    const Values wte = normals(Vp * C, 1), wpe = normals(max_T * C, 2), dout = normals(tokens.size() * C, 3);
    auto by_wte = [&](const Values& v) {
        return dot(dout, reference::embedding_forward<double>(tokens, positions, v, wpe, C));
    };
    auto by_wpe = [&](const Values& v) {
        return dot(dout, reference::embedding_forward<double>(tokens, positions, wte, v, C));
    };
    CHECK(mismatch(reference::add_rows<double>(Values(Vp * C, 0.0), dout, tokens, C), differences(by_wte, wte)) <
          close_enough);
    CHECK(mismatch(reference::add_rows<double>(Values(max_T * C, 0.0), dout, positions, C), differences(by_wpe, wpe)) <
          close_enough);
}

TEST_CASE("gradient of the layernorm reference", "[gradients]") {
    const auto [N, C] = GENERATE(table<int, int>({{1, 2}, {3, 7}, {4, 16}}));
    const double eps  = 1e-2;  // large enough to matter in the gradient
    const Values x = normals(N * C, 1), w = normals(C, 2), b = normals(C, 3), dy = normals(N * C, 4);
    const auto saved = reference::layernorm_forward<double>(x, w, b, eps);
    const reference::NormGrads zeros{Values(N * C, 0.0), Values(C, 0.0), Values(C, 0.0)};
    const auto grads = reference::layernorm_backward<double>(zeros, dy, x, w, saved.mean, saved.rstd);
    auto by_x        = [&](const Values& v) { return dot(dy, reference::layernorm_forward<double>(v, w, b, eps).y); };
    auto by_w        = [&](const Values& v) { return dot(dy, reference::layernorm_forward<double>(x, v, b, eps).y); };
    auto by_b        = [&](const Values& v) { return dot(dy, reference::layernorm_forward<double>(x, w, v, eps).y); };
    CHECK(mismatch(grads.dx, differences(by_x, x)) < close_enough);
    CHECK(mismatch(grads.dw, differences(by_w, w)) < close_enough);
    CHECK(mismatch(grads.db, differences(by_b, b)) < close_enough);
}

TEST_CASE("gradient of the matmul reference", "[gradients]") {
    const int64_t N = 3, IC = 4, OC = 5;
    const Values x = normals(N * IC, 1), w = normals(OC * IC, 2), b = normals(OC, 3), dy = normals(N * OC, 4);
    const auto grads = reference::matmul_backward<double>(Values(OC * IC, 0.0), Values(OC, 0.0), dy, x, w, N, IC, OC);
    auto by_x        = [&](const Values& v) { return dot(dy, reference::matmul_forward<double>(v, w, b, N, IC, OC)); };
    auto by_w        = [&](const Values& v) { return dot(dy, reference::matmul_forward<double>(x, v, b, N, IC, OC)); };
    auto by_b        = [&](const Values& v) { return dot(dy, reference::matmul_forward<double>(x, w, v, N, IC, OC)); };
    CHECK(mismatch(grads.dx, differences(by_x, x)) < close_enough);
    CHECK(mismatch(grads.dw, differences(by_w, w)) < close_enough);
    CHECK(mismatch(grads.db, differences(by_b, b)) < close_enough);
}

TEST_CASE("gradient of the gelu reference", "[gradients]") {
    const auto form = GENERATE(Gelu::tanh, Gelu::erf);
    Values x        = normals(40, 1);
    for (size_t i = 0; i < x.size(); i++) x[i] *= i % 4;  // some zeros, and values up to about ±9
    const Values dy = normals(x.size(), 2);
    auto by_x       = [&](const Values& v) { return dot(dy, reference::gelu_forward<double>(v, form)); };
    CHECK(mismatch(reference::gelu_backward<double>(dy, x, form), differences(by_x, x)) < close_enough);
}

TEST_CASE("gradient of the cross entropy reference", "[gradients]") {
    const int64_t N = 4, V = 6, Vp = 8;
    const Values logits = normals(N * Vp, 1), targets{0, 5, -1, 2};
    const double scale  = 0.3;
    auto mean           = [&](const Values& v) {
        return dot(Values(N, scale), reference::cross_entropy<double>(v, targets, V, Vp, 0).losses);
    };
    CHECK(mismatch(reference::cross_entropy<double>(logits, targets, V, Vp, scale).dlogits, differences(mean, logits)) <
          close_enough);
}
