// shard_writer.h - token ids → shards PREFIX_000000.bin, PREFIX_000001.bin, … in llm.c's form
//
// 256 int32 of header (20240520, 1, count → uint16 ids; 20240801, 7, count → uint32 ids, for vocabularies above 65536),
// then the ids, all little-endian. Shards have temporary names until commit(), so that what has its name is whole; one
// is open at a time, however many there are.
#pragma once
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <list>
#include <string>
#include <vector>

#include "data/files.h"

class ShardWriter {
  public:
    // shard_tokens: ids per file; the last has what is left.
    ShardWriter(std::string prefix, int vocab_size, int64_t shard_tokens)
        : prefix_(std::move(prefix)), wide_(vocab_size > 65536), shard_tokens_(shard_tokens) {
        CHECK(shard_tokens > 0 && shard_tokens <= INT32_MAX,
              "{} tokens per shard, expected 1..{}: the header counts in 32 bits", shard_tokens, INT32_MAX);
    }

    void add(const std::vector<int32_t>& ids) {
        for (size_t from = 0; from < ids.size();) {
            if (shards_.empty() || in_shard_ == shard_tokens_) begin_shard();
            const size_t n = size_t(std::min<int64_t>(int64_t(ids.size() - from), shard_tokens_ - in_shard_));
            if (wide_)
                write_as<uint32_t>(ids.data() + from, n);
            else
                write_as<uint16_t>(ids.data() + from, n);
            in_shard_ += int64_t(n);
            from += n;
        }
        tokens_ += int64_t(ids.size());
    }

    // Gives the shards their names. What else was there under this prefix goes first, so that old and new are never
    // side by side; a run that is killed among the renames leaves some of its shards with temporary names, which tells.
    void commit() {
        end_shard();
        for (const std::string& path : existing(prefix_)) fs::remove(path);
        for (const std::string& path : existing(prefix_, ".bin.tmp"))  // of a run that was killed and had more
            if (std::find(names_.begin(), names_.end(), path.substr(0, path.size() - 4)) == names_.end())
                fs::remove(path);
        for (OutputFile& shard : shards_) shard.commit();
    }

    int64_t tokens() const { return tokens_; }
    size_t shards() const { return shards_.size(); }

    const std::vector<std::string>& names() const { return names_; }

    // Shards that already have this prefix.
    static std::vector<std::string> existing(const std::string& prefix, const std::string& ending = ".bin") {
        std::vector<std::string> found;
        const fs::path folder = fs::path(prefix).parent_path(), name = fs::path(prefix).filename();
        std::error_code no_folder;
        for (const auto& entry : fs::directory_iterator(folder.empty() ? "." : folder, no_folder)) {
            const std::string file = entry.path().filename().string(), begin = name.string() + "_";
            const bool begins   = file.rfind(begin, 0) == 0 && file.size() == begin.size() + 6 + ending.size();
            const bool numbered = begins && file.find_first_not_of("0123456789", begin.size()) == begin.size() + 6;
            if (numbered && file.substr(begin.size() + 6) == ending) found.push_back((folder / file).string());
        }
        std::sort(found.begin(), found.end());
        return found;
    }

  private:
    void begin_shard() {
        end_shard();
        const int32_t header[256] = {};
        names_.push_back(fmt::format("{}_{:06}.bin", prefix_, shards_.size()));
        shards_.emplace_back(names_.back());
        shards_.back().write(header, sizeof header);
        in_shard_ = 0;
    }
    void end_shard() {
        if (shards_.empty()) return;
        const int32_t header[3] = {wide_ ? 20240801 : 20240520, wide_ ? 7 : 1, int32_t(in_shard_)};
        shards_.back().write_at(0, header, sizeof header);
        shards_.back().finish();
    }
    template <class Id>
    void write_as(const int32_t* ids, size_t n) {
        const std::vector<Id> narrow(ids, ids + n);
        shards_.back().write(narrow.data(), int64_t(n * sizeof(Id)));
    }

    std::string prefix_;
    bool wide_;
    int64_t shard_tokens_, in_shard_ = 0, tokens_ = 0;
    std::list<OutputFile> shards_;
    std::vector<std::string> names_;
};
