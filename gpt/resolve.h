// resolve.h - what `auto` means in the options of train_gpt, for a model and an amount of training data
//
// run.json and the printed command hold the values that are decided here. What the machine decides is in machine.h.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <string>

#include "gpt/config.h"
#include "gpt/options.h"

// The recipe of a preset, or the one for a model folder. Trained weights start at a twentieth of the rate for random
// ones, because the peak of a pretraining run would undo some of what they have learnt.
inline Recipe recipe_for(const Preset* preset, bool trained_weights) {
    if (preset) return preset->recipe;
    Recipe recipe;
    if (trained_weights) recipe.learning_rate = 3e-5f;
    return recipe;
}

inline int64_t tokens_of_step(const Options& o, int world) { return o.batch * o.context * o.accumulate * world; }

// The limit that keeps every product of these options from overflowing.
constexpr int64_t most_tokens_of_step = int64_t(1) << 40;

// Decides --accumulate so that a step has as many tokens as --tokens-per-step says. A micro-batch has `micro_batch`
// tokens, counted over all processes.
inline void accumulate_to(Options& o, int64_t micro_batch, int world) {
    CHECK(o.tokens_per_step <= most_tokens_of_step, "--tokens-per-step {}: expected at most 2^40", o.tokens_per_step);
    const int64_t tokens  = o.tokens_per_step,
                  nearest = std::max<int64_t>(1, (tokens + (micro_batch - 1) / 2) / micro_batch) * micro_batch;
    int64_t keeps         = o.batch;  // the largest batch that the number of tokens is a multiple of; 0: none
    while (keeps > 0 && tokens % (keeps * o.context * world) != 0) keeps--;
    CHECK(keeps == o.batch || !o.resume || o.earlier.gives("--tokens-per-step"),
          "--resume: this run has {} tokens a step, but with --batch {} and --context {} {} a multiple of {}; "
          "{}--tokens-per-step {} goes on with another number",
          tokens, o.batch, o.context, world == 1 ? "one process has" : fmt::format("{} processes have", world),
          micro_batch, keeps ? fmt::format("--batch {} keeps the {}, and ", keeps, tokens) : "", nearest);
    CHECK(tokens % micro_batch == 0, "--tokens-per-step {}: not a multiple of batch × context{} = {}; {} would be",
          tokens,
          world == 1 ? fmt::format(" = {} × {}", o.batch, o.context)
                     : fmt::format(" × processes = {} × {} × {}", o.batch, o.context, world),
          micro_batch, nearest);
    o.accumulate      = tokens / micro_batch;
    o.tokens_per_step = {};  // the printed command says it by --accumulate
}

// Decides what depends on the model. What depends on the amount of data is left to resolve_steps().
inline void resolve(Options& o, const Config& c, const Recipe& recipe, int world) {
    const bool batch_given = !o.batch.is_auto();
    o.batch.decide(4);
    o.context.decide(c.context);
    CHECK(o.context <= 1 << 24, "--context {}: out of range", o.context);
    CHECK(o.batch * o.context <= most_tokens_of_step / world,
          "--batch {} × --context {} × {} processes: expected at most 2^40 tokens per step", o.batch, o.context, world);
    const int64_t micro_batch = o.batch * o.context * world;  // tokens, over all processes
    if (!o.tokens_per_step.is_auto()) accumulate_to(o, micro_batch, world);
    const int64_t published = (recipe.tokens_per_step + micro_batch / 2) / micro_batch;
    o.accumulate.decide(batch_given ? 1 : std::max<int64_t>(1, published));
    CHECK(o.accumulate <= most_tokens_of_step / micro_batch,
          "--batch {} × --context {} × --accumulate {}: expected at most 2^40 tokens per step", o.batch, o.context,
          o.accumulate);
    if (recipe.steps) o.steps.decide(recipe.steps);

    o.schedule.learning_rate = o.learning_rate.decide(recipe.learning_rate);
    // Six digits: a tenth of 6e-4 is 6e-05, not 6.0000002e-05.
    const std::string last   = fmt::format("{:.6g}", double(o.learning_rate) * recipe.final_share);
    o.schedule.final_rate    = o.final_learning_rate.decide(std::strtof(last.c_str(), nullptr));
    CHECK(o.resume || o.schedule.kind == Schedule::Kind::constant || o.schedule.final_rate <= o.schedule.learning_rate,
          "--final-learning-rate {} is more than the peak, --learning-rate {}; the rate falls after its peak",
          o.schedule.final_rate, o.schedule.learning_rate);
    o.optimizer.weight_decay = o.weight_decay.decide(recipe.weight_decay);
    o.optimizer.beta2        = o.beta2.decide(recipe.beta2);
}

// Decides what depends on the amount of data: the length of the run, and what is a share of it.
inline void resolve_steps(Options& o, const Recipe& recipe, int world, int64_t train_tokens) {
    o.schedule.steps        = o.steps.decide(std::max<int64_t>(1, train_tokens / tokens_of_step(o, world)));
    o.schedule.warmup_steps = o.warmup_steps.decide(recipe.warmup_of(o.steps));
    CHECK(o.warmup_steps <= o.steps, "--warmup-steps {} is more than --steps {}", o.warmup_steps, o.steps);
    CHECK(o.steps <= INT64_MAX / tokens_of_step(o, world), "--steps {} of {} tokens: expected less than 2^63 tokens",
          o.steps, tokens_of_step(o, world));
    const int64_t tenth = std::max<int64_t>(1, o.steps / 10);
    o.eval_every.decide(tenth);
    o.save_every.decide(o.eval_every > 0 ? int64_t(o.eval_every) : tenth);
}
