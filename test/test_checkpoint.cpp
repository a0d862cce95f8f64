// test_checkpoint.cpp - what a checkpoint's files bring back, and which are refused
#include "gpt/run_weights.h"
#include "gpt/saver.h"
#include "test/close.h"
#include "test/golden.h"
#include "test/scratch.h"

TEST_CASE("a save refuses a weight or a moment that is not finite, and names it", "[model]") {
    const Device* dev = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(DType::F32, DType::BF16);
    const float bad   = GENERATE(NAN, INFINITY);
    CAPTURE(dev, dtype, bad);
    const Config c = tiny_config(7, 13, false);
    Model m(c, dtype, {1, 4, true}, *dev);
    AdamW adamw(m, {});
    TrainState state;
    state.weights_dtype = dtype;
    const auto saved    = [&] {
        const Scratch scratch;
        write_checkpoint(scratch.path, state, CheckpointTensors(m, adamw, dtype), {}, Comm({}, 1), 1);
        return fs::exists(scratch / "COMPLETE");
    };
    const auto refused_for = [&](Tensor t, const std::string& name) {
        const std::vector<float> before = floats_of(t, m.stream);
        std::vector<float> damaged      = before;
        damaged.back()                  = bad;
        from_host(t, damaged, m.stream);
        std::string said = "it was saved";
        try {
            saved();
        } catch (const RunError& e) { said = e.what(); }
        CHECK(missing_words(said, {name.c_str(), "not finite"}) == "");
        from_host(t, before, m.stream);
    };
    CHECK(saved());
    refused_for(adamw.master().lnf_w, "ln_f.weight");
    for (const StatePart& t : adamw.state()) refused_for(t.tensor, t.name);
    CHECK(saved());
}

TEST_CASE("a checkpoint brings weights back as they were rounded", "[model]") {
    const Device* dev = GENERATE(from_range(devices()));
    const bool random = GENERATE(false, true), skipped = GENERATE(false, true);
    const auto kind = GENERATE(OptimizerKind::adamw, OptimizerKind::muon);
    CAPTURE(dev, random, skipped, int(kind));
    const Config c = tiny_config(7, 13, false);
    Model m(c, DType::BF16, {1, 4, true}, *dev);
    scatter(m.params, c, m.stream);
    OptimizerSettings settings{kind};
    settings.stochastic_rounding = random;
    settings.seed                = 5;
    const auto optimizer         = make_optimizer(m, settings);
    optimizer->start_from_weights();
    const std::vector<int32_t> ids = {1, 2, 3, 4, 5};
    TrainState state;
    for (int64_t step = 1; step <= 2; step++) {
        const bool skip = skipped && step == 2;
        loss_and_gradients(m, HostBatch(ids.data(), 1, 4).batch);
        if (skip) from_host(m.grads.lnf_b, std::vector<float>(size_t(c.width), NAN), m.stream);
        CHECK(std::isfinite(update(m, *optimizer, constant_rate(1e-2f), step - 1)) == !skip);
        if (!skip) state.rounded_at = optimizer->rounded_at(step);
    }
    const auto bits = [&](Model& of) {
        std::vector<std::vector<char>> all;
        for (const ParamRow& r : param_rows(of.params, c)) {
            all.emplace_back(size_t(r.tensor->bytes()));
            to_host(all.back().data(), *r.tensor, of.stream);
        }
        return all;
    };
    const auto wanted = bits(m);
    optimizer->round_into_weights(0);
    CHECK((bits(m) == wanted) == !random);
    const Scratch scratch;
    state.step          = 2;
    state.weights_dtype = DType::BF16;
    write_checkpoint(scratch.path, state, CheckpointTensors(m, *optimizer, DType::BF16), {}, Comm({}, 1), 1);

    Model again(c, DType::BF16, {1, 4, true}, *dev);
    const auto other = make_optimizer(again, settings);
    CHECK(load_checkpoint(scratch.path, again, *other).rounded_at == state.rounded_at);
    CHECK((bits(again) == wanted));
}

// Files are written and fingerprints computed 2^18 elements at a time, and files are read 2^22 at a time.
TEST_CASE("tensors that are written and read in several parts come back as they were", "[model]") {
    const Device dev("cpu");
    const auto dtype = GENERATE(DType::F32, DType::BF16);
    CAPTURE(name_of(dtype));
    Config c = tiny_config(8, 360'000);  // its table has 4.3 million elements
    c.layers = 1;
    Model m(c, dtype, {1, 1, true}, dev);
    AdamW adamw(m, {});
    uint64_t stream = 0;
    const auto fill = [&](Tensor t, int64_t n) {
        std::vector<float> v(size_t(t.numel()), 0.f);
        Random(3, "values", stream++).fill_normal(v.data(), 0, uint64_t(n), 1.f);
        from_host(t, v, m.stream);
        return v;
    };
    std::vector<std::vector<float>> state, masters;
    for (const ParamRow& r : param_rows(adamw.master(), c)) masters.push_back(fill(*r.tensor, unpadded(c, r).numel()));
    for (const StatePart& t : adamw.state()) state.push_back(fill(t.tensor, t.tensor.numel()));
    adamw.round_into_weights(0);
    const Scratch folder;
    TrainState now;
    now.weights_dtype = dtype;
    write_checkpoint(folder.path, now, CheckpointTensors(m, adamw, dtype), {}, Comm({}, 1), 1);

    Model again(c, dtype, {1, 1, true}, dev);
    AdamW other(again, {});
    load_checkpoint(folder.path, again, other);
    CHECK(fingerprint(again) == fingerprint(m));
    size_t i = 0;
    for (const ParamRow& r : param_rows(other.master(), c)) {
        CAPTURE(r.name);
        CHECK((floats_of(*r.tensor, m.stream) == masters[i++]));
    }
    i = 0;
    for (const StatePart& t : other.state()) {
        CAPTURE(t.name);
        CHECK((floats_of(t.tensor, m.stream) == state[i++]));
    }
    // The folder as others read it.
    Model read(c, dtype, {1, 1, false}, dev);
    load_weights(read.params, c, SafetensorsReader(folder.path), read.stream);
    CHECK(fingerprint(read) == fingerprint(m));
    const std::string before = fingerprint(m);
    const Tensor last        = m.params.wte.view({m.params.wte.numel()}).rows(c.vocab * c.width - 1, 1);
    from_host(last, std::vector<float>{floats_of(last, m.stream)[0] + 1}, m.stream);
    CHECK(fingerprint(m) != before);
}

TEST_CASE("a checkpoint's state.json is refused by the name of what is wrong in it", "[model]") {
    const Scratch s;
    const auto read = [&](const std::string& change) {
        auto j = nlohmann::json::parse(
            R"({"step": 5, "tokens": 80, "position": {"epoch": 0, "index": 5}, "seed": 1, "rounded_at": 5, "context": 16})");
        j.merge_patch(nlohmann::json::parse(change));
        write_text(s / "state.json", j.dump());
        return read_state(s.path);
    };
    const TrainState good = read("{}");
    CHECK((good.step == 5 && good.tokens == 80 && good.position == LoaderPosition{0, 5} && good.context == 16));
    CHECK(good.evaluated);                                  // older versions did not write it
    CHECK(read(R"({"context": null})").context == 80 / 5);  // nor this
    CHECK(read(R"({"context": null, "position": {"epoch": 1}})").context == 0);
    for (const char* field : {"step", "tokens", "seed", "position"})
        CHECK_REFUSED(read(fmt::format(R"({{"{}": null}})", field)), "state.json", field, "missing");
    for (const char* field : {"step", "tokens"})
        CHECK_REFUSED(read(fmt::format(R"({{"{}": -1}})", field)), "state.json", "negative");
    CHECK_REFUSED(read(R"({"position": {"index": -1}})"), "state.json", "\"index\"", "0 or more");
    CHECK_REFUSED(read(R"({"position": {"epoch": "1"}})"), "state.json", "\"epoch\"");
    for (const char* update : {"6", "-1"})
        CHECK_REFUSED(read(fmt::format(R"({{"rounded_at": {}}})", update)), "\"rounded_at\"", "0 to the step, 5");
    CHECK_REFUSED(read(R"({"context": -16})"), "\"context\" is -16");
}
