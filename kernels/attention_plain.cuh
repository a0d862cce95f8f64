// attention_plain.cuh - attention in fp32 arithmetic, for --dtype fp32 and for rows that tensor cores cannot take
//
// 8 warps; each owns R rows of its block's tile. For a bᵀ the 32 lanes are the rows of the passing tile, so the
// softmax of a row is a reduction over lanes; for p b the lanes are the columns. D here is the head size rounded up
// to 32, 64, 128 or 256.
#pragma once
#include "attention_tiles.cuh"

namespace gpu {

constexpr int plain_threads = 256, passing = 32;

template <int D>
struct PlainPlan {
    static constexpr int R = D <= 128 ? 4 : 2, rows = 8 * R;
    using Rect                   = Tile<float, D>;
    static constexpr int weights = rows * passing * int(sizeof(float));
    static constexpr int shared(int owned) { return owned * Rect::bytes(rows) + 2 * Rect::bytes(passing) + weights; }
    static_assert(2 * Rect::bytes(rows) + 2 * Rect::bytes(passing) + weights + 256 <= most_shared);
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
            c[i]           = fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, c[i]))));
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

template <int R, int D>
__device__ inline void plain_clear(float (&c)[R][D / 32]) {
    for (auto& row : c)
        for (float& x : row) x = 0.f;
}

template <int R, int D, class X>
__device__ inline void plain_store(Rows<X> to, const float (&c)[R][D / 32], const float (&factor)[R], int row, int end,
                                   int width) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < D / 32; j++)
            if (row + i < end && lane + 32 * j < width) to[row + i][lane + 32 * j] = X(c[i][j] * factor[i]);
}

template <class X, int D>
__global__ void __launch_bounds__(plain_threads, 2)
    attention_forward_plain_kernel(Heads<X> out, float* lse, Inputs<X> x, Problem p) {
    using Plan      = PlainPlan<D>;
    using Rect      = Tile<float, D>;
    constexpr int R = Plan::R, rows = Plan::rows;
    __shared__ int first[rows];
    const Rect qs{shared_memory}, ks{qs.p + Rect::bytes(rows)}, vs{ks.p + Rect::bytes(passing)};
    const Place at(p, rows, true);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * R;
    float* const weights = reinterpret_cast<float*>(vs.p + Rect::bytes(passing)) + row * passing;
    const int2 seen      = first_keys<plain_threads, rows>(first, p, at);
    const int end        = min(p.past + at.row + rows, p.keys());

    float acc[R][D / 32], top[R], l[R];
    plain_clear<R, D>(acc);
    for (int i = 0; i < R; i++) top[i] = -FLT_MAX, l[i] = 0.f;
    load_tile<rows>(qs, x.q.at(at.b, at.h), at.row, p.T, p);
    for (int key = seen.x; key < end; key += passing) {
        __syncthreads();
        load_tile<passing>(ks, x.k.at(at.b, at.h), key, end, p);
        load_tile<passing>(vs, x.v.at(at.b, at.h), key, end, p);
        __syncthreads();
        float s[R];
        plain_product_turned<R>(s, qs, row, ks);
#pragma unroll
        for (int i = 0; i < R; i++) {
            const bool sees   = key + lane >= first[row + i] && key + lane <= p.past + at.row + row + i;
            const float score = sees ? s[i] * p.scale : -INFINITY;
            float highest     = fmaxf(top[i], score);
            for (int j = 16; j; j /= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, j));
            const float shrink = expf(top[i] - highest), w = expf(score - highest);
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
        if (lse && lane == 0 && t < p.T) lse[at.of(p) + t] = top[i] + logf(sum);
    }
    plain_store<R, D>(out.at(at.b, at.h), acc, factor, at.row + row, p.T, p.D);
}

template <class X, int D>
__global__ void __launch_bounds__(plain_threads, 2)
    attention_backward_q_plain_kernel(Heads<X> dq, float* delta, Heads<const X> dout, Heads<const X> out,
                                      const float* lse, Inputs<X> x, Problem p) {
    using Plan      = PlainPlan<D>;
    using Rect      = Tile<float, D>;
    constexpr int R = Plan::R, rows = Plan::rows;
    __shared__ int first[rows];
    const Rect qs{shared_memory}, douts{qs.p + Rect::bytes(rows)}, ks{douts.p + Rect::bytes(rows)};
    const Rect vs{ks.p + Rect::bytes(passing)};
    const Place at(p, rows, true);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * R;
    float* const weights = reinterpret_cast<float*>(vs.p + Rect::bytes(passing)) + row * passing;
    const int2 seen      = first_keys<plain_threads, rows>(first, p, at);
    const int end        = min(at.row + rows, p.T);

    load_tile<rows>(qs, x.q.at(at.b, at.h), at.row, p.T, p);
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
        const int t      = at.row + row + i;
        const int64_t of = at.of(p) + t;
        row_lse[i]       = t < p.T ? lse[of] : 0.f;
        factor[i]        = p.scale;
        if (lane == 0 && t < p.T) delta[of] = row_delta[i];
    }
    for (int key = seen.x; key < end; key += passing) {
        __syncthreads();
        load_tile<passing>(ks, x.k.at(at.b, at.h), key, end, p);
        load_tile<passing>(vs, x.v.at(at.b, at.h), key, end, p);
        __syncthreads();
        float s[R], dp[R];
        plain_product_turned<R>(s, qs, row, ks);
        plain_product_turned<R>(dp, douts, row, vs);
#pragma unroll
        for (int i = 0; i < R; i++) {
            const bool sees             = key + lane >= first[row + i] && key + lane <= at.row + row + i;
            weights[i * passing + lane] = sees ? expf(s[i] * p.scale - row_lse[i]) * (dp[i] - row_delta[i]) : 0.f;
        }
        plain_product<R>(acc, weights, ks);
    }
    plain_store<R, D>(dq.at(at.b, at.h), acc, factor, at.row + row, p.T, p.D);
}

template <class X, int D>
__global__ void __launch_bounds__(plain_threads, 2)
    attention_backward_kv_plain_kernel(Heads<X> dk, Heads<X> dv, Heads<const X> dout, const float* delta,
                                       const float* lse, Inputs<X> x, Problem p) {
    using Plan      = PlainPlan<D>;
    using Rect      = Tile<float, D>;
    constexpr int R = Plan::R, rows = Plan::rows;
    const Rect ks{shared_memory}, vs{ks.p + Rect::bytes(rows)}, qs{vs.p + Rect::bytes(rows)};
    const Rect douts{qs.p + Rect::bytes(passing)};
    const Place at(p, rows, false);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * R, last = min(at.row + rows, p.T) - 1;
    float* const weights = reinterpret_cast<float*>(douts.p + Rect::bytes(passing)) + row * passing;
    const int64_t of     = at.of(p);
    const int end        = last_query<plain_threads>(p, at.b, at.row, last);

    float dk_sums[R][D / 32], dv_sums[R][D / 32];
    plain_clear<R, D>(dk_sums), plain_clear<R, D>(dv_sums);
    load_tile<rows>(ks, x.k.at(at.b, at.h), at.row, p.T, p);
    load_tile<rows>(vs, x.v.at(at.b, at.h), at.row, p.T, p);
    for (int query = at.row; query < end; query += passing) {
        __syncthreads();
        load_tile<passing>(qs, x.q.at(at.b, at.h), query, p.T, p);
        load_tile<passing>(douts, dout.at(at.b, at.h), query, p.T, p);
        __syncthreads();
        const int t = query + lane, first = t < p.T ? p.first(at.b, t) : INT_MAX;  // this lane's query
        const float row_lse = t < p.T ? lse[of + t] : 0.f, row_delta = t < p.T ? delta[of + t] : 0.f;
        float s[R], dp[R];
        plain_product_turned<R>(s, ks, row, qs);
        plain_product_turned<R>(dp, vs, row, douts);
#pragma unroll
        for (int i = 0; i < R; i++) {
            const int key               = at.row + row + i;
            s[i]                        = key >= first && key <= t ? expf(s[i] * p.scale - row_lse) : 0.f;
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

}  // namespace gpu
