// link.cpp - links several PTX texts into one, as nvlink does for programs built with -rdc=true
//
// The texts are concatenated. The parser finds a definition anywhere and takes the first of several weak ones. Only the
// names that are local to a unit and the numbers of source files are made unique.
#include <cctype>
#include <cstring>
#include <set>

#include "fatbin.h"

namespace emu {
namespace {

// Calls f(word, offset) for each word of a PTX text outside of strings and comments.
template <class F> void each_word(const std::string& text, F f) {
    auto in_word = [](char c) { return std::isalnum(uint8_t(c)) || c == '_' || c == '$' || c == '.' || c == '%'; };
    for (size_t at = 0; at < text.size();) {
        if (text[at] == '"') at = text.find('"', at + 1);
        else if (!text.compare(at, 2, "//")) at = text.find('\n', at);
        else if (!text.compare(at, 2, "/*")) at = text.find("*/", at);
        else if (in_word(text[at])) {
            const size_t from = at;
            while (at < text.size() && in_word(text[at])) at++;
            f(text.substr(from, at - from), from);
            continue;
        }
        if (at == std::string::npos) return;
        at++;
    }
}

struct Unit {
    std::set<std::string> defined, wanted, local;
    bool has_kernels = false;
};

// The names that a text declares at module scope: each is the last word before '(', '[', '=' or ';' of its declaration.
Unit unit_of(const std::string& text) {
    Unit unit;
    std::string linkage, name;
    bool declares = false;
    size_t depth = 0, from = 0;
    auto close = [&](size_t to) {  // reads the characters between two words
        for (; from < to; from++) {
            const char c = text[from];
            if (c == '{') depth++;
            if (declares && !name.empty() && !depth && std::strchr("([=;", c)) {
                (linkage == ".extern" ? unit.wanted : linkage.empty() ? unit.local : unit.defined).insert(name);
                declares = false;
            }
            if (c == '}') depth--;
            if (!depth && (c == ';' || c == '}')) linkage.clear(), name.clear(), declares = false;
        }
    };
    each_word(text, [&](const std::string& word, size_t at) {
        close(at);
        from = at + word.size();
        if (depth) return;
        if (word == ".visible" || word == ".weak" || word == ".extern" || word == ".common") linkage = word;
        else if (word == ".func" || word == ".entry" || word == ".global" || word == ".const" || word == ".shared") {
            declares = true, name.clear();
            unit.has_kernels |= word == ".entry";
        } else if (word == ".param") name.clear();
        else if (declares && word[0] != '.' && !std::isdigit(uint8_t(word[0]))) name = word;
    });
    close(text.size());
    return unit;
}

}  // namespace

std::string link_units(std::vector<std::string> texts) {
    std::vector<Unit> units;
    for (const std::string& text : texts) units.push_back(unit_of(text));
    // Units that no kernel needs are left out, such as the device runtime.
    std::vector<bool> used(texts.size());
    std::set<std::string> wanted;
    for (bool more = true; more;) {
        more = false;
        for (size_t k = 0; k < texts.size(); k++) {
            bool needed = units[k].has_kernels;
            for (const std::string& name : units[k].defined) needed |= wanted.count(name) > 0;
            if (used[k] || !needed) continue;
            used[k] = more = true;
            wanted.insert(units[k].wanted.begin(), units[k].wanted.end());
        }
    }
    std::string out;
    std::set<std::string> taken;
    for (size_t k = 0; k < texts.size(); k++) {
        if (!used[k]) continue;
        const std::string suffix = "$unit" + std::to_string(k);
        size_t copied            = 0;
        bool number              = false;  // the next word is the number of a file
        each_word(texts[k], [&](const std::string& word, size_t at) {
            out.append(texts[k], copied, at - copied);
            copied = at + word.size();
            out += number ? std::to_string(k * 10000 + std::strtoul(word.c_str(), nullptr, 10)) : word;
            if (units[k].local.count(word) && taken.count(word)) out += suffix;
            number = word == ".file" || word == ".loc" || word == "inlined_at";
        });
        out.append(texts[k], copied) += "\n";
        for (const auto* names : {&units[k].local, &units[k].defined}) taken.insert(names->begin(), names->end());
    }
    return out;
}

}  // namespace emu
