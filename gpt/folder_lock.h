// folder_lock.h - keeps two processes from training in one folder
#pragma once
#include <string>

#include "data/lock_file.h"

// Keeps other processes off a run's folder while it lives.
class FolderLock {
  public:
    FolderLock() = default;
    explicit FolderLock(const std::string& folder) : lock_("--out " + folder, folder + "/lock") {}

  private:
    LockFile lock_;
};
