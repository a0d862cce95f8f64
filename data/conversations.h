// conversations.h - what a JSON line is to a model that is tuned on dialogue
//
//   {"messages": [{"role": "user", "content": "…"}, …]}            roles: system, user, assistant
//   {"conversations": [{"from": "human", "value": "…"}, …]}        as ShareGPT: system, human, gpt
//   {"instruction": "…", "input": "…", "output": "…"}              as Alpaca; input may be missing or empty
//   {"prompt": "…", "completion": "…"}                             texts or lists of messages
//   {"prompt": "…", "chosen": "…", "rejected": "…"}                a preference; texts or lists of messages
//   {"text": "…"}                                                  a document, all learned; --field names the field
//
// Every list may have the words of either of the first two. A "system" beside the messages is the first of them. A
// message with "weight": 0 does not count in the loss. Some fields have no place in a conversation of ours. Those
// without which it would say something else, such as tool calls and pictures, are refused, and all others are counted.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "data/chat_template.h"
#include "data/json.h"

struct Example {
    enum Kind : uint8_t { document, conversation, preference };
    Kind kind = conversation;
    std::string text;                       // a document has this alone
    Messages messages, rejected;            // a preference has both: the chosen and the rejected conversation
    std::map<std::string, int64_t> unread;  // how often it has each field that was not read, such as "id"

    // Whether there is an answer that counts in the loss; of a preference, whether both conversations end with one.
    bool has_answer() const {
        const auto counts = [](const Message& m) { return m.role == "assistant" && m.counts; };
        const auto ends   = [&](const Messages& all) { return !all.empty() && counts(all.back()); };
        if (kind == preference) return ends(messages) && ends(rejected);
        return std::any_of(messages.begin(), messages.end(), counts);
    }
    // Whether the two answers of a preference are the same, so that there is nothing to learn from it.
    bool is_tie() const { return kind == preference && messages == rejected; }
};

// Reads one line. where: "FILE line N", for errors.
class ExampleReader {
  public:
    ExampleReader(std::string_view line, const std::string& field, std::string where)
        : where_(std::move(where)), json_(parse_json(line, where_)) {
        CHECK(json_.is_object(), "{}: expected a JSON object", where_);
        if (has("chosen") || has("rejected")) {
            read_preference();
            read_rest({"prompt", "chosen", "rejected"});
        } else if (has("messages")) {
            example_.messages = list("messages");
            read_rest({"messages"});
        } else if (has("conversations")) {
            example_.messages = list("conversations");
            read_rest({"conversations"});
        } else if (has("instruction")) {
            read_instruction();
            read_rest({"instruction", "input", "output"});
        } else if (has("prompt")) {
            example_.messages = continued(turns("prompt", "user"), "completion");
            CHECK(!json_.value("label", json()).is_boolean(),
                  "{}: \"label\" says whether the answer is a good one, but all answers of conversations are learned",
                  where_);
            read_rest({"prompt", "completion"});
        } else if (has(field.c_str()))
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
    using Keys = std::initializer_list<std::string>;

    bool has(const char* key) const { return json_.contains(key); }
    std::string text(const json& object, const char* key) const {
        CHECK(object.contains(key), "{}: the field \"{}\" is missing", where_, key);
        CHECK(object[key].is_string(), "{}: the field \"{}\" is {}, expected a text", where_, key,
              json_text(object[key]).substr(0, 80));
        return object[key];
    }
    // A text, or the texts of a list of parts as OpenAI's files have it.
    std::string content(const json& message, const char* key) const {
        if (!message.contains(key) || !message[key].is_array() || message[key].empty()) return text(message, key);
        std::string all;
        for (const json& part : message[key]) {
            CHECK(part.is_object() && part.value("type", json()) == "text",
                  "{}: \"{}\" has the part {}, but only parts of the type \"text\" can be read", where_, key,
                  json_text(part).substr(0, 80));
            all += text(part, "text");
        }
        return all;
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
    // Whether the loss counts a message, as "weight" of OpenAI's files and its like in those of other trainers say.
    bool counts(const json& message, const std::string& its_role) const {
        bool all = true;
        for (const char* key : {"weight", "train", "training", "loss"}) {
            const json value = message.value(key, json());
            const bool yes = value == 1 || value == true, no = value == 0 || value == false;
            CHECK(yes || no || value.is_null(), "{}: \"{}\" of a message is {}, expected 0 or 1, or true or false",
                  where_, key, json_text(value).substr(0, 80));
            CHECK(!yes || its_role == "assistant",
                  "{}: \"{}\" asks that a message of the {} counts in the loss, but only those of the assistant can",
                  where_, key, its_role);
            all &= !no;
        }
        return all;
    }
    Messages list(const char* key) {
        const json& all = json_[key];
        CHECK(all.is_array() && !all.empty(), "{}: the field \"{}\" is {}, expected a list of messages", where_, key,
              json_text(all).substr(0, 80));
        Messages messages;
        for (const json& m : all) {
            CHECK(m.is_object(), "{}: a message is {}, expected an object", where_, json_text(m).substr(0, 80));
            const bool is_sharegpt = m.contains("from");
            const char *role_key = is_sharegpt ? "from" : "role", *text_key = is_sharegpt ? "value" : "content";
            const std::string its_role = role(text(m, role_key));
            note_others(m, {role_key, text_key, "weight", "train", "training", "loss"}, true);
            messages.push_back({its_role, content(m, text_key), counts(m, its_role)});
        }
        return messages;
    }
    // A text is one message; else the field is a list of messages.
    Messages turns(const char* key, const char* its_role) {
        CHECK(has(key), "{}: the field \"{}\" is missing", where_, key);
        if (json_[key].is_array()) return list(key);
        return {{its_role, text(json_, key)}};
    }
    // The messages of a field behind those of the prompt. A list may begin with these itself, as UltraFeedback's do.
    Messages continued(Messages prompt, const char* key) {
        const Messages all = turns(key, "assistant");
        if (all.size() > prompt.size() && std::equal(prompt.begin(), prompt.end(), all.begin())) return all;
        CHECK(all[0].role == "assistant" || prompt.empty() || prompt.back().role == "assistant",
              "{}: \"{}\" begins with a message of the {}, which is not that of \"prompt\"", where_, key, all[0].role);
        prompt.insert(prompt.end(), all.begin(), all.end());
        return prompt;
    }
    // The form of "### Input:" is Alpaca's own.
    void read_instruction() {
        std::string question    = text(json_, "instruction");
        const std::string input = has("input") && !json_["input"].is_null() ? text(json_, "input") : "";
        if (!input.empty()) question += "\n\n### Input:\n" + input;
        example_.messages = {{"user", question}, {"assistant", text(json_, "output")}};
    }
    // Without "prompt", both answers are lists that begin with it.
    void read_preference() {
        const Messages prompt = has("prompt") ? turns("prompt", "user") : Messages();
        const auto answer     = [&](const char* key) {
            CHECK(has("prompt") || !has(key) || json_[key].is_array(),
                      "{}: the field \"prompt\" is missing, so \"{}\" must be a list of messages", where_, key);
            return continued(prompt, key);
        };
        example_.kind     = Example::preference;
        example_.messages = answer("chosen");
        example_.rejected = answer("rejected");
        const Messages &a = example_.messages, &b = example_.rejected;
        CHECK(!example_.has_answer() || (a.size() == b.size() && std::equal(a.begin(), a.end() - 1, b.begin())),
              "{}: \"chosen\" and \"rejected\" answer different questions, so they are no preference\n"
              "    --on-error skip leaves such lines out",
              where_);
    }

    // Puts a system message in front, and notes the fields that no form has.
    void read_rest(Keys keys) {
        for (const char* key : {"system", "system_prompt"}) {
            const std::string system = has(key) && !json_[key].is_null() ? text(json_, key) : "";
            for (Messages* all : {&example_.messages, &example_.rejected}) {
                if (system.empty() || all->empty()) continue;
                CHECK((*all)[0].role != "system",
                      "{}: \"{}\" stands beside a message of the system; one of them must go", where_, key);
                all->insert(all->begin(), {"system", system});
            }
        }
        note_others(json_, keys, false);
    }
    // Notes the fields of an object that are not among `keys`. Refuses those that say something of their own.
    void note_others(const json& object, Keys keys, bool is_message) {
        static const std::string no_place[] = {
            "tools", "functions", "tool_calls", "function_call", "tool_call_id",      "history",  "weight", "images",
            "image", "videos",    "audio",      "audios",        "reasoning_content", "thinking", "refusal"};
        for (const auto& [key, value] : object.items()) {
            const bool is_empty =
                value.is_null() || value == "" || ((value.is_array() || value.is_object()) && value.empty());
            const bool is_read = std::find(keys.begin(), keys.end(), key) != keys.end() ||
                                 (!is_message && (key == "system" || key == "system_prompt"));
            if (is_empty || is_read || (key == "weight" && value == 1)) continue;
            const bool has_place = std::find(std::begin(no_place), std::end(no_place), key) == std::end(no_place) &&
                                   !(is_message && key == "name");
            CHECK(has_place, "{}: the field \"{}\" is {}, and a conversation has no place for it", where_, key,
                  json_text(value).substr(0, 80));
            example_.unread[key]++;
        }
    }

    std::string where_;
    json json_;
    Example example_;
};
