// floats.h - scalar float functions that the compiler vectorises: flushing, rounding modes, f16, bf16
#pragma once
#include <bit>
#include <cfenv>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace emu {

inline uint32_t bits(float f) { return std::bit_cast<uint32_t>(f); }
inline uint64_t bits(double f) { return std::bit_cast<uint64_t>(f); }
inline float as_float(uint32_t b) { return std::bit_cast<float>(b); }
inline double as_double(uint64_t b) { return std::bit_cast<double>(b); }

// .ftz turns subnormal operands and results into zeros of the same sign.
inline float flush(float x) { return (bits(x) & 0x7f800000u) == 0 ? as_float(bits(x) & 0x80000000u) : x; }
inline double flush(double x) {
    return (bits(x) & 0x7ff0000000000000u) == 0 ? as_double(bits(x) & 0x8000000000000000u) : x;
}
template <bool Ftz> inline float ftz(float x) { return Ftz ? flush(x) : x; }
template <bool Ftz> inline double ftz(double x) { return x; }

// .sat clamps to [0, 1] and turns NaN into 0.
template <class T> inline T saturate(T x) { return x > 0 ? (x < 1 ? x : T(1)) : T(0); }

// If one of the two is NaN, the result is the other one. -0 is less than +0.
template <class T> inline T min_number(T a, T b) {
    const T m = std::signbit(a) > std::signbit(b) || (std::signbit(a) == std::signbit(b) && a < b) || a < b ? a : b;
    return b != b ? a : a != a ? b : m;
}
template <class T> inline T max_number(T a, T b) {
    const T m = std::signbit(a) < std::signbit(b) || (std::signbit(a) == std::signbit(b) && a > b) || a > b ? a : b;
    return b != b ? a : a != a ? b : m;
}

inline float half_to_float(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = h & 0x7fff;
    // After the shift the exponent is too small by 112. A multiplication corrects it, also for subnormals.
    const float scaled = as_float(rest << 13) * 0x1p112f;
    const uint32_t v   = rest >= 0x7c00 ? (rest << 13) | 0x7f800000u : bits(scaled);
    return as_float(v | sign);
}
inline uint16_t float_to_half(float f) {  // rounds to the nearest, ties to even
    const uint32_t sign = bits(f) >> 16 & 0x8000, a = bits(f) & 0x7fffffff;
    if (a > 0x7f800000) return 0x7fff;
    if (a >= 0x477ff000) return uint16_t(sign | 0x7c00);
    if (a < 0x38800000) {  // subnormal: adding 0.5 aligns the last place with 2^-24
        const float aligned = as_float(a) + 0.5f;
        return uint16_t(sign | (bits(aligned) - bits(0.5f)));
    }
    const uint32_t rounded = a + 0xfff + (a >> 13 & 1);
    return uint16_t(sign | (rounded - (112u << 23)) >> 13);
}
inline float bf16_to_float(uint16_t h) { return as_float(uint32_t(h) << 16); }
inline uint16_t float_to_bf16(float f) {
    const uint32_t u = bits(f);
    return (u & 0x7fffffff) > 0x7f800000 ? 0x7fff : uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

// Rounding to odd: the last bit of the result is set when there is an error. Rounding the result to a narrower type
// then gives the same as rounding the exact value.
inline double round_to_odd(double sum, double error) {
    const bool odd = bits(sum) & 1;
    if (error == 0 || odd || !(std::abs(sum) < HUGE_VAL)) return sum;
    const bool away = (error > 0) == (sum > 0);
    return as_double(bits(sum) + (away ? 1 : -1));
}
inline double sum_to_odd(double a, double b) {  // computes the error by Knuth's two-sum
    const double s = a + b, bb = s - a;
    return round_to_odd(s, (a - (s - bb)) + (b - bb));
}

// These round a double that is exact or was rounded to odd.
inline uint16_t double_to_half(double d) {
    const float f = float(d);
    if (double(f) == d || !(std::abs(d) < HUGE_VAL)) return float_to_half(f);
    const float odd = bits(f) & 1 ? f : as_float(bits(f) + (((double(f) < d) == (d > 0)) ? 1 : -1));
    return float_to_half(odd);
}
inline uint16_t double_to_bf16(double d) {
    const float f = float(d);
    if (double(f) == d || !(std::abs(d) < HUGE_VAL) || f == 0 || std::abs(f) > FLT_MAX) return float_to_bf16(f);
    const float odd = bits(f) & 1 ? f : as_float(bits(f) + (((double(f) < d) == (d > 0)) ? 1 : -1));
    return float_to_bf16(odd);
}

enum Rounding { kNearest, kZero, kDown, kUp };
inline int fenv_of(Rounding r) {
    return r == kZero ? FE_TOWARDZERO : r == kDown ? FE_DOWNWARD : r == kUp ? FE_UPWARD : FE_TONEAREST;
}

}  // namespace emu
