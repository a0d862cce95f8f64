// add.cu - out = a + b, the residual stream's step
//
//   out, a, b have one shape, which may be any; out may be a or b. The sum is taken in float and rounded once to the
//   tensor's dtype.
#include "cpu.h"
#include "ops.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

namespace cpu {

template <class T>
static void add_forward(Tensor out, Tensor a, Tensor b) {
    T* sums        = out.data<T>();
    const T* left  = a.data<T>();
    const T* right = b.data<T>();
    parallel_lanes(a.numel(), [=](int64_t i, auto n) { store(sums + i, load(left + i, n) + load(right + i, n), n); });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// Each thread moves 16 bytes. The op only moves memory, so wide accesses are the whole optimisation.
template <int W, class T>
static __global__ void add_kernel(T* out, const T* a, const T* b, int64_t n) {
    for_grid<W>(n, [=](int64_t i, auto width) {
        Floats<width> x = load<width>(a + i), y = load<width>(b + i);
        for (int k = 0; k < width; k++) x[k] += y[k];
        store(out + i, x);
    });
}

template <class T>
static void add_forward(Tensor out, Tensor a, Tensor b, Queue& q) {
    T* sums        = out.data<T>();
    const T* left  = a.data<T>();
    const T* right = b.data<T>();
    for_width<T>(aligned(sums, left, right), [&](auto width) {
        launch(add_kernel<width, T>, grid_over(out.numel(), width), q, sums, left, right, out.numel());
    });
}

}  // namespace gpu
#endif

void add_forward(Tensor out, Tensor a, Tensor b, Stream s) {
    expect_there(a);
    expect(b, a.shape, a.dtype, a);
    expect(out, a.shape, a.dtype, a);
    RUN_ON(s, a.dtype, add_forward, out, a, b);
}

Cost add_forward_cost(int64_t numel, DType x) { return {3. * double(numel * size_of(x))}; }
