// test_emulated.cpp - the programs on the emulated GPU (test/emulator) do what they do on the CPU, with every access
// checked and streams as late as they may be. A plain run leaves these tests out; scripts/test_cuda.sh asks for them.
#include <csignal>
#include <map>

#include "data/bpe_training.h"
#include "data/files.h"
#include "data/shard_writer.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "test/programs.h"

static const std::string checked = "scripts/emulate --check all --streams late ";

static std::string training(const Scratch& s, const std::string& out, const std::string& more) {
    return "--train-data " + quoted(s / "train.bin") + " --val-data " + quoted(s / "train.bin") + " --out " +
           quoted(s / out) + " --batch 2 --context 16 --eval-batches 2 --keep 0 " + more + " ";
}
static void train(const Scratch& s, const std::string& out, const std::string& more, const std::string& under) {
    const Ran r =
        run(s, "train_gpt", training(s, out, more) + (under.empty() ? "--device cpu" : "--device cuda"), "", under);
    CAPTURE(out, more, r.out, r.err);
    REQUIRE(r.code == 0);
}
// Removes later checkpoints, as if the run had been stopped after this step.
static void cut_after(const Scratch& s, const std::string& out, int64_t step) {
    const fs::path all = s / (out + "/checkpoints");
    for (const auto& e : fs::directory_iterator(all))
        if (!e.is_symlink() && std::stoll(e.path().filename().string()) > step) fs::remove_all(e.path());
}
static void resume(const Scratch& s, const std::string& out, const std::string& under) {
    const Ran r =
        run(s, "train_gpt", "--resume --out " + quoted(s / out) + (under.empty() ? " --device cpu" : " --device cuda"),
            "", under);
    CAPTURE(out, r.out, r.err);
    REQUIRE(r.code == 0);
}
// The largest relative difference between the losses of two runs.
static double apart(const Scratch& s, const std::string& a, const std::string& b) {
    const auto x = records(s / a, "step"), y = records(s / b, "step");
    REQUIRE(x.size() == y.size());
    REQUIRE(x.size() > 0);
    double most = 0;
    for (size_t i = 0; i < x.size(); i++) {
        const double l = x[i]["loss"], m = y[i]["loss"];
        most = std::max(most, std::fabs(l - m) / l);
    }
    return most;
}
static std::string bits(const Scratch& s, const std::string& out) {
    return losses(s / out) + records(s / out, "end").back()["fingerprint"].get<std::string>();
}

TEST_CASE("20 steps on the GPU equal the CPU's, and a run moves from one to the other and back", "[.emulated]") {
    const auto model = GENERATE(as<std::string>{}, "nano", "nano-neox");
    CAPTURE(model);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string how = "--dtype fp32 --steps 20 --eval-every 10 --save-every 5 --model " + model;
    train(s, "cpu", how, "");
    train(s, "gpu", how, checked);
    CHECK(apart(s, "cpu", "gpu") <= 1e-5);
    train(s, "both", how, "");
    cut_after(s, "both", 5);
    resume(s, "both", checked);
    cut_after(s, "both", 10);
    resume(s, "both", "");
    CHECK(records(s / "both", "step").size() == 20);
    CHECK(apart(s, "cpu", "both") <= 1e-5);
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
    cut_after(s, "again--graph", 3);
    resume(s, "again--graph", checked);
    CHECK(bits(s, "again--graph") == wanted);
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
    CHECK(apart(s, "mma", "hopper") <= 1e-3);
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
    CHECK(apart(s, "plain", "cpu") > 1e-4);
    train(s, "gpu", how + " --document-mask", checked);
    CHECK(apart(s, "cpu", "gpu") <= 1e-5);
    const std::string wanted = bits(s, "gpu");
    train(s, "graph", how + " --document-mask --graph --recompute block", checked);
    CHECK(bits(s, "graph") == wanted);
    cut_after(s, "graph", 2);
    resume(s, "graph", checked);
    CHECK(bits(s, "graph") == wanted);
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
    CHECK(apart(s, "cpu", "gpu") <= 1e-5);
    train(s, "graph", how + " --graph", checked);
    CHECK(bits(s, "graph") == bits(s, "gpu"));
    cut_after(s, "graph", 2);
    resume(s, "graph", checked);
    CHECK(bits(s, "graph") == bits(s, "gpu"));

    const std::string dpo = how + " --objective dpo --learning-rate 1e-3 ";
    train(s, "dpo cpu", dpo, "");
    for (const auto& e : fs::directory_iterator(s.path))  // so that the GPU computes its own
        if (e.path().filename().string().rfind("train.reference", 0) == 0) fs::remove(e.path());
    train(s, "dpo gpu", dpo, checked);
    CHECK(apart(s, "dpo cpu", "dpo gpu") <= 1e-4);
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
    CHECK(five[graph.empty() ? "cudaGraphLaunch" : "cudaLaunchKernel"] == 0);
    CHECK(five[graph.empty() ? "cudaLaunchKernel" : "cudaGraphLaunch"] >= 5);
}

// ---- two processes, a GPU each -------------------------------------------------------------------------------------
TEST_CASE("with dropout the GPU has the CPU's losses, and the same bits in a graph, recomputed and resumed",
          "[.emulated]") {
    const auto model = GENERATE(as<std::string>{}, "nano", "nano-neox");
    CAPTURE(model);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string how = "--steps 4 --accumulate 2 --eval-every 2 --save-every 2 --dropout 0.2 --model " + model;
    train(s, "cpu", how + " --dtype fp32", "");
    train(s, "gpu", how + " --dtype fp32", checked);
    CHECK(apart(s, "cpu", "gpu") <= 1e-5);
    train(s, "bf16", how + " --dtype bf16", checked);
    CHECK(apart(s, "cpu", "bf16") <= 1e-3);  // other masks change a loss by more than 1e-2
    const std::string wanted = bits(s, "bf16");
    train(s, "graph", how + " --dtype bf16 --graph --recompute block", checked);
    CHECK(bits(s, "graph") == wanted);
    cut_after(s, "graph", 2);
    resume(s, "graph", checked);
    CHECK(bits(s, "graph") == wanted);
}

// Starts a process for each of `world` GPUs as torchrun would. The shell commands in `after` run meanwhile, with the
// process ids in $rank0, $rank1, …
static std::vector<Ran> train_many(int world, const Scratch& s, const std::string& words, const std::string& after = "",
                                   const std::string& streams = "late") {
    const std::string port = std::to_string(20000 + getpid() % 20000);
    const std::string each = fmt::format(
        "scripts/emulate --devices {} --check all --streams {} {}/train_gpt {} "
        "--device cuda",
        world, streams, build_folder(), words);
    std::string line = fmt::format("export WORLD_SIZE={} LOCAL_WORLD_SIZE={} MASTER_PORT={}; ", world, world, port);
    for (int rank = 0; rank < world; rank++)
        line += fmt::format("RANK={0} LOCAL_RANK={0} {1} >{2} 2>{3} & rank{0}=$!; ", rank, each,
                            quoted(s / fmt::format("out{}", rank)), quoted(s / fmt::format("err{}", rank)));
    line += after;
    for (int rank = 0; rank < world; rank++)
        line += fmt::format("wait $rank{0}; echo $? >{1}; ", rank, quoted(s / fmt::format("code{}", rank)));
    REQUIRE(std::system(line.c_str()) == 0);
    std::vector<Ran> all;
    for (int rank = 0; rank < world; rank++)
        all.push_back({std::stoi(read_text(s / fmt::format("code{}", rank))), read_text(s / fmt::format("out{}", rank)),
                       read_text(s / fmt::format("err{}", rank))});
    return all;
}
static std::vector<Ran> train_two(const Scratch& s, const std::string& words, const std::string& after = "") {
    return train_many(2, s, words, after);
}
static std::string of_two(const Scratch& s, const std::string& out, const std::string& more) {
    return training(s, out, "--model nano --eval-every 4 --save-every 4 --steps 8 " + more);
}

TEST_CASE("two GPUs with half the batch each train like one with all of it", "[.emulated][two]") {
    const auto dtype = GENERATE(as<std::string>{}, "fp32", "bf16 --stochastic-rounding");
    CAPTURE(dtype);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string how = "--dtype " + dtype;
    const auto ran        = [&](const std::string& out, const std::string& more) {
        const auto both = train_two(s, of_two(s, out, how + more));
        for (const Ran& r : both) {
            CAPTURE(r.out, r.err);
            REQUIRE(r.code == 0);
        }
        CHECK(both[1].out == "");
        return both[0].out;
    };
    const std::string said = ran("two", " --accumulate 2");
    CHECK(missing_words(said, {"2 × NVIDIA", "NCCL 2.", "2 × 16 × 2 micro × 2 processes = 128 tokens a step"}) == "");
    CHECK(records(s / "two", "step").back()["tokens"] == 8 * 128);
    ran("again", " --accumulate 2");
    CHECK(bits(s, "again") == bits(s, "two"));
    ran("graph", " --accumulate 2 --graph");
    CHECK(bits(s, "graph") == bits(s, "two"));
    if (dtype != "fp32") return;

    std::string words = of_two(s, "one", how + " --accumulate 2");
    words.replace(words.find("--batch 2"), 9, "--batch 4");
    REQUIRE(run(s, "train_gpt", words + " --device cuda", "", checked).code == 0);
    CHECK(apart(s, "one", "two") <= 1e-6);
    CHECK(losses(s / "one") != losses(s / "two"));  // otherwise they are not sums of two
    const auto a = records(s / "one", "eval"), b = records(s / "two", "eval");
    REQUIRE(a.size() == b.size());
    for (size_t i = 0; i < a.size(); i++)
        CHECK(a[i]["val_loss"].get<double>() == Approx(b[i]["val_loss"].get<double>()).epsilon(1e-6));

    // A run moves from two processes to one and back, with the same tokens in a step.
    ran("moved", " --accumulate 2");
    cut_after(s, "moved", 4);
    resume(s, "moved", checked);
    CHECK(apart(s, "moved", "two") <= 1e-6);
    CHECK(records(s / "moved", "step").back()["tokens"] == 8 * 128);
    CHECK(nlohmann::json::parse(read_text(s / "moved/checkpoints/latest/state.json"))["world"] == 1);
    cut_after(s, "one", 4);
    for (const Ran& r : train_two(s, "--resume --out " + quoted(s / "one"))) {
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
    }
    CHECK(apart(s, "one", "two") <= 1e-6);
    CHECK(nlohmann::json::parse(read_text(s / "one/checkpoints/latest/state.json"))["world"] == 2);
}

TEST_CASE("two GPUs drop what one drops", "[.emulated][two]") {
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string how = "--dtype fp32 --dropout 0.2";
    for (const Ran& r : train_two(s, of_two(s, "two", how + " --accumulate 2 --graph"))) {
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
    }
    train(s, "one", "--model nano --eval-every 4 --save-every 4 --steps 8 --accumulate 4 " + how, checked);
    CHECK(apart(s, "one", "two") <= 1e-6);
}

// Transfers run on a stream of their own. "late" and "early" are the two extremes of when their work is done.
TEST_CASE("GPUs that keep slices train as GPUs that keep everything", "[.emulated][two][shard]") {
    const auto how  = GENERATE(as<std::string>{}, "--model nano --dtype fp32 --accumulate 2",
                               "--model nano-neox --dtype bf16 --stochastic-rounding --recompute block --wire bf16",
                               "--model nano-neox --dtype fp32 --optimizer muon");
    const int world = how.find("muon") != how.npos ? 4 : 2;
    CAPTURE(how, world);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const bool twice = how.find("accumulate") != how.npos;
    const auto ran   = [&](const std::string& name, const std::string& more, const std::string& streams) {
        const auto all = train_many(
              world, s, training(s, name, how + " --eval-every 3 --save-every 3 --steps 3 --shard " + more), "", streams);
        for (const Ran& r : all) {
            CAPTURE(r.out, r.err);
            REQUIRE(r.code == 0);
        }
    };
    ran("none", "none --graph", "late");
    for (const std::string level : {"optimizer", "gradients", "weights"}) {
        CAPTURE(level);
        const bool graph = twice || level == "weights";
        ran(level, level + (graph ? " --graph" : ""), level == "gradients" ? "random:3" : "late");
        const double planned = records(s / level, "start")[0]["planned_bytes"],
                     taken   = records(s / level, "end")[0]["peak_bytes"];
        CHECK(std::fabs(planned - taken) <= 0.05 * taken);
        // A micro-step's gradients leave at once where nobody has room for all of them, and are added in another order.
        if (twice && level != "optimizer")
            CHECK(apart(s, level, "none") <= 1e-6);
        else
            CHECK(bits(s, level) == bits(s, "none"));
    }
}

TEST_CASE("GPUs whose slices of the optimizer's state lie in host memory have the same bits, and less on each",
          "[.emulated][two][shard]") {
    const auto how = GENERATE(as<std::string>{}, "--shard optimizer --model nano --dtype fp32 --accumulate 2 --graph",
                              "--shard gradients --model nano-neox --dtype bf16 --stochastic-rounding",
                              "--shard weights --model nano-neox --dtype bf16 --graph --wire bf16",
                              "--shard weights --model nano --dtype bf16 --optimizer muon --save-async");
    CAPTURE(how);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const auto together = [&](const std::string& words) {
        for (const Ran& r : train_two(s, words)) {
            CAPTURE(words, r.out, r.err);
            REQUIRE(r.code == 0);
        }
    };
    const std::string all = how + " --eval-every 2 --save-every 2 --steps 4 ";
    const auto sums       = [&](const std::string& out) {
        return shell(s, "cd " + quoted(s / (out + "/checkpoints")) + " && md5sum */*.safetensors").out;
    };
    together(training(s, "here", all));
    together(training(s, "there", all + "--offload optimizer"));
    CHECK(bits(s, "there") == bits(s, "here"));
    CHECK(sums("there") == sums("here"));
    const double planned = records(s / "there", "start")[0]["planned_bytes"],
                 taken   = records(s / "there", "end")[0]["peak_bytes"];
    CHECK(taken < records(s / "here", "end")[0]["peak_bytes"].get<double>());
    CHECK(std::fabs(planned - taken) <= 0.05 * taken);
    if (how.find("--accumulate") == how.npos) return;
    // It goes on in its own way, without offloading, and without slices.
    const std::string go_on = "--resume --out " + quoted(s / "there");
    cut_after(s, "there", 2);
    together(go_on);
    CHECK(bits(s, "there") == bits(s, "here"));
    cut_after(s, "there", 2);
    together(go_on + " --offload none");
    CHECK(bits(s, "there") == bits(s, "here"));
    cut_after(s, "there", 2);
    const Ran alone =
        run(s, "train_gpt", go_on + " --shard none --batch 4 --offload optimizer --device cuda", "", checked);
    CAPTURE(alone.out, alone.err);
    REQUIRE(alone.code == 0);
    CHECK(apart(s, "there", "here") <= 1e-6);
}

TEST_CASE("SIGTERM to one of two stops both at the same step, and they go on to the bit", "[.emulated][two]") {
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string how = "--model nano --dtype fp32 --eval-every 0 --save-every 0 --steps 40";
    REQUIRE(train_two(s, training(s, "whole", how))[0].code == 0);
    const std::string after_two_steps = fmt::format(
        "until [ $(grep -c '\"step\"' {0} || echo 0) -gt 2 ] || ! kill -0 $rank0; do "
        "sleep 0.05; done 2>/dev/null; ",
        quoted(s / "cut/log.jsonl"));
    const auto cut = train_two(s, training(s, "cut", how), after_two_steps + "kill -TERM $rank1; ");
    for (const Ran& r : cut) {
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
    }
    CHECK(missing_words(cut[0].out, {"stopped", "--resume"}) == "");
    const auto saves = records(s / "cut", "save");
    REQUIRE(saves.size() == 1);
    REQUIRE(saves[0]["step"].get<int>() < 40);
    REQUIRE(train_two(s, "--resume --out " + quoted(s / "cut"))[0].code == 0);
    CHECK(bits(s, "cut") == bits(s, "whole"));

    const auto dead = train_two(
        s, training(s, "dead", how),
        fmt::format("until [ -s {} ]; do sleep 0.05; done; kill -KILL $rank1; ", quoted(s / "dead/log.jsonl")));
    CAPTURE(dead[0].out, dead[0].err);
    CHECK(dead[1].code == 128 + SIGKILL);
    CHECK(dead[0].code != 0);
    CHECK(missing_words(dead[0].err, {"rank 1"}) == "");
}

TEST_CASE("a gradient that is not finite on one GPU is skipped on both", "[.emulated][two]") {
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const auto both = train_two(s, training(s, "run",
                                            "--model nano --dtype fp32 --eval-every 0 --save-every 0 --steps 60 "
                                            "--learning-rate 1e30 --warmup-steps 0 --clip 0 --max-skips 3"));
    for (const Ran& r : both) {
        CAPTURE(r.out, r.err);
        CHECK(r.code == 1);
        CHECK(missing_words(r.err, {"4 steps in a row"}) == "");
    }
    CHECK(records(s / "run", "skip").size() == 4);
}

TEST_CASE("what several processes cannot do is refused", "[.emulated][two]") {
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string words = training(s, "run", "--model nano --steps 1 ");
    const Ran one_gpu = run(s, "train_gpt", words + "--device cuda", "", "WORLD_SIZE=2 RANK=1 LOCAL_RANK=1 " + checked);
    CHECK(one_gpu.code == 1);
    CHECK(missing_words(one_gpu.err, {"no GPU number 1"}) == "");
    CHECK(!exists(s / "run"));
    const Ran plan =
        run(s, "train_gpt", words + "--device cuda --dry-run", "", "WORLD_SIZE=2 RANK=0 LOCAL_RANK=0 " + checked);
    CHECK(plan.code == 0);  // it does not wait for rank 1
    CHECK(missing_words(plan.out, {"2 × 16 × 1 micro × 2 processes = 64 tokens a step"}) == "");
}

// ---- memory --------------------------------------------------------------------------------------------------------

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
    cut_after(s, "there", 3);
    resume(s, "there", checked);
    CHECK(bits(s, "there") == bits(s, "here"));
    CHECK(records(s / "there", "end")[0]["peak_bytes"] < records(s / "here", "end")[0]["peak_bytes"]);
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
    const auto sums = [&](const std::string& out) {
        return shell(s, "cd " + quoted(s / (out + "/checkpoints")) + " && ls -A && md5sum */*").out;
    };
    CHECK(sums("async") == sums("once"));
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
