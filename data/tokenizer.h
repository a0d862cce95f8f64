// tokenizer.h - turns text into token ids and back, with the same ids as Hugging Face tokenizers for the same file
//
// Encoding takes six steps:
//   1. Added tokens that match the text as it stands are taken out, leftmost and longest first (added_tokens.h).
//   2. The text between them is brought to the normal forms that the file names (unicode.h).
//   3. Added tokens marked `normalized` are taken out.
//   4. If the file says so, a space is put in front of each stretch that remains.
//   5. The stretch is split into pieces by GPT-2's pattern (unicode.h).
//   6. The bytes of each piece are merged (bpe.h).
#pragma once
#include <algorithm>
#include <array>
#include <bitset>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/tokenizer_file.h"
#include "data/tokenizer_json.h"
#include "data/unicode.h"
#include "kernels/check.h"
#include "kernels/random.h"

// How special tokens that are written in a text are encoded: as plain text, as their ids, or not at all.
enum class SpecialTokens : uint8_t { text, ids, refuse };
constexpr const char* special_token_words[] = {"text", "ids", "refuse"};  // name the values in options

class Tokenizer {
  public:
    // path: a tokenizer.json, or the vocab.json beside a merges.txt. Throws InputError for what it cannot use.
    static Tokenizer load(const std::string& path) { return load(read_tokenizer_json(path), path); }
    // Takes `text` for the tokenizer.json at `path`, beside which other files name the end-of-text token.
    static Tokenizer load(std::string_view text, const std::string& path) {
        Tokenizer tokenizer(text, path);
        tokenizer.find_end(path);
        return tokenizer;
    }

    // text: a tokenizer.json. where: its name for errors.
    explicit Tokenizer(std::string_view text, const std::string& where = "tokenizer.json") : where_(where) {
        TokenizerFile file(text, where);
        bpe_          = Bpe(file.byte_tokens, file.merges, file.bytes);
        forms_        = file.forms;
        prefix_space_ = file.prefix_space;
        before_       = file.before;
        after_        = file.after;
        unknown_      = file.unknown;
        fuse_unknown_ = file.fuse_unknown;
        eot_          = file.id_of("<|endoftext|>");
        for (const unicode::Form form : forms_) form_set_ |= form;
        if (forms_.empty()) form_set_ = unicode::nfc_form;  // an upper limit, so that cuts do not depend on the file
        for (const AddedToken& token : file.added) add(token);
        for (int b = 0; b < 256; b++) {
            has_no_token_[size_t(b)] = file.byte_tokens[size_t(b)] < 0;
            all_bytes_known_ &= file.byte_tokens[size_t(b)] >= 0;
        }
        bytes_ = std::move(file.bytes);
    }

    // Buffers and a cache that encoding reuses from one text to the next, and what it met. Each thread needs its own.
    struct Scratch {
        Bpe::Recent recent;
        std::string replaced, normal[2], prefixed, known;
        std::map<int32_t, int64_t> specials;             // how often each special token was met
        std::array<int64_t, 256> bytes_without_token{};  // how often a byte was met that has no token
    };

    // specials: true turns a special token that is written in the text into its id, false takes it for plain text.
    std::vector<int32_t> encode(std::string_view text, bool specials = true) const {
        std::vector<int32_t> ids;
        Scratch scratch;
        encode(text, specials, ids, scratch);
        return ids;
    }
    // Appends to `ids`.
    void encode(std::string_view text, bool specials, std::vector<int32_t>& ids, Scratch& scratch) const {
        const auto count_special = [&](int32_t id) { scratch.specials[id]++; };
        const auto encode_plain  = [&](std::string_view plain) {
            if (prefix_space_ && plain[0] != ' ') plain = scratch.prefixed.assign(1, ' ').append(plain);
            if (!all_bytes_known_) return encode_known(plain, ids, scratch);
            for (size_t at = 0, end = 0; at < plain.size(); at = end) {
                end = unicode::next_piece(plain, at);
                bpe_.encode(plain, at, end, ids, scratch.recent);
            }
        };
        const auto encode_raw = [&](std::string_view raw) {
            for (const unicode::Form form : forms_) {
                // A text that has the form already stays in its buffer, which the next form must not overwrite.
                const bool in_first = raw.data() == scratch.normal[0].data();
                raw                 = unicode::normalize(raw, form, scratch.normal[in_first ? 1 : 0]);
            }
            in_normal_.split(raw, specials, ids, encode_plain, count_special);
        };
        in_raw_.split(without_bad_bytes(text, scratch.replaced), specials, ids, encode_raw, count_special);
    }

    // Ids that the file puts in front of and behind a whole text, such as a beginning-of-sequence token.
    const std::vector<int32_t>& before() const { return before_; }
    const std::vector<int32_t>& after() const { return after_; }

    // The last position after `from` where the text may be cut, or 0 if there is none. Encoding the two parts
    // separately gives the ids of the whole, whatever text follows.
    size_t last_cut(std::string_view text, size_t from = 0) const {
        const auto inside_token = [&](size_t at) { return inner_pairs_[uint8_t(text[at - 1])][uint8_t(text[at])]; };
        for (size_t at = text.size(); at > from; at--)
            if (unicode::always_splits(text, at, form_set_) && !inside_token(at) && (!prefix_space_ || text[at] == ' '))
                return at;
        return 0;
    }

    std::string decode(const std::vector<int32_t>& ids) const {
        std::string text;
        for (const int32_t id : ids) text += bytes_of(id);
        return text;
    }

    // The bytes of one token, none for an id that is unused. Throws InputError for an id outside the vocabulary.
    const std::string& bytes_of(int32_t id) const {
        CHECK(id >= 0 && id < vocab_size(), "token {} is not in the vocabulary of {}, which ends at {}", id, where_,
              vocab_size() - 1);
        return bytes_[size_t(id)];
    }

    // What an id adds to a text: U+FFFD for an id outside the vocabulary, which a model may have.
    std::string text_of(int32_t id) const { return id < vocab_size() ? bytes_of(id) : "\xEF\xBF\xBD"; }

    int vocab_size() const { return int(bytes_.size()); }  // the largest id + 1
    // The id of the token that separates documents, or -1. It is the eos_token that a file beside the tokenizer names,
    // else the special token that the model's config.json ends a text with, else <|endoftext|>.
    int eot() const { return eot_; }
    int eos() const { return eos_; }  // the id of the eos_token that a file beside the tokenizer names, or -1

    // The id of a token by its content, or -1.
    int32_t id_of(const std::string& content) const {
        const auto added = added_.find(content);
        if (added != added_.end()) return added->second;
        const auto found = content.empty() ? bytes_.end() : std::find(bytes_.begin(), bytes_.end(), content);
        return found == bytes_.end() ? -1 : int32_t(found - bytes_.begin());
    }
    bool is_special(int32_t id) const { return special_.count(id) > 0; }
    const std::set<int32_t>& special_ids() const { return special_; }
    int32_t unknown() const { return unknown_; }  // the id for bytes without a token; -1: they are left out

    // A hash of vocabulary and merges.
    std::string fingerprint() const {
        uint64_t hash     = hash64("");
        const auto append = [&hash](const void* data, size_t n) {
            hash = hash64({static_cast<const char*>(data), n}, hash);
        };
        for (const std::string& b : bytes_) {
            const uint32_t n = uint32_t(b.size());
            append(&n, sizeof n);
            append(b.data(), b.size());
        }
        append(bpe_.merges().data(), bpe_.merges().size() * sizeof(Merge));
        return fmt::format("{:016x}", hash);
    }

  private:
    // Finds the token that ends a text in the files beside the tokenizer. Models are often saved with an eos_token_id
    // that is only a default, so an id that is no special token counts only where there is no <|endoftext|>.
    void find_end(const std::string& path) {
        const auto ids     = end_ids_in(fs::path(path).parent_path());
        const auto special = std::find_if(ids.begin(), ids.end(), [&](int64_t id) { return special_.count(id) > 0; });
        const auto known   = std::find_if(ids.begin(), ids.end(),
                                          [&](int64_t id) { return id < vocab_size() && !bytes_[size_t(id)].empty(); });
        eos_               = id_of(eos_token_beside(path));
        if (eos_ >= 0)
            eot_ = eos_;
        else if (special != ids.end())
            eot_ = int32_t(*special);
        else if (eot_ < 0 && known != ids.end())
            eot_ = int32_t(*known);
    }

    void add(const AddedToken& token) {
        std::string content = token.content, buffer;
        if (token.normalized)
            for (const unicode::Form form : forms_) content = std::string(unicode::normalize(content, form, buffer));
        if (token.special) special_.insert(token.id);
        added_[token.content] = token.id;
        (token.normalized ? in_normal_ : in_raw_).add(content, token.id, token.special);
        for (size_t i = 1; i < content.size(); i++) inner_pairs_[uint8_t(content[i - 1])].set(uint8_t(content[i]));
    }

    // Replaces each byte that UTF-8 never uses and that has no token by U+FFFD, the replacement character.
    std::string_view without_bad_bytes(std::string_view text, std::string& buffer) const {
        if (all_bytes_known_) return text;
        buffer.clear();
        size_t copied = 0;
        for (size_t at = 0; at < text.size(); at++) {
            const uint8_t b = uint8_t(text[at]);
            if (!has_no_token_[b] || (b != 0xc0 && b != 0xc1 && b < 0xf5)) continue;
            buffer.append(text, copied, at - copied).append("\xef\xbf\xbd");
            copied = at + 1;
        }
        return copied == 0 ? text : std::string_view(buffer.append(text, copied, text.size() - copied));
    }

    // Encodes a stretch without the bytes that have no token. The other bytes of a piece become neighbours, unless
    // unknown_ stands between them.
    [[gnu::noinline]] void encode_known(std::string_view plain, std::vector<int32_t>& ids, Scratch& scratch) const {
        std::string& known = scratch.known;
        const auto flush   = [&] {
            if (!known.empty()) bpe_.encode(known, 0, known.size(), ids, scratch.recent);
            known.clear();
        };
        for (size_t at = 0, end = 0; at < plain.size(); at = end) {
            end                = unicode::next_piece(plain, at);
            bool after_unknown = false;
            for (const char c : plain.substr(at, end - at)) {
                if (!has_no_token_[uint8_t(c)]) {
                    known += c;
                    after_unknown = false;
                    continue;
                }
                scratch.bytes_without_token[uint8_t(c)]++;
                if (unknown_ < 0) continue;
                flush();
                if (!(fuse_unknown_ && after_unknown)) ids.push_back(unknown_);
                after_unknown = true;
            }
            flush();
        }
    }

    std::string where_;
    std::vector<std::string> bytes_;  // the index is the id; an unused id has ""
    Bpe bpe_;
    AddedTokens in_raw_, in_normal_;                 // searched before and after normalizing
    std::array<std::bitset<256>, 256> inner_pairs_;  // bytes that are neighbours in some added token
    std::array<bool, 256> has_no_token_{};
    bool all_bytes_known_ = true, prefix_space_ = false, fuse_unknown_ = false;
    std::vector<unicode::Form> forms_;
    uint8_t form_set_ = 0;
    std::vector<int32_t> before_, after_;
    std::set<int32_t> special_;
    std::map<std::string, int32_t> added_;  // id of each added token
    int32_t unknown_ = -1, eot_ = -1, eos_ = -1;
};
