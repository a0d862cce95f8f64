// lock_file.h - keeps two processes from writing the same output at the same time
#pragma once
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "data/files.h"

// Another process holds the lock.
struct InUse : InputError {
    using InputError::InputError;
};

// A file that one process at a time holds while it lives. The lock ends with the process, however that ends. The file
// is removed with it, and so are the folders that were made for it and stay empty, so that a start that fails leaves
// nothing behind.
class LockFile {
  public:
    LockFile() = default;
    // what: what nobody else may write meanwhile, as errors name it, such as "--out runs/a".
    LockFile(const std::string& what, const std::string& path) : path_(path) {
        do {
            if (file_ >= 0) close(file_);
            open_in_folder(what);
            if (flock(file_, LOCK_EX | LOCK_NB) != 0) {
                refuse_or_warn(what);
                return;
            }
        } while (removed());  // a process that ended just now may have removed it
        char host[100] = "";
        gethostname(host, sizeof host - 1);
        const std::string us = fmt::format("process {} on {}", getpid(), host);
        if (ftruncate(file_, 0) == 0 && pwrite(file_, us.data(), us.size(), 0) < 0) return;  // it is only a hint
    }
    LockFile(LockFile&& o) noexcept
        : path_(std::move(o.path_)), made_(std::move(o.made_)), file_(std::exchange(o.file_, -1)) {
        o.made_.clear();
    }
    LockFile& operator=(LockFile&&) = delete;
    ~LockFile() {
        remove();
        if (file_ >= 0) close(file_);
    }

    // Whether other processes are kept off. They are not where the file system has no locks.
    bool is_held() const { return file_ >= 0; }
    // Removes the file and the empty folders. A signal handler that ends the program may call this.
    void remove() const {
        if (!is_held()) return;
        unlink(path_.c_str());
        for (const std::string& folder : made_) rmdir(folder.c_str());  // fails when there is anything in it
    }

  private:
    // Opens the file, and makes its folder first, which a process that ends just now may remove again at any moment.
    void open_in_folder(const std::string& what) {
        const fs::path folder = fs::absolute(path_).parent_path();
        for (int tries = 0; tries < 100; tries++) {
            std::error_code error, none;
            std::vector<std::string> made;
            for (fs::path p = folder; !fs::exists(p, none); p = p.parent_path()) made.push_back(p.string());
            fs::create_directories(folder, error);
            if (error == std::errc::no_such_file_or_directory) continue;
            CHECK(!error, "{}: cannot make the folder {}: {}", what, fs::path(path_).parent_path().string(),
                  error.message());
            made_.insert(made_.end(), made.begin(), made.end());
            file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
            if (file_ >= 0 || errno != ENOENT) break;
        }
        CHECK(file_ >= 0, "{}: cannot create {}: {}", what, path_,
              errno == ELOOP ? "there is a link of this name" : os_error());
        // A lock says "process …", or nothing yet. Any other file of this name belongs to something else.
        char begin[8] = "";
        struct stat s;
        const bool regular = fstat(file_, &s) == 0 && S_ISREG(s.st_mode);
        const auto bytes   = pread(file_, begin, sizeof begin, 0);
        if (regular && (bytes == 0 || std::memcmp(begin, "process ", sizeof begin) == 0)) return;
        close(std::exchange(file_, -1));
        fail("{}: {} is the place of a lock, but this file was made by something else; move it, or write elsewhere",
             what, path_);
    }
    bool removed() const {
        struct stat s;
        return fstat(file_, &s) == 0 && s.st_nlink == 0;
    }
    void refuse_or_warn(const std::string& what) {
        const int error = errno;
        char by[200]    = "";
        const bool read = pread(file_, by, sizeof by - 1, 0) > 0;
        close(std::exchange(file_, -1));
        if (error == EWOULDBLOCK) throw InUse(fmt::format("{} is in use by {}", what, read ? by : "another process"));
        unlink(path_.c_str());
        fmt::print(stderr,
                   "warning: {}: a second process could write there too, because there are no locks on this file "
                   "system: {}\n",
                   what, std::strerror(error));
    }

    std::string path_;
    std::vector<std::string> made_;  // the folders that were not there before, the innermost first
    int file_ = -1;
};
