// test_stops.cpp - a run is stopped in every way, killed, short of disk, or diverges, and goes on
#include <fcntl.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <random>
#include <set>
#include <thread>

#include "data/bpe_training.h"
#include "gpt/log.h"
#include "kernels/device.h"
#include "test/full_disk.h"
#include "test/run_folder.h"
#include "test/terminal.h"

TEST_CASE("Ctrl-C is answered at once at every stage, and the run goes on from there", "[programs][runs]") {
    const Place p;
    write_shard(p / "long.bin", 10000000);
    // No token ends a text, so that a sample is as long as it was asked for.
    std::string tokenizer = BpeTraining(WordCounts()).learn(257);
    for (size_t at = 0; (at = tokenizer.find("<|endoftext|>", at)) != tokenizer.npos;)
        tokenizer.replace(at, 13, "<|other|>");
    write_text(p / "tokenizer.json", tokenizer);
    std::string questions;
    for (int i = 0; i < 20000; i++)
        questions +=
            "{\"ctx\": \"The sea\", \"endings\": [\"is calm\", \"is deep\", \"ends\", \"waits\"], \"label\": 0}\n";
    write_text(p / "questions.jsonl", questions);
    struct Stage {
        std::string words, shows, less;  // less: options with which the rest of the run is short
        bool saved;
    };
    const Stage stages[] = {
        {"--val-data long.bin --eval-every 2 --eval-batches 500000", "evaluating, batch", "--eval-batches 1", false},
        {"--val-data long.bin --eval-every 3 --eval-batches 1 --tokenizer tokenizer.json --hellaswag questions.jsonl",
         "HellaSwag, question", "--hellaswag-questions 1", false},
        {"--sample-every 2 --sample-tokens 10000000 --tokenizer tokenizer.json", "sampling, token", "--sample-tokens 3",
         true},
        {"--sample-every 4 --sample-tokens 10000000 --tokenizer tokenizer.json", "sampling, token", "--sample-tokens 3",
         true},  // all steps are done
        {"--accumulate 16000", "step 1, which", "--accumulate 1", true},
    };
    const Stage& stage = stages[GENERATE(0, 1, 2, 3, 4)];
    const bool twice   = GENERATE(false, true);
    CAPTURE(stage.shows, twice);
    Terminal t("env -C " + quoted(p.path) + " " + p.program +
               " --model nano --train-data train.bin --batch 3 --context "
               "16 --threads 1 --steps 4 --save-every 2 --out run " +
               stage.words + (stage.words.find("--eval-every") == std::string::npos ? " --eval-every 0" : ""));
    REQUIRE(t.shows(stage.shows));
    t.ctrl_c();
    REQUIRE(t.shows("Ctrl-C again ends it at once, without saving"));
    if (twice) {
        t.ctrl_c();
        const int code = t.end();
        CHECK((code == 128 + SIGINT || code == 0));  // 0: it had ended by then
    } else {
        CHECK(t.shows("stopped"));
        CHECK(t.end() == 0);
        CHECK(exists(p / "run/checkpoints/latest/COMPLETE") == stage.saved);
    }
    const Ran rest = p.train(" --out run --resume " + stage.less);
    CAPTURE(t.shown(), rest.out, rest.err);
    REQUIRE(rest.code == 0);
    CHECK(records(p / "run", "step").size() == 4);
    // What the stop interrupted is done once.
    std::set<std::string> once;
    for (const char* event : {"eval", "hellaswag", "sample"})
        for (const auto& j : records(p / "run", event)) CHECK(once.insert(event + j["step"].dump()).second);
    CHECK(once.count("eval0") == (stage.words.find("--val-data") != std::string::npos));
    CHECK(once.count("sample4") == (stage.words.find("--sample-every") != std::string::npos));
}

TEST_CASE("Ctrl-C before the first step ends the program at once, with a word", "[programs][runs]") {
    const Place p;
    write_text(p / "tokenizer.json", BpeTraining(WordCounts()).learn(257));
    {
        std::ofstream questions(p / "questions");  // are read for several seconds
        for (int i = 0; i < 400000; i++)
            questions << "{\"ctx\": \"The sea\", \"endings\": [\"is calm\", \"is deep\", \"ends\", \"waits\"], "
                         "\"label\": 0}\n";
    }
    for (const bool resume : {false, true}) {
        if (resume) REQUIRE(p.train(tiny + "--steps 2 --save-every 1 --keep 0 --out run").code == 0);
        const std::string words = resume ? " --resume" : tiny;
        write_text(p / "start.sh", "trap : INT\ncd " + quoted(p.path) + "\n" + p.program + words +
                                       " --out run --tokenizer tokenizer.json --hellaswag questions\necho code $?\n");
        Terminal t("sh " + quoted(p / "start.sh"));  // a shell, as a user has, keeps the terminal open
        REQUIRE(t.shows("reading the data"));
        t.ctrl_c();
        CHECK(t.shows("ended before the first step; nothing is lost"));
        CHECK(t.shows("code 130"));
        CHECK(t.end() == 0);
        CHECK(exists(p / "run") == resume);
    }
    CHECK(p.checkpoints("run").size() == 2);
}

TEST_CASE("a start that fails leaves nothing behind", "[programs][runs]") {
    const Place p;
    if (Device("auto").where() == Machine::cpu) {
        const Ran graph = p.train(tiny + "--steps 2 --graph");
        CAPTURE(graph.out, graph.err);
        CHECK(graph.code == 2);
        CHECK(missing_words(graph.err, {"--graph: a CUDA graph needs a GPU, and this device is"}) == "");
        CHECK(!exists(p / "runs"));
    }
    // No file can have more than 0 bytes, so run.json cannot be written.
    fs::create_directories(p / "own");
    write_text(p / "own/notes.txt", "mine");
    fs::create_symlink("elsewhere.json", p / "own/products.json");
    for (const std::string out : {"new/run", "own"}) {
        const Ran r = shell(p, "cd " + quoted(p.path) + "; (bash -c 'ulimit -f 0; exec \"$0\" \"$@\"' " +
                                   quoted(p.program) + tiny + "--steps 2 --out " + out + "; echo code $?) 2>&1 | cat");
        CAPTURE(r.out);
        CHECK(missing_words(r.out, {"cannot write", "run.json", "File too large", "code 1"}) == "");
    }
    CHECK(!exists(p / "new"));
    CHECK(std::distance(fs::directory_iterator(p / "own"), {}) == 2);
}

TEST_CASE("a signal before the first step removes what a new run has written, and no later one does",
          "[programs][runs]") {
    const Place p;
    int early = 0;
    for (int i = 0; i < 12; i++) {
        const int signal = i % 3 == 0 ? SIGTERM : i % 3 == 1 ? SIGINT : SIGHUP;
        fs::remove_all(p / "new");
        Terminal t("env --default-signal=HUP -C " + quoted(p.path) + " " + p.program + tiny +
                   "--steps 1000000000 --warmup-steps 0 --save-every 0 --out new/run");
        while (!exists(p / "new/run/lock")) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        std::this_thread::sleep_for(std::chrono::milliseconds(2 + 12 * i));
        t.send(signal);
        const int code = t.end();
        CAPTURE(i, code, t.shown());
        CHECK((code == 0 || code == 128 + signal));
        CHECK(exists(p / "new") == (code == 0));
        CHECK(!exists(p / "new/run/lock"));
        early += code != 0;
        if (code == 0) CHECK(p.train(" --out new/run --resume --steps 1").code != 1);
    }
    CHECK(early > 0);
}

TEST_CASE("the log goes on after a disk was full for a moment", "[runs]") {
    const Scratch s;
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    const int terminal = dup(2), file = open((s / "stderr").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(file, 2);
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    {
        LogSettings settings;
        settings.folder = s.path;
        Log log(settings);
        for (int i = 0; i < 100; i++) log.record({{"event", "step"}, {"step", i}});
        rlimit full   = before;  // the limit stands for a full disk: a part of the next record fits, and no byte then
        full.rlim_cur = fs::file_size(s / "log.jsonl") + 20;
        setrlimit(RLIMIT_FSIZE, &full);
        for (int i = 100; i < 103; i++) log.record({{"event", "step"}, {"step", i}});
        setrlimit(RLIMIT_FSIZE, &before);
        for (int i = 103; i < 200; i++) log.record({{"event", "step"}, {"step", i}});
    }
    dup2(terminal, 2);
    close(terminal), close(file);
    std::signal(SIGXFSZ, handler);
    const auto steps = records(s.path, "step");
    REQUIRE(steps.size() == 197);
    CHECK(steps[99]["step"] == 99);
    CHECK(steps[100]["step"] == 103);
    const std::string said = read_text(s / "stderr");
    CHECK(missing_words(said, {"log.jsonl: File too large", "log.jsonl goes on; 3 records could not be written"}) ==
          "");
    CHECK(std::count(said.begin(), said.end(), '\n') == 2);
}

TEST_CASE("a terminal or a pipe that closes stops a run as SIGTERM does", "[programs][runs]") {
    const Place p;
    const std::string words = tiny + "--steps 3000 --save-every 0 --log-every 1 --keep 0 --out ";
    REQUIRE(p.train(words + "whole").code == 0);
    SECTION("the terminal") {
        // These tests may themselves run under nohup, which has SIGHUP ignored.
        Terminal t("env --default-signal=HUP -C " + quoted(p.path) + " " + p.program + words + "run");
        REQUIRE(t.shows("    3  "));
        t.hang_up();
        CHECK(t.end() == 0);
    }
    SECTION("the pipe, of output alone and of messages too") {
        const std::string both = GENERATE(as<std::string>{}, "", " 2>&1");
        CAPTURE(both);
        CHECK(p.train(words + "run" + both + " | head -n 17").code == 0);
    }
    SECTION("SIGHUP under nohup goes on") {
        Terminal t("env -C " + quoted(p.path) + " nohup " + p.program + words + "run");
        for (int i = 0; i < 6000 && records(p / "run", "step").empty(); i++)
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        t.send(SIGHUP);
        CHECK(t.end() == 0);
        CHECK(records(p / "run", "step").size() == 3000);
        return;
    }
    const int64_t saved = records(p / "run", "save").at(0)["step"];
    CHECK(saved < 3000);
    REQUIRE(p.train(" --out run --resume").code == 0);
    CHECK(losses(p / "run") == losses(p / "whole"));
}

// Also while a run starts or saves. Most of the time goes into starts, evaluations and saves.
TEST_CASE("kill -9 and Ctrl-C at any moment leave a complete checkpoint, and the run resumes to the bit",
          "[programs][runs]") {
    const Place p;
    const int signal  = GENERATE(SIGKILL, SIGINT);
    const auto async  = GENERATE("", "--save-async ");
    const char* often = std::getenv("GPT_KILLS");
    const int times   = often ? std::stoi(often) : 3;
    const std::string words =
        std::string(" --model nano --train-data train.bin --val-data train.bin --batch 3 --context 16 ") + async +
        "--threads 1 --steps 120 --eval-every 7 --eval-batches 2 --save-every 1 --out ";
    const std::string command = "env -C " + quoted(p.path) + " " + quoted(p.program);
    REQUIRE(p.train(words + "whole").code == 0);
    std::mt19937 random(std::random_device{}());
    int stops = 0;
    for (int tries = 0; stops < times && tries < 20 * times; tries++) {
        Terminal t(command + (exists(p / "run/run.json") ? " --resume --out run" : words + "run"));
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 500000));
        t.send(signal);
        const int code = t.end();
        CAPTURE(signal, async, t.shown());
        REQUIRE((code == 0 || code == 128 + signal));
        stops += t.shown().find("done ") == std::string::npos;
        if (!exists(p / "run/checkpoints/latest")) continue;
        const auto complete = p.checkpoints("run");
        REQUIRE(!complete.empty());
        CHECK(p.train(" --dry-run --model run/checkpoints/" + complete.back()).code == 0);
        if (complete.back() == "0000120") fs::remove_all(p / "run");
    }
    CHECK(stops == times);
    const Ran rest = p.train(exists(p / "run/run.json") ? " --resume --out run" : words + "run");
    CAPTURE(rest.out, rest.err);
    REQUIRE(rest.code == 0);
    CHECK(losses(p / "run") == losses(p / "whole"));
    CHECK(records(p / "run", "eval").size() == records(p / "whole", "eval").size());
    for (const char* file : {"model.safetensors", "state.safetensors", "state.json"})
        CHECK(read_text(p / "run/checkpoints/0000120/" + std::string(file)) ==
              read_text(p / "whole/checkpoints/0000120/" + std::string(file)));
    for (const auto& e : fs::directory_iterator(p / "run/checkpoints"))
        CHECK(e.path().filename().string()[0] != '.');  // no unfinished save is left
}

TEST_CASE("a disk that is full at any write of a save loses nothing", "[programs][runs]") {
    const Place p;
    const std::string async = GENERATE("", "--save-async ");
    CAPTURE(async);
    const std::string disk = full_disk(p);
    if (disk.empty()) return;
    fs::create_directories(p / "base");  // a model of few tensors
    auto config       = nlohmann::json::parse(read_text("test/golden/gpt2/config.json"));
    config["n_layer"] = 1;
    write_text(p / "base/config.json", config.dump());
    write_shard(p / "train.bin", 1000, -1, 60);
    const std::string start =
        " --model base --train-data train.bin --context 16 --batch 1 --eval-every 0 --threads 1 "
        "--save-every 1 --keep 1 --steps ";
    REQUIRE(p.train(start + "3 --out whole").code == 0);
    REQUIRE(p.train(start + "2 --schedule constant --learning-rate 1e-3 --out run " + async).code == 0);
    const std::string before = p.weights("run", "0000002");
    int writes               = 0;
    for (;; writes += async.empty() ? 1 : 3) {
        fs::remove_all(p / "try");
        fs::copy(p / "run", p / "try", fs::copy_options::recursive | fs::copy_options::copy_symlinks);
        const Ran r = shell(p, fmt::format("cd {} && WRITES={} {} {} --out try --resume --steps 3", quoted(p.path),
                                           writes, disk, quoted(p.program)));
        CAPTURE(writes, r.out, r.err);
        if (r.code == 0) break;
        REQUIRE(r.code == 1);
        const bool renamed = exists(p / "try/checkpoints/0000003/COMPLETE");  // only `latest` could not be made
        CHECK(missing_words(r.err, {"step 3 could not be saved", "No space left", renamed ? "0000003" : "0000002"}) ==
              "");
        CHECK(p.weights("try", "0000002") == before);
        CHECK(p.checkpoints("try").size() == (renamed ? 2u : 1u));
        CHECK(p.train(" --dry-run --model try/checkpoints/latest").code == 0);
        for (const auto& e : fs::directory_iterator(p / "try/checkpoints"))
            CHECK(e.path().filename().string()[0] != '.');  // what could be written is removed
        if (writes % 10 == 0) REQUIRE(p.train(" --out try --resume --steps 3").code == 0);
        REQUIRE(writes < 200);
    }
    CHECK(writes > 40);
}

// Builds a library that writes to $CALLS what a program flushes to disk, renames and removes below checkpoints/, a line
// each. Returns the words that load it, or "" where there is no C compiler.
static std::string noted_calls(const Scratch& s) {
    write_text(s / "calls.c", R"(#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void note(const char* what, const char* path) {
    if (!strstr(path, "/checkpoints")) return;
    const int file = open(getenv("CALLS"), O_WRONLY | O_CREAT | O_APPEND, 0666);
    dprintf(file, "%s %s\n", what, path);
    close(file);
}
static void note_file(const char* what, int file, const char* behind) {
    char link[64], path[4096], all[8192];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    const ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    snprintf(all, sizeof all, "%s%s", path, behind);
    note(what, all);
}
int fsync(int file) {
    note_file("flush", file, "");
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}
int rename(const char* from, const char* to) {
    note("rename", to);
    return ((int (*)(const char*, const char*))dlsym(RTLD_NEXT, "rename"))(from, to);
}
int remove(const char* path) {
    note("remove", path);
    return ((int (*)(const char*))dlsym(RTLD_NEXT, "remove"))(path);
}
int unlinkat(int folder, const char* name, int flags) {
    char behind[4096];
    snprintf(behind, sizeof behind, "/%s", name);
    note_file("remove", folder, behind);
    return ((int (*)(int, const char*, int))dlsym(RTLD_NEXT, "unlinkat"))(folder, name, flags);
}
)");
    if (shell(s, "cc -shared -fPIC -o " + quoted(s / "calls.so") + " " + quoted(s / "calls.c") + " -ldl").code != 0) {
        std::fprintf(stderr, "skipped: there is no cc, which builds a library that writes calls down\n");
        return "";
    }
    return "LD_PRELOAD=" + quoted(s / "calls.so") +
           " ASAN_OPTIONS=verify_asan_link_order=0 CALLS=" + quoted(s / "calls") + " ";
}

TEST_CASE("a checkpoint is on disk before it has its name, and the one before is removed after that",
          "[programs][runs]") {
    const Place p;
    const std::string async = GENERATE("", "--save-async ");
    CAPTURE(async);
    const std::string noted = noted_calls(p), home = fs::canonical(p.path).string() + "/run/checkpoints";
    if (noted.empty()) return;
    const Ran r =
        shell(p, "cd " + quoted(p.path) + " && " + noted + quoted(p.program) + tiny + async +
                     "--steps 2 --save-every 1 --keep 1 --out " + quoted(fs::path(home).parent_path().string()));
    CAPTURE(r.err);
    REQUIRE(r.code == 0);
    std::vector<std::string> calls;
    std::ifstream in(p / "calls");
    for (std::string line; std::getline(in, line);) calls.push_back(line);
    CAPTURE(calls);
    // The place of the first such call from a place on.
    const auto first = [&](const std::string& call, size_t from = 0) {
        const auto found = std::find(calls.begin() + int64_t(std::min(from, calls.size())), calls.end(), call);
        CAPTURE(call, from);
        CHECK(found != calls.end());
        return size_t(found - calls.begin());
    };
    const std::string hidden = home + "/.0000002.tmp";
    const size_t named       = first("rename " + home + "/0000002");
    for (const auto& e : fs::directory_iterator(home + "/0000002")) {
        const std::string file = hidden + "/" + e.path().filename().string();
        const size_t flushed = first("flush " + file + ".tmp"), renamed = first("rename " + file, flushed);
        CHECK(first("flush " + hidden, renamed) < named);
    }
    const size_t latest = first("rename " + home + "/latest", named);
    CHECK(first("flush " + home, named) < latest);
    const size_t removed = first("remove " + home + "/0000001/COMPLETE", first("flush " + home, latest));
    for (size_t i = 0; i < removed; i++) CHECK(calls[i].find("remove " + home + "/0000001/") == std::string::npos);
}

TEST_CASE("--save-async: the files are those of a save at once, and older checkpoints are removed",
          "[programs][runs]") {
    const Place p;
    const auto how = GENERATE("--dtype fp32 ", "--dtype bf16 --stochastic-rounding ", "--dtype bf16 --optimizer muon ");
    CAPTURE(how);
    const std::string words = tiny + how + "--steps 30 --save-every 7 --save-steps 0,3 --out ";
    REQUIRE(p.train(words + "once").code == 0);
    const Ran async = p.train(words + "async --save-async");
    CAPTURE(async.out, async.err);
    REQUIRE(async.code == 0);
    const auto all = [&](const std::string& out) {
        return shell(p, "cd " + quoted(p / (out + "/checkpoints")) + " && ls -A && md5sum */*").out;
    };
    CHECK(all("async") == all("once"));
    CHECK(p.checkpoints("async") == std::vector<std::string>{"0000000", "0000003", "0000028", "0000030"});
    CHECK(losses(p / "async") == losses(p / "once"));
    CHECK(records(p / "async", "save").size() == records(p / "once", "save").size());
    CHECK(async.out.find("copies for saving") != std::string::npos);
    // Training goes on in the same way from a checkpoint that a thread wrote.
    fs::remove_all(p / "async/checkpoints/0000030");
    REQUIRE(p.train(" --out async --resume").code == 0);
    CHECK(p.weights("async") == p.weights("once"));
}

TEST_CASE("--save-async: a run whose loss is no longer finite keeps no checkpoint from then on", "[programs][runs]") {
    const Place p;
    const Ran r = p.train(tiny +
                          "--save-async --steps 300 --save-every 1 --keep 0 --learning-rate 1e30 --clip 0 "
                          "--warmup-steps 0 --max-skips 0 --out run");
    CAPTURE(r.out, r.err);
    CHECK(r.code == 1);
    CHECK(r.err.find("not finite") != std::string::npos);
    const size_t lost = r.err.find("there is no good checkpoint");
    CHECK((lost != r.err.npos) == p.checkpoints("run").empty());
    CHECK((lost == r.err.npos) == fs::is_symlink(p / "run/checkpoints/latest"));  // no name leads to bad weights
    for (const std::string& name : p.checkpoints("run")) CHECK(r.err.find("checkpoints/" + name) != std::string::npos);
}

// ---- losses that are not finite -------------------------------------------------------------------------------------

TEST_CASE("a run that diverges keeps its good checkpoints and names the newest", "[programs][runs]") {
    const Place p;
    const int every = GENERATE(5, 1);
    CAPTURE(every);
    const std::string save = fmt::format(" --save-every {} ", every);
    REQUIRE(p.train(tiny + "--steps 10 --learning-rate 1e-3 --schedule constant --dtype fp32 --out run" + save).code ==
            0);
    const Ran wild = p.train(" --out run --resume --steps 60 --learning-rate 1e30 --max-skips 6 --keep 1");
    CAPTURE(wild.out, wild.err);
    CHECK(wild.code == 1);
    const std::string good = after(wild.err, "the last good checkpoint is ").substr(0, 23);
    CHECK(good == "run/checkpoints/0000010");
    CHECK(p.checkpoints("run").back() == "0000010");
    CHECK(fs::read_symlink(p / "run/checkpoints/latest") == "0000010");
    for (const auto& skip : records(p / "run", "skip"))
        for (const auto& save : records(p / "run", "save")) CHECK(save["step"] < skip["step"]);
    const Ran tame = p.train(" --out run --resume --steps 20 --learning-rate 1e-3");
    CAPTURE(tame.out, tame.err);
    CHECK(tame.code == 0);
    CHECK(records(p / "run", "step").size() == 20);
}

TEST_CASE("a stop after a skipped step saves nothing, and a validation loss that is not finite ends a run",
          "[programs][runs]") {
    const Place p;
    const std::string words = tiny + "--dtype fp32 --schedule constant --warmup-steps 0 --clip 0 --weight-decay 0 ";
    Terminal t("env -C " + quoted(p.path) + " " + p.program + words +
               "--learning-rate 1e30 --max-skips 1000000000 --steps 1000000000 --save-every 10 --out run");
    REQUIRE(t.shows("the weights stay as they were"));
    t.ctrl_c();
    CHECK(t.shows("not saved, because the last step was skipped"));
    CHECK(t.end() == 0);
    CHECK(!exists(p / "run/checkpoints"));

    const Ran evaluated = p.train(
        " --model nano --train-data train.bin --val-data train.bin --batch 3 --context 16 --threads "
        "1 --dtype fp32 --schedule constant --warmup-steps 0 --clip 0 --weight-decay 0 "
        "--learning-rate 1e30 --steps 60 --eval-every 3 --save-steps 0,1 --out val");
    CAPTURE(evaluated.out, evaluated.err);
    CHECK(evaluated.code == 1);
    CHECK(missing_words(evaluated.err, {"the validation loss is not a finite number",
                                        "the last good checkpoint is val/checkpoints/0000000"}) == "");
    CHECK(records(p / "val", "eval").size() == 1);
    CHECK(records(p / "val", "save").size() == 2);
    CHECK(p.checkpoints("val") == std::vector<std::string>{"0000000"});  // the first step has made the weights bad
}
