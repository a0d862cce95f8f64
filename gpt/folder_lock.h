// folder_lock.h - keeps two processes from training in one folder, and removes what a start that fails has written
// there
#pragma once
#include <unistd.h>

#include <atomic>
#include <string>
#include <vector>

#include "data/lock_file.h"

inline bool holds_run(const std::string& folder) {
    return fs::exists(folder + "/run.json") || fs::exists(folder + "/checkpoints");
}

// Keeps other processes off a run's folder while it lives. Until begin(), the files that a new run writes there are
// removed with it, so that a start that fails leaves nothing behind.
class FolderLock {
  public:
    explicit FolderLock(const std::string& folder)
        : lock_("--out " + folder, folder + "/lock"), checkpoints_(folder + "/checkpoints") {
        if (holds_run(folder) || !lock_.is_held()) return;
        for (const char* name : {"run.json", "log.jsonl", "loss.png", "products.json"})
            for (const char* ending : {".tmp", ""})
                if (const std::string path = folder + "/" + name + ending; !fs::exists(fs::symlink_status(path)))
                    new_.push_back(path);
        of_process_ = this;
    }
    FolderLock(const FolderLock&)            = delete;
    FolderLock& operator=(const FolderLock&) = delete;
    ~FolderLock() {
        of_process_ = nullptr;
        remove_new();
    }

    // From here on the files stay, because there is something in them to go on with.
    void begin() {
        of_process_ = nullptr;
        new_.clear();
    }
    // What the destructor does, for a signal handler that ends the program.
    static void abandon() {
        const FolderLock* lock = of_process_;
        if (!lock) return;
        lock->remove_new();
        lock->lock_.remove();
    }

  private:
    void remove_new() const {
        if (access(checkpoints_.c_str(), F_OK) == 0) return;
        for (const std::string& path : new_) unlink(path.c_str());
    }

    static inline std::atomic<const FolderLock*> of_process_ = nullptr;  // one that has not begun
    const LockFile lock_;
    const std::string checkpoints_;
    std::vector<std::string> new_;  // files that were not there before
};
