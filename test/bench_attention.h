// bench_attention.h - attention and rope on realistic shapes: time, rate, and the share of the measured product rate
//
// Counted work: 2 products of the causal half forward, 5 backward, each T²/2 · D multiply-adds per head. Decoding
// counts the bytes of k and v that one new row reads. The yardstick is the device's matrix product in the same process.
#pragma once
#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/ops.h"

// Seconds of the fastest of several runs that together take about `budget` seconds.
template <class F>
inline double fastest(Stream s, F f, double budget = 0.3) {
    using clock = std::chrono::steady_clock;
    double best = 1e30;
    f();  // touches memory, builds what is built once
    for (double spent = 0; spent < budget;) {
        const auto start = clock::now();
        f();
        sync(s);
        const double seconds = std::chrono::duration<double>(clock::now() - start).count();
        best                 = std::min(best, seconds);
        spent += seconds;
    }
    return best;
}

// Fills with a fixed pattern in [-1, 1) that repeats nowhere soon.
inline void fill_pattern(const Device& dev, Tensor t) {
    std::vector<float> x(t.numel());
    uint32_t bits = 1;
    for (float& v : x) v = float(int32_t(bits = bits * 1664525u + 1013904223u)) * 0x1p-31f;
    Arena arena("pattern");
    arena.plan(t.shape, DType::F32);
    arena.allocate(dev);
    const Tensor f = arena.take(t.shape, DType::F32);
    from_host(f, x.data(), dev.stream());
    copy(t, f, dev.stream());
}

inline void bench_attention(const Device& dev, int64_t B, int64_t T, int64_t H, int64_t D) {
    const Stream s = dev.stream();
    fmt::print("attention B={} T={} H={} D={}\n", B, T, H, D);
    const double peak = dev.peak_flops(DType::F32);
    for (DType x : {DType::F32, DType::BF16}) {
        Arena arena("bench_attention");
        const Shape qkv_shape{B, T, 3, H, D}, out_shape{B, T, H, D}, lse_shape{B, H, T}, cache_shape{B, H, T, D},
            row_shape{B, 1, 3, H, D}, row_out_shape{B, 1, H, D};
        for (int pass = 0; pass < 2; pass++) {
            const auto take = [&](const Shape& shape, DType type) {
                if (pass == 0) arena.plan(shape, type);
                return pass == 0 ? Tensor{} : arena.take(shape, type);
            };
            const Tensor qkv = take(qkv_shape, x), dqkv = take(qkv_shape, x), out = take(out_shape, x),
                         dout = take(out_shape, x);
            const Tensor lse = take(lse_shape, DType::F32), k = take(cache_shape, x), v = take(cache_shape, x);
            const Tensor row = take(row_shape, x), row_out = take(row_out_shape, x);
            if (pass == 0) {
                arena.allocate(dev);
                continue;
            }
            for (Tensor t : {qkv, dout, k, v, row}) fill_pattern(dev, t);
            const float scale    = 1.f / std::sqrt(float(D));
            const double product = double(B * H) * T * T * D;  // FLOP: the causal half of 2 T² D
            const auto report    = [&](const char* what, double seconds, double flop, double bytes) {
                fmt::print("  {:<18} {:<4} {:10.0f} µs", what, name_of(x), seconds * 1e6);
                if (flop > 0)
                    fmt::print(" {:8.1f} GFLOP/s  {:4.0f} % of the fp32 product's {:.0f}", flop / seconds * 1e-9,
                                  flop / seconds / peak * 100, peak * 1e-9);
                if (bytes > 0) fmt::print(" {:8.1f} GB/s", bytes / seconds * 1e-9);
                fmt::print("\n");
            };
            report("forward", fastest(s, [&] { attention_forward(out, lse, qkv, {}, scale, T, s); }), 2 * product, 0);
            report("backward", fastest(s, [&] { attention_backward(dqkv, dout, out, lse, qkv, {}, scale, T, s); }),
                   5 * product, 0);
            report("prefill", fastest(s, [&] { attention_cached(out, k, v, qkv, 0, scale, T, s); }), 2 * product, 0);
            report("decode", fastest(s, [&] { attention_cached(row_out, k, v, row, T - 1, scale, T, s); }), 0,
                   2. * double(cache_shape.numel() * size_of(x)));
            const Rope rope{D / 4 * 2, 10000.f};
            report("rope, half of D", fastest(s, [&] { rope_forward(qkv, {}, rope, s); }), 0,
                   2. * double(B * T * 2 * H * rope.dim * size_of(x)));
        }
    }
}
