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
    // What else is known of a program that splits matrices and layers.
    bool drops     = false;  // it trained with dropout
    bool scattered = false;  // the GPUs of a stage send the next one a part each
};

inline std::vector<PlannedRun> published_runs() {
    using S           = ShardLevel;
    using R           = Recompute;
    // Steps: llm.c discussions 481 (124M) and 677 (1558M); llmq's
    // benchmarks/H100x8.md at commit 2251720, Qwen2.5-1.5B in bf16; Black et al. 2022 (arXiv 2204.06745): 150,000
    // steps in 1,830 hours; Narayanan et al. 2021 (arXiv 2104.04473): 300 billion tokens in 34 days, 1,536 sequences a
    // step.
    // The last one is of Korthikanti et al. 2022 (arXiv 2205.05198), table 5: full recomputation, three pieces a GPU.
    // Its seconds are quoted from memory and were not checked against the paper.
    const double neox = 1830 * 3600. / 150000, megatron = 34 * 86400. / (300e9 / (1536 * 2048.));
    return {
        {"GPT-2 124M, llm.c, 8 A100", "gpt2", "a100-80gb", "nvlink", 64, 1024, 1, {8, S::none}, R::none, .300},
        {"GPT-2 124M, llm.c, 8 H100", "gpt2", "h100-80gb", "nvlink", 64, 1024, 1, {8, S::none}, R::none, .140},
        {"GPT-2 1558M, llm.c, 8 H100", "gpt2-xl", "h100-80gb", "nvlink", 16, 1024, 8, {8, S::optimizer}, R::none, 2.75},
        {"1.5B, llmq, 8 H100", "gpt2-xl", "h100-80gb", "nvlink", 32, 1024, 2, {8, S::optimizer}, R::none, 1.146},
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
         megatron,
         true,
         true},
        {"GPT-3 175B, Megatron 2022, 64 A100, split 8 × 8",
         "gpt3-175b",
         "a100-80gb",
         "1600Gb",
         1,
         2048,
         64,
         {64, S::none, 8, 8, DType::F32, 3},
         R::block,
         18.13,
         true,
         true},
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

// What those programs did that a prediction does not have, in seconds of a step. All of it follows from shapes, from
// what their code writes and reads, and from the rates of the prediction.
struct Besides {
    const char* what;
    double seconds;
};
inline std::vector<Besides> besides(const PlannedRun& r) {
    const Config c    = config_of(r);
    const Parallel& p = r.parallel;
    const Card& card  = *card_named(r.card);
    const Cluster on{&card, find_link(r.link)};
    const int64_t N = r.batch * r.context, T = r.context, C = c.width, F = c.feed_forward, heads = c.heads / p.tensor,
                  D     = c.head_size();
    const double layers = double(c.layers * r.micro_steps) / double(p.pipeline);  // that a GPU passes in a step
    const double whole = 2. * double(N * C), own = whole / double(p.tensor),      // bytes of the stream, of its heads
        scores           = 2. * double(r.batch * heads * T * T);                  // and of its T × T matrices
    const double dropped = r.drops ? 1 : 0;                                       // a mask takes a byte an element
    const auto seconds   = [&](OpKind kind, const Cost& cost, double calls) {
        return seconds_of({Part::update, "", kind, cost, 1, calls}, card, DType::BF16, T, false);
    };
    const auto moved   = [&](double bytes, double calls) { return seconds(OpKind::copy, {bytes}, calls); };
    const auto product = [&](double calls) {
        return seconds(OpKind::product, {scores, 2. * double(r.batch * heads * T * T * D)}, calls);
    };
    double attention = 0, gelu = 0, stream = 0, head = 0;  // of the prediction
    for (const StepOp& op :
         step_ops(c, {r.batch, T, true, r.recompute, 1024}, DType::BF16, r.micro_steps, OptimizerKind::adamw)) {
        const double s       = seconds_of(op, card, DType::BF16, T, false) / double(p.tensor);
        const bool of_stream = op.kind == OpKind::layernorm_forward || op.kind == OpKind::layernorm_backward ||
                               std::string(op.name).find("residual") == 0;
        if (op.kind == OpKind::attention_forward || op.kind == OpKind::attention_backward) attention += s;
        if (std::string(op.name).find("gelu") == 0) gelu += s;
        if (of_stream) stream += s;
        if (op.part == Part::head) head += s;
    }
    const double stages  = double(p.pipeline);
    // Forward: Q·Kᵀ writes the scores, softmax reads the half that the mask leaves, dropout copies, P·V reads.
    // Backward: the same the other way, with two products that read for each that has written.
    const double forward = product(2) + moved(1.5 * scores, 1) + moved(2.5 * scores, dropped),
                 back    = product(4) + moved(2 * scores, 1) + moved(2.5 * scores, dropped);
    const double unfused = layers * (2 * forward + back) - attention / stages;
    // Forward: the bias of q, k and v is added to what their product has written; after rotation the parts of a head
    // are put together; the heads become rows; bias and gelu are one pass; bias, dropout and residual are another, and
    // the norm a third. Of a parallel block they add the two branches one after the other, and norm twice. Backward:
    // biases have sums, q, k and v are put together, and gelu and each norm have a pass.
    const double rotated = c.rope.dim ? 4 : 0, wider = double(F) / double(C);
    const double passes_forward = moved((8 + rotated + 2 * wider) * own + (c.parallel ? 6 : 2 + dropped) * whole, 1),
                 passes_back    = moved((11 + rotated + 4 * wider) * own + (6 + 5 * dropped) * whole, 1);
    const double passes         = layers * (2 * passes_forward + passes_back) - gelu / stages;
    // A layer was computed again as a whole, with the products and the sums that the backward pass does not need.
    const auto again            = [&](int64_t IC) {
        return seconds(OpKind::product, matmul_forward_cost(N, IC, C, DType::BF16), 1) / double(p.tensor);
    };
    const double down   = layers * (again(F) + (c.parallel ? again(C) : 0) + moved(3 * whole, 1));
    const double sums   = layers * sums_forward(c) * 2 * on.seconds(p.tensor, whole);
    // Norms and residuals were computed by each of the GPUs that share a matrix.
    const double norms  = stream * double(p.tensor - 1) / stages;
    const double uneven = head * (stages - 1) / stages;
    const double sends =
        2 * double(r.micro_steps * p.interleave) *
        (whole * (r.scattered ? 1 : double(p.tensor)) * double(on.gpus_per_node / p.tensor) / on.link->rate +
         (r.scattered ? on.seconds(p.tensor, whole) : 0));
    const double weights   = double(count_params(c)) / double(p.tensor * p.pipeline);
    const double gradients = on.seconds(p.replicas(), 2 * weights, p.tensor) * (p.shard == ShardLevel::none ? 2 : 1);
    const double update    = moved(16 * weights / (p.shard == ShardLevel::none ? 1 : double(p.replicas())), 1);
    const double filling   = double(p.pipeline - 1) / double(r.micro_steps * p.interleave);
    return {
        {"attention with T × T scores in memory", unfused},
        {"passes for biases, gelu, dropout, copies of q, k, v, and sums", passes},
        {"products and sums of a layer without use in backward, computed again", down},
        {"all-reduces of the layer, done again", sums},
        {"norms and residuals on every GPU that shares a matrix", norms},
        {"the head on the last stage alone", uneven},
        {"the pipeline fills and drains with all of this", filling * (unfused + passes + down + sums + norms + uneven)},
        {"sending from stage to stage", sends},
        {"gradients in fp16, sent after the backward pass", gradients},
        {"loss scale, and copies of weights and gradients in fp32", update}};
}
inline std::vector<PlannedRun> split_runs() {
    std::vector<PlannedRun> all;
    for (const PlannedRun& r : published_runs())
        if (r.parallel.tensor > 1) all.push_back(r);
    return all;
}
inline double seconds_besides(const PlannedRun& r) {
    double all = 0;
    for (const Besides& b : besides(r)) all += b.seconds;
    return all;
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
    const auto split = split_runs();
    text += "\n| seconds of a step |";
    for (const PlannedRun& r : split) text += fmt::format(" {} |", r.name);
    text += "\n|---|--:|--:|--:|\n| predicted |";
    for (const PlannedRun& r : split) text += fmt::format(" {:.2f} |", predict(r).seconds());
    for (size_t i = 0; i < besides(split[0]).size(); i++) {
        text += fmt::format("\n| + {} |", besides(split[0])[i].what);
        for (const PlannedRun& r : split) text += fmt::format(" {:.2f} |", besides(r)[i].seconds);
    }
    text += "\n| **together** |";
    for (const PlannedRun& r : split) text += fmt::format(" {:.2f} |", predict(r).seconds() + seconds_besides(r));
    text += "\n| published |";
    for (const PlannedRun& r : split) text += fmt::format(" {:.2f} |", r.published);
    text += "\n| together / published |";
    for (const PlannedRun& r : split)
        text += fmt::format(" {:.2f} |", (predict(r).seconds() + seconds_besides(r)) / r.published);
    text +=
        "\n\n| GPT-3 175B on | tokens a step | step s | TFLOP/s a GPU | of its rate | s on the wire | not hidden s | "
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
