// attention_hopper_backward.cuh - the backward pass of attention with the instructions of Hopper
//
// dq is computed by blocks that own queries and stream keys, as in the forward pass. dk and dv are computed by blocks
// that own keys and stream queries. So every sum has one owner and a fixed order, and nothing is added atomically.
#pragma once
#include "attention_hopper.cuh"
#include "attention_tensor_backward.cuh"

namespace gpu {

// ---- dq ------------------------------------------------------------------------------------------------------------

// Own: q, dout and out. With D above 128, out lies in the stages, because δ alone needs it, before the first keys come.
template <int D, bool drops = false>
using HopperQueryTilingOf = HopperTiling<D,
                                         D <= 64    ? 128
                                         : D <= 192 ? 64
                                                    : 48,
                                         2, D <= 128 ? 3 : 2>;

struct QueryMaps {
    CUtensorMap q, dout, out, k, v;
};

// Computes dq, and δ (B,H,T) for the kernel of dk and dv. The products of ds and k run on while those of the next keys
// are issued.
template <class Tiling, bool drops>
__device__ inline void compute_backward_q(const BlockMemory<Tiling>& at, Heads<bf16> dq, float* delta, const float* lse,
                                          const Problem& p, const Deal& deal) {
    constexpr int D = Tiling::D, N = Tiling::N;
    const int lane = threadIdx.x % 32, group = computing_warpgroup(), warp = threadIdx.x / 32 % 4;
    const auto q = at.own(0).from(64 * group), dout = at.own(1).from(64 * group), out = at.own(2).from(64 * group);
    const float scale_log2e = p.scale * log2e;
    RingPlace<Tiling::stages> k, v;
    each_tile(at, p, TileOrder::last_to_first, deal, [&](const OwnTile& tile) {
        const OwnQueries own(p, tile, Tiling::rows, group, drops);
        const HeadDropout drop = own.template dropout<drops>(p);
        // As in attention_backward_q_kernel, δ is the diagonal of a product like dP.
        float row_lse[2], row_delta[2];
        {
            Sums<1, 64> d;
            begin_products();
            issue_product_transposed<D, 64>(d, dout, out);
            commit_products();
            wait_for_products<0>();
            pin(d);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                // The columns of the warp's own rows are in blocks 2 warp and 2 warp + 1.
                float diagonal = 0.f;
#pragma unroll
                for (int n = i; n < 8; n += 2)
                    if (n / 2 == warp) diagonal = lane / 4 % 2 ? d[0][n][2 * i + 1] : d[0][n][2 * i];
                row_delta[i] = __shfl_sync(~0u, diagonal, lane / 4 * 4 + lane / 8);
                const int t  = own.warp_row + lane / 4 + 8 * i;
                row_lse[i]   = t < p.T ? lse[own.head_offset(p) + t] * log2e : 0.f;
                if (lane % 4 == 0 && t < p.T) delta[own.head_offset(p) + t] = row_delta[i];
            }
        }
        if (Tiling::own == 2) release(at.own_empty());  // out has been read

        Sums<1, D> acc;
        clear<1, D>(acc);
        int key = own.keys.begin, stage_before = -1;  // there is no stage before the first
        // Only the other warpgroup sees the keys before `end`.
        const auto skip_to = [&](int end) {
            for (; key < end; key += N, k.next(), v.next()) {
                wait_for_phase(at.a_full(k.stage), k.parity);
                wait_for_phase(at.b_full(v.stage), v.parity);
                release(at.a_empty(k.stage));
                release(at.b_empty(v.stage));
            }
        };
        const auto multiply_with = [&](auto keys) {  // the first keys of a tile
            constexpr int seen = keys;
            Sums<1, seen> s, dp;
            wait_for_phase(at.a_full(k.stage), k.parity);
            wait_for_phase(at.b_full(v.stage), v.parity);
            pin(s);
            pin(dp);
            begin_products();
            issue_product_transposed<D, seen>(s, q, at.a(k.stage));
            commit_products();
            issue_product_transposed<D, seen>(dp, dout, at.b(v.stage));
            commit_products();
            if (stage_before >= 0) {
                wait_for_products<2>();  // the keys before have been added
                pin(acc);
                release(at.a_empty(stage_before));
            }
            wait_for_products<1>();
            pin(s);
            if (!own.seen.all_of(key, seen)) own.seen.template hide<seen>(s, key);
#pragma unroll
            for (int n = 0; n < seen / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[0][n][i] = probability(s[0][n][i], scale_log2e, row_lse[i / 2]);
            wait_for_products<0>();
            pin(dp);
            release(at.b_empty(v.stage));
            if constexpr (drops)
                each_dropout<RowsAre::queries, 1, seen>(drop, own.warp_row, key, [&](int, int n, int i, bool keeps) {
                    dp[0][n][i] = keeps ? dp[0][n][i] : 0.f;
                });
#pragma unroll
            for (int n = 0; n < seen / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[0][n][i] *= centred<drops>(dp[0][n][i], row_delta[i / 2], drop);
            const LeftOperand<1, seen> ds = round_to_bf16<1, seen>(s);
            pin(acc);
            begin_products();
            issue_product<D, seen>(acc, ds, at.a(k.stage));
            commit_products();
            stage_before = k.stage;
        };
        skip_to(own.first_tile(N));
        for (; key + Tiling::short_tile < own.of_group.end; key += N, k.next(), v.next()) multiply_with(Constant<N>{});
        if constexpr (Tiling::short_tile > 0)
            if (key < own.of_group.end) {
                multiply_with(Constant<Tiling::short_tile>{});
                key += N, k.next(), v.next();
            }
        wait_for_products<0>();
        pin(acc);
        if (stage_before >= 0) release(at.a_empty(stage_before));
        skip_to(own.keys.end);
        release(at.own_empty());
        const float factor[2] = {p.scale, p.scale};
        store_rows<D>(dq.at(own.b, own.h), acc, factor, own.warp_row + lane / 4, p.T, p.D);
    });
}

template <class Tiling, bool drops = false>
__global__ void __launch_bounds__(hopper_threads, 1)
    attention_backward_q_hopper_kernel(Heads<bf16> dq, float* delta, const float* lse,
                                       const __grid_constant__ QueryMaps x, Problem p, Deal deal) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    __shared__ typename BlockMemory<Tiling>::Static memory;
    const BlockMemory<Tiling> at(memory);
    divide_block<24, 240>([&] { at.init(); }, [&] { bring_keys<Tiling, 3, drops>(at, &x.q, x.k, x.v, p, deal); },
                          [&] { compute_backward_q<Tiling, drops>(at, dq, delta, lse, p, deal); });
#endif
}

template <class Tiling, bool drops = false>
void backward_q_hopper(Heads<bf16> dq, float* delta, Heads<const bf16> dout, Heads<const bf16> out, const float* lse,
                       Inputs<bf16> x, const Problem& p, Tensor qkv, Queue& queue) {
    const auto map = [&](const Heads<const bf16>& heads, int rows) { return map_of(heads, p, qkv.shape[0], rows); };
    const QueryMaps maps{map(x.q, Tiling::rows), map(dout, Tiling::rows), map(out, Tiling::rows), map(x.k, Tiling::N),
                         map(x.v, Tiling::N)};
    launch_on_hopper<Tiling>(attention_backward_q_hopper_kernel<Tiling, drops>, qkv, queue, dq, delta, lse, maps, p);
}

// ---- dk and dv -----------------------------------------------------------------------------------------------------

// Own: k and v.
template <int D, bool drops = false>
using HopperKeyTilingOf = HopperTiling<D, D == 128 ? 48 : 64, 2, 2, D <= 128 ? 128 : 64>;

struct KeyMaps {
    CUtensorMap k, v, q, dout;
};

// What the kernel of dk and dv streams besides tiles: a number of each kind for each of N queries.
template <int N>
struct alignas(16) QueryNumbers {
    float lse[N], delta[N];
    int starts[N];
    int query;   // the first of the N queries
    int end[2];  // one past the last query that sees a key of warpgroup 0, and one past the last that sees any key
};

// Writes one past the last query that sees a key of the first 64 of a tile, and one past the last that sees any. Starts
// may be in any order, so with starts all queries within the window are tested. All lanes of a warp call it together.
template <int rows>
__device__ inline void find_ends_of_queries(int (&end)[2], const Problem& p, const OwnTile& own) {
    const int last[2] = {min(own.row + 64, p.T) - 1, min(own.row + rows, p.T) - 1};
    for (int i = 0; i < 2; i++) end[i] = int(min(int64_t(p.T), int64_t(last[i]) + p.window));
    if (!p.starts) return;
    const int window_end = end[1];
    end[0] = end[1] = own.row;
    for (int t = own.row + threadIdx.x % 32; t < window_end; t += 32)
        for (int i = 0; i < 2; i++)
            if (p.first_key(own.b, t) <= last[i]) end[i] = t + 1;
    for (int& i : end) i = __reduce_max_sync(~0u, i);
}

// What the producer, the first warp of a block, does where keys are owned. Its lanes copy the numbers.
template <class Tiling>
__device__ inline void bring_queries(const BlockMemory<Tiling>& at, QueryNumbers<Tiling::N>* numbers, const KeyMaps& x,
                                     const float* delta, const float* lse, const Problem& p, const Deal& deal) {
    constexpr int N = Tiling::N;
    const int lane  = threadIdx.x;
    RingPlace<Tiling::stages> place;
    const auto wait_until_empty = [&](uint32_t parity) { wait_for_phase(at.own_empty(), parity ^ 1); };
    bring_tiles(at, p, TileOrder::first_to_last, deal, wait_until_empty, [&](const OwnTile& own) {
        const int64_t offset = own.head_offset(p);
        int end[2];
        find_ends_of_queries<Tiling::rows>(end, p, own);
        if (lane == 0) {
            arrive_expecting(at.own_full(), 2 * Tiling::Own::bytes);
            at.own(0).copy(x.k, own.h, own.row, own.b, at.own_full());
            at.own(1).copy(x.v, own.h, own.row, own.b, at.own_full());
        }
        for (int query = own.row; query < end[1]; query += N, place.next()) {
            const int i         = place.stage;
            QueryNumbers<N>& to = numbers[i];
            wait_for_phase(at.a_empty(i), place.parity ^ 1);
#pragma unroll
            for (int n = lane; n < N; n += 32) {
                const int t      = min(query + n, p.T - 1);
                const bool valid = query + n < p.T;
                copy_word_async(to.lse + n, lse + offset + t, valid);
                copy_word_async(to.delta + n, delta + offset + t, valid);
                if (p.starts) copy_word_async(to.starts + n, p.starts + int64_t(own.b) * p.T + t, valid);
            }
            arrive_after_copies(at.a_full(i));
            if (lane == 0) {
                to.query = query, to.end[0] = end[0], to.end[1] = end[1];
                arrive_expecting(at.a_full(i), Tiling::Streamed::bytes);
                at.a(i).copy(x.q, own.h, query, own.b, at.a_full(i));
                wait_for_phase(at.b_empty(i), place.parity ^ 1);
                arrive_expecting(at.b_full(i), Tiling::Streamed::bytes);
                at.b(i).copy(x.dout, own.h, query, own.b, at.b_full(i));
            }
            __syncwarp();
        }
    });
}

// Hides scores of a warp's 16 keys, from `first_of_warp` on, from the queries that do not see them.
template <int N>
__device__ inline void hide_keys(Sums<1, N>& s, const QueryNumbers<N>& numbers, int first_of_warp, const Problem& p) {
    const int lane = threadIdx.x % 32, query = numbers.query;
    Range first_keys = {query - p.window + 1, query - p.window + N};
    if (p.starts) {
        first_keys = {INT_MAX, INT_MIN};
#pragma unroll
        for (int n = lane; n < N; n += 32) {
            const int first = first_key(query + n, numbers.starts[n], p.window);
            first_keys      = {min(first_keys.min, first), max(first_keys.max, first)};
        }
        first_keys.max = __reduce_max_sync(~0u, first_keys.max);
    }
    if (query >= first_of_warp + 15 && first_keys.max <= first_of_warp) return;  // all queries see all of the keys
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int i = 8 * n + lane % 4 * 2 + j, t = query + i;
            const int first     = first_key(t, p.starts ? numbers.starts[i] : 0, p.window);
            const int key       = first_of_warp + lane / 4 - first;
            const unsigned seen = t - first;  // counts the visible keys after `first`
#pragma unroll
            for (int k = 0; k < 2; k++)
                if (unsigned(key + 8 * k) > seen) s[0][n][2 * k + j] = -INFINITY;
        }
}

// The masks are computed before dp is there, and dp needs them too. No probability is negative, so in between its sign
// says whether it is dropped. drop_by_sign() changes the sign. round_or_zero() rounds to bf16 and makes 0 of what is
// negative, in one instruction.
template <int N>
__device__ inline void drop_by_sign(Sums<1, N>& s, const HeadDropout& drop, int query, int key) {
    each_dropout<RowsAre::keys, 1, N>(
        drop, query, key, [&](int, int n, int i, bool keeps) { s[0][n][i] = keeps ? s[0][n][i] : -s[0][n][i]; });
}
template <int N>
__device__ inline LeftOperand<1, N> round_or_zero(const Sums<1, N>& c) {
    LeftOperand<1, N> p;
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i += 2)
            asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;"
                : "=r"(p[0][n / 2][n % 2 * 2 + i / 2])
                : "f"(c[0][n][i + 1]), "f"(c[0][n][i]));
    return p;
}

// Returns ds = p (dp - δ), for a p of which drop_by_sign() may have changed the sign.
template <bool drops>
__device__ inline float slope(float p, float dp, float delta, const HeadDropout& drop) {
    if (!drops) return p * (dp - delta);
    return fabsf(p) * centred<drops>(__float_as_int(p) < 0 ? 0.f : dp, delta, drop);
}

template <int N>
__device__ inline void become_probabilities(Sums<1, N>& s, const QueryNumbers<N>& columns, float scale_log2e) {
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
        const float2 lses = *reinterpret_cast<const float2*>(columns.lse + 8 * n + threadIdx.x % 4 * 2);
        const float even = lses.x * log2e, odd = lses.y * log2e;
#pragma unroll
        for (int i = 0; i < 4; i++) s[0][n][i] = probability(s[0][n][i], scale_log2e, i % 2 ? odd : even);
    }
}

// Computes dk and dv of 64 keys of each tile; rows of the products are keys, and columns are queries. A warpgroup skips
// the queries before its keys, and those after the last one that sees them.
template <class Tiling, bool drops>
__device__ inline void compute_backward_kv(const BlockMemory<Tiling>& at, const QueryNumbers<Tiling::N>* numbers,
                                           Heads<bf16> dk, Heads<bf16> dv, const Problem& p, const Deal& deal) {
    constexpr int D = Tiling::D, N = Tiling::N;
    const int lane = threadIdx.x % 32, group = computing_warpgroup(), warp = threadIdx.x / 32 % 4;
    const auto k = at.own(0).from(64 * group), v = at.own(1).from(64 * group);
    const float scale_log2e = p.scale * log2e;
    RingPlace<Tiling::stages> place;
    each_tile(at, p, TileOrder::first_to_last, deal, [&](const OwnTile& own) {
        const int row          = own.row + 64 * group + 16 * warp;  // the warp's first
        const HeadDropout drop = own.dropout<drops>(p);
        Sums<1, N> s, dp;
        Sums<1, D> dk_sums, dv_sums;
        LeftOperand<1, N> weights, ds;
        clear<1, D>(dk_sums);
        clear<1, D>(dv_sums);
        int query = own.row, stage_before = -1;  // there is no stage before the first
        const auto wait_for_queries = [&] {
            wait_for_phase(at.a_full(place.stage), place.parity);
            wait_for_phase(at.b_full(place.stage), place.parity);
        };
        // Only queries of the other warpgroup's keys come before `end`.
        const auto skip_to = [&](int end) {
            for (; query < end; query += N, place.next()) {
                wait_for_queries();
                release(at.a_empty(place.stage));
                release(at.b_empty(place.stage));
            }
        };
        wait_for_phase(at.a_full(place.stage), place.parity);
        const int end = numbers[place.stage].end[group], end_of_block = numbers[place.stage].end[1];
        skip_to(min(own.row + 64 * group / N * N, end_of_block));
        for (; query < end; query += N, place.next()) {
            wait_for_queries();
            const int stage                = place.stage;
            const QueryNumbers<N>& columns = numbers[stage];
            pin(s);
            pin(dp);
            begin_products();
            issue_product_transposed<D, N>(s, k, at.a(stage));
            commit_products();
            issue_product_transposed<D, N>(dp, v, at.b(stage));
            commit_products();
            if (stage_before >= 0) {
                wait_for_products<2>();  // the queries before have been added
                pin(dv_sums);
                pin(dk_sums);
                release(at.a_empty(stage_before));
                release(at.b_empty(stage_before));
            }
            wait_for_products<1>();
            pin(s);
            hide_keys<N>(s, columns, row, p);
            become_probabilities<N>(s, columns, scale_log2e);
            if constexpr (drops) drop_by_sign<N>(s, drop, columns.query, row);
            weights = drops ? round_or_zero<N>(s) : round_to_bf16<1, N>(s);
            pin(dv_sums);
            begin_products();
            issue_product<D, N>(dv_sums, weights, at.b(stage));
            commit_products();
            wait_for_products<1>();
            pin(dp);
#pragma unroll
            for (int n = 0; n < N / 8; n++) {  // s becomes ds
                const float2 deltas = *reinterpret_cast<const float2*>(columns.delta + 8 * n + lane % 4 * 2);
#pragma unroll
                for (int i = 0; i < 4; i++)
                    s[0][n][i] = slope<drops>(s[0][n][i], dp[0][n][i], i % 2 ? deltas.y : deltas.x, drop);
            }
            ds = round_to_bf16<1, N>(s);
            pin(dk_sums);
            begin_products();
            issue_product<D, N>(dk_sums, ds, at.a(stage));
            commit_products();
            stage_before = stage;
        }
        wait_for_products<0>();
        pin(dv_sums);
        pin(dk_sums);
        if (stage_before >= 0) {
            release(at.a_empty(stage_before));
            release(at.b_empty(stage_before));
        }
        skip_to(end_of_block);
        release(at.own_empty());
        const float v_scale = drops ? drop.scale : 1.f, v_scales[2] = {v_scale, v_scale},
                    k_scales[2] = {p.scale, p.scale};
        store_rows<D>(dk.at(own.b, own.h), dk_sums, k_scales, row + lane / 4, p.T, p.D);
        store_rows<D>(dv.at(own.b, own.h), dv_sums, v_scales, row + lane / 4, p.T, p.D);
    });
}

// The same with D above 128, where the sums of dk and dv do not fit into the registers of one warpgroup. A tile has 64
// keys. Warpgroup 0 computes the probabilities and dv, and warpgroup 1 dP and dk. The probabilities go from one to the
// other through shared memory, in turns: each lane finds those of its own elements. So there are as many products as
// with smaller D, and each warpgroup has two of them.
template <class Tiling, bool drops>
__device__ inline void compute_backward_kv_apart(const BlockMemory<Tiling>& at, const QueryNumbers<Tiling::N>* numbers,
                                                 Heads<bf16> dk, Heads<bf16> dv, const Problem& p, const Deal& deal) {
    constexpr int D = Tiling::D, N = Tiling::N;
    __shared__ float4 probabilities[N / 8][128];
    const int lane = threadIdx.x % 32, group = computing_warpgroup(), warp = threadIdx.x / 32 % 4;
    const float scale_log2e = p.scale * log2e;
    const Turns turns{group};
    if (group == 1) turns.pass();  // the memory for probabilities is free
    RingPlace<Tiling::stages> place;
    each_tile(at, p, TileOrder::first_to_last, deal, [&](const OwnTile& own) {
        const int row          = own.row + 16 * warp;  // the warp's first
        const HeadDropout drop = own.dropout<drops>(p);
        Sums<1, N> s;  // or dp
        Sums<1, D> sums;
        LeftOperand<1, N> factors;
        clear<1, D>(sums);
        int stage_before = -1;  // there is none yet
        for (bool is_last = false; !is_last;) {
            const int stage                = place.stage;
            const QueryNumbers<N>& columns = numbers[stage];
            // Warpgroup 0 multiplies k with q for the probabilities, and these with dout for dv. Warpgroup 1 multiplies
            // v with dout for dp, and ds with q for dk.
            const auto first = group ? at.b(stage) : at.a(stage), second = group ? at.a(stage) : at.b(stage);
            wait_for_phase(group ? at.b_full(stage) : at.a_full(stage), place.parity);
            pin(s);
            begin_products();
            issue_product_transposed<D, N>(s, at.own(group), first);
            commit_products();
            if (stage_before >= 0) {
                wait_for_products<1>();  // the queries before have been added
                pin(sums);
                release(group ? at.a_empty(stage_before) : at.b_empty(stage_before));
            }
            wait_for_phase(group ? at.a_full(stage) : at.b_full(stage), place.parity);
            is_last = columns.query + N >= columns.end[1];
            wait_for_products<0>();
            pin(s);
            if (group == 0) {
                hide_keys<N>(s, columns, row, p);
                become_probabilities<N>(s, columns, scale_log2e);
                if constexpr (drops) drop_by_sign<N>(s, drop, columns.query, row);
                turns.wait();
#pragma unroll
                for (int n = 0; n < N / 8; n++)
                    probabilities[n][threadIdx.x % 128] = {s[0][n][0], s[0][n][1], s[0][n][2], s[0][n][3]};
                turns.pass();
                factors = drops ? round_or_zero<N>(s) : round_to_bf16<1, N>(s);
            } else {
                turns.wait();
#pragma unroll
                for (int n = 0; n < N / 8; n++) {  // dp becomes ds
                    const float4 p      = probabilities[n][threadIdx.x % 128];
                    const float2 deltas = *reinterpret_cast<const float2*>(columns.delta + 8 * n + lane % 4 * 2);
                    s[0][n][0]          = slope<drops>(p.x, s[0][n][0], deltas.x, drop);
                    s[0][n][1]          = slope<drops>(p.y, s[0][n][1], deltas.y, drop);
                    s[0][n][2]          = slope<drops>(p.z, s[0][n][2], deltas.x, drop);
                    s[0][n][3]          = slope<drops>(p.w, s[0][n][3], deltas.y, drop);
                }
                turns.pass();
                factors = round_to_bf16<1, N>(s);
            }
            release(group ? at.b_empty(stage) : at.a_empty(stage));
            pin(sums);
            begin_products();
            issue_product<D, N>(sums, factors, second);
            commit_products();
            stage_before = stage;
            place.next();
        }
        wait_for_products<0>();
        pin(sums);
        release(group ? at.a_empty(stage_before) : at.b_empty(stage_before));
        release(at.own_empty());
        const float scale = group ? p.scale : drops ? drop.scale : 1.f, scales[2] = {scale, scale};
        store_rows<D>((group ? dk : dv).at(own.b, own.h), sums, scales, row + lane / 4, p.T, p.D);
    });
    if (group == 0) turns.wait();  // the turn that is passed last
}

template <class Tiling, bool drops = false>
__global__ void __launch_bounds__(hopper_threads, 1)
    attention_backward_kv_hopper_kernel(Heads<bf16> dk, Heads<bf16> dv, const float* delta, const float* lse,
                                        const __grid_constant__ KeyMaps x, Problem p, Deal deal) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    __shared__ typename BlockMemory<Tiling>::Static memory;
    __shared__ QueryNumbers<Tiling::N> numbers[Tiling::stages];
    const BlockMemory<Tiling> at(memory);
    divide_block<40, 232>([&] { at.init(32); }, [&] { bring_queries(at, numbers, x, delta, lse, p, deal); },
                          [&] {
                              if constexpr (Tiling::rows == 64)
                                  compute_backward_kv_apart<Tiling, drops>(at, numbers, dk, dv, p, deal);
                              else
                                  compute_backward_kv<Tiling, drops>(at, numbers, dk, dv, p, deal);
                          });
#endif
}

template <class Tiling, bool drops = false>
void backward_kv_hopper(Heads<bf16> dk, Heads<bf16> dv, Heads<const bf16> dout, const float* delta, const float* lse,
                        Inputs<bf16> x, const Problem& p, Tensor qkv, Queue& queue) {
    const auto map = [&](const Heads<const bf16>& heads, int rows) { return map_of(heads, p, qkv.shape[0], rows); };
    const KeyMaps maps{map(x.k, Tiling::rows), map(x.v, Tiling::rows), map(x.q, Tiling::N), map(dout, Tiling::N)};
    launch_on_hopper<Tiling>(attention_backward_kv_hopper_kernel<Tiling, drops>, qkv, queue, dk, dv, delta, lse, maps,
                             p);
}

}  // namespace gpu
