// cross_entropy.cu - logits to losses, and to their own gradient in place
//
//   loss_n  = log Σ_{v<V} exp(l_nv - max_n) + max_n - l_n,target
//   l_nv    = grad_scale (exp(l_nv - max_n) / Σ - [v = target]), 0 for V <= v < Vp; only when grad_scale ≠ 0
//
//   losses (N) fp32, logits (N,Vp), targets (N) int32; a target of -1 counts for nothing: loss 0, gradient 0. A row
//   that holds a NaN has a NaN loss and gradient.
//
//   A row is read more than once but comes from memory once: 50304 columns take 200 KB at most, which second-level
//   caches hold. The exponentials are kept in a row of floats, so each is taken once and rounded only as a gradient.
#include <vector>

#include "cpu.h"
#include "ops.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

static std::string wrong_target(const char* op, int64_t at, int64_t, int64_t id, int64_t V) {
    return fmt::format("{}: target {} is {}, expected -1 or 0..{}", op, at, id, V - 1);
}

namespace cpu {

template <class T>
static float row_max(const T* x, int64_t V) {
    floats a = broadcast(-INFINITY), b = a;
    const int64_t half = V / (2 * lanes) * lanes;  // two running maxima overlap
    for (int64_t i = 0; i < half; i += lanes) {
        a = max(a, load(x + i));
        b = max(b, load(x + half + i));
    }
    for_lanes(V - 2 * half, [&](int64_t i, auto n) { a = max(a, load(x + 2 * half + i, n, -INFINITY)); });
    return max(max(a, b));
}

// exps receives exp(x - top), unless it is null; returns their sum.
template <class T>
static float row_exps(float* exps, const T* x, float top, int64_t V) {
    return sum_lanes(V, [=](int64_t i, auto n) {
        const floats e = exp(load(x + i, n) - top);
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
    for (int64_t n = 0; n < N; n++)
        CHECK(target[n] >= -1 && target[n] < V, "{}", wrong_target("cross_entropy", n, 1, target[n], V));
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
            const float top = row_max(x, V), total = row_exps(grad ? exps.data() : nullptr, x, top, V);
            loss[n] = float(std::log(double(total)) + double(top) - double(float(x[target[n]])));
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

// The sum of exp(x - top) over what was seen so far, top its largest x. While nothing but -∞ was seen, top is -∞ and
// the sum is relative to 0, so that -∞ - -∞ does not arise; a NaN makes the sum NaN.
struct Exps {
    float top = -INFINITY, sum = 0;
    template <int W>
    __device__ void add(const Floats<W>& x) {
        float most = top;
        for (int k = 0; k < W; k++) most = fmaxf(most, x[k]);
        const float base = most == -INFINITY ? 0.f : most;
        sum *= expf(top - base);
        for (int k = 0; k < W; k++) sum += expf(x[k] - base);
        top = most;
    }
    __device__ void add(const Exps& o) {
        const float most = fmaxf(top, o.top), base = most == -INFINITY ? 0.f : most;
        sum = sum * expf(top - base) + o.sum * expf(o.top - base);
        top = most;
    }
    __device__ Exps from_lane(int distance) const {
        Exps o;
        o.top = __shfl_xor_sync(~0u, top, distance);
        o.sum = __shfl_xor_sync(~0u, sum, distance);
        return o;
    }
};

// A block per row. The row is kept in shared memory where it fits (50304 columns of bf16 are 98 KB; an H100's block may
// have 227), so logits are read once and written once; where it does not, `row` is the row itself and comes from the
// cache again.
template <int W, class T>
static __global__ void __launch_bounds__(1024)
    cross_entropy_kernel(T* logits, float* losses, const int32_t* targets, int64_t V, int64_t Vp, float grad_scale,
                         bool keep, const BadId* bad) {
    extern __shared__ uint4 memory[];
    __shared__ float tops[32], sums[32];
    if (!ready(bad)) return;
    T* const x       = logits + blockIdx.x * Vp;
    T* const row     = keep ? reinterpret_cast<T*>(memory) : x;
    const int target = targets[blockIdx.x], lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const auto each = [&](auto f) {
        for (int64_t i = threadIdx.x * W; i < Vp; i += blockDim.x * W) f(i);
    };
    if (target < 0) {
        if (threadIdx.x == 0) losses[blockIdx.x] = 0;
        if (grad_scale != 0) each([&](int64_t i) { store(x + i, Floats<W>{}); });
        return;
    }
    const float at_target = threadIdx.x == 0 ? load<1>(x + target)[0] : 0.f;
    Exps exps;
    each([&](int64_t i) {
        Floats<W> v = load<W>(x + i);
        if (keep) store(row + i, v);
        for (int k = 0; k < W; k++)
            if (i + k >= V) v[k] = -INFINITY;  // padding takes no part
        exps.add(v);
    });
    for (int w = 16; w; w /= 2) exps.add(exps.from_lane(w));
    if (lane == 0) tops[threadIdx.x / 32] = exps.top, sums[threadIdx.x / 32] = exps.sum;
    __syncthreads();
    exps = lane < warps ? Exps{tops[lane], sums[lane]} : Exps();
    for (int w = 16; w; w /= 2) exps.add(exps.from_lane(w));

    const float top = exps.top, total = exps.sum;
    if (threadIdx.x == 0) losses[blockIdx.x] = float(log(double(total)) + double(top) - double(at_target));
    if (grad_scale == 0) return;
    const float scale = grad_scale / total;
    each([&](int64_t i) {
        Floats<W> v = load<W>(row + i);
        for (int k = 0; k < W; k++) {
            const float e = expf(v[k] - top);
            const float d = i + k == target ? e - total : e;  // exp / total - 1 = (exp - total) / total
            v[k]          = i + k < V ? d * scale : 0.f;
        }
        store(x + i, v);
    });
}

template <class T>
static void cross_entropy(Tensor losses, Tensor logits, Tensor targets, int64_t V, float grad_scale, Queue& q) {
    q.expect_ids(targets, -1, {wrong_target, "cross_entropy", 1, V, __FILE__, __LINE__});
    const int64_t N = logits.shape[0], Vp = logits.shape[1], row_bytes = ceil_div(Vp * int64_t(sizeof(T)), 16) * 16;
    const bool keep = grad_scale != 0 && row_bytes + 1024 <= int64_t(q.limits.sharedMemPerBlockOptin);
    for_width<T>(Vp % wide<T> == 0 && aligned(logits.ptr), [&](auto width) {
        const int threads = int(std::clamp<int64_t>(ceil_div(Vp / width, 32) * 32, 32, 1024));
        launch(cross_entropy_kernel<width, T>, {N, threads, keep ? row_bytes : 0}, q, logits.data<T>(),
               losses.data<float>(), targets.data<int32_t>(), V, Vp, grad_scale, keep, q.bad);
    });
}

}  // namespace gpu
#endif

void cross_entropy(Tensor losses, Tensor logits, Tensor targets, int64_t V, float grad_scale, Stream s) {
    CHECK(logits && logits.shape.dims == 2, "cross_entropy: logits is {}, expected (N, Vp)", logits.str());
    CHECK(V >= 1 && V <= logits.shape[1], "cross_entropy: V is {}, expected 1..{} because logits is {}", V,
          logits.shape[1], logits.str());
    expect(losses, Shape({logits.shape[0]}), DType::F32, logits);
    expect(targets, Shape({logits.shape[0]}), DType::I32, logits);
    RUN_ON(s, logits.dtype, cross_entropy, losses, logits, targets, V, grad_scale);
}
