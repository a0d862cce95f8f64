// schedule.h - the learning rate of every step
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

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
    int64_t warmup_steps = 0;      // counted from `start`
    int64_t steps        = 1;      // the length of the whole run
    // A run that was resumed with other options may have begun a new schedule at a step, from the rate that it had
    // there. Its warm-up leads from that rate to `top`, which stands in for the peak.
    int64_t start        = 0;
    float start_rate = 0.f, top = 0.f;

    static constexpr double wsd_decay = 0.2;
    float peak() const { return start > 0 ? top : learning_rate; }
};

// The words of --schedule.
inline const std::vector<std::pair<std::string, Schedule::Kind>>& schedule_kinds() {
    using Kind                                                   = Schedule::Kind;
    static const std::vector<std::pair<std::string, Kind>> kinds = {
        {"cosine", Kind::cosine}, {"linear", Kind::linear}, {"constant", Kind::constant}, {"wsd", Kind::wsd}};
    return kinds;
}

// Returns the learning rate of step start … steps-1. Warm-up is linear and never 0. The last step has exactly
// final_rate, or the peak when the schedule is constant.
inline float learning_rate(const Schedule& s, int64_t step) {
    step                = std::max<int64_t>(0, step - s.start);
    const int64_t steps = s.steps - s.start, warmup = s.warmup_steps;
    const double peak = s.peak();
    if (step < warmup) return float(s.start_rate + (peak - s.start_rate) * double(step + 1) / double(warmup));
    if (s.kind == Schedule::Kind::constant) return float(peak);
    const int64_t decay_from =
        s.kind == Schedule::Kind::wsd
            ? std::max<int64_t>(warmup, steps - std::max<int64_t>(1, std::llround(steps * s.wsd_decay)))
            : warmup;
    if (step < decay_from) return float(peak);
    if (step + 1 >= steps) return s.final_rate;
    // p grows from just above 0 to 1 at the last step.
    const double p    = double(step + 1 - decay_from) / double(steps - decay_from);
    const double left = s.kind == Schedule::Kind::cosine ? 0.5 * (1 + std::cos(3.14159265358979323846 * p)) : 1 - p;
    return float(s.final_rate + left * (peak - s.final_rate));
}

// What the options say of the schedule of a run that goes on at `step`.
struct NewSchedule {
    Schedule asked;             // the options as they are now; it has no `start`
    bool changed      = false;  // they differ from those of the schedule before
    bool peak_given   = false;  // --learning-rate was given again, so that the rate goes there from where it stands
    bool warmup_given = false;
};

// Returns the schedule of a resumed run. When nothing changed it is the one before. Otherwise the rate never jumps
// unless a new peak was given. While the run warms up, or keeps its rate constant, the new schedule gives the rate that
// the run has, and is taken as it is. Where the rate has fallen, it goes on from where it stands.
inline Schedule continued(const Schedule& before, const NewSchedule& now, int64_t step) {
    if (!now.changed) return before;
    Schedule s   = now.asked;
    s.start      = before.start;
    s.start_rate = before.start_rate;
    s.top        = now.peak_given ? s.learning_rate : before.top;
    if (before.start > 0 && !now.warmup_given) s.warmup_steps = before.warmup_steps;
    const bool warms_up = step < before.start + before.warmup_steps;
    const float rate    = learning_rate(before, step);
    if (warms_up || (!now.peak_given && learning_rate(s, step) == rate)) return s;
    s.start        = step;
    s.start_rate   = rate;
    s.top          = now.peak_given ? s.learning_rate : rate;
    s.warmup_steps = now.warmup_given ? now.asked.warmup_steps : 0;
    return s;
}
