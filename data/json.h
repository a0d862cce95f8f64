// json.h - reads JSON that others wrote
//
// The parser is strict: it refuses a key that appears twice in one object, and more than max_depth levels. It can also
// take what Python's json module takes, for files that Python wrote. Errors name the file.
#pragma once
#include <algorithm>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "data/files.h"

// as_python: NaN, Infinity and -Infinity are numbers, and of a repeated key the last one counts, with a warning.
enum class Json : uint8_t { strict, as_python };

// Numbers that Python writes and JSON does not have. While the parser runs, a string stands for each of them: its name
// behind a byte 1.
struct PythonNumber {
    std::string_view name;
    double value;
};
constexpr PythonNumber python_numbers[] = {{"NaN", std::numeric_limits<double>::quiet_NaN()},
                                           {"Infinity", std::numeric_limits<double>::infinity()},
                                           {"-Infinity", -std::numeric_limits<double>::infinity()}};

// Puts such a string in place of each of Python's numbers.
inline std::string mark_python_numbers(std::string_view text) {
    std::string marked;
    bool in_string = false;
    for (size_t i = 0; i < text.size();) {
        size_t bytes = in_string && text[i] == '\\' ? 2 : 1;
        if (text[i] == '"') in_string = !in_string;
        const auto* number =
            std::find_if(std::begin(python_numbers), std::end(python_numbers),
                         [&](const PythonNumber& n) { return text.substr(i, n.name.size()) == n.name; });
        if (!in_string && number != std::end(python_numbers)) {
            marked.append("\"\\u0001").append(number->name).append("\"");
            bytes = number->name.size();
        } else
            marked += text.substr(i, bytes);
        i += bytes;
    }
    return marked;
}

inline nlohmann::json parse_json(std::string_view text, const std::string& path, int max_depth = 64,
                                 Json kind = Json::strict) {
    std::vector<std::set<std::string>> keys;  // one set for each object that is still open
    const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
        using Event = nlohmann::json::parse_event_t;
        CHECK(depth <= max_depth, "{}: more than {} levels of JSON", path, max_depth);
        if (event == Event::object_start) keys.emplace_back();
        if (event == Event::object_end) keys.pop_back();
        if (event == Event::value && kind == Json::as_python && value.is_string()) {
            const std::string word = value;
            for (const PythonNumber& number : python_numbers)
                if (word[0] == '\1' && word.substr(1) == number.name) value = number.value;
        }
        if (event != Event::key || keys.back().insert(value).second) return true;
        const std::string key = value.dump().substr(0, 200);
        CHECK(kind == Json::as_python, "{}: the key {} appears twice", path, key);
        fmt::print(stderr, "warning: {}: the key {} appears twice, and the last one counts\n", path, key);
        return true;
    };
    try {
        if (kind == Json::strict) return nlohmann::json::parse(text.begin(), text.end(), check);
        return nlohmann::json::parse(mark_python_numbers(text), check);
    } catch (const nlohmann::json::exception& e) {
        const std::string what = e.what();  // begins with the library's own name of the error, in brackets
        fail("{}: not valid JSON: {}", path, what.substr(what.find(']') + 2).substr(0, 300));
    }
}

inline nlohmann::json read_json(const std::string& path, int max_depth = 64, Json kind = Json::strict) {
    const MappedFile f(path);
    return parse_json(f.text(), path, max_depth, kind);
}

// The text of a JSON value. Bytes that are not UTF-8, as names of files may have, become U+FFFD.
template <class J>
std::string json_text(const J& value, int indent = -1) {
    return value.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

// One JSON object. Each accessor checks the type of the field it returns; errors name the file and the field.
// An accessor with an `absent` argument returns that for a field that is missing or null.
class Fields {
  public:
    explicit Fields(const std::string& path, Json kind = Json::strict) : path_(path) {
        json_ = read_json(path, 16, kind);
        CHECK(json_.is_object(), "{}: expected a JSON object", path);
    }
    bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
    const nlohmann::json& raw(const char* key) const { return json_[key]; }
    const std::string& path() const { return path_; }
    const nlohmann::json& object() const { return json_; }

    int64_t integer(const char* key) const {
        CHECK(has(key), "{}: the field \"{}\" is missing", path_, key);
        CHECK(json_[key].is_number_integer(), "{}: \"{}\" is {}, expected a whole number", path_, key,
              json_[key].dump());
        // From 2^53 on, programs that read numbers as doubles would have rounded it.
        const double value = json_[key].get<double>();
        CHECK(value > -0x1p53 && value < 0x1p53, "{}: \"{}\" is {}, out of range", path_, key, json_[key].dump());
        return json_[key].get<int64_t>();
    }
    // A number of up to 64 bits that is not negative, such as a seed.
    uint64_t unsigned_integer(const char* key) const {
        CHECK(has(key), "{}: the field \"{}\" is missing", path_, key);
        CHECK(json_[key].is_number_unsigned(), "{}: \"{}\" is {}, expected a whole number, 0 or more", path_, key,
              json_[key].dump());
        return json_[key].get<uint64_t>();
    }
    int64_t integer(const char* key, int64_t absent) const { return has(key) ? integer(key) : absent; }
    double number(const char* key, double absent) const {
        if (!has(key)) return absent;
        CHECK(json_[key].is_number(), "{}: \"{}\" is {}, expected a number", path_, key, json_[key].dump());
        return json_[key].get<double>();
    }
    bool flag(const char* key, bool absent) const {
        if (!has(key)) return absent;
        CHECK(json_[key].is_boolean(), "{}: \"{}\" is {}, expected true or false", path_, key, json_[key].dump());
        return json_[key].get<bool>();
    }
    std::string text(const char* key, const std::string& absent) const {
        if (!has(key)) return absent;
        CHECK(json_[key].is_string(), "{}: \"{}\" is {}, expected a string", path_, key, json_[key].dump());
        return json_[key].get<std::string>();
    }
    // Refuses a file that asks for a feature which we do not have.
    void refuse_unless(const char* key, bool supported) const {
        CHECK(flag(key, supported) == supported, "{}: \"{}\": {} is not supported, only {}", path_, key, !supported,
              supported);
    }

  private:
    std::string path_;
    nlohmann::json json_;
};
