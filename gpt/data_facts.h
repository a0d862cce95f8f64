// data_facts.h - what the shards of a run say about themselves, and how its model's folder then tells of conversations
#pragma once
#include <algorithm>
#include <set>
#include <string>

#include "data/chat_template.h"
#include "data/json.h"
#include "data/shard.h"
#include "gpt/checkpoint.h"
#include "gpt/config.h"

// tokenize writes PREFIX_summary.json beside the shards PREFIX_train_000000.bin and PREFIX_val_000000.bin. Returns the
// summaries of the shards that match a pattern.
inline std::set<std::string> summaries_of(const std::string& pattern) {
    std::set<std::string> summaries;
    for (const std::string& path : files_matching(pattern)) {
        const std::string stem = path.substr(0, std::min(path.rfind('_'), path.size()));
        for (const char* part : {"_train", "_val"})
            if (ends_with(stem, part)) summaries.insert(stem.substr(0, stem.rfind('_')) + "_summary.json");
    }
    for (auto s = summaries.begin(); s != summaries.end();) s = fs::exists(*s) ? std::next(s) : summaries.erase(s);
    return summaries;
}

// What shards are, as their headers say, and the summaries beside them.
struct DataFacts {
    bool masked       = false;       // a shard has a loss mask
    int32_t separator = -1;          // the id between documents, if a shard says it
    std::string preferences;         // a shard of preferences, or ""
    std::string others;              // a shard of something else, or ""
    const ChatForm* form = nullptr;  // how the conversations are written, if a summary says so

    void read(const std::string& pattern) {
        for (const std::string& path : files_matching(pattern)) {
            const Shard shard(path, 0);
            masked |= shard.has_mask();
            if (shard.separator() >= 0) separator = shard.separator();
            (shard.holds_pairs() ? preferences : others) = path;
        }
        for (const std::string& path : summaries_of(pattern)) {
            const Fields summary(path);
            const bool has_chat = summary.has("chat") && summary.raw("chat").is_object();
            const auto name     = has_chat ? summary.raw("chat").value("template", nlohmann::json()) : nlohmann::json();
            if (name.is_string()) form = find_chat_form(name);
        }
    }
};

// Makes a model's files say how its conversations are written: the chat template goes into tokenizer_config.json, and
// the token that ends an answer becomes the first of eos_token_id in generation_config.json, for infer_gpt and for
// transformers' generate().
inline void tell_chat_form(TokenizerFiles& files, Config& c, const ChatTemplate& chat) {
    nlohmann::json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
    for (auto file = files.begin(); file != files.end();) {
        const bool replaced = file->first == "tokenizer_config.json" || file->first.rfind("chat_template.", 0) == 0;
        if (file->first == "tokenizer_config.json") {
            config = parse_json(file->second, file->first, 64, Json::as_python);
            CHECK(config.is_object(), "{} beside the tokenizer: expected a JSON object", file->first);
        }
        file = replaced ? files.erase(file) : std::next(file);
    }
    config["chat_template"] = chat.form().jinja;
    files.emplace_back("tokenizer_config.json", json_text(config, 2) + "\n");

    if (!c.ends.empty() && c.ends[0] == chat.end()) return;
    c.ends.erase(std::remove(c.ends.begin(), c.ends.end(), int64_t(chat.end())), c.ends.end());
    c.ends.insert(c.ends.begin(), chat.end());
    auto generation = nlohmann::ordered_json::parse(c.given.generation_config, nullptr, false);
    if (!generation.is_object()) generation = nlohmann::ordered_json::object();
    generation["eos_token_id"] = c.ends;
    c.given.generation_config  = generation.dump(2) + "\n";
}
