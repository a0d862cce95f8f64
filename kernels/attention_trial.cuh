// attention_trial.cuh - whether a run uses Hopper's attention kernels, and the comparison of their first results
//
// No GPU has run these kernels yet. So the first call of each kind (HopperCall) in a run also runs the kernels that use
// mma.sync. If the results differ by more than rounding explains, mma.sync takes over. Kinds of calls that agreed
// before keep Hopper's kernels.
//
// A NaN or an infinity in the inputs reaches every row that shares a tile with it, and the tiles have other sizes. So
// where the results of mma.sync are not finite, a comparison shows nothing, and the next call of the kind is compared.
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

// What the comparisons of a call have found.
struct Compared {
    Difference worst;
    int not_finite;  // 1: some head could not be compared
};

// Block h compares head h of a sequence. Elements may differ by `share` of the largest |element| of that head of
// `scale`, and lse by 2^-12 (1 + |lse|).
static __global__ void compare_attention_kernel(Compared* found, Heads<const bf16> x, Heads<const bf16> right,
                                                Heads<const bf16> scale, float share, const float* lse,
                                                const float* right_lse, Problem p, uint32_t first_row) {
    __shared__ int largest;  // the bits of a float that is not negative
    __shared__ Difference worst_here;
    const int h = blockIdx.x;
    if (threadIdx.x == 0) largest = 0, worst_here = 0;
    __syncthreads();
    const auto at = [&](const Heads<const bf16>& heads, int i) { return float(heads.at(0, h)[i / p.D][i % p.D]); };
    int most      = 0;
    bool finite   = true;
    for (int i = threadIdx.x; i < p.T * p.D; i += blockDim.x) {
        most   = max(most, __float_as_int(fabsf(at(scale, i))));
        finite = finite && isfinite(at(right, i));
    }
    atomicMax(&largest, most);
    if (!__syncthreads_and(finite)) {
        if (threadIdx.x == 0) found->not_finite = 1;
        return;
    }
    Difference mine    = 0;
    const auto compare = [&](float ours, float theirs, float allowed, int t) {
        const float d = fabsf(ours - theirs) / allowed, bad = ours == theirs ? 0.f : isnan(d) ? INFINITY : d;
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
    if (threadIdx.x == 0) atomicMax(&found->worst, worst_here);
}

// Compares results with others, a sequence at a time.
class HopperTrial {
  public:
    HopperTrial(const Problem& p, Queue& queue)
        : p_(p), queue_(queue), found_(queue.scratch<Compared>(attention_trial_scratch(p.T, p.H, p.D, DType::BF16))) {
        CUDA_RUN(cudaMemsetAsync(found_, 0, sizeof *found_, queue_.stream));
    }
    // Returns memory for the other results of one sequence.
    char* memory() const { return reinterpret_cast<char*>(found_) + 64; }
    void compare(int64_t sequence, const Heads<const bf16>& x, const Heads<const bf16>& right,
                 const Heads<const bf16>& scale, float share, const float* lse = nullptr,
                 const float* right_lse = nullptr) {
        launch(compare_attention_kernel, Grid(p_.H, 256), queue_, found_, x, right, scale, share, lse, right_lse, p_,
               uint32_t(sequence * p_.H * p_.T));
    }
    // Waits for the comparisons. If results differ, it warns, and only kinds that agreed before use Hopper's kernels.
    bool passes(const HopperCall& kind) {
        wait();
        Compared found{};
        queue_.download(&found, found_, sizeof found);
        const uint32_t bits = uint32_t(found.worst >> 32), row = uint32_t(found.worst);
        float difference;
        std::memcpy(&difference, &bits, sizeof difference);
        if (difference <= 1.f && found.not_finite) return false;
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
    Compared* found_;
};

}  // namespace gpu
