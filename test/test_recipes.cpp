// test_recipes.cpp - the verdict of a recipe (scripts/recipes/common.sh), with a stand-in for train_gpt
#include <filesystem>

#include "test/catch.h"
#include "test/programs.h"
#include "test/scratch.h"

namespace fs = std::filesystem;

TEST_CASE("a recipe compares losses as numbers, and options of the user take the place of its own", "[programs]") {
    const Scratch s;
    for (const char* folder : {"scripts/recipes", "build", "data/sets/none"}) fs::create_directories(s / folder);
    fs::copy_file("scripts/recipes/common.sh", s / "scripts/recipes/common.sh");
    const auto program = [&](const std::string& path, const std::string& body) {
        write_text(s / path, "#!/bin/bash\n" + body);
        fs::permissions(s / path, fs::perms::owner_all);
    };
    const std::string body = R"sh(
about=a expected=b source=c set=none fetch=d hardware=e tried=f
model=(--model nano) size=(--steps 5 --tokens-per-step 64) short=()
prepare() { on=(--val-data scripts/recipes/small.sh); }
. "$(dirname "$0")/common.sh"
reproduce "$@"
)sh";
    program("scripts/recipes/small.sh", "most_loss=3.272" + body);
    program("scripts/recipes/falls.sh", body);
    program("build/train_gpt", R"sh(
echo "words: $*"
while [ "$1" != --out ]; do shift; done
mkdir -p "$2"
echo ' "--steps": "5"' >"$2/run.json"
printf '{"event":"eval","val_loss":%s}\n' 11 "$LOSS" >"$2/log.jsonl"
echo '{"event":"end","step":5,"steps":5}' >>"$2/log.jsonl"
)sh");
    const auto recipe = [&](const std::string& loss, const std::string& words = "",
                            const std::string& which = "small") {
        fs::remove_all(s / "runs");
        return shell(s, "BUILD=build LOSS=" + loss + " " + quoted(s / ("scripts/recipes/" + which + ".sh")) + words);
    };
    CHECK(recipe("3.2720").code == 0);
    CHECK(recipe("3.2721").code == 1);
    CHECK(recipe("10.9").code == 1);  // as text it would come before 3.272
    CHECK(recipe("'\"nan\"'").code == 1);
    // Without a number to reach, the loss must have fallen.
    CHECK(recipe("10.9999", "", "falls").code == 0);
    CHECK(recipe("11", "", "falls").code == 1);
    const Ran short_run = recipe("3", " --short -- --steps 5");
    CHECK(short_run.code == 2);
    CHECK(short_run.err.find("--short takes no options of train_gpt") != std::string::npos);
    for (const std::string given : {"--steps 5", "--steps=5", "--val-data v"}) {
        const Ran r = recipe("3", " -- " + given);
        CAPTURE(r.out, r.err);
        CHECK(r.code == 0);
        const std::string option = given.substr(0, given.find_first_of(" ="));
        const size_t at          = r.out.find(" " + option);
        CHECK(at != std::string::npos);
        CHECK(r.out.find(" " + option, at + 1) == std::string::npos);
    }
    // --accumulate decides in another way what --tokens-per-step decides, and train_gpt takes one of them.
    const Ran by_micro_batches = recipe("3", " -- --accumulate 4");
    CHECK(by_micro_batches.out.find("--accumulate 4") != std::string::npos);
    CHECK(by_micro_batches.out.find("--tokens-per-step") == std::string::npos);
    for (const std::string given : {"--seed 5", "--out=elsewhere"}) {
        const Ran r = recipe("3", " -- " + given);
        CHECK(r.code == 2);
        CHECK(missing_words(r.err, {"the recipe's", "--seeds and --out in front of --"}) == "");
    }
}
