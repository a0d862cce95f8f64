// params.h - the parameter table, which states once the name, shape, initial value and other facts of every weight
//
// Allocating, initialising, loading, saving, updating and counting weights are loops over param_rows(). To add a
// weight, add a row. Names are ours; families.h holds the names of other programs.
#pragma once
#include <fmt/format.h>

#include <string>
#include <vector>

#include "gpt/config.h"
#include "kernels/arena.h"
#include "kernels/host.h"
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

// Initial values: a constant, or N(0, value²).
struct Initializer {
    enum Kind { constant, normal } kind;
    float value;
};

// The kinds of weights, for an optimizer that treats them differently (Muon).
enum class Update : uint8_t {
    matrix,  // a hidden matrix (out, in), from one activation to another
    table,   // a row per token or position, the head included
    vector,  // norms and biases
};

struct ParamRow {
    Tensor* tensor;
    std::string name;
    Shape shape;
    Initializer initial;
    DType dtype;  // the dtype of the model's tensor
    Update update;
    bool decays;    // weight decay applies
    bool per_id;    // has a row per token id: rows from config.vocab on are padding, and stay zero
    int parts = 1;  // independent matrices that lie behind each other in the rows: q, k and v
};

// Every weight that the model owns, in the order of the forward pass. dtype is that of the model.
// clang-format off
inline std::vector<ParamRow> param_rows(Params& p, const Config& c, DType dtype = DType::F32) {
    using In = Initializer;
    const int64_t C = c.width, F = c.feed_forward, Vp = c.padded_vocab();
    const bool    neox = c.initial_weights == InitialWeights::neox;
    const float   small = neox ? std::sqrt(2.f / (5.f * C)) : 0.02f;
    const float   into_residual = neox ? 2.f / (c.layers * std::sqrt(float(C))) : 0.02f / std::sqrt(2.f * c.layers);
    const In      zero{In::constant, 0.f}, one{In::constant, 1.f};
    const In      std{In::normal, small}, res{In::normal, into_residual};   // res: writes into the residual stream
    const Update  matrix = Update::matrix, table = Update::table, vector = Update::vector;
    const DType   t = dtype;
    std::vector<ParamRow> rows;
    const auto row = [&](Tensor& tensor, const std::string& name, const Shape& shape, In initial, DType kept, Update update,
                         bool decays, bool per_id, int parts = 1) {
        rows.push_back({&tensor, name, shape, initial, kept, update, decays, per_id, parts});
    };
    p.block.resize(c.layers);

    //  tensor          name                shape            initial  dtype  update  decays  per id  parts
    row(p.wte,          "wte.weight",       Shape{Vp, C},    std,     t,     table,  true,   true );
    if (c.learned_positions)
    row(p.wpe,          "wpe.weight",       Shape{c.context, C}, std, t,     table,  true,   false);
    for (int64_t l = 0; l < c.layers; l++) {
        Block& b = p.block[l];
        const auto in = [&](const char* leaf) { return fmt::format("h.{}.{}", l, leaf); };
        row(b.ln1_w,  in("ln1.weight"),     Shape{C},        one,     t,     vector, false,  false);
        row(b.ln1_b,  in("ln1.bias"),       Shape{C},        zero,    t,     vector, false,  false);
        row(b.qkv_w,  in("qkv.weight"),     Shape{3 * C, C}, std,     t,     matrix, true,   false,  3);
        if (c.qkv_bias)
        row(b.qkv_b,  in("qkv.bias"),       Shape{3 * C},    zero,    t,     vector, false,  false);
        row(b.proj_w, in("proj.weight"),    Shape{C, C},     res,     t,     matrix, true,   false);
        if (c.proj_bias)
        row(b.proj_b, in("proj.bias"),      Shape{C},        zero,    t,     vector, false,  false);
        if (!c.shared_norm)
        row(b.ln2_w,  in("ln2.weight"),     Shape{C},        one,     t,     vector, false,  false);
        if (!c.shared_norm)
        row(b.ln2_b,  in("ln2.bias"),       Shape{C},        zero,    t,     vector, false,  false);
        row(b.up_w,   in("up.weight"),      Shape{F, C},     std,     t,     matrix, true,   false);
        row(b.up_b,   in("up.bias"),        Shape{F},        zero,    t,     vector, false,  false);
        row(b.down_w, in("down.weight"),    Shape{C, F},     res,     t,     matrix, true,   false);
        row(b.down_b, in("down.bias"),      Shape{C},        zero,    t,     vector, false,  false);
    }
    row(p.lnf_w,        "lnf.weight",       Shape{C},        one,     t,     vector, false,  false);
    row(p.lnf_b,        "lnf.bias",         Shape{C},        zero,    t,     vector, false,  false);
    if (!c.tied_head)
    row(p.head_w,       "head.weight",      Shape{Vp, C},    std,     t,     table,  true,   true );
    if (c.head_bias)
    row(p.head_b,       "head.bias",        Shape{Vp},       zero,    t,     vector, false,  true );
    return rows;
}
// clang-format on

// Some weights are others under a second name; this gives them the same tensor. Both uses add to its gradient. In the
// backward pass one use comes first (the head, the second norm): it sets or adds as the micro-batch asks. The other
// always adds.
inline void alias_params(Params& p, const Config& c) {
    if (c.tied_head) p.head_w = p.wte;
    if (!c.shared_norm) return;
    for (Block& b : p.block) {
        b.ln2_w = b.ln1_w;
        b.ln2_b = b.ln1_b;
    }
}

// Allocates a zero tensor for each row of the table, all in one block of memory. Rows for which has(row) is false keep
// a null tensor.
using HasRow = bool (*)(const ParamRow&);
inline bool every_row(const ParamRow&) { return true; }
inline int64_t plan_params(Arena& arena, const Config& c, DType dtype, HasRow has = every_row) {
    Params shapes;
    for (const ParamRow& r : param_rows(shapes, c, dtype))
        if (has(r)) arena.plan(r.shape, r.dtype);
    return arena.bytes();
}
inline Params allocate_params(Arena& arena, const Config& c, DType dtype, const Device& device,
                              HasRow has = every_row) {
    plan_params(arena, c, dtype, has);
    arena.allocate(device);
    Params p;
    for (const ParamRow& r : param_rows(p, c, dtype))
        if (has(r)) *r.tensor = arena.take(r.shape, r.dtype);
    alias_params(p, c);
    return p;
}

// A weight's shape without the padding of the vocabulary.
inline Shape unpadded(const Config& c, const ParamRow& r) {
    Shape s = r.shape;
    if (r.per_id) s.dim[0] = c.vocab;
    return s;
}

// Returns the number of parameters as it is published: it counts every weight once, without padding.
inline int64_t count_params(const Config& c) {
    Params p;
    int64_t n = 0;
    for (const ParamRow& r : param_rows(p, c)) n += unpadded(c, r).numel();
    return n;
}

// Gives a new model its weights. Each random stream is keyed by the weight's name, so it depends on no other weight,
// and every number by its place, so all threads draw at once and write where the weights belong.
inline void initialise_params(Params& p, const Config& c, uint64_t seed, Stream s) {
    for (const ParamRow& r : param_rows(p, c)) {
        const Tensor t      = *r.tensor;
        const bool random   = r.initial.kind == Initializer::normal;
        const int64_t drawn = random ? unpadded(c, r).numel() : 0;  // padding is zero
        const Random stream(seed, "initialise " + r.name);
        const auto fill = [&](void* out, int64_t first, int64_t count) {
            host::parallel_ranges(count, 4096, [&](int64_t begin, int64_t end) {
                float values[1024];
                for (int64_t at = begin, n; at < end; at += n) {
                    n               = std::min<int64_t>(1024, end - at);
                    const int64_t k = std::clamp<int64_t>(drawn - first - at, 0, n);
                    stream.fill_normal(values, uint64_t(first + at), uint64_t(k), r.initial.value);
                    std::fill(values + k, values + n, random ? 0.f : r.initial.value);
                    copy(Tensor{static_cast<char*>(out) + at * size_of(t.dtype), t.dtype, {n}},
                         Tensor{values, DType::F32, {n}}, Stream{});
                }
            });
        };
        from_host(t, fill, s);
    }
}
