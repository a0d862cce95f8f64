// bench_ops.cpp - every op on the shapes of GPT-2 124M at B=4, T=1024: time, and how near the floor
//
//   build/bench_ops [SUBSTRING]      only the ops whose name has it
//
// Ops bound by memory count the fewest bytes they can move (each input once, each output once) against a measured copy;
// products count FLOPs against the measured rate of one well-shaped product in the same dtype. The rate is the best of
// several runs.
#include "test/bench_attention.h"

static std::string only;

struct Bench {
    const Device& dev;
    double copy_rate;  // bytes read plus bytes written, per second
    void row(const std::string& name, DType t, double bytes, double flops, const std::function<void()>& f) const {
        if (name.find(only) == name.npos) return;
        const double seconds = fastest(dev.stream(), f);
        if (flops)
            fmt::print("{:<28} {:<5} {:>10.0f} us {:>9.1f} GFLOP/s {:>5.0f}% of {:.0f}\n", name, name_of(t),
                       seconds * 1e6, flops / seconds / 1e9, 100 * flops / seconds / dev.peak_flops(t),
                       dev.peak_flops(t) / 1e9);
        else
            fmt::print("{:<28} {:<5} {:>10.0f} us {:>9.1f} GB/s    {:>5.0f}% of {:.1f}\n", name, name_of(t),
                       seconds * 1e6, bytes / seconds / 1e9, 100 * bytes / seconds / copy_rate, copy_rate / 1e9);
        std::fflush(stdout);
    }
};

// Tensors that live as long as the bench does.
class Pool {
  public:
    explicit Pool(const Device& dev) : dev_(dev) {}
    Tensor operator()(const Shape& shape, DType t) {
        arenas_.emplace_back("bench");
        arenas_.back().plan(shape, t);
        arenas_.back().allocate(dev_);
        const Tensor x = arenas_.back().take(shape, t);
        if (t != DType::I32) fill_pattern(dev_, x);
        return x;
    }

  private:
    const Device& dev_;
    std::vector<Arena> arenas_;
};

static void bench_dtype(const Bench& b, DType x) {
    const int64_t B = 4, T = 1024, N = B * T, C = 768, F = 3072, V = 50257, Vp = 50304, R = 640;
    const Stream s = b.dev.stream();
    const double e = size_of(x);
    const DType f  = DType::F32;
    const Tensor none;
    Pool make(b.dev);
    const Tensor a = make({N, C}, x), c = make({N, C}, x), d = make({N, C}, x), w = make({C}, x), bias = make({C}, x),
                 mean = make({N}, f), rstd = make({N}, f), dw = make({C}, f), db = make({C}, f), wide = make({N, F}, x),
                 wide2 = make({N, F}, x);
    b.row("add", x, 3 * e * N * C, 0, [&] { add_forward(d, a, c, s); });
    b.row("layernorm forward", x, 2 * e * N * C, 0, [&] { layernorm_forward(d, mean, rstd, a, w, bias, 1e-5f, s); });
    b.row("add_layernorm forward", x, 4 * e * N * C, 0,
          [&] { add_layernorm_forward(d, c, mean, rstd, a, a, w, bias, 1e-5f, s); });
    b.row("layernorm backward", x, 4 * e * N * C, 0, [&] { layernorm_backward(d, dw, db, c, a, w, mean, rstd, s); });
    for (Gelu kind : {Gelu::tanh, Gelu::erf}) {
        const std::string name = kind == Gelu::tanh ? "gelu tanh" : "gelu erf";
        b.row(name + " forward", x, 2 * e * N * F, 0, [&] { gelu_forward(wide2, wide, kind, s); });
        b.row(name + " backward", x, 3 * e * N * F, 0, [&] { gelu_backward(wide2, wide2, wide, kind, s); });
    }
    const Tensor tokens = make({B, T}, DType::I32), wte = make({Vp, C}, x), wpe = make({T, C}, x),
                 dwte = make({Vp, C}, f), dwpe = make({T, C}, f);
    std::vector<int32_t> ids(N);
    for (int64_t i = 0; i < N; i++) ids[i] = int32_t(i * 7919 % V);
    from_host(tokens, ids.data(), s);
    const Tensor rows = a.view({B, T, C});
    b.row("embedding forward", x, 2 * e * N * C, 0, [&] { embedding_forward(rows, tokens, none, wte, wpe, s); });
    b.row("embedding backward", x, (e + 8) * N * C, 0, [&] { embedding_backward(dwte, dwpe, rows, tokens, none, s); });
    const Tensor logits = make({R, Vp}, x), losses = make({R}, f), targets = Tensor{tokens.ptr, DType::I32, {R}};
    b.row("cross_entropy loss only", x, e * R * Vp, 0, [&] { cross_entropy(losses, logits, targets, V, 0.f, s); });
    b.row("cross_entropy with gradient", x, 2 * e * R * Vp, 0,
          [&] { cross_entropy(losses, logits, targets, V, 1e-3f, s); });
    const int64_t P = int64_t(32) << 20;
    const Tensor p = make({P}, x), master = x == f ? p : make({P}, f), m = make({P}, f), v = make({P}, f),
                 g = make({P}, f), norm2 = make({1}, f);
    zero(v, s);
    const Tensor update         = make({4}, DType::I32);
    const AdamWUpdate tenth     = adamw_update(1e-4f, .9f, .95f, 10);
    from_host(update, &tenth, s);
    b.row("adamw, 32M weights", x, (x == f ? 28. : 30.) * P, 0, [&] {
        adamw(p, master, m, v, g, norm2, update, {.9f, .95f, 1e-8f, .1f, 1.f}, s);
    });
    if (x == f) b.row("squared_norm, 32M", x, 4. * P, 0, [&] { squared_norm(norm2, g, s); });

    struct Product {
        const char* name;
        int64_t N, IC, OC;
    };
    for (const Product& q : {Product{"qkv", N, C, 3 * C},
                             {"proj", N, C, C},
                             {"up", N, C, F},
                             {"down", N, F, C},
                             {"head", R, C, Vp},
                             {"up, 256 rows", 256, C, F}}) {
        const Tensor in = make({q.N, q.IC}, x), weight = make({q.OC, q.IC}, x), out = make({q.N, q.OC}, x),
                     din = make({q.N, q.IC}, x), dweight = make({q.OC, q.IC}, f), dbias = make({q.OC}, f);
        const double flops = 2. * q.N * q.IC * q.OC;
        b.row(fmt::format("matmul {} forward", q.name), x, 0, flops, [&] { matmul_forward(out, in, weight, none, s); });
        b.row(fmt::format("matmul {} backward", q.name), x, 0, 2 * flops,
              [&] { matmul_backward(din, dweight, dbias, out, in, weight, Into::add, s); });
    }
    const Tensor one = make({1, C}, x), one_out = make({1, Vp}, x);
    b.row("matmul head, 1 row", x, e * Vp * C, 0, [&] { matmul_forward(one_out, one, wte, none, s); });
}

int main(int argc, char** argv) try {
    only = argc > 1 ? argv[1] : "";
    const Device dev("auto");
    Pool make(dev);
    const Tensor from = make({int64_t(64) << 20}, DType::F32), to = make({int64_t(64) << 20}, DType::F32);
    const double rate = 2. * from.bytes() / fastest(dev.stream(), [&] { copy(to, from, dev.stream()); });
    fmt::print("{} · {} threads · {} · copy {:.1f} GB/s · products fp32 {:.0f}, bf16 {:.0f} GFLOP/s\n", dev.name(),
               dev.threads(), backends(), rate / 1e9, dev.peak_flops(DType::F32) / 1e9,
               dev.peak_flops(DType::BF16) / 1e9);
    const Bench bench{dev, rate};
    for (DType t : {DType::F32, DType::BF16}) bench_dtype(bench, t);
    if (std::string("attention").find(only) != std::string::npos) bench_attention(dev, 4, 1024, 12, 64);
    return 0;
} catch (const std::exception& e) { return complain(e); }
