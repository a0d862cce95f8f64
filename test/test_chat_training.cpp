// test_chat_training.cpp - training on conversations: the loss over what counts, resumed runs, tokens of a template
#include "data/bpe_training.h"
#include "data/chat_template.h"
#include "data/documents.h"
#include "data/loader.h"
#include "data/shard_writer.h"
#include "gpt/evaluation.h"
#include "gpt/safetensors.h"
#include "test/golden.h"
//
#include "test/chat.h"

TEST_CASE("a packed conversation has the loss that it has alone, and the mean is that of all tokens", "[chat][model]") {
    const Scratch dir;
    const Config c = tiny_config(16, 100);
    std::vector<Ids> documents;
    for (int d = 0; d < 12; d++) {  // very unequal: answers of 1 to 12 tokens
        documents.emplace_back();
        const int asked = 1 + d % 3, answered = d % 4 == 3 ? 12 : 1 + d % 2;
        for (int i = 0; i < asked + answered; i++)
            documents.back().push_back((1 + (d * 17 + i * 5) % 99) * (i < asked ? 1 : -1));
    }
    const Device* dev = GENERATE(from_range(devices()));
    Model alone(c, DType::F32, {1, 16}, *dev), packed(c, DType::F32, {2, 16}, *dev);
    for (Model* m : {&alone, &packed}) initialise_params(m->params, m->config, 3, m->stream);
    double sum = 0, count = 0;
    for (const Ids& document : documents) {
        Ids ids;
        for (const int32_t id : document) ids.push_back(std::abs(id));
        const std::vector<float> all = log_likelihoods(alone, ids);
        for (size_t i = 1; i < document.size(); i++)
            if (document[i] < 0) sum -= all[i - 1], count++;
    }
    LoaderSettings set;
    set.pattern = masked_shard(dir, documents);
    set.batch = 2, set.context = 16, set.vocab = 100, set.document_token = 0, set.shuffle = false;
    Loader loader(set);
    REQUIRE(loader.sequences() % 2 == 0);
    CHECK(loader.packing().counted == int64_t(count));
    CHECK(mean_loss(packed, loader, loader.sequences() / 2) == Approx(sum / count).epsilon(1e-6));
}

// Shards of conversations whose answers have 1 to 40 words, and the words of a command that trains on them.
static std::string unequal_chats(const Scratch& s) {
    write_text(s / "tokenizer.json", small_tokenizer());
    std::string lines;
    for (int i = 0; i < 60; i++) {
        std::string answer;
        for (int w = 0; w < (i % 7 == 3 ? 40 : 1 + i % 3); w++)
            answer += fmt::format("{}{}", w ? " the wind " : "the ship ", i * w % 10);
        lines += chat_line(fmt::format("was the sea {}", i), answer);
    }
    write_text(s / "c.jsonl", lines);
    const Ran r = tokenize(s, "--input " + quoted(s / "c.jsonl") +
                                  " --chat-template plain --val-fraction 0.2 --output " + quoted(s / "c"));
    REQUIRE(r.code == 0);
    return " --model nano --dtype fp32 --context 48 --learning-rate 0.01 --warmup-steps 0 --tokenizer " +
           quoted(s / "tokenizer.json") + " --train-data " + quoted(s / "c_train*.bin") + " --val-data " +
           quoted(s / "c_val*.bin") + " ";
}

TEST_CASE("a shard that names its separator keeps documents apart without any tokenizer", "[chat][programs]") {
    const Scratch s;
    const Ids ids{5, 7, 8, 9};
    const std::vector<uint8_t> counts{ShardWriter::begins, ShardWriter::yes, ShardWriter::yes, ShardWriter::yes};
    const auto header = [&](int32_t separator) {
        ShardWriter writer(s / "m", 257, 1000, true, separator);
        for (int i = 0; i < 20; i++) writer.add(ids.data(), counts.data(), ids.size());
        writer.commit();
        const Ran r = run(s, "train_gpt",
                          "--model nano --device cpu --context 16 --batch 2 --steps 1 --dry-run " +
                              ("--train-data " + quoted(s / "m_000000.bin")));
        CAPTURE(r.out, r.err);
        CHECK(r.code == 0);
        return r.out;
    };
    CHECK_THAT(header(5), Catch::Contains("--document-mask"));
    CHECK_THAT(header(-1), !Catch::Contains("--document-mask"));
}

TEST_CASE("a step's loss is the mean over all tokens that count, however they are spread", "[chat][programs]") {
    const Scratch s;
    const std::string words = unequal_chats(s);
    const auto train        = [&](const std::string& out, const std::string& more, const std::string& under = "") {
        const Ran r =
            run(s, "train_gpt", words + "--steps 4 --eval-every 2 --out " + quoted(s / out) + " " + more, "", under);
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
        return r.out;
    };
    const std::string header = train("one", "--batch 8 --eval-batches 2");
    CHECK(missing_words(header,
                        {"documents in", "of the tokens count in the loss", "are padding", "--document-mask"}) == "");
    // An epoch, which a run takes by default, has as many steps of a sequence as there are sequences.
    const Ran dry = run(s, "train_gpt", words + "--dry-run --batch 1");
    CAPTURE(dry.out);
    const int sequences = std::atoi(dry.out.c_str() + dry.out.find(" documents in ") + 14);
    CHECK(sequences > 10);
    CHECK(missing_words(dry.out, {fmt::format("= 48 tokens a step · {} steps ", sequences).c_str()}) == "");
    train("eight", "--batch 1 --accumulate 8 --eval-batches 16");
    const auto same = [&](const std::string& out) {
        for (const char* event : {"step", "eval"}) {
            const auto a = records(s / "one", event), b = records(s / out, event);
            REQUIRE(a.size() == b.size());
            const char* key = event[0] == 's' ? "loss" : "val_loss";
            for (size_t i = 0; i < a.size(); i++)
                CHECK(b[i][key].get<double>() == Approx(a[i][key].get<double>()).epsilon(2e-5));
        }
    };
    same("eight");
    if (!has_mpirun()) return;
    train("ranks", "--batch 2 --accumulate 2 --eval-batches 4 --threads 1", mpirun(2));
    same("ranks");
}

TEST_CASE("tuning on conversations goes on to the bit after a resume, with any number of threads", "[chat][programs]") {
    const Scratch s;
    const std::string words = unequal_chats(s) + "--batch 2 --accumulate 2 --eval-every 3 --save-every 2 ";
    const auto train        = [&](const std::string& more) {
        const Ran r = run(s, "train_gpt", more);
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
    };
    train(words + "--steps 6 --threads 1 --out " + quoted(s / "a"));
    train(words + "--steps 6 --threads 2 --keep 0 --out " + quoted(s / "b"));
    CHECK(losses(s / "a") == losses(s / "b"));
    for (const int step : {4, 6}) fs::remove_all(s / fmt::format("b/checkpoints/{:07}", step));
    train("--out " + quoted(s / "b") + " --resume");
    CHECK(losses(s / "a") == losses(s / "b"));
    CHECK(read_text(s / "a/checkpoints/latest/model.safetensors") ==
          read_text(s / "b/checkpoints/latest/model.safetensors"));
    // The folder says how its conversations are written.
    CHECK(chat_form_beside(s / "a/checkpoints/latest/tokenizer.json") == find_chat_form("plain"));
    write_text(s / "tokenizer_config.json", "[]");
    const Ran bad = run(s, "train_gpt", words + "--steps 1 --out " + quoted(s / "bad"));
    CHECK(bad.code == 2);
    CHECK(says(bad, {"tokenizer_config.json", "expected a JSON object"}));
}

TEST_CASE("--add-tokens gives a model the tokens of a chat template", "[chat][programs]") {
    const Scratch s;
    write_text(s / "c.jsonl", chat_line("the sea", "was calm") + chat_line("the wind", "was 7 knots"));
    write_text(s / "c.txt", story(1) + story(2));
    fs::create_directory(s / "own");
    write_text(s / "tokenizer.json", small_tokenizer());
    REQUIRE(tokenize(s, "--input " + quoted(s / "c.txt") + " --output " + quoted(s / "t")).code == 0);
    const auto train = [&](const std::string& words) {
        return run(s, "train_gpt", words + " --batch 1 --threads 1 --eval-every 0");
    };
    REQUIRE(train("--model nano-neox --dtype fp32 --vocab 290 --context 24 --steps 1 --tokenizer " +
                  quoted(s / "tokenizer.json") + " --train-data " + quoted(s / "t_train*.bin") + " --out " +
                  quoted(s / "base"))
                .code == 0);

    const std::string encode =
        "--input " + quoted(s / "c.jsonl") + " --chat-template chatml --output " + quoted(s / "c");
    const Ran made = tokenize(s, encode + " --add-tokens " + quoted(s / "chat"));
    CAPTURE(made.out, made.err);
    REQUIRE(made.code == 0);
    const Tokenizer t = Tokenizer::load(s / "chat/tokenizer.json");
    CHECK(t.vocab_size() == 292);
    CHECK(t.is_special(t.id_of("<|im_end|>")));
    CHECK(t.eot() == t.id_of("<|endoftext|>"));
    CHECK(chat_form_beside(s / "chat/tokenizer.json") == find_chat_form("chatml"));
    CHECK(tokenize(s, encode + " --overwrite --add-tokens " + quoted(s / "chat")).code == 0);
    const std::string shard = read_text(s / "c_train_000000.bin");
    CHECK(run(s, "tokenize",
              "--tokenizer " + quoted(s / "chat") + " --input " + quoted(s / "c.jsonl") +
                  " --chat-template model --overwrite --output " + quoted(s / "c"))
              .code == 0);
    CHECK(read_text(s / "c_train_000000.bin") == shard);
    // Nothing is written when the input turns out bad: neither a new folder nor a part of one that is there.
    write_text(s / "bad.jsonl", chat_line("the sea", "was calm") + "{}\n");
    const std::string bad = "--input " + quoted(s / "bad.jsonl") + " --chat-template chatml --output " +
                            quoted(s / "bad") + " --add-tokens ";
    CHECK(tokenize(s, bad + quoted(s / "new/chat")).code == 2);
    CHECK(!fs::exists(s / "new/chat"));
    write_text(s / "chat/chat_template.jinja", "x");
    CHECK(says(tokenize(s, encode + "3 --add-tokens " + quoted(s / "chat")), {"chat_template.jinja", "--overwrite"}));
    fs::remove(s / "chat/chat_template.jinja");
    const std::string config = read_text(s / "chat/tokenizer_config.json");
    write_text(s / "chat/tokenizer_config.json", "{}");
    CHECK(says(tokenize(s, encode + "3 --add-tokens " + quoted(s / "chat")), {"another tokenizer_config.json"}));
    write_text(s / "chat/tokenizer_config.json", config);
    CHECK(left_in(s, "c3") == List{});
    fs::create_directory(s / "empty");
    CHECK(tokenize(s, bad + quoted(s / "empty")).code == 2);
    CHECK(fs::is_empty(s / "empty"));
    write_text(s / "own/tokenizer.json", small_tokenizer());
    CHECK(
        says(tokenize(s, encode + "2 --add-tokens " + quoted(s / "own")), {"own", "another tokenizer", "--overwrite"}));

    const std::string tune = "--model " + quoted(s / "base") + " --train-data " + quoted(s / "c_train*.bin") +
                             " --steps 1 --learning-rate 1e-30 --weight-decay 0";
    CHECK(says(train(tune + " --out " + quoted(s / "x")), {"not the same tokenizer"}));
    CHECK(says(train(tune + " --tokenizer " + quoted(s / "chat") + " --out " + quoted(s / "x")),
               {"chat/tokenizer.json --add-tokens gives the model the others"}));
    for (const std::string dtype : {"fp32", "bf16"}) {
        const std::string out = s / dtype;
        const Ran r = train(tune + " --tokenizer " + quoted(s / "chat") + " --add-tokens --dtype " + dtype + " --out " +
                            quoted(out));
        CAPTURE(r.out, r.err);
        REQUIRE(r.code == 0);
        const SafetensorsReader before(s / "base/checkpoints/latest"), after(out + "/checkpoints/latest");
        for (const std::string name : {"gpt_neox.embed_in.weight", "embed_out.weight"}) {
            const std::vector<float> was = floats_of(before, name), is = floats_of(after, name);
            REQUIRE(was.size() == 290 * 48);
            REQUIRE(is.size() == 292 * 48);
            for (size_t i = 0; i < 48; i++) {
                double mean = 0;
                for (size_t id = 0; id < 290; id++) mean += was[id * 48 + i] / 290;
                CHECK(is[290 * 48 + i] == Approx(mean).margin(1e-7));
                CHECK(is[291 * 48 + i] == is[290 * 48 + i]);
            }
            CHECK(std::equal(was.begin(), was.end(), is.begin()));
        }
        const json generation = json::parse(read_text(out + "/checkpoints/latest/generation_config.json"));
        CHECK(generation["eos_token_id"] == json{t.id_of("<|im_end|>"), t.eot()});
        CHECK(json::parse(read_text(out + "/checkpoints/latest/config.json"))["vocab_size"] == 292);
    }
    // The tokens of the model must stay what they are.
    json other                          = json::parse(small_tokenizer());
    other["added_tokens"][0]["content"] = "<|end|>";
    other["model"]["vocab"].erase("<|endoftext|>");
    write_text(s / "own/tokenizer.json", other.dump());
    CHECK(
        says(train(tune + " --trust-data --tokenizer " + quoted(s / "own") + " --add-tokens --out " + quoted(s / "x")),
             {"--add-tokens: token", "is not that of the model"}));
}
