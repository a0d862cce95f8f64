// test_terminal.cpp - what a user types: names and sizes of models, prompts, where a text ends, and what is refused
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

// Runs a command with a pseudo-terminal as the standard streams that are named, and types `input` there.
Ran at_terminal(const SmallRun& r, const std::string& words, const std::string& input) {
    write_text(r.s / "at_terminal.py", R"(import os, pty, sys
out = b""
def read(fd):
    global out
    data = os.read(fd, 1024)
    out += data
    return data
pid, fd = pty.fork()
if pid == 0:
    os.execvp("sh", ["sh", "-c", sys.argv[1]])
for c in sys.argv[2].encode().decode("unicode_escape").encode():
    os.write(fd, bytes([c]))
try:
    while read(fd): pass
except OSError: pass
_, status = os.waitpid(pid, 0)
sys.stdout.buffer.write(out)
sys.exit(os.waitstatus_to_exitcode(status))
)");
    const std::string line = build_folder() + "/infer_gpt --dtype fp32 --model " + quoted(r.model) + " " + words;
    const std::string all  = "python3 " + quoted(r.s / "at_terminal.py") + " " + quoted(line) + " " + quoted(input) +
                            " >" + quoted(r.s / "stdout") + " 2>" + quoted(r.s / "stderr");
    const int status = std::system(all.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 255, read_text(r.s / "stdout"), read_text(r.s / "stderr")};
}
bool has_python() {
    const bool has = std::system("python3 -c 'import pty' 2>/dev/null") == 0;
    if (!has) std::fprintf(stderr, "skipped: there is no python3, which makes a pseudo-terminal\n");
    return has;
}

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

TEST_CASE("--model takes a run, its checkpoints, a checkpoint and a config.json, and answers other names",
          "[programs]") {
    const SmallRun r;
    const std::string words = " --dtype fp32 --ids 1,2,3" + greedy + "--model ";
    const Ran latest        = run(r.s, "infer_gpt", words + quoted(r.model));
    REQUIRE(latest.code == 0);
    for (const std::string& name :
         {r.folder, r.folder + "/", r.folder + "/checkpoints", r.folder + "/checkpoints/", r.model + "/config.json"}) {
        const Ran other = run(r.s, "infer_gpt", words + quoted(name));
        CAPTURE(name, other.err);
        CHECK(other.out == latest.out);
    }
    const Ran tuned = run(r.s, "train_gpt",
                          "--context 16 --steps 1 --model " + quoted(r.folder) + " --train-data " +
                              quoted(r.s / "train.bin") + " --out " + quoted(r.s / "tuned"));
    CHECK(missing_words(tuned.out, {"fine-tunes the weights of", "checkpoints/0000020"}) == "");

    const auto refused = [&](const std::string& program, const std::string& name, const char* says) {
        const Ran no = run(r.s, program, "--model " + quoted(name) + " --train-data " + quoted(r.s / "train.bin"));
        CAPTURE(program, name, no.err);
        CHECK(no.code == 2);
        CHECK(no.err.find(says) != std::string::npos);
    };
    refused("train_gpt", "pythia-160", "did you mean pythia-160m?");
    refused("train_gpt", "gpt2-xll", "did you mean gpt2-xl?");
    refused("train_gpt", "GPT2", "did you mean gpt2?");
    refused("train_gpt", "EleutherAI/pythia-70m", "did you mean pythia-70m?");
    refused("train_gpt", "some/where", "neither a preset nor a model folder; train_gpt --list-models");
    refused("train_gpt", r.s / "train.bin", "is a file");
    fs::create_directories(r.s / "empty");
    refused("train_gpt", r.s / "empty", "there is no config.json in this folder, and no checkpoint");
    write_text(r.s / "empty/run.json", "{}");
    refused("train_gpt", r.s / "empty", "no complete checkpoint yet");
    fs::create_symlink("loop", r.s / "loop");
    refused("train_gpt", r.s / "loop", "loop: Too many levels of symbolic links");
    refused("train_gpt", std::string(300, 'x'), "x: File name too long");
    const Ran preset = run(r.s, "infer_gpt", "--model gpt2 --ids 1");
    CHECK(preset.code == 2);
    CHECK(missing_words(preset.err, {"a preset has no weights", "train_gpt --model gpt2", "runs/gpt2"}) == "");
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
    if (!has_python()) return;
    const SmallRun r;
    const Ran waits = at_terminal(r, greedy, "The sea\\n\\x04");
    CAPTURE(waits.out, waits.err);
    CHECK(waits.code == 0);
    CHECK(missing_words(waits.out, {"Ctrl-D", "--prompt TEXT", "The sea"}) == "");
    const Ran several = at_terminal(r, "--prompt x --samples 2 --tokens 3", "");
    CAPTURE(several.out);
    CHECK(missing_words(several.out, {"1 of 3 tokens", "---- 1 of 2 ----", "---- 2 of 2 ----"}) == "");
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

TEST_CASE("a model of one's own size is trained, saved, resumed to the bit and run", "[programs]") {
    const auto preset =
        GENERATE(as<std::string>{}, "nano", "nano-neox", "gpt2", "pythia-14m", "gpt-neo-125m", "gpt-j-6b");
    CAPTURE(preset);
    const Scratch s;
    write_shard(s / "train.bin", 4000, -1, 60);
    const std::string common = "--model " + preset +
                               " --layers 3 --width 32 --heads 4 --vocab 61 --context 80 --batch 1 --accumulate 1 "
                               "--dtype fp32 --steps 4 --save-every 2 --keep 0 --train-data " +
                               quoted(s / "train.bin") + " --out ";
    const Ran dry = run(s, "train_gpt", common + quoted(s / "whole") + " --dry-run");
    CAPTURE(dry.out, dry.err);
    CHECK(missing_words(dry.out, {"--layers 3 --width 32 --heads 4 --vocab 61", "3 layers × 32 wide × 4 heads",
                                  "vocabulary 61"}) == "");
    const Ran whole = run(s, "train_gpt", common + quoted(s / "whole"));
    CAPTURE(whole.err);
    REQUIRE(whole.code == 0);
    REQUIRE(run(s, "train_gpt", common + quoted(s / "cut")).code == 0);
    fs::remove_all(s / "cut/checkpoints/0000004");
    const Ran resumed = run(s, "train_gpt", "--resume --out " + quoted(s / "cut"));
    CAPTURE(resumed.err);
    REQUIRE(resumed.code == 0);
    for (const char* file : {"model.safetensors", "state.safetensors", "config.json"})
        CHECK(read_text(s / "whole/checkpoints/0000004/" + file) == read_text(s / "cut/checkpoints/0000004/" + file));
    const auto config = nlohmann::json::parse(read_text(s / "whole/checkpoints/0000004/config.json"));
    CHECK(config["vocab_size"] == 61);
    CHECK(nlohmann::json::parse(read_text(s / "whole/run.json"))["options"]["--layers"] == "3");
    std::string ids = "1";
    for (int i = 2; i <= 80; i++) ids += fmt::format(",{}", i % 61);  // as many as the context
    const Ran logits = run(s, "infer_gpt", "--logits --model " + quoted(s / "whole") + " --ids " + ids);
    CAPTURE(logits.err);
    CHECK(nlohmann::json::parse(logits.out)["logits"][79].size() == 61);

    // Trained weights keep their sizes. A folder with a config.json alone has random weights.
    const std::string folder = s / "whole/checkpoints/0000004";
    const auto from          = [&](const std::string& model, const std::string& words) {
        return run(s, "train_gpt", "--dry-run --context 16 --model " + quoted(model) + " " + words);
    };
    for (const char* size : {"--layers 2", "--width 64", "--heads 2", "--vocab 100"}) {
        const Ran no = from(folder, size);
        CAPTURE(size, no.err);
        CHECK(no.code == 2);
        CHECK(missing_words(no.err, {"--layers, --width, --heads and --vocab", "random weights", "trained"}) == "");
    }
    fs::create_directories(s / "bare");
    fs::copy_file(folder + "/config.json", s / "bare/config.json");
    const Ran bare = from(s / "bare", "--width 64 --heads 2 --vocab 100");
    CAPTURE(bare.err);
    CHECK(missing_words(bare.out, {"3 layers × 64 wide × 2 heads", "vocabulary 100"}) == "");
    CHECK(missing_words(from(preset, "--width 100 --heads 3").err, {"100", "3 heads"}) == "");
}

TEST_CASE("the vocabulary of a preset follows the tokenizer, and shards name theirs", "[programs]") {
    const Scratch s;
    const auto make = [&](const std::string& name, int entries) {
        WordCounts words;
        for (int i = 0; i < 3000; i++) words.add(fmt::format("word{} and{} other{}\n", i * 7919, i * 104729, i % 90));
        write_text(s / name, BpeTraining(words).learn(entries));
    };
    make("a.json", 1000);
    make("b.json", 300);
    write_text(s / "text.txt", std::string(5000, 'x') + " and some words\n");
    REQUIRE(run(s, "tokenize",
                "--tokenizer " + quoted(s / "a.json") + " --input " + quoted(s / "text.txt") +
                    " --val-fraction 0.1 --output " + quoted(s / "t"))
                .code == 0);
    const std::string data = " --context 16 --batch 2 --steps 1 --train-data " + quoted(s / "t_train_*.bin") +
                             " --val-data " + quoted(s / "t_val_*.bin") + " ";
    const auto train  = [&](const std::string& words) { return run(s, "train_gpt", data + words); };
    const Ran follows = train("--model nano --tokenizer " + quoted(s / "a.json") + " --out " + quoted(s / "run"));
    CAPTURE(follows.err);
    REQUIRE(follows.code == 0);
    CHECK(missing_words(follows.out, {"vocabulary 1024", "--vocab 1024"}) == "");  // 1000, a multiple of 64
    CHECK(run(s, "train_gpt", "--resume --steps 2 --out " + quoted(s / "run")).code == 0);
    CHECK(run(s, "infer_gpt", "--prompt and --tokens 3 --model " + quoted(s / "run")).code == 0);
    // A preset's own number stays when it has room for the tokenizer and at most 511 rows more.
    const std::string dry = "--dry-run --tokenizer " + quoted(s / "a.json");
    CHECK(train(dry + " --model nano --vocab 1200").out.find("vocabulary 1200 ") != std::string::npos);
    CHECK(train(dry + " --model gpt2").out.find("vocabulary 1024 ") != std::string::npos);

    const Ran other = train("--model nano --tokenizer " + quoted(s / "b.json") + " --out " + quoted(s / "other"));
    CHECK(other.code == 2);
    CHECK(missing_words(other.err, {"t_summary.json", "a.json", "b.json", "./tokenize --tokenizer", "--trust-data"}) ==
          "");
    const Ran trusted = train("--model nano --vocab 1000 --trust-data --tokenizer " + quoted(s / "b.json") + " --out " +
                              quoted(s / "other"));
    CAPTURE(trusted.err);
    CHECK(trusted.code == 0);
}

TEST_CASE("names of other programs' options have an answer", "[programs]") {
    const Scratch s;
    const auto says = [&](const std::string& program, const std::string& words) { return run(s, program, words).err; };
    CHECK(missing_words(says("train_gpt", "--lr 1e-3"), {"did you mean --learning-rate?"}) == "");
    CHECK(missing_words(says("train_gpt", "--batch_size=12"), {"did you mean --batch?"}) == "");
    CHECK(missing_words(says("train_gpt", "--block-size 64"), {"did you mean --context?"}) == "");
    CHECK(missing_words(says("train_gpt", "--max-iters 5"), {"did you mean --steps?"}) == "");
    CHECK(missing_words(says("train_gpt", "--n_layer 5"), {"did you mean --layers?"}) == "");
    for (const char* rate : {"-0.1", "1"})
        CHECK(missing_words(says("train_gpt", fmt::format("--dropout {}", rate)), {"--dropout", "0 or more"}) == "");
    CHECK(missing_words(says("train_gpt", "--epochs 2"), {"--steps", "epoch"}) == "");
    CHECK(missing_words(says("infer_gpt", "--max-new-tokens 2"), {"did you mean --tokens?"}) == "");
    CHECK(missing_words(says("infer_gpt", "--lr 2"), {"unknown option --lr (--help"}) == "");
    for (const char* program : {"train_gpt", "infer_gpt", "tokenize"})
        CHECK(run(s, program, "-h").out == run(s, program, "--help").out);
}

TEST_CASE("a run with more positions than its preset goes on with another --context, as far as they reach",
          "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    REQUIRE(run(s, "train_gpt",
                "--model nano --context 100 --batch 2 --steps 2 --save-every 2 --train-data " +
                    quoted(s / "train.bin") + " --out " + quoted(s / "run"))
                .code == 0);
    const std::string resume = "--resume --out " + quoted(s / "run");
    for (const char* other : {" --context 90 --steps 4", " --context 30 --steps 6", " --context 100 --steps 8"}) {
        const Ran r = run(s, "train_gpt", resume + other);
        CAPTURE(other, r.err);
        CHECK(r.code == 0);
    }
    const Ran beyond = run(s, "train_gpt", resume + " --context 101 --steps 9");
    CAPTURE(beyond.err);
    CHECK(beyond.code == 2);
    CHECK(missing_words(beyond.err, {"101", "100"}) == "");
    CHECK(nlohmann::json::parse(read_text(s / "run/checkpoints/latest/config.json"))["n_positions"] == 100);
}

TEST_CASE("token shards beside a config.json are no weights, and PyTorch's files are", "[programs]") {
    const Scratch s;
    fs::create_directories(s / "mix");
    fs::copy_file("test/golden/gpt2_odd/config.json", s / "mix/config.json");
    write_shard(s / "mix/sh_train_000000.bin", 1000, -1, 60);
    std::string raw;  // ids of nanoGPT's form, without a header
    for (int i = 0; i < 1000; i++) raw += char(i % 60), raw += '\0';
    write_text(s / "mix/train.bin", raw);
    const std::string train = "--context 16 --batch 2 --steps 1 --model " + quoted(s / "mix") + " --out " +
                              quoted(s / "run") + " --train-data " + quoted(s / "mix/sh_train_*.bin");
    const Ran r = run(s, "train_gpt", train);
    CAPTURE(r.out, r.err);
    CHECK(r.code == 0);
    CHECK(r.out.find("random weights, because there are none") != std::string::npos);
    const Ran none = run(s, "infer_gpt", "--ids 1 --model " + quoted(s / "mix"));
    CHECK(none.code == 2);
    CHECK(missing_words(none.err, {"neither model.safetensors nor"}) == "");
    for (const std::string& begin : {std::string("PK\x03\x04"), std::string("\x80\x02\x8a\x0a")}) {
        write_text(s / "mix/other.bin", begin + "and so on");
        const Ran pickle = run(s, "train_gpt", train + " --seed 2");
        CHECK(pickle.code == 2);
    }
    CHECK(missing_words(run(s, "infer_gpt", "--ids 1 --model " + quoted(s / "mix")).err, {"other.bin", "pickle"}) ==
          "");
}
