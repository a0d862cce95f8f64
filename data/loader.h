// loader.h - makes batches from token shards
//
// Each shard is cut into sequences of T + 1 tokens with a stride of T: the first T are inputs, the last T are targets.
// Tokens that are left at the end of a shard are not used, nor are shards of T tokens or fewer. The sequences of all
// shards are numbered in the order of the file names. An epoch visits each sequence once, in a random order that
// depends on the seed and the epoch. The n-th sequence of a run is therefore the same for any batch size, number of
// ranks and accumulation, and a checkpoint needs only n to resume. With another T it goes on after as many tokens of
// the epoch.
//
// A published series. Some authors publish their data in the order of their training, as sequences of T + 1 tokens that
// share none. Shards of such data are parts of one series, which may be cut anywhere, and are read in their order.
//
// Documents. A document begins at the end-of-text id from which its first token is predicted. llm.c and ./tokenize
// write that id in front of the document; Megatron and nanoGPT write it behind the document before. Where a Megatron
// pair has no such ids, its index says where documents begin.
//
// Conversations. Of shards with a loss mask, the sequences hold whole documents: one that does not fit into the rest of
// a sequence begins the next, and what is left of a sequence is padding. A shard of ours says which ids separate its
// documents (shard.h); in others these are the end-of-text ids that do not count in the loss. A document begins behind
// its separator, as a prompt does in generation. One that is longer than a sequence is cut, and a sequence in which
// nothing counts is left out. Of preferences, both answers lie in one sequence, and a pair that is longer is left out.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "data/shard.h"
#include "data/words.h"
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
    bool pairs             = false;  // each two documents of the shards are the two answers of a preference
    bool series            = false;  // the shards are a series of sequences of T + 1 ids, to be read in its order
};

struct LoaderPosition {
    int64_t epoch = 0, index = 0;  // index: sequences of this epoch that all ranks together have used
    bool operator==(const LoaderPosition& o) const { return epoch == o.epoch && index == o.index; }
};

// What packing made of shards with a loss mask.
struct Packing {
    int64_t sequences = 0, tokens = 0, counted = 0;  // counted: the targets that count
    int64_t documents = 0;                           // the documents that these sequences hold
    int64_t cut = 0, cut_tokens = 0;                 // documents that were cut, and the tokens that this left out
    int64_t left_out = 0;                            // documents in sequences where nothing counts
    int64_t too_long = 0;                            // pairs that are longer than a sequence, and were left out
    int64_t longest  = 0;                            // tokens of the longest document or pair
};

// The tensors that Loader::next() returns lie in host memory and are valid until its next call.
// A model reads them from the memory of its device.
struct Batch {
    // (B,T) int32; target t is token t + 1, or -1 where the loss does not count that one
    Tensor tokens, targets;
    // (B,T) int32, or null where documents are not marked. At t, starts holds the index in the sequence where the
    // document of t begins, and positions holds t minus that index.
    Tensor starts = {}, positions = {};
    // (B,T) fp32, or null: the factor by which each row's loss is multiplied.
    Tensor scales = {};
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
            first_sequence_.push_back(sequences_);
            sequences_ += std::max<int64_t>(shards_.back().tokens() - 1, 0) / T;
            masked_ |= shards_.back().has_mask();
        }
        if (masked_) pack();
        if (set_.series) {
            CHECK(!masked_ && set_.document_token < 0, "'{}': sequences have no documents and no loss mask",
                  set_.pattern);
            sequences_ = tokens() / (T + 1);
        }
        CHECK(packing_.too_long == 0 || packing_.documents > 0,
              "'{}': the two answers of a preference must fit into a sequence of {} tokens together, and none of these "
              "do; --context {} has room for the longest",
              set_.pattern, T + 1, packing_.longest - 1);
        CHECK(!masked_ || sequences_ > 0,
              "'{}': no document has a token that counts in the loss among its first {}; a larger --context reads more "
              "of each",
              set_.pattern, T + 1);
        const auto shorter = [](const Shard& a, const Shard& b) { return a.tokens() < b.tokens(); };
        const auto longest = std::max_element(shards_.begin(), shards_.end(), shorter);
        CHECK(
            sequences_ > 0,
            "'{}': {} in {}, but a sequence needs context + 1 = {} tokens of one shard, and the longest shard, {}, has "
            "{}\n    use more text, or --context {} or less",
            set_.pattern, count_of(tokens(), "token"), count_of(int64_t(shards_.size()), "shard"), T + 1,
            longest->path(), longest->tokens(), std::max<int64_t>(longest->tokens() - 1, 1));
        ids_.resize(T + 1);
        const auto tensor = [&](std::vector<int32_t>& v) {
            v.resize(B * T);
            return Tensor{v.data(), DType::I32, {B, T}};
        };
        batch_ = {tensor(inputs_), tensor(targets_)};
        if (set_.document_token >= 0) batch_.starts = tensor(starts_), batch_.positions = tensor(positions_);
    }
    Loader(Loader&&) = default;

    // This rank's share of the next batch × world sequences. Where an epoch ends within a batch, the rest of the batch
    // is from the next epoch.
    const Batch& next() {
        const int64_t B = set_.batch, T = set_.context;
        for (int64_t b = 0; b < B; b++) {
            const int64_t sequence = sequence_at(position_.epoch, position_.index + set_.rank * B + b);
            const auto after       = std::upper_bound(first_sequence_.begin(), first_sequence_.end(), sequence);
            const int64_t index    = after - first_sequence_.begin() - 1;
            const Shard& shard     = shards_[index];
            if (masked_) {
                fill_packed(b, shard, packed_[sequence]);
                continue;
            }
            const int64_t first = (sequence - first_sequence_[index]) * T;
            if (set_.series)
                read_of_series(sequence);
            else
                shard.read(first, T + 1, ids_.data());
            std::copy(ids_.begin(), ids_.end() - 1, inputs_.begin() + b * T);
            std::copy(ids_.begin() + 1, ids_.end(), targets_.begin() + b * T);
            if (batch_.starts) mark_documents(b, shard, first);
        }
        position_.index += B * set_.world;
        position_.epoch += position_.index / sequences_;
        position_.index %= sequences_;
        return batch_;
    }

    LoaderPosition position() const { return position_; }
    void rewind() { position_ = {}; }
    // `context` is the number of tokens of the sequences that p counts; 0: the same as here. With another number the
    // order of the data is another one, and as large a share of the epoch counts as used.
    void seek(LoaderPosition p, int64_t context = 0) {
        const bool same = context == 0 || context == set_.context;
        if (!same && p.epoch >= 0 && p.index >= 0 && p.index <= INT64_MAX / context) {
            const int64_t sequences = p.index * context / set_.context;
            p                       = {p.epoch + sequences / sequences_, sequences % sequences_};
        }
        CHECK(
            p.epoch >= 0 && p.index >= 0 && p.index < sequences_,
            "'{}': cannot resume at sequence {} of epoch {}, because there are {}; is this the data of the saved run?",
            set_.pattern, p.index, p.epoch, count_of(sequences_, "sequence"));
        position_ = p;
    }

    // How many targets count in the next n sequences of the epoch, those of all ranks together.
    int64_t counted(int64_t n) const {
        if (!masked_) return n * set_.context;
        int64_t sum = 0;
        for (int64_t i = 0; i < n; i++) sum += packed_[sequence_at(position_.epoch, position_.index + i)].counted;
        return sum;
    }
    int64_t sequences_per_batch() const { return set_.batch * set_.world; }  // counts those of all ranks
    int world() const { return set_.world; }
    // Likewise the documents in these sequences, for shards with a loss mask.
    int64_t documents_in(int64_t n) const {
        int64_t sum = 0;
        for (int64_t i = 0; i < n; i++) sum += packed_[sequence_at(position_.epoch, position_.index + i)].documents;
        return sum;
    }
    // The documents of all shards with a loss mask, also those that are in no sequence.
    int64_t documents() const { return documents_; }
    bool masked() const { return masked_; }  // whether a shard has a loss mask
    const Packing& packing() const { return packing_; }
    // The index, among all documents of the shards, of the first document of each row of the batch that next() gave
    // last; for shards with a loss mask.
    const std::vector<int64_t>& first_documents() const { return first_documents_; }

    int64_t sequences() const { return sequences_; }
    int64_t tokens() const {
        int64_t n = 0;
        for (const Shard& s : shards_) n += s.tokens();
        return n;
    }
    // Changes when a shard is added, renamed or resized, or when its first or last 4 KiB change.
    std::string fingerprint() const {
        uint64_t h = hash64(set_.series ? "sequences" : "");
        for (const Shard& s : shards_) {
            const std::string_view bytes = s.file().text();
            const std::string name       = std::filesystem::path(s.path()).filename().string();
            h                            = hash64(fmt::format("{}:{}:", name, bytes.size()), h);
            h                            = hash64(bytes.substr(0, 4096), h);
            h                            = hash64(bytes.substr(bytes.size() - std::min<size_t>(bytes.size(), 4096)), h);
        }
        return fmt::format("{:016x}", mix64(h));
    }
    // Changes when any byte of a shard changes. It reads all of them.
    std::string content_fingerprint() const {
        uint64_t h = hash64(fingerprint());
        for (const Shard& s : shards_) h = hash64(s.file().text(), h);
        return fmt::format("{:016x}", mix64(h));
    }

  private:
    int64_t sequence_at(int64_t epoch, int64_t index) const {
        epoch += index / sequences_;
        index %= sequences_;
        if (!set_.shuffle || set_.series) return index;
        const uint64_t key = Random(set_.seed, "data order", uint64_t(epoch)).word64(0);
        return int64_t(permutation(uint64_t(index), uint64_t(sequences_), key));
    }

    // Reads a sequence of a published series, which may begin in one shard and end in another.
    void read_of_series(int64_t index) {
        int64_t first = index * (set_.context + 1), done = 0;  // first: counted from the beginning of the next shard
        for (const Shard& shard : shards_) {
            const int64_t n = std::clamp<int64_t>(shard.tokens() - first, 0, set_.context + 1 - done);
            if (n > 0) shard.read(first, n, ids_.data() + done);
            done += n;
            first = std::max<int64_t>(first - shard.tokens(), 0);
        }
    }

    // Fills row b of starts_ and positions_ for the sequence in ids_, which begins at id `first` of the shard.
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

    // A sequence of packed documents: ids [first, first + tokens) of a shard.
    struct Packed {
        int64_t first, document;  // document: the index of its first document among those of all shards
        int32_t tokens, counted;  // counted: the targets that count
        int32_t documents;
    };

    // Finds the documents of every shard, and puts them into sequences in their order.
    void pack() {
        sequences_ = 0;
        for (size_t s = 0; s < shards_.size(); s++) {
            first_sequence_[s] = sequences_;
            pack(shards_[s], documents_);
            sequences_ = int64_t(packed_.size());
        }
        packing_.sequences = sequences_;
        for (const Packed& w : packed_) packing_.tokens += w.tokens, packing_.counted += w.counted;
        first_documents_.resize(set_.batch);
    }
    // Documents lie behind each other in a sequence, with their separators between them.
    void pack(const Shard& shard, int64_t& document) {
        const int64_t most = set_.context + 1;
        const size_t each  = set_.pairs ? 2 : 1;  // documents that stay together
        const auto all     = documents_of(shard);
        CHECK(all.size() % each == 0, "{}: {} answers are not pairs; tokenize writes preferences", shard.path(),
              all.size());
        Packed sequence{};
        int64_t held     = 0;  // documents in the sequence
        const auto close = [&] {
            const bool used = sequence.counted > 0;
            (used ? packing_.documents : packing_.left_out) += held;
            sequence.documents = int32_t(held);
            if (used) packed_.push_back(sequence);
            held = 0;
        };
        for (size_t d = 0; d < all.size(); d += each, document += int64_t(each)) {
            const int64_t begin = all[d].begin, end = all[d + each - 1].end, cut = std::min(end, begin + most);
            if (held && end - sequence.first > most) close();
            packing_.longest = std::max(packing_.longest, end - begin);
            if (set_.pairs && cut < end) {
                packing_.too_long++;
                continue;
            }
            if (!held) sequence = {begin, document, 0, 0, 0};
            for (int64_t i = begin + 1; i < cut; i++) sequence.counted += shard.counts(i);
            sequence.tokens = int32_t(cut - sequence.first);
            held += int64_t(each);
            packing_.cut += cut < end;
            packing_.cut_tokens += end - cut;
        }
        if (held) close();
    }

    struct Range {
        int64_t begin, end;
    };
    // Whether id i separates two documents.
    bool separates(const Shard& shard, int32_t id, int64_t i) const {
        return shard.separator() >= 0 ? shard.separates(i) : id == set_.document_token && !shard.counts(i);
    }
    // The ids of each document. A shard without a mask is cut into pieces of a sequence each, and so is one whose
    // documents cannot be told apart.
    std::vector<Range> documents_of(const Shard& shard) const {
        const int64_t N = shard.tokens(), chunk = 1 << 16;
        std::vector<Range> all;
        if (!shard.has_mask() || set_.document_token < 0) {
            for (int64_t i = 0; i < N; i += set_.context + 1) all.push_back({i, std::min(N, i + set_.context + 1)});
            return all;
        }
        int64_t begin   = 0;
        const auto next = [&](int64_t end) {
            if (end > begin) all.push_back({begin, end});
            begin = end + 1;
        };
        std::vector<int32_t> ids(size_t(std::min(chunk, N)));
        for (int64_t first = 0; first < N; first += chunk) {
            const int64_t n = std::min(chunk, N - first);
            shard.read(first, n, ids.data());
            for (int64_t i = 0; i < n; i++)
                if (separates(shard, ids[i], first + i)) next(first + i);
        }
        next(N);
        return all;
    }

    // Fills row b of the batch. A padding token sees itself alone, and no other token sees it.
    void fill_packed(int64_t b, const Shard& shard, const Packed& sequence) {
        const int64_t T = set_.context, n = sequence.tokens;
        shard.read(sequence.first, n, ids_.data());
        int32_t *inputs = inputs_.data() + b * T, *targets = targets_.data() + b * T;
        for (int64_t t = 0; t < T; t++) {
            const int64_t i   = sequence.first + t;
            const bool counts = t < n - 1 && shard.counts(i + 1) && !separates(shard, ids_[t], i);
            inputs[t]         = t < n - 1 ? ids_[t] : 0;
            targets[t]        = counts ? ids_[t + 1] : -1;
        }
        first_documents_[b] = sequence.document;
        if (!batch_.starts) return;
        const auto begins = [&](int64_t t) {
            if (t >= n - 1) return true;
            if (!shard.has_mask()) return ids_[t] == set_.document_token;
            return t > 0 && separates(shard, ids_[t - 1], sequence.first + t - 1);
        };
        int32_t start = 0;
        for (int64_t t = 0; t < T; t++) {
            if (begins(t)) start = int32_t(t);
            starts_[b * T + t]    = start;
            positions_[b * T + t] = int32_t(t) - start;
        }
    }

    LoaderSettings set_;
    std::vector<Shard> shards_;
    std::vector<int64_t> first_sequence_;  // number of the first sequence of each shard
    int64_t sequences_ = 0, documents_ = 0;
    bool masked_ = false;
    std::vector<Packed> packed_;  // every sequence, if a shard has a loss mask
    Packing packing_;
    std::vector<int64_t> first_documents_;
    LoaderPosition position_;
    std::vector<int32_t> ids_, inputs_, targets_, starts_, positions_;
    Batch batch_;
};
