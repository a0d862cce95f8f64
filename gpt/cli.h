// cli.h - the command line of a program: one line per option, and everything else follows from that list
//
//   Flags f("train_gpt", "train a GPT");
//   f.group("batch");
//   f.add("--batch", o.batch, "sequences per device per micro-step");     // the default is what o.batch holds now
//   f.choose("--dtype", o.dtype, {"auto", "bf16", "fp32"}, "of weights and activations");
//   if (!f.parse(argc, argv)) return 0;                                   // --help or --version was printed
//
// The list gives the parser, --help (grouped, with defaults), the option table for run.json (list()) and the command
// line that runs the same thing again (command()). Long names only; no environment variables. CLI11 splits the
// arguments; numbers are read here, because CLI11 takes "010" for eight.
#pragma once
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/check.h"

#ifndef GPT_VERSION
#define GPT_VERSION "0.1"
#endif
#ifndef GPT_COMMIT
#define GPT_COMMIT "unknown"
#endif

// One option as it stands after parsing, in words that parse back to the same value.
struct Setting {
    std::string name, value;
    bool is_default;
};

class Flags {
  public:
    using Words = std::vector<std::string>;
    template <class T>
    using Table = std::vector<std::pair<std::string, T>>;

    // backends: what --version says after the compiler, e.g. "oneDNN 2.6.3, no CUDA".
    Flags(std::string program, std::string about, std::string backends = "")
        : program_(std::move(program)), about_(std::move(about)), backends_(std::move(backends)), app_(about_) {
        app_.set_help_flag();
        app_.allow_extras();
        app_.add_flag("--help", help_);
        app_.add_flag("--version", version_);
    }

    void group(const std::string& name) { group_ = name; }

    // A value of type bool, int, int64_t, uint64_t, float, double, std::string or std::vector<std::string>. form: what
    // --help shows in place of the value.
    template <class T>
    void add(const std::string& name, T& value, const std::string& help, const std::string& form = "") {
        add_row(
            {group_, name, form.empty() ? form_of(value) : form, help}, [&value] { return show(value); },
            [&value, name](const Words& words) { read(value, name, words); }, kind_of(value));
    }

    // One of the listed words.
    void choose(const std::string& name, std::string& value, const Words& words, const std::string& help) {
        Table<std::string> table;
        for (const std::string& w : words) table.emplace_back(w, w);
        choose(name, value, table, help);
    }
    // One of the listed words, each standing for a value, such as an enum's.
    template <class T>
    void choose(const std::string& name, T& value, const Table<T>& table, const std::string& help) {
        std::string form;
        for (const auto& row : table) form += (form.empty() ? "" : "|") + row.first;
        auto word_now = [&value, table] {
            for (const auto& row : table)
                if (row.second == value) return row.first;
            return std::string("?");
        };
        auto set = [&value, table, name, form](const Words& words) {
            for (const auto& row : table)
                if (row.first == words[0]) return void(value = row.second);
            wrong("{} {}: expected one of {}", name, words[0], form);
        };
        add_row({group_, name, form, help}, word_now, set, Kind::one);
    }

    // Fills the values. False when --help or --version was asked for and has been printed. Throws InputError.
    bool parse(int argc, const char* const* argv) {
        refuse_missing_and_repeated(argc, argv);
        try {
            app_.parse(argc, argv);
        } catch (const CLI::ParseError& e) { throw InputError(std::string(e.what()) + " (--help lists all options)"); }
        if (help_)
            fmt::print("{}", help());
        else if (version_)
            fmt::print("{}", version());
        if (help_ || version_) return false;
        for (const std::string& word : app_.remaining()) refuse_unknown(word);
        for (Row& row : rows_)
            if (row.option->count() > 0) row.set(row.option->results());
        return true;
    }

    std::vector<Setting> list() const {
        std::vector<Setting> all;
        for (const Row& row : rows_) {
            const std::string now = row.show();
            all.push_back({row.name, now, now == row.initial});
        }
        return all;
    }

    // The command line that gives the same settings: all that differ from their defaults.
    std::string command() const {
        std::string line = "./" + program_;
        for (const Row& row : rows_) {
            const std::string now = row.show();
            if (now == row.initial) continue;
            if (row.kind == Kind::flag)
                line += " " + row.name + (now == "true" ? "" : "=" + now);
            else
                line += " " + row.name + (now[0] == '-' ? "=" : " ") + (row.kind == Kind::many ? now : quoted(now));
        }
        return line;
    }

    std::string help() const {
        size_t width = 0;
        for (const Row& row : rows_)
            if (row.left().size() <= 34) width = std::max(width, row.left().size());
        std::string text = fmt::format("{} - {}\n", program_, about_), group;
        for (const Row& row : rows_) {
            if (row.group != group) text += fmt::format("\n{}\n", row.group);
            group = row.group;
            text += fmt::format("  {:<{}}  {}", row.left(), width, row.help);
            text += row.initial.empty() || row.kind == Kind::flag ? "\n" : fmt::format(" [{}]\n", row.initial);
        }
        return text + "\n  --help, --version\n";
    }

    std::string version() const {
        return fmt::format("{} of gpt.cu {}, commit {}, compiled by {}{}{}\n", program_, GPT_VERSION, GPT_COMMIT,
                           compiler(), backends_.empty() ? "" : ", ", backends_);
    }

  private:
    enum class Kind { flag, one, many };  // --resume; --batch 4; --input a b c
    struct Row {
        std::string group, name, form, help, initial = "";
        Kind kind                             = Kind::one;
        std::function<std::string()> show     = nullptr;
        std::function<void(const Words&)> set = nullptr;
        CLI::Option* option                   = nullptr;
        std::string left() const { return form.empty() ? name : name + " " + form; }
    };

    void add_row(Row row, std::function<std::string()> show, std::function<void(const Words&)> set, Kind kind) {
        row.initial     = show();
        row.show        = std::move(show);
        row.set         = std::move(set);
        row.kind        = kind;
        const auto keep = [](const CLI::results_t&) { return true; };  // parse() reads values after unknown options
        row.option      = app_.add_option(row.name, keep);
        if (kind == Kind::flag) row.option->expected(0, 1);
        if (kind == Kind::many) row.option->expected(1, CLI::detail::expected_max_vector_size)->allow_extra_args();
        rows_.push_back(std::move(row));
    }

    template <class... Args>
    [[noreturn]] static void wrong(fmt::string_view format, const Args&... args) {
        throw InputError(fmt::vformat(format, fmt::make_format_args(args...)));
    }

    template <class T>
    static Kind kind_of(const T&) {
        return Kind::one;
    }
    static Kind kind_of(bool) { return Kind::flag; }
    static Kind kind_of(const Words&) { return Kind::many; }

    template <class T>
    static std::string form_of(const T&) {
        return std::is_integral<T>::value ? "N" : "X";
    }
    static std::string form_of(bool) { return ""; }
    static std::string form_of(const std::string&) { return "TEXT"; }
    static std::string form_of(const Words&) { return "TEXT…"; }

    // The shortest text that reads back as the same value.
    template <class T>
    static std::string show(const T& value) {
        return fmt::format("{}", value);
    }
    static std::string show(const std::string& value) { return value; }
    static std::string show(const Words& value) {
        std::string all;
        for (const std::string& v : value) all += (all.empty() ? "" : " ") + quoted(v);
        return all;
    }

    template <class T>
    static void read(T& value, const std::string& name, const Words& words) {
        const std::string& w = words[0];
        T parsed{};
        const auto [end, error] = std::from_chars(w.data(), w.data() + w.size(), parsed);
        const bool whole        = error == std::errc() && end == w.data() + w.size();
        if (error == std::errc::result_out_of_range) wrong("{} {}: out of range", name, w);
        if (std::is_integral<T>::value && !whole) {
            wrong("{} {}: expected a whole number{}", name, w, std::is_signed<T>::value ? "" : ", not negative");
        }
        if (!whole || parsed - parsed != T(0)) wrong("{} {}: expected a number, such as 0.5 or 6e-4", name, w);
        value = parsed;
    }
    static void read(bool& value, const std::string& name, const Words& words) {
        const std::string w = words.empty() || words[0].empty() ? "true" : words[0];
        if (w != "true" && w != "false") wrong("{} {}: takes no value (or =true, =false)", name, w);
        value = w == "true";
    }
    static void read(std::string& value, const std::string&, const Words& words) { value = words[0]; }
    static void read(Words& value, const std::string&, const Words& words) { value = words; }

    // Two things that CLI11 lets pass or says badly. `--prompt --steps 5` would prompt with "--steps"; an option given
    // twice is more often a slip of editing than a wish.
    void refuse_missing_and_repeated(int argc, const char* const* argv) const {
        for (const Row& row : rows_) {
            int times = 0;
            for (int i = 1; i < argc; i++) {
                const std::string word = argv[i], next = i + 1 < argc ? argv[i + 1] : "";
                times += name_in(word) == row.name;
                if (word != row.name || row.kind == Kind::flag) continue;
                if (i + 1 == argc) wrong("{} needs a value: {}", row.name, row.left());
                if (has(name_in(next))) wrong("{} needs a value, but {} follows", row.name, next);
            }
            if (times > 1 && row.kind != Kind::many) wrong("{} is given {} times", row.name, times);
        }
    }

    static std::string name_in(const std::string& word) { return word.substr(0, word.find('=')); }

    bool has(const std::string& name) const {
        return name == "--help" || name == "--version" ||
               std::any_of(rows_.begin(), rows_.end(), [&](const Row& row) { return row.name == name; });
    }

    [[noreturn]] void refuse_unknown(const std::string& word) const {
        const std::string name = name_in(word);
        if (word.size() < 2 || word[0] != '-')
            wrong("unexpected '{}': every option has a name (--help lists them)", word);
        std::string best;
        size_t least = name.size() <= 5 ? 2 : name.size() / 3 + 1;  // farther off than this is no misspelling
        for (const Row& row : rows_) {
            const bool begins = name.size() > 3 && row.name.rfind(name, 0) == 0;
            const size_t d    = begins ? 1 : distance(name, row.name);
            if (d < least) least = d, best = row.name;
        }
        if (best.empty()) wrong("unknown option {} (--help lists all options)", name);
        wrong("unknown option {}, did you mean {}?", name, best);
    }

    // How many letters must be changed, added, dropped or swapped with their neighbour to turn a into b.
    static size_t distance(const std::string& a, const std::string& b) {
        std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
        for (size_t i = 0; i <= a.size(); i++) d[i][0] = i;
        for (size_t j = 0; j <= b.size(); j++) d[0][j] = j;
        for (size_t i = 1; i <= a.size(); i++)
            for (size_t j = 1; j <= b.size(); j++) {
                d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
                const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if (swapped) d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
            }
        return d[a.size()][b.size()];
    }

    // As one word of a POSIX shell.
    static std::string quoted(const std::string& word) {
        const char* plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,+=@%";
        if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
        std::string q = "'";
        for (char c : word) q += c == '\'' ? "'\\''" : std::string(1, c);
        return q + "'";
    }

    static std::string compiler() {
#if defined(__clang__)
        return "clang " __clang_version__;
#elif defined(__GNUC__)
        return "g++ " __VERSION__;
#else
        return "an unknown compiler";
#endif
    }

    std::string program_, about_, backends_, group_ = "options";
    bool help_ = false, version_ = false;
    CLI::App app_;
    std::vector<Row> rows_;
};
