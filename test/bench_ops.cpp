// bench_ops.cpp - times every op on the shapes of GPT-2 124M, and says how near that is to the limit of the machine
//
//   build/bench_ops --only layernorm                 times the ops whose names contain that, on this machine
//   build/bench_ops --costs                          prints the table of kernels/README.md: costs by the formulas
//   build/bench_ops --scaling                        prints the tables of docs/scaling.md
//   build/bench_ops --profiled OPS.json              runs each op once, for the emulator's --profile COUNTS.json
//   build/bench_ops --table OPS.json,COUNTS.json     prints what was counted beside the costs
//   build/bench_ops --hardware COUNTS.json,NCU.csv   sets what ncu counted on a GPU beside the emulator's counts
//   build/bench_ops --compare-attention              times attention at several sizes with each of its kernels;
//                                                    test/bench_attention.py does the same in PyTorch
//   build/bench_ops --compare-products               times products by cuBLASLt and by each of our kernels
//   build/bench_ops --variants                       times the attention kernels with other tilings than the ops use.
//                                                    All three go with --profiled, and --variants with --table
//
// An op that memory bounds is compared, by the bytes of its Cost (kernels/ops.h), with a measured copy. An op with
// matrix products is compared, by its FLOPs, with the measured rate of one square product in the same dtype. On a CPU,
// where other programs only ever add time, the fastest call counts; on a GPU the median.
#include <algorithm>
#include <cstdio>

#include "gpt/cli.h"
#include "gpt/log.h"
#include "gpt/options.h"
#include "gpt/presets.h"
#include "gpt/time_model.h"
#include "kernels/measure.h"
#include "test/attention_variants.h"
#include "test/cost_table.h"
#include "test/counts.h"
#include "test/scaling_table.h"
#include "test/scratch.h"
#include "test/update.h"

struct BenchOptions {
    std::string only, device = "auto", profiled, table, hardware;
    bool costs = false, scaling = false, variants = false, compare_attention = false, compare_products = false;
    AttentionKernels attention = AttentionKernels::automatic;
    int64_t batch = 4, context = 1024;
};

// Tensors that live as long as the bench does. They hold a fixed sequence of pseudo-random numbers in [-1, 1).
class Pool {
  public:
    explicit Pool(const Device& dev) : dev_(dev) {}
    Tensor operator()(const Shape& shape, DType t) {
        arenas_.emplace_back("bench");
        arenas_.back().plan(shape, t);
        arenas_.back().allocate(dev_);
        const Tensor x = arenas_.back().take(shape, t);
        if (t != DType::I32) fill(x);
        return x;
    }

  private:
    void fill(Tensor t) {
        std::vector<float> x(t.numel());
        uint32_t bits = 1;
        for (float& v : x) v = float(int32_t(bits = bits * 1664525u + 1013904223u)) * 0x1p-31f;
        from_host(t, x, dev_.stream());
    }
    const Device& dev_;
    std::vector<Arena> arenas_;
};

// ---- how it is measured ---------------------------------------------------------------------------------------------

class Bench {
  public:
    Bench(const Device& dev, const BenchOptions& o) : dev_(dev), only_(o.only), profiling_(!o.profiled.empty()) {
        if (profiling_) return;
        Pool make(dev);
        const Tensor from = make({int64_t(64) << 20}, DType::F32), to = make({int64_t(64) << 20}, DType::F32);
        copy_rate_ = 2. * from.bytes() / seconds([&] { copy(to, from, dev.stream()); });
        fmt::print("{} · {} threads · {} · copy {:.1f} GB/s · products fp32 {:.0f}, bf16 {:.0f} GFLOP/s\n", dev.name(),
                   dev.threads(), backends(), copy_rate_ / 1e9, peak_flops(dev, DType::F32) / 1e9,
                   peak_flops(dev, DType::BF16) / 1e9);
    }

    // Whether the name has one of the texts between the commas of --only.
    bool wants(const std::string& name) const {
        for (size_t at = 0; at <= only_.size();) {
            const size_t comma = std::min(only_.find(',', at), only_.size());
            if (name.find(only_.substr(at, comma - at)) != std::string::npos) return true;
            at = comma + 1;
        }
        return false;
    }

    void row(const std::string& name, DType t, const Cost& cost, const Work& op) {
        if (!wants(name)) return;
        if (profiling_) {
            profiled(dev_.stream(), op);
            profiled_.push_back(json_of(name, name_of(t), cost));
            return;
        }
        const double s = seconds(op), peak = peak_flops(dev_, t);
        if (cost.flops)
            fmt::print("{:<28} {:<5} {:>10.0f} us {:>9.1f} GFLOP/s {:>5.0f}% of {:.0f}\n", name, name_of(t), s * 1e6,
                       cost.flops / s / 1e9, 100 * cost.flops / s / peak, peak / 1e9);
        else
            fmt::print("{:<28} {:<5} {:>10.0f} us {:>9.1f} GB/s    {:>5.0f}% of {:.1f}\n", name, name_of(t), s * 1e6,
                       cost.bytes / s / 1e9, 100 * cost.bytes / s / copy_rate_, copy_rate_ / 1e9);
        std::fflush(stdout);
    }

    const nlohmann::json& profiled_ops() const { return profiled_; }

  private:
    // About a third of a second of calls.
    double seconds(const Work& op) const {
        const double one = seconds_per_call(dev_.stream(), 1, 1, op)[0];
        const int calls  = int(std::clamp(0.3 / one, 3., 100.));
        auto all         = seconds_per_call(dev_.stream(), 0, calls, op);
        std::sort(all.begin(), all.end());
        return dev_.where() == Machine::cuda ? all[all.size() / 2] : all[0];
    }

    const Device& dev_;
    std::string only_;
    bool profiling_;
    double copy_rate_        = 0;  // bytes read plus bytes written, per second
    nlohmann::json profiled_ = nlohmann::json::array();
};

// ---- the ops --------------------------------------------------------------------------------------------------------

static void bench_dtype(Bench& b, const Device& dev, DType x, const BenchOptions& o) {
    const int64_t B = o.batch, T = o.context, N = B * T, C = 768, H = 12, D = C / H, F = 3072, V = 50257, Vp = 50304,
                  R = std::min<int64_t>(N, 640);
    const Stream s  = dev.stream();
    const DType f   = DType::F32;
    const Tensor none;
    Pool make(dev);
    const Tensor a = make({N, C}, x), c = make({N, C}, x), d = make({N, C}, x), sum = make({N, C}, x), w = make({C}, x),
                 bias = make({C}, x), mean = make({N}, f), rstd = make({N}, f), dw = make({C}, f), db = make({C}, f),
                 wide = make({N, F}, x), wide2 = make({N, F}, x);
    b.row("add", x, add_forward_cost(N * C, x), [&] { add_forward(d, a, c, s); });
    const Tensor step = make({1}, DType::I32);
    const std::vector<int32_t> number{1};
    from_host(step, number.data(), s);
    const Dropout drop{0.1f, 1, step};
    b.row("dropout", x, dropout_cost(N * C, x), [&] { dropout(d, a, drop, s); });
    b.row("scale_shift", x, scale_shift_cost(N, C, x), [&] { scale_shift(d, dw, db, s); });
    b.row("layernorm forward", x, layernorm_forward_cost(N, C, x),
          [&] { layernorm_forward(d, mean, rstd, a, w, bias, 1e-5f, s); });
    b.row("add_layernorm forward", x, add_layernorm_forward_cost(N, C, x),
          [&] { add_layernorm_forward(d, sum, mean, rstd, a, {c}, w, bias, 1e-5f, s); });
    b.row("add_layernorm forward, dropout", x, add_layernorm_forward_cost(N, C, x), [&] {
        add_layernorm_forward(d, sum, mean, rstd, a, {c, drop}, w, bias, 1e-5f, s);
    });
    const Tensor branch = make({N, C}, x), second = make({N, C}, x);
    b.row("add_layernorm forward, parallel", x, add_layernorm_forward_cost(N, C, x, 2, 2), [&] {
        add_layernorm_forward(d, sum, mean, rstd, a, {c}, w, bias, 1e-5f, s, {branch}, {second, w, bias});
    });
    b.row("layernorm backward", x, layernorm_backward_cost(N, C, x),
          [&] { layernorm_backward(d, dw, db, c, a, w, mean, rstd, Into::set, s); });
    b.row("layernorm backward, dropout", x, layernorm_backward_cost(N, C, x) + Cost{double(d.bytes())},
          [&] { layernorm_backward(d, dw, db, c, a, w, mean, rstd, Into::set, s, drop, sum); });
    for (Gelu kind : {Gelu::tanh, Gelu::erf}) {
        const std::string name = kind == Gelu::tanh ? "gelu tanh" : "gelu erf";
        b.row(name + " forward", x, gelu_forward_cost(N * F, x), [&] { gelu_forward(wide2, wide, kind, s); });
        b.row(name + " backward", x, gelu_backward_cost(N * F, x), [&] { gelu_backward(wide2, wide2, wide, kind, s); });
    }
    {
        const Tensor tokens = make({B, T}, DType::I32), wte = make({Vp, C}, x), wpe = make({T, C}, x),
                     dwte = make({Vp, C}, f), dwpe = make({T, C}, f), rows = a.view({B, T, C});
        std::vector<int32_t> ids(N);
        for (int64_t i = 0; i < N; i++) ids[i] = int32_t(i * 7919 % V);
        from_host(tokens, ids.data(), s);
        b.row("embedding forward", x, embedding_forward_cost(B, T, C, x),
              [&] { embedding_forward(rows, tokens, none, wte, wpe, s); });
        b.row("embedding backward", x, embedding_backward_cost(B, T, C, x),
              [&] { embedding_backward(dwte, dwpe, rows, tokens, none, s); });
        const Tensor logits = make({R, Vp}, x), losses = make({R}, f), targets = Tensor{tokens.ptr, DType::I32, {R}};
        b.row("cross_entropy loss only", x, cross_entropy_loss_cost(R, Vp, x),
              [&] { cross_entropy(losses, logits, targets, {}, V, 0.f, s); });
        b.row("cross_entropy with gradient", x, cross_entropy_cost(R, Vp, x),
              [&] { cross_entropy(losses, logits, targets, {}, V, 1e-3f, s); });
        const Tensor one = make({1, C}, x), one_out = make({1, Vp}, x);
        const Cost read_weight{matmul_forward_cost(1, C, Vp, x).bytes};  // memory is the bound, so no FLOPs
        b.row("matmul head, 1 row", x, read_weight, [&] { matmul_forward(one_out, one, wte, none, s); });
        const Tensor id = make({1}, DType::I32), drawn = make({1}, DType::I32);
        const auto choose_by = [&](const char* name, const Sampling& how) {
            b.row(name, x, choose_cost(1, V, x), [&] { choose(id, drawn, none, one_out, V, 0, how, s); });
        };
        choose_by("choose greedily, 1 row", {0, 0, 1});
        choose_by("choose by top-p, 1 row", {0.8f, 0, 0.95f});
    }
    {
        const int64_t P = int64_t(4) << 20;
        const Tensor p = make({P}, x), master = x == f ? p : make({P}, f), m = make({P}, f), v = make({P}, f),
                     g = make({P}, f), norm2 = make({1}, f);
        zero(v, s);
        const AdamWUpdate update = adamw_update(1e-4f, .9f, .95f, 10);
        const Tensor numbers     = make({4}, DType::I32);
        from_host(numbers, &update, s);
        const AdamWTable table({{p, master, m, v, g, .1f}}, dev);
        b.row("adamw, 4M weights", x, adamw_cost(P, x), [&] {
            adamw(table, norm2, none, numbers, {.9f, .95f, 1e-8f, 1.f}, s);
        });
        const Tensor matrix = p.view({1024, 4096}), direction = g.view({1024, 4096}), gram = make({1024, 1024}, x),
                     gram2 = make({1024, 1024}, x), work = make({1024, 4096}, x), own_norm2 = make({1}, f),
                     rates = make({2}, DType::I32);
        const MuonUpdate rate{1e-4f, 10};
        from_host(rates, &rate, s);
        b.row("muon_orthogonalise, 1024 × 4096", x, muon_orthogonalise_cost(1024, 4096, x), [&] {
            muon_orthogonalise(matrix, direction, {work, gram, gram2, own_norm2}, s);
        });
        b.row("muon_apply, 4M weights", x, muon_apply_cost(P, x),
              [&] { muon_apply(p, master, work.view({P}), norm2, none, rates, 1.f, .1f, {}, s); });
        // Each call adds the last one's result again, so the numbers grow. This comes after all that need finite ones.
        if (x == f)
            b.row("muon_momentum, 4M weights", x, muon_momentum_cost(P),
                  [&] { muon_momentum(m, g, norm2, none, .95f, 1.f, s); });
        if (x == f && !o.profiled.empty())
            b.row("squared_norm, 4M", x, sum_cost(P), [&] { squared_norm(norm2, g, s); });
    }
    if (x == f && o.profiled.empty()) {  // 4M would stay in a GPU's L2 cache from one call to the next
        const Tensor all = make({124'000'000}, f), norm2 = make({1}, f);
        b.row("squared_norm, 124M", x, sum_cost(all.numel()), [&] { squared_norm(norm2, all, s); });
    }
    {
        const Tensor qkv = make({B, T, 3, H, D}, x), dqkv = make({B, T, 3, H, D}, x), out = make({B, T, H, D}, x),
                     dout = make({B, T, H, D}, x), lse = make({B, H, T}, f), k = make({B, H, T, D}, x),
                     v = make({B, H, T, D}, x), row = make({B, 1, 3, H, D}, x), row_out = make({B, 1, H, D}, x);
        const float scale = 1.f / std::sqrt(float(D));
        const Rope rope{D / 4, 10000.f};
        b.row("attention forward", x, attention_forward_cost(B, T, H, D, x),
              [&] { attention_forward(out, lse, qkv, none, scale, T, s); });
        b.row("attention backward", x, attention_backward_cost(B, T, H, D, x),
              [&] { attention_backward(dqkv, dout, out, lse, qkv, none, scale, T, s); });
        b.row("attention forward, dropout", x, attention_forward_cost(B, T, H, D, x),
              [&] { attention_forward(out, lse, qkv, none, scale, T, s, drop); });
        b.row("attention backward, dropout", x, attention_backward_cost(B, T, H, D, x),
              [&] { attention_backward(dqkv, dout, out, lse, qkv, none, scale, T, s, drop); });
        const Tensor all_rows = make({B, T}, DType::I32), last_row = make({B, 1}, DType::I32);  // their positions
        std::vector<int32_t> at(size_t(B * T));
        for (int64_t n = 0; n < B * T; n++) at[n] = int32_t(n % T);
        from_host(all_rows, at.data(), s);
        at.assign(size_t(B), int32_t(T - 1));
        from_host(last_row, at.data(), s);
        b.row("attention prefill", x, attention_cached_cost(B, T, 0, T, H, D, x),
              [&] { attention_cached(out, k, v, qkv, all_rows, Rope{}, scale, T, s); });
        // Memory is the bound of decoding, so it counts no FLOPs.
        const Cost read_cache{attention_cached_cost(B, 1, T - 1, T, H, D, x).bytes};
        b.row("attention decode", x, read_cache,
              [&] { attention_cached(row_out, k, v, row, last_row, Rope{}, scale, T, s); });
        b.row("rope, a quarter of D", x, rope_cost(N, H, rope.dim, x), [&] { rope_forward(qkv, none, rope, s); });
    }

    struct Product {
        const char* name;
        int64_t N, IC, OC;
    };
    for (const Product& q :
         {Product{"qkv", N, C, 3 * C}, {"proj", N, C, C}, {"up", N, C, F}, {"down", N, F, C}, {"head", R, C, Vp}}) {
        if (!b.wants(fmt::format("matmul {} forward", q.name)) && !b.wants(fmt::format("matmul {} backward", q.name)))
            continue;
        const Tensor in = make({q.N, q.IC}, x), weight = make({q.OC, q.IC}, x), out = make({q.N, q.OC}, x),
                     din = make({q.N, q.IC}, x), dweight = make({q.OC, q.IC}, f), dbias = make({q.OC}, f);
        b.row(fmt::format("matmul {} forward", q.name), x, matmul_forward_cost(q.N, q.IC, q.OC, x),
              [&] { matmul_forward(out, in, weight, none, s); });
        b.row(fmt::format("matmul {} backward", q.name), x, matmul_backward_cost(q.N, q.IC, q.OC, x),
              [&] { matmul_backward(din, dweight, dbias, out, in, weight, Into::set, s); });
    }
}

// A model with a batch on the device, after one forward and backward pass. When work is counted the pass is left out,
// because counts depend on shapes and ids only.
struct Trained {
    Config config;
    Model model;
    Batch batch;

    Trained(const Device& dev, DType x, const Config& c, const BenchOptions& o)
        : config(c), model(c, x, {o.batch, o.context, true}, dev) {
        std::vector<int32_t> ids(size_t(model.shape.rows() + 1));
        for (size_t i = 0; i < ids.size(); i++) ids[i] = int32_t(int64_t(i) * 7919 % c.vocab);
        const Shape rows{o.batch, o.context};
        batch = model.feed.bring({{ids.data(), DType::I32, rows}, {ids.data() + 1, DType::I32, rows}});
        if (!o.profiled.empty()) return;
        initialise_params(model.params, c, 1, dev.stream());
        pass();
    }
    void pass() {
        zero(model.acts.loss, model.stream);
        forward(model, batch, Keep::for_backward);
        head(model, batch, model.acts.loss, 1.f / float(model.shape.rows()), Into::set);
        backward(model, batch, Into::set);
    }
};

// Blocks of real models. Nothing in them depends on the vocabulary. rate: of dropout.
static void bench_block(Bench& b, const Device& dev, DType x, const std::string& name, const BenchOptions& o,
                        float rate = 0) {
    const std::string with = rate > 0 ? ", dropout" : "", forward_row = name + " block forward" + with,
                      backward_row = name + " block backward" + with;
    if (!b.wants(forward_row) && !b.wants(backward_row)) return;
    Config c = config_of(*find_preset(name));
    c.layers = 2;
    c.vocab  = 256;
    Trained t(dev, x, c, o);
    Model& m       = t.model;
    const Stream s = dev.stream();
    Pool make(dev);
    const Tensor step = make({1}, DType::I32);
    zero(step, s);
    m.shape.dropout         = {rate, rate, rate};
    m.dropout               = {m.shape.dropout, 1, step};
    const BlockDropout drop = m.dropout.block(1);
    const auto ops          = step_ops(c, m.shape, x, 1, OptimizerKind::adamw);
    const double layer      = 1 / double(c.layers);
    b.row(forward_row, x, cost_of(ops, Part::block_forward) * layer, [&] {
        block_forward(
            m.acts.x, [&] { return final_norm(m.params, m.acts); }, m.params.block[1], m.acts.block[1], c,
            Recompute::none, s, attend_all(Tensor{}, Tensor{}, c, 1, s, drop.probabilities), drop);
    });
    b.row(backward_row, x, cost_of(ops, Part::block_backward) * layer, [&] {
        block_backward(m.acts.dres, m.grads.block[1], m.params.block[1], m.acts.block[1], t.batch, c, 1, Into::set, s,
                       drop);
    });
}

// A complete step of GPT-2 124M with two layers, only on a GPU. On a CPU `make bench` times the steps of train_gpt.
static void bench_step(Bench& b, const Device& dev, DType x, const BenchOptions& o) {
    const std::string name = "gpt2 step, 2 layers";
    if (!b.wants(name) || dev.where() == Machine::cpu) return;
    Config c = config_of(*find_preset("gpt2"));
    c.layers = 2;
    Trained t(dev, x, c, o);
    AdamW adamw(t.model, {});
    adamw.start_from_weights();
    const UpdateInputs inputs(t.model, adamw, constant_rate(1e-4f), 0);
    b.row(name, x, cost_of(step_ops(c, t.model.shape, x, 1, OptimizerKind::adamw)), [&] {
        t.pass();
        inputs.update(t.model, adamw);
    });
}

// Batches of GPT-2's context in random order, from a file of 100 million ids, on one core. The file was just mapped, so
// every page is read for the first time, but from the system's cache and not from a disk.
static void bench_loader(const Bench& b) {
    const Scratch scratch;
    const int64_t tokens = 100'000'000;
    for (const auto& [name, mask] : {std::pair{"loader, cold map", -1}, {"loader, documents", 50256}}) {
        if (!b.wants(name)) continue;
        if (!exists(scratch / "tokens.bin")) {
            std::vector<uint16_t> ids(tokens);
            for (int64_t i = 0; i < tokens; i++) ids[i] = uint16_t(mix64(i) % 50257);
            write_text(scratch / "tokens.bin", {reinterpret_cast<const char*>(ids.data()), size_t(2 * tokens)});
        }
        double best = 1e9;
        for (int i = 0; i < 3; i++) {
            const Stopwatch watch;
            Loader loader({scratch / "tokens.bin", 8, 1024, 50257, 1, 0, 1, true, mask});
            const int64_t batches = loader.sequences() / 8;
            for (int64_t n = 0; n < batches; n++) loader.next();
            best = std::min(best, watch.seconds() / double(batches * 8 * 1024));
        }
        fmt::print("{:<28} {:<5} {:>10.1f} M tokens/s on one core\n", name, "u16", 1e-6 / best);
    }
}

// ---- products and attention by each of their kernels ----------------------------------------------------------------

// The products of a block of GPT-2 124M in bf16, by cuBLASLt's first algorithm and by each of our kernels. A backward
// pass is the product for dw, with the sums of a bias.
static void bench_compare_products(Bench& b, const Device& dev, const BenchOptions& o) {
    CHECK(dev.where() == Machine::cuda, "--compare-products needs --device cuda");
    const int64_t N = o.batch * o.context;
    const DType x   = DType::BF16;
    const Stream s  = dev.stream();
    struct Weight {
        std::string name;
        int64_t IC, OC;
    };
    for (const Weight& w :
         {Weight{"qkv", 768, 3 * 768}, {"projection", 768, 768}, {"up", 768, 3072}, {"down", 3072, 768}}) {
        const std::string& name = w.name;
        const int64_t IC = w.IC, OC = w.OC;
        Pool make(dev);
        const Tensor in = make({N, IC}, x), weight = make({OC, IC}, x), bias = make({OC}, x), out = make({N, OC}, x),
                     pre = make({N, OC}, x), din = make({N, IC}, x), dweight = make({OC, IC}, DType::F32),
                     dbias = make({OC}, DType::F32);
        const auto compare = [&](const std::string& what, const Work& op) {
            if (!b.wants("matmul " + name + what)) return;
            ProductChoice timed;
            choose_products(dev, {}, "", [&](const ProductChoice& c) { timed = c; });
            op();
            choose_products(dev, {}, "", nullptr);
            for (const std::string& way : timed.ways) {
                const bool ours = way.find(' ') != std::string::npos;
                if (!ours && way != timed.ways[0]) continue;
                choose_products(dev, {{timed.product, way}}, "--compare-products", nullptr);
                b.row(fmt::format("matmul {}{}, {}", name, what, ours ? way : "cuBLASLt's first"), x,
                      matmul_cost(N, OC, IC, x), op);
            }
        };
        compare(" forward", [&] { matmul_forward(out, in, weight, bias, s); });
        if (name == "up")
            compare(" with gelu", [&] { matmul_gelu_forward(out, pre, in, weight, bias, Gelu::tanh, s); });
        compare(" dx", [&] { matmul(din, out, weight, s); });
        compare(" dw", [&] { matmul_backward({}, dweight, dbias, out, in, weight, Into::set, s); });
    }
}

// Forward and backward pass in bf16, with --batch times --context tokens and GPT-2 124M's width.
static void bench_compare_attention(Bench& b, const Device& dev, const BenchOptions& o) {
    const int64_t tokens = o.batch * o.context;
    const Stream s       = dev.stream();
    const DType x        = DType::BF16;
    for (const int64_t D : {64, 128}) {
        Pool make(dev);
        const int64_t H  = 768 / D;
        const Tensor qkv = make({tokens, 3, H, D}, x), dqkv = make({tokens, 3, H, D}, x), out = make({tokens, H, D}, x),
                     dout = make({tokens, H, D}, x), lse = make({tokens, H}, DType::F32);
        const float scale = 1.f / std::sqrt(float(D));
        for (const int64_t T : {1024, 2048, 4096}) {
            const int64_t B = tokens / T, N = B * T;
            if (B == 0) continue;
            const auto rows      = [&](Tensor t) { return t.rows(0, N).view({B, T, H, D}); };
            const auto qkv_rows  = [&](Tensor t) { return t.rows(0, N).view({B, T, 3, H, D}); };
            const Tensor of_rows = lse.rows(0, N).view({B, H, T});
            for (const auto& [name, kernels] :
                 {std::pair{"mma", AttentionKernels::mma}, {"hopper", AttentionKernels::hopper}}) {
                if (kernels == AttentionKernels::hopper && !dev.has_hopper_attention()) continue;
                dev.use_attention(kernels);
                b.row(fmt::format("attention forward D {} T {}, {}", D, T, name), x,
                      attention_forward_cost(B, T, H, D, x),
                      [&] { attention_forward(rows(out), of_rows, qkv_rows(qkv), {}, scale, T, s); });
                b.row(fmt::format("attention backward D {} T {}, {}", D, T, name), x,
                      attention_backward_cost(B, T, H, D, x), [&] {
                          attention_backward(qkv_rows(dqkv), rows(dout), rows(out), of_rows, qkv_rows(qkv), {}, scale,
                                             T, s);
                      });
            }
        }
    }
}

// ---- variants of attention ------------------------------------------------------------------------------------------

// Every kernel and tiling of attention on tensor cores. Each must give what the ops give, but for rounding.
static void bench_variants(Bench& b, const Device& dev, const BenchOptions& o) {
    const std::vector<AttentionVariant> variants = attention_variants(dev.has_hopper_attention());
    CHECK(!variants.empty() && dev.where() == Machine::cuda, "--variants needs a CUDA half and --device cuda");
    const int64_t B = o.batch, T = o.context;
    const Stream s = dev.stream();
    for (const int64_t D : {64, 128, 256}) {
        const int64_t H = 768 / D;
        Pool make(dev);
        const Tensor expected_dqkv = make({B, T, 3, H, D}, DType::BF16), expected_out = make({B, T, H, D}, DType::BF16);
        const AttentionTensors t{make({B, T, 3, H, D}, DType::BF16), make({B, T, H, D}, DType::BF16),
                                 make({B, T, H, D}, DType::BF16),    make({B, H, T}, DType::F32),
                                 make({B, T, 3, H, D}, DType::BF16), make({B, H, T}, DType::F32),
                                 1.f / std::sqrt(float(D))};
        attention_forward(expected_out, t.lse, t.qkv, {}, t.scale, T, s);
        attention_backward(expected_dqkv, t.dout, expected_out, t.lse, t.qkv, {}, t.scale, T, s);
        const std::vector<float> out = floats_of(expected_out, s), dqkv = floats_of(expected_dqkv, s);
        copy(t.out, expected_out, s);
        const auto first_dq = std::find_if(variants.begin(), variants.end(),
                                           [&](const AttentionVariant& v) { return v.D == D && v.products == 3; });
        first_dq->run(t, s);  // writes δ, which dk and dv need
        const double pairs = attention_forward_cost(B, T, H, D, DType::BF16).flops / 2;
        for (const AttentionVariant& v : variants) {
            const std::string name =
                fmt::format("attention {} · {} registers, {} blocks", v.name, v.registers, v.blocks);
            if (v.D != D || !b.wants(name)) continue;
            b.row(name, DType::BF16, {0, v.products * pairs}, [&] { v.run(t, s); });
            const bool forward = v.products == 2, for_q = v.products == 3;
            const std::vector<float> ours = floats_of(forward ? t.out : t.dqkv, s), &right = forward ? out : dqkv;
            double difference = 0, largest = 0;
            for (size_t i = 0; i < ours.size(); i++) {
                if (!forward && (int64_t(i) / (H * D) % 3 == 0) != for_q) continue;
                difference = std::max(difference, double(std::fabs(ours[i] - right[i])));
                largest    = std::max(largest, double(std::fabs(right[i])));
            }
            CHECK_RUN(difference <= largest / 64, "{} is off by {}, where the largest number is {}", v.name, difference,
                      largest);
        }
    }
}

// ---- the table of counts --------------------------------------------------------------------------------------------

static void print_table(const std::string& ops, const std::string& counts) {
    fmt::print("{:<28} {:<5} {:>8} {:>9} {:>9} {:>9} {:>6} {:>9} {:>10} {:>10} {:>6} {:>9}\n", "op", "dtype",
               "launches", "read MB", "write MB", "least MB", "ratio", "conflicts", "tensor GF", "formula GF", "ratio",
               "H100 us");
    for (const Counted& c : read_counts(ops, counts)) {
        fmt::print("{:<28} {:<5} {:>8.0f} {:>9.2f} {:>9.2f} {:>9.2f} {:>6.2f} {:>9.0f}", c.op, c.dtype, c.launches,
                   c.read / 1e6, c.written / 1e6, c.cost.bytes / 1e6, c.bytes() / c.cost.bytes, c.conflicts);
        if (c.cost.flops && c.tensor_flops)
            fmt::print(" {:>10.2f} {:>10.2f} {:>6.2f}", c.tensor_flops / 1e9, c.cost.flops / 1e9,
                       c.tensor_flops / c.cost.flops);
        else
            fmt::print(" {:>10} {:>10} {:>6}", "", c.cost.flops ? fmt::format("{:.2f}", c.cost.flops / 1e9) : "", "");
        fmt::print(" {:>9.1f}\n", 1e6 * H100::bound(c.cost, find_dtype(&DTypeRow::name, c.dtype)->dtype));
    }
    fmt::print(
        "\nread, write: DRAM behind an L2 that was empty before each op. conflicts: wavefronts of shared memory "
        "beyond\n"
        "the fewest. H100 us: a bound, not a time: the larger of least bytes / 3.35 TB/s and formula FLOPs / 989 "
        "(fp32: 67)\n"
        "TFLOP/s. Library products count what they must: the emulator has no kernels of cuBLASLt.\n");
}

static void print_variants(const std::string& ops, const std::string& counts) {
    fmt::print("{:<94} {:>13} {:>11} {:>9} {:>10} {:>6}\n", "", "instructions", "wavefronts", "conflicts", "tensor GF",
               "ratio");
    for (const Counted& c : read_counts(ops, counts))
        fmt::print("{:<94} {:>13.0f} {:>11.0f} {:>9.0f} {:>10.2f} {:>6.2f}\n", c.op, c.instructions, c.wavefronts,
                   c.conflicts, c.tensor_flops / 1e9, c.tensor_flops / c.cost.flops);
    fmt::print(
        "\ninstructions: PTX, of warps. wavefronts: of shared memory. ratio: FLOPs of the tensor cores to those of the "
        "formula.\n");
}

// The ten kernels that took longest, with a verdict on all. Those of NVIDIA's libraries have no counts of the emulator.
static void print_hardware(const std::string& counts, const std::string& csv) {
    const auto emulated = kernels_of_emulator(counts), measured = kernels_of_ncu(csv);
    std::vector<std::string> names;
    for (const auto& [name, k] : measured)
        if (emulated.count(name)) names.push_back(name);
    std::sort(names.begin(), names.end(),
              [&](const auto& a, const auto& b) { return measured.at(a).seconds > measured.at(b).seconds; });
    // How often the hardware counted what the emulator did: 1 is the same, also where both are 0.
    const auto ratio = [](double hardware, double emulator) {
        if (hardware < 0) return -1.;
        return hardware == emulator ? 1 : emulator ? hardware / emulator : INFINITY;
    };
    const auto text = [](double r) { return r < 0 ? "-" : fmt::format("{:.2f}", r); };
    size_t alike[2] = {0, 0};  // among the ten, and among the others
    fmt::print(
        "{:<60} {:>8} {:>10} | counted by ncu / by the emulator\n{:<60} {:>8} {:>10} | {:>6} {:>9} {:>10} {:>12}\n", "",
        "", "", "kernel", "launches", "us", "bytes", "conflicts", "wavefronts", "instructions");
    for (size_t i = 0; i < names.size(); i++) {
        const KernelCounts e = emulated.at(names[i]), m = measured.at(names[i]);
        const auto near = [](double hardware, double emulator, double part, double more) {
            return hardware < 0 || std::abs(hardware - emulator) <= part * emulator + more;
        };
        const bool same = e.launches == m.launches && near(m.read, e.read, .1, 1e5) &&
                          near(m.conflicts, e.conflicts, .05, 0) && near(m.wavefronts, e.wavefronts, .05, 0);
        alike[i >= 10] += same;
        if (i >= 10) continue;
        fmt::print("{:<60} {:>8.0f} {:>10.1f} | {:>6} {:>9} {:>10} {:>12}{}\n", names[i], m.launches, m.seconds * 1e6,
                   text(ratio(m.read, e.read)), text(ratio(m.conflicts, e.conflicts)),
                   text(ratio(m.wavefronts, e.wavefronts)), text(ratio(m.instructions, e.instructions)),
                   same                       ? ""
                   : e.launches == m.launches ? " !"
                                              : fmt::format(" ! the emulator has {:.0f} launches", e.launches));
    }
    const size_t shown = std::min<size_t>(10, names.size());
    fmt::print(
        "\n!: bytes read differ by more than a tenth and 0.1 MB, conflicts or wavefronts of shared memory by more than "
        "a "
        "twentieth,\nor launches. ncu empties the caches before each kernel, the emulator before each op. Instructions "
        "are those of machine\ncode over those of PTX. {} kernels of libraries are left out.\nverdict: {} of the {} "
        "kernels "
        "that took longest have the emulator's counts, and {} of the other {}\n",
        measured.size() - names.size(), alike[0], shown, alike[1], names.size() - shown);
}

int main(int argc, char** argv) try {
    BenchOptions o;
    Flags f("bench_ops", "time every op, or count what it does", backends());
    f.group("what");
    f.add("--only", o.only, "the ops whose name has one of these texts", "TEXT,TEXT…");
    f.choose("--device", o.device, {"auto", "cpu", "cuda"}, "where ops run");
    f.add("--batch", o.batch, "sequences");
    f.add("--context", o.context, "tokens in each");
    f.choose("--attention", o.attention, attention_kernels(),
             "which kernels compute attention in bf16 on a GPU; auto: those for Hopper where they run");
    f.group("counts");
    f.add("--costs", o.costs, "print what each op costs by its formula");
    f.add("--scaling", o.scaling, "print what runs on many GPUs would take");
    f.add("--profiled", o.profiled, "run each op once between profiler marks, and write its cost by the formula here",
          "FILE");
    f.add("--table", o.table, "print what --profiled and the emulator's --profile wrote", "OPS.json,COUNTS.json");
    f.add("--hardware", o.hardware, "print what ncu counted beside the emulator's --profile", "COUNTS.json,NCU.csv");
    f.group("variants");
    f.add("--variants", o.variants, "time the attention kernels with other tilings than the ops use, on a GPU");
    f.add("--compare-products", o.compare_products,
          "time the products of a block in bf16 by cuBLASLt and by each of our kernels, on a GPU");
    f.add("--compare-attention", o.compare_attention,
          "time attention in bf16 with each of its kernels, for head sizes of 64 and 128 and 1024 to 4096 tokens");
    if (!f.parse(argc, argv)) return 0;
    if (o.costs) {
        fmt::print("{}", cost_table());
        return 0;
    }
    if (o.scaling) {
        fmt::print("{}", scaling_tables());
        return 0;
    }
    const auto two_files = [](const char* option, const std::string& value, const char* want, auto print) {
        const size_t comma = value.find(',');
        CHECK(comma != std::string::npos, "{} takes two files: {}, not '{}'", option, want, value);
        print(value.substr(0, comma), value.substr(comma + 1));
        return 0;
    };
    if (!o.table.empty())
        return two_files("--table", o.table, "OPS.json,COUNTS.json", o.variants ? print_variants : print_table);
    if (!o.hardware.empty()) return two_files("--hardware", o.hardware, "COUNTS.json,NCU.csv", print_hardware);
    const Device dev(o.device);
    // The comparison that auto makes in a run is left out.
    const bool automatic = o.attention == AttentionKernels::automatic;
    dev.use_attention(automatic && dev.has_hopper_attention() ? AttentionKernels::hopper : o.attention);
    Bench bench(dev, o);
    if (o.variants || o.compare_attention || o.compare_products) {
        if (o.variants) bench_variants(bench, dev, o);
        if (o.compare_attention) bench_compare_attention(bench, dev, o);
        if (o.compare_products) bench_compare_products(bench, dev, o);
        if (!o.profiled.empty()) std::ofstream(o.profiled) << bench.profiled_ops();
        return 0;
    }
    if (o.profiled.empty())
        fmt::print("the shapes are those of GPT-2 124M with {} sequences of {} tokens\n", o.batch, o.context);
    for (DType t : {DType::F32, DType::BF16}) bench_dtype(bench, dev, t, o);
    for (const char* model : {"gpt2", "pythia-160m"})
        for (DType t : {DType::F32, DType::BF16})
            for (const float rate : {0.f, 0.1f}) bench_block(bench, dev, t, model, o, rate);
    for (DType t : {DType::F32, DType::BF16}) bench_step(bench, dev, t, o);
    if (o.profiled.empty()) bench_loader(bench);
    if (!o.profiled.empty()) std::ofstream(o.profiled) << bench.profiled_ops();
    return 0;
} catch (const std::exception& e) { return complain(e); }
