// test_foreign_models.cpp - model folders as other people save them: what ends a text, which weights are stored under
// which names, and what the folders that we write keep
#include "gpt/evaluation.h"
#include "gpt/hf.h"
#include "test/data.h"
#include "test/tokenize.h"
//
#include "test/catch.h"

namespace {

json plain_tokenizer() { return json::parse(read_text("test/golden/tokenizers.json"))["plain"]; }

// A folder with a model of `vocab` ids that says one id, whatever it is given, and the tokenizer of
// test/golden/tokenizers.json, in which <|endoftext|> is 0.
struct OneWordModel {
    const Scratch s;
    json config = {{"model_type", "gpt_neox"}, {"hidden_size", 8},       {"num_hidden_layers", 1},
                   {"num_attention_heads", 2}, {"intermediate_size", 8}, {"max_position_embeddings", 32},
                   {"rotary_pct", 0.5},        {"vocab_size", 420}};

    explicit OneWordModel(int64_t says, int64_t vocab = 420) {
        config["vocab_size"] = vocab;
        write_text(s / "tokenizer.json", plain_tokenizer().dump());
        write_config();
        const Config c = read_config(s.path);
        std::vector<StoredRow> rows;
        for (const auto& [ours, w] : hf_weights(c))
            for (const std::string& name : w.names)
                if (w.ours.dims > 0) rows.push_back({name, "F32", w.theirs});
        ModelWriter writer(s.path, rows);
        for (const StoredRow& r : rows) {
            std::vector<float> values(size_t(r.shape.numel()));
            if (r.name == "gpt_neox.final_layer_norm.bias") values[0] = 1;
            if (r.name == "embed_out.weight") values[size_t(says * 8)] = 10;
            writer.write(r.name, values.data(), r.bytes());
        }
        writer.close();
    }
    void write_config() const { write_text(s / "config.json", config.dump()); }
    void write(const char* name, const json& content) const { write_text(s / name, content.dump()); }
    void remove(const char* name) const { fs::remove(s / name); }
    Ran infer(const std::string& words = "--prompt the --tokens 4") const {
        return run(s, "infer_gpt", "--temperature 0 --model " + quoted(s.path) + " " + words);
    }
};

json special_token(int64_t id, const std::string& content) {
    return {{"id", id},        {"content", content}, {"special", true},    {"single_word", false},
            {"lstrip", false}, {"rstrip", false},    {"normalized", false}};
}

std::vector<float> logits_in(const std::string& text) {
    std::vector<float> all;
    const json parsed = json::parse(text);
    for (const json& row : parsed.at("logits"))
        for (const json& x : row) all.push_back(x);
    return all;
}
// The largest difference of the logits that infer_gpt prints for a folder and those in a file.
double off(const std::string& folder, const std::string& expected, const std::string& more = "") {
    const Scratch s;
    const Ran r =
        run(s, "infer_gpt", "--dtype fp32 --ids 1,5,9,2,7,7,3,0,4,8 --logits --model " + quoted(folder) + " " + more);
    UNSCOPED_INFO(r.err);
    REQUIRE(r.code == 0);
    const auto ours = logits_in(r.out), theirs = logits_in(read_text(expected));
    REQUIRE(ours.size() == theirs.size());
    double most = 0;
    for (size_t i = 0; i < ours.size(); i++) most = std::max(most, std::fabs(double(ours[i]) - theirs[i]));
    return most;
}

}  // namespace

TEST_CASE("a text ends with the ids that the folder names", "[foreign][programs]") {
    const Tokenizer t(plain_tokenizer().dump());
    const int32_t word       = t.encode("the")[0];
    const std::string said   = t.bytes_of(word);
    const std::string prompt = "--prompt the --tokens 4";
    const OneWordModel m(word);
    const auto ends     = [&] { return m.infer(prompt).out == "the\n"; };
    const auto goes_on  = [&] { return m.infer(prompt).out == "the" + said + said + said + said + "\n"; };
    const auto set_both = [&](const json& config, const json& generation) {
        OneWordModel& model = const_cast<OneWordModel&>(m);
        if (config == "absent")
            model.config.erase("eos_token_id");
        else
            model.config["eos_token_id"] = config;
        m.write_config();
        m.remove("generation_config.json");
        if (generation != "absent") m.write("generation_config.json", {{"eos_token_id", generation}, {"top_k", 3}});
    };
    set_both("absent", "absent");
    CHECK(goes_on());
    set_both(word, "absent");
    CHECK(ends());
    CHECK(m.infer("--ids 5,6 --tokens 4").out == "\n");
    set_both({7, word}, "absent");
    CHECK(ends());
    set_both(7, word);
    CHECK(ends());
    set_both(word, json{7, 8});  // generation_config.json counts, as in transformers
    CHECK(goes_on());
    set_both(nullptr, json{8, word, 7});
    CHECK(ends());
    set_both(word, nullptr);
    CHECK(ends());
    set_both(word, "absent");
    write_text(m.s / "generation_config.json", "{\"eos_token_id\": 7,");  // cut off
    CHECK(ends());
    CHECK(says(m.infer(prompt), {"warning", "generation_config.json", "not valid JSON"}));
    write_text(m.s / "generation_config.json", "[7]");
    CHECK(ends());

    // The name of a token beside the tokenizer ends a text too.
    set_both(7, "absent");
    CHECK(goes_on());
    for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
        m.write(name, {{"eos_token", said}});
        CHECK(ends());
        m.write(name, {{"eos_token", {{"content", said}, {"lstrip", false}}}});
        CHECK(ends());
        m.write(name, {{"eos_token", "not in the vocabulary"}});
        CHECK(goes_on());
        m.remove(name);
    }
}

TEST_CASE("<|endoftext|> ends a text where no file says what does", "[foreign][programs]") {
    OneWordModel m(0);
    const auto out = [&] { return m.infer().out; };
    CHECK(out() == "the\n");
    m.config["eos_token_id"] = 50256;  // a default of transformers, outside this vocabulary
    m.write_config();
    CHECK(out() == "the\n");
    m.config["eos_token_id"] = {7};
    m.write_config();
    CHECK(out() == "the<|endoftext|><|endoftext|><|endoftext|><|endoftext|>\n");
    m.config["eos_token_id"] = "seven";
    m.write_config();
    CHECK(out() == "the\n");
}

TEST_CASE("a tokenizer may have more ids than the model, as long as no text uses them", "[foreign][programs]") {
    // One id just above the vocabulary, as a padding token has, or many far above it.
    const int64_t first = GENERATE(420, 900), count = first == 420 ? 1 : 5;
    CAPTURE(first);
    const OneWordModel m(0);
    json tokenizer = plain_tokenizer();
    for (int64_t i = 0; i < count; i++)
        tokenizer["added_tokens"].push_back(special_token(first + i, "<more" + std::to_string(i) + ">"));
    m.write("tokenizer.json", tokenizer);
    const std::string last = std::to_string(first + count - 1);
    const Ran r            = m.infer();
    CHECK((r.code == 0 && r.out == "the\n"));
    CHECK(says(r, {"warning", ("ids up to " + last).c_str(), "vocabulary of 420"}));
    const Ran used = m.infer("--prompt 'the<more0>' --tokens 4");
    CAPTURE(used.err);
    CHECK(used.code == 2);
    CHECK(says(used, {std::to_string(first).c_str(), "420"}));
    write_text(m.s / "text.txt", "the<more0>");
    const std::string scored = "--model " + quoted(m.s.path) + " --score " + quoted(m.s / "text.txt");
    CHECK(run(m.s, "infer_gpt", scored + " --special-tokens ids").code == 2);
    CHECK(run(m.s, "infer_gpt", scored).code == 0);  // as plain text it has other ids
}

TEST_CASE("an unused id prints nothing and ends no text", "[foreign][programs]") {
    // The tokenizer has ids up to 429, of which 420 to 428 are unused.
    const OneWordModel m(425, 430);
    json tokenizer = plain_tokenizer();
    tokenizer["added_tokens"].push_back(special_token(429, "<last>"));
    m.write("tokenizer.json", tokenizer);
    const Ran r = m.infer("--prompt the --tokens 4 --stats");
    CHECK(r.out == "the\n");
    CHECK(says(r, {"· 4 tokens"}));
    m.write("tokenizer.json", plain_tokenizer());  // now 425 is an id that only the model has
    CHECK(m.infer().out == "the\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\n");
}

TEST_CASE("tokenize separates documents by the token that the model's folder ends a text with", "[foreign][programs]") {
    OneWordModel m(5);
    const std::string path = m.s / "tokenizer.json";
    const auto eot         = [&] { return Tokenizer::load(path).eot(); };
    CHECK(eot() == 0);
    m.config["eos_token_id"] = 1;  // <|user|>, a special token
    m.write_config();
    CHECK(eot() == 1);
    m.write("generation_config.json", {{"eos_token_id", {77, 2}}});
    CHECK(eot() == 2);
    write_text(m.s / "d.txt", "the cat");
    REQUIRE(tokenize(m.s, "--input " + quoted(m.s / "d.txt") + " --output " + quoted(m.s / "x")).code == 0);
    CHECK(ids_in(m.s / "x_train_000000.bin")[0] == 2);
    m.write("special_tokens_map.json", {{"eos_token", "<|user|>"}});
    CHECK(eot() == 1);
    m.remove("special_tokens_map.json");
    // transformers gives models an eos_token_id that nobody chose. It counts when nothing better is known.
    m.write("generation_config.json", {{"eos_token_id", 77}});
    CHECK(eot() == 0);
    json tokenizer                          = plain_tokenizer();
    tokenizer["added_tokens"][0]["content"] = "<|end|>";
    tokenizer["model"]["vocab"].erase("<|endoftext|>");
    m.write("tokenizer.json", tokenizer);
    CHECK(eot() == 77);
    m.write("generation_config.json", {{"eos_token_id", {5000, -1, 78.5, "79", 80}}});
    CHECK(eot() == 80);
}

TEST_CASE("fine-tuning ends its samples as the model does, and keeps what the folder says in every checkpoint",
          "[foreign][programs]") {
    const int32_t word = Tokenizer(plain_tokenizer().dump()).encode("the")[0];
    OneWordModel m(word);
    m.config.update({{"eos_token_id", {7, word}},
                     {"bos_token_id", nullptr},
                     {"pad_token_id", 3},
                     {"attention_dropout", 0.25},
                     {"hidden_dropout", 0.125},
                     {"unheard_of", {{"deep", {1, nullptr}}}}});
    m.write_config();
    const std::string generation = "{\"eos_token_id\": [5, " + std::to_string(word) + "],\n \"top_p\": 0.5}\n";
    const std::map<std::string, std::string> files = {
        {"generation_config.json", generation},
        {"tokenizer_config.json",
         R"({"eos_token": "</s>", "chat_template": "{{ messages }}", "model_max_length": 32})"},
        {"special_tokens_map.json", R"({"eos_token": "</s>",  "pad_token": "<unk>"})"},
        {"chat_template.jinja", "{{ messages }}\n"},
        {"tokenizer.json", read_text(m.s / "tokenizer.json")}};
    for (const auto& [name, text] : files) write_text(m.s / name, text);
    write_shard(m.s / "train.bin", 3000);
    const std::string out = "--out " + quoted(m.s / "run");
    const Ran first =
        run(m.s, "train_gpt",
            "--model " + quoted(m.s.path) + " --train-data " + quoted(m.s / "train.bin") + " " + out +
                " --batch 1 --context 16 --steps 2 --save-every 1 --keep 0 --learning-rate 1e-6 --sample-every 1 "
                "--prompt the --sample-tokens 9 --eval-every 0");
    CAPTURE(first.err);
    REQUIRE(first.code == 0);
    REQUIRE(run(m.s, "train_gpt", out + " --resume --steps 4").code == 0);
    const auto samples = records(m.s / "run", "sample");
    CHECK(samples.size() >= 2);
    for (const json& sample : samples) CHECK(sample["text"] == "the");
    for (const char* step : {"0000001", "0000002", "0000003", "0000004"}) {
        const std::string folder = m.s / "run/checkpoints/" + step;
        CAPTURE(folder);
        for (const auto& [name, text] : files) CHECK(read_text(folder + "/" + name) == text);
        const json written = json::parse(read_text(folder + "/config.json"));
        for (const auto& [field, value] : m.config.items()) {
            CAPTURE(field);
            CHECK(written[field] == value);
        }
    }
}

TEST_CASE("a file that Git LFS left as a pointer, and an index or a shard that is missing, are named", "[foreign]") {
    const Scratch s;
    const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 548105171\n";
    write_text(s / "model.safetensors", pointer);
    CHECK_REFUSED(SafetensorsReader{s.path}, "model.safetensors is a pointer of Git LFS", "git lfs pull");
    write_text(s / "config.json", pointer);
    CHECK_REFUSED(read_config(s.path), "config.json is a pointer of Git LFS", "git lfs pull");
    write_text(s / "tokenizer.json", pointer);
    CHECK_REFUSED(Tokenizer::load(s / "tokenizer.json"), "tokenizer.json is a pointer of Git LFS", "git lfs pull");
    fs::remove(s / "model.safetensors");
    write_text(s / "model-00001-of-00002.safetensors", "x");
    CHECK_REFUSED(SafetensorsReader{s.path}, "model-00001-of-00002.safetensors", "neither model.safetensors",
                  "Download the index");
    write_text(s / "model.safetensors.index.json", R"({"weight_map": {"a": "model-00003-of-00003.safetensors"}})");
    CHECK_REFUSED(SafetensorsReader{s.path}, "index.json", "model-00003-of-00003.safetensors", "not in this folder");
    write_text(s / "config.json", "{\"n_layer\": 2,}");
    CHECK_REFUSED(read_config(s.path), "not valid JSON: parse error at line 1, column 15");
}

TEST_CASE("a link to a file that is not there is named as such", "[foreign]") {
    const OneWordModel m(5);
    const auto dangles = [&](const char* name) {
        fs::remove(m.s / name);
        fs::create_symlink("../../blobs/0a1b", m.s / name);
    };
    const auto refused = [&](const char* name) {
        const std::string says = std::string(name) + ": this is a link to ../../blobs/0a1b, and there is no such file";
        CHECK_REFUSED(SafetensorsReader{m.s.path}, says.c_str(), "cp -rL");
    };
    dangles("model.safetensors");
    refused("model.safetensors");
    CHECK(missing_words(m.infer().err, {"model.safetensors: this is a link to"}) == "");
    fs::remove(m.s / "model.safetensors");
    write_text(m.s / "model.safetensors.index.json", R"({"weight_map": {"a": "a.safetensors"}})");
    dangles("a.safetensors");
    refused("/a.safetensors");
    dangles("model.safetensors.index.json");
    refused("/model.safetensors.index.json");
    dangles("config.json");
    CHECK_REFUSED(read_config(m.s.path), "/config.json: this is a link to ../../blobs/0a1b", "cp -rL");
    CHECK(missing_words(m.infer().err, {"config.json: this is a link to"}) == "");
    dangles("tokenizer.json");
    CHECK_REFUSED(tokenizer_at(m.s.path), "/tokenizer.json: this is a link to ../../blobs/0a1b", "cp -rL");
}

TEST_CASE("folders of adapters and of quantized weights are refused as what they are", "[foreign]") {
    OneWordModel m(5);
    m.write("adapter_config.json", {{"peft_type", "LORA"}, {"base_model_name_or_path", "EleutherAI/pythia-14m"}});
    CHECK_REFUSED(read_config(m.s.path), "adapter_config.json", "LORA", "EleutherAI/pythia-14m", "merge_and_unload");
    m.remove("config.json");
    CHECK_REFUSED(read_config(m.s.path), "adapter_config.json", "LORA");
    m.remove("adapter_config.json");
    m.write_config();
    for (const char* ending : {"qweight", "weight_scale", "SCB"}) {
        const std::string name = std::string("gpt_neox.layers.0.attention.dense.") + ending;
        SafetensorsWriter writer(m.s / "model.safetensors", {{"gpt_neox.embed_in.weight", "F32", {420, 8}},
                                                             {"gpt_neox.final_layer_norm.weight", "F32", {8}},
                                                             {name, "I8", {2}}});
        const std::vector<float> zeros(420 * 8);
        writer.write("gpt_neox.embed_in.weight", zeros.data(), 420 * 8 * 4);
        writer.write("gpt_neox.final_layer_norm.weight", zeros.data(), 8 * 4);
        writer.write(name, zeros.data(), 2);
        writer.close();
        const Ran r = m.infer();
        CHECK(r.code == 2);
        CHECK(says(r, {"missing", name, "quantized"}));
    }
}

TEST_CASE("sizes may have the names that transformers uses for every family", "[foreign]") {
    const Scratch s;
    const auto read = [&](const json& config) {
        write_text(s / "config.json", config.dump());
        return read_config(s.path);
    };
    json gpt2      = json::parse(read_text("test/golden/gpt2/config.json"));
    const Config c = read(gpt2);
    for (const auto& [field, common] : {std::pair{"n_layer", "num_hidden_layers"},
                                        {"n_embd", "hidden_size"},
                                        {"n_head", "num_attention_heads"},
                                        {"n_positions", "max_position_embeddings"}}) {
        gpt2[common] = gpt2[field];
        gpt2.erase(field);
    }
    CHECK(known_fields(read(gpt2), DType::F32) == known_fields(c, DType::F32));
    json neo                 = json::parse(read_text("test/golden/gpt_neo/config.json"));
    const Config d           = read(neo);
    neo["num_hidden_layers"] = neo["num_layers"];
    neo.erase("num_layers");
    CHECK(known_fields(read(neo), DType::F32) == known_fields(d, DType::F32));
}

TEST_CASE("weights may be stored in fp64, and GELU may have any of transformers' names for its two forms",
          "[foreign]") {
    const Scratch s;
    const double values[] = {0.1, -2, 1e-300};
    SafetensorsWriter writer(s / "x.safetensors", {{"x", "F64", {3}}});
    writer.write("x", values, sizeof values);
    writer.close();
    const SafetensorsReader file(s / "x.safetensors");
    float x[3];
    file.at("x").read_into(x);
    CHECK((x[0] == 0.1f && x[1] == -2.f && x[2] == 0.f));
    CHECK(stored_dtype(file) == DType::F32);
    json gpt2 = json::parse(read_text("test/golden/gpt2/config.json"));
    for (const auto& [word, form] : {std::pair{"gelu_accurate", Gelu::tanh},
                                     {"gelu_python_tanh", Gelu::tanh},
                                     {"gelu_pytorch_tanh", Gelu::tanh},
                                     {"gelu_python", Gelu::erf}}) {
        gpt2["activation_function"] = word;
        write_text(s / "config.json", gpt2.dump());
        const Config c = read_config(s.path);
        CHECK((c.gelu == form && known_fields(c, DType::F32)["activation_function"] == word));
    }
}

TEST_CASE("a head that differs from the token table is used, whatever config.json says", "[foreign][programs]") {
    // GPT-NeoX's folder has a head of its own. Config.json calls it tied, and the two tables differ or are the same.
    const Scratch s;
    const std::string untied = s / "untied", tied = s / "tied", copied = s / "copied";
    const std::string golden = "test/golden/gpt_neox/";
    for (const std::string& folder : {untied, tied, copied}) {
        fs::create_directories(folder);
        fs::copy_file(golden + "model.safetensors", folder + "/model.safetensors");
        json config                   = json::parse(read_text(golden + "config.json"));
        config["tie_word_embeddings"] = folder != untied;
        write_text(folder + "/config.json", config.dump());
    }
    {
        const SafetensorsReader file(golden);
        std::vector<StoredRow> rows;
        for (const auto& [name, t] : file.tensors()) rows.push_back({name, t.dtype, t.shape});
        fs::remove(copied + "/model.safetensors");
        ModelWriter writer(copied, rows);
        for (const StoredRow& r : rows)
            writer.write(r.name, file.at(r.name == "embed_out.weight" ? "gpt_neox.embed_in.weight" : r.name).data,
                         r.bytes());
        writer.close();
    }
    const std::string words = "--dtype fp32 --ids 1,5,9,2 --logits --model ";
    const Ran apart = run(s, "infer_gpt", words + quoted(untied)), called = run(s, "infer_gpt", words + quoted(tied)),
              same = run(s, "infer_gpt", words + quoted(copied));
    CAPTURE(apart.err, called.err, same.err);
    CHECK((apart.code == 0 && called.code == 0 && same.code == 0));
    CHECK(apart.out == called.out);
    CHECK(apart.out != same.out);
    CHECK(says(called, {"warning", "embed_out.weight", "gpt_neox.embed_in.weight", "tie_word_embeddings"}));
    CHECK((apart.err.find("warning") == std::string::npos && same.err.find("warning") == std::string::npos));
    CHECK((!read_config(tied).tied_head && read_config(copied).tied_head));
    // A run from it keeps the two tables, and says so in its config.json.
    write_shard(s / "train.bin", 300, -1, 60);
    const Ran trained = run(s, "train_gpt",
                            "--dtype fp32 --model " + quoted(tied) + " --train-data " + quoted(s / "train.bin") +
                                " --context 16 --batch 1 --steps 1 --out " + quoted(s / "run"));
    CAPTURE(trained.err);
    REQUIRE(trained.code == 0);
    const json saved = json::parse(read_text(s / "run/checkpoints/latest/config.json"));
    CHECK(saved["tie_word_embeddings"] == false);
}

TEST_CASE("the files of benchmarks may begin with a byte-order mark", "[foreign]") {
    const Scratch s;
    const Tokenizer t(plain_tokenizer().dump());
    for (const std::string mark : {"", "\xEF\xBB\xBF"}) {
        write_text(s / "lambada.jsonl", mark + "{\"text\": \"the cat sat\"}\n{\"text\": \"the hat\"}\n");
        const auto texts = read_lambada(s / "lambada.jsonl", t);
        REQUIRE(texts.size() == 2);
        CHECK(texts[0].ids == t.encode("the cat sat"));
        write_text(s / "hellaswag.jsonl", mark + R"({"ctx": "the cat", "endings": ["sat", "ran"], "label": 1})");
        const auto questions = read_hellaswag(s / "hellaswag.jsonl", t);
        REQUIRE(questions.size() == 1);
        CHECK(questions[0].endings[0].ids == t.encode("the cat sat"));
    }
}

TEST_CASE("files made after reports about other programs: model folders", "[foreign][shared][programs]") {
    const std::string home = shared_data("bugreports");
    if (home.empty()) return;
    const Scratch s;
    const auto infer = [&](const std::string& model, const std::string& words) {
        return run(s, "infer_gpt", "--model " + quoted(home + "/" + model) + " " + words);
    };
    CHECK(infer("eos-not-stopping/model", "--prompt He --tokens 10 --temperature 0").out == "He\n");

    const double digits = 2e-5;  // the files hold five of them
    CHECK(off(home + "/inverse-layer-scale/model", home + "/inverse-layer-scale/logits.json") < digits);
    CHECK(off(home + "/tied-head-alias/model", home + "/tied-head-alias/logits.json") < digits);
    CHECK(off(home + "/wrapped-names/orig_mod", home + "/wrapped-names/logits.json") < digits);
    CHECK(off(home + "/wrapped-names/module", home + "/wrapped-names/logits.json") < digits);

    const std::string large = home + "/tokenizer-larger-than-model/";
    const Ran written       = infer("tokenizer-larger-than-model/model", "--prompt Hello --tokens 5");
    CHECK(written.code == 0);
    CHECK(says(written, {"Hello", "warning", "ids up to 512", "vocabulary of 512"}));
    const Ran trained = run(s, "train_gpt",
                            "--model " + quoted(large + "model") + " --train-data " + quoted(large + "train.bin") +
                                " --context 64 --batch 1 --steps 1 --out " + quoted(s / "run"));
    CHECK(trained.code == 0);
    CHECK(says(trained, {"warning", "ids up to 512"}));
    const Ran pad = infer("tokenizer-larger-than-model/model", "--prompt 'Hello[PAD]' --tokens 5");
    CHECK(pad.code == 2);
    CHECK(says(pad, {"512", "vocabulary"}));
}

TEST_CASE("files made after reports about other programs: runs", "[foreign][shared][programs]") {
    const std::string home = shared_data("bugreports");
    if (home.empty()) return;
    const Scratch s;
    const std::string nan = home + "/nan-streak-loses-checkpoints/", out = " --out " + quoted(s / "run");
    const auto loss = [&](const std::string& model) {
        const Ran r = run(s, "infer_gpt",
                          "--dtype fp32 --json --model " + quoted(model) + " --score " + quoted(nan + "train.bin"));
        CAPTURE(r.err);
        REQUIRE(r.code == 0);
        return json::parse(r.out)["loss"];
    };
    REQUIRE(run(s, "train_gpt",
                "--model " + quoted(nan + "model") + " --train-data " + quoted(nan + "train.bin") +
                    " --context 64 --batch 1 --steps 40 --learning-rate 1e-3 --schedule constant --save-every 5 "
                    "--eval-every 0 --dtype fp32" +
                    out)
                .code == 0);
    const json before = loss(s / "run/checkpoints/0000040");
    REQUIRE(before.is_number());
    const Ran diverged = run(s, "train_gpt", out + " --resume --steps 80 --learning-rate 3e4");
    CHECK(diverged.code != 0);
    const size_t named = diverged.err.rfind("/checkpoints/00");
    REQUIRE(named != std::string::npos);
    CHECK(loss(s / ("run" + diverged.err.substr(named, 20))) == before);
    CHECK(loss(s / "run/checkpoints/latest") == before);

    const std::string base = home + "/resume-without-base-folder/";
    fs::copy(base + "model", s / "model");
    const std::string moved = " --out " + quoted(s / "moved");
    REQUIRE(run(s, "train_gpt",
                "--model " + quoted(s / "model") + " --train-data " + quoted(base + "train.bin") +
                    " --context 64 --batch 1 --steps 4 --save-every 2 --keep 0 --eval-every 0" + moved)
                .code == 0);
    fs::rename(s / "model", s / "elsewhere");
    const Ran resumed = run(s, "train_gpt", moved + " --resume --steps 8");
    CAPTURE(resumed.err);
    CHECK(resumed.code == 0);
    CHECK(says(resumed, {"rate"}));  // the schedule has become another one
    for (const char* name : {"config.json", "generation_config.json", "tokenizer.json"})
        CHECK(read_text(s / (std::string("moved/checkpoints/0000008/") + name)) ==
              read_text(s / (std::string("moved/checkpoints/0000004/") + name)));
}

TEST_CASE("files made after reports about other programs: prompts and weights that are not finite",
          "[foreign][shared][programs]") {
    const std::string home = shared_data("bugreports");
    if (home.empty()) return;
    const Scratch s;
    const auto infer = [&](const std::string& model, const std::string& words) {
        return run(s, "infer_gpt", "--model " + quoted(home + "/" + model + "/model") + " " + words, "not this");
    };
    const Ran empty = infer("eos-not-stopping", "--prompt '' --tokens 3");
    CHECK(empty.code == 0);
    CHECK(empty.out.find("not this") == std::string::npos);

    const std::string nan = home + "/nan-weights-silent/";
    for (const std::string& words :
         List{"--prompt Hello --tokens 10 --temperature 0", "--score " + quoted(nan + "text.txt"),
              "--eval hellaswag " + quoted(nan + "hellaswag.jsonl"),
              "--eval lambada " + quoted(nan + "lambada.jsonl")}) {
        const Ran r = infer("nan-weights-silent", words);
        CAPTURE(words, r.out);
        CHECK(r.code != 0);
        CHECK(says(r, {"not finite"}));
    }
}
