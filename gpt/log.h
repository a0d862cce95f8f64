// log.h - what a run prints while it trains: a line per step and evaluation, each also a JSON record, and a loss plot
//
// log.jsonl in the run folder gets every step. Each record has the "time" at which it was written, in seconds since
// 1970. The output gets a line every --log-every steps. A terminal also shows the newest step, in a line that the next
// step overwrites.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "data/json.h"
#include "data/progress.h"
#include "data/words.h"
#include "gpt/plot.h"
#include "kernels/check.h"

// Numbers for people: 1,234,567 · 12.3k · 1h02m · 4.56 GiB.
inline std::string grouped(int64_t n) {
    std::string s = std::to_string(n);
    for (int i = int(s.size()) - 3; i > (n < 0 ? 1 : 0); i -= 3) s.insert(i, ",");
    return s;
}
// space: stands between the number and its unit, such as k.
inline std::string rounded(double x, const char* space = "") {
    const char* unit = "";
    for (const char* u : {"k", "M", "G", "T", "P", "E"}) {
        if (std::fabs(x) < 999.5) break;
        x /= 1000, unit = u;
    }
    return fmt::format(std::fabs(x) < 9.995 && *unit   ? "{:.2f}{}{}"
                       : std::fabs(x) < 99.95 && *unit ? "{:.1f}{}{}"
                                                       : "{:.0f}{}{}",
                       x, space, unit);
}
inline std::string duration(double seconds) {
    if (!(seconds >= 0 && seconds < 1e15)) return "-";
    const int64_t s = std::llround(seconds), year = 365 * 86400;
    if (s < 60) return fmt::format("{}s", s);
    if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
    if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
    if (s < year) return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
    return fmt::format("{:.1f}y", seconds / double(year));
}

class Stopwatch {
  public:
    double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

  private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Prints a text and flushes it. Text that cannot be printed is dropped, because a run should outlive its terminal. A
// command that only prints calls expect_printed() afterwards, which makes this an error.
inline void print_text(const std::string& text, std::FILE* to = stdout) {
    std::fwrite(text.data(), 1, text.size(), to);
    std::fflush(to);
}

// Prints a line "key      text".
template <class... Args>
void say(const std::string& key, fmt::string_view format, const Args&... args) {
    print_text(fmt::format("{:<8} {}\n", key, fmt::vformat(format, fmt::make_format_args(args...))));
}

struct StepRecord {
    int64_t step;  // counts from 1: the steps done, this one included
    float loss, norm, rate;
    double seconds;
    int64_t tokens;                  // the tokens of the run, this step included
    bool skipped;                    // the loss or norm was not finite, so the weights did not change
    float margin = 0, accuracy = 0;  // of preferences
};

struct LogSettings {
    std::string folder;           // the run folder; empty: nothing is written to files
    std::string title;            // stands above the plot
    int64_t steps           = 0;  // the length of the whole run
    int64_t every           = 0;  // steps between lines of the output; 0: only the first and the last
    // The step that a resumed run continues from, or -1 for a new run. Records of later steps are dropped, because
    // these steps are done again.
    int64_t resumed_at      = -1;
    bool evaluates_again    = false;  // drops the evaluation and the sample of that step, too
    int64_t tokens_per_step = 0;
    bool preferences        = false;  // steps have a margin and an accuracy
    double seconds_at_peak  = 0;      // the time of a step at the measured rate of matrix products
};

class Log {
  public:
    explicit Log(const LogSettings& settings) : set_(settings), terminal_(columns_of(1) > 0) {
        if (set_.folder.empty()) return;
        const std::string path = set_.folder + "/log.jsonl";
        write_file(path, set_.resumed_at >= 0 ? records_until(path, set_.resumed_at) : "");
        file_ = open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
        CHECK_RUN(file_ >= 0, "cannot write {}: {}", path, os_error());
    }
    Log(const Log&)            = delete;
    Log& operator=(const Log&) = delete;
    ~Log() {
        if (file_ >= 0) close(file_);
    }

    void columns() {
        print("\n{:>6} {:>9} {:>8} {:>9} {:>9} {:>8} {:>7} {:>9}{}\n", "step", "loss", "norm", "lr", "ms", "tok/s",
              "peak", "left", set_.preferences ? "    margin    right" : "");
    }

    void step(const StepRecord& r) {
        smooth_seconds_      = smooth_seconds_ > 0 ? 0.9 * smooth_seconds_ + 0.1 * r.seconds : r.seconds;
        // A step that is faster than the measured peak shows that the machine was busy when that was measured.
        set_.seconds_at_peak = std::min(set_.seconds_at_peak, r.seconds);
        const double speed = double(set_.tokens_per_step) / r.seconds, peak = set_.seconds_at_peak / r.seconds;
        nlohmann::ordered_json all = {{"event", r.skipped ? "skip" : "step"},
                                      {"step", r.step},
                                      {"loss", number(r.loss)},
                                      {"norm", number(r.norm)},
                                      {"lr", number(r.rate)},
                                      {"ms", std::round(r.seconds * 1e4) / 10},
                                      {"tokens_per_s", std::round(speed * 10) / 10},
                                      {"peak", std::round(peak * 1e4) / 1e4},
                                      {"tokens", r.tokens}};
        if (set_.preferences) all["margin"] = number(r.margin), all["accuracy"] = number(r.accuracy);
        record(all);
        if (!r.skipped) train_.push_back({double(r.tokens), double(r.loss)});

        const bool keep =
            r.step == 1 || r.step == set_.steps || r.skipped || (set_.every > 0 && r.step % set_.every == 0);
        const std::string line = fmt::format(
            "{:>6} {:>9.4f} {:>8.3f} {:>9.2e} {:>9.1f} {:>8} {:>6.1f}% {:>9}{}", r.step, r.loss, r.norm, r.rate,
            r.seconds * 1e3, rounded(speed), 100 * peak, duration(smooth_seconds_ * double(set_.steps - r.step)),
            set_.preferences ? fmt::format(" {:>9.4f} {:>7.1f}%", r.margin, 100 * r.accuracy) : "");
        if (keep || terminal_) print("{}", keep ? line + "\n" : cut_line(line, columns_of(1)));
        if (r.skipped)
            print("{:>6} the loss or the gradient norm is not a finite number, so the weights stay as they were\n",
                  "skip");
        unfinished_line_ = terminal_ && !keep;
    }
    void eval(int64_t step, int64_t tokens, float val_loss, double seconds) {
        record({{"event", "eval"},
                {"step", step},
                {"val_loss", number(val_loss)},
                {"tokens", tokens},
                {"ms", std::round(seconds * 1e4) / 10}});
        val_.push_back({double(tokens), double(val_loss)});
        print("{:>6} {:>9.4f}  validation loss after {}\n", "eval", val_loss, count_of(step, "step"));
        if (!set_.folder.empty())
            loss_png(set_.folder + "/loss.png", set_.title, train_, val_, set_.preferences ? "pair" : "token");
    }
    // The means over the pairs of the validation data.
    void preferences(int64_t step, double margin, double accuracy) {
        record({{"event", "preferences"}, {"step", step}, {"margin", margin}, {"accuracy", accuracy}});
        print(
            "{:>6} {:>8.1f}%  of the validation pairs have the chosen answer in front, with a mean margin of {:.4f}\n",
            "eval", 100 * accuracy, margin);
    }
    void hellaswag(int64_t step, double acc, double acc_norm, int64_t questions, double seconds) {
        record({{"event", "hellaswag"},
                {"step", step},
                {"acc", acc},
                {"acc_norm", acc_norm},
                {"questions", questions},
                {"ms", std::round(seconds * 1e4) / 10}});
        print("{:>6} {:>8.2f}%  HellaSwag acc, {:.2f}% acc_norm, {}\n", "eval", 100 * acc, 100 * acc_norm,
              count_of(questions, "question"));
    }
    void sample(int64_t step, const std::string& text) {
        record({{"event", "sample"}, {"step", step}, {"text", text}});
        print("---- sample after {} {:-<60}\n{}\n{:-<86}\n", count_of(step, "step"), "", text, "");
    }
    void save(int64_t step, const std::string& path) {
        record({{"event", "save"}, {"step", step}, {"path", path}});
        print("{:>6} {}\n", "saved", path);
    }
    void warn(int64_t step, const std::string& text) {
        record({{"event", "warning"}, {"step", step}, {"text", text}});
        print("{:<8} {}\n", "warning", text);
    }
    // Prints a line that is not an event.
    void say(const std::string& key, const std::string& text) { print("{:<8} {}\n", key, text); }
    // Appends one line to log.jsonl. When that fails, it says so once, and the run goes on. A line that was written in
    // part is cut off again, and later records are tried, because space may come back.
    void record(nlohmann::ordered_json j) {
        if (file_ < 0) return;
        const std::chrono::duration<double, std::milli> now = std::chrono::system_clock::now().time_since_epoch();
        j["time"]                                           = std::round(now.count()) / 1e3;
        const std::string why = append(j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
        const int64_t before  = std::exchange(missing_, why.empty() ? 0 : missing_ + 1);
        const std::string log = set_.folder + "/log.jsonl";
        if (before == 0 && missing_ > 0)
            print_text(fmt::format("warning: cannot write {}: {}; the run goes on, and so does the log when it can be "
                                   "written again\n",
                                   log, why),
                       stderr);
        if (before > 0 && missing_ == 0)
            print_text(fmt::format("warning: {} goes on; {} could not be written\n", log, count_of(before, "record")),
                       stderr);
    }

  private:
    // Returns the shortest digits that read back as the same float. JSON has no NaN and no infinity, so these become
    // texts.
    static nlohmann::ordered_json number(float x) {
        if (!std::isfinite(x)) return fmt::format("{}", x);
        return std::stod(fmt::format("{}", x));
    }
    // Returns why the line could not be appended, or "".
    std::string append(std::string_view line) {
        struct stat s;
        const bool known = fstat(file_, &s) == 0;
        while (!line.empty()) {
            const ssize_t n = ::write(file_, line.data(), line.size());  // fewer bytes when the disk becomes full
            if (n < 0 && errno == EINTR) continue;
            if (n > 0) {
                line.remove_prefix(size_t(n));
                continue;
            }
            const std::string why = n < 0 ? os_error() : "no byte was accepted";
            if (known && ftruncate(file_, s.st_size) != 0) return why + ", and a part of the line stays: " + os_error();
            return why;
        }
        return "";
    }
    template <class... Args>
    void print(fmt::string_view format, const Args&... args) {
        const char* clear = std::exchange(unfinished_line_, false) ? clear_line : "";
        print_text(clear + fmt::vformat(format, fmt::make_format_args(args...)));
    }
    // Returns the lines of an earlier log up to a step, and puts their losses back into the plot.
    std::string records_until(const std::string& path, int64_t until) {
        std::string kept;
        if (!std::filesystem::exists(path)) return kept;
        const MappedFile f(path);
        for (std::string_view text = f.text(); !text.empty();) {
            const std::string_view line = text.substr(0, text.find('\n'));
            text.remove_prefix(std::min(line.size() + 1, text.size()));
            const auto j   = nlohmann::json::parse(line, nullptr, false);
            const auto has = [&](const char* key) { return j.is_object() && j.contains(key) && j[key].is_number(); };
            if (!has("step") || j["step"] > until) continue;
            const auto event      = j.find("event");
            const bool evaluation = event != j.end() && (*event == "eval" || *event == "preferences" ||
                                                         *event == "hellaswag" || *event == "sample");
            if (set_.evaluates_again && evaluation && j["step"] == until) continue;
            kept.append(line).push_back('\n');
            const bool skipped = event != j.end() && *event == "skip";
            if (has("tokens") && has("loss") && !skipped) train_.push_back({j["tokens"], j["loss"]});
            if (has("tokens") && has("val_loss")) val_.push_back({j["tokens"], j["val_loss"]});
        }
        return kept;
    }

    LogSettings set_;
    bool terminal_, unfinished_line_ = false;  // a line that the next one overwrites
    int file_              = -1;
    int64_t missing_       = 0;  // records in a row that could not be written, up to now
    double smooth_seconds_ = 0;  // the running mean of a step, for the time that is left
    std::vector<PlotPoint> train_, val_;
};
