// dropout.cu - sets elements to 0 at random and scales the others, so that the expected value stays
//
//   out = x / (1 - rate) where the mask of dropout.h keeps an element, else 0; out may be x
#include "cpu.h"
#include "dropout.h"
#include "ops.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

namespace cpu {

template <class T>
static void dropout(Tensor out, Tensor x, const ElementMask& drop) {
    const T* in            = x.data<T>();
    T* result              = out.data<T>();
    const ElementMask mask = drop.of_step();
    parallel_ranges(x.numel(), 4096,
                    [=](int64_t begin, int64_t end) { mask.apply(result + begin, in + begin, begin, end - begin); });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// A thread has W consecutive elements, which share one block of random numbers where `first` is a multiple of W.
template <int W, class T>
static __global__ void dropout_kernel(T* out, const T* x, ElementMask drop, int64_t n) {
    const ElementMask mask = drop.of_step();
    for_grid<W>(n, [=](int64_t i, auto width) { store(out + i, mask.apply<width>(load<width>(x + i), i)); });
}

template <class T>
static void dropout(Tensor out, Tensor x, const ElementMask& drop, Queue& q) {
    for_width<T>(drop.first % wide<T> == 0 && aligned(out.ptr, x.ptr), [&](auto width) {
        launch(dropout_kernel<width, T>, grid_over(x.numel(), width), q, out.data<T>(), x.data<T>(), drop, x.numel());
    });
}

}  // namespace gpu
#endif

void dropout(Tensor out, Tensor x, const Dropout& drop, Stream s) {
    CHECK_CALL(x && x.shape.dims == 2, "dropout: x is {}, expected (N, C)", x.str());
    expect(out, x.shape, x.dtype, x);
    drop.check("dropout");
    expect(drop.step, Shape({1}), DType::I32, x);
    const ElementMask mask(drop, x);
    RUN_ON(s, x.dtype, dropout, out, x, mask);
}

Cost dropout_cost(int64_t numel, DType x) { return {2. * double(numel * size_of(x))}; }
