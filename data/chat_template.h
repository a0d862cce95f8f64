// chat_template.h - turns a conversation into token ids, in one of three forms
//
//   chatml   <|im_start|>user⏎Hello<|im_end|>⏎<|im_start|>assistant⏎Hi.<|im_end|>⏎
//   alpaca   Below is an instruction …⏎⏎### Instruction:⏎Hello⏎⏎### Response:⏎Hi.<|endoftext|>⏎⏎   (Taori et al. 2023)
//   plain    User: Hello⏎Assistant: Hi.<|endoftext|>⏎
//
// chatml has two tokens of its own. The other two end an answer with the tokenizer's end-of-text token. ChatForm::jinja
// is the same form in the language of transformers, and the ids are those of its apply_chat_template(). Jinja is not
// interpreted: a template of a model is recognized when it says the same as one of the three in other spelling.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

struct Message {
    std::string role, content;  // the roles are system, user and assistant
    bool counts = true;         // the loss counts it, if it is the assistant's
    bool operator==(const Message& o) const { return role == o.role && content == o.content; }
};
using Messages = std::vector<Message>;

// The ids of a conversation. counts[i] says whether ids[i] is part of an answer, so that the loss counts it.
struct ChatIds {
    std::vector<int32_t> ids;
    std::vector<uint8_t> counts;

    void add(int32_t id, bool count) {
        ids.push_back(id);
        counts.push_back(count);
    }
};

struct ChatForm {
    const char *name, *start, *end;  // start, end: tokens of the form's own, or ""
    const char* jinja;
};
inline constexpr ChatForm chat_forms[] = {
    {"chatml", "<|im_start|>", "<|im_end|>",
     R"({% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }})"
     R"({% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})"},
    {"alpaca", "", "",
     R"({% if messages[0]['role'] != 'system' %}{{ 'Below is an instruction that describes a task. Write a response )"
     R"(that appropriately completes the request.\n\n' }}{% endif %}{% for message in messages %})"
     R"({% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }})"
     R"({% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }})"
     R"({% elif message['role'] == 'assistant' %}{{ '### Response:\n' + message['content'] + eos_token + '\n\n' }})"
     R"({% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %})"},
    {"plain", "", "",
     R"({% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\n' }})"
     R"({% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n' }})"
     R"({% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token + '\n' }})"
     R"({% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %})"},
};

// The form of that name, or null.
inline const ChatForm* find_chat_form(const std::string& name) {
    for (const ChatForm& form : chat_forms)
        if (name == form.name) return &form;
    return nullptr;
}

// ---- recognizing a template -----------------------------------------------------------------------------------------

// Brings a Jinja template to one spelling of what it says: text and expressions become one list of outputs, in which
// neighbouring strings are joined; a.b stands for a['b']; the variable of a loop over the messages is called message.
// Space counts only within strings. transformers removes the line break behind a statement and the space in front
// of one (trim_blocks and lstrip_blocks).
class JinjaSpelling {
  public:
    static std::string of(std::string_view text) {
        JinjaSpelling spelling;
        spelling.read(text);
        spelling.flush();
        return spelling.out_;
    }

  private:
    void read(std::string_view text) {
        bool trims = false;  // what is behind a tag that ends with a dash begins without its space
        for (size_t at = 0; at < text.size();) {
            size_t open = text.find('{', at);
            while (open != text.npos &&
                   (open + 1 >= text.size() || std::string_view("{%#").find(text[open + 1]) == std::string_view::npos))
                open = text.find('{', open + 1);
            std::string literal(text.substr(at, std::min(open, text.size()) - at));
            const bool is_output = open != text.npos && text[open + 1] == '{';
            const bool dash      = open != text.npos && open + 2 < text.size() && text[open + 2] == '-';
            if (trims) literal.erase(0, std::min(literal.find_first_not_of(" \t\r\n"), literal.size()));
            if (dash) literal.erase(literal.find_last_not_of(" \t\r\n") + 1);
            if (open != text.npos && !is_output) {
                const size_t space = literal.find_last_not_of(" \t") + 1;
                if (space == 0 ? at == 0 || text[at - 1] == '\n' : literal[space - 1] == '\n') literal.erase(space);
            }
            string_ += literal;
            if (open == text.npos) return;
            const std::string close = is_output ? "}}" : text[open + 1] == '%' ? "%}" : "#}";
            const size_t end        = end_of(text, open + 2, close);
            if (end == text.npos) {
                statement("unfinished " + std::string(text.substr(open)));
                return;
            }
            const bool ends_in_dash      = end > open + 2 && text[end - 1] == '-';
            const size_t begin           = open + 2 + dash;
            const std::string_view inner = text.substr(begin, std::max(begin, end - (ends_in_dash ? 1 : 0)) - begin);
            if (is_output)
                output(inner);
            else if (close == "%}")
                statement(words(inner));
            trims = ends_in_dash;
            at    = end + 2;
            if (!is_output && at < text.size() && text[at] == '\n') at++;
        }
    }
    // Where `close` stands outside of strings, or npos.
    static size_t end_of(std::string_view text, size_t at, const std::string& close) {
        for (char quote = 0; at + 1 < text.size(); at++) {
            if (quote && text[at] == '\\')
                at++;
            else if (quote)
                quote = text[at] == quote ? 0 : quote;
            else if (close != "#}" && (text[at] == '\'' || text[at] == '"'))
                quote = text[at];
            else if (text.substr(at, 2) == close)
                return at;
        }
        return text.npos;
    }

    // The words of an expression or a statement, one space between them, with every string in single quotes.
    std::string words(std::string_view text) const {
        std::string all;
        const auto is_word = [](char c) { return std::isalnum(uint8_t(c)) || c == '_'; };
        for (size_t at = 0; at < text.size();) {
            size_t end = at + 1;
            std::string word;
            if (std::isspace(uint8_t(text[at]))) {
                at++;
                continue;
            }
            if (text[at] == '\'' || text[at] == '"') {
                for (word = "'"; end < text.size() && text[end] != text[at]; end++) {
                    const bool escaped = text[end] == '\\' && end + 1 < text.size();
                    if (escaped) end++;
                    word += escaped && text[end] == 'n' ? '\n' : escaped && text[end] == 't' ? '\t' : text[end];
                }
                word += '\'';
                end++;
            } else if (text[at] == '.' && end < text.size() && is_word(text[end])) {
                while (end < text.size() && is_word(text[end])) end++;
                word = "[ '" + std::string(text.substr(at + 1, end - at - 1)) + "' ]";
            } else {
                while (is_word(text[at]) && end < text.size() && is_word(text[end])) end++;
                word = text[at] == '~' ? "+" : std::string(text.substr(at, end - at));
                if (!loop_.empty() && (word == loop_ || word == "message")) word = word == loop_ ? "message" : "other";
            }
            all += (all.empty() ? "" : " ") + word;
            at = end;
        }
        return all;
    }
    // Splits a sum into outputs. A sign inside of parentheses or strings does not split.
    void output(std::string_view expression) {
        const std::string all = words(expression);
        bool in_string        = false;
        int depth             = 0;
        size_t begin          = 0;
        for (size_t at = 0; at <= all.size(); at++) {
            const char c = at < all.size() ? all[at] : '+';
            if (c == '\'') in_string = !in_string;
            if (!in_string) depth += (c == '(') - (c == ')');
            if (in_string || c != '+' || (depth > 0 && at < all.size())) continue;
            std::string term = all.substr(begin, at - begin);
            term.erase(0, std::min(term.find_first_not_of(' '), term.size()));
            if (at < all.size() && !term.empty() && term.back() == ' ') term.pop_back();
            begin                = at + 1;
            const bool is_string = term.size() >= 2 && term[0] == '\'' && term.find('\'', 1) == term.size() - 1;
            if (is_string)
                string_ += term.substr(1, term.size() - 2);
            else
                flush(), out_ += "{{" + term + "}}";
        }
    }
    void statement(std::string words) {
        if (words == "generation" || words == "endgeneration") return;  // mark answers for transformers' own mask
        flush();
        const std::string begin = "for ", end = " in messages";
        if (words == "endfor") loop_.clear();
        const size_t name = words.size() - std::min(words.size(), begin.size() + end.size());
        if (loop_.empty() && words.substr(0, 4) == begin && words == begin + words.substr(4, name) + end) {
            loop_ = words.substr(4, name);
            words = begin + "message" + end;
        }
        out_ += "{%" + words + "%}";
    }
    void flush() {
        if (!string_.empty()) out_ += "{{'" + string_ + "'}}";
        string_.clear();
    }

    std::string out_, string_;  // string_: text that ends the output so far
    std::string loop_;          // the variable of the loop over the messages that is open, or ""
};

// The form that a Jinja template has, or null. Older files of chatml begin with a default for add_generation_prompt.
inline const ChatForm* recognize_chat_form(std::string_view jinja) {
    const std::string_view given =
        R"({% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %})";
    std::string spelled = JinjaSpelling::of(jinja), preset = JinjaSpelling::of(given);
    if (spelled.rfind(preset, 0) == 0) spelled.erase(0, preset.size());
    for (const ChatForm& form : chat_forms)
        if (spelled == JinjaSpelling::of(form.jinja)) return &form;
    return nullptr;
}

// The form of the template that lies beside a tokenizer, in chat_template.jinja or as chat_template in
// tokenizer_config.json. Null if there is none. Throws InputError for a template that is none of the three.
inline const ChatForm* chat_form_beside(const fs::path& tokenizer) {
    const fs::path folder = tokenizer.parent_path(), own = folder / "chat_template.jinja";
    const fs::path config = folder / "tokenizer_config.json";
    std::string jinja, where = own.string();
    if (fs::exists(own)) {
        jinja = MappedFile(where).text();
        while (!jinja.empty() && jinja.back() == '\n') jinja.pop_back();
    } else if (fs::exists(config)) {
        where                     = config.string();
        const nlohmann::json file = read_json(where, 64, Json::as_python);
        nlohmann::json value      = file.is_object() ? file.value("chat_template", nlohmann::json()) : nlohmann::json();
        const nlohmann::json several = value;
        for (const auto& one : several.is_array() ? several : nlohmann::json::array())
            if (one.is_object() && one.value("name", nlohmann::json()) == "default")
                value = one.value("template", nlohmann::json());
        if (value.is_null()) return nullptr;
        CHECK(value.is_string(), "{}: chat_template is {}, expected a text, or a list with one called default", where,
              value.dump().substr(0, 80));
        jinja = value;
    } else
        return nullptr;
    const ChatForm* form = recognize_chat_form(jinja);
    CHECK(form,
          "{}: its chat template is none of chatml, alpaca and plain, and others are not interpreted\n"
          "    --chat-template chatml (or alpaca, plain) uses that form instead; a model that was tuned with another "
          "template then sees a form that is new to it",
          where);
    return form;
}

// ---- encoding -------------------------------------------------------------------------------------------------------

class ChatTemplate {
  public:
    // Throws InputError if the tokenizer lacks a token that the form needs. where: the name of the tokenizer.
    ChatTemplate(const ChatForm& form, const Tokenizer& tokenizer, const std::string& where)
        : form_(&form), tokenizer_(&tokenizer) {
        const auto find = [&](const std::string& token) {
            const int32_t id = tokenizer.id_of(token);
            CHECK(id >= 0,
                  "{} has no token {}, which the chat template {} needs; tokenize --add-tokens DIR makes a tokenizer "
                  "that has it, and alpaca and plain need none",
                  where, token, form.name);
            return id;
        };
        if (*form.start) start_ = find(form.start);
        end_ = *form.end ? find(form.end) : tokenizer.eot();
        CHECK(end_ >= 0, "{} names no end-of-text token, with which the chat template {} ends an answer", where,
              form.name);
    }

    const ChatForm& form() const { return *form_; }
    // The token that ends an answer.
    int32_t end() const { return end_; }
    // Whether the form has this token in places that are no end of an answer.
    bool uses(int32_t id) const { return id == start_ || (start_ >= 0 && id == end_); }

    // open: the beginning of an answer follows the messages, for a model that goes on from there.
    // only_last: of several answers, the loss counts the last one.
    // specials: special tokens in the messages become their ids; else they are plain text.
    ChatIds encode(const Messages& messages, bool open = false, bool only_last = false, bool specials = false) const {
        Tokenizer::Scratch scratch;
        return encode(messages, open, only_last, specials, scratch);
    }
    ChatIds encode(const Messages& messages, bool open, bool only_last, bool specials,
                   Tokenizer::Scratch& scratch) const {
        ChatIds all;
        Run run;
        size_t last = messages.size();
        for (size_t i = 0; i < messages.size(); i++)
            if (messages[i].role == "assistant") last = i;
        const auto token = [&](int32_t id, bool counts) {
            run.encode_to(all, *tokenizer_, specials, scratch);
            all.add(id, counts);
        };
        const bool chatml = start_ >= 0, alpaca = form_ == &chat_forms[1];
        if (alpaca && !messages.empty() && messages[0].role != "system")
            run.add(
                "Below is an instruction that describes a task. Write a response that appropriately completes the "
                "request.\n\n");
        for (size_t i = 0; i < messages.size(); i++) {
            const Message& m   = messages[i];
            const bool answers = m.role == "assistant", counts = answers && m.counts && (!only_last || i == last);
            if (chatml) {
                token(start_, false);
                run.add(m.role + "\n");
                run.add(m.content, counts);
                token(end_, counts);
                run.add("\n");
            } else if (answers) {
                run.add(alpaca ? "### Response:\n" : "Assistant:");
                run.add((alpaca ? "" : " ") + m.content, counts);
                token(end_, counts);
                run.add(alpaca ? "\n\n" : "\n");
            } else {
                if (m.role == "user") run.add(alpaca ? "### Instruction:\n" : "User: ");
                run.add(m.content + (alpaca ? "\n\n" : "\n"));
            }
        }
        if (open && chatml) token(start_, false);
        if (open) run.add(chatml ? "assistant\n" : alpaca ? "### Response:\n" : "Assistant:");
        run.encode_to(all, *tokenizer_, specials, scratch);
        return all;
    }

  private:
    // Text between two tokens of the template. It is encoded as a whole, as transformers does, so a token may cross the
    // place where an answer begins. Such a token belongs to the answer.
    struct Run {
        std::string text;
        std::vector<std::pair<size_t, bool>> parts;  // where a part ends, and whether it counts

        void add(const std::string& part, bool counts = false) {
            if (part.empty()) return;
            text += part;
            if (!parts.empty() && parts.back().second == counts) parts.pop_back();
            parts.emplace_back(text.size(), counts);
        }
        void encode_to(ChatIds& all, const Tokenizer& tokenizer, bool specials, Tokenizer::Scratch& scratch) {
            if (text.empty()) return;
            const size_t first = all.ids.size();
            tokenizer.encode(text, specials, all.ids, scratch);
            size_t at = first;
            for (const auto& [end, counts] : parts) {
                size_t to = all.ids.size();
                if (end < text.size()) {
                    std::vector<int32_t> front;
                    const auto specials_met = scratch.specials;  // these bytes are counted only once
                    const auto bytes_met    = scratch.bytes_without_token;
                    tokenizer.encode(std::string_view(text).substr(0, end), specials, front, scratch);
                    scratch.specials            = specials_met;
                    scratch.bytes_without_token = bytes_met;
                    const auto differ =
                        std::mismatch(front.begin(), front.end(), all.ids.begin() + int64_t(first), all.ids.end());
                    to = std::max(at, first + size_t(differ.first - front.begin()));
                }
                all.counts.insert(all.counts.end(), to - at, counts);
                at = to;
            }
            text.clear();
            parts.clear();
        }
    };

    const ChatForm* form_;
    const Tokenizer* tokenizer_;
    int32_t start_ = -1, end_ = -1;
};
