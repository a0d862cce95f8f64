// test_chat.cpp - conversations: their ids and what counts of them, how they are read, packed and trained on
#include "data/chat_template.h"
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

TEST_CASE("the ids of a conversation are those of apply_chat_template", "[chat]") {
    const Tokenizer t = chat_tokenizer();
    for (const json& c : json::parse(read_text("test/golden/chat.json"))["cases"]) {
        CAPTURE(c.dump());
        const ChatTemplate form = chat_template(c["form"], t);
        const ChatIds ids       = form.encode(messages_of(c["messages"]));
        CHECK(ids.ids == c["ids"].get<Ids>());
        CHECK(ids.counts.size() == ids.ids.size());
        CHECK(form.encode(messages_of(c["messages"]), true).ids == c["open"].get<Ids>());
    }
}

TEST_CASE("the words of the assistant and the token behind them count", "[chat]") {
    const Tokenizer t       = chat_tokenizer();
    const Messages messages = {{"system", "s"}, {"user", "u"}, {"assistant", "A b"}, {"user", "v"}, {"assistant", ""}};
    CHECK(counted(chat_template("chatml", t).encode(messages), t) == "_A b<|im_end|>_<|im_end|>_");
    CHECK(counted(chat_template("alpaca", t).encode(messages), t) == "_A b<|endoftext|>_<|endoftext|>_");
    CHECK(counted(chat_template("plain", t).encode(messages), t) == "_ A b<|endoftext|>_ <|endoftext|>_");
    CHECK(counted(chat_template("chatml", t).encode(messages, false, true), t) == "_<|im_end|>_");
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

TEST_CASE("a chat template is recognized in other spellings, and another one is refused", "[chat]") {
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
