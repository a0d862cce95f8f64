// golden.h - the models in test/golden (test/make_golden.py), a smaller one, and what runs them on batches
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "gpt/generate.h"
#include "gpt/hf.h"
#include "gpt/presets.h"
#include "test/close.h"
#include "test/update.h"

// A model of either form of block, with odd sizes, and small enough for finite differences.
inline Config tiny_config(int64_t context, int64_t vocab, bool neox = false) {
    Config c       = config_of(*find_preset(neox ? "nano-neox" : "nano"));
    c.layers       = 2;
    c.width        = 12;
    c.heads        = 2;
    c.feed_forward = 20;
    c.context      = context;
    c.vocab        = vocab;
    if (neox) c.rope.dim = 4;
    c.check();
    return c;
}

// Sets random weights. The default of `std` is so large that every weight matters, those of biases and norms too.
inline void scatter(Params& p, const Config& c, Stream s, float std = 0.3f) {
    for (const ParamRow& r : param_rows(p, c)) {
        std::vector<float> v(r.shape.numel(), 0.f);
        const int64_t n = unpadded(c, r).numel();
        Random(7, r.name).fill_normal(v.data(), 0, n, std);
        for (int64_t i = 0; i < n; i++) v[i] += r.initial.kind == Initializer::constant ? r.initial.value : 0.f;
        from_host(*r.tensor, v, s);
    }
}

inline std::vector<std::string> golden_names() {
    return {"gpt2",          "gpt2_odd",
            "gpt_neo",       "gptj",
            "gpt_neox",      "gpt_neox_sequential",
            "gpt_neox_tied", "gpt_neox_sequential_untied"};
}

inline std::vector<float> floats_of(const SafetensorsReader& f, const std::string& name) {
    const StoredTensor& t = f.at(name);
    std::vector<float> v(t.shape.numel());
    t.read_into(v.data());
    return v;
}
inline std::vector<int32_t> ids_of(const SafetensorsReader& f, const std::string& name) {
    const StoredTensor& t = f.at(name);
    std::vector<int32_t> v(t.shape.numel());
    REQUIRE(t.dtype == "I32");
    std::memcpy(v.data(), t.data, t.bytes);
    return v;
}
// The gradient of one of our weights in our layout, padding included.
inline std::vector<float> golden_gradient(const SafetensorsReader& golden, const Config& c, const ParamRow& r) {
    const HfWeight weight = hf_weights(c).at(r.name);
    std::vector<float> theirs, ours(r.shape.numel());
    for (const std::string& name : weight.names) {
        // transformers 5 calls NeoX's head lm_head in memory, and still embed_out in files
        const bool renamed = !golden.find("grad." + name) && r.name == "head.weight";
        const auto piece   = floats_of(golden, "grad." + (renamed ? "lm_head.weight" : name));
        theirs.insert(theirs.end(), piece.begin(), piece.end());
    }
    REQUIRE(int64_t(theirs.size()) == weight.ours.numel());
    to_our_layout(ours.data(), theirs.data(), c, weight.ours, weight.layout);
    return ours;
}

inline double largest_of(const std::vector<float>& x) {
    double most = 0;
    for (float v : x) most = std::max(most, std::fabs(double(v)));
    return most;
}
inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
    REQUIRE(a.size() == b.size());
    double most = 0;
    for (size_t i = 0; i < a.size(); i++) {
        const double off = std::fabs(double(a[i]) - b[i]);
        if (!(off <= most)) most = off;  // also true for a NaN
    }
    return most;
}

// ids (B, T + 1) as the tokens and targets of a batch
struct HostBatch {
    std::vector<int32_t> tokens, targets;
    Batch batch;
    HostBatch(const int32_t* ids, int64_t B, int64_t T) {
        for (int64_t b = 0; b < B; b++)
            for (int64_t t = 0; t < T; t++) {
                tokens.push_back(ids[b * (T + 1) + t]);
                targets.push_back(ids[b * (T + 1) + t + 1]);
            }
        batch = {{tokens.data(), DType::I32, {B, T}}, {targets.data(), DType::I32, {B, T}}};
    }
};
// The mean loss of a batch, without gradients.
inline float loss_of(Model& m, const Batch& batch) {
    const Batch& there = m.feed.bring(batch);
    zero(m.acts.loss, m.stream);
    forward(m, there, Keep::results);
    head(m, there, m.acts.loss, 1.f / float(m.shape.rows()));
    return read_scalar(m.acts.loss, m.stream);
}
inline float loss_and_gradients(Model& m, const Batch& batch) {
    const Batch& there = m.feed.bring(batch);
    zero(m.acts.loss, m.stream);
    forward(m, there, Keep::for_backward);
    head(m, there, m.acts.loss, 1.f / float(m.shape.rows()), Into::set);
    backward(m, there, Into::set);
    return read_scalar(m.acts.loss, m.stream);
}
// Does update `step` (0 for the first) with the gradients and the loss that the model holds. Returns the gradient norm.
inline float update(Model& m, Optimizer& optimizer, const Schedule& schedule, int64_t step) {
    const UpdateInputs inputs(m, optimizer, schedule, step);
    inputs.update(m, optimizer);
    return std::sqrt(read_scalar(inputs.norm2, m.stream));
}
// (B, T, vocab), through a cache. `step` tokens go in at a time; 0: all.
inline std::vector<float> logits_of(Model& m, const std::vector<int32_t>& ids, int64_t B, int64_t T, int64_t step = 0) {
    std::vector<float> all;
    const auto append = [&](int64_t, const float* row) { all.insert(all.end(), row, row + m.config.vocab); };
    for (int64_t b = 0; b < B; b++) {
        Generator g(m, 1, T);
        const auto first = ids.begin() + b * (T + 1);
        for (int64_t t = 0, n = step ? step : T; t < T; t += n)
            g.feed_all({first + t, first + std::min(T, t + n)}, append);
    }
    return all;
}
