// attention_gpu.cuh - the CUDA half of attention.cu, which holds the formulas
//
// Three loops over tiles, each written twice: on tensor cores for bf16 with D a multiple of 8, and plainly in fp32 for
// everything else. A block owns a tile of rows and keeps their sums in registers while tiles of the other side pass by:
//
//   forward    owns queries, keys pass:   S = Q Kᵀ, online softmax, out += P V
//   dq         owns queries, keys pass:   S = Q Kᵀ, dP = dO Vᵀ, dQ += dS K; before that δ, kept for dk and dv
//   dk, dv     owns keys, queries pass:   Sᵀ = K Qᵀ, dPᵀ = V dOᵀ, dV += Pᵀ dO, dK += dSᵀ Q
//
// So every sum has one owner and a fixed order: no atomics, the same bits every time. S and dP are computed twice in
// backward: 7 products where atomic additions to dq would need 5. Tiles that the mask hides from a whole block are not
// visited. Only tiles on its border test single elements (for dk and dv, all tiles where documents have starts).
//
// Decoding: few rows against a long cache. The keys are split over blocks; a second kernel adds the parts in order.
#pragma once
#include "attention_plain.cuh"
#include "attention_tensor.cuh"

namespace gpu {

// ---- with a cache --------------------------------------------------------------------------------------------------

// Appends the k and v of qkv (B,T,3,H,D) to the caches (B,H,S,D), a V at a time.
template <class V>
__global__ void attention_append_kernel(Heads<V> k_cache, Heads<V> v_cache, const V* qkv, Problem p, int B) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= int64_t(B) * p.T * 2 * p.H * p.D) return;  // D counts Vs here
    const int d = i % p.D, h = i / p.D % p.H, which = i / p.D / p.H % 2;
    const int64_t row = i / p.D / p.H / 2;
    const int b = row / p.T, t = row % p.T;
    (which ? v_cache : k_cache).at(b, h)[p.past + t][d] = qkv[((row * 3 + 1 + which) * p.H + h) * p.D + d];
}

// Elements [8 i, 8 i + 8) of a row of D, 16 bytes at a time when is_wide; zeros past its end.
template <class X>
__device__ inline void load_eight(float (&x)[8], const X* row, int i, int D, bool is_wide) {
    constexpr int W = wide<X>;
    for (int j = 0; j < 8; j += W) {
        const int d = 8 * i + j;
        if (is_wide) {
            const Floats<W> some = d < D ? load<W>(row + d) : Floats<W>{};
            for (int u = 0; u < W; u++) x[j + u] = some[u];
        } else {
            for (int u = 0; u < W; u++) x[j + u] = d + u < D ? float(row[d + u]) : 0.f;
        }
    }
}

// One query against one part of its keys. L lanes hold a row, 8 elements each, so a warp reads 32 / L keys that
// follow each other in memory; each such group runs an online softmax of its own, and the groups of a block meet at
// the end, in order. New rows are read from qkv, not from the cache: the block with the first part of query t is the
// one to append row t. A part is D sums, the maximum and l.
constexpr int decode_threads = 128;

template <class X, int L>
__global__ void __launch_bounds__(decode_threads)
    attention_decode_kernel(float* parts, Inputs<X> x, Heads<X> k_cache, Heads<X> v_cache, Problem p, int count) {
    constexpr int groups = decode_threads / L, together = 4;  // keys that a group has under way
    // A lane's 8 sums are two pieces of 16 bytes, all first ones before all second ones, these half of the banks away:
    // neither writing pieces nor reading neighbours meets a bank twice.
    constexpr int second = 4 * L + (L >= 8 ? 16 : 0);
    __shared__ __align__(16) float sums[groups][second + 4 * L];
    __shared__ float tops[groups], ls[groups];
    const int part = blockIdx.x % count, t = blockIdx.x / count % p.T, i = blockIdx.x / count / p.T;
    const int b = i / p.H, h = i % p.H;
    const int lane = threadIdx.x % L, group = threadIdx.x / L;
    const int begin = p.first(b, t), n = p.past + t + 1 - begin;
    const int first = begin + int(int64_t(n) * part / count), end = begin + int(int64_t(n) * (part + 1) / count);
    const auto new_k = x.k.at(b, h), new_v = x.v.at(b, h);
    const auto old_k = k_cache.at(b, h), old_v = v_cache.at(b, h);
    if (part == 0)
        for (int d = threadIdx.x; d < p.D; d += decode_threads)
            old_k[p.past + t][d] = new_k[t][d], old_v[p.past + t][d] = new_v[t][d];

    float mine[8], acc[8] = {}, top = -FLT_MAX, l = 0.f;
    load_eight(mine, x.q.at(b, h)[t], lane, p.D, p.is_wide);
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
        top                = highest, l *= shrink;
        for (float& a : acc) a *= shrink;
#pragma unroll
        for (int u = 0; u < together; u++) {
            const float w = expf(s[u] - top);
            l += w;
            for (int j = 0; j < 8; j++) acc[j] = fmaf(w, vs[u][j], acc[j]);
        }
    }

    for (int j = 0; j < 8; j += 4)
        *reinterpret_cast<float4*>(&sums[group][j / 4 * second + 4 * lane]) = {acc[j], acc[j + 1], acc[j + 2],
                                                                               acc[j + 3]};
    if (lane == 0) tops[group] = top, ls[group] = l;
    __syncthreads();
    float highest = -FLT_MAX, sum = 0.f;
    for (int g = 0; g < groups; g++) highest = fmaxf(highest, tops[g]);
    for (int g = 0; g < groups; g++) sum += expf(tops[g] - highest) * ls[g];
    float* const result = parts + int64_t(blockIdx.x) * (p.D + 2);
    for (int d = threadIdx.x; d < p.D; d += decode_threads) {
        float total = 0.f;
        for (int g = 0; g < groups; g++)
            total += expf(tops[g] - highest) * sums[g][d / 4 % 2 * second + d / 8 * 4 + d % 4];
        result[d] = total;
    }
    if (threadIdx.x == 0) result[p.D] = highest, result[p.D + 1] = sum;
}

// out = the parts of each query, in order.
template <class X>
__global__ void __launch_bounds__(64) attention_combine_kernel(Heads<X> out, const float* parts, Problem p, int count) {
    const int t = blockIdx.x % p.T, i = blockIdx.x / p.T, D = p.D;
    const float* part = parts + int64_t(blockIdx.x) * count * (D + 2);
    float highest = -FLT_MAX, l = 0.f;
    for (int c = 0; c < count; c++) highest = fmaxf(highest, part[c * (D + 2) + D]);
    for (int c = 0; c < count; c++) l += expf(part[c * (D + 2) + D] - highest) * part[c * (D + 2) + D + 1];
    for (int d = threadIdx.x; d < D; d += 64) {
        float total = 0.f;
        for (int c = 0; c < count; c++) total += expf(part[c * (D + 2) + D] - highest) * part[c * (D + 2) + d];
        out.at(i / p.H, i % p.H)[t][d] = X(total / l);
    }
}

// ---- doors ---------------------------------------------------------------------------------------------------------

// Calls f with the smallest of the sizes that D fits into, as a constant.
template <int first, int... rest, class F>
void for_size(int64_t D, F f) {
    if constexpr (sizeof...(rest) == 0)
        f(std::integral_constant<int, first>{});
    else if (D <= first)
        f(std::integral_constant<int, first>{});
    else
        for_size<rest...>(D, f);
}
template <class F>
void for_tensor_size(int64_t D, F f) {
    for_size<32, 64, 80, 96, 128, 192, 256>(D, f);
}
template <class F>
void for_plain_size(int64_t D, F f) {
    for_size<32, 64, 128, 256>(D, f);
}

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

// `rows` are the tensors whose rows should be moved 16 bytes at a time.
inline Problem problem(Tensor qkv, Tensor starts, int64_t past, float scale, int64_t window,
                       std::initializer_list<Tensor> rows) {
    bool is_wide = qkv.shape[4] * size_of(qkv.dtype) % 16 == 0;
    for (const Tensor& t : rows) is_wide = is_wide && aligned(static_cast<char*>(t.ptr));
    const int T = int(qkv.shape[1]), H = int(qkv.shape[3]), D = int(qkv.shape[4]);
    const int64_t finite = std::min<int64_t>(window, INT_MAX);
    return {T, H, D, int(past), scale, finite, starts ? starts.data<int32_t>() : nullptr, is_wide};
}

// A block for every `rows` rows of every head.
inline int64_t blocks(Tensor qkv, int rows) { return qkv.shape[0] * qkv.shape[3] * ceil_div(qkv.shape[1], rows); }

template <class X>
void forward_tiles(Heads<X> out, float* lse, Inputs<X> x, Problem p, Tensor qkv, Queue& queue) {
    if constexpr (std::is_same_v<X, bf16>) {
        if (p.is_wide)
            return for_tensor_size(p.D, [&](auto D) {
                using Plan = ForwardPlan<D>;
                const Grid grid(blocks(qkv, Plan::rows), tensor_threads, Plan::shared);
                launch(attention_forward_kernel<D>, grid, queue, out, lse, x, p);
            });
    }
    for_plain_size(p.D, [&](auto D) {
        using Plan = PlainPlan<D>;
        const Grid grid(blocks(qkv, Plan::rows), plain_threads, Plan::shared(1));
        launch(attention_forward_plain_kernel<X, D>, grid, queue, out, lse, x, p);
    });
}

template <class X>
void attention_forward(Tensor out, Tensor lse, Tensor qkv, Tensor starts, float scale, int64_t window, Queue& queue) {
    const Problem p = problem(qkv, starts, 0, scale, window, {out, qkv});
    forward_tiles<X>(heads_of<X>(out), lse.data<float>(), inputs<X>(qkv), p, qkv, queue);
}

template <class X>
void attention_backward(Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv, Tensor starts, float scale,
                        int64_t window, Queue& queue) {
    const Problem p   = problem(qkv, starts, 0, scale, window, {dqkv, dout, out, qkv});
    const Inputs<X> x = inputs<X>(qkv);
    const auto dq = heads_of_qkv<X>(dqkv, 0), dk = heads_of_qkv<X>(dqkv, 1), dv = heads_of_qkv<X>(dqkv, 2);
    const auto y = heads_of<const X>(out), dy = heads_of<const X>(dout);
    const float* const l = lse.data<float>();
    float* const delta   = queue.scratch_of<float>(lse.numel());
    if constexpr (std::is_same_v<X, bf16>) {
        if (p.is_wide)
            return for_tensor_size(p.D, [&](auto D) {
                using Queries = QueryPlan<D>;
                using Keys    = KeyPlan<D>;
                const Grid for_queries(blocks(qkv, Queries::rows), tensor_threads, Queries::shared);
                const Grid for_keys(blocks(qkv, Keys::rows) * (Keys::together ? 1 : 2), tensor_threads, Keys::shared);
                launch(attention_backward_q_kernel<D>, for_queries, queue, dq, delta, dy, y, l, x, p);
                launch(attention_backward_kv_kernel<D>, for_keys, queue, dk, dv, dy, delta, l, x, p);
            });
    }
    for_plain_size(p.D, [&](auto D) {
        using Plan = PlainPlan<D>;
        const Grid grid(blocks(qkv, Plan::rows), plain_threads, Plan::shared(2));
        launch(attention_backward_q_plain_kernel<X, D>, grid, queue, dq, delta, dy, y, l, x, p);
        launch(attention_backward_kv_plain_kernel<X, D>, grid, queue, dk, dv, dy, delta, l, x, p);
    });
}

template <class X>
void attention_cached(Tensor out, Tensor k_cache, Tensor v_cache, Tensor qkv, int64_t past, float scale, int64_t window,
                      Queue& queue) {
    const int64_t B = qkv.shape[0], T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4];
    const Problem p   = problem(qkv, {}, past, scale, window, {out, k_cache, v_cache, qkv});
    const Inputs<X> x = inputs<X>(qkv);
    if (T >= 16) {  // tiles of queries
        const auto append = [&](auto unit) {
            using V           = decltype(unit);
            constexpr int per = sizeof(V) / sizeof(X);
            const auto cache  = [&](Tensor t) {
                const Heads<X> all = heads_of_cache<X>(t);
                return Heads<V>{reinterpret_cast<V*>(all.p), all.batch / per, all.head / per, all.row / per};
            };
            Problem in_units = p;
            in_units.D /= per;
            launch(attention_append_kernel<V>, {ceil_div(B * T * 2 * H * D / per, 256), 256}, queue, cache(k_cache),
                   cache(v_cache), static_cast<const V*>(qkv.ptr), in_units, int(B));
        };
        if (p.is_wide)
            append(uint4{});
        else
            append(X(0));
        const Inputs<X> cached{x.q, heads_of_cache<const X>(k_cache), heads_of_cache<const X>(v_cache)};
        return forward_tiles<X>(heads_of<X>(out), nullptr, cached, p, qkv, queue);
    }
    // About 512 blocks, or fewer with 64 keys each: a function of the shapes, so that every GPU adds in the same order.
    const int64_t rows = B * H * T, keys = std::min(past + T, window);
    const int64_t wanted    = std::min<int64_t>({512 / std::max<int64_t>(rows, 1), keys / 64, 64});
    const int count         = int(std::max<int64_t>(wanted, 1));
    float* const parts      = queue.scratch_of<float>(rows * count * (D + 2));
    const float* const done = parts;
    const Heads<X> k = heads_of_cache<X>(k_cache), v = heads_of_cache<X>(v_cache);
    for_size<1, 2, 4, 8, 16, 32>((D + 7) / 8, [&](auto L) {
        launch(attention_decode_kernel<X, L>, {rows * count, decode_threads}, queue, parts, x, k, v, p, count);
    });
    launch(attention_combine_kernel<X>, {rows, 64}, queue, heads_of<X>(out), done, p, count);
}

}  // namespace gpu
