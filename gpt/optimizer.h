// optimizer.h - AdamW over the parameter table, and the learning-rate schedule
#pragma once
#include <cmath>
#include <string>

#include "gpt/model.h"

struct AdamWSettings {
    float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f;
    float clip               = 1.f;    // largest gradient norm; 0: no limit
    bool stochastic_rounding = false;  // of bf16 weights, by seed
    uint64_t seed            = 0;
};

// First and second moments, and fp32 master weights when the model's own are bf16. Of a model that trains: the table
// holds where its weights and gradients are.
struct AdamW {
    AdamWSettings settings;
    Arena m_memory{"adam m"}, v_memory{"adam v"}, master_memory{"master weights"};
    Params m, v, master;
    AdamWTable table;

    AdamW(Model& model, const AdamWSettings& s) : settings(s) {
        m = allocate_params(m_memory, model.config, DType::F32, *model.device);
        v = allocate_params(v_memory, model.config, DType::F32, *model.device);
        if (model.dtype != DType::F32)
            master = allocate_params(master_memory, model.config, DType::F32, *model.device);
        else
            master = model.params;  // fp32 weights are their own masters
        const Config& c = model.config;
        const auto ws = param_rows(model.params, c), gs = param_rows(model.grads, c), ms = param_rows(m, c),
                   vs = param_rows(v, c), masters = param_rows(master, c);
        std::vector<AdamWRow> rows;
        for (size_t i = 0; i < ws.size(); i++)
            rows.push_back({*ws[i].tensor, *masters[i].tensor, *ms[i].tensor, *vs[i].tensor, *gs[i].tensor,
                            ws[i].decays ? s.weight_decay : 0.f, s.stochastic_rounding ? rounding_key(ws[i]) : 0});
        table = AdamWTable(std::move(rows), *model.device);
    }

    // After weights were set: the masters take their values.
    void start_from(Model& model) {
        const auto from = param_rows(model.params, model.config), to = param_rows(master, model.config);
        for (size_t i = 0; i < from.size(); i++)
            if (from[i].tensor->ptr != to[i].tensor->ptr) copy(*to[i].tensor, *from[i].tensor, model.stream);
    }

    // After masters were set: the model's weights are what they round to; not 0: as update `rounded_at` does at random.
    void round_into(Model& model, int64_t rounded_at) {
        const auto from = param_rows(master, model.config), to = param_rows(model.params, model.config);
        for (size_t i = 0; i < from.size(); i++) {
            const Tensor weights = *to[i].tensor, masters = *from[i].tensor;
            if (masters.ptr == weights.ptr) continue;
            if (rounded_at)
                round_at_random(weights, masters, rounding_key(to[i]), uint32_t(rounded_at), model.stream);
            else
                copy(weights, masters, model.stream);
        }
    }
    // What round_into() needs to be told after update `step` (1 for the first).
    int64_t rounds_at(int64_t step) const { return settings.stochastic_rounding ? step : 0; }

    AdamWUpdate update(float learning_rate, int64_t step) const {
        return adamw_update(learning_rate, settings.beta1, settings.beta2, step);
    }

    // One update by the gradients, from an AdamWUpdate in device memory. When loss or norm2, the squared norm of all
    // gradients, is not finite, nothing changes.
    void step(Model& model, Tensor loss, Tensor norm2, Tensor update) {
        adamw(table, norm2, loss, update, {settings.beta1, settings.beta2, settings.eps, settings.clip}, model.stream);
    }

  private:
    uint64_t rounding_key(const ParamRow& r) const { return Random(settings.seed, "round " + r.name).key(); }
};

struct Schedule {
    enum class Kind : uint8_t { cosine, linear, constant, wsd };
    Kind kind            = Kind::cosine;
    float learning_rate  = 6e-4f;  // peak, reached at the end of warm-up
    float final_rate     = 0.f;    // reached at the last step
    int64_t warmup_steps = 0, steps = 1;
    // wsd (warm-up, stable, decay; Hu et al. 2024, arXiv 2404.06395): the last fifth of the run decays linearly.
    static constexpr double wsd_decay = 0.2;
};

// The rate of step 0 … steps-1. Warm-up is linear and never 0; the last step has exactly final_rate (constant: the
// peak).
inline float learning_rate(const Schedule& s, int64_t step) {
    if (step < s.warmup_steps) return float(s.learning_rate * double(step + 1) / double(s.warmup_steps));
    if (s.kind == Schedule::Kind::constant) return s.learning_rate;
    const int64_t decay_from =
        s.kind == Schedule::Kind::wsd
            ? std::max<int64_t>(s.warmup_steps, s.steps - std::max<int64_t>(1, std::llround(s.steps * s.wsd_decay)))
            : s.warmup_steps;
    if (step < decay_from) return s.learning_rate;
    if (step + 1 >= s.steps) return s.final_rate;
    // p runs from just above 0 to 1 at the last step
    const double p    = double(step + 1 - decay_from) / double(s.steps - decay_from);
    const double left = s.kind == Schedule::Kind::cosine ? 0.5 * (1 + std::cos(3.14159265358979323846 * p)) : 1 - p;
    return float(s.final_rate + left * (double(s.learning_rate) - s.final_rate));
}
