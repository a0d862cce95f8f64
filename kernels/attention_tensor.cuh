// attention_tensor.cuh - attention on tensor cores: bf16, D a multiple of 8 up to 256
//
// A block has 4 warps, and each warp owns 16 M rows of the block's tile, with M = 1 or 2. Rows of the other side are
// streamed through shared memory in tiles of N rows. A warp skips the tiles that the mask hides from all of its rows.
//
//   shared memory   the block's tile (forward: q, dq: q and dout, dk and dv: k and v), and two or more stages of
//                   streamed tiles: the block computes on one stage while asynchronous copies fill the others
//   registers       the scores of a warp's rows against one streamed tile (16 M × N), the sums of its result
//                   (16 M × D), and, where there is room, its own rows of q, dout or k as operands
//
// What limits these kernels is how many cycles pass between two products on tensor cores, because few warps run at a
// time (README.md has numbers). So the fewest instructions and reads of shared memory per product are wanted: M = 2
// reads the streamed tiles half as often as M = 1, and own rows in registers are not read again for each tile. The
// structs named *Tiling say how each kernel divides its work at each D.
#pragma once
#include "attention_tiles.cuh"

namespace gpu {

constexpr float ln2 = 0.693147181f;

constexpr int tensor_threads = 128;  // two such blocks fit on a multiprocessor with 255 registers a thread

// ---- products on tensor cores --------------------------------------------------------------------------------------

// c (16 × 8) += a (16 × 16) b (16 × 8), by all lanes of a warp. Of c, lane l holds columns 2 (l%4) and 2 (l%4) + 1, of
// row l/4 in c[0] and c[1] and of row l/4 + 8 in c[2] and c[3]. Of a, it holds two such blocks as pairs of bf16:
// columns 0-7 in a[0] and a[1], columns 8-15 in a[2] and a[3] (PTX ISA, "Matrix fragments for mma.m16n8k16").
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c = a b, the same without a sum to add to.
__device__ inline void mma_first(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
}

// load_matrices() of gpu.cuh, with each matrix transposed.
__device__ inline void load_matrices_transposed(uint32_t (&m)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

// What a lane holds of a warp's matrix of 16 M rows and N columns, in blocks of 16 × `columns`. These are structures
// because nvcc 12.4 breaks on a template alias of an array.
template <class T, int M, int N, int columns>
struct Fragments {
    T at[M][N / columns][4];
    __device__ auto& operator[](int m) { return at[m]; }
    __device__ const auto& operator[](int m) const { return at[m]; }
};
template <int M, int N>
using Sums = Fragments<float, M, N, 8>;  // mma adds to these
template <int M, int N>
using LeftOperand = Fragments<uint32_t, M, N, 16>;  // mma multiplies these from the left, in pairs of bf16

template <int M, int N>
__device__ inline void clear(Sums<M, N>& c) {
    for (auto& row : c.at)
        for (auto& block : row)
            for (float& x : block) x = 0.f;
}

// Rows [row, row + 16 M) of a tile as left operand: loaded once into 4 M D/16 registers, or a column of 16 at a time
// whenever it is used.
template <int M, int D, bool in_registers>
class OwnOperand {
  public:
    __device__ OwnOperand(Tile<bf16, D> tile, int row)
        : tile_(tile), offset_(tile.slot(row + threadIdx.x % 16, threadIdx.x % 32 / 16) * 16) {}
    __device__ void load() {
        if constexpr (in_registers)
#pragma unroll
            for (int k = 0; k < D / 16; k++) load(at_[k], k);
    }
    __device__ void column(uint32_t (&x)[M][4], int k) const {
        if constexpr (in_registers)
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) x[m][i] = at_[k][m][i];
        else
            load(x, k);
    }

  private:
    __device__ void load(uint32_t (&x)[M][4], int k) const {
#pragma unroll
        for (int m = 0; m < M; m++)
            load_matrices(x[m], tile_.address() + tile_.skip_chunks(offset_, 2 * k) + tile_.bytes(16 * m));
    }
    Tile<bf16, D> tile_;
    uint32_t offset_;
    uint32_t at_[in_registers ? D / 16 : 1][M][4];
};

// c = a · (rows [0, N) of b)ᵀ.
template <int M, int N, int D, bool in_registers>
__device__ inline void product_transposed(Sums<M, N>& c, const OwnOperand<M, D, in_registers>& a, Tile<bf16, D> b) {
    const int lane          = threadIdx.x % 32;
    const uint32_t b_offset = b.slot(lane / 16 * 8 + lane % 8, lane / 8 % 2) * 16;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t x[M][4];
        a.column(x, k);
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            uint32_t y[4];
            load_matrices(y, b.address() + b.skip_chunks(b_offset, 2 * k) + b.bytes(16 * n));
#pragma unroll
            for (int m = 0; m < M; m++)
                if (k == 0) {
                    mma_first(c[m][2 * n], x[m], y[0], y[1]);
                    mma_first(c[m][2 * n + 1], x[m], y[2], y[3]);
                } else {
                    mma(c[m][2 * n], x[m], y[0], y[1]);
                    mma(c[m][2 * n + 1], x[m], y[2], y[3]);
                }
        }
    }
}

// c += p · (rows [0, K) of b), for p (16 M, K) in registers.
template <int M, int K, int D>
__device__ inline void product(Sums<M, D>& c, const LeftOperand<M, K>& p, Tile<bf16, D> b) {
    const int lane          = threadIdx.x % 32;
    const uint32_t b_offset = b.slot(lane % 16, lane / 16) * 16;
#pragma unroll
    for (int k = 0; k < K / 16; k++)
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t y[4];
            load_matrices_transposed(y, b.address() + b.skip_chunks(b_offset, 2 * n) + b.bytes(16 * k));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma(c[m][2 * n], p[m][k], y[0], y[1]);
                mma(c[m][2 * n + 1], p[m][k], y[2], y[3]);
            }
        }
}

template <int M, int N>
__device__ inline LeftOperand<M, N> round_to_bf16(const Sums<M, N>& c) {
    LeftOperand<M, N> p;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i += 2) p[m][n / 2][n % 2 * 2 + i / 2] = bf16_pair(c[m][n][i], c[m][n][i + 1]);
    return p;
}

// Which keys the 16 M queries of a warp see, from query t on. Queries past the end of the sequence see what its last
// one sees.
template <int M>
struct SeenByWarp {
    int position;   // says where query t stands among the keys
    int first;      // the first key that query t + lane % (16 M) sees
    int begin;      // keys before it are hidden from all of the queries
    int all_begin;  // keys from here on are hidden from a query only if they come after it

    __device__ SeenByWarp(const Problem& p, int b, int t)
        : position(p.past + t),
          first(p.first_key(b, min(t + int(threadIdx.x) % (16 * M), p.T - 1))),
          begin(__reduce_min_sync(~0u, first)),
          all_begin(__reduce_max_sync(~0u, first)) {}

    // Whether the queries see none, or each of them all, of the keys [key, key + n).
    __device__ bool none_of(int key, int n) const { return key >= position + 16 * M || key + n <= begin; }
    __device__ bool all_of(int key, int n) const { return key >= all_begin && key + n <= position + 1; }

    // Sets the scores of hidden keys to -inf, for the keys [key, key + N).
    template <int N>
    __device__ void hide(Sums<M, N>& s, int key) const {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int row = 16 * m + lane / 4 + 8 * i, low = __shfl_sync(~0u, first, row);
                const int column    = key + lane % 4 * 2 - low;
                const unsigned seen = position + row - low;  // counts the visible keys after `low`
#pragma unroll
                for (int n = 0; n < N / 8; n++)
#pragma unroll
                    for (int j = 0; j < 2; j++)
                        if (unsigned(column + 8 * n + j) > seen) s[m][n][2 * i + j] = -INFINITY;
            }
    }
};

// Returns the key with which a block's first tile begins. Tiles that are masked by dropout begin at multiples of 16.
template <bool drops, int M>
__device__ inline int first_tile(const SeenByWarp<M>& seen) {
    const int begin = block_range<tensor_threads>(seen.begin).min;
    return drops ? begin / 16 * 16 : begin;
}

// ---- dropout -------------------------------------------------------------------------------------------------------

// Calls f(m, n, i, keeps) for each element [m][n][i] that this lane holds of a warp's probabilities (16 M × N), which
// begin at this query and this key, multiples of 16. Where queries are the rows, the 8 elements of a lane in a tile of
// 16 × 16 share a block. Where keys are the rows, they share two: this lane computes one of them and the lane of the
// neighbouring key the other, and each sends the half of its bits that belongs to the other's key.
enum class RowsAre { queries, keys };
template <RowsAre rows, int M, int N, class F>
__device__ inline void each_dropout(const HeadDropout& drop, int query, int key, F f) {
    constexpr bool by_query = rows == RowsAre::queries;
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;  // the first element of this lane
    const Philox first =
        by_query ? drop.counter(query + row, key + column) : drop.counter(query + column + row % 2, key + row);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            Philox block = drop.block(first, by_query ? m : n, by_query ? n : m);
            if constexpr (!by_query) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const uint32_t even = block.word[i], odd = block.word[2 + i];  // of the even and of the odd key
                    const uint32_t other = __shfl_xor_sync(~0u, row % 2 ? even : odd, 4);
                    // From here on words 0 and 1 are those of the even query.
                    block.word[i]        = row % 2 ? other : even;
                    block.word[2 + i]    = row % 2 ? odd : other;
                }
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {  // element i % 4 of the left half of the tile, and of its right half
                const int below = i / 2 % 2 * 8, right = i / 4 * 8, odd = i % 2;
                f(m, 2 * n + i / 4, i % 4,
                  by_query ? drop.keeps(block, below, right + odd) : drop.keeps(block, right, below + odd));
            }
        }
}

// Stores factor × c to rows [first + row, first + row + 16 M) of a head. The values go through rows [row, row + 16 M)
// of a tile that has been read for the last time, so that global memory is written 16 bytes at a time. Only this warp
// uses those rows of the tile.
template <int M, int D>
__device__ inline void store_rows(Rows<bf16> head, Tile<bf16, D> tile, const Sums<M, D>& c, const float (&factor)[M][2],
                                  int first, int row, int end, int width) {
    constexpr int chunks  = Tile<bf16, D>::chunks;
    const int lane        = threadIdx.x % 32;
    const uint32_t offset = tile.slot(row + lane / 4, 0) * 16;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                *reinterpret_cast<uint32_t*>(tile.p + tile.skip_chunks(offset, n) + tile.bytes(16 * m + 8 * i) +
                                             lane % 4 * 4) =
                    bf16_pair(c[m][n][2 * i] * factor[m][i], c[m][n][2 * i + 1] * factor[m][i]);
    __syncwarp();
    if constexpr (32 % chunks == 0) {  // a lane stores one column of chunks
        constexpr int step = 32 / chunks;
        const int column = lane % chunks, own = first + row + lane / chunks;
        const int rows_left = 8 * column < width ? end - own : 0;
        bf16* const to      = head[own] + 8 * column;
#pragma unroll
        for (int i = 0; i < 16 * M; i += step)
            if (i < rows_left)
                *reinterpret_cast<uint4*>(to + int64_t(i) * head.stride) =
                    *reinterpret_cast<const uint4*>(tile.at(row + lane / chunks + i, column));
    } else {
        for (int i = lane; i < 16 * M * chunks; i += 32) {
            const int r = row + i / chunks, column = i % chunks;
            if (first + r < end && 8 * column < width)
                *reinterpret_cast<uint4*>(head[first + r] + 8 * column) =
                    *reinterpret_cast<const uint4*>(tile.at(r, column));
        }
    }
}

// Streams two heads together, a and b, which are k and v, or q and dout: tiles of `rows` rows of both, from row `first`
// to row `end`, through a ring of stages in shared memory. While the block computes on one stage, copies fill the
// others. `more(stage, row)` copies what else belongs to the rows from `row` on.
//
//   stream.start(first, more);
//   for (int row = first; row < end; row += rows, stream.next()) {
//       stream.wait(row, more);  // now this stage is loaded, and no warp reads the one before any more
//       … stream.a(), stream.b() …
//   }
template <int D, int rows, int stages>
class StreamedTiles {
    static_assert(stages >= 2);
    using Plan = CopyPlan<bf16, D, tensor_threads>;

  public:
    static constexpr int tile_bytes = Tile<bf16, D>::bytes(rows), bytes = 2 * stages * tile_bytes;

    __device__ StreamedTiles(char* p, Rows<const bf16> a, Rows<const bf16> b, int first, int end, int width)
        : p_(p), a_(a), b_(b), end_(end), width_(width) {
        if constexpr (Plan::by_columns) {
            const int row = threadIdx.x / Plan::chunks, column = threadIdx.x % Plan::chunks;
            a_.p = a[first + row] + 8 * column;
            b_.p = b[first + row] + 8 * column;
        }
    }
    __device__ int stage() const { return stage_; }
    __device__ Tile<bf16, D> a() const { return {p_ + 2 * stage_ * tile_bytes}; }
    __device__ Tile<bf16, D> b() const { return {p_ + (2 * stage_ + 1) * tile_bytes}; }

    template <class More>
    __device__ void start(int first, More more) {
        for (int i = 0; i < stages - 1; i++) load(i, first + i * rows, more);
    }
    template <class More>
    __device__ void wait(int row, More more) {
        wait_for_groups<stages - 2>();
        __syncthreads();
        load(after(stages - 1), row + (stages - 1) * rows, more);
    }
    __device__ void next() { stage_ = after(1); }

  private:
    __device__ int after(int n) const {
        if constexpr (stages == 2) return stage_ ^ n;
        return stage_ + n < stages ? stage_ + n : stage_ + n - stages;
    }
    template <class More>
    __device__ void load(int stage, int first, More more) {
        if (first < end_) {
            const Tile<bf16, D> a{p_ + 2 * stage * tile_bytes}, b{a.p + tile_bytes};
            if constexpr (Plan::by_columns) {
                load_columns(a, a_, first);
                load_columns(b, b_, first);
            } else {
                load_tile_async<tensor_threads, rows>(a, a_, first, end_, width_);
                load_tile_async<tensor_threads, rows>(b, b_, first, end_, width_);
            }
            more(stage, first);
        }
        commit_copies();
    }
    // As load_tile_async() does, but the pointer moves on from tile to tile.
    __device__ void load_columns(Tile<bf16, D> tile, Rows<const bf16>& head, int first) {
        const int row = threadIdx.x / Plan::chunks, column = threadIdx.x % Plan::chunks;
        const int valid_rows = 8 * column < width_ ? end_ - first - row : 0;
        const uint32_t to    = tile.address() + tile.slot(row, column) * 16;
#pragma unroll
        for (int i = 0; i < rows; i += Plan::step)
            if ((rows % Plan::step == 0 || row + i < rows) &&
                (Plan::threads_used == tensor_threads || threadIdx.x < Plan::threads_used))
                copy_chunk_async(to + tile.bytes(i), head[i], i < valid_rows);
        head.p += int64_t(rows) * head.stride;
    }
    char* p_;
    Rows<const bf16> a_, b_;
    int end_, width_;
    int stage_ = 0;
};

struct NothingMore {
    __device__ void operator()(int, int) const {}
};

// ---- forward -------------------------------------------------------------------------------------------------------

// How attention_forward_kernel divides its work. Each of the 4 warps of a block owns 16 M queries and multiplies them
// with N keys at a time, which are streamed through `stages` stages. The compiler limits registers so that `blocks`
// blocks fit on a multiprocessor.
template <int D_, int M_, int N_, int stages_, int blocks_, bool q_in_registers_>
struct ForwardTiling {
    static constexpr int D = D_, M = M_, N = N_, stages = stages_, blocks = blocks_, rows = 64 * M;
    static constexpr bool q_in_registers = q_in_registers_;
    static constexpr int tile_bytes      = Tile<bf16, D>::bytes(rows);
    static constexpr int shared          = tile_bytes + StreamedTiles<D, N, stages>::bytes;
    static_assert(shared + 64 <= max_shared);
};
template <int D, bool drops = false>
using ForwardTilingOf = ForwardTiling<D, D <= 128 ? 2 : 1,
                                      drops && D == 128        ? 16
                                      : D <= (drops ? 32 : 64) ? 64
                                                               : 32,
                                      2, 2, (D <= 80 || D == 192)>;

// The online softmax of a warp's rows. Row [m][i] is row 16 m + lane/4 + 8 i of the warp. Its weights are
// exp(scale · (s - top)), where `top` is a score near the largest one so far, and `sum` is this lane's share of the sum
// of weights.
//
// To find the largest score of each step, and to rescale the sums to it, would take a quarter of the instructions
// between the products. But a weight need not be at most 1, as long as nothing overflows. So a row keeps its top until
// the weights of a step add up to more than most_weight in some lane. Then the step is repeated, with the row's largest
// score as its new top. Scores of standard deviation 1 need that in the first step alone. Each row decides for itself,
// so its bits do not depend on the other rows of the warp.
template <int M>
struct Softmax {
    float scale_log2e;  // exp(scale · s) = 2^(scale_log2e · s)
    float top[M][2], sum[M][2];

    __device__ explicit Softmax(float scale) : scale_log2e(scale * log2e) {
        // This is the least top for which shift() is finite. With it, the differences of two shifts are never NaN.
        const float least = -FLT_MAX / fmaxf(scale_log2e, 1.f);
        for (int m = 0; m < M; m++)
            for (int i = 0; i < 2; i++) {
                top[m][i] = least;
                sum[m][i] = 0.f;
            }
    }
    __device__ float shift(int m, int i) const { return top[m][i] * scale_log2e; }
};
constexpr float most_weight = 1024.f;

// Raises the tops of some rows to their largest score, and rescales what was summed with the tops before. Bit 2 m + i
// of `rows` says whether row [m][i] takes part.
template <int M, int N, int D>
__device__ inline void raise_tops(unsigned rows, Softmax<M>& softmax, Sums<M, D>& acc, const Sums<M, N>& s) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float top = softmax.top[m][i];
#pragma unroll
            for (int n = 0; n < N / 8; n++) top = fmaxf(top, fmaxf(s[m][n][2 * i], s[m][n][2 * i + 1]));
            top                = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top                = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            const float before = softmax.shift(m, i);
            if (rows >> (2 * m + i) & 1) softmax.top[m][i] = top;
            const float rescale = exp2_fast(before - softmax.shift(m, i));
            softmax.sum[m][i] *= rescale;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                acc[m][n][2 * i] *= rescale;
                acc[m][n][2 * i + 1] *= rescale;
            }
        }
}

// Turns scores into weights, and returns this lane's sum for each row.
template <int M, int N>
__device__ inline void weigh(float (&sum)[M][2], Sums<M, N>& s, const Softmax<M>& softmax) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float shift = softmax.shift(m, i);
            sum[m][i]         = 0.f;
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int j = 2 * i; j < 2 * i + 2; j++) {
                    s[m][n][j] = exp2_fast(fmaf(s[m][n][j], softmax.scale_log2e, -shift));
                    sum[m][i] += s[m][n][j];
                }
        }
}

// Returns whether in some row of the warp the weights of a lane add up to more than most_weight. Then bit 2 m + i of
// `rows` says whether row [m][i] is such a row. The four lanes of a row get the same bits for it.
template <int M>
__device__ inline bool too_heavy(unsigned& rows, const float (&sum)[M][2]) {
    float most = 0.f;
#pragma unroll
    for (int m = 0; m < M; m++) most = fmaxf(most, fmaxf(sum[m][0], sum[m][1]));
    if (!__any_sync(~0u, most > most_weight)) return false;
    rows = 0;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const unsigned lanes = __ballot_sync(~0u, sum[m][i] > most_weight);
            if (lanes >> (threadIdx.x % 32 / 4 * 4) & 15) rows |= 1 << (2 * m + i);
        }
    return true;
}

template <class Tiling, bool drops = false>
__global__ void __launch_bounds__(tensor_threads, Tiling::blocks)
    attention_forward_kernel(Heads<bf16> out, float* lse, Inputs<bf16> x, Problem p) {
    constexpr int D = Tiling::D, M = Tiling::M, N = Tiling::N, rows = Tiling::rows;
    const Tile<bf16, D> q_tile{shared_memory};

    const OwnTile own(p, rows, TileOrder::last_to_first);
    p.begin(own.b);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M;  // the warp's first row within the tile
    const SeenByWarp<M> seen(p, own.b, own.row + row);
    const HeadDropout drop = own.dropout<drops>(p);
    const int begin = first_tile<drops>(seen), end = min(p.past + own.row + rows, p.keys());

    Sums<M, D> acc;
    Softmax<M> softmax(p.scale);
    clear<M, D>(acc);

    load_tile_async<tensor_threads, rows>(q_tile, x.q.at(own.b, own.h), own.row, p.T, p.D);
    StreamedTiles<D, N, Tiling::stages> kv(q_tile.p + Tiling::tile_bytes, x.k.at(own.b, own.h), x.v.at(own.b, own.h),
                                           begin, end, p.D);
    kv.start(begin, NothingMore{});
    OwnOperand<M, D, Tiling::q_in_registers> q(q_tile, row);
    if (Tiling::q_in_registers) {
        wait_for_groups<Tiling::stages - 2>();
        __syncthreads();
        q.load();
    }
    for (int key = begin; key < end; key += N, kv.next()) {
        kv.wait(key, NothingMore{});
        if (seen.none_of(key, N)) continue;
        Sums<M, N> s;
        float sum[M][2];
        unsigned raised = ~0u;
        for (bool raise = key <= seen.begin;; raise = true) {
            product_transposed<M, N, D>(s, q, kv.a());
            if (!seen.all_of(key, N)) seen.template hide<N>(s, key);
            if (raise) raise_tops<M, N, D>(raised, softmax, acc, s);
            weigh<M, N>(sum, s, softmax);
            if (raise || !too_heavy<M>(raised, sum)) break;
        }
        for (int m = 0; m < M; m++)
            for (int i = 0; i < 2; i++) softmax.sum[m][i] += sum[m][i];
        if constexpr (drops)
            each_dropout<RowsAre::queries, M, N>(drop, own.row + row, key, [&](int m, int n, int i, bool keeps) {
                s[m][n][i] = keeps ? s[m][n][i] : 0.f;
            });
        product<M, N, D>(acc, round_to_bf16<M, N>(s), kv.b());
    }

    float factor[M][2];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float sum = softmax.sum[m][i];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            factor[m][i] = (drops ? drop.scale : 1.f) / sum;
            const int t  = own.row + row + 16 * m + lane / 4 + 8 * i;
            if (!lse || lane % 4 || t >= p.T) continue;
            // The weights were computed with a rounded exponent of the top. With scores of 1e4 the rounding matters, so
            // it is taken back here.
            const float top             = softmax.top[m][i];
            const float rounding        = fmaf(top, softmax.scale_log2e, -softmax.shift(m, i));
            lse[own.head_offset(p) + t] = fmaf(top, p.scale, logf(sum) - rounding * ln2);
        }
    store_rows<M, D>(out.at(own.b, own.h), q_tile, acc, factor, own.row, row, p.T, p.D);
}

}  // namespace gpu
