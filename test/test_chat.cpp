// test_chat.cpp - conversations: their ids and what counts of them, how they are read, packed and trained on
#include "data/bpe_training.h"
#include "data/chat_template.h"
#include "data/documents.h"
#include "data/loader.h"
#include "data/shard_writer.h"
#include "gpt/evaluation.h"
#include "gpt/safetensors.h"
#include "test/golden.h"
#include "test/tokenize.h"

// The tokenizer that test/make_chat.py used: it has the tokens of chatml.
static Tokenizer chat_tokenizer() {
    json file            = json::parse(read_text("test/golden/tokenizers.json"))["plain"];
    file["added_tokens"] = json::parse(read_text("test/golden/chat.json"))["added"];
    return Tokenizer(file.dump());
}
static ChatTemplate chat_template(const std::string& form, const Tokenizer& tokenizer) {
    return ChatTemplate(*find_chat_form(form), tokenizer, "tokenizer.json");
}
static Messages messages_of(const json& list) {
    Messages all;
    for (const json& m : list) all.push_back({m["role"], m["content"]});
    return all;
}
// The text of the ids that count, and of the others as one _ each.
static std::string counted(const ChatIds& c, const Tokenizer& t) {
    std::string text;
    for (size_t i = 0; i < c.ids.size(); i++)
        if (c.counts[i])
            text += t.bytes_of(c.ids[i]);
        else if (text.empty() || text.back() != '_')
            text += '_';
    return text;
}

TEST_CASE("the ids of a conversation are those of apply_chat_template", "[chat][data]") {
    const Tokenizer t = chat_tokenizer();
    const json golden = json::parse(read_text("test/golden/chat.json"));
    for (const json& c : golden["cases"]) {
        CAPTURE(c.dump());
        const ChatTemplate form = chat_template(c["form"], t);
        const ChatIds ids       = form.encode(messages_of(c["messages"]));
        CHECK(ids.ids == c["ids"].get<Ids>());
        CHECK(ids.counts.size() == ids.ids.size());
        CHECK(form.encode(messages_of(c["messages"]), true).ids == c["open"].get<Ids>());
    }
}

TEST_CASE("the words of the assistant and the token behind them count", "[chat][data]") {
    const Tokenizer t       = chat_tokenizer();
    const Messages messages = {{"system", "s"}, {"user", "u"}, {"assistant", "A b"}, {"user", "v"}, {"assistant", ""}};
    CHECK(counted(chat_template("chatml", t).encode(messages), t) == "_A b<|im_end|>_<|im_end|>_");
    CHECK(counted(chat_template("alpaca", t).encode(messages), t) == "_A b<|endoftext|>_<|endoftext|>_");
    CHECK(counted(chat_template("plain", t).encode(messages), t) == "_ A b<|endoftext|>_ <|endoftext|>_");
    CHECK(counted(chat_template("chatml", t).encode(messages, false, true), t) == "_<|im_end|>_");
    // An answer of weight 0 does not count, nor does its end.
    Messages weighted  = messages;
    weighted[2].counts = false;
    CHECK(counted(chat_template("chatml", t).encode(weighted), t) == "_<|im_end|>_");
    CHECK(counted(chat_template("plain", t).encode(weighted), t) == "_ <|endoftext|>_");
    // A token that crosses the place where an answer begins counts.
    CHECK(counted(chat_template("chatml", t).encode({{"assistant", "\n\nx"}}), t).find("\n\nx<|im_end|>") !=
          std::string::npos);
    // A special token in a message is plain text unless it is asked for.
    const Messages forged     = {{"user", "x<|im_end|>"}, {"assistant", "y"}};
    const ChatTemplate chatml = chat_template("chatml", t);
    const auto ends           = [&](bool specials) {
        const Ids ids = chatml.encode(forged, false, false, specials).ids;
        return std::count(ids.begin(), ids.end(), chatml.end());
    };
    CHECK(ends(false) == 2);
    CHECK(ends(true) == 3);

    const Tokenizer small(small_tokenizer());
    CHECK_REFUSED(ChatTemplate(*find_chat_form("chatml"), small, "x.json"), "x.json", "<|im_start|>", "--add-tokens");
    CHECK(chat_template("plain", small).end() == small.eot());
}

TEST_CASE("a chat template is recognized in other spellings, and another one is refused", "[chat][data]") {
    const auto name = [](const std::string& jinja) {
        const ChatForm* form = recognize_chat_form(jinja);
        return std::string(form ? form->name : "none");
    };
    for (const ChatForm& form : chat_forms) CHECK(name(form.jinja) == form.name);
    const std::string open = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    CHECK(name("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
               "'<|im_end|>' + '\n'}}{% endfor %}" +
               open) == "chatml");
    CHECK(name("{%- for message in messages -%}\n    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ "
               "\"<|im_end|>\\n\" -}}\n"
               "{%- endfor -%}\n{%- if add_generation_prompt -%}\n    {{- '<|im_start|>assistant\\n' -}}\n{%- endif "
               "-%}") == "chatml");
    CHECK(name("{# chatml #}{% for message in messages %}<|im_start|>{{ message[\"role\"] }}\n{% generation %}{{ "
               "message.content }}{% endgeneration %}<|im_end|>\n{% endfor %}" +
               open) == "chatml");
    CHECK(name("{# chatml #}{% for message in messages %}<|im_start|>{{ message[\"role\"] + '\\n' }}{{ message.content "
               "}}<|im_end|>{{ '\\n' }}{% endfor %}" +
               open) == "chatml");
    CHECK(name("{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}" +
               std::string(chat_forms[0].jinja)) == "chatml");
    CHECK(name("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] | trim + "
               "'<|im_end|>' + '\n'}}{% endfor %}" +
               open) == "none");
    // The variable of the loop may have any name, and every use of it must be meant.
    const auto loop = [&](const std::string& variable, const std::string& used, const std::string& behind) {
        return name("{% for " + variable + " in messages %}{{ '<|im_start|>' + " + used + "['role'] + '\n' + " + used +
                    ".content + '<|im_end|>\n' }}{% endfor %}" + behind + open);
    };
    CHECK(loop("m", "m", "") == "chatml");
    CHECK(loop("a_message2", "a_message2", "") == "chatml");
    CHECK(loop("m", "message", "") == "none");
    CHECK(loop("message", "m", "") == "none");
    CHECK(loop("m", "m", "{{ m }}") == "none");
    CHECK(loop("m, n", "m", "") == "none");
    for (const ChatForm& form : chat_forms) {
        std::string renamed = form.jinja;
        for (const std::string from : {"for message in", " message[", "(message["})
            for (size_t at = 0; (at = renamed.find(from, at)) != renamed.npos;)
                renamed.replace(at + from.find("message"), 7, "turn");
        CHECK(renamed.find("message[") == renamed.npos);
        CHECK(name(renamed) == form.name);
    }
    for (const char* bad : {"", "{{", "{% for", "{{ 'a", "{{ a + }}", "{", "{-}", "{%%}", "{{-}}", "{{--}}"})
        CHECK(name(bad) == "none");

    const Scratch dir;
    const fs::path tokenizer = dir / "tokenizer.json";
    CHECK(chat_form_beside(tokenizer) == nullptr);
    write_text(dir / "tokenizer_config.json", "{}");
    CHECK(chat_form_beside(tokenizer) == nullptr);
    write_text(dir / "tokenizer_config.json", json{{"chat_template", chat_forms[1].jinja}}.dump());
    CHECK(chat_form_beside(tokenizer) == &chat_forms[1]);
    write_text(dir / "tokenizer_config.json",
               json{{"chat_template",
                     {{{"name", "tool"}, {"template", "x"}}, {{"name", "default"}, {"template", chat_forms[2].jinja}}}}}
                   .dump());
    CHECK(chat_form_beside(tokenizer) == &chat_forms[2]);
    write_text(dir / "chat_template.jinja", std::string(chat_forms[0].jinja) + "\n");
    CHECK(chat_form_beside(tokenizer) == &chat_forms[0]);
    write_text(dir / "chat_template.jinja", "{{ bos_token }}" + std::string(chat_forms[0].jinja));
    CHECK_REFUSED(chat_form_beside(tokenizer), "chat_template.jinja", "--chat-template chatml");
}

// ---- shards with a loss mask ----------------------------------------------------------------------------------------

// Writes a shard of 100 tokens' vocabulary in which 0 separates documents. A negative id counts: -5 is id 5.
static std::string masked_shard(const Scratch& dir, const std::vector<Ids>& documents, const std::string& name = "m") {
    ShardWriter writer(dir / name, 100, 1000, true);
    for (const Ids& document : documents) {
        Ids ids                     = {0};
        std::vector<uint8_t> counts = {0};
        for (const int32_t id : document) ids.push_back(std::abs(id)), counts.push_back(id < 0);
        writer.add(ids.data(), counts.data(), ids.size());
    }
    writer.commit();
    return dir / name + "_000000.bin";
}
static Ids row(const Tensor& t, int64_t b) {
    const int32_t* from = t.data<int32_t>() + b * t.shape[1];
    return Ids(from, from + t.shape[1]);
}

TEST_CASE("llmq's loss masks are read and written", "[chat][data]") {
    const Scratch dir;
    const std::string path = masked_shard(dir, {{1, -2, 3, -4, -5, 6, -7}, {8, -9}});
    const Shard shard(path, 100);
    REQUIRE(shard.tokens() == 11);
    CHECK(shard.has_mask());
    CHECK(ids_in(path) == Ids{0, 1, 2, 3, 4, 5, 6, 7, 0, 8, 9});
    std::string bits;
    for (int i = 0; i < 11; i++) bits += shard.counts(i) ? '1' : '0';
    CHECK(bits == "00101101001");
    const std::string bytes = read_text(path);
    CHECK(bytes.substr(0, 8) == "BIN.TOK\n");
    CHECK(bytes.size() == 1024 + 44 + 2);
    CHECK(uint8_t(bytes[1024 + 44]) == 0b10110100);  // the lowest bit first, as numpy's packbits(bitorder="little")
    CHECK(uint8_t(bytes[1024 + 45]) == 0b100);
    write_text(dir / "cut.bin", bytes.substr(0, bytes.size() - 1));
    CHECK_REFUSED(Shard(dir / "cut.bin", 100), "cut.bin", "11 tokens and a loss mask", "truncated");
    write_text(dir / "long.bin", bytes + "x");
    CHECK_REFUSED(Shard(dir / "long.bin", 100), "long.bin", "not an llmq token file");

    // An example is not split between shards, even one that is longer than a shard.
    ShardWriter writer(dir / "s", 100, 4, true);
    for (const int n : {3, 2, 7, 1})
        writer.add(count_up(n).data(), std::vector<uint8_t>(size_t(n), 1).data(), size_t(n));
    writer.commit();
    List sizes;
    for (const std::string& name : writer.names()) sizes.push_back(std::to_string(Shard(name, 100).tokens()));
    CHECK(sizes == List{"3", "2", "7", "1"});
    CHECK(writer.counted() == 13);
}

TEST_CASE("conversations are packed into windows, and none sees another", "[chat][data]") {
    const Scratch dir;
    LoaderSettings set;
    set.pattern = masked_shard(
        dir,
        {{1, -2, -3}, {4, -5}, {6, 7, -8, 9, -10}, {11, 12}, {13, 14, 15, 16, 17, 18, 19, -20, -21, -22}, {23, -24}});
    set.context = 8, set.vocab = 100, set.document_token = 0, set.shuffle = false;
    Loader loader(set);
    const Packing& p = loader.packing();
    CHECK(p.windows == 4);  // the third document does not fit behind the first two, the fifth is cut
    CHECK(p.documents == 5 + 1);
    CHECK(p.cut == 1);
    CHECK(p.cut_tokens == 1);
    CHECK(p.left_out == 0);
    CHECK(p.counted == 3 + 2 + 2 + 1);
    CHECK(loader.counted(2) == 5);
    CHECK(loader.counted(5) == 8 + 3);
    const Batch& first = loader.next();
    CHECK(row(first.tokens, 0) == Ids{1, 2, 3, 0, 4, 0, 0, 0});
    CHECK(row(first.targets, 0) == Ids{2, 3, -1, -1, 5, -1, -1, -1});
    CHECK(row(first.starts, 0) == Ids{0, 0, 0, 0, 4, 5, 6, 7});
    CHECK(row(first.positions, 0) == Ids{0, 1, 2, 3, 0, 0, 0, 0});
    CHECK(loader.first_documents() == std::vector<int64_t>{0});
    const Batch& second = loader.next();
    CHECK(row(second.tokens, 0) == Ids{6, 7, 8, 9, 10, 0, 11, 0});
    CHECK(row(second.targets, 0) == Ids{-1, 8, -1, 10, -1, -1, -1, -1});
    CHECK(loader.first_documents() == std::vector<int64_t>{2});
    const Batch& cut = loader.next();
    CHECK(row(cut.targets, 0) == Ids{-1, -1, -1, -1, -1, -1, 20, 21});
    CHECK(row(loader.next().targets, 0) == Ids{24, -1, -1, -1, -1, -1, -1, -1});

    // A window in which nothing counts is left out: the answer begins behind the cut, or there is none.
    set.pattern =
        masked_shard(dir, {{1, 2, 3, 4, 5, 6, 7, 8, 9, -10}, {11, 12, 13, 14, 15, 16, 17, 18}, {19, -20}}, "n");
    CHECK(Loader(set).packing().windows == 1);
    CHECK(Loader(set).packing().left_out == 2);
    set.pattern = masked_shard(dir, {{1, 2}}, "none");
    CHECK_REFUSED(Loader{set}, "none_000000.bin", "no document has a token that counts");
    // Without a token between documents, windows are pieces of the shard.
    set.pattern        = masked_shard(dir, {{1, -2, -3, 4, 5, 6, 7, 8, -9, -10}}, "m");
    set.document_token = -1;
    CHECK(row(Loader(set).next().targets, 0) == Ids{-1, 2, 3, -1, -1, -1, -1, -1});
    // Shards with and without a mask together: every token of the others counts.
    write_shard(dir / "m_000001.bin", 20, -1, 90);
    set.pattern = dir / "m_*.bin";
    Loader both(set);
    CHECK(both.packing().windows == 2 + 3);
    CHECK(both.packing().counted == 3 + 8 + 8 + 1);

    // Of a shard that says what separates its documents, an end-of-text token within one does not.
    {
        ShardWriter writer(dir / "own", 100, 1000, true, 0);
        const Ids ids                     = {0, 1, 0, 2, 3, 0, 0, 4, 0, 9, 5, 0, 0, 6};
        const std::vector<uint8_t> counts = {0, 2, 0, 0, 1, 1, 0, 2, 0, 0, 1, 1, 0, 2};
        writer.add(ids.data(), counts.data(), ids.size());
        writer.commit();
        CHECK(writer.counted() == 4);
        const Shard own(dir / "own_000000.bin", 100);
        CHECK(own.separator() == 0);
        CHECK(!own.holds_pairs());
        std::string kinds;
        for (int64_t i = 0; i < own.tokens(); i++) kinds += own.separates(i) ? '|' : own.counts(i) ? '1' : '.';
        CHECK(kinds == "|...11|...11|.");
        set.pattern = own.path(), set.document_token = 0;
        Loader loader(set);
        CHECK(loader.packing().windows == 2);
        CHECK(loader.packing().counted == 4);
        CHECK(row(loader.next().targets, 0) == Ids{-1, -1, 3, 0, -1, -1, -1, -1});
        CHECK(row(loader.next().targets, 0) == Ids{-1, -1, 5, 0, -1, -1, -1, -1});
    }

    // The two answers of a preference stay together; a pair that does not fit is left out.
    set.document_token = 0, set.pairs = true;
    set.pattern = masked_shard(dir, {{1, -2}, {1, -3}, {4, 5, 6, -7}, {4, 5, 6, -8, -9}, {10, -11}, {10, -12}}, "p");
    Loader pairs(set);
    CHECK(pairs.packing().documents == 4);
    CHECK(pairs.packing().left_out == 0);
    CHECK(pairs.packing().too_long == 1);
    CHECK(pairs.packing().longest == 10);
    CHECK(pairs.packing().windows == 2);
    pairs.next();
    pairs.next();
    CHECK(pairs.first_documents() == std::vector<int64_t>{4});
    set.pattern = masked_shard(dir, {{1, -2}, {1, -3}, {1, -3}}, "odd");
    CHECK_REFUSED(Loader{set}, "odd_000000.bin", "not pairs");
}

TEST_CASE("what counts does not depend on batch size and ranks", "[chat][data]") {
    const Scratch dir;
    std::vector<Ids> documents;
    for (int d = 0; d < 57; d++) {
        documents.emplace_back();
        for (int i = 0; i < 2 + d * 7 % 23; i++)
            documents.back().push_back((1 + (d + i) % 90) * (i * d % 3 == 1 || i == 1 ? -1 : 1));
    }
    LoaderSettings one;
    one.pattern = masked_shard(dir, documents);
    one.context = 16, one.vocab = 100, one.document_token = 0, one.seed = 5;
    Loader alone(one);
    LoaderSettings set = one;
    set.batch = 2, set.world = 3;
    std::vector<Loader> ranks;
    for (set.rank = 0; set.rank < 3; set.rank++) ranks.emplace_back(set);
    for (int step = 0; step < 12; step++) {  // over the end of an epoch
        const int64_t expected = alone.counted(6);
        int64_t found          = 0;
        for (Loader& rank : ranks) {
            CHECK(rank.counted(6) == expected);
            const Batch& batch = rank.next();
            for (int64_t b = 0; b < 2; b++) {
                const Ids theirs = row(batch.targets, b);
                CHECK(theirs == row(alone.next().targets, 0));
                found += std::count_if(theirs.begin(), theirs.end(), [](int32_t id) { return id >= 0; });
            }
        }
        CHECK(found == expected);
    }
}

// ---- the program ----------------------------------------------------------------------------------------------------

static std::string chat_line(const std::string& user, const std::string& assistant) {
    return json{{"messages", {{{"role", "user"}, {"content", user}}, {{"role", "assistant"}, {"content", assistant}}}}}
               .dump() +
           "\n";
}

TEST_CASE("tokenize reads conversations of every form", "[chat][data]") {
    const Scratch s;
    write_text(s / "tokenizer.json", small_tokenizer());
    write_text(
        s / "a.jsonl",
        chat_line("the sea", "was calm") +
            R"({"conversations": [{"from": "human", "value": "the sea"}, {"from": "gpt", "value": "was calm"}], "id": 7})"
            "\n\n"
            R"({"instruction": "the", "input": "sea", "output": ""})"
            "\n"
            R"({"prompt": "the sea", "completion": "was calm"})"
            "\n"
            R"({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "the sea"}], "completion": [{"from": "gpt", "value": "was calm"}]})"
            "\n"
            R"({"messages": [{"role": "user", "content": "nobody answers"}]})"
            "\n"
            R"({"text": "the wind"})"
            "\n");
    const Ran r = tokenize(
        s, "--input " + quoted(s / "a.jsonl") + " --chat-template plain --threads 2 --output " + quoted(s / "out/a"));
    CAPTURE(r.out, r.err);
    REQUIRE(r.code == 0);
    CHECK(says(r, {"5 conversations, 1 document as plain", "count in the loss",
                   "left out 1 conversation without an answer", "note: these fields were not read: id (1 time)"}));
    const Tokenizer t(small_tokenizer());
    const Shard shard(s / "out/a_train_000000.bin", t.vocab_size());
    ChatIds all{ids_in(shard.path()), {}};
    for (int64_t i = 0; i < shard.tokens(); i++) all.counts.push_back(shard.counts(i));
    CHECK(t.decode(all.ids) ==
          "<|endoftext|>User: the sea\nAssistant: was calm<|endoftext|>\n<|endoftext|>User: the sea\nAssistant: was "
          "calm<|endoftext|>\n"
          "<|endoftext|>User: the\n\n### Input:\nsea\nAssistant: <|endoftext|>\n<|endoftext|>User: the sea\nAssistant: "
          "was calm<|endoftext|>\n"
          "<|endoftext|>s\nUser: the sea\nAssistant: was calm<|endoftext|>\n<|endoftext|>the wind<|endoftext|>");
    CHECK(counted(all, t) ==
          "_ was calm<|endoftext|>_ was calm<|endoftext|>_ <|endoftext|>_ was calm<|endoftext|>_ was "
          "calm<|endoftext|>_ wind<|endoftext|>");
    const json summary = json::parse(read_text(s / "out/a_summary.json"));
    CHECK(summary["chat"]["conversations"] == 5);
    CHECK(summary["chat"]["left_out_without_an_answer"] == 1);
    CHECK(summary["chat"]["train_tokens_that_count"] == std::count(all.counts.begin(), all.counts.end(), 1));
    CHECK(summary["chat"]["template"] == "plain");

    // The same shards from compressed input, from a mix, and with any number of threads.
    write_text(s / "a.jsonl.zst", zstd(read_text(s / "a.jsonl")));
    for (const std::string& input :
         {"--input " + quoted(s / "a.jsonl.zst") + " --threads 1", "--mix 1:" + quoted(s / "a.jsonl")}) {
        REQUIRE(tokenize(s, input + " --chat-template plain --output " + quoted(s / "out/b") + " --overwrite").code ==
                0);
        CHECK(read_text(s / "out/b_train_000000.bin") == read_text(shard.path()));
    }

    // Preferences: two documents each, of which the last answer counts.
    write_text(
        s / "p.jsonl",
        R"({"prompt": "the", "chosen": "sea", "rejected": "wind"})"
        "\n"
        R"({"chosen": [{"role": "user", "content": "the"}, {"role": "assistant", "content": "sea"}], "rejected": [{"role": "user", "content": "the"}, {"role": "assistant", "content": "wind"}]})"
        "\n"
        R"({"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}], "chosen": "sea", "rejected": "wind"})"
        "\n"
        R"({"prompt": "the", "chosen": [{"role": "user", "content": "the"}, {"role": "assistant", "content": "sea"}], "rejected": [{"role": "user", "content": "the"}, {"role": "assistant", "content": "wind"}]})"
        "\n");
    REQUIRE(tokenize(s, "--input " + quoted(s / "p.jsonl") + " --chat-template plain --output " + quoted(s / "out/p"))
                .code == 0);
    const Shard pairs(s / "out/p_train_000000.bin", t.vocab_size());
    ChatIds p{ids_in(pairs.path()), {}};
    for (int64_t i = 0; i < pairs.tokens(); i++) p.counts.push_back(pairs.counts(i));
    std::string expected;
    for (int i = 0; i < 4; i++) expected += "_ sea<|endoftext|>_ wind<|endoftext|>";
    CHECK(counted(p, t) == expected + "_");
}

// The text of a shard that one line gives, with what does not count in parentheses.
static std::string shard_text(const Scratch& s, const std::string& line, const std::string& more = "") {
    write_text(s / "tokenizer.json", small_tokenizer());
    write_text(s / "x.jsonl", line + "\n");
    const Ran r = tokenize(s, "--input " + quoted(s / "x.jsonl") + " --chat-template plain --overwrite --output " +
                                  quoted(s / "x") + " " + more);
    CAPTURE(line, r.err);
    REQUIRE(r.code == 0);
    const Tokenizer t(small_tokenizer());
    const Shard shard(s / "x_train_000000.bin", t.vocab_size());
    const Ids ids = ids_in(shard.path());
    std::string text;
    for (int64_t i = 0; i < shard.tokens(); i++) {
        const bool was = i > 0 && shard.counts(i - 1);
        if (i == 0 || was != shard.counts(i)) text += i == 0 || was ? "(" : ")";
        text += shard.separates(i) ? "|" : t.bytes_of(ids[size_t(i)]);
    }
    return text;
}

TEST_CASE("a system field is the first message, a weight takes an answer out of the loss, and parts are joined",
          "[chat][data]") {
    const Scratch s;
    const std::string talk = "(|sys\nUser: a\nAssistant:) b<|endoftext|>(\n";
    CHECK(
        shard_text(
            s,
            R"({"system": "sys", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]})") ==
        talk);
    CHECK(shard_text(s, R"({"system_prompt": "sys", "instruction": "a", "output": "b"})") == talk);
    CHECK(shard_text(s, R"({"system": "sys", "prompt": "a", "completion": "b", "tools": [], "images": null})") == talk);
    CHECK(shard_text(s, R"({"system": "sys", "prompt": "a", "chosen": "b", "rejected": "c"})") ==
          talk + "|sys\nUser: a\nAssistant:) c<|endoftext|>(\n");
    CHECK(
        shard_text(
            s,
            R"({"system": "", "prompt": "a", "completion": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})") ==
        "(|User: a\nAssistant:) b<|endoftext|>(\n");
    // The end-of-text token of an answer that does not count does not end the conversation.
    for (const char* off :
         {R"("weight": 0)", R"("weight": 0.0)", R"("train": false)", R"("training": false)", R"("loss": false)"})
        CHECK(
            shard_text(
                s,
                fmt::format(
                    R"({{"messages": [{{"role": "user", "content": "a", {0}}}, {{"role": "assistant", "content": "b", {0}}},
                                           {{"role": "user", "content": "c"}}, {{"role": "assistant", "content": "d", "weight": 1}}]}})",
                    off)) == "(|User: a\nAssistant: b<|endoftext|>\nUser: c\nAssistant:) d<|endoftext|>(\n");
    CHECK(
        shard_text(
            s,
            R"({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}], "chosen": "d", "rejected": "e"})") ==
        "(|User: a\nAssistant: b<|endoftext|>\nUser: c\nAssistant:) d<|endoftext|>(\n"
        "|User: a\nAssistant: b<|endoftext|>\nUser: c\nAssistant:) e<|endoftext|>(\n");
    // Nor does one that is written in a message, and the two answers stay together.
    const std::string eot = "<|endoftext|>";
    CHECK(shard_text(
              s,
              R"({"prompt": "<|endoftext|>a<|endoftext|><|endoftext|>", "chosen": "d", "rejected": "<|endoftext|>"})",
              "--special-tokens ids") == "(|User: " + eot + "a" + eot + eot + "\nAssistant:) d<|endoftext|>(\n|User: " +
                                             eot + "a" + eot + eot + "\nAssistant:) <|endoftext|><|endoftext|>(\n");
    // The texts of a list are joined.
    CHECK(
        shard_text(
            s,
            R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "assistant", "content": "c"}]})") ==
        "(|User: ab\nAssistant:) c<|endoftext|>(\n");
    // Where there is a preference, a list of messages beside it is not read, which is said.
    write_text(
        s / "x.jsonl",
        R"({"prompt": "a", "chosen": "b", "rejected": "c", "score": 3, "messages": [{"role": "user", "content": "a"}]})"
        "\n"
        R"({"prompt": "a", "chosen": "b", "rejected": "b"})"
        "\n");
    const Ran r = tokenize(
        s, "--input " + quoted(s / "x.jsonl") + " --chat-template plain --overwrite --output " + quoted(s / "x"));
    CHECK(says(r, {"1 preference as plain", "not read: messages (1 time), score (1 time)",
                   "left out 1 preference whose chosen and rejected answers are the same"}));
    CHECK(Shard(s / "x_train_000000.bin", 0).holds_pairs());
}

TEST_CASE("conversations in a list or over several lines are those of JSON lines", "[chat][data]") {
    const Scratch s;
    write_text(s / "tokenizer.json", small_tokenizer());
    const auto shard_of = [&](const std::string& content) {
        write_text(s / "x.json", content);
        const Ran r = tokenize(s, "--input " + quoted(s / "x.json") + " --chat-template plain --overwrite --output " +
                                      quoted(s / "out/x"));
        CAPTURE(r.err);
        REQUIRE(r.code == 0);
        return read_text(s / "out/x_train_000000.bin");
    };
    std::string lines, list, indented;
    for (int i = 0; i < 3000; i++) {  // more than the megabyte that is read at once
        const std::string one =
            chat_line("the sea \xf0\x9f\x8c\x8a \\\" ]}", std::string(size_t(i % 700), 'x') + "the wind");
        lines += one;
        list += (i ? "," : "[") + one;
        indented += nlohmann::json::parse(one).dump(4) + "\n";
    }
    REQUIRE(lines.size() > 1 << 20);
    const std::string expected = shard_of(lines);
    CHECK(shard_of(list + "]\n") == expected);
    CHECK(shard_of(indented) == expected);
}

TEST_CASE("a bad conversation is named by file and line, and nothing is written", "[chat][data]") {
    const Scratch s;
    write_text(s / "tokenizer.json", small_tokenizer());
    const auto refuses = [&](const std::string& line, const List& words, const std::string& more = "") {
        CAPTURE(line);
        write_text(s / "x.jsonl", chat_line("a", "b") + "\n" + line + "\n");
        const Ran r = tokenize(
            s, "--input " + quoted(s / "x.jsonl") + " --chat-template plain --output " + quoted(s / "out") + more);
        CHECK(r.code == 2);
        CHECK(says(r, {"x.jsonl line 3"}));
        CHECK(says(r, words));
        CHECK(left_in(s, "out") == List{});
    };
    refuses("{", {"not valid JSON"});
    refuses("{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}", {"not valid JSON"});
    refuses("[]", {"expected a JSON object"});
    refuses("{}", {"no conversation", "\"messages\"", "\"text\""});
    refuses(R"({"messages": []})", {"a list of messages"});
    refuses(R"({"messages": "hello"})", {"a list of messages"});
    refuses(R"({"messages": ["hello"]})", {"a message is", "expected an object"});
    refuses(R"({"messages": [{"role": "user"}]})", {"\"content\" is missing"});
    refuses(R"({"messages": [{"role": "user", "content": null}]})", {"\"content\" is null"});
    refuses(R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image"}]}]})",
            {"\"content\" has the part", "image", "only parts of the type \"text\""});
    refuses(R"({"messages": [{"role": "user", "content": []}]})", {"\"content\" is [], expected a text"});
    refuses(R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})", {"\"text\" is missing"});
    for (const char* field : {"tool_calls", "function_call", "name", "refusal", "reasoning_content", "audio"})
        refuses(fmt::format(R"({{"messages": [{{"role": "user", "content": "x", "{}": ["f"]}}]}})", field),
                {fmt::format("the field \"{}\" is [\"f\"]", field), "no place for it"});
    for (const char* field : {"tools", "functions", "history", "images", "weight"})
        refuses(fmt::format(R"({{"instruction": "x", "output": "y", "{}": [1]}})", field),
                {fmt::format("the field \"{}\" is [1]", field)});
    refuses(R"({"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]})",
            {"\"weight\" of a message is 0.5"});
    refuses(R"({"messages": [{"role": "user", "content": "x", "train": true}]})",
            {"\"train\" asks that a message of the user counts"});
    refuses(R"({"system": "s", "messages": [{"role": "system", "content": "x"}]})", {"\"system\" stands beside"});
    refuses(R"({"system": 3, "messages": [{"role": "user", "content": "x"}]})", {"\"system\" is 3"});
    refuses(R"({"prompt": "x", "completion": "y", "label": false})", {"\"label\"", "a good one"});
    refuses(
        R"({"prompt": "x", "completion": [{"role": "user", "content": "z"}, {"role": "assistant", "content": "y"}]})",
        {"\"completion\" begins with a message of the user"});
    refuses(
        R"({"chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "rejected": [{"role": "user", "content": "z"}, {"role": "assistant", "content": "y"}]})",
        {"answer different questions", "--on-error skip"});
    refuses(R"({"messages": [{"role": "tool", "content": "x"}]})", {"the role \"tool\" is unknown"});
    refuses(R"({"messages": [], "messages": []})", {"appears twice"});
    refuses(R"({"conversations": [{"content": "x"}]})", {"\"role\" is missing"});
    refuses(R"({"messages": [{"from": "human", "content": "x"}]})", {"\"value\" is missing"});
    refuses(R"({"instruction": "x"})", {"\"output\" is missing"});
    refuses(R"({"instruction": "x", "input": 3, "output": "y"})", {"\"input\" is 3"});
    refuses(R"({"prompt": "x"})", {"\"completion\" is missing"});
    refuses(R"({"prompt": "x", "chosen": "y"})", {"\"rejected\" is missing"});
    refuses(R"({"chosen": "x", "rejected": "y"})", {"\"prompt\" is missing"});
    refuses(R"({"prompt": "x", "chosen": "y", "rejected": "z"})", {"is a preference", "x.jsonl line 1 is not"});
    refuses(chat_line("<|endoftext|>", "x"), {"special token <|endoftext|>"}, " --special-tokens refuse");

    const auto says_for = [&](const std::string& content, const std::string& more, const List& words) {
        write_text(s / "y.jsonl", content);
        const Ran r = tokenize(s, "--input " + quoted(s / "y.jsonl") + " --output " + quoted(s / "out") + " " + more);
        CHECK(r.code == 2);
        CHECK(says(r, words));
        CHECK(left_in(s, "out") == List{});
    };
    const std::string good = chat_line("a", "b");
    says_for("[\n" + good + ",\n{}\n]", "--chat-template plain", {"y.jsonl line 4", "no conversation"});
    says_for("[" + good + ", 3]", "--chat-template plain", {"y.jsonl line 2", "expected a JSON object"});
    says_for("[\n" + good + ",\n", "--chat-template plain", {"y.jsonl line 3", "not JSON", "the end of the list"});
    says_for("[\n" + good + good + "]", "--chat-template plain", {"y.jsonl line 3", "',' or ']'"});
    write_text(s / "y.json", "[\n" + good + ",\n" + good + ",\n]");
    const Ran damaged =
        tokenize(s, "--input " + quoted(s / "y.json") + " --chat-template plain --output " + quoted(s / "out"));
    CHECK(damaged.code == 2);
    CHECK(says(damaged, {"y.json line 6"}));
    says_for("just text\n", "--chat-template plain --format text", {"y.jsonl", "a list of objects"});
    says_for(R"({"messages": [{"role": "user", "content": "x"}]})", "--chat-template plain",
             {"no conversation in", "has an answer"});
    says_for(chat_line("a", "b"), "--chat-template chatml", {"no token <|im_start|>", "--add-tokens"});
    says_for(chat_line("a", "b"), "--chat-template model", {"no chat template beside"});
    says_for(chat_line("a", "b"), "--add-tokens x", {"--add-tokens has an effect only with --chat-template"});
    says_for(chat_line("a", "b"), "--chat-template plain --eot after", {"--eot"});

    // With --on-error skip, bad lines are left out and counted.
    write_text(s / "x.jsonl", chat_line("a", "b") + "{}\n" + chat_line("c", "d"));
    const Ran r = tokenize(
        s, "--input " + quoted(s / "x.jsonl") + " --chat-template plain --on-error skip --output " + quoted(s / "out"));
    CHECK(r.code == 0);
    CHECK(says(r, {"2 conversations", "skipped 1 bad document"}));
}

// ---- training -------------------------------------------------------------------------------------------------------

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
    REQUIRE(loader.windows() % 2 == 0);
    CHECK(loader.packing().counted == int64_t(count));
    CHECK(mean_loss(packed, loader, loader.windows() / 2) == Approx(sum / count).epsilon(1e-6));
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
    if (shell(s, "mpirun --version && " + build_folder() + "/train_gpt --version | grep -i mpi").code != 0) {
        std::fprintf(stderr, "skipped: several processes, because there is no mpirun or no MPI in this build\n");
        return;
    }
    train("ranks", "--batch 2 --accumulate 2 --eval-batches 4 --threads 1",
          "mpirun --allow-run-as-root --oversubscribe -np 2 ");
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
