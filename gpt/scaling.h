// scaling.h - predicts a training step on many GPUs: what each sends, how long that takes, and how much of it is hidden
//
// A gradient is 4 bytes on the wire, or 2 with --wire bf16. A weight has its own size. Each GPU sends its share of
// every collective, which is (N - 1) / N of the buffer for a reduce-scatter or an all-gather, and twice that for an
// all-reduce:
//
//   --shard none         all-reduce of the gradients, while the last backward pass computes
//   --shard optimizer    the same with a reduce-scatter, and an all-gather of the weights in the next forward pass
//   --shard gradients    likewise, with a reduce-scatter in every backward pass
//   --shard weights      all-gather of the weights in every forward and every backward pass, too
//
// A collective takes α for each hop and β for each byte: the time of a ring, or of a tree where that is shorter. What a
// pass computes hides what is sent meanwhile. Nothing hides the last bucket of a backward pass and the first one of a
// forward pass. A CUDA graph (--graph) ends when all weights have come, so it hides none of them. The same is true of
// weights that the CPU updates (--offload), which time_model.h counts. The prediction is optimistic in two ways: copies
// do not slow the kernels beside them, and no process waits for a slower one.
//
// Tensor and pipeline parallelism are not built here. Parallel has them all the same (Narayanan et al. 2021: arXiv
// 2104.04473), so that docs/scaling.md can show where sharding alone stops being enough.
#pragma once
#include <algorithm>
#include <cmath>

#include "gpt/time_model.h"

// How servers are connected with each other.
struct Link {
    const char* name;  // its name for --link
    double rate;       // bytes/s that all GPUs of a server send together; 0: NVLink connects all GPUs
};
// A 400 Gb/s adapter sends 46 to 48 of its 50 GB/s, as NVIDIA says (nccl-tests issue 290).
constexpr double adapter_share = 0.94;
inline constexpr Link links[]  = {
     {"nvlink", 0},
     {"10Gb", adapter_share * 1.25e9},
     {"100Gb", adapter_share * 12.5e9},
     {"200Gb", adapter_share * 25e9},
     {"400Gb", adapter_share * 50e9},
     {"800Gb", adapter_share * 100e9},
     {"1600Gb", adapter_share * 200e9},
     {"3200Gb", adapter_share * 400e9},
};

inline const Link* find_link(const std::string& name) {
    for (const Link& link : links)
        if (name == link.name) return &link;
    return nullptr;
}

struct Cluster {
    const Card* card;
    const Link* link;
    int gpus_per_node           = 8;
    static constexpr double hop = 3e-6, node_hop = 8e-6;  // α between GPUs of a server, and between servers; assumed

    bool one_node(int64_t world) const { return link->rate == 0 || world <= gpus_per_node; }
    // The seconds in which `world` GPUs reduce-scatter or all-gather a buffer. Between servers a ring sends all of it
    // through each server's adapters. rings: how many groups of `world` GPUs do so at the same time. The GPUs of every
    // server are divided evenly among these groups, which share its adapters.
    double seconds(int64_t world, double bytes, int64_t rings = 1) const {
        if (world <= 1) return 0;
        const double share = double(world - 1) / double(world) * bytes, inside = share / card->nvlink;
        if (one_node(world * rings)) return double(world - 1) * hop + inside;
        const double nodes = std::ceil(double(world * rings) / gpus_per_node);
        const double ring  = double(world - 1) * hop + nodes * node_hop,
                     tree  = (gpus_per_node - 1) * hop + 2 * std::log2(nodes) * node_hop;
        return std::min(ring, tree) + std::max(inside, share * double(rings) / link->rate);
    }
};

// A prediction of one step.
struct ScaledStep {
    double forward = 0, backward = 0, update = 0;  // seconds of kernels, over all micro-steps
    double sent    = 0;                            // bytes that a GPU sends
    double wire    = 0;                            // seconds in which it sends
    double exposed = 0;                            // those of them in which it computes nothing
    double idle    = 0;                            // of a pipeline that fills and drains
    HostUpdate host{};                             // the bytes that the CPU's update of weights moves (--offload)
    double waits = 0;                              // seconds in which the GPU waits for that update
    double seconds() const { return forward + backward + update + exposed + idle + waits; }
};

struct Parallel {
    int64_t world    = 1;
    ShardLevel shard = ShardLevel::none;
    int64_t tensor = 1, pipeline = 1;  // GPUs that share each matrix, and that share the layers
    DType wire         = DType::F32;   // gradients are sent in it
    int64_t interleave = 1;            // pieces in which a GPU has its layers, each a stage of the pipeline
    bool offload       = false;        // the optimizer's state is in the host's memory

    int64_t replicas() const { return world / (tensor * pipeline); }
};

// How often a layer with shared matrices sums what its GPUs have computed: behind attention and the MLP, or once where
// both are added up first. In the backward pass each norm has a sum before it.
inline int sums_forward(const Config& c) { return c.parallel ? 1 : 2; }
inline int sums_backward(const Config& c) { return c.shared_norm ? 1 : 2; }

inline ScaledStep predict_step(const Config& c, const BatchShape& shape, DType x, int64_t micro_steps,
                               OptimizerKind optimizer, bool graph, const Parallel& p, const Cluster& on) {
    const bool cut_optimizer = p.replicas() > 1 && p.shard >= ShardLevel::optimizer;
    ScaledStep step;
    const double ways = double(p.tensor * p.pipeline);
    for (const StepOp& op : step_ops(c, shape, x, micro_steps, optimizer)) {
        const double launches = op.calls * op.kernels * (graph ? on.card->launch_in_graph : on.card->launch),
                     seconds  = (seconds_of(op, *on.card, x, shape.context, graph) - launches) / ways +
                               launches / double(p.pipeline);
        const bool updates = op.part == Part::update;
        if (updates && p.offload && op.kind == OpKind::adamw) continue;
        if (updates)
            step.update += seconds / (cut_optimizer ? double(p.replicas()) : 1.);
        else if (op.part == Part::beginning || op.part == Part::block_forward)
            step.forward += seconds;
        else
            step.backward += seconds;
    }
    // The sharded states of one replica's part of the model.
    const int64_t n      = p.replicas();
    const double weights = double(count_params(c)) / ways, micro = double(micro_steps),
                 per_layer = weights / double(c.layers + 2), part = double(n - 1) / double(n);
    const double gradients = double(size_of(p.wire)) * weights, stored = double(size_of(x)) * weights;
    const double scatter = on.seconds(n, gradients, p.tensor), gather = on.seconds(n, stored, p.tensor),
                 last_bucket  = scatter * per_layer / weights;
    const double pass_forward = step.forward / micro, pass_backward = step.backward / micro;
    // The seconds by which the next forward pass is late when its weights come one bucket after another, all of them in
    // `seconds`. The first bucket, which is that of the tables, has nothing before it.
    const ParamLayout layout = param_layout(c);
    const double first       = double(layout.buckets[0].elements) / double(layout.elements());
    const auto late          = [&](double seconds) {
        return graph ? seconds : std::max(first * seconds, seconds - pass_forward);
    };
    if (p.offload) {
        double matrices = 0;
        Params shapes;
        for (const ParamRow& r : param_rows(shapes, c))
            if (optimizer == OptimizerKind::muon && r.update == Update::matrix) matrices += double(r.shape.numel());
        const double kept = cut_optimizer ? weights / double(n) : weights, share = matrices / double(count_params(c));
        step.host = HostUpdate::of(kept * (1 - share), kept * share, x);
        step.update += step.host.muon_seconds(*on.card);
        step.waits = late(step.host.seconds(*on.card));
    }
    const auto hidden_behind = [&](double wire, double compute, double at_least) {
        step.wire += wire;
        return n > 1 ? std::max(at_least, wire - compute) : 0;
    };
    const double passes = p.shard >= ShardLevel::gradients ? micro : 1;
    switch (p.shard) {
        case ShardLevel::none:
            step.sent    = 2 * part * gradients;
            step.exposed = hidden_behind(2 * scatter, pass_backward, 2 * last_bucket);
            break;
        case ShardLevel::optimizer:
        case ShardLevel::gradients:
            step.sent = part * (passes * gradients + stored);
            for (int64_t i = 0; i < int64_t(passes); i++)
                step.exposed += hidden_behind(scatter, pass_backward, last_bucket);
            step.wire += gather;
            // Buckets are gathered while others are still updated, so only what takes longer shows.
            step.exposed += std::max(0., late(gather) - step.waits);
            break;
        case ShardLevel::weights:
            step.sent = micro * part * (gradients + 2 * stored);
            for (int64_t i = 0; i < micro_steps; i++) {
                step.exposed += hidden_behind(gather, pass_forward, gather * per_layer / weights);
                step.exposed += hidden_behind(gather + scatter, pass_backward, last_bucket);
            }
            break;
    }
    // Matrices that are shared by `tensor` GPUs of a server: an all-reduce of the activations for each sum that is
    // taken over all of a layer's outputs, with nothing to compute meanwhile.
    const double activation = double(shape.rows() * c.width * size_of(x));
    if (p.tensor > 1) {
        const double all = double(sums_forward(c) + sums_backward(c)) * micro * double(c.layers) / double(p.pipeline);
        const double one = 2 * on.seconds(p.tensor, activation);
        step.sent += all * 2 * double(p.tensor - 1) / double(p.tensor) * activation;
        step.wire += all * one;
        step.exposed += all * one;
    }
    // A pipeline of p GPUs idles for p - 1 micro-steps of each step, or less where stages are interleaved. The time to
    // send activations from stage to stage is not counted.
    if (p.pipeline > 1) {
        step.sent += 2 * micro * activation;
        step.idle = double(p.pipeline - 1) / (micro * double(p.interleave)) * (step.forward + step.backward);
    }
    return step;
}
