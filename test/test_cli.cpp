// test_cli.cpp - the command line: every kind of value, every kind of mistake, and the options of train_gpt
#include <sstream>
#include <string>
#include <vector>

#include "gpt/resolve.h"
//
#include "test/catch.h"

namespace {

enum class Curve { cosine, linear };

struct Line {
    int batch      = 4;
    int64_t tokens = 1, left = 0, right = 0;
    uint64_t seed = 1337;
    float rate    = 6e-4f;
    double eps    = 1e-8;
    bool resume = false, shuffle = true, shout = false;
    std::string prompt, dtype = "auto";
    Curve shape = Curve::cosine;
    Auto<int64_t> steps, warmup;
    Auto<float> peak;
    Auto<std::string> out;
    std::optional<std::string> suffix;
    Auto<Curve> form;
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
        f.choose("--schedule", shape, Flags::Table<Curve>{{"cosine", Curve::cosine}, {"linear", Curve::linear}},
                 "of the rate");
        f.add("--steps", steps, at_least(1), "of the run; auto: an epoch");
        f.add("--warmup", warmup, at_least(0).below(100), "steps");
        f.add("--peak", peak, more_than(0).at_most(2), "rate");
        f.choose("--form", form, Flags::Table<Curve>{{"cosine", Curve::cosine}, {"linear", Curve::linear}}, "of it");
        f.add("--left", left, "side");
        f.add("--right", right, "side");
        f.add("--shout", shout, "aloud");
        f.group("text");
        f.add("--out", out, "folder", "DIR");
        f.add("--prompt", prompt, any_text(), "to begin with");
        f.add("--suffix", suffix, any_text(), "to end with");
        f.add("--input", input, "files", "FILE…");
        f.elsewhere("--lr", "--learning-rate");
        f.elsewhere("--n-layer", "--layers");
        f.elsewhere("--dropout", "there is none");
        f.apart({"--suffix", "--left", "--right"});
        f.apart({"--suffix", "--left"}, {"--eps"});
        f.only_with("--shout", {"--left", "--right", "--suffix"});
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
    CHECK(Line({}).command == "trainer");
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
    CHECK(all.shape == Curve::linear);
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
          "trainer --tokens=-3 --learning-rate 0.1 --resume --shuffle=false --prompt='--it'\\''s' --input 'a b' c");
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
    CHECK(first.list.size() == 20);
}

TEST_CASE("help shows groups, values and defaults", "[cli]") {
    const std::string help = Line({}).help;
    CHECK(missing_words(help, {"trainer - trains", "\nbatch\n", "--batch N", "sequences [4]", "--learning-rate X",
                               "peak [0.0006]", "--dtype auto|bf16|fp32", "[auto]", "--schedule cosine|linear",
                               "--input FILE…", "--prompt TEXT", "-h, --help"}) == "");
}

TEST_CASE("every mistake has an answer", "[cli]") {
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
    CHECK_REFUSED(Line({"--lr", "3"}), "unknown option --lr, did you mean --learning-rate?");
    CHECK_REFUSED(Line({"--warm_up=3"}), "unknown option --warm_up, did you mean --warmup?");
    CHECK_REFUSED(Line({"--n_layer", "3"}), "unknown option --n_layer (--help");  // there is no --layers here
    CHECK_REFUSED(Line({"--dropout", "0.1"}), "unknown option --dropout: there is none");
    CHECK_FALSE(Line({"-h"}).parsed);
}

TEST_CASE("an option that is given empty is refused, or is an empty text", "[cli]") {
    for (const char* name : {"--out", "--dtype", "--batch", "--steps", "--eps", "--form", "--schedule"}) {
        CAPTURE(name);
        CHECK_REFUSED(Line({name, ""}), name, " '': expected");
        CHECK_REFUSED(Line({std::string(name) + "=", "8"}), "8");  // the 8 is no value of it
    }
    CHECK_REFUSED(Line({"--input", "a", "", "b"}), "--input '': expected");
    CHECK_REFUSED(Line({"--input=", "b"}), "--input '': expected");
    CHECK_REFUSED(Line({"--resume="}), "--resume=: takes no value");
    CHECK(Line({"--suffix", ""}).suffix.value_or("none") == "");
    CHECK(Line({"--suffix=", "--batch", "8"}).suffix.value_or("none") == "");
    CHECK(Line({"--suffix", "auto"}).suffix.value_or("none") == "auto");
    CHECK_FALSE(Line({}).suffix);
    CHECK_REFUSED(Line({"--suffix", "auto", "--left", "1"}), "--suffix and --left");
    CHECK(Line({"--prompt=", "--batch=8"}).batch == 8);
}

TEST_CASE("options that have no effect together are refused", "[cli]") {
    CHECK_REFUSED(Line({"--left", "1", "--right", "2"}), "--left and --right", "give one");
    CHECK_REFUSED(Line({"--right", "1", "--suffix", ""}), "--suffix and --right");
    CHECK_REFUSED(Line({"--suffix", "x", "--eps", "1"}), "--suffix and --eps");
    CHECK_REFUSED(Line({"--shout", "--batch", "3"}), "--shout has an effect only with --left, --right or --suffix");
    CHECK(Line({"--right", "1", "--eps", "1", "--shout"}).right == 1);
    CHECK(Line({"--shout=false"}).parsed);
    CHECK(Line({"--left", "0", "--shout"}).parsed);
}

TEST_CASE("an option is shown as auto until the program or the user decides", "[cli]") {
    const Line none({});
    CHECK(missing_words(none.help, {"--steps N", "of the run; auto: an epoch [auto]", "--form auto|cosine|linear",
                                    "--out DIR", "folder [auto]"}) == "");
    for (const Setting& s : none.list)
        if (s.name == "--steps" || s.name == "--peak" || s.name == "--out" || s.name == "--form") {
            CAPTURE(s.name);
            CHECK(s.value == "auto");
            CHECK(s.is_default);
        }
    const Line said({"--steps", "auto", "--warmup=auto", "--peak", "auto", "--out", "auto", "--form", "auto"});
    CHECK((said.steps.is_auto() && said.warmup.is_auto() && said.peak.is_auto() && said.out.is_auto() &&
           said.form.is_auto()));
    CHECK(said.command == "trainer");
    const Line given({"--steps", "7", "--warmup", "0", "--peak", "0.5", "--out", "x", "--form", "linear"});
    CHECK(given.steps == 7);
    CHECK(given.warmup == 0);
    CHECK(given.peak == 0.5f);
    CHECK(given.form == Curve::linear);
    CHECK(given.command == "trainer --steps 7 --warmup 0 --peak 0.5 --form linear --out x");

    Auto<int64_t> steps;
    CHECK_THROWS_AS(int64_t(steps), CallError);
    CHECK(steps.value_or(3) == 3);
    CHECK(steps.is_auto());
    CHECK(steps.decide(4) == 4);
    CHECK(steps.decide(5) == 4);
    CHECK(fmt::format("{}", steps) == "4");
}

TEST_CASE("the error about a number outside its range names the range", "[cli]") {
    CHECK_REFUSED(Line({"--steps", "-1"}), "--steps -1: expected auto, or 1 or more");
    CHECK_REFUSED(Line({"--steps", "0"}), "--steps 0: expected auto, or 1 or more");
    CHECK_REFUSED(Line({"--warmup=-1"}), "--warmup -1: expected auto, or 0 or more, less than 100");
    CHECK_REFUSED(Line({"--peak", "0"}), "--peak 0: expected auto, or more than 0, at most 2");
    CHECK_REFUSED(Line({"--warmup", "100"}), "--warmup 100: expected auto, or 0 or more, less than 100");
    CHECK_REFUSED(Line({"--warmup", "-2"}), "--warmup -2: expected auto");
    CHECK_REFUSED(Line({"--peak", "-1"}), "--peak -1: expected auto, or more than 0, at most 2");
    CHECK_REFUSED(Line({"--peak", "2.5"}), "--peak 2.5: expected auto, or more than 0, at most 2");
    CHECK_REFUSED(Line({"--steps", "many"}), "--steps many: expected auto, or a whole number");
    CHECK_REFUSED(Line({"--form", "round"}), "--form round: expected one of auto|cosine|linear");
    CHECK(Line({"--peak", "2"}).peak == 2.f);
    CHECK(Line({"--warmup", "99"}).warmup == 99);
}

// ---- train_gpt's own -----------------------------------------------------------------------------------------------

static Options train_options(std::vector<std::string> words) {
    Options o;
    Flags flags("train_gpt", "trains");
    list_options(flags, o);
    words.insert(words.begin(), "train_gpt");
    std::vector<char*> argv;
    for (std::string& w : words) argv.push_back(w.data());
    parse_options(o, flags, int(argv.size()), argv.data(), 1);
    return o;
}

TEST_CASE("train_gpt refuses numbers that make no sense, and says which do", "[cli]") {
    struct Case {
        const char *option, *bad, *says;
    };
    const auto c = GENERATE(values<Case>({{"--batch", "-1", "1 or more, at most 1048576"},
                                          {"--batch", "0", "1 or more"},
                                          {"--steps", "0", "1 or more"},
                                          {"--learning-rate", "0", "more than 0"},
                                          {"--weight-decay", "-1", "0 or more"},
                                          {"--dropout", "-1", "0 or more, less than 1"},
                                          {"--threads", "0", "1 or more"},
                                          {"--batch", "2000000", "at most 1048576"},
                                          {"--context", "-1", "1 or more"},
                                          {"--accumulate", "-3", "1 or more"},
                                          {"--steps", "-5", "1 or more"},
                                          {"--steps", "4294967296", "at most 4294967295"},
                                          {"--learning-rate", "-0.1", "more than 0"},
                                          {"--warmup-steps", "-2", "0 or more"},
                                          {"--final-learning-rate", "-2", "0 or more"},
                                          {"--weight-decay", "-0.5", "0 or more"},
                                          {"--beta1", "1", "0 or more, less than 1"},
                                          {"--beta2", "1", "0 or more, less than 1"},
                                          {"--eps", "0", "more than 0"},
                                          {"--clip", "-1", "0 or more"},
                                          {"--dpo-beta", "0", "more than 0"},
                                          {"--max-skips", "-1", "0 or more"},
                                          {"--threads", "-1", "1 or more"},
                                          {"--threads", "4097", "at most 4096"},
                                          {"--logits-memory", "-2", "1 or more"},
                                          {"--eval-every", "-2", "0 or more"},
                                          {"--eval-batches", "0", "1 or more"},
                                          {"--hellaswag-questions", "-1", "0 or more"},
                                          {"--sample-every", "-1", "0 or more"},
                                          {"--sample-tokens", "0", "1 or more"},
                                          {"--save-every", "-2", "0 or more"},
                                          {"--keep", "-1", "0 or more"},
                                          {"--log-every", "-1", "0 or more"}}));
    CAPTURE(c.option);
    CHECK_REFUSED(train_options({std::string(c.option) + "=" + c.bad}), c.option, c.bad, "expected", c.says);
}

TEST_CASE("a word that an option does not have is refused with the nearest ones that it has", "[cli]") {
    CHECK_REFUSED(train_options({"--gpu=a100-41gb"}), "--gpu a100-41gb: expected one of auto|h100-80gb",
                  "; did you mean a100-40gb?");
    CHECK_REFUSED(train_options({"--gpu=a100"}), "; did you mean a100-80gb or a100-40gb?");
    CHECK_REFUSED(train_options({"--device=gpu"}), "--device gpu: expected one of auto|cpu|cuda; did you mean cuda?");
    CHECK_REFUSED(train_options({"--dtype=bfloat16"}), "; did you mean bf16?");
    CHECK_REFUSED(train_options({"--link=40Gb"}), "; did you mean 10Gb or 400Gb?");
    std::string other = "was accepted; did you mean";
    try {
        train_options({"--gpu=mi300"});
    } catch (const InputError& e) { other = e.what(); }
    CHECK(other.find("did you mean") == std::string::npos);
}

TEST_CASE("train_gpt refuses options that contradict each other", "[cli]") {
    CHECK_REFUSED(train_options({"--dry-run", "--gpu=h100-80gb", "--device=cpu"}), "--gpu and --device cpu");
    CHECK(train_options({"--prompt=x", "--sample-every=5"}).prompt == "x");
    const auto rates = [](const std::vector<std::string>& words) {
        Options o = train_options(words);
        resolve(o, config_of(*find_preset("nano")), recipe_for(nullptr, false), 1);
        return float(o.final_learning_rate);
    };
    CHECK_REFUSED(rates({"--final-learning-rate=0.1"}), "--final-learning-rate 0.1 is more than the peak",
                  "--learning-rate 0.0006");
    CHECK(rates({"--final-learning-rate=0.1", "--learning-rate=0.1"}) == 0.1f);
    CHECK(rates({"--final-learning-rate=0.1", "--schedule=constant"}) == 0.1f);
}

TEST_CASE("train_gpt refuses a run with more tokens than can be counted", "[cli]") {
    const Config c         = config_of(*find_preset("nano"));
    const auto decided_for = [&](const std::vector<std::string>& words) {
        Options o = train_options(words);
        resolve(o, c, recipe_for(nullptr, false), 2);
        resolve_steps(o, recipe_for(nullptr, false), 2, 1000);
        return o;
    };
    CHECK_REFUSED(decided_for({"--batch=2", "--context=16", "--accumulate=4611686018427387904"}), "--accumulate",
                  "4611686018427387904", "2^40");
    for (const char* most : {"4611686018427387904", "9223372036854775807"})
        CHECK_REFUSED(decided_for({"--batch=2", "--context=16", "--tokens-per-step", most}), "--tokens-per-step", most,
                      "2^40");
    CHECK_REFUSED(decided_for({"--batch=1048576", "--context=16777216"}), "--batch", "2^40");
    Options many = train_options({"--batch=1048576", "--context=16777216"});
    CHECK_REFUSED(resolve(many, c, recipe_for(nullptr, false), 1 << 20), "1048576 processes", "2^40");
    const std::string most = "--accumulate=17179869184";
    CHECK_REFUSED(decided_for({"--batch=2", "--context=16", most, "--steps=4294967295"}), "--steps", "2^63");
    CHECK(tokens_of_step(decided_for({"--batch=2", "--context=16", most}), 2) == int64_t(1) << 40);
}

TEST_CASE("what auto means is decided by the preset, the folder and the data", "[cli]") {
    const Preset* preset = find_preset("pythia-160m");
    REQUIRE(preset);
    const Config c = config_of(*preset);
    Options o      = train_options({});
    resolve(o, c, recipe_for(preset, false), 1);
    CHECK(o.batch == 4);
    CHECK(o.context == 2048);
    CHECK(o.accumulate == 256);
    CHECK(o.learning_rate == 6e-4f);
    CHECK(o.steps.is_auto());
    resolve_steps(o, preset->recipe, 1, int64_t(3000) * 2097152 + 5);
    CHECK(o.steps == 3000);
    CHECK(o.warmup_steps == 60);
    CHECK(o.eval_every == 300);
    CHECK(o.save_every == 300);

    Options given = train_options({"--batch", "2", "--context", "1024", "--tokens-per-step", "8192", "--eval-every",
                                   "0", "--weight-decay", "0", "--final-learning-rate", "0", "--warmup-steps", "0"});
    resolve(given, c, recipe_for(nullptr, true), 2);
    resolve_steps(given, recipe_for(nullptr, true), 2, 81920);
    CHECK(given.accumulate == 2);
    CHECK(given.tokens_per_step.is_auto());
    CHECK(given.learning_rate == 3e-5f);
    CHECK(given.weight_decay == 0);
    CHECK(given.final_learning_rate == 0);
    CHECK(given.warmup_steps == 0);
    CHECK(given.steps == 10);
    CHECK(given.eval_every == 0);
    CHECK(given.save_every == 1);
}
