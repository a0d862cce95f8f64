// plan.h - the memory that a run takes, by group, from the tables that allocate it; and the largest batch that fits
#pragma once
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>

#include "gpt/generate.h"
#include "gpt/step.h"

// Host memory that this process holds, in bytes.
inline int64_t held_bytes() {
    int64_t pages = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> pages >> resident;
    return resident * sysconf(_SC_PAGESIZE);
}

// What runs beside the tensors on a GPU: the driver's context and the kernels of our and NVIDIA's libraries. Nobody
// says how much before it is loaded; this is an allowance, to which NCCL adds its buffers where there are several GPUs.
constexpr int64_t cuda_context_bytes = int64_t(512) << 20;

// The most that an op of a training step asks Queue::scratch() for: embedding_backward two lists of rows,
// layernorm_backward sums of up to 256 chunks of at least 8 rows, attention_backward a number for each query.
inline int64_t scratch_bytes(const Config& c, const BatchShape& z) {
    const int64_t N = z.rows(), chunks = std::min<int64_t>(256, (N + 7) / 8);
    return std::max({2 * N * 4, chunks * 2 * c.width * 4, z.batch * c.heads * z.context * 4, int64_t(8192)});
}

// Bytes. buffers: what products and other ops work in, the batches, and a sample's cache. program: code and libraries
// in host memory, as they are now; on a GPU they take cuda_context_bytes, which are not in the total.
struct Plan {
    int64_t weights, gradients, optimizer, activations, buffers, program;
    int64_t total() const { return weights + gradients + optimizer + activations + buffers + program; }
};

// sample_tokens: the length of samples while training, 0 for none.
inline Plan plan_of(const Config& c, const BatchShape& z, DType x, int64_t micro_steps, bool documents,
                    int64_t sample_tokens, const Device& device) {
    const bool gpu = device.where() == Machine::cuda;
    Params p;
    Arena weights, fp32, acts;
    for (const ParamRow& r : param_rows(p, c)) weights.plan(r.shape, x), fp32.plan(r.shape, DType::F32);
    int64_t buffers = Feed::device_bytes(Step::room(z, micro_steps, documents).bytes(), device.where()) +
                      Feed::device_bytes(Model::feed_room(z).bytes(), device.where()) +
                      matmul_workspace(device.stream()) + (gpu ? scratch_bytes(c, z) : 0);
    if (sample_tokens) buffers += Generator::bytes(c, x, 1, std::min(sample_tokens, c.context), device.where());
    return {weights.bytes(),
            fp32.bytes(),
            (x == DType::F32 ? 2 : 3) * fp32.bytes(),
            plan_activations(acts, c, z, x),
            buffers,
            gpu ? 0 : held_bytes()};
}

// The largest batch whose bytes(batch) are at most `limit`; 0 when not even 1 is. bytes() grows with the batch.
inline int64_t largest_batch(int64_t limit, const std::function<int64_t(int64_t)>& bytes) {
    int64_t fits = 0, step = 1;
    while (step < 1 << 20 && bytes(fits + step) <= limit) fits += step, step *= 2;
    for (; step; step /= 2)
        if (bytes(fits + step) <= limit) fits += step;
    return fits;
}
