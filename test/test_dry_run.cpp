// test_dry_run.cpp - what --dry-run says of a run: memory, time, many GPUs, offloading
#include "test/programs.h"

TEST_CASE("a dry run plans for a GPU that the machine need not have", "[programs]") {
    const Scratch s;
    const Ran planned = run(s, "train_gpt", "--model gpt2 --batch 32 --steps 1000 --dry-run --gpu h100-80gb");
    CAPTURE(planned.out, planned.err);
    CHECK(planned.code == 0);
    CHECK(missing_words(planned.out, {"H100 80GB", "bf16", "time", "ms a step", "predicted", "--gpu h100-80gb",
                                      "--logits-memory 1024", "78.50 GiB are free"}) == "");
    // 162 GB of weights, gradients and moments do not fit.
    CHECK(missing_words(run(s, "train_gpt", "--model gpt-j-6b --dry-run --gpu h100-80gb").out,
                        {"room for 2 GPUs with --shard weights"}) == "");
    // Many GPUs of a kind that the machine need not have.
    const std::string neox =
        "--model gpt-neox-20b --dry-run --gpu a100-40gb --batch 4 --accumulate 4 --recompute block ";
    CHECK(missing_words(
              run(s, "train_gpt", neox + "--world 96 --link 800Gb --shard weights").out,
              {"96 × NVIDIA A100", "96 processes = 3,145,728 tokens", "on each", "network", "8 GPUs in a server",
               "800Gb between servers", "a step in", "not hidden behind kernels", "--world 96"}) == "");
    CHECK(missing_words(run(s, "train_gpt", neox + "--world 8").out,
                        {"all GPUs in one server", "room for 16 GPUs with --shard weights"}) == "");
    CHECK(missing_words(run(s, "train_gpt", neox).out, {"room for", "GPUs with --shard weights"}) == "");
    CHECK(missing_words(run(s, "train_gpt", neox + "--world 96").out, {"room for --shard"}) == "");
    // Where the tables are most of a model, slices beside whole tables take more than no slices.
    const std::string tables = "--model nano --vocab 50257 --dry-run --gpu a100-40gb --world 2 --shard ";
    for (const std::string level : {"gradients", "weights"})
        CHECK(missing_words(run(s, "train_gpt", tables + level).out, {"--shard optimizer would take less"}) == "");
    CHECK_THAT(run(s, "train_gpt", tables + "optimizer").out, !Catch::Contains("would take less"));
    refused(s, "train_gpt", neox + "--world 96 --link 800", {"--link 800", "800Gb"});
    refused(s, "train_gpt", "--model gpt2 --dry-run --world 8", {"--world", "--gpu"});
    // With the optimizer's state in the host's memory, GPT-2 1558M takes less than 16 GB of a GPU, and GPT-J-6B less
    // than 80.
    const std::string offload = "--dry-run --gpu h100-80gb --offload optimizer --batch 1 --recompute block ";
    const auto total          = [&](const std::string& how) {
        const Ran r = run(s, "train_gpt", offload + how);
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
        CHECK(missing_words(r.out, {"optimizer 0.0 MiB", "· in the host's memory", "offload",
                                    "not hidden behind the next", "assumed are 51 GB/s each way by PCIe"}) == "");
        return std::stod(r.out.substr(r.out.find("total ") + 6));
    };
    CHECK(total("--model gpt2-xl") < 14.5);
    CHECK(total("--model gpt-j-6b") < 75);
    refused(s, "train_gpt", "--model gpt2 --device cpu --dry-run --offload optimizer", {"--offload", "GPU"});
    // Each of 8 processes keeps an eighth of that there, and a buffer of 96 MiB, as one process does.
    const auto in_host = [&](const std::string& how) {
        const Ran r = run(s, "train_gpt", offload + "--model gpt2-xl " + how);
        CAPTURE(how, r.out, r.err);
        REQUIRE(r.code == 0);
        const std::string words = "in the host's memory ";
        return std::stod(r.out.substr(r.out.find(words) + words.size())) - 96. / 1024;
    };
    const double one = in_host("");
    for (const std::string level : {"optimizer", "gradients", "weights"})
        CHECK(in_host("--world 8 --shard " + level) == Approx(one / 8).margin(0.01));
    refused(s, "train_gpt", "--model gpt2 --gpu h100-80gb --train-data x.bin", {"--gpu", "--dry-run"});
    refused(s, "train_gpt", "--model gpt2 --gpu h100 --dry-run", {"--gpu h100", "h100-80gb"});
}

TEST_CASE("--dry-run prints the plan and touches nothing", "[programs]") {
    const Scratch s;
    // A config.json is enough, without weights.
    write_text(
        s / "config.json",
        R"({"model_type":"gpt_neox","num_hidden_layers":44,"hidden_size":6144,"num_attention_heads":64,)"
        R"("intermediate_size":24576,"max_position_embeddings":2048,"vocab_size":50432,"hidden_act":"gelu_fast"})");
    const Ran folder = run(s, "train_gpt", "--dry-run --batch 1 --model " + quoted(s.path));
    CHECK(folder.code == 0);
    CHECK(missing_words(folder.out, {"20,554,567,680", "optimizer", "FLOP"}) == "");
    CHECK(folder.out.find(" 1 step") == std::string::npos);  // without data nobody knows how many
    write_shard(s / "val.bin", 3000);
    const std::string nano = "--model nano --dry-run --val-data ";
    CHECK(missing_words(run(s, "train_gpt", nano + quoted(s / "val.bin")).out, {"train none · val 3,000"}) == "");
    refused(s, "train_gpt", nano + quoted(s / "none_*.bin"), {"no file matches", "none_*.bin"});
    const auto of_samples = [&](const std::string& tokens) {  // no sample is longer than the context
        const std::string out =
            run(s, "train_gpt", "--model nano --dry-run --sample-every 1 --sample-tokens " + tokens).out;
        return out.substr(out.find("buffers"), 20);
    };
    CHECK(of_samples("64") == of_samples("9223372036854775807"));
    const Ran r = run(s, "train_gpt", "--model gpt-neox-20b --dry-run --batch 1 --out " + quoted(s / "run"));
    CHECK(r.code == 0);
    CHECK(missing_words(r.out, {"20,554,567,680", "weights", "gradients", "optimizer", "activations", "FLOP",
                                "tokens a step"}) == "");
    CHECK(!exists(s / "run"));
}

TEST_CASE("--dry-run shows what --recompute saves", "[programs]") {
    const Scratch s;
    std::vector<double> activations;
    for (const char* level : {"none", "gelu", "norm", "block"}) {
        const Ran r =
            run(s, "train_gpt",
                std::string("--model gpt2 --dry-run --batch 8 --device cpu --dtype bf16 --recompute ") + level);
        CAPTURE(level, r.out, r.err);
        REQUIRE(r.code == 0);
        CHECK(missing_words(r.out, {"room for --batch"}) == "");
        activations.push_back(std::stod(r.out.substr(r.out.find("activations ") + 12)));
    }
    // A row of a layer keeps 16 widths of bf16. gelu saves 4 of them, norm 2 more, and block all but 1, in 11 of the 12
    // layers.
    CHECK(activations[0] - activations[1] == Approx(11 * 8192. * 768 * 2 * 4 / (1 << 30)).epsilon(0.02));
    CHECK(activations[1] - activations[2] == Approx(11 * 8192. * 768 * 2 * 2 / (1 << 30)).epsilon(0.02));
    CHECK(activations[2] - activations[3] == Approx(11 * 8192. * 768 * 2 * 9 / (1 << 30)).epsilon(0.03));
}
