// shard_writer.h - writes token ids to shards PREFIX_000000.bin, PREFIX_000001.bin, … in a form of shard.h
//
// Ids alone have llm.c's form: uint16, or uint32 for vocabularies above 65536. Ids with a loss mask have llmq's. Shards
// have names ending in .tmp until commit(), so a file with its final name is complete. Only the shard that is being
// written is open.
#pragma once
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <list>
#include <string>
#include <vector>

#include "data/files.h"
#include "data/shard.h"

class ShardWriter {
  public:
    // What counts of an id: nothing, its prediction, or nothing because it is the first of a document.
    enum Counts : uint8_t { no, yes, begins };

    // shard_tokens: ids per file; the last file has the rest. masked: add() is called with what counts.
    // separator: the id that stands between documents, or -1; the ids behind it have Counts::begins.
    ShardWriter(std::string prefix, int vocab_size, int64_t shard_tokens, bool masked = false, int32_t separator = -1)
        : prefix_(std::move(prefix)),
          form_(vocab_size > 65536 ? llmc_wide : llmc_narrow),
          vocab_(vocab_size),
          shard_tokens_(shard_tokens),
          masked_(masked),
          separator_(separator) {
        CHECK(shard_tokens > 0 && shard_tokens <= INT32_MAX,
              "{} tokens per shard, expected 1..{}: the header counts in 32 bits", shard_tokens, INT32_MAX);
    }

    void add(const std::vector<int32_t>& ids) {
        for (size_t from = 0; from < ids.size();) {
            if (shards_.empty() || in_shard_ == shard_tokens_) begin_shard();
            const size_t n = size_t(std::min<int64_t>(int64_t(ids.size() - from), shard_tokens_ - in_shard_));
            if (form_.ids == IdType::u32)
                write_as<uint32_t>(ids.data() + from, n);
            else
                write_as<uint16_t>(ids.data() + from, n);
            in_shard_ += int64_t(n);
            from += n;
        }
        tokens_ += int64_t(ids.size());
    }

    // Adds ids that stay together in one shard. counts: of each id. is_pair: they are the answers of a preference, as
    // all others of this writer are.
    void add(const int32_t* ids, const uint8_t* counts, size_t n, bool is_pair = false) {
        pairs_ = is_pair;
        if (shards_.empty() || in_shard_ + int64_t(n) > shard_tokens_) begin_shard();
        CHECK(in_shard_ + int64_t(n) <= INT32_MAX, "an example of {} tokens is too long for a shard", n);
        shards_.back().write(ids, int64_t(n * sizeof(int32_t)));
        for (size_t i = 0; i < n; i++, in_shard_++) {
            if (in_shard_ % 8 == 0) mask_.push_back(0);
            mask_.back() = uint8_t(mask_.back() | (counts[i] != no) << in_shard_ % 8);
            counted_ += counts[i] == yes;
        }
        tokens_ += int64_t(n);
    }

    // Removes the shards that were there under this prefix, then gives the new ones their names.
    // If the program is killed in between, a .tmp file is left, and the readers refuse the unfinished set by it.
    void commit() {
        end_shard();
        for (const std::string& path : existing(prefix_)) fs::remove(path);
        for (const std::string& path : existing(prefix_, ".bin.tmp"))  // left by a run that was killed
            if (std::find(names_.begin(), names_.end(), path.substr(0, path.size() - 4)) == names_.end())
                fs::remove(path);
        for (OutputFile& shard : shards_) shard.commit();
    }

    int64_t tokens() const { return tokens_; }
    int64_t counted() const { return counted_; }  // the tokens that count, where there is a mask
    size_t shards() const { return shards_.size(); }

    const std::vector<std::string>& names() const { return names_; }

    // The files PREFIX_NNNNNN + ending that exist, sorted.
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
        const char zeros[shard_header_bytes] = {};
        names_.push_back(fmt::format("{}_{:06}.bin", prefix_, shards_.size()));
        shards_.emplace_back(names_.back());
        shards_.back().write(zeros, sizeof zeros);
        in_shard_ = 0;
    }
    void end_shard() {
        if (shards_.empty()) return;
        if (masked_) {
            shards_.back().write(mask_.data(), int64_t(mask_.size()));
            shards_.back().write_at(0, llmq_magic, 8);
            const uint32_t header[7] = {
                2, 4, uint32_t(in_shard_), uint32_t(vocab_), 1, uint32_t(separator_ + 1), pairs_ ? 2u : 1u};
            shards_.back().write_at(8, header, sizeof header);
            mask_.clear();
        } else {
            const uint32_t header[3] = {form_.magic, form_.version, uint32_t(in_shard_)};
            shards_.back().write_at(0, header, sizeof header);
        }
        shards_.back().finish();
    }
    template <class Id>
    void write_as(const int32_t* ids, size_t n) {
        const std::vector<Id> narrow(ids, ids + n);
        shards_.back().write(narrow.data(), int64_t(n * sizeof(Id)));
    }

    std::string prefix_;
    LlmcForm form_;
    int vocab_;
    int64_t shard_tokens_, in_shard_ = 0, tokens_ = 0, counted_ = 0;  // in_shard_: ids in the last shard so far
    bool masked_, pairs_ = false;
    int32_t separator_;
    std::vector<uint8_t> mask_;  // of the last shard
    std::list<OutputFile> shards_;
    std::vector<std::string> names_;
};
