// attention_trial.cuh - whether a run uses Hopper's attention kernels, and the comparison of their first results
//
// No GPU has run these kernels yet. So the first call of each kind (HopperCall) in a run also runs the kernels that use
// mma.sync. If the results differ by more than rounding explains, mma.sync takes over. Kinds of calls that agreed
// before keep Hopper's kernels.
#pragma once
#include "attention_tiles.cuh"
#include "hopper.cuh"

namespace gpu {

inline bool needs_trial(const Queue& queue, const HopperCall& kind) {
    return queue.attention == AttentionKernels::automatic && !queue.hopper.passed.count(kind);
}

// Returns whether a call of this kind runs Hopper's kernels. One that is being recorded as a CUDA graph cannot be
// compared, but a Graph does its work once before it records it (feed.h).
inline bool hopper_takes(const Problem& p, const Queue& queue, const HopperCall& kind) {
    if (queue.attention == AttentionKernels::mma || !p.is_wide || !has_hopper_attention(queue)) return false;
    if (!needs_trial(queue, kind)) return true;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    CUDA_RUN(cudaStreamIsCapturing(queue.stream, &capture));
    return !queue.hopper.failed && capture == cudaStreamCaptureStatusNone;
}

// A difference and its row. The upper half has the bits of a float: the difference in units of what is allowed. The
// lower half has the row. Such integers compare as the differences do, so atomicMax() keeps the largest.
using Difference = unsigned long long;

// Block h compares head h of a sequence. Elements may differ by `share` of the largest |element| of that head of
// `scale`, and lse by 2^-12 (1 + |lse|).
static __global__ void compare_attention_kernel(Difference* worst, Heads<const bf16> x, Heads<const bf16> right,
                                                Heads<const bf16> scale, float share, const float* lse,
                                                const float* right_lse, Problem p, uint32_t first_row) {
    __shared__ int largest;  // the bits of a float that is not negative
    __shared__ Difference worst_here;
    const int h = blockIdx.x;
    if (threadIdx.x == 0) largest = 0, worst_here = 0;
    __syncthreads();
    const auto at = [&](const Heads<const bf16>& heads, int i) { return float(heads.at(0, h)[i / p.D][i % p.D]); };
    int most      = 0;
    for (int i = threadIdx.x; i < p.T * p.D; i += blockDim.x) most = max(most, __float_as_int(fabsf(at(scale, i))));
    atomicMax(&largest, most);
    __syncthreads();
    Difference mine    = 0;
    const auto compare = [&](float ours, float theirs, float allowed, int t) {
        const bool alike = ours == theirs || (isnan(ours) && isnan(theirs));
        const float d = fabsf(ours - theirs) / allowed, bad = alike ? 0.f : isnan(d) ? INFINITY : d;
        mine = max(mine, Difference(__float_as_uint(bad)) << 32 | (first_row + uint32_t(h) * p.T + t));
    };
    for (int i = threadIdx.x; i < p.T * p.D; i += blockDim.x)
        compare(at(x, i), at(right, i), __int_as_float(largest) * share, i / p.D);
    for (int t = threadIdx.x; lse && t < p.T; t += blockDim.x) {
        const float theirs = right_lse[h * p.T + t];
        compare(lse[h * p.T + t], theirs, (1 + fabsf(theirs)) / 4096, t);
    }
    atomicMax(&worst_here, mine);
    __syncthreads();
    if (threadIdx.x == 0) atomicMax(worst, worst_here);
}

// Compares results with others, a sequence at a time.
class HopperTrial {
  public:
    HopperTrial(const Problem& p, Queue& queue)
        : p_(p), queue_(queue), worst_(queue.scratch<Difference>(attention_trial_scratch(p.T, p.H, p.D, DType::BF16))) {
        CUDA_RUN(cudaMemsetAsync(worst_, 0, sizeof *worst_, queue_.stream));
    }
    // Returns memory for the other results of one sequence.
    char* memory() const { return reinterpret_cast<char*>(worst_) + 64; }
    void compare(int64_t sequence, const Heads<const bf16>& x, const Heads<const bf16>& right,
                 const Heads<const bf16>& scale, float share, const float* lse = nullptr,
                 const float* right_lse = nullptr) {
        launch(compare_attention_kernel, Grid(p_.H, 256), queue_, worst_, x, right, scale, share, lse, right_lse, p_,
               uint32_t(sequence * p_.H * p_.T));
    }
    // Waits for the comparisons. If results differ, it warns, and only kinds that agreed before use Hopper's kernels.
    bool passes(const HopperCall& kind) {
        wait();
        Difference found = 0;
        queue_.download(&found, worst_, sizeof found);
        const uint32_t bits = uint32_t(found >> 32), row = uint32_t(found);
        float difference;
        std::memcpy(&difference, &bits, sizeof difference);
        if (difference <= 1.f) return queue_.hopper.passed.insert(kind), true;
        queue_.hopper.failed = true;
        fmt::print(
            stderr,
            "warning: {}: the kernels for Hopper differ from those with mma.sync by {:.3g} times what rounding "
            "explains, in row {} of head {} of sequence {} (T {} H {} D {} window {}{}{}). This run goes on with "
            "mma.sync, except in kinds of calls that agreed before. Please report this line and what nvidia-smi "
            "prints; --attention mma leaves the comparison out.\n",
            queue_.op, difference, row % p_.T, row / p_.T % p_.H, row / p_.T / p_.H, p_.T, p_.H, p_.D, p_.window,
            p_.starts ? ", documents" : "", p_.drops.step ? ", dropout" : "");
        return false;
    }

  private:
    void wait() const {
        wait_for_trial(queue_, "with --attention mma, which does without them",
                       fmt::format("T {} H {} D {} window {}{}{}", p_.T, p_.H, p_.D, p_.window,
                                   p_.starts ? ", documents" : "", p_.drops.step ? ", dropout" : ""));
    }

    const Problem& p_;
    Queue& queue_;
    Difference* worst_;
};

}  // namespace gpu
