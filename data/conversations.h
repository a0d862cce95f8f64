// conversations.h - what a JSON line is to a model that is tuned on dialogue
//
//   {"messages": [{"role": "user", "content": "…"}, …]}            roles: system, user, assistant
//   {"conversations": [{"from": "human", "value": "…"}, …]}        as ShareGPT: system, human, gpt
//   {"instruction": "…", "input": "…", "output": "…"}              as Alpaca; input may be missing or empty
//   {"prompt": "…", "completion": "…"}                             texts or lists of messages
//   {"prompt": "…", "chosen": "…", "rejected": "…"}                a preference; texts or lists of messages
//   {"text": "…"}                                                  a document, all of which is learned; --field names
//   it
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "data/chat_template.h"
#include "data/json.h"

struct Example {
    enum Kind : uint8_t { document, conversation, preference };
    Kind kind = conversation;
    std::string text;             // of a document
    Messages messages, rejected;  // of a preference: the chosen and the rejected conversation

    bool has_answer() const {
        const auto answers = [](const Messages& all) { return !all.empty() && all.back().role == "assistant"; };
        if (kind == preference) return answers(messages) && answers(rejected);
        return std::any_of(messages.begin(), messages.end(), [](const Message& m) { return m.role == "assistant"; });
    }
};

// Reads one line. where: "FILE line N", for errors.
class ExampleReader {
  public:
    ExampleReader(std::string_view line, const std::string& field, std::string where)
        : where_(std::move(where)), json_(parse_json(line, where_)) {
        CHECK(json_.is_object(), "{}: expected a JSON object", where_);
        if (has("messages"))
            example_.messages = list("messages", "role", "content");
        else if (has("conversations"))
            example_.messages = list("conversations", "from", "value");
        else if (has("instruction"))
            read_instruction();
        else if (has("chosen") || has("rejected"))
            read_preference();
        else if (has("prompt"))
            example_.messages = joined(turns("prompt", "user"), turns("completion", "assistant"));
        else if (has(field.c_str()))
            example_.kind = Example::document, example_.text = text(json_, field.c_str());
        else
            fail(
                "{}: this is no conversation: expected \"messages\", \"conversations\", \"instruction\" with "
                "\"output\", \"prompt\" with \"completion\", or \"prompt\" with \"chosen\" and \"rejected\"; or "
                "\"{}\" for a document",
                where_, field);
    }
    const Example& example() const { return example_; }

  private:
    using json = nlohmann::json;

    bool has(const char* key) const { return json_.contains(key); }
    std::string text(const json& object, const char* key) const {
        CHECK(object.contains(key), "{}: the field \"{}\" is missing", where_, key);
        CHECK(object[key].is_string(), "{}: the field \"{}\" is {}, expected a text", where_, key,
              json_text(object[key]).substr(0, 80));
        return object[key];
    }
    std::string role(const std::string& name) const {
        static const std::pair<const char*, const char*> roles[] = {{"system", "system"},
                                                                    {"user", "user"},
                                                                    {"human", "user"},
                                                                    {"assistant", "assistant"},
                                                                    {"gpt", "assistant"}};
        for (const auto& [theirs, ours] : roles)
            if (name == theirs) return ours;
        fail("{}: the role {} is unknown; expected system, user (human) or assistant (gpt)", where_,
             json_text(json(name)));
    }
    Messages list(const char* key, const char* role_key, const char* text_key) const {
        const json& all = json_[key];
        CHECK(all.is_array() && !all.empty(), "{}: the field \"{}\" is {}, expected a list of messages", where_, key,
              json_text(all).substr(0, 80));
        Messages messages;
        for (const json& m : all) {
            CHECK(m.is_object(), "{}: a message is {}, expected an object", where_, json_text(m).substr(0, 80));
            messages.push_back({role(text(m, role_key)), text(m, text_key)});
        }
        return messages;
    }
    // A text is one message; else the field is a list of messages.
    Messages turns(const char* key, const char* its_role) const {
        CHECK(has(key), "{}: the field \"{}\" is missing", where_, key);
        if (json_[key].is_array()) return list(key, "role", "content");
        return {{its_role, text(json_, key)}};
    }
    static Messages joined(Messages front, const Messages& back) {
        front.insert(front.end(), back.begin(), back.end());
        return front;
    }
    // The form of "### Input:" is Alpaca's own.
    void read_instruction() {
        std::string question    = text(json_, "instruction");
        const std::string input = has("input") && !json_["input"].is_null() ? text(json_, "input") : "";
        if (!input.empty()) question += "\n\n### Input:\n" + input;
        example_.messages = {{"user", question}, {"assistant", text(json_, "output")}};
    }
    // Without "prompt", both answers are lists that begin with it. UltraFeedback's lines have it in all three places.
    void read_preference() {
        const Messages prompt = has("prompt") ? turns("prompt", "user") : Messages();
        const auto answer     = [&](const char* key) {
            CHECK(has("prompt") || !has(key) || json_[key].is_array(),
                      "{}: the field \"prompt\" is missing, so \"{}\" must be a list of messages", where_, key);
            const Messages all = turns(key, "assistant");
            const bool begins  = all.size() > prompt.size() &&
                                std::equal(prompt.begin(), prompt.end(), all.begin(),
                                               [](auto& a, auto& b) { return a.role == b.role && a.content == b.content; });
            return begins ? all : joined(prompt, all);
        };
        example_.kind     = Example::preference;
        example_.messages = answer("chosen");
        example_.rejected = answer("rejected");
    }

    std::string where_;
    json json_;
    Example example_;
};
