// resume.h - what --resume takes from a run's run.json
//
//   "command"   does the whole run at once, as far as one command can
//   "folder"    the working folder of the last start; relative paths in the options are meant from there
//   "options"   the options that differ from their defaults; the next --resume goes on with them
//   "history"   a record of every start: its step, date, commit, folder and command, and the schedule from there on
#pragma once
#include <charconv>
#include <ctime>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "data/json.h"
#include "data/utf8.h"
#include "gpt/cli.h"
#include "gpt/presets.h"
#include "gpt/schedule.h"

// JSON holds UTF-8 alone, and a path may be anything else. Such a text becomes an object with the list of its bytes.
inline nlohmann::ordered_json json_of(const std::string& text) {
    if (is_utf8(text)) return text;
    return {{"bytes", std::vector<uint8_t>(text.begin(), text.end())}};
}
// Returns the text that json_of() has written, or "" for anything else.
inline std::string text_in(const nlohmann::ordered_json& j) {
    if (j.is_string()) return j;
    std::string text;
    if (!j.is_object() || !j.contains("bytes") || !j["bytes"].is_array()) return text;
    for (const auto& byte : j["bytes"]) text += char(byte.is_number_unsigned() ? byte.get<uint64_t>() : 0);
    return text;
}

// What run.json says of the starts of a run before this one. It is empty for a new run.
struct EarlierStarts {
    std::set<std::string> given;  // the options that were given along with --resume
    nlohmann::ordered_json options = nlohmann::ordered_json::object();
    nlohmann::ordered_json history = nlohmann::ordered_json::array();

    bool gives(const std::string& option) const { return given.count(option) > 0; }
    // Whether an option was given again with another value.
    bool changes(const Setting& now) const {
        if (!gives(now.name) || options.empty()) return false;
        return options.contains(now.name) ? text_in(options[now.name]) != now.value : !now.is_default;
    }
};

// Returns the value of an option as this working folder sees it. A relative path is meant from the folder of the last
// start. When that folder is gone, the whole tree may have been moved, and the path is meant from here.
inline std::string seen_from_here(const std::string& option, const std::string& value, const fs::path& folder) {
    static const std::set<std::string> patterns = {"--train-data", "--val-data"},
                                       paths    = {"--model", "--tokenizer", "--hellaswag"};
    const bool is_pattern = patterns.count(option), relative = fs::path(value).is_relative() && !find_preset(value);
    std::error_code none;
    if (!(is_pattern || paths.count(option)) || !relative || folder.empty() || !fs::is_directory(folder, none) ||
        fs::equivalent(folder, ".", none))
        return value;
    const fs::path whole = (folder / value).lexically_normal(), home = whole.parent_path();
    if (!is_pattern || fs::exists(whole, none)) return whole.string();
    if (fs::is_directory(home, none)) return without_wildcards(home.string()) + "/" + whole.filename().string();
    return (fs::path(without_wildcards(folder.string())) / value).lexically_normal().string();
}

// The words of a command line. With --resume, the options of the run in --out come first, except those that are given
// again. In another number of processes, a step keeps its number of tokens.
inline std::vector<std::string> with_resumed_options(const std::vector<std::string>& args, int world,
                                                     const Flags& flags, EarlierStarts& earlier) {
    std::string out;
    std::set<std::string>& given = earlier.given;
    bool resume                  = false;
    for (size_t i = 1; i < args.size(); i++) {
        const std::string name = args[i].substr(0, args[i].find('='));
        given.insert(name);
        resume |= args[i] == "--resume" || args[i] == "--resume=true";
        if (name == "--out") out = args[i].size() > 6 ? args[i].substr(6) : i + 1 < args.size() ? args[i + 1] : "";
    }
    if (!resume || out.empty() || !fs::exists(out + "/run.json")) return args;
    const Fields run(out + "/run.json");
    CHECK(run.has("options") && run.raw("options").is_object(), "{}: the field \"options\" is missing", run.path());
    CHECK(!run.has("history") || run.raw("history").is_array(), "{}: the field \"history\" is not a list", run.path());
    // Read once more, so that the order of the fields stays.
    const auto ordered = nlohmann::ordered_json::parse(MappedFile(run.path()).text());
    earlier.options    = ordered["options"];
    if (run.has("history"))
        earlier.history = ordered["history"];
    else  // a version without it has started this run, and has not resumed it with other options
        earlier.history.push_back(
            {{"step", 0}, {"commit", run.text("commit", "")}, {"command", run.text("command", "")}});

    std::vector<std::string> all = {args[0]};
    const std::string folder     = run.has("folder") ? text_in(run.raw("folder")) : "";
    const int64_t tokens         = run.integer("world", 1) != world ? run.integer("tokens_per_step", 0) : 0;
    for (const auto& [name, json] : earlier.options.items()) {
        if (given.count(name) || flags.is_old_auto(name, text_in(json))) continue;
        const std::string value = seen_from_here(name, text_in(json), folder);
        const bool accumulate   = name == "--accumulate";
        if (accumulate && given.count("--tokens-per-step")) continue;
        all.push_back(accumulate && tokens ? fmt::format("--tokens-per-step={}", tokens) : name + "=" + value);
    }
    // A run.json without this option is of a run with 64 MiB of logits at a time.
    if (!earlier.options.contains("--logits-memory") && !given.count("--logits-memory"))
        all.push_back("--logits-memory=64");
    all.insert(all.end(), args.begin() + 1, args.end());
    return all;
}

// ---- the schedule of a start ---------------------------------------------------------------------------------------

// Numbers are texts, as those of the options are, because these read back as the same float.
inline nlohmann::ordered_json json_of(const Schedule& s) {
    return {{"kind", option_value::show(s.kind, schedule_kinds())},
            {"learning_rate", option_value::show(s.learning_rate)},
            {"final_rate", option_value::show(s.final_rate)},
            {"warmup_steps", option_value::show(s.warmup_steps)},
            {"steps", option_value::show(s.steps)},
            {"start", option_value::show(s.start)},
            {"start_rate", option_value::show(s.start_rate)},
            {"top", option_value::show(s.top)}};
}

// Reads a schedule from texts in a JSON object. A member whose text is missing or not in its range stays as it is in
// `s`. The names are those of json_of(), or those of options in a run.json without schedules.
inline Schedule read_schedule(const nlohmann::ordered_json& j, Schedule s, bool options = false) {
    const auto read = [&](const char* name, const char* option, auto& member, const Range& range) {
        const char* key = options ? option : name;
        if (!j.is_object() || !j.contains(key) || !j[key].is_string()) return;
        std::decay_t<decltype(member)> value{};
        const std::string text  = j[key];
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error == std::errc() && end == text.data() + text.size() && range.holds(double(value))) member = value;
    };
    const auto kind = j.is_object() ? j.find(options ? "--schedule" : "kind") : j.end();
    for (const auto& [word, value] : schedule_kinds())
        if (kind != j.end() && *kind == word) s.kind = value;
    read("learning_rate", "--learning-rate", s.learning_rate, more_than(0));
    read("final_rate", "--final-learning-rate", s.final_rate, at_least(0));
    read("warmup_steps", "--warmup-steps", s.warmup_steps, at_least(0));
    read("steps", "--steps", s.steps, at_least(1).at_most(UINT32_MAX));
    if (options) return s;
    read("start", "", s.start, at_least(0).at_most(double(s.steps)));
    read("start_rate", "", s.start_rate, at_least(0));
    read("top", "", s.top, at_least(0));
    return s;
}

// The schedule of a run at a step: that of the last start at or before it. `now` is that of the options as they are
// now, and fills in what run.json does not say.
inline Schedule schedule_at(int64_t step, const EarlierStarts& earlier, const Schedule& now) {
    for (auto start = earlier.history.rbegin(); start != earlier.history.rend(); ++start) {
        const bool known = start->is_object() && start->contains("schedule") && start->contains("step") &&
                           start->at("step").is_number_integer();
        if (known && start->at("step") <= step) return read_schedule(start->at("schedule"), now);
    }
    Schedule s = now;
    if (earlier.options.empty()) return s;  // run.json was lost
    if (!earlier.options.contains("--schedule")) s.kind = Schedule().kind;
    return read_schedule(earlier.options, s, true);
}

// ---- the command that goes on --------------------------------------------------------------------------------------

// The path by which the program runs from any folder.
inline std::string program_path(const std::string& argv0) {
    if (argv0.find('/') != argv0.npos) return fs::absolute(argv0).lexically_normal().string();
    std::error_code none;  // the shell found it on PATH
    const fs::path self = fs::read_symlink("/proc/self/exe", none);
    return none ? argv0 : self.string();
}

// The time now, in UTC, such as 2026-11-26T21:34:25Z.
inline std::string date_and_time() {
    const std::time_t now = std::time(nullptr);
    std::tm utc{};
    gmtime_r(&now, &utc);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return text;
}
