// cross_entropy.cu - losses of logits, and the gradient of the logits in their place
//
//   loss_n  = log Σ_{v<V} exp(l_nv - max_n) + max_n - l_n,target
//   l_nv    = grad_scale (exp(l_nv - max_n) / Σ - [v = target]), and 0 for V <= v < Vp; only if grad_scale ≠ 0
//
//   losses (N) fp32, logits (N,Vp), targets (N) int32. A target of -1 means that a row has none: its loss and gradient
//   are 0. A row that holds a NaN has a NaN loss and gradient.
//
//   A row is read more than once, but from memory only once: 50304 columns take at most 200 KB, which second-level
//   caches hold. The CPU keeps the exponentials in a row of floats, so each is computed once and rounded only as a
//   gradient.
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
static void cross_entropy(Tensor losses, Tensor logits, Tensor targets, int64_t V, float grad_scale) {
    const int64_t N = logits.shape[0], Vp = logits.shape[1];
    T* all                = logits.data<T>();
    float* loss           = losses.data<float>();
    const int32_t* target = targets.data<int32_t>();
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
            if (!grad) continue;
            const float scale = grad_scale / total;
            exps[target[n]] -= total;  // exp / total - 1 = (exp - total) / total
            for_lanes(V, [&](int64_t i, auto k) { store(x + i, load(exps.data() + i, k) * scale, k); });
            std::fill(x + V, x + Vp, T(0.f));
        }
    });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// The largest of the numbers added so far, and Σ exp(x - max) over them. As long as all of them are -∞, the sum is
// Σ exp(x - 0) instead, because -∞ - -∞ is NaN. A NaN makes the sum NaN.
struct ExpSum {
    float max = -INFINITY, sum = 0;
    template <int W>
    __device__ void add(const Floats<W>& x) {
        float new_max = max;
        for (int k = 0; k < W; k++) new_max = fmaxf(new_max, x[k]);
        const float shift = new_max == -INFINITY ? 0.f : new_max;
        sum *= expf(max - shift);
        for (int k = 0; k < W; k++) sum += expf(x[k] - shift);
        max = new_max;
    }
    __device__ void add(const ExpSum& o) {
        const float new_max = fmaxf(max, o.max), shift = new_max == -INFINITY ? 0.f : new_max;
        sum = sum * expf(max - shift) + o.sum * expf(o.max - shift);
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

// Each block computes one row. If the row fits into shared memory, it is kept there, so that logits are read once and
// written once: 50304 columns of bf16 are 98 KB, and a block on an H100 may have 227 KB. If not, it is read from the
// cache again.
template <int W, class T>
static __global__ void __launch_bounds__(1024)
    cross_entropy_kernel(T* logits, float* losses, const int32_t* targets, int64_t V, int64_t Vp, float grad_scale,
                         bool keep, const BadId* bad) {
    extern __shared__ uint4 memory[];
    __shared__ float maxs[32], sums[32];  // one per warp
    if (!ready(bad)) return;
    T* const x       = logits + blockIdx.x * Vp;
    T* const row     = keep ? reinterpret_cast<T*>(memory) : x;
    const int target = targets[blockIdx.x], lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const auto each_vector = [&](auto f) {
        for (int64_t i = threadIdx.x * W; i < Vp; i += blockDim.x * W) f(i);
    };
    if (target < 0) {
        if (threadIdx.x == 0) losses[blockIdx.x] = 0;
        if (grad_scale != 0) each_vector([&](int64_t i) { store(x + i, Floats<W>{}); });
        return;
    }
    const float target_logit = threadIdx.x == 0 ? load<1>(x + target)[0] : 0.f;
    ExpSum exps;
    each_vector([&](int64_t i) {
        Floats<W> v = load<W>(x + i);
        if (keep) store(row + i, v);
        for (int k = 0; k < W; k++)
            if (i + k >= V) v[k] = -INFINITY;  // the padding adds nothing
        exps.add(v);
    });
    exps.add_over_warp();
    if (lane == 0) {
        maxs[threadIdx.x / 32] = exps.max;
        sums[threadIdx.x / 32] = exps.sum;
    }
    __syncthreads();
    exps = lane < warps ? ExpSum{maxs[lane], sums[lane]} : ExpSum();
    exps.add_over_warp();

    const float x_max = exps.max, total = exps.sum;
    if (threadIdx.x == 0) losses[blockIdx.x] = float(log(double(total)) + double(x_max) - double(target_logit));
    if (grad_scale == 0) return;
    const float scale = grad_scale / total;
    each_vector([&](int64_t i) {
        Floats<W> v = load<W>(row + i);
        for (int k = 0; k < W; k++) {
            const float e = expf(v[k] - x_max);
            const float d = i + k == target ? e - total : e;  // exp / total - 1 = (exp - total) / total
            v[k]          = i + k < V ? d * scale : 0.f;
        }
        store(x + i, v);
    });
}

template <class T>
static void cross_entropy(Tensor losses, Tensor logits, Tensor targets, int64_t V, float grad_scale, Queue& q) {
    q.expect_ids(targets, target_rule(targets, V));
    const int64_t N = logits.shape[0], Vp = logits.shape[1], row_bytes = round_up(Vp * int64_t(sizeof(T)), 16);
    const bool keep = grad_scale != 0 && row_bytes + 1024 <= int64_t(q.limits.sharedMemPerBlockOptin);
    for_width<T>(Vp % wide<T> == 0 && aligned(logits.ptr), [&](auto width) {
        const int threads = int(std::clamp<int64_t>(round_up(Vp / width, 32), 32, 1024));
        launch(cross_entropy_kernel<width, T>, {N, threads, keep ? row_bytes : 0}, q, logits.data<T>(),
               losses.data<float>(), targets.data<int32_t>(), V, Vp, grad_scale, keep, q.bad);
    });
}

}  // namespace gpu
#endif

void cross_entropy(Tensor losses, Tensor logits, Tensor targets, int64_t V, float grad_scale, Stream s) {
    CHECK_CALL(logits && logits.shape.dims == 2, "cross_entropy: logits is {}, expected (N, Vp)", logits.str());
    CHECK_CALL(V >= 1 && V <= logits.shape[1], "cross_entropy: V is {}, expected 1..{} because logits is {}", V,
               logits.shape[1], logits.str());
    expect(losses, Shape({logits.shape[0]}), DType::F32, logits);
    expect(targets, Shape({logits.shape[0]}), DType::I32, logits);
    RUN_ON(s, logits.dtype, cross_entropy, losses, logits, targets, V, grad_scale);
}

// The logits are read, a target and a loss are 8 bytes a row, and the gradient overwrites the logits.
Cost cross_entropy_loss_cost(int64_t N, int64_t Vp, DType x) { return {double(N * Vp * size_of(x)) + 8. * double(N)}; }
Cost cross_entropy_cost(int64_t N, int64_t Vp, DType x) {
    return cross_entropy_loss_cost(N, Vp, x) + Cost{double(N * Vp * size_of(x))};
}
