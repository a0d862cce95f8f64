// data.h - tests that need more than a bare clone: $GPT_DATA, or ../shared beside the clone
#pragma once
#include <cstdlib>
#include <filesystem>
#include <string>

// The path of a file or folder there; "" when it is absent, after saying that the test skips.
inline std::string shared_data(const std::string& name) {
    const char* home       = std::getenv("GPT_DATA");
    const std::string path = std::string(home ? home : "../shared") + "/" + name;
    if (std::filesystem::exists(path)) return path;
    std::fprintf(stderr, "skipped: there is no %s (set GPT_DATA to the folder that holds it)\n", path.c_str());
    return "";
}
