// scratch.h - a folder that is removed when a test ends, and small files in it
#pragma once
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

struct Scratch {
    std::string path;
    Scratch() {
        path = (std::filesystem::temp_directory_path() / "gpt-test-XXXXXX").string();
        if (!mkdtemp(path.data())) std::abort();
    }
    ~Scratch() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    Scratch(const Scratch&)            = delete;
    Scratch& operator=(const Scratch&) = delete;
    std::string operator/(const std::string& name) const { return path + "/" + name; }
};

inline bool exists(const std::string& path) { return std::filesystem::exists(path); }
inline void write_text(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
}
inline std::string read_text(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}
