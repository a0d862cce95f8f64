// attention_gpu.cuh - launches the kernels of attention's CUDA half; attention.cu holds the formulas
//
// Training runs the three loops over tiles below, and prefill the first of them. Each is written three times:
//
//   attention_plain.cuh    in fp32, for rows of any dtype, width and alignment
//   attention_tensor*.cuh  on tensor cores, for bf16 with D a multiple of 8
//   attention_hopper*.cuh  with Hopper's own instructions, for the same with D above 32, but not over a cache
//
// A block owns a tile of rows and keeps their sums in registers, while tiles of the other side are streamed through
// shared memory:
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
#include "attention_hopper.cuh"
#include "attention_hopper_backward.cuh"
#include "attention_plain.cuh"
#include "attention_tensor.cuh"
#include "attention_tensor_backward.cuh"
#include "attention_trial.cuh"

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

template <class X>
void forward_tiles(Heads<X> out, float* lse, Inputs<X> x, Problem p, Tensor qkv, Queue& queue) {
    if constexpr (std::is_same_v<X, bf16>) {
        if (p.is_wide)
            return for_tensor_size(p.D, [&](auto D) {
                for_dropout(p.drops.step, [&](auto drops) {
                    using Tiling = ForwardTilingOf<D, drops>;
                    launch(attention_forward_kernel<Tiling, drops>, grid_of<Tiling>(qkv), queue, out, lse, x, p);
                });
            });
    }
    for_plain_size(p.D, [&](auto D) {
        using Tiling = PlainTiling<D>;
        const Grid grid(blocks_of(qkv, Tiling::rows), plain_threads, Tiling::shared(1));
        for_dropout(p.drops.step, [&](auto drops) {
            launch(attention_forward_plain_kernel<X, D, drops>, grid, queue, out, lse, x, p);
        });
    });
}

bool has_hopper_attention(const Queue& queue) {
    if (!is_hopper(queue)) return false;
    static const bool is_compiled = has_machine_code(attention_forward_hopper_kernel<HopperForwardTilingOf<64>>);
    return is_compiled;
}

// Returns the Problem of sequence b alone, given that of all sequences. `qkv` has the rows of this sequence.
inline Problem problem_of_sequence(const Problem& all, int64_t b, Tensor qkv, Tensor starts,
                                   std::initializer_list<Tensor> tensors) {
    Problem p = problem(qkv, starts.rows(b, 1), 0, all.scale, all.window, tensors);
    p.drops   = all.drops;
    p.drops.first_head += uint32_t(b * all.H);
    return p;
}

// Runs Hopper's kernel where it can be used. Returns false where it cannot, or where its first results differ from
// those with mma.sync.
inline bool forward_on_hopper(Tensor out, Tensor lse, Tensor qkv, Tensor starts, const Problem& p, Queue& queue) {
    const HopperCall kind = {0, p.D, p.window < p.T, bool(starts), p.drops.step != nullptr};
    if (p.D <= 32 || !hopper_takes(p, queue, kind)) return false;
    for_size<64, 80, 96, 128, 192, 256>(p.D, [&](auto D) {
        for_dropout(p.drops.step, [&](auto drops) {
            forward_hopper<HopperForwardTilingOf<D, drops>, drops>(heads_of<bf16>(out), lse.data<float>(),
                                                                   inputs<bf16>(qkv), p, qkv, queue);
        });
    });
    if (!needs_trial(queue, kind)) return true;
    const Tensor y = out.rows(0, 1), l = lse.rows(0, 1);
    HopperTrial trial(p, queue);
    const Tensor other{trial.memory(), y.dtype, y.shape}, other_lse{trial.memory() + y.bytes(), l.dtype, l.shape};
    for (int64_t b = 0; b < qkv.shape[0]; b++) {
        const Tensor one      = qkv.rows(b, 1);
        const Inputs<bf16> in = inputs<bf16>(one);
        forward_tiles<bf16>(heads_of<bf16>(other), other_lse.data<float>(), in,
                            problem_of_sequence(p, b, one, starts, {other, one}), one, queue);
        // Both results are sums of v with weights that add up to 1, or that dropout has multiplied with its scale. Each
        // rounds the weights to bf16, by 2^-9 at most, and then the result. So they may differ by 2^-7 of the largest
        // |v|, times that scale.
        trial.compare(b, heads_of<const bf16>(out.rows(b, 1)), heads_of<const bf16>(other), in.v,
                      0x1p-7f * p.drops.scale, lse.rows(b, 1).data<float>(), other_lse.data<float>());
    }
    return trial.passes(kind);
}

template <class X>
void attention_forward(Tensor out, Tensor lse, Tensor qkv, Tensor starts, float scale, int64_t window,
                       const HeadDropouts& drops, Queue& queue) {
    Problem p = problem(qkv, starts, 0, scale, window, {out, qkv});
    p.drops   = drops;
    if constexpr (std::is_same_v<X, bf16>)
        if (forward_on_hopper(out, lse, qkv, starts, p, queue)) return;
    forward_tiles<X>(heads_of<X>(out), lse.data<float>(), inputs<X>(qkv), p, qkv, queue);
}

template <class X>
void backward_tiles(Tensor dqkv, float* delta, Tensor dout, Tensor out, Tensor lse, Tensor qkv, const Problem& p,
                    Queue& queue) {
    const Inputs<X> x = inputs<X>(qkv);
    const auto dq = heads_of_qkv<X>(dqkv, 0), dk = heads_of_qkv<X>(dqkv, 1), dv = heads_of_qkv<X>(dqkv, 2);
    const auto y = heads_of<const X>(out), dy = heads_of<const X>(dout);
    const float* const l = lse.data<float>();
    if constexpr (std::is_same_v<X, bf16>) {
        if (p.is_wide)
            return for_tensor_size(p.D, [&](auto D) {
                for_dropout(p.drops.step, [&](auto drops) {
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
        for_dropout(p.drops.step, [&](auto drops) {
            launch(attention_backward_q_plain_kernel<X, D, drops>, grid, queue, dq, delta, dy, y, l, x, p);
            launch(attention_backward_kv_plain_kernel<X, D, drops>, grid, queue, dk, dv, dy, delta, l, x, p);
        });
    });
}

// Does for the backward pass what forward_on_hopper() does.
inline bool backward_on_hopper(Tensor dqkv, float* delta, Tensor dout, Tensor out, Tensor lse, Tensor qkv,
                               Tensor starts, const Problem& p, Queue& queue) {
    const HopperCall kind = {1, p.D, p.window < p.T, bool(starts), p.drops.step != nullptr};
    if (p.D <= 32 || !hopper_takes(p, queue, kind)) return false;
    for_size<64, 80, 96, 128, 192, 256>(p.D, [&](auto D) {
        const Inputs<bf16> x = inputs<bf16>(qkv);
        const auto dq = heads_of_qkv<bf16>(dqkv, 0), dk = heads_of_qkv<bf16>(dqkv, 1), dv = heads_of_qkv<bf16>(dqkv, 2);
        const auto y = heads_of<const bf16>(out), dy = heads_of<const bf16>(dout);
        const float* const l = lse.data<float>();
        for_dropout(p.drops.step, [&](auto drops) {
            backward_q_hopper<HopperQueryTilingOf<D, drops>, drops>(dq, delta, dy, y, l, x, p, qkv, queue);
            backward_kv_hopper<HopperKeyTilingOf<D, drops>, drops>(dk, dv, dy, delta, l, x, p, qkv, queue);
        });
    });
    if (!needs_trial(queue, kind)) return true;
    const Tensor g = dqkv.rows(0, 1);
    HopperTrial trial(p, queue);
    const Tensor other{trial.memory(), g.dtype, g.shape};
    float* const other_delta = reinterpret_cast<float*>(trial.memory() + g.bytes());
    for (int64_t b = 0; b < qkv.shape[0]; b++) {
        const Tensor one = qkv.rows(b, 1), dy = dout.rows(b, 1), y = out.rows(b, 1);
        backward_tiles<bf16>(other, other_delta, dy, y, lse.rows(b, 1), one,
                             problem_of_sequence(p, b, one, starts, {other, dy, y, one}), queue);
        // How much rounding matters depends on how much of each sum cancels. 2^-5 of a head's largest gradient is
        // several times what random values show, and less than what a wrong product does.
        for (int which = 0; which < 3; which++) {
            const auto right = heads_of_qkv<const bf16>(other, which);
            trial.compare(b, heads_of_qkv<const bf16>(dqkv.rows(b, 1), which), right, right, 0x1p-5f);
        }
    }
    return trial.passes(kind);
}

template <class X>
void attention_backward(Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv, Tensor starts, float scale,
                        int64_t window, const HeadDropouts& drops, Queue& queue) {
    Problem p        = problem(qkv, starts, 0, scale, window, {dqkv, dout, out, qkv});
    p.drops          = drops;
    const Cost cost  = attention_backward_cost(qkv.shape[0], p.T, p.H, p.D, qkv.dtype);
    const auto delta = [&] { return queue.scratch<float>(cost.scratch); };
    if constexpr (std::is_same_v<X, bf16>)
        if (backward_on_hopper(dqkv, delta(), dout, out, lse, qkv, starts, p, queue)) return;
    backward_tiles<X>(dqkv, delta(), dout, out, lse, qkv, p, queue);
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
        launch_early(attention_decode_kernel<X, L>, {B * H * work.parts, decode_threads}, queue, heads_of<X>(out), x,
                     heads_of_cache<X>(k_cache), heads_of_cache<X>(v_cache), p, work, speeds_of(rope),
                     int(rope.dim / 2), queue.bad, rule);
    });
}

}  // namespace gpu
