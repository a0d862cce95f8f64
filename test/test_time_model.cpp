// test_time_model.cpp - the predicted times of training steps against those that an H100 took
#include "test/scaling_table.h"
#include "test/step_table.h"

#include "test/catch.h"
#include "test/scratch.h"

TEST_CASE("predicted step times are within 10 % of those that were measured on an H100", "[model]") {
    const auto preset = [](const char* name) { return config_of(*find_preset(name)); };
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
    // There gelu was an op of its own, and layernorm_backward had two kernels.
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
        {"characters", model_of_characters(), bf16, 64, 256, 64, 1, false, 2.86e6},
    };
    // clang-format on
    const Card* card = find_card("NVIDIA H100 80GB HBM3");
    REQUIRE(card);
    for (const Measured& m : all) {
        const BatchShape shape{m.batch, m.context, true, Recompute::none, m.logits_mib};
        auto ops = step_ops(m.config, shape, m.dtype, m.micro_steps, OptimizerKind::adamw, GeluOp::apart);
        for (StepOp& op : ops)
            if (op.kind == OpKind::layernorm_backward) op.kernels *= 2;
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
    // On the same H100 a step of llm.c took 61.5 ms with gelu as an op of its own and 60.5 ms with it in the product.
    const auto with_gelu = [&](GeluOp gelu) {
        const BatchShape shape{32, 1024, true, Recompute::none, 1024};
        return seconds_of_step(step_ops(c, shape, DType::BF16, 1, OptimizerKind::adamw, gelu), *card, DType::BF16, 1024,
                               false);
    };
    CHECK(with_gelu(GeluOp::apart) - with_gelu(GeluOp::in_product) == Approx(1e-3).epsilon(.15));
    const auto dropping = [&](const DropoutRates& rates) {
        BatchShape shape{8, 1024, true, Recompute::none, 1024};
        shape.dropout = rates;
        return seconds_of_step(step_ops(c, shape, DType::BF16, 1, OptimizerKind::adamw), *card, DType::BF16, 1024,
                               false);
    };
    CHECK(dropping({}) == once);
    CHECK(dropping({0.1f, 0, 0}) == once);  // in passes that move these bytes anyway
    CHECK(dropping({0, 0.1f, 0}) > once);
    CHECK(dropping({0, 0, 0.1f}) > once);
    CHECK(dropping({0.1f, 0.1f, 0.1f}) < 1.3 * once);
    for (const char* other :
         {"NVIDIA A30", "NVIDIA GH200 480GB", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 PCIe"})
        CHECK(!find_card(other));
}

TEST_CASE("predicted steps on many GPUs are within 15 % of those that were published", "[model]") {
    int compared = 0;
    for (const PlannedRun& run : published_runs()) {
        const std::string name = run.name;
        if (name.find("llm.c") == name.npos && name.find("llmq") == name.npos) continue;
        const double predicted = predict(run).seconds();
        CAPTURE(name, predicted, run.published);
        CHECK(std::fabs(predicted / run.published - 1) < 0.15);
        compared++;
    }
    CHECK(compared == 4);
    // Programs that split matrices and layers, with what they did besides.
    for (const PlannedRun& run : split_runs()) {
        const double predicted = predict(run).seconds() + seconds_besides(run);
        CAPTURE(run.name, predicted, run.published);
        CHECK(std::fabs(predicted / run.published - 1) < 0.15);
    }
    CHECK(split_runs().size() == 3);
}

TEST_CASE("the tables of docs/scaling.md are those of the model", "[model]") {
    const std::string page = read_text("docs/scaling.md"), tables = scaling_tables();
    INFO("bench_ops --scaling prints the tables; they have to be\n" << tables);
    int count = 0;
    for (size_t begin = 0, end; begin < tables.size(); begin = end + 2, count++) {
        end = std::min(tables.find("\n\n", begin), tables.size());
        CHECK(page.find(tables.substr(begin, end - begin)) != std::string::npos);
    }
    CHECK(count == 3);
}

TEST_CASE("a collective takes the time of its bytes and of its hops", "[model]") {
    const Card* card = find_card("NVIDIA H100 80GB HBM3");
    const Cluster one{card, find_link("nvlink")}, two{card, find_link("400Gb")};
    CHECK(one.seconds(1, 1e9) == 0);
    CHECK(one.seconds(8, 37e9) == Approx(7. / 8 * .1 + 7 * Cluster::hop));
    CHECK(two.seconds(8, 37e9) == one.seconds(8, 37e9));                 // one server
    CHECK(two.seconds(16, 47e9) == Approx(15. / 16).epsilon(1e-3));      // its adapters send 47 GB/s
    CHECK(two.seconds(4, 47e9, 8) == Approx(8 * 3. / 4).epsilon(1e-3));  // a GPU of each server is in each of 8 rings
    CHECK(two.seconds(4, 37e9, 2) == one.seconds(4, 37e9));              // two rings within a server
    CHECK(two.seconds(16384, 0) < 16383 * Cluster::hop);                 // a tree has fewer hops than a ring
    CHECK(one.seconds(16, 47e9) < two.seconds(16, 47e9));
}

TEST_CASE("each level of sharding sends what its formula says", "[model]") {
    const Config c = config_of(*find_preset("gpt2"));
    const Cluster cluster{find_card("NVIDIA H100 80GB HBM3"), find_link("nvlink")};
    const double weights = double(count_params(c)), part = 7. / 8;
    const auto step = [&](ShardLevel level, int64_t micro, int64_t world, DType wire = DType::F32) {
        return predict_step(c, {8, 1024, true, Recompute::none, 1024}, DType::BF16, micro, OptimizerKind::adamw, false,
                            {world, level, 1, 1, wire}, cluster);
    };
    CHECK(step(ShardLevel::none, 3, 8).sent == Approx(2 * part * 4 * weights));
    CHECK(step(ShardLevel::optimizer, 3, 8).sent == Approx(part * 6 * weights));
    CHECK(step(ShardLevel::gradients, 3, 8).sent == Approx(part * (3 * 4 + 2) * weights));
    CHECK(step(ShardLevel::weights, 3, 8).sent == Approx(3 * part * (4 + 2 * 2) * weights));
    CHECK(step(ShardLevel::weights, 3, 8, DType::BF16).sent == Approx(3 * part * (2 + 2 * 2) * weights));
    const ScaledStep alone = step(ShardLevel::none, 3, 1);
    CHECK(alone.sent == 0);
    CHECK(alone.exposed == 0);
    CHECK(alone.seconds() == Approx(seconds_of_step(step_ops(c, {8, 1024, true, Recompute::none, 1024}, DType::BF16, 3,
                                                             OptimizerKind::adamw),
                                                    *cluster.card, DType::BF16, 1024, false)));
    CHECK(step(ShardLevel::optimizer, 3, 8).update < alone.update / 7);
}

TEST_CASE("an update in the host's memory takes the time of the slowest of its three parts", "[model]") {
    const Config c     = config_of(*find_preset("gpt-j-6b"));
    const Card* a100   = find_card("NVIDIA A100-SXM4-80GB");
    const double n     = double(count_params(c));
    const auto of_bf16 = HostUpdate::of(n, 0, DType::BF16);
    CHECK(of_bf16.to_host == 6 * n);
    CHECK(of_bf16.to_gpu == 2 * n);
    CHECK(of_bf16.by_cpu == 30 * n);
    CHECK(of_bf16.seconds(*a100) == Approx(30 * n / 51e9));  // 6 / 25.6e9 is less
    const auto of_fp32 = HostUpdate::of(n, 0, DType::F32);
    CHECK(of_fp32.to_host == 8 * n);
    CHECK(of_fp32.to_gpu == 4 * n);
    CHECK(of_fp32.by_cpu == 28 * n);
    Card slow = *a100;
    slow.pcie = 1e9;
    CHECK(of_bf16.seconds(slow) == Approx(6 * n / 1e9));

    const auto step = [&](bool graph, ShardLevel level, int64_t world, int64_t batch, bool offload,
                          OptimizerKind optimizer = OptimizerKind::adamw) {
        return predict_step(c, {batch, 2048, true, Recompute::block, 1024}, DType::BF16, 2, optimizer, graph,
                            {world, level, 1, 1, DType::F32, 1, offload}, {a100, find_link("nvlink")});
    };
    const double update      = 30 * n / 51e9;
    const ParamLayout layout = param_layout(c);
    const double tables      = double(layout.buckets[0].elements) / double(layout.elements());
    // The forward pass of the first of two micro-steps hides what comes meanwhile, but not the token table.
    const ScaledStep here    = step(false, ShardLevel::none, 1, 1, false),
                     there   = step(false, ShardLevel::none, 1, 1, true);
    CHECK(there.forward < 2 * update);
    CHECK(there.waits == Approx(update - there.forward / 2));
    CHECK(there.seconds() == Approx(here.seconds() - (here.update - there.update) + there.waits));
    CHECK(here.update - there.update ==
          Approx(seconds_of({Part::update, "", OpKind::adamw, adamw_cost(layout.elements(), DType::BF16), 1, 1}, *a100,
                            DType::BF16, 2048, false))
              .epsilon(0.01));
    const ScaledStep large = step(false, ShardLevel::none, 1, 64, true);
    CHECK(large.forward > 2 * update);
    CHECK(large.waits == Approx(tables * update));
    // A graph hides nothing, and a slice takes its share.
    CHECK(step(true, ShardLevel::none, 1, 64, true).waits == Approx(update));
    CHECK(step(true, ShardLevel::weights, 8, 64, true).waits == Approx(update / 8));
    // Weights are gathered while others are updated.
    const ScaledStep gathered = step(true, ShardLevel::optimizer, 8, 64, true);
    CHECK(gathered.waits == Approx(update / 8));
    CHECK(gathered.exposed < step(true, ShardLevel::optimizer, 8, 64, false).exposed);
    // Muon leaves its matrices on the GPU: 8 bytes of each of their weights pass over PCIe, each way.
    const ScaledStep muon = step(false, ShardLevel::none, 1, 64, true, OptimizerKind::muon);
    CHECK(muon.host.to_host + 6 * muon.host.muon_state / 8 == Approx(6 * n));
    CHECK(muon.host.muon_state > .9 * 8 * n);
    CHECK(muon.update > muon.host.muon_state / 25.6e9);
}

TEST_CASE("the predictions of kernels/README.md are those of the model", "[model]") {
    const std::string page = read_text("kernels/README.md");
    INFO("the rows of its table have to be\n" << step_table());
    CHECK(page.find(step_table()) != std::string::npos);
    // Tokens/s of GPT-2 124M, a kernel of whose tokens takes 2.3 us beside its bytes where it waits for the one before.
    const Config c  = config_of(*find_preset("gpt2"));
    const auto rate = [&](int64_t sequences, int64_t past, double hidden, const Choice& choice = greedy_choice) {
        return double(sequences) / seconds_of_token(c, sequences, past, hidden, choice);
    };
    CHECK(rate(1, 512, 0) == Approx(4200).epsilon(.003));
    CHECK(rate(1, 512, 0, choice_by_top_p) == Approx(4040).epsilon(.003));
    CHECK(rate(64, 128, 0) == Approx(162e3).epsilon(.003));
    CHECK(rate(64, 128, 0, choice_by_top_p) == Approx(157e3).epsilon(.003));
    CHECK(rate(64, 512, 0) == Approx(91e3).epsilon(.005));
    CHECK(rate(64, 512, 0, choice_by_top_p) == Approx(89.5e3).epsilon(.005));
    CHECK(rate(1, 512, .60e-6) == Approx(5000).epsilon(.003));
    CHECK(rate(1, 512, .96e-6) == Approx(5630).epsilon(.003));
    CHECK(rate(1, 512, 2.3e-6 * 64 / 63) == Approx(11000).epsilon(.003));
    for (const char* figure : {"4,200 | 4,040", "162,000 | 157,000", "91,000 | 89,500", "5,000", "5,630", "11,000"})
        CHECK(page.find("| " + std::string(figure) + " |") != std::string::npos);
}
