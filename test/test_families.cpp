// test_families.cpp - every family read from and written to a folder in the form of Hugging Face
//
// The cases cover dtypes, shards and layouts, the error of bf16 against PyTorch's, and generation with a cache. That
// our fp32 equals PyTorch's is tested in test_model.cpp.
#include <sstream>

#include "gpt/checkpoint.h"
#include "gpt/evaluation.h"
#include "test/golden.h"
#include "test/scratch.h"

static std::string golden_home(const std::string& name) { return "test/golden/" + name; }

// Copies the folder of a golden model, with its weights in another dtype and in shards of at most shard_bytes.
static void rewrite(const std::string& from, const std::string& to, DType dtype, int64_t shard_bytes) {
    const SafetensorsReader source(from);
    std::vector<StoredRow> rows;
    for (const auto& [name, t] : source.tensors()) rows.push_back({name, row_of(dtype).stored, t.shape});
    ModelWriter writer(to, rows, shard_bytes);
    for (const StoredRow& r : rows) {
        const auto values = floats_of(source, r.name);
        const auto bytes  = stored_bytes(values.data(), int64_t(values.size()), dtype, r.name);
        writer.write(r.name, bytes.data(), int64_t(bytes.size()));
    }
    writer.close();
    write_text(to + "/config.json", read_text(from + "/config.json"));
}

// Copies the folder of a golden model, with other names for its tensors. A tensor whose new name is empty is left out,
// and one that has several new names, separated by spaces, is stored under each.
template <class Rename>
static void rename_tensors(const std::string& from, const std::string& to, Rename rename) {
    const SafetensorsReader source(from);
    std::map<std::string, StoredTensor> renamed;
    for (const auto& [name, t] : source.tensors()) {
        std::istringstream names(rename(name));
        for (std::string other; names >> other;) renamed[other] = t;
    }
    std::vector<StoredRow> rows;
    for (const auto& [name, t] : renamed) rows.push_back({name, t.dtype, t.shape});
    ModelWriter writer(to, rows);
    for (const auto& [name, t] : renamed) writer.write(name, t.data, t.bytes);
    writer.close();
    write_text(to + "/config.json", read_text(from + "/config.json"));
}

// All weights of a folder, one after the other in our layout.
static std::vector<float> weights_of(const std::string& folder, bool ignore_extra = false,
                                     std::vector<std::string>* warnings = nullptr) {
    static const Device dev("cpu");
    const Config c = read_config(folder);
    Model m(c, DType::F32, {1, 1, false}, dev);
    const auto said = load_weights(m.params, c, SafetensorsReader(folder), m.stream, nullptr, ignore_extra);
    if (warnings) *warnings = said;
    std::vector<float> all;
    for (const ParamRow& r : param_rows(m.params, c)) {
        const auto values = floats_of(*r.tensor, m.stream);
        all.insert(all.end(), values.begin(), values.end());
    }
    return all;
}

TEST_CASE("names that other programs put in front of a model's names are found and left out", "[families]") {
    const auto name    = GENERATE(from_range(golden_names()));
    const auto wrapper = GENERATE(as<std::string>{}, "_orig_mod.", "module.", "module._orig_mod.", "model.");
    const bool bare    = GENERATE(false, true);  // names lack the family's own prefix
    CAPTURE(name, wrapper, bare);
    const std::string prefix = family_of(read_config(golden_home(name))).prefix;
    const Scratch scratch;
    rename_tensors(golden_home(name), scratch.path, [&](const std::string& tensor) {
        return wrapper + (bare && tensor.rfind(prefix, 0) == 0 ? tensor.substr(prefix.size()) : tensor);
    });
    std::vector<std::string> warnings;
    CHECK(weights_of(scratch.path, false, &warnings) == weights_of(golden_home(name)));
    REQUIRE(warnings.size() == 1);
    CHECK(missing_words(warnings[0], {("\"" + wrapper + "\"").c_str()}) == "");
    // TRL wraps the model, and puts the head that it trains beside it.
    rename_tensors(golden_home(name), scratch.path, [&](const std::string& tensor) {
        return "pretrained_model." + tensor + (ends_with(tensor, "h.0.ln_1.bias") ? " v_head.summary.bias" : "");
    });
    CHECK(weights_of(scratch.path, true) == weights_of(golden_home(name)));
}

TEST_CASE("of a tied pair, the token table or the head may be missing in a file", "[families]") {
    struct Case {
        std::string name, table, head;
    };
    const Case pair         = GENERATE(Case{"gpt2", "transformer.wte.weight", "lm_head.weight"},
                                       Case{"gpt_neo", "transformer.wte.weight", "lm_head.weight"},
                                       Case{"gpt_neox_tied", "gpt_neox.embed_in.weight", "embed_out.weight"},
                                       Case{"gpt_neox_tied", "gpt_neox.embed_in.weight", "lm_head.weight"},
                                       Case{"gpt_neox_sequential", "gpt_neox.embed_in.weight", "embed_out.weight"});
    const std::string &name = pair.name, &table = pair.table, &head = pair.head;
    CAPTURE(name, head);
    const Scratch scratch;
    const auto with_tables = [&](const std::string& names) {
        rename_tensors(golden_home(name), scratch.path,
                       [&](const std::string& tensor) { return tensor == table ? names : tensor; });
        return weights_of(scratch.path);
    };
    const auto expected = weights_of(golden_home(name));
    CHECK(with_tables(table) == expected);
    CHECK(with_tables(head) == expected);
    CHECK(with_tables(table + " " + head) == expected);
    CHECK_REFUSED(with_tables(""), table.c_str(), "missing");
    // Without tying, the head is a weight of its own.
    auto config                   = read_json(scratch / "config.json");
    config["tie_word_embeddings"] = false;
    rename_tensors(golden_home(name), scratch.path,
                   [&](const std::string& tensor) { return tensor == table ? head : tensor; });
    write_text(scratch / "config.json", config.dump());
    CHECK_REFUSED(weights_of(scratch.path), table.c_str(), "missing");
}

TEST_CASE("tensors beside the weights are refused by name, or left out when that is asked for", "[families]") {
    const Scratch scratch;
    const auto with = [&](const std::string& extra) {
        rename_tensors(golden_home("gpt2"), scratch.path, [&](const std::string& tensor) {
            return tensor == "transformer.ln_f.bias" ? tensor + " " + extra : tensor;
        });
    };
    for (const char* extra :
         {"score.weight", "v_head.summary.bias", "transformer.h.2.ln_1.bias", "multiple_choice_head.x"}) {
        CAPTURE(extra);
        with(extra);
        CHECK_REFUSED(weights_of(scratch.path), scratch.path.c_str(), extra, "no place in a gpt2 of 2 layers",
                      "--ignore-extra-tensors");
        std::vector<std::string> warnings;
        CHECK(weights_of(scratch.path, true, &warnings) == weights_of(golden_home("gpt2")));
        REQUIRE(warnings.size() == 1);
        CHECK(missing_words(warnings[0], {"left out", extra}) == "");
    }
    with("a.w b.w c.w d.w e.w f.w g.w");
    CHECK_REFUSED(weights_of(scratch.path), "\"a.w\", \"b.w\", \"c.w\", \"d.w\", \"e.w\" and 2 more");
}

TEST_CASE("load then save gives back every byte of the weights, in the dtype they had", "[families]") {
    const Device* dev  = GENERATE(from_range(devices()));
    const auto name    = GENERATE(from_range(golden_names()));
    const auto dtype   = GENERATE(DType::F32, DType::F16, DType::BF16);
    const bool sharded = GENERATE(false, true);
    const bool masters = GENERATE(false, true);  // fp32 masters hold what the bf16 weights cannot
    if (dev->where() == Machine::cuda && (dtype != DType::F16 || sharded)) return;  // only the copies differ on a GPU
    CAPTURE(dev, name, dtype, sharded, masters);
    const Scratch before_folder, after_folder;
    rewrite(golden_home(name), before_folder.path, dtype, sharded ? 20'000 : 1'000'000);
    CHECK(exists(before_folder / "model.safetensors.index.json") == sharded);

    const SafetensorsReader before(before_folder.path);
    const Config c = read_config(before_folder.path);
    Model m(c, masters ? DType::BF16 : DType::F32, {1, 1, true}, *dev);
    AdamW adamw(m, {});
    load_weights(m.params, c, before, m.stream, masters ? &adamw.master() : nullptr);
    CHECK(stored_dtype(before) == dtype);
    save_model(after_folder.path, adamw.master(), c, stored_dtype(before), m.stream);

    const SafetensorsReader after(after_folder.path);
    CHECK(before.tensors().size() == after.tensors().size());
    for (const auto& [tensor, t] : before.tensors()) {
        CAPTURE(tensor);
        const StoredTensor& u = after.at(tensor, t.shape);
        REQUIRE(u.dtype == t.dtype);
        REQUIRE(u.bytes == t.bytes);
        CHECK(std::memcmp(u.data, t.data, t.bytes) == 0);
    }
    CHECK(config_json(read_config(after_folder.path), dtype) == config_json(c, dtype));
    // Every field that transformers wrote is there, with the same value.
    const auto theirs = read_json(before_folder / "config.json"), ours = read_json(after_folder / "config.json");
    for (const auto& [key, value] : theirs.items()) {
        CAPTURE(key);
        REQUIRE(ours.contains(key));
        const bool ours_to_say = key == "dtype" || (key == "n_inner" && value.is_null());
        if (!ours_to_say) CHECK(ours[key] == value);
    }
}

TEST_CASE("rates of dropout are read and written by each family's names", "[families]") {
    struct Case {
        std::string name, attention, embedding, residual;
    };
    const Case c = GENERATE(Case{"gpt2", "attn_pdrop", "embd_pdrop", "resid_pdrop"},
                            Case{"gptj", "attn_pdrop", "embd_pdrop", "resid_pdrop"},
                            Case{"gpt_neo", "attention_dropout", "embed_dropout", "resid_dropout"},
                            Case{"gpt_neox", "attention_dropout", "hidden_dropout", "hidden_dropout"});
    CAPTURE(c.name);
    const Scratch s;
    auto config     = read_json(golden_home(c.name) + "/config.json");
    const auto read = [&] {
        write_text(s / "config.json", config.dump());
        return read_config(s.path);
    };
    config[c.embedding] = 0.05;
    config[c.residual]  = 0.1;
    config[c.attention] = 0.3;
    const Config some   = read();
    CHECK(some.dropout.attention == 0.3f);
    CHECK(some.dropout.embedding == (c.embedding == c.residual ? 0.1f : 0.05f));
    CHECK(some.dropout.residual == 0.1f);
    for (const std::string& field : {c.attention, c.embedding, c.residual})
        CHECK(config_json(some, DType::F32)[field] == config[field].get<double>());
    config.erase(c.attention);
    config[c.residual] = nullptr;
    CHECK(read().dropout.attention == 0);
    CHECK(read().dropout.residual == 0);
    CHECK(config_json(read(), DType::F32)[c.residual] == 0);
    config[c.residual] = "0.1";
    CHECK_REFUSED(read(), "config.json", c.residual.c_str(), "expected a number");
}

TEST_CASE("what a folder says beside its facts is kept in the folders that we write", "[families]") {
    const Device dev("cpu");
    const Scratch first, second, third;
    rewrite(golden_home("gpt_neox"), first.path, DType::F32, 1'000'000);
    auto config                  = read_json(first / "config.json");
    config["pad_token_id"]       = 1;
    config["eos_token_id"]       = {2, 3};
    config["hidden_dropout"]     = 0.25;
    config["use_cache"]          = false;
    config["unheard_of"]         = {{"deep", {1, 2.5, "three"}}};
    config["torch_dtype"]        = "bfloat16";
    config["architectures"]      = {"GPTNeoXForSequenceClassification"};
    const std::string generation = "{\n  \"eos_token_id\": [2, 3],\n  \"temperature\": 0.7\n}";
    write_text(first / "config.json", config.dump());
    write_text(first / "generation_config.json", generation);
    const auto copy = [&](const std::string& from, const std::string& to) {
        const Config c = read_config(from);
        Model m(c, DType::F32, {1, 1, false}, dev);
        load_weights(m.params, c, SafetensorsReader(from), m.stream);
        save_model(to, m.params, c, DType::F32, m.stream);
    };
    copy(first.path, second.path);
    copy(second.path, third.path);
    for (const std::string& folder : {second.path, third.path}) {
        const auto written = read_json(folder + "/config.json");
        for (const char* key : {"pad_token_id", "eos_token_id", "hidden_dropout", "use_cache", "unheard_of"}) {
            CAPTURE(key);
            CHECK(written[key] == config[key]);
        }
        CHECK(written["torch_dtype"] == "float32");                  // the dtype of the weights beside it
        CHECK(written["architectures"][0] == "GPTNeoXForCausalLM");  // their class too
        CHECK(read_text(folder + "/generation_config.json") == generation);
    }
    CHECK(read_text(second / "config.json") == read_text(third / "config.json"));
}

TEST_CASE("the errors of logits and gradients in bf16 are as small as PyTorch's", "[families]") {
    const Device* dev = GENERATE(from_range(devices()));
    const auto name   = GENERATE(from_range(golden_names()));
    CAPTURE(dev, name);
    const SafetensorsReader golden(golden_home(name) + "/golden.safetensors"), weights(golden_home(name));
    const auto theirs = read_json(golden_home(name) + "/golden.json")["bf16_error"];
    const auto ids    = ids_of(golden, "ids");
    const int64_t B = golden.at("ids").shape[0], T = golden.at("ids").shape[1] - 1;
    const Config c = read_config(golden_home(name));
    Model m(c, DType::BF16, {B, T, true}, *dev);
    load_weights(m.params, c, weights, m.stream);
    loss_and_gradients(m, HostBatch(ids.data(), B, T).batch);

    Model one(c, DType::BF16, {1, T, false}, *dev);
    load_weights(one.params, c, weights, one.stream);
    ErrorsBeside errors;
    errors.add("logits", logits_of(one, ids, B, T), floats_of(golden, "logits"), theirs["logits"]);
    const auto hf_names = hf_weights(c);
    for (const ParamRow& r : param_rows(m.grads, c)) {
        CAPTURE(r.name);
        double squares    = 0;  // q, k and v have separate errors
        const auto& names = hf_names.at(r.name).names;
        for (const std::string& piece : names) {
            const bool renamed = !theirs.contains("grad." + piece) && r.name == "head.weight";
            const double rms   = theirs.at("grad." + (renamed ? "lm_head.weight" : piece));
            squares += rms * rms / double(names.size());
        }
        auto ours = floats_of(*r.tensor, m.stream), exact = golden_gradient(golden, c, r);
        for (auto* all : {&ours, &exact}) all->resize(size_t(unpadded(c, r).numel()));  // the padding is exact
        errors.add(r.name, ours, exact, std::sqrt(squares));
    }
    errors.check_all();
}

TEST_CASE("logits and greedy text of every family are the same with a cache and without", "[families]") {
    const Device* dev = GENERATE(from_range(devices()));
    const auto name   = GENERATE(from_range(golden_names()));
    CAPTURE(dev, name);
    const SafetensorsReader golden(golden_home(name) + "/golden.safetensors");
    const auto ids  = ids_of(golden, "ids");
    const Config c  = read_config(golden_home(name));
    const int64_t T = c.context;
    Model m(c, DType::F32, {1, T, false}, *dev);
    load_weights(m.params, c, SafetensorsReader(golden_home(name)), m.stream);

    // Feeding all tokens at once, one by one and in threes gives the same logits, because each sees the same keys.
    const auto whole = logits_of(m, ids, 1, T);
    for (int64_t step : {1, 3})
        CHECK(largest_difference(logits_of(m, ids, 1, T, step), whole) <= 1e-5 * largest_of(whole));
    // --score uses no cache; its losses are the negative log-softmax of the same logits.
    const HostBatch host(ids.data(), 1, T);
    loss_of(m, host.batch);
    const auto losses = floats_of(m.acts.losses, m.stream);
    for (int64_t t = 0; t < T; t++) {
        const float* row = whole.data() + t * c.vocab;
        double total     = 0;
        for (int64_t v = 0; v < c.vocab; v++) total += std::exp(double(row[v]));
        CAPTURE(t);
        CHECK(losses[t] == Approx(std::log(total) - row[host.targets[t]]).epsilon(1e-5));
    }
    // An id that only the padding of the table has a row for is refused.
    CHECK(int64_t(c.padded_vocab()) > c.vocab);
    const std::vector<int32_t> outside = {1, int32_t(c.vocab), 2};
    const std::string refused          = fmt::format("token id {}", c.vocab);
    CHECK_REFUSED(generate(m, outside, 1, 1, {0.f, 0, 1.f, 1}, [](int64_t, int32_t) { return true; }), refused.c_str(),
                  "vocabulary");
    CHECK_REFUSED(log_likelihoods(m, outside), refused.c_str(), "vocabulary");
    // Greedy text with a growing cache equals that of feeding all tokens again for each new one. The text is longer
    // than GPT-Neo's window of 5.
    const int64_t made = dev->where() == Machine::cuda ? 8 : T - 3;  // the emulator is slow
    const Sampling greedy{0.f, 0, 1.f, 1};
    std::vector<int32_t> text(ids.begin(), ids.begin() + 3), with;
    generate(m, text, made, 1, greedy, [&](int64_t, int32_t id) { return with.push_back(id), true; });
    REQUIRE(int64_t(with.size()) == made);
    for (const int32_t id : with) {
        Generator fresh(m, 1, T, greedy);
        fresh.feed({text});
        text.push_back(fresh.choose()[0]);
        CAPTURE(text.size());
        REQUIRE(text.back() == id);
    }
}

TEST_CASE("GPT-J's rotary neighbours become halves and neighbours again", "[families]") {
    Config c   = read_config(golden_home("gptj"));  // it has 5 heads of size 8; 6 coordinates of each rotate
    c.rope.dim = 6;
    const std::vector<int64_t> q = {0, 2, 4, 1, 3, 5, 6, 7};  // our row 1 begins the second pair, which is their row 2
    for (int64_t head = 0; head < 5; head++)
        for (int64_t d = 0; d < 8; d++) {
            const int64_t at = head * 8;
            CHECK(their_row(c, Layout::split_pairs, at + d) == at + q[d]);            // q
            CHECK(their_row(c, Layout::split_pairs, 40 + at + d) == 40 + at + q[d]);  // k
            CHECK(their_row(c, Layout::split_pairs, 80 + at + d) == 80 + at + d);     // v does not rotate
        }
    for (const Layout layout :
         {Layout::as_is, Layout::transposed, Layout::per_head, Layout::split, Layout::split_pairs}) {
        std::vector<int32_t> numbers(120 * 40), theirs(numbers.size()), again(numbers.size());
        std::iota(numbers.begin(), numbers.end(), 0);
        to_their_layout(theirs.data(), numbers.data(), c, {120, 40}, layout);
        to_our_layout(again.data(), theirs.data(), c, {120, 40}, layout);
        CAPTURE(int(layout));
        CHECK(again == numbers);
    }
}

TEST_CASE("a reader says which file of a folder it read, and refuses pickles with the command that converts them",
          "[families]") {
    const Scratch scratch;
    rewrite(golden_home("gptj"), scratch.path, DType::F16, 1'000'000);
    CHECK(SafetensorsReader(scratch.path).description() == "model.safetensors");
    write_text(scratch / "pytorch_model.bin", "pickle");
    write_text(scratch / "training_args.bin", "pickle");
    CHECK(SafetensorsReader(scratch.path).description() == "model.safetensors, not pytorch_model.bin");
    fs::remove(scratch / "model.safetensors");
    CHECK_REFUSED(SafetensorsReader(scratch.path), "pytorch_model.bin", "pickle",
                  ("save_pretrained('" + scratch.path + "')").c_str());
    fs::remove(scratch / "pytorch_model.bin");
    CHECK(weight_files(scratch.path).empty());
    write_text(scratch / "tf_model.h5", "");
    CHECK_REFUSED(SafetensorsReader(scratch.path), "tf_model.h5", "model.safetensors", "save_pretrained");
    fs::remove(scratch / "tf_model.h5");
    rewrite(golden_home("gptj"), scratch.path, DType::F16, 20'000);
    CHECK_REFUSED(SafetensorsReader(scratch / "model-00001-of-00001.safetensors"), "model-00001");
    CHECK(SafetensorsReader(scratch.path).description().find("model.safetensors.index.json, ") == 0);
    // Buffers in files of old versions do not count for the dtype of the weights.
    SafetensorsWriter old(scratch / "old.safetensors", {{"gpt_neox.layers.0.attention.rotary_emb.inv_freq", "F32", {2}},
                                                        {"gpt_neox.layers.0.attention.bias", "U8", {4}},
                                                        {"embed_out.weight", "F16", {2}}});
    for (const char* name :
         {"gpt_neox.layers.0.attention.rotary_emb.inv_freq", "gpt_neox.layers.0.attention.bias", "embed_out.weight"})
        old.write(name, "12345678", std::string(name).back() == 'q' ? 8 : 4);
    old.close();
    CHECK(stored_dtype(SafetensorsReader(scratch / "old.safetensors")) == DType::F16);
}

TEST_CASE("fp16 converts every value there and back, rounds to nearest even, and is refused for what is too large",
          "[families]") {
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        fp16 x;
        x.bits        = uint16_t(bits);
        const float f = x;
        if (std::isnan(f))
            CHECK(std::isnan(float(fp16(f))));
        else if (fp16(f).bits != x.bits)
            FAIL_CHECK("fp16 " << bits << " becomes " << fp16(f).bits);
    }
    CHECK(float(fp16(1.f + 0x1p-11f)) == 1.f);               // a tie goes to even
    CHECK(float(fp16(1.f + 0x3p-11f)) == 1.f + 0x1p-9f);     // a tie goes to even
    CHECK(float(fp16(1.f + 0x1.2p-11f)) == 1.f + 0x1p-10f);  // above the tie
    CHECK(float(fp16(0x1p-25f)) == 0.f);                     // half of the smallest is a tie too
    CHECK(float(fp16(-0x1.8p-25f)) == -0x1p-24f);
    CHECK(float(fp16(65519.f)) == 65504.f);
    CHECK(std::isinf(float(fp16(65520.f))));
    const float large[] = {1.f, -7e4f};
    CHECK_THROWS_AS(stored_bytes(large, 2, DType::F16, "h.0.up"), RunError);
    CHECK(stored_bytes(large, 2, DType::BF16, "h.0.up").size() == 4);
    CHECK_REFUSED(stored_bytes(large, 2, DType::I32, "h.0.up"), "I32", "h.0.up", "F16");
}
