// attention_cached.h - attention of new rows over a cache of keys and values, on the CPU
//
// attention.cu includes this file behind the tiles and the forward pass that it uses. Several new rows run that forward
// pass. One new row reads its whole cache, in parts that threads share and that are added in their order.
#pragma once
namespace cpu {

// The result of one query against some of its keys: acc (D) = Σ exp(s - m) v, their largest score m, l = Σ exp(s - m).
struct Partial {
    float m, l;
    alignas(64) float acc[max_D];
};

// Computes one query against keys [begin, end) of a cache.
template <class X>
void attend_one(Partial& out, const X* q, Rows<const X> k, Rows<const X> v, int64_t begin, int64_t end, int64_t D,
                float scale) {
    alignas(64) float qf[max_D], score[keys];
    const int64_t Dp = round_up(D, lanes);
    load_tile(qf, Rows<const X>{q, 0}, 1, 1, D, Dp);
    // Past the end, the last key is read again, with weight 0.
    const auto row_of = [=](int64_t key) { return std::min(key, end - 1); };
    std::fill_n(out.acc, Dp, 0.f);
    out.m = -FLT_MAX;
    out.l = 0;
    for (int64_t key = begin; key < end; key += keys) {
        const int64_t n = std::min(keys, end - key);
        for (int64_t s = 0; s < n; s += lanes) {
            floats dot[lanes];  // the products of `lanes` keys; transposed, they are added as vectors
            for (int i = 0; i < lanes; i++) {
                dot[i]      = floats{};
                const X* ki = k[row_of(key + s + i)];
                for_lanes(D, [&](int64_t d, auto some) { dot[i] += load(qf + d) * load(ki + d, some); });
            }
            transpose(dot);
            for (int i = 1; i < lanes; i++) dot[0] += dot[i];
            store(score + s, dot[0] * scale);
        }
        std::fill(score + n, score + keys, -INFINITY);
        floats highest = broadcast(out.m), total = {};
        for (int64_t s = 0; s < keys; s += lanes) highest = max(highest, load(score + s));
        const float m = max(highest);
        for (int64_t s = 0; s < keys; s += lanes) {
            const floats p = exp(load(score + s) - m);
            store(score + s, p);
            total += p;
        }
        const float rescale = exp(broadcast(out.m - m))[0];
        out.m               = m;
        out.l               = out.l * rescale + sum(total);
        for_lanes(D, [&](int64_t d, auto some) {
            floats a[4] = {load(out.acc + d) * rescale};  // four chains, because one would wait for its own additions
            for (int64_t s = 0; s < n; s += 4)
                for (int i = 0; i < 4; i++) a[i] += score[s + i] * load(v[row_of(key + s + i)] + d, some);
            store(out.acc + d, (a[0] + a[1]) + (a[2] + a[3]));
        });
    }
}

template <class X>
void attention_cached(Tensor out, Tensor k_cache, Tensor v_cache, Tensor qkv, Tensor positions, Rope rope, float scale,
                      int64_t window) {
    const int64_t B = qkv.shape[0], T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4], S = k_cache.shape[2];
    const auto q = [&](int64_t i) { return Rows<const X>{qkv.data<X>() + (i / H * T * 3 * H + i % H) * D, 3 * H * D}; };
    const auto y = [&](int64_t i) { return Rows<X>{out.data<X>() + (i / H * T * H + i % H) * D, H * D}; };
    const auto k = [&](int64_t i) { return Rows<X>{k_cache.data<X>() + i * S * D, D}; };
    const auto v = [&](int64_t i) { return Rows<X>{v_cache.data<X>() + i * S * D, D}; };
    const auto to_const = [](Rows<X> r) { return Rows<const X>{r.p, r.stride}; };
    // At most S - T, so that all T rows fit into the caches, even if later positions do not follow the first one.
    const auto past     = [=, at = positions.data<int32_t>()](int64_t i) {
        return std::min<int64_t>(at[i / H * T], S - T);
    };
    expect_ids(positions, position_rule(positions, S));
    rope_forward(qkv, positions, rope, Stream{});
    parallel_ranges(B * H, 64 / T + 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++)
            for (int64_t t = 0; t < T; t++) {
                std::copy_n(q(i)[t] + H * D, D, k(i)[past(i) + t]);
                std::copy_n(q(i)[t] + 2 * H * D, D, v(i)[past(i) + t]);
            }
    });

    if (T > 1) {
        const int64_t blocks = ceil_div(T, 2 * queries);
        return parallel_tasks(B * H * blocks, [&](int64_t task) {
            const int64_t i = task / blocks, block = blocks - 1 - task % blocks;
            const Mask mask{nullptr, window, past(i)};
            forward_rows<X>(y(i), nullptr, q(i), to_const(k(i)), to_const(v(i)), block * 2 * queries, T, D, mask,
                            scale);
        });
    }
    // The keys of each sequence are split into parts by their own number, so that it does not matter what the other
    // sequences of the batch are.
    const auto begin_of = [&](int64_t i) { return first_key<int64_t>(past(i), 0, window); };
    const auto parts_of = [&](int64_t i) { return parts_per_head(B * H, ceil_div(past(i) + 1 - begin_of(i), keys)); };
    int64_t most        = 1;
    for (int64_t i = 0; i < B * H; i += H) most = std::max(most, parts_of(i));
    static thread_local std::vector<Partial> kept;
    kept.resize(std::max<size_t>(kept.size(), B * H * most));
    Partial* const partial = kept.data();
    parallel_tasks(B * H * most, [&](int64_t task) {
        const int64_t i = task / most, p = task % most, parts = parts_of(i), begin = begin_of(i),
                      n = past(i) + 1 - begin;
        if (p >= parts) return;
        attend_one<X>(partial[task], q(i)[0], to_const(k(i)), to_const(v(i)), begin + n * p / parts,
                      begin + n * (p + 1) / parts, D, scale);
    });
    for (int64_t i = 0; i < B * H; i++) {  // the parts of each head, in order
        const Partial* part = partial + i * most;
        const int64_t parts = parts_of(i);
        float m = -FLT_MAX, l = 0;
        for (int64_t p = 0; p < parts; p++) m = std::max(m, part[p].m);
        for (int64_t p = 0; p < parts; p++) l += part[p].l * std::exp(part[p].m - m);
        for_lanes(D, [&](int64_t d, auto some) {
            floats acc = {};
            for (int64_t p = 0; p < parts; p++) acc += load(part[p].acc + d) * std::exp(part[p].m - m);
            store(y(i)[0] + d, acc / l, some);
        });
    }
}

}  // namespace cpu
