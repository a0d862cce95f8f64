// progress.h - shows on a terminal how far a long job is, and reports what it left out
#pragma once
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/check.h"

// Counts what has been done, and shows it on a terminal in one line that is rewritten.
class Progress {
  public:
    int64_t documents = 0, bytes = 0, tokens = 0;

    double seconds() const { return since(start_); }
    double megabytes_per_second() const { return double(bytes) / 1e6 / std::max(seconds(), 1e-9); }
    // share: of the input that has been read, 0..1, or -1 if that is not known.
    void show(double share) {
        if (!isatty(2) || since(shown_) < 0.2) return;
        shown_ = Clock::now();
        std::string left;
        if (share > 0.001) {
            const int64_t s = int64_t(seconds() / share * (1 - share));
            left            = fmt::format("{:3.0f} %, {}:{:02}:{:02} left", 100 * share, s / 3600, s / 60 % 60, s % 60);
        }
        fmt::print(stderr, "\r{:>10.1f} MB {:>10.2f} M tokens {:>8.1f} MB/s  {:<24}", double(bytes) / 1e6,
                   double(tokens) / 1e6, megabytes_per_second(), left);
    }
    void clear() const {
        if (isatty(2)) fmt::print(stderr, "\r{:80}\r", "");
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
