// attention_tiles.cuh - what the attention kernels stand on: where rows lie, who sees whom, tiles in shared memory
#pragma once
#include <cfloat>
#include <climits>

#include "gpu.cuh"

namespace gpu {

// ---- where rows lie ------------------------------------------------------------------------------------------------

// Rows of one head: row t is D elements at p + t·apart.
template <class X>
struct Rows {
    X* p;
    int apart;
    __device__ X* operator[](int t) const { return p + int64_t(t) * apart; }
};

// All heads of a tensor; distances in elements.
template <class X>
struct Heads {
    X* p;
    int64_t batch, head;
    int row;
    __device__ Rows<X> at(int b, int h) const { return {p + b * batch + h * head, row}; }
};

template <class X>
struct Inputs {
    Heads<const X> q, k, v;
};

// Query t stands at position past + t among the keys.
struct Problem {
    int T, H, D, past;  // T: queries
    float scale;
    int64_t window;
    const int32_t* starts;  // (B,T) or null
    bool is_wide;           // rows lie on 16 bytes and are a multiple of them long

    __device__ int keys() const { return past + T; }
    __device__ int first(int b, int t) const {
        return int(first_key(past + t, starts ? starts[int64_t(b) * T + t] : 0, window));
    }
};

// What a block works on: rows [row, row + rows) of head h of sequence b. With `last_first` the last tile of a head
// comes first: the last queries see the most keys, and the longest work should not begin last.
struct Place {
    int b, h, row;
    __device__ Place(const Problem& p, int rows, bool last_first, unsigned block = blockIdx.x) {
        const int tiles = (p.T + rows - 1) / rows, tile = block % tiles, i = block / tiles;
        b = i / p.H, h = i % p.H, row = (last_first ? tiles - 1 - tile : tile) * rows;
    }
    // Of rows kept as (B,H,T), where this head begins.
    __device__ int64_t of(const Problem& p) const { return (int64_t(b) * p.H + h) * p.T; }
};

// ---- who sees whom -------------------------------------------------------------------------------------------------

// Smallest (.x) and largest (.y) value over the block; every thread gets both.
template <int threads>
__device__ inline int2 range(int mine) {
    __shared__ int lows[threads / 32], highs[threads / 32];
    int low = mine, high = mine;
    for (int i = 16; i; i /= 2) {
        low  = min(low, __shfl_xor_sync(~0u, low, i));
        high = max(high, __shfl_xor_sync(~0u, high, i));
    }
    if (threadIdx.x % 32 == 0) lows[threadIdx.x / 32] = low, highs[threadIdx.x / 32] = high;
    __syncthreads();
    for (int i = 0; i < threads / 32; i++) low = min(low, lows[i]), high = max(high, highs[i]);
    return {low, high};
}

// Writes the first key of each of a block's rows to `first`, rows past the end repeating the last. From key .x on
// some row sees something; from .y on rows differ only in where they end.
template <int threads, int rows>
__device__ inline int2 first_keys(int* first, const Problem& p, Place at) {
    static_assert(rows <= threads, "one row per thread");
    const int i = threadIdx.x % rows, mine = p.first(at.b, min(at.row + i, p.T - 1));
    if (threadIdx.x < rows) first[i] = mine;
    return range<threads>(mine);
}

// One past the last query that sees a key of [key, last]. Starts may be in any order, so all of them are looked at.
template <int threads>
__device__ inline int last_query(const Problem& p, int b, int key, int last) {
    const int end = int(min(int64_t(p.T), last + p.window));
    if (!p.starts) return end;
    int mine = key;
    for (int t = key + threadIdx.x; t < end; t += threads)
        if (p.first(b, t) <= last) mine = t + 1;
    return range<threads>(mine).y;
}

// ---- tiles in shared memory ----------------------------------------------------------------------------------------

// Rows of D elements in pieces of 16 bytes. The lanes of a warp read 8 at a time: the same piece of 8 rows that
// follow each other. All 32 banks are 8 pieces wide, so those 8 must lie in places that differ modulo 8, and within a
// row the pieces of each `group` (what the row's length has in common with 8) change places from row to row to make
// it so.
template <class X, int D>
struct Tile {
    static constexpr int piece = 16 / sizeof(X), pieces = D / piece;
    static constexpr int group = pieces % 8 == 0 ? 8 : pieces % 4 == 0 ? 4 : pieces % 2 == 0 ? 2 : 1;
    static_assert(D % piece == 0, "rows are whole pieces");

    static constexpr HD int bytes(int rows) { return rows * D * int(sizeof(X)); }
    static constexpr HD int place(int row, int i) { return row * pieces + (i ^ (row / (8 / group) % group)); }
    static constexpr HD bool free_of_conflicts() {
        for (int row = 0; row < 64; row += 8)
            for (int i = 0; i < pieces; i++) {
                int seen = 0;
                for (int lane = 0; lane < 8; lane++) seen |= 1 << place(row + lane, i) % 8;
                if (seen != 255) return false;
            }
        return true;
    }

    // From the offset of piece 0 or 1 of a row to that of the piece n further, n even; rows 8 i further are bytes(8
    // i) further. With n a constant this is one instruction, or none, where place() would take five.
    static constexpr HD uint32_t further(uint32_t offset, int n) {
        return (offset ^ n % group * 16) + n / group * group * 16;
    }

    char* p;
    __device__ X* at(int row, int i) const { return reinterpret_cast<X*>(p + place(row, i) * 16); }
    __device__ uint32_t address() const { return uint32_t(__cvta_generic_to_shared(p)); }
};

__device__ inline void copy_async(uint32_t to, const void* from, bool real) {  // 16 bytes, zeros when not real
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(real ? 16 : 0) : "memory");
}
__device__ inline void copy_word_async(void* to, const void* from, bool real) {  // 4 bytes
    const uint32_t address = uint32_t(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(real ? 4 : 0)
                 : "memory");
}
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// tile (rows, D) = rows [first, first + rows) of a head that are `width` wide, zeros below `end` and to their right.
// Arrives by itself: wait_for_copies() and a barrier come before the first look.
template <int threads, int rows, class X, int D>
__device__ inline void fetch(Tile<X, D> tile, Rows<const X> from, int first, int end, int width) {
    static_assert(Tile<X, D>::free_of_conflicts());
    constexpr int pieces = Tile<X, D>::pieces, piece = Tile<X, D>::piece, step = threads / pieces;
    if constexpr (threads % pieces == 0 && step % 8 == 0) {  // a thread goes down its column
        const int row = threadIdx.x / pieces, column = threadIdx.x % pieces;
        const int left = piece * column < width ? end - first - row : 0;
        uint32_t to    = tile.address() + tile.place(row, column) * 16;
        const X* p     = from[first + row] + piece * column;
#pragma unroll
        for (int i = 0; i < rows; i += step, to += tile.bytes(step), p += int64_t(step) * from.apart)
            copy_async(to, i < left ? p : from.p, i < left);
    } else {
#pragma unroll 1
        for (int i = threadIdx.x; i < rows * pieces; i += threads) {
            const int row = i / pieces, column = i % pieces;
            const bool real = first + row < end && piece * column < width;
            const X* p      = real ? from[first + row] + piece * column : from.p;
            copy_async(tile.address() + tile.place(row, column) * 16, p, real);
        }
    }
}

extern __shared__ __align__(128) char shared_memory[];
constexpr int most_shared = 99 << 10;  // bytes, static ones included: what a block may have on every GPU from sm_80 on

}  // namespace gpu
