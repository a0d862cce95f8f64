// optimizer.h - the interface of an optimizer, and what all of them share: fp32 masters of bf16 weights
//
// An optimizer provides:
//   bytes     its state and working memory, before anything is allocated        bytes()
//   state     what it remembers between updates, by name, for checkpoints       state()
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
};

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

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

    // The state by name, in the order in which it is stored.
    NamedTensors state() {
        NamedTensors all;
        for (State& s : state_) append(all, s.kind.name, s.tensors);
        return all;
    }
    // The masters by name. A checkpoint holds them unless its model.safetensors is fp32.
    NamedTensors masters() {
        NamedTensors all;
        append(all, "master", master_);
        return all;
    }

    // Writes the numbers of update `step` (0 for the first) to host memory, at most numbers_bytes.
    virtual void numbers(void* to, const Schedule& schedule, int64_t step) const = 0;
    static constexpr int64_t numbers_bytes                                       = 64;

    // One update by the gradients, which it may overwrite. numbers: (16) int32 of device memory. Nothing changes when
    // loss (1) or norm2 (1), the squared norm of all gradients, is not finite.
    virtual void step(Tensor loss, Tensor norm2, Tensor numbers) = 0;

    // What a run's header says about learning rates beside that of the schedule, for an optimizer that has more than
    // one.
    static std::string other_rates(const OptimizerSettings&) { return ""; }

    // The fp32 weights; the model's own when those are fp32.
    Params& master() { return master_; }

    // Copies the weights into the masters, after weights were set.
    void start_from_weights() {
        each_master([&](Tensor weight, Tensor master, const ParamRow&) { copy(master, weight, model_.stream); });
    }
    // Computes the weights again from the masters. rounded_at: the update whose random rounding is repeated; 0: they
    // are rounded to nearest.
    void round_into_weights(int64_t rounded_at) {
        each_master([&](Tensor weight, Tensor master, const ParamRow& r) {
            if (rounded_at)
                round_at_random(weight, master, rounding_key(r), uint32_t(rounded_at), model_.stream);
            else
                copy(weight, master, model_.stream);
        });
    }
    // The rounded_at that belongs to the weights after `updates` updates.
    int64_t rounded_at(int64_t updates) const { return settings_.stochastic_rounding ? updates : 0; }

  protected:
    Optimizer(Model& model, const OptimizerSettings& settings, const std::vector<StateKind>& kinds)
        : model_(model), settings_(settings) {
        for (const StateKind& kind : kinds) {
            State s{kind, Arena(std::string("optimizer ") + kind.name), {}};
            s.tensors = allocate_params(s.memory, model.config, DType::F32, *model.device, kind.has);
            state_.push_back(std::move(s));
        }
        master_ = model.dtype == DType::F32 ? model.params
                                            : allocate_params(master_memory_, model.config, DType::F32, *model.device);
    }
    // Returns the bytes of the state and the masters.
    static int64_t state_bytes(const std::vector<StateKind>& kinds, const Config& c, DType dtype) {
        int64_t bytes = 0;
        for (const StateKind& kind : kinds) {
            Arena arena;
            bytes += plan_params(arena, c, DType::F32, kind.has);
        }
        Arena masters;
        return bytes + (dtype == DType::F32 ? 0 : plan_params(masters, c, DType::F32));
    }

    // Calls each(row, tensors) for every weight.
    struct RowTensors {
        Tensor weight, master, gradient;
        std::vector<Tensor> state;  // one per kind, in their order; null where the weight has none
    };
    template <class Each>
    void each_row(Each each) {
        const Config& c    = model_.config;
        const auto weights = param_rows(model_.params, c), masters = param_rows(master_, c),
                   gradients = param_rows(model_.grads, c);
        std::vector<std::vector<ParamRow>> states;
        for (State& s : state_) states.push_back(param_rows(s.tensors, c));
        for (size_t i = 0; i < weights.size(); i++) {
            RowTensors t{*weights[i].tensor, *masters[i].tensor, *gradients[i].tensor, {}};
            for (const auto& rows : states) t.state.push_back(*rows[i].tensor);
            each(weights[i], t);
        }
    }
    float decay_of(const ParamRow& r) const { return r.decays ? settings_.weight_decay : 0.f; }
    // The key of a weight's random rounding, 0 when it is rounded to nearest.
    uint64_t rounding_of(const ParamRow& r) const { return settings_.stochastic_rounding ? rounding_key(r) : 0; }

    Model& model_;
    const OptimizerSettings settings_;

  private:
    struct State {
        StateKind kind;
        Arena memory;
        Params tensors;
    };
    uint64_t rounding_key(const ParamRow& r) const { return Random(settings_.seed, "round " + r.name).key(); }
    void append(NamedTensors& all, const std::string& kind, Params& p) const {
        for (const ParamRow& r : param_rows(p, model_.config))
            if (*r.tensor) all.emplace_back(kind + "." + r.name, *r.tensor);
    }
    template <class Each>
    void each_master(Each each) {
        if (model_.dtype == DType::F32) return;  // fp32 weights are their own masters
        const auto weights = param_rows(model_.params, model_.config), masters = param_rows(master_, model_.config);
        for (size_t i = 0; i < weights.size(); i++) each(*weights[i].tensor, *masters[i].tensor, weights[i]);
    }

    std::vector<State> state_;
    Arena master_memory_{"master weights"};
    Params master_;
};
