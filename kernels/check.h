// check.h - errors: where, what we got, what we wanted, and what to do about it
//
//   CHECK(cond, "format", values…)      the input or the call is wrong    InputError    exit code 2
//   CHECK_RUN(cond, "format", values…)  the machine refused               RunError      exit code 1
//   fail("format", values…)             the same as CHECK(false, …)
//
// The checks are on in every build. Errors are thrown, and only main() catches them, with complain(). `assert` is for
// what cannot happen whatever the user does.
#pragma once
#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

struct Error : std::runtime_error {
    int exit_code;
    Error(int code, const std::string& text) : std::runtime_error(text), exit_code(code) {}
};
struct InputError : Error {
    explicit InputError(const std::string& text) : Error(2, text) {}
};
struct RunError : Error {
    explicit RunError(const std::string& text) : Error(1, text) {}
};

template <class E, class... Args>
[[noreturn]] inline void throw_at(const char* file, int line, fmt::string_view format, const Args&... args) {
    throw E(fmt::format("{}:{} {}", file, line, fmt::vformat(format, fmt::make_format_args(args...))));
}

#define CHECK(cond, ...)                                                    \
    do {                                                                    \
        if (!(cond)) throw_at<InputError>(__FILE__, __LINE__, __VA_ARGS__); \
    } while (0)
#define CHECK_RUN(cond, ...)                                              \
    do {                                                                  \
        if (!(cond)) throw_at<RunError>(__FILE__, __LINE__, __VA_ARGS__); \
    } while (0)

// fail() is a function, because a macro of that name would break the fail() of streams and libraries. Its format brings
// the place of the call along.
struct FormatHere {
    const char* text;
    const char* file;
    int line;
    FormatHere(const char* text, const char* file = __builtin_FILE(), int line = __builtin_LINE())
        : text(text), file(file), line(line) {}
};
template <class... Args>
[[noreturn]] inline void fail(FormatHere format, const Args&... args) {
    throw_at<InputError>(format.file, format.line, format.text, args...);
}

// Returns what the operating system says about the last call that failed.
inline std::string os_error() { return std::strerror(errno); }

// Formats a number of bytes for a message.
inline std::string gibibytes(int64_t bytes) {
    const double g = double(bytes) / (1 << 30);
    return g < 0.1 ? fmt::format("{:.1f} MiB", g * 1024) : fmt::format("{:.2f} GiB", g);
}

// Prints the error as a person reads it and returns the exit code for main().
inline int complain(const std::exception& e) {
    std::fflush(stdout);
    fmt::print(stderr, "error: {}\n", e.what());
    const auto* known = dynamic_cast<const Error*>(&e);
    return known ? known->exit_code : 1;
}
