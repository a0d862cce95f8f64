// progress.h - shows on a terminal how far a long job is, and reports what it left out
#pragma once
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/check.h"

// Returns the columns of the terminal that `file` writes to. It returns 0 where no line can be written over, as in a
// file, a pipe or a dumb terminal, and under Open MPI, which gives each process a terminal whose output may go to a
// file.
inline int columns_of(int file) {
    const char* terminal = std::getenv("TERM");
    if (!isatty(file) || std::getenv("OMPI_COMM_WORLD_SIZE") || (terminal && std::string_view(terminal) == "dumb"))
        return 0;
    winsize size{};
    return ioctl(file, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}
// Clears the line under the cursor and begins it anew.
inline constexpr char clear_line[] = "\r\033[K";
// The beginning of a line that fits into the terminal, because one that continues in the next row cannot be cleared.
inline std::string cut_line(std::string line, int columns) {
    for (size_t i = 0; i < line.size(); i++)
        if ((line[i] & 0xc0) != 0x80 && columns-- <= 1) line.resize(i);  // a code point of UTF-8 begins here
    return line;
}

// Counts what has been done, and shows it on a terminal in one line that is rewritten.
class Progress {
  public:
    int64_t documents = 0, bytes = 0, tokens = 0;

    double seconds() const { return since(start_); }
    double megabytes_per_second() const { return double(bytes) / 1e6 / std::max(seconds(), 1e-9); }
    // share: of the input that has been read, 0..1, or -1 if that is not known.
    void show(double share) {
        const int columns = columns_of(2);
        if (!columns || since(shown_) < 0.2) return;
        shown_ = Clock::now();
        std::string left;
        if (share > 0.001) {
            const int64_t s = int64_t(seconds() / share * (1 - share));
            left = fmt::format("  {:3.0f} %, {}:{:02}:{:02} left", 100 * share, s / 3600, s / 60 % 60, s % 60);
        }
        const std::string line = fmt::format("{:>10.1f} MB {:>10.2f} M tokens {:>8.1f} MB/s{}", double(bytes) / 1e6,
                                             double(tokens) / 1e6, megabytes_per_second(), left);
        fmt::print(stderr, "{}{}", clear_line, cut_line(line, columns));
    }
    void clear() const {
        if (columns_of(2)) fmt::print(stderr, "{}", clear_line);
    }
    ~Progress() { clear(); }

  private:
    using Clock = std::chrono::steady_clock;
    static double since(Clock::time_point then) { return std::chrono::duration<double>(Clock::now() - then).count(); }
    Clock::time_point start_ = Clock::now(), shown_ = start_;
};

// Counts the documents that were left out, and prints the reasons for the first ten.
class Skipped {
  public:
    void tell(const std::vector<std::string>& faults, const Progress& progress) {
        for (const std::string& why : faults) {
            if (++count_ > 10) continue;
            progress.clear();
            fmt::print(stderr, "skipped: {}\n{}", why, count_ == 10 ? "    further ones are only counted\n" : "");
        }
    }
    int64_t count() const { return count_; }

  private:
    int64_t count_ = 0;
};

// Prints what the user should know about the files that were read.
inline void tell_notes(const std::vector<std::string>& notes) {
    constexpr size_t most = 10;
    for (size_t i = 0; i < std::min(most, notes.size()); i++) fmt::print(stderr, "note: {}\n", notes[i]);
    if (notes.size() > most) fmt::print(stderr, "note: {} more files were like these\n", notes.size() - most);
}
