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
#include "kernels/collective.h"
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
    bool decays;     // weight decay applies
    bool per_id;     // has a row per token id: rows from config.vocab on are padding, and stay zero
    int parts;       // independent matrices that lie behind each other in the rows: q, k and v
    int64_t bucket;  // 0: token and position tables; l + 1: block l; layers + 1: final norm and head
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
    int64_t       bucket = 0;
    const auto row = [&](Tensor& tensor, const std::string& name, const Shape& shape, In initial, DType kept, Update update,
                         bool decays, bool per_id, int parts = 1) {
        rows.push_back({&tensor, name, shape, initial, kept, update, decays, per_id, parts, bucket});
    };
    p.block.resize(c.layers);

    //  tensor          name                shape            initial  dtype  update  decays  per id  parts
    row(p.wte,          "wte.weight",       Shape{Vp, C},    std,     t,     table,  true,   true );
    if (c.learned_positions)
    row(p.wpe,          "wpe.weight",       Shape{c.context, C}, std, t,     table,  true,   false);
    for (int64_t l = 0; l < c.layers; l++) {
        Block& b = p.block[l];
        bucket   = l + 1;
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
    bucket = c.layers + 1;
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

// ---- how the parameters of a run lie over its processes ------------------------------------------------------------

// What each process keeps for its own slice of the parameters only (ZeRO: Rajbhandari et al. 2020, arXiv 1910.02054).
// Each level includes those before it.
enum class ShardLevel : uint8_t {
    none,
    optimizer,  // the optimizer's state and the masters
    gradients,
    weights,
};
struct Sharding {
    ShardLevel level = ShardLevel::none;
    int rank = 0, world = 1;
    bool whole_matrices = false;       // no slice ends within a matrix, because Muon updates whole ones
    DType wire          = DType::F32;  // F32 or BF16: gradients are sent in it

    bool cuts(ShardLevel kind) const { return world > 1 && level >= kind; }
};

// The rows of a bucket lie behind each other, and travel together. The bucket is cut into a slice for each rank.
struct Bucket {
    int64_t elements = 0;  // padding included
    Cut cut;
};
struct ParamLayout {
    Sharding sharding;
    std::vector<Bucket> buckets;
    std::vector<int64_t> place;  // the element of its bucket at which each row begins

    int64_t elements() const {
        int64_t n = 0;
        for (const Bucket& b : buckets) n += b.elements;
        return n;
    }
    // The elements of the largest bucket.
    int64_t most_elements() const {
        int64_t most = 0;
        for (const Bucket& b : buckets) most = std::max(most, b.elements);
        return most;
    }
};

// Cuts a block without cutting a matrix: where a matrix or vector begins, as near as possible to an even cut. Each
// block gives its slices to other ranks than the block before, so that all ranks have work when there are more ranks
// than matrices.
inline Cut cut_between_matrices(const std::vector<int64_t>& begins, int64_t elements, int64_t block, int world) {
    std::vector<int64_t> ends = {0};
    for (int64_t k = 1; k < world; k++) {
        const double ideal = double(elements) * double(k) / world;
        const auto nearer  = [&](int64_t a, int64_t b) {
            return std::abs(double(a) - ideal) < std::abs(double(b) - ideal);
        };
        ends.push_back(*std::min_element(begins.begin(), begins.end(), nearer));
    }
    ends.push_back(elements);
    Cut cut{std::vector<int64_t>(size_t(world)), std::vector<int64_t>(size_t(world))};
    for (int k = 0; k < world; k++) {
        const size_t rank = size_t((k + block) % world);
        cut.first[rank]   = ends[size_t(k)];
        cut.count[rank]   = ends[size_t(k) + 1] - ends[size_t(k)];
    }
    return cut;
}

// Rows begin at multiples of 16 elements, and so do slices: 32 bytes in bf16. Vector loads and random rounding, which
// takes 4 elements at a time, see a slice as they see the whole weight.
inline ParamLayout param_layout(const Config& c, const Sharding& sharding = {}) {
    constexpr int64_t unit = 16;
    ParamLayout layout{sharding, std::vector<Bucket>(size_t(c.layers + 2)), {}};
    std::vector<std::vector<int64_t>> begins(layout.buckets.size(), {0});  // where matrices and vectors may begin
    std::vector<bool> matrices(layout.buckets.size());
    Params shapes;
    for (const ParamRow& r : param_rows(shapes, c)) {
        Bucket& b = layout.buckets[r.bucket];
        layout.place.push_back(b.elements);
        const bool matrix  = r.update == Update::matrix;
        const int64_t part = r.shape.numel() / r.parts, parts = matrix && part % unit == 0 ? r.parts : 1;
        for (int64_t i = 0; i < parts; i++) begins[r.bucket].push_back(b.elements + i * part);
        if (matrix) matrices[r.bucket] = true;
        b.elements += round_up(r.shape.numel(), unit);
    }
    for (size_t i = 0; i < layout.buckets.size(); i++) {
        Bucket& b  = layout.buckets[i];
        b.elements = round_up(b.elements, unit * sharding.world);
        b.cut      = sharding.whole_matrices && matrices[i]
                         ? cut_between_matrices(begins[i], b.elements, int64_t(i), sharding.world)
                         : Cut::even(b.elements, sharding.world);
    }
    return layout;
}

// The part of a weight that lies in one slice: elements [first, first + count).
struct ParamPart {
    size_t row;  // its number in param_rows()
    int64_t first, count;
    int64_t place, bucket;  // where it begins in its bucket
};
// The parts of all weights in a rank's slices, or, unless cut, all weights as they are.
inline std::vector<ParamPart> param_parts(const std::vector<ParamRow>& rows, const ParamLayout& layout, int rank,
                                          bool cut) {
    std::vector<ParamPart> parts;
    for (size_t i = 0; i < rows.size(); i++) {
        const Bucket& b     = layout.buckets[rows[i].bucket];
        const int64_t place = layout.place[i], numel = rows[i].shape.numel();
        const int64_t begin = cut ? std::clamp<int64_t>(b.cut.first[rank] - place, 0, numel) : 0;
        const int64_t end = cut ? std::clamp<int64_t>(b.cut.first[rank] + b.cut.count[rank] - place, 0, numel) : numel;
        if (begin < end) parts.push_back({i, begin, end - begin, place + begin, rows[i].bucket});
    }
    return parts;
}

// Memory for a number per parameter: weights, or gradients. A process has all of it, or its own slices and buffers in
// which one bucket after another is whole.
class ParamMemory {
  public:
    explicit ParamMemory(const std::string& group) : memory_(group) {}

    // Returns the bytes that allocate() takes.
    static int64_t bytes(const Config& c, const ParamLayout& layout, DType dtype, bool sliced, Machine where) {
        ParamMemory plan("");
        plan.lay_out(c, layout, sliced, where, [&](int64_t n) {
            plan.memory_.plan({n}, dtype);
            return Tensor{};
        });
        return plan.memory_.bytes();
    }
    // Returns a tensor for every row. The rows of buckets that share a buffer lie in the same memory.
    Params allocate(const Config& c, const ParamLayout& layout, DType dtype, bool sliced, const Device& device) {
        lay_out(c, layout, sliced, device.where(), [&](int64_t n) {
            memory_.plan({n}, dtype);
            return Tensor{};
        });
        memory_.allocate(device);
        lay_out(c, layout, sliced, device.where(), [&](int64_t n) { return memory_.take({n}, dtype); });
        Params p;
        const auto rows = param_rows(p, c);
        for (size_t i = 0; i < rows.size(); i++)
            *rows[i].tensor = whole_[rows[i].bucket].rows(layout.place[i], rows[i].shape.numel()).view(rows[i].shape);
        alias_params(p, c);
        gaps_.assign(whole_.size(), {});
        for (size_t i = 0; i < rows.size(); i++) {
            const int64_t b = rows[i].bucket, end = layout.place[i] + rows[i].shape.numel();
            const bool last = i + 1 == rows.size() || rows[i + 1].bucket != b;
            const int64_t n = (last ? layout.buckets[b].elements : layout.place[i + 1]) - end;
            if (n > 0 && sliced && !c.tied_head && (b == 0 || b == c.layers + 1))
                gaps_[b].push_back(whole_[b].rows(end, n));
        }
        return p;
    }

    bool sliced() const { return sliced_; }
    Tensor all() const { return all_; }                                    // every bucket, unless sliced
    Tensor bucket(int64_t b) const { return whole_[b]; }                   // all elements of a bucket
    Tensor slice(int64_t b) const { return own_[b]; }                      // this rank's own
    int buffer(int64_t b) const { return sliced_ ? buffer_[b] : int(b); }  // buckets of one number share memory
    int buffers() const { return sliced_ ? buffers_ : int(whole_.size()); }
    // Where buckets of different rows share a buffer: what lies between and behind the rows of bucket b. It must be
    // zeroed before each use, because it is part of the norm of the gradients.
    const std::vector<Tensor>& gaps(int64_t b) const { return gaps_[b]; }
    // The elements of a part, which lies in the own slice if `sliced`.
    Tensor part(const ParamPart& p) const {
        return sliced_ ? own_[p.bucket].rows(p.place - first_[p.bucket], p.count)
                       : whole_[p.bucket].rows(p.place, p.count);
    }

  private:
    // take(n) returns n elements of memory. On a GPU the blocks have two buffers, so that the next block's can travel
    // while one computes. A tied table is needed together with the final norm, and so has a buffer of its own.
    template <class Take>
    void lay_out(const Config& c, const ParamLayout& layout, bool sliced, Machine where, Take take) {
        const auto& buckets = layout.buckets;
        const int64_t count = int64_t(buckets.size()), rank = layout.sharding.rank;
        sliced_ = sliced;
        whole_.clear(), own_.clear(), buffer_.clear(), first_.clear();
        all_             = sliced ? Tensor{} : take(layout.elements());
        const int tables = c.tied_head ? 2 : 1, blocks = where == Machine::cuda ? 2 : 1;
        for (int64_t b = 0; b < count; b++)
            buffer_.push_back(b == 0 ? 0 : b == count - 1 ? tables - 1 : tables + int(b) % blocks);
        buffers_ = tables + blocks;
        std::vector<Tensor> buffers;
        int64_t own = 0;
        for (int i = 0; sliced && i < buffers_; i++) {
            int64_t most = 0;
            for (int64_t b = 0; b < count; b++)
                if (buffer_[b] == i) most = std::max(most, buckets[b].elements);
            buffers.push_back(take(most));
        }
        for (const Bucket& b : buckets) own += b.cut.count[rank];
        const Tensor slices = sliced ? take(own) : Tensor{};
        int64_t at = 0, at_own = 0;
        for (int64_t b = 0; b < count; b++) {
            const Cut& cut = buckets[b].cut;
            whole_.push_back(sliced ? buffers[buffer_[b]].rows(0, buckets[b].elements)
                                    : all_.rows(at, buckets[b].elements));
            own_.push_back(sliced ? slices.rows(at_own, cut.count[rank])
                                  : whole_[b].rows(cut.first[rank], cut.count[rank]));
            first_.push_back(cut.first[rank]);
            at += buckets[b].elements, at_own += cut.count[rank];
        }
    }

    Arena memory_;
    bool sliced_ = false;
    Tensor all_;
    std::vector<Tensor> whole_, own_;  // one for each bucket
    std::vector<std::vector<Tensor>> gaps_;
    std::vector<int64_t> first_;  // where this rank's slice of each bucket begins
    std::vector<int> buffer_;
    int buffers_ = 0;
};

// Whether a weight has a kind of an optimizer's state: Muon, for one, has a momentum for hidden matrices alone.
using HasRow = bool (*)(const ParamRow&);
inline bool every_row(const ParamRow&) { return true; }

// ---- first values ---------------------------------------------------------------------------------------------------

// Gives elements [from, from + t.numel()) of a new weight their values. Each random stream is keyed by the weight's
// name, so it depends on no other weight, and every number by its place, so all threads draw at once and write where
// the weights belong.
inline void initialise(Tensor t, const ParamRow& r, int64_t from, const Config& c, uint64_t seed, Stream s) {
    const bool random   = r.initial.kind == Initializer::normal;
    const int64_t drawn = random ? unpadded(c, r).numel() : 0;  // padding is zero
    const Random stream(seed, "initialise " + r.name);
    const auto fill = [&](void* out, int64_t first, int64_t count) {
        host::parallel_ranges(count, 4096, [&](int64_t begin, int64_t end) {
            float values[1024];
            for (int64_t at = begin, n; at < end; at += n) {
                n               = std::min<int64_t>(1024, end - at);
                const int64_t i = from + first + at, k = std::clamp<int64_t>(drawn - i, 0, n);
                stream.fill_normal(values, uint64_t(i), uint64_t(k), r.initial.value);
                std::fill(values + k, values + n, random ? 0.f : r.initial.value);
                copy(Tensor{static_cast<char*>(out) + at * size_of(t.dtype), t.dtype, {n}},
                     Tensor{values, DType::F32, {n}}, Stream{});
            }
        });
    };
    from_host(t, fill, s);
}
inline void initialise_params(Params& p, const Config& c, uint64_t seed, Stream s) {
    for (const ParamRow& r : param_rows(p, c)) initialise(*r.tensor, r, 0, c, seed, s);
}
