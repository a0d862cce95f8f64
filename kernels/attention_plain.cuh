// attention_plain.cuh - attention without tensor cores: fp32 arithmetic on rows of any dtype, width and alignment
//
// A block has 8 warps, and each warp owns R rows of the block's tile. Rows of the other side are streamed through
// shared memory, 32 at a time. In a product a bᵀ the 32 lanes of a warp are the 32 streamed rows, so the softmax of a
// row is a reduction over lanes. In a product p b the lanes are the columns of b.
//
//   shared memory   the block's tile (forward: q, dq: q and dout, dk and dv: k and v), two streamed tiles, and
//                   weights (rows, 32): p or ds of the current streamed tile, which plain_product() reads
//   registers       the sums of the result, R × D/32 in each lane, and the maximum and sum of each row
//
// D here is the head size rounded up to 32, 64, 128 or 256; tiles are padded with zeros.
#pragma once
#include "attention_tiles.cuh"

namespace gpu {

constexpr int plain_threads = 256, streamed_rows = 32;

template <int D>
struct PlainTiling {
    static constexpr int R = D <= 128 ? 4 : 2, rows = 8 * R;
    static constexpr int own_bytes      = Tile<float, D>::bytes(rows);
    static constexpr int streamed_bytes = Tile<float, D>::bytes(streamed_rows);
    static constexpr int weights_bytes  = rows * streamed_rows * int(sizeof(float));
    static constexpr int shared(int own_tiles) { return own_tiles * own_bytes + 2 * streamed_bytes + weights_bytes; }
    static_assert(2 * own_bytes + 2 * streamed_bytes + weights_bytes + 256 <= max_shared);
};

// Loads rows [first, first + rows) of a head into a tile, with zeros from row `end` and column p.D on. A barrier is
// needed before a thread reads the tile.
template <int rows, int D, class X>
__device__ inline void load_tile(Tile<float, D> tile, Rows<const X> head, int first, int end, const Problem& p) {
    if constexpr (std::is_same_v<X, float>)
        if (p.is_wide) {
            load_tile_async<plain_threads, rows>(tile, head, first, end, p.D);
            wait_for_copies();
            return;
        }
#pragma unroll 2
    for (int i = threadIdx.x; i < rows * D; i += plain_threads) {
        const int row = i / D, d = i % D;
        tile.at(row, d / 4)[d % 4] = first + row < end && d < p.D ? float(head[first + row][d]) : 0.f;
    }
}

// c[i] = row (row + i) of a · row `lane` of b, summed in the order of d: equal rows have equal products to the bit.
template <int R, int D>
__device__ inline void plain_product_transposed(float (&c)[R], Tile<float, D> a, int row, Tile<float, D> b) {
    const int lane = threadIdx.x % 32;
    for (float& x : c) x = 0.f;
#pragma unroll 2
    for (int d = 0; d < D / 4; d++) {
        const float4 y = *reinterpret_cast<const float4*>(b.at(lane, d));
#pragma unroll
        for (int i = 0; i < R; i++) {
            const float4 x = *reinterpret_cast<const float4*>(a.at(row + i, d));
            c[i]           = fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, c[i]))));
        }
    }
}

// c[i][j] += Σ_s weights[i][s] b[s][lane + 32 j]. The weights (R, 32) belong to this warp alone, and lane s has written
// column s of them.
template <int R, int D>
__device__ inline void plain_product(float (&c)[R][D / 32], const float* weights, Tile<float, D> b) {
    const int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll 1
    for (int s = 0; s < streamed_rows; s += 4) {
        float4 x[R];
#pragma unroll
        for (int i = 0; i < R; i++) x[i] = *reinterpret_cast<const float4*>(weights + i * streamed_rows + s);
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

// Bit i of the result is keeps(i), for i < R. The loop is not unrolled, so that Philox needs few registers.
template <int R, class Keeps>
__device__ inline unsigned plain_kept(Keeps keeps) {
    unsigned bits = 0;
#pragma unroll 1
    for (int i = 0; i < R; i++) bits |= unsigned(keeps(i)) << i;
    return bits;
}

template <int R, int D>
__device__ inline void plain_clear(float (&c)[R][D / 32]) {
    for (auto& row : c)
        for (float& x : row) x = 0.f;
}

// Stores factor × c to rows [row, row + R) of a head, for rows before `end` and columns before `width`.
template <int R, int D, class X>
__device__ inline void plain_store(Rows<X> head, const float (&c)[R][D / 32], const float (&factor)[R], int row,
                                   int end, int width) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < D / 32; j++)
            if (row + i < end && lane + 32 * j < width) head[row + i][lane + 32 * j] = X(c[i][j] * factor[i]);
}

template <class X, int D, bool drops>
__global__ void __launch_bounds__(plain_threads, 2)
    attention_forward_plain_kernel(Heads<X> out, float* lse, Inputs<X> x, Problem p) {
    using Tiling    = PlainTiling<D>;
    constexpr int R = Tiling::R, rows = Tiling::rows;
    __shared__ int first_keys[rows];
    const Tile<float, D> q_tile{shared_memory};
    const Tile<float, D> k_tile{q_tile.p + Tiling::own_bytes}, v_tile{k_tile.p + Tiling::streamed_bytes};
    const OwnTile own(p, rows, TileOrder::last_to_first);
    p.begin(own.b);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * R;  // the warp's first row within the tile
    float* const weights   = reinterpret_cast<float*>(v_tile.p + Tiling::streamed_bytes) + row * streamed_rows;
    const Range seen       = find_first_keys<plain_threads, rows>(first_keys, p, own);
    const int end          = min(p.past + own.row + rows, p.keys());
    const HeadDropout drop = own.dropout<drops>(p);

    float acc[R][D / 32], row_max[R], row_sum[R];  // row_sum: this lane's share of Σ exp(s - row_max)
    plain_clear<R, D>(acc);
    for (int i = 0; i < R; i++) {
        row_max[i] = -FLT_MAX;
        row_sum[i] = 0.f;
    }
    load_tile<rows>(q_tile, x.q.at(own.b, own.h), own.row, p.T, p);
    for (int key = seen.min; key < end; key += streamed_rows) {
        __syncthreads();
        load_tile<streamed_rows>(k_tile, x.k.at(own.b, own.h), key, end, p);
        load_tile<streamed_rows>(v_tile, x.v.at(own.b, own.h), key, end, p);
        __syncthreads();
        const auto keeps    = [&](int i) { return drop.keeps(own.row + row + i, key + lane); };
        const unsigned kept = drops ? plain_kept<R>(keeps) : ~0u;
        float s[R];
        plain_product_transposed<R>(s, q_tile, row, k_tile);
#pragma unroll
        for (int i = 0; i < R; i++) {
            const bool sees   = key + lane >= first_keys[row + i] && key + lane <= p.past + own.row + row + i;
            const float score = sees ? s[i] * p.scale : -INFINITY;
            float new_max     = fmaxf(row_max[i], score);
            for (int j = 16; j; j /= 2) new_max = fmaxf(new_max, __shfl_xor_sync(~0u, new_max, j));
            const float rescale = expf(row_max[i] - new_max), weight = expf(score - new_max);
            row_max[i] = new_max;
            row_sum[i] = row_sum[i] * rescale + weight;
#pragma unroll
            for (int j = 0; j < D / 32; j++) acc[i][j] *= rescale;
            weights[i * streamed_rows + lane] = kept >> i & 1 ? weight : 0.f;
        }
        plain_product<R>(acc, weights, v_tile);
    }
    float factor[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        const float sum = warp_sum(row_sum[i]);
        const int t     = own.row + row + i;
        factor[i]       = (drops ? drop.scale : 1.f) / sum;
        if (lse && lane == 0 && t < p.T) lse[own.head_offset(p) + t] = row_max[i] + logf(sum);
    }
    plain_store<R, D>(out.at(own.b, own.h), acc, factor, own.row + row, p.T, p.D);
}

template <class X, int D, bool drops>
__global__ void __launch_bounds__(plain_threads, 2)
    attention_backward_q_plain_kernel(Heads<X> dq, float* delta, Heads<const X> dout, Heads<const X> out,
                                      const float* lse, Inputs<X> x, Problem p) {
    using Tiling    = PlainTiling<D>;
    constexpr int R = Tiling::R, rows = Tiling::rows;
    __shared__ int first_keys[rows];
    const Tile<float, D> q_tile{shared_memory}, dout_tile{q_tile.p + Tiling::own_bytes};
    const Tile<float, D> k_tile{dout_tile.p + Tiling::own_bytes}, v_tile{k_tile.p + Tiling::streamed_bytes};
    const OwnTile own(p, rows, TileOrder::last_to_first);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * R;
    float* const weights   = reinterpret_cast<float*>(v_tile.p + Tiling::streamed_bytes) + row * streamed_rows;
    const Range seen       = find_first_keys<plain_threads, rows>(first_keys, p, own);
    const int end          = min(own.row + rows, p.T);
    const HeadDropout drop = own.dropout<drops>(p);

    load_tile<rows>(q_tile, x.q.at(own.b, own.h), own.row, p.T, p);
    load_tile<rows>(dout_tile, dout.at(own.b, own.h), own.row, p.T, p);
    const Tile<float, D> out_tile = k_tile;  // needed for δ alone, before the first keys are loaded
    load_tile<streamed_rows>(out_tile, out.at(own.b, own.h), own.row, p.T, p);
    __syncthreads();
    float acc[R][D / 32], row_lse[R], row_delta[R], factor[R];
    plain_clear<R, D>(acc);
    plain_product_transposed<R>(row_delta, dout_tile, row, out_tile);
#pragma unroll
    for (int i = 0; i < R; i++) {
        // δ is the same kind of sum as dp, so that a row which sees only itself has ds = p (dp - δ) = 0 exactly.
        row_delta[i]        = __shfl_sync(~0u, row_delta[i], row + i);
        const int t         = own.row + row + i;
        const int64_t index = own.head_offset(p) + t;
        row_lse[i]          = t < p.T ? lse[index] : 0.f;
        factor[i]           = p.scale;
        if (lane == 0 && t < p.T) delta[index] = row_delta[i];
    }
    for (int key = seen.min; key < end; key += streamed_rows) {
        __syncthreads();
        load_tile<streamed_rows>(k_tile, x.k.at(own.b, own.h), key, end, p);
        load_tile<streamed_rows>(v_tile, x.v.at(own.b, own.h), key, end, p);
        __syncthreads();
        const auto keeps    = [&](int i) { return drop.keeps(own.row + row + i, key + lane); };
        const unsigned kept = drops ? plain_kept<R>(keeps) : ~0u;
        float s[R], dp[R];
        plain_product_transposed<R>(s, q_tile, row, k_tile);
        plain_product_transposed<R>(dp, dout_tile, row, v_tile);
#pragma unroll
        for (int i = 0; i < R; i++) {
            const bool sees = key + lane >= first_keys[row + i] && key + lane <= own.row + row + i;
            if (drops) dp[i] = kept >> i & 1 ? dp[i] * drop.scale : 0.f;
            const float ds_i                  = sees ? expf(s[i] * p.scale - row_lse[i]) * (dp[i] - row_delta[i]) : 0.f;
            weights[i * streamed_rows + lane] = ds_i;
        }
        plain_product<R>(acc, weights, k_tile);
    }
    plain_store<R, D>(dq.at(own.b, own.h), acc, factor, own.row + row, p.T, p.D);
}

template <class X, int D, bool drops>
__global__ void __launch_bounds__(plain_threads, D == 128 && drops ? 1 : 2)
    attention_backward_kv_plain_kernel(Heads<X> dk, Heads<X> dv, Heads<const X> dout, const float* delta,
                                       const float* lse, Inputs<X> x, Problem p) {
    using Tiling    = PlainTiling<D>;
    constexpr int R = Tiling::R, rows = Tiling::rows;
    const Tile<float, D> k_tile{shared_memory}, v_tile{k_tile.p + Tiling::own_bytes};
    const Tile<float, D> q_tile{v_tile.p + Tiling::own_bytes}, dout_tile{q_tile.p + Tiling::streamed_bytes};
    const OwnTile own(p, rows, TileOrder::first_to_last);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * R, last_key = min(own.row + rows, p.T) - 1;
    float* const weights   = reinterpret_cast<float*>(dout_tile.p + Tiling::streamed_bytes) + row * streamed_rows;
    const int64_t offset   = own.head_offset(p);
    const int end          = end_of_queries<plain_threads>(p, own.b, own.row, last_key);
    const HeadDropout drop = own.dropout<drops>(p);

    float dk_sums[R][D / 32], dv_sums[R][D / 32];
    plain_clear<R, D>(dk_sums);
    plain_clear<R, D>(dv_sums);
    load_tile<rows>(k_tile, x.k.at(own.b, own.h), own.row, p.T, p);
    load_tile<rows>(v_tile, x.v.at(own.b, own.h), own.row, p.T, p);
    for (int query = own.row; query < end; query += streamed_rows) {
        __syncthreads();
        load_tile<streamed_rows>(q_tile, x.q.at(own.b, own.h), query, p.T, p);
        load_tile<streamed_rows>(dout_tile, dout.at(own.b, own.h), query, p.T, p);
        __syncthreads();
        const int t = query + lane, first_key = t < p.T ? p.first_key(own.b, t) : INT_MAX;  // this lane's query
        const float row_lse = t < p.T ? lse[offset + t] : 0.f, row_delta = t < p.T ? delta[offset + t] : 0.f;
        const auto keeps    = [&](int i) { return drop.keeps(t, own.row + row + i); };
        const unsigned kept = drops ? plain_kept<R>(keeps) : ~0u;
        float s[R], dp[R];
        plain_product_transposed<R>(s, k_tile, row, q_tile);
        plain_product_transposed<R>(dp, v_tile, row, dout_tile);
#pragma unroll
        for (int i = 0; i < R; i++) {
            const int key = own.row + row + i;
            s[i]          = key >= first_key && key <= t ? expf(s[i] * p.scale - row_lse) : 0.f;  // s becomes p
            if (drops) dp[i] = kept >> i & 1 ? dp[i] * drop.scale : 0.f;
            weights[i * streamed_rows + lane] = kept >> i & 1 ? s[i] : 0.f;
        }
        plain_product<R>(dv_sums, weights, dout_tile);
#pragma unroll
        for (int i = 0; i < R; i++) weights[i * streamed_rows + lane] = s[i] * (dp[i] - row_delta);  // ds
        plain_product<R>(dk_sums, weights, q_tile);
    }
    float k_scales[R], v_scales[R];
    for (int i = 0; i < R; i++) {
        v_scales[i] = drops ? drop.scale : 1.f;
        k_scales[i] = p.scale;
    }
    plain_store<R, D>(dk.at(own.b, own.h), dk_sums, k_scales, own.row + row, p.T, p.D);
    plain_store<R, D>(dv.at(own.b, own.h), dv_sums, v_scales, own.row + row, p.T, p.D);
}

}  // namespace gpu
