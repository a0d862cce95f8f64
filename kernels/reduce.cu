// reduce.cu - a tensor to one number: Σ x² for the gradient norm, Σ x for the loss
//
//   Runs of 4096 elements are summed in float lanes, 64 terms to a lane, and the runs in double, first to last. The
//   runs are the same for any number of threads, so the result is too. A NaN or an infinity anywhere, or a square
//   beyond float's range, makes the result non-finite: that is how a bad step is seen.
#include <vector>

#include "cpu.h"
#include "ops.h"

namespace cpu {

constexpr int64_t run = 4096;

template <class F>
static double sum_runs(const float* x, int64_t numel, F term) {
    std::vector<double> sums((numel + run - 1) / run);
    double* out = sums.data();
    parallel_ranges(int64_t(sums.size()), 16, [=](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++) {
            const float* first = x + r * run;
            out[r] =
                sum_lanes(std::min(run, numel - r * run), [=](int64_t i, auto n) { return term(load(first + i, n)); });
        }
    });
    double total = 0;
    for (double s : sums) total += s;
    return total;
}

template <class T>
static void squared_norm(Tensor x, Tensor out) {
    *out.data<float>() = float(sum_runs(x.data<float>(), x.numel(), [](floats v) { return v * v; }));
}

template <class T>
static void sum(Tensor x, Tensor out, float scale) {
    *out.data<float>() += float(scale * sum_runs(x.data<float>(), x.numel(), [](floats v) { return v; }));
}

}  // namespace cpu

void squared_norm(Tensor out, Tensor x, Stream s) {
    expect(x, x.shape, DType::F32, x);
    expect(out, Shape({1}), DType::F32, x);
    RUN_ON(s, squared_norm, x, out);
}

void sum(Tensor out, Tensor x, float scale, Stream s) {
    expect(x, x.shape, DType::F32, x);
    expect(out, Shape({1}), DType::F32, x);
    RUN_ON(s, sum, x, out, scale);
}
