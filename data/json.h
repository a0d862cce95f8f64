// json.h - reads JSON that others wrote
//
// The parser is strict: it refuses a key that appears twice in one object, and more than max_depth levels.
// Errors name the file.
#pragma once
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "data/files.h"

inline nlohmann::json parse_json(std::string_view text, const std::string& path, int max_depth = 64) {
    std::vector<std::set<std::string>> keys;  // of each object that is still open
    const auto check = [&](int depth, nlohmann::json::parse_event_t event, const nlohmann::json& value) {
        using Event = nlohmann::json::parse_event_t;
        CHECK(depth <= max_depth, "{}: more than {} levels of JSON", path, max_depth);
        if (event == Event::object_start) keys.emplace_back();
        if (event == Event::object_end) keys.pop_back();
        if (event != Event::key) return true;
        CHECK(keys.back().insert(value).second, "{}: the key {} appears twice", path, value.dump().substr(0, 200));
        return true;
    };
    try {
        return nlohmann::json::parse(text.begin(), text.end(), check);
    } catch (const nlohmann::json::exception& e) {
        fail("{}: not valid JSON: {}", path, std::string(e.what()).substr(0, 300));
    }
}

inline nlohmann::json read_json(const std::string& path, int max_depth = 64) {
    const MappedFile f(path);
    return parse_json(f.text(), path, max_depth);
}

// One JSON object. Each accessor checks the type of the field it returns; errors name the file and the field.
// An accessor with an `absent` argument returns that for a field that is missing or null.
class Fields {
  public:
    explicit Fields(const std::string& path) : path_(path) {
        json_ = read_json(path, 16);
        CHECK(json_.is_object(), "{}: expected a JSON object", path);
    }
    bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
    const nlohmann::json& raw(const char* key) const { return json_[key]; }
    const std::string& path() const { return path_; }

    int64_t integer(const char* key) const {
        CHECK(has(key), "{}: the field \"{}\" is missing", path_, key);
        CHECK(json_[key].is_number_integer(), "{}: \"{}\" is {}, expected a whole number", path_, key,
              json_[key].dump());
        const int64_t value = json_[key].get<int64_t>();
        CHECK(value > -(INT64_C(1) << 53) && value < INT64_C(1) << 53, "{}: \"{}\" is {}, out of range", path_, key,
              json_[key].dump());
        return value;
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
