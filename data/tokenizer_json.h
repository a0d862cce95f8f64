// tokenizer_json.h - the text of a tokenizer.json: read from a folder, or made from vocab.json and merges.txt
//
// Older folders of GPT-2 and GPT-Neo have only the pair of vocab.json and merges.txt.
#pragma once
#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/files.h"
#include "data/json.h"
#include "data/recognize.h"

// A tokenizer.json of GPT-2's kind without any tokens or merges.
inline nlohmann::json empty_tokenizer_json() {
    return nlohmann::json::parse(R"({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer":  {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder":        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": {}, "merges": []}})");
}

// An entry of "added_tokens". fields: an object whose flags replace the defaults, or null.
inline nlohmann::json added_token(const std::string& content, int64_t id, bool special,
                                  const nlohmann::json& fields = nullptr) {
    nlohmann::json token = {{"content", content}, {"single_word", false},   {"lstrip", false},
                            {"rstrip", false},    {"normalized", !special}, {"special", special}};
    if (fields.is_object())
        for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"})
            if (fields.contains(flag)) token[flag] = fields[flag];
    token["id"] = id;
    return token;
}

// Makes a tokenizer.json from a folder's vocab.json and merges.txt. Added tokens come from added_tokens.json,
// from added_tokens_decoder in tokenizer_config.json, and from special_tokens_map.json.
class TokenizerPair {
  public:
    explicit TokenizerPair(const fs::path& folder) : folder_(folder) {
        file_["model"]["vocab"] = object("vocab.json");
        read_merges();
        read_added_tokens();
    }
    std::string tokenizer_json() const { return file_.dump(1) + "\n"; }

  private:
    using json = nlohmann::json;

    std::string path(const char* name) const { return (folder_ / name).string(); }
    json object(const char* name) const {
        const json j = read_json(path(name));
        CHECK(j.is_object(), "{}: expected a JSON object", path(name));
        return j;
    }
    json object_if_there(const char* name) const { return fs::exists(path(name)) ? object(name) : json::object(); }

    // merges.txt has a line with the version, then one merge "left right" per line. Words are checked against
    // vocab.json here, so that errors can name the line.
    void read_merges() {
        const json& vocab = file_["model"]["vocab"];
        const MappedFile file(path("merges.txt"));
        const std::string_view text = file.text();
        int64_t line_number         = 0;
        for (size_t at = 0, end; at < text.size(); at = end + 1) {
            end              = std::min(text.find('\n', at), text.size());
            std::string line = std::string(text.substr(at, end - at));
            if (!line.empty() && line.back() == '\r') line.pop_back();
            line_number++;
            if (line.empty() || (line_number == 1 && line.rfind("#version", 0) == 0)) continue;
            const size_t gap = line.find(' ');
            const bool known = gap != line.npos && vocab.contains(line.substr(0, gap)) &&
                               vocab.contains(line.substr(gap + 1)) &&
                               vocab.contains(line.substr(0, gap) + line.substr(gap + 1));
            CHECK(known, "{}:{}: expected two words that are in vocab.json, as is their concatenation",
                  path("merges.txt"), line_number);
            file_["model"]["merges"].push_back(std::move(line));
        }
    }

    void read_added_tokens() {
        std::map<std::string, json> tokens;  // entries of added_tokens, by content
        const json more = object_if_there("added_tokens.json");
        for (const auto& [content, id] : more.items()) {
            CHECK(id.is_number_integer(), "{}: the id of {} is {}, expected a whole number", path("added_tokens.json"),
                  content, id.dump());
            tokens[content] = added_token(content, id, false);
        }
        const json config = object_if_there("tokenizer_config.json");
        const json prefix = config.value("add_prefix_space", json());
        CHECK(prefix.is_null() || prefix.is_boolean(), "{}: add_prefix_space is {}, expected true or false",
              path("tokenizer_config.json"), prefix.dump());
        file_["pre_tokenizer"]["add_prefix_space"] = prefix == true;
        const json decoder                         = config.value("added_tokens_decoder", json::object());
        for (const auto& [digits, token] : decoder.items()) {
            int64_t id              = -1;
            const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
            CHECK(error == std::errc() && end == digits.data() + digits.size() && token.is_object() &&
                      token.contains("content") && token["content"].is_string(),
                  "{}: added_tokens_decoder: {} is {}, expected an id and its token", path("tokenizer_config.json"),
                  digits, token.dump());
            const std::string content = token["content"];
            tokens[content]           = added_token(content, id, token.value("special", json(false)) == true, token);
        }

        const json& vocab   = file_["model"]["vocab"];
        const json specials = object_if_there("special_tokens_map.json");
        const auto special  = [&](const std::string& use, const json& token) {
            const json content = token.is_object() && token.contains("content") ? token["content"] : token;
            CHECK(content.is_string(), "{}: {} is {}, expected a token", path("special_tokens_map.json"), use,
                   token.dump());
            const std::string word = content;
            const auto added       = tokens.find(word);
            CHECK(added != tokens.end() || vocab.contains(word),
                   "{}: {} is {}, but neither vocab.json nor added_tokens.json gives it an id",
                   path("special_tokens_map.json"), use, word);
            const json& id = added != tokens.end() ? added->second["id"] : vocab[word];
            CHECK(id.is_number_integer(), "{}: the id of {} is {}, expected a whole number", path("vocab.json"), word,
                   id.dump());
            tokens[word] = added_token(word, id, true, token);
        };
        for (const auto& [use, value] : specials.items())
            for (const json& token : value.is_array() ? value : json::array({value}))
                if (!token.is_null()) special(use, token);
        if (vocab.contains("<|endoftext|>") && !tokens.count("<|endoftext|>"))
            special("eos_token", "<|endoftext|>");  // GPT-2's end of text is special even where no file says so

        // Hugging Face lists added tokens in the order of their ids.
        std::map<int64_t, json> by_id;
        for (const auto& [content, token] : tokens) {
            const auto [place, is_new] = by_id.emplace(token["id"].get<int64_t>(), token);
            CHECK(is_new, "{}: {} and {} are both added with id {}", folder_.string(), place->second["content"].dump(),
                  token["content"].dump(), place->first);
        }
        for (const auto& [id, token] : by_id) file_["added_tokens"].push_back(token);
    }

    fs::path folder_;
    json file_ = empty_tokenizer_json();
};

// The path of a folder's tokenizer: its tokenizer.json, else the vocab.json beside a merges.txt, else "".
inline std::string tokenizer_in(const fs::path& folder) {
    refuse_dangling((folder / "tokenizer.json").string());
    if (fs::exists(folder / "tokenizer.json")) return (folder / "tokenizer.json").string();
    const bool pair = fs::exists(folder / "vocab.json") && fs::exists(folder / "merges.txt");
    return pair ? (folder / "vocab.json").string() : "";
}

// The tokenizer that a path names: a file itself, or the one in a folder. Throws InputError for a folder without one.
inline std::string tokenizer_at(const std::string& path) {
    if (!fs::is_directory(path)) return path;
    const fs::path newest  = fs::path(path) / "checkpoints" / "latest";  // the path may be a run's folder
    const std::string file = tokenizer_in(fs::exists(newest) ? newest : fs::path(path));
    CHECK(!file.empty(), "{}: this folder has no tokenizer.json, and no vocab.json with merges.txt", path);
    return file;
}

// The token that ends a text: eos_token in tokenizer_config.json or special_tokens_map.json beside a tokenizer, or "".
inline std::string eos_token_beside(const fs::path& tokenizer) {
    for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
        const fs::path path = tokenizer.parent_path() / name;
        if (!fs::exists(path)) continue;
        const nlohmann::json file = read_json(path.string(), 64, Json::as_python);
        nlohmann::json token      = file.is_object() ? file.value("eos_token", nlohmann::json()) : nlohmann::json();
        if (token.is_object()) token = token.value("content", nlohmann::json());
        if (token.is_string()) return token;
    }
    return "";
}

// The ids that end a text, as a model folder says: "eos_token_id", which is a number or a list, of its
// generation_config.json, else of its config.json. A file that is no JSON object says nothing.
inline std::vector<int64_t> end_ids_in(const fs::path& folder) {
    std::vector<int64_t> ids;
    for (const char* name : {"generation_config.json", "config.json"}) {
        std::error_code unknown;
        if (!ids.empty() || !fs::is_regular_file(folder / name, unknown)) continue;
        const MappedFile file((folder / name).string());
        const auto json = nlohmann::json::parse(mark_python_numbers(file.text()), nullptr, false);
        if (!json.is_object() || !json.contains("eos_token_id")) continue;
        const auto& value = json["eos_token_id"];
        for (const auto& id : value.is_array() ? value : nlohmann::json::array({value}))
            if (id.is_number_integer() && id >= 0 && id <= std::numeric_limits<int32_t>::max()) ids.push_back(id);
    }
    return ids;
}

// Refuses tokenizers of other programs that are no JSON, and says which program they belong to.
inline void refuse_other_tokenizers(std::string_view text, const std::string& path) {
    const std::string_view line = text.substr(0, text.find('\n'));
    const size_t gap            = line.rfind(' ');
    const bool ends_in_number   = gap != line.npos && gap > 0 && gap + 1 < line.size() &&
                                line.find_first_not_of("0123456789\r", gap + 1) == line.npos;
    const auto begins   = [&](std::string_view magic) { return text.substr(0, magic.size()) == magic; };
    const char* hint    = "name a tokenizer.json, or the vocab.json beside a merges.txt";
    const FileKind kind = recognize(text);
    CHECK(kind.what.empty(), "{} is {}; {}", path, kind.what, hint);
    CHECK(!begins("minbpe "), "{} is a model of minbpe, which has its own form; {}", path, hint);
    CHECK(!(begins("[") && ends_in_number && line[gap - 1] == ']'),
          "{} is a vocabulary of minbpe, written for people to read; {}", path, hint);
    CHECK(!begins("#version"), "{} holds merges without a vocabulary; {}", path, hint);
    const bool is_base64 =
        ends_in_number && line.substr(0, gap).find_first_not_of(
                              "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") == line.npos;
    CHECK(!is_base64, "{} is a vocabulary of tiktoken, without merges; {}", path, hint);
    CHECK(!begins("[PAD]") && !begins("[UNK]"), "{} is a word list of BERT; {}", path, hint);
    const bool is_sentencepiece = begins("\n") && text.substr(0, 64).find("<unk>") != text.npos;
    CHECK(!is_sentencepiece, "{} is a SentencePiece model; {}", path, hint);
    const size_t tab = line.find('\t');
    CHECK(tab == line.npos || tab + 1 >= line.size() || line.find_first_not_of("0123456789.-\r", tab + 1) != line.npos,
          "{} is a vocabulary of SentencePiece, written for people to read; {}", path, hint);
    CHECK(!begins({"\x28\xe3\x34\x01", 4}), "{} is a tokenizer of llm.c; {}", path, hint);
}

// The text of a tokenizer.json. path: a tokenizer.json, or the vocab.json beside a merges.txt.
inline std::string read_tokenizer_json(const fs::path& path) {
    if (path.filename() == "vocab.json") return TokenizerPair(path.parent_path()).tokenizer_json();
    const MappedFile file(path.string());
    refuse_other_tokenizers(file.text(), path.string());
    return std::string(file.text());
}
