// test_model_option.cpp - what --model names, and the options that change a model's sizes
#include "data/bpe_training.h"
#include "data/files.h"
#include "test/programs.h"

TEST_CASE("--model takes a run, its checkpoints, a checkpoint and a config.json, and answers other names",
          "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 3000);
    const std::string folder = s / "run", model = folder + "/checkpoints/latest";
    REQUIRE(run(s, "train_gpt",
                "--model nano --dtype fp32 --steps 20 --batch 4 --context 16 --eval-every 0 --train-data " +
                    quoted(s / "train.bin") + " --out " + quoted(folder))
                .code == 0);
    const std::string words = " --dtype fp32 --ids 1,2,3 --temperature 0 --tokens 12 --model ";
    const Ran latest        = run(s, "infer_gpt", words + quoted(model));
    REQUIRE(latest.code == 0);
    for (const std::string& name :
         {folder, folder + "/", folder + "/checkpoints", folder + "/checkpoints/", model + "/config.json"}) {
        const Ran other = run(s, "infer_gpt", words + quoted(name));
        CAPTURE(name, other.err);
        CHECK(other.out == latest.out);
    }
    const Ran tuned = run(s, "train_gpt",
                          "--context 16 --steps 1 --model " + quoted(folder) + " --train-data " +
                              quoted(s / "train.bin") + " --out " + quoted(s / "tuned"));
    CHECK(missing_words(tuned.out, {"fine-tunes the weights of", "checkpoints/0000020"}) == "");

    const auto refused = [&](const std::string& program, const std::string& name, const char* says) {
        const Ran no = run(s, program, "--model " + quoted(name) + " --train-data " + quoted(s / "train.bin"));
        CAPTURE(program, name, no.err);
        CHECK(no.code == 2);
        CHECK(no.err.find(says) != std::string::npos);
    };
    refused("train_gpt", "pythia-160", "did you mean pythia-160m?");
    refused("train_gpt", "gpt2-xll", "did you mean gpt2-xl?");
    refused("train_gpt", "GPT2", "did you mean gpt2?");
    refused("train_gpt", "EleutherAI/pythia-70m", "did you mean pythia-70m?");
    refused("train_gpt", "gpt3", "did you mean gpt3-125m?");
    const auto infer = [&](const std::string& name) { return run(s, "infer_gpt", "--ids 1 --model " + name).err; };
    CHECK(missing_words(infer("EleutherAI/pythia-70m"),
                        {"hf download EleutherAI/pythia-70m --local-dir models/pythia-70m"}) == "");
    CHECK(infer(quoted(s / "nosuch")).find("hf download") == std::string::npos);
    refused("train_gpt", "some/where", "neither a preset nor a model folder; train_gpt --list-models");
    refused("train_gpt", s / "train.bin", "is a file");
    fs::create_directories(s / "empty");
    refused("train_gpt", s / "empty", "there is no config.json in this folder, and no checkpoint");
    write_text(s / "empty/model.Q4_0.gguf", "GGUF");
    for (const char* name : {"empty", "empty/model.Q4_0.gguf"})
        refused("train_gpt", s / name, "model.Q4_0.gguf: this is a model in llama.cpp's format, GGUF");
    fs::remove(s / "empty/model.Q4_0.gguf");
    write_text(s / "empty/run.json", "{}");
    refused("train_gpt", s / "empty", "no complete checkpoint yet");
    fs::create_symlink("loop", s / "loop");
    refused("train_gpt", s / "loop", "loop: Too many levels of symbolic links");
    refused("train_gpt", std::string(300, 'x'), "x: File name too long");
    const Ran preset = run(s, "infer_gpt", "--model gpt2 --ids 1");
    CHECK(preset.code == 2);
    CHECK(missing_words(preset.err, {"a preset has no weights", "train_gpt --model gpt2", "runs/gpt2"}) == "");
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
        fs::remove_all(s / "run");
        refused(s, "train_gpt", train, {"other.bin", "pickle"});
    }
    CHECK(missing_words(run(s, "infer_gpt", "--ids 1 --model " + quoted(s / "mix")).err, {"other.bin", "pickle"}) ==
          "");
}

TEST_CASE("a model with rotary positions that was trained with a longer context says so in its folder", "[programs]") {
    const Scratch s;
    write_shard(s / "train.bin", 3000, -1, 60);
    const auto train = [&](const std::string& model, int context, const std::string& out) {
        return run(s, "train_gpt",
                   fmt::format("--batch 2 --steps 1 --dtype fp32 --context {} --model {} --train-data {} --out {}",
                               context, quoted(model), quoted(s / "train.bin"), quoted(s / out)));
    };
    const auto says = [&](const std::string& out, const char* field) {
        return nlohmann::json::parse(read_text(s / (out + "/checkpoints/latest/config.json")))[field];
    };
    for (const auto& [model, field] : {std::pair{"gptj", "n_positions"}, {"gpt_neox", "max_position_embeddings"}}) {
        CAPTURE(model);
        const std::string home = std::string("test/golden/") + model, out = model;
        const int stated = nlohmann::json::parse(read_text(home + "/config.json"))[field];
        const Ran longer = train(home, stated + 10, out);
        CAPTURE(longer.err);
        REQUIRE(longer.code == 0);
        CHECK(missing_words(longer.out + longer.err, {fmt::format("is more than the {} that", stated).c_str(),
                                                      fmt::format("its checkpoints say {}", stated + 10).c_str()}) ==
              "");
        CHECK(says(out, field) == stated + 10);
        const Ran infer =
            run(s, "infer_gpt",
                "--ids 1,2,3 --tokens 2 --model " + quoted(s / out) + " --context " + std::to_string(stated + 10));
        CHECK(infer.code == 0);
        CHECK(infer.err.find("was trained with") == std::string::npos);
        // A resume may raise it again, and a shorter context leaves it.
        const std::string resume = "--resume --out " + quoted(s / out);
        for (const auto& [context, then] : {std::pair{stated + 12, stated + 12}, {8, stated + 12}}) {
            const int steps = context == 8 ? 3 : 2;
            const Ran more  = run(s, "train_gpt", fmt::format("{} --steps {} --context {}", resume, steps, context));
            CAPTURE(more.err);
            CHECK(more.code == 0);
            CHECK(says(out, field) == then);
        }
        REQUIRE(train(home, 8, out + "-short").code == 0);
        CHECK(says(out + "-short", field) == stated);
    }
}

TEST_CASE("shards whose tokenizer lies elsewhere are told of", "[programs]") {
    const Scratch s;
    write_shard(s / "set_train_000000.bin", 3000);
    write_text(s / "set_summary.json", R"({"tokenizer": "else/where/tokenizer.json"})");
    const std::string words = "--model nano --dry-run --context 16 --train-data " + quoted(s / "set_train_*.bin");
    const Ran none          = run(s, "train_gpt", words);
    CHECK(none.code == 0);
    CHECK(missing_words(none.err, {"set_summary.json", "vocabulary of 257", "--tokenizer else/where/tokenizer.json"}) ==
          "");
    write_text(s / "tokenizer.json", BpeTraining(WordCounts()).learn(257));
    CHECK(run(s, "train_gpt", words).err.find("else/where") == std::string::npos);
}
