// validation.h - chooses the text that is held out for validation
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "data/utf8.h"
#include "kernels/random.h"

// Whether a whole document is held out. A hash of its first 64 KiB decides, so that `fraction` of all documents are,
// wherever they stand, and a longer document need not be in memory. The hash takes words of 8 bytes; going byte by byte
// would take 7 % of the time of encoding.
inline bool is_validation(std::string_view text, double fraction) {
    if (fraction <= 0) return false;
    text       = text.substr(0, 1 << 16);
    uint64_t h = text.size();
    for (size_t at = 0; at < text.size(); at += 8) {
        uint64_t word = 0;
        std::memcpy(&word, text.data() + at, std::min<size_t>(8, text.size() - at));
        h = mix64(h ^ word);
    }
    return double(h >> 11) * 0x1p-53 < fraction;
}

// Where the last `fraction` of a text begins: after the next empty line if that is near, else after the next line if
// that is near, else at the next character. Near means within the first half of the fraction.
inline size_t tail_begin(std::string_view text, double fraction) {
    const size_t target = text.size() - std::min(text.size(), size_t(double(text.size()) * fraction));
    const size_t near   = target + (text.size() - target) / 2;
    for (const std::string_view end : {"\n\n", "\n"}) {
        const size_t at = text.find(end, target);
        if (at != std::string_view::npos && at + end.size() <= near) return at + end.size();
    }
    size_t at = target;
    while (at < text.size() && continues_character(text[at])) at++;
    return at;
}
