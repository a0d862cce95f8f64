// attention_tensor_backward.cuh - the backward pass of attention with mma.sync
//
// dq is computed by blocks that own queries, as in the forward pass, and dk and dv by blocks that own keys. So every
// sum has one owner and a fixed order, and nothing is added atomically.
#pragma once
#include "attention_tensor.cuh"

namespace gpu {

// ---- dq ------------------------------------------------------------------------------------------------------------

// How attention_backward_q_kernel divides its work, as ForwardTiling does.
template <int D_, int M_, int N_, int stages_, int blocks_, bool q_in_registers_, bool dout_in_registers_>
struct QueryTiling {
    static constexpr int D = D_, M = M_, N = N_, stages = stages_, blocks = blocks_, rows = 64 * M;
    static constexpr bool q_in_registers = q_in_registers_, dout_in_registers = dout_in_registers_;
    static constexpr int tile_bytes   = Tile<bf16, D>::bytes(rows);
    // The tile of out lies where the streamed tiles will be.
    static constexpr int stream_bytes = std::max(StreamedTiles<D, N, stages>::bytes, tile_bytes);
    static constexpr int shared       = 2 * tile_bytes + stream_bytes;
    static_assert(shared + 64 <= max_shared);
};
template <int D, bool drops = false>
using QueryTilingOf =
    QueryTiling<D, D <= 64 ? 2 : 1, (D == 256 || (drops && D == 64)) ? 16 : 32, 2, 2, D <= 128, D <= 128>;

// Returns p = exp(scale s - lse) of a score s.
__device__ inline float probability(float s, float scale_log2e, float lse_log2e) {
    return exp2_fast(fmaf(s, scale_log2e, -lse_log2e));
}

// Returns dp - δ. With dropout, dp is multiplied with the scale first; what is dropped is 0 already.
template <bool drops>
__device__ inline float centred(float dp, float delta, const HeadDropout& drop) {
    return drops ? fmaf(dp, drop.scale, -delta) : dp - delta;
}

// Computes dq, and δ (B,H,T) for the kernel of dk and dv.
template <class Tiling, bool drops = false>
__global__ void __launch_bounds__(tensor_threads, Tiling::blocks)
    attention_backward_q_kernel(Heads<bf16> dq, float* delta, Heads<const bf16> dout, Heads<const bf16> out,
                                const float* lse, Inputs<bf16> x, Problem p) {
    constexpr int D = Tiling::D, M = Tiling::M, N = Tiling::N, rows = Tiling::rows;
    const Tile<bf16, D> q_tile{shared_memory}, dout_tile{q_tile.p + Tiling::tile_bytes};
    const Tile<bf16, D> out_tile{dout_tile.p + Tiling::tile_bytes};  // δ alone needs it, before the first keys come

    const OwnTile own(p, rows, TileOrder::last_to_first);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M;
    load_tile_async<tensor_threads, rows>(dout_tile, dout.at(own.b, own.h), own.row, p.T, p.D);
    load_tile_async<tensor_threads, rows>(out_tile, out.at(own.b, own.h), own.row, p.T, p.D);
    load_tile_async<tensor_threads, rows>(q_tile, x.q.at(own.b, own.h), own.row, p.T, p.D);
    const SeenByWarp<M> seen(p, own.b, own.row + row);
    const HeadDropout drop = own.dropout<drops>(p);
    const int begin = first_tile<drops>(seen), end = min(own.row + rows, p.T);
    wait_for_copies();
    __syncthreads();

    float row_lse[M][2], row_delta[M][2], factor[M][2];  // [m][i] is row 16 m + lane/4 + 8 i; lse is in units of ln 2
#pragma unroll
    for (int m = 0; m < M; m++) {
        // δ is the diagonal of a product like dP, so that a row which sees only itself has ds = p (dp - δ) = 0 exactly.
        Sums<1, 16> d;
        product_transposed<1, 16, D>(d, OwnOperand<1, D, false>(dout_tile, row + 16 * m),
                                     Tile<bf16, D>{out_tile.p + Tile<bf16, D>::bytes(row + 16 * m)});
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int t          = own.row + row + 16 * m + lane / 4 + 8 * i;
            // The diagonal element of a row is held by the one of its four lanes for which lane%4 = lane/8.
            const float diagonal = lane / 4 % 2 ? d[0][i][2 * i + 1] : d[0][i][2 * i];
            row_delta[m][i]      = __shfl_sync(~0u, diagonal, lane / 4 * 4 + lane / 8);
            row_lse[m][i]        = t < p.T ? lse[own.head_offset(p) + t] * log2e : 0.f;
            factor[m][i]         = p.scale;
            if (lane % 4 == 0 && t < p.T) delta[own.head_offset(p) + t] = row_delta[m][i];
        }
    }
    __syncthreads();
    StreamedTiles<D, N, Tiling::stages> kv(out_tile.p, x.k.at(own.b, own.h), x.v.at(own.b, own.h), begin, end, p.D);
    kv.start(begin, NothingMore{});
    OwnOperand<M, D, Tiling::q_in_registers> q(q_tile, row);
    OwnOperand<M, D, Tiling::dout_in_registers> dout_rows(dout_tile, row);
    q.load();
    dout_rows.load();

    Sums<M, D> acc;
    clear<M, D>(acc);
    const float scale_log2e = p.scale * log2e;
    for (int key = begin; key < end; key += N, kv.next()) {
        kv.wait(key, NothingMore{});
        if (seen.none_of(key, N)) continue;
        Sums<M, N> s, dp;
        product_transposed<M, N, D>(s, q, kv.a());
        product_transposed<M, N, D>(dp, dout_rows, kv.b());
        if (!seen.all_of(key, N)) seen.template hide<N>(s, key);
        if constexpr (drops)
            each_dropout<RowsAre::queries, M, N>(drop, own.row + row, key, [&](int m, int n, int i, bool keeps) {
                dp[m][n][i] = keeps ? dp[m][n][i] : 0.f;
            });
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)  // s becomes ds
                    s[m][n][i] = probability(s[m][n][i], scale_log2e, row_lse[m][i / 2]) *
                                 centred<drops>(dp[m][n][i], row_delta[m][i / 2], drop);
        product<M, N, D>(acc, round_to_bf16<M, N>(s), kv.a());
    }
    store_rows<M, D>(dq.at(own.b, own.h), q_tile, acc, factor, own.row, row, p.T, p.D);
}

// ---- dk and dv -----------------------------------------------------------------------------------------------------

// How attention_backward_kv_kernel divides its work: a warp owns 16 M keys and multiplies them with N queries at a
// time. The sums of dk and dv take M · D registers together. Where they do not fit into one block, each has a block of
// its own.
template <int D_, int M_, int N_, int blocks_, bool k_in_registers_>
struct KeyTiling {
    static constexpr int D = D_, M = M_, N = N_, blocks = blocks_, rows = 64 * M;
    static constexpr bool k_in_registers = k_in_registers_, in_one_block = M * D <= 128;
    static constexpr int tile_bytes = Tile<bf16, D>::bytes(rows);
    static constexpr int shared     = 2 * tile_bytes + StreamedTiles<D, N, 2>::bytes + 6 * N * int(sizeof(float));
    static_assert(N <= 64 && shared + 64 <= max_shared);
};
template <int D, bool drops = false>
using KeyTilingOf = KeyTiling<D, D <= 64 ? 2 : 1,
                              D == 80                            ? 64
                              : (D == 256 || (drops && D == 64)) ? 16
                                                                 : 32,
                              2, (D == 96 || (D == 128 && !drops))>;

template <class Tiling, bool drops, bool want_k, bool want_v>
__device__ void attention_backward_kv(int block, int blocks, Heads<bf16> dk, Heads<bf16> dv, Heads<const bf16> dout,
                                      const float* delta, const float* lse, Inputs<bf16> x, Problem p) {
    constexpr int D = Tiling::D, M = Tiling::M, N = Tiling::N, rows = Tiling::rows;
    const Tile<bf16, D> k_tile{shared_memory}, v_tile{k_tile.p + Tiling::tile_bytes};
    char* const stages   = v_tile.p + Tiling::tile_bytes;
    // For each streamed query, its lse, its δ and the start of its document are streamed too, in two stages.
    float* const numbers = reinterpret_cast<float*>(stages + StreamedTiles<D, N, 2>::bytes);
    const auto lse_of    = [=](int stage) { return numbers + stage * 3 * N; };
    const auto delta_of  = [=](int stage) { return numbers + stage * 3 * N + N; };
    const auto starts_of = [=](int stage) { return reinterpret_cast<int*>(numbers + stage * 3 * N + 2 * N); };

    const OwnTile own(p, rows, TileOrder::first_to_last, block, blocks);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M, last_key = min(own.row + rows, p.T) - 1;
    const HeadDropout drop  = own.dropout<drops>(p);
    const int64_t offset    = own.head_offset(p);
    const int end           = end_of_queries<tensor_threads>(p, own.b, own.row, last_key);
    const auto load_numbers = [&](int stage, int query) {
        // The threads form groups of N: group 0 loads lse, group 1 δ, group 2 starts. If there are only two groups,
        // group 0 loads starts as well.
        const int i = threadIdx.x % N, t = min(query + i, p.T - 1), group = threadIdx.x / N;
        const bool valid = query + i < p.T;
        if (group == 0) copy_word_async(lse_of(stage) + i, lse + offset + t, valid);
        if (group == 1) copy_word_async(delta_of(stage) + i, delta + offset + t, valid);
        if (p.starts && group == 2 % (tensor_threads / N))
            copy_word_async(starts_of(stage) + i, p.starts + int64_t(own.b) * p.T + t, valid);
    };

    load_tile_async<tensor_threads, rows>(k_tile, x.k.at(own.b, own.h), own.row, p.T, p.D);
    if (want_k) load_tile_async<tensor_threads, rows>(v_tile, x.v.at(own.b, own.h), own.row, p.T, p.D);
    StreamedTiles<D, N, 2> stream(stages, x.q.at(own.b, own.h), dout.at(own.b, own.h), own.row, end, p.D);
    stream.start(own.row, load_numbers);
    OwnOperand<M, D, Tiling::k_in_registers> k(k_tile, row);
    const OwnOperand<M, D, false> v(v_tile, row);
    if (Tiling::k_in_registers) {
        wait_for_copies();
        __syncthreads();
        k.load();
    }

    Sums<M, D> dk_sums, dv_sums;
    clear<M, D>(dk_sums);
    clear<M, D>(dv_sums);
    const float scale_log2e = p.scale * log2e;
    const int first_of_warp = own.row + row, last_of_warp = first_of_warp + 16 * M - 1;
    for (int query = own.row; query < end; query += N, stream.next()) {
        stream.wait(query, load_numbers);

        // The range of the first keys that these queries see. With documents it depends on where they start.
        Range first_keys = {query - p.window + 1, query - p.window + N};
        if (p.starts) {
            const int i = lane % N, first = first_key(query + i, starts_of(stream.stage())[i], p.window);
            first_keys = {__reduce_min_sync(~0u, first), __reduce_max_sync(~0u, first)};
            if constexpr (N > 32) {
                const int other = first_key(query + i + 32, starts_of(stream.stage())[i + 32], p.window);
                first_keys      = {min(first_keys.min, __reduce_min_sync(~0u, other)),
                                   max(first_keys.max, __reduce_max_sync(~0u, other))};
            }
        }
        if (query + N <= first_of_warp || first_keys.min > last_of_warp) continue;  // all is hidden from this warp

        Sums<M, N> s, dp;  // rows are keys, columns are queries
        product_transposed<M, N, D>(s, k, stream.a());
        if (want_k) product_transposed<M, N, D>(dp, v, stream.b());
        if (query < last_of_warp || first_keys.max > first_of_warp)
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const int i = 8 * n + lane % 4 * 2 + j, t = query + i;
                    const int first     = first_key(t, p.starts ? starts_of(stream.stage())[i] : 0, p.window);
                    const int key       = first_of_warp + lane / 4 - first;
                    const unsigned seen = t - first;  // counts the visible keys after `first`
#pragma unroll
                    for (int m = 0; m < M; m++)
#pragma unroll
                        for (int i = 0; i < 2; i++)
                            if (unsigned(key + 16 * m + 8 * i) > seen) s[m][n][2 * i + j] = -INFINITY;
                }
#pragma unroll
        for (int n = 0; n < N / 8; n++) {  // s becomes p
            const float2 lses = *reinterpret_cast<const float2*>(lse_of(stream.stage()) + 8 * n + lane % 4 * 2);
            const float even = lses.x * log2e, odd = lses.y * log2e;
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[m][n][i] = probability(s[m][n][i], scale_log2e, i % 2 ? odd : even);
        }
        if constexpr (drops) {
            Sums<M, N> kept;
            each_dropout<RowsAre::keys, M, N>(drop, query, first_of_warp, [&](int m, int n, int i, bool keeps) {
                if (want_v) kept[m][n][i] = keeps ? s[m][n][i] : 0.f;
                if (want_k) dp[m][n][i] = keeps ? dp[m][n][i] : 0.f;
            });
            if (want_v) product<M, N, D>(dv_sums, round_to_bf16<M, N>(kept), stream.b());
        } else if (want_v) {
            product<M, N, D>(dv_sums, round_to_bf16<M, N>(s), stream.b());
        }
        if (want_k) {
#pragma unroll
            for (int n = 0; n < N / 8; n++) {  // s becomes ds
                const float2 deltas = *reinterpret_cast<const float2*>(delta_of(stream.stage()) + 8 * n + lane % 4 * 2);
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        s[m][n][i] *= centred<drops>(dp[m][n][i], i % 2 ? deltas.y : deltas.x, drop);
            }
            product<M, N, D>(dk_sums, round_to_bf16<M, N>(s), stream.a());
        }
    }
    float k_scales[M][2], v_scales[M][2];
    for (int m = 0; m < M; m++) {
        k_scales[m][0] = k_scales[m][1] = p.scale;
        v_scales[m][0] = v_scales[m][1] = drops ? drop.scale : 1.f;
    }
    if (want_k) store_rows<M, D>(dk.at(own.b, own.h), v_tile, dk_sums, k_scales, own.row, row, p.T, p.D);
    if (want_v) store_rows<M, D>(dv.at(own.b, own.h), k_tile, dv_sums, v_scales, own.row, row, p.T, p.D);
}

template <class Tiling, bool drops = false>
__global__ void __launch_bounds__(tensor_threads, Tiling::blocks)
    attention_backward_kv_kernel(Heads<bf16> dk, Heads<bf16> dv, Heads<const bf16> dout, const float* delta,
                                 const float* lse, Inputs<bf16> x, Problem p) {
    const int block = blockIdx.x, blocks = gridDim.x;
    if constexpr (Tiling::in_one_block)
        attention_backward_kv<Tiling, drops, true, true>(block, blocks, dk, dv, dout, delta, lse, x, p);
    else if (block % 2 == 0)  // neighbouring blocks read the same tiles, so the second finds them in the cache
        attention_backward_kv<Tiling, drops, true, false>(block / 2, blocks / 2, dk, dv, dout, delta, lse, x, p);
    else
        attention_backward_kv<Tiling, drops, false, true>(block / 2, blocks / 2, dk, dv, dout, delta, lse, x, p);
}

// Returns the grid of a kernel with this Tiling. Only a KeyTiling may need two blocks for each tile.
template <class Tiling, class = void>
constexpr int blocks_per_tile = 1;
template <class Tiling>
constexpr int blocks_per_tile<Tiling, std::enable_if_t<!Tiling::in_one_block>> = 2;
template <class Tiling>
Grid grid_of(Tensor qkv, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return Grid(blocks_of(qkv, Tiling::rows) * blocks_per_tile<Tiling>, tensor_threads, Tiling::shared, file, line);
}

}  // namespace gpu
