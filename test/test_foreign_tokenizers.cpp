// test_foreign_tokenizers.cpp - tokenizers with many different settings give the ids of Hugging Face's library, special
// tokens in documents are counted, and the folder names the end-of-text token
#include "test/tokenize.h"

#include "test/data.h"

namespace {

const json& golden() {
    static const json file = json::parse(read_text("test/golden/tokenizers.json"));
    return file;
}
json with_change(const json& change) {
    json file = golden()["plain"];
    for (const auto& [key, value] : change.items()) file[key] = value;
    return file;
}
json habit(const std::string& name) {
    for (const json& c : golden()["cases"])
        if (c["name"] == name) return with_change(c["change"]);
    FAIL("no tokenizer named " << name);
    return {};
}
Ids whole(const Tokenizer& t, const std::string& text) {
    Ids ids = t.before();
    for (const int32_t id : t.encode(text)) ids.push_back(id);
    ids.insert(ids.end(), t.after().begin(), t.after().end());
    return ids;
}

struct Folder {
    const Scratch s;
    explicit Folder(const json& tokenizer) { write_text(s / "tokenizer.json", tokenizer.dump()); }
    Ran run_on(const std::string& text, const std::string& options = "", const std::string& name = "d.txt") const {
        write_text(s / name, text);
        return tokenize(s, "--overwrite --input " + quoted(s / name) + " --output " + quoted(s / "x") + " " + options);
    }
    Ids ids(const std::string& text, const std::string& options = "", const std::string& name = "d.txt") const {
        const Ran r = run_on(text, options, name);
        CAPTURE(r.err);
        REQUIRE(r.code == 0);
        return ids_in(s / "x_train_000000.bin");
    }
};

}  // namespace

TEST_CASE("prefix space, normal forms, splits, ids around a text, missing bytes: the ids of Hugging Face's library",
          "[tokenizer][foreign]") {
    for (const json& c : golden()["cases"]) {
        const std::string name = c["name"];
        const Tokenizer t(with_change(c["change"]).dump(), name);
        size_t i = 0;
        for (const std::string text : golden()["texts"]) {
            CAPTURE(name, text);
            CHECK(whole(t, text) == c["ids"][i++].get<Ids>());
        }
        CHECK(i == 120);
    }
}

TEST_CASE("normal forms follow each other, also where one of them changes nothing", "[tokenizer][foreign]") {
    const auto with_forms = [](std::initializer_list<const char*> names) {
        json forms = json::array();
        for (const char* name : names) forms.push_back({{"type", name}});
        return Tokenizer(with_change({{"normalizer", {{"type", "Sequence"}, {"normalizers", forms}}}}).dump());
    };
    // NFD makes U+03A9 of the ohm sign, NFC leaves that alone, and NFKD takes the half apart.
    const std::string text = "\u00bder \u2126", normal = "1\u20442er \u03a9";
    const Ids expected = with_forms({}).encode(normal);
    CHECK(with_forms({"NFD", "NFC", "NFKD"}).encode(text) == expected);
    CHECK(with_forms({"NFD", "NFC", "NFC", "NFKC"}).encode(text) == expected);
    CHECK(with_forms({"NFC", "NFD", "NFC", "NFC", "NFKD", "NFKC"}).encode(text) == expected);
}

TEST_CASE("long documents come in parts that change no token, with any tokenizer", "[tokenizer][foreign]") {
    const Scratch dir;
    for (const json& c : golden()["cases"]) {
        const std::string name = c["name"];
        const Tokenizer t(with_change(c["change"]).dump(), name);
        std::string text;
        for (const std::string piece : golden()["texts"]) text += piece;
        text.erase(std::remove(text.begin(), text.end(), '\0'), text.end());
        write_text(dir / "x.txt", text);
        ReadSettings settings;
        settings.separator.clear();
        settings.part_bytes = 100;
        settings.last_cut   = [&](std::string_view s, size_t from) { return t.last_cut(s, from); };
        List parts;
        REQUIRE(texts({{1, {dir / "x.txt"}}}, settings, &parts) == List{text});
        Tokenizer::Scratch scratch;
        Ids ids;
        for (const std::string& p : parts) t.encode(p, true, ids, scratch);
        CAPTURE(name);
        CHECK(ids == t.encode(text));
        CHECK(parts.size() > 10);
    }
}

TEST_CASE("bytes without a token are counted and reported", "[tokenizer][foreign][programs]") {
    const Folder dropping(habit("fewer bytes")), marking(habit("fewer bytes, unknown"));
    CHECK(says(dropping.run_on("banana 99"), {"5 bytes have no token", "left out", "61 3 times", "39 2 times"}));
    CHECK(says(marking.run_on("banana 99"), {"5 bytes have no token", "became <unk>"}));
    const Tokenizer t = Tokenizer::load(dropping.s / "tokenizer.json");
    CHECK(t.decode(dropping.ids("banana 99")) == "<|endoftext|>bnn ");
    CHECK(dropping.run_on("the sun").err.empty());
}

TEST_CASE("a tokenizer of another kind is refused by the name of its kind", "[tokenizer][foreign]") {
    const Scratch s;
    const auto refused = [&](const std::string& text, std::initializer_list<const char*> words) {
        write_text(s / "t.json", text);
        for (const char* word : words) CHECK_REFUSED(Tokenizer::load(s / "t.json"), "t.json", word);
    };
    refused("minbpe v1\n\n0\n101 32\n", {"minbpe"});
    refused("[\\u0000] 0\n[\\u0001] 1\n", {"minbpe"});
    refused("IQ== 0\nIg== 1\n", {"tiktoken"});
    refused("#version: 0.2\nt h\n", {"merges"});
    refused("[PAD]\n[unused0]\n", {"BERT"});
    refused("\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n", {"SentencePiece"});
    refused("<unk>\t0\n<s>\t0\n\xe2\x96\x81the\t-3.2\n", {"SentencePiece"});
    refused("\xe2\x96\x81\t-2.01\n", {"SentencePiece"});
    refused("GGUF\3\0\0\0", {"GGUF"});
    refused("\x80\x04\x95\x10\0\0\0", {"pickle"});
    refused("PK\3\4\x14\0\0\0", {"zip"});
    refused(gzip("{}"), {"gzip"});
    refused(R"({"version": "1.0", "model": {"type": "WordPiece", "vocab": {}}})", {"model/type", "WordPiece"});
    refused(R"({"version": "1.0", "model": {"type": "Unigram", "vocab": []}})", {"model/type", "Unigram"});
    refused(R"({"class_name": "Tokenizer", "config": {"num_words": 100, "word_index": "{}"}})", {"Keras", "words"});
    refused(R"("{\"class_name\": \"Tokenizer\", \"config\": {}}")", {"Keras", "words"});
    refused(R"({"module": "keras_hub.src.models.gpt2.gpt2_tokenizer", "class_name": "GPT2Tokenizer", "config": {}})",
            {"KerasHub", "vocab.json"});
    refused(R"({"module": "keras_nlp.src.models", "class_name": "GPT2Tokenizer", "config": {}})", {"KerasHub"});
    refused(R"({"the": 0, "sea": 1, "<unk>": 2})", {"vocabulary without merges"});
    json plain       = golden()["plain"];
    const auto level = plain["pre_tokenizer"];
    const auto bad   = [&](const char* pointer, const json& value, std::initializer_list<const char*> words) {
        json file                         = plain;
        file[json::json_pointer(pointer)] = value;
        refused(file.dump(), words);
    };
    const json gpt2 = habit("split")["pre_tokenizer"]["pretokenizers"][0];
    json other = gpt2, merged = gpt2, prefixed = level;
    other["pattern"]["Regex"]    = "\\w+|\\s+";
    merged["behavior"]           = "MergedWithNext";
    prefixed["add_prefix_space"] = true;
    const auto sequence = [](const json& parts) { return json{{"type", "Sequence"}, {"pretokenizers", parts}}; };
    bad("/pre_tokenizer", sequence({other, level}), {"pre_tokenizer/pattern"});
    bad("/pre_tokenizer", sequence({merged, level}), {"pre_tokenizer/behavior", "MergedWithNext"});
    bad("/pre_tokenizer", sequence({gpt2, prefixed}), {"add_prefix_space"});
    bad("/pre_tokenizer", sequence({level, gpt2}), {"behind ByteLevel"});
    bad("/pre_tokenizer", sequence(json::array({gpt2})), {"ByteLevel"});
    bad("/pre_tokenizer", sequence({{{"type", "Digits"}, {"individual_digits", true}}, level}), {"Digits"});
    bad("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Lowercase"}}}}},
        {"Lowercase"});
    bad("/post_processor/type", "Unheard", {"post_processor/type", "Unheard"});
    json lost                            = habit("BOS")["post_processor"];
    lost["special_tokens"]["<s>"]["ids"] = {9999};
    bad("/post_processor", lost, {"9999"});
}

TEST_CASE("special tokens in documents: plain text, ids, or refused, and always counted", "[foreign][programs]") {
    const Folder f(golden()["plain"]);
    const Tokenizer t      = Tokenizer::load(f.s / "tokenizer.json");
    const std::string text = "<|user|> the cat<|endoftext|> sat<|user|>";
    Ids plain = {t.eot()}, ids = {t.eot()};
    for (const int32_t id : t.encode(text, false)) plain.push_back(id);
    for (const int32_t id : t.encode(text, true)) ids.push_back(id);
    REQUIRE(ids.size() < plain.size());
    CHECK(f.ids(text) == plain);
    CHECK(says(f.run_on(text), {"<|user|> stands in documents 2 times", "plain text",
                                "<|endoftext|> stands in documents 1 time ", "--special-tokens ids"}));
    CHECK(f.ids(text, "--special-tokens ids") == ids);
    CHECK(says(f.run_on(text, "--special-tokens ids"), {"<|user|> stands in documents 2 times", "the token 1"}));
    const Ran refused = f.run_on("the sea\n<|endoftext|>\n" + text, "--special-tokens refuse");
    CHECK(refused.code == 2);
    CHECK(says(refused, {"d.txt line 3", "<|", "--special-tokens"}));
    CHECK(says(f.run_on("the sea\n<|endoftext|>\n" + text, "--special-tokens refuse --on-error skip"),
               {"skipped 1 bad document"}));
    CHECK(f.ids("the sea\n<|endoftext|>\n" + text, "--special-tokens refuse --on-error skip") == f.ids("the sea\n"));
    CHECK(f.run_on("the sea\n<|endoftext|>\nthe cat").err.empty());
    const json summary = [&] {
        f.run_on(text);
        return json::parse(read_text(f.s / "x_summary.json"));
    }();
    CHECK(summary["special_tokens"] == "text");
    CHECK(summary["special_tokens_met"] == json({{"<|user|>", 2}, {"<|endoftext|>", 1}}));

    // A separator with other text in its line separates nothing, and that is reported, also if it is not a token.
    for (const char* line : {"a<|endoftext|>\nb", "a\n<|endoftext|> \nb", "a\n\t<|endoftext|>\nb"}) {
        const Ran r = f.run_on(line);
        CHECK(says(r, {"1 document,", "<|endoftext|> stands in documents 1 time", "lines that hold nothing but"}));
    }
    CHECK(says(f.run_on("a\n--- \nb\n---\nc --- d", "--separator ---"),
               {"2 documents", "--- stands in documents 2 times"}));
    CHECK(says(f.run_on("{\"text\": \"a<|endoftext|>b\"}\n", "", "d.jsonl"),
               {"<|endoftext|> stands in documents 1 time"}));
}

TEST_CASE("the end of a text is what --eot-token or the folder says", "[foreign][programs]") {
    json file = golden()["plain"];
    for (json& token : file["added_tokens"])
        if (token["content"] == "<|endoftext|>") token["content"] = "</s>";
    const json id = file["model"]["vocab"]["<|endoftext|>"];
    file["model"]["vocab"].erase("<|endoftext|>");
    file["model"]["vocab"]["</s>"] = id;
    const Folder f(file);
    const Tokenizer t = Tokenizer::load(f.s / "tokenizer.json");
    REQUIRE(t.eot() == -1);
    const std::string text = "One.\n<|endoftext|>\nTwo.\n";
    const auto expected    = [&](int32_t mark) {
        Ids ids;
        for (const char* document : {"One.\n", "Two.\n"}) {
            ids.push_back(mark);
            for (const int32_t i : t.encode(document)) ids.push_back(i);
        }
        return ids;
    };
    const Ran without = f.run_on(text);
    CHECK(without.code == 2);
    CHECK(says(without, {"no <|endoftext|>", "--eot-token", "</s>", "<|user|>"}));
    CHECK(f.ids(text, "--eot-token '</s>'") == expected(id));
    CHECK(f.ids(text, "--eot-token '<|user|>'") == expected(t.id_of("<|user|>")));
    CHECK(says(f.run_on(text, "--eot-token '<eos>'"), {"--eot-token <eos>", "no such token", "</s>"}));
    CHECK(says(f.run_on(text, "--eot-token ''"), {"--eot-token ''"}));
    for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"})
        for (const char* token : {R"("</s>")", R"({"content": "</s>", "lstrip": false})"}) {
            write_text(f.s / name, fmt::format(R"({{"bos_token": "<s>", "eos_token": {}}})", token));
            CHECK(f.ids(text) == expected(id));
            CHECK(Tokenizer::load(f.s / "tokenizer.json").eot() == id);
            fs::remove(f.s / name);
        }
    write_text(f.s / "tokenizer_config.json", R"({"eos_token": "<|user|>"})");
    write_text(f.s / "special_tokens_map.json", R"({"eos_token": "</s>"})");
    CHECK(f.ids(text) == expected(t.id_of("<|user|>")));

    // A beginning-of-text token of the post-processor is not written twice.
    const Folder bos(habit("BOS"));
    const Tokenizer b = Tokenizer::load(bos.s / "tokenizer.json");
    Ids once = {b.id_of("<s>")}, twice = {b.eot(), b.id_of("<s>")};
    for (const int32_t i : b.encode("the cat")) once.push_back(i), twice.push_back(i);
    CHECK(bos.ids("the cat", "--eot none") == once);
    CHECK(bos.ids("the cat", "--eot-token '<s>'") == once);
    CHECK(bos.ids("the cat") == twice);
}

TEST_CASE("files made after reports about other programs: tokenizers", "[foreign][shared][programs]") {
    const std::string home = shared_data("bugreports");
    if (home.empty()) return;
    const json expected = json::parse(read_text(home + "/hf-default-tokenizer/expected.json"));
    for (const char* name : {"defaults", "prefix_space", "no_alphabet"}) {
        const Tokenizer t = Tokenizer::load(home + "/hf-default-tokenizer/" + name + ".json");
        CHECK(t.encode("And here we go!") == expected[name].get<Ids>());
    }
    const Scratch s;
    const auto run_on = [&](const std::string& folder, const std::string& options) {
        return run(s, "tokenize",
                   "--overwrite --tokenizer " + quoted(home + "/" + folder + "/tokenizer.json") + " --output " +
                       quoted(s / "x") + " " + options);
    };
    const std::string chat = "special-tokens-in-documents", path = home + "/" + chat;
    const json ids         = json::parse(read_text(path + "/expected.json"));
    const auto without_eot = [&] {
        const Ids all = ids_in(s / "x_train_000000.bin");
        return Ids(all.begin() + 1, all.end());
    };
    CHECK(says(run_on(chat, "--input " + quoted(path + "/chat.jsonl")), {"<|user|>", "<|bot|>", "plain text"}));
    CHECK(without_eot() == ids["as_plain_text"].get<Ids>());
    REQUIRE(run_on(chat, "--special-tokens ids --input " + quoted(path + "/chat.jsonl")).code == 0);
    CHECK(without_eot() == ids["hugging_face_ids"].get<Ids>());

    const std::string other = "other-end-token";
    REQUIRE(run_on(other, "--input " + quoted(home + "/" + other + "/two.jsonl")).code == 0);
    const Ids marked = ids_in(s / "x_train_000000.bin");
    CHECK(marked[0] == 511);
    CHECK(std::count(marked.begin(), marked.end(), 511) == 2);

    const std::string inline_end = home + "/inline-endoftext";
    const std::string gpt2       = "--tokenizer " + quoted(shared_data("tokenizers/gpt2/tokenizer.json"));
    for (const auto& [name, times] : {std::pair{"stories.txt", "3 times"}, {"trailing_space.txt", "1 time "}})
        CHECK(
            says(run(s, "tokenize",
                     gpt2 + " --overwrite --output " + quoted(s / "x") + " --input " + quoted(inline_end + "/" + name)),
                 {"<|endoftext|> stands in documents " + std::string(times), "1 document,"}));
}
