// approx.h - the approximate functions of the special function unit, as polynomials that vectorise
//
// A GPU uses tables, and its results are good to 1 or 2 units in the last place. These are as good but have other bits.
// The coefficients are minimax fits on the reduced interval.
#pragma once
#include "floats.h"

namespace emu {

inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// 2^x: x is split into an integer and a rest in [-1/2, 1/2], for which the polynomial of degree 6 has an error of 2e-8.
inline float exp2_approx(float x) {
    const float clamped = x > 129.f ? 129.f : x < -151.f ? -151.f : x == x ? x : 0.f;
    const float whole   = __builtin_rintf(clamped);
    const float r       = clamped - whole;
    float p             = 1.5353362e-4f;
    p                   = fused(p, r, 1.3398874e-3f);
    p                   = fused(p, r, 9.6184373e-3f);
    p                   = fused(p, r, 5.5503324e-2f);
    p                   = fused(p, r, 2.4022648e-1f);
    p                   = fused(p, r, 6.9314718e-1f);
    p                   = fused(p, r, 1.f);
    // The power of two is applied in two steps, so that subnormal and overflowing results are right.
    const int e = int(whole), half = e >> 1;
    const float lo = as_float(uint32_t(half + 127) << 23), hi = as_float(uint32_t(e - half + 127) << 23);
    const float v = p * lo * hi;
    return x == x ? v : as_float(0x7fffffff);
}

// log2: with the mantissa m in [√½, √2), log2(m) is 2 atanh(s)/ln 2 for s = (m-1)/(m+1).
inline float log2_approx(float x) {
    const bool tiny  = std::abs(x) < FLT_MIN;
    const float y    = tiny ? x * 0x1p24f : x;
    const uint32_t u = bits(y) - 0x3f3504f3u;
    const int e      = (int32_t(u) >> 23) - (tiny ? 24 : 0);
    const float m    = as_float((u & 0x007fffffu) + 0x3f3504f3u);
    const float s = (m - 1.f) / (m + 1.f), z = s * s;
    float p             = 0.44269504f;
    p                   = fused(p, z, 0.57707802f);
    p                   = fused(p, z, 0.96179669f);
    p                   = fused(p, z, 2.88539008f);
    const float v       = float(e) + p * s;
    const float special = x == 0 ? -HUGE_VALF : x < 0 || x != x ? as_float(0x7fffffff) : HUGE_VALF;
    return x > 0 && x < HUGE_VALF ? v : special;
}

// tanh: 1 - 2/(e^2x + 1). Near zero, where the subtraction cancels, it is an odd polynomial.
inline float tanh_approx(float x) {
    const float a = std::abs(x), z = x * x;
    const float big   = 1.f - 2.f / (exp2_approx(a * 2.88539008f) + 1.f);
    float p           = -0.00886324f;
    p                 = fused(p, z, 0.02186949f);
    p                 = fused(p, z, -0.05396825f);
    p                 = fused(p, z, 0.13333333f);
    p                 = fused(p, z, -0.33333333f);
    const float small = a + a * z * p;
    const float v     = a < 0.4f ? small : big;
    return x == x ? std::copysign(v, x) : as_float(0x7fffffff);
}

}  // namespace emu
