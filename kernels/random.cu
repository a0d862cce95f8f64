// random.cu - many normal numbers at once, with the bits of Random::normal()
//
// normal() takes logarithm, cosine and sine from the C library, in double, and rounds their product once to float. Here
// they are polynomials in loops that compilers turn into vector instructions. Polynomials and library differ by less
// than 2^-49 of the number, and nearly always round to the same float. Where 2^-48 more or less would change the float,
// which happens once in 2^23 numbers, normal() is asked.
#include "random.h"

#include <algorithm>
#include <cstring>

namespace {

// As many numbers as are computed together: 64 blocks of Philox, whose arrays fit into the first-level cache.
constexpr int blocks = 64;

template <class To, class From>
To bits_of(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

// (w + 1/2) 2^-32. The 52 mantissa bits of a double that begins at 2^52 are an integer, so this converts exactly and
// without an instruction for unsigned integers, which AVX2 lacks.
inline double open_unit(uint32_t w) {
    return (bits_of<double>(uint64_t(w) | 0x4330000000000000u) - 0x1p52 + 0.5) * 0x1p-32;
}

// ln x for 0 < x < 1. x = 2^k m with m between √½ and √2, and with s = (m - 1) / (m + 1), ln m = 2 (s + s³/3 + s⁵/5 …).
inline double log_of(double x) {
    constexpr uint64_t one = uint64_t(1023) << 52, root_half = 0x3fe6a09e667f3bcdu;
    const uint64_t bits = bits_of<uint64_t>(x), exponent = (bits - root_half + one) >> 52;  // k + 1023
    const double k = bits_of<double>(exponent | 0x4330000000000000u) - (0x1p52 + 1023);
    const double f = bits_of<double>(bits - (exponent << 52) + one) - 1, s = f / (2 + f), z = s * s;
    double p       = 1. / 21;
    p              = p * z + 1. / 19;
    p              = p * z + 1. / 17;
    p              = p * z + 1. / 15;
    p              = p * z + 1. / 13;
    p              = p * z + 1. / 11;
    p              = p * z + 1. / 9;
    p              = p * z + 1. / 7;
    p              = p * z + 1. / 5;
    p              = p * z + 1. / 3;
    const double t = 2 * s + 2 * s * (z * p);
    return k * 0x1.62e42fefp-1 + (k * 0x1.473de6af278edp-34 + t);  // ln 2 as the sum of two doubles
}

// cos and sin of an angle from 0 to 2π: a polynomial of what is left after taking away a multiple of π/2.
struct Direction {
    double cosine, sine;
};
inline Direction direction(double angle) {
    const double magic = 0x1.8p52;  // adding it rounds to an integer, which is then in the low bits
    const double t = angle * 0.63661977236758134308 + magic, turns = t - magic;
    const uint64_t quarter = bits_of<uint64_t>(t);
    const double r = (angle - turns * 0x1.921fb544p0) - turns * 0x1.0b4611a626331p-34;  // π/2 as the sum of two doubles
    const double z      = r * r;
    double s            = 1. / 355687428096000;
    s                   = s * z - 1. / 1307674368000;
    s                   = s * z + 1. / 6227020800;
    s                   = s * z - 1. / 39916800;
    s                   = s * z + 1. / 362880;
    s                   = s * z - 1. / 5040;
    s                   = s * z + 1. / 120;
    s                   = s * z - 1. / 6;
    s                   = r + r * (z * s);
    double c            = 1. / 20922789888000;
    c                   = c * z - 1. / 87178291200;
    c                   = c * z + 1. / 479001600;
    c                   = c * z - 1. / 3628800;
    c                   = c * z + 1. / 40320;
    c                   = c * z - 1. / 720;
    c                   = c * z + 1. / 24;
    c                   = 1 - (0.5 * z - z * z * c);
    const bool odd      = quarter & 1;
    const double cosine = odd ? s : c, sine = odd ? c : s;
    const uint64_t cosine_sign = (quarter + 1) >> 1 << 63, sine_sign = quarter >> 1 << 63;
    return {bits_of<double>(bits_of<uint64_t>(cosine) ^ cosine_sign),
            bits_of<double>(bits_of<uint64_t>(sine) ^ sine_sign)};
}

// What the words of `blocks` consecutive blocks of Philox become: number 4 i + k of them is at [k][i].
using Numbers = float[4][blocks];

// Returns whether every number is surely that of normal().
bool normals_of(Numbers& z, const uint32_t (&word)[4][blocks]) {
    int unsure = 0;
    for (int pair = 0; pair < 2; pair++)
#pragma omp simd reduction(| : unsure)
        for (int i = 0; i < blocks; i++) {
            const double r    = std::sqrt(-2 * log_of(open_unit(word[2 * pair][i])));
            const Direction d = direction(6.283185307179586477 * open_unit(word[2 * pair + 1][i]));
            const double x = r * d.cosine, y = r * d.sine;
            const float x_float = float(x), y_float = float(y);
            unsure |= (x_float != float(x * (1 - 0x1p-48))) | (x_float != float(x * (1 + 0x1p-48)));
            unsure |= (y_float != float(y * (1 - 0x1p-48))) | (y_float != float(y * (1 + 0x1p-48)));
            z[2 * pair][i]     = x_float;
            z[2 * pair + 1][i] = y_float;
        }
    return !unsure;
}

}  // namespace

void Random::fill_normal(float* out, uint64_t first, uint64_t n, float std) const {
    const auto one_by_one = [&](uint64_t begin, uint64_t end) {
        for (uint64_t j = begin; j < end; j++) out[j] = std * normal(first + j);
    };
    uint64_t j = std::min(n, (4 - first % 4) % 4);  // the first number of a block
    one_by_one(0, j);
    for (uint64_t count; j < n; j += count) {
        count = std::min<uint64_t>(n - j, 4 * blocks);
        uint32_t word[4][blocks];
        for (int i = 0; i < blocks; i++) {
            const uint64_t index = (first + j) / 4 + i;
            word[0][i]           = uint32_t(index);
            word[1][i]           = uint32_t(index >> 32);
            word[2][i]           = uint32_t(step_);
            word[3][i]           = uint32_t(step_ >> 32);
        }
        philox_of(word, key_);
        Numbers z;
        if (!normals_of(z, word)) {
            one_by_one(j, j + count);
            continue;
        }
        for (uint64_t i = 0; i < count; i++) out[j + i] = std * z[i % 4][i / 4];
    }
}
