// test_prompts.cpp - what infer_gpt makes of prompts: from a terminal, a file or a pipe, as long as a context or
// longer, with stop texts and special tokens; and what it says meanwhile
#include <cmath>

#include "data/bpe_training.h"
#include "data/files.h"
#include "data/tokenizer.h"
#include "gpt/safetensors.h"
#include "gpt/text.h"
#include "kernels/ops.h"
#include "test/data.h"
#include "test/programs.h"
#include "test/terminal.h"

namespace {

// A run of a few steps of a small model with a tokenizer, in which <|user|> is the special token 257.
struct SmallRun {
    Scratch s;
    std::string folder = s / "run", model = folder + "/checkpoints/latest";

    explicit SmallRun(const std::string& preset = "nano") {
        WordCounts words;
        words.add("the sea was calm, the wind was low; the other day the bell rang\n");
        auto file = nlohmann::json::parse(BpeTraining(words).learn(257));
        file["added_tokens"].push_back({{"id", 257},
                                        {"content", "<|user|>"},
                                        {"single_word", false},
                                        {"lstrip", false},
                                        {"rstrip", false},
                                        {"normalized", false},
                                        {"special", true}});
        write_text(s / "tokenizer.json", file.dump());
        write_shard(s / "train.bin", 3000);
        const Ran r = run(s, "train_gpt",
                          "--model " + preset + " --dtype fp32 --steps 20 --batch 4 --context 16 --train-data " +
                              quoted(s / "train.bin") + " --tokenizer " + quoted(s / "tokenizer.json") + " --out " +
                              ::quoted(folder));
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
    }
    Tokenizer tokenizer() const { return Tokenizer::load(s / "tokenizer.json"); }
    int32_t id(const char* text) const { return tokenizer().encode(text).at(0); }
    Ran infer(const std::string& words, const std::string& in = "", const std::string& under = "") const {
        return run(s, "infer_gpt", "--dtype fp32 --model " + quoted(model) + " " + words, in, under);
    }
    void refused(const std::string& words, std::initializer_list<const char*> says, int code = 2) const {
        const Ran r = infer(words);
        CAPTURE(words, r.out, r.err);
        CHECK(r.code == code);
        CHECK(r.out.empty());
        CHECK(missing_words(r.err, says) == "");
        for (const char* source : {".h:", ".cu:"}) CHECK(r.err.find(source) == std::string::npos);
    }
};
const std::string greedy = " --temperature 0 --tokens 12 ";

}  // namespace

TEST_CASE("a text is passed on up to the first stop text, also when that spans pieces", "[text]") {
    const auto shown = [](const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
        UntilStop until(stops);
        std::string all;
        for (const std::string& piece : pieces)
            if (!until.stopped()) all += until.add(piece);
        return all + until.rest() + (until.stopped() ? "." : "");
    };
    CHECK(shown({}, {"ab", "c"}) == "abc");
    CHECK(shown({"b"}, {"ab", "c"}) == "a.");
    CHECK(shown({"bcd"}, {"ab", "c", "dx"}) == "a.");
    CHECK(shown({"bcd"}, {"ab", "c", "x"}) == "abcx");
    CHECK(shown({"bcd"}, {"ab", "c"}) == "abc");
    CHECK(shown({"aab"}, {"a", "a", "a", "b", "c"}) == "a.");
    CHECK(shown({"xyz", "c", "bc"}, {"ab", "c"}) == "a.");
    CHECK(shown({"\n\n", "User:"}, {"Hi\n", "Us", "er", ": no"}) == "Hi\n.");
    UntilStop until({"ab"});
    CHECK(until.add("xa") == "x");  // what cannot begin a stop text is passed on at once
}

TEST_CASE("infer_gpt refuses options that have no effect together", "[programs]") {
    const SmallRun r;
    const std::string text = quoted(r.s / "tokenizer.json");
    for (const char* words : {"--json --ids 1", "--json --logits --ids 1"})
        r.refused(words, {"--json", "--score, --eval"});
    for (const char* prompt : {"--prompt x", "--prompt ''", "--ids 1", "--prompt-file x"}) {
        r.refused("--score " + text + " " + prompt, {"--score and --", "give one"});
        r.refused("--eval lambada " + text + " " + prompt, {"--eval and --", "give one"});
    }
    r.refused("--prompt x --ids 1", {"--prompt and --ids"});
    r.refused("--prompt '' --prompt-file x", {"--prompt and --prompt-file"});
    r.refused("--score x --logits", {"--score and --logits"});
    for (const char* sampling :
         {"--tokens 5", "--stop x", "--samples 2", "--temperature 1", "--top-k 1", "--top-p 1", "--seed 1", "--stats"})
        r.refused("--score " + text + " " + sampling, {"--score and --"});
    r.refused("--ids ''", {"--ids '': expected"});
    r.refused("--ids= --tokens 3", {"--ids '': expected"});
    r.refused("--score ''", {"--score '': expected"});
    r.refused("--prompt x --stop ''", {"--stop '': expected"});
    r.refused("--prompt x --context 100000", {"--context 100000", "64 positions"});
}

TEST_CASE("an empty prompt, and the line break at the end of a prompt", "[programs]") {
    const SmallRun r;
    const Ran empty = r.infer("--prompt ''" + greedy, "not read");
    REQUIRE(empty.code == 0);
    CHECK(r.infer("--prompt=" + greedy, "not read").out == empty.out);
    CHECK(r.infer(greedy, "").out == empty.out);
    CHECK(r.infer(greedy, "\n").out == empty.out);
    CHECK(run(r.s, "infer_gpt",
              fmt::format("--dtype fp32 --ids {} --model {}{}", r.tokenizer().eot(), quoted(r.model), greedy))
              .out == empty.out);
    const Ran sea = r.infer("--prompt 'The sea'" + greedy);
    CHECK(sea.out.rfind("The sea", 0) == 0);
    for (const char* in : {"The sea", "The sea\n", "The sea\r\n"}) {
        CHECK(r.infer(greedy, in).out == sea.out);
        write_text(r.s / "prompt.txt", in);
        CHECK(r.infer("--prompt-file " + quoted(r.s / "prompt.txt") + greedy).out == sea.out);
    }
    CHECK(r.infer(greedy, "The sea\n\n").out == r.infer("--prompt 'The sea\n'" + greedy).out);
    const Ran marked = r.infer(greedy, "\xef\xbb\xbfThe sea\n");
    CHECK(marked.out == sea.out);
    CHECK(missing_words(marked.err, {"standard input", "byte-order mark"}) == "");
}

TEST_CASE("at a terminal, infer_gpt says that it waits for a prompt, and shows how far several samples are",
          "[programs]") {
    const SmallRun r;
    const std::string infer = build_folder() + "/infer_gpt --dtype fp32 --model " + quoted(r.model) + " ";
    Terminal waits(infer + greedy);
    CHECK(waits.shows("Ctrl-D"));
    for (const char key : {'T', 'h', 'e', ' ', 's', 'e', 'a', '\n', '\x04'}) waits.press(key);
    CHECK(waits.end() == 0);
    CAPTURE(waits.shown());
    CHECK(missing_words(waits.shown(), {"Ctrl-D", "--prompt TEXT", "The sea"}) == "");
    Terminal several(infer + "--prompt x --samples 2 --tokens 3");
    CHECK(several.end() == 0);
    CAPTURE(several.shown());
    CHECK(missing_words(several.shown(), {"1 of 3 tokens", "---- 1 of 2 ----", "---- 2 of 2 ----"}) == "");
    CHECK(r.infer("--prompt x --samples 2 --tokens 3").err.empty());
}

// A library that makes a program wait for ever: where it opens a file whose path has $WAIT_FOR_FILE, or, when that is
// not set, where it computes its first product.
static std::string endless_waits(const Scratch& s) {
    write_text(s / "wait.c", R"(#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void wait_for(const char* path) {
    const char* file = getenv("WAIT_FOR_FILE");
    if (file && strstr(path, file)) for (;;) pause();
}
#define OPEN(name)                                                                                    \
    int name(const char* path, int flags, ...) {                                                      \
        va_list list;                                                                                 \
        va_start(list, flags);                                                                        \
        const int mode = va_arg(list, int);                                                           \
        wait_for(path);                                                                               \
        return ((int (*)(const char*, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode);          \
    }
#define FOPEN(name)                                                                                   \
    FILE* name(const char* path, const char* mode) {                                                  \
        wait_for(path);                                                                               \
        return ((FILE * (*)(const char*, const char*)) dlsym(RTLD_NEXT, #name))(path, mode);          \
    }
OPEN(open)
OPEN(open64)
FOPEN(fopen)
FOPEN(fopen64)
int dnnl_primitive_execute(void* a, void* b, int c, void* d) {
    if (!getenv("WAIT_FOR_FILE")) for (;;) pause();
    return ((int (*)(void*, void*, int, void*))dlsym(RTLD_NEXT, "dnnl_primitive_execute"))(a, b, c, d);
}
)");
    if (shell(s, "cc -shared -fPIC -o " + quoted(s / "wait.so") + " " + quoted(s / "wait.c") + " -ldl").code != 0) {
        std::fprintf(stderr, "skipped: there is no cc, which builds endless waits\n");
        return "";
    }
    return "LD_PRELOAD=" + quoted(s / "wait.so") + " ASAN_OPTIONS=verify_asan_link_order=0 ";
}

// Evaluation, samples and long steps of train_gpt are in "Ctrl-C is answered at once at every stage".
TEST_CASE("at a terminal every wait says what it waits for", "[programs]") {
    if (!has_cpu_products()) return;
    const SmallRun r;
    const std::string slow = endless_waits(r.s);
    if (slow.empty()) return;
    std::string text, questions, texts;
    for (int i = 0; i < 300; i++) text += "The sea was calm, and the bell rang. ";
    write_text(r.s / "text.txt", text);
    write_text(r.s / "questions.jsonl", R"({"ctx": "The sea", "endings": ["is calm", "is deep"], "label": 0})");
    write_text(r.s / "texts.jsonl", R"({"text": "The sea was calm"})");
    const std::string train = "train_gpt --dtype fp32 --steps 20 --batch 4 --context 16 --eval-every 0 --train-data " +
                              quoted(r.s / "train.bin") + " --tokenizer " + quoted(r.s / "tokenizer.json") + " --out " +
                              quoted(r.s / "new"),
                      nano = train + " --model nano", tune = train + " --model " + quoted(r.model),
                      infer = "infer_gpt --dtype fp32 --model " + quoted(r.model);
    struct Wait {
        std::string command, file, says;  // file: which it waits for; empty: for its first product
    };
    const Wait waits[] = {
        {nano, "/tokenizer.json", "reading the tokenizer"},
        {nano, "/train.bin", "reading the data"},
        {nano, "", "measuring the rate of products"},
        {tune, "/model.safetensors", "reading the model"},
        {nano + " --save-every 1", "/checkpoints/", "saving"},
        {nano + " --save-every 1 --save-async", "/checkpoints/", "saving"},
        {"train_gpt --resume --steps 30 --out " + quoted(r.folder), "/state.safetensors", "setting the weights"},
        {infer + " --prompt x", "/model.safetensors", "reading the model"},
        {infer + " --prompt 'The sea was calm'", "", "reading the prompt"},
        {infer + " --score " + quoted(r.s / "text.txt"), "/text.txt", "reading the text"},
        {infer + " --score " + quoted(r.s / "text.txt"), "", "scoring, token 0 of"},
        {infer + " --eval hellaswag " + quoted(r.s / "questions.jsonl"), "/questions.jsonl", "reading the questions"},
        {infer + " --eval hellaswag " + quoted(r.s / "questions.jsonl"), "", "HellaSwag, question 0 of 1"},
        {infer + " --eval lambada " + quoted(r.s / "texts.jsonl"), "/texts.jsonl", "reading the texts"},
        {infer + " --eval lambada " + quoted(r.s / "texts.jsonl"), "", "LAMBADA, text 0 of 1"},
    };
    std::vector<std::unique_ptr<Terminal>> terminals;  // they wait at the same time
    for (size_t i = 0; i < std::size(waits); i++) {
        std::string command = waits[i].command;
        if (const size_t at = command.find(quoted(r.s / "new")); at != command.npos)
            command.replace(at, quoted(r.s / "new").size(), quoted(r.s / fmt::format("new{}", i)));
        terminals.push_back(std::make_unique<Terminal>(
            "env " + slow + (waits[i].file.empty() ? "" : "WAIT_FOR_FILE=" + quoted(waits[i].file) + " ") +
            build_folder() + "/" + command));
    }
    for (size_t i = 0; i < std::size(waits); i++) {
        CAPTURE(waits[i].command, waits[i].file, waits[i].says);
        if (!terminals[i]->shows(waits[i].says)) FAIL_CHECK(terminals[i]->shown());
    }
}

TEST_CASE("--stop ends a continuation before its text", "[programs]") {
    const SmallRun r;
    const Ran whole = r.infer("--prompt ab --temperature 0 --tokens 30");
    REQUIRE(whole.code == 0);
    const std::string text = whole.out.substr(2, whole.out.size() - 3);  // without the prompt and the line break
    REQUIRE(text.size() > 8);
    const std::string stop = text.substr(4, 3);
    const Ran cut          = r.infer("--prompt ab --temperature 0 --tokens 30 --stop " + quoted(stop));
    CHECK(cut.out == "ab" + text.substr(0, text.find(stop)) + "\n");
    CHECK(r.infer("--prompt ab --temperature 0 --tokens 30 --stop none --stop " + quoted(stop)).out == cut.out);
    CHECK(r.infer("--prompt ab --temperature 0 --tokens 9223372036854775807 --stop " + quoted(stop)).out == cut.out);
    const Ran two = r.infer("--prompt ab --temperature 0 --tokens 30 --samples 2 --stop " + quoted(stop));
    CHECK(two.out.find("---- 2 of 2 ----\n" + cut.out) != std::string::npos);
}

TEST_CASE("a prompt as long as the context is used whole, and a longer one by its newest part", "[programs]") {
    for (const std::string preset : {"nano", "nano-neox"}) {
        const SmallRun r(preset);
        CAPTURE(preset);
        std::string prompt;
        for (int i = 0; prompt.size() < 64; i++) prompt += char('a' + i * 7 % 26);
        const std::string one = " --temperature 0 --tokens 1 ";
        const Ran full        = r.infer("--prompt " + prompt + one);
        CHECK(full.err.empty());
        CHECK(full.out.rfind(prompt, 0) == 0);
        // The token that follows is the likeliest at the last position of the whole prompt.
        const auto logits = nlohmann::json::parse(r.infer("--logits --prompt " + prompt).out)["logits"].back();
        const auto best   = std::max_element(logits.begin(), logits.end()) - logits.begin();
        const Tokenizer t = r.tokenizer();
        CHECK(full.out == prompt + (best == t.eot() ? "" : t.bytes_of(int32_t(best))) + "\n");

        const Ran longer = r.infer("--prompt ZZZZ" + prompt + one);
        CHECK(longer.out == full.out);
        CHECK(missing_words(longer.err, {"68 tokens of the prompt", "newest 64"}) == "");
        const bool rotary = preset == "nano-neox";
        CHECK((longer.err.find("--context takes more") != std::string::npos) == rotary);
        if (!rotary) continue;
        const Ran beyond = r.infer("--context 100 --prompt ZZZZ" + prompt + one);
        CHECK(beyond.out.rfind("ZZZZ" + prompt, 0) == 0);
        CHECK(missing_words(beyond.err, {"--context of 100 tokens is more than the 64"}) == "");
    }
}

TEST_CASE("special tokens in a prompt are ids, and in a scored text plain text, and both are said", "[programs]") {
    const SmallRun r;
    const auto ids = [&](const std::string& words) {
        const Ran json = r.infer(words + " --logits");
        CAPTURE(json.err);
        REQUIRE(json.code == 0);
        return nlohmann::json::parse(json.out)["ids"];
    };
    const nlohmann::json as_ids  = {257, r.id("a"), 257},
                         as_text = ids("--prompt '<|user|>a<|user|>' --special-tokens text");
    CHECK(ids("--prompt '<|user|>a<|user|>'") == as_ids);
    CHECK(as_text.size() == 17);
    const Ran prompt = r.infer("--prompt '<|user|>a<|user|>'" + greedy);
    CHECK(missing_words(prompt.err, {"<|user|> stands in the prompt 2 times", "the token 257", "text"}) == "");
    CHECK(r.infer("--prompt 'user'" + greedy).err.empty());
    r.refused("--prompt '<|user|>' --special-tokens refuse",
              {"the prompt", "<|user|>", "--special-tokens text or ids"});

    write_text(r.s / "chat.txt", "<|user|>a<|user|>");
    const std::string score = "--json --score " + quoted(r.s / "chat.txt");
    const Ran plain         = r.infer(score);
    REQUIRE(plain.code == 0);
    CHECK(nlohmann::json::parse(plain.out)["ids"] == as_text);
    CHECK(missing_words(plain.err, {"chat.txt 2 times", "plain text", "--special-tokens ids"}) == "");
    CHECK(nlohmann::json::parse(r.infer(score + " --special-tokens ids").out)["ids"] == as_ids);
    r.refused(score + " --special-tokens refuse", {"chat.txt", "<|user|>"});

    write_text(r.s / "l.jsonl", "\xef\xbb\xbf{\"text\": \"<|user|> the end\"}\n{\"text\": \"the end\"}\n");
    const Ran eval = r.infer("--json --eval lambada " + quoted(r.s / "l.jsonl"));
    CHECK(eval.code == 0);
    CHECK(missing_words(eval.err, {"l.jsonl 1 time and", "plain text", "byte-order mark"}) == "");
    CHECK(r.infer("--json --special-tokens ids --eval lambada " + quoted(r.s / "l.jsonl")).out != eval.out);
    r.refused("--special-tokens refuse --eval lambada " + quoted(r.s / "l.jsonl"), {"l.jsonl line 1", "<|user|>"});
}

TEST_CASE("a text with an id that the model lacks is refused before anything is printed", "[programs]") {
    const SmallRun r;
    const std::string other = "--model test/golden/gpt2 --tokenizer " + quoted(r.s / "tokenizer.json") + " ";
    for (const char* words : {"--prompt x", "--prompt x --logits", "--prompt x --lens", "--chat", "--samples 2"}) {
        const Ran bad = run(r.s, "infer_gpt", other + words, "x\n");
        CAPTURE(words, bad.out, bad.err);
        CHECK(bad.code == 2);
        CHECK(bad.out.empty());
        CHECK(missing_words(bad.err, {"the token id ", "outside the vocabulary of 61"}) == "");
    }
    const Ran chat = run(r.s, "infer_gpt", other + "--chat", "/system x\n");
    CHECK(chat.code == 2);
    CHECK(missing_words(chat.err, {"/system: the token id ", "outside the vocabulary of 61"}) == "");
    write_shard(r.s / "61.bin", 500, -1, 61);
    const Ran train = run(r.s, "train_gpt",
                          other + "--sample-every 9 --prompt x --steps 20 --batch 2 --context 16 --out " +
                              quoted(r.s / "new") + " --train-data " + quoted(r.s / "61.bin"));
    CAPTURE(train.out, train.err);
    CHECK(train.code == 2);
    CHECK(missing_words(train.err, {"--prompt: the token id ", "outside the vocabulary of 61"}) == "");
    CHECK(!fs::exists(r.s / "new"));
}

TEST_CASE("bits per byte count the bytes of the tokens that are predicted", "[programs]") {
    const SmallRun r;
    const std::string text = "the bell rang\n";
    write_text(r.s / "text.txt", text);
    const Ran ran = r.infer("--json --score " + quoted(r.s / "text.txt"));
    CAPTURE(ran.err);
    REQUIRE(ran.code == 0);
    const auto j       = nlohmann::json::parse(ran.out);
    const size_t first = r.tokenizer().bytes_of(j["ids"][0].get<int32_t>()).size(), bytes = text.size() - first;
    CHECK(first > 0);
    CHECK(j["bits_per_byte"].get<double>() ==
          Approx(-j["log_likelihood"].get<double>() / std::log(2.0) / double(bytes)));
}

TEST_CASE("--score reads a pipe and standard input whole", "[programs]") {
    const SmallRun r;
    std::string text;
    for (int i = 0; text.size() < 400000; i++) text += "the sea " + std::to_string(i) + "\n";
    write_text(r.s / "long.txt", text);
    const Ran file = r.infer("--score " + quoted(r.s / "long.txt"));
    CAPTURE(file.err);
    REQUIRE(file.code == 0);
    CHECK(r.infer("--score -", text).out == file.out);
    CHECK(r.infer("--score /dev/stdin", "", "cat " + quoted(r.s / "long.txt") + " | ").out == file.out);
}

TEST_CASE("the tokens that a tokenizer.json puts in front of a text come before a prompt", "[programs]") {
    const SmallRun r;
    auto file              = nlohmann::json::parse(read_text(r.s / "tokenizer.json"));
    file["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single",
         {{{"SpecialToken", {{"id", "<|user|>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
        {"pair", nlohmann::json::array()},
        {"special_tokens", {{"<|user|>", {{"id", "<|user|>"}, {"ids", {257}}, {"tokens", {"<|user|>"}}}}}}};
    write_text(r.s / "bos.json", file.dump());
    const Ran json = r.infer("--logits --prompt ab --tokenizer " + quoted(r.s / "bos.json"));
    CAPTURE(json.err);
    REQUIRE(json.code == 0);
    CHECK(nlohmann::json::parse(json.out)["ids"] == nlohmann::json({257, r.id("a"), r.id("b")}));
    CHECK(nlohmann::json::parse(r.infer("--logits --prompt '' --tokenizer " + quoted(r.s / "bos.json")).out)["ids"] ==
          nlohmann::json({257}));
}

TEST_CASE("damaged weights end every use of logits with an error that names the first position", "[programs]") {
    const SmallRun r;
    const std::string file   = fs::canonical(r.model).string() + "/model.safetensors";
    const std::string intact = read_text(file);
    const SafetensorsReader reader(file);
    const StoredTensor& table = reader.at("transformer.wte.weight", {320, 48});
    const float nan           = NAN;
    std::string damaged       = intact;
    // The embedding of "q" alone is damaged. The head is tied to it, so its logit is never finite.
    const size_t begin        = intact.find(std::string(reinterpret_cast<const char*>(table.data), 64));
    REQUIRE(begin != std::string::npos);
    std::memcpy(&damaged[begin + size_t(r.id("q")) * 48 * 4], &nan, 4);
    write_text(file, damaged);
    write_text(r.s / "t.txt", "abcdefgh");
    write_text(r.s / "l.jsonl", "{\"text\": \"the end\"}\n");
    write_text(r.s / "h.jsonl", R"({"ctx": "a", "endings": ["b", "c"], "label": 1})");
    for (const std::string& words :
         {"--prompt abc" + greedy, std::string("--prompt abc --tokens 3"), std::string("--prompt abc --logits"),
          "--score " + quoted(r.s / "t.txt"), "--json --score " + quoted(r.s / "t.txt"),
          "--eval lambada " + quoted(r.s / "l.jsonl"), "--eval hellaswag " + quoted(r.s / "h.jsonl")}) {
        const Ran bad = r.infer(words);
        CAPTURE(words, bad.out, bad.err);
        CHECK(bad.code == 1);
        CHECK(missing_words(bad.err, {"logits after token ", "are not finite numbers", "damaged"}) == "");
    }
    CHECK(r.infer("--score " + quoted(r.s / "t.txt")).err.find("after token 1 of the text") != std::string::npos);
    CHECK(r.infer("--prompt abc" + greedy).err.find("after token 3 of the text") != std::string::npos);
}

TEST_CASE("a folder in place of a file is refused as bad input", "[programs]") {
    const SmallRun r;
    const std::string folder = quoted(r.s.path), why = "is a folder, not a file";
    for (const std::string& words : {"--prompt-file " + folder, "--score " + folder, "--eval lambada " + folder,
                                     "--eval hellaswag " + folder, "--probe " + folder + " " + folder})
        r.refused(words, {why.c_str()});
    const Ran train = run(r.s, "train_gpt",
                          "--model " + quoted(r.model) + " --hellaswag " + folder + " --train-data " +
                              quoted(r.s / "train.bin") + " --out " + quoted(r.s / "x"));
    CHECK(train.code == 2);
    CHECK(train.err.find(why) != std::string::npos);
}

TEST_CASE("the line of the newest step fits into its terminal, and a dumb one does not get it", "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const auto train = [&](const std::string& environment, int columns) {
        Terminal t("env " + environment + " " + build_folder() + "/train_gpt" +
                       " --model nano --context 16 --batch 2 --steps 12 --save-every 0 --train-data " +
                       quoted(s / "train.bin") + " --out " + quoted(s / std::to_string(columns)),
                   columns);
        REQUIRE(t.end() == 0);
        return t.shown();
    };
    for (const int columns : {20, 40, 200}) {
        const std::string shown = train("TERM=xterm", columns), clear = "\r\033[K";
        CAPTURE(columns, shown);
        int lines = 0;
        for (size_t at = shown.find(clear); at != shown.npos; at = shown.find(clear, at + 1)) {
            const size_t begin = shown.find_last_of("\nK", at) + 1;
            CHECK(at - begin < size_t(columns));
            lines += at - begin > 4;
        }
        CHECK(lines >= 9);  // steps 2 to 9 and 11, and what else moves
    }
    CHECK(train("TERM=dumb", 80).find('\033') == std::string::npos);
    CHECK(
        train("OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_LOCAL_RANK=0 OMPI_COMM_WORLD_LOCAL_SIZE=1",
              90)
            .find('\033') == std::string::npos);
}
