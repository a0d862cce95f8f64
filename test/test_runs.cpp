// test_runs.cpp - the life of a run: it is resumed from anywhere, with other options, and looked at
#include <csignal>

#include "data/bpe_training.h"
#include "gpt/resume.h"
#include "gpt/schedule.h"
#include "test/run_folder.h"
#include "test/terminal.h"

TEST_CASE("what --resume was given holds for the next --resume, and run.json has the history", "[programs][runs]") {
    const Place p;
    REQUIRE(p.train(tiny + "--steps 6 --save-every 3 --out run").code == 0);
    REQUIRE(p.train(" --out run --resume --steps 12 --log-every 3 --keep 0").code == 0);
    fs::remove_all(p / "run/checkpoints/0000012");
    const Ran again = p.train(" --out run --resume");
    CAPTURE(again.out, again.err);
    REQUIRE(again.code == 0);
    CHECK(records(p / "run", "step").size() == 12);
    const auto j = p.run_json("run");
    CHECK(j["options"]["--steps"] == "12");
    CHECK(j["options"]["--log-every"] == "3");
    CHECK(j["options"]["--save-every"] == "3");
    CHECK(missing_words(j["command"], {"--steps 12", "--log-every 3", "--train-data train.bin"}) == "");
    CHECK(j["command"].get<std::string>().find("--resume") == std::string::npos);
    CHECK(j["folder"] == fs::canonical(p.path).string());
    REQUIRE(j["history"].size() == 3);
    const std::vector<int64_t> begins = {0, 6, 9};
    for (size_t i = 0; i < 3; i++) {
        const auto& start = j["history"][i];
        CHECK(start["step"] == begins[i]);
        CHECK(start["date"].get<std::string>().size() == 20);
        CHECK(start["commit"] == j["commit"]);
        CHECK((start["command"].get<std::string>().find("--resume") != std::string::npos) == (i > 0));
        CHECK(missing_words(start["command"], {i == 0 ? "--steps 6" : "--steps 12"}) == "");
    }
    // A run of an older version has no history: its command is the first record.
    auto old = j;
    for (const char* key : {"history", "folder"}) old.erase(key);
    write_text(p / "run/run.json", old.dump());
    REQUIRE(p.train(" --out run --resume --steps 13").code == 0);
    REQUIRE(p.run_json("run")["history"].size() == 2);
    CHECK(p.run_json("run")["history"][0]["command"] == j["command"]);
}

TEST_CASE("the command that a stopped run prints works as it stands, from any folder", "[programs][runs]") {
    const Place p;
    const bool on_path = GENERATE(false, true);
    CAPTURE(on_path);
    fs::create_directories(p / "my data (1)");
    fs::create_symlink(p.program, p / "my data (1)/train_gpt");
    const std::string words = tiny + "--steps 2000 --save-every 0 --log-every 0 --out 'my data (1)/run '\\''9'";
    const Ran r =
        shell(p, "cd " + quoted(p.path) + " && " +
                     (on_path ? "PATH=\"$PWD/my data (1):$PATH\" train_gpt" : "'my data (1)/train_gpt'") + words +
                     " >log 2>&1 & pid=$!; until grep -q '\"step\":3' " + quoted(p / "my data (1)/run '9/log.jsonl") +
                     " 2>/dev/null || ! kill -0 $pid; do sleep 0.05; done; kill $pid; wait $pid");
    const std::string log = read_text(p / "log"), command = after(log, "continue with: ");
    CAPTURE(log, r.err);
    REQUIRE(r.code == 0);
    CHECK(missing_words(log, {"stopping:", "stopped after"}) == "");
    REQUIRE(!command.empty());
    const Ran more = shell(p, "cd / && " + command + " --steps 2001");
    CAPTURE(command, more.err);
    CHECK(more.code == 0);
    CHECK(records(p / "my data (1)/run '9", "step").size() == 2001);
}

TEST_CASE("the command of a run begins with the program as it was started", "[programs][runs]") {
    const Place p;
    fs::create_directories(p / "my bin");
    fs::create_symlink(p.program, p / "my bin/train_gpt");
    for (const char* program : {"train_gpt", "'my bin/train_gpt'", "./'my bin'/train_gpt"}) {
        CAPTURE(program);
        fs::remove_all(p / "run");
        const auto here = [&](const std::string& line) {
            return shell(p, "cd " + quoted(p.path) + " && PATH=\"$PWD/my bin:$PATH\" && " + line);
        };
        REQUIRE(here(program + tiny + "--steps 2 --out run").code == 0);
        const std::string command = p.run_json("run")["command"], whole = losses(p / "run");
        CHECK(command.find(program == std::string("train_gpt") ? "train_gpt --" : "my bin/train_gpt' --") <= 3);
        fs::remove_all(p / "run");
        REQUIRE(here(command).code == 0);
        CHECK(losses(p / "run") == whole);
    }
}

TEST_CASE("a run whose run.json is gone needs its options again, and says so", "[programs][runs]") {
    const Place p;
    REQUIRE(p.train(tiny + "--steps 2 --learning-rate 1e-3 --out run").code == 0);
    fs::remove(p / "run/run.json");
    const Ran r = p.train(" --out run --resume --steps 3");
    CHECK(r.code == 2);
    CHECK(missing_words(r.err, {"--resume: run/run.json is missing", "--model and --train-data"}) == "");
    CHECK(p.train(tiny + "--steps 3 --learning-rate 1e-3 --out run --resume").code == 0);
    // Nor may the rate rise to a final one.
    const Ran up = p.train(" --out run --resume --steps 5 --final-learning-rate 0.1");
    CHECK(up.code == 2);
    CHECK(missing_words(up.err, {"--final-learning-rate 0.1 is more than", "--learning-rate"}) == "");
}

TEST_CASE("data is found by a name that looks like a pattern, here and by a resume from elsewhere",
          "[programs][runs]") {
    const Place p;
    fs::create_directories(p / "[x]{a,b}");
    fs::rename(p / "train.bin", p / "[x]{a,b}/train_[0].bin");
    const std::string how = " --model nano --batch 3 --context 16 --threads 1 --eval-every 0 --steps 2 --out run ";
    for (const char* data : {"[x]{a,b}/train_[0].bin", "[x]{a,b}/train_*.bin"}) {
        fs::remove_all(p / "run");
        const Ran r = p.train(how + "--train-data " + quoted(data));
        CAPTURE(data, r.err);
        REQUIRE(r.code == 0);
        CHECK(shell(p, "cd / && " + quoted(p.program) + " --resume --steps 3 --out " + quoted(p / "run")).code == 0);
    }
}

TEST_CASE("a run folder is enough: another working folder, a moved tree, a base folder that is gone",
          "[programs][runs]") {
    const Place p;
    fs::create_directories(p / "base");
    for (const char* file : {"config.json", "model.safetensors"})
        fs::copy_file(std::string("test/golden/gpt2/") + file, p / "base/" + file);
    write_text(p / "base/tokenizer.json", BpeTraining(WordCounts()).learn(257));
    write_shard(p / "train.bin", 1000, -1, 60);
    const std::string start =
        " --model base --train-data train.bin --context 16 --batch 2 --eval-every 0 --steps 6 "
        "--save-every 3 --keep 0 --threads 1 --out run";
    REQUIRE(p.train(start).code == 0);
    const std::string whole = p.weights("run");
    const auto cut          = [&] { fs::remove_all(p / "run/checkpoints/0000006"); };
    cut();
    REQUIRE(p.train(" --out ../run --resume", "base").code == 0);
    CHECK(p.weights("run") == whole);

    fs::rename(p / "base", p / "elsewhere");
    for (const char* folder : {"elsewhere", "."}) {
        CAPTURE(folder);
        cut();
        const Ran r = p.train(" --out " + quoted(p / "run") + " --resume --keep 1", folder);
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
        CHECK(p.weights("run") == whole);
        CHECK(read_text(p / "run/checkpoints/latest/tokenizer.json") == read_text(p / "elsewhere/tokenizer.json"));
        REQUIRE(p.train(" --out " + quoted(p / "run") + " --resume --keep 0 --steps 7", folder).code == 0);
        fs::remove_all(p / "run");
        fs::rename(p / "elsewhere", p / "base");
        REQUIRE(p.train(start).code == 0);
        fs::rename(p / "base", p / "elsewhere");
    }
    // What is named again must be there.
    const Ran named = p.train(" --out run --resume --steps 8 --model base");
    CHECK(named.code == 2);
    CHECK(missing_words(named.err, {"base"}) == "");
    // A tree that was moved as a whole goes on, too.
    fs::create_directories(p / "old");
    fs::rename(p / "elsewhere", p / "old/base");
    fs::rename(p / "train.bin", p / "old/train.bin");
    fs::remove_all(p / "run");
    REQUIRE(p.train(start, "old").code == 0);
    fs::remove_all(p / "old/run/checkpoints/0000006");
    fs::rename(p / "old", p / "new");
    const Ran moved = p.train(" --out run --resume", "new");
    CAPTURE(moved.out, moved.err);
    REQUIRE(moved.code == 0);
    CHECK(p.weights("new/run") == whole);
}

TEST_CASE("paths that are not UTF-8, or look like patterns, hold for a resume from elsewhere", "[programs][runs]") {
    const Place p;
    const std::string folder = GENERATE("d\xff\xc3 'x", "[1] {a,b} *?");
    CAPTURE(folder);
    fs::create_directories(p / folder);
    fs::rename(p / "train.bin", p / (folder + "/train.bin"));
    const std::string out = p / (folder + "/run");
    const Ran first       = p.train(tiny + "--steps 2 --save-every 1 --keep 0 --out run", folder);
    CAPTURE(first.err);
    REQUIRE(first.code == 0);
    const std::string whole = p.weights(folder + "/run");
    CHECK(fs::path(text_in(p.run_json(folder + "/run")["folder"])).filename() == folder);
    for (const char* from : {".", "/"}) {  // the second resume reads what the first has written
        fs::remove_all(out + "/checkpoints/0000002");
        const Ran r =
            shell(p, "cd " + std::string(from) + " && " + quoted(p.program) + " --resume --out " + quoted(out));
        CAPTURE(from, r.err);
        REQUIRE(r.code == 0);
        CHECK(p.weights(folder + "/run") == whole);
    }
    // The command that run.json holds works as it stands in bash, which knows the quotes of bytes.
    const std::string command = p.run_json(folder + "/run")["command"];
    fs::remove_all(out);
    write_text(p / "again.sh", "cd / && " + command);
    REQUIRE(shell(p, "bash " + quoted(p / "again.sh")).code == 0);
    CHECK(p.weights(folder + "/run") == whole);
}

TEST_CASE("a run that gets more steps goes on at the rate where it stands", "[programs][runs]") {
    const Place p;
    const auto kind = GENERATE(as<std::string>{}, "cosine", "linear", "wsd", "constant");
    CAPTURE(kind);
    const std::string start = tiny +
                              "--learning-rate 1e-2 --final-learning-rate 1e-3 --warmup-steps 2 --save-every 5 "
                              "--keep 0 --schedule " +
                              kind + " --steps 10 --out ";
    REQUIRE(p.train(start + "run").code == 0);
    const Ran longer = p.train(" --out run --resume --steps 20");
    CAPTURE(longer.out, longer.err);
    REQUIRE(longer.code == 0);
    for (int64_t step = 4; step <= 20; step++) CHECK(p.rate("run", step) <= p.rate("run", step - 1) * (1 + 1e-6));
    CHECK(p.rate("run", 20) == Approx(kind == "constant" ? 1e-2 : 1e-3));
    CHECK(missing_words(longer.out, {"the learning rate ", " step 10", " 20"}) == "");
    // The run that was made longer resumes to the bit, also with the same options given again.
    const std::string whole = p.weights("run"), log = losses(p / "run");
    for (const char* again : {" --out run --resume", " --out run --resume --steps 20 --learning-rate 0.01"}) {
        fs::remove_all(p / "run/checkpoints/0000020");
        const Ran r = p.train(again);
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
        CHECK(r.out.find("the learning rate ") == std::string::npos);
        CHECK(losses(p / "run") == log);
        CHECK(p.weights("run") == whole);
    }
    // One that is made longer in the middle, or during warm-up, does not jump either.
    REQUIRE(p.train(start + "middle").code == 0);
    fs::remove_all(p / "middle/checkpoints/0000010");
    REQUIRE(p.train(" --out middle --resume --steps 30").code == 0);
    for (int64_t step = 4; step <= 30; step++) CHECK(p.rate("middle", step) <= p.rate("middle", step - 1) * (1 + 1e-6));
    CHECK(p.rate("middle", 30) == Approx(kind == "constant" ? 1e-2 : 1e-3));
}

TEST_CASE("a new learning rate begins at the step where the run is resumed", "[programs][runs]") {
    const Place p;
    REQUIRE(p.train(tiny + "--learning-rate 1e-2 --final-learning-rate 0 --warmup-steps 2 --save-every 5 --keep 0 "
                           "--steps 10 --out run")
                .code == 0);
    // The rate has fallen to 0: more steps would change nothing.
    const Ran zero = p.train(" --out run --resume --steps 20");
    CHECK(zero.code == 2);
    CHECK(missing_words(zero.err, {"fallen to 0", "--learning-rate"}) == "");
    CHECK(p.run_json("run")["history"].size() == 1);
    const Ran r = p.train(" --out run --resume --steps 20 --learning-rate 4e-3 --warmup-steps 4");
    CAPTURE(r.out, r.err);
    REQUIRE(r.code == 0);
    CHECK(missing_words(r.out, {"is 0.001 now, rises to 0.004 by step 14, and falls to 0 at step 20"}) == "");
    for (int i = 1; i <= 4; i++) CHECK(p.rate("run", 10 + i) == Approx(1e-3 * i));
    CHECK(p.rate("run", 15) < 4e-3);
    CHECK(p.rate("run", 20) == 0);
    // In the middle of a run, without warm-up, it is there at once.
    fs::remove_all(p / "run/checkpoints/0000020");
    const Ran constant = p.train(" --out run --resume --learning-rate 1e-5 --schedule constant");
    CAPTURE(constant.out, constant.err);
    REQUIRE(constant.code == 0);
    CHECK(missing_words(constant.out, {"is 1e-05 now, and stays there until step 20"}) == "");
    CHECK(p.rate("run", 16) == Approx(1e-5));
    CHECK(p.rate("run", 20) == Approx(1e-5));
    // From a checkpoint before that, the schedule of that time is in force.
    for (const char* later : {"0000010", "0000015", "0000020"}) fs::remove_all(p / "run/checkpoints/" + later);
    REQUIRE(p.train(" --out run --resume").code == 0);
    CHECK(p.rate("run", 6) <= p.rate("run", 5));
    CHECK(p.rate("run", 6) > 1e-3);
}

TEST_CASE("with --dropout a run has the same bits on any number of threads, recomputed, and resumed",
          "[programs][runs]") {
    const Place p;
    const std::string how = tiny + "--steps 6 --accumulate 2 --save-every 3 --keep 0 ";
    const auto bits       = [&](const std::string& out) {
        return losses(p / out) + records(p / out, "end").back()["fingerprint"].get<std::string>();
    };
    REQUIRE(p.train(how + "--dropout 0.2 --out run").code == 0);
    REQUIRE(p.train(how + "--out none").code == 0);
    const std::string two = std::string(how).replace(how.find("--threads 1"), 11, "--threads 2");
    REQUIRE(p.train(two + "--dropout 0.2 --recompute block --out other").code == 0);
    CHECK(bits("run") != bits("none"));
    CHECK(bits("other") == bits("run"));
    fs::remove_all(p / "run/checkpoints/0000006");
    REQUIRE(p.train(" --out run --resume").code == 0);
    CHECK(bits("run") == bits("other"));

    // The rates are written, a model that begins with these weights can ask for them, and a resumed run can change
    // them.
    const auto written = nlohmann::json::parse(read_text(p / "run/checkpoints/latest/config.json"));
    for (const char* rate : {"attn_pdrop", "embd_pdrop", "resid_pdrop"}) CHECK(written[rate] == 0.2);
    const auto said = [&](const std::string& words) {
        const Ran r = p.train(words);
        CAPTURE(r.err);
        REQUIRE(r.code == 0);
        return r.out;
    };
    const std::string from_config = said(
        " --model run/checkpoints/latest --train-data train.bin --batch 3 --context 16 --steps 3 --dropout auto --out "
        "a");
    CHECK(missing_words(from_config, {"0.2 of the embedding", "0.2 of attention's probabilities"}) == "");
    const std::string by_default =
        said(" --model run/checkpoints/latest --train-data train.bin --batch 3 --context 16 --steps 3 --out b");
    CHECK(by_default.find("of the embedding") == by_default.npos);
    CHECK(losses(p / "a") != losses(p / "b"));
    CHECK(nlohmann::json::parse(read_text(p / "b/checkpoints/latest/config.json"))["attn_pdrop"] == 0.2);
    CHECK(missing_words(said(" --out run --resume --steps 7 --dropout 0.5"), {"0.5 of the embedding"}) == "");
}

TEST_CASE("a run with any seed of 64 bits can be resumed", "[programs][runs]") {
    const Place p;
    for (const std::string seed : {"0", "9007199254740993", "18446744073709551615"}) {
        CAPTURE(seed);
        REQUIRE(p.train(tiny + "--steps 4 --save-every 2 --keep 0 --seed " + seed + " --out " + seed).code == 0);
        const std::string whole = losses(p / seed);
        fs::remove_all(p / (seed + "/checkpoints/0000004"));
        const Ran r = p.train(" --resume --out " + seed);
        CAPTURE(r.err);
        CHECK(r.code == 0);
        CHECK(losses(p / seed) == whole);
    }
}

TEST_CASE("--resume of a run that has done its steps says so, and refuses fewer steps", "[programs][runs]") {
    const Place p;
    REQUIRE(p.train(tiny + "--steps 50 --warmup-steps 5 --out run").code == 0);
    const std::string before = read_text(p / "run/run.json");
    const Ran done           = p.train(" --out run --resume");
    CHECK(done.code == 0);
    CHECK(missing_words(done.out, {"has done its 50 steps already", "--steps 100"}) == "");
    const Ran fewer = p.train(" --out run --resume --steps 3");
    CHECK(fewer.code == 2);
    CHECK(missing_words(fewer.err, {"--steps 3", "50 steps already"}) == "");
    CHECK(read_text(p / "run/run.json") == before);
    const Ran longer = shell(p, after(done.out, "longer: "));
    CAPTURE(longer.out, longer.err);
    CHECK(longer.code == 0);
    CHECK(records(p / "run", "step").size() == 100);
}

TEST_CASE("with another context or batch a run goes on after the same tokens", "[programs][runs]") {
    const Place p;
    REQUIRE(p.train(tiny + "--steps 10 --save-every 10 --keep 0 --out run").code == 0);
    const auto position = [&](const char* step) {
        return nlohmann::json::parse(read_text(p / "run/checkpoints/" + step + "/state.json"));
    };
    CHECK(position("0000010")["position"]["index"] == 30);
    CHECK(position("0000010")["context"] == 16);
    REQUIRE(p.train(" --out run --resume --steps 12 --context 8 --batch 5").code == 0);
    CHECK(position("0000012")["position"]["index"] == 30 * 2 + 2 * 5);
    CHECK(position("0000012")["tokens"] == 480 + 80);
    // A checkpoint that does not name its context was written by an older version.
    auto state = position("0000012");
    state.erase("context");
    write_text(p / "run/checkpoints/0000012/state.json", state.dump());
    REQUIRE(p.train(" --out run --resume --steps 13 --context 16 --batch 1").code == 0);
    CHECK(position("0000013")["position"]["index"] == 35 + 1);
}

TEST_CASE("a second process on a run's folder is refused, and a crash leaves no lock", "[programs][runs]") {
    const Place p;
    Terminal first("env -C " + quoted(p.path) + " " + p.program + tiny +
                   "--steps 100000000 --warmup-steps 0 --save-every 5 --out run");
    REQUIRE(first.shows("saved"));
    for (const char* words : {" --out run --resume", " --out run --resume --steps 200000000"}) {
        const Ran r = p.train(words);
        CAPTURE(r.out, r.err);
        CHECK(r.code == 2);
        CHECK(missing_words(r.err, {"--out run is in use by process", " on "}) == "");
    }
    const Ran other = p.train(tiny + "--steps 2 --out run");
    CHECK(other.code == 2);
    CHECK(missing_words(other.err, {"already holds a run"}) == "");
    first.send(SIGKILL);
    CHECK(first.end() == 128 + SIGKILL);
    const int64_t done = std::stoll(p.checkpoints("run").back());
    CHECK(p.train(fmt::format(" --out run --resume --steps {}", done + 3)).code == 0);
    CHECK(!exists(p / "run/lock"));
}

TEST_CASE("of processes that start on one folder at the same instant, one trains", "[programs][runs]") {
    const Place p;
    for (int i = 0; i < 4; i++) {
        const std::string out = fmt::format("run{}", i), line = quoted(p.program) + tiny + "--steps 3 --out " + out;
        const Ran r =
            shell(p, "cd " + quoted(p.path) + "; for seed in 1 2 3; do (" + line +
                         " --seed $seed >/dev/null 2>err$seed; echo $? $seed >code$seed) & done; wait; cat code*");
        CAPTURE(r.out, r.err, read_text(p / "err1"), read_text(p / "err2"), read_text(p / "err3"));
        std::string winner;
        int won = 0;
        for (const char* seed : {"1", "2", "3"})
            if (r.out.find(std::string("0 ") + seed) != std::string::npos) winner = seed, won++;
        REQUIRE(won == 1);
        CHECK(p.run_json(out)["options"]["--seed"] == winner);
        CHECK(records(p / out, "step").size() == 3);
        CHECK(p.train(" --resume --steps 4 --out " + out).code == 0);
    }
}

TEST_CASE("runs that start without --out at the same instant take a name each", "[programs][runs]") {
    const Place p;
    fs::create_directories(p / "runs/nano-2");
    write_text(p / "runs/nano-2/log.jsonl", "mine");
    const Ran r = shell(p, "cd " + quoted(p.path) + "; for i in 1 2 3 4; do (" + quoted(p.program) + tiny +
                               "--steps 3 >/dev/null; echo code $?) & done; wait");
    CAPTURE(r.out, r.err);
    CHECK(r.out == "code 0\ncode 0\ncode 0\ncode 0\n");
    for (const char* name : {"nano", "nano-3", "nano-4", "nano-5"})
        CHECK(records(p / ("runs/" + std::string(name)), "step").size() == 3);
    CHECK(read_text(p / "runs/nano-2/log.jsonl") == "mine");
}

TEST_CASE("a new run does not overwrite a log or a plot that something else has written", "[programs][runs]") {
    const Place p;
    for (const std::string name : {"log.jsonl", "loss.png"}) {
        fs::create_directories(p / name);
        write_text(p / (name + "/" + name), "mine");
        const Ran r = p.train(tiny + "--steps 2 --out " + name);
        CAPTURE(r.out, r.err);
        CHECK(r.code == 2);
        CHECK(missing_words(r.err, {"--out", "has a ", name.c_str(), "overwrite", "another --out"}) == "");
        CHECK(read_text(p / (name + "/" + name)) == "mine");
        CHECK(std::distance(fs::directory_iterator(p / name), {}) == 1);
    }
    fs::create_directories(p / "notes");
    write_text(p / "notes/products.json.txt", "mine");
    CHECK(p.train(tiny + "--steps 2 --out notes").code == 0);
}

TEST_CASE("the rate of a schedule that begins again", "[schedule]") {
    const auto kind = GENERATE(Schedule::Kind::cosine, Schedule::Kind::linear, Schedule::Kind::wsd);
    const Schedule first{kind, 1e-2f, 1e-3f, 4, 20};
    CHECK(learning_rate(continued(first, {first}, 20), 19) == learning_rate(first, 19));
    Schedule longer = first;
    longer.steps    = 60;
    for (int64_t at = 0; at <= 20; at++) {
        const Schedule s = continued(first, {longer, true}, at);
        CAPTURE(int(kind), at);
        if (at < 4) CHECK(s.start == 0);
        for (int64_t step = at; step < 60; step++) {
            const float before = step > at ? learning_rate(s, step - 1) : at > 0 ? learning_rate(first, at - 1) : 0.f;
            CAPTURE(step);
            if (step < 4)
                CHECK(learning_rate(s, step) == learning_rate(first, step));
            else
                CHECK(learning_rate(s, step) <= before);
        }
        CHECK(learning_rate(s, 59) == 1e-3f);
    }
}

TEST_CASE("--save-steps: these checkpoints stay, and a run that stops among them goes on with the same bits",
          "[programs][runs]") {
    const Place p;
    const std::string words = tiny + "--steps 12 --save-every 5 --keep 1 --save-steps 4,0,1,2,8 ";
    REQUIRE(p.train(words + "--out whole").code == 0);
    CHECK(p.checkpoints("whole") ==
          std::vector<std::string>{"0000000", "0000001", "0000002", "0000004", "0000008", "0000012"});
    // Goes on from each of them, the beginning included.
    for (const char* from : {"0000000", "0000004"}) {
        CAPTURE(from);
        fs::remove_all(p / "again");
        fs::copy(p / "whole", p / "again", fs::copy_options::recursive | fs::copy_options::copy_symlinks);
        for (const std::string& name : p.checkpoints("again"))
            if (name > from) fs::remove_all(p / ("again/checkpoints/" + name));
        const Ran again = p.train(" --out again --resume");
        CAPTURE(again.out, again.err);
        REQUIRE(again.code == 0);
        CHECK(losses(p / "again") == losses(p / "whole"));
        CHECK(p.checkpoints("again") == p.checkpoints("whole"));
        for (const std::string& name : p.checkpoints("whole"))
            CHECK(p.weights("again", name) == p.weights("whole", name));
    }
    const Ran bad = p.train(tiny + "--save-steps 1,x --out bad");
    CHECK(bad.code == 2);
    CHECK(bad.err.find("--save-steps: 'x' is no step") != std::string::npos);
    CHECK_FALSE(fs::exists(p / "bad"));
}

TEST_CASE("--sequences: a run keeps the order of its data when it is resumed, and refuses another",
          "[programs][runs]") {
    const Place p;
    const std::string words = tiny + "--steps 12 --save-every 5 --sequences ";
    REQUIRE(p.train(words + "--out whole").code == 0);
    REQUIRE(p.train(tiny + "--steps 5 --sequences --out part --schedule constant").code == 0);
    REQUIRE(p.train(words + "--out same --schedule constant").code == 0);
    REQUIRE(p.train(" --out part --resume --steps 12").code == 0);
    CHECK(losses(p / "part") == losses(p / "same"));
    REQUIRE(p.train(tiny + "--steps 12 --out other").code == 0);
    CHECK(losses(p / "other") != losses(p / "whole"));
    const Ran other = p.train(" --out part --resume --steps 14 --sequences=false");
    CHECK(other.code == 2);
    CHECK(other.err.find("is not what the run in part was trained on") != std::string::npos);
}

TEST_CASE("sweep: runs that are there are used, one that was stopped goes on, and the table is the same",
          "[programs][runs]") {
    const Place p;
    const std::string script = quoted(fs::absolute("scripts/sweep.sh").string());
    const auto sweep         = [&](const std::string& out, const std::string& words) {
        return shell(p, "cd " + quoted(p.path) + " && BUILD=" + quoted(fs::absolute(build_folder()).string()) + " " +
                                    script + " --out " + out + " --rates 1e-3,3e-3 --seeds 1,2 -- " + words);
    };
    const std::string bare =
        "--model nano --train-data train.bin --val-data train.bin --eval-batches 2 --batch 3 --context 16 --threads 1 "
        "--steps 6 --save-every ";
    const std::string words = bare + "2 --keep 0 ";
    const Ran whole         = sweep("whole", words);
    CAPTURE(whole.out, whole.err);
    REQUIRE(whole.code == 0);
    const std::string table = whole.out.substr(whole.out.rfind("\nrate "));
    CHECK(missing_words(table, {"seeds", "mean", "deviation", "1e-3 ", "3e-3 "}) == "");
    double sum = 0;
    for (const char* run : {"whole/rate-1e-3-seed-1", "whole/rate-1e-3-seed-2"})
        sum += records(p / run, "eval").back()["val_loss"].get<double>();
    CHECK(table.find(fmt::format("{:.4f}", sum / 2)) != std::string::npos);

    fs::copy(p / "whole", p / "part", fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    fs::remove_all(p / "part/rate-3e-3-seed-2");
    fs::remove_all(p / "part/rate-3e-3-seed-1/checkpoints/0000006");  // stopped by kill after step 5
    std::string log = read_text(p / "part/rate-3e-3-seed-1/log.jsonl");
    log.resize(log.find(R"({"event":"step","step":6)"));
    write_text(p / "part/rate-3e-3-seed-1/log.jsonl", log);
    const Ran part = sweep("part", words);
    REQUIRE(part.code == 0);
    CHECK(part.out.substr(part.out.rfind("\nrate ")) == table);
    for (const char* run : {"/rate-1e-3-seed-1", "/rate-3e-3-seed-1", "/rate-3e-3-seed-2"})
        CHECK(losses(p / ("part" + std::string(run))) == losses(p / ("whole" + std::string(run))));
    const Ran other = sweep("part", words + "--clip 2");
    CHECK(other.code == 2);
    CHECK(other.err.find("is a sweep of other options") != std::string::npos);
    CHECK(sweep("part", "--val-data=train.bin").err.find("is a sweep of other options") != std::string::npos);

    // Complete runs are not trained again, also when they have no checkpoint.
    REQUIRE(sweep("bare", bare + "0").code == 0);
    const std::string before = read_text(p / "bare/rate-1e-3-seed-1/log.jsonl");
    const Ran again          = sweep("bare", bare + "0");
    CHECK(again.code == 0);
    CHECK(again.out.substr(again.out.rfind("\nrate ")) == table);
    CHECK(read_text(p / "bare/rate-1e-3-seed-1/log.jsonl") == before);

    const Ran blind = sweep("blind", "--model nano --train-data train.bin --steps 6");
    CHECK(blind.code == 2);
    CHECK(blind.err.find("--val-data") != std::string::npos);
}

TEST_CASE("compare and to_tensorboard show what log.jsonl has", "[programs][runs]") {
    const Place p;
    if (shell(p, "command -v python3").code != 0) return void(std::fprintf(stderr, "skipped: there is no python3\n"));
    const std::string words =
        "--model nano --train-data train.bin --val-data train.bin --batch 3 --context 16 --threads 1 --eval-batches 2 "
        "--eval-every 2 --steps 6 --save-every 0 ";
    for (const char* out : {"a", "b"}) REQUIRE(p.train(" " + words + "--out " + out).code == 0);
    const std::string scripts = quoted(fs::absolute("scripts").string());
    const auto in_place = [&](const std::string& line) { return shell(p, "cd " + quoted(p.path) + " && " + line); };
    const Ran both      = in_place(scripts + "/compare a b --points 3");
    CAPTURE(both.out, both.err);
    REQUIRE(both.code == 0);
    const auto steps = records(p / "a", "step"), evals = records(p / "a", "eval");
    for (const auto& r : {steps.front(), steps.back()})
        CHECK(both.out.find(fmt::format("{:.4f}", r["loss"].get<double>())) != std::string::npos);
    CHECK(missing_words(both.out, {"a · 6 steps", "b · 6 steps", "tokens", "hours", "smooth", "norm", "rate",
                                   "tokens/s", "memory"}) == "");
    double before = 1.7e9;  // seconds since 1970: November 2023
    for (const char* event : {"start", "step", "end"})
        for (const auto& r : records(p / "a", event)) {
            CHECK(r["time"].get<double>() >= before);
            before = r["time"];
        }
    const double last = evals.back()["val_loss"];
    CHECK(both.out.find(fmt::format("validation loss {:.4f} at the end", last)) != std::string::npos);
    CHECK(read_text(p / "loss.png").substr(1, 3) == "PNG");
    CHECK(in_place(scripts + "/compare a").code == 2);  // it would replace the picture
    CHECK(missing_words(in_place(scripts + "/compare nosuch --output b.png").err,
                        {"nosuch/log.jsonl", "no such file"}) == "");

    if (shell(p, "python3 -c 'import tensorboard'").code != 0)
        return void(std::fprintf(stderr, "skipped: python3 has no tensorboard, so its reader reads nothing back\n"));
    REQUIRE(in_place("python3 " + scripts + "/to_tensorboard.py a").code == 0);
    write_text(p / "read.py",
               "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
               "events = EventAccumulator('a/tensorboard', size_guidance={'scalars': 0})\n"
               "events.Reload()\n"
               "for name in ('loss/train', 'loss/val'):\n"
               "    print(*[f'{s.step}:{s.value:.4f}:{s.wall_time:.3f}' for s in events.Scalars(name)])\n");
    const auto want = [&](bool has_times) {
        std::string text;
        const auto list = [&](const std::vector<nlohmann::json>& all, const char* loss) {
            for (const auto& r : all)
                text += fmt::format("{}:{:.4f}:{:.3f} ", r["step"].get<int>(), r[loss].get<double>(),
                                    r[has_times ? "time" : "step"].get<double>());
            text.back() = '\n';
        };
        list(steps, "loss");
        list(evals, "val_loss");
        return text;
    };
    CHECK(in_place("python3 read.py").out == want(true));
    // A log of an older version has no times.
    const Ran old = in_place("rm -r a/tensorboard && sed -i 's/,\"time\":[^}]*}/}/' a/log.jsonl && python3 " + scripts +
                             "/to_tensorboard.py a");
    CHECK(missing_words(old.err, {"without a time", "is a step"}) == "");
    CHECK(in_place("python3 read.py").out == want(false));
}
