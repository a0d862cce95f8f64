// test_time_model.cpp - the predicted times of training steps against those that an H100 took
#include "gpt/presets.h"
#include "gpt/time_model.h"
#include "test/catch.h"

TEST_CASE("predicted step times are within 10 % of those that were measured on an H100", "[model]") {
    Config characters       = config_of(*find_preset("gpt2"));  // nanoGPT's model of characters
    characters.layers       = 6;
    characters.width        = 384;
    characters.heads        = 6;
    characters.feed_forward = 4 * 384;
    characters.context      = 256;
    characters.vocab        = 65;
    const auto preset       = [](const char* name) { return config_of(*find_preset(name)); };
    struct Measured {
        const char* name;
        Config config;
        DType dtype;
        int64_t batch, context, logits_mib, micro_steps;
        bool graph;
        double tokens_per_second;
    };
    const Config gpt2 = preset("gpt2"), xl = preset("gpt2-xl");
    const DType bf16 = DType::BF16, fp32 = DType::F32;
    // One H100 80GB HBM3, 2026-11-26, medians of steps of `train_gpt` at commit 9e6079b, with --logits-memory as given.
    // clang-format off: columns of numbers
    const Measured all[] = {
        {"gpt2", gpt2, bf16, 32, 1024, 64, 1, false, 464e3},
        {"gpt2, large chunks", gpt2, bf16, 32, 1024, 1024, 1, false, 509e3},
        {"gpt2, batch 64", gpt2, bf16, 64, 1024, 64, 1, false, 458e3},
        {"gpt2, accumulated", gpt2, bf16, 32, 1024, 1024, 16, false, 507e3},
        {"gpt2, batch 8", gpt2, bf16, 8, 1024, 64, 1, false, 399e3},
        {"gpt2, graph", gpt2, bf16, 8, 1024, 64, 1, true, 412e3},
        {"gpt2, fp32", gpt2, fp32, 8, 1024, 64, 1, false, 41.8e3},
        {"gpt2-xl", xl, bf16, 8, 1024, 64, 1, false, 42.8e3},
        {"gpt2-xl, chunks", xl, bf16, 8, 1024, 1024, 1, false, 44.8e3},
        {"pythia-160m", preset("pythia-160m"), bf16, 16, 2048, 64, 1, false, 396e3},
        {"pythia-1.4b", preset("pythia-1.4b"), bf16, 4, 2048, 64, 1, false, 52.2e3},
        {"characters", characters, bf16, 64, 256, 64, 1, false, 2.86e6},
    };
    // clang-format on
    const Card* card = find_card("NVIDIA H100 80GB HBM3");
    REQUIRE(card);
    for (const Measured& m : all) {
        const BatchShape shape{m.batch, m.context, true, Recompute::none, m.logits_mib};
        const auto ops         = step_ops(m.config, shape, m.dtype, m.micro_steps, OptimizerKind::adamw);
        const double predicted = seconds_of_step(ops, *card, m.dtype, m.context, m.graph),
                     measured  = double(shape.rows() * m.micro_steps) / m.tokens_per_second;
        CAPTURE(m.name, predicted, measured, predicted / measured);
        CHECK(std::fabs(predicted / measured - 1) < 0.1);
    }
}

TEST_CASE("predicted step times follow the work", "[model]") {
    const Card* card = find_card("NVIDIA H100 80GB HBM3");
    const Config c   = config_of(*find_preset("gpt2"));
    const auto of    = [&](Recompute level, int64_t micro, OptimizerKind optimizer) {
        const BatchShape shape{8, 1024, true, level, 1024};
        return seconds_of_step(step_ops(c, shape, DType::BF16, micro, optimizer), *card, DType::BF16, 1024, false);
    };
    const double once = of(Recompute::none, 1, OptimizerKind::adamw);
    CHECK(of(Recompute::none, 3, OptimizerKind::adamw) > 2.5 * once);
    CHECK(of(Recompute::none, 3, OptimizerKind::adamw) < 3 * once);
    CHECK(of(Recompute::gelu, 1, OptimizerKind::adamw) > once);
    CHECK(of(Recompute::norm, 1, OptimizerKind::adamw) > of(Recompute::gelu, 1, OptimizerKind::adamw));
    CHECK(of(Recompute::block, 1, OptimizerKind::adamw) > of(Recompute::norm, 1, OptimizerKind::adamw));
    CHECK(of(Recompute::none, 1, OptimizerKind::muon) > once);
    CHECK(!find_card("NVIDIA A100-SXM4-80GB"));
}
