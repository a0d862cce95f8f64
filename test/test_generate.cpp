// test_generate.cpp - generate.h: what a model writes does not depend on the cache, on the batch, or on what is
// computed ahead
#include "gpt/generate.h"
#include "gpt/hf.h"
#include "test/close.h"
#include "test/golden.h"

TEST_CASE("a cache changes nothing: greedy text with and without it", "[model]") {
    const Device* dev = GENERATE(from_range(devices()));
    CAPTURE(dev);
    const bool neox = GENERATE(false, true);
    Config c        = tiny_config(7, 13, neox);
    c.context       = 64;
    Model m(c, DType::F32, {1, 1, false}, *dev);
    scatter(m.params, c, m.stream);
    std::vector<int32_t> with, text = {1, 5, 2};
    generate(m, text, 40, 1, Sampling{0.f, 0, 1.f, 1}, [&](int64_t, int32_t id) { return with.push_back(id), true; });
    for (int64_t n = 0; n < 40; n++) {
        Generator g(m, 1, 64, Sampling{0.f, 0, 1.f, 1});
        g.feed({text});
        text.push_back(g.choose()[0]);
        CAPTURE(neox, n);
        REQUIRE(text.back() == with[n]);
    }
    // Several samples at once equal those that are made one at a time.
    std::vector<std::vector<int32_t>> samples(3);
    generate(m, {1, 5, 2}, 20, 3, Sampling{1.f, 0, 1.f, 9},
             [&](int64_t i, int32_t id) { return samples[i].push_back(id), true; });
    std::vector<int32_t> first;
    generate(m, {1, 5, 2}, 20, 1, Sampling{1.f, 0, 1.f, 9},
             [&](int64_t, int32_t id) { return first.push_back(id), true; });
    CHECK(samples[0] == first);
    CHECK(samples[0] != samples[1]);
    // One that has ended gets no more tokens, and the others are as before.
    std::vector<std::vector<int32_t>> ended(3);
    generate(m, {1, 5, 2}, 20, 3, Sampling{1.f, 0, 1.f, 9},
             [&](int64_t i, int32_t id) { return ended[i].push_back(id), i != 1 || ended[i].size() < 4; });
    CHECK(ended[1] == std::vector<int32_t>(samples[1].begin(), samples[1].begin() + 4));
    CHECK((ended[0] == samples[0] && ended[2] == samples[2]));
    // When the context is full, generation goes on from its newer half: the 65th token is chosen from 64, and those
    // behind it from the 32 tokens that end with it.
    const auto continued = [&](const std::vector<int32_t>& prompt, int64_t tokens) {
        std::vector<int32_t> all = prompt;
        generate(m, prompt, tokens, 1, Sampling{0.f, 0, 1.f, 1},
                 [&](int64_t, int32_t id) { return all.push_back(id), true; });
        return all;
    };
    const std::vector<int32_t> longer = continued({1, 5, 2}, 200);
    REQUIRE(longer.size() == 203);
    const std::vector<int32_t> half(longer.begin() + 33, longer.begin() + 65),
        behind(longer.begin() + 33, longer.begin() + 97);
    CHECK(continued(half, 32) == behind);
}

TEST_CASE("sequences of unequal length in one batch equal those that run alone", "[model]") {
    const Device* dev = GENERATE(from_range(devices()));
    const bool neox   = GENERATE(false, true);
    const auto dtype  = GENERATE(DType::F32, DType::BF16);
    CAPTURE(dev, neox, dtype);
    Config c  = tiny_config(7, 13, neox);
    c.context = 160;
    Model m(c, dtype, {1, 1, false}, *dev);
    scatter(m.params, c, m.stream);
    // Five texts of 1 to 70 tokens. Together they go through the model in parts of 51 tokens.
    std::vector<std::vector<int32_t>> texts;
    for (const int64_t n : {70, 1, 51, 2, 52}) {
        texts.emplace_back(n);
        for (int64_t t = 0; t < n; t++) texts.back()[t] = int32_t(Random(n, "text").below(t, c.vocab));
    }
    const Sampling how{1.f, 0, 0.9f, 3};
    const auto difference_of = [&](const std::vector<float>& all, size_t b, const std::vector<float>& alone) {
        return largest_difference({all.begin() + b * c.vocab, all.begin() + (b + 1) * c.vocab}, alone);
    };
    Generator together(m, 5, 100, how);
    together.feed(texts);
    const std::vector<float> logits = together.logits();
    std::vector<std::vector<int32_t>> made(5);
    for (int n = 0; n < 12; n++) {
        const std::vector<int32_t> ids = n ? together.next() : together.choose();
        for (size_t b = 0; b < 5; b++) made[b].push_back(ids[b]);
    }
    // The logits that follow are compared too, after the chosen tokens were appended as a text.
    Generator again(m, 5, 100, how);
    again.feed(texts);
    again.feed(made);
    const std::vector<float> later = again.logits();
    for (size_t b = 0; b < 5; b++) {
        Generator alone(m, 1, 100, how);
        alone.feed({texts[b]});
        const auto first = alone.logits();
        CAPTURE(b);
        const double close = dtype == DType::F32 ? 1e-5 : 2e-2;
        CHECK(difference_of(logits, b, first) <= close * largest_of(first));
        alone.feed({made[b]});
        const auto second = alone.logits();
        CHECK(difference_of(later, b, second) <= close * largest_of(second));
        if (dtype != DType::F32) continue;  // in bf16 a choice may fall on the other side of a rounding
        if (b > 0) continue;                // the other sequences draw other random numbers alone
        Generator chooses(m, 1, 100, how);
        chooses.feed({texts[b]});
        std::vector<int32_t> ids = chooses.choose();
        for (int n = 1; n < 12; n++) ids.push_back(chooses.next()[0]);
        CHECK(ids == made[b]);
    }
}

TEST_CASE("a text that follows chosen tokens takes back what a GPU has computed ahead", "[model]") {
    const Device* dev = GENERATE(from_range(devices()));
    CAPTURE(dev);
    Config c       = tiny_config(7, 13, true);
    c.context      = 64;
    const auto ids = [&](const Device& d) {
        Model m(c, DType::F32, {1, 1, false}, d);
        scatter(m.params, c, m.stream);
        Generator g(m, 2, 36, Sampling{1.f, 0, .9f, 3});
        std::vector<int32_t> all;
        for (const int more : {5, 1, 0, 18}) {  // the last fills the cache: 4 texts of 3 tokens, and 24
            g.feed({{1, 5, 2}, {3}});
            for (int n = 0; n <= more; n++) {
                const std::vector<int32_t>& two = n ? g.next() : g.choose();
                all.insert(all.end(), two.begin(), two.end());
            }
        }
        return all;
    };
    const Device waits(dev->where() == Machine::cpu ? "cpu" : "cuda", 0, 0, dev->where() == Machine::cuda);
    REQUIRE(!waits.has_graphs());  // it computes nothing ahead
    CHECK(ids(*dev) == ids(waits));
}

TEST_CASE("after logits that are not finite, a new text goes on as if they had not been there", "[model]") {
    const Device* dev = GENERATE(from_range(devices()));
    CAPTURE(dev);
    Config c  = tiny_config(7, 13, false);
    c.context = 8;
    Model m(c, DType::F32, {1, 1, false}, *dev);
    scatter(m.params, c, m.stream);
    std::vector<float> wpe = floats_of(m.params.wpe, m.stream);
    wpe[4 * c.width]       = NAN;  // the fifth token of a text
    from_host(m.params.wpe, wpe, m.stream);
    Generator g(m, 1, 8, Sampling{1.f, 0, 1.f, 2});
    std::vector<int32_t> ids;
    for (int i = 0; i < 2; i++) {
        g.reset();
        g.feed({{1, 5, 2}});
        ids.push_back(g.choose()[0]);
        ids.push_back(g.next()[0]);
        CHECK(std::min(ids.back(), ids[ids.size() - 2]) >= 0);
        CHECK(g.next()[0] == -1);
    }
}

TEST_CASE("logits that are not finite are refused", "[model]") {
    std::vector<float> damaged(40, 0);
    damaged[39] = GENERATE(NAN, INFINITY, -INFINITY);
    CHECK_THROWS_AS(expect_finite_logits(damaged.data(), 40, 3), RunError);
    expect_finite_logits(damaged.data(), 39, 3);
}
