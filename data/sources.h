// sources.h - which files a command reads: names, folders, patterns and weights
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/files.h"
#include "data/words.h"

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

inline bool has_jsonl_name(std::string_view name) {
    return ends_with(name, ".jsonl") || ends_with(name, ".jsonl.zst") || ends_with(name, ".jsonl.gz");
}
inline bool has_text_name(std::string_view name) {
    for (const std::string kind : {".txt", ".md", ".markdown", ".rst"})
        for (const char* packed : {"", ".zst", ".gz"})
            if (ends_with(name, kind + packed)) return true;
    return false;
}

// Names the files of a folder that are not read.
inline std::string left_out(const std::string& folder, std::vector<std::string> files) {
    std::sort(files.begin(), files.end());
    return fmt::format(
        "{}: of a folder, only .txt, .md, .rst and .jsonl files are read, plain or as .zst or .gz; left out: {}\n"
        "    a pattern reads others, such as '{}/*.html'",
        folder, list_of(files), folder);
}

// The files that a word of the command line stands for, in the order of their names: a file, the files of text and of
// JSON lines in a folder and its subfolders, or the matches of a pattern. Says which files of a folder are left out,
// but for hidden ones. Throws InputError if there are none.
inline std::vector<std::string> files_of(const std::string& name) {
    if (name == "-") return {name};
    std::vector<std::string> files;
    std::error_code error;
    if (fs::is_directory(name, error)) {
        std::vector<std::string> others;
        for (const auto& entry : fs::recursive_directory_iterator(name)) {
            const std::string path = entry.path().string();
            if (!entry.is_regular_file()) continue;
            const bool is_read = has_text_name(path) || has_jsonl_name(path);
            const bool hidden  = path.find("/.", name.size() - 1) != path.npos;
            if (is_read || !hidden) (is_read ? files : others).push_back(path);
        }
        std::sort(files.begin(), files.end());
        CHECK(!files.empty() || !others.empty(), "{}: this folder has no files", name);
        CHECK(!files.empty(), "{}", left_out(name, others));
        if (!others.empty()) fmt::print(stderr, "note: {}\n", left_out(name, others));
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
