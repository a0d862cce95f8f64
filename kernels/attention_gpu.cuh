// attention_gpu.cuh - the CUDA half of attention.cu, which holds the formulas
//
// Three loops over tiles, each written twice: on tensor cores for bf16 with D a multiple of 8, and plainly in fp32 for
// everything else. A block owns a tile of rows and keeps their sums in registers while tiles of the other side pass by:
//
//   forward    owns queries, keys pass:   S = Q Kᵀ, online softmax, out += P V
//   dq         owns queries, keys pass:   S = Q Kᵀ, dP = dO Vᵀ, dQ += dS K; before that δ, kept for dk and dv
//   dk, dv     owns keys, queries pass:   Sᵀ = K Qᵀ, dPᵀ = V dOᵀ, dV += Pᵀ dO, dK += dSᵀ Q
//
// So every sum has one owner and a fixed order: no atomics, the same bits every time. S is computed twice in backward, which
// costs 7 products where atomic additions to dq would need 5. Only two kinds of product occur: a bᵀ with both in shared memory,
// and p b with p in registers: the sums of the first, rounded to bf16, lie exactly as mma wants the left factor of the second.
// Tiles that the mask hides from all rows of a block are not visited, and only tiles on its border test single elements.
//
// Decoding: few rows against a long cache. The keys are split over blocks; a second kernel adds the parts in order.
#pragma once
#include <cfloat>
#include <climits>

#include "gpu.cuh"

namespace gpu {

constexpr float log2e = 1.44269504f, ln2 = 0.693147181f;

// ---- who sees whom, and where it lies -----------------------------------------------------------------------------------

// Rows of one head: row t is D elements at p + t·apart.
template <class X> struct Rows {
    X*  p;
    int apart;
    __device__ X* operator[](int t) const { return p + int64_t(t) * apart; }
};

// All heads of a tensor, in elements.
template <class X> struct Heads {
    X*      p;
    int64_t batch, head;
    int     row;
    __device__ Rows<X> at(int b, int h) const { return {p + b * batch + h * head, row}; }
};

// Query t stands at position past + t among the keys.
struct Problem {
    int            T, H, D, past;  // T: queries
    float          scale;
    int64_t        window;
    const int32_t* starts;         // (B,T) or null
    bool           is_wide;        // rows lie on 16 bytes and are a multiple of them long

    __device__ int keys() const { return past + T; }
    __device__ int first(int b, int t) const {
        return int(first_key(past + t, starts ? starts[int64_t(b) * T + t] : 0, window));
    }
};

// What a block works on: rows [row, row + rows) of head h of sequence b. The last rows come first: with a causal mask they
// see the most keys.
struct Place {
    int b, h, row;
    __device__ Place(const Problem& p, int rows, bool last_first) {
        const int tiles = (p.T + rows - 1) / rows, tile = blockIdx.x % tiles, i = blockIdx.x / tiles;
        b = i / p.H, h = i % p.H, row = (last_first ? tiles - 1 - tile : tile) * rows;
    }
};

// Smallest and largest value over the block; every thread gets both.
template <int threads> __device__ inline int2 range(int low, int high) {
    __shared__ int lows[threads / 32], highs[threads / 32];
    for (int i = 16; i; i /= 2) {
        low  = min(low, __shfl_xor_sync(~0u, low, i));
        high = max(high, __shfl_xor_sync(~0u, high, i));
    }
    if (threadIdx.x % 32 == 0) lows[threadIdx.x / 32] = low, highs[threadIdx.x / 32] = high;
    __syncthreads();
    for (int i = 0; i < threads / 32; i++) low = min(low, lows[i]), high = max(high, highs[i]);
    return {low, high};
}

// The first key of each of a block's rows into `first` (rows past the end repeat the last), and the range of those: from
// .x on some row sees a key, from .y on the rows differ only in where they end.
template <int threads, int rows> __device__ inline int2 first_keys(int* first, const Problem& p, Place at) {
    static_assert(rows <= threads, "one row per thread");
    const int i = threadIdx.x % rows, mine = p.first(at.b, min(at.row + i, p.T - 1));
    if (threadIdx.x < rows) first[i] = mine;
    return range<threads>(mine, mine);
}

// One past the last query that sees a key of [key, last].
template <int threads> __device__ inline int last_query(const Problem& p, int b, int key, int last) {
    const int end = int(min(int64_t(p.T), last + p.window));
    if (!p.starts) return end;
    int mine = key;
    for (int t = key + threadIdx.x; t < end; t += threads)
        if (p.first(b, t) <= last) mine = t + 1;
    return range<threads>(mine, mine).y;
}

// ---- tiles in shared memory ---------------------------------------------------------------------------------------------

// Rows of D elements in pieces of 16 bytes. Where a warp reads, 8 lanes at a time take the same piece of 8 rows that follow each
// other; a piece's place within its row depends on the row so that those 8 lie in different banks: `group` is what D has in
// common with the 8 pieces that span all banks, and the pieces of a group change places. Checked for every D by the tests.
template <class X, int D> struct Tile {
    static constexpr int piece = 16 / sizeof(X), pieces = D / piece;
    static constexpr int group = pieces % 8 == 0 ? 8 : pieces % 4 == 0 ? 4 : pieces % 2 == 0 ? 2 : 1;
    static_assert(D % piece == 0);
    static constexpr __host__ __device__ int bytes(int rows) { return rows * D * int(sizeof(X)); }
    static __device__ int place(int row, int i) { return (row * pieces + (i ^ (row / (8 / group) % group))) * 16; }

    char* p;
    __device__ X*       at(int row, int i) const { return reinterpret_cast<X*>(p + place(row, i)); }
    __device__ uint32_t address(int row, int i) const { return uint32_t(__cvta_generic_to_shared(p)) + place(row, i); }
};

__device__ inline void copy_async(uint32_t to, const void* from, bool real) {  // 16 bytes, zeros when not real
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(real ? 16 : 0) : "memory");
}
__device__ inline void copy_word_async(void* to, const void* from, bool real) {  // 4 bytes
    const uint32_t address = uint32_t(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(real ? 4 : 0) : "memory");
}
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// tile (rows, D) = rows [first, first + rows) of a head that are `width` wide, zeros below `end` and to their right.
// Arrives by itself: wait_for_copies() and a barrier come before the first look.
template <int threads, int rows, class X, int D>
__device__ inline void fetch(Tile<X, D> tile, Rows<const X> from, int first, int end, int width) {
    constexpr int pieces = Tile<X, D>::pieces, piece = Tile<X, D>::piece;
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * pieces; i += threads) {
        const int  row = i / pieces, column = i % pieces;
        const bool real = first + row < end && piece * column < width;
        copy_async(tile.address(row, column), real ? from[first + row] + piece * column : from.p, real);
    }
}

// ---- products on tensor cores --------------------------------------------------------------------------------------------

// A 16 × 8 block of sums c lies in a warp as: lane l holds rows l/4 (c[0], c[1]) and l/4 + 8 (c[2], c[3]), columns
// 2 (l%4) and the next. The left factor a (16 × 16) is two such blocks of pairs: a[0], a[1] columns 0-7, a[2], a[3] columns
// 8-15 (PTX ISA, "Matrix fragments for mma.m16n8k16").
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 × 8 matrices; lane l gives the address of row l%8 of matrix l/8.
__device__ inline void load_matrices(uint32_t (&m)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(address) : "memory");
}
__device__ inline void load_matrices_turned(uint32_t (&m)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(address) : "memory");
}

__device__ inline float exp2_fast(float x) {  // 2 ulp; exact at 0, 0 at -inf
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Sums of a warp: 16 M rows × N columns.
template <int M, int N> using Sums = float[M][N / 8][4];
template <int M, int N> using Pairs = uint32_t[M][N / 16][4];  // as bf16, left factor of the next product

template <int M, int N> __device__ inline void clear(Sums<M, N>& c) {
    for (auto& row : c)
        for (auto& block : row)
            for (float& x : block) x = 0.f;
}

// c = a bᵀ: rows [row, row + 16 M) of a, rows [0, N) of b.
template <int M, int N, int D>
__device__ inline void product_turned(Sums<M, N>& c, Tile<bf16, D> a, int row, Tile<bf16, D> b) {
    const int lane = threadIdx.x % 32;
    clear<M, N>(c);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t x[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) load_matrices(x[m], a.address(row + 16 * m + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            uint32_t y[4];
            load_matrices(y, b.address(16 * n + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma(c[m][2 * n], x[m], y[0], y[1]);
                mma(c[m][2 * n + 1], x[m], y[2], y[3]);
            }
        }
    }
}

// c += p b: p (16 M, K) in registers, rows [0, K) of b.
template <int M, int K, int D>
__device__ inline void product(Sums<M, D>& c, const Pairs<M, K>& p, Tile<bf16, D> b) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < K / 16; k++)
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t y[4];
            load_matrices_turned(y, b.address(16 * k + lane % 16, 2 * n + lane / 16));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma(c[m][2 * n], p[m][k], y[0], y[1]);
                mma(c[m][2 * n + 1], p[m][k], y[2], y[3]);
            }
        }
}

template <int M, int N> __device__ inline void round_to_pairs(Pairs<M, N>& p, const Sums<M, N>& c) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i += 2) p[m][n / 2][n % 2 * 2 + i / 2] = bf16_pair(c[m][n][i], c[m][n][i + 1]);
}

// f(x, row, column) for each element that this lane holds.
template <int M, int N, class F> __device__ inline void each_sum(Sums<M, N>& c, F f) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) f(c[m][n][i], 16 * m + lane / 4 + i / 2 * 8, 8 * n + lane % 4 * 2 + i % 2);
}

// Rows [first + row, first + row + 16 M) of a head = factor × sums, by way of the warp's own rows of a tile that is no longer
// needed, so that they leave 16 bytes at a time.
template <int M, int D>
__device__ inline void store_rows(Rows<bf16> to, Tile<bf16, D> tile, const Sums<M, D>& c, const float (&factor)[M][2], int first,
                                  int row, int end, int width) {
    constexpr int pieces = Tile<bf16, D>::pieces;
    const int     lane   = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                reinterpret_cast<uint32_t*>(tile.at(row + 16 * m + lane / 4 + 8 * i, n))[lane % 4] =
                    bf16_pair(c[m][n][2 * i] * factor[m][i], c[m][n][2 * i + 1] * factor[m][i]);
    __syncwarp();
    for (int i = lane; i < 16 * M * pieces; i += 32) {
        const int r = row + i / pieces, column = i % pieces;
        if (first + r < end && 8 * column < width)
            *reinterpret_cast<uint4*>(to[first + r] + 8 * column) = *reinterpret_cast<const uint4*>(tile.at(r, column));
    }
}

// ---- tensor cores: forward ----------------------------------------------------------------------------------------------

// Blocks of 4 warps, two of them on a multiprocessor, so 255 registers a thread; at most 99 KB of shared memory, what every GPU
// since sm_80 has. A warp with 32 rows instead of 16 reads each tile of the other side half as often, where the registers suffice.
constexpr int tensor_threads = 128;

template <int D> struct ForwardPlan {
    static constexpr int M = D <= 64 ? 2 : 1, rows = 64 * M, keys = D <= 128 ? 64 : 32;
    using Rect = Tile<bf16, D>;
    static constexpr int shared = Rect::bytes(rows) + 4 * Rect::bytes(keys) + rows * int(sizeof(int));
};

extern __shared__ __align__(128) char shared_memory[];

template <int D>
__global__ void __launch_bounds__(tensor_threads, 2)
attention_forward_kernel(Heads<bf16> out, float* lse, Heads<const bf16> q, Heads<const bf16> k, Heads<const bf16> v, Problem p) {
    using Plan = ForwardPlan<D>;
    using Rect = Tile<bf16, D>;
    constexpr int M = Plan::M, N = Plan::keys, rows = Plan::rows;
    const Rect    qs{shared_memory};
    char* const   stages = shared_memory + Rect::bytes(rows);
    const auto    ks     = [=](int stage) { return Rect{stages + stage * 2 * Rect::bytes(N)}; };
    const auto    vs     = [=](int stage) { return Rect{stages + stage * 2 * Rect::bytes(N) + Rect::bytes(N)}; };
    int* const    first  = reinterpret_cast<int*>(stages + 4 * Rect::bytes(N));

    const Place at(p, rows, true);
    const int   lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M;  // of this warp, within the tile
    const auto  kh = k.at(at.b, at.h), vh = v.at(at.b, at.h);
    const int2  seen = first_keys<tensor_threads, rows>(first, p, at);
    const int   end = min(p.past + at.row + rows, p.keys()), all_end = p.past + at.row + 1;

    Sums<M, D> acc;
    float      top[M][2], l[M][2];  // of rows lane/4 and lane/4 + 8: the largest score, before scaling; this lane's share of l
    clear<M, D>(acc);
    for (int m = 0; m < M; m++) top[m][0] = top[m][1] = -FLT_MAX, l[m][0] = l[m][1] = 0.f;
    const float c = p.scale * log2e;
    const auto  scaled = [=](float m) { return fmaxf(m * c, -FLT_MAX); };  // finite, so that differences are never NaN

    fetch<tensor_threads, rows>(qs, q.at(at.b, at.h), at.row, p.T, p.D);
    fetch<tensor_threads, N>(ks(0), kh, seen.x, end, p.D);
    fetch<tensor_threads, N>(vs(0), vh, seen.x, end, p.D);
    for (int key = seen.x, stage = 0; key < end; key += N, stage ^= 1) {
        wait_for_copies();
        __syncthreads();  // this stage is full, and everyone is done with the other
        if (key + N < end) {
            fetch<tensor_threads, N>(ks(stage ^ 1), kh, key + N, end, p.D);
            fetch<tensor_threads, N>(vs(stage ^ 1), vh, key + N, end, p.D);
        }
        Sums<M, N> s;
        product_turned<M, N, D>(s, qs, row, ks(stage));
        if (key < seen.y || key + N > all_end)
            each_sum<M, N>(s, [&](float& x, int i, int j) {
                if (key + j < first[row + i] || key + j > p.past + at.row + row + i) x = -INFINITY;
            });

#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float highest = top[m][i];
#pragma unroll
                for (int n = 0; n < N / 8; n++) highest = fmaxf(highest, fmaxf(s[m][n][2 * i], s[m][n][2 * i + 1]));
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
                const float shift = scaled(highest), shrink = exp2_fast(scaled(top[m][i]) - shift);
                float       sum   = 0.f;
#pragma unroll
                for (int n = 0; n < N / 8; n++)
#pragma unroll
                    for (int j = 2 * i; j < 2 * i + 2; j++) sum += s[m][n][j] = exp2_fast(fmaf(s[m][n][j], c, -shift));
                top[m][i] = highest;
                l[m][i]   = l[m][i] * shrink + sum;
#pragma unroll
                for (int n = 0; n < D / 8; n++) acc[m][n][2 * i] *= shrink, acc[m][n][2 * i + 1] *= shrink;
            }
        Pairs<M, N> weights;
        round_to_pairs<M, N>(weights, s);
        product<M, N, D>(acc, weights, vs(stage));
    }

    float factor[M][2];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float sum = l[m][i];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            factor[m][i] = 1.f / sum;
            const int t  = at.row + row + 16 * m + lane / 4 + 8 * i;
            if (!lse || lane % 4 || t >= p.T) continue;
            // The shift was rounded; with scores of 1e4 that is felt, and taken back here.
            const float missed = fmaf(top[m][i], c, -scaled(top[m][i]));
            lse[(int64_t(at.b) * p.H + at.h) * p.T + t] = fmaf(top[m][i], p.scale, logf(sum) - missed * ln2);
        }
    store_rows<M, D>(out.at(at.b, at.h), qs, acc, factor, at.row, row, p.T, p.D);
}

// ---- tensor cores: backward ---------------------------------------------------------------------------------------------

template <int D> struct QueryPlan {
    static constexpr int M = D <= 64 ? 2 : 1, rows = 64 * M, keys = D <= 64 ? 32 : D <= 96 ? 64 : D <= 192 ? 32 : 16;
    using Rect = Tile<bf16, D>;
    static constexpr int shared = 2 * Rect::bytes(rows) + 4 * Rect::bytes(keys) + rows * int(sizeof(int));
};

// p of a score: exp(scale s - lse). The difference comes first, so that large scores lose nothing.
__device__ inline float weight(float s, float scale, float lse) { return exp2_fast(fmaf(s, scale, -lse) * log2e); }

// dq, and δ (B,H,T) for the other kernel.
template <int D>
__global__ void __launch_bounds__(tensor_threads, 2)
attention_backward_q_kernel(Heads<bf16> dq, float* delta, Heads<const bf16> dout, Heads<const bf16> out, const float* lse,
                            Heads<const bf16> q, Heads<const bf16> k, Heads<const bf16> v, Problem p) {
    using Plan = QueryPlan<D>;
    using Rect = Tile<bf16, D>;
    constexpr int M = Plan::M, N = Plan::keys, rows = Plan::rows;
    const Rect    qs{shared_memory}, douts{shared_memory + Rect::bytes(rows)};
    char* const   stages = shared_memory + 2 * Rect::bytes(rows);
    const auto    ks     = [=](int stage) { return Rect{stages + stage * 2 * Rect::bytes(N)}; };
    const auto    vs     = [=](int stage) { return Rect{stages + stage * 2 * Rect::bytes(N) + Rect::bytes(N)}; };
    int* const    first  = reinterpret_cast<int*>(stages + 4 * Rect::bytes(N));

    const Place at(p, rows, true);
    const int   lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M;
    const auto  kh = k.at(at.b, at.h), vh = v.at(at.b, at.h), outh = out.at(at.b, at.h);
    fetch<tensor_threads, rows>(qs, q.at(at.b, at.h), at.row, p.T, p.D);
    fetch<tensor_threads, rows>(douts, dout.at(at.b, at.h), at.row, p.T, p.D);
    const int2 seen = first_keys<tensor_threads, rows>(first, p, at);
    const int  end = min(at.row + rows, p.T), all_end = at.row + 1;
    fetch<tensor_threads, N>(ks(0), kh, seen.x, end, p.D);
    fetch<tensor_threads, N>(vs(0), vh, seen.x, end, p.D);
    wait_for_copies();
    __syncthreads();

    float row_lse[M][2], row_delta[M][2], factor[M][2];  // of rows lane/4 and lane/4 + 8
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int     r = row + 16 * m + lane / 4 + 8 * i, t = at.row + r;
            const int64_t of = (int64_t(at.b) * p.H + at.h) * p.T + t;
            float         sum = 0.f;
            for (int column = lane % 4; t < p.T && 8 * column < p.D; column += 4) {  // four lanes share a row
                const uint4 a = *reinterpret_cast<const uint4*>(outh[t] + 8 * column);
                const uint4 b = *reinterpret_cast<const uint4*>(douts.at(r, column));
                const auto  both = [&](uint32_t x, uint32_t y) {
                    sum = fmaf(__uint_as_float(x << 16), __uint_as_float(y << 16), sum);
                    sum = fmaf(__uint_as_float(x & 0xffff0000u), __uint_as_float(y & 0xffff0000u), sum);
                };
                both(a.x, b.x), both(a.y, b.y), both(a.z, b.z), both(a.w, b.w);
            }
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            if (lane % 4 == 0 && t < p.T) delta[of] = sum;
            row_delta[m][i] = sum;
            row_lse[m][i]   = t < p.T ? lse[of] : 0.f;
            factor[m][i]    = p.scale;
        }

    Sums<M, D> acc;
    clear<M, D>(acc);
    for (int key = seen.x, stage = 0; key < end; key += N, stage ^= 1) {
        wait_for_copies();
        __syncthreads();
        if (key + N < end) {
            fetch<tensor_threads, N>(ks(stage ^ 1), kh, key + N, end, p.D);
            fetch<tensor_threads, N>(vs(stage ^ 1), vh, key + N, end, p.D);
        }
        Sums<M, N> s, dp;
        product_turned<M, N, D>(s, qs, row, ks(stage));
        if (key < seen.y || key + N > all_end)
            each_sum<M, N>(s, [&](float& x, int i, int j) {
                if (key + j < first[row + i] || key + j > at.row + row + i) x = -INFINITY;
            });
        product_turned<M, N, D>(dp, douts, row, vs(stage));
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    s[m][n][i] = weight(s[m][n][i], p.scale, row_lse[m][i / 2]) * (dp[m][n][i] - row_delta[m][i / 2]);
        Pairs<M, N> ds;
        round_to_pairs<M, N>(ds, s);
        product<M, N, D>(acc, ds, ks(stage));
    }
    store_rows<M, D>(dq.at(at.b, at.h), qs, acc, factor, at.row, row, p.T, p.D);
}

// dk and dv in one go take D registers each; above 128 they do not fit, and go one by one.
template <int D> struct KeyPlan {
    static constexpr bool together = D <= 128;
    static constexpr int  M = D <= 64 ? 2 : 1, rows = 64 * M, queries = D == 80 ? 64 : D <= 192 ? 32 : 16;
    using Rect = Tile<bf16, D>;
    static constexpr int shared = 2 * Rect::bytes(rows) + 4 * Rect::bytes(queries) + 6 * queries * int(sizeof(float));
};

template <int D, bool want_k, bool want_v>
__global__ void __launch_bounds__(tensor_threads, 2)
attention_backward_kv_kernel(Heads<bf16> dk, Heads<bf16> dv, Heads<const bf16> dout, const float* delta, const float* lse,
                             Heads<const bf16> q, Heads<const bf16> k, Heads<const bf16> v, Problem p) {
    using Plan = KeyPlan<D>;
    using Rect = Tile<bf16, D>;
    constexpr int M = Plan::M, N = Plan::queries, rows = Plan::rows;
    const Rect    ks{shared_memory}, vs{shared_memory + Rect::bytes(rows)};
    char* const   stages = shared_memory + 2 * Rect::bytes(rows);
    const auto    qs     = [=](int stage) { return Rect{stages + stage * 2 * Rect::bytes(N)}; };
    const auto    douts  = [=](int stage) { return Rect{stages + stage * 2 * Rect::bytes(N) + Rect::bytes(N)}; };
    float* const  words  = reinterpret_cast<float*>(stages + 4 * Rect::bytes(N));  // per stage: lse, δ, start of each query
    const auto    lses   = [=](int stage) { return words + stage * 3 * N; };
    const auto    deltas = [=](int stage) { return words + stage * 3 * N + N; };
    const auto    starts = [=](int stage) { return reinterpret_cast<int*>(words + stage * 3 * N + 2 * N); };

    const Place   at(p, rows, false);
    const int     lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M, last = min(at.row + rows, p.T) - 1;
    const auto    qh = q.at(at.b, at.h), douth = dout.at(at.b, at.h);
    const int64_t of = (int64_t(at.b) * p.H + at.h) * p.T;
    const int     end = last_query<tensor_threads>(p, at.b, at.row, last);
    const auto    fetch_queries = [&](int query, int stage) {
        fetch<tensor_threads, N>(qs(stage), qh, query, p.T, p.D);
        fetch<tensor_threads, N>(douts(stage), douth, query, p.T, p.D);
        const int  i = threadIdx.x % N, t = min(query + i, p.T - 1), team = threadIdx.x / N;
        const bool real = query + i < p.T;
        if (team == 0) copy_word_async(lses(stage) + i, lse + of + t, real);
        if (team == 1) copy_word_async(deltas(stage) + i, delta + of + t, real);
        if (p.starts && team == 2 % (tensor_threads / N))
            copy_word_async(starts(stage) + i, p.starts + int64_t(at.b) * p.T + t, real);
    };

    Sums<M, D> dk_sums, dv_sums;
    clear<M, D>(dk_sums), clear<M, D>(dv_sums);
    fetch<tensor_threads, rows>(ks, k.at(at.b, at.h), at.row, p.T, p.D);
    if (want_k) fetch<tensor_threads, rows>(vs, v.at(at.b, at.h), at.row, p.T, p.D);
    fetch_queries(at.row, 0);
    for (int query = at.row, stage = 0; query < end; query += N, stage ^= 1) {
        wait_for_copies();
        __syncthreads();
        if (query + N < end) fetch_queries(query + N, stage ^ 1);

        Sums<M, N>  s, dp;  // rows are keys, columns queries
        Pairs<M, N> pairs;
        product_turned<M, N, D>(s, ks, row, qs(stage));
        if (p.starts || query < last || query + N - p.window > at.row)
            each_sum<M, N>(s, [&](float& x, int i, int j) {
                const int t = query + j, key = at.row + row + i;
                if (key > t || key < first_key(t, p.starts ? starts(stage)[j] : 0, p.window)) x = -INFINITY;
            });
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
            const float2 of_query = *reinterpret_cast<const float2*>(lses(stage) + 8 * n + lane % 4 * 2);
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[m][n][i] = weight(s[m][n][i], p.scale, i % 2 ? of_query.y : of_query.x);
        }
        if (want_v) {
            round_to_pairs<M, N>(pairs, s);
            product<M, N, D>(dv_sums, pairs, douts(stage));
        }
        if (want_k) {
            product_turned<M, N, D>(dp, vs, row, douts(stage));
#pragma unroll
            for (int n = 0; n < N / 8; n++) {
                const float2 of_query = *reinterpret_cast<const float2*>(deltas(stage) + 8 * n + lane % 4 * 2);
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int i = 0; i < 4; i++) s[m][n][i] *= dp[m][n][i] - (i % 2 ? of_query.y : of_query.x);
            }
            round_to_pairs<M, N>(pairs, s);
            product<M, N, D>(dk_sums, pairs, qs(stage));
        }
    }
    float one[M][2], scales[M][2];
    for (int m = 0; m < M; m++) one[m][0] = one[m][1] = 1.f, scales[m][0] = scales[m][1] = p.scale;
    if (want_k) store_rows<M, D>(dk.at(at.b, at.h), vs, dk_sums, scales, at.row, row, p.T, p.D);
    if (want_v) store_rows<M, D>(dv.at(at.b, at.h), ks, dv_sums, one, at.row, row, p.T, p.D);
}

// ---- plainly, in fp32 -----------------------------------------------------------------------------------------------------

// 8 warps; each owns R rows of the block's tile. For a bᵀ the 32 lanes are the rows of the passing tile, so a score's softmax is
// a reduction over lanes; for p b they are the columns. D here is the head size rounded up to 32, 64, 128 or 256.
constexpr int plain_threads = 256, passing = 32;

template <int D> struct PlainPlan {
    static constexpr int R = D <= 128 ? 4 : 2, rows = 8 * R;
    using Rect = Tile<float, D>;
    static constexpr int weights = rows * passing * int(sizeof(float));
    static constexpr int shared(int owned) { return owned * Rect::bytes(rows) + 2 * Rect::bytes(passing) + weights; }
};

// As fetch(), from any dtype and alignment; a barrier comes before the first look.
template <int rows, int D, class X>
__device__ inline void load_tile(Tile<float, D> tile, Rows<const X> from, int first, int end, const Problem& p) {
    if constexpr (std::is_same_v<X, float>)
        if (p.is_wide) return fetch<plain_threads, rows>(tile, from, first, end, p.D), wait_for_copies();
#pragma unroll 2
    for (int i = threadIdx.x; i < rows * D; i += plain_threads) {
        const int row = i / D, d = i % D;
        tile.at(row, d / 4)[d % 4] = first + row < end && d < p.D ? float(from[first + row][d]) : 0.f;
    }
}

// c[i] = row (row + i) of a · row lane of b, added in the order of d: equal rows have equal products to the bit.
template <int R, int D>
__device__ inline void plain_product_turned(float (&c)[R], Tile<float, D> a, int row, Tile<float, D> b) {
    const int lane = threadIdx.x % 32;
    for (float& x : c) x = 0.f;
#pragma unroll 2
    for (int d = 0; d < D / 4; d++) {
        const float4 y = *reinterpret_cast<const float4*>(b.at(lane, d));
#pragma unroll
        for (int i = 0; i < R; i++) {
            const float4 x = *reinterpret_cast<const float4*>(a.at(row + i, d));
            c[i] = fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, c[i]))));
        }
    }
}

// c[i][j] += Σ_s p[i][s] b[s][lane + 32 j]. p (R, 32) is the warp's own in shared memory, lane s has written p[i][s].
template <int R, int D>
__device__ inline void plain_product(float (&c)[R][D / 32], const float* p, Tile<float, D> b) {
    const int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll 1
    for (int s = 0; s < passing; s += 4) {
        float4 x[R];
#pragma unroll
        for (int i = 0; i < R; i++) x[i] = *reinterpret_cast<const float4*>(p + i * passing + s);
#pragma unroll
        for (int j = 0; j < D / 32; j++) {
            float y[4];
#pragma unroll
            for (int u = 0; u < 4; u++) y[u] = b.at(s + u, lane / 4 + 8 * j)[lane % 4];
#pragma unroll
            for (int i = 0; i < R; i++)
                c[i][j] = fmaf(x[i].w, y[3], fmaf(x[i].z, y[2], fmaf(x[i].y, y[1], fmaf(x[i].x, y[0], c[i][j]))));
        }
    }
    __syncwarp();
}

template <int R, int D> __device__ inline void plain_clear(float (&c)[R][D / 32]) {
    for (auto& row : c)
        for (float& x : row) x = 0.f;
}

template <int R, int D, class X>
__device__ inline void plain_store(Rows<X> to, const float (&c)[R][D / 32], const float (&factor)[R], int row, int end, int width) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < D / 32; j++)
            if (row + i < end && lane + 32 * j < width) to[row + i][lane + 32 * j] = X(c[i][j] * factor[i]);
}

template <class X, int D>
__global__ void __launch_bounds__(plain_threads, 2)
attention_forward_plain_kernel(Heads<X> out, float* lse, Heads<const X> q, Heads<const X> k, Heads<const X> v, Problem p) {
    using Plan = PlainPlan<D>;
    using Rect = Tile<float, D>;
    constexpr int R = Plan::R, rows = Plan::rows;
    __shared__ int first[rows];
    const Rect     qs{shared_memory}, ks{qs.p + Rect::bytes(rows)}, vs{ks.p + Rect::bytes(passing)};
    const Place    at(p, rows, true);
    const int      lane = threadIdx.x % 32, row = threadIdx.x / 32 * R;
    float* const   weights = reinterpret_cast<float*>(vs.p + Rect::bytes(passing)) + row * passing;
    const int2     seen = first_keys<plain_threads, rows>(first, p, at);
    const int      end = min(p.past + at.row + rows, p.keys());

    float acc[R][D / 32], top[R], l[R];
    plain_clear<R, D>(acc);
    for (int i = 0; i < R; i++) top[i] = -FLT_MAX, l[i] = 0.f;
    load_tile<rows>(qs, q.at(at.b, at.h), at.row, p.T, p);
    for (int key = seen.x; key < end; key += passing) {
        __syncthreads();
        load_tile<passing>(ks, k.at(at.b, at.h), key, end, p);
        load_tile<passing>(vs, v.at(at.b, at.h), key, end, p);
        __syncthreads();
        float s[R];
        plain_product_turned<R>(s, qs, row, ks);
#pragma unroll
        for (int i = 0; i < R; i++) {
            const bool  sees    = key + lane >= first[row + i] && key + lane <= p.past + at.row + row + i;
            const float x       = sees ? s[i] * p.scale : -INFINITY;
            float       highest = fmaxf(top[i], x);
            for (int j = 16; j; j /= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, j));
            const float shrink = expf(top[i] - highest), w = expf(x - highest);
            top[i] = highest;
            l[i]   = l[i] * shrink + w;
#pragma unroll
            for (int j = 0; j < D / 32; j++) acc[i][j] *= shrink;
            weights[i * passing + lane] = w;
        }
        plain_product<R>(acc, weights, vs);
    }
    float factor[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        float sum = l[i];
        for (int j = 16; j; j /= 2) sum += __shfl_xor_sync(~0u, sum, j);
        factor[i]   = 1.f / sum;
        const int t = at.row + row + i;
        if (lse && lane == 0 && t < p.T) lse[(int64_t(at.b) * p.H + at.h) * p.T + t] = top[i] + logf(sum);
    }
    plain_store<R, D>(out.at(at.b, at.h), acc, factor, at.row + row, p.T, p.D);
}

template <class X, int D>
__global__ void __launch_bounds__(plain_threads, 2)
attention_backward_q_plain_kernel(Heads<X> dq, float* delta, Heads<const X> dout, Heads<const X> out, const float* lse,
                                  Heads<const X> q, Heads<const X> k, Heads<const X> v, Problem p) {
    using Plan = PlainPlan<D>;
    using Rect = Tile<float, D>;
    constexpr int R = Plan::R, rows = Plan::rows;
    __shared__ int first[rows];
    const Rect     qs{shared_memory}, douts{qs.p + Rect::bytes(rows)}, ks{douts.p + Rect::bytes(rows)};
    const Rect     vs{ks.p + Rect::bytes(passing)};
    const Place    at(p, rows, true);
    const int      lane = threadIdx.x % 32, row = threadIdx.x / 32 * R;
    float* const   weights = reinterpret_cast<float*>(vs.p + Rect::bytes(passing)) + row * passing;
    const int2     seen = first_keys<plain_threads, rows>(first, p, at);
    const int      end = min(at.row + rows, p.T);

    load_tile<rows>(qs, q.at(at.b, at.h), at.row, p.T, p);
    load_tile<rows>(douts, dout.at(at.b, at.h), at.row, p.T, p);
    load_tile<passing>(ks, out.at(at.b, at.h), at.row, p.T, p);  // for δ; the first tile of keys takes its place
    __syncthreads();
    float acc[R][D / 32], row_lse[R], row_delta[R], factor[R];
    plain_clear<R, D>(acc);
    plain_product_turned<R>(row_delta, douts, row, ks);
#pragma unroll
    for (int i = 0; i < R; i++) {
        // δ is the same kind of sum as dp, so that a row which sees only itself has ds = p (dp - δ) = 0 exactly.
        row_delta[i]     = __shfl_sync(~0u, row_delta[i], row + i);
        const int     t  = at.row + row + i;
        const int64_t of = (int64_t(at.b) * p.H + at.h) * p.T + t;
        row_lse[i]       = t < p.T ? lse[of] : 0.f;
        factor[i]        = p.scale;
        if (lane == 0 && t < p.T) delta[of] = row_delta[i];
    }
    for (int key = seen.x; key < end; key += passing) {
        __syncthreads();
        load_tile<passing>(ks, k.at(at.b, at.h), key, end, p);
        load_tile<passing>(vs, v.at(at.b, at.h), key, end, p);
        __syncthreads();
        float s[R], dp[R];
        plain_product_turned<R>(s, qs, row, ks);
        plain_product_turned<R>(dp, douts, row, vs);
#pragma unroll
        for (int i = 0; i < R; i++) {
            const bool sees = key + lane >= first[row + i] && key + lane <= at.row + row + i;
            weights[i * passing + lane] = sees ? expf(s[i] * p.scale - row_lse[i]) * (dp[i] - row_delta[i]) : 0.f;
        }
        plain_product<R>(acc, weights, ks);
    }
    plain_store<R, D>(dq.at(at.b, at.h), acc, factor, at.row + row, p.T, p.D);
}

template <class X, int D>
__global__ void __launch_bounds__(plain_threads, 2)
attention_backward_kv_plain_kernel(Heads<X> dk, Heads<X> dv, Heads<const X> dout, const float* delta, const float* lse,
                                   Heads<const X> q, Heads<const X> k, Heads<const X> v, Problem p) {
    using Plan = PlainPlan<D>;
    using Rect = Tile<float, D>;
    constexpr int R = Plan::R, rows = Plan::rows;
    const Rect    ks{shared_memory}, vs{ks.p + Rect::bytes(rows)}, qs{vs.p + Rect::bytes(rows)};
    const Rect    douts{qs.p + Rect::bytes(passing)};
    const Place   at(p, rows, false);
    const int     lane = threadIdx.x % 32, row = threadIdx.x / 32 * R, last = min(at.row + rows, p.T) - 1;
    float* const  weights = reinterpret_cast<float*>(douts.p + Rect::bytes(passing)) + row * passing;
    const int64_t of = (int64_t(at.b) * p.H + at.h) * p.T;
    const int     end = last_query<plain_threads>(p, at.b, at.row, last);

    float dk_sums[R][D / 32], dv_sums[R][D / 32];
    plain_clear<R, D>(dk_sums), plain_clear<R, D>(dv_sums);
    load_tile<rows>(ks, k.at(at.b, at.h), at.row, p.T, p);
    load_tile<rows>(vs, v.at(at.b, at.h), at.row, p.T, p);
    for (int query = at.row; query < end; query += passing) {
        __syncthreads();
        load_tile<passing>(qs, q.at(at.b, at.h), query, p.T, p);
        load_tile<passing>(douts, dout.at(at.b, at.h), query, p.T, p);
        __syncthreads();
        const int   t = query + lane, first = t < p.T ? p.first(at.b, t) : INT_MAX;  // this lane's query
        const float row_lse = t < p.T ? lse[of + t] : 0.f, row_delta = t < p.T ? delta[of + t] : 0.f;
        float       s[R], dp[R];
        plain_product_turned<R>(s, ks, row, qs);
        plain_product_turned<R>(dp, vs, row, douts);
#pragma unroll
        for (int i = 0; i < R; i++) {
            const int key = at.row + row + i;
            s[i] = key >= first && key <= t ? expf(s[i] * p.scale - row_lse) : 0.f;
            weights[i * passing + lane] = s[i];
        }
        plain_product<R>(dv_sums, weights, douts);
#pragma unroll
        for (int i = 0; i < R; i++) weights[i * passing + lane] = s[i] * (dp[i] - row_delta);
        plain_product<R>(dk_sums, weights, qs);
    }
    float one[R], scales[R];
    for (int i = 0; i < R; i++) one[i] = 1.f, scales[i] = p.scale;
    plain_store<R, D>(dk.at(at.b, at.h), dk_sums, scales, at.row + row, p.T, p.D);
    plain_store<R, D>(dv.at(at.b, at.h), dv_sums, one, at.row + row, p.T, p.D);
}

// ---- with a cache ---------------------------------------------------------------------------------------------------------

// Appends the k and v of qkv (B,T,3,H,D) to the caches (B,H,S,D), a V at a time.
template <class V> __global__ void attention_append_kernel(Heads<V> k_cache, Heads<V> v_cache, const V* qkv, Problem p, int B) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, n = int64_t(B) * p.T * 2 * p.H * p.D;  // D counts Vs here
    if (i >= n) return;
    const int     d = i % p.D, h = i / p.D % p.H, which = i / p.D / p.H % 2;
    const int64_t row = i / p.D / p.H / 2;
    const int     b = row / p.T, t = row % p.T;
    (which ? v_cache : k_cache).at(b, h)[p.past + t][d] = qkv[((row * 3 + 1 + which) * p.H + h) * p.D + d];
}

// Elements [8 i, 8 i + 8) of a row of D, 16 bytes at a time when is_wide; zeros past its end.
template <class X> __device__ inline void load_eight(float (&x)[8], const X* row, int i, int D, bool is_wide) {
    if (is_wide && 8 * i < D) {
        constexpr int W = wide<X>;
        for (int part = 0; part < 8; part += W) {
            const Floats<W> some = load<W>(row + 8 * i + part);
            for (int j = 0; j < W; j++) x[part + j] = some[j];
        }
    } else {
        for (int j = 0; j < 8; j++) x[j] = 8 * i + j < D ? float(row[8 * i + j]) : 0.f;
    }
}

// One query against one part of its keys. L lanes hold a row, 8 elements each, so a warp reads 32 / L keys that follow each
// other in memory; each such group runs an online softmax of its own, and the groups of a block meet at the end, in order.
// New rows are read from qkv, not from the cache: the block with the first part of query t is the one to append row t.
// A part is D sums, the maximum and l.
constexpr int decode_threads = 128;

template <class X, int L>
__global__ void __launch_bounds__(decode_threads)
attention_decode_kernel(float* parts, Heads<const X> q, Heads<const X> k, Heads<const X> v, Heads<X> k_cache, Heads<X> v_cache,
                        Problem p, int count) {
    constexpr int groups = decode_threads / L, together = 4;  // keys that a group has under way
    __shared__ float sums[groups][8 * L], tops[groups], ls[groups];
    const int part = blockIdx.x % count, t = blockIdx.x / count % p.T, i = blockIdx.x / count / p.T, b = i / p.H, h = i % p.H;
    const int lane = threadIdx.x % L, group = threadIdx.x / L;
    const int begin = p.first(b, t), n = p.past + t + 1 - begin;
    const int first = begin + int(int64_t(n) * part / count), end = begin + int(int64_t(n) * (part + 1) / count);
    const auto new_k = k.at(b, h), new_v = v.at(b, h);
    const auto old_k = k_cache.at(b, h), old_v = v_cache.at(b, h);
    if (part == 0)
        for (int d = threadIdx.x; d < p.D; d += decode_threads)
            old_k[p.past + t][d] = new_k[t][d], old_v[p.past + t][d] = new_v[t][d];

    float mine[8], acc[8] = {}, top = -FLT_MAX, l = 0.f;
    load_eight(mine, q.at(b, h)[t], lane, p.D, p.is_wide);
    for (int key = first; key < end; key += groups * together) {
        float ks[together][8], vs[together][8], s[together];
#pragma unroll
        for (int u = 0; u < together; u++) {
            const int at = min(key + u * groups + group, end - 1);  // past the end the last key again, without weight
            load_eight(ks[u], at < p.past ? old_k[at] : new_k[at - p.past], lane, p.D, p.is_wide);
            load_eight(vs[u], at < p.past ? old_v[at] : new_v[at - p.past], lane, p.D, p.is_wide);
        }
        float highest = top;
#pragma unroll
        for (int u = 0; u < together; u++) {
            s[u] = 0.f;
            for (int j = 0; j < 8; j++) s[u] = fmaf(mine[j], ks[u][j], s[u]);
            for (int j = L / 2; j; j /= 2) s[u] += __shfl_xor_sync(~0u, s[u], j);
            s[u]    = key + u * groups + group < end ? s[u] * p.scale : -INFINITY;
            highest = fmaxf(highest, s[u]);
        }
        const float shrink = expf(top - highest);
        top = highest, l *= shrink;
        for (float& x : acc) x *= shrink;
#pragma unroll
        for (int u = 0; u < together; u++) {
            const float w = expf(s[u] - top);
            l += w;
            for (int j = 0; j < 8; j++) acc[j] = fmaf(w, vs[u][j], acc[j]);
        }
    }

    for (int j = 0; j < 8; j++) sums[group][8 * lane + j] = acc[j];
    if (lane == 0) tops[group] = top, ls[group] = l;
    __syncthreads();
    float highest = -FLT_MAX, sum = 0.f;
    for (int g = 0; g < groups; g++) highest = fmaxf(highest, tops[g]);
    for (int g = 0; g < groups; g++) sum += expf(tops[g] - highest) * ls[g];
    float* const result = parts + int64_t(blockIdx.x) * (p.D + 2);
    for (int d = threadIdx.x; d < p.D; d += decode_threads) {
        float total = 0.f;
        for (int g = 0; g < groups; g++) total += expf(tops[g] - highest) * sums[g][d];
        result[d] = total;
    }
    if (threadIdx.x == 0) result[p.D] = highest, result[p.D + 1] = sum;
}

// out = the parts of each query, in order.
template <class X>
__global__ void __launch_bounds__(64) attention_combine_kernel(Heads<X> out, const float* parts, Problem p, int count) {
    const int    t = blockIdx.x % p.T, i = blockIdx.x / p.T, D = p.D;
    const float* part = parts + int64_t(blockIdx.x) * count * (D + 2);
    float        highest = -FLT_MAX, l = 0.f;
    for (int c = 0; c < count; c++) highest = fmaxf(highest, part[c * (D + 2) + D]);
    for (int c = 0; c < count; c++) l += expf(part[c * (D + 2) + D] - highest) * part[c * (D + 2) + D + 1];
    for (int d = threadIdx.x; d < D; d += 64) {
        float total = 0.f;
        for (int c = 0; c < count; c++) total += expf(part[c * (D + 2) + D] - highest) * part[c * (D + 2) + d];
        out.at(i / p.H, i % p.H)[t][d] = X(total / l);
    }
}

// ---- doors ------------------------------------------------------------------------------------------------------------------

// Calls f with the smallest of the sizes that D fits into, as a constant.
template <int first, int... rest, class F> void for_size(int64_t D, F f) {
    if constexpr (sizeof...(rest) == 0) f(std::integral_constant<int, first>{});
    else if (D <= first) f(std::integral_constant<int, first>{});
    else for_size<rest...>(D, f);
}
template <class F> void for_tensor_size(int64_t D, F f) { for_size<32, 64, 80, 96, 128, 192, 256>(D, f); }
template <class F> void for_plain_size(int64_t D, F f) { for_size<32, 64, 128, 256>(D, f); }

template <class X> Heads<X> heads_of_qkv(Tensor qkv, int64_t which) {
    const int64_t T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4];
    return {qkv.data<std::remove_const_t<X>>() + which * H * D, T * 3 * H * D, D, int(3 * H * D)};
}
template <class X> Heads<X> heads_of(Tensor x) {  // (B,T,H,D)
    const int64_t T = x.shape[1], H = x.shape[2], D = x.shape[3];
    return {x.data<std::remove_const_t<X>>(), T * H * D, D, int(H * D)};
}
template <class X> Heads<X> heads_of_cache(Tensor x) {  // (B,H,S,D)
    const int64_t H = x.shape[1], S = x.shape[2], D = x.shape[3];
    return {x.data<std::remove_const_t<X>>(), H * S * D, S * D, int(D)};
}

// The pointers are those whose rows are to be moved 16 bytes at a time.
inline Problem problem(Tensor qkv, Tensor starts, int64_t past, float scale, int64_t window, std::initializer_list<Tensor> rows) {
    const int64_t D = qkv.shape[4];
    const bool    aligned_rows = std::all_of(rows.begin(), rows.end(), [](const Tensor& t) { return aligned(static_cast<char*>(t.ptr)); });
    return {int(qkv.shape[1]), int(qkv.shape[3]), int(D), int(past), scale, std::min<int64_t>(window, INT_MAX),
            starts ? starts.data<int32_t>() : nullptr, D * size_of(qkv.dtype) % 16 == 0 && aligned_rows};
}
inline int64_t blocks(Tensor qkv, int rows) { return qkv.shape[0] * qkv.shape[3] * ceil_div(qkv.shape[1], rows); }

template <class X>
void forward_tiles(Heads<X> out, float* lse, Heads<const X> q, Heads<const X> k, Heads<const X> v, Problem p, Tensor qkv,
                   Queue& queue) {
    if constexpr (std::is_same_v<X, bf16>) {
        if (p.is_wide) return for_tensor_size(p.D, [&](auto D) {
            using Plan = ForwardPlan<D>;
            launch(attention_forward_kernel<D>, {blocks(qkv, Plan::rows), tensor_threads, Plan::shared}, queue, out, lse, q, k, v, p);
        });
    }
    for_plain_size(p.D, [&](auto D) {
        using Plan = PlainPlan<D>;
        launch(attention_forward_plain_kernel<X, D>, {blocks(qkv, Plan::rows), plain_threads, Plan::shared(1)}, queue, out, lse, q, k, v,
               p);
    });
}

template <class X>
void attention_forward(Tensor out, Tensor lse, Tensor qkv, Tensor starts, float scale, int64_t window, Queue& queue) {
    const Problem p = problem(qkv, starts, 0, scale, window, {out, qkv});
    forward_tiles<X>(heads_of<X>(out), lse.data<float>(), heads_of_qkv<const X>(qkv, 0), heads_of_qkv<const X>(qkv, 1),
                     heads_of_qkv<const X>(qkv, 2), p, qkv, queue);
}

template <class X>
void attention_backward(Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv, Tensor starts, float scale, int64_t window,
                        Queue& queue) {
    const Problem      p = problem(qkv, starts, 0, scale, window, {dqkv, dout, out, qkv});
    const auto         dq = heads_of_qkv<X>(dqkv, 0), dk = heads_of_qkv<X>(dqkv, 1), dv = heads_of_qkv<X>(dqkv, 2);
    const auto         q = heads_of_qkv<const X>(qkv, 0), k = heads_of_qkv<const X>(qkv, 1), v = heads_of_qkv<const X>(qkv, 2);
    const auto         y = heads_of<const X>(out), dy = heads_of<const X>(dout);
    const float* const l     = lse.data<float>();
    float* const       delta = queue.scratch_of<float>(lse.numel());
    if constexpr (std::is_same_v<X, bf16>) {
        if (p.is_wide) return for_tensor_size(p.D, [&](auto D) {
            using Queries = QueryPlan<D>;
            using Keys    = KeyPlan<D>;
            const auto kv = [&](auto kernel) {
                launch(kernel, {blocks(qkv, Keys::rows), tensor_threads, Keys::shared}, queue, dk, dv, dy, delta, l, q, k, v, p);
            };
            launch(attention_backward_q_kernel<D>, {blocks(qkv, Queries::rows), tensor_threads, Queries::shared}, queue, dq, delta, dy, y,
                   l, q, k, v, p);
            if constexpr (Keys::together) kv(attention_backward_kv_kernel<D, true, true>);
            else kv(attention_backward_kv_kernel<D, true, false>), kv(attention_backward_kv_kernel<D, false, true>);
        });
    }
    for_plain_size(p.D, [&](auto D) {
        using Plan = PlainPlan<D>;
        launch(attention_backward_q_plain_kernel<X, D>, {blocks(qkv, Plan::rows), plain_threads, Plan::shared(2)}, queue, dq, delta, dy, y,
               l, q, k, v, p);
        launch(attention_backward_kv_plain_kernel<X, D>, {blocks(qkv, Plan::rows), plain_threads, Plan::shared(2)}, queue, dk, dv, dy,
               delta, l, q, k, v, p);
    });
}

template <class X>
void attention_cached(Tensor out, Tensor k_cache, Tensor v_cache, Tensor qkv, int64_t past, float scale, int64_t window,
                      Queue& queue) {
    const int64_t B = qkv.shape[0], T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4];
    const Problem p = problem(qkv, {}, past, scale, window, {out, k_cache, v_cache, qkv});
    const auto    q = heads_of_qkv<const X>(qkv, 0), k = heads_of_qkv<const X>(qkv, 1), v = heads_of_qkv<const X>(qkv, 2);
    if (T >= 16) {  // tiles of queries
        const auto append = [&](auto unit) {
            using V = decltype(unit);
            constexpr int per = sizeof(V) / sizeof(X);
            Problem       in_units = p;
            in_units.D /= per;
            const auto cache = [&](Tensor t) {
                const Heads<X> all = heads_of_cache<X>(t);
                return Heads<V>{reinterpret_cast<V*>(all.p), all.batch / per, all.head / per, all.row / per};
            };
            launch(attention_append_kernel<V>, {ceil_div(B * T * 2 * H * D / per, 256), 256}, queue, cache(k_cache), cache(v_cache),
                   static_cast<const V*>(qkv.ptr), in_units, int(B));
        };
        if (p.is_wide) append(uint4{});
        else append(X(0));
        return forward_tiles<X>(heads_of<X>(out), nullptr, q, heads_of_cache<const X>(k_cache), heads_of_cache<const X>(v_cache), p,
                                qkv, queue);
    }
    // About 512 blocks, or fewer with 64 keys each: a function of the shapes, so that every GPU adds in the same order.
    const int64_t rows = B * H * T, keys = std::min(past + T, window);
    const int     count = int(std::max<int64_t>(1, std::min<int64_t>({512 / rows, keys / 64, 64})));
    float* const  parts = queue.scratch_of<float>(rows * count * (D + 2));
    for_size<1, 2, 4, 8, 16, 32>((D + 7) / 8, [&](auto L) {
        launch(attention_decode_kernel<X, L>, {rows * count, decode_threads}, queue, parts, q, k, v, heads_of_cache<X>(k_cache),
               heads_of_cache<X>(v_cache), p, count);
    });
    launch(attention_combine_kernel<X>, {rows, 64}, queue, heads_of<X>(out), static_cast<const float*>(parts), p, count);
}

}  // namespace gpu
