// model.h - the activation table, the block that every family shares, and a model's functions forward, head, backward
//
// forward() runs the trunk: embedding, blocks, final norm. head() turns the final norm into logits, losses and their
// gradients, a chunk of rows at a time. backward() computes the gradients of the trunk. Training, evaluation and
// generation all run the same forward() and head().
#pragma once
#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/loader.h"
#include "gpt/batch_feed.h"
#include "gpt/config.h"
#include "gpt/params.h"
#include "gpt/shards.h"
#include "kernels/dropout.h"
#include "kernels/ops.h"
#include "kernels/threads.h"

// ---- the activation table -----------------------------------------------------------------------------------------

enum class Lives : uint8_t {
    per_layer,  // kept for the backward pass, one per layer, or one for all layers in a model that does not train
    shared,     // the next layer overwrites it
    backward,   // shared, and allocated only in a model that trains
    never,      // the model lacks it
};

// What the backward pass computes again, because the forward pass did not keep it. Each level includes those before it.
// The same ops see the same inputs, so recomputing changes no bit of a result, but for what repeats_gelu() says.
enum class Recompute : uint8_t {
    none,
    gelu,   // act, from up
    norm,   // both normalised inputs, from the residual stream and the kept means and deviations
    block,  // everything but the block's input
};
// Whether the backward pass computes `act` again, from the rounded `up`. The forward pass then computes it from the
// rounded `up` too. At the other levels the product of `up` may end in gelu, which a GPU in bf16 computes from sums
// that are not rounded yet.
inline bool repeats_gelu(Recompute level) { return level == Recompute::gelu || level == Recompute::norm; }

struct BlockActs {
    Tensor x, ln1, mean1, rstd1, qkv, att, lse, proj, mid, ln2, mean2, rstd2, up, act, down;
    Tensor dup, dln, datt, dqkv;
};
struct Acts {
    std::vector<BlockActs> block;
    Tensor x, lnf, mean, rstd;  // x: the last block's output, which the final norm reads
    Tensor logits, losses, loss;
    Tensor dlnf, dres;
};

// The sizes that a run chooses. All others follow from the Config.
struct BatchShape {
    int64_t batch = 1, context = 1;
    bool train          = true;  // false: there are no gradients, and activations are not kept
    Recompute recompute = Recompute::none;
    int64_t logits_mib  = 64;  // memory of the logits, which does not grow with the batch
    DropoutRates dropout{};    // the rates of training, for the time model
    int64_t rows() const { return batch * context; }
};

// The head computes the logits of this many rows at a time: as many as fit into logits_mib, but at least 64.
inline int64_t logits_rows(const Config& c, const BatchShape& shape, DType dtype) {
    const int64_t fit = (shape.logits_mib << 20) / (c.padded_vocab() * size_of(dtype));
    return std::min(shape.rows(), std::max<int64_t>(64, fit / 64 * 64));
}

struct BlockActRow {
    Tensor BlockActs::*tensor;
    const char* name;
    Shape shape;
    DType dtype;
    Lives lives;
};
// clang-format off
inline std::vector<BlockActRow> block_act_rows(const Config& c, const BatchShape& shape, DType dtype) {
    const int64_t B = shape.batch, T = shape.context, N = B * T, C = c.width, F = c.feed_forward, H = c.heads, D = c.head_size();
    const DType   t = dtype, f = DType::F32;
    using A         = BlockActs;
    const auto  kept_below = [&](Recompute level) { return shape.recompute < level ? Lives::per_layer : Lives::shared; };
    const Lives kept = Lives::per_layer, gelu = kept_below(Recompute::gelu), norm = kept_below(Recompute::norm),
                block = kept_below(Recompute::block), norm2 = c.shared_norm ? Lives::never : norm,
                sequential = c.parallel ? Lives::never : block;
    return {
        {&A::x,     "x",     {N, C},          t, kept},    // the residual stream as it enters
        {&A::ln1,   "ln1",   {N, C},          t, norm},
        {&A::mean1, "mean1", {N},             f, block},
        {&A::rstd1, "rstd1", {N},             f, block},
        {&A::qkv,   "qkv",   {B, T, 3, H, D}, t, block},   // q and k after rotation
        {&A::att,   "att",   {B, T, H, D},    t, block},
        {&A::lse,   "lse",   {B, H, T},       f, block},
        {&A::proj,  "proj",  {N, C},          t, Lives::shared},
        {&A::mid,   "mid",   {N, C},          t, sequential},  // the residual stream after attention
        {&A::ln2,   "ln2",   {N, C},          t, norm2},       // ln1 when one norm feeds both branches
        {&A::mean2, "mean2", {N},             f, sequential},  // mean1 and rstd1 in a parallel block, whose norms
        {&A::rstd2, "rstd2", {N},             f, sequential},  // are both of x
        {&A::up,    "up",    {N, F},          t, block},
        {&A::act,   "act",   {N, F},          t, gelu},
        {&A::down,  "down",  {N, C},          t, Lives::shared},
        {&A::dup,   "dup",   {N, F},          t, Lives::backward},
        {&A::dln,   "dln",   {N, C},          t, Lives::backward},
        {&A::datt,  "datt",  {B, T, H, D},    t, Lives::backward},
        {&A::dqkv,  "dqkv",  {B, T, 3, H, D}, t, Lives::backward},
    };
}
// clang-format on

struct ActRow {
    Tensor Acts::*tensor;
    const char* name;
    Shape shape;
    DType dtype;
    Lives lives;
};
// clang-format off
inline std::vector<ActRow> act_rows(const Config& c, const BatchShape& shape, DType dtype) {
    const int64_t N = shape.rows(), C = c.width, R = logits_rows(c, shape, dtype);
    const DType   t = dtype, f = DType::F32;
    return {
        {&Acts::x,          "x",          {N, C},                 t, Lives::shared},
        {&Acts::lnf,        "lnf",        {N, C},                 t, Lives::shared},
        {&Acts::mean,       "mean",       {N},                    f, Lives::shared},
        {&Acts::rstd,       "rstd",       {N},                    f, Lives::shared},
        {&Acts::logits,     "logits",     {R, c.padded_vocab()},  t, Lives::shared},
        {&Acts::losses,     "losses",     {N},                    f, Lives::shared},
        {&Acts::loss,       "loss",       {1},                    f, Lives::shared},     // the scaled sum over all rows
        {&Acts::dlnf,       "dlnf",       {N, C},                 t, Lives::backward},
        {&Acts::dres,       "dres",       {N, C},                 t, Lives::backward},   // gradient of the residual stream
    };
}
// clang-format on

// Fills both tables. take(shape, dtype) returns a tensor with memory of its own. A tensor that layers share is taken
// once, for layer 0.
template <class Take>
void each_activation(Acts& a, const Config& c, const BatchShape& shape, DType dtype, Take take) {
    a.block.resize(c.layers);
    for (int64_t l = 0; l < c.layers; l++)
        for (const BlockActRow& r : block_act_rows(c, shape, dtype)) {
            if ((r.lives == Lives::backward && !shape.train) || r.lives == Lives::never) continue;
            const bool own       = l == 0 || (r.lives == Lives::per_layer && shape.train);
            a.block[l].*r.tensor = own ? take(r.shape, r.dtype) : a.block[0].*r.tensor;
        }
    for (BlockActs& b : a.block) {
        if (c.parallel) b.mean2 = b.mean1, b.rstd2 = b.rstd1;
        if (c.shared_norm) b.ln2 = b.ln1;
    }
    for (const ActRow& r : act_rows(c, shape, dtype))
        if (shape.train || r.lives != Lives::backward) a.*r.tensor = take(r.shape, r.dtype);
}

inline int64_t plan_activations(Arena& arena, const Config& c, const BatchShape& shape, DType dtype) {
    Acts a;
    each_activation(a, c, shape, dtype, [&](const Shape& s, DType t) {
        arena.plan(s, t);
        return Tensor{};
    });
    return arena.bytes();
}
inline Acts allocate_activations(Arena& arena, const Config& c, const BatchShape& shape, DType dtype,
                                 const Device& device) {
    plan_activations(arena, c, shape, dtype);
    arena.allocate(device);
    Acts a;
    each_activation(a, c, shape, dtype, [&](const Shape& s, DType t) { return arena.take(s, t); });
    return a;
}

// ---- dropout --------------------------------------------------------------------------------------------------------

struct BlockDropout {
    Dropout probabilities;   // drops weights of attention (kernels/dropout.h)
    Dropout attention, mlp;  // drop elements of each branch's output
    Dropout below;           // drops the same in what feeds the block: the MLP of the layer below, or the embedding
};
// Every place of a model has its own masks.
struct ModelDropout {
    DropoutRates rates;
    uint64_t key = 0;  // the others as in Dropout
    Tensor step{};
    int64_t first = 0;

    Dropout embedding() const { return at(rates.embedding, 0); }
    BlockDropout block(int64_t layer) const {
        return {at(rates.attention, layer), at(rates.residual, 1 + 2 * layer), mlp(layer),
                layer ? mlp(layer - 1) : embedding()};
    }

  private:
    Dropout mlp(int64_t layer) const { return at(rates.residual, 2 + 2 * layer); }
    Dropout at(float rate, int64_t place) const { return {rate, key, step, first, uint32_t(place)}; }
};

// ---- the model ----------------------------------------------------------------------------------------------------

struct Model {
    Config config;
    DType dtype;
    BatchShape shape;
    const Device* device;
    Stream stream;
    ParamLayout layout;
    ParamMemory weight_memory{"weights"}, grad_memory{"gradients"};
    Arena act_memory{"activations"};
    Params params, grads;
    Tensor all_grads;  // every gradient as one flat tensor; null where this process keeps slices of them
    std::unique_ptr<Shards> shards;
    Acts acts;
    BatchFeed feed;        // brings batches of evaluation to the device
    ModelDropout dropout;  // selects the masks of this micro-step
    // In inference it is called with the residual stream x (N,C) after the embedding (layer 0) and after each block
    // (layers 1 to L). It returns whether it changed x. Its work must be on the model's stream.
    std::function<bool(int64_t layer, Tensor x)> observe;

    // Weights are zero until initialise_params() or load_weights() fills them. group: the processes that train
    // together, null for one that is alone.
    Model(const Config& c, DType dtype, const BatchShape& shape, const Device& d, Collective* group = nullptr,
          const Sharding& sharding = {})
        : config(c),
          dtype(dtype),
          shape(shape),
          device(&d),
          stream(d.stream()),
          layout(param_layout(c, sharding)),
          feed(d, feed_capacity(shape)) {
        c.check();
        CHECK_CALL(shape.batch > 0 && shape.context > 0, "--batch {} and --context {} must be positive", shape.batch,
                   shape.context);
        CHECK(!c.learned_positions || shape.context <= c.context,
              "--context {}: {} has learned positions for {} tokens; use --context {} or less", shape.context, c.name,
              c.context, c.context);
        params = weight_memory.allocate(c, layout, dtype, sharding.cuts(ShardLevel::weights), d);
        if (shape.train) {
            grads     = grad_memory.allocate(c, layout, DType::F32, sharding.cuts(ShardLevel::gradients), d);
            all_grads = grad_memory.all();
        }
        shards = std::make_unique<Shards>(group, layout, weight_memory, grad_memory, d);
        acts   = allocate_activations(act_memory, c, shape, dtype, d);
    }
    static BatchFeed::Capacity feed_capacity(const BatchShape& shape) { return {shape.rows()}; }
    Model(const Model&)            = delete;
    Model& operator=(const Model&) = delete;
};

// Gives a new model its weights, or this process its parts of them.
inline void initialise_weights(Model& m, uint64_t seed) {
    if (!m.weight_memory.sliced()) return initialise_params(m.params, m.config, seed, m.stream);
    const auto rows = param_rows(m.params, m.config);
    for (const ParamPart& p : param_parts(rows, m.layout, m.layout.sharding.rank, true))
        initialise(m.weight_memory.part(p), rows[p.row], p.first, m.config, seed, m.stream);
}

// The layernorms of the residual stream.
inline Norm first_norm(const Block& w, const BlockActs& a) { return {a.ln1, a.mean1, a.rstd1, w.ln1_w, w.ln1_b}; }
inline Norm second_norm(const Block& w, const BlockActs& a) { return {a.ln2, a.mean2, a.rstd2, w.ln2_w, w.ln2_b}; }
// All norms of a block's input: in a parallel block they are the first and, unless it is the same, the second.
inline Norm input_norms(const Block& w, const BlockActs& a, const Config& c) {
    Norm norms = first_norm(w, a);
    if (c.parallel && !c.shared_norm) norms.second = {a.ln2, w.ln2_w, w.ln2_b};
    return norms;
}
inline Norm final_norm(const Params& w, const Acts& a) { return {a.lnf, a.mean, a.rstd, w.lnf_w, w.lnf_b}; }

inline void normalise(const Norm& n, Tensor x, const Config& c, Stream s) {
    layernorm_forward(n.out, n.mean, n.rstd, x, n.w, n.b, c.norm_eps, s, n.second);
}
// Computes sum = x + the branches, with dropout of each, and its norm in one pass over memory.
inline void add_and_normalise(Tensor sum, const Norm& n, Tensor x, const Addend& branch, const Config& c, Stream s,
                              const Addend& other = {}) {
    add_layernorm_forward(sum, n.out, n.mean, n.rstd, x, branch, n.w, n.b, c.norm_eps, s, other, n.second);
}

// Runs one block on a.x, whose input_norms() have been computed. It writes out, and next(): the norms of out that the
// next block or the head reads. attend(a) rotates the queries and keys of a.qkv and computes a.att, over the batch
// itself or over a cache of keys and values. `train` is the level of recomputation of the backward pass that follows.
// Without one, tensors that only the backward pass needs are not written. When out is null, the block stops after the
// last tensor that the backward pass needs.
template <class Next, class Attend>
void block_forward(Tensor out, Next next, const Block& w, BlockActs& a, const Config& c, std::optional<Recompute> train,
                   Stream s, Attend attend, const BlockDropout& drop = {}) {
    const int64_t N = a.x.shape[0], C = c.width;
    // qkv: queries, keys and values of every token
    matmul_forward(a.qkv.view({N, 3 * C}), a.ln1, w.qkv_w, w.qkv_b, s);
    // attention: every token gathers the values of the tokens that it sees
    attend(a);
    // projection, and back into the residual stream. The one structural choice: the MLP of a sequential block reads the
    // stream after attention, that of a parallel block the block's input, and both branches are added at the end.
    if (out || !c.parallel) matmul_forward(a.proj, a.att.view({N, C}), w.proj_w, w.proj_b, s);
    const Addend attention{a.proj, drop.attention}, mlp{a.down, drop.mlp};
    if (!c.parallel) add_and_normalise(a.mid, second_norm(w, a), a.x, attention, c, s);
    // MLP: up, gelu, down, and into the residual stream again
    if (train && repeats_gelu(*train)) {
        matmul_forward(a.up, a.ln2, w.up_w, w.up_b, s);
        gelu_forward(a.act, a.up, c.gelu, s);
    } else {
        matmul_gelu_forward(a.act, train ? a.up : Tensor{}, a.ln2, w.up_w, w.up_b, c.gelu, s);
    }
    if (!out) return;
    matmul_forward(a.down, a.act, w.down_w, w.down_b, s);
    if (c.parallel)
        add_and_normalise(out, next(), a.x, attention, c, s, mlp);
    else
        add_and_normalise(out, next(), a.mid, mlp, c, s);
}

// The same for a few rows, as generation has them, without what the backward pass needs and without the norms of out.
// On a GPU a block is then five kernels: each norm is part of the product that reads it, and each residual sum part of
// the product whose result it adds.
template <class Attend>
void block_of_few_rows(Tensor out, const Block& w, BlockActs& a, const Config& c, Stream s, Attend attend) {
    const int64_t N = a.x.shape[0], C = c.width;
    const Tensor mid = c.parallel ? a.proj : a.mid;
    norm_matmul_forward(a.qkv.view({N, 3 * C}), first_norm(w, a), a.x, w.qkv_w, w.qkv_b, {}, c.norm_eps, s);
    attend(a);
    matmul_add_forward(mid, a.x, a.att.view({N, C}), w.proj_w, w.proj_b, s);
    norm_matmul_forward(a.act, second_norm(w, a), c.parallel ? a.x : mid, w.up_w, w.up_b, c.gelu, c.norm_eps, s);
    matmul_add_forward(out, mid, a.act, w.down_w, w.down_b, s);
}

// Computes again what the layers after this one have overwritten.
template <class Attend>
void block_recompute(Recompute level, const Block& w, BlockActs& a, const Config& c, Stream s, Attend attend,
                     const BlockDropout& drop = {}) {
    if (level >= Recompute::norm) normalise(input_norms(w, a, c), a.x, c, s);
    if (level == Recompute::block)
        return block_forward(
            Tensor{}, [] { return Norm{}; }, w, a, c, level, s, attend, drop);
    if (level >= Recompute::norm && !c.parallel) normalise(second_norm(w, a), a.mid, c, s);
    if (repeats_gelu(level)) gelu_forward(a.act, a.up, c.gelu, s);
}

// dres (N,C) arrives as the gradient of the block's output and leaves as the gradient of its input, to which each
// branch adds its share. With dropout, a.down holds the gradient of a branch's output, which is dres with the branch's
// mask: the layernorm that completes dres writes it, also for the layer below.
inline void block_backward(Tensor dres, Block& g, const Block& w, BlockActs& a, const Batch& batch, const Config& c,
                           int64_t layer, Into grads, Stream s, const BlockDropout& drop = {}) {
    const int64_t N = a.x.shape[0], C = c.width;
    const Tensor of_mlp       = drop.mlp.rate > 0 ? a.down : dres;
    const Tensor of_attention = drop.attention.rate > 0 ? a.down : dres;
    matmul_gelu_backward(a.dup, g.down_w, g.down_b, of_mlp, a.act, w.down_w, a.up, c.gelu, grads, s);
    matmul_backward(a.dln, g.up_w, g.up_b, a.dup, a.ln2, w.up_w, grads, s);
    const auto mlp_branch = [&](Tensor x, const Dropout& next) {
        layernorm_backward(dres, g.ln2_w, g.ln2_b, a.dln, x, w.ln2_w, a.mean2, a.rstd2, grads, s, next, a.down);
    };
    if (!c.parallel)
        mlp_branch(a.mid, drop.attention);
    else if (drop.attention.rate > 0)
        dropout(a.down, dres, drop.attention, s);  // dres is that of both branches
    matmul_backward(a.datt.view({N, C}), g.proj_w, g.proj_b, of_attention, a.att.view({N, C}), w.proj_w, grads, s);
    attention_backward(a.dqkv, a.datt, a.att, a.lse, a.qkv, batch.starts, c.attn_scale(layer), c.window(layer), s,
                       drop.probabilities);
    rope_backward(a.dqkv, batch.positions, c.rope, s);
    if (c.parallel) mlp_branch(a.x, {});  // dres has been read above, and dln is overwritten below
    matmul_backward(a.dln, g.qkv_w, g.qkv_b, a.dqkv.view({N, 3 * C}), a.ln1, w.qkv_w, grads, s);
    layernorm_backward(dres, g.ln1_w, g.ln1_b, a.dln, a.x, w.ln1_w, a.mean1, a.rstd1, c.shared_norm ? Into::add : grads,
                       s, drop.below, layer ? a.down : dres);
}

// The attention of layer l over a batch, for block_forward().
inline auto attend_all(Tensor positions, Tensor starts, const Config& c, int64_t l, Stream s,
                       const Dropout& drop = {}) {
    return [&c, positions, starts, l, s, drop](BlockActs& a) {
        rope_forward(a.qkv, positions, c.rope, s);
        attention_forward(a.att, a.lse, a.qkv, starts, c.attn_scale(l), c.window(l), s, drop);
    };
}

// The tensors that a forward pass leaves in the activations.
enum class Keep : uint8_t {
    results,       // the final norm of every row
    for_backward,  // keeps that, and everything that backward() needs
};

// Elements are dropped in training alone.
inline ModelDropout dropout_of(const Model& m, Keep keep) {
    return keep == Keep::for_backward ? m.dropout : ModelDropout{};
}

// Runs the trunk, which is embedding, blocks and final norm, on tokens (B,T), and writes a.lnf. attend(block, l)
// computes the attention of layer l, over the batch itself or over a cache of keys and values.
template <class Attend>
void forward(const Model& m, Acts& a, Tensor tokens, Tensor positions, Keep keep, Attend attend) {
    const Config& c = m.config;
    const Stream s  = m.stream;
    if (s.where == Machine::cpu) host::spread_threads();
    m.shards->forget();
    m.shards->arrive(0);
    m.shards->fetch(1);
    const ModelDropout drop = dropout_of(m, keep);
    embedding_forward(a.block[0].x.view({tokens.shape[0], tokens.shape[1], c.width}), tokens, positions, m.params.wte,
                      m.params.wpe, s, drop.embedding());
    const bool few   = keep == Keep::results && tokens.numel() <= few_rows;
    const auto level = keep == Keep::for_backward ? std::optional(m.shape.recompute) : std::nullopt;
    if (m.observe) m.observe(0, a.block[0].x);
    m.shards->arrive(1);
    m.shards->fetch(2);
    if (!few) normalise(input_norms(m.params.block[0], a.block[0], c), a.block[0].x, c, s);
    for (int64_t l = 0; l < c.layers; l++) {
        const bool last  = l + 1 == c.layers;
        // When nothing is kept, all layers share one x, and a block's output replaces its input, which was read before.
        const Tensor out = last ? a.x : a.block[l + 1].x;
        const auto next  = [&] {
            m.shards->arrive(l + 2);
            return last ? final_norm(m.params, a) : input_norms(m.params.block[l + 1], a.block[l + 1], c);
        };
        const auto of_layer = [&](BlockActs& block) { attend(block, l); };
        m.shards->arrive(l + 1);
        if (few)
            block_of_few_rows(out, m.params.block[l], a.block[l], c, s, of_layer);
        else
            block_forward(out, next, m.params.block[l], a.block[l], c, level, s, of_layer, drop.block(l));
        if (m.observe && m.observe(l + 1, out) && !few) normalise(next(), out, c, s);
        m.shards->fetch(l + 3);
    }
    m.shards->arrive(c.layers + 1);
    if (few) normalise(final_norm(m.params, a), a.x, c, s);
}
// Runs the trunk on a batch in device memory.
inline void forward(Model& m, const Batch& batch, Keep keep) {
    forward(m, m.acts, batch.tokens, batch.positions, keep, [&](BlockActs& block, int64_t l) {
        const Dropout drop = dropout_of(m, keep).block(l).probabilities;
        attend_all(batch.positions, batch.starts, m.config, l, m.stream, drop)(block);
    });
}

// The bucket of the head's matrix, which is the token table when they are tied.
inline int64_t head_bucket(const Config& c) { return c.tied_head ? 0 : c.layers + 1; }

// Computes the logits of lnf (N,C) for a chunk of rows at a time. each(first, logits) gets those of the rows from
// `first` on. The next chunk overwrites them.
template <class Each>
void head(const Model& m, const Acts& a, Tensor lnf, Each each) {
    const int64_t N = lnf.shape[0], most = a.logits.shape[0];
    m.shards->arrive(head_bucket(m.config));
    for (int64_t first = 0; first < N; first += most) {
        const Tensor logits = a.logits.rows(0, std::min(most, N - first));
        matmul_forward(logits, lnf.rows(first, logits.shape[0]), m.params.head_w, m.params.head_b, m.stream);
        each(first, logits);
    }
}
// Copies the logits of lnf (N,C) to the host. each(n, logits) gets those of row n, of which the first `vocab` are used.
inline void each_row_of_logits(const Model& m, const Acts& a, Tensor lnf,
                               const std::function<void(int64_t, const float*)>& each) {
    head(m, a, lnf, [&](int64_t first, Tensor logits) {
        const std::vector<float> host = floats_of(logits, m.stream);
        for (int64_t r = 0; r < logits.shape[0]; r++) each(first + r, host.data() + r * m.config.padded_vocab());
    });
}
// Computes acts.losses, the loss of every row of a batch, and loss (1) += scale times their sum.
inline void head(Model& m, const Batch& batch, Tensor loss, float scale) {
    Acts& a              = m.acts;
    const Tensor targets = batch.targets.view({m.shape.rows()});
    head(m, a, a.lnf, [&](int64_t first, Tensor logits) {
        const int64_t n = logits.shape[0];
        cross_entropy(a.losses.rows(first, n), logits, targets.rows(first, n), {}, m.config.vocab, 0.f, m.stream);
    });
    sum(loss, a.losses, scale, m.stream);
}
// Also computes the head's share of the backward pass: acts.dlnf and the gradients of the head. The function that is
// differentiated is scale times the sum of the losses. Where the batch has scales, each loss is multiplied by its own.
// This is done here because the next chunk overwrites the logits of this one.
inline void head(Model& m, const Batch& batch, Tensor loss, float scale, Into into) {
    Acts& a              = m.acts;
    const Tensor targets = batch.targets.view({m.shape.rows()});
    const Tensor scales  = batch.scales ? batch.scales.view({m.shape.rows()}) : Tensor{};
    m.shards->enter(head_bucket(m.config));
    m.shards->enter(m.config.layers + 1);
    head(m, a, a.lnf, [&](int64_t first, Tensor logits) {
        const int64_t n = logits.shape[0];
        cross_entropy(a.losses.rows(first, n), logits, targets.rows(first, n),
                      scales ? scales.rows(first, n) : Tensor{}, m.config.vocab, scale, m.stream);
        matmul_backward(a.dlnf.rows(first, n), m.grads.head_w, m.grads.head_b, logits, a.lnf.rows(first, n),
                        m.params.head_w, first == 0 ? into : Into::add, m.stream);
    });
    sum(loss, a.losses, scale, m.stream);
}

// Computes the gradients of the trunk, after head() of the same batch has written acts.dlnf.
inline void backward(Model& m, const Batch& batch, Into into) {
    const Config& c = m.config;
    const Stream s  = m.stream;
    Acts& a         = m.acts;
    m.shards->enter(c.layers + 1);
    layernorm_backward(a.dres, m.grads.lnf_w, m.grads.lnf_b, a.dlnf, a.x, m.params.lnf_w, a.mean, a.rstd, into, s,
                       m.dropout.block(c.layers - 1).mlp, a.block.back().down, Into::set);
    m.shards->leave(c.layers + 1);
    for (int64_t l = c.layers - 1; l >= 0; l--) {
        m.shards->enter(l + 1);
        const BlockDropout drop = m.dropout.block(l);
        if (l + 1 < c.layers)  // nothing has overwritten the activations of the last layer
            block_recompute(m.shape.recompute, m.params.block[l], a.block[l], c, s,
                            attend_all(batch.positions, batch.starts, c, l, s, drop.probabilities), drop);
        block_backward(a.dres, m.grads.block[l], m.params.block[l], a.block[l], batch, c, l, into, s, drop);
        m.shards->leave(l + 1);
    }
    if (!c.tied_head) m.shards->clear(0);
    if (into == Into::set) {  // embedding_backward adds
        if (m.grads.wpe) zero(m.grads.wpe, s);
        if (!c.tied_head) zero(m.grads.wte, s);  // a tied table holds the head's gradient, which head() has set
    }
    embedding_backward(m.grads.wte, m.grads.wpe, a.dres.view({m.shape.batch, m.shape.context, c.width}), batch.tokens,
                       batch.positions, s);
    m.shards->leave(0);
}

inline float read_scalar(Tensor t, Stream s) {
    float value = 0;
    to_host(&value, t, s);
    return value;
}

// A long job calls it between its parts with the number of those that are done, and ends early when it returns false.
using GoOn = std::function<bool(int64_t done)>;

// Returns the mean loss, in nats per token, of the first `batches` batches of a loader. The mean of what several ranks
// return is the mean over all tokens that count. When go_on() ends it early, the result means nothing.
inline float mean_loss(Model& m, Loader& data, int64_t batches, const GoOn& go_on = nullptr) {
    data.rewind();
    zero(m.acts.loss, m.stream);
    // Ranks have different numbers of tokens that count, so the mean over ranks is that of all tokens only with a
    // factor.
    const float scale = data.masked()
                            ? float(double(data.world()) / double(data.counted(batches * data.sequences_per_batch())))
                            : 1.f / (float(m.shape.rows()) * float(batches));
    for (int64_t i = 0; i < batches && (!go_on || go_on(i)); i++) {
        const Batch& batch = m.feed.bring(data.next());
        forward(m, batch, Keep::results);
        head(m, batch, m.acts.loss, scale);
    }
    return read_scalar(m.acts.loss, m.stream);
}

// FLOPs of one token's forward and backward pass: 6 for every weight that takes part in a product, and attention's two
// products, once forward and twice backward, over the keys that a token sees on average. Under a causal mask that is
// half the context, and less in a window.
inline double train_flops_per_token(const Config& c, int64_t context) {
    const double C = c.width, products = c.layers * (4 * C * C + 2 * C * c.feed_forward) + double(c.vocab) * C;
    double seen = 0;  // keys per query, summed over the layers
    for (int64_t l = 0; l < c.layers; l++) {
        const double w = double(std::min(c.window(l), context));
        seen += w - w * w / (2. * double(context));
    }
    return 6 * products + 12 * C * seen;
}
