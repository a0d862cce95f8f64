// attention_tensor.cuh - attention on tensor cores: bf16, D a multiple of 8 up to 256
//
// A block has 4 warps, and each warp owns 16 M rows of the block's tile, with M = 1 or 2. Rows of the other side are
// streamed through shared memory in tiles of N rows.
//
//   shared memory   the block's tile (forward: q, dq: q and dout, dk and dv: k and v), and two stages of streamed
//                   tiles: the block computes on one stage while asynchronous copies fill the other
//   registers       the scores of a warp's rows against one streamed tile (16 M × N), the sums of its result
//                   (16 M × D), and the maximum and sum of each row
//
// Only two kinds of product occur, and scores never pass through shared memory:
//
//   product_transposed   c = a bᵀ, both in shared memory                          S = Q Kᵀ, dP = dO Vᵀ, Sᵀ = K Qᵀ, …
//   product              c += p b, p in registers and b in shared memory          O += P V, dQ += dS K, dV += Pᵀ dO, …
//
// The tensor cores leave the sums of the first in the same lanes in which they take the left operand of the second, so
// all that happens in between is arithmetic on registers and rounding to bf16.
#pragma once
#include "attention_tiles.cuh"

namespace gpu {

constexpr float ln2 = 0.693147181f;

// Two blocks fit on a multiprocessor, with 255 registers a thread. A warp with 32 rows instead of 16 reads the streamed
// tiles half as often; up to D = 64 its sums leave enough registers for that.
constexpr int tensor_threads = 128;

// ---- products on tensor cores --------------------------------------------------------------------------------------

// c (16 × 8) += a (16 × 16) b (16 × 8), by all lanes of a warp. Of c, lane l holds columns 2 (l%4) and 2 (l%4) + 1, of
// row l/4 in c[0] and c[1] and of row l/4 + 8 in c[2] and c[3]. Of a, it holds two such blocks as pairs of bf16:
// columns 0-7 in a[0] and a[1], columns 8-15 in a[2] and a[3] (PTX ISA, "Matrix fragments for mma.m16n8k16").
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Loads four 8 × 8 matrices of bf16. Lane l gives the address of row l%8 of matrix l/8.
__device__ inline void load_matrices(uint32_t (&m)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}
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

// c = rows [row, row + 16 M) of a · (rows [0, N) of b)ᵀ.
template <int M, int N, int D>
__device__ inline void product_transposed(Sums<M, N>& c, Tile<bf16, D> a, int row, Tile<bf16, D> b) {
    const int lane          = threadIdx.x % 32;
    const uint32_t a_offset = a.slot(row + lane % 16, lane / 16) * 16;
    const uint32_t b_offset = b.slot(lane / 16 * 8 + lane % 8, lane / 8 % 2) * 16;
    clear<M, N>(c);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t x[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) load_matrices(x[m], a.address() + a.skip_chunks(a_offset, 2 * k) + a.bytes(16 * m));
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            uint32_t y[4];
            load_matrices(y, b.address() + b.skip_chunks(b_offset, 2 * k) + b.bytes(16 * n));
#pragma unroll
            for (int m = 0; m < M; m++) {
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

// Calls f(x, row, column) for each element that this lane holds.
template <int M, int N, class F>
__device__ inline void for_each_element(Sums<M, N>& c, F f) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) f(c[m][n][i], 16 * m + lane / 4 + i / 2 * 8, 8 * n + lane % 4 * 2 + i % 2);
}

// Stores factor × c to rows [first + row, first + row + 16 M) of a head. The values go through rows [row, row + 16 M)
// of a tile that has been read for the last time, so that global memory is written 16 bytes at a time. Only this warp
// uses those rows of the tile.
template <int M, int D>
__device__ inline void store_rows(Rows<bf16> head, Tile<bf16, D> tile, const Sums<M, D>& c, const float (&factor)[M][2],
                                  int first, int row, int end, int width) {
    constexpr int chunks = Tile<bf16, D>::chunks;
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
    for (int i = lane; i < 16 * M * chunks; i += 32) {
        const int r = row + i / chunks, column = i % chunks;
        if (first + r < end && 8 * column < width)
            *reinterpret_cast<uint4*>(head[first + r] + 8 * column) =
                *reinterpret_cast<const uint4*>(tile.at(r, column));
    }
}

// The streamed tiles: two stages of a pair of tiles a and b, which are k and v, or q and dout.
template <int D, int rows>
struct Stages {
    static constexpr int tile_bytes = Tile<bf16, D>::bytes(rows), bytes = 4 * tile_bytes;
    char* p;
    __device__ Tile<bf16, D> a(int stage) const { return {p + 2 * stage * tile_bytes}; }
    __device__ Tile<bf16, D> b(int stage) const { return {p + (2 * stage + 1) * tile_bytes}; }
    __device__ void load_async(int stage, Rows<const bf16> a_head, Rows<const bf16> b_head, int first, int end,
                               int width) const {
        load_tile_async<tensor_threads, rows>(a(stage), a_head, first, end, width);
        load_tile_async<tensor_threads, rows>(b(stage), b_head, first, end, width);
    }
};

// ---- forward -------------------------------------------------------------------------------------------------------

template <int D>
struct ForwardTiling {
    static constexpr int M = D <= 64 ? 2 : 1, rows = 64 * M, keys = D <= 128 ? 64 : 32;
    static constexpr int tile_bytes = Tile<bf16, D>::bytes(rows);
    static constexpr int shared     = tile_bytes + Stages<D, keys>::bytes + rows * int(sizeof(int));
    static_assert(shared + 64 <= max_shared);
};

// The power of 2 that a score stands for: exp(scale · s) = 2^exponent(s, scale · log2 e). It is finite, so that the
// difference of two is never NaN.
__device__ inline float exponent(float s, float scale_log2e) { return fmaxf(s * scale_log2e, -FLT_MAX); }

// One step of the online softmax. Scores become exp(scale · s - m) for the new maximum m of each row, and row_sum and
// acc, which are relative to the old maximum, are rescaled to the new one. Row [m][i] is row 16 m + lane/4 + 8 i of the
// warp. row_max is the largest score before scaling, and row_sum is this lane's share of the sum.
template <int M, int N, int D>
__device__ inline void online_softmax(Sums<M, N>& s, Sums<M, D>& acc, float (&row_max)[M][2], float (&row_sum)[M][2],
                                      float scale_log2e) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float new_max = row_max[m][i];
#pragma unroll
            for (int n = 0; n < N / 8; n++) new_max = fmaxf(new_max, fmaxf(s[m][n][2 * i], s[m][n][2 * i + 1]));
            new_max             = fmaxf(new_max, __shfl_xor_sync(~0u, new_max, 1));
            new_max             = fmaxf(new_max, __shfl_xor_sync(~0u, new_max, 2));
            const float shift   = exponent(new_max, scale_log2e);
            const float rescale = exp2_fast(exponent(row_max[m][i], scale_log2e) - shift);
            float sum           = 0.f;
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int j = 2 * i; j < 2 * i + 2; j++) {
                    s[m][n][j] = exp2_fast(fmaf(s[m][n][j], scale_log2e, -shift));
                    sum += s[m][n][j];
                }
            row_max[m][i] = new_max;
            row_sum[m][i] = row_sum[m][i] * rescale + sum;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                acc[m][n][2 * i] *= rescale;
                acc[m][n][2 * i + 1] *= rescale;
            }
        }
}

template <int D>
__global__ void __launch_bounds__(tensor_threads, 2)
    attention_forward_kernel(Heads<bf16> out, float* lse, Inputs<bf16> x, Problem p) {
    using Tiling    = ForwardTiling<D>;
    constexpr int M = Tiling::M, N = Tiling::keys, rows = Tiling::rows;
    const Tile<bf16, D> q_tile{shared_memory};
    const Stages<D, N> kv{q_tile.p + Tiling::tile_bytes};
    int* const first_keys = reinterpret_cast<int*>(kv.p + kv.bytes);

    const OwnTile own(p, rows, TileOrder::last_to_first);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M;  // the warp's first row within the tile
    const auto k_head = x.k.at(own.b, own.h), v_head = x.v.at(own.b, own.h);
    const Range seen = find_first_keys<tensor_threads, rows>(first_keys, p, own);
    const int end    = min(p.past + own.row + rows, p.keys());
    const int common = p.past + own.row + 1;  // keys before it come after no row of the tile

    Sums<M, D> acc;
    float row_max[M][2], row_sum[M][2];
    clear<M, D>(acc);
    for (int m = 0; m < M; m++) {
        row_max[m][0] = row_max[m][1] = -FLT_MAX;
        row_sum[m][0] = row_sum[m][1] = 0.f;
    }

    const float scale_log2e = p.scale * log2e;
    load_tile_async<tensor_threads, rows>(q_tile, x.q.at(own.b, own.h), own.row, p.T, p.D);
    kv.load_async(0, k_head, v_head, seen.min, end, p.D);
    for (int key = seen.min, stage = 0; key < end; key += N, stage ^= 1) {
        wait_for_copies();
        __syncthreads();  // this stage is loaded, and no warp reads the other any more
        if (key + N < end) kv.load_async(stage ^ 1, k_head, v_head, key + N, end, p.D);
        Sums<M, N> s;
        product_transposed<M, N, D>(s, q_tile, row, kv.a(stage));
        if (key < seen.max || key + N > common)
            for_each_element<M, N>(s, [&](float& score, int i, int j) {
                if (key + j < first_keys[row + i] || key + j > p.past + own.row + row + i) score = -INFINITY;
            });
        online_softmax<M, N, D>(s, acc, row_max, row_sum, scale_log2e);
        product<M, N, D>(acc, round_to_bf16<M, N>(s), kv.b(stage));
    }

    float factor[M][2];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float sum = row_sum[m][i];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            factor[m][i] = 1.f / sum;
            const int t  = own.row + row + 16 * m + lane / 4 + 8 * i;
            if (!lse || lane % 4 || t >= p.T) continue;
            // online_softmax() subtracted a rounded exponent. With scores of 1e4 the rounding matters, so it is taken
            // back here.
            const float rounding        = fmaf(row_max[m][i], scale_log2e, -exponent(row_max[m][i], scale_log2e));
            lse[own.head_offset(p) + t] = fmaf(row_max[m][i], p.scale, logf(sum) - rounding * ln2);
        }
    store_rows<M, D>(out.at(own.b, own.h), q_tile, acc, factor, own.row, row, p.T, p.D);
}

// ---- backward: dq --------------------------------------------------------------------------------------------------

template <int D>
struct QueryTiling {
    static constexpr int M = D <= 64 ? 2 : 1, rows = 64 * M, keys = D <= 64 ? 32 : D <= 96 ? 64 : D <= 192 ? 32 : 16;
    static constexpr int tile_bytes = Tile<bf16, D>::bytes(rows);
    static constexpr int shared     = 2 * tile_bytes + Stages<D, keys>::bytes + rows * int(sizeof(int));
    static_assert(shared + 64 <= max_shared);
};

// Returns p = exp(scale s - lse) of a score s. Subtracting before multiplying by log2 e keeps large scores accurate.
__device__ inline float probability(float s, float scale, float lse) { return exp2_fast(fmaf(s, scale, -lse) * log2e); }

// Computes dq, and δ (B,H,T) for the kernel of dk and dv.
template <int D>
__global__ void __launch_bounds__(tensor_threads, 2)
    attention_backward_q_kernel(Heads<bf16> dq, float* delta, Heads<const bf16> dout, Heads<const bf16> out,
                                const float* lse, Inputs<bf16> x, Problem p) {
    using Tiling    = QueryTiling<D>;
    constexpr int M = Tiling::M, N = Tiling::keys, rows = Tiling::rows;
    const Tile<bf16, D> q_tile{shared_memory}, dout_tile{q_tile.p + Tiling::tile_bytes};
    const Stages<D, N> kv{dout_tile.p + Tiling::tile_bytes};
    int* const first_keys = reinterpret_cast<int*>(kv.p + kv.bytes);

    const OwnTile own(p, rows, TileOrder::last_to_first);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M;
    const auto k_head = x.k.at(own.b, own.h), v_head = x.v.at(own.b, own.h);
    const Tile<bf16, D> out_tile{kv.p};  // needed for δ alone, before the first keys are loaded
    static_assert(Tiling::tile_bytes <= kv.bytes);
    load_tile_async<tensor_threads, rows>(dout_tile, dout.at(own.b, own.h), own.row, p.T, p.D);
    load_tile_async<tensor_threads, rows>(out_tile, out.at(own.b, own.h), own.row, p.T, p.D);
    load_tile_async<tensor_threads, rows>(q_tile, x.q.at(own.b, own.h), own.row, p.T, p.D);
    const Range seen = find_first_keys<tensor_threads, rows>(first_keys, p, own);
    const int end = min(own.row + rows, p.T), common = own.row + 1;
    wait_for_copies();
    __syncthreads();

    float row_lse[M][2], row_delta[M][2], factor[M][2];  // [m][i] is row 16 m + lane/4 + 8 i
#pragma unroll
    for (int m = 0; m < M; m++) {
        // δ is the diagonal of a product like dP, so that a row which sees only itself has ds = p (dp - δ) = 0 exactly.
        Sums<1, 16> d;
        product_transposed<1, 16, D>(d, dout_tile, row + 16 * m,
                                     Tile<bf16, D>{out_tile.p + Tile<bf16, D>::bytes(row + 16 * m)});
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int t          = own.row + row + 16 * m + lane / 4 + 8 * i;
            // The diagonal element of a row is held by the one of its four lanes for which lane%4 = lane/8.
            const float diagonal = lane / 4 % 2 ? d[0][i][2 * i + 1] : d[0][i][2 * i];
            row_delta[m][i]      = __shfl_sync(~0u, diagonal, lane / 4 * 4 + lane / 8);
            row_lse[m][i]        = t < p.T ? lse[own.head_offset(p) + t] : 0.f;
            factor[m][i]         = p.scale;
            if (lane % 4 == 0 && t < p.T) delta[own.head_offset(p) + t] = row_delta[m][i];
        }
    }
    __syncthreads();
    kv.load_async(0, k_head, v_head, seen.min, end, p.D);

    Sums<M, D> acc;
    clear<M, D>(acc);
    for (int key = seen.min, stage = 0; key < end; key += N, stage ^= 1) {
        wait_for_copies();
        __syncthreads();
        if (key + N < end) kv.load_async(stage ^ 1, k_head, v_head, key + N, end, p.D);
        Sums<M, N> s, dp;
        product_transposed<M, N, D>(s, q_tile, row, kv.a(stage));
        if (key < seen.max || key + N > common)
            for_each_element<M, N>(s, [&](float& score, int i, int j) {
                if (key + j < first_keys[row + i] || key + j > own.row + row + i) score = -INFINITY;
            });
        product_transposed<M, N, D>(dp, dout_tile, row, kv.b(stage));
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)  // s becomes ds
                    s[m][n][i] =
                        probability(s[m][n][i], p.scale, row_lse[m][i / 2]) * (dp[m][n][i] - row_delta[m][i / 2]);
        product<M, N, D>(acc, round_to_bf16<M, N>(s), kv.a(stage));
    }
    store_rows<M, D>(dq.at(own.b, own.h), q_tile, acc, factor, own.row, row, p.T, p.D);
}

// ---- backward: dk and dv -------------------------------------------------------------------------------------------

// The sums of dk and dv take D registers each. Above D = 128 both do not fit into one block, so each has a block of its
// own.
template <int D>
struct KeyTiling {
    static constexpr bool in_one_block = D <= 128;
    static constexpr int M = D <= 64 ? 2 : 1, rows = 64 * M, queries = D == 80 ? 64 : D <= 192 ? 32 : 16;
    static constexpr int tile_bytes = Tile<bf16, D>::bytes(rows);
    static constexpr int shared     = 2 * tile_bytes + Stages<D, queries>::bytes + 6 * queries * int(sizeof(float));
    static_assert(shared + 64 <= max_shared);
};

template <int D, bool want_k, bool want_v>
__device__ void attention_backward_kv(unsigned block, Heads<bf16> dk, Heads<bf16> dv, Heads<const bf16> dout,
                                      const float* delta, const float* lse, Inputs<bf16> x, Problem p) {
    using Tiling    = KeyTiling<D>;
    constexpr int M = Tiling::M, N = Tiling::queries, rows = Tiling::rows;
    const Tile<bf16, D> k_tile{shared_memory}, v_tile{k_tile.p + Tiling::tile_bytes};
    const Stages<D, N> streamed{v_tile.p + Tiling::tile_bytes};  // q and dout
    // For each streamed query, its lse, its δ and the start of its document are streamed too, in two stages.
    float* const numbers = reinterpret_cast<float*>(streamed.p + streamed.bytes);
    const auto lse_of    = [=](int stage) { return numbers + stage * 3 * N; };
    const auto delta_of  = [=](int stage) { return numbers + stage * 3 * N + N; };
    const auto starts_of = [=](int stage) { return reinterpret_cast<int*>(numbers + stage * 3 * N + 2 * N); };

    const OwnTile own(p, rows, TileOrder::first_to_last, block);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M, last_key = min(own.row + rows, p.T) - 1;
    const auto q_head = x.q.at(own.b, own.h), dout_head = dout.at(own.b, own.h);
    const int64_t offset    = own.head_offset(p);
    const int end           = end_of_queries<tensor_threads>(p, own.b, own.row, last_key);
    const auto load_queries = [&](int query, int stage) {
        streamed.load_async(stage, q_head, dout_head, query, p.T, p.D);
        // The threads form groups of N: group 0 loads lse, group 1 δ, group 2 starts. If there are only two groups,
        // group 0 loads starts as well.
        const int i = threadIdx.x % N, t = min(query + i, p.T - 1), group = threadIdx.x / N;
        const bool valid = query + i < p.T;
        if (group == 0) copy_word_async(lse_of(stage) + i, lse + offset + t, valid);
        if (group == 1) copy_word_async(delta_of(stage) + i, delta + offset + t, valid);
        if (p.starts && group == 2 % (tensor_threads / N))
            copy_word_async(starts_of(stage) + i, p.starts + int64_t(own.b) * p.T + t, valid);
    };

    Sums<M, D> dk_sums, dv_sums;
    clear<M, D>(dk_sums);
    clear<M, D>(dv_sums);
    load_tile_async<tensor_threads, rows>(k_tile, x.k.at(own.b, own.h), own.row, p.T, p.D);
    if (want_k) load_tile_async<tensor_threads, rows>(v_tile, x.v.at(own.b, own.h), own.row, p.T, p.D);
    load_queries(own.row, 0);
    for (int query = own.row, stage = 0; query < end; query += N, stage ^= 1) {
        wait_for_copies();
        __syncthreads();
        if (query + N < end) load_queries(query + N, stage ^ 1);

        Sums<M, N> s, dp;  // rows are keys, columns are queries
        product_transposed<M, N, D>(s, k_tile, row, streamed.a(stage));
        // Without documents, most tiles have nothing to hide: every query comes after every key, within the window.
        if (p.starts || query < last_key || query + N - p.window > own.row)
            for_each_element<M, N>(s, [&](float& score, int i, int j) {
                const int t = query + j, key = own.row + row + i;
                if (key > t || key < first_key(t, p.starts ? starts_of(stage)[j] : 0, p.window)) score = -INFINITY;
            });
#pragma unroll
        for (int n = 0; n < N / 8; n++) {  // s becomes p
            const float2 lses = *reinterpret_cast<const float2*>(lse_of(stage) + 8 * n + lane % 4 * 2);
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[m][n][i] = probability(s[m][n][i], p.scale, i % 2 ? lses.y : lses.x);
        }
        if (want_v) product<M, N, D>(dv_sums, round_to_bf16<M, N>(s), streamed.b(stage));
        if (want_k) {
            product_transposed<M, N, D>(dp, v_tile, row, streamed.b(stage));
#pragma unroll
            for (int n = 0; n < N / 8; n++) {  // s becomes ds
                const float2 deltas = *reinterpret_cast<const float2*>(delta_of(stage) + 8 * n + lane % 4 * 2);
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int i = 0; i < 4; i++) s[m][n][i] *= dp[m][n][i] - (i % 2 ? deltas.y : deltas.x);
            }
            product<M, N, D>(dk_sums, round_to_bf16<M, N>(s), streamed.a(stage));
        }
    }
    float one[M][2], scales[M][2];
    for (int m = 0; m < M; m++) {
        one[m][0] = one[m][1] = 1.f;
        scales[m][0] = scales[m][1] = p.scale;
    }
    if (want_k) store_rows<M, D>(dk.at(own.b, own.h), v_tile, dk_sums, scales, own.row, row, p.T, p.D);
    if (want_v) store_rows<M, D>(dv.at(own.b, own.h), k_tile, dv_sums, one, own.row, row, p.T, p.D);
}

template <int D>
__global__ void __launch_bounds__(tensor_threads, 2)
    attention_backward_kv_kernel(Heads<bf16> dk, Heads<bf16> dv, Heads<const bf16> dout, const float* delta,
                                 const float* lse, Inputs<bf16> x, Problem p) {
    const unsigned block = blockIdx.x;
    if constexpr (KeyTiling<D>::in_one_block)
        attention_backward_kv<D, true, true>(block, dk, dv, dout, delta, lse, x, p);
    else if (block % 2 == 0)  // neighbouring blocks read the same tiles, so the second finds them in the cache
        attention_backward_kv<D, true, false>(block / 2, dk, dv, dout, delta, lse, x, p);
    else
        attention_backward_kv<D, false, true>(block / 2, dk, dv, dout, delta, lse, x, p);
}

}  // namespace gpu
