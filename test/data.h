// data.h - finds files that some tests need and the repository does not have: in $GPT_DATA, or else in ../shared
#pragma once
#include <cstdlib>
#include <filesystem>
#include <string>

// The path of a file or folder there. When it is absent, says that the test is skipped and returns "".
inline std::string shared_data(const std::string& name) {
    const char* home       = std::getenv("GPT_DATA");
    const std::string path = std::string(home ? home : "../shared") + "/" + name;
    if (std::filesystem::exists(path)) return path;
    std::fprintf(stderr, "skipped: there is no %s (set GPT_DATA to the folder that holds it)\n", path.c_str());
    return "";
}
