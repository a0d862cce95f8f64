// loader.h - makes batches from token shards
//
// Each shard is cut into windows of T + 1 tokens with a stride of T: the first T are inputs, the last T are targets.
// Tokens that are left at the end of a shard are not used, nor are shards of T tokens or fewer. The windows of all
// shards are numbered in the order of the file names. An epoch visits each window once, in a random order that depends
// on the seed and the epoch. The n-th window of a run is therefore the same for any batch size, number of ranks and
// accumulation, and a checkpoint needs only n to resume. With another T it goes on after as many tokens of the epoch.
//
// Documents. A document begins at the end-of-text id from which its first token is predicted. llm.c and ./tokenize
// write that id in front of the document; Megatron and nanoGPT write it behind the document before. Where a Megatron
// pair has no such ids, its index says where documents begin.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "data/shard.h"
#include "kernels/random.h"
#include "kernels/tensor.h"

struct LoaderSettings {
    std::string pattern;             // names the shards, as for glob(3)
    int64_t batch = 1, context = 0;  // B sequences per rank, T tokens per sequence
    int64_t vocab = 0;               // vocabulary of the model; 0 accepts every id
    uint64_t seed = 0;               // selects the random order
    int rank = 0, world = 1;         // this process, and how many share each step
    bool shuffle           = true;   // false: in file order, for validation
    int64_t document_token = -1;     // the id that begins a document; -1: batches do not mark documents
};

struct LoaderPosition {
    int64_t epoch = 0, index = 0;  // index: windows of this epoch that all ranks together have used
    bool operator==(const LoaderPosition& o) const { return epoch == o.epoch && index == o.index; }
};

// The tensors that Loader::next() returns lie in host memory and are valid until its next call.
// A model reads them from the memory of its device.
struct Batch {
    Tensor tokens, targets;  // (B,T) int32; target t is token t + 1
    // (B,T) int32, or null where documents are not marked. At t, starts holds the index in the sequence where the
    // document of t begins, and positions holds t minus that index.
    Tensor starts = {}, positions = {};
};

class Loader {
  public:
    explicit Loader(const LoaderSettings& settings) : set_(settings) {
        const int64_t B = set_.batch, T = set_.context;
        CHECK(B > 0 && T > 0 && B <= INT32_MAX / T, "batch {} × context {} is out of range", B, T);
        CHECK_CALL(set_.world > 0 && set_.rank >= 0 && set_.rank < set_.world, "rank {} of {}", set_.rank, set_.world);
        for (const std::string& path : files_matching(set_.pattern)) {
            shards_.emplace_back(path, set_.vocab);
            ids_.resize(std::min<int64_t>(shards_.back().tokens(), 4096));
            shards_.back().read(0, int64_t(ids_.size()),
                                ids_.data());  // refuses another vocabulary before training begins
            first_window_.push_back(windows_);
            windows_ += std::max<int64_t>(shards_.back().tokens() - 1, 0) / T;
        }
        const auto shorter = [](const Shard& a, const Shard& b) { return a.tokens() < b.tokens(); };
        const auto longest = std::max_element(shards_.begin(), shards_.end(), shorter);
        CHECK(
            windows_ > 0,
            "'{}': {} tokens in {} shard{}, but a sequence needs context + 1 = {} tokens of one shard, and the longest "
            "shard, {}, has {}\n    use more text, or --context {} or less",
            set_.pattern, tokens(), shards_.size(), shards_.size() == 1 ? "" : "s", T + 1, longest->path(),
            longest->tokens(), std::max<int64_t>(longest->tokens() - 1, 1));
        ids_.resize(T + 1);
        const auto tensor = [&](std::vector<int32_t>& v) {
            v.resize(B * T);
            return Tensor{v.data(), DType::I32, {B, T}};
        };
        batch_ = {tensor(inputs_), tensor(targets_)};
        if (set_.document_token >= 0) batch_.starts = tensor(starts_), batch_.positions = tensor(positions_);
    }
    Loader(Loader&&) = default;

    // This rank's share of the next batch × world windows. Where an epoch ends within a batch, the rest of the batch
    // is from the next epoch.
    const Batch& next() {
        const int64_t B = set_.batch, T = set_.context;
        for (int64_t b = 0; b < B; b++) {
            const int64_t window = window_at(position_.epoch, position_.index + set_.rank * B + b);
            const auto after     = std::upper_bound(first_window_.begin(), first_window_.end(), window);
            const int64_t index  = after - first_window_.begin() - 1;
            const Shard& shard   = shards_[index];
            const int64_t first  = (window - first_window_[index]) * T;
            shard.read(first, T + 1, ids_.data());
            std::copy(ids_.begin(), ids_.end() - 1, inputs_.begin() + b * T);
            std::copy(ids_.begin() + 1, ids_.end(), targets_.begin() + b * T);
            if (batch_.starts) mark_documents(b, shard, first);
        }
        position_.index += B * set_.world;
        position_.epoch += position_.index / windows_;
        position_.index %= windows_;
        return batch_;
    }

    LoaderPosition position() const { return position_; }
    void rewind() { position_ = {}; }
    // `context` is the number of tokens of the windows that p counts; 0: the same as here. With another number the
    // order of the data is another one, and as large a share of the epoch counts as used.
    void seek(LoaderPosition p, int64_t context = 0) {
        const bool same = context == 0 || context == set_.context;
        if (!same && p.epoch >= 0 && p.index >= 0 && p.index <= INT64_MAX / context) {
            const int64_t windows = p.index * context / set_.context;
            p                     = {p.epoch + windows / windows_, windows % windows_};
        }
        CHECK(
            p.epoch >= 0 && p.index >= 0 && p.index < windows_,
            "'{}': cannot resume at window {} of epoch {}, because there are {} windows; is this the data of the saved "
            "run?",
            set_.pattern, p.index, p.epoch, windows_);
        position_ = p;
    }

    int64_t windows() const { return windows_; }
    int64_t tokens() const {
        int64_t n = 0;
        for (const Shard& s : shards_) n += s.tokens();
        return n;
    }
    // Changes when a shard is added, renamed or resized, or when its first or last 4 KiB change.
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

    // Fills row b of starts_ and positions_ for the window in ids_, which begins at id `first` of the shard.
    void mark_documents(int64_t b, const Shard& shard, int64_t first) {
        const int64_t T = set_.context;
        int32_t* starts = starts_.data() + b * T;
        for (int64_t t = 0; t < T; t++) starts[t] = t == 0 || ids_[t] == set_.document_token ? int32_t(t) : 0;
        shard.each_document(first, T, [&](int64_t t) {
            // A document whose predecessor ends with the token already begins there.
            if (t > 0 && ids_[t - 1] != set_.document_token) starts[t] = int32_t(t);
        });
        int32_t start = 0;  // a local variable is twice as fast as reading starts[t - 1] back
        for (int64_t t = 0; t < T; t++) {
            starts[t] = start     = std::max(start, starts[t]);
            positions_[b * T + t] = int32_t(t) - start;
        }
    }

    LoaderSettings set_;
    std::vector<Shard> shards_;
    std::vector<int64_t> first_window_;  // number of the first window of each shard
    int64_t windows_ = 0;
    LoaderPosition position_;
    std::vector<int32_t> ids_, inputs_, targets_, starts_, positions_;
    Batch batch_;
};
