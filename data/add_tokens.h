// add_tokens.h - writes a tokenizer with the tokens of a chat template, as a folder that transformers opens as well
#pragma once
#include <list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "data/chat_template.h"
#include "data/lock_file.h"
#include "data/tokenizer.h"

// The text of a tokenizer.json that has the tokens of `form` too, with the ids behind all others.
inline std::string with_tokens(const std::string& text, const ChatForm& form, const std::string& where) {
    const Tokenizer tokenizer(text, where);
    nlohmann::ordered_json file = nlohmann::ordered_json::parse(text);
    int64_t next                = tokenizer.vocab_size();
    for (const std::string token : {form.start, form.end})
        if (!token.empty() && tokenizer.id_of(token) < 0)
            file["added_tokens"].push_back(nlohmann::ordered_json(added_token(token, next++, true)));
    return next == tokenizer.vocab_size() ? text : file.dump(1) + "\n";
}

// The files of a tokenizer with the tokens of a chat template. They get their names when commit() is called.
class ChatTokenizer {
  public:
    // Takes the tokenizer at `path` and the files beside it, and gives them the tokens and the template of `form`.
    // A folder that holds other files of these names is refused unless `overwrite`.
    ChatTokenizer(const fs::path& folder, const std::string& path, const ChatForm& form, bool overwrite)
        : folder_(folder), text_(with_tokens(read_tokenizer_json(path), form, path)), from_(path) {
        const fs::path from  = fs::path(path).parent_path();
        const fs::path given = from / "tokenizer_config.json";
        nlohmann::json config =
            fs::exists(given) ? read_json(given.string(), 64, Json::as_python) : nlohmann::json::object();
        CHECK(config.is_object(), "{}: expected a JSON object", given.string());
        const Tokenizer before = Tokenizer::load(path), after = tokenizer();
        if (!config.contains("tokenizer_class")) config["tokenizer_class"] = "PreTrainedTokenizerFast";
        if (before.eot() >= 0 && eos_token_beside(path).empty()) config["eos_token"] = before.bytes_of(before.eot());
        config["chat_template"] = form.jinja;
        if (const auto decoder = config.find("added_tokens_decoder"); decoder != config.end()) {
            CHECK(decoder->is_object(), "{}: \"added_tokens_decoder\" is {}, expected an object", given.string(),
                  decoder->dump().substr(0, 80));
            for (int32_t id = before.vocab_size(); id < after.vocab_size(); id++)
                (*decoder)[std::to_string(id)] = added_token(after.bytes_of(id), id, true);
        }
        const fs::path specials = from / "special_tokens_map.json";
        const std::string map   = fs::exists(specials) ? std::string(MappedFile(specials.string()).text()) : "";

        CHECK(!fs::exists(jinja()) || overwrite, "--add-tokens {}: the {} in this folder would be removed; {}",
              folder.string(), jinja().filename().string(), remedy);
        if (!map.empty()) add("special_tokens_map.json", map, overwrite);
        add("tokenizer_config.json", json_text(config, 2) + "\n", overwrite);
        add("tokenizer.json", text_, overwrite);
    }
    ChatTokenizer(const ChatTokenizer&)            = delete;
    ChatTokenizer& operator=(const ChatTokenizer&) = delete;

    std::string file() const { return (folder_ / "tokenizer.json").string(); }
    Tokenizer tokenizer() const { return Tokenizer::load(text_, from_); }
    void commit() {
        std::error_code absent;
        fs::remove(jinja(), absent);
        for (OutputFile& f : files_) f.commit();
    }

  private:
    static constexpr const char* remedy = "name another folder, or replace it with --overwrite";

    // A template in a file of its own would come before the one in tokenizer_config.json.
    fs::path jinja() const { return folder_ / "chat_template.jinja"; }
    void add(const char* name, const std::string& text, bool overwrite) {
        const fs::path path = folder_ / name;
        const bool is_there = fs::exists(path), is_same = is_there && MappedFile(path.string()).text() == text;
        CHECK(!is_there || is_same || overwrite, "--add-tokens {}: there is another {} in this folder; {}",
              folder_.string(), name, remedy);
        if (is_same) return;
        if (!lock_) {
            lock_.emplace("--add-tokens " + folder_.string(), (folder_ / "lock").string());
            return add(name, text, overwrite);  // another process may have written it a moment ago
        }
        files_.emplace_back(path.string());
        files_.back().write(text);
        files_.back().finish();
    }

    const fs::path folder_;
    const std::string text_, from_;
    std::optional<LockFile> lock_;  // is held from when there is something to write
    std::list<OutputFile> files_;
};
