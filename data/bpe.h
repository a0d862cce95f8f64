// bpe.h - byte-pair encoding of one piece of text: merges neighbours by rank, from the left among equal ranks
//
// A piece takes the first of four ways that applies:
//   1. Most pieces are one token. A hash table finds it by the bytes of the piece.
//   2. Pieces of a few tokens that were encoded recently are in a cache (Bpe::Recent).
//   3. Other short pieces are merged by scanning an array.
//   4. Long pieces are merged with a linked list and a heap in O(n log n), so that no input is slow.
//
// A Bpe does not change after its construction, so threads may share it. Each thread needs its own Recent.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/check.h"

// A hash map of fixed size from small keys to numbers >= 0. It uses open addressing and is at most half full.
template <class Key, class Hash>
class FixedMap {
  public:
    explicit FixedMap(size_t entries = 0) {
        while ((size_t(1) << bits_) < 2 * entries) bits_++;
        slots_.assign(size_t(1) << bits_, Slot{Key{}, -1});
    }
    void set(const Key& key, int32_t value) { slots_[place(key)] = {key, value}; }
    int32_t get(const Key& key) const { return slots_[place(key)].value; }  // -1: absent

  private:
    struct Slot {
        Key key;
        int32_t value;
    };
    size_t place(const Key& key) const {
        const size_t mask = slots_.size() - 1;
        size_t i          = size_t(Hash()(key) >> (64 - bits_));
        while (slots_[i].value >= 0 && !(slots_[i].key == key)) i = (i + 1) & mask;
        return i;
    }
    int bits_ = 1;
    std::vector<Slot> slots_;
};

struct Merge {
    int32_t left, right, result;
};

// Two neighbouring ids as one key.
inline uint64_t pair_key(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

class Bpe {
  public:
    Bpe() = default;
    // byte_id: the token of each byte, or -1. merges: in order of rank. tokens: the bytes of each id, "" if unused.
    Bpe(const std::array<int32_t, 256>& byte_id, const std::vector<Merge>& merges,
        const std::vector<std::string>& tokens)
        : byte_id_(byte_id), merges_(merges), ranks_(merges.size()), byte_pair_rank_(65536), whole_(tokens.size()) {
        for (size_t rank = 0; rank < merges.size(); rank++)
            ranks_.set(pair_key(merges[rank].left, merges[rank].right), int32_t(rank));
        for (size_t pair = 0; pair < byte_pair_rank_.size(); pair++)
            byte_pair_rank_[pair] = uint32_t(rank_of(byte_id[pair >> 8], byte_id[pair & 255]));
        // A vocabulary may hold tokens that merging never gives; those must not be found by their bytes.
        std::vector<int32_t> ids;
        for (size_t id = 0; id < tokens.size(); id++) {
            const std::string& bytes = tokens[id];
            if (bytes.empty() || bytes.size() > Piece::longest) continue;
            ids.clear();
            merge_short(bytes, ids);
            if (ids.size() == 1 && ids[0] == int32_t(id)) whole_.set(Piece(bytes, 0, bytes.size()), ids[0]);
        }
    }

    class Recent;

    // Appends the tokens of the piece text[at, end) to `ids`.
    // Inlined, because a text has a piece every 4 bytes or so.
    [[gnu::always_inline]] void encode(std::string_view text, size_t at, size_t end, std::vector<int32_t>& ids,
                                       Recent& recent) const;

    const std::vector<Merge>& merges() const { return merges_; }

  private:
    static constexpr size_t short_piece = 48;       // up to this many bytes scanning is faster than the heap
    static constexpr size_t huge_piece  = 1 << 18;  // a longer piece is merged on its own, to save memory

    struct PairHash {
        uint64_t operator()(uint64_t pair) const { return (pair ^ (pair >> 29)) * 0x9e3779b97f4a7c15u; }
    };

    // The bytes of a short piece, with its length in the last byte.
    struct Piece {
        static constexpr size_t longest = 15;
        uint64_t low = 0, high = 0;

        Piece() = default;
        // Where the text has 16 bytes, loading and masking them saves the call that copies a variable length.
        Piece(std::string_view text, size_t at, size_t length) {
            if (at + 16 <= text.size()) {
                std::memcpy(&low, text.data() + at, 8);
                std::memcpy(&high, text.data() + at + 8, 8);
                const size_t low_bits = 8 * std::min<size_t>(length, 8), high_bits = 8 * length - low_bits;
                low &= low_bits == 64 ? ~uint64_t(0) : (uint64_t(1) << low_bits) - 1;
                high &= (uint64_t(1) << high_bits) - 1;
            } else {
                char bytes[16] = {};
                std::memcpy(bytes, text.data() + at, length);
                std::memcpy(&low, bytes, 8);
                std::memcpy(&high, bytes + 8, 8);
            }
            high |= uint64_t(length) << 56;
        }
        bool operator==(const Piece& o) const { return low == o.low && high == o.high; }
    };
    struct PieceHash {
        uint64_t operator()(const Piece& p) const {
            const uint64_t h = (p.low ^ (p.high * 0x9ddfea08eb382d69u)) * 0x9e3779b97f4a7c15u;
            return (h ^ (h >> 32)) * 0xd6e8feb86659fd93u;
        }
    };

    int32_t rank_of(int32_t left, int32_t right) const { return ranks_.get(pair_key(left, right)); }  // -1: no merge

    void merge_short(std::string_view piece, std::vector<int32_t>& ids) const {
        int n = int(piece.size());
        int32_t id[short_piece];
        uint32_t rank[short_piece];  // rank[i] is that of the pair (i, i + 1); "no merge" is -1, the largest
        for (int i = 0; i < n; i++) id[i] = byte_id_[uint8_t(piece[size_t(i)])];
        for (size_t i = 0; i + 1 < piece.size(); i++)
            rank[i] = byte_pair_rank_[size_t(uint8_t(piece[i])) << 8 | uint8_t(piece[i + 1])];
        while (n > 1) {
            int best = 0;
            for (int i = 1; i + 1 < n; i++)
                if (rank[i] < rank[best]) best = i;
            if (rank[best] >= merges_.size()) break;
            id[best] = merges_[rank[best]].result;
            n--;
            for (int i = best + 1; i < n; i++) id[i] = id[i + 1], rank[i - 1] = rank[i];
            if (best + 1 < n) rank[best] = uint32_t(rank_of(id[best], id[best + 1]));
            if (best > 0) rank[best - 1] = uint32_t(rank_of(id[best - 1], id[best]));
        }
        ids.insert(ids.end(), id, id + n);
    }

    // The state of merging a long piece: a linked list of its tokens so far, and a heap of the pairs that can merge.
    struct Merging {
        struct Symbol {
            int32_t id, before, next;
        };
        std::vector<Symbol> at;
        std::vector<uint64_t> heap;  // rank << 32 | position; the lowest is in front
    };

    void merge_long(std::string_view piece, std::vector<int32_t>& ids) const {
        CHECK(piece.size() < (size_t(1) << 31), "{} bytes of text have no place to split; the limit is 2 GiB",
              piece.size());
        // The lists of a huge piece take 60 times its size, so only one thread at a time may hold them.
        static Merging shared;
        static std::mutex one_at_a_time;
        if (piece.size() > huge_piece) {
            const std::lock_guard<std::mutex> lock(one_at_a_time);
            return merge(piece, ids, shared);
        }
        Merging own;
        merge(piece, ids, own);
    }
    void merge(std::string_view piece, std::vector<int32_t>& ids, Merging& merging) const {
        const int32_t n = int32_t(piece.size());
        auto& at        = merging.at;
        auto& heap      = merging.heap;
        at.resize(piece.size());
        heap.clear();
        const auto offer = [&](int32_t i) {
            if (i < 0 || at[size_t(i)].next == n) return false;
            const int32_t rank = rank_of(at[size_t(i)].id, at[size_t(at[size_t(i)].next)].id);
            if (rank < 0) return false;
            heap.push_back(uint64_t(rank) << 32 | uint32_t(i));
            return true;
        };
        const auto lowest = std::greater<uint64_t>();
        const auto push   = [&](int32_t i) {
            if (offer(i)) std::push_heap(heap.begin(), heap.end(), lowest);
        };
        for (int32_t i = 0; i < n; i++) at[size_t(i)] = {byte_id_[uint8_t(piece[size_t(i)])], i - 1, i + 1};
        for (int32_t i = 0; i < n; i++) offer(i);
        std::make_heap(heap.begin(), heap.end(), lowest);
        while (!heap.empty()) {
            const Merge& merge = merges_[heap.front() >> 32];
            const int32_t i    = int32_t(heap.front() & 0x7fffffff);
            std::pop_heap(heap.begin(), heap.end(), lowest);
            heap.pop_back();
            Merging::Symbol& left = at[size_t(i)];
            if (left.id != merge.left || left.next == n || at[size_t(left.next)].id != merge.right)
                continue;  // an outdated entry
            at[size_t(left.next)].id = -1;
            left.id                  = merge.result;
            left.next                = at[size_t(left.next)].next;
            if (left.next < n) at[size_t(left.next)].before = i;
            push(left.before);
            push(i);
        }
        size_t tokens = 0;
        for (int32_t i = 0; i < n; i = at[size_t(i)].next) tokens++;
        if (piece.size() > huge_piece)
            ids.reserve(ids.size() + tokens);  // growing by doubling would take twice the memory
        for (int32_t i = 0; i < n; i = at[size_t(i)].next) ids.push_back(at[size_t(i)].id);
    }

    std::array<int32_t, 256> byte_id_{};
    std::vector<Merge> merges_;
    FixedMap<uint64_t, PairHash> ranks_;    // pair_key of two ids → rank
    std::vector<uint32_t> byte_pair_rank_;  // the same for two bytes, because every piece begins as bytes
    FixedMap<Piece, PieceHash> whole_;      // bytes of a short token → id
};

// A cache of short pieces that are several tokens; a new entry overwrites the one in its slot.
// Pieces of one token are not cached, because whole_ finds them as fast and they would displace the others.
class Bpe::Recent {
  public:
    static constexpr size_t most = 4;  // tokens per cached piece, at most
    struct Entry {
        Piece piece;
        std::array<int32_t, most> ids;  // filled up with -1
    };
    Recent() : entries_(size_t(1) << bits, Entry{}) {}
    Entry& place(const Piece& piece) { return entries_[size_t(PieceHash()(piece) >> (64 - bits))]; }

  private:
    static constexpr int bits = 15;
    std::vector<Entry> entries_;
};

inline void Bpe::encode(std::string_view text, size_t at, size_t end, std::vector<int32_t>& ids, Recent& recent) const {
    const size_t length = end - at;
    if (length > short_piece) return merge_long(text.substr(at, length), ids);
    if (length > Piece::longest) return merge_short(text.substr(at, length), ids);
    const Piece piece(text, at, length);
    const int32_t whole = whole_.get(piece);
    if (whole >= 0) return ids.push_back(whole);
    Recent::Entry& entry = recent.place(piece);
    if (entry.piece == piece) {
        for (size_t i = 0; i < Recent::most && entry.ids[i] >= 0; i++) ids.push_back(entry.ids[i]);
        return;
    }
    const size_t before = ids.size();
    merge_short(text.substr(at, length), ids);
    const size_t count = ids.size() - before;
    if (count > Recent::most) return;
    entry = {piece, {-1, -1, -1, -1}};
    std::copy(ids.end() - ptrdiff_t(count), ids.end(), entry.ids.begin());
}
