// values.h - what an option holds and how it is written: numbers in a Range, texts, words of a table, and Auto
#pragma once
#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "data/utf8.h"
#include "gpt/auto.h"
#include "kernels/check.h"

// The numbers that an option accepts: at_least(1), more_than(0).at_most(1), at_least(0).below(1). A text may be empty
// only where the range is any_text().
struct Range {
    double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
    bool with_low = true, with_high = true;  // whether the bounds themselves are accepted
    bool any_text = false;

    Range at_most(double bound) const { return {low, bound, with_low, true}; }
    Range below(double bound) const { return {low, bound, with_low, false}; }
    bool holds(double x) const { return (with_low ? x >= low : x > low) && (with_high ? x <= high : x < high); }
    double just_below() const { return with_low ? low - 1 : low; }
    std::string words() const {
        const std::string from = with_low ? fmt::format("{} or more", low) : fmt::format("more than {}", low);
        if (high > std::numeric_limits<double>::max()) return from;
        return from + fmt::format(with_high ? ", at most {}" : ", less than {}", high);
    }
};
inline Range at_least(double bound) { return Range{bound}; }
inline Range any_text() {
    Range range;
    range.any_text = true;
    return range;
}
inline Range more_than(double bound) {
    Range range{bound};
    range.with_low = false;
    return range;
}

// Returns how many letters to change, add, drop or swap with a neighbour to turn a into b (Damerau-Levenshtein).
inline size_t letters_apart(const std::string& a, const std::string& b) {
    std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
    for (size_t i = 0; i <= a.size(); i++) d[i][0] = i;
    for (size_t j = 0; j <= b.size(); j++) d[0][j] = j;
    for (size_t i = 1; i <= a.size(); i++)
        for (size_t j = 1; j <= b.size(); j++) {
            d[i][j]            = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
            const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped) d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[a.size()][b.size()];
}
// Returns the known names of which `name` is probably a misspelling or the beginning: those that are as near to it as
// the nearest one.
inline std::vector<std::string> nearest_names(const std::string& name, const std::vector<std::string>& known) {
    std::vector<std::string> best;
    size_t least = name.size() <= 5 ? 1 : name.size() / 3;  // a name further away than this is no misspelling
    for (const std::string& k : known) {
        const bool begins = name.size() > 3 && k.rfind(name, 0) == 0;
        const size_t d    = begins ? 0 : letters_apart(name, k);
        if (d < least) best.clear();
        if (d <= least) least = d, best.push_back(k);
    }
    return best;
}
// Returns the first of them, or "".
inline std::string nearest_name(const std::string& name, const std::vector<std::string>& known) {
    const auto best = nearest_names(name, known);
    return best.empty() ? "" : best[0];
}

// Reads a list of whole numbers from 0 to below `end`, such as 1,2,3. `what` says what they are.
inline std::vector<int64_t> parse_numbers(const std::string& option, const std::string& list, int64_t end,
                                          const char* what) {
    std::vector<int64_t> numbers;
    for (size_t at = 0; at <= list.size();) {
        const size_t comma       = std::min(list.find(',', at), list.size());
        const std::string word   = list.substr(at, comma - at);
        int64_t n                = -1;
        const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), n);
        CHECK(error == std::errc() && stop == word.data() + word.size() && n >= 0 && n < end,
              "{}: '{}' is no {} (0 to {}); expected a list such as 1,2,3", option, word, what, end - 1);
        numbers.push_back(n);
        at = comma + 1;
    }
    return numbers;
}

// The functions that Flags (cli.h) needs for every type that an option can have. In errors, `name` is the option's
// name.
namespace option_value {

// The words behind an option on the command line: none for a flag, several for a list.
using Words = std::vector<std::string>;
// The words that an option may be, and what each stands for.
template <class T>
using Table = std::vector<std::pair<std::string, T>>;

// Quotes a word so that a shell reads it back. A word that is not UTF-8 becomes $'…' with its bytes in octal.
inline std::string quoted(const std::string& word) {
    const char* plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,+=@%";
    if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
    const bool as_it_is = is_utf8(word);
    std::string q       = as_it_is ? "'" : "$'";
    for (const char c : word)
        if (as_it_is)
            q += c == '\'' ? "'\\''" : std::string(1, c);
        else
            q += c < ' ' || c == '\'' || c == '\\' ? fmt::format("\\{:03o}", uint8_t(c)) : std::string(1, c);
    return q + "'";
}

// ---- form_of: what --help shows in place of a value

inline std::string form_of(bool) { return ""; }
inline std::string form_of(const std::string&) { return "TEXT"; }
inline std::string form_of(const std::optional<std::string>&) { return "TEXT"; }
inline std::string form_of(const Words&) { return "TEXT…"; }
template <class T>
std::string form_of(const T&) {
    return std::is_integral<T>::value ? "N" : "X";
}
template <class T>
std::string form_of(const Auto<T>&) {
    return form_of(T());
}
template <class T>
std::string form_of(const Table<T>& table) {
    std::string form;
    for (const auto& row : table) form += (form.empty() ? "" : "|") + row.first;
    return form;
}

// ---- show: the shortest text that reads back as the same value

inline std::string show(const std::string& value) { return value; }
inline std::string show(const std::optional<std::string>& value) { return value.value_or(""); }
inline std::string show(const Words& value) {
    std::string all;
    for (const std::string& v : value) all += (all.empty() ? "" : " ") + quoted(v);
    return all;
}
template <class T>
std::string show(const T& value) {
    return fmt::format("{}", value);
}
template <class T>
std::string show(const Auto<T>& value) {
    return value.is_auto() ? "auto" : show(static_cast<const T&>(value));
}
template <class T>
std::string show(const T& value, const Range&) {
    return show(value);
}
template <class T>
std::string show(const T& value, const Table<T>& table) {
    for (const auto& row : table)
        if (row.second == value) return row.first;
    return "?";
}
template <class T>
std::string show(const Auto<T>& value, const Table<T>& table) {
    return value.is_auto() ? "auto" : show(static_cast<const T&>(value), table);
}

// ---- old_auto: what the run.json of an old run holds for `auto`, which is the number just below the range, or ""

template <class T, class Allowed>
std::string old_auto(const T&, const Allowed&) {
    return "";
}
template <class T>
std::string old_auto(const Auto<T>&, const Range& range) {
    return std::is_arithmetic<T>::value ? show(range.just_below()) : "";
}

// A word in an error: an empty one is shown as ''.
inline std::string shown(const std::string& word) { return word.empty() ? "''" : word; }

// ---- read: sets the value from the words of the command line; InputError when they are not valid

// `other` is what the error names before the number or the words, such as "auto, or ".
template <class T>
T read_number(const std::string& name, const std::string& word, const char* other = "") {
    T parsed{};
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), parsed);
    const bool complete     = error == std::errc() && end == word.data() + word.size();
    if (error == std::errc::result_out_of_range) fail("{} {}: out of range", name, shown(word));
    if (std::is_integral<T>::value && !complete)
        fail("{} {}: expected {}a whole number{}", name, shown(word), other,
             std::is_signed<T>::value ? "" : ", not negative");
    if (!complete || parsed - parsed != T(0))
        fail("{} {}: expected {}a number, such as 0.5 or 6e-4", name, shown(word), other);
    return parsed;
}
inline void read(bool& value, const std::string& name, const Words& words, const Range&) {
    const std::string w = words.empty() || words[0].empty() ? "true" : words[0];
    if (w != "true" && w != "false") fail("{} {}: takes no value (or =true, =false)", name, w);
    value = w == "true";
}
inline void refuse_empty(const std::string& name, const Words& words, const Range& range) {
    for (const std::string& word : words)
        if (word.empty() && !range.any_text) fail("{} '': expected a text that is not empty", name);
}
inline void read(std::string& value, const std::string& name, const Words& words, const Range& range) {
    refuse_empty(name, words, range);
    value = words[0];
}
inline void read(std::optional<std::string>& value, const std::string& name, const Words& words, const Range& range) {
    refuse_empty(name, words, range);
    value = words[0];
}
inline void read(Words& value, const std::string& name, const Words& words, const Range& range) {
    refuse_empty(name, words, range);
    value = words;
}
inline void read(Auto<std::string>& value, const std::string& name, const Words& words, const Range& range) {
    refuse_empty(name, words, range);
    value = {};
    if (words[0] != "auto") value = words[0];
}
template <class T>
void read(T& value, const std::string& name, const Words& words, const Range& range) {
    const T parsed = read_number<T>(name, words[0]);
    if (!range.holds(double(parsed))) fail("{} {}: expected {}", name, shown(words[0]), range.words());
    value = parsed;
}
template <class T>
void read(Auto<T>& value, const std::string& name, const Words& words, const Range& range) {
    value = {};
    if (words[0] == "auto") return;
    const T parsed = read_number<T>(name, words[0], "auto, or ");
    if (!range.holds(double(parsed))) fail("{} {}: expected auto, or {}", name, shown(words[0]), range.words());
    value = parsed;
}
template <class T>
const T& find_word(const std::string& name, const std::string& word, const Table<T>& table, const char* other = "") {
    for (const auto& row : table)
        if (row.first == word) return row.second;
    std::vector<std::string> words;
    for (const auto& row : table) words.push_back(row.first);
    std::vector<std::string> nearest = nearest_names(word, words);
    // Words of other programs, and ours for them.
    for (const auto& [theirs, ours] : {std::pair("gpu", "cuda"), {"float32", "fp32"}, {"bfloat16", "bf16"}})
        if (word == theirs && std::count(words.begin(), words.end(), ours)) nearest = {ours};
    std::string near;
    for (const std::string& n : nearest) near += (near.empty() ? "; did you mean " : " or ") + n;
    fail("{} {}: expected one of {}{}{}{}", name, shown(word), other, form_of(table), near, near.empty() ? "" : "?");
}
template <class T>
void read(T& value, const std::string& name, const Words& words, const Table<T>& table) {
    value = find_word(name, words[0], table);
}
template <class T>
void read(Auto<T>& value, const std::string& name, const Words& words, const Table<T>& table) {
    value = {};
    if (words[0] != "auto") value = find_word(name, words[0], table, "auto|");
}

}  // namespace option_value
