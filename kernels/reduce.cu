// reduce.cu - the sum of a tensor: Σ x² for the gradient norm, Σ x for the loss
//
//   Chunks of 4096 elements are summed in the lanes of float vectors, and the sums of chunks are added in double, from
//   first to last. The chunks are the same for any number of threads, so the result is too. A NaN or an infinity
//   anywhere, or a square beyond float's range, makes the result non-finite. The optimizer then skips the step.
#include <vector>

#include "cpu.h"
#include "ops.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

namespace cpu {

constexpr int64_t chunk = 4096;

// Returns Σ term(x_i).
template <class F>
static double sum_of(const float* x, int64_t numel, F term) {
    std::vector<double> sums(ceil_div(numel, chunk));
    double* out = sums.data();
    parallel_ranges(int64_t(sums.size()), 16, [=](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; c++) {
            const float* first   = x + c * chunk;
            const int64_t length = std::min(chunk, numel - c * chunk);
            out[c]               = sum_lanes(length, [=](int64_t i, auto n) { return term(load(first + i, n)); });
        }
    });
    double total = 0;
    for (double s : sums) total += s;
    return total;
}

static void squared_norm(Tensor out, Tensor x) {
    *out.data<float>() = float(sum_of(x.data<float>(), x.numel(), [](floats v) { return v * v; }));
}

static void sum(Tensor out, Tensor x, float scale) {
    *out.data<float>() += float(scale * sum_of(x.data<float>(), x.numel(), [](floats v) { return v; }));
}

}  // namespace cpu

// The number of blocks of a sum on a GPU. It depends on the number of elements alone.
constexpr int most_blocks = 1024;
static int64_t sum_blocks(int64_t numel) { return std::clamp<int64_t>(ceil_div(numel, 4096), 1, most_blocks); }

#ifdef __CUDACC__
namespace gpu {

struct Square {
    __device__ float operator()(float x) const { return x * x; }
};
struct Identity {
    __device__ float operator()(float x) const { return x; }
};

// out = or += scale · Σ term(x_i). At most 64 terms are added in float, and their sums in double. Each block writes one
// number to `sums`. The block that ends last adds these in their order, so that the host need not wait and there is no
// second launch. `ended` counts the blocks that have ended, and is 0 again after the last. In the machine code for
// sm_90 a thread issues three of its four loads before it uses the first, and the fourth after that. So the 2048
// threads of a multiprocessor have 64 KB in flight on average, and an H100 needs about 40 KB for its bandwidth.
template <int W, class F>
static __global__ void __launch_bounds__(256, 8)
    sum_kernel(float* out, double* sums, uint32_t* ended, const float* x, int64_t n, F term, double scale, Into into) {
    constexpr int at_once = 4, warps = 256 / 32;
    const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
    float sum[W] = {};
    double total = 0;
    int terms    = 0;  // that each of sum[] has
    for (int64_t i = thread; i < n / W; i += at_once * threads) {
        Floats<W> v[at_once];
        for (int u = 0; u < at_once; u++)
            v[u] = i + u * threads < n / W ? load<W>(x + (i + u * threads) * W) : Floats<W>{};
        for (int u = 0; u < at_once; u++)
            for (int k = 0; k < W; k++) sum[k] += term(v[u][k]);
        terms += at_once;
        if (terms < 64) continue;
        for (float& s : sum) {
            total += s;
            s = 0;
        }
        terms = 0;
    }
    if (thread < n % W) sum[0] += term(x[n - n % W + thread]);
    for (float s : sum) total += s;
    total = block_sum(total);

    if (threadIdx.x == 0) sums[blockIdx.x] = total;
    if (!is_last_of(gridDim.x, ended)) return;
    // Warps add 32 sums at a time, and then their results.
    __shared__ double of_32[most_blocks / 32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int group = warp; group < most_blocks / 32; group += warps) {
        const int block   = group * 32 + lane;
        const double part = warp_sum(block < int(gridDim.x) ? __ldcg(sums + block) : 0.);
        if (lane == 0) of_32[group] = part;
    }
    __syncthreads();
    if (warp != 0) return;
    total = warp_sum(of_32[lane]);
    if (lane == 0) *out = (into == Into::add ? *out : 0.f) + float(scale * total);
}

template <class F>
static void sum_into(Tensor out, Tensor x, double scale, Into into, F term, Queue& q) {
    static_assert(most_blocks == 32 * 32, "a warp adds the sums of 32 times 32 blocks");
    const float* in    = x.data<float>();
    const int64_t n    = x.numel();
    double* const sums = q.scratch<double>(sum_cost(n).scratch);
    for_width<float>(aligned(in), [&](auto width) {
        launch(sum_kernel<width, F>, {sum_blocks(n), 256}, q, out.data<float>(), sums, q.counters, in, n, term, scale,
               into);
    });
}

static void squared_norm(Tensor out, Tensor x, Queue& q) { sum_into(out, x, 1, Into::set, Square{}, q); }
static void sum(Tensor out, Tensor x, float scale, Queue& q) { sum_into(out, x, scale, Into::add, Identity{}, q); }

}  // namespace gpu
#endif

void squared_norm(Tensor out, Tensor x, Stream s) {
    expect_dtype(x, DType::F32);
    expect(out, Shape({1}), DType::F32, x);
    RUN_UNTYPED(s, squared_norm, out, x);
}

void sum(Tensor out, Tensor x, float scale, Stream s) {
    expect_dtype(x, DType::F32);
    expect(out, Shape({1}), DType::F32, x);
    RUN_UNTYPED(s, sum, out, x, scale);
}

Cost sum_cost(int64_t numel) {
    Cost cost{4. * double(numel)};
    cost.scratch = sum_blocks(numel) * int64_t(sizeof(double));  // the sum of each block
    return cost;
}
