// cross_entropy.cu - losses of logits, and the gradient of the logits in their place
//
//   loss_n  = log Σ_{v<V} exp(l_nv - max_n) + max_n - l_n,target
//   l_nv    = grad_scale (exp(l_nv - max_n) / Σ - [v = target]), and 0 for V <= v < Vp; only if grad_scale ≠ 0
//   both times scales_n where there are scales
//
//   losses (N) fp32, logits (N,Vp), targets (N) int32, scales (N) fp32 or null. A target of -1 means that a row has
//   none: its loss and gradient are 0. A row that holds a NaN has a NaN loss and gradient.
//
//   A row is used more than once, but read from memory only once: 50304 columns take at most 200 KB, which a CPU's
//   second-level cache and an H100's shared memory hold. The CPU keeps the exponentials in a row of floats, so each is
//   computed once and rounded only as a gradient.
#include <vector>

#include "cpu.h"
#include "ids.h"
#include "ops.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

// A target of -1 is allowed: it means that the row has no target.
static IdRule target_rule(Tensor targets, int64_t V) { return {"cross_entropy", "target", targets, -1, V}; }

namespace cpu {

template <class T>
static float row_max(const T* x, int64_t V) {
    floats a = broadcast(-INFINITY), b = a;
    const int64_t half = V / (2 * lanes) * lanes;  // two running maxima, so that their latencies overlap
    for (int64_t i = 0; i < half; i += lanes) {
        a = max(a, load(x + i));
        b = max(b, load(x + half + i));
    }
    for_lanes(V - 2 * half, [&](int64_t i, auto n) { a = max(a, load(x + 2 * half + i, n, -INFINITY)); });
    return max(max(a, b));
}

// Returns Σ exp(x - x_max), and writes the terms to exps unless it is null.
template <class T>
static float row_exps(float* exps, const T* x, float x_max, int64_t V) {
    return sum_lanes(V, [=](int64_t i, auto n) {
        const floats e = exp(load(x + i, n) - x_max);
        if (exps) store(exps + i, e, n);
        return e;
    });
}

template <class T>
static void cross_entropy(Tensor losses, Tensor logits, Tensor targets, Tensor scales, int64_t V, float grad_scale) {
    const int64_t N = logits.shape[0], Vp = logits.shape[1];
    T* all                = logits.data<T>();
    float* loss           = losses.data<float>();
    const int32_t* target = targets.data<int32_t>();
    const float* factor   = scales ? scales.data<float>() : nullptr;
    expect_ids(targets, target_rule(targets, V));
    const bool grad = grad_scale != 0;
    parallel_ranges(N, 1, [=](int64_t begin, int64_t end) {
        std::vector<float> exps(grad ? V : 0);
        for (int64_t n = begin; n < end; n++) {
            T* x = all + n * Vp;
            if (target[n] < 0) {
                loss[n] = 0;
                if (grad) std::fill(x, x + Vp, T(0.f));
                continue;
            }
            const float x_max = row_max(x, V), total = row_exps(grad ? exps.data() : nullptr, x, x_max, V);
            loss[n] = float(std::log(double(total)) + double(x_max) - double(float(x[target[n]])));
            if (factor) loss[n] *= factor[n];
            if (!grad) continue;
            const float scale = (factor ? grad_scale * factor[n] : grad_scale) / total;
            exps[target[n]] -= total;  // exp / total - 1 = (exp - total) / total
            for_lanes(V, [&](int64_t i, auto k) { store(x + i, load(exps.data() + i, k) * scale, k); });
            std::fill(x + V, x + Vp, T(0.f));
        }
    });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

__device__ inline float exp_fast(float x) { return exp2_fast(x * log2e); }

// The largest of the numbers added so far, and Σ exp(x - max) over them. As long as all of them are -∞, the sum is
// Σ exp(x - 0) instead, because -∞ - -∞ is NaN. A NaN makes the sum NaN.
struct ExpSum {
    float max = -INFINITY, sum = 0;
    template <int n>
    __device__ void add(const Floats<n>& x) {
        float new_max = max;
        for (int k = 0; k < n; k++) new_max = fmaxf(new_max, x[k]);
        const float shift = new_max == -INFINITY ? 0.f : new_max;
        sum *= exp_fast(max - shift);
        for (int k = 0; k < n; k++) sum += exp_fast(x[k] - shift);
        max = new_max;
    }
    __device__ void add(const ExpSum& o) {
        const float new_max = fmaxf(max, o.max), shift = new_max == -INFINITY ? 0.f : new_max;
        sum = sum * exp_fast(max - shift) + o.sum * exp_fast(o.max - shift);
        max = new_max;
    }
    __device__ void add_over_warp() {
        for (int w = 16; w; w /= 2) {
            ExpSum other;
            other.max = __shfl_xor_sync(~0u, max, w);
            other.sum = __shfl_xor_sync(~0u, sum, w);
            add(other);
        }
    }
};

// Each block computes one row. It copies the row into shared memory, so that logits are read once and written once:
// 50304 columns of bf16 are 98 KB. An H100 has 227 KB for its blocks, so two of them share a multiprocessor, and one
// waits for its row (98 KB in flight, where 40 KB are enough) while the other computes. Of a row that is too long for
// shared memory, the first `kept` vectors are copied, and the rest is read a second time.
//
// A logit costs two exponentials, one for the sum and one for the gradient. The exponential functions of a row take 40
// % of the time in which an H100 reads and writes the row in bf16, and keeping the terms in fp32 would take twice the
// shared memory.
constexpr int row_threads = 512;

template <int W, class T>
static __global__ void __launch_bounds__(row_threads, 2)
    cross_entropy_kernel(T* logits, float* losses, const int32_t* targets, const float* scales, int V, int Vp,
                         float grad_scale, int kept, const BadId* bad) {
    extern __shared__ uint4 memory[];
    __shared__ float maxs[32], sums[32];  // one per warp
    if (!ready(bad)) return;
    T* const x       = logits + int64_t(blockIdx.x) * Vp;
    T* const row     = reinterpret_cast<T*>(memory);
    const int target = targets[blockIdx.x], thread = threadIdx.x, lane = thread % 32, warps = blockDim.x / 32;
    const int full = V / W;              // vectors that hold no padding; a thread has the same ones in every loop below
    const int last = full * W + thread;  // a column that is in no such vector, or none
    if (target < 0) {
        if (thread == 0) losses[blockIdx.x] = 0;
        for (int i = thread * W; i < Vp && grad_scale != 0; i += blockDim.x * W) store(x + i, Floats<W>{});
        return;
    }
    const float target_logit = load<1>(x + target)[0];

    const uint32_t row_address = uint32_t(__cvta_generic_to_shared(memory));
    for (int v = thread; v < kept; v += blockDim.x) copy_chunk_async(row_address + v * 16, x + v * W);
    wait_for_copies();  // a thread reads only what it copied itself, so no barrier is needed
    const auto vector = [&](int v) { return v < kept ? load<W>(row + v * W) : load<W>(x + v * W); };

    ExpSum exps;
    constexpr int at_once = 16 / W;  // vectors whose terms are added together, which shares the change of the maximum
    int first             = thread;
    for (; first + (at_once - 1) * int(blockDim.x) < full; first += at_once * blockDim.x) {
        Floats<at_once * W> logit;
        for (int u = 0; u < at_once; u++) {
            const Floats<W> l = vector(first + u * blockDim.x);
            for (int k = 0; k < W; k++) logit[u * W + k] = l[k];
        }
        exps.add(logit);
    }
    for (; first < full; first += blockDim.x) exps.add(vector(first));
    const float last_logit = last < V ? load<1>(x + last)[0] : -INFINITY;
    exps.add(Floats<1>{{last_logit}});
    exps.add_over_warp();
    if (lane == 0) {
        maxs[thread / 32] = exps.max;
        sums[thread / 32] = exps.sum;
    }
    __syncthreads();
    exps = lane < warps ? ExpSum{maxs[lane], sums[lane]} : ExpSum();
    exps.add_over_warp();

    const float factor = scales ? scales[blockIdx.x] : 1.f;
    const float max = exps.max, total = exps.sum, scale = grad_scale * factor / total;
    if (grad_scale != 0) {
        for (int v = thread; v < full; v += blockDim.x) {
            Floats<W> l = vector(v);
            for (int k = 0; k < W; k++) l[k] = exp_fast(l[k] - max) * scale;
            store(x + v * W, l);
        }
        if (last < V) store(x + last, Floats<1>{{exp_fast(last_logit - max) * scale}});
        for (int i = V + thread; i < Vp; i += blockDim.x) store(x + i, Floats<1>{});
        // The thread that has stored the target's column corrects it: exp / total - 1 = (exp - total) / total.
        if (thread == (target < full * W ? target / W % int(blockDim.x) : target - full * W))
            store(x + target, Floats<1>{{(exp_fast(target_logit - max) - total) * scale}});
    }
    if (thread == 0) losses[blockIdx.x] = float(log(double(total)) + double(max) - double(target_logit)) * factor;
}

template <class T>
static void cross_entropy(Tensor losses, Tensor logits, Tensor targets, Tensor scales, int64_t V, float grad_scale,
                          Queue& q) {
    q.expect_ids(targets, target_rule(targets, V));
    const int64_t N = logits.shape[0], Vp = logits.shape[1];
    for_width<T>(Vp % wide<T> == 0 && aligned(logits.ptr), [&](auto width) {
        const int threads  = int(std::clamp<int64_t>(round_up(Vp / width, 32), 32, row_threads));
        const int64_t room = (int64_t(q.limits.sharedMemPerBlockOptin) - 1024) / 16;
        const int64_t kept = width == 1 ? 0 : std::min(V / width, room);
        launch(cross_entropy_kernel<width, T>, {N, threads, kept * 16}, q, logits.data<T>(), losses.data<float>(),
               targets.data<int32_t>(), scales ? scales.data<float>() : nullptr, int(V), int(Vp), grad_scale, int(kept),
               q.bad);
    });
}

}  // namespace gpu
#endif

void cross_entropy(Tensor losses, Tensor logits, Tensor targets, Tensor scales, int64_t V, float grad_scale, Stream s) {
    CHECK_CALL(logits && logits.shape.dims == 2, "cross_entropy: logits is {}, expected (N, Vp)", logits.str());
    CHECK_CALL(V >= 1 && V <= logits.shape[1], "cross_entropy: V is {}, expected 1..{} because logits is {}", V,
               logits.shape[1], logits.str());
    expect(losses, Shape({logits.shape[0]}), DType::F32, logits);
    expect(targets, Shape({logits.shape[0]}), DType::I32, logits);
    if (scales) expect(scales, Shape({logits.shape[0]}), DType::F32, logits);
    RUN_ON(s, logits.dtype, cross_entropy, losses, logits, targets, scales, V, grad_scale);
}

// The logits are read, a target and a loss are 8 bytes a row, and the gradient overwrites the logits.
Cost cross_entropy_loss_cost(int64_t N, int64_t Vp, DType x) { return {double(N * Vp * size_of(x)) + 8. * double(N)}; }
Cost cross_entropy_cost(int64_t N, int64_t Vp, DType x) {
    return cross_entropy_loss_cost(N, Vp, x) + Cost{double(N * Vp * size_of(x))};
}
