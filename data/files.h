// files.h - reading, writing and finding files
//
//   MappedFile      a whole file in memory, read-only
//   OutputFile      a new file that readers see complete or not at all
//   try_file        refuses the name of a file that cannot be written, before the work for it begins
//   glob_files      the files that a pattern names
#pragma once
#include <fcntl.h>
#include <glob.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/check.h"

namespace fs = std::filesystem;

inline bool ends_with(std::string_view name, std::string_view end) {
    return name.size() >= end.size() && name.substr(name.size() - end.size()) == end;
}

// Refuses a link to a file that is not there, such as those of a folder that was copied out of the Hugging Face cache.
inline void refuse_dangling(const std::string& path) {
    std::error_code none;
    if (fs::exists(path, none) || !fs::is_symlink(path, none)) return;
    fail("{}: this is a link to {}, and there is no such file\n    cp -rL copies a folder with what its links lead to.",
         path, fs::read_symlink(path, none).string());
}

// Drops the whole pages among these bytes of a mapped file from memory. Reading them again loads them again.
inline void forget_pages(const std::byte* data, int64_t bytes) {
    const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE)), from = (uintptr_t(data) + page - 1) / page * page,
                    to = (uintptr_t(data) + uintptr_t(bytes)) / page * page;
    if (to > from) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

// A whole file mapped into memory. The operating system reads each page when it is first touched.
// Throws InputError if the path cannot be opened, is no regular file, or is a pointer that Git LFS left in its place.
class MappedFile {
  public:
    explicit MappedFile(const std::string& path) : path_(path) {
        const int file = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);  // opening a pipe must not block
        CHECK(file >= 0, "cannot open {}: {}", path, os_error());
        struct stat s;
        const bool known = fstat(file, &s) == 0;
        const bool plain = known && S_ISREG(s.st_mode);
        if (plain && s.st_size > 0) {
            size_   = s.st_size;
            void* p = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
            bytes_  = p == MAP_FAILED ? nullptr : static_cast<const std::byte*>(p);
        }
        const std::string why = os_error();
        close(file);
        CHECK(plain, "{} is {}, not a file", path, known && S_ISDIR(s.st_mode) ? "a folder" : "a device or a pipe");
        CHECK_RUN(bytes_ || size_ == 0, "cannot map the {} bytes of {}: {}", size_, path, why);
        constexpr std::string_view pointer = "version https://git-lfs.github.com/spec/";
        if (text().substr(0, pointer.size()) != pointer) return;
        munmap(const_cast<std::byte*>(bytes_), size_);
        fail("{} is a pointer of Git LFS; git lfs pull downloads the file itself", path);
    }
    MappedFile(MappedFile&& o) noexcept
        : path_(std::move(o.path_)), bytes_(std::exchange(o.bytes_, nullptr)), size_(std::exchange(o.size_, 0)) {}
    MappedFile& operator=(MappedFile&&) = delete;
    ~MappedFile() {
        if (bytes_) munmap(const_cast<std::byte*>(bytes_), size_);
    }

    const std::string& path() const { return path_; }
    const std::byte* data() const { return bytes_; }
    int64_t size() const { return size_; }
    std::string_view text() const { return {reinterpret_cast<const char*>(bytes_), size_t(size_)}; }

  private:
    std::string path_;
    const std::byte* bytes_ = nullptr;
    int64_t size_           = 0;
};

// Writes to PATH.tmp. commit() flushes that file to disk and renames it to PATH.
// Without a commit the destructor removes PATH.tmp, and a file that was at PATH stays as it was.
// Every failure throws a RunError that names the path.
class OutputFile {
  public:
    explicit OutputFile(const std::string& path) : path_(path), temporary_(path + ".tmp") {
        file_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        CHECK_RUN(file_ >= 0, "cannot create {}: {}", temporary_, os_error());
    }
    OutputFile(OutputFile&& o) noexcept
        : path_(std::move(o.path_)),
          temporary_(std::exchange(o.temporary_, "")),
          file_(std::exchange(o.file_, -1)),
          written_(o.written_) {}
    OutputFile& operator=(OutputFile&&) = delete;
    ~OutputFile() {
        if (file_ >= 0) close(file_);
        if (!temporary_.empty()) unlink(temporary_.c_str());
    }

    void write(const void* data, int64_t bytes) {
        const char* p = static_cast<const char*>(data);
        while (bytes > 0) {
            const ssize_t n = ::write(file_, p, size_t(bytes));
            if (n < 0 && errno == EINTR) continue;
            CHECK_RUN(n > 0, "cannot write {}: {} after {} bytes{}", path_, n < 0 ? os_error() : "no byte was accepted",
                      written_, errno == ENOSPC || errno == EDQUOT ? "; free some space and try again" : "");
            p += n, bytes -= n, written_ += n;
        }
    }
    void write(std::string_view text) { write(text.data(), int64_t(text.size())); }
    // Overwrites bytes that were written before, such as the count in a header.
    void write_at(int64_t at, const void* data, int64_t bytes) {
        CHECK_RUN(pwrite(file_, data, size_t(bytes), at) == bytes, "cannot write {}: {}", path_, os_error());
    }

    // Flushes the bytes to disk and closes the file, which keeps its temporary name until commit().
    void finish() {
        CHECK_RUN(fsync(file_) == 0, "cannot write {} to disk: {}", path_, os_error());
        CHECK_RUN(close(std::exchange(file_, -1)) == 0, "cannot close {}: {}", temporary_, os_error());
    }
    void commit() {
        if (file_ >= 0) finish();
        CHECK_RUN(rename(temporary_.c_str(), path_.c_str()) == 0, "cannot rename {} to {}: {}", temporary_, path_,
                  os_error());
        temporary_.clear();
        sync_folder(std::filesystem::path(path_).parent_path().string());
    }

    // Flushes a folder's list of names to disk, so that renames survive a power cut.
    static void sync_folder(const std::string& folder) {
        const int d = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        CHECK_RUN(d >= 0, "cannot open the folder {}: {}", folder, os_error());
        const bool done       = fsync(d) == 0 || errno == EINVAL;  // EINVAL: this file system cannot flush folders
        const std::string why = os_error();
        close(d);
        CHECK_RUN(done, "cannot write the folder {} to disk: {}", folder, why);
    }

  private:
    std::string path_, temporary_;
    int file_        = -1;
    int64_t written_ = 0;
};

// The paths that a pattern of glob(3) matches, with {a,b} and ~ expanded, in byte order of their names.
inline std::vector<std::string> glob_files(const std::string& pattern) {
    glob_t found{};
    std::vector<std::string> files;
    if (glob(pattern.c_str(), GLOB_BRACE | GLOB_TILDE, nullptr, &found) == 0)
        files.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    globfree(&found);
    std::sort(files.begin(), files.end());  // glob's own order depends on the locale and on the order of braces
    return files;
}

// The pattern that matches this path alone.
inline std::string without_wildcards(const std::string& path) {
    std::string pattern;
    for (const char c : path) {
        if (std::string_view("*?[]{},~\\").find(c) != std::string_view::npos) pattern += '\\';
        pattern += c;
    }
    return pattern;
}

inline void write_file(const std::string& path, std::string_view text) {
    OutputFile f(path);
    f.write(text);
    f.commit();
}

// Refuses an output file that cannot be written, before the work for it begins. `option` names it in the error. The
// folder of the file may be new; one that is made for the trial is removed again.
inline void try_file(const std::string& option, const std::string& path) {
    std::error_code error, none;
    CHECK(!fs::is_directory(path, none), "{} {}: this is a folder, expected the name of a file", option, path);
    const fs::path folder = fs::absolute(path).parent_path();
    std::vector<fs::path> made;
    for (fs::path p = folder; !fs::exists(p, none); p = p.parent_path()) made.push_back(p);
    fs::create_directories(folder, error);
    CHECK(!error, "{} {}: cannot make the folder of this file: {}", option, path, error.message());
    const std::string temporary = path + ".tmp";  // OutputFile writes to this name first
    const bool is_new           = !fs::exists(temporary, none);
    const int file              = open(temporary.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    const std::string why       = os_error();
    if (file >= 0) close(file);
    if (file >= 0 && is_new) unlink(temporary.c_str());
    for (const fs::path& p : made) fs::remove(p, none);
    CHECK(file >= 0, "{} {}: cannot create this file: {}", option, path, why);
}
