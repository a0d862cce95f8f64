// params.h - the parameter table: name, shape, initial value and decay of every weight, stated once
//
// Allocate, initialise, load, save, decay, count, compare: each is one walk over each_param(). Adding a weight is
// adding a row. Names are ours; families.h has what other programs call them.
#pragma once
#include <fmt/format.h>

#include <string>
#include <vector>

#include "gpt/config.h"
#include "kernels/device.h"
#include "kernels/random.h"

struct Block {
    Tensor ln1_w, ln1_b, qkv_w, qkv_b, proj_w, proj_b;  // (C) (C) (3C,C) (3C) (C,C) (C)
    Tensor ln2_w, ln2_b, up_w, up_b, down_w, down_b;    // (C) (C) (F,C) (F) (C,F) (C)
};
struct Params {
    Tensor wte, wpe;  // (Vp,C) (context,C)
    std::vector<Block> block;
    Tensor lnf_w, lnf_b, head_w, head_b;  // (C) (C) (Vp,C) (Vp); head_w is wte when the head is tied
};

// Initial values: a constant, or N(0, std²).
struct Start {
    enum Kind { constant, normal } kind;
    float value;
};

// row(tensor, name, shape, start, decays) for every weight that the model owns, in the order of the forward pass.
// clang-format off
template <class P, class Row> void each_param(P& p, const Config& c, Row row) {
    const int64_t C = c.width, F = c.feed_forward, Vp = c.padded_vocab();
    const bool    neox = c.initial_weights == InitialWeights::neox;
    const float   small = neox ? std::sqrt(2.f / (5.f * C)) : 0.02f;
    const float   into_residual = neox ? 2.f / (c.layers * std::sqrt(float(C))) : 0.02f / std::sqrt(2.f * c.layers);
    const Start   zero{Start::constant, 0.f}, one{Start::constant, 1.f};
    const Start   std{Start::normal, small}, res{Start::normal, into_residual};   // res: writes into the residual stream
    p.block.resize(c.layers);

    //  tensor          name                shape          start  decays
    row(p.wte,          "wte.weight",       Shape{Vp, C},  std,   true );
    if (c.learned_positions)
    row(p.wpe,          "wpe.weight",       Shape{c.context, C}, std, true );
    for (int64_t l = 0; l < c.layers; l++) {
        Block& b = p.block[l];
        const auto in = [&](const char* leaf) { return fmt::format("h.{}.{}", l, leaf); };
        row(b.ln1_w,  in("ln1.weight"),     Shape{C},        one,  false);
        row(b.ln1_b,  in("ln1.bias"),       Shape{C},        zero, false);
        row(b.qkv_w,  in("qkv.weight"),     Shape{3 * C, C}, std,  true );
        if (c.qkv_bias)
        row(b.qkv_b,  in("qkv.bias"),       Shape{3 * C},    zero, false);
        row(b.proj_w, in("proj.weight"),    Shape{C, C},     res,  true );
        if (c.proj_bias)
        row(b.proj_b, in("proj.bias"),      Shape{C},        zero, false);
        if (!c.shared_norm)
        row(b.ln2_w,  in("ln2.weight"),     Shape{C},        one,  false);
        if (!c.shared_norm)
        row(b.ln2_b,  in("ln2.bias"),       Shape{C},        zero, false);
        row(b.up_w,   in("up.weight"),      Shape{F, C},     std,  true );
        row(b.up_b,   in("up.bias"),        Shape{F},        zero, false);
        row(b.down_w, in("down.weight"),    Shape{C, F},     res,  true );
        row(b.down_b, in("down.bias"),      Shape{C},        zero, false);
    }
    row(p.lnf_w,        "lnf.weight",       Shape{C},      one,   false);
    row(p.lnf_b,        "lnf.bias",         Shape{C},      zero,  false);
    if (!c.tied_head)
    row(p.head_w,       "head.weight",      Shape{Vp, C},  std,   true );
    if (c.head_bias)
    row(p.head_b,       "head.bias",        Shape{Vp},     zero,  false);
}
// clang-format on

// Weights that are other weights under a second name. Gradients are +=, so both uses add up by themselves.
inline void alias_params(Params& p, const Config& c) {
    if (c.tied_head) p.head_w = p.wte;
    if (c.shared_norm)
        for (Block& b : p.block) b.ln2_w = b.ln1_w, b.ln2_b = b.ln1_b;
}

// The same rows as a list, for walks over several sets of weights side by side.
struct ParamRow {
    Tensor* tensor;
    std::string name;
    Shape shape;
    Start start;
    bool decays;
};
inline std::vector<ParamRow> param_rows(Params& p, const Config& c) {
    std::vector<ParamRow> rows;
    each_param(p, c, [&](Tensor& t, const std::string& name, const Shape& s, Start start, bool decays) {
        rows.push_back({&t, name, s, start, decays});
    });
    return rows;
}

// The table with memory behind it: every tensor in one dtype, zero-filled, in one block.
inline Params allocate_params(Arena& arena, const Config& c, DType dtype, const Device& device) {
    Params p;
    const auto rows = param_rows(p, c);
    for (const ParamRow& r : rows) arena.plan(r.shape, dtype);
    arena.allocate(device);
    for (const ParamRow& r : rows) *r.tensor = arena.take(r.shape, dtype);
    alias_params(p, c);
    return p;
}

// A weight's shape without the padding of the vocabulary: the tables with a row per id have config.vocab rows that
// count, and the ones behind them stay zero.
inline Shape unpadded(const Config& c, const ParamRow& r) {
    Shape s = r.shape;
    if (r.name == "wte.weight" || r.name == "head.weight" || r.name == "head.bias") s.dim[0] = c.vocab;
    return s;
}

// The number published for a model: every weight once, padding left out.
inline int64_t count_params(const Config& c) {
    Params p;
    int64_t n = 0;
    for (const ParamRow& r : param_rows(p, c)) n += unpadded(c, r).numel();
    return n;
}

// Values for a fresh model. The random stream is keyed by the weight's name, so it depends on no other weight.
inline void initialise_params(Params& p, const Config& c, uint64_t seed, Stream s) {
    for (const ParamRow& r : param_rows(p, c)) {
        const int64_t n = unpadded(c, r).numel();
        std::vector<float> values(r.shape.numel(), r.start.kind == Start::constant ? r.start.value : 0.f);
        if (r.start.kind == Start::normal) {
            const Random random(seed, "initialise " + r.name);
#pragma omp parallel for schedule(static)
            for (int64_t i = 0; i < n; i += 4096)
                random.fill_normal(values.data() + i, i, std::min<int64_t>(4096, n - i), r.start.value);
        }
        from_host(*r.tensor, values, s);
    }
}
