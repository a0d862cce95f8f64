// schedule.h - the learning rate of every step
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

struct Schedule {
    enum class Kind : uint8_t {
        cosine,
        linear,
        constant,
        wsd,  // warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395): the last fifth of the run decays linearly
    };
    Kind kind            = Kind::cosine;
    float learning_rate  = 6e-4f;  // the peak, reached at the end of warm-up
    float final_rate     = 0.f;    // reached at the last step
    int64_t warmup_steps = 0, steps = 1;

    static constexpr double wsd_decay = 0.2;
};

// Returns the learning rate of step 0 … steps-1. Warm-up is linear and never 0. The last step has exactly final_rate,
// or the peak when the schedule is constant.
inline float learning_rate(const Schedule& s, int64_t step) {
    if (step < s.warmup_steps) return float(s.learning_rate * double(step + 1) / double(s.warmup_steps));
    if (s.kind == Schedule::Kind::constant) return s.learning_rate;
    const int64_t decay_from =
        s.kind == Schedule::Kind::wsd
            ? std::max<int64_t>(s.warmup_steps, s.steps - std::max<int64_t>(1, std::llround(s.steps * s.wsd_decay)))
            : s.warmup_steps;
    if (step < decay_from) return s.learning_rate;
    if (step + 1 >= s.steps) return s.final_rate;
    // p grows from just above 0 to 1 at the last step.
    const double p    = double(step + 1 - decay_from) / double(s.steps - decay_from);
    const double left = s.kind == Schedule::Kind::cosine ? 0.5 * (1 + std::cos(3.14159265358979323846 * p)) : 1 - p;
    return float(s.final_rate + left * (double(s.learning_rate) - s.final_rate));
}
