// step_table.h - the tables of kernels/README.md that say how long a step and a token should take on an H100, as
// predicted from counts
#pragma once
#include <fmt/format.h>

#include <array>

#include "gpt/plan.h"
#include "gpt/presets.h"
#include "gpt/time_model.h"
#include "kernels/tile_work.h"

// nanoGPT's model of characters.
inline Config model_of_characters() {
    Config c       = config_of(*find_preset("gpt2"));
    c.layers       = 6;
    c.width        = 384;
    c.heads        = 6;
    c.feed_forward = 4 * 384;
    c.context      = 256;
    c.vocab        = 65;
    return c;
}

// The three kernels of attention, forward, dq, and dk with dv, as the emulator counted them for one sequence, with
// `bench_ops --compare-attention`, or --only attention for T 256: PTX instructions of warps, and FLOPs of the tensor
// cores.
struct CountedAttention {
    int64_t D, T, heads;
    std::array<double, 3> instructions, flops;
};
// clang-format off: columns of numbers
inline constexpr CountedAttention hopper_attention[] = {
    {64, 256, 12, {0.279e6, 0.260e6, 0.331e6}, {0.138e9, 0.214e9, 0.252e9}},
    {64, 1024, 12, {2.12e6, 2.07e6, 2.99e6}, {1.724e9, 2.668e9, 3.423e9}},
    {128, 2048, 6, {3.77e6, 4.86e6, 6.74e6}, {6.66e9, 10.17e9, 13.59e9}},
};
// clang-format on

// Predicts the seconds of Hopper's attention kernels for one head. The scarcest of a multiprocessor's units sets the
// pace: its tensor cores, 4096 FLOPs a cycle; its exponentials, 16; or its four schedulers, an instruction each. None
// of them is busier than the schedulers were in the kernels that use mma.sync, which an H100 has timed: 47, 40 and 40 %
// of their slots. That H100 ran at 1.7 GHz.
inline std::array<double, 3> seconds_of_hopper_attention(const CountedAttention& a) {
    constexpr double cycles = 132 * 1.7e9, busy[] = {0.47, 0.40, 0.40};
    std::array<double, 3> seconds;
    for (int k = 0; k < 3; k++) {
        const double scores = a.flops[k] / double(2 * (k + 2) * a.D);  // each is in 2, 3 or 4 products
        seconds[k] =
            std::max({a.flops[k] / 4096, scores / 16, a.instructions[k] / 4}) / cycles / busy[k] / double(a.heads);
    }
    return seconds;
}

// FLOP/s of cuDNN's attention, forward and backward, on that H100 on the same day.
struct TimedAttention {
    int64_t D, T;
    double forward, backward;
};
inline constexpr TimedAttention cudnn_attention[] = {{64, 1024, 336e12, 232e12}, {128, 2048, 535e12, 394e12}};

// Predicts the seconds of a product in bf16 by our kernels (kernels/matmul_hopper.cuh), for the best of their tiles. Of
// each step of 64 along K, shared memory has the copies and what the two warpgroups multiply to move, 128 bytes a
// cycle, and the tensor cores have 4096 FLOPs a cycle to do. The scarcer of the two is as busy as cuBLASLt keeps the
// tensor cores in its largest product. The last tiles may leave multiprocessors without work, or are shared. A tile of
// two pieces then costs a block one piece that it keeps and one that it adds to its own. Of more pieces the last block
// keeps one as well, and adds all. These move at 32 bytes a cycle of 1.7 GHz.
inline double seconds_of_our_product(const ProductSize& p, const Card& card) {
    constexpr int blocks = 132;  // multiprocessors of an H100
    double best          = 1e9;
    for (const auto& [M, N] : {std::pair{128, 256}, {128, 192}, {128, 320}, {256, 128}}) {
        // A product has at most 256 columns, so a tile with more reads a twice.
        const double cycles = 2. * M * N * 64 / 4096,
                     shared = (128. * (M + N) + M / 64 * 128. * (64 * ceil_div(N, 256) + N)) / 128,
                     step   = std::max(cycles, shared) * 4096 * blocks / card.bf16_rate;
        for (const bool split : {false, true}) {
            const auto work = gpu::divide_tiles(ceil_div(p.M, M), ceil_div(p.N, N), ceil_div(p.K, 64), blocks, split);
            const int alone = ceil_div(work.whole, blocks) * work.steps;
            double seconds  = card.launch_in_graph + (alone + work.each + (work.longer > 0)) * step;
            int most        = 0;
            if (split && work.each == 0) continue;  // there are fewer steps than blocks
            for (int tile = work.whole; tile < work.tiles(); tile++)
                most = std::max(most, work.last_block(tile) - work.first_block(tile) + 1);
            seconds += (most > 2 ? most + 1 : most) * M * N * 4. / (32 * 1.7e9);
            best = std::min(best, seconds);
        }
    }
    return best;
}

// What the columns of the table assume of attention. But for `measured`, they also assume what their counts allow of
// the other kernels that were written anew since they were timed.
enum class Attention : uint8_t { measured, by_instructions, hopper, cudnn, hopper_and_products };

template <class Rows>
auto* row_for(const Rows& rows, int64_t D, int64_t T) {
    const auto row =
        std::find_if(std::begin(rows), std::end(rows), [&](const auto& r) { return r.D == D && r.T == T; });
    return row == std::end(rows) ? nullptr : &*row;
}

// Returns the seconds of a step, or nothing when there are no figures for its attention.
inline std::optional<double> predicted_step(const Config& c, const BatchShape& shape, Attention attention) {
    const Card* card = find_card("NVIDIA H100 80GB HBM3");
    auto ops         = step_ops(c, shape, DType::BF16, 1, OptimizerKind::adamw,
                        attention == Attention::hopper_and_products ? GeluOp::in_our_product : GeluOp::in_product);
    const int64_t D = c.head_size(), T = shape.context;
    double seconds = 0;
    for (StepOp& op : ops) {
        const bool forward = op.kind == OpKind::attention_forward, backward = op.kind == OpKind::attention_backward;
        const auto reaches = [&](OpKind kind, double measured, double now) {
            if (op.kind == kind && attention != Attention::measured) op.cost = op.cost * (measured / now);
        };
        reaches(OpKind::cross_entropy, .60, .85);
        reaches(OpKind::layernorm_backward, .61, .85);
        reaches(OpKind::embedding_forward, .62, .85);
        reaches(OpKind::embedding_backward, .28, .72);
        reaches(OpKind::rope, .36, .80);
        reaches(OpKind::sum, .53, .85);
        // The instructions of machine code for an mma, now and when an H100 timed the kernels; in the backward pass
        // those of dq and of dk and dv, in the ratio of their times there. Besides, warps skip tiles now, which saves 5
        // % of the products.
        if (attention == Attention::by_instructions) {
            const bool wide = D > 64;
            const double dq = wide ? 3.1 / 3.7 : 3.6 / 4.1, dk_dv = wide ? 3.4 / 3.6 : 3.7 / 4.0;
            if (forward) op.work = .95 * (wide ? 3.2 / 4.8 : 3.9 / 5.4);
            if (backward) op.work = .95 * (302 * dq + 424 * dk_dv) / 726;
        }
        if ((forward || backward) && attention >= Attention::hopper) {
            double kernels;
            if (attention == Attention::cudnn) {
                const auto* timed = row_for(cudnn_attention, D, T);
                if (!timed) return {};
                kernels = op.cost.flops / (forward ? timed->forward : timed->backward);
            } else {
                const auto* counted = row_for(hopper_attention, D, T);
                if (!counted) return {};
                const auto of = seconds_of_hopper_attention(*counted);
                kernels       = double(shape.batch * c.heads) * (forward ? of[0] : of[1] + of[2]);
            }
            seconds += op.calls * (kernels + op.kernels * card->launch_in_graph);
            continue;
        }
        double one = seconds_of(op, *card, DType::BF16, T, true) / op.calls;
        if (op.size.M && attention == Attention::hopper_and_products)
            one = std::min(one, seconds_of_our_product(op.size, *card));
        seconds += op.calls * one;
    }
    return seconds;
}

inline std::string rounded(double tokens_per_second) {
    return tokens_per_second > 1e6   ? fmt::format("{:.2f}M", tokens_per_second / 1e6)
           : tokens_per_second > 1e5 ? fmt::format("{:.0f}k", tokens_per_second / 1e3)
                                     : fmt::format("{:.1f}k", tokens_per_second / 1e3);
}

inline std::string step_table() {
    const auto preset = [](const char* name) { return config_of(*find_preset(name)); };
    struct Row {
        const char *name, *measured;
        Config config;
        int64_t batch, context;
        const char* target;
    };
    const Row rows[] = {
        {"GPT-2 124M, B 32, T 1024", "464k", preset("gpt2"), 32, 1024, "580k"},
        {"GPT-2 1558M, B 8, T 1024", "42.8k", preset("gpt2-xl"), 8, 1024, "50k"},
        {"Pythia-1.4b, B 4, T 2048", "52.2k", preset("pythia-1.4b"), 4, 2048, "60k"},
        {"characters: 6 layers × 384, B 64, T 256", "2.86M", model_of_characters(), 64, 256, "4M"},
    };
    std::string table;
    for (const Row& r : rows) {
        table += fmt::format("| {} | {} |", r.name, r.measured);
        const BatchShape shape{r.batch, r.context, true, Recompute::none, 1024};
        for (const Attention a : {Attention::measured, Attention::by_instructions, Attention::hopper,
                                  Attention::hopper_and_products, Attention::cudnn}) {
            const auto seconds = predicted_step(r.config, shape, a);
            table += fmt::format(" {} |", seconds ? rounded(double(shape.rows()) / *seconds) : "");
        }
        table += fmt::format(" {} |\n", r.target);
    }
    return table;
}

// ---- a token of generation ------------------------------------------------------------------------------------------

// The instructions of warps that one block executes to choose a token among 50257 logits in bf16, as the emulator
// counts them: for one sequence, which has 8 blocks (bench_ops --only choose), and for each of 64, which have 2.
struct Choice {
    double for_one, for_64;
};
constexpr Choice greedy_choice{8.0e3, 14.3e3}, choice_by_top_p{74.1e3, 112e3};

// Predicts the seconds of a token of each of `sequences` sequences that have `past` tokens in the cache. hidden: the
// seconds by which a kernel begins before the one in front of it has ended; the first kernel cannot.
inline double seconds_of_token(const Config& c, int64_t sequences, int64_t past, double hidden,
                               const Choice& choice = greedy_choice) {
    constexpr double launch = 2.3e-6;     // seconds that a kernel takes beside its bytes; an H100 measured them
    constexpr double issues = 4 * 1.7e9;  // instructions a second of a multiprocessor, at most
    const double weights    = 2. * double(count_params(c) - c.context * c.width),
                 cache      = 2. * double(2 * c.layers * c.width * past * sequences),
                 logits     = 2. * double(2 * c.padded_vocab() * sequences);  // written and read
    const double kernels    = double((sequences <= few_rows ? 5 : 7) * c.layers + 4);
    return (weights + cache + logits) / find_card("NVIDIA H100 80GB HBM3")->copy_rate + kernels * launch +
           (sequences < 64 ? choice.for_one : choice.for_64) / issues - (kernels - 1) * hidden;
}
