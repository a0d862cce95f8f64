// attention_gpu.cuh - launches the kernels of attention's CUDA half; attention.cu holds the formulas
//
// Training and prefill run three loops over tiles, each written twice: in attention_tensor.cuh on tensor cores, for
// bf16 with D a multiple of 8, and in attention_plain.cuh in fp32, for everything else. A block owns a tile of rows and
// keeps their sums in registers, while tiles of the other side are streamed through shared memory:
//
//   forward    owns queries, streams keys:   S = Q Kᵀ, online softmax, O += P V
//   dq         owns queries, streams keys:   S = Q Kᵀ, dP = dO Vᵀ, dQ += dS K; and δ, kept for dk and dv
//   dk, dv     owns keys, streams queries:   Sᵀ = K Qᵀ, dPᵀ = V dOᵀ, dV += Pᵀ dO, dK += dSᵀ Q
//
// So every sum has one owner and a fixed order: there are no atomics, and the bits are the same every time. The price
// is that backward computes S and dP twice: 7 products, where atomic additions to dq would need 5. Sums in a fixed
// order would have to pass through memory: each tile of 128 keys would write its own fp32 share of dq, to be read
// again. With GPT-2 124M's heads at B = 32 and T = 1024 these are 900 MB a layer, 0.3 ms on an H100. The two products
// take less. A block does not visit tiles that the mask hides from all its rows, and it tests single elements only in
// tiles on the mask's border.
//
// Generation runs attention_decode.cuh.
#pragma once
#include "attention_decode.cuh"
#include "attention_plain.cuh"
#include "attention_tensor.cuh"

namespace gpu {

// ---- launches ------------------------------------------------------------------------------------------------------

// Calls f with the smallest of the given sizes that D fits into, as a compile-time constant.
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

// Calls f with whether probabilities are dropped, as a compile-time constant.
template <class F>
void for_dropout(const Problem& p, F f) {
    if (p.drops.step)
        f(std::true_type{});
    else
        f(std::false_type{});
}

template <class X>
void forward_tiles(Heads<X> out, float* lse, Inputs<X> x, Problem p, Tensor qkv, Queue& queue) {
    if constexpr (std::is_same_v<X, bf16>) {
        if (p.is_wide)
            return for_tensor_size(p.D, [&](auto D) {
                for_dropout(p, [&](auto drops) {
                    using Tiling = ForwardTilingOf<D, drops>;
                    launch(attention_forward_kernel<Tiling, drops>, grid_of<Tiling>(qkv), queue, out, lse, x, p);
                });
            });
    }
    for_plain_size(p.D, [&](auto D) {
        using Tiling = PlainTiling<D>;
        const Grid grid(blocks_of(qkv, Tiling::rows), plain_threads, Tiling::shared(1));
        for_dropout(
            p, [&](auto drops) { launch(attention_forward_plain_kernel<X, D, drops>, grid, queue, out, lse, x, p); });
    });
}

template <class X>
void attention_forward(Tensor out, Tensor lse, Tensor qkv, Tensor starts, float scale, int64_t window,
                       const HeadDropouts& drops, Queue& queue) {
    Problem p = problem(qkv, starts, 0, scale, window, {out, qkv});
    p.drops   = drops;
    forward_tiles<X>(heads_of<X>(out), lse.data<float>(), inputs<X>(qkv), p, qkv, queue);
}

template <class X>
void attention_backward(Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv, Tensor starts, float scale,
                        int64_t window, const HeadDropouts& drops, Queue& queue) {
    Problem p         = problem(qkv, starts, 0, scale, window, {dqkv, dout, out, qkv});
    p.drops           = drops;
    const Inputs<X> x = inputs<X>(qkv);
    const auto dq = heads_of_qkv<X>(dqkv, 0), dk = heads_of_qkv<X>(dqkv, 1), dv = heads_of_qkv<X>(dqkv, 2);
    const auto y = heads_of<const X>(out), dy = heads_of<const X>(dout);
    const float* const l = lse.data<float>();
    const Cost cost      = attention_backward_cost(qkv.shape[0], p.T, p.H, p.D, qkv.dtype);
    float* const delta   = queue.scratch<float>(cost.scratch);
    if constexpr (std::is_same_v<X, bf16>) {
        if (p.is_wide)
            return for_tensor_size(p.D, [&](auto D) {
                for_dropout(p, [&](auto drops) {
                    using Queries = QueryTilingOf<D, drops>;
                    using Keys    = KeyTilingOf<D, drops>;
                    launch(attention_backward_q_kernel<Queries, drops>, grid_of<Queries>(qkv), queue, dq, delta, dy, y,
                           l, x, p);
                    launch(attention_backward_kv_kernel<Keys, drops>, grid_of<Keys>(qkv), queue, dk, dv, dy, delta, l,
                           x, p);
                });
            });
    }
    for_plain_size(p.D, [&](auto D) {
        using Tiling = PlainTiling<D>;
        const Grid grid(blocks_of(qkv, Tiling::rows), plain_threads, Tiling::shared(2));
        for_dropout(p, [&](auto drops) {
            launch(attention_backward_q_plain_kernel<X, D, drops>, grid, queue, dq, delta, dy, y, l, x, p);
            launch(attention_backward_kv_plain_kernel<X, D, drops>, grid, queue, dk, dv, dy, delta, l, x, p);
        });
    });
}

// Appends the new rows to both caches, a V at a time.
template <class V, class X>
void append_rows(Tensor k_cache, Tensor v_cache, Tensor qkv, Problem p, Queue& queue) {
    constexpr int per_V = sizeof(V) / sizeof(X);
    const auto cache    = [](Tensor t) {
        const Heads<X> x = heads_of_cache<X>(t);
        return Heads<V>{reinterpret_cast<V*>(x.p), x.batch_stride / per_V, x.head_stride / per_V, x.row_stride / per_V};
    };
    p.D /= per_V;
    const int64_t B = qkv.shape[0], count = B * p.T * 2 * p.H * p.D;
    launch(attention_append_kernel<V>, {ceil_div(count, 256), 256}, queue, cache(k_cache), cache(v_cache),
           static_cast<const V*>(qkv.ptr), p, int(B));
}

template <class X>
void attention_cached(Tensor out, Tensor k_cache, Tensor v_cache, Tensor qkv, Tensor positions, Rope rope, float scale,
                      int64_t window, Queue& queue) {
    const int64_t B = qkv.shape[0], T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4], S = k_cache.shape[2];
    const IdRule rule = position_rule(positions, S);
    Problem p         = problem(qkv, {}, 0, scale, window, {out, k_cache, v_cache, qkv});
    p.positions       = positions.data<int32_t>();
    p.most_past       = int(S - T);
    const Inputs<X> x = inputs<X>(qkv);
    if (T > 1) {
        queue.expect_ids(positions, rule);
        rope_forward(qkv, positions, rope, stream_of(queue));
        if (p.is_wide)
            append_rows<uint4, X>(k_cache, v_cache, qkv, p, queue);
        else
            append_rows<X, X>(k_cache, v_cache, qkv, p, queue);
        const Inputs<X> cached{x.q, heads_of_cache<const X>(k_cache), heads_of_cache<const X>(v_cache)};
        return forward_tiles<X>(heads_of<X>(out), nullptr, cached, p, qkv, queue);
    }
    DecodeParts work;
    work.part_keys = int(decode_part(B * H, S));
    work.parts     = int(ceil_div(S, work.part_keys));
    work.results   = queue.scratch<float>(attention_cached_cost(B, T, 0, S, H, D, qkv.dtype).scratch);
    work.counters  = queue.counters;
    CHECK(B * H <= Queue::most_counters, "attention_cached: {} sequences of {} heads, expected at most {} in all", B, H,
          Queue::most_counters);
    for_size<1, 2, 4, 8, 16, 32>(ceil_div(D, 8), [&](auto L) {
        launch(attention_decode_kernel<X, L>, {B * H * work.parts, decode_threads}, queue, heads_of<X>(out), x,
               heads_of_cache<X>(k_cache), heads_of_cache<X>(v_cache), p, work, speeds_of(rope), int(rope.dim / 2),
               queue.bad, rule);
    });
}

}  // namespace gpu
