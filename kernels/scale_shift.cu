// scale_shift.cu - x = x · scale + shift, with one factor and one summand for each column
//
//   Generation is steered with it: a factor of 0 and a summand of v set a column to v, and factors of 1 add a direction
//   to every row. A column with factor 1 and summand 0 keeps its value.
#include "cpu.h"
#include "ops.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

namespace cpu {

template <class T>
static void scale_shift(Tensor x, Tensor scale, Tensor shift) {
    const int64_t C       = x.shape[1];
    T* rows               = x.data<T>();
    const float* factors  = scale.data<float>();
    const float* summands = shift.data<float>();
    parallel_ranges(x.shape[0], 16, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; n++)
            for_lanes(C, [=, row = rows + n * C](int64_t c, auto k) {
                store(row + c, load(row + c, k) * load(factors + c, k) + load(summands + c, k), k);
            });
    });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// A thread has one element. Generation calls this for one row or a few, so wider loads would gain nothing.
template <class T>
static __global__ void scale_shift_kernel(T* x, const float* scale, const float* shift, int64_t n, int64_t C) {
    for_grid<1>(n, [=](int64_t i, auto) { x[i] = T(float(x[i]) * scale[i % C] + shift[i % C]); });
}

template <class T>
static void scale_shift(Tensor x, Tensor scale, Tensor shift, Queue& q) {
    launch(scale_shift_kernel<T>, grid_over(x.numel(), 1), q, x.data<T>(), scale.data<float>(), shift.data<float>(),
           x.numel(), x.shape[1]);
}

}  // namespace gpu
#endif

void scale_shift(Tensor x, Tensor scale, Tensor shift, Stream s) {
    expect_there(x);
    const Shape column{x.shape[1]};
    expect(scale, column, DType::F32, x);
    expect(shift, column, DType::F32, x);
    RUN_ON(s, x.dtype, scale_shift, x, scale, shift);
}

Cost scale_shift_cost(int64_t N, int64_t C, DType x) { return {double(C) * (2. * double(N * size_of(x)) + 8)}; }
