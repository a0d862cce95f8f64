// time_model.h - predicts how long a training step takes on a GPU, without that GPU
//
// The floor of an op is the larger of its bytes / the rate of a copy and its FLOPs / the rate of large products.
// Kernels reach a share of this floor that was measured for each kind of op. Each launch also takes a fixed time.
//
//   seconds of an op = floor / share of its kind + kernels × seconds of a launch
//
// Attention moves few bytes, so its share is one of the rate of products alone. The shares are those of one H100, and
// test/test_time_model.cpp compares predictions with the step times that were measured there.
#pragma once
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "gpt/optimizer.h"

enum class OpKind : uint8_t {
    product,
    attention_forward,
    attention_backward,
    layernorm_forward,
    layernorm_backward,
    embedding_forward,
    embedding_backward,
    cross_entropy,
    rope,
    gelu,
    copy,  // add, zero, sums of columns, and all that moves bytes as simply
    sum,
    adamw,
};

// The share of its floor that a kind of op reaches, by dtype of the model. One NVIDIA H100 80GB HBM3, 2026-11-26,
// `bench_ops --device cuda --batch 32`, T 1024. The shares of products and of attention, and the time of a launch, are
// fitted to whole steps. Attention's kernels for Hopper (--attention) have not been measured, so its shares are those
// of mma.sync.
struct KindShare {
    OpKind kind;
    double bf16, fp32;
};
// clang-format off: columns of numbers
inline constexpr KindShare kind_shares[] = {
    // kind                       bf16  fp32
    {OpKind::product, 0.81, 0.90},
    {OpKind::attention_forward, 0.50, 0.49},   // times T / (T + 800), because short rows fill its tiles badly
    {OpKind::attention_backward, 0.40, 0.42},  // the same
    {OpKind::layernorm_forward, 0.81, 0.95},
    {OpKind::layernorm_backward, 0.61, 0.90},
    {OpKind::embedding_forward, 0.62, 0.73},
    {OpKind::embedding_backward, 0.28, 0.32},
    {OpKind::cross_entropy, 0.60, 0.75},
    {OpKind::rope, 0.36, 0.57},
    {OpKind::gelu, 0.93, 0.95},
    {OpKind::copy, 0.95, 0.95},
    {OpKind::sum, 0.53, 0.53},
    {OpKind::adamw, 0.86, 0.95},
};
// clang-format on

// Attention in bf16 has the only share that differs from one architecture to the other. mma.sync reaches 0.63 of the
// peak of a Hopper (Luo et al. 2024: arXiv 2402.13499), which is 0.78 of the rate of large products there, and all of
// the peak of earlier and of Ada's GPUs.
constexpr double mma_sync_on_hopper = 0.78, mma_sync_elsewhere = 1;

// A GPU. The rates of the H100 were measured. Those of the others are its shares of the data sheet's: 0.88 of the
// memory's rate, 0.81 and 0.75 of the peak of products in bf16 and fp32, and 0.82 of NVLink's, which is what NCCL
// reaches on an H100 as NVIDIA says (nccl-tests issue 212: 370 of 450 GB/s). A card without NVLink has PCIe 4. The
// share of PCIe's rate, 32 GB/s each way for 16 lanes of PCIe 4 and twice or half as much for PCIe 5 or 3, is assumed.
constexpr double pcie_share = .8;
struct Card {
    const char* name;             // its name for --gpu
    const char* driver_name;      // the name that the driver gives it
    int64_t memory;               // bytes
    double copy_rate;             // bytes/s, read and written
    double bf16_rate, fp32_rate;  // FLOP/s of a large product
    double launch;                // seconds of a kernel beside its floor: its launch, its first loads, its last wave
    double launch_in_graph;       // the same in a CUDA graph
    double mma_sync;              // the share of the rate of large products that mma.sync can reach
    double nvlink;                // bytes/s that a GPU sends to another one of its server
    double pcie;                  // bytes/s each way between a GPU and the host's memory, both ways at a time
    double product_rate(DType x) const { return x == DType::BF16 ? bf16_rate : fp32_rate; }
};
inline constexpr Card cards[] = {
    {"h100-80gb", "NVIDIA H100 80GB HBM3", int64_t(79) << 30, 2.96e12, 802e12, 50e12, 11e-6, 9e-6, mma_sync_on_hopper,
     370e9, pcie_share * 64e9},
    {"h200-141gb", "NVIDIA H200", int64_t(139) << 30, .88 * 4.8e12, 802e12, 50e12, 11e-6, 9e-6, mma_sync_on_hopper,
     370e9, pcie_share * 64e9},
    {"a100-80gb", "NVIDIA A100-SXM4-80GB", int64_t(79) << 30, .88 * 2.039e12, .81 * 312e12, .75 * 19.5e12, 11e-6, 9e-6,
     mma_sync_elsewhere, .82 * 300e9, pcie_share * 32e9},
    {"a100-40gb", "NVIDIA A100-SXM4-40GB", int64_t(39) << 30, .88 * 1.555e12, .81 * 312e12, .75 * 19.5e12, 11e-6, 9e-6,
     mma_sync_elsewhere, .82 * 300e9, pcie_share * 32e9},
    {"rtx4090-24gb", "NVIDIA GeForce RTX 4090", int64_t(23) << 30, .88 * 1.008e12, .81 * 165e12, .75 * 82.6e12, 11e-6,
     9e-6, mma_sync_elsewhere, 20e9, pcie_share * 32e9},
    // For comparison only. It has products in fp16 and none in bf16, so the kernels here do not run on it.
    {"v100-32gb", "Tesla V100-SXM2-32GB", int64_t(31) << 30, .88 * .9e12, .81 * 125e12, .75 * 15.7e12, 11e-6, 9e-6,
     mma_sync_elsewhere, .82 * 150e9, pcie_share * 16e9},
};
inline const Card* find_card(const std::string& driver_name) {
    for (const Card& card : cards)
        if (driver_name == card.driver_name) return &card;
    return nullptr;
}

// Where in a step an op belongs. The blocks' parts are those of all layers together.
enum class Part : uint8_t { beginning, block_forward, head, block_backward, tables, update };

// c (M,N) = a (M,K) · b (K,N)
struct ProductSize {
    int64_t M = 0, N = 0, K = 0;
    DType out = DType::F32;  // the dtype of c
};

// An op of a step.
struct StepOp {
    Part part;
    const char* name;
    OpKind kind;
    Cost cost;              // the cost of one call
    int kernels;            // the launches of one call; a product counts as one, and so does zeroing
    double calls;           // the number of calls in a step
    double work      = 1;   // instructions, relative to those of the kernel whose share was measured
    ProductSize size = {};  // the shape of a product in a layer or the head
};

// Attention with dropout executes more instructions, of which Philox has the most. These are the ratios that the
// emulator counted, in bf16 with D = 64 (kernels/README.md). No GPU has timed these kernels yet.
constexpr double dropout_forward_work = 1.87, dropout_backward_work = 1.84;

// Where gelu is computed.
enum class GeluOp : uint8_t {
    in_product,  // The products of `up` and of its gradient end in it where cuBLASLt's can: in bf16, in the tanh form.
    in_our_product,  // They end in it in both forms, as those of kernels/matmul_hopper.cuh do.
    apart,           // An op computes it after the product of `up`, as in the runs that were measured.
};

// The kernels of embedding_backward: one checks the ids, two for each 8 bits of an id sort them, two add up the rows of
// each id, and one those of each position.
inline int embedding_backward_kernels(const Config& c) {
    int sorts = 1;
    for (int64_t last = c.padded_vocab() - 1; last >>= 8;) sorts++;
    return 1 + 2 * sorts + 2 + c.learned_positions;
}
// The kernels of muon_orthogonalise are the norm, the division by it, and in each of five steps three products and two
// sums of matrices.
constexpr int muon_orthogonalise_kernels = 1 + 1 + 5 * (3 + 2);

// Returns every op of a training step in its order, as Step::work() queues them on a GPU. The process is taken to be
// alone, and its data to have no documents. test_counts.cpp compares the launches with those that the emulator counts.
inline std::vector<StepOp> step_ops(const Config& c, const BatchShape& shape, DType x, int64_t micro_steps,
                                    OptimizerKind optimizer, GeluOp gelu_op = GeluOp::in_product) {
    using K         = OpKind;
    const int64_t B = shape.batch, T = shape.context, N = shape.rows(), C = c.width, F = c.feed_forward, H = c.heads,
                  D = c.head_size(), Vp = c.padded_vocab();
    const double micro = double(micro_steps), layers = micro * double(c.layers);
    std::vector<StepOp> ops;
    Part part      = Part::beginning;
    const auto add = [&](const char* name, K kind, const Cost& cost, int kernels, double calls, double work = 1) {
        if (calls > 0) ops.push_back({part, name, kind, cost, kernels, calls, work});
    };
    const DropoutRates& drop = shape.dropout;
    const auto if_dropped    = [](float rate, double calls) { return rate > 0 ? calls : 0; };
    const auto product       = [&](const char* name, const Cost& cost, double calls, const ProductSize& size) {
        add(name, K::product, cost, 1, calls);
        if (calls > 0) ops.back().size = size;
    };
    // out (rows, OC) = x (rows, IC) · wᵀ
    const auto forward = [&](const char* name, int64_t rows, int64_t IC, int64_t OC, double calls) {
        product(name, matmul_forward_cost(rows, IC, OC, x), calls, {rows, OC, IC, x});
    };
    // The gradient of a product's input is a product in the dtype of the model. That of its weights is written in fp32
    // by the first of the products that add to it, and read and written by the others. The first also writes that of
    // the bias; after the others a kernel adds the sums of columns to it, as fast as a copy: the run of an H100 that
    // accumulated gradients is then predicted as well as the one that did not.
    const auto backward = [&](const char* name, int64_t rows, int64_t IC, int64_t OC, double calls, double first,
                              bool bias) {
        const Cost both = matmul_backward_cost(rows, IC, OC, x), dx = matmul_cost(rows, IC, OC, x);
        const Cost dw{both.bytes - dx.bytes, both.flops - dx.flops};
        const ProductSize size{OC, IC, rows, DType::F32};
        product(name, dx, calls, {rows, IC, OC, x});
        product(name, dw, first, size);
        product(name, dw + Cost{4. * double(IC * OC)}, calls - first, size);
        if (bias)
            add("sums of columns", K::copy, Cost{double(rows * OC * size_of(x)) + 8. * double(OC)}, 1, calls - first);
    };
    const int input_norms = c.parallel && !c.shared_norm ? 2 : 1;  // of a block, in one kernel
    const Cost norm = layernorm_forward_cost(N, C, x, input_norms), gelu = gelu_forward_cost(N * F, x);
    const Recompute level = shape.recompute;
    const double again    = micro * double(c.layers - 1);  // nothing overwrites the activations of the last layer

    add("zero", K::copy, Cost{4}, 1, 1);  // the loss
    add("embedding", K::embedding_forward, embedding_forward_cost(B, T, C, x), 1, micro);
    add("norm", K::layernorm_forward, norm, 1, micro);

    // The blocks' forward pass, with what the backward pass computes again.
    part                = Part::block_forward;
    const double blocks = layers + (level == Recompute::block ? again : 0);
    if (level >= Recompute::norm) add("norms again", K::layernorm_forward, norm, 1, again);
    if (level == Recompute::norm && !c.parallel) add("norms again", K::layernorm_forward, norm, 1, again);
    forward("qkv", N, C, 3 * C, blocks);
    if (c.rope.dim) add("rope", K::rope, rope_cost(N, H, c.rope.dim, x), 1, blocks);
    add("attention", K::attention_forward, attention_forward_cost(B, T, H, D, x), 1, blocks,
        drop.attention > 0 ? dropout_forward_work : 1);
    // The backward pass of a parallel block needs nothing that comes from the projection.
    forward("projection", N, C, C, c.parallel ? layers : blocks);
    if (!c.parallel) add("residual and norm", K::copy, add_layernorm_forward_cost(N, C, x), 1, blocks);
    forward("up", N, C, F, blocks);
    const bool in_products =
        x == DType::BF16 && F % 8 == 0 && (c.gelu == Gelu::tanh || gelu_op == GeluOp::in_our_product);
    // A product that ends in gelu writes `act` beside `up`, which nothing hides: llm.c measured 1.0 ms less with it
    // than without in a step of GPT-2 124M, B 32, and the model predicts 1.0.
    if (in_products && gelu_op != GeluOp::apart && !repeats_gelu(level))
        add("gelu", K::copy, Cost{double(N * F * size_of(x))}, 0, blocks);
    else
        add("gelu", K::gelu, gelu, 1, blocks + (repeats_gelu(level) ? again : 0));
    forward("down", N, F, C, layers);
    const int addends       = c.parallel ? 2 : 1;
    const auto add_branches = [&](int norms, double calls) {
        add("residual and next norm", K::copy, add_layernorm_forward_cost(N, C, x, addends, norms), 1, calls);
    };
    add_branches(input_norms, layers - micro);
    add_branches(1, micro);  // the last block's, before the head

    // The head, a chunk of rows at a time.
    part               = Part::head;
    const int64_t most = logits_rows(c, shape, x);
    const auto head    = [&](int64_t rows, double chunks, double first) {
        forward("head", rows, C, Vp, chunks);
        add("loss", K::cross_entropy, cross_entropy_cost(rows, Vp, x), 2, chunks);
        backward("head, backward", rows, C, Vp, chunks, first, c.head_bias);
    };
    head(most, micro * double(N / most), 1);
    if (N % most) head(N % most, micro, 0);
    add("sums", K::sum, sum_cost(N), 1, micro);

    const Cost norm_backward = layernorm_backward_cost(N, C, x), reads_no_dx{-double(N * C * size_of(x))};
    add("norm, backward", K::layernorm_backward, norm_backward + reads_no_dx, 1, micro);

    // The blocks' backward pass.
    part               = Part::block_backward;
    const double first = double(c.layers);
    if (in_products)
        add("gelu, backward", K::copy, Cost{double(N * F * size_of(x))}, 0, layers);
    else
        add("gelu, backward", K::gelu, gelu_backward_cost(N * F, x), 1, layers);
    backward("down, backward", N, F, C, layers, first, true);
    backward("up, backward", N, C, F, layers, first, true);
    add("norms, backward", K::layernorm_backward, norm_backward, 1, 2 * layers);
    // A norm's backward pass also writes its result with the mask of the branch that comes next. In a parallel block
    // the two branches share one result, and one of their masks has a pass of its own.
    const double own_pass = c.parallel ? if_dropped(drop.residual, layers) : 0;
    add("dropout, backward", K::layernorm_backward, Cost{double(N * C * size_of(x))}, 0,
        if_dropped(drop.residual, 2 * layers) - own_pass);
    add("dropout, backward", K::copy, dropout_cost(N * C, x), 1, own_pass);
    backward("projection, backward", N, C, C, layers, first, c.proj_bias);
    add("attention, backward", K::attention_backward, attention_backward_cost(B, T, H, D, x), 2, layers,
        drop.attention > 0 ? dropout_backward_work : 1);
    if (c.rope.dim) add("rope, backward", K::rope, rope_cost(N, H, c.rope.dim, x), 1, layers);
    backward("qkv, backward", N, C, 3 * C, layers, first, c.qkv_bias);

    part = Part::tables;
    // embedding_backward adds to the tables' gradients. That of a tied table is then the head's, and all others are 0.
    add("zero", K::copy, Cost{4. * double(c.context * C)}, 1, c.learned_positions);
    add("zero", K::copy, Cost{4. * double(Vp * C)}, 1, !c.tied_head);
    add("embedding, backward", K::embedding_backward, embedding_backward_cost(B, T, C, x),
        embedding_backward_kernels(c), micro);

    part = Part::update;
    Params shapes;
    int64_t all = 0, others = 0;
    for (const ParamRow& r : param_rows(shapes, c)) {
        all += r.shape.numel();
        if (optimizer == OptimizerKind::adamw || r.update != Update::matrix) {
            others += r.shape.numel();
            continue;
        }
        const int64_t n = r.shape.numel(), height = r.shape[0] / r.parts;
        add("muon", K::copy, muon_momentum_cost(n), 1, 1);
        add("muon", K::product, muon_orthogonalise_cost(height, r.shape[1], x), muon_orthogonalise_kernels,
            double(r.parts));
        add("muon", K::copy, muon_apply_cost(n, x), 1, 1);
    }
    add("gradient norm", K::sum, sum_cost(all), 1, 1);
    add("adamw", K::adamw, adamw_cost(others, x), 1, 1);
    return ops;
}

// The cost of one part of a step, or of all of it.
inline Cost cost_of(const std::vector<StepOp>& ops, std::optional<Part> part = {}) {
    Cost total;
    for (const StepOp& op : ops)
        if (!part || op.part == *part) total = total + op.cost * op.calls;
    return total;
}

inline double seconds_of(const StepOp& op, const Card& card, DType x, int64_t context, bool graph) {
    const bool bf16    = x == DType::BF16;
    const auto row     = std::find_if(std::begin(kind_shares), std::end(kind_shares),
                                      [&](const KindShare& s) { return s.kind == op.kind; });
    double share       = bf16 ? row->bf16 : row->fp32;
    const double bytes = op.cost.bytes / card.copy_rate, flops = op.cost.flops / card.product_rate(x);
    const bool attention = op.kind == OpKind::attention_forward || op.kind == OpKind::attention_backward;
    if (attention) share *= double(context) / double(context + 800);
    if (attention && bf16) share *= card.mma_sync / mma_sync_on_hopper;
    const double kernel = attention ? std::max(bytes, flops / share * op.work) : std::max(bytes, flops) / share;
    return op.calls * (kernel + op.kernels * (graph ? card.launch_in_graph : card.launch));
}

// The seconds of a training step on one card.
inline double seconds_of_step(const std::vector<StepOp>& ops, const Card& card, DType x, int64_t context, bool graph) {
    double seconds = 0;
    for (const StepOp& op : ops) seconds += seconds_of(op, card, x, context, graph);
    return seconds;
}

// ---- the optimizer's state in the host's memory (--offload) ---------------------------------------------------------

// The bytes/s of the host's memory that one GPU's process can use, assumed: an eighth of what two sockets with eight
// channels of DDR4-3200 have, 410 GB/s by the data sheet.
constexpr double host_memory_rate = 51e9;

// The bytes that one update with its state in the host's memory moves. Weights and gradients come over PCIe, the CPU
// reads and writes the bytes of adamw, and the weights go back. Matrices that Muon updates stay on the GPU. It reads
// and writes their momentum, and in bf16 their masters, over PCIe.
struct HostUpdate {
    double to_host = 0, to_gpu = 0;  // bytes over PCIe
    double by_cpu     = 0;           // bytes of the host's memory
    double muon_state = 0;           // bytes over PCIe, each way

    // adamw, muon: how many weights each of the two updates
    static HostUpdate of(double adamw, double muon, DType x) {
        const double size = double(size_of(x));
        return {adamw * (size + 4), adamw * size, adamw * adamw_cost(1, x).bytes, muon * (x == DType::F32 ? 4 : 8)};
    }
    // The seconds until all weights are back: chunks of them are on their way here, updated, and on their way back at
    // the same time, so the slowest of the three counts. That the first chunk meets none and the last is alone is not
    // counted, nor that the copies use the host's memory too.
    double seconds(const Card& card) const {
        return std::max({to_host / card.pcie, by_cpu / host_memory_rate, to_gpu / card.pcie});
    }
    // The seconds in which the GPU does nothing but reach for the state of Muon.
    double muon_seconds(const Card& card) const { return muon_state / card.pcie; }
};
