// test_chat_template.cpp - the ids of a conversation, which of them count in the loss, and how a template is recognized
#include "test/chat.h"

static ChatTemplate chat_template(const std::string& form, const Tokenizer& tokenizer) {
    return ChatTemplate(*find_chat_form(form), tokenizer, "tokenizer.json");
}
static Messages messages_of(const json& list) {
    Messages all;
    for (const json& m : list) all.push_back({m["role"], m["content"]});
    return all;
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
