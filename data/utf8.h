// utf8.h - which bytes are UTF-8 (Unicode 15, table 3-7)
#pragma once
#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

// Whether a byte continues a character, and does not begin one.
inline bool continues_character(char byte) { return (uint8_t(byte) & 0xc0) == 0x80; }

// What a lead byte from 0x80 up says about its character. A further byte after the second is in 0x80..0xbf.
struct Utf8Lead {
    int more;           // bytes that must follow; 0: no character begins so
    uint8_t low, high;  // limits of the second byte
};
inline Utf8Lead utf8_lead(uint8_t lead) {
    const int more     = lead < 0xc2 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : lead < 0xf5 ? 3 : 0;
    const uint8_t low  = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return {more, low, high};
}

inline void append_utf8(std::string& out, int32_t code) {
    uint8_t bytes[4];
    const auto n = utf8proc_encode_char(code, bytes);
    out.append(reinterpret_cast<const char*>(bytes), size_t(n));
}

// Counts the bytes of a text that are not UTF-8. Takes the text in chunks of any size; a character may span chunks.
struct Utf8Check {
    int64_t bytes   = 0;
    int64_t invalid = 0;   // bytes that belong to no well-formed character
    int64_t zeros   = 0;   // NUL bytes
    int64_t first   = -1;  // position of the first invalid or NUL byte, or -1

    void add(std::string_view text) {
        const auto* p   = reinterpret_cast<const uint8_t*>(text.data());
        const auto* end = p + text.size();
        const auto* at  = p;
        while (at < end) {
            if (rest_.more == 0) {
                // Eight bytes of ASCII without a NUL need no further look.
                for (uint64_t w; end - at >= 8; at += 8) {
                    std::memcpy(&w, at, 8);
                    if ((w & 0x8080808080808080u) || ((w - 0x0101010101010101u) & ~w & 0x8080808080808080u)) break;
                }
                if (at == end) break;
                const uint8_t c = *at;
                if (c >= 0x80) {
                    rest_ = utf8_lead(c);
                    held_ = 1;
                    if (rest_.more == 0) invalid++, note(bytes + (at - p));
                }
                if (c == 0) zeros++, note(bytes + (at - p));
                at++;
            } else if (*at >= rest_.low && *at <= rest_.high) {
                rest_ = {rest_.more - 1, 0x80, 0xbf};
                held_++;
                at++;
            } else {
                end_cut_character(bytes + (at - p));  // the byte is then read once more
            }
        }
        bytes += int64_t(text.size());
    }
    // The text ends here.
    void finish() {
        if (rest_.more > 0) end_cut_character(bytes);
    }

  private:
    void note(int64_t at) {
        if (first < 0) first = at;
    }
    void end_cut_character(int64_t at) {
        invalid += held_;
        note(at - held_);
        rest_.more = 0;
    }
    Utf8Lead rest_{};  // says what must follow in the current character
    int held_ = 0;     // counts the bytes of this character that have come
};

inline bool is_utf8(std::string_view text) {
    Utf8Check check;
    check.add(text);
    check.finish();
    return check.invalid == 0;
}

// Whether the beginning of a file looks like text: at most one byte in a thousand is not UTF-8, and there are no
// control characters but tabs and those that end lines and pages.
inline bool looks_like_text(std::string_view begin) {
    Utf8Check check;
    check.add(begin);
    const auto is_control = [](unsigned char c) { return c < '\t' || (c > '\r' && c < ' ') || c == 127; };
    return check.invalid * 1000 <= check.bytes && std::none_of(begin.begin(), begin.end(), is_control);
}

// How often a word stands in a text.
inline int64_t count_in(std::string_view text, std::string_view word) {
    int64_t count = 0;
    if (word.empty()) return 0;
    for (size_t at = 0; (at = text.find(word, at)) != text.npos; at += word.size()) count++;
    return count;
}
