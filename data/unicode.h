// unicode.h - GPT-2's split pattern and Unicode's normal forms
//
//   next_piece(text, at)   the end of the piece that begins at `at`, by the pattern of GPT-2 and GPT-NeoX:
//                          's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   normalize(text, form, buffer)   the text in normal form C, D, KC or KD
//
// Text is UTF-8. A byte that is not part of a well-formed character (stray, cut off, overlong, surrogate, above
// U+10FFFF) is kept as it is. It counts as neither letter, number nor space, and nothing composes across it.
//
// The pattern is written out by hand, because a regex engine would take longer than merging the pieces does.
// Splitting takes time linear in the text; a normal form takes n log n in the length of a run of marks.
#pragma once
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/utf8.h"

namespace unicode {

enum Kind : uint8_t { other, letter, number, space };

constexpr auto composing = utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

// Normal forms, as bits of a set. D decomposes, C composes again, and K also replaces compatible characters.
enum Form : uint8_t { nfc_form = 1, nfd_form = 2, nfkc_form = 4, nfkd_form = 8 };
constexpr bool composes(Form f) { return f == nfc_form || f == nfkc_form; }
constexpr bool replaces_compatible(Form f) { return f == nfkc_form || f == nfkd_form; }

struct Char {
    int32_t code;  // code point, or -1 for a byte that belongs to no character
    int bytes;
};

inline Char char_at(std::string_view text, size_t at) {
    const auto* p = reinterpret_cast<const uint8_t*>(text.data()) + at;
    if (*p < 0x80) return {*p, 1};
    int32_t code;
    const auto bytes = utf8proc_iterate(p, utf8proc_ssize_t(std::min<size_t>(text.size() - at, 4)), &code);
    return bytes > 0 ? Char{code, int(bytes)} : Char{-1, 1};
}

// Hugging Face tokenizers (0.23) splits by Unicode 16 but normalizes by Unicode 9, and the Unicode version of utf8proc
// depends on the system. These lists hold the differences, found by comparing every code point with that library.
struct Range {
    int32_t first, last;
};
constexpr Range letters_since_unicode_15_1[] = {
    {0x1c89, 0x1c8a},   {0xa7cb, 0xa7cd},   {0xa7da, 0xa7dc},   {0x105c0, 0x105f3}, {0x10d4a, 0x10d65},
    {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4}, {0x11380, 0x11389}, {0x1138b, 0x1138b}, {0x1138e, 0x1138e},
    {0x11390, 0x113b5}, {0x113b7, 0x113b7}, {0x113d1, 0x113d1}, {0x113d3, 0x113d3}, {0x11bc0, 0x11be0},
    {0x13460, 0x143fa}, {0x16100, 0x1611d}, {0x16d40, 0x16d6c}, {0x18cff, 0x18cff}, {0x1e5d0, 0x1e5ed},
    {0x1e5f0, 0x1e5f0}, {0x2ebf0, 0x2ee5d}};
constexpr Range numbers_since_unicode_16[] = {{0x10d40, 0x10d49}, {0x116d0, 0x116e3}, {0x11bf0, 0x11bf9},
                                              {0x16130, 0x16139}, {0x16d70, 0x16d79}, {0x1ccf0, 0x1ccf9},
                                              {0x1e5f1, 0x1e5fa}};
constexpr Range marks_since_unicode_10[]   = {
      {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
      {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},
      {0xa82c, 0xa82c},   {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
      {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
      {0x11930, 0x11930}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34},
      {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
      {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae},
      {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}};
constexpr Range decompositions_since_unicode_10[] = {
    {0x32ff, 0x32ff},   {0xa7f1, 0xa7f4},   {0xab69, 0xab69},   {0x105c9, 0x105c9}, {0x105e4, 0x105e4},
    {0x10781, 0x10785}, {0x10787, 0x107b0}, {0x107b2, 0x107ba}, {0x11383, 0x11383}, {0x11385, 0x11385},
    {0x1138e, 0x1138e}, {0x11391, 0x11391}, {0x113c5, 0x113c5}, {0x113c7, 0x113c8}, {0x11938, 0x11938},
    {0x16121, 0x16128}, {0x16d68, 0x16d6a}, {0x1ccd6, 0x1ccf9}, {0x1e030, 0x1e06d}, {0x1f16c, 0x1f16c},
    {0x1fbf0, 0x1fbf9}};

// \s means the property White_Space, which is not derived from general categories.
constexpr Range white_space[] = {{0x09, 0x0d},     {0x20, 0x20},     {0x85, 0x85},     {0xa0, 0xa0},
                                 {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f},
                                 {0x205f, 0x205f}, {0x3000, 0x3000}};

template <size_t n>
inline void set_ranges(std::vector<uint8_t>& facts, const Range (&ranges)[n], uint8_t value) {
    for (const Range& r : ranges) std::fill(facts.begin() + r.first, facts.begin() + r.last + 1, value);
}

// The kind of every code point, from utf8proc's tables.
class Table {
  public:
    Table() : kind_(0x110000, other) {
        for (int32_t c = 0; c < 0x110000; c++) {
            const auto category = utf8proc_category(c);
            if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) kind_[size_t(c)] = letter;
            if (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO) kind_[size_t(c)] = number;
        }
        set_ranges(kind_, letters_since_unicode_15_1, letter);
        set_ranges(kind_, numbers_since_unicode_16, number);
        set_ranges(kind_, white_space, space);
    }
    Kind kind(int32_t code) const { return code < 0 ? other : Kind(kind_[size_t(code)]); }

  private:
    std::vector<uint8_t> kind_;
};

inline const Table& table() {
    static const Table t;
    return t;
}

// Writes the decomposition of a character that a form uses to `parts`, and returns the number of its characters.
constexpr int most_parts = 32;  // U+FDFA has 18
inline int decompose(int32_t code, Form form, int32_t (&parts)[most_parts]) {
    for (const Range& r : decompositions_since_unicode_10)
        if (code >= r.first && code <= r.last) return parts[0] = code, 1;
    int boundary       = 0;
    const auto options = replaces_compatible(form) ? UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT : UTF8PROC_DECOMPOSE;
    return int(utf8proc_decompose_char(code, parts, most_parts, utf8proc_option_t(options), &boundary));
}

// Whether a form may change each character or join it to the one before it. Making the table takes some 10
// milliseconds.
class Moves {
  public:
    explicit Moves(Form form) : moves_(0x110000, false) {
        for (int32_t c = 0; c < 0x110000; c++) {
            const auto category = utf8proc_category(c);
            if (category == UTF8PROC_CATEGORY_CN) continue;  // unassigned
            // Only marks and Hangul vowels and finals join the character before them. U+11A7 lies in that range but is
            // no final; utf8proc would join it and so lose it.
            const bool is_mark = category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
            const bool is_jamo = c >= 0x1100 && c <= 0x11ff && c != 0x11a7;
            moves_[size_t(c)]  = is_mark || is_jamo || !stays(c, form);
        }
        set_ranges(moves_, marks_since_unicode_10, false);
    }
    bool operator()(int32_t code) const { return code >= 0 && moves_[size_t(code)]; }

  private:
    // Whether the character alone is its own normal form.
    static bool stays(int32_t c, Form form) {
        int32_t parts[most_parts];
        const int n = decompose(c, form, parts);
        return (composes(form) ? utf8proc_normalize_utf32(parts, n, composing) : n) == 1 && parts[0] == c;
    }
    std::vector<uint8_t> moves_;
};

template <Form form>
const Moves& moves_in() {
    static const Moves moves(form);
    return moves;
}
// Whether one of a set of forms may change the character or join it to the one before.
inline bool moves_in_any(uint8_t forms, int32_t code) {
    return ((forms & nfc_form) && moves_in<nfc_form>()(code)) || ((forms & nfd_form) && moves_in<nfd_form>()(code)) ||
           ((forms & nfkc_form) && moves_in<nfkc_form>()(code)) || ((forms & nfkd_form) && moves_in<nfkd_form>()(code));
}

// The kinds of ASCII characters, so that most text needs only two cache lines. Other bytes are `wide`: see table().
constexpr uint8_t wide = 255;
inline const std::array<uint8_t, 256>& byte_kinds() {
    static const auto kinds = [] {
        std::array<uint8_t, 256> k;
        for (int b = 0; b < 256; b++) k[size_t(b)] = b < 0x80 ? uint8_t(table().kind(b)) : wide;
        return k;
    }();
    return kinds;
}

// The end of the run of characters of one kind that begins at `at`. Sets *last to where its last character begins.
[[gnu::always_inline]] inline size_t run_of(Kind kind, std::string_view text, size_t at, size_t* last = nullptr) {
    const auto& kinds = byte_kinds();
    while (at < text.size()) {
        const uint8_t k = kinds[uint8_t(text[at])];
        size_t bytes    = 1;
        if (k == wide) {
            const Char c = char_at(text, at);
            if (table().kind(c.code) != kind) break;
            bytes = size_t(c.bytes);
        } else if (k != kind)
            break;
        if (last) *last = at;
        at += bytes;
    }
    return at;
}

inline Kind kind_at(std::string_view text, size_t at) {
    const uint8_t k = byte_kinds()[uint8_t(text[at])];
    return k == wide ? table().kind(char_at(text, at).code) : Kind(k);
}

// The length of a contraction ('s 't 're 've 'm 'll 'd) that begins at `at`, or 0.
inline size_t contraction(std::string_view text, size_t at) {
    if (text[at] != '\'' || at + 1 >= text.size()) return 0;
    const char a = text[at + 1], b = at + 2 < text.size() ? text[at + 2] : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

// Inlined with run_of, because a text has a piece every 4 bytes or so.
[[gnu::always_inline]] inline size_t next_piece(std::string_view text, size_t at) {
    if (const size_t n = contraction(text, at)) return at + n;
    const Kind kind = kind_at(text, at);
    if (kind != space) return run_of(kind, text, at);
    const bool blank_then_word = text[at] == ' ' && at + 1 < text.size() && kind_at(text, at + 1) != space;
    if (blank_then_word) return run_of(kind_at(text, at + 1), text, at + 1);
    // A run of white space is one piece at the end of the text. Elsewhere its last character goes to the next piece.
    size_t last      = at;
    const size_t end = run_of(space, text, at, &last);
    return end == text.size() || last == at ? end : last;
}

// Whether every text that contains these bytes has a piece that ends at `at`, and the normal forms join nothing across.
// At least four bytes must follow `at`. This holds between characters of different kinds, with two exceptions:
// pieces of white space look ahead, and an apostrophe may begin a contraction.
inline bool always_splits(std::string_view text, size_t at, uint8_t forms = nfc_form) {
    if (at == 0 || at + 4 > text.size() || continues_character(text[at])) return false;
    size_t from = at - 1;
    while (from > 0 && at - from < 4 && continues_character(text[from])) from--;
    Char left        = char_at(text.substr(0, at), from);
    const Char right = char_at(text, at);
    if (from + size_t(left.bytes) != at) left.code = -1;
    const Kind before = table().kind(left.code), behind = table().kind(right.code);
    if (before == space || moves_in_any(forms, left.code) || moves_in_any(forms, right.code)) return false;
    return before != behind && left.code != '\'';
}

// The last position after `from` where always_splits() holds, or 0 if there is none.
inline size_t last_split(std::string_view text, size_t from) {
    for (size_t at = text.size(); at > from; at--)
        if (always_splits(text, at)) return at;
    return 0;
}

inline int combining_class(int32_t code) { return utf8proc_get_property(code)->combining_class; }

// Appends the normal form of a stretch: a character and those that may join it.
// Marks are ordered by a stable sort, because utf8proc's own ordering takes quadratic time on a long run of them.
inline void normalize_stretch(std::string_view text, Form form, std::string& out, std::vector<int32_t>& codes) {
    codes.clear();
    for (size_t at = 0; at < text.size();) {
        const Char c = char_at(text, at);
        int32_t parts[most_parts];
        const int n = decompose(c.code, form, parts);
        codes.insert(codes.end(), parts, parts + n);
        at += size_t(c.bytes);
    }
    for (auto from = codes.begin(); from != codes.end();) {
        auto to = from;
        while (to != codes.end() && combining_class(*to) != 0) ++to;
        std::stable_sort(from, to, [&](int32_t a, int32_t b) { return combining_class(a) < combining_class(b); });
        from = to == codes.end() ? to : to + 1;
    }
    auto n = utf8proc_ssize_t(codes.size());
    if (composes(form)) n = utf8proc_normalize_utf32(codes.data(), n, composing);
    for (utf8proc_ssize_t i = 0; i < n; i++) append_utf8(out, codes[size_t(i)]);
}

// The text in a normal form. Returns the text itself if nothing changes, else `buffer`.
template <Form form>
std::string_view normalize(std::string_view text, std::string& buffer) {
    const Moves& moves         = moves_in<form>();
    constexpr uint8_t first_to = form == nfc_form ? 0xcc : 0x80;  // C leaves all below U+0300 alone, the others ASCII
    std::vector<int32_t> codes;
    size_t copied = 0, base = 0;  // text[0, copied) is in the buffer; the character before `at` begins at base
    buffer.clear();
    for (size_t at = 0; at < text.size();) {
        if (uint8_t(text[at]) < first_to) {
            while (at < text.size() && uint8_t(text[at]) < first_to) at++;
            base = at - 1;
            while (base > copied && continues_character(text[base])) base--;
            continue;
        }
        Char c = char_at(text, at);
        if (!moves(c.code)) {
            base = at;
            at += size_t(c.bytes);
            continue;
        }
        // The stretch goes from the character before, if it can be joined, to the next that does not join.
        const Char before = char_at(text, base);
        const bool joins  = before.code >= 0 && base + size_t(before.bytes) == at && combining_class(before.code) == 0;
        const size_t from = joins ? base : at;
        while (at < text.size() && moves((c = char_at(text, at)).code)) at += size_t(c.bytes);
        buffer.append(text, copied, from - copied);
        normalize_stretch(text.substr(from, at - from), form, buffer, codes);
        copied = base = at;
    }
    if (copied == 0) return text;
    buffer.append(text, copied, text.size() - copied);
    return buffer;
}
inline std::string_view normalize(std::string_view text, Form form, std::string& buffer) {
    switch (form) {
        case nfc_form: return normalize<nfc_form>(text, buffer);
        case nfd_form: return normalize<nfd_form>(text, buffer);
        case nfkc_form: return normalize<nfkc_form>(text, buffer);
        case nfkd_form: return normalize<nfkd_form>(text, buffer);
    }
    return text;
}

}  // namespace unicode
