// test_choose.cpp - choosing tokens: on every device the same as by a simple formula, and as often as softmax says
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/ops.h"
#include "kernels/random.h"
#include "test/reference.h"

namespace {

// One row, by the definition, in double.
int32_t choice(const Values& x, const Sampling& s, float u) {
    std::vector<int32_t> ids(x.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
    if (s.temperature == 0) return ids[0];
    const auto weight   = [&](int32_t id) { return std::exp((x[id] - x[ids[0]]) / s.temperature); };
    const auto total_of = [&] {
        double total = 0;
        for (int32_t id : ids) total += weight(id);
        return total;
    };
    if (s.top_k > 0 && s.top_k < int64_t(ids.size())) ids.resize(s.top_k);
    if (s.top_p < 1) {
        const double wanted = double(s.top_p) * total_of();
        double kept         = 0;
        size_t n            = 0;
        while (n < ids.size() && kept < wanted) kept += weight(ids[n++]);
        ids.resize(n);
    }
    double left             = u * total_of();
    const int32_t likeliest = ids[0];
    if (s.top_p == 1) std::sort(ids.begin(), ids.end());
    for (int32_t id : ids)
        if ((left -= std::exp((x[id] - x[likeliest]) / s.temperature)) < 0) return id;
    return ids.back();
}

// Rows of hostile logits; each has V of them, in Vp columns of which the others are NaN.
const char* const row_kinds[] = {"ordinary", "rounded", "equal", "far apart",     "one likely",
                                 "negative", "two",     "zeros", "one far below", "tiny"};
Values hostile_rows(int64_t V, int64_t Vp) {
    Values all;
    Dice random(V);
    for (size_t kind = 0; kind < std::size(row_kinds); kind++)
        for (int64_t v = 0; v < Vp; v++) {
            const double z = random.normal(), of_kind[] = {3 * z,
                                                           std::round(z),
                                                           1.5,
                                                           3e38 * std::tanh(z),
                                                           v == V / 3 ? 60. : z,
                                                           -200 + z,
                                                           v % 2 ? -7. : 3.,
                                                           z > 0 ? 0. : -0.,
                                                           v == V / 2 ? -3e38 : z,
                                                           1e-40 * z};
            all.push_back(v < V ? of_kind[kind] : NAN);
        }
    return all;
}

std::vector<int32_t> ids_of(const Buffer& b) {
    const Values v = b.values();
    return {v.begin(), v.end()};
}

}  // namespace

TEST_CASE("all devices choose the same ids, those of the definition", "[ops][choose]") {
    const auto dtype   = GENERATE(DType::F32, DType::BF16);
    const auto [V, Vp] = GENERATE(table<int64_t, int64_t>({{1, 1}, {2, 8}, {257, 264}, {1000, 1001}, {50257, 50304}}));
    const auto how =
        GENERATE(Sampling{0, 0, 1}, Sampling{1, 0, 1}, Sampling{0.8f, 0, 0.95f}, Sampling{1, 1, 1}, Sampling{1, 40, 1},
                 Sampling{2, 300, 0.5f}, Sampling{1, 60000, 0.999f}, Sampling{1e-3f, 0, 0.9f}, Sampling{100, 0, 1e-6f},
                 Sampling{1e6f, 999, 0.7f}, Sampling{1e-38f, 0, 0.9f}, Sampling{1e37f, 0, 0.9f});
    CAPTURE(dtype, V, Vp, how.temperature, how.top_k, how.top_p);
    const int64_t N = std::size(row_kinds);
    std::vector<std::vector<int32_t>> chosen;
    for (const Device* dev : devices()) {
        CAPTURE(dev);
        const Buffer logits(dev, {N, Vp}, dtype, hostile_rows(V, Vp)), ids(dev, {N}, DType::I32);
        Values before(N);
        for (int64_t n = 0; n < N; n++) before[n] = double(5 * n + V);
        const Buffer drawn(dev, {N}, DType::I32, before), positions(dev, {N}, DType::I32, before);
        choose(ids, drawn, positions, logits, V, 3, how, dev->stream());
        chosen.push_back(ids_of(ids));
        const Values x = logits.values();
        for (int64_t n = 0; n < N; n++) {
            const float u = Random(how.seed, "sample", uint64_t(3 + n)).uniform(uint64_t(before[n]));
            CAPTURE(row_kinds[n], u);
            CHECK(chosen.back()[n] == choice(Values(x.begin() + n * Vp, x.begin() + n * Vp + V), how, u));
            CHECK(drawn.values()[n] == before[n] + 1);
            CHECK(positions.values()[n] == before[n] + 1);
        }
    }
    CHECK(chosen.front() == chosen.back());
}

// On a GPU with clusters, a row gets 8 blocks or less, by the number of rows.
TEST_CASE("a row's choice does not depend on the rows beside it", "[ops][choose]") {
    const auto dev  = GENERATE(from_range(devices()));
    const auto how  = GENERATE(Sampling{0, 0, 1}, Sampling{1, 0, 1}, Sampling{1, 0, 0.9f}, Sampling{1, 2500, 0.999f});
    const int64_t N = GENERATE(16, 17, 33, 65), V = 3001, Vp = 3008;
    CAPTURE(dev, how.temperature, how.top_k, how.top_p, N);
    const Values kinds = hostile_rows(V, Vp);
    Values rows;
    while (int64_t(rows.size()) < N * Vp) rows.insert(rows.end(), kinds.begin(), kinds.end());
    rows.resize(N * Vp);
    const Buffer logits(dev, {N, Vp}, DType::BF16, rows), ids(dev, {N}, DType::I32),
        drawn(dev, {N}, DType::I32, Kind::zeros), alone(dev, {N}, DType::I32),
        drawn_alone(dev, {N}, DType::I32, Kind::zeros);
    choose(ids, drawn, {}, logits, V, 0, how, dev->stream());
    const auto row = [](const Buffer& b, int64_t n) { return Tensor(b).rows(n, 1); };
    for (int64_t n = 0; n < N; n++)
        choose(row(alone, n), row(drawn_alone, n), {}, row(logits, n), V, n, how, dev->stream());
    CHECK(ids_of(ids) == ids_of(alone));
}

TEST_CASE("ids are chosen as often as softmax says", "[ops][choose]") {
    const auto dev = GENERATE(from_range(devices()));
    CAPTURE(dev);
    const int64_t N = dev->where() == Machine::cpu ? 20000 : 2000, V = 5;
    const double x[V] = {1, 3, 2, -2, 2.5};
    Values rows;
    for (int64_t n = 0; n < N; n++) rows.insert(rows.end(), x, x + V);
    const Buffer logits(dev, {N, V}, DType::F32, rows), ids(dev, {N}, DType::I32),
        drawn(dev, {N}, DType::I32, Values(N, 7.));
    const auto count = [&](const Sampling& how) {
        choose(ids, drawn, {}, logits, V, 0, how, dev->stream());
        Values times(V);
        for (const int32_t id : ids_of(ids)) times.at(id)++;
        return times;
    };
    const auto expect_shares = [&](const Values& times, double temperature, std::vector<int> left) {
        double total = 0, kept = 0;
        for (const int v : left) total += std::exp(x[v] / temperature), kept += times[v];
        CHECK(kept == double(N));
        for (const int v : left) {
            const double share = std::exp(x[v] / temperature) / total;
            CAPTURE(v, temperature, times[v], share);
            CHECK(std::abs(times[v] / double(N) - share) <= 5 * std::sqrt(share * (1 - share) / double(N)));
        }
    };
    expect_shares(count({1, 0, 1}), 1, {0, 1, 2, 3, 4});
    expect_shares(count({2, 0, 1}), 2, {0, 1, 2, 3, 4});
    expect_shares(count({1, 3, 1}), 1, {1, 4, 2});
    expect_shares(count({1, 0, 0.7f}), 1, {1, 4});  // the two likeliest have 0.74 of the probability
    expect_shares(count({0, 0, 1}), 1, {1});
}

TEST_CASE("a row of logits that are not all finite has no choice", "[ops][choose]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(DType::F32, DType::BF16);
    const auto how   = GENERATE(Sampling{0, 0, 1}, Sampling{1, 0, 1}, Sampling{1, 5, 0.5f});
    const double odd = GENERATE(NAN, INFINITY, -INFINITY);
    const int64_t V = 3001, Vp = 3008;
    const int64_t bad = GENERATE(0, 1500, 3000, 3001);
    CAPTURE(dev, dtype, how.temperature, odd, bad);
    Values x(3 * Vp, 1.);
    x[Vp + bad] = odd;  // in the second of three rows
    const Buffer logits(dev, {3, Vp}, dtype, x), ids(dev, {3}, DType::I32), drawn(dev, {3}, DType::I32, Kind::zeros);
    choose(ids, drawn, {}, logits, V, 0, how, dev->stream());
    const auto chosen = ids_of(ids);
    CHECK(chosen[0] >= 0);
    CHECK((chosen[1] == -1) == (bad < V));
    CHECK(chosen[2] >= 0);
}

TEST_CASE("choose says what is wrong with its arguments", "[ops][choose][errors]") {
    const auto* dev = devices()[0];
    const Stream s  = dev->stream();
    const Buffer logits(dev, {2, 8}, DType::F32, Kind::ordinary), ids(dev, {2}, DType::I32, Kind::zeros),
        three(dev, {3}, DType::I32, Kind::zeros), floats(dev, {2}, DType::F32);
    CHECK_REFUSED(choose(three, ids, {}, logits, 8, 0, {}, s), "choose: ids is (3) int32", "(2)");
    CHECK_REFUSED(choose(ids, floats, {}, logits, 8, 0, {}, s), "drawn is (2) fp32");
    CHECK_REFUSED(choose(ids, ids, three, logits, 8, 0, {}, s), "positions is (3)");
    CHECK_REFUSED(choose(ids, ids, {}, logits, 9, 0, {}, s), "V is 9", "1..8");
    CHECK_REFUSED(choose(ids, ids, {}, logits, 8, 0, Sampling{-1, 0, 1}, s), "temperature is -1");
    CHECK_REFUSED(choose(ids, ids, {}, logits, 8, 0, Sampling{NAN, 0, 1}, s), "temperature is nan");
    CHECK_REFUSED(choose(ids, ids, {}, logits, 8, 0, Sampling{INFINITY, 0, 1}, s), "temperature is inf");
    CHECK_REFUSED(choose(ids, ids, {}, logits, 8, 0, Sampling{1, -1, 1}, s), "top_k is -1");
    CHECK_REFUSED(choose(ids, ids, {}, logits, 8, 0, Sampling{1, 0, 0}, s), "top_p is 0");
    CHECK_REFUSED(choose(ids, ids, {}, logits, 8, 0, Sampling{1, 0, 1.5f}, s), "top_p is 1.5");
}
