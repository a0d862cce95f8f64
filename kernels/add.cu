// add.cu - out = a + b, the residual stream's step
//
//   out, a, b have one shape, which may be any; out may be a or b. The sum is taken in float and rounded once to the
//   tensor's dtype. In training, elements of b are dropped first (dropout.h).
#include "cpu.h"
#include "dropout.h"
#include "ops.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

namespace cpu {

template <class T>
static void add_forward(Tensor out, Tensor a, Tensor b, const ElementMask& drop) {
    T* sums        = out.data<T>();
    const T* left  = a.data<T>();
    const T* right = b.data<T>();
    if (!drop.step_at)
        return parallel_lanes(a.numel(),
                              [=](int64_t i, auto n) { store(sums + i, load(left + i, n) + load(right + i, n), n); });
    const ElementMask mask = drop.of_step();
    parallel_ranges(a.numel(), 4096, [=](int64_t begin, int64_t end) {
        T kept[256];
        for (int64_t first = begin; first < end; first += 256) {
            const int64_t length = std::min<int64_t>(256, end - first);
            mask.apply(kept, right + first, first, length);
            for_lanes(length, [&](int64_t i, auto n) {
                store(sums + first + i, load(left + first + i, n) + load(kept + i, n), n);
            });
        }
    });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// Each thread moves 16 bytes. The op only moves memory, so wide accesses are the whole optimisation.
template <int W, bool drops, class T>
static __global__ void add_kernel(T* out, const T* a, const T* b, int64_t n, ElementMask drop) {
    if constexpr (drops) drop = drop.of_step();
    for_grid<W>(n, [=](int64_t i, auto width) {
        Floats<width> x = load<width>(a + i), y = load<width>(b + i);
        if constexpr (drops) y = rounded<T>(drop.apply<width>(y, i));
        for (int k = 0; k < width; k++) x[k] += y[k];
        store(out + i, x);
    });
}

template <class T>
static void add_forward(Tensor out, Tensor a, Tensor b, const ElementMask& drop, Queue& q) {
    T* sums        = out.data<T>();
    const T* left  = a.data<T>();
    const T* right = b.data<T>();
    for_width<T>(aligned(sums, left, right) && drop.first % wide<T> == 0, [&](auto width) {
        for_dropout(drop.step_at, [&](auto drops) {
            launch(add_kernel<width, drops, T>, grid_over(out.numel(), width), q, sums, left, right, out.numel(), drop);
        });
    });
}

}  // namespace gpu
#endif

void add_forward(Tensor out, Tensor a, Tensor b, Stream s, const Dropout& drop) {
    expect_there(a);
    expect(b, a.shape, a.dtype, a);
    expect(out, a.shape, a.dtype, a);
    const ElementMask mask = element_mask(__func__, drop, a);
    RUN_ON(s, a.dtype, add_forward, out, a, b, mask);
}

Cost add_forward_cost(int64_t numel, DType x) { return {3. * double(numel * size_of(x))}; }
