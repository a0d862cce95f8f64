// test_tokenize_chat.cpp - tokenize on conversations and preferences: the forms that it reads, and what it refuses
#include "test/chat.h"

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

    // The files beside the tokenizer may be bad, too.
    write_text(s / "y.jsonl", good);
    for (const auto& [config, field] : std::vector<std::pair<const char*, const char*>>{
             {"[]", "a JSON object"},
             {"3", "a JSON object"},
             {R"({"added_tokens_decoder": [1]})", "added_tokens_decoder"}}) {
        CAPTURE(config);
        write_text(s / "tokenizer_config.json", config);
        const Ran bad = tokenize(s, "--input " + quoted(s / "y.jsonl") + " --chat-template chatml --output " +
                                        quoted(s / "out") + " --add-tokens " + quoted(s / "chat"));
        CHECK(bad.code == 2);
        CHECK(says(bad, {"tokenizer_config.json", field}));
    }
    fs::remove(s / "tokenizer_config.json");

    // With --on-error skip, bad lines are left out and counted.
    write_text(s / "x.jsonl", chat_line("a", "b") + "{}\n" + chat_line("c", "d"));
    const Ran r = tokenize(
        s, "--input " + quoted(s / "x.jsonl") + " --chat-template plain --on-error skip --output " + quoted(s / "out"));
    CHECK(r.code == 0);
    CHECK(says(r, {"2 conversations", "skipped 1 bad document"}));
}
