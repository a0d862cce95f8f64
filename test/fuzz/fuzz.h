// fuzz.h - what fuzz targets share: the input as a file, and errors that are expected
//
// A target is a function that libFuzzer calls with bytes of its choice. A reader may throw Error for them. It must not
// crash, hang, or leave what a sanitizer reports.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/check.h"

// A file in memory with a path, for readers that want one.
class FuzzFile {
  public:
    explicit FuzzFile(std::string_view bytes) : file_(memfd_create("fuzz", MFD_CLOEXEC)) {
        if (file_ < 0 || write(file_, bytes.data(), bytes.size()) != ssize_t(bytes.size())) std::abort();
    }
    ~FuzzFile() { close(file_); }
    FuzzFile(const FuzzFile&)            = delete;
    FuzzFile& operator=(const FuzzFile&) = delete;
    std::string path() const { return "/proc/self/fd/" + std::to_string(file_); }

  private:
    int file_;
};

template <class F>
int expecting_errors(F read) {
    try {
        read();
    } catch (const Error&) {}
    return 0;
}

inline std::string_view text_of(const uint8_t* data, size_t size) {
    return {reinterpret_cast<const char*>(data), size};
}
