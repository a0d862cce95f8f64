// tokenizer.h - text to tokens and back, to the id what Hugging Face tokenizers does with the same tokenizer.json
//
// The way of a text: added tokens that match it as it stands are taken out, leftmost and longest; the rest is brought
// to normal form C if the file says so; added tokens marked `normalized` are taken out; what remains is split by
// GPT-2's pattern (unicode.h), and the bytes of each piece are merged (bpe.h). A feature that we do not have is refused
// by the name of its field.
#pragma once
#include <algorithm>
#include <array>
#include <bitset>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/bpe.h"
#include "data/files.h"
#include "data/json.h"
#include "data/tokenizer_json.h"
#include "data/unicode.h"
#include "kernels/check.h"

// In a tokenizer.json a byte is one printable character: itself where Latin-1 has a glyph for it, else the next free
// code point from U+0100 on. So the space is written U+0120.
class ByteAlphabet {
  public:
    ByteAlphabet() {
        const auto has_glyph = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
        int32_t next         = 0x100;
        for (int b = 0; b < 256; b++)
            if (has_glyph(b)) add(uint8_t(b), b);
        for (int b = 0; b < 256; b++)
            if (!has_glyph(b)) add(uint8_t(b), next++);
    }
    const std::string& in_order() const { return order_; }  // the bytes as GPT-2 numbers them

    std::string write(std::string_view bytes) const {
        std::string word;
        for (const char b : bytes) word += written_[uint8_t(b)];
        return word;
    }
    // The bytes behind a word. False if it has a character that stands for none.
    bool read(std::string_view word, std::string& bytes) const {
        bytes.clear();
        for (size_t at = 0; at < word.size();) {
            const unicode::Char c = unicode::char_at(word, at);
            const auto found      = byte_.find(c.code);
            if (found == byte_.end()) return false;
            bytes += char(found->second);
            at += size_t(c.bytes);
        }
        return true;
    }

  private:
    void add(uint8_t byte, int32_t code) {
        uint8_t utf8[4];
        const auto n = utf8proc_encode_char(code, utf8);
        written_[byte].assign(reinterpret_cast<char*>(utf8), size_t(n));
        byte_[code] = byte;
        order_ += char(byte);
    }
    std::array<std::string, 256> written_;
    std::unordered_map<int32_t, uint8_t> byte_;
    std::string order_;
};

inline const ByteAlphabet& byte_alphabet() {
    static const ByteAlphabet alphabet;
    return alphabet;
}

// Tokens that are found in the text as they are, before it is split: leftmost first, then longest.
class AddedTokens {
  public:
    void add(const std::string& content, int32_t id, bool special) {
        if (nodes_.empty()) nodes_.emplace_back();
        size_t n = 0;
        for (const char c : content) {
            if (nodes_[n].next[uint8_t(c)] == 0) {
                nodes_[n].next[uint8_t(c)] = int32_t(nodes_.size());
                nodes_.emplace_back();
            }
            n = size_t(nodes_[n].next[uint8_t(c)]);
        }
        nodes_[n].id      = id;
        nodes_[n].special = special;
        all_special_ &= special;
    }

    // Appends the ids of the tokens, and calls plain(stretch) on what lies between them. Without `specials`, a special
    // token is part of its stretch.
    template <class F>
    void split(std::string_view text, bool specials, std::vector<int32_t>& ids, F plain) const {
        size_t from     = 0;
        const bool none = nodes_.empty() || (all_special_ && !specials);
        for (size_t at = 0; !none && at < text.size();) {
            while (at < text.size() && nodes_[0].next[uint8_t(text[at])] == 0) at++;  // nearly every byte of most texts
            const Node* token = nullptr;
            size_t end = at + 1, node = 0;
            for (size_t i = at; i < text.size() && (node = size_t(nodes_[node].next[uint8_t(text[i])])) != 0; i++)
                if (nodes_[node].id >= 0) token = &nodes_[node], end = i + 1;
            if (token && (specials || !token->special)) {
                if (at > from) plain(text.substr(from, at - from));
                ids.push_back(token->id);
                from = end;
            }
            at = end;
        }
        if (from < text.size()) plain(text.substr(from));
    }

  private:
    struct Node {
        std::array<int32_t, 256> next{};  // 0: none, since nothing leads back to the root
        int32_t id   = -1;
        bool special = false;
    };
    std::vector<Node> nodes_;
    bool all_special_ = true;
};

class Tokenizer {
  public:
    // path: a tokenizer.json, or the vocab.json beside a merges.txt.
    static Tokenizer load(const std::string& path) { return Tokenizer(read_tokenizer_json(path), path); }

    // From the text of a tokenizer.json; `where` names it in errors.
    explicit Tokenizer(std::string_view text, const std::string& where = "tokenizer.json") : where_(where) {
        try {
            const json file = parse_json(text, where);
            refuse_unknown_features(file);
            read_vocabulary(file.at("model").at("vocab"));
            bpe_ = Bpe(byte_tokens(), read_merges(file.at("model").at("merges")), bytes_);
            nfc_ = file.value("/normalizer/type"_json_pointer, json()) == "NFC";
            read_added_tokens(file.value("added_tokens", json::array()));
        } catch (const json::exception& e) { fail("{}: not a tokenizer.json: {}", where, e.what()); }
        const auto eot = ids_.find("<|endoftext|>");
        eot_           = eot == ids_.end() ? -1 : eot->second;
    }

    // What encoding keeps from one text to the next, to be quick; each thread has its own.
    struct Scratch {
        Bpe::Recent recent;
        std::string replaced, composed;
    };

    // specials: whether a special token written in the text becomes its id, or is text like any other.
    std::vector<int32_t> encode(std::string_view text, bool specials = true) const {
        std::vector<int32_t> ids;
        Scratch scratch;
        encode(text, specials, ids, scratch);
        return ids;
    }
    // Appends to ids.
    void encode(std::string_view text, bool specials, std::vector<int32_t>& ids, Scratch& scratch) const {
        const std::string_view known = with_known_bytes(text, scratch.replaced);
        in_raw_.split(known, specials, ids, [&](std::string_view rest) {
            if (nfc_) rest = unicode::nfc(rest, scratch.composed);
            in_normal_.split(rest, specials, ids, [&](std::string_view plain) {
                for (size_t at = 0, end = 0; at < plain.size(); at = end) {
                    end = unicode::next_piece(plain, at);
                    bpe_.encode(plain, at, end, ids, scratch.recent);
                }
            });
        });
    }

    // The last place behind `from` where the text may be cut: its two parts, encoded apart, give the ids of the whole,
    // whatever follows. 0 where there is none.
    size_t last_cut(std::string_view text, size_t from = 0) const {
        const auto inside_token = [&](size_t at) { return inner_pairs_[uint8_t(text[at - 1])][uint8_t(text[at])]; };
        for (size_t at = text.size(); at > from; at--)
            if (unicode::always_splits(text, at) && !inside_token(at)) return at;
        return 0;
    }

    std::string decode(const std::vector<int32_t>& ids) const {
        std::string text;
        for (const int32_t id : ids) text += bytes_of(id);
        return text;
    }

    const std::string& bytes_of(int32_t id) const {
        const bool known = id >= 0 && id < vocab_size() && !bytes_[size_t(id)].empty();
        CHECK(known, "token {} is not in the vocabulary of {}, which ends at {}", id, where_, vocab_size() - 1);
        return bytes_[size_t(id)];
    }

    int vocab_size() const { return int(bytes_.size()); }  // the largest id + 1
    int eot() const { return eot_; }                       // the id of <|endoftext|>, or -1

    // A hash (FNV-1a) of vocabulary and merges.
    std::string fingerprint() const {
        uint64_t hash  = 0xcbf29ce484222325u;
        const auto mix = [&hash](const char* data, size_t n) {
            for (size_t i = 0; i < n; i++) hash = (hash ^ uint8_t(data[i])) * 0x100000001b3u;
        };
        for (const std::string& b : bytes_) {
            const uint32_t n = uint32_t(b.size());
            mix(reinterpret_cast<const char*>(&n), sizeof n);
            mix(b.data(), b.size());
        }
        mix(reinterpret_cast<const char*>(bpe_.merges().data()), bpe_.merges().size() * sizeof(Merge));
        return fmt::format("{:016x}", hash);
    }

  private:
    using json = nlohmann::json;

    void refuse_unknown_features(const json& file) const {
        CHECK(file.is_object(), "{}: not a tokenizer.json: expected an object with \"model\"", where_);
        // These fields of a section are the only ones that may say something; truncation and padding shape batches.
        const auto fields = [&](const std::string& section, std::initializer_list<const char*> known) {
            const json absent;
            const json& part = section.empty() ? file : file.contains(section) ? file[section] : absent;
            CHECK(part.is_null() || part.is_object(), "{}: {} is {}, expected an object", where_, section, brief(part));
            for (const auto& item : part.items()) {
                const bool says_nothing = item.value().is_null() || item.value() == false;
                const bool ours         = std::find(known.begin(), known.end(), item.key()) != known.end();
                CHECK(ours || says_nothing, "{}: {}/{} is {}, a feature that this tokenizer does not have", where_,
                      section, item.key(), brief(item.value()));
            }
        };
        fields("", {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                    "decoder", "model"});
        fields("model", {"type", "unk_token", "fuse_unk", "dropout", "continuing_subword_prefix", "end_of_word_suffix",
                         "vocab", "merges"});
        fields("normalizer", {"type"});
        fields("pre_tokenizer", {"type", "trim_offsets", "use_regex"});

        const auto only = [&](const char* field, std::initializer_list<json> known) {
            const json value = file.value(json::json_pointer(field), json());  // null where absent
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

    void put(const std::string& word, const json& number, const std::string& bytes) {
        constexpr int64_t most = 1 << 24;
        CHECK(number.is_number_integer(), "{}: the id of {} is {}", where_, brief(word), brief(number));
        const int64_t id = number.get<int64_t>();
        CHECK(id >= 0 && id < most, "{}: the id of {} is {}, outside 0..{}", where_, brief(word), id, most - 1);
        CHECK(!bytes.empty(), "{}: token {} is empty", where_, id);
        if (size_t(id) >= bytes_.size()) bytes_.resize(size_t(id) + 1);
        std::string& place = bytes_[size_t(id)];
        CHECK(place.empty() || place == bytes, "{}: {} and another token both have id {}", where_, brief(word), id);
        place      = bytes;
        ids_[word] = int32_t(id);
    }

    void read_vocabulary(const json& vocab) {
        std::string bytes;
        for (const auto& item : vocab.items()) {
            const bool spelt = byte_alphabet().read(item.key(), bytes);
            put(item.key(), item.value(), spelt ? bytes : item.key());  // others are added tokens, as they are
        }
    }

    // The token of each byte. GPT-NeoX has none for the bytes that well-formed UTF-8 never uses.
    std::array<int32_t, 256> byte_tokens() {
        std::array<int32_t, 256> id;
        for (int b = 0; b < 256; b++) {
            const auto found     = ids_.find(byte_alphabet().write(std::string(1, char(b))));
            const bool is_unused = b == 0xc0 || b == 0xc1 || b >= 0xf5;
            CHECK(is_unused || found != ids_.end(), "{}: no token for byte {}, so not every text could be encoded",
                  where_, b);
            id[size_t(b)] = found == ids_.end() ? -1 : found->second;
            if (found == ids_.end()) unknown_bytes_ += char(b);
        }
        return id;
    }

    // Each byte without a token becomes U+FFFD, the replacement character.
    std::string_view with_known_bytes(std::string_view text, std::string& buffer) const {
        if (unknown_bytes_.empty()) return text;
        buffer.clear();
        bool is_unknown[256] = {};
        for (const char b : unknown_bytes_) is_unknown[uint8_t(b)] = true;
        size_t copied = 0;
        for (size_t at = 0; at < text.size(); at++) {
            if (!is_unknown[uint8_t(text[at])]) continue;
            buffer.append(text, copied, at - copied).append("\xef\xbf\xbd");
            copied = at + 1;
        }
        return copied == 0 ? text : std::string_view(buffer.append(text, copied, text.size() - copied));
    }

    // Each merge is "left right" or ["left", "right"].
    std::vector<Merge> read_merges(const json& list) const {
        std::vector<Merge> merges;
        const auto id_of = [&](const std::string& word, const json& merge) {
            const auto found = ids_.find(word);
            CHECK(found != ids_.end(), "{}: merge {} is {}, but the vocabulary has no {}", where_, merges.size(),
                  brief(merge), brief(word));
            return found->second;
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
            merges.push_back({id_of(left, merge), id_of(right, merge), id_of(left + right, merge)});
        }
        return merges;
    }

    void read_added_tokens(const json& list) {
        for (const json& token : list) {
            const std::string content = token.at("content").get<std::string>();
            for (const char* field : {"single_word", "lstrip", "rstrip"})
                CHECK(!token.value(field, false),
                      "{}: added token {} is {}, a feature that this tokenizer does not have", where_, brief(content),
                      field);
            CHECK(content.size() <= 1000, "{}: added token {} is longer than 1000 bytes", where_, brief(content));
            const auto known = ids_.find(content);
            CHECK(known == ids_.end() || token.at("id") == known->second,
                  "{}: {} is {} in added_tokens but {} in the vocabulary", where_, brief(content),
                  brief(token.at("id")), known->second);
            if (known == ids_.end()) put(content, token.at("id"), content);
            bytes_[size_t(ids_.at(content))] = content;  // an added token is never in the byte alphabet
            const bool normalized            = token.value("normalized", true);
            std::string composed;
            const auto spelt = normalized && nfc_ ? std::string(unicode::nfc(content, composed)) : content;
            (normalized ? in_normal_ : in_raw_).add(spelt, ids_.at(content), token.value("special", false));
            for (size_t i = 1; i < spelt.size(); i++) inner_pairs_[uint8_t(spelt[i - 1])].set(uint8_t(spelt[i]));
        }
    }

    std::string where_;
    std::vector<std::string> bytes_;                // of each id; "" where an id is unused
    std::unordered_map<std::string, int32_t> ids_;  // of each token as the file spells it
    Bpe bpe_;
    AddedTokens in_raw_, in_normal_;
    std::array<std::bitset<256>, 256> inner_pairs_;  // bytes that are neighbours in some added token
    std::string unknown_bytes_;
    bool nfc_ = false;
    int eot_  = -1;
};
