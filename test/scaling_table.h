// scaling_table.h - the tables of docs/scaling.md: runs that others published, and GPT-3 on large clusters, as
// predicted
#pragma once
#include <fmt/format.h>

#include "gpt/plan.h"
#include "gpt/presets.h"
#include "gpt/scaling.h"

struct PlannedRun {
    const char *name, *model, *card, *link;
    int64_t batch, context, micro_steps;
    Parallel parallel;
    Recompute recompute;
    double published;  // seconds of a step; 0: none
};

inline std::vector<PlannedRun> published_runs() {
    using S           = ShardLevel;
    using R           = Recompute;
    // Steps: llm.c discussions 481 (124M) and 677 (1558M); llmq's README; Black et al. 2022 (arXiv 2204.06745): 150,000
    // steps in 1,830 hours; Narayanan et al. 2021 (arXiv 2104.04473): 300 billion tokens in 34 days, 1,536 sequences a
    // step.
    const double neox = 1830 * 3600. / 150000, megatron = 34 * 86400. / (300e9 / (1536 * 2048.));
    return {
        {"GPT-2 124M, llm.c, 8 A100", "gpt2", "a100-80gb", "nvlink", 64, 1024, 1, {8, S::none}, R::none, .300},
        {"GPT-2 124M, llm.c, 8 H100", "gpt2", "h100-80gb", "nvlink", 64, 1024, 1, {8, S::none}, R::none, .140},
        {"GPT-2 1558M, llm.c, 8 H100", "gpt2-xl", "h100-80gb", "nvlink", 16, 1024, 8, {8, S::optimizer}, R::none, 2.75},
        {"1.5B, llmq, 8 H100", "gpt2-xl", "h100-80gb", "nvlink", 16, 1024, 4, {8, S::optimizer}, R::none, 1.150},
        {"GPT-NeoX-20B, 96 A100, split 2 × 4",
         "gpt-neox-20b",
         "a100-40gb",
         "800Gb",
         4,
         2048,
         32,
         {96, S::optimizer, 2, 4},
         R::block,
         neox},
        {"GPT-NeoX-20B, 96 A100, --shard weights",
         "gpt-neox-20b",
         "a100-40gb",
         "800Gb",
         4,
         2048,
         4,
         {96, S::weights},
         R::block,
         neox},
        {"GPT-3 175B, Megatron, 1,024 A100, split 8 × 16",
         "gpt3-175b",
         "a100-80gb",
         "1600Gb",
         1,
         2048,
         192,
         {1024, S::none, 8, 16},
         R::block,
         megatron},
    };
}

inline std::vector<PlannedRun> runs_on_paper() {
    using S       = ShardLevel;
    const auto of = [](const char* name, const char* card, const char* link, int64_t micro, const Parallel& p) {
        return PlannedRun{name, "gpt3-175b", card, link, 1, 2048, micro, p, Recompute::block, 0};
    };
    return {
        of("1,024 A100, --shard weights", "a100-80gb", "1600Gb", 1, {1024, S::weights}),
        of("1,024 A100, --shard weights, 2 micro-steps", "a100-80gb", "1600Gb", 2, {1024, S::weights}),
        of("1,024 A100, split 8 × 1, --shard weights", "a100-80gb", "1600Gb", 12, {1024, S::weights, 8, 1}),
        of("1,024 A100, split 8 × 16", "a100-80gb", "1600Gb", 192, {1024, S::optimizer, 8, 16}),
        of("10,000 V100, --shard weights", "v100-32gb", "400Gb", 1, {10000, S::weights}),
        of("10,000 V100, split 8 × 1, --shard weights", "v100-32gb", "400Gb", 1, {10000, S::weights, 8, 1}),
        of("9,984 V100, split 8 × 12", "v100-32gb", "400Gb", 15, {9984, S::optimizer, 8, 12}),
        of("22,000 H100, --shard weights", "h100-80gb", "3200Gb", 1, {22000, S::weights}),
        of("22,000 H100, split 8 × 1, --shard weights", "h100-80gb", "3200Gb", 1, {22000, S::weights, 8, 1}),
        of("21,888 H100, split 8 × 8", "h100-80gb", "3200Gb", 16, {21888, S::optimizer, 8, 8}),
    };
}

inline const Card* card_named(const std::string& name) {
    for (const Card& card : cards)
        if (name == card.name) return &card;
    return nullptr;
}
inline Config config_of(const PlannedRun& run) {
    Config c  = config_of(*find_preset(run.model));
    c.context = std::max(c.context, run.context);
    return c;
}
inline ScaledStep predict(const PlannedRun& r) {
    return predict_step(config_of(r), {r.batch, r.context, true, r.recompute, 1024}, DType::BF16, r.micro_steps,
                        OptimizerKind::adamw, false, r.parallel, {card_named(r.card), find_link(r.link)});
}
// Weights, gradients and the optimizer's state on each GPU, in bytes.
inline double state_bytes(const PlannedRun& r) {
    RunSize size{config_of(r), DType::BF16, {r.batch, r.context, true, r.recompute, 64}};
    size.shard            = r.parallel.shard;
    size.world            = int(r.parallel.replicas());
    const MemoryPlan plan = plan_memory(size, Machine::cuda);
    return double(plan.weights + plan.gradients + plan.optimizer) / double(r.parallel.tensor * r.parallel.pipeline);
}

inline std::string scaling_tables() {
    const auto tokens = [](const PlannedRun& r) {
        return double(r.batch * r.context * r.micro_steps * r.parallel.replicas());
    };
    std::string text =
        "| run | tokens a step | published s | predicted s | ratio | a GPU sends GB | s on the wire | not hidden s | "
        "idle s | state GiB |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for (const PlannedRun& r : published_runs()) {
        const ScaledStep s = predict(r);
        text +=
            fmt::format("| {} | {:.2f}M | {:.3g} | {:.3g} | {:.2f} | {:.3g} | {:.3f} | {:.3f} | {:.2f} | {:.1f} |\n",
                        r.name, tokens(r) / 1e6, r.published, s.seconds(), s.seconds() / r.published, s.sent / 1e9,
                        s.wire, s.exposed, s.idle, state_bytes(r) / (1 << 30));
    }
    text +=
        "\n| GPT-3 175B on | tokens a step | step s | TFLOP/s a GPU | of its rate | s on the wire | not hidden s | "
        "idle s "
        "| state GiB | days for 300B tokens |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for (const PlannedRun& r : runs_on_paper()) {
        const ScaledStep s = predict(r);
        const double rate =
            train_flops_per_token(config_of(r), r.context) * tokens(r) / s.seconds() / double(r.parallel.world);
        text +=
            fmt::format("| {} | {:.2f}M | {:.2f} | {:.0f} | {:.0f} % | {:.2f} | {:.2f} | {:.2f} | {:.1f} | {:.1f} |\n",
                        r.name, tokens(r) / 1e6, s.seconds(), rate / 1e12, 100 * rate / card_named(r.card)->bf16_rate,
                        s.wire, s.exposed, s.idle, state_bytes(r) / (1 << 30), 300e9 / tokens(r) * s.seconds() / 86400);
    }
    return text;
}
