// test_programs.cpp - the programs as a user meets them: they resume to the bit, stop on signals, and answer every
// mistake with a clear error and exit code 2, losing and overwriting nothing
#include <algorithm>
#include <csignal>
#include <sstream>
#include <thread>

#include "data/bpe_training.h"
#include "data/files.h"
#include "data/tokenizer.h"
#include "kernels/device.h"
#include "test/data.h"
#include "test/programs.h"

static std::string small_run(const Scratch& s, const std::string& out) {
    return "--model nano --train-data " + quoted(s / "train.bin") + " --val-data " + quoted(s / "train.bin") +
           " --out " + quoted(s / out) + " --batch 3 --context 16 --accumulate 2 --eval-batches 2 ";
}

TEST_CASE("save at step 10 and resume equals an unbroken run, bit for bit", "[programs]") {
    const auto dtype   = GENERATE(as<std::string>{}, "fp32", "bf16", "bf16 --stochastic-rounding");
    const auto model   = GENERATE(as<std::string>{}, "nano", "nano-neox");
    const auto threads = GENERATE(1, 2);
    CAPTURE(dtype, model, threads);
    const Scratch s;
    write_shard(s / "train.bin", 3000);
    const std::string common = fmt::format(
        "--model {} --train-data {} --val-data {} --batch 3 --context 16 --accumulate 2 --eval-batches 2 --steps 20 "
        "--warmup-steps 4 "
        "--eval-every 5 --dtype {} --threads {} --save-every 10 --keep 0",
        model, quoted(s / "train.bin"), quoted(s / "train.bin"), dtype, threads);
    const Ran whole = run(s, "train_gpt", common + " --out " + quoted(s / "whole"));
    CAPTURE(whole.err);
    REQUIRE(whole.code == 0);
    // The same run again, as if it had died right after the checkpoint at step 10: everything later is removed.
    REQUIRE(run(s, "train_gpt", common + " --out " + quoted(s / "broken")).code == 0);
    fs::remove_all(s / "broken/checkpoints/0000020");
    fs::remove(s / "broken/checkpoints/latest");
    fs::create_directory(s / "broken/checkpoints/0000015");  // it has no COMPLETE, so it is no checkpoint
    const Ran resumed = run(s, "train_gpt", "--resume --out " + quoted(s / "broken"));
    CAPTURE(resumed.err, resumed.out);
    REQUIRE(resumed.code == 0);
    CHECK(losses(s / "whole") == losses(s / "broken"));
    CHECK(records(s / "whole", "step").size() == 20);
    const auto evaluated = [&](const std::string& out) {
        std::string all;
        for (const auto& j : records(s / out, "eval")) all += j["step"].dump() + ":" + j["val_loss"].dump() + " ";
        return all;
    };
    CHECK(evaluated("whole") == evaluated("broken"));
    CHECK(records(s / "whole", "end")[0]["fingerprint"] == records(s / "broken", "end")[0]["fingerprint"]);
    for (const char* file : {"model.safetensors", "state.safetensors", "config.json", "state.json"}) {
        CAPTURE(file);
        CHECK(read_text(s / "whole/checkpoints/0000020/" + file) ==
              read_text(s / "broken/checkpoints/0000020/" + file));
    }
    // The loss falls.
    const auto evals = records(s / "whole", "eval");
    REQUIRE(evals.size() == 5);
    CHECK(evals.back()["val_loss"].get<double>() < evals.front()["val_loss"].get<double>() - 0.05);
    CHECK(fs::file_size(s / "whole/loss.png") > 1000);
}

TEST_CASE("an evaluation is of the first --eval-batches of the data, and of each sequence at most once", "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 3000);
    write_shard(s / "five.bin", 5 * 16 + 1);
    write_shard(s / "three.bin", 3 * 16 + 1);  // the first sequences of the five
    const auto loss = [&](const std::string& val, const std::string& batches) {
        fs::remove_all(s / "run");
        const Ran r = run(s, "train_gpt",
                          "--model nano --batch 3 --context 16 --steps 1 --save-every 0 --out " + quoted(s / "run") +
                              " --train-data " + quoted(s / "train.bin") + " --val-data " + quoted(s / val) +
                              " --eval-batches " + batches);
        CAPTURE(r.err);
        REQUIRE(r.code == 0);
        return records(s / "run", "eval").at(0)["val_loss"].dump();
    };
    const std::string once = loss("three.bin", "1");
    CHECK(loss("five.bin", "1") == once);
    CHECK(loss("five.bin", "1000") == once);
    // The number is remembered as it was given.
    CHECK(nlohmann::json::parse(read_text(s / "run/run.json"))["options"]["--eval-batches"] == "1000");
    CHECK(loss("train.bin", "1000") != loss("train.bin", "1"));
}

TEST_CASE("the same command twice gives the same losses, and another seed others", "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 3000);
    for (const char* out : {"a", "b"}) REQUIRE(run(s, "train_gpt", small_run(s, out) + "--steps 6").code == 0);
    CHECK(losses(s / "a") == losses(s / "b"));
    CHECK(!losses(s / "a").empty());
    REQUIRE(run(s, "train_gpt", small_run(s, "c") + "--steps 6 --seed 2").code == 0);
    CHECK(losses(s / "a") != losses(s / "c"));
    // The command in run.json gives the same losses. It says what was decided, such as the memory of the logits.
    const auto json = nlohmann::json::parse(read_text(s / "a/run.json"));
    CHECK(json["options"]["--logits-memory"] == "64");
    std::string words     = json["command"];
    words                 = words.substr(words.find(' '));
    const std::string was = s / "a";
    words.replace(words.find(was), was.size(), s / "d");
    REQUIRE(run(s, "train_gpt", words).code == 0);
    CHECK(losses(s / "a") == losses(s / "d"));
}

TEST_CASE("a run whose run.json has the old spellings of auto resumes to the bit", "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 3000);
    const std::string words = small_run(s, "whole") + "--steps 20 --save-every 10 --keep 0";
    REQUIRE(run(s, "train_gpt", words).code == 0);
    const std::string old = s / "old";
    fs::copy(s / "whole", old, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    fs::remove_all(old + "/checkpoints/0000020");
    auto json     = nlohmann::json::parse(read_text(old + "/run.json"));
    auto& options = json["options"];
    REQUIRE(options["--learning-rate"] == "0.001");  // the value that auto stood for
    for (const char* name : {"--learning-rate", "--threads", "--hellaswag-questions", "--tokens-per-step"})
        options[name] = "0";
    for (const char* name : {"--warmup-steps", "--final-learning-rate", "--weight-decay", "--beta2", "--eval-every"})
        options[name] = "-1";
    for (const char* name : {"--activation", "--tokenizer"}) options[name] = "";
    write_text(old + "/run.json", json.dump());
    const Ran resumed = run(s, "train_gpt", "--resume --out " + quoted(old));
    CAPTURE(resumed.err);
    REQUIRE(resumed.code == 0);
    CHECK(losses(s / "whole") == losses(old));
    CHECK(records(s / "whole", "end").back()["fingerprint"] == records(old, "end").back()["fingerprint"]);
}

TEST_CASE("--help is no wider than 120 columns, and says what auto means wherever it is a default", "[programs]") {
    const Scratch s;
    for (const char* program : {"train_gpt", "infer_gpt", "tokenize"}) {
        const Ran r = run(s, program, "--help");
        CAPTURE(program);
        CHECK(r.code == 0);
        std::istringstream lines(r.out);
        std::string entry;  // the help of one option, over all of its lines
        int entries = 0, automatic = 0;
        for (std::string line; std::getline(lines, line);) {
            CAPTURE(line);
            CHECK(std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80; }) <= 120);
            entry = line.rfind("  --", 0) == 0 ? line : entry + line;
            entries += line.rfind("  --", 0) == 0;
            if (line.size() < 6 || line.compare(line.size() - 6, 6, "[auto]") != 0) continue;
            automatic++;
            const size_t first = entry.find("auto", entry.find("auto|") + 1);  // the one in auto|… is a value
            CHECK(first < entry.rfind("[auto]"));
        }
        CHECK(entries > 10);
        CHECK(automatic > (std::string(program) == "tokenize" ? 0 : 5));
    }
}

TEST_CASE("SIGTERM finishes the step, saves and exits; the run then continues to the bit", "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 3000);
    REQUIRE(run(s, "train_gpt", small_run(s, "whole") + "--steps 400 --eval-every 0 --save-every 0").code == 0);
    const std::string line = build_folder() + "/train_gpt " + small_run(s, "cut") +
                             "--steps 400 --eval-every 0 --save-every 0 >" + quoted(s / "log") + " 2>&1 & echo $! >" +
                             quoted(s / "pid");
    REQUIRE(std::system(line.c_str()) == 0);
    const pid_t pid = std::stoi(read_text(s / "pid"));
    for (int i = 0; i < 1000 && records(s / "cut", "step").size() < 3; i++)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    kill(pid, SIGTERM);
    for (int i = 0; i < 3000 && kill(pid, 0) == 0; i++) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    CAPTURE(read_text(s / "log"));
    REQUIRE(kill(pid, 0) != 0);
    CHECK(read_text(s / "log").find("--resume") != std::string::npos);
    const auto saves = records(s / "cut", "save");
    REQUIRE(saves.size() == 1);
    REQUIRE(saves[0]["step"].get<int>() < 400);
    REQUIRE(run(s, "train_gpt", "--resume --out " + quoted(s / "cut")).code == 0);
    CHECK(losses(s / "whole") == losses(s / "cut"));
    CHECK(records(s / "whole", "end").back()["fingerprint"] == records(s / "cut", "end").back()["fingerprint"]);
}

TEST_CASE("a checkpoint is a model: infer_gpt, scoring, fine-tuning from it", "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 3000);
    REQUIRE(run(s, "train_gpt", small_run(s, "run") + "--steps 30 --dtype fp32").code == 0);
    const std::string model = "--dtype fp32 --model " + quoted(s / "run/checkpoints/latest");
    const Ran logits        = run(s, "infer_gpt", model + " --ids 1,2,3 --logits");
    REQUIRE(logits.code == 0);
    const auto j = nlohmann::json::parse(logits.out);
    CHECK(j["ids"] == nlohmann::json({1, 2, 3}));
    CHECK(j["logits"].size() == 3);
    CHECK(j["logits"][0].size() == 257);
    const Ran a = run(s, "infer_gpt", model + " --ids 1,2,3 --tokens 20 --seed 5"),
              b = run(s, "infer_gpt", model + " --ids 1,2,3 --tokens 20 --seed 5"),
              c = run(s, "infer_gpt", model + " --ids 1,2,3 --tokens 20 --seed 6"),
              d = run(s, "infer_gpt", model + " --ids 1,2,3 --tokens 20 --threads 1 --seed 5");
    CHECK(a.code == 0);
    CHECK(a.out == b.out);
    CHECK(a.out != c.out);
    CHECK(a.out == d.out);
    // --score predicts every token of the shard but the first.
    const Ran score = run(s, "infer_gpt", model + " --context 16 --json --score " + quoted(s / "train.bin"));
    CAPTURE(score.err);
    REQUIRE(score.code == 0);
    const auto result = nlohmann::json::parse(score.out);
    CHECK(result["tokens"] == 2999);
    CHECK(result["log_likelihoods"].size() == 2999);
    double sum = 0;
    for (double x : result["log_likelihoods"]) sum += x;
    CHECK(sum == Approx(result["log_likelihood"].get<double>()).epsilon(1e-6));
    CHECK(std::exp(-sum / 2999) == Approx(result["perplexity"].get<double>()).epsilon(1e-6));

    const Ran tuned =
        run(s, "train_gpt",
            "--model " + quoted(s / "run/checkpoints/latest") + " --train-data " + quoted(s / "train.bin") +
                " --batch 3 --context 16 --steps 2 --dtype fp32 --out " + quoted(s / "tuned"));
    CHECK(tuned.code == 0);
    CHECK(tuned.out.find("fine-tunes the weights of " + (s / "run/checkpoints/latest")) != std::string::npos);
    CHECK(records(s / "tuned", "step")[0]["loss"].get<double>() <
          records(s / "run", "step")[0]["loss"].get<double>() - 0.1);
    // Trained weights start at a low rate unless another is given. A config.json without weights is pretrained.
    CHECK(missing_words(tuned.out, {"--learning-rate 3e-05", "rate     3e-05, then cosine to 3e-06"}) == "");
    const std::string folder = "--dry-run --context 16 --steps 200 --model ";
    CHECK(
        missing_words(run(s, "train_gpt", folder + quoted(s / "run/checkpoints/latest") + " --learning-rate 1e-3").out,
                      {"rate     0.001 after 4 steps of warm-up, then cosine to 0.0001"}) == "");
    fs::create_directory(s / "bare");
    fs::copy_file(s / "run/checkpoints/latest/config.json", s / "bare/config.json");
    CHECK(missing_words(run(s, "train_gpt", folder + quoted(s / "bare")).out,
                        {"rate     0.0006 after 4 steps of warm-up, then cosine to 6e-05"}) == "");
}

TEST_CASE("a folder with vocab.json and merges.txt is prompted, trained and saved with a tokenizer.json",
          "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 3000);
    REQUIRE(run(s, "train_gpt", small_run(s, "run") + "--steps 1 --dtype fp32").code == 0);
    const fs::path model = fs::canonical(s / "run/checkpoints/latest");
    write_text(s / "tokenizer.json", BpeTraining(WordCounts()).learn(257));
    const auto form          = nlohmann::json::parse(read_text(s / "tokenizer.json"));
    const std::string prompt = " --dtype fp32 --prompt 'Sea, \xc3\xa9' --tokens 12 --temperature 0";
    refused(s, "infer_gpt", "--model " + quoted(model.string()) + prompt,
            {"tokenizer.json", "vocab.json", "merges.txt"});
    write_text((model / "vocab.json").string(), form["model"]["vocab"].dump());
    write_text((model / "merges.txt").string(), "#version: 0.2\n");

    const Ran pair = run(s, "infer_gpt", "--model " + quoted(model.string()) + prompt),
              file = run(s, "infer_gpt",
                         "--model " + quoted(model.string()) + " --tokenizer " + quoted(s / "tokenizer.json") + prompt);
    CAPTURE(pair.err, file.err);
    CHECK(pair.code == 0);
    CHECK(pair.out.size() > 12);
    CHECK(pair.out == file.out);
    const Ran tuned = run(s, "train_gpt",
                          "--model " + quoted(model.string()) + " --train-data " + quoted(s / "train.bin") +
                              " --batch 3 --context 16 --steps 1 --out " + quoted(s / "tuned"));
    CAPTURE(tuned.err);
    REQUIRE(tuned.code == 0);
    CHECK(Tokenizer::load(s / "tuned/checkpoints/latest/tokenizer.json").fingerprint() ==
          Tokenizer::load(s / "tokenizer.json").fingerprint());
}

// A copy of a folder of test/golden, which a test may change. The models have 61 to 83 ids.
static std::string family_folder(const Scratch& s, const std::string& name) {
    const std::string folder = s / name;
    fs::create_directories(folder);
    for (const char* file : {"config.json", "model.safetensors"})
        fs::copy_file("test/golden/" + name + "/" + file, folder + "/" + file);
    return folder;
}
static const std::vector<std::string> families = {"gpt2_odd", "gpt_neo", "gptj", "gpt_neox", "gpt_neox_sequential"};

TEST_CASE("a folder of each family trains, resumes to the bit, scores and prints logits", "[programs]") {
    const auto name = GENERATE(from_range(families));
    CAPTURE(name);
    const Scratch s;
    const std::string folder = family_folder(s, name);
    write_shard(s / "train.bin", 1000, -1, 60);
    const std::string common = "--model " + quoted(folder) + " --train-data " + quoted(s / "train.bin") +
                               " --batch 2 --context 16 --steps 6 --save-every 3 --keep 0 --out ";
    const Ran whole = run(s, "train_gpt", common + quoted(s / "whole"));
    CAPTURE(whole.out, whole.err);
    REQUIRE(whole.code == 0);
    CHECK(missing_words(whole.out, {"fine-tunes the weights of", folder.c_str(), "model.safetensors: F32"}) == "");
    // With --save-dtype fp16 the run is the same to the bit, because checkpoints hold the fp32 masters as well.
    REQUIRE(run(s, "train_gpt", common + quoted(s / "half") + " --save-dtype fp16").code == 0);
    CHECK(losses(s / "whole") == losses(s / "half"));
    const auto weights = [&](const char* out) { return s / out + "/checkpoints/0000006/model.safetensors"; };
    CHECK(read_text(weights("whole")).find("\"F32\"") != std::string::npos);
    CHECK(read_text(weights("half")).find("\"F16\"") != std::string::npos);
    const std::string before = read_text(weights("half"));
    fs::remove_all(s / "half/checkpoints/0000006");
    REQUIRE(run(s, "train_gpt", "--resume --out " + quoted(s / "half")).code == 0);
    CHECK(losses(s / "whole") == losses(s / "half"));
    CHECK(read_text(weights("half")) == before);

    // --logits runs through the key/value cache, --score does not: both see the same probabilities.
    write_shard(s / "text.bin", 17, -1, 60);
    const std::string model = "--dtype fp32 --model " + quoted(s / "whole/checkpoints/latest");
    const Ran score         = run(s, "infer_gpt", model + " --json --context 16 --score " + quoted(s / "text.bin"));
    REQUIRE(score.code == 0);
    const auto scored = nlohmann::json::parse(score.out);
    std::string ids;
    for (const auto& id : scored["ids"]) ids += (ids.empty() ? "" : ",") + id.dump();
    const Ran logits = run(s, "infer_gpt", model + " --logits --ids " + ids);
    REQUIRE(logits.code == 0);
    const auto rows = nlohmann::json::parse(logits.out)["logits"];
    REQUIRE(rows.size() == 17);
    for (size_t t = 0; t + 1 < rows.size(); t++) {
        double total = 0;
        for (const double x : rows[t]) total += std::exp(x);
        const double wanted = rows[t][scored["ids"][t + 1].get<size_t>()].get<double>() - std::log(total);
        CHECK(scored["log_likelihoods"][t].get<double>() == Approx(wanted).epsilon(1e-5));
    }
}

TEST_CASE("model folders with something wrong or missing", "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 1000, -1, 60);
    const std::string j = family_folder(s, "gptj"), neo = family_folder(s, "gpt_neo");
    const auto train = [&](const std::string& folder) {
        return "--model " + quoted(folder) + " --train-data " + quoted(s / "train.bin") +
               " --batch 2 --steps 1 --save-every 0 --out " + quoted(s / "new") + " ";
    };
    const auto infer = [](const std::string& folder) { return "--model " + quoted(folder) + " --ids 1,2 --tokens 2 "; };
    // A table of positions ends, so a longer context is refused. Rotary positions go on, so it is a warning.
    refused(s, "train_gpt", train(neo) + "--context 22", {"--context 22", "21"});
    refused(s, "infer_gpt", "--model " + quoted(neo) + " --context 22 --score " + quoted(s / "train.bin"),
            {"--context 22", "21"});
    const Ran longer = run(s, "train_gpt", train(j) + "--context 40");
    CHECK(longer.code == 0);
    CHECK(records(s / "new", "warning").size() == 1);
    CHECK(missing_words(longer.out + longer.err, {"--context 40", "20"}) == "");
    fs::remove_all(s / "new");
    const Ran scored = run(s, "infer_gpt", "--model " + quoted(j) + " --context 40 --score " + quoted(s / "train.bin"));
    CHECK(scored.code == 0);
    CHECK(missing_words(scored.err, {"warning", "40", "20"}) == "");
    // --activation replaces the form of GELU.
    const std::string logits = "--logits --ids 1,2 --model " + quoted(j);
    const Ran tanh = run(s, "infer_gpt", logits), erf = run(s, "infer_gpt", logits + " --activation gelu");
    CHECK(erf.code == 0);
    CHECK(tanh.out != erf.out);
    refused(s, "infer_gpt", infer(j) + "--activation relu", {"--activation", "relu", "gelu_new"});
    refused(s, "train_gpt", train(j) + "--activation relu", {"--activation", "relu", "gelu_new"});
    // A tokenizer with more ids than the model has is a warning, and an error once a text needs such an id.
    write_text(s / "book.txt", "the sea was calm and the wind was calm and the sea was deep");
    REQUIRE(run(s, "tokenize",
                "--train-bpe 260 --input " + quoted(s / "book.txt") + " --output " + quoted(s / "large.json"))
                .code == 0);
    const std::string large = "--tokenizer " + quoted(s / "large.json");
    for (const auto& [program, words] : {std::pair{"train_gpt", train(j)}, std::pair{"infer_gpt", infer(j)}}) {
        const Ran warned = run(s, program, words + large);
        CAPTURE(program, warned.err);
        CHECK(warned.code == 0);
        CHECK(missing_words(warned.err, {"warning", "large.json", "259", "67"}) == "");
    }
    fs::remove_all(s / "new");
    refused(s, "infer_gpt", "--model " + quoted(j) + " --prompt 'the sea' " + large, {"vocabulary of 67"});
    CHECK(!exists(s / "new"));
    // With several forms of weights it says which it took, and with an unreadable one how to convert it. Without
    // weights, training starts from random ones.
    write_text(j + "/pytorch_model.bin", "pickle");
    const Ran both = run(s, "train_gpt", train(j));
    CHECK(both.code == 0);
    CHECK(missing_words(both.out, {"model.safetensors, not pytorch_model.bin"}) == "");
    CHECK(missing_words(run(s, "infer_gpt", infer(j)).err, {"model.safetensors, not pytorch_model.bin"}) == "");
    fs::remove_all(s / "new");
    fs::remove(j + "/model.safetensors");
    for (const char* program : {"train_gpt", "infer_gpt"})
        refused(s, program, std::string(program) == "train_gpt" ? train(j) : infer(j),
                {"pytorch_model.bin", "pickle", "save_pretrained"});
    CHECK(!exists(s / "new"));
    fs::remove(j + "/pytorch_model.bin");
    const Ran fresh = run(s, "train_gpt", train(j));
    CHECK(fresh.code == 0);
    CHECK(missing_words(fresh.out, {"random weights", "there are none in"}) == "");
    refused(s, "infer_gpt", infer(j), {"model.safetensors"});
    // A tensor of the wrong shape is named with its file, its shape and the one it should have.
    fs::copy_file("test/golden/gpt_neo/model.safetensors", j + "/model.safetensors");
    refused(s, "infer_gpt", infer(j), {"model.safetensors", "transformer.wte.weight", "(61, 32)", "(67, 40)"});
}

TEST_CASE("--model NAME alone gives the published recipe, and every part of it can be overridden", "[programs]") {
    const Scratch s;
    const Ran plain = run(s, "train_gpt", "--model pythia-160m --dry-run --steps 143000 --context 2048");
    CHECK(plain.code == 0);
    CHECK(missing_words(plain.out, {"2,097,152 tokens a step", "--learning-rate 0.0006", "--warmup-steps 1430",
                                    "--weight-decay 0.1", "--beta2 0.95", "--final-learning-rate 6e-05",
                                    "--accumulate 256"}) == "");
    const Ran j = run(s, "train_gpt", "--model gpt-j-6b --dry-run --steps 383500");
    CHECK(missing_words(j.out, {"6,050,882,784", "1,048,576 tokens a step", "--beta2 0.999", "--warmup-steps 3000"}) ==
          "");
    const Ran own = run(s, "train_gpt",
                        "--model pythia-160m --dry-run --steps 1000 --batch 2 --learning-rate 1e-3 --warmup-steps 7 "
                        "--weight-decay 0 --beta2 0.9 --final-learning-rate 1e-5");
    CHECK(missing_words(own.out, {"2 × 2048 × 1 micro", "--learning-rate 0.001", "--warmup-steps 7", "--weight-decay 0",
                                  "--beta2 0.9", "--final-learning-rate 1e-05"}) == "");
    const Ran list = run(s, "train_gpt", "--list-models");
    CHECK(list.code == 0);
    CHECK(missing_words(list.out, {"gpt-neo-2.7b", "2,651,307,520", "gpt-j-6b", "gptj", "3,145,728", "small/wang"}) ==
          "");
}

static int devices_found(const char* kind) {
    try {
        return Device(kind).where() == Machine::cuda;
    } catch (const Error&) { return 0; }
}

TEST_CASE("every mistake gets an answer and exit code 2", "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 3000);
    write_shard(s / "bad.bin", 3000, 1234);
    write_shard(s / "short.bin", 10);
    write_text(s / "empty.bin", "");
    write_text(s / "truncated.bin", read_text(s / "train.bin").substr(0, 2000));
    write_text(s / "text.bin", std::string(4000, 'x'));
    const std::string bare = " --train-data " + quoted(s / "train.bin") + " --steps 1 --out " + quoted(s / "new");
    const std::string data = bare + " --context 16 --batch 2", nano = "--model nano";
    refused(s, "train_gpt", "--bacth 4", {"--bacth", "did you mean --batch?"});
    refused(s, "train_gpt", "--batch four", {"--batch", "four", "whole number"});
    refused(s, "train_gpt", "--batch", {"--batch needs a value"});
    refused(s, "train_gpt", "--batch -1" + bare, {"--batch -1"});
    refused(s, "train_gpt", "gpt2", {"gpt2"});
    refused(s, "train_gpt", nano + data + " --dtype fp16", {"--dtype", "fp16", "bf16"});
    refused(s, "train_gpt", nano + data + " --optimizer sgd", {"sgd", "expected one of", "adamw"});
    refused(s, "train_gpt", nano + data + " --recompute half", {"--recompute", "half", "block"});
    refused(s, "train_gpt", nano + data + " --device cpu --graph", {"--graph", "--device cuda"});
    refused(s, "train_gpt", nano + data + " --sync --graph", {"--graph", "--sync"});
    refused(s, "train_gpt", nano + data + " --dtype fp32 --stochastic-rounding", {"--stochastic-rounding", "bf16"});
    // Without a GPU, a driver or the CUDA half, it says which is missing, and what works instead.
    if (devices_found("cuda") == 0) {
        const Ran r = run(s, "train_gpt", nano + data + " --device cuda");
        CAPTURE(r.err);
        CHECK(r.code != 0);
        CHECK(missing_words(r.err, {"--device cuda", "--device cpu"}) == "");
    }
    refused(s, "train_gpt", nano + data + " --accumulate 2 --tokens-per-step 64",
            {"--accumulate", "--tokens-per-step"});
    refused(s, "train_gpt", nano + data + " --tokens-per-step 33", {"33", "multiple", "32"});
    refused(s, "train_gpt", nano + data + " --resume", {"--resume", "no run in"});
    refused(s, "train_gpt", nano + data + " --warmup-steps 9", {"--warmup-steps 9"});
    refused(s, "train_gpt", nano + data + " --tokenizer " + quoted(s / "none.json"), {"none.json"});
    refused(s, "train_gpt", "--model nanoo" + data, {"nanoo", "--list-models"});
    refused(s, "train_gpt", nano, {"--train-data is missing"});
    const auto with = [&](const char* file) {
        return nano + " --steps 1 --context 16 --batch 2 --out " + quoted(s / "new") + " --train-data " +
               quoted(s / file);
    };
    refused(s, "train_gpt", with("none_*.bin"), {"no file matches", "none_*.bin"});
    refused(s, "train_gpt", with("empty.bin"), {"empty.bin", "is empty"});
    refused(s, "train_gpt", with("truncated.bin"), {"truncated.bin", "3000", "2000"});
    refused(s, "train_gpt", with("text.bin"), {"text.bin", "plain text", "tokenize"});
    refused(s, "train_gpt", with("short.bin"), {"short.bin", "17", "--context"});
    refused(s, "train_gpt", with("."), {"folder"});
    CHECK(!exists(s / "new"));
    // What the run will write is tried before the model is made.
    fs::create_directories(s / "odd/loss.png");
    const auto into = [&](const char* folder) {
        return nano + " --steps 1 --context 16 --batch 2 --train-data " + quoted(s / "train.bin") + " --out " +
               quoted(s / folder);
    };
    refused(s, "train_gpt", into("odd"), {"--out", "odd/loss.png: this is a folder"});
    refused(s, "train_gpt", into("text.bin"), {"--out", "text.bin: cannot make the folder"});
    refused(s, "train_gpt", into("text.bin/x"), {"--out", "text.bin/x: cannot make the folder"});
    refused(s, "train_gpt",
            nano + " --steps 100 --context 16 --batch 2 --save-every 0 --out " + quoted(s / "bad") + " --train-data " +
                quoted(s / "bad.bin"),
            {"bad.bin", "token 300", "position 1234", "257"});

    // A folder that holds a run stays as it is.
    REQUIRE(run(s, "train_gpt", nano + data).code == 0);
    const std::string before = read_text(s / "new/run.json") + read_text(s / "new/log.jsonl");
    refused(s, "train_gpt", nano + data, {"already holds a run", "--resume"});
    refused(s, "train_gpt", nano + data + " --resume --seed 7", {"seed"});
    refused(s, "train_gpt", "--resume --steps 2 --optimizer muon --out " + quoted(s / "new"),
            {"momentum.h.0.qkv.weight", "--optimizer that it was started with"});
    const std::string dtype = nlohmann::json::parse(read_text(s / "new/checkpoints/latest/state.json"))["dtype"],
                      other = dtype == "fp32" ? "bf16" : "fp32";
    refused(s, "train_gpt", "--resume --steps 2 --dtype " + other + " --out " + quoted(s / "new"),
            {"state.json", ("saved with --dtype " + dtype + ", this run has --dtype " + other).c_str()});
    refused(s, "train_gpt", "--resume --model nano-neox --out " + quoted(s / "new"),
            {"nano-neox", "model_type", "gpt2"});
    write_shard(s / "other.bin", 2000);
    refused(s, "train_gpt", "--resume --out " + quoted(s / "new") + " --train-data " + quoted(s / "other.bin"),
            {"other.bin"});
    CHECK(before == read_text(s / "new/run.json") + read_text(s / "new/log.jsonl"));

    const std::string model = "--model " + quoted(s / "new/checkpoints/latest");
    refused(s, "infer_gpt", "", {"--model is missing"});
    refused(s, "infer_gpt", "--model " + quoted(s / "nowhere"), {"nowhere"});
    refused(s, "infer_gpt", model + " --prompt hello", {"tokenizer.json"});
    refused(s, "infer_gpt", model + " --ids 1,257", {"257", "256"});
    refused(s, "infer_gpt", model + " --ids 1,,2", {"--ids"});
    refused(s, "infer_gpt", model + " --ids 1 --temperature -1", {"--temperature"});
    refused(s, "infer_gpt", model + " --ids 1 --top-p 0", {"--top-p"});
    refused(s, "infer_gpt", model + " --samples 0 --ids 1", {"--samples"});
    for (const char* option : {"--context 0", "--threads 0", "--stride 0"})
        refused(s, "infer_gpt", model + " --score " + quoted(s / "train.bin") + " " + option,
                {option, "expected auto, or 1 or more"});
    refused(s, "infer_gpt", model + " --score " + quoted(s / "none.bin"), {"none.bin"});
    refused(s, "infer_gpt", model + " --temprature 1", {"did you mean --temperature?"});
    fs::resize_file(s / "new/checkpoints/latest/model.safetensors", 5000);
    refused(s, "infer_gpt", model + " --ids 1", {"model.safetensors", "truncated"});
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
    CHECK(missing_words(says("train_gpt", "-b 4"), {"did you mean --batch?"}) == "");
    CHECK(missing_words(says("train_gpt", "--input a.txt"), {"did you mean --train-data?"}) == "");
    CHECK(missing_words(says("infer_gpt", "-m x -p y"), {"-m", "did you mean --model?"}) == "");
    CHECK(missing_words(says("infer_gpt", "--min-p 0.1"), {"there is none", "--top-p"}) == "");
    for (const char* program : {"train_gpt", "infer_gpt", "tokenize"})
        CHECK(run(s, program, "-h").out == run(s, program, "--help").out);
}

TEST_CASE("a standard stream may be full or closed", "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 3000);
    for (const char* program : {"train_gpt", "infer_gpt", "tokenize"})
        for (const char* where : {" 2>/dev/full", " 2>&-"}) {
            CAPTURE(program, where);
            CHECK(run(s, program, std::string("--nonsense") + where).code == 2);
        }
    // No file that is opened later gets the number of the closed stream, and with it what is printed there.
    REQUIRE(run(s, "train_gpt", small_run(s, "open") + "--steps 2").code == 0);
    REQUIRE(run(s, "train_gpt", small_run(s, "closed") + "--steps 2 <&- >&- 2>&-").code == 0);
    CHECK(losses(s / "closed") == losses(s / "open"));
    for (const char* file : {"model.safetensors", "state.safetensors"})
        CHECK(read_text(s / "closed/checkpoints/0000002/" + file) == read_text(s / "open/checkpoints/0000002/" + file));
    // What was asked for and cannot be printed is an error.
    const std::string shown[] = {"--list-models", small_run(s, "new") + "--dry-run",
                                 "--out " + quoted(s / "open") + " --resume"};
    for (const std::string& words : shown) {
        CAPTURE(words);
        const Ran r = run(s, "train_gpt", words + " >/dev/full");
        CHECK(r.code == 1);
        CHECK(missing_words(r.err, {"cannot write to standard output"}) == "");
    }
    CHECK(run(s, "train_gpt", small_run(s, "unseen") + "--steps 2 >/dev/full").code == 0);  // it outlives its terminal
    for (const std::string words : {"--ids 1,2,3 --tokens 3", "--ids 1,2,3 --logits", "--help", "--version"}) {
        CAPTURE(words);
        const Ran r = run(s, "infer_gpt", "--model " + quoted(s / "open") + " " + words + " >/dev/full");
        CHECK(r.code == 1);
        CHECK(missing_words(r.err, {"cannot write to"}) == "");
    }
}

TEST_CASE("on a full disk nothing is lost, and the error names the previous checkpoint", "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 3000);
    // A limit on the size of any file stands in for the disk; state.safetensors of `nano` takes more than 256 KiB.
    // It runs on the CPU, because the driver of a GPU may write files of its own.
    const std::string limited = "bash -c 'ulimit -f 256; exec \"$0\" \"$@\"' ";
    const std::string first   = small_run(s, "full") + "--device cpu --steps 5 --eval-every 0 --save-every 5 ",
                      rest    = "--resume --device cpu --steps 10 --out " + quoted(s / "full");
    REQUIRE(run(s, "train_gpt", first + "--schedule constant").code == 0);
    const std::string line =
        limited + build_folder() + "/train_gpt " + rest + " >" + quoted(s / "stdout") + " 2>" + quoted(s / "stderr");
    const int status = std::system(line.c_str());
    CAPTURE(read_text(s / "stderr"));
    CHECK(WEXITSTATUS(status) == 1);
    CHECK(missing_words(read_text(s / "stderr"), {"step 10", "could not be saved", "0000005", "--resume"}) == "");
    CHECK(exists(s / "full/checkpoints/0000005/COMPLETE"));
    CHECK(!exists(s / "full/checkpoints/0000010"));
    CHECK(run(s, "infer_gpt", "--ids 1 --tokens 2 --model " + quoted(s / "full/checkpoints/latest")).code == 0);
    CHECK(run(s, "train_gpt", rest).code == 0);
}

TEST_CASE("losses that are not finite end the run after --max-skips of them", "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 3000);
    const Ran r = run(s, "train_gpt",
                      small_run(s, "wild") +
                          "--steps 60 --learning-rate 1e30 --final-learning-rate 1e30 --warmup-steps 0 --clip 0 "
                          "--weight-decay 0 --max-skips 4 --eval-every 0 --save-every 1");
    CAPTURE(r.out, r.err);
    CHECK(r.code == 1);
    CHECK(missing_words(r.err, {"5 steps in a row", "checkpoint", "--learning-rate"}) == "");
    CHECK(records(s / "wild", "skip").size() == 5);
}

TEST_CASE("tokenize: text to shards that train, decode back to the text, and every mistake", "[programs]") {
    const Scratch s;
    std::string text;
    for (int i = 0; i < 400; i++)
        text += fmt::format("Chapter {}. The sea was calm, the wind was {} knots.\n", i, i * 7 % 31);
    write_text(s / "book.txt", text);
    const std::string tokenizer = quoted(s / "tokenizer.json");
    REQUIRE(run(s, "tokenize", "--train-bpe 300 --input " + quoted(s / "book.txt") + " --output " + tokenizer).code ==
            0);
    const std::string use = "--tokenizer " + tokenizer + " ";
    REQUIRE(
        run(s, "tokenize", use + "--input " + quoted(s / "book.txt") + " --eot none --output " + quoted(s / "plain"))
            .code == 0);
    const Ran back = run(s, "tokenize", use + "--decode --input " + quoted(s / "plain_train_000000.bin"));
    CHECK(back.code == 0);
    CHECK(back.out == text);
    REQUIRE(run(s, "tokenize", use + "--val-fraction 0.1 --input - --output " + quoted(s / "piped"), text).code == 0);
    const Ran trained = run(s, "train_gpt",
                            "--model nano --vocab 257 --context 16 --batch 2 --steps 2 --out " + quoted(s / "run") +
                                " --train-data " + quoted(s / "piped_train_*.bin"));
    CHECK(trained.code == 2);  // the ids are of 300 entries, but the model has 257
    CHECK(missing_words(trained.err, {"tokenizer.json", "299", "257"}) == "");

    const std::string before = read_text(s / "plain_train_000000.bin");
    write_text(s / "empty.txt", "");
    write_text(s / "bad.jsonl", "{\"text\": \"one\"}\n{\"text\": \n");
    write_text(s / "field.jsonl", "{\"body\": \"one\"}\n");
    refused(s, "tokenize", use + "--input " + quoted(s / "book.txt") + " --eot none --output " + quoted(s / "plain"),
            {"plain_train_000000.bin", "--overwrite"});
    CHECK(read_text(s / "plain_train_000000.bin") == before);
    refused(s, "tokenize", use + "--input " + quoted(s / "none.txt") + " --output " + quoted(s / "x"), {"none.txt"});
    refused(s, "tokenize", use + "--input " + quoted(s / "empty.txt") + " --output " + quoted(s / "x"), {"empty.txt"});
    refused(s, "tokenize", use + "--input " + quoted(s / "bad.jsonl") + " --output " + quoted(s / "x"),
            {"bad.jsonl", "2"});
    refused(s, "tokenize", use + "--input " + quoted(s / "field.jsonl") + " --output " + quoted(s / "x"),
            {"field.jsonl", "text"});
    refused(s, "tokenize", use + "--input " + quoted(s / "book.txt"), {"--output"});
    refused(s, "tokenize", "--input " + quoted(s / "book.txt") + " --output " + quoted(s / "x"), {"--tokenizer"});
    refused(s, "tokenize", use + "--val-fraction 2 --input " + quoted(s / "book.txt") + " --output " + quoted(s / "x"),
            {"--val-fraction"});
    refused(s, "tokenize", "--tokenizer gpt2 --output x --input " + quoted(s / "book.txt"),
            {"--tokenizer gpt2", "no such file", "data/fetch.sh gpt2-tokenizer"});
    refused(s, "tokenize", use + "--inptu " + quoted(s / "book.txt"), {"--inptu", "did you mean --input?"});
    refused(s, "tokenize", "--train-bpe 100 --input " + quoted(s / "book.txt") + " --output " + quoted(s / "y.json"),
            {"100", "257"});
    for (const auto& e : fs::directory_iterator(s.path))
        CHECK(e.path().filename().string().rfind("x", 0) != 0);  // no refused call leaves files
}
