// rounding.h - rounding of fp32 master weights to bf16 up or down at random, for the ops that update weights
//
//   The probability of rounding up is the fraction that truncation would drop, so that the mean is the master.
//   Element i of a weight takes the upper half of word i mod 4 of Philox block i / 4 of (key, step). So it is the same
//   for any number of threads, on both machines and in every process.
#pragma once
#include <algorithm>

#include "cpu.h"
#include "philox.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

HD Philox rounding_bits(uint64_t key, uint32_t step, int64_t block) {
    return philox({{uint32_t(block), uint32_t(block >> 32), step, 0}}, uint32_t(key), uint32_t(key >> 32));
}
// Adds 16 random bits below the last place that is kept, then drops them. A value that is not finite stays as it is.
HD bf16 up_or_down(float x, uint32_t random) {
    union {
        float f;
        uint32_t u;
    } bits{x};
    if ((bits.u & 0x7f800000u) == 0x7f800000u) return bf16(x);
    bf16 rounded;
    rounded.bits = uint16_t((bits.u + (random >> 16)) >> 16);
    return rounded;
}

namespace cpu {

// Rounds `count` lanes and stores them at elements i, i + 1, …; i is a multiple of 4.
template <class Count>
void store_at_random(bf16* w, floats x, int64_t i, Count count, uint64_t key, uint32_t step) {
    for (int64_t j = 0; j < count; j += 4) {
        const Philox bits = rounding_bits(key, step, (i + j) / 4);
        for (int64_t k = j; k < std::min<int64_t>(j + 4, count); k++) w[i + k] = up_or_down(x[k], bits.word[k - j]);
    }
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// Rounds element i, or elements i to i + 3, which use one block of random numbers. The loop tests every word, because a
// dynamic index would spill the array of words to local memory.
template <int W>
__device__ Floats<W> at_random(Floats<W> x, int64_t i, uint64_t key, uint32_t step) {
    const Philox bits = rounding_bits(key, step, i / 4);
    for (int k = 0; k < 4; k++)
        if (W == 4 || i % 4 == k) x[k % W] = float(up_or_down(x[k % W], bits.word[k]));
    return x;
}

}  // namespace gpu
#endif
