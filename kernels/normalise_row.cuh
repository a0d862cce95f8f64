// normalise_row.cuh - the layernorm of one row by one warp of a GPU
#pragma once
#include "gpu.cuh"

namespace gpu {

struct MeanAndRstd {
    float mean, rstd;
};

// Writes the layernorm of a row of C elements to y, and returns its mean and 1/deviation in all lanes. `row` is a copy
// in shared memory, so that memory is read once. y may be the same. Every lane reads only what it wrote itself, so no
// barrier is needed.
template <int W, class T>
static __device__ MeanAndRstd normalise_row(T* y, const T* row, const T* w, const T* b, float eps, int C) {
    const int lane = threadIdx.x % 32;
    float sum      = 0;
    for (int i = lane * W; i < C; i += 32 * W) {
        const Floats<W> x = load<W>(row + i);
        for (int k = 0; k < W; k++) sum += x[k];
    }
    const float m = warp_sum(sum) / float(C);
    float squares = 0;
    for (int i = lane * W; i < C; i += 32 * W) {
        const Floats<W> x = load<W>(row + i);
        for (int k = 0; k < W; k++) squares += (x[k] - m) * (x[k] - m);
    }
    const float r = 1.f / sqrtf(warp_sum(squares) / float(C) + eps);
    for (int i = lane * W; i < C; i += 32 * W) {
        Floats<W> x           = load<W>(row + i);
        const Floats<W> scale = load<W>(w + i), shift = load<W>(b + i);
        for (int k = 0; k < W; k++) x[k] = (x[k] - m) * r * scale[k] + shift[k];
        store(y + i, x);
    }
    return {m, r};
}

}  // namespace gpu
