// convert8.h - conversions of fp8
#pragma once
#include <algorithm>

#include "floats.h"

namespace emu {

// fp8 has 4 or 5 bits of exponent and 3 or 2 of mantissa. Conversions to it always have .satfinite, so numbers that are
// too large become the largest one.
template <int Exponent> inline uint8_t to_fp8(float x, bool relu) {
    constexpr int mantissa = 7 - Exponent, bias = (1 << (Exponent - 1)) - 1;
    constexpr uint8_t largest = Exponent == 4 ? 0x7e : 0x7b, nan = 0x7f;
    if (x != x) return nan;
    if (relu && !(x > 0)) return 0;
    const uint8_t sign = std::signbit(x) ? 0x80 : 0;
    const double a     = std::abs(double(x));
    if (a == 0) return sign;
    int e;
    std::frexp(a, &e);
    const int exponent = std::max(e - 1, 1 - bias);
    const double steps = std::nearbyint(std::ldexp(a, mantissa - exponent));  // to nearest even
    double code        = steps + double((exponent + bias - 1) << mantissa);
    return uint8_t(sign | uint8_t(code > largest ? largest : code));
}
template <int Exponent> inline float from_fp8(uint8_t v) {
    constexpr int mantissa = 7 - Exponent, bias = (1 << (Exponent - 1)) - 1;
    const int e = v >> mantissa & ((1 << Exponent) - 1), m = v & ((1 << mantissa) - 1);
    float a;
    if (Exponent == 4 && (v & 0x7f) == 0x7f) a = as_float(0x7fffffff);
    else if (Exponent == 5 && e == 31) a = m ? as_float(0x7fffffff) : HUGE_VALF;
    else
        a = e ? std::ldexp(float((1 << mantissa) + m), e - bias - mantissa) : std::ldexp(float(m), 1 - bias - mantissa);
    return v & 0x80 ? -a : a;
}

}  // namespace emu
