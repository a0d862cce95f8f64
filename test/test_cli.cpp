// test_cli.cpp - the command line: every kind of value, every kind of slip
#include <string>
#include <vector>

#include "gpt/cli.h"
//
#include "test/catch.h"

namespace {

enum class Shape { cosine, linear };

struct Line {
    int batch      = 4;
    int64_t tokens = 1;
    uint64_t seed  = 1337;
    float rate     = 6e-4f;
    double eps     = 1e-8;
    bool resume = false, shuffle = true;
    std::string prompt, dtype    = "auto";
    Shape shape = Shape::cosine;
    std::vector<std::string> input;

    std::vector<Setting> list;
    std::string command, help;
    bool parsed = false;

    explicit Line(std::vector<std::string> words) {
        Flags f("trainer", "trains");
        f.group("batch");
        f.add("--batch", batch, "sequences");
        f.add("--tokens", tokens, "in all");
        f.add("--seed", seed, "of everything");
        f.group("numbers");
        f.add("--learning-rate", rate, "peak");
        f.add("--eps", eps, "small");
        f.add("--resume", resume, "go on");
        f.add("--shuffle", shuffle, "mix");
        f.choose("--dtype", dtype, {"auto", "bf16", "fp32"}, "of weights");
        f.choose("--schedule", shape, Flags::Table<Shape>{{"cosine", Shape::cosine}, {"linear", Shape::linear}},
                 "of the rate");
        f.group("text");
        f.add("--prompt", prompt, "to begin with");
        f.add("--input", input, "files", "FILE…");
        words.insert(words.begin(), "trainer");
        std::vector<const char*> argv;
        for (const std::string& w : words) argv.push_back(w.c_str());
        help    = f.help();
        parsed  = f.parse(int(argv.size()), argv.data());
        list    = f.list();
        command = f.command();
    }
};

}  // namespace

TEST_CASE("options are read", "[cli]") {
    CHECK(Line({}).command == "./trainer");
    const Line all({"--batch",         "010",     "--tokens=-5", "--seed",     "18446744073709551615",
                    "--learning-rate", "3e-4",    "--eps",       "0",          "--resume",
                    "--shuffle=false", "--dtype", "bf16",        "--schedule", "linear",
                    "--input",         "a b",     "-",           "--prompt",   "it's",
                    "--input",         "c"});
    CHECK(all.batch == 10);
    CHECK(all.tokens == -5);
    CHECK(all.seed == UINT64_MAX);
    CHECK(all.rate == 3e-4f);
    CHECK(all.eps == 0);
    CHECK(all.resume);
    CHECK_FALSE(all.shuffle);
    CHECK(all.dtype == "bf16");
    CHECK(all.shape == Shape::linear);
    CHECK(all.input == std::vector<std::string>{"a b", "-", "c"});
    CHECK(all.prompt == "it's");
    CHECK(Line({"--prompt=--batch"}).prompt == "--batch");
    CHECK(Line({"--prompt", "-1"}).prompt == "-1");
    CHECK(Line({"--prompt", ""}).prompt.empty());
}

TEST_CASE("the command line that runs the same again", "[cli]") {
    const Line first({"--learning-rate", "0.1", "--prompt=--it's", "--input", "a b", "c", "--tokens", "-3", "--resume",
                      "--shuffle=false"});
    CHECK(first.command ==
          "./trainer --tokens=-3 --learning-rate 0.1 --resume --shuffle=false --prompt='--it'\\''s' --input 'a b' c");
    const Line again({"--tokens=-3", "--learning-rate", "0.1", "--resume", "--shuffle=false", "--prompt=--it's",
                      "--input", "a b", "c"});
    CHECK(again.command == first.command);
    for (const Setting& s : first.list) {
        CAPTURE(s.name);
        CHECK(s.is_default == (s.name != "--tokens" && s.name != "--learning-rate" && s.name != "--resume" &&
                               s.name != "--shuffle" && s.name != "--prompt" && s.name != "--input"));
        if (s.name == "--learning-rate") CHECK(s.value == "0.1");
        if (s.name == "--batch") CHECK(s.value == "4");
        if (s.name == "--schedule") CHECK(s.value == "cosine");
    }
    CHECK(first.list.size() == 11);
}

TEST_CASE("help shows groups, values and defaults", "[cli]") {
    const std::string help = Line({}).help;
    CHECK(missing_words(help, {"trainer - trains", "\nbatch\n", "--batch N", "sequences [4]", "--learning-rate X",
                               "peak [0.0006]", "--dtype auto|bf16|fp32", "[auto]", "--schedule cosine|linear",
                               "--input FILE…", "--prompt TEXT"}) == "");
}

TEST_CASE("every slip has an answer", "[cli]") {
    CHECK_REFUSED(Line({"--bacth", "3"}), "unknown option --bacth, did you mean --batch?");
    CHECK_REFUSED(Line({"--bacth=3"}), "unknown option --bacth, did you mean --batch?");
    CHECK_REFUSED(Line({"--learning_rate", "3"}), "did you mean --learning-rate?");
    CHECK_REFUSED(Line({"--learn", "3"}), "did you mean --learning-rate?");
    CHECK_REFUSED(Line({"--input", "x", "--inpt", "y"}), "did you mean --input?");
    CHECK_REFUSED(Line({"--elephant"}), "unknown option --elephant (--help");
    CHECK_REFUSED(Line({"-b", "3"}), "unknown option -b");
    CHECK_REFUSED(Line({"stray"}), "unexpected 'stray'");
    CHECK_REFUSED(Line({"--batch"}), "--batch needs a value");
    CHECK_REFUSED(Line({"--prompt", "--resume"}), "--prompt needs a value, but --resume follows");
    CHECK_REFUSED(Line({"--batch", "3", "--batch=4"}), "--batch is given 2 times");
    CHECK_REFUSED(Line({"--batch", "x"}), "--batch x: expected a whole number");
    CHECK_REFUSED(Line({"--batch", "3.5"}), "--batch 3.5: expected a whole number");
    CHECK_REFUSED(Line({"--batch", "3000000000"}), "--batch 3000000000: out of range");
    CHECK_REFUSED(Line({"--seed", "-1"}), "--seed -1", "not negative");
    CHECK_REFUSED(Line({"--eps", "1e999"}), "out of range");
    CHECK_REFUSED(Line({"--eps", "nan"}), "--eps nan: expected a number");
    CHECK_REFUSED(Line({"--eps", "0.5x"}), "--eps 0.5x: expected a number");
    CHECK_REFUSED(Line({"--dtype", "fp16"}), "--dtype fp16: expected one of auto|bf16|fp32");
    CHECK_REFUSED(Line({"--schedule", ""}), "expected one of cosine|linear");
    CHECK_REFUSED(Line({"--resume=maybe"}), "--resume maybe");
}
