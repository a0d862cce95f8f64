// test_emulated.cpp - training on the emulated GPU does what it does on the CPU, with the same bits each time. A plain
// run leaves these tests out; scripts/test_cuda.sh asks for them.
#include <map>

#include "data/bpe_training.h"
#include "data/shard_writer.h"
#include "gpt/presets.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "test/emulated.h"

TEST_CASE("20 steps on the GPU equal the CPU's, and a run moves from one to the other and back", "[.emulated]") {
    const auto model = GENERATE(as<std::string>{}, "nano", "nano-neox");
    CAPTURE(model);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string how = "--dtype fp32 --steps 20 --eval-every 10 --save-every 5 --model " + model;
    train(s, "cpu", how, "");
    train(s, "gpu", how, checked);
    CHECK(loss_difference(s, "cpu", "gpu") <= 1e-5);
    train(s, "both", how, "");
    cut_after(s, "both", 5);
    resume(s, "both", checked);
    cut_after(s, "both", 10);
    resume(s, "both", "");
    CHECK(records(s / "both", "step").size() == 20);
    CHECK(loss_difference(s, "cpu", "both") <= 1e-5);
    CHECK(bits(s, "both") != bits(s, "cpu"));  // otherwise it never ran on the GPU

    // The trained model writes the same text on both.
    const std::string words =
        "--dtype fp32 --ids 5,6,7 --tokens 24 --temperature 0 --model " + quoted(s / "gpu/checkpoints/latest");
    const Ran cpu = run(s, "infer_gpt", words + " --device cpu"),
              gpu = run(s, "infer_gpt", words + " --device cuda", "", checked);
    CAPTURE(cpu.err, gpu.err);
    CHECK(cpu.code == 0);
    CHECK(gpu.code == 0);
    CHECK(cpu.out.size() > 24);
    CHECK(cpu.out == gpu.out);
}

TEST_CASE("20 steps in bf16 on the GPU equal the CPU's within twice bf16's own error", "[.emulated]") {
    const auto model = GENERATE(as<std::string>{}, "nano", "nano-neox");
    CAPTURE(model);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string how = "--steps 20 --eval-every 0 --save-every 0 --model " + model + " --dtype ";
    train(s, "exact", how + "fp32", "");
    train(s, "cpu", how + "bf16", "");
    train(s, "gpu", how + "bf16", checked);
    const auto exact = records(s / "exact", "step"), cpu = records(s / "cpu", "step"), gpu = records(s / "gpu", "step");
    REQUIRE(exact.size() == 20);
    REQUIRE(cpu.size() == 20);
    REQUIRE(gpu.size() == 20);
    // The mean over the 32 tokens of one step may be right by chance, so the error of bf16 itself is that of all steps.
    double plain = 0, off = 0, apart = 0;
    for (size_t i = 0; i < 20; i++) {
        const double want = exact[i]["loss"], ours = cpu[i]["loss"], theirs = gpu[i]["loss"];
        plain = std::max(plain, std::fabs(ours - want));
        off += (ours - want) * (ours - want);
        apart += (theirs - ours) * (theirs - ours);
    }
    CHECK(plain > 0);
    for (size_t i = 0; i < 20; i++) {
        const double want = exact[i]["loss"], theirs = gpu[i]["loss"];
        CAPTURE(i, plain);
        CHECK(std::fabs(theirs - want) <= 2 * plain);
    }
    CHECK(std::sqrt(apart) <= 2 * std::sqrt(off));
}

TEST_CASE("a second run, a graph and recomputing give the same bits on the GPU", "[.emulated]") {
    const auto model = GENERATE(as<std::string>{}, "nano", "nano-neox");
    const auto dtype = GENERATE(as<std::string>{}, "bf16", "fp32");
    CAPTURE(model, dtype);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string how =
        "--steps 6 --accumulate 2 --eval-every 2 --save-every 3 --model " + model + " --dtype " + dtype;
    train(s, "first", how, checked);
    const std::string wanted = bits(s, "first");
    for (const std::string more :
         {"", "--graph", "--recompute gelu", "--recompute norm", "--recompute block --graph"}) {
        CAPTURE(more);
        train(s, "again" + more, how + " " + more, checked);
        // In bf16 a product ends in the tanh form of gelu, except where the backward pass repeats gelu alone.
        const bool apart =
            model == "nano" && dtype == "bf16" && (more == "--recompute gelu" || more == "--recompute norm");
        CHECK((bits(s, "again" + more) == wanted) == !apart);
    }
    CHECK(bits(s, "again--recompute gelu") == bits(s, "again--recompute norm"));
    CHECK(resumed_bits(s, "again--graph", 3) == wanted);
    // Random rounding gives other losses, which can be repeated.
    if (dtype == "fp32") return;
    train(s, "random", how + " --stochastic-rounding", checked);
    train(s, "random too", how + " --stochastic-rounding --graph", checked);
    CHECK(bits(s, "random") != wanted);
    CHECK(bits(s, "random") == bits(s, "random too"));
}

TEST_CASE("attention's kernels for Hopper train as those with mma.sync do, also in a graph", "[.emulated]") {
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const auto losses_with = [&](const std::string& out, const std::string& more) {
        const Ran r = run(s, "train_gpt",
                          "--train-data " + quoted(s / "train.bin") + " --out " + quoted(s / out) +
                              " --model nano --layers 1 --width 128 --heads 2 --context 200 --batch 2 --dtype bf16 "
                              "--steps 3 --eval-every 0 --save-every 0 --device cuda " +
                              more,
                          "", checked);
        CAPTURE(out, r.out, r.err);
        REQUIRE(r.code == 0);
        CHECK_THAT(r.err, !Catch::Contains("differ"));
        return losses(s / out);
    };
    const std::string hopper = losses_with("hopper", "--attention hopper");
    CHECK(losses_with("auto", "--graph") == hopper);  // the first step has compared them, and the graph replays them
    CHECK(losses_with("mma", "--attention mma") != hopper);
    CHECK(loss_difference(s, "mma", "hopper") <= 1e-3);
    const auto run_json = nlohmann::json::parse(read_text(s / "hopper/run.json"));
    CHECK(run_json["options"]["--attention"] == "hopper");
    // A GPU without these instructions takes mma.sync by itself.
    const Ran refused = run(s, "train_gpt",
                            "--train-data " + quoted(s / "train.bin") + " --attention hopper --out " +
                                quoted(s / "none") + " --model nano --dtype bf16 --device cuda",
                            "", "scripts/emulate --gpu a100 ");
    CHECK(refused.code == 2);
    CHECK_THAT(refused.err, Catch::Contains("compute capability 9.0"));
}

TEST_CASE("what blocks add up together has the same bits whichever of them ends last", "[.emulated]") {
    const Scratch s;
    const auto bits_with = [&](const std::string& order) {
        const Ran r = run(s, "test_gpt", "'[.last-block]'", "", "scripts/emulate --schedule " + order + " ");
        CAPTURE(order, r.out, r.err);
        CHECK(r.code == 0);
        CHECK(missing_words(
                  r.out, {"17 blocks, split sums: ", "in pairs, split sums: ", "layernorm: ", "squared norm: "}) == "");
        return r.out;
    };
    const std::string wanted = bits_with("barrier");
    for (const char* order : {"reverse", "random:1", "random:2"}) CHECK(bits_with(order) == wanted);
}

TEST_CASE("with a document mask the GPU has the CPU's losses, and the same bits in a graph and with recomputing",
          "[.emulated]") {
    const auto model = GENERATE(as<std::string>{}, "nano", "nano-neox");
    CAPTURE(model);
    const Scratch s;
    std::string ids;  // documents of 7 tokens, as nanoGPT writes them
    for (int i = 0; i < 4000; i++) ids += i % 7 ? std::string{char(i * i % 251), '\0'} : std::string("\0\1", 2);
    write_text(s / "train.bin", ids);
    write_text(s / "tokenizer.json", BpeTraining(WordCounts()).learn(257));
    const std::string how = "--steps 4 --accumulate 2 --eval-every 2 --save-every 2 --dtype fp32 --model " + model;
    train(s, "plain", how, "");
    train(s, "cpu", how + " --document-mask", "");
    CHECK(loss_difference(s, "plain", "cpu") > 1e-4);
    train(s, "gpu", how + " --document-mask", checked);
    CHECK(loss_difference(s, "cpu", "gpu") <= 1e-5);
    const std::string wanted = bits(s, "gpu");
    train(s, "graph", how + " --document-mask --graph --recompute block", checked);
    CHECK(bits(s, "graph") == wanted);
    CHECK(resumed_bits(s, "graph", 2) == wanted);
}

TEST_CASE("with dropout the GPU has the CPU's losses, and the same bits in a graph, recomputed and resumed",
          "[.emulated]") {
    const auto model = GENERATE(as<std::string>{}, "nano", "nano-neox");
    CAPTURE(model);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string how = "--steps 4 --accumulate 2 --eval-every 2 --save-every 2 --dropout 0.2 --model " + model;
    train(s, "cpu", how + " --dtype fp32", "");
    train(s, "gpu", how + " --dtype fp32", checked);
    CHECK(loss_difference(s, "cpu", "gpu") <= 1e-5);
    train(s, "bf16", how + " --dtype bf16", checked);
    CHECK(loss_difference(s, "cpu", "bf16") <= 1e-3);  // other masks change a loss by more than 1e-2
    const std::string wanted = bits(s, "bf16");
    train(s, "graph", how + " --dtype bf16 --graph --recompute block", checked);
    CHECK(bits(s, "graph") == wanted);
    CHECK(resumed_bits(s, "graph", 2) == wanted);
}

TEST_CASE("conversations and preferences train on the GPU as on the CPU", "[.emulated]") {
    const Scratch s;
    write_text(s / "tokenizer.json", BpeTraining(WordCounts()).learn(257));
    {
        ShardWriter writer(s / "train", 257, 100000, true);
        for (int pair = 0; pair < 60; pair++) {
            std::vector<int32_t> ids;
            std::vector<uint8_t> counts;
            for (int answer = 0; answer < 2; answer++) {
                ids.push_back(256), counts.push_back(0);
                const int asked = 1 + pair % 3, n = asked + 1 + (pair + answer) % 4;
                for (int i = 0; i < n; i++)
                    ids.push_back((pair * 7 + i * (1 + answer)) % 251), counts.push_back(i >= asked);
            }
            writer.add(ids.data(), counts.data(), ids.size());
        }
        writer.commit();
    }
    fs::rename(s / "train_000000.bin", s / "train.bin");
    const std::string how =
        "--steps 4 --accumulate 2 --eval-every 2 --save-every 2 --dtype fp32 --model nano --trust-data ";
    train(s, "cpu", how, "");
    train(s, "gpu", how, checked);
    CHECK(loss_difference(s, "cpu", "gpu") <= 1e-5);
    train(s, "graph", how + " --graph", checked);
    CHECK(bits(s, "graph") == bits(s, "gpu"));
    CHECK(resumed_bits(s, "graph", 2) == bits(s, "gpu"));

    const std::string dpo = how + " --objective dpo --learning-rate 1e-3 ";
    train(s, "dpo cpu", dpo, "");
    for (const auto& e : fs::directory_iterator(s.path))  // so that the GPU computes its own
        if (e.path().filename().string().rfind("train.reference", 0) == 0) fs::remove(e.path());
    train(s, "dpo gpu", dpo, checked);
    CHECK(loss_difference(s, "dpo cpu", "dpo gpu") <= 1e-4);
    cut_after(s, "dpo gpu", 2);
    const std::string wanted = bits(s, "dpo gpu");
    resume(s, "dpo gpu", checked);
    CHECK(bits(s, "dpo gpu") == wanted);
}

TEST_CASE("--tune writes products.json, which later runs use and other machines refuse", "[.emulated]") {
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string how  = "--model nano --steps 4 --eval-every 2 --save-every 2 --graph ",
                      path = s / "a/products.json";
    train(s, "plain", how, checked);
    CHECK(!fs::exists(s / "plain/products.json"));
    train(s, "a", how + "--tune", checked);
    CHECK(losses(s / "a") == losses(s / "plain"));  // all algorithms of the emulator compute the same
    const std::string chosen = read_text(path);
    auto file                = nlohmann::json::parse(chosen);
    CHECK(file["for"].get<std::string>().find("cuBLASLt") == 0);
    CHECK(file["products"].size() > 10);
    CHECK((file["products"][0]["us"] > 0 && file["products"][0]["us"] <= file["products"][0]["first_us"]));
    // A resumed run times nothing again, and a run without --tune adds nothing.
    cut_after(s, "a", 2);
    resume(s, "a", checked);
    CHECK(read_text(path) == chosen);
    CHECK(losses(s / "a") == losses(s / "plain"));
    fs::create_directories(s / "b");
    file["products"].erase(0);
    write_text(s / "b/products.json", file.dump());
    train(s, "b", how, checked);
    CHECK(nlohmann::json::parse(read_text(s / "b/products.json")) == file);

    const auto refused = [&](const std::string& options) {
        const Ran r = run(s, "train_gpt", training(s, "b2", options), "", checked);
        CAPTURE(r.err);
        CHECK(r.code == 2);
        CHECK(!fs::exists(s / "b2/checkpoints/latest"));
        return r.err;
    };
    const auto with = [&](const char* field, const nlohmann::json& value) {
        fs::remove_all(s / "b2");
        fs::create_directories(s / "b2");
        auto changed   = file;
        changed[field] = value;
        write_text(s / "b2/products.json", changed.dump());
    };
    with("for", "cuBLASLt 1.2.3 on another GPU");
    CHECK(missing_words(refused(how), {"b2/products.json", "1.2.3 on another GPU", "--tune"}) == "");
    CHECK(!fs::exists(s / "b2/run.json"));  // so that the same command runs when the file is right
    with("products", 3);
    CHECK(missing_words(refused(how), {"b2/products.json", "products"}) == "");
    with("products", {{{"product", "(1, 1)"}}});
    CHECK(missing_words(refused(how), {"b2/products.json", "algorithm"}) == "");
    auto rows = file["products"];
    for (auto& row : rows) row["algorithm"] = std::string(128, '1');
    with("products", rows);
    CHECK(missing_words(refused(how), {"b2/products.json", "is no algorithm of cuBLASLt"}) == "");
    CHECK(!fs::exists(s / "b2/run.json"));
    for (const char* words :
         {"", "(1, 1)", "(8, 8) bf16 = (8, 0) bf16 · (0, 8)", "(8, 8) bf16 = (8, 8) bf16 · (8, 8), x"}) {
        rows[0] = {{"product", words}, {"algorithm", file["products"][0]["algorithm"]}};
        with("products", rows);
        CHECK(missing_words(refused(how), {"b2/products.json", words, "are not the words of a product"}) == "");
    }
    fs::remove_all(s / "b2");
    CHECK(missing_words(refused("--model nano --device cpu --tune"), {"--tune is for GPUs"}) == "");
}

// How many kernels were launched so that they may begin early.
static int64_t early_launches(const std::string& trace) {
    int64_t count = 0;
    for (size_t at = 0; (at = trace.find(", {early", at)) != trace.npos; at++) count++;
    return count;
}
// How often each function of the CUDA runtime was called.
static std::map<std::string, int64_t> calls(const std::string& trace) {
    std::map<std::string, int64_t> count;
    const std::string mark = "emulate: ";
    for (size_t at = 0; (at = trace.find(mark + "cuda", at)) != trace.npos; at++) {
        const size_t name = at + mark.size();
        count[trace.substr(name, trace.find('(', name) - name)]++;
    }
    return count;
}

TEST_CASE("a step waits once and allocates nothing", "[.emulated]") {
    const auto graph = GENERATE(as<std::string>{}, "", "--graph");
    CAPTURE(graph);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    std::map<std::string, int64_t> of[2];
    for (int i = 0; i < 2; i++) {
        const std::string how = "--model nano --dtype bf16 --accumulate 2 --eval-every 0 --save-every 0 --steps ";
        const Ran r =
            run(s, "train_gpt", training(s, i ? "long" : "short", how + (i ? "9 " : "4 ") + graph) + "--device cuda",
                "", "scripts/emulate --trace --streams late ");
        CAPTURE(r.out);
        REQUIRE(r.code == 0);
        of[i] = calls(r.err);
    }
    std::map<std::string, int64_t> five;  // calls of five more steps
    for (const auto& [name, count] : of[1])
        if (count != of[0][name]) five[name] = count - of[0][name];
    CAPTURE(five);
    CHECK(five["cudaStreamSynchronize"] == 5);
    for (const char* name :
         {"cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cudaMemset", "cudaMalloc", "cudaMallocAsync",
          "cudaFree", "cudaHostAlloc", "cudaFreeHost", "cudaStreamCreateWithPriority", "cudaEventCreateWithFlags"})
        CHECK(five[name] == 0);
    CHECK(five[graph.empty() ? "cudaGraphLaunch" : "cudaLaunchKernelExC"] == 0);
    CHECK(five[graph.empty() ? "cudaLaunchKernelExC" : "cudaGraphLaunch"] >= 5);
}

// A block has 5 kernels for few rows, and 4 kernels are beside the blocks, of which the first cannot begin early.
TEST_CASE("the kernels of a token begin early on a GPU that can do that, and choose the same ids", "[.emulated]") {
    const auto model = GENERATE(as<std::string>{}, "nano", "nano-neox");
    CAPTURE(model);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    train(s, "model", "--steps 1 --save-every 1 --eval-every 0 --dtype fp32 --model " + model, "");
    // Returns the ids, and in `early` how many kernels were launched so.
    int64_t early  = 0;
    const auto ids = [&](const std::string& how, const std::string& gpu = "") {
        const Ran r = run(s, "infer_gpt",
                          "--model " + quoted(s / "model/checkpoints/latest") +
                              " --ids 1,2,3 --tokens 8 --top-p 0.9 --device cuda --dtype bf16 " + how,
                          "", gpu + checked + "--trace ");
        CAPTURE(how, gpu, r.out, r.err);
        REQUIRE(r.code == 0);
        early = early_launches(r.err);
        return r.out;
    };
    for (const int samples : {1, 9}) {
        const std::string how = fmt::format("--samples {} ", samples), ordered = ids(how + "--no-early-launch");
        CHECK(early == 0);
        CHECK(ids(how) == ordered);
        CHECK((samples == 1 ? early == 5 * config_of(*find_preset(model)).layers + 3 : early > 0));
    }
    const std::string ordered = ids("--no-early-launch", "EMU_GPU=a100 ");
    CHECK(ids("", "EMU_GPU=a100 ") == ordered);
    CHECK(early == 0);
}
TEST_CASE("--save-async on a GPU writes the files of a save at once", "[.emulated]") {
    const auto how = GENERATE(as<std::string>{}, "--model nano-neox --dtype bf16 --graph",
                              "--model nano --dtype fp32 --offload optimizer");
    CAPTURE(how);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string all = how + " --steps 5 --eval-every 0 --save-every 2 ";
    train(s, "once", all, checked);
    train(s, "async", all + "--save-async", checked);
    CHECK(bits(s, "async") == bits(s, "once"));
    CHECK(checkpoint_sums(s, "async") == checkpoint_sums(s, "once"));
}

TEST_CASE("for a GPU that cannot be used, the error says what was found and what works instead", "[.emulated]") {
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    struct Case {
        const char *under, *says;
    };
    const auto c = GENERATE(values<Case>({{"--devices 0", "no NVIDIA GPU"},
                                          {"--driver 0", "no NVIDIA driver"},
                                          {"--driver 11.8", "CUDA up to 11.8"},
                                          {"--gpu v100", "V100"}}));
    CAPTURE(c.under);
    const std::string under = std::string("scripts/emulate ") + c.under + " ";
    const Ran r = run(s, "train_gpt", training(s, "run", "--model nano --steps 1 --device cuda"), "", under);
    CAPTURE(r.out, r.err);
    CHECK(r.code == 1);
    CHECK(missing_words(r.err, {"--device cuda", c.says, "--device cpu"}) == "");
    CHECK(!exists(s / "run"));
    const Ran other = run(s, "train_gpt", training(s, "run", "--model nano --steps 1 --device auto"), "", under);
    CAPTURE(other.out, other.err);
    CHECK(other.code == 0);
    CHECK(missing_words(other.out, {"no GPU is used", c.says, "running on the CPU"}) == "");
}

// Gives an op memory that nobody owns. With checks off, the emulator answers as a GPU does. A fault ends all work on a
// device, so each of the two cases runs in a process of its own, which the test below starts.
static void faulty(bool sync_each) {
    const Device dev("cuda", 0, 1, sync_each);
    const Tensor nowhere{reinterpret_cast<void*>(uintptr_t(1) << 40), DType::F32, {64}};
    gelu_forward(nowhere, nowhere, Gelu::tanh, dev.stream());
    sync(dev.stream());
}
TEST_CASE("fault waiting for each kernel", "[.fault]") { faulty(true); }
TEST_CASE("fault waiting at the end", "[.fault]") { faulty(false); }

TEST_CASE("a kernel that faults is named under --sync, and without it --sync is named", "[.emulated]") {
    const Scratch s;
    const std::string under = "scripts/emulate --check off --streams late ";
    const Ran each          = run(s, "test_gpt", "'fault waiting for each kernel'", "", under),
              end           = run(s, "test_gpt", "'fault waiting at the end'", "", under);
    CAPTURE(each.out, end.out);
    CHECK(missing_words(each.out, {"gelu_forward: CUDA: cudaErrorIllegalAddress", "gelu.cu:"}) == "");
    CHECK(missing_words(end.out, {"cudaErrorIllegalAddress", "after every kernel"}) == "");
}
