// test_emulated_processes.cpp - several processes with an emulated GPU each train as one does, stop together, and keep
// slices. scripts/test_cuda.sh asks for these tests where NCCL is installed.
#include <csignal>

#include "test/emulated.h"

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
// Returns the results again, of which each must be that of a process that ended well.
static std::vector<Ran> ended_well(std::vector<Ran> all) {
    for (const Ran& r : all) {
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
    }
    return all;
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
        const auto both = ended_well(train_two(s, of_two(s, out, how + more)));
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
    CHECK(loss_difference(s, "one", "two") <= 1e-6);
    CHECK(losses(s / "one") != losses(s / "two"));  // otherwise they are not sums of two
    const auto a = records(s / "one", "eval"), b = records(s / "two", "eval");
    REQUIRE(a.size() == b.size());
    for (size_t i = 0; i < a.size(); i++)
        CHECK(a[i]["val_loss"].get<double>() == Approx(b[i]["val_loss"].get<double>()).epsilon(1e-6));

    // A run moves from two processes to one and back, with the same tokens in a step.
    ran("moved", " --accumulate 2");
    cut_after(s, "moved", 4);
    resume(s, "moved", checked);
    CHECK(loss_difference(s, "moved", "two") <= 1e-6);
    CHECK(records(s / "moved", "step").back()["tokens"] == 8 * 128);
    CHECK(nlohmann::json::parse(read_text(s / "moved/checkpoints/latest/state.json"))["world"] == 1);
    cut_after(s, "one", 4);
    ended_well(train_two(s, "--resume --out " + quoted(s / "one")));
    CHECK(loss_difference(s, "one", "two") <= 1e-6);
    CHECK(nlohmann::json::parse(read_text(s / "one/checkpoints/latest/state.json"))["world"] == 2);
}

TEST_CASE("two GPUs drop what one drops", "[.emulated][two]") {
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string how = "--dtype fp32 --dropout 0.2";
    ended_well(train_two(s, of_two(s, "two", how + " --accumulate 2 --graph")));
    train(s, "one", "--model nano --eval-every 4 --save-every 4 --steps 8 --accumulate 4 " + how, checked);
    CHECK(loss_difference(s, "one", "two") <= 1e-6);
}

// Transfers run on a stream of their own, so its work is done as late as it may be, and in a random order.
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
        const std::string words = how + " --eval-every 3 --save-every 3 --steps 3 --shard " + more;
        ended_well(train_many(world, s, training(s, name, words), "", streams));
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
            CHECK(loss_difference(s, level, "none") <= 1e-6);
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
    const std::string all = how + " --eval-every 2 --save-every 2 --steps 4 ";
    ended_well(train_two(s, training(s, "here", all)));
    ended_well(train_two(s, training(s, "there", all + "--offload optimizer")));
    CHECK(bits(s, "there") == bits(s, "here"));
    CHECK(checkpoint_sums(s, "there", "*.safetensors") == checkpoint_sums(s, "here", "*.safetensors"));
    const double planned = records(s / "there", "start")[0]["planned_bytes"],
                 taken   = records(s / "there", "end")[0]["peak_bytes"];
    CHECK(taken < records(s / "here", "end")[0]["peak_bytes"].get<double>());
    CHECK(std::fabs(planned - taken) <= 0.05 * taken);
    if (how.find("--accumulate") == how.npos) return;
    // It goes on in its own way, without offloading, and without slices.
    const std::string go_on = "--resume --out " + quoted(s / "there");
    cut_after(s, "there", 2);
    ended_well(train_two(s, go_on));
    CHECK(bits(s, "there") == bits(s, "here"));
    cut_after(s, "there", 2);
    ended_well(train_two(s, go_on + " --offload none"));
    CHECK(bits(s, "there") == bits(s, "here"));
    cut_after(s, "there", 2);
    const Ran alone =
        run(s, "train_gpt", go_on + " --shard none --batch 4 --offload optimizer --device cuda", "", checked);
    CAPTURE(alone.out, alone.err);
    REQUIRE(alone.code == 0);
    CHECK(loss_difference(s, "there", "here") <= 1e-6);
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
    const auto cut = ended_well(train_two(s, training(s, "cut", how), after_two_steps + "kill -TERM $rank1; "));
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
    }
    CHECK(missing_words(both[0].err, {"4 steps in a row"}) == "");
    CHECK(both[1].err.find("4 steps") == std::string::npos);  // rank 0 alone says it
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

TEST_CASE("one GPU needs no NCCL, and several say that it is missing", "[.emulated][two]") {
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    // The emulator's libraries, with a file in the place of NCCL that is no library.
    const std::string libraries = quoted(s / "libraries");
    REQUIRE(shell(s, "mkdir " + libraries + " && ln -s \"$PWD\"/build/emulator/lib*.so* " + libraries +
                         " && ln -sf /dev/null " + libraries + "/libnccl.so.2")
                .code == 0);
    const std::string words = of_two(s, "run", "--dtype fp32 --device cuda"),
                      under = "EMU_LIBRARIES=" + libraries + " scripts/emulate --devices 2 ";
    const Ran one           = run(s, "train_gpt", words, "", under);
    CAPTURE(one.out, one.err);
    CHECK(one.code == 0);
    // A port of its own, because processes of other tests look for each other at the usual one.
    const Ran two =
        run(s, "train_gpt", words, "",
            fmt::format("WORLD_SIZE=2 RANK=0 LOCAL_RANK=0 MASTER_PORT={} {}", 20000 + getpid() % 20000, under));
    CAPTURE(two.err);
    CHECK(two.code == 2);
    CHECK_THAT(two.err, Catch::Contains("built without NCCL, or its libnccl.so.2 is not found here"));
}
