// plan.h - the memory that a run takes, by group, and the largest batch that fits
//
// The numbers come from the tables that later allocate the memory, so a plan cannot differ from the run.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>

#include "gpt/generate.h"
#include "gpt/optimizers.h"
#include "gpt/saver.h"
#include "gpt/step.h"
#include "gpt/time_model.h"

// The host memory that this process holds now, in bytes.
inline int64_t held_bytes() {
    int64_t pages = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> pages >> resident;
    return resident * sysconf(_SC_PAGESIZE);
}

// A process on a CPU takes memory that is not in use yet when it plans: oneDNN loads code and compiles products, and
// the heap grows. Six to eight MiB were measured, and 9 MiB more for Open MPI with two processes on one machine. On a
// CPU without AVX-512 a run takes 8 to 36 MB more than its plan (2026-11-27, two cores of a Zen 3), because oneDNN
// keeps partial sums and copies of operands while it multiplies.
constexpr int64_t loaded_later_bytes = int64_t(7) << 20, open_mpi_bytes = int64_t(9) << 20;

// An allowance for what lies on a GPU beside the tensors: the driver's context and the kernels of our and NVIDIA's
// libraries. Its size is not known before it is loaded. With several GPUs, NCCL's buffers come on top.
constexpr int64_t cuda_context_bytes = int64_t(512) << 20;

// The most scratch memory that an op of a training step asks for on a GPU.
inline int64_t scratch_bytes(const Config& c, const BatchShape& shape, DType dtype) {
    const int64_t B = shape.batch, T = shape.context;
    return std::max({embedding_backward_cost(B, T, c.width, dtype).scratch,
                     layernorm_backward_cost(shape.rows(), c.width, dtype).scratch,
                     attention_backward_cost(B, T, c.heads, c.head_size(), dtype).scratch,
                     attention_trial_scratch(T, c.heads, c.head_size(), dtype),
                     sum_cost(param_layout(c).elements()).scratch});
}

// The most that a product of a training step takes beside its operands.
inline int64_t product_bytes(const Config& c, const BatchShape& shape, DType dtype, Machine where) {
    int64_t most = matmul_workspace(where);
    if (where == Machine::cpu)
        for (const StepOp& op : step_ops(c, shape, dtype, 1, OptimizerKind::adamw))
            most = std::max(most, matmul_copies(op.size.M, op.size.N, op.size.K, dtype, op.size.out));
    return most;
}

// The choices of a run that its memory depends on.
struct RunSize {
    Config config;
    DType dtype;
    BatchShape shape;
    OptimizerKind optimizer = OptimizerKind::adamw;
    int64_t micro_steps     = 1;
    bool documents          = false;  // batches have starts and positions
    bool masked             = false;  // the data has a loss mask
    int64_t sample_tokens   = 0;      // the length of samples while training; 0: there are none
    ShardLevel shard        = ShardLevel::none;
    int world               = 1;
    DType wire              = DType::F32;  // gradients are sent between processes in it
    bool offload            = false;       // the optimizer's state is in the host's memory
    bool save_async         = false;       // a save copies the checkpoint's tensors to the host's memory
    DType weights_dtype     = DType::F32;  // a checkpoint stores the weights in it

    Sharding sharding(int rank = 0) const { return {shard, rank, world, row_of(optimizer).whole_matrices}; }
};

// The memory of a run, in bytes by group.
struct MemoryPlan {
    int64_t weights, gradients, optimizer, activations;
    int64_t buffers;     // scratch memory of products and other ops, batches being sent, the cache of a sample
    int64_t program;     // code, libraries and heap in host memory. On a GPU it is 0: there
                         // cuda_context_bytes are an allowance outside the total.
    int64_t copies = 0;  // the memory of --save-async on a CPU
    int64_t host   = 0;  // a run on a GPU keeps this in the host's memory; the total does not count it
    int64_t total() const { return weights + gradients + optimizer + activations + buffers + program + copies; }
};

inline MemoryPlan plan_memory(const RunSize& run, Machine where) {
    const Config& c = run.config;
    const bool gpu  = where == Machine::cuda;
    const auto feed = [&](const BatchFeed::Capacity& capacity) { return Feed::device_bytes(capacity.bytes(), where); };
    // The plan is that of the process with the longest slices. All slices have one length unless matrices stay whole.
    ParamLayout layout = param_layout(c, run.sharding());
    std::vector<int64_t> own(size_t(run.world), 0);
    int64_t longest = 0;  // elements of a slice
    for (const Bucket& b : layout.buckets)
        for (size_t rank = 0; rank < own.size(); rank++) {
            own[rank] += b.cut.count[rank];
            longest = std::max(longest, b.cut.count[rank]);
        }
    layout.sharding.rank = int(std::max_element(own.begin(), own.end()) - own.begin());
    const auto memory    = [&](DType dtype, ShardLevel kind) {
        return ParamMemory::bytes(c, layout, dtype, run.sharding().cuts(kind), where);
    };
    Arena activations;
    MemoryPlan plan{};
    plan.weights     = memory(run.dtype, ShardLevel::weights);
    plan.gradients   = memory(DType::F32, ShardLevel::gradients);
    plan.optimizer   = row_of(run.optimizer).working_bytes(c, run.dtype);
    plan.activations = plan_activations(activations, c, run.shape, run.dtype);
    plan.buffers =
        feed(Step::feed_capacity(run.shape, run.micro_steps, run.documents, run.masked)) +
        feed(Model::feed_capacity(run.shape)) + product_bytes(c, run.shape, run.dtype, where) +
        (gpu ? scratch_bytes(c, run.shape, run.dtype) : 0) +
        (run.world > 1 ? Collective::scratch_bytes(where, gpu ? layout.most_elements() : longest * run.world, run.wire)
                       : 0);
    const int64_t state = Optimizer::state_bytes(row_of(run.optimizer).kinds(), c, run.dtype, run.sharding());
    (run.offload ? plan.host : plan.optimizer) += state;
    if (run.offload) plan.host += AdamWTable::staging_bytes();
    if (run.save_async)
        (gpu ? plan.host : plan.copies) +=
            CheckpointTensors::copied_bytes(row_of(run.optimizer).kinds(), c, run.weights_dtype, run.world);
    if (run.sample_tokens)
        plan.buffers += Generator::bytes(c, run.dtype, 1, std::min(run.sample_tokens, c.context), where);
    plan.program = gpu ? 0 : held_bytes() + loaded_later_bytes + (run.world > 1 ? open_mpi_bytes : 0);
    return plan;
}

// Returns the largest batch that takes at most `limit` bytes, or 0 when a batch of 1 takes more. bytes(batch) must grow
// with the batch.
inline int64_t largest_batch(int64_t limit, const std::function<int64_t(int64_t)>& bytes) {
    int64_t fits = 0, step = 1;
    while (step < 1 << 20 && bytes(fits + step) <= limit) fits += step, step *= 2;
    for (; step; step /= 2)
        if (bytes(fits + step) <= limit) fits += step;
    return fits;
}
