// attention_tensor.cuh - attention on tensor cores: bf16, D a multiple of 8 up to 256
//
// A warp owns 16 or 32 rows of its block's tile. Only two kinds of product occur: a bᵀ with both in shared memory,
// and p b with p in registers: the sums of the first, rounded to bf16, lie exactly as mma wants the left factor of
// the second.
#pragma once
#include "attention_tiles.cuh"

namespace gpu {

constexpr float log2e = 1.44269504f, ln2 = 0.693147181f;

// Blocks of 4 warps, two of them on a multiprocessor: 255 registers a thread. A warp with 32 rows instead of 16 reads
// the tiles that pass half as often; up to D = 64 its sums leave room for that.
constexpr int tensor_threads = 128;

// ---- products on tensor cores --------------------------------------------------------------------------------------

// A 16 × 8 block of sums c lies in a warp as: lane l holds rows l/4 (c[0], c[1]) and l/4 + 8 (c[2], c[3]), columns 2
// (l%4) and the next. The left factor a (16 × 16) is two such blocks of pairs: a[0], a[1] columns 0-7, a[2], a[3]
// columns 8-15 (PTX ISA, "Matrix fragments for mma.m16n8k16").
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 × 8 matrices; lane l gives the address of row l%8 of matrix l/8.
__device__ inline void load_matrices(uint32_t (&m)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}
__device__ inline void load_matrices_turned(uint32_t (&m)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

__device__ inline float exp2_fast(float x) {  // 2 ulp; exact at 0, 0 at -inf
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// What a warp holds of 16 M rows × N columns, in blocks of `Columns`. Structures, because nvcc 12.4 breaks on a template
// alias of an array.
template <class T, int M, int N, int Columns>
struct Blocks {
    T at[M][N / Columns][4];
    __device__ auto& operator[](int m) { return at[m]; }
    __device__ const auto& operator[](int m) const { return at[m]; }
};
template <int M, int N>
using Sums = Blocks<float, M, N, 8>;
template <int M, int N>
using Pairs = Blocks<uint32_t, M, N, 16>;  // as bf16, left factor of the next product

template <int M, int N>
__device__ inline void clear(Sums<M, N>& c) {
    for (auto& row : c.at)
        for (auto& block : row)
            for (float& x : block) x = 0.f;
}

// c = a bᵀ: rows [row, row + 16 M) of a, rows [0, N) of b.
template <int M, int N, int D>
__device__ inline void product_turned(Sums<M, N>& c, Tile<bf16, D> a, int row, Tile<bf16, D> b) {
    const int lane      = threadIdx.x % 32;
    const uint32_t of_a = a.place(row + lane % 16, lane / 16) * 16;
    const uint32_t of_b = b.place(lane / 16 * 8 + lane % 8, lane / 8 % 2) * 16;
    clear<M, N>(c);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t x[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) load_matrices(x[m], a.address() + a.further(of_a, 2 * k) + a.bytes(16 * m));
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            uint32_t y[4];
            load_matrices(y, b.address() + b.further(of_b, 2 * k) + b.bytes(16 * n));
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
    const int lane      = threadIdx.x % 32;
    const uint32_t of_b = b.place(lane % 16, lane / 16) * 16;
#pragma unroll
    for (int k = 0; k < K / 16; k++)
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t y[4];
            load_matrices_turned(y, b.address() + b.further(of_b, 2 * n) + b.bytes(16 * k));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma(c[m][2 * n], p[m][k], y[0], y[1]);
                mma(c[m][2 * n + 1], p[m][k], y[2], y[3]);
            }
        }
}

template <int M, int N>
__device__ inline void round_to_pairs(Pairs<M, N>& p, const Sums<M, N>& c) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i += 2) p[m][n / 2][n % 2 * 2 + i / 2] = bf16_pair(c[m][n][i], c[m][n][i + 1]);
}

// f(x, row, column) for each element that this lane holds.
template <int M, int N, class F>
__device__ inline void each_sum(Sums<M, N>& c, F f) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) f(c[m][n][i], 16 * m + lane / 4 + i / 2 * 8, 8 * n + lane % 4 * 2 + i % 2);
}

// Rows [first + row, first + row + 16 M) of a head = factor × sums, by way of the warp's own rows of a tile that is
// no longer needed, so that they leave 16 bytes at a time.
template <int M, int D>
__device__ inline void store_rows(Rows<bf16> to, Tile<bf16, D> tile, const Sums<M, D>& c, const float (&factor)[M][2],
                                  int first, int row, int end, int width) {
    constexpr int pieces = Tile<bf16, D>::pieces;
    const int lane       = threadIdx.x % 32;
    __syncwarp();
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

// ---- tensor cores: forward -----------------------------------------------------------------------------------------

// Two tiles that pass together, in two copies: one is worked on while the other fills.
template <int D, int rows>
struct Stages {
    using Rect                 = Tile<bf16, D>;
    static constexpr int bytes = 4 * Rect::bytes(rows);
    char* p;
    __device__ Rect a(int stage) const { return {p + 2 * stage * Rect::bytes(rows)}; }
    __device__ Rect b(int stage) const { return {p + (2 * stage + 1) * Rect::bytes(rows)}; }
    using From = Rows<const bf16>;
    __device__ void fill(int stage, From for_a, From for_b, int first, int end, int width) const {
        fetch<tensor_threads, rows>(a(stage), for_a, first, end, width);
        fetch<tensor_threads, rows>(b(stage), for_b, first, end, width);
    }
};

template <int D>
struct ForwardPlan {
    static constexpr int M = D <= 64 ? 2 : 1, rows = 64 * M, keys = D <= 128 ? 64 : 32;
    using Rect                  = Tile<bf16, D>;
    static constexpr int shared = Rect::bytes(rows) + Stages<D, keys>::bytes + rows * int(sizeof(int));
    static_assert(shared + 64 <= most_shared);
};

template <int D>
__global__ void __launch_bounds__(tensor_threads, 2)
    attention_forward_kernel(Heads<bf16> out, float* lse, Inputs<bf16> x, Problem p) {
    using Plan      = ForwardPlan<D>;
    using Rect      = Tile<bf16, D>;
    constexpr int M = Plan::M, N = Plan::keys, rows = Plan::rows;
    const Rect qs{shared_memory};
    const Stages<D, N> kv{qs.p + Rect::bytes(rows)};
    int* const first = reinterpret_cast<int*>(kv.p + kv.bytes);

    const Place at(p, rows, true);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M;  // of this warp, within the tile
    const auto kh = x.k.at(at.b, at.h), vh = x.v.at(at.b, at.h);
    const int2 seen = first_keys<tensor_threads, rows>(first, p, at);
    const int end = min(p.past + at.row + rows, p.keys()), all_end = p.past + at.row + 1;

    Sums<M, D> acc;
    float top[M][2], l[M][2];  // of rows lane/4 and lane/4 + 8: largest score, unscaled; this lane's share of l
    clear<M, D>(acc);
    for (int m = 0; m < M; m++) top[m][0] = top[m][1] = -FLT_MAX, l[m][0] = l[m][1] = 0.f;
    const float c     = p.scale * log2e;
    const auto scaled = [=](float m) { return fmaxf(m * c, -FLT_MAX); };  // finite, so that differences are never NaN

    fetch<tensor_threads, rows>(qs, x.q.at(at.b, at.h), at.row, p.T, p.D);
    kv.fill(0, kh, vh, seen.x, end, p.D);
    for (int key = seen.x, stage = 0; key < end; key += N, stage ^= 1) {
        wait_for_copies();
        __syncthreads();  // this stage is full, and everyone is done with the other
        if (key + N < end) kv.fill(stage ^ 1, kh, vh, key + N, end, p.D);
        Sums<M, N> s;
        product_turned<M, N, D>(s, qs, row, kv.a(stage));
        if (key < seen.y || key + N > all_end)
            each_sum<M, N>(s, [&](float& score, int i, int j) {
                if (key + j < first[row + i] || key + j > p.past + at.row + row + i) score = -INFINITY;
            });

#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float highest = top[m][i];
#pragma unroll
                for (int n = 0; n < N / 8; n++) highest = fmaxf(highest, fmaxf(s[m][n][2 * i], s[m][n][2 * i + 1]));
                highest           = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
                highest           = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
                const float shift = scaled(highest), shrink = exp2_fast(scaled(top[m][i]) - shift);
                float sum = 0.f;
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
        product<M, N, D>(acc, weights, kv.b(stage));
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
            lse[at.of(p) + t]  = fmaf(top[m][i], p.scale, logf(sum) - missed * ln2);
        }
    store_rows<M, D>(out.at(at.b, at.h), qs, acc, factor, at.row, row, p.T, p.D);
}

// ---- tensor cores: backward ----------------------------------------------------------------------------------------

template <int D>
struct QueryPlan {
    static constexpr int M = D <= 64 ? 2 : 1, rows = 64 * M, keys = D <= 64 ? 32 : D <= 96 ? 64 : D <= 192 ? 32 : 16;
    using Rect                  = Tile<bf16, D>;
    static constexpr int shared = 2 * Rect::bytes(rows) + Stages<D, keys>::bytes + rows * int(sizeof(int));
    static_assert(shared + 64 <= most_shared);
};

// p of a score: exp(scale s - lse). The difference comes first, so that large scores lose nothing.
__device__ inline float weight(float s, float scale, float lse) { return exp2_fast(fmaf(s, scale, -lse) * log2e); }

// dq, and δ (B,H,T) for the other kernel.
template <int D>
__global__ void __launch_bounds__(tensor_threads, 2)
    attention_backward_q_kernel(Heads<bf16> dq, float* delta, Heads<const bf16> dout, Heads<const bf16> out,
                                const float* lse, Inputs<bf16> x, Problem p) {
    using Plan      = QueryPlan<D>;
    using Rect      = Tile<bf16, D>;
    constexpr int M = Plan::M, N = Plan::keys, rows = Plan::rows;
    const Rect qs{shared_memory}, douts{qs.p + Rect::bytes(rows)};
    const Stages<D, N> kv{douts.p + Rect::bytes(rows)};
    int* const first = reinterpret_cast<int*>(kv.p + kv.bytes);

    const Place at(p, rows, true);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M;
    const auto kh = x.k.at(at.b, at.h), vh = x.v.at(at.b, at.h);
    const Rect outs{kv.p};  // until the keys come
    static_assert(Rect::bytes(rows) <= kv.bytes);
    fetch<tensor_threads, rows>(douts, dout.at(at.b, at.h), at.row, p.T, p.D);
    fetch<tensor_threads, rows>(outs, out.at(at.b, at.h), at.row, p.T, p.D);
    fetch<tensor_threads, rows>(qs, x.q.at(at.b, at.h), at.row, p.T, p.D);
    const int2 seen = first_keys<tensor_threads, rows>(first, p, at);
    const int end = min(at.row + rows, p.T), all_end = at.row + 1;
    wait_for_copies();
    __syncthreads();

    float row_lse[M][2], row_delta[M][2], factor[M][2];  // of rows lane/4 and lane/4 + 8
#pragma unroll
    for (int m = 0; m < M; m++) {
        // δ is the diagonal of a product like dP, so that a row which sees only itself has ds = p (dp - δ) = 0 exactly.
        Sums<1, 16> d;
        product_turned<1, 16, D>(d, douts, row + 16 * m, Rect{outs.p + Rect::bytes(row + 16 * m)});
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int t     = at.row + row + 16 * m + lane / 4 + 8 * i;
            const float own = lane / 4 % 2 ? d[0][i][2 * i + 1] : d[0][i][2 * i];  // where lane%4 is lane/8
            row_delta[m][i] = __shfl_sync(~0u, own, lane / 4 * 4 + lane / 8);
            row_lse[m][i]   = t < p.T ? lse[at.of(p) + t] : 0.f;
            factor[m][i]    = p.scale;
            if (lane % 4 == 0 && t < p.T) delta[at.of(p) + t] = row_delta[m][i];
        }
    }
    __syncthreads();
    kv.fill(0, kh, vh, seen.x, end, p.D);

    Sums<M, D> acc;
    clear<M, D>(acc);
    for (int key = seen.x, stage = 0; key < end; key += N, stage ^= 1) {
        wait_for_copies();
        __syncthreads();
        if (key + N < end) kv.fill(stage ^ 1, kh, vh, key + N, end, p.D);
        Sums<M, N> s, dp;
        product_turned<M, N, D>(s, qs, row, kv.a(stage));
        if (key < seen.y || key + N > all_end)
            each_sum<M, N>(s, [&](float& score, int i, int j) {
                if (key + j < first[row + i] || key + j > at.row + row + i) score = -INFINITY;
            });
        product_turned<M, N, D>(dp, douts, row, kv.b(stage));
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    s[m][n][i] = weight(s[m][n][i], p.scale, row_lse[m][i / 2]) * (dp[m][n][i] - row_delta[m][i / 2]);
        Pairs<M, N> ds;
        round_to_pairs<M, N>(ds, s);
        product<M, N, D>(acc, ds, kv.a(stage));
    }
    store_rows<M, D>(dq.at(at.b, at.h), qs, acc, factor, at.row, row, p.T, p.D);
}

// dk and dv in one block take D registers each; above 128 they do not fit, and have a block each.
template <int D>
struct KeyPlan {
    static constexpr bool together = D <= 128;
    static constexpr int M = D <= 64 ? 2 : 1, rows = 64 * M, queries = D == 80 ? 64 : D <= 192 ? 32 : 16;
    using Rect                  = Tile<bf16, D>;
    static constexpr int shared = 2 * Rect::bytes(rows) + Stages<D, queries>::bytes + 6 * queries * int(sizeof(float));
    static_assert(shared + 64 <= most_shared);
};

template <int D, bool want_k, bool want_v>
__device__ void attention_backward_kv(unsigned block, Heads<bf16> dk, Heads<bf16> dv, Heads<const bf16> dout,
                                      const float* delta, const float* lse, Inputs<bf16> x, Problem p) {
    using Plan      = KeyPlan<D>;
    using Rect      = Tile<bf16, D>;
    constexpr int M = Plan::M, N = Plan::queries, rows = Plan::rows;
    const Rect ks{shared_memory}, vs{ks.p + Rect::bytes(rows)};
    const Stages<D, N> passing{vs.p + Rect::bytes(rows)};                      // q and dout
    float* const words = reinterpret_cast<float*>(passing.p + passing.bytes);  // their lse, δ and start
    const auto lses    = [=](int stage) { return words + stage * 3 * N; };
    const auto deltas  = [=](int stage) { return words + stage * 3 * N + N; };
    const auto starts  = [=](int stage) { return reinterpret_cast<int*>(words + stage * 3 * N + 2 * N); };

    const Place at(p, rows, false, block);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M, last = min(at.row + rows, p.T) - 1;
    const auto qh = x.q.at(at.b, at.h), douth = dout.at(at.b, at.h);
    const int64_t of         = at.of(p);
    const int end            = last_query<tensor_threads>(p, at.b, at.row, last);
    const auto fetch_queries = [&](int query, int stage) {
        passing.fill(stage, qh, douth, query, p.T, p.D);
        const int i = threadIdx.x % N, t = min(query + i, p.T - 1), team = threadIdx.x / N;
        const bool real = query + i < p.T;
        if (team == 0) copy_word_async(lses(stage) + i, lse + of + t, real);
        if (team == 1) copy_word_async(deltas(stage) + i, delta + of + t, real);
        if (p.starts && team == 2 % (tensor_threads / N))
            copy_word_async(starts(stage) + i, p.starts + int64_t(at.b) * p.T + t, real);
    };

    Sums<M, D> dk_sums, dv_sums;
    clear<M, D>(dk_sums), clear<M, D>(dv_sums);
    fetch<tensor_threads, rows>(ks, x.k.at(at.b, at.h), at.row, p.T, p.D);
    if (want_k) fetch<tensor_threads, rows>(vs, x.v.at(at.b, at.h), at.row, p.T, p.D);
    fetch_queries(at.row, 0);
    for (int query = at.row, stage = 0; query < end; query += N, stage ^= 1) {
        wait_for_copies();
        __syncthreads();
        if (query + N < end) fetch_queries(query + N, stage ^ 1);

        Sums<M, N> s, dp;  // rows are keys, columns queries
        Pairs<M, N> pairs;
        product_turned<M, N, D>(s, ks, row, passing.a(stage));
        if (p.starts || query < last || query + N - p.window > at.row)
            each_sum<M, N>(s, [&](float& score, int i, int j) {
                const int t = query + j, key = at.row + row + i;
                if (key > t || key < first_key(t, p.starts ? starts(stage)[j] : 0, p.window)) score = -INFINITY;
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
            product<M, N, D>(dv_sums, pairs, passing.b(stage));
        }
        if (want_k) {
            product_turned<M, N, D>(dp, vs, row, passing.b(stage));
#pragma unroll
            for (int n = 0; n < N / 8; n++) {
                const float2 of_query = *reinterpret_cast<const float2*>(deltas(stage) + 8 * n + lane % 4 * 2);
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int i = 0; i < 4; i++) s[m][n][i] *= dp[m][n][i] - (i % 2 ? of_query.y : of_query.x);
            }
            round_to_pairs<M, N>(pairs, s);
            product<M, N, D>(dk_sums, pairs, passing.a(stage));
        }
    }
    float one[M][2], scales[M][2];
    for (int m = 0; m < M; m++) one[m][0] = one[m][1] = 1.f, scales[m][0] = scales[m][1] = p.scale;
    if (want_k) store_rows<M, D>(dk.at(at.b, at.h), vs, dk_sums, scales, at.row, row, p.T, p.D);
    if (want_v) store_rows<M, D>(dv.at(at.b, at.h), ks, dv_sums, one, at.row, row, p.T, p.D);
}

template <int D>
__global__ void __launch_bounds__(tensor_threads, 2)
    attention_backward_kv_kernel(Heads<bf16> dk, Heads<bf16> dv, Heads<const bf16> dout, const float* delta,
                                 const float* lse, Inputs<bf16> x, Problem p) {
    const unsigned block = blockIdx.x;
    if constexpr (KeyPlan<D>::together)
        attention_backward_kv<D, true, true>(block, dk, dv, dout, delta, lse, x, p);
    else if (block % 2 == 0)
        attention_backward_kv<D, true, false>(block / 2, dk, dv, dout, delta, lse, x, p);
    else
        attention_backward_kv<D, false, true>(block / 2, dk, dv, dout, delta, lse, x, p);  // reads what the other reads
}

}  // namespace gpu
