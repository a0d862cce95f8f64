// dropout.cu - sets elements to 0 at random and scales the others, so that the expected value stays
//
//   out = x / (1 - rate) where the mask of dropout.h keeps an element, else 0; out may be x
#include "cpu.h"
#include "dropout.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

namespace cpu {

template <class T>
static void dropout(Tensor out, Tensor x, const Dropout& d) {
    const T* in         = x.data<T>();
    T* result           = out.data<T>();
    const uint32_t step = uint32_t(*d.step.data<int32_t>()), threshold = d.threshold(), place = d.place;
    const uint64_t key = d.key, first = uint64_t(d.first * x.shape[1]);
    const float scale = d.scale();
    parallel_ranges(x.numel(), 4096, [=](int64_t begin, int64_t end) {
        Philox block{};
        for (int64_t i = begin; i < end; i++) {
            const uint64_t element = first + uint64_t(i);
            if (i == begin || element % 8 == 0) block = dropout_block(key, step, place, element / 8);
            result[i] = T(dropout_keeps(block, element, threshold) ? float(in[i]) * scale : 0.f);
        }
    });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// A thread has W consecutive elements, which share one block of random numbers where `first` is a multiple of W.
template <int W, class T>
static __global__ void dropout_kernel(T* out, const T* x, const int32_t* step_at, uint64_t key, uint32_t place,
                                      uint64_t first, uint32_t threshold, float scale, int64_t n) {
    const uint32_t step = uint32_t(*step_at);
    for_grid<W>(n, [=](int64_t i, auto width) {
        Floats<width> v = load<width>(x + i);
        Philox block;
        for (int k = 0; k < width; k++) {
            const uint64_t element = first + uint64_t(i) + k;
            if (k == 0 || element % 8 == 0) block = dropout_block(key, step, place, element / 8);
            v[k] = dropout_keeps(block, element, threshold) ? v[k] * scale : 0.f;
        }
        store(out + i, v);
    });
}

template <class T>
static void dropout(Tensor out, Tensor x, const Dropout& d, Queue& q) {
    const int64_t first = d.first * x.shape[1];
    for_width<T>(first % wide<T> == 0 && aligned(out.ptr, x.ptr), [&](auto width) {
        launch(dropout_kernel<width, T>, grid_over(x.numel(), width), q, out.data<T>(), x.data<T>(),
               d.step.data<int32_t>(), d.key, d.place, uint64_t(first), d.threshold(), d.scale(), x.numel());
    });
}

}  // namespace gpu
#endif

void dropout(Tensor out, Tensor x, const Dropout& d, Stream s) {
    CHECK_CALL(x && x.shape.dims == 2, "dropout: x is {}, expected (N, C)", x.str());
    expect(out, x.shape, x.dtype, x);
    expect(d.step, Shape({1}), DType::I32, x);
    d.check("dropout");
    RUN_ON(s, x.dtype, dropout, out, x, d);
}
