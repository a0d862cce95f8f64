// log.h - what a run says: a header, a line per step and evaluation, the same as JSON records, and a picture of the
// losses
//
// The terminal gets a line every few seconds at most, plus one that is overwritten while you wait; log.jsonl in the run
// folder gets every step.
#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/json.h"
#include "gpt/plot.h"

// 1,234,567 · 12.3k · 4.56M · 1h02m: numbers for people
inline std::string grouped(int64_t n) {
    std::string s = std::to_string(n);
    for (int i = int(s.size()) - 3; i > (n < 0 ? 1 : 0); i -= 3) s.insert(i, ",");
    return s;
}
inline std::string rounded(double x) {
    const char* unit = "";
    for (const char* u : {"k", "M", "G", "T", "P", "E"}) {
        if (std::fabs(x) < 999.5) break;
        x /= 1000, unit = u;
    }
    return fmt::format(std::fabs(x) < 9.995 && *unit   ? "{:.2f}{}"
                       : std::fabs(x) < 99.95 && *unit ? "{:.1f}{}"
                                                       : "{:.0f}{}",
                       x, unit);
}
inline std::string duration(double seconds) {
    if (!(seconds >= 0 && seconds < 1e9)) return "-";
    const int64_t s = std::llround(seconds);
    if (s < 60) return fmt::format("{}s", s);
    if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
    if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
    return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}
inline std::string gibibytes(int64_t bytes) {
    const double g = double(bytes) / (1 << 30);
    return g < 0.1 ? fmt::format("{:.1f} MiB", g * 1024) : fmt::format("{:.2f} GiB", g);
}

class Stopwatch {
  public:
    double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

  private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

struct StepRecord {
    int64_t step;  // counts from 1 here: "after step"
    float loss, norm, lr;
    double seconds;
    int64_t tokens_per_step, tokens;
    double peak;  // share of the measured matrix-product peak
    bool skipped = false;
};

class Log {
  public:
    // folder: of the run, "" for none. A run that goes on after `resumed_at` steps (-1: a new one) keeps the records up
    // to there, and drops those of steps that will be done again.
    Log(const std::string& folder, const std::string& title, int64_t steps, int64_t every, int64_t resumed_at)
        : folder_(folder), title_(title), steps_(steps), every_(every), terminal_(isatty(1)) {
        if (folder_.empty()) return;
        const std::string path = folder_ + "/log.jsonl";
        write_file(path, resumed_at >= 0 ? records_until(path, resumed_at) : "");
        file_ = open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
        CHECK_RUN(file_ >= 0, "cannot write {}: {}", path, os_error());
    }
    Log(const Log&)            = delete;
    Log& operator=(const Log&) = delete;
    ~Log() {
        if (file_ >= 0) close(file_);
    }

    void say(const std::string& key, const std::string& text) {
        clear();
        fmt::print("{:<8} {}\n", key, text);
        std::fflush(stdout);
    }
    void columns() {
        fmt::print("\n{:>6} {:>9} {:>8} {:>9} {:>9} {:>8} {:>7} {:>9}\n", "step", "loss", "norm", "lr", "ms", "tok/s",
                   "peak", "left");
        std::fflush(stdout);
    }

    void step(const StepRecord& r) {
        smooth_            = smooth_ > 0 ? 0.9 * smooth_ + 0.1 * r.seconds : r.seconds;
        const double speed = r.tokens_per_step / r.seconds;
        record({{"event", r.skipped ? "skip" : "step"},
                {"step", r.step},
                {"loss", number(r.loss)},
                {"norm", number(r.norm)},
                {"lr", number(r.lr)},
                {"ms", std::round(r.seconds * 1e4) / 10},
                {"tokens_per_s", std::round(speed * 10) / 10},
                {"peak", std::round(r.peak * 1e4) / 1e4},
                {"tokens", r.tokens}});
        if (!r.skipped) train_.push_back({double(r.tokens), double(r.loss)});
        const std::string line =
            fmt::format("{:>6} {:>9.4f} {:>8.3f} {:>9.2e} {:>9.1f} {:>8} {:>6.1f}% {:>9}", r.step, r.loss, r.norm, r.lr,
                        r.seconds * 1e3, rounded(speed), 100 * r.peak, duration(smooth_ * double(steps_ - r.step)));
        const bool keep = r.step == 1 || r.step == steps_ || r.skipped || (every_ > 0 && r.step % every_ == 0);
        clear();
        if (keep || terminal_) fmt::print("{}{}", line, keep ? "\n" : "");
        if (r.skipped)
            fmt::print("{:>6} the loss or the gradient norm is not a finite number: weights left as they were\n",
                       "skip");
        pending_ = terminal_ && !keep;
        std::fflush(stdout);
    }
    void eval(int64_t step, int64_t tokens, float val_loss, double seconds) {
        record({{"event", "eval"},
                {"step", step},
                {"val_loss", number(val_loss)},
                {"tokens", tokens},
                {"ms", std::round(seconds * 1e4) / 10}});
        val_.push_back({double(tokens), double(val_loss)});
        clear();
        fmt::print("{:>6} {:>9.4f}  validation loss after {} steps\n", "eval", val_loss, step);
        std::fflush(stdout);
        if (!folder_.empty() && (train_.size() || val_.size())) loss_png(folder_ + "/loss.png", title_, train_, val_);
    }
    void hellaswag(int64_t step, double acc, double acc_norm, int64_t questions, double seconds) {
        record({{"event", "hellaswag"},
                {"step", step},
                {"acc", acc},
                {"acc_norm", acc_norm},
                {"questions", questions},
                {"ms", std::round(seconds * 1e4) / 10}});
        clear();
        fmt::print("{:>6} {:>8.2f}%  HellaSwag acc, {:.2f}% acc_norm, {} questions\n", "eval", 100 * acc,
                   100 * acc_norm, questions);
        std::fflush(stdout);
    }
    void sample(int64_t step, const std::string& text) {
        record({{"event", "sample"}, {"step", step}, {"text", text}});
        clear();
        fmt::print("---- sample after {} steps {:-<60}\n{}\n{:-<86}\n", step, "", text, "");
        std::fflush(stdout);
    }
    void save(int64_t step, const std::string& path) {
        record({{"event", "save"}, {"step", step}, {"path", path}});
        clear();
        fmt::print("{:>6} {}\n", "saved", path);
        std::fflush(stdout);
    }
    void warn(int64_t step, const std::string& text) {
        record({{"event", "warning"}, {"step", step}, {"text", text}});
        clear();
        fmt::print("{:<8} {}\n", "warning", text);
        std::fflush(stdout);
    }
    // One line of log.jsonl. A log that cannot be written is said once and does not end the run.
    void record(const nlohmann::ordered_json& j) {
        if (file_ < 0) return;
        const std::string line = j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
        if (::write(file_, line.data(), line.size()) == ssize_t(line.size())) return;
        fmt::print(stderr, "warning: cannot write {}/log.jsonl: {}; the run goes on without it\n", folder_, os_error());
        close(file_);
        file_ = -1;
    }

  private:
    // JSON has no NaN; the shortest digits that read back as the same float.
    static nlohmann::ordered_json number(float x) {
        if (!std::isfinite(x)) return fmt::format("{}", x);
        return std::stod(fmt::format("{}", x));
    }
    void clear() {
        if (pending_) fmt::print("\r\033[K");
        pending_ = false;
    }
    // The lines of an earlier log up to a step; their losses go back into the picture.
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
            kept.append(line).push_back('\n');
            if (has("tokens") && has("loss")) train_.push_back({j["tokens"], j["loss"]});
            if (has("tokens") && has("val_loss")) val_.push_back({j["tokens"], j["val_loss"]});
        }
        return kept;
    }

    std::string folder_, title_;
    int64_t steps_, every_;
    bool terminal_, pending_ = false;
    int file_      = -1;
    double smooth_ = 0;
    std::vector<PlotPoint> train_, val_;
};
