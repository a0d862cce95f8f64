// byte_alphabet.h - how vocabularies of byte-level BPE spell bytes
//
// A tokenizer.json writes each byte as one printable character: as itself where Latin-1 has a glyph for it, else as the
// next free code point from U+0100 on. A space, for example, is written U+0120.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "data/unicode.h"
#include "data/utf8.h"

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

    // All bytes in the order in which GPT-2 numbers them.
    const std::string& in_order() const { return order_; }

    std::string write(std::string_view bytes) const {
        std::string word;
        for (const char b : bytes) word += written_[uint8_t(b)];
        return word;
    }
    // Sets `bytes` to what a word spells. False if a character of the word is not in the alphabet.
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
        append_utf8(written_[byte], code);
        byte_[code] = byte;
        order_ += char(byte);
    }

    std::array<std::string, 256> written_;
    std::unordered_map<int32_t, uint8_t> byte_;  // the key is a code point
    std::string order_;
};

inline const ByteAlphabet& byte_alphabet() {
    static const ByteAlphabet alphabet;
    return alphabet;
}
