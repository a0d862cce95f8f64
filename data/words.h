// words.h - numbers of things and lists of names in messages
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/check.h"

// The word for n things: "token" for one, "tokens" for others.
inline std::string plural(int64_t n, const std::string& thing) { return thing + (n == 1 ? "" : "s"); }
inline std::string count_of(int64_t n, const std::string& thing) { return fmt::format("{} {}", n, plural(n, thing)); }

// "a, b and 3 more": the first five names of a list, and how many others there are.
inline std::string list_of(const std::vector<std::string>& names) {
    constexpr size_t most = 5;
    std::string list;
    for (size_t i = 0; i < std::min(most, names.size()); i++) list += (i ? ", " : "") + names[i];
    return names.size() > most ? list + fmt::format(" and {} more", names.size() - most) : list;
}
