// cli.h - the command line of a program, from a list with one entry per option
//
//   Flags f("train_gpt", "trains a GPT");
//   f.group("batch");
//   f.add("--batch", o.batch, at_least(1), "sequences per micro-batch; auto: 4");  // an Auto<int64_t>
//   f.add("--eps", o.eps, more_than(0), "added to the root of the second moment"); // a float; its value is the default
//   f.choose("--dtype", o.dtype, dtypes, "of weights and activations");            // one word of a table
//   if (!f.parse(argc, argv)) return 0;                                            // --help or --version was printed
//
// The parser, --help, the settings for run.json (list()) and the command that runs the same again (command()) all come
// from this list. There are long names only, but for -h, and no environment variables. CLI11 splits the arguments. The
// values are read here, because CLI11 takes "010" for eight. Only an option with any_text() takes an empty text.
#pragma once
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gpt/values.h"

#ifndef GPT_VERSION
#define GPT_VERSION "0.1"
#endif
#ifndef GPT_COMMIT
#define GPT_COMMIT "unknown"
#endif

// One option after parsing. The value is written so that it parses back to the same value.
struct Setting {
    std::string name, value;
    bool is_default;
};

class Flags {
  public:
    using Words = option_value::Words;
    template <class T>
    using Table = option_value::Table<T>;

    // backends: the libraries that --version lists after the compiler, such as "oneDNN 2.6.3, no CUDA".
    Flags(std::string program, std::string about, std::string backends = "")
        : program_(std::move(program)),
          started_as_(program_),
          about_(std::move(about)),
          backends_(std::move(backends)),
          app_(about_) {
        app_.set_help_flag();
        app_.allow_extras();
        app_.add_flag("-h,--help", help_);
        app_.add_flag("--version", version_);
    }

    // Sets the heading under which --help lists the options that follow.
    void group(const std::string& name) { group_ = name; }

    // Adds an option whose value is a bool, int, int64_t, uint64_t, float, double, std::string, an Auto of one of
    // these, a std::optional<std::string> or a std::vector<std::string>. `form` stands for the value in --help.
    template <class T>
    void add(const std::string& name, T& value, const Range& range, const std::string& help,
             const std::string& form = "") {
        add_row(name, value, form.empty() ? option_value::form_of(value) : form, help, range);
    }
    template <class T>
    void add(const std::string& name, T& value, const std::string& help, const std::string& form = "") {
        add(name, value, Range{}, help, form);
    }

    // Adds an option that takes one of the listed words.
    void choose(const std::string& name, std::string& value, const Words& words, const std::string& help) {
        Table<std::string> table;
        for (const std::string& w : words) table.emplace_back(w, w);
        choose(name, value, table, help);
    }
    // Adds an option of which each word stands for a value, such as an enum's. An Auto takes the word auto as well.
    template <class T>
    void choose(const std::string& name, T& value, const Table<T>& table, const std::string& help) {
        add_row(name, value, option_value::form_of(table), help, table);
    }
    template <class T>
    void choose(const std::string& name, Auto<T>& value, const Table<T>& table, const std::string& help) {
        add_row(name, value, "auto|" + option_value::form_of(table), help, table);
    }

    // Says what to answer to an option of another program. `answer` is the name of ours, or a sentence. A name that
    // this list lacks is no answer, so that programs can share a table.
    void elsewhere(const std::string& name, const std::string& answer) { elsewhere_.emplace_back(name, answer); }
    // Refuses a command that gives one of `these` together with one of `those`, because one would have no effect.
    void apart(const Words& these, const Words& those) { apart_.emplace_back(these, those); }
    // Refuses a command that gives two of `these`.
    void apart(const Words& these) {
        for (size_t i = 1; i < these.size(); i++) apart({these.begin(), these.begin() + i}, {these[i]});
    }
    // Refuses a command that gives `name` and none of `those`, which are options, or options with a value: "--a b".
    void only_with(const std::string& name, const Words& those) { only_with_.emplace_back(name, those); }

    // Sets the values. Returns false after printing --help or --version. Throws InputError for whatever is wrong.
    bool parse(int argc, const char* const* argv) {
        started_as_       = argv[0];
        const Words words = separate_values(argc, argv);
        refuse_missing_and_repeated(words);
        std::vector<const char*> pointers = {argv[0]};
        for (const std::string& word : words) pointers.push_back(word.c_str());
        try {
            app_.parse(int(pointers.size()), pointers.data());
        } catch (const CLI::ParseError& e) { throw InputError(std::string(e.what()) + " (--help lists all options)"); }
        if (!help_.empty())
            fmt::print("{}", help_ == "table" ? table() : help());
        else if (version_)
            fmt::print("{}", version());
        if (!help_.empty() || version_) return expect_printed(), false;
        for (const std::string& word : app_.remaining()) refuse_unknown(word);
        for (Row& row : rows_)
            if (row.option->count() > 0) row.set(row.option->results());
        refuse_without_effect();
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

    // Whether the run.json of a run, which may be old, means `auto` by this text.
    bool is_old_auto(const std::string& name, const std::string& text) const {
        const Row* row = find(name);
        return text.empty() || (row && text == row->old_auto);
    }

    // Returns the command line that gives the same settings, with the program by the name or the path by which it was
    // started. It leaves out options that have their default value, and the option `without`.
    std::string command(const std::string& without = "") const {
        return option_value::quoted(started_as_) + options(without);
    }
    // Returns the options of this command line, each with a space in front.
    std::string options(const std::string& without = "") const {
        std::string line;
        for (const Row& row : rows_) {
            const std::string now = row.show();
            if (now == row.initial || row.name == without) continue;
            if (row.kind == Kind::flag)
                line += " " + row.name + (now == "true" ? "" : "=" + now);
            else
                line += " " + row.name + (now[0] == '-' ? "=" : " ") +
                        (row.kind == Kind::many ? now : option_value::quoted(now));
        }
        return line;
    }

    // Returns the help of every option, with its default in brackets. No line is wider than 120 columns.
    std::string help() const {
        size_t width = 0;
        for (const Row& row : rows_)
            if (columns(row.left()) <= 34) width = std::max(width, columns(row.left()));
        const std::string indent(width + 4, ' ');
        std::string text = fmt::format("{} - {}\n", program_, about_), group;
        for (const Row& row : rows_) {
            if (row.group != group) text += fmt::format("\n{}\n", row.group);
            group            = row.group;
            std::string line = "  " + row.left();
            if (columns(line) > width + 2) text += std::exchange(line, "") + "\n";
            line.append(width + 2 - columns(line), ' ');
            for (const std::string& word : words_of(row.full_help())) {
                if (columns(line) + 1 + columns(word) > 120) text += std::exchange(line, indent.substr(1)) + "\n";
                line += (columns(line) == width + 2 ? "  " : " ") + word;
            }
            text += line + "\n";
        }
        return text + "\n  -h, --help, --version\n";
    }

    // Returns what --help=table prints: group, name, form and help of each option, with tabs between them.
    // scripts/manual.sh makes the man page and the completion for bash from it.
    std::string table() const {
        std::string text;
        for (const Row& row : rows_)
            text += fmt::format("{}\t{}\t{}\t{}\n", row.group, row.name, row.form, row.full_help());
        return text;
    }

    std::string version() const {
        return fmt::format("{} of gpt.cu {}, commit {}, compiled by {}{}{}\n", program_, GPT_VERSION, GPT_COMMIT,
                           compiler(), backends_.empty() ? "" : ", ", backends_);
    }

  private:
    enum class Kind { flag, one, many };  // --resume; --batch 4; --input a b c
    struct Row {
        std::string group, name, form, help;         // form: what --help shows in place of the value
        std::string initial                   = "";  // the default, in words
        std::string old_auto                  = "";
        Kind kind                             = Kind::one;
        CLI::Option* option                   = nullptr;
        std::function<std::string()> show     = nullptr;  // the value now, in words
        std::function<void(const Words&)> set = nullptr;
        bool is_given() const {
            const bool undecided = initial == "auto" || kind == Kind::flag;
            return option->count() > 0 && !(undecided && show() == initial);
        }
        std::string left() const { return form.empty() ? name : name + " " + form; }
        std::string full_help() const {
            return initial.empty() || kind == Kind::flag ? help : fmt::format("{} [{}]", help, initial);
        }
    };

    // `allowed` is the Range or the Table that the value must be in.
    template <class T, class Allowed>
    void add_row(const std::string& name, T& value, const std::string& form, const std::string& help,
                 const Allowed& allowed) {
        Row row{group_, name, form, help};
        row.show     = [&value, allowed] { return option_value::show(value, allowed); };
        row.set      = [&value, name, allowed](const Words& words) { option_value::read(value, name, words, allowed); };
        row.initial  = row.show();
        row.old_auto = option_value::old_auto(value, allowed);
        row.kind     = std::is_same_v<T, bool> && std::is_same_v<Allowed, Range> ? Kind::flag
                       : std::is_same_v<T, Words>                                ? Kind::many
                                                                                 : Kind::one;
        const auto keep = [](const CLI::results_t&) { return true; };  // parse() reads the values, in our own way
        row.option      = app_.add_option(name, keep);
        if (row.kind == Kind::flag) row.option->expected(0, 1);
        if (row.kind == Kind::many) row.option->expected(1, CLI::detail::expected_max_vector_size)->allow_extra_args();
        rows_.push_back(std::move(row));
    }

    // Returns the columns that UTF-8 text without wide characters takes on a terminal: one for each code point.
    static size_t columns(const std::string& text) {
        return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
    }
    static Words words_of(const std::string& text) {
        Words words;
        for (size_t at = 0; at < text.size();) {
            const size_t end = std::min(text.find(' ', at), text.size());
            words.push_back(text.substr(at, end - at));
            at = end + 1;
        }
        return words;
    }

    // The words of the command, in which `--prompt=TEXT` becomes two words. CLI11 would take the word behind
    // `--prompt=` for the value.
    Words separate_values(int argc, const char* const* argv) const {
        Words words;
        for (int i = 1; i < argc; i++) {
            const std::string word = argv[i], name = name_in(word);
            const Row* row = find(name);
            if (name == word || !row) {
                words.push_back(word);
                continue;
            }
            const std::string value = word.substr(name.size() + 1);
            if (row->kind == Kind::flag && value.empty()) fail("{}: takes no value (or =true, =false)", word);
            if (row->kind == Kind::flag || value[0] == '-')
                words.push_back(word);
            else
                words.insert(words.end(), {name, value});
        }
        return words;
    }

    // Refuses what CLI11 would accept. `--prompt --steps 5` would prompt with "--steps". An option that is given twice
    // would keep the last value, although that is more often a mistake than a wish.
    void refuse_missing_and_repeated(const Words& words) const {
        for (const Row& row : rows_) {
            int times = 0;
            for (size_t i = 0; i < words.size(); i++) {
                const bool is_last = i + 1 == words.size();
                times += name_in(words[i]) == row.name;
                if (words[i] != row.name || row.kind == Kind::flag) continue;
                if (is_last) fail("{} needs a value: {}", row.name, row.left());
                if (has(name_in(words[i + 1]))) fail("{} needs a value, but {} follows", row.name, words[i + 1]);
            }
            if (times > 1 && row.kind != Kind::many) fail("{} is given {} times", row.name, times);
        }
    }

    void refuse_without_effect() const {
        const auto given = [&](const std::string& words) {
            const size_t space = std::min(words.find(' '), words.size());
            const Row& row     = *find(words.substr(0, space));
            return row.is_given() && (space == words.size() || row.show() == words.substr(space + 1));
        };
        for (const auto& [these, those] : apart_)
            for (const std::string& a : these)
                for (const std::string& b : those)
                    if (given(a) && given(b)) fail("{} and {}: one has no effect beside the other; give one", a, b);
        for (const auto& [name, those] : only_with_)
            if (given(name) && std::none_of(those.begin(), those.end(), given))
                fail("{} has an effect only with {}", name, joined(those));
    }
    // "--score, --eval or --logits"
    static std::string joined(const Words& words) {
        std::string all;
        for (size_t i = 0; i < words.size(); i++)
            all += (i == 0 ? "" : i + 1 < words.size() ? ", " : " or ") + words[i];
        return all;
    }

    static std::string name_in(const std::string& word) { return word.substr(0, word.find('=')); }

    const Row* find(const std::string& name) const {
        for (const Row& row : rows_)
            if (row.name == name) return &row;
        return nullptr;
    }
    bool has(const std::string& name) const {
        return name == "-h" || name == "--help" || name == "--version" || find(name);
    }

    [[noreturn]] void refuse_unknown(const std::string& word) const {
        if (word.size() < 2 || word[0] != '-')
            fail("unexpected '{}': every option has a name (--help lists them)", word);
        std::string name = name_in(word), like_ours = name;
        std::replace(like_ours.begin(), like_ours.end(), '_', '-');
        Words names;
        for (const Row& row : rows_) names.push_back(row.name);
        std::string best = find(like_ours) ? like_ours : "";
        for (const auto& [theirs, answer] : elsewhere_) {
            if (theirs != like_ours) continue;
            if (answer[0] != '-') fail("unknown option {}: {}", name, answer);
            if (find(answer)) best = answer;
        }
        if (best.empty()) best = nearest_name(name, names);
        if (best.empty()) fail("unknown option {} (--help lists all options)", name);
        fail("unknown option {}, did you mean {}?", name, best);
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

    std::string program_, started_as_, about_, backends_, group_ = "options";
    std::string help_;  // what follows --help=, or "true"
    bool version_ = false;
    CLI::App app_;
    std::vector<Row> rows_;
    std::vector<std::pair<std::string, std::string>> elsewhere_;
    std::vector<std::pair<Words, Words>> apart_;
    std::vector<std::pair<std::string, Words>> only_with_;
};
