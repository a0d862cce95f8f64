// attention_tiles.cuh - building blocks of the attention kernels: views of heads, the mask, tiles in shared memory
//
// A tile is a block of rows of D elements in shared memory, stored in chunks of 16 bytes. A row has
// chunks = D · sizeof(X) / 16 of them, and chunk i of row r is stored in slot
//
//   slot(r, i) = r · chunks + (i ^ r / (8 / swizzle) mod swizzle),   swizzle = gcd(chunks, 8)
//
// The XOR is a swizzle against bank conflicts. Tensor cores and the plain kernels read a tile by columns: 8 lanes at
// once read chunk i of rows r to r + 7. The 32 banks are 8 chunks wide, so the 8 slots must differ modulo 8. Without
// the XOR and with D = 64 in bf16 (chunks = 8), they would all be i modulo 8, and the read would take 8 cycles. With
// it they are i ^ 0 to i ^ 7. free_of_conflicts() proves the same for every D in use at compile time.
#pragma once
#include <cfloat>
#include <climits>

#include "attention_mask.h"
#include "dropout.h"
#include "gpu.cuh"
#include "tile_work.h"

namespace gpu {

// ---- views of heads in memory --------------------------------------------------------------------------------------

// The rows of one head: row t is D elements at p + t · stride.
template <class X>
struct Rows {
    X* p;
    int stride;  // counts elements
    __device__ X* operator[](int t) const { return p + int64_t(t) * stride; }
};

// All heads of a tensor; strides are in elements.
template <class X>
struct Heads {
    X* p;
    int64_t batch_stride, head_stride;
    int row_stride;
    __device__ Rows<X> at(int b, int h) const { return {p + b * batch_stride + h * head_stride, row_stride}; }
};

template <class X>
struct Inputs {
    Heads<const X> q, k, v;
};

// What one call of attention computes. The keys have positions 0 to past + T - 1, and query t is at position past + t.
struct Problem {
    int T, H, D;  // T queries in each sequence
    int past;     // cached keys before the first query; 0 in training, and with a cache until begin() is called
    float scale;
    int window;
    const int32_t* starts;               // (B,T) or null
    bool is_wide;                        // rows begin at multiples of 16 bytes and are multiples of 16 bytes long
    const int32_t* positions = nullptr;  // (B,T) with a cache: query 0 of sequence b is at positions[b T]
    int most_past            = 0;        // the largest `past` with which T new rows fit into the cache
    HeadDropouts drops{};                // for kernels that drop probabilities

    // A block that works on sequence b of a cache calls it first.
    __device__ void begin(int b) {
        if (positions) past = max(0, min(positions[int64_t(b) * T], most_past));
    }
    __device__ int keys() const { return past + T; }
    __device__ int first_key(int b, int t) const {
        return ::first_key(past + t, starts ? starts[int64_t(b) * T + t] : 0, window);
    }
};

template <class X>
Heads<X> heads_of_qkv(Tensor qkv, int64_t which) {
    const int64_t T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4];
    return {qkv.data<std::remove_const_t<X>>() + which * H * D, T * 3 * H * D, D, int(3 * H * D)};
}
template <class X>
Heads<X> heads_of(Tensor x) {  // (B,T,H,D)
    const int64_t T = x.shape[1], H = x.shape[2], D = x.shape[3];
    return {x.data<std::remove_const_t<X>>(), T * H * D, D, int(H * D)};
}
template <class X>
Heads<X> heads_of_cache(Tensor x) {  // (B,H,S,D)
    const int64_t H = x.shape[1], S = x.shape[2], D = x.shape[3];
    return {x.data<std::remove_const_t<X>>(), H * S * D, S * D, int(D)};
}
template <class X>
Inputs<X> inputs(Tensor qkv) {
    return {heads_of_qkv<const X>(qkv, 0), heads_of_qkv<const X>(qkv, 1), heads_of_qkv<const X>(qkv, 2)};
}

// `tensors` are those whose rows the kernels access 16 bytes at a time if alignment allows it.
inline Problem problem(Tensor qkv, Tensor starts, int64_t past, float scale, int64_t window,
                       std::initializer_list<Tensor> tensors) {
    Problem p;
    p.T       = int(qkv.shape[1]);
    p.H       = int(qkv.shape[3]);
    p.D       = int(qkv.shape[4]);
    p.past    = int(past);
    p.scale   = scale;
    p.window  = int(std::min<int64_t>(window, INT_MAX));  // positions are below INT_MAX, so this hides nothing more
    p.starts  = starts.data_or_null<int32_t>();
    p.is_wide = qkv.shape[4] * size_of(qkv.dtype) % 16 == 0;
    for (const Tensor& t : tensors) p.is_wide = p.is_wide && aligned(t.ptr);
    return p;
}

// Returns the number of blocks: one for each tile of `rows` rows of each head.
inline int64_t blocks_of(Tensor qkv, int rows) { return qkv.shape[0] * qkv.shape[3] * ceil_div(qkv.shape[1], rows); }

// The last tile of queries sees the most keys, and the first tile of keys is seen by the most queries.
enum class TileOrder { first_to_last, last_to_first };

// The tile that a block owns: rows [row, row + rows) of head h of sequence b.
struct OwnTile {
    int b, h, row;
    __device__ OwnTile(const Problem& p, int rows, TileOrder order, unsigned block = blockIdx.x,
                       unsigned blocks = gridDim.x) {
        const unsigned tiles = unsigned(p.T + rows - 1) / rows;
        const auto [head, i] = tile_in_order(block, blocks, tiles);
        b                    = head / p.H;
        h                    = head % p.H;
        row                  = (order == TileOrder::last_to_first ? tiles - 1 - i : i) * rows;
    }
    // The index of row 0 of this head in a tensor (B,H,T).
    __device__ int64_t head_offset(const Problem& p) const { return (int64_t(b) * p.H + h) * p.T; }
    template <bool drops>
    __device__ HeadDropout dropout(const Problem& p) const {
        if constexpr (drops) return p.drops.head(int64_t(b) * p.H + h);
        return {};
    }
};

// ---- the mask ------------------------------------------------------------------------------------------------------

struct Range {
    int min, max;
};

// Returns in every thread the smallest and the largest value over the threads of a block.
template <int threads>
__device__ inline Range block_range(int value) {
    __shared__ int mins[threads / 32], maxs[threads / 32];
    int low = value, high = value;
    for (int i = 16; i; i /= 2) {
        low  = min(low, __shfl_xor_sync(~0u, low, i));
        high = max(high, __shfl_xor_sync(~0u, high, i));
    }
    if (threadIdx.x % 32 == 0) {
        mins[threadIdx.x / 32] = low;
        maxs[threadIdx.x / 32] = high;
    }
    __syncthreads();
    for (int i = 0; i < threads / 32; i++) {
        low  = min(low, mins[i]);
        high = max(high, maxs[i]);
    }
    return {low, high};
}

// Writes the first key that each row of the tile sees to first_keys, in shared memory, and returns their range: keys
// before .min are hidden from all rows, and keys from .max on are hidden from a row only if they come after it. Rows
// past the end of the sequence repeat its last row.
template <int threads, int rows>
__device__ inline Range find_first_keys(int* first_keys, const Problem& p, OwnTile own) {
    static_assert(rows <= threads, "one row per thread");
    const int i = threadIdx.x % rows, first_key = p.first_key(own.b, min(own.row + i, p.T - 1));
    if (threadIdx.x < rows) first_keys[i] = first_key;
    return block_range<threads>(first_key);
}

// Returns one past the last query that sees any of the keys [first, last]. Starts may be in any order, so with starts
// all queries within the window are tested.
template <int threads>
__device__ inline int end_of_queries(const Problem& p, int b, int first, int last) {
    const int window_end = int(min(int64_t(p.T), int64_t(last) + p.window));
    if (!p.starts) return window_end;
    int end = first;
    for (int t = first + threadIdx.x; t < window_end; t += threads)
        if (p.first_key(b, t) <= last) end = t + 1;
    return block_range<threads>(end).max;
}

// ---- tiles in shared memory ----------------------------------------------------------------------------------------

template <class X, int D>
struct Tile {
    static constexpr int per_chunk = 16 / sizeof(X), chunks = D / per_chunk;
    static constexpr int swizzle = chunks % 8 == 0 ? 8 : chunks % 4 == 0 ? 4 : chunks % 2 == 0 ? 2 : 1;
    static_assert(D % per_chunk == 0, "a row is a whole number of chunks");

    static constexpr HD int bytes(int rows) { return rows * D * int(sizeof(X)); }
    static constexpr HD int slot(int row, int i) { return row * chunks + (i ^ (row / (8 / swizzle) % swizzle)); }
    static constexpr HD bool free_of_conflicts() {
        for (int row = 0; row < 64; row += 8)
            for (int i = 0; i < chunks; i++) {
                int seen = 0;
                for (int lane = 0; lane < 8; lane++) seen |= 1 << slot(row + lane, i) % 8;
                if (seen != 255) return false;
            }
        return true;
    }

    // The byte offset of chunk i + n of a row, given that of chunk i, for i = 0 or for i = 1 and even n. There i + n is
    // i ^ n, so
    //   slot(r, i + n) = (slot(r, i) ^ n mod swizzle) + n / swizzle · swizzle
    // For a constant n this takes one instruction or none, where slot() takes five. (Rows need no such function: the
    // swizzle repeats after 8 rows, so row r + 8 j is bytes(8 j) after row r.)
    static constexpr HD uint32_t skip_chunks(uint32_t offset, int n) {
        return (offset ^ n % swizzle * 16) + n / swizzle * swizzle * 16;
    }

    char* p;
    __device__ X* at(int row, int i) const { return reinterpret_cast<X*>(p + slot(row, i) * 16); }
    __device__ uint32_t address() const { return uint32_t(__cvta_generic_to_shared(p)); }
};

// Does for 4 bytes what copy_chunk_async() of gpu.cuh does for 16.
__device__ inline void copy_word_async(void* to, const void* from, bool valid) {
    const uint32_t address = uint32_t(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(valid ? 4 : 0)
                 : "memory");
}
// Copies belong to groups: all that a thread has begun since the last commit. A thread can wait until at most `open` of
// its groups are unfinished.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int open>
__device__ inline void wait_for_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(open) : "memory");
}

// How the threads of a block copy a tile: thread i < threads_used copies column i % chunks of every step-th row.
template <class X, int D, int threads>
struct CopyPlan {
    static constexpr int chunks = Tile<X, D>::chunks, step = threads / chunks / 8 * 8, threads_used = step * chunks;
    // False where 8 rows have more chunks than there are threads. Then thread i copies chunks i, i + threads, …
    static constexpr bool by_columns = step > 0;
};

// Starts to copy rows [first, first + rows) of a head into a tile. Rows from `end` on and columns from `width` on are
// filled with zeros. Call wait_for_copies() and a barrier before a thread reads the tile.
template <int threads, int rows, class X, int D>
__device__ inline void load_tile_async(Tile<X, D> tile, Rows<const X> head, int first, int end, int width) {
    static_assert(Tile<X, D>::free_of_conflicts());
    using Plan           = CopyPlan<X, D, threads>;
    constexpr int chunks = Plan::chunks, per_chunk = Tile<X, D>::per_chunk, step = Plan::step;
    if constexpr (Plan::by_columns) {
        const int row = threadIdx.x / chunks, column = threadIdx.x % chunks;
        const int valid_rows = per_chunk * column < width ? end - first - row : 0;
        uint32_t to          = tile.address() + tile.slot(row, column) * 16;
        const X* from        = head[first + row] + per_chunk * column;
        if (Plan::threads_used < threads && threadIdx.x >= Plan::threads_used) return;
#pragma unroll
        for (int i = 0; i < rows; i += step, to += tile.bytes(step), from += int64_t(step) * head.stride)
            if (rows % step == 0 || row + i < rows) copy_chunk_async(to, from, i < valid_rows);
    } else {
#pragma unroll 1
        for (int i = threadIdx.x; i < rows * chunks; i += threads) {
            const int row = i / chunks, column = i % chunks;
            const bool valid = first + row < end && per_chunk * column < width;
            copy_chunk_async(tile.address() + tile.slot(row, column) * 16, head[first + row] + per_chunk * column,
                             valid);
        }
    }
}

constexpr int max_shared = 99 << 10;  // bytes, static ones included, that a block may have on every GPU from sm_80 on

}  // namespace gpu
