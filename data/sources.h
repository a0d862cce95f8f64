// sources.h - which files a command reads: names, folders, patterns and weights
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/files.h"

struct InputFile {
    std::string path;          // "-" means standard input
    int64_t size     = 0;      // bytes on disk, or 0 if that is not known
    int64_t bytes    = 0;      // bytes read so far, compressed where the file is
    uint32_t crc     = 0;      // CRC-32 of these bytes
    bool read_to_end = false;  // false if a mix ended before the file did
    const std::string& name() const {
        static const std::string standard_input = "standard input";
        return path == "-" ? standard_input : path;
    }
};

// Files that are read one after another, as a share of the whole.
struct Source {
    double weight;
    std::vector<std::string> files;
};

inline bool ends_in(std::string_view name, std::string_view end) {
    return name.size() >= end.size() && name.substr(name.size() - end.size()) == end;
}
inline bool has_jsonl_name(std::string_view name) {
    return ends_in(name, ".jsonl") || ends_in(name, ".jsonl.zst") || ends_in(name, ".jsonl.gz");
}
inline bool has_txt_name(std::string_view name) {
    return ends_in(name, ".txt") || ends_in(name, ".txt.zst") || ends_in(name, ".txt.gz");
}

// The files that a word of the command line stands for, in the order of their names: a file, the .txt and .jsonl files
// (plain, .zst or .gz) in a folder and its subfolders, or the matches of a pattern. Throws InputError if there are
// none.
inline std::vector<std::string> files_of(const std::string& name) {
    if (name == "-") return {name};
    std::vector<std::string> files;
    std::error_code error;
    if (fs::is_directory(name, error)) {
        for (const auto& entry : fs::recursive_directory_iterator(name)) {
            const std::string path = entry.path().string();
            if (entry.is_regular_file() && (has_txt_name(path) || has_jsonl_name(path))) files.push_back(path);
        }
        std::sort(files.begin(), files.end());
        CHECK(!files.empty(), "{}: this folder has no .txt or .jsonl file, plain or as .zst or .gz", name);
        return files;
    }
    if (fs::exists(name, error)) return {name};
    files                 = glob_files(name);
    const bool is_pattern = name.find_first_of("*?[{") != std::string::npos;
    CHECK(!files.empty(), "{}", is_pattern ? "no file matches " + name : "cannot open " + name + ": no such file");
    for (const std::string& f : files) CHECK(!fs::is_directory(f), "{}: {} is a folder; name the files in it", name, f);
    return files;
}

// Reads WEIGHT:FILES, such as "0.3:wiki/*.jsonl.zst".
inline Source weighted_source(const std::string& word) {
    const size_t colon = word.find(':');
    double weight      = 0;
    try {
        size_t used = 0;
        weight      = colon == std::string::npos ? 0 : std::stod(word.substr(0, colon), &used);
        if (used != colon) weight = 0;
    } catch (const std::exception&) {}
    CHECK(weight > 0 && weight <= 1e9,
          "--mix {}: expected WEIGHT:FILES with a weight above 0, such as 0.3:'wiki/*.jsonl'", word);
    return {weight, files_of(word.substr(colon + 1))};
}
