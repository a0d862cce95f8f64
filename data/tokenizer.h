// tokenizer.h - turns text into token ids and back, with the same ids as Hugging Face tokenizers for the same file
//
// Encoding takes five steps:
//   1. Added tokens that match the text as it stands are taken out, leftmost and longest first (added_tokens.h).
//   2. The text between them is brought to normal form C, if the file says so (unicode.h).
//   3. Added tokens marked `normalized` are taken out.
//   4. What remains is split into pieces by GPT-2's pattern (unicode.h).
//   5. The bytes of each piece are merged (bpe.h).
#pragma once
#include <array>
#include <bitset>
#include <cstdint>
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

class Tokenizer {
  public:
    // path: a tokenizer.json, or the vocab.json beside a merges.txt. Throws InputError for what it cannot use.
    static Tokenizer load(const std::string& path) { return Tokenizer(read_tokenizer_json(path), path); }

    // text: a tokenizer.json. where: its name for errors.
    explicit Tokenizer(std::string_view text, const std::string& where = "tokenizer.json") : where_(where) {
        TokenizerFile file(text, where);
        bpe_ = Bpe(file.byte_tokens, file.merges, file.bytes);
        nfc_ = file.nfc;
        eot_ = file.id_of("<|endoftext|>");
        for (const AddedToken& token : file.added) add(token);
        for (int b = 0; b < 256; b++) {
            has_no_token_[size_t(b)] = file.byte_tokens[size_t(b)] < 0;
            all_bytes_known_ &= file.byte_tokens[size_t(b)] >= 0;
        }
        bytes_ = std::move(file.bytes);
    }

    // Buffers and a cache that encoding reuses from one text to the next. Each thread needs its own.
    struct Scratch {
        Bpe::Recent recent;
        std::string replaced, composed;
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

    // The last position after `from` where the text may be cut, or 0 if there is none. Encoding the two parts
    // separately gives the ids of the whole, whatever text follows.
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

    // The bytes of one token. Throws InputError for an id that is outside the vocabulary or unused.
    const std::string& bytes_of(int32_t id) const {
        const bool known = id >= 0 && id < vocab_size() && !bytes_[size_t(id)].empty();
        CHECK(known, "token {} is not in the vocabulary of {}, which ends at {}", id, where_, vocab_size() - 1);
        return bytes_[size_t(id)];
    }

    int vocab_size() const { return int(bytes_.size()); }  // the largest id + 1
    int eot() const { return eot_; }                       // the id of <|endoftext|>, or -1

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
    void add(const AddedToken& token) {
        std::string composed;
        const std::string content(token.normalized && nfc_ ? unicode::nfc(token.content, composed) : token.content);
        (token.normalized ? in_normal_ : in_raw_).add(content, token.id, token.special);
        for (size_t i = 1; i < content.size(); i++) inner_pairs_[uint8_t(content[i - 1])].set(uint8_t(content[i]));
    }

    // Replaces each byte that has no token by U+FFFD, the replacement character.
    std::string_view with_known_bytes(std::string_view text, std::string& buffer) const {
        if (all_bytes_known_) return text;
        buffer.clear();
        size_t copied = 0;
        for (size_t at = 0; at < text.size(); at++) {
            if (!has_no_token_[uint8_t(text[at])]) continue;
            buffer.append(text, copied, at - copied).append("\xef\xbf\xbd");
            copied = at + 1;
        }
        return copied == 0 ? text : std::string_view(buffer.append(text, copied, text.size() - copied));
    }

    std::string where_;
    std::vector<std::string> bytes_;  // of each id; "" for an unused id
    Bpe bpe_;
    AddedTokens in_raw_, in_normal_;                 // searched before and after normalizing
    std::array<std::bitset<256>, 256> inner_pairs_;  // bytes that are neighbours in some added token
    std::array<bool, 256> has_no_token_{};
    bool all_bytes_known_ = true, nfc_ = false;
    int eot_ = -1;
};
