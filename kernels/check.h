// check.h - errors: where, what we got, what we wanted, and what to do about it
//
//   CHECK(cond, "format", values…)       the input is wrong             InputError    exit code 2
//   CHECK_RUN(cond, "format", values…)   the machine refused            RunError      exit code 1
//   CHECK_CALL(cond, "format", values…)  our code called it wrongly     CallError     exit code 1
//   fail("format", values…)              the same as CHECK(false, …)
//
// CHECK_CALL is for what no input can cause, such as the shapes that an op gets. Only its message begins with the place
// in our source, because only we can mend that. The checks are on in every build. Errors are thrown, and only main()
// catches them, with run_main().
#pragma once
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
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
struct CallError : Error {
    explicit CallError(const std::string& text) : Error(1, text) {}
};
// Throws the error that has this exit code.
[[noreturn]] inline void throw_with(int exit_code, const std::string& text) {
    if (exit_code == 2) throw InputError(text);
    throw RunError(text);
}
// An error of several processes, which another of them prints. The process that gets this one ends without a word.
struct ToldError : Error {
    using Error::Error;
};

template <class E, class... Args>
[[noreturn]] inline void throw_error(fmt::string_view format, const Args&... args) {
    throw E(fmt::vformat(format, fmt::make_format_args(args...)));
}
// The same with a place in our source in front.
template <class E, class... Args>
[[noreturn]] inline void throw_at(const char* file, int line, fmt::string_view format, const Args&... args) {
    throw E(fmt::format("{}:{} {}", file, line, fmt::vformat(format, fmt::make_format_args(args...))));
}

#define CHECK(cond, ...)                                   \
    do {                                                   \
        if (!(cond)) throw_error<InputError>(__VA_ARGS__); \
    } while (0)
#define CHECK_RUN(cond, ...)                             \
    do {                                                 \
        if (!(cond)) throw_error<RunError>(__VA_ARGS__); \
    } while (0)
#define CHECK_CALL(cond, ...)                                              \
    do {                                                                   \
        if (!(cond)) throw_at<CallError>(__FILE__, __LINE__, __VA_ARGS__); \
    } while (0)

// A function, because a macro of that name would break the fail() of streams and libraries.
template <class... Args>
[[noreturn]] inline void fail(fmt::string_view format, const Args&... args) {
    throw_error<InputError>(format, args...);
}

// Returns what the operating system says about the last call that failed.
inline std::string os_error() { return std::strerror(errno); }

// Formats a number of bytes for a message.
inline std::string gibibytes(int64_t bytes) {
    const double g = double(bytes) / (1 << 30);
    return g < 0.1 ? fmt::format("{:.1f} MiB", g * 1024) : fmt::format("{:.2f} GiB", g);
}

// Expects that everything printed so far has reached standard output.
inline void expect_printed() {
    CHECK_RUN(std::fflush(stdout) == 0 && !std::ferror(stdout), "cannot write to standard output: {}", os_error());
}

// What an error says, and the exit code of the program. A path that the system does not let the program reach is bad
// input.
inline std::string message_of(const std::exception& e) {
    const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&e);
    return file ? file->path1().string() + ": " + file->code().message() : e.what();
}
inline int exit_code_of(const std::exception& e) {
    if (const auto* known = dynamic_cast<const Error*>(&e)) return known->exit_code;
    if (const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&e))
        for (const auto bad_path : {std::errc::permission_denied, std::errc::filename_too_long,
                                    std::errc::not_a_directory, std::errc::too_many_symbolic_link_levels})
            if (file->code() == bad_path) return 2;
    return 1;
}
// Prints the error, unless another process does, and returns the exit code.
inline int complain(const std::exception& e) {
    std::fflush(stdout);
    // fmt::print would throw where nothing can be printed, and end the program by abort().
    if (!dynamic_cast<const ToldError*>(&e)) std::fputs(("error: " + message_of(e) + "\n").c_str(), stderr);
    return exit_code_of(e);
}

// What main() does: runs the body, which returns the exit code, or prints its error. A standard stream that is closed
// becomes /dev/null first. Else the next file that is opened would take its number, and messages would go into it. A
// write beyond the limit on the size of files (ulimit -f) fails like one on a full disk, and does not end the program.
template <class Body>
int run_main(Body body) try {
    std::signal(SIGXFSZ, SIG_IGN);
    int file = open("/dev/null", O_RDWR);
    while (file >= 0 && file <= 2) file = open("/dev/null", O_RDWR);
    if (file >= 0) close(file);
    return body();
} catch (const std::exception& e) { return complain(e); }
