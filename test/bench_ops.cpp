// bench_ops.cpp - every op on the shapes of GPT-2 124M: how long it takes and how near that is to the floor
//
//   build/bench_ops --only layernorm                 the ops whose name has that, on this machine
//   build/bench_ops --counted OPS.json               each op once, for the emulator's --profile COUNTS.json
//   build/bench_ops --table OPS.json,COUNTS.json     what was counted beside the fewest possible
//
// Ops bound by memory count the fewest bytes they can move (each input once, each output once) against a measured copy;
// products count the formula's FLOPs against the measured rate of one well-shaped product in the same dtype. Rates are
// of the fastest call on a CPU, where other programs only ever add time, and of the median call on a GPU.
#include <algorithm>
#include <cstdio>

#include "gpt/cli.h"
#include "gpt/log.h"
#include "gpt/presets.h"
#include "kernels/measure.h"
#include "test/counts.h"
#include "test/scratch.h"
#include "test/update.h"

struct BenchOptions {
    std::string only, device = "auto", counted, table;
    int64_t batch = 4, context = 1024;
};

// Tensors that live as long as the bench does, filled with a fixed pattern in [-1, 1) that repeats nowhere soon.
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

// ---- what an op has to do at least ----------------------------------------------------------------------------------

struct Costs {
    double B, T, C, H, F, e;  // e: bytes of an activation
    double N = B * T;

    Cost add() const { return {3 * e * N * C}; }
    Cost layernorm_forward() const { return {2 * e * N * C + 8 * N + 2 * e * C}; }
    Cost add_layernorm_forward() const { return {4 * e * N * C + 8 * N + 2 * e * C}; }
    Cost layernorm_backward() const { return {4 * e * N * C + 8 * N + e * C + 8 * C}; }
    Cost gelu_forward() const { return {2 * e * N * F}; }
    Cost gelu_backward() const { return {3 * e * N * F}; }
    Cost embedding_forward() const { return {4 * N + 2 * e * N * C + e * T * C}; }
    Cost embedding_backward() const { return {4 * N + e * N * C + 8 * N * C + 8 * T * C}; }
    Cost cross_entropy(double rows, double Vp, bool gradient) const {
        return {(gradient ? 2 : 1) * e * rows * Vp + 8 * rows};
    }
    Cost matmul_forward(double rows, double IC, double OC, double kept = 0) const {
        return {e * (rows * IC + IC * OC + rows * OC + kept), 2 * rows * IC * OC};
    }
    Cost matmul_backward(double rows, double IC, double OC) const {
        return {e * (rows * OC + 2 * rows * IC + OC * IC) + 4 * OC * IC + 4 * OC, 4 * rows * IC * OC};
    }
    // The causal half of the square: 2 products forward, 5 backward.
    double attention_product() const { return 2 * B * C * T * (T + 1) / 2; }
    Cost attention_forward() const { return {4 * e * N * C + 4 * N * H, 2 * attention_product()}; }
    Cost attention_backward() const { return {8 * e * N * C + 4 * N * H, 5 * attention_product()}; }
    Cost prefill() const { return {6 * e * N * C, 2 * attention_product()}; }
    Cost decode() const { return {2 * e * N * C + 4 * e * B * C}; }
    Cost rope(double dim) const { return {4 * e * N * H * dim}; }
    Cost adamw(double weights) const { return {(e == 4 ? 28 : 30) * weights}; }

    Cost block_forward(const Config& c) const {
        return layernorm_forward() + matmul_forward(N, C, 3 * C) + rope(double(c.rope.dim)) + attention_forward() +
               matmul_forward(N, C, C) + (c.parallel ? add() + layernorm_forward() : add_layernorm_forward()) +
               matmul_forward(N, C, F, N * F) + matmul_forward(N, F, C) + add();
    }
    Cost block_backward(const Config& c) const {
        const Cost pre{e * N * F};
        return matmul_backward(N, F, C) + pre + matmul_backward(N, C, F) + layernorm_backward() * 2 +
               matmul_backward(N, C, C) + attention_backward() + rope(double(c.rope.dim)) +
               matmul_backward(N, C, 3 * C);
    }
    // Forward, backward, the norm of the gradients, the update.
    Cost step(const Config& c, double weights) const {
        const double Vp = double(c.padded_vocab());
        return embedding_forward() + (block_forward(c) + block_backward(c)) * double(c.layers) + layernorm_forward() +
               matmul_forward(N, C, Vp) + cross_entropy(N, Vp, true) + matmul_backward(N, C, Vp) +
               layernorm_backward() + embedding_backward() + Cost{4 * weights} + adamw(weights);
    }
};

// ---- how it is measured ---------------------------------------------------------------------------------------------

class Bench {
  public:
    Bench(const Device& dev, const BenchOptions& o) : dev_(dev), only_(o.only), counting_(!o.counted.empty()) {
        if (counting_) return;
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

    void row(const std::string& name, DType t, const Cost& least, const Work& op) {
        if (!wants(name)) return;
        if (counting_) {
            profiled(dev_.stream(), op);
            counted_.push_back(json_of(name, name_of(t), least));
            return;
        }
        const double s = seconds(op), peak = peak_flops(dev_, t);
        if (least.flops)
            fmt::print("{:<28} {:<5} {:>10.0f} us {:>9.1f} GFLOP/s {:>5.0f}% of {:.0f}\n", name, name_of(t), s * 1e6,
                       least.flops / s / 1e9, 100 * least.flops / s / peak, peak / 1e9);
        else
            fmt::print("{:<28} {:<5} {:>10.0f} us {:>9.1f} GB/s    {:>5.0f}% of {:.1f}\n", name, name_of(t), s * 1e6,
                       least.bytes / s / 1e9, 100 * least.bytes / s / copy_rate_, copy_rate_ / 1e9);
        std::fflush(stdout);
    }

    const nlohmann::json& counted_ops() const { return counted_; }

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
    bool counting_;
    double copy_rate_       = 0;  // bytes read plus bytes written, per second
    nlohmann::json counted_ = nlohmann::json::array();
};

// ---- the ops --------------------------------------------------------------------------------------------------------

static void bench_dtype(Bench& b, const Device& dev, DType x, const BenchOptions& o) {
    const int64_t B = o.batch, T = o.context, N = B * T, C = 768, H = 12, D = C / H, F = 3072, V = 50257, Vp = 50304,
                  R = std::min<int64_t>(N, 640);
    const Stream s  = dev.stream();
    const Costs cost{double(B), double(T), double(C), double(H), double(F), double(size_of(x))};
    const DType f = DType::F32;
    const Tensor none;
    Pool make(dev);
    const Tensor a = make({N, C}, x), c = make({N, C}, x), d = make({N, C}, x), sum = make({N, C}, x), w = make({C}, x),
                 bias = make({C}, x), mean = make({N}, f), rstd = make({N}, f), dw = make({C}, f), db = make({C}, f),
                 wide = make({N, F}, x), wide2 = make({N, F}, x);
    b.row("add", x, cost.add(), [&] { add_forward(d, a, c, s); });
    b.row("layernorm forward", x, cost.layernorm_forward(),
          [&] { layernorm_forward(d, mean, rstd, a, w, bias, 1e-5f, s); });
    b.row("add_layernorm forward", x, cost.add_layernorm_forward(),
          [&] { add_layernorm_forward(d, sum, mean, rstd, a, c, w, bias, 1e-5f, s); });
    b.row("layernorm backward", x, cost.layernorm_backward(),
          [&] { layernorm_backward(d, dw, db, c, a, w, mean, rstd, Into::set, s); });
    for (Gelu kind : {Gelu::tanh, Gelu::erf}) {
        const std::string name = kind == Gelu::tanh ? "gelu tanh" : "gelu erf";
        b.row(name + " forward", x, cost.gelu_forward(), [&] { gelu_forward(wide2, wide, kind, s); });
        b.row(name + " backward", x, cost.gelu_backward(), [&] { gelu_backward(wide2, wide2, wide, kind, s); });
    }
    {
        const Tensor tokens = make({B, T}, DType::I32), wte = make({Vp, C}, x), wpe = make({T, C}, x),
                     dwte = make({Vp, C}, f), dwpe = make({T, C}, f), rows = a.view({B, T, C});
        std::vector<int32_t> ids(N);
        for (int64_t i = 0; i < N; i++) ids[i] = int32_t(i * 7919 % V);
        from_host(tokens, ids.data(), s);
        b.row("embedding forward", x, cost.embedding_forward(),
              [&] { embedding_forward(rows, tokens, none, wte, wpe, s); });
        b.row("embedding backward", x, cost.embedding_backward(),
              [&] { embedding_backward(dwte, dwpe, rows, tokens, none, s); });
        const Tensor logits = make({R, Vp}, x), losses = make({R}, f), targets = Tensor{tokens.ptr, DType::I32, {R}};
        b.row("cross_entropy loss only", x, cost.cross_entropy(R, Vp, false),
              [&] { cross_entropy(losses, logits, targets, V, 0.f, s); });
        b.row("cross_entropy with gradient", x, cost.cross_entropy(R, Vp, true),
              [&] { cross_entropy(losses, logits, targets, V, 1e-3f, s); });
        const Tensor one = make({1, C}, x), one_out = make({1, Vp}, x);
        Cost one_row  = cost.matmul_forward(1, C, Vp);
        one_row.flops = 0;  // the weight is read for two FLOPs each: memory is the bound
        b.row("matmul head, 1 row", x, one_row, [&] { matmul_forward(one_out, one, wte, none, s); });
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
        b.row("adamw, 4M weights", x, cost.adamw(P), [&] {
            adamw(table, norm2, none, numbers, {.9f, .95f, 1e-8f, 1.f}, s);
        });
        if (x == f) b.row("squared_norm, 4M", x, {4. * P}, [&] { squared_norm(norm2, g, s); });
    }
    {
        const Tensor qkv = make({B, T, 3, H, D}, x), dqkv = make({B, T, 3, H, D}, x), out = make({B, T, H, D}, x),
                     dout = make({B, T, H, D}, x), lse = make({B, H, T}, f), k = make({B, H, T, D}, x),
                     v = make({B, H, T, D}, x), row = make({B, 1, 3, H, D}, x), row_out = make({B, 1, H, D}, x);
        const float scale = 1.f / std::sqrt(float(D));
        const Rope rope{D / 4, 10000.f};
        b.row("attention forward", x, cost.attention_forward(),
              [&] { attention_forward(out, lse, qkv, none, scale, T, s); });
        b.row("attention backward", x, cost.attention_backward(),
              [&] { attention_backward(dqkv, dout, out, lse, qkv, none, scale, T, s); });
        b.row("attention prefill", x, cost.prefill(), [&] { attention_cached(out, k, v, qkv, 0, scale, T, s); });
        b.row("attention decode", x, cost.decode(), [&] { attention_cached(row_out, k, v, row, T - 1, scale, T, s); });
        b.row("rope, a quarter of D", x, cost.rope(double(rope.dim)), [&] { rope_forward(qkv, none, rope, s); });
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
        b.row(fmt::format("matmul {} forward", q.name), x, cost.matmul_forward(q.N, q.IC, q.OC),
              [&] { matmul_forward(out, in, weight, none, s); });
        b.row(fmt::format("matmul {} backward", q.name), x, cost.matmul_backward(q.N, q.IC, q.OC),
              [&] { matmul_backward(din, dweight, dbias, out, in, weight, Into::set, s); });
    }
}

// A model with a batch on the device and everything that one forward and backward pass leaves behind; zeros in place of
// that when work is counted, where only shapes and ids matter.
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
        if (!o.counted.empty()) return;
        initialise_params(model.params, c, 1, dev.stream());
        pass();
    }
    void pass() {
        zero(model.acts.loss, model.stream);
        forward(model, batch, Keep::for_backward);
        head(model, batch, model.acts.loss, 1.f / float(model.shape.rows()), Into::set);
        backward(model, batch, Into::set);
    }
    Costs costs(const BenchOptions& o) const {
        return {double(o.batch),      double(o.context),           double(config.width),
                double(config.heads), double(config.feed_forward), double(size_of(model.dtype))};
    }
};

// Blocks of real models. Nothing in them depends on the vocabulary.
static void bench_block(Bench& b, const Device& dev, DType x, const std::string& name, const BenchOptions& o) {
    const std::string forward_row = name + " block forward", backward_row = name + " block backward";
    if (!b.wants(forward_row) && !b.wants(backward_row)) return;
    Config c = config_of(*find_preset(name));
    c.layers = 2;
    c.vocab  = 256;
    Trained t(dev, x, c, o);
    Model& m         = t.model;
    const Stream s   = dev.stream();
    const Costs cost = t.costs(o);
    b.row(forward_row, x, cost.block_forward(c), [&] {
        block_forward(m.acts.block[1].x, m.params.block[0], m.acts.block[0], Tensor{}, c, true, s,
                      attend_all(Tensor{}, c, 0, s));
    });
    b.row(backward_row, x, cost.block_backward(c), [&] {
        block_backward(m.acts.dres, m.grads.block[0], m.params.block[0], m.acts.block[0], t.batch, c, 0, Into::set, s);
    });
}

// A whole step of GPT-2 124M with few layers. On a CPU `make bench` times steps of the whole program.
static void bench_step(Bench& b, const Device& dev, DType x, const BenchOptions& o) {
    const std::string name = "gpt2 step, 2 layers";
    if (!b.wants(name) || dev.where() == Machine::cpu) return;
    Config c = config_of(*find_preset("gpt2"));
    c.layers = 2;
    Trained t(dev, x, c, o);
    AdamW adamw(t.model, {});
    adamw.start_from_weights();
    const UpdateInputs inputs(t.model, adamw, constant_rate(1e-4f), 0);
    b.row(name, x, t.costs(o).step(c, double(t.model.all_grads.numel())), [&] {
        t.pass();
        inputs.update(t.model, adamw);
    });
}

// Batches of GPT-2's context out of 100 M ids in random order, on one core: the file was just mapped, so every page is
// touched for the first time, and lies in the system's cache, so that no disk is measured.
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
            const int64_t batches = loader.windows() / 8;
            for (int64_t n = 0; n < batches; n++) loader.next();
            best = std::min(best, watch.seconds() / double(batches * 8 * 1024));
        }
        fmt::print("{:<28} {:<5} {:>10.1f} M tokens/s on one core\n", name, "u16", 1e-6 / best);
    }
}

// ---- the table of counts --------------------------------------------------------------------------------------------

static void print_table(const std::string& ops, const std::string& counts) {
    fmt::print("{:<28} {:<5} {:>8} {:>9} {:>9} {:>9} {:>6} {:>9} {:>10} {:>10} {:>6} {:>9}\n", "op", "dtype",
               "launches", "read MB", "write MB", "least MB", "ratio", "conflicts", "tensor GF", "formula GF", "ratio",
               "H100 us");
    for (const Counted& c : read_counts(ops, counts)) {
        const double peak = c.dtype == "bf16" ? 989e12 : 67e12;
        fmt::print("{:<28} {:<5} {:>8.0f} {:>9.2f} {:>9.2f} {:>9.2f} {:>6.2f} {:>9.0f}", c.op, c.dtype, c.launches,
                   c.read / 1e6, c.written / 1e6, c.least.bytes / 1e6, c.bytes() / c.least.bytes, c.conflicts);
        if (c.least.flops && c.tensor_flops)
            fmt::print(" {:>10.2f} {:>10.2f} {:>6.2f}", c.tensor_flops / 1e9, c.least.flops / 1e9,
                       c.tensor_flops / c.least.flops);
        else
            fmt::print(" {:>10} {:>10} {:>6}", "", c.least.flops ? fmt::format("{:.2f}", c.least.flops / 1e9) : "", "");
        fmt::print(" {:>9.1f}\n", 1e6 * std::max(c.least.bytes / 3.35e12, c.least.flops / peak));
    }
    fmt::print(
        "\nread, write: DRAM behind an L2 that was empty before each op. conflicts: wavefronts of shared memory "
        "beyond\n"
        "the fewest. H100 us: a bound, not a time: the larger of least bytes / 3.35 TB/s and formula FLOPs / 989 "
        "(fp32: 67)\n"
        "TFLOP/s. Library products count what they must: the emulator has no kernels of cuBLASLt.\n");
}

int main(int argc, char** argv) try {
    BenchOptions o;
    Flags f("bench_ops", "time every op, or count what it does", backends());
    f.group("what");
    f.add("--only", o.only, "the ops whose name has one of these texts", "TEXT,TEXT…");
    f.choose("--device", o.device, {"auto", "cpu", "cuda"}, "where ops run");
    f.add("--batch", o.batch, "sequences");
    f.add("--context", o.context, "tokens in each");
    f.group("counts");
    f.add("--counted", o.counted, "run each op once between profiler marks; what it costs at least goes here", "FILE");
    f.add("--table", o.table, "print what --counted and the emulator's --profile wrote", "OPS.json,COUNTS.json");
    if (!f.parse(argc, argv)) return 0;
    if (!o.table.empty()) {
        const size_t comma = o.table.find(',');
        CHECK(comma != std::string::npos, "--table takes two files: OPS.json,COUNTS.json, not '{}'", o.table);
        print_table(o.table.substr(0, comma), o.table.substr(comma + 1));
        return 0;
    }
    const Device dev(o.device);
    Bench bench(dev, o);
    for (DType t : {DType::F32, DType::BF16}) bench_dtype(bench, dev, t, o);
    for (const char* model : {"gpt2", "pythia-160m"})
        for (DType t : {DType::F32, DType::BF16}) bench_block(bench, dev, t, model, o);
    for (DType t : {DType::F32, DType::BF16}) bench_step(bench, dev, t, o);
    if (o.counted.empty()) bench_loader(bench);
    if (!o.counted.empty()) std::ofstream(o.counted) << bench.counted_ops();
    return 0;
} catch (const std::exception& e) { return complain(e); }
