// update.h - what the ops that update weights share: clipping, skipping a bad step, and rounding masters to weights
//
//   A bf16 weight is its fp32 master rounded to nearest or, when the weight has a key, up or down at random. The
//   probability of rounding up is then the fraction that truncation would drop, so that the mean is the master.
//   Element i of a weight takes the upper half of word i mod 4 of Philox block i / 4 of (key, step). So it is the same
//   for any number of threads, on both machines and in every process.
#pragma once
#include <algorithm>

#include "cpu.h"
#include "ops.h"
#include "philox.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

// Returns the factor min(1, clip / norm) of all gradients, or 1 when clip is 0. When the norm or the loss is not finite
// it is negative, and nothing may change.
HD float clip_factor(float norm2, const float* loss, float clip) {
    const bool finite = norm2 - norm2 == 0.f && (!loss || *loss - *loss == 0.f);  // inf - inf and NaN are not 0
    if (!finite) return -1.f;
    const float norm = sqrtf(norm2);
    return clip > 0 && norm > clip ? clip / norm : 1.f;
}

// Weights whose state is in host memory pass through this many buffers there, each with room for so many weights and
// their gradients (adamw_offloaded.cuh).
struct Staging {
    static constexpr int64_t slots = 3, weights = int64_t(1) << 22;
    static constexpr int64_t slot_bytes = weights * 2 * int64_t(sizeof(float)) + 4096;  // 32 MiB
};

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

// Rounds `count` lanes and stores them at elements i, i + 1, …, which are elements from `first` + i on of the weight.
// Both are multiples of 4.
template <class Count>
void store_at_random(bf16* w, floats x, int64_t i, Count count, const Rounding& r, uint32_t step) {
    for (int64_t j = 0; j < count; j += 4) {
        const Philox bits = rounding_bits(r.key, step, (r.first + i + j) / 4);
        for (int64_t k = j; k < std::min<int64_t>(j + 4, count); k++) w[i + k] = up_or_down(x[k], bits.word[k - j]);
    }
}

// Stores `count` masters at elements i, i + 1, … of `to`, and rounded at those of w, which may be the same memory in
// fp32.
template <class T, class Count>
void store_weights(T* w, float* to, floats masters, int64_t i, Count count, const Rounding& r, uint32_t step) {
    store(to + i, masters, count);
    if constexpr (std::is_same_v<T, bf16>)
        if (r.key) return store_at_random(w, masters, i, count, r, step);
    store(w + i, masters, count);
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// Rounds element i, or elements i to i + 3, which use one block of random numbers. The loop tests every word, because a
// dynamic index would spill the array of words to local memory.
template <int W>
__device__ Floats<W> at_random(Floats<W> x, int64_t i, const Rounding& r, uint32_t step) {
    const Philox bits = rounding_bits(r.key, step, (r.first + i) / 4);
    for (int k = 0; k < 4; k++)
        if (W == 4 || i % 4 == k) x[k % W] = float(up_or_down(x[k % W], bits.word[k]));
    return x;
}

// The same for W masters.
template <int W, class T>
__device__ void store_weights(T* w, float* to, Floats<W> masters, int64_t i, const Rounding& r, uint32_t step) {
    store(to + i, masters);
    if constexpr (std::is_same_v<T, bf16>) {
        if (r.key) masters = at_random(masters, i, r, step);
        store(w + i, masters);
    } else if (w != to) {
        store(w + i, masters);
    }
}

}  // namespace gpu
#endif
