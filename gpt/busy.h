// busy.h - a line on the terminal that shows that a long job goes on, and how far it is
#pragma once
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "data/progress.h"

// While it lives and standard output is a terminal, a thread rewrites one line every half second, such as
// "evaluating, batch 3 of 20 · 12 s". The first line comes after a second, so that short jobs print nothing. Another
// line may be printed over it, because the cursor stays at its beginning.
class Busy {
  public:
    // all: how many parts the job has; 0 when it is not known.
    explicit Busy(std::string what, int64_t all = 0) : what_(std::move(what)), all_(all) {
        if (columns_of(1)) thread_ = std::thread([this] { show(); });
    }
    Busy(const Busy&)            = delete;
    Busy& operator=(const Busy&) = delete;
    ~Busy() { end(); }

    void done(int64_t parts) { done_ = parts; }
    // Says what the job does from now on.
    void next(std::string what) {
        const std::lock_guard<std::mutex> lock(mutex_);
        what_ = std::move(what);
    }
    // Ends before the object does.
    void end() {
        if (!thread_.joinable()) return;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            ended_ = true;
        }
        end_.notify_one();
        thread_.join();
    }

  private:
    void show() {
        using namespace std::chrono_literals;
        const auto start = std::chrono::steady_clock::now();
        std::unique_lock<std::mutex> lock(mutex_);
        bool shown = false;
        for (auto wait = 1000ms; !end_.wait_for(lock, wait, [this] { return ended_; }); wait = 500ms) {
            const auto seconds     = std::chrono::steady_clock::now() - start;
            const std::string part = all_ ? fmt::format(" {} of {}", done_.load(), all_) : "";
            const auto whole       = std::chrono::duration_cast<std::chrono::seconds>(seconds).count();
            print(clear_line + cut_line(fmt::format("{}{} · {} s", what_, part, whole), columns_of(1)) + "\r");
            shown = true;
        }
        if (shown) print(clear_line);
    }
    // Writes past stdio, whose buffer belongs to the thread that works.
    static void print(const std::string& line) {
        if (write(1, line.data(), line.size()) < 0) return;  // the terminal is gone, and a signal tells of it
    }

    std::string what_;
    const int64_t all_;
    std::atomic<int64_t> done_{0};
    bool ended_ = false;
    std::mutex mutex_;
    std::condition_variable end_;
    std::thread thread_;
};
