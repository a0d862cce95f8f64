// catch.h - Catch2 of either generation (Debian 12 ships v2, later systems v3), and CHECK_REFUSED
//
// Include it last: CHECK belongs to the product's errors (kernels/check.h) until here and to Catch2 from here on. A
// product header that follows by mistake does not compile, because Catch2's CHECK takes no format string.
#pragma once
#include <initializer_list>
#include <string>

#include "kernels/check.h"

#undef CHECK
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif

inline std::string missing_words(const std::string& text, std::initializer_list<const char*> words) {
    std::string missing;
    for (const char* w : words)
        if (text.find(w) == std::string::npos) missing += fmt::format(" \"{}\"", w);
    return missing.empty() ? "" : "does not say" + missing + ": " + text;
}

// CHECK_REFUSED((op(a, b)), "op", "b is"): the statement must throw an InputError or a
// CallError whose text holds all the words.
#define CHECK_REFUSED(statement, ...)                                                                    \
    do {                                                                                                 \
        std::string complaint_ = "was accepted";                                                         \
        try {                                                                                            \
            statement;                                                                                   \
        } catch (const InputError& e) {                                                                  \
            complaint_ = missing_words(e.what(), {__VA_ARGS__});                                         \
        } catch (const CallError& e) {                                                                   \
            complaint_ = missing_words(e.what(), {__VA_ARGS__});                                         \
        } catch (const std::exception& e) { complaint_ = std::string("is no InputError: ") + e.what(); } \
        if (complaint_.empty())                                                                          \
            SUCCEED(#statement);                                                                         \
        else                                                                                             \
            FAIL_CHECK(#statement " " << complaint_);                                                    \
    } while (0)
