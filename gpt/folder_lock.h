// folder_lock.h - keeps two processes from training in one folder
#pragma once
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>

#include "data/files.h"

// Keeps other processes off a run's folder while it lives. The lock ends with the process, however that ends. A folder
// that it made and that stays empty is removed with it, so that a start that fails leaves nothing behind.
class FolderLock {
  public:
    FolderLock() = default;
    explicit FolderLock(const std::string& folder) : folder_(folder) {
        do {
            std::error_code error;
            made_ |= fs::create_directories(folder, error);
            CHECK(!error, "--out {}: cannot make this folder: {}", folder, error.message());
            if (file_ >= 0) close(file_);
            file_ = open(path().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
            CHECK(file_ >= 0, "--out {}: cannot write in this folder: {}", folder, os_error());
            if (flock(file_, LOCK_EX | LOCK_NB) != 0) {
                refuse_or_warn();
                return;
            }
        } while (removed());  // a process that ended just now may have removed it
        char host[100] = "";
        gethostname(host, sizeof host - 1);
        const std::string us = fmt::format("process {} on {}", getpid(), host);
        if (ftruncate(file_, 0) == 0 && pwrite(file_, us.data(), us.size(), 0) < 0) return;  // it is only a hint
    }
    FolderLock(FolderLock&& o) noexcept
        : folder_(std::move(o.folder_)), file_(std::exchange(o.file_, -1)), made_(o.made_) {}
    FolderLock& operator=(FolderLock&&) = delete;
    ~FolderLock() {
        if (file_ < 0) return;
        unlink(path().c_str());
        if (made_) rmdir(folder_.c_str());  // fails when there is anything in it
        close(file_);
    }

  private:
    std::string path() const { return folder_ + "/lock"; }
    bool removed() const {
        struct stat s;
        return fstat(file_, &s) == 0 && s.st_nlink == 0;
    }
    void refuse_or_warn() {
        const int error = errno;
        char by[200]    = "";
        const bool read = pread(file_, by, sizeof by - 1, 0) > 0;
        close(std::exchange(file_, -1));
        CHECK(error != EWOULDBLOCK, "--out {} is in use by {}", folder_, read ? by : "another process");
        unlink(path().c_str());
        fmt::print(stderr,
                   "warning: --out {}: a second process could use this folder too, because there are no locks "
                   "on this file system: {}\n",
                   folder_, std::strerror(error));
    }

    std::string folder_;
    int file_  = -1;
    bool made_ = false;
};
