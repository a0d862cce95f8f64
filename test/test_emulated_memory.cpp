// test_emulated_memory.cpp - the memory of a run on the emulated GPU: what it takes is what was planned, less of it
// with the optimizer's state in host memory, and what is said where it does not fit
#include "test/emulated.h"

TEST_CASE("with its optimizer's state in host memory a run has the same bits, and less on the GPU", "[.emulated]") {
    const auto how = GENERATE(as<std::string>{}, "--model nano --dtype fp32", "--model nano-neox --dtype bf16 --graph",
                              "--model nano --dtype bf16 --stochastic-rounding --optimizer muon");
    CAPTURE(how);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string all = how + " --steps 6 --accumulate 2 --eval-every 2 --save-every 3 ";
    train(s, "here", all, checked);
    train(s, "there", all + "--offload optimizer", checked);
    CHECK(bits(s, "there") == bits(s, "here"));
    // A save after step 3 must wait until the CPU has updated everything.
    CHECK(checkpoint_sums(s, "there", "*.safetensors") == checkpoint_sums(s, "here", "*.safetensors"));
    CHECK(resumed_bits(s, "there", 3) == bits(s, "here"));
    CHECK(records(s / "there", "end")[0]["peak_bytes"] < records(s / "here", "end")[0]["peak_bytes"]);
}

TEST_CASE("a run allocates what was planned, within 2 %", "[.emulated]") {
    const auto how = GENERATE(as<std::string>{}, "--model nano --batch 64 --context 64 --dtype fp32",
                              "--model nano-neox --batch 64 --context 64 --dtype bf16 --recompute block --accumulate 3",
                              "--model nano --batch 64 --context 64 --dtype bf16 --optimizer muon",
                              "--model nano --batch 64 --context 64 --dtype bf16 --offload optimizer");
    CAPTURE(how);
    const Scratch s;
    write_shard(s / "train.bin", 40000);
    const Ran r = run(s, "train_gpt",
                      std::string(how) + " --steps 1 --eval-every 0 --save-every 0 --device cuda --train-data " +
                          quoted(s / "train.bin") + " --out " + quoted(s / "run"),
                      "", "scripts/emulate --check off ");
    CAPTURE(r.out, r.err);
    REQUIRE(r.code == 0);
    const double planned = records(s / "run", "start")[0]["planned_bytes"],
                 taken   = records(s / "run", "end")[0]["peak_bytes"];
    CHECK(std::fabs(planned - taken) <= 0.02 * taken);
    const double products = 32 << 20;  // the same holds without cuBLASLt's workspace
    CHECK(std::fabs(planned - taken) <= 0.02 * (taken - products));
}

TEST_CASE("GPT-2 124M in bf16 with a batch of 8 fits into 24 GB", "[.emulated]") {
    const Scratch s;
    const Ran r = run(s, "train_gpt", "--model gpt2 --dtype bf16 --batch 8 --context 1024 --dry-run --device cuda", "",
                      "scripts/emulate --gpu rtx4090 ");
    CAPTURE(r.out, r.err);
    REQUIRE(r.code == 0);
    CHECK(missing_words(r.out, {"CUDA context", "24.00 GiB are free", "room for --batch "}) == "");
    const double total = std::stod(r.out.substr(r.out.find("total ") + 6)),
                 room  = std::stod(r.out.substr(r.out.find("room for --batch ") + 17));
    CHECK(total < 23.5);
    CHECK(room >= 8);
}

TEST_CASE("the error about memory names each group, what is free, and the batch that fits", "[.emulated]") {
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const auto answer = [&](const std::string& words) {
        const Ran r =
            run(s, "train_gpt",
                words + " --train-data " + quoted(s / "train.bin") + " --device cuda --out " + quoted(s / "run"), "",
                "scripts/emulate --gpu tiny ");
        CAPTURE(words, r.out);
        CHECK(r.code == 1);
        CHECK(!exists(s / "run"));
        return r.err;
    };
    CHECK(missing_words(
              answer("--model gpt2 --batch 1 --context 64"),
              {"out of memory", "weights", "optimizer", "activations", "tiny", "0.25 GiB free", "no --batch"}) == "");
    const std::string large = answer("--model nano --batch 20000 --context 64");
    CHECK(missing_words(large, {"out of memory", "activations", "room for --batch "}) == "");
    // The batch that it names fits, and one a tenth larger does not.
    const int64_t batch = std::stoll(large.substr(large.find("room for --batch ") + 17));
    const auto plan     = [&](int64_t b) {
        const Ran r =
            run(s, "train_gpt", fmt::format("--model nano --context 64 --dry-run --device cuda --batch {}", b), "",
                    "scripts/emulate --gpu tiny ");
        return std::stod(r.out.substr(r.out.find("total ") + 6));
    };
    CAPTURE(batch);
    CHECK(plan(batch) <= 0.25);
    CHECK(plan(batch + batch / 10) > 0.25);
}
