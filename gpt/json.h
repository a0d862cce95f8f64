// json.h - JSON from strangers: strict, no key twice, bounded depth; errors name the file
#pragma once
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "gpt/files.h"

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
