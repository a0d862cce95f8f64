// utf8.h - counts the bytes of a text that are not UTF-8
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>

// Takes a text in chunks of any size. A character may span chunks.
struct Utf8Check {
    int64_t bytes   = 0;
    int64_t invalid = 0;   // bytes that belong to no well-formed character (Unicode 15, table 3-7)
    int64_t zeros   = 0;   // NUL bytes
    int64_t first   = -1;  // position of the first invalid or NUL byte, or -1

    void add(std::string_view text) {
        const auto* p   = reinterpret_cast<const uint8_t*>(text.data());
        const auto* end = p + text.size();
        const auto* at  = p;
        while (at < end) {
            if (missing_ == 0) {
                // Eight bytes of ASCII without a NUL need no further look.
                for (uint64_t w; end - at >= 8; at += 8) {
                    std::memcpy(&w, at, 8);
                    if ((w & 0x8080808080808080u) || ((w - 0x0101010101010101u) & ~w & 0x8080808080808080u)) break;
                }
                if (at == end) break;
                const uint8_t c = *at;
                if (c >= 0x80)
                    begin(c, bytes + (at - p));
                else if (c == 0)
                    zeros++, note(bytes + (at - p));
                at++;
            } else if (*at >= low_ && *at <= high_) {
                low_ = 0x80, high_ = 0xbf;
                missing_--, held_++;
                at++;
            } else {
                end_cut_character(bytes + (at - p));  // the byte is then read once more
            }
        }
        bytes += int64_t(text.size());
    }
    // The text ends here.
    void finish() {
        if (missing_ > 0) end_cut_character(bytes);
    }

  private:
    void note(int64_t at) {
        if (first < 0) first = at;
    }
    void begin(uint8_t c, int64_t at) {
        low_     = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
        high_    = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        missing_ = c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : 0;
        held_    = 1;
        if (missing_ == 0) invalid++, note(at);
    }
    void end_cut_character(int64_t at) {
        invalid += held_;
        note(at - held_);
        missing_ = 0;
    }
    int missing_ = 0, held_ = 0;  // bytes of the current character that are still to come, and that have come
    uint8_t low_ = 0, high_ = 0;  // limits of its next byte
};

// Whether the beginning of a file looks like text: UTF-8 with hardly an invalid byte, and without control characters
// except those that end lines and set tabs.
inline bool looks_like_text(std::string_view begin) {
    Utf8Check check;
    check.add(begin);
    const auto is_control = [](unsigned char c) { return c < '\t' || (c > '\r' && c < ' ') || c == 127; };
    return check.invalid * 1000 <= check.bytes && std::none_of(begin.begin(), begin.end(), is_control);
}
