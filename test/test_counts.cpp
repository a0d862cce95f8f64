// test_counts.cpp - what the GPU half may cost, by the emulator's counters: launches of a block, bytes of every op that
// memory bounds, bank conflicts of attention
#include <sys/wait.h>

#include "test/counts.h"

#include "test/catch.h"
#include "test/scratch.h"

#include "test/catch.h"

// bench_ops on the emulated GPU: the ops named in `only`, of GPT-2 124M's width, on one sequence of `context` tokens.
static std::vector<Counted> count_ops(const std::string& only, int context) {
    const Scratch s;
    const char* build      = std::getenv("GPT_BUILD");
    const std::string line = fmt::format(
        "EMU_CHECK=off scripts/emulate --profile {0} {1}/bench_ops --device cuda --batch 1 --context {2} --only {3} "
        "--counted {4} >{5} 2>&1",
        s / "counts.json", build ? build : "build", context, only, s / "ops.json", s / "log");
    const int status = std::system(line.c_str());
    INFO(line);
    REQUIRE((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    return read_counts(s / "ops.json", s / "counts.json");
}

TEST_CASE("launches of a block: at most 14 forward, 20 backward", "[.emulated][counts]") {
    const auto rows = count_ops("block", 64);
    REQUIRE(rows.size() == 8);  // two models, two dtypes, forward and backward
    for (const Counted& c : rows) {
        CAPTURE(c.op, c.dtype, c.launches);
        CHECK(c.launches > 0);
        CHECK(c.launches <= (c.op.find("forward") != std::string::npos ? 14 : 20));
    }
}

TEST_CASE("ops that memory bounds move at most 1.25 times the fewest bytes", "[.emulated][counts]") {
    const auto rows = count_ops("add,layernorm,gelu,embedding,cross_entropy,adamw,norm,rope,decode", 128);
    int bounded     = 0;
    for (const Counted& c : rows) {
        if (c.least.flops) continue;
        bounded++;
        CAPTURE(c.op, c.dtype, c.bytes(), c.least.bytes);
        CHECK(c.bytes() <= 1.25 * c.least.bytes);
        CHECK(c.bytes() >= 0.9 * c.least.bytes);  // else the floor is wrong, or the op left something out
    }
    CHECK(bounded >= 25);
}

TEST_CASE("attention has no bank conflicts and reads and writes everything once", "[.emulated][counts]") {
    for (const Counted& c : count_ops("attention", 128)) {
        CAPTURE(c.op, c.dtype, c.conflicts, c.bytes(), c.least.bytes);
        CHECK(c.conflicts == 0);
        CHECK(c.bytes() <= 1.25 * c.least.bytes);
        if (c.dtype == "bf16" && c.least.flops) CHECK(c.tensor_flops >= c.least.flops);
    }
}
