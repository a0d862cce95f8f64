// tokenizer_file.h - reads a tokenizer.json: vocabulary, merges, added tokens and the steps around them
//
// Byte-level BPE with GPT-2's split pattern is supported. Whatever else the file asks for is refused by the name of its
// field, because other token ids would come out without a word.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/bpe.h"
#include "data/byte_alphabet.h"
#include "data/json.h"

struct AddedToken {
    std::string content;
    int32_t id;
    bool special;     // marks structure, such as the end of a text
    bool normalized;  // is searched for in the normalized text, else in the text as it stands
};

class TokenizerFile {
  public:
    // text: a tokenizer.json. where: its name for errors.
    TokenizerFile(std::string_view text, const std::string& where) : where_(where) {
        try {
            const json file = parse_json(text, where);
            refuse_others(file);
            refuse_unknown_features(file);
            read_vocabulary(file.at("model").at("vocab"));
            find_byte_tokens();
            read_merges(file.at("model").at("merges"));
            read_unknown(file.at("model"));
            read_normalizer(file.value("normalizer", json()));
            read_pre_tokenizer(file.value("pre_tokenizer", json()), false);
            CHECK(is_byte_level_ && is_split_, "{}: pre_tokenizer lacks {}, which this tokenizer needs", where,
                  is_byte_level_ ? "GPT-2's split pattern" : "ByteLevel");
            read_added_tokens(file.value("added_tokens", json::array()));
            read_post_processor(file.value("post_processor", json()));
        } catch (const json::exception& e) { fail("{}: not a tokenizer.json: {}", where, e.what()); }
    }

    std::vector<std::string> bytes;        // the index is the id; an unused id has ""
    std::array<int32_t, 256> byte_tokens;  // the id of each byte, or -1
    std::vector<Merge> merges;             // the first has the best rank
    std::vector<AddedToken> added;
    std::vector<unicode::Form> forms;    // normal forms that a text is brought to, one after another
    bool prefix_space = false;           // a space goes in front of text that does not begin with one
    std::vector<int32_t> before, after;  // ids around a whole text
    int32_t unknown   = -1;              // stands for bytes without a token; -1: they are left out
    bool fuse_unknown = false;           // one `unknown` stands for several such bytes in a row

    // The id of a token as the file spells it, or -1.
    int32_t id_of(const std::string& word) const {
        const auto found = ids_.find(word);
        return found == ids_.end() ? -1 : found->second;
    }

  private:
    using json = nlohmann::json;

    void refuse_unknown_features(const json& file) const {
        // truncation and padding shape batches and change no token.
        only_fields(file, "",
                    {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                     "post_processor", "decoder", "model"});
        only_fields(file.at("model"), "model",
                    {"type", "unk_token", "fuse_unk", "dropout", "continuing_subword_prefix", "end_of_word_suffix",
                     "vocab", "merges"});

        // A listed field has one of these values; null also stands for an absent field.
        const auto only = [&](const char* field, std::initializer_list<json> known) {
            const json value = file.value(json::json_pointer(field), json());
            std::string list;
            for (const json& k : known) {
                if (value == k) return;
                list += (list.empty() ? "" : " or ") + (k.is_null() ? "null" : k.dump());
            }
            fail("{}: {} is {}, but this tokenizer knows only {}", where_, field + 1, brief(value), list);
        };
        only("/model/type", {nullptr, "BPE"});
        only("/model/dropout", {nullptr, 0.0});
        only("/model/continuing_subword_prefix", {nullptr, ""});
        only("/model/end_of_word_suffix", {nullptr, ""});
        only("/decoder/type", {nullptr, "ByteLevel", "Sequence"});
    }

    // Names other programs' tokenizers, which are JSON too.
    void refuse_others(const json& file) const {
        // Keras returns JSON as a text, which many programs then write as JSON once more.
        if (file.is_string()) {
            const json inner = json::parse(file.get<std::string>(), nullptr, false);
            if (inner.is_object()) return refuse_others(inner);
        }
        CHECK(file.is_object(), "{}: not a tokenizer.json: expected an object with \"model\"", where_);
        const auto says = [&](const char* key) {
            return file.value(key, json()).is_string() ? file[key].get<std::string>() : "";
        };
        CHECK(says("class_name") != "Tokenizer" && !file.contains("word_index"),
              "{} is a tokenizer of Keras (keras.preprocessing), which splits text into whole words; "
              "--train-bpe learns a vocabulary that fits your text",
              where_);
        const bool is_keras = says("module").rfind("keras", 0) == 0 || says("registered_name").rfind("keras", 0) == 0;
        CHECK(!is_keras,
              "{} describes a {} of KerasHub; its words are in vocabulary.json and merges.txt: copy them as vocab.json "
              "and "
              "merges.txt into one folder and name that vocab.json",
              where_, says("class_name"));
        const bool is_vocabulary =
            !file.contains("model") && file.size() > 1 &&
            std::all_of(file.begin(), file.end(), [](const json& id) { return id.is_number_integer(); });
        CHECK(!is_vocabulary,
              "{} is a vocabulary without merges; name the vocab.json beside a merges.txt, or a tokenizer.json",
              where_);
    }

    [[noreturn]] void refuse(const std::string& field, const json& value, const std::string& known) const {
        fail("{}: {} is {}, but this tokenizer knows only {}", where_, field, brief(value), known);
    }
    // Every field of `part` but those must be null or false.
    void only_fields(const json& part, const std::string& section, std::initializer_list<const char*> known) const {
        CHECK(part.is_object(), "{}: {} is {}, expected an object", where_, section, brief(part));
        for (const auto& item : part.items()) {
            const bool is_off   = item.value().is_null() || item.value() == false;
            const bool is_known = std::find(known.begin(), known.end(), item.key()) != known.end();
            CHECK(is_known || is_off, "{}: {}/{} is {}, a feature that this tokenizer does not have", where_, section,
                  item.key(), brief(item.value()));
        }
    }

    void read_normalizer(const json& part) {
        if (part.is_null()) return;
        only_fields(part, "normalizer", {"type", "normalizers"});
        const json type = part.value("type", json());
        if (type == "Sequence") {
            for (const json& one : part.at("normalizers")) read_normalizer(one);
            return;
        }
        const std::pair<const char*, unicode::Form> known[] = {{"NFC", unicode::nfc_form},
                                                               {"NFD", unicode::nfd_form},
                                                               {"NFKC", unicode::nfkc_form},
                                                               {"NFKD", unicode::nfkd_form}};
        for (const auto& [name, form] : known)
            if (type == name) return forms.push_back(form);
        refuse("normalizer/type", type, "null, NFC, NFD, NFKC, NFKD or a Sequence of these");
    }

    // GPT-2's pattern as its authors wrote it, and as tiktoken writes it.
    static bool is_gpt2_pattern(const json& pattern) {
        const json regex = pattern.is_object() ? pattern.value("Regex", json()) : json();
        return regex == R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)" ||
               regex == R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
    }

    // ByteLevel, which splits by GPT-2's pattern unless use_regex is false, or that pattern as a Split in front of it.
    void read_pre_tokenizer(const json& part, bool is_part) {
        const json type = part.is_object() ? part.value("type", json()) : part;
        CHECK(!is_byte_level_, "{}: pre_tokenizer has {} behind ByteLevel, a feature that this tokenizer does not have",
              where_, brief(type));
        if (type == "Sequence" && !is_part) {
            only_fields(part, "pre_tokenizer", {"type", "pretokenizers"});
            for (const json& one : part.at("pretokenizers")) read_pre_tokenizer(one, true);
        } else if (type == "ByteLevel") {
            only_fields(part, "pre_tokenizer", {"type", "trim_offsets", "use_regex", "add_prefix_space"});
            prefix_space = part.value("add_prefix_space", json()) == true;
            CHECK(!prefix_space || !is_split_,
                  "{}: pre_tokenizer/add_prefix_space is true behind a Split, a feature that this tokenizer does not "
                  "have",
                  where_);
            const bool use_regex = part.value("use_regex", json()) != false;
            CHECK(use_regex || is_split_,
                  "{}: pre_tokenizer/use_regex is false and nothing else splits, a feature that this tokenizer does "
                  "not have",
                  where_);
            is_byte_level_ = is_split_ = true;
        } else if (type == "Split") {
            only_fields(part, "pre_tokenizer", {"type", "pattern", "behavior", "invert"});
            const bool invert = part.value("invert", json()) == true;
            CHECK(is_gpt2_pattern(part.value("pattern", json())),
                  "{}: pre_tokenizer/pattern is {}, but this tokenizer knows only GPT-2's", where_,
                  brief(part.value("pattern", json())));
            const bool keeps_matches = part.value("behavior", json()) == (invert ? "Removed" : "Isolated");
            CHECK(keeps_matches, "{}: pre_tokenizer/behavior is {}, a feature that this tokenizer does not have",
                  where_, brief(part.value("behavior", json())));
            is_split_ = true;
        } else
            refuse("pre_tokenizer/type", type, "ByteLevel, or a Sequence of GPT-2's pattern as a Split and ByteLevel");
    }

    // TemplateProcessing and RobertaProcessing put ids around a text; ByteLevel changes offsets alone.
    void read_post_processor(const json& part) {
        if (part.is_null()) return;
        CHECK(part.is_object(), "{}: post_processor is {}, expected an object", where_, brief(part));
        const json type = part.value("type", json());
        if (type == "ByteLevel") return;
        if (type == "Sequence") {
            for (const json& one : part.at("processors")) read_post_processor(one);
        } else if (type == "RobertaProcessing" || type == "BertProcessing") {
            before.insert(before.begin(), known_id(part.at("cls").at(1), "post_processor/cls"));
            after.push_back(known_id(part.at("sep").at(1), "post_processor/sep"));
        } else if (type == "TemplateProcessing")
            read_template(part);
        else
            refuse("post_processor/type", type,
                   "null, ByteLevel, TemplateProcessing, RobertaProcessing or a Sequence of these");
    }
    // "single" lists tokens in front of the text, the text as a Sequence, and tokens behind it.
    void read_template(const json& part) {
        std::vector<int32_t> in_front, behind;
        bool has_text = false;
        for (const json& piece : part.at("single")) {
            if (piece.contains("Sequence")) {
                CHECK(!has_text, "{}: post_processor/single has the text twice", where_);
                has_text = true;
                continue;
            }
            const json& name = piece.at("SpecialToken").at("id");
            const json list  = part.value("special_tokens", json::object());
            CHECK(name.is_string() && list.contains(name.get<std::string>()),
                  "{}: post_processor/single has {}, but post_processor/special_tokens does not", where_, brief(name));
            for (const json& id : list[name.get<std::string>()].at("ids"))
                (has_text ? behind : in_front).push_back(known_id(id, "post_processor/special_tokens"));
        }
        CHECK(has_text, "{}: post_processor/single does not have the text", where_);
        before.insert(before.begin(), in_front.begin(), in_front.end());
        after.insert(after.end(), behind.begin(), behind.end());
    }
    int32_t known_id(const json& id, const char* field) const {
        const bool known =
            id.is_number_integer() && id >= 0 && id < int64_t(bytes.size()) && !bytes[id.get<size_t>()].empty();
        CHECK(known, "{}: {} has the id {}, which the vocabulary does not have", where_, field, brief(id));
        return id.get<int32_t>();
    }

    void read_unknown(const json& model) {
        const json token = model.value("unk_token", json());
        if (token.is_string()) unknown = id_of(token.get<std::string>());
        fuse_unknown = model.value("fuse_unk", json()) == true;
    }

    static std::string brief(const json& value) {
        const std::string text = value.dump(-1, ' ', true);
        return text.size() <= 80 ? text : text.substr(0, 77) + "...";
    }

    void put(const std::string& word, const json& number, const std::string& its_bytes) {
        constexpr int64_t most = 1 << 24;
        CHECK(number.is_number_integer(), "{}: the id of {} is {}, expected a whole number", where_, brief(word),
              brief(number));
        const int64_t id = number.get<int64_t>();
        CHECK(id >= 0 && id < most, "{}: the id of {} is {}, outside 0..{}", where_, brief(word), id, most - 1);
        CHECK(!its_bytes.empty(), "{}: token {} is empty", where_, id);
        if (size_t(id) >= bytes.size()) bytes.resize(size_t(id) + 1);
        std::string& place = bytes[size_t(id)];
        CHECK(place.empty() || place == its_bytes, "{}: {} and another token both have id {}", where_, brief(word), id);
        place      = its_bytes;
        ids_[word] = int32_t(id);
    }

    void read_vocabulary(const json& vocab) {
        std::string spelled;
        for (const auto& item : vocab.items()) {
            // A word outside the byte alphabet is an added token, which stands for its own characters.
            const bool in_alphabet = byte_alphabet().read(item.key(), spelled);
            put(item.key(), item.value(), in_alphabet ? spelled : item.key());
        }
    }

    // A vocabulary may lack tokens for bytes that its training text did not have.
    void find_byte_tokens() {
        int found = 0;
        for (int b = 0; b < 256; b++) {
            byte_tokens[size_t(b)] = id_of(byte_alphabet().write(std::string(1, char(b))));
            found += byte_tokens[size_t(b)] >= 0;
        }
        CHECK(found > 0, "{}: the vocabulary has no token for any byte, so it is not a byte-level one", where_);
    }

    // Each merge is "left right" or ["left", "right"].
    void read_merges(const json& list) {
        const auto word_id = [&](const std::string& word, const json& merge) {
            const int32_t id = id_of(word);
            CHECK(id >= 0, "{}: merge {} is {}, but the vocabulary has no {}", where_, merges.size(), brief(merge),
                  brief(word));
            return id;
        };
        for (const json& merge : list) {
            std::string left, right;
            if (merge.is_array() && merge.size() == 2) {
                left  = merge[0].get<std::string>();
                right = merge[1].get<std::string>();
            } else {
                const std::string& words = merge.get_ref<const std::string&>();
                const size_t gap         = words.find(' ');
                CHECK(gap != std::string::npos, "{}: merge {} is {}, expected two words", where_, merges.size(),
                      brief(merge));
                left  = words.substr(0, gap);
                right = words.substr(gap + 1);
            }
            merges.push_back({word_id(left, merge), word_id(right, merge), word_id(left + right, merge)});
        }
    }

    void read_added_tokens(const json& list) {
        for (const json& token : list) {
            const std::string content = token.at("content").get<std::string>();
            for (const char* field : {"single_word", "lstrip", "rstrip"})
                CHECK(!token.value(field, false),
                      "{}: added token {} is {}, a feature that this tokenizer does not have", where_, brief(content),
                      field);
            CHECK(content.size() <= 1000, "{}: added token {} is longer than 1000 bytes", where_, brief(content));
            const int32_t known = id_of(content);
            CHECK(known < 0 || token.at("id") == known, "{}: {} is {} in added_tokens but {} in the vocabulary", where_,
                  brief(content), brief(token.at("id")), known);
            if (known < 0) put(content, token.at("id"), content);
            bytes[size_t(id_of(content))] = content;  // an added token is never spelled in the byte alphabet
            added.push_back({content, id_of(content), token.value("special", false), token.value("normalized", true)});
        }
    }

    std::string where_;
    bool is_byte_level_ = false, is_split_ = false;
    std::unordered_map<std::string, int32_t> ids_;  // the key is the word as the file spells it
};
