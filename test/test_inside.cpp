// test_inside.cpp - looking inside a model: features, classifiers, a planted unit, steering, the lens, and what is
// refused
#include <cmath>

#include "data/bpe_training.h"
#include "data/documents.h"
#include "data/shard_writer.h"
#include "gpt/generate.h"
#include "gpt/hf.h"
#include "gpt/lens.h"
#include "gpt/presets.h"
#include "gpt/probe.h"
#include "gpt/steer.h"
#include "test/close.h"
#include "test/golden.h"
#include "test/programs.h"
#include "test/tokenize.h"

namespace {

void fill_at_random(Model& m, float deviation = 0.3f) {
    for (const ParamRow& r : param_rows(m.params, m.config)) {
        std::vector<float> v(size_t(r.shape.numel()), 0.f);
        Random(7, r.name).fill_normal(v.data(), 0, v.size(), deviation);
        if (r.name.find("ln") != std::string::npos && r.name.find("weight") != std::string::npos)
            for (float& x : v) x += 1;
        from_host(*r.tensor, v, m.stream);
    }
}
std::vector<int32_t> random_ids(int64_t n, int64_t vocab, uint64_t stream) {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < n; t++) ids.push_back(int32_t(Random(5, "ids", stream).below(t, vocab)));
    return ids;
}
// The residual stream (L + 1, T, C) of ids that go through a generator.
std::vector<std::vector<float>> streams_of(Model& m, const std::vector<int32_t>& ids) {
    std::vector<std::vector<float>> all(size_t(m.config.layers + 1));
    const auto before = m.observe;
    m.observe         = [&](int64_t layer, Tensor x) {
        const bool changed = before && before(layer, x);
        const auto rows    = floats_of(x, m.stream);
        all[size_t(layer)].insert(all[size_t(layer)].end(), rows.begin(), rows.end());
        return changed;
    };
    Generator g(m, 1, int64_t(ids.size()));
    g.feed({ids});
    m.observe = before;
    return all;
}
Features features(int64_t rows, int64_t width, std::vector<float> values) { return {rows, width, std::move(values)}; }

// Two classes of normal features, of which the first column carries some of the label.
struct Classes {
    DenseMatrix x;
    std::vector<int32_t> labels;
    Classes(int64_t n, int64_t d, uint64_t stream = 1) : x{n, d, std::vector<float>(size_t(n * d))} {
        Random(3, "features", stream).fill_normal(x.x.data(), 0, n * d, 1.f);
        for (int64_t i = 0; i < n; i++) {
            labels.push_back(int32_t(Random(3, "labels", stream).below(i, 2)));
            x.x[size_t(i * d)] += labels.back() ? 0.8f : -0.8f;
        }
    }
};

// A model of two blocks whose unit 7 holds what the token table says, because no block writes into it. Token 3 puts a
// large value there, and every other token almost nothing.
constexpr int32_t planted_unit = 7, planted_token = 3;
void plant(Model& m) {
    fill_at_random(m);
    const int64_t C = m.config.width;
    const auto edit = [&](Tensor t, auto change) {
        auto v = floats_of(t, m.stream);
        change(v);
        from_host(t, v, m.stream);
    };
    edit(m.params.wte, [&](std::vector<float>& v) {
        for (size_t id = 0; id < v.size() / size_t(C); id++)
            v[id * size_t(C) + planted_unit] = id == planted_token ? 2.f : 0.001f * float(id % 5);
    });
    if (m.params.wpe)
        edit(m.params.wpe, [&](std::vector<float>& v) {
            for (size_t t = 0; t < v.size() / size_t(C); t++) v[t * size_t(C) + planted_unit] = 0;
        });
    for (Block& b : m.params.block) {
        for (const Tensor w : {b.proj_w, b.down_w})
            edit(w, [&](std::vector<float>& v) {
                const size_t columns = v.size() / size_t(C);
                std::fill_n(v.begin() + long(planted_unit * columns), columns, 0.f);
            });
        for (const Tensor bias : {b.proj_b, b.down_b})
            if (bias) edit(bias, [&](std::vector<float>& v) { v[planted_unit] = 0; });
    }
}

}  // namespace

// ---- classifiers ----------------------------------------------------------------------------------------------------

TEST_CASE("logistic regression: the gradient is zero, by hand where that is known, for any number of threads",
          "[inside]") {
    // One feature of ±1: with k of n on the label's side, w + b and b - w are log odds when nothing is regularised.
    DenseMatrix x{8, 1, {1, 1, 1, 1, -1, -1, -1, -1}};
    const LogisticModel m = fit_logistic(x, {1, 1, 1, 0, 0, 0, 1, 0}, 1e-9, {}, 1e-12);
    CHECK(m.converged);
    CHECK(m.b + m.w[0] == Approx(std::log(3.)).epsilon(1e-6));
    CHECK(m.b - m.w[0] == Approx(-std::log(3.)).epsilon(1e-6));
    CHECK(count_right(m, x, {1, 1, 1, 0, 0, 0, 1, 0}) == 6);

    for (const double l2 : l2_values) {
        const auto [n, d] = GENERATE(table<int64_t, int64_t>({{1, 1}, {7, 3}, {101, 13}, {60, 130}}));
        CAPTURE(l2, n, d);
        const Classes c(n, d);
        const LogisticModel fit = fit_logistic(c.x, c.labels, l2);
        if (n > 1) CHECK(fit.converged);
        std::vector<double> gradient(size_t(d), 0.);
        double of_b = 0;
        for (int64_t i = 0; i < n; i++) {
            double z = fit.b;
            for (int64_t k = 0; k < d; k++) z += fit.w[size_t(k)] * c.x.x[size_t(i * d + k)];
            const double off = 1 / (1 + std::exp(-z)) - c.labels[size_t(i)];
            of_b += off / double(n);
            for (int64_t k = 0; k < d; k++) gradient[size_t(k)] += off * c.x.x[size_t(i * d + k)] / double(n);
        }
        for (int64_t k = 0; k < d; k++) CHECK(std::fabs(gradient[size_t(k)] + l2 * fit.w[size_t(k)]) < 1.1e-6);
        CHECK(std::fabs(of_b) < 1.1e-6);
        LogisticModel with_three;
        with_threads(3, [&] { with_three = fit_logistic(c.x, c.labels, l2); });
        CHECK(with_three.w == fit.w);
    }
    // A sparse matrix gives what the dense one with the same entries gives.
    const SparseMatrix sparse{4, 3, {0, 2, 2, 3, 5}, {0, 2, 1, 1, 2}};
    const DenseMatrix dense{4, 3, {1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 1}};
    const auto a = fit_logistic(sparse, {1, 0, 0, 1}, 0.1), b = fit_logistic(dense, {1, 0, 0, 1}, 0.1);
    for (size_t k = 0; k < 3; k++) CHECK(a.w[k] == Approx(b.w[k]).margin(1e-9));
    CHECK(log_loss(a, sparse, {1, 0, 0, 1}) == Approx(log_loss(b, dense, {1, 0, 0, 1})));
}

TEST_CASE("Wilson's interval, the words of a text, and the best unit by hand", "[inside]") {
    const auto [low, high] = Accuracy{8, 10}.interval();
    CHECK(low == Approx(0.4902).margin(5e-5));
    CHECK(high == Approx(0.9433).margin(5e-5));
    CHECK(Accuracy{0, 5}.interval().first == Approx(0).margin(1e-12));
    CHECK(Accuracy{5, 5}.interval().second == Approx(1));

    CHECK(words_in("Don't, DON'T stop -- 2 caf\xc3\xa9s!") ==
          std::set<std::string>{"don't", "stop", "2", "caf\xc3\xa9s"});
    CHECK(words_in("...").empty());

    // Unit 0 is constant, unit 1 gets three of four right, unit 2 all four with its labels the other way round.
    const Features train = features(4, 3, {5, 1, 9, 5, 2, 8, 5, 3, 2, 5, 4, 1});
    const Features test  = features(3, 3, {5, 0, 5.5f, 5, 0, 4.5f, 5, 0, 5});
    const UnitScore u    = best_unit(train, {0, 0, 1, 1}, test, {0, 1, 1});
    CHECK(u.unit == 1);  // it gets four right as well, and is the first
    CHECK(u.threshold == 2.5);
    CHECK(u.above == 1);
    const UnitScore v = best_unit(train, {0, 1, 0, 0}, test, {0, 1, 1});
    CHECK(v.train.right == 3);
    const UnitScore w =
        best_unit(features(4, 1, {9, 8, 2, 1}), {0, 0, 1, 1}, features(3, 1, {5.5f, 4.5f, 5}), {0, 1, 1});
    CHECK(w.above == 0);
    CHECK(w.threshold == 5);
    CHECK(w.train.right == 4);
    CHECK(w.test.right == 3);  // the threshold itself is not above it
    CHECK(w.class_means[0] == 8.5);
    CHECK(w.class_means[1] == 1.5);
    const UnitScore none = best_unit(features(2, 1, {5, 5}), {0, 1}, features(1, 1, {5}), {1});
    CHECK(none.train.right == 0);  // a unit that never changes tells nothing
}

TEST_CASE("the bag of words finds the word that makes the label", "[inside]") {
    std::vector<std::string> train, test;
    std::vector<int32_t> labels, test_labels;
    for (int i = 0; i < 60; i++) {
        const bool good = (i / 2) % 2;
        (i < 40 ? train : test).push_back(fmt::format("It is {} number{} once{}", good ? "Good" : "bad", i % 3, i));
        (i < 40 ? labels : test_labels).push_back(good);
    }
    const ClassifierScore s = score_bag_of_words(train, labels, test, test_labels);
    CHECK(s.test.right == 20);
    CHECK(s.train.right == 40);
    CHECK(s.model.w.size() == 7);  // bad, good, is, it, number0 to number2
}

// ---- features -------------------------------------------------------------------------------------------------------

TEST_CASE("features of packed texts are those of each text alone", "[inside]") {
    const Device* dev = GENERATE(from_range(devices()));
    const bool neox   = GENERATE(false, true);
    CAPTURE(dev, neox);
    const Config c  = tiny_config(16, 23, neox);
    const int64_t T = 9, C = c.width;
    Model m(c, DType::F32, {2, T, false}, *dev);
    fill_at_random(m);
    std::vector<TextIds> texts;
    for (int64_t i = 0; i < 25; i++) texts.push_back({random_ids(1 + (i * 5) % 13, c.vocab, uint64_t(i)), 0});
    for (size_t i = 0; i < texts.size(); i += 2)
        if (texts[i].ids.size() > 1) texts[i].front = 1;
    const auto all = features_of(m, texts, {0, 2});
    CHECK(!m.observe);
    REQUIRE(all.size() == 2);
    for (size_t i = 0; i < texts.size(); i++) {
        const int64_t n = int64_t(texts[i].ids.size()), skip = std::max<int64_t>(0, n - T);
        const auto streams = streams_of(m, {texts[i].ids.begin() + skip, texts[i].ids.end()});
        for (const LayerFeatures& f : all) {
            const auto& stream  = streams[size_t(f.layer)];
            const int64_t first = std::max<int64_t>(0, texts[i].front - skip);
            for (int64_t k = 0; k < C; k++) {
                double mean = 0;
                for (int64_t t = first; t < n - skip; t++) mean += stream[size_t(t * C + k)] / double(n - skip - first);
                CAPTURE(i, f.layer, k);
                CHECK(f.pooled[0].row(int64_t(i))[k] == Approx(mean).margin(2e-5));
                CHECK(f.pooled[1].row(int64_t(i))[k] == Approx(stream[size_t((n - skip - 1) * C + k)]).margin(2e-5));
            }
        }
    }
}

TEST_CASE("a planted unit is found exactly, in every layer", "[inside]") {
    const Device* dev = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(DType::F32, DType::BF16);
    const bool neox   = GENERATE(false, true);
    CAPTURE(dev, name_of(dtype), neox);
    const Config c = tiny_config(16, 23, neox);
    Model m(c, dtype, {4, 16, false}, *dev);
    plant(m);
    LabelledTexts sets[2];
    std::vector<LayerFeatures> features[2];
    for (int set = 0; set < 2; set++) {
        std::vector<TextIds> ids;
        for (int64_t i = 0; i < (set ? 40 : 60); i++) {
            const uint64_t stream = uint64_t(1000 * set + i);
            TextIds text{random_ids(3 + i % 9, c.vocab, stream), 0};
            std::replace(text.ids.begin(), text.ids.end(), planted_token, 4);
            const bool one = Random(9, "label", uint64_t(set)).below(i, 2);
            if (one) text.ids[size_t(i) % text.ids.size()] = planted_token;
            ids.push_back(text);
            sets[set].labels.push_back(one);
            sets[set].texts.push_back("t");
        }
        sets[set].names = {"0", "1"};
        features[set]   = features_of(m, ids, {0, 1, 2});
    }
    const ProbeResult r = probe(sets[0], features[0], sets[1], features[1]);
    REQUIRE(r.layers.size() == 3);
    for (const LayerScore& l : r.layers) {
        const UnitScore& u = l.unit[size_t(Pooling::mean)];
        CAPTURE(l.layer);
        CHECK(u.unit == planted_unit);
        CHECK(u.above == 1);
        CHECK(u.train.right == 60);
        CHECK(u.test.right == 40);
        CHECK(l.unit[size_t(Pooling::last)].test.right < 40);  // the token is seldom the last
        CHECK(l.best_pooling() == Pooling::mean);
    }
    CHECK(r.best == 0);
    CHECK(r.words.test.value() < 0.8);
    const auto json = probe_json(r, sets[0], sets[1]);
    CHECK(json["best_unit"]["unit"] == planted_unit);
    CHECK(json["best_unit"]["layer"] == 0);
    CHECK(json["layers"].size() == 3);
    // The class means tell the value with which to steer.
    CHECK(double(json["best_unit"]["class_means"][1]) > double(json["best_unit"]["class_means"][0]) + 0.1);
}

// ---- steering -------------------------------------------------------------------------------------------------------

TEST_CASE("steering sets units and adds directions at every position, for few rows and for many", "[inside]") {
    const Device* dev = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(DType::F32, DType::BF16);
    const bool neox   = GENERATE(false, true);
    const int64_t n   = GENERATE(3, 15);
    CAPTURE(dev, name_of(dtype), neox, n);
    const Config c  = tiny_config(16, 23, neox);
    const int64_t C = c.width;
    Model m(c, dtype, {1, 1, false}, *dev);
    fill_at_random(m);
    const Scratch s;
    std::vector<float> d(size_t(C), 0.f);
    Random(1, "d").fill_normal(d.data(), 0, C, 1.f);
    SafetensorsWriter file(s / "d.safetensors", {{"anything", "F32", {C}}});
    file.write("anything", d.data(), C * 4);
    file.close();
    const auto ids   = random_ids(n, c.vocab, 1);
    const auto plain = streams_of(m, ids);
    const auto fed   = [&] {
        Generator g(m, 1, 16);
        g.feed({ids});
        return g.logits();
    };
    const auto logits = fed();

    {  // What leaves every value as it is changes no bit of the logits.
        const Steering nothing(m, {"0:" + (s / "d.safetensors") + "*0", "2:" + (s / "d.safetensors") + "*0"});
        CHECK(fed() == logits);
    }
    {
        const Steering steering(m, {"1:5=-1.5", "1:" + (s / "d.safetensors") + "*0.5", "0:0=2"});
        const auto steered = streams_of(m, ids);
        for (int64_t t = 0; t < n; t++) CHECK(steered[0][size_t(t * C)] == 2);
        CHECK(fed() != logits);
    }
    m.observe = nullptr;
    {  // In the last layer, the logits are those of the changed stream.
        const Steering steering(
            m, {fmt::format("{}:5=-1.5", c.layers), fmt::format("{}:", c.layers) + (s / "d.safetensors") + "*0.5"});
        const auto steered = streams_of(m, ids).back();
        const double close = dtype == DType::F32 ? 1e-5 : 0.02;
        for (int64_t t = 0; t < n; t++)
            for (int64_t k = 0; k < C; k++)
                CHECK(steered[size_t(t * C + k)] ==
                      Approx((k == 5 ? -1.5 : plain.back()[size_t(t * C + k)]) + 0.5 * d[size_t(k)])
                          .epsilon(close)
                          .margin(close));
        const auto ours = lens(m, ids, 1).back().likeliest[0].first;
        const auto all  = fed();
        CHECK(ours == std::max_element(all.begin(), all.end()) - all.begin());
        Generator g(m, 1, 16);  // tokens that come one by one are steered as well
        for (const int32_t id : ids) g.feed({{id}});
        CHECK(largest_difference(g.logits(), all) <= (dtype == DType::F32 ? 1e-4 : 0.1) * largest_of(all));
    }
}

TEST_CASE("a set unit of a planted model decides what is written, also under a CUDA graph", "[inside]") {
    const Device* dev = GENERATE(from_range(devices()));
    CAPTURE(dev);
    const Config c = tiny_config(32, 23);
    Model m(c, DType::F32, {1, 1, false}, *dev);
    plant(m);
    const auto written = [&](const std::vector<std::string>& words) {
        std::vector<int32_t> text;
        const Steering steering(m, words);
        generate(m, {1, 2}, 12, 1, Sampling{0.f, 0, 1.f, 1},
                 [&](int64_t, int32_t id) { return text.push_back(id), true; });
        m.observe = nullptr;
        return text;
    };
    // The head is the token table, so a large value of the unit says its token.
    CHECK(written({fmt::format("2:{}=200", planted_unit)}) == std::vector<int32_t>(12, planted_token));
    CHECK(written({}) != std::vector<int32_t>(12, planted_token));
}

TEST_CASE("the lens ends with what the model says, and begins with the embedding", "[inside]") {
    const Device* dev = GENERATE(from_range(devices()));
    const bool neox   = GENERATE(false, true);
    const int64_t n   = GENERATE(1, 5, 300);
    CAPTURE(dev, neox, n);
    const Config c = tiny_config(512, 23, neox);
    Model m(c, DType::F32, {1, 1, false}, *dev);
    fill_at_random(m);
    const auto ids  = random_ids(n, c.vocab, 2);
    const auto rows = lens(m, ids, 30);
    CHECK(!m.observe);
    REQUIRE(rows.size() == 3);
    const auto streams = streams_of(m, ids);
    for (const LensRow& row : rows) {
        CAPTURE(row.layer);
        REQUIRE(row.likeliest.size() == size_t(c.vocab));
        // The formula in double, from the last row of the stream.
        const auto lnf_w = floats_of(m.params.lnf_w, m.stream), lnf_b = floats_of(m.params.lnf_b, m.stream),
                   head = floats_of(m.params.head_w, m.stream);
        const std::vector<float> x(streams[size_t(row.layer)].end() - c.width, streams[size_t(row.layer)].end());
        double mean = 0, variance = 0, sum = 0;
        for (const float v : x) mean += double(v) / double(c.width);
        for (const float v : x) variance += (v - mean) * (v - mean) / double(c.width);
        std::vector<double> p;
        for (int64_t id = 0; id < c.vocab; id++) {
            double logit = 0;
            for (int64_t k = 0; k < c.width; k++)
                logit +=
                    head[size_t(id * c.width + k)] *
                    ((x[size_t(k)] - mean) / std::sqrt(variance + c.norm_eps) * lnf_w[size_t(k)] + lnf_b[size_t(k)]);
            p.push_back(std::exp(logit));
            sum += p.back();
        }
        double before = 1;
        for (const auto& [id, probability] : row.likeliest) {
            CHECK(probability == Approx(p[size_t(id)] / sum).margin(1e-5));
            CHECK(probability <= before);
            before = probability;
        }
    }
    CHECK(lens_table(rows, nullptr).find("\n    2  ") != std::string::npos);
}

// ---- the program ----------------------------------------------------------------------------------------------------

namespace {

// A trained model with a tokenizer, and texts whose label is whether they have a plus.
struct Inside {
    Scratch s;
    Inside() {
        WordCounts words;
        words.add("the sea was calm, the wind was low; the other day the bell rang\n");
        write_text(s / "tokenizer.json", BpeTraining(words).learn(257));
        write_shard(s / "train.bin", 3000);
        const Ran r =
            run(s, "train_gpt",
                "--model nano --dtype fp32 --steps 5 --batch 4 --context 16 --train-data " + quoted(s / "train.bin") +
                    " --tokenizer " + quoted(s / "tokenizer.json") + " --out " + quoted(s / "run"));
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
        for (const bool test : {false, true}) {
            std::string lines;
            for (int i = 0; i < (test ? 30 : 60); i++) {
                const bool plus = (i * 7 % 10) < 5;
                lines += nlohmann::json{{"text", fmt::format("{}day {}", plus ? "++" : "--", i + 100 * test)},
                                        {"label", plus ? "good" : "bad"}}
                             .dump() +
                         "\n";
            }
            write_text(s / (test ? "test.jsonl" : "train.jsonl"), lines);
        }
    }
    Ran infer(const std::string& words) const {
        return run(s, "infer_gpt", "--dtype fp32 --model " + quoted(s / "run") + " " + words);
    }
    std::string files() const { return " --probe " + quoted(s / "train.jsonl") + " " + quoted(s / "test.jsonl") + " "; }
    void refused(const std::string& words, std::initializer_list<const char*> says) const {
        const Ran r = infer(words);
        CAPTURE(words, r.out, r.err);
        CHECK(r.code == 2);
        CHECK(r.out.empty());
        CHECK(missing_words(r.err, says) == "");
        for (const char* source : {".h:", ".cu:"}) CHECK(r.err.find(source) == std::string::npos);
    }
};

}  // namespace

TEST_CASE("labels that are numbers stand in the order of their values, before texts", "[inside]") {
    const Scratch s;
    const auto read = [&](const std::string& first, const std::string& second) {
        write_text(s / "t.jsonl",
                   "{\"text\": \"a\", \"label\": " + first + "}\n{\"text\": \"b\", \"label\": " + second + "}\n");
        return read_labelled(s / "t.jsonl");
    };
    CHECK(read("10", "9").names == std::vector<std::string>{"9", "10"});
    CHECK(read("10", "9").labels == std::vector<int32_t>{1, 0});
    CHECK(read("-0.5", "-1").names == std::vector<std::string>{"-1", "-0.5"});
    CHECK(read("\"10\"", "9").names == std::vector<std::string>{"9", "\"10\""});
    CHECK(read("true", "false").names == std::vector<std::string>{"false", "true"});
}

TEST_CASE("--probe writes a table, JSON, a picture, directions and activations, the same each time", "[programs]") {
    const Inside i;
    const Ran r =
        i.infer(i.files() + "--out " + quoted(i.s / "probe") + " --activations " + quoted(i.s / "a.safetensors"));
    CAPTURE(r.out, r.err);
    REQUIRE(r.code == 0);
    CHECK(missing_words(r.out, {"60 training texts", "30 test texts, 15 of them with the label \"good\"",
                                "bag of words", "best unit:", "--steer "}) == "");
    const auto json = nlohmann::json::parse(read_text(i.s / "probe/probe.json"));
    CHECK(json["layers"].size() == 3);
    CHECK(json["labels"] == nlohmann::json{"bad", "good"});
    CHECK(json["majority"]["accuracy"] == 0.5);
    CHECK(json["layers"][2]["mean"]["accuracy"].get<double>() >= 0.9);  // the embedding of a plus is one of its own
    CHECK(read_text(i.s / "probe/probe.png").substr(1, 3) == "PNG");
    const Ran again = i.infer(i.files() + "--json --threads 1");
    CHECK(nlohmann::json::parse(again.out) == json);

    const SafetensorsReader a(i.s / "a.safetensors"), d(i.s / "probe/directions.safetensors");
    CHECK(a.at("train.label").shape == Shape{60});
    CHECK(a.at("test.layer.2.last", {30, 48}).dtype == "F32");
    CHECK(d.tensors().size() == 6);

    // Compressed files are read as tokenize reads them.
    write_text(i.s / "train.jsonl.gz", gzip(read_text(i.s / "train.jsonl")));
    write_text(i.s / "test.jsonl.zst", zstd(read_text(i.s / "test.jsonl")));
    const auto packed = nlohmann::json::parse(
        i.infer("--json --probe " + quoted(i.s / "train.jsonl.gz") + " " + quoted(i.s / "test.jsonl.zst")).out);
    CHECK(packed["layers"] == json["layers"]);

    const Ran few     = i.infer(i.files() + "--json --layers 2,0,2");
    const auto of_few = nlohmann::json::parse(few.out);
    REQUIRE(of_few["layers"].size() == 2);
    CHECK(of_few["layers"][1] == json["layers"][2]);

    // What exists is not overwritten.
    i.refused(i.files() + "--out " + quoted(i.s / "probe"), {"probe exists already"});
    i.refused(i.files() + "--activations " + quoted(i.s / "a.safetensors"), {"a.safetensors exists already"});

    // What cannot be written is found before the model is read.
    write_text(i.s / "file", "");
    std::filesystem::create_directories(i.s / "folder/in");
    const auto no_output = [&](const std::string& words, std::initializer_list<const char*> says) {
        refused(i.s, "infer_gpt", "--model nowhere " + i.files() + words, says);
        CHECK(!std::filesystem::exists(i.s / "new"));
    };
    no_output("--out " + quoted(i.s / "file/p") + " --activations " + quoted(i.s / "new/a.safetensors"),
              {"--out", "file/p", "Not a directory"});
    no_output("--activations " + quoted(i.s / "file/a.safetensors") + " --out " + quoted(i.s / "new/p"),
              {"--activations", "file/a.safetensors", "Not a directory"});
    no_output("--activations " + quoted(i.s / "folder"), {"folder exists already"});
    no_output("--out " + quoted(i.s / "folder"), {"folder exists already"});
    no_output("--out " + quoted(i.s / "file"), {"file exists already"});
    no_output("--out " + quoted(i.s / "new"), {"nowhere"});  // this could be written

    // The activations may lie in the folder of the other results.
    CHECK(i.infer(i.files() + "--out " + quoted(i.s / "all") + " --activations " + quoted(i.s / "all/a.safetensors"))
              .code == 0);
    CHECK(std::filesystem::exists(i.s / "all/a.safetensors"));

    // A direction of the file steers, and A = 0 changes nothing.
    const std::string prompt = " --prompt the --tokens 10 --temperature 0 ",
                      file   = i.s / "probe/directions.safetensors";
    const Ran plain = i.infer(prompt), zero = i.infer(prompt + "--steer " + quoted("1:" + file + "*0")),
              far = i.infer(prompt + "--steer " + quoted("1:" + file + "*300") + " 2:0=1e4");
    CHECK(zero.out == plain.out);
    CHECK(far.code == 0);
    CHECK(far.out != plain.out);

    const Ran table = i.infer("--lens --prompt \"the day\"");
    CAPTURE(table.out);
    CHECK(std::count(table.out.begin(), table.out.end(), '\n') == 4);
    const auto rows = nlohmann::json::parse(i.infer("--lens --json --layers 2 --prompt \"the day\"").out);
    REQUIRE(rows.size() == 1);
    CHECK(rows[0]["layer"] == 2);
    CHECK(rows[0]["next"][0]["probability"] >= rows[0]["next"][1]["probability"]);
}

TEST_CASE("--probe, --steer and --lens refuse what they cannot use, with file and line", "[programs]") {
    const Inside i;
    const auto bad = [&](const std::string& lines, std::initializer_list<const char*> says) {
        write_text(i.s / "bad.jsonl", lines);
        i.refused(" --probe " + quoted(i.s / "bad.jsonl") + " " + quoted(i.s / "test.jsonl"), says);
    };
    const std::string good  = "{\"text\": \"a\", \"label\": \"good\"}\n",
                      other = "{\"text\": \"b\", \"label\": \"bad\"}\n";
    bad("", {"bad.jsonl: no texts"});
    bad(good + "{\"text\": \"b\"}\n", {"bad.jsonl line 2", "\"label\" is missing"});
    bad(good + "{\"text\": 5, \"label\": 1}\n", {"line 2", "\"text\" is 5"});
    bad(good + "{\"text\": \"\", \"label\": 1}\n", {"line 2", "the text is empty"});
    bad(good + "{\"text\": \"b\", \"label\": [1]}\n", {"line 2", "\"label\" is [1]"});
    bad(good + "{\"text\": \"b\", \"label\": null}\n", {"line 2", "\"label\" is null"});
    bad(good + other + "{\"text\": \"b\", \"label\": 3}\n", {"line 3", "3 is a third label", "\"good\"", "\"bad\""});
    bad(good + good, {"all texts have the label \"good\""});
    bad(good + other, {"every fifth text"});
    bad(good + "not json\n", {"line 2", "not valid JSON"});
    write_text(i.s / "bad.jsonl", "{\"text\": \"b\", \"label\": 3}\n{\"text\": \"b\", \"label\": 4}\n");
    i.refused(" --probe " + quoted(i.s / "train.jsonl") + " " + quoted(i.s / "bad.jsonl"),
              {"bad.jsonl line 1", "the label 3 is not one of the training texts"});
    i.refused("--probe " + quoted(i.s / "train.jsonl"), {"--probe", "two files"});
    i.refused(i.files() + "--layers 3", {"--layers", "'3'", "0 to 2"});
    i.refused(i.files() + "--layers 1,", {"--layers", "''"});
    i.refused(i.files() + "--prompt x", {"--prompt", "--probe"});
    i.refused("--prompt x --layers 1", {"--layers", "--probe"});
    i.refused("--prompt x --out y", {"--out", "--probe"});

    const auto steer = [&](const std::string& word, std::initializer_list<const char*> says) {
        i.refused("--prompt x --steer " + quoted(word), says);
    };
    steer("1", {"--steer 1", "LAYER:UNIT=VALUE or LAYER:FILE*A"});
    steer("1=2:3", {"LAYER:UNIT=VALUE"});
    steer("3:0=1", {"the layer '3'", "0 to 2"});
    steer("-1:0=1", {"the layer '-1'"});
    steer("1:48=1", {"the unit '48'", "0 to 47"});
    fs::create_directory(i.s / "probe");
    steer("1:" + (i.s / "probe") + "*2", {"probe is a folder", "probe/directions.safetensors"});
    steer(i.s / "probe", {"LAYER:FILE*A, such as"});
    steer("1:0=", {"'' is not a number"});
    steer("1:0=nan", {"'nan' is not a number"});
    steer("1:none.safetensors*1", {"none.safetensors"});
    const std::string weights =
        std::filesystem::canonical(i.s / "run/checkpoints/latest").string() + "/model.safetensors";
    steer("1:" + weights + "*1", {"none of them is called layer.1.mean"});
}

TEST_CASE("the classifiers are those of scikit-learn", "[programs]") {
    const std::string python = "${PYTHON:-python3}";
    if (std::system((python + " -c 'import sklearn' 2>/dev/null").c_str()) != 0) {
        std::fprintf(
            stderr,
            "skipped: python3 has no scikit-learn, with which classifiers are compared (PYTHON= names another)\n");
        return;
    }
    const Inside i;
    const Ran r =
        i.infer(i.files() + "--out " + quoted(i.s / "probe") + " --activations " + quoted(i.s / "a.safetensors"));
    REQUIRE(r.code == 0);
    write_text(i.s / "compare.py", R"(import json, sys, numpy as np
from sklearn.linear_model import LogisticRegression
def read(path):
    b = open(path, "rb").read()
    n = int.from_bytes(b[:8], "little")
    at = lambda v: b[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]]
    return {k: np.frombuffer(at(v), {"F32": "<f4", "I32": "<i4"}[v["dtype"]]).reshape(v["shape"])
            for k, v in json.loads(b[8:8 + n]).items() if k != "__metadata__"}
a, d = read(sys.argv[1]), read(sys.argv[2] + "/directions.safetensors")
for layer in json.load(open(sys.argv[2] + "/probe.json"))["layers"]:
    for pooling in "mean", "last":
        name = f"layer.{layer['layer']}.{pooling}"
        x, t = a["train." + name].astype(float), a["test." + name]
        mean, deviation = x.mean(0), x.std(0)
        deviation[~(deviation > 1e-6 * np.abs(mean))] = 1
        theirs = LogisticRegression(C=1 / (len(x) * layer[pooling]["l2"]), tol=1e-10, max_iter=100000)
        theirs.fit((x - mean) / deviation, a["train.label"])
        direction = theirs.coef_[0] / deviation
        direction *= (x @ direction).std() / (direction @ direction)
        off = np.abs(direction - d[name]).max() / np.abs(direction).max()
        accuracy = theirs.score((t - mean) / deviation, a["test.label"])
        print(name, off, accuracy, layer[pooling]["accuracy"])
        assert off < 2e-3 and abs(accuracy - layer[pooling]["accuracy"]) < 1e-9, name
)");
    const Ran compared = shell(i.s, python + " " + quoted(i.s / "compare.py") + " " + quoted(i.s / "a.safetensors") +
                                        " " + quoted(i.s / "probe"));
    CAPTURE(compared.out, compared.err);
    CHECK(compared.code == 0);
}
