// test_launch.cpp - scripts/launch: recipes that fit their GPUs, and a supervisor that brings a run to its end
#include <cstring>
#include <filesystem>
#include <sstream>

#include "test/programs.h"

static std::string program() { return "PROGRAM=" + quoted(build_folder() + "/train_gpt") + " "; }

TEST_CASE("every recipe of scripts/launch fits into the GPUs that it names", "[programs]") {
    const Scratch s;
    const Ran all = shell(s, program() + "scripts/launch/plan.sh");
    CAPTURE(all.out, all.err);
    REQUIRE(all.code == 0);
    int recipes = 0;
    std::istringstream lines(all.out);
    for (std::string line; std::getline(lines, line);) {
        const size_t colon = line.find(": ");
        if (colon == line.npos) continue;
        const std::string name = line.substr(0, colon);
        const Ran plan         = shell(s, program() + "scripts/launch/plan.sh " + name);
        CAPTURE(name, plan.out, plan.err);
        CHECK(plan.code == 0);
        const auto gibibytes = [&](const char* after, const char* before) {
            const size_t at = plan.out.find(after), end = plan.out.find(before);
            REQUIRE((at != plan.out.npos && end != plan.out.npos));
            return std::stod(plan.out.substr(*after ? at + std::strlen(after) : plan.out.rfind('\n', end) + 1));
        };
        const double taken = gibibytes("total ", " on each"), free = gibibytes("", " GiB are free");
        CHECK(taken > 1);
        CHECK(taken < free);
        recipes++;
    }
    CHECK(recipes == 5);
    const Ran other = shell(s, program() + "scripts/launch/plan.sh neox-20b-8x80 --batch 2 --accumulate 96");
    CHECK(other.out.find("2 × 2048 × 96 micro × 8 processes") != std::string::npos);
    // What needs no program asks for none.
    const Ran wrong = shell(s, "PROGRAM=/nothing scripts/launch/plan.sh gpt5");
    CHECK(wrong.code == 2);
    CHECK(wrong.err.find("gpt5") != std::string::npos);
    for (const char* script : {"plan", "one_node", "mpirun", "torchrun", "supervise", "try"}) {
        const Ran help = shell(s, std::string("PROGRAM=/nothing scripts/launch/") + script + ".sh --help");
        CAPTURE(script, help.out, help.err);
        CHECK(help.code == 0);
        CHECK(help.out.find("scripts/launch/") != std::string::npos);
    }
}

TEST_CASE("a supervised run that is killed goes on from its newest checkpoint until all steps are done", "[programs]") {
    const Scratch s;
    write_shard(s / "data.bin", 20000);
    const std::string train = build_folder() +
                              "/train_gpt --model nano --device cpu --threads 1 --batch 2 --context 32 "
                              "--steps 6000 --save-every 1000 --eval-every 0 --train-data " +
                              quoted(s / "data.bin");
    REQUIRE(shell(s, train + " --out " + quoted(s / "whole")).code == 0);

    // The process is killed when its first checkpoint is there, and killed again after the second.
    const std::string run = s / "run";
    const Ran killed =
        shell(s, "PAUSE=0 scripts/launch/supervise.sh " + quoted(run) + " -- " + train + " & supervisor=$!\n" +
                     "for step in 0001000 0002000; do until [ -e " + quoted(run) +
                     "/checkpoints/$step ] || "
                     "! kill -0 $supervisor 2>/dev/null; do sleep 0.01; done; pkill -9 -P $supervisor; done\n"
                     "wait $supervisor");
    CAPTURE(killed.out, killed.err);
    CHECK(killed.code == 0);
    CHECK(killed.err.find("starting again from checkpoint 000") != std::string::npos);
    const auto whole = records(s / "whole", "end"), supervised = records(run, "end");
    REQUIRE((whole.size() == 1 && supervised.size() == 1));
    CHECK(supervised[0]["fingerprint"] == whole[0]["fingerprint"]);

    // A command that never gets to a checkpoint is started only so often, and bad input not again.
    const auto supervise = [&](const std::string& command) {
        return shell(s, "PAUSE=0 TRIES=2 scripts/launch/supervise.sh " + quoted(s / "none") + " -- " + command);
    };
    const Ran failing = supervise("sh -c 'exit 7'");
    CHECK(failing.code == 7);
    CHECK(failing.err.find("2 failures without a new checkpoint") != std::string::npos);
    const Ran refused = supervise(build_folder() + "/train_gpt --model gpt5");
    CHECK(refused.code == 2);
    CHECK(refused.err.find("starting again") == std::string::npos);
    // Where something else starts it again, a file counts the failures. It is gone when the supervisor has given up.
    const std::string memory = s / "failures";
    for (const int code : {75, 75, 1}) {
        const Ran once = shell(
            s, "SUPERVISE_ONCE=" + quoted(memory) + " scripts/launch/supervise.sh " + quoted(s / "none") + " -- false");
        CAPTURE(once.err);
        CHECK(once.code == code);
        CHECK(exists(memory) == (code == 75));
    }
}

TEST_CASE("one_node.sh waits until its processes have saved after Ctrl-C", "[programs]") {
    const Scratch s;
    write_text(s / "program",
               "#!/bin/sh\ntouch started$RANK\nuntil [ -e go ]; do sleep 0.05; done\ntouch saved$RANK\n");
    std::filesystem::permissions(s / "program", std::filesystem::perms::owner_all);
    write_text(s / "try.sh", "set -m; GPUS=2 PROGRAM=./program " +
                                 quoted(std::filesystem::absolute("scripts/launch/one_node.sh").string()) +
                                 " gpt2-1558m-8 & until [ -e started0 ] && [ -e started1 ]; do sleep 0.05; done\n"
                                 "kill -INT -- -$!; touch go; wait $!");
    const Ran r = shell(s, "cd " + quoted(s.path) + " && bash try.sh");
    CAPTURE(r.out, r.err);
    CHECK(r.code == 0);
    CHECK(std::filesystem::exists(s / "saved0"));
    CHECK(std::filesystem::exists(s / "saved1"));
}
