// optimizer.h - the interface of an optimizer, and what all of them share: fp32 masters of bf16 weights
//
// An optimizer provides:
//   kinds     which kinds of state it has, and for which weights                kinds()
//   working   its working memory, before anything is allocated                  working_bytes()
//   numbers   what is new in an update, sent to the device with the batches     numbers()
//   step      one update of all weights by their gradients                      step()
//
// adamw.h and muon.h are optimizers, and optimizers.h lists them. To add one, write such a header, and add a row to
// that list and a value to OptimizerKind.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "gpt/model.h"
#include "gpt/schedule.h"

enum class OptimizerKind : uint8_t { adamw, muon };

struct OptimizerSettings {
    OptimizerKind kind = OptimizerKind::adamw;
    float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f;  // AdamW has these three
    float weight_decay       = 0.1f;                 // applies to matrices and tables, decoupled from the gradient
    float clip               = 1.f;                  // gradients are scaled to at most this norm; 0: no limit
    bool stochastic_rounding = false;                // bf16 weights round up or down at random, by seed
    uint64_t seed            = 0;
    float muon_learning_rate = 0.02f;  // peak for the matrices that Muon updates; follows the same schedule
    float muon_momentum      = 0.95f;
    bool in_host_memory      = false;  // state and masters of a GPU's weights, which the CPU then updates (--offload)
};

// The state of a weight, or of the part of it that this process keeps.
struct StatePart {
    std::string name;  // in checkpoints: KIND.WEIGHT
    Shape shape;       // of the whole weight
    ParamPart part;
    Tensor tensor;  // fp32
};

// One kind of state, in fp32: tensors shaped like those weights that have it. Checkpoints call them KIND.WEIGHT.
struct StateKind {
    const char* name;
    HasRow has;
};

class Optimizer {
  public:
    virtual ~Optimizer()                   = default;
    Optimizer(const Optimizer&)            = delete;
    Optimizer& operator=(const Optimizer&) = delete;

    // The state of one kind after another, in the order in which it is stored.
    std::vector<StatePart> state() {
        model_.shards->settle();
        std::vector<StatePart> all;
        for (State& s : state_) append(all, s.kind.name, s.tensors);
        return all;
    }
    // The masters. A checkpoint holds them unless its model.safetensors is fp32.
    std::vector<StatePart> masters() {
        model_.shards->settle();
        std::vector<StatePart> all;
        append(all, "master", master_);
        return all;
    }

    // Writes the numbers of update `step` (0 for the first) to host memory, less than numbers_bytes: the last word of
    // these is for the number of the step, which dropout reads.
    virtual void numbers(void* to, const Schedule& schedule, int64_t step) const = 0;
    static constexpr int64_t numbers_bytes                                       = 64;

    // One update by the gradients, which it may overwrite. numbers: (16) int32 of device memory. Nothing changes when
    // loss (1) or norm2 (1), the squared norm of all gradients, is not finite.
    virtual void step(Tensor loss, Tensor norm2, Tensor numbers) = 0;
    // Called after step(). Returns for each bucket (params.h) the event after which its weights are updated. An event
    // is null or missing where the model's stream alone updates the weights.
    virtual std::vector<Event> updated() const { return {}; }

    // Returns the bytes of the state and the masters in the process that has most of them.
    static int64_t state_bytes(const std::vector<StateKind>& kinds, const Config& c, DType dtype,
                               const Sharding& sharding) {
        const ParamLayout layout = param_layout(c, sharding);
        const bool cut           = sharding.cuts(ShardLevel::optimizer);
        int64_t most             = 0;
        Params shapes;
        const auto rows = param_rows(shapes, c);
        for (int rank = 0; rank < (cut ? sharding.world : 1); rank++) {
            const auto parts = param_parts(rows, layout, rank, cut);
            int64_t bytes    = 0;
            for (const StateKind& kind : kinds) bytes += bytes_of(parts, rows, kind.has);
            most = std::max(most, bytes + (dtype == DType::F32 ? 0 : bytes_of(parts, rows, every_row)));
            if (rank == 0 && !sharding.whole_matrices) break;  // all slices are of one length
        }
        return most;
    }
    // The bytes of working memory, which stays on the device.
    static int64_t working_bytes(const Config&, DType) { return 0; }

    // What a run's header says about learning rates beside that of the schedule, for an optimizer that has more than
    // one.
    static std::string other_rates(const OptimizerSettings&) { return ""; }

    // The fp32 weights, which are the model's own when those are fp32. Only a process that keeps all of them has them.
    Params& master() {
        CHECK_CALL(!cut_, "each of {} processes has a part of the masters", model_.layout.sharding.world);
        return whole_master_;
    }

    // Copies the parts of masters that this process keeps from a weight (fp32), of which `row` is the number in
    // param_rows().
    void set_master(size_t row, Tensor weight) {
        const Tensor flat = weight.view({weight.numel()});
        for (size_t i = 0; i < parts_.size(); i++)
            if (const ParamPart& p = parts_[i]; p.row == row)
                copy(master_[i].view({p.count}), flat.rows(p.first, p.count), model_.stream);
    }
    // What a checkpoint stores of a weight: its master (kind -1), or a kind of state.
    struct Stored {
        std::string name;  // KIND.WEIGHT
        size_t row;        // of param_rows()
        int kind;
        Shape shape;
    };
    std::vector<Stored> stored(bool masters_only) const {
        std::vector<StateKind> kinds;
        for (const State& s : state_) kinds.push_back(s.kind);
        return stored(kinds, model_.config, masters_only);
    }
    static std::vector<Stored> stored(const std::vector<StateKind>& kinds, const Config& c, bool masters_only) {
        std::vector<Stored> all;
        Params shapes;
        const auto rows = param_rows(shapes, c);
        for (int kind = 0; kind <= int(kinds.size()); kind++) {
            const bool master = kind == int(kinds.size());
            if (masters_only && !master) continue;
            for (size_t i = 0; i < rows.size(); i++)
                if (master || kinds[size_t(kind)].has(rows[i]))
                    all.push_back({fmt::format("{}.{}", master ? "master" : kinds[size_t(kind)].name, rows[i].name), i,
                                   master ? -1 : kind, rows[i].shape});
        }
        return all;
    }
    // Returns such a tensor, whole, in process `root`, and null in the others. All processes must call it. Where each
    // process has a part of it, it lies in the memory of the weight's gradient, until the next call for this root.
    Tensor gather(const Stored& stored, int root) {
        model_.shards->settle();
        const auto& tensors = stored.kind < 0 ? master_ : state_[size_t(stored.kind)].tensors;
        const auto grads    = param_rows(model_.grads, model_.config);
        const bool here     = model_.layout.sharding.rank == root;
        Tensor own;
        for (size_t i = 0; i < parts_.size(); i++)
            if (parts_[i].row == stored.row) own = tensors[i];
        if (!cut_) return here ? own : Tensor{};
        if (!own) own = Tensor{nullptr, DType::F32, {0}};
        const ParamRow& r = grads[stored.row];
        const Bucket& b   = model_.layout.buckets[size_t(r.bucket)];
        Cut cut           = b.cut;
        for (size_t k = 0; k < cut.first.size(); k++) {
            const int64_t place = model_.layout.place[stored.row], n = r.shape.numel();
            const int64_t first = std::clamp<int64_t>(b.cut.first[k] - place, 0, n);
            cut.count[k]        = std::clamp<int64_t>(b.cut.first[k] + b.cut.count[k] - place, 0, n) - first;
            cut.first[k]        = first;
        }
        const Tensor whole = r.tensor->view({r.shape.numel()}), flat = own.view({own.numel()});
        // NCCL sends what lies on the GPU. So state in the host's memory is sent in pieces from the memory of the
        // logits, which is free between steps.
        const bool staged     = settings_.in_host_memory;
        const Tensor& logits  = model_.acts.logits;
        const int64_t longest = *std::max_element(cut.count.begin(), cut.count.end()),
                      most    = staged ? logits.bytes() / size_of(DType::F32) : longest;
        for (int64_t at = 0; at < longest; at += most) {
            Cut piece = cut;
            for (size_t k = 0; k < cut.first.size(); k++) {
                piece.first[k] += std::min(at, cut.count[k]);
                piece.count[k] = std::clamp<int64_t>(cut.count[k] - at, 0, most);
            }
            Tensor sent = flat.rows(std::min(at, flat.numel()), piece.count[size_t(model_.layout.sharding.rank)]);
            if (staged && sent.numel()) {
                const Tensor on_gpu{logits.ptr, DType::F32, sent.shape};
                copy(on_gpu, sent, model_.stream);
                sent = on_gpu;
            }
            model_.shards->run([&](Collective& group) { group.gather(here ? whole : Tensor{}, sent, piece, root); });
        }
        return here ? *r.tensor : Tensor{};
    }

    // Copies the weights into the masters, after weights were set.
    void start_from_weights() {
        each_master([&](Tensor weight, Tensor master, size_t) { copy(master, weight, model_.stream); });
    }
    // Computes the weights again from the masters. rounded_at: the update whose random rounding is repeated; 0: they
    // are rounded to nearest.
    void round_into_weights(int64_t rounded_at) {
        each_master([&](Tensor weight, Tensor master, size_t i) {
            if (rounded_at)
                round_at_random(weight, master, {rounding_key(rows_[i]), parts_[i].first}, uint32_t(rounded_at),
                                model_.stream);
            else
                copy(weight, master, model_.stream);
        });
        model_.shards->publish();
    }
    // The rounded_at that belongs to the weights after `updates` updates.
    int64_t rounded_at(int64_t updates) const { return settings_.stochastic_rounding ? updates : 0; }

  protected:
    Optimizer(Model& model, const OptimizerSettings& settings, const std::vector<StateKind>& kinds)
        : model_(model), settings_(settings), cut_(model.layout.sharding.cuts(ShardLevel::optimizer)) {
        const ParamLayout& layout = model.layout;
        const auto rows           = param_rows(model.params, model.config);
        parts_                    = param_parts(rows, layout, layout.sharding.rank, cut_);
        for (const ParamPart& p : parts_) rows_.push_back(rows[p.row]);
        for (const StateKind& kind : kinds) {
            State s{kind, Arena(std::string("optimizer ") + kind.name), {}};
            s.tensors = allocate(s.memory, kind.has);
            state_.push_back(std::move(s));
        }
        const bool own = model.dtype == DType::F32;
        if (!own) master_ = allocate(master_memory_, every_row);
        for (size_t i = 0; own && i < parts_.size(); i++)
            master_.push_back(model.weight_memory.part(parts_[i]).view(shape_of(i)));
        if (cut_) return;
        const auto masters = param_rows(whole_master_, model.config);
        for (size_t i = 0; i < masters.size(); i++) *masters[i].tensor = master_[i];
        alias_params(whole_master_, model.config);
    }
    // Calls each(row, tensors) for every weight, or for the part of every weight that this process updates. The parts
    // are flat, but those of matrices are rows of them.
    struct RowTensors {
        Tensor weight, master, gradient;
        std::vector<Tensor> state;  // one per kind, in their order; null where the weight has none
        int64_t parts;              // how many independent matrices it holds
    };
    template <class Each>
    void each_row(Each each) {
        for (size_t i = 0; i < parts_.size(); i++) {
            const Shape shape = shape_of(i);
            const ParamRow& r = rows_[i];
            RowTensors t{model_.weight_memory.part(parts_[i]).view(shape),
                         master_[i],
                         model_.grad_memory.part(parts_[i]).view(shape),
                         {},
                         std::max<int64_t>(1, parts_[i].count * r.parts / r.shape.numel())};
            for (const State& s : state_) t.state.push_back(s.tensors[i]);
            each(r, t, rounding_of(i));
        }
    }
    float decay_of(const ParamRow& r) const { return r.decays ? settings_.weight_decay : 0.f; }

    Model& model_;
    const OptimizerSettings settings_;

  private:
    struct State {
        StateKind kind;
        Arena memory;
        std::vector<Tensor> tensors;  // one for each part; null where its weight has none
    };
    static int64_t bytes_of(const std::vector<ParamPart>& parts, const std::vector<ParamRow>& rows, HasRow has) {
        Arena arena;
        for (const ParamPart& p : parts)
            if (has(rows[p.row])) arena.plan({p.count}, DType::F32);
        return arena.bytes();
    }
    std::vector<Tensor> allocate(Arena& arena, HasRow has) const {
        for (size_t i = 0; i < parts_.size(); i++)
            if (has(rows_[i])) arena.plan(shape_of(i), DType::F32);
        arena.allocate(*model_.device, settings_.in_host_memory ? Memory::host : Memory::device);
        std::vector<Tensor> tensors;
        for (size_t i = 0; i < parts_.size(); i++)
            tensors.push_back(has(rows_[i]) ? arena.take(shape_of(i), DType::F32) : Tensor{});
        return tensors;
    }
    Shape shape_of(size_t i) const {
        const Shape& whole = rows_[i].shape;
        if (!cut_) return whole;
        if (rows_[i].update == Update::matrix && parts_[i].count % whole[1] == 0 && parts_[i].first % whole[1] == 0)
            return {parts_[i].count / whole[1], whole[1]};
        return {parts_[i].count};
    }
    uint64_t rounding_key(const ParamRow& r) const { return Random(settings_.seed, "round " + r.name).key(); }
    // How the weights of a part are rounded.
    Rounding rounding_of(size_t i) const {
        return {settings_.stochastic_rounding ? rounding_key(rows_[i]) : 0, parts_[i].first};
    }
    void append(std::vector<StatePart>& all, const std::string& kind, const std::vector<Tensor>& tensors) const {
        for (size_t i = 0; i < parts_.size(); i++)
            if (tensors[i]) all.push_back({kind + "." + rows_[i].name, rows_[i].shape, parts_[i], tensors[i]});
    }
    template <class Each>
    void each_master(Each each) {
        if (model_.dtype == DType::F32) return;  // fp32 weights are their own masters
        model_.shards->settle();
        for (size_t i = 0; i < parts_.size(); i++)
            each(model_.weight_memory.part(parts_[i]).view(shape_of(i)), master_[i], i);
    }

    const bool cut_;                // this process updates slices, and the others update the rest
    std::vector<ParamPart> parts_;  // what it updates
    std::vector<ParamRow> rows_;    // the weight of each part
    std::vector<State> state_;
    Arena master_memory_{"master weights"};
    std::vector<Tensor> master_;  // one for each part
    Params whole_master_;
};
