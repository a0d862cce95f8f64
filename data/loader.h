// loader.h - token shards → batches
//
// Each shard is cut into windows of T + 1 tokens, T apart: T inputs and the T tokens that follow them. (What is left at
// the end of a shard, and a shard of T tokens or fewer, is not used.) The windows of all shards are numbered in the
// order of the files' names; an epoch visits each once, in a shuffle that belongs to (seed, epoch). So the n-th window
// of a run is the same for any batch size, number of processes or accumulation, and all there is to save is n.
//
// Documents. A document begins at its end-of-text id, wherever that was written: what comes first is predicted from it,
// be it the mark in front of this document (llm.c, ./tokenize) or behind the one before (Megatron, nanoGPT). Where a
// Megatron pair has no marks, it begins where the index says.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "data/shard.h"
#include "kernels/random.h"
#include "kernels/tensor.h"

struct LoaderSettings {
    std::string pattern;             // of glob(3)
    int64_t batch = 1, context = 0;  // B sequences for this rank, T tokens each
    int64_t vocab = 0;               // the model's; 0: any id is fine
    uint64_t seed = 0;
    int rank = 0, world = 1;        // of the processes that share each step
    bool shuffle           = true;  // false: in file order, for validation
    int64_t document_start = -1;    // the id that begins a document; -1: batches don't tell documents apart
};

struct LoaderPosition {
    int64_t epoch = 0, index = 0;  // windows of this epoch that all ranks together have taken
    bool operator==(const LoaderPosition& o) const { return epoch == o.epoch && index == o.index; }
};

// A loader's lies in its own host memory and is valid until the next one; a model wants it in the device's.
struct Batch {
    Tensor tokens, targets;  // (B,T) int32; target t is token t + 1
    Tensor starts    = {},
           positions = {};  // (B,T) int32, or null: the row where t's document begins, and t counted from there
};

class Loader {
  public:
    explicit Loader(const LoaderSettings& settings) : set_(settings) {
        const int64_t B = set_.batch, T = set_.context;
        CHECK(B > 0 && T > 0 && B <= INT32_MAX / T, "batch {} × context {} is out of range", B, T);
        CHECK(set_.world > 0 && set_.rank >= 0 && set_.rank < set_.world, "rank {} of {}", set_.rank, set_.world);
        for (const std::string& path : files_matching(set_.pattern)) {
            shards_.emplace_back(path, set_.vocab);
            ids_.resize(std::min<int64_t>(shards_.back().tokens(), 4096));
            shards_.back().read(0, int64_t(ids_.size()), ids_.data());  // another vocabulary shows before a run begins
            first_window_.push_back(windows_);
            windows_ += std::max<int64_t>(shards_.back().tokens() - 1, 0) / T;
        }
        const auto shorter = [](const Shard& a, const Shard& b) { return a.tokens() < b.tokens(); };
        const auto longest = std::max_element(shards_.begin(), shards_.end(), shorter);
        CHECK(windows_ > 0,
              "'{}': {} tokens in {} shards, but a sequence needs context + 1 = {} in one shard, and the longest, {}, "
              "has {}\n    use more text, or --context {} or less",
              set_.pattern, tokens(), shards_.size(), T + 1, longest->path(), longest->tokens(),
              std::max<int64_t>(longest->tokens() - 1, 1));
        ids_.resize(T + 1);
        const auto tensor = [&](std::vector<int32_t>& v) {
            v.resize(B * T);
            return Tensor{v.data(), DType::I32, {B, T}};
        };
        batch_ = {tensor(inputs_), tensor(targets_)};
        if (set_.document_start >= 0) batch_.starts = tensor(starts_), batch_.positions = tensor(positions_);
    }
    Loader(Loader&&) = default;

    // This rank's share of the next batch × world windows. An epoch that ends inside a batch goes on in the next epoch.
    const Batch& next() {
        const int64_t B = set_.batch, T = set_.context;
        for (int64_t b = 0; b < B; b++) {
            const int64_t window = window_at(position_.epoch, position_.index + set_.rank * B + b);
            const auto after     = std::upper_bound(first_window_.begin(), first_window_.end(), window);
            const int64_t number = after - first_window_.begin() - 1;
            const Shard& shard   = shards_[number];
            const int64_t first  = (window - first_window_[number]) * T;
            shard.read(first, T + 1, ids_.data());
            std::copy(ids_.begin(), ids_.end() - 1, inputs_.begin() + b * T);
            std::copy(ids_.begin() + 1, ids_.end(), targets_.begin() + b * T);
            if (batch_.starts) find_documents(b, shard, first);
        }
        position_.index += B * set_.world;
        position_.epoch += position_.index / windows_;
        position_.index %= windows_;
        return batch_;
    }

    LoaderPosition position() const { return position_; }
    void rewind() { position_ = {}; }
    void seek(LoaderPosition p) {
        CHECK(p.epoch >= 0 && p.index >= 0 && p.index < windows_,
              "'{}': cannot go on at window {} of epoch {}: there are {} windows; is this the data of the saved run?",
              set_.pattern, p.index, p.epoch, windows_);
        position_ = p;
    }

    const LoaderSettings& settings() const { return set_; }
    const std::vector<Shard>& shards() const { return shards_; }
    int64_t windows() const { return windows_; }
    int64_t tokens() const {
        int64_t n = 0;
        for (const Shard& s : shards_) n += s.tokens();
        return n;
    }
    // Changes when a shard is added, renamed, resized or (as far as its first and last 4 KB tell) rewritten.
    std::string fingerprint() const {
        uint64_t h = hash64("");
        for (const Shard& s : shards_) {
            const std::string_view bytes = s.file().text();
            const std::string name       = std::filesystem::path(s.path()).filename().string();
            h                            = hash64(fmt::format("{}:{}:", name, bytes.size()), h);
            h                            = hash64(bytes.substr(0, 4096), h);
            h                            = hash64(bytes.substr(bytes.size() - std::min<size_t>(bytes.size(), 4096)), h);
        }
        return fmt::format("{:016x}", mix64(h));
    }

  private:
    int64_t window_at(int64_t epoch, int64_t index) const {
        epoch += index / windows_;
        index %= windows_;
        if (!set_.shuffle) return index;
        const uint64_t key = Random(set_.seed, "data order", uint64_t(epoch)).word64(0);
        return int64_t(permutation(uint64_t(index), uint64_t(windows_), key));
    }

    // Of the window in ids_, which begins at id `first` of the shard, and is row b.
    void find_documents(int64_t b, const Shard& shard, int64_t first) {
        const int64_t T = set_.context;
        int32_t* starts = starts_.data() + b * T;
        for (int64_t t = 0; t < T; t++) starts[t] = t == 0 || ids_[t] == set_.document_start ? int32_t(t) : 0;
        shard.each_document(first, T, [&](int64_t t) {
            if (t > 0 && ids_[t - 1] != set_.document_start) starts[t] = int32_t(t);  // no mark behind the one before
        });
        int32_t start = 0;  // here and not read back from starts[t - 1]: twice as fast
        for (int64_t t = 0; t < T; t++) {
            starts[t] = start     = std::max(start, starts[t]);
            positions_[b * T + t] = int32_t(t) - start;
        }
    }

    LoaderSettings set_;
    std::vector<Shard> shards_;
    std::vector<int64_t> first_window_;  // of each shard
    int64_t windows_ = 0;
    LoaderPosition position_;
    std::vector<int32_t> ids_, inputs_, targets_, starts_, positions_;
    Batch batch_;
};
