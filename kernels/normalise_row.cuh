// normalise_row.cuh - the layernorm of one row by one warp of a GPU
#pragma once
#include "gpu.cuh"

namespace gpu {

struct MeanAndRstd {
    float mean, rstd;
};

// A warp takes a row of C elements from a copy in shared memory, so that memory is read once. Every lane reads only
// what it wrote itself, so no barrier is needed.

// Returns the row's mean and 1/deviation in all lanes.
template <int W, class T>
static __device__ MeanAndRstd mean_and_rstd(const T* row, float eps, int C) {
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
    return {m, 1.f / sqrtf(warp_sum(squares) / float(C) + eps)};
}

// Scales and shifts the columns of the normalised row, and writes it to y, which may be the same.
template <int W, class T>
static __device__ void scale_and_shift(T* y, const T* row, const MeanAndRstd& of_row, const T* w, const T* b, int C) {
    for (int i = threadIdx.x % 32 * W; i < C; i += 32 * W) {
        Floats<W> x           = load<W>(row + i);
        const Floats<W> scale = load<W>(w + i), shift = load<W>(b + i);
        for (int k = 0; k < W; k++) x[k] = (x[k] - of_row.mean) * of_row.rstd * scale[k] + shift[k];
        store(y + i, x);
    }
}

}  // namespace gpu
