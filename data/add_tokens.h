// add_tokens.h - writes a tokenizer with the tokens of a chat template, as a folder that transformers opens as well
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "data/chat_template.h"
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

// Writes to `folder` the tokenizer at `path` with the tokens of `form`, and the files beside it with its template.
// A folder that holds another tokenizer is refused unless `overwrite`. Returns the path of the new tokenizer.json.
inline std::string write_chat_tokenizer(const fs::path& folder, const std::string& path, const ChatForm& form,
                                        bool overwrite) {
    const std::string old = read_tokenizer_json(path), text = with_tokens(old, form, path);
    const fs::path from = fs::path(path).parent_path(), file = folder / "tokenizer.json";
    CHECK(!fs::exists(file) || overwrite || read_tokenizer_json(file) == text,
          "--add-tokens {}: there is another tokenizer in this folder; name another folder, or replace it with "
          "--overwrite",
          folder.string());
    const fs::path given = from / "tokenizer_config.json";
    nlohmann::json config =
        fs::exists(given) ? read_json(given.string(), 64, Json::as_python) : nlohmann::json::object();
    CHECK(config.is_object(), "{}: expected a JSON object", given.string());
    const Tokenizer before = Tokenizer::load(path), after(text, path);
    if (!config.contains("tokenizer_class")) config["tokenizer_class"] = "PreTrainedTokenizerFast";
    if (before.eot() >= 0 && eos_token_beside(path).empty()) config["eos_token"] = before.bytes_of(before.eot());
    config["chat_template"] = form.jinja;
    for (int32_t id = before.vocab_size(); id < after.vocab_size(); id++)
        if (config.contains("added_tokens_decoder"))
            config["added_tokens_decoder"][std::to_string(id)] = added_token(after.bytes_of(id), id, true);
    const fs::path specials = from / "special_tokens_map.json";
    const std::string map   = fs::exists(specials) ? std::string(MappedFile(specials.string()).text()) : "";

    std::error_code error;
    fs::create_directories(folder, error);
    CHECK(!error, "--add-tokens {}: cannot create this folder: {}", folder.string(), error.message());
    if (!map.empty()) write_file((folder / "special_tokens_map.json").string(), map);
    fs::remove(folder / "chat_template.jinja", error);  // it would come before the template below
    write_file((folder / "tokenizer_config.json").string(), json_text(config, 2) + "\n");
    write_file(file.string(), text);
    return file.string();
}
