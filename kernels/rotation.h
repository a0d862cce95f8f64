// rotation.h - the formulas of rotary embedding, for rope.cu and for attention over a cache
#pragma once
#include <cmath>

#include "ops.h"

// Returns φ / position, in radians.
inline double radians_per_position(int64_t pair, Rope rope) {
    return pow(double(rope.base), -2. * double(pair) / double(rope.dim));
}

// One pair on the GPU, and a vector of pairs on the CPU.
template <class F>
struct Pair {
    F a, b;
};
template <class F>
HD Pair<F> rotated(F a, F b, F cosine, F sine) {
    return {a * cosine - b * sine, b * cosine + a * sine};
}

namespace gpu {

constexpr int max_pairs = 128;  // heads up to 256 wide

// φ / position for each pair, in units of π: an argument of kernels.
struct Speeds {
    double of[max_pairs];
};
inline Speeds speeds_of(Rope r) {
    CHECK(r.dim / 2 <= max_pairs, "rope: rope.dim is {}, expected at most {} on a GPU", r.dim, 2 * max_pairs);
    Speeds speed{};
    for (int64_t i = 0; i < r.dim / 2; i++) speed.of[i] = radians_per_position(i, r) / 3.14159265358979323846;
    return speed;
}

#ifdef __CUDACC__
// Cosine and sine of π x. x is brought to [-1, 1] in double and then split in two floats, because a single one would
// leave an error of 1e-7. Three operations in double are enough so; sincospi() in double takes some fifty, which are
// slow on GPUs for graphics.
__device__ inline void direction(double x, float& cosine, float& sine) {
    const double turn = x - 2 * rint(0.5 * x);
    const float high = float(turn), low = 3.14159265f * float(turn - double(high));
    float s, c;
    sincospif(high, &s, &c);
    cosine = c - s * low;
    sine   = s + c * low;
}
#endif

}  // namespace gpu
