// tokenizer_file.h - reads a tokenizer.json: vocabulary, merges, added tokens and normal form
//
// Byte-level BPE as GPT-2 and GPT-NeoX use it is supported. Whatever else the file asks for is refused by the name of
// its field, because other token ids would come out without a word.
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
            refuse_unknown_features(file);
            read_vocabulary(file.at("model").at("vocab"));
            find_byte_tokens();
            read_merges(file.at("model").at("merges"));
            nfc = file.value("/normalizer/type"_json_pointer, json()) == "NFC";
            read_added_tokens(file.value("added_tokens", json::array()));
        } catch (const json::exception& e) { fail("{}: not a tokenizer.json: {}", where, e.what()); }
    }

    std::vector<std::string> bytes;        // of each id; "" for an unused id
    std::array<int32_t, 256> byte_tokens;  // the id of each byte, or -1
    std::vector<Merge> merges;             // in order of rank
    std::vector<AddedToken> added;
    bool nfc = false;  // texts are brought to normal form C

    // The id of a token as the file spells it, or -1.
    int32_t id_of(const std::string& word) const {
        const auto found = ids_.find(word);
        return found == ids_.end() ? -1 : found->second;
    }

  private:
    using json = nlohmann::json;

    void refuse_unknown_features(const json& file) const {
        CHECK(file.is_object(), "{}: not a tokenizer.json: expected an object with \"model\"", where_);
        // A field of a section that is not listed here must be null or false.
        const auto fields = [&](const std::string& section, std::initializer_list<const char*> known) {
            const json absent;
            const json& part = section.empty() ? file : file.contains(section) ? file[section] : absent;
            CHECK(part.is_null() || part.is_object(), "{}: {} is {}, expected an object", where_, section, brief(part));
            for (const auto& item : part.items()) {
                const bool is_off   = item.value().is_null() || item.value() == false;
                const bool is_known = std::find(known.begin(), known.end(), item.key()) != known.end();
                CHECK(is_known || is_off, "{}: {}/{} is {}, a feature that this tokenizer does not have", where_,
                      section, item.key(), brief(item.value()));
            }
        };
        // truncation and padding shape batches and change no token.
        fields("", {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                    "decoder", "model"});
        fields("model", {"type", "unk_token", "fuse_unk", "dropout", "continuing_subword_prefix", "end_of_word_suffix",
                         "vocab", "merges"});
        fields("normalizer", {"type"});
        fields("pre_tokenizer", {"type", "trim_offsets", "use_regex"});

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
        only("/normalizer/type", {nullptr, "NFC"});
        only("/pre_tokenizer/type", {"ByteLevel"});
        only("/pre_tokenizer/use_regex", {nullptr, true});
        only("/decoder/type", {nullptr, "ByteLevel"});
        only("/post_processor/type", {nullptr, "ByteLevel", "TemplateProcessing"});
        for (const json& part : file.value("/post_processor/single"_json_pointer, json::array()))
            CHECK(part.contains("Sequence"),
                  "{}: post_processor/single adds {}, a feature that this tokenizer does not have", where_,
                  brief(part));
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

    // GPT-NeoX has no token for the bytes that well-formed UTF-8 never uses.
    void find_byte_tokens() {
        for (int b = 0; b < 256; b++) {
            const int32_t id          = id_of(byte_alphabet().write(std::string(1, char(b))));
            const bool never_in_utf_8 = b == 0xc0 || b == 0xc1 || b >= 0xf5;
            CHECK(id >= 0 || never_in_utf_8, "{}: no token for byte {}, so not every text could be encoded", where_, b);
            byte_tokens[size_t(b)] = id;
        }
    }

    // Each merge is "left right" or ["left", "right"].
    void read_merges(const json& list) {
        const auto known_id = [&](const std::string& word, const json& merge) {
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
            merges.push_back({known_id(left, merge), known_id(right, merge), known_id(left + right, merge)});
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
    std::unordered_map<std::string, int32_t> ids_;  // by the word as the file spells it
};
