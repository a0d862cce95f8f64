// cpu.h - the building blocks of every op's CPU half: parallel ranges, vectors of one register, exp
//
// `floats` is a GCC/Clang vector as wide as a register of the machine that -march names: 16, 8 or 4 floats. The kernels
// are written once in terms of `lanes`. Where a sum is cut into chunks, their number does not depend on the number of
// threads, so results are the same to the bit for any number of threads.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "host.h"
#include "tensor.h"

// e^x as 2 e^r · 2^(k-1), where x = k ln2 + r with |r| <= ln2/2 and a polynomial of degree 7 gives 2 e^r. The error is
// within 1.2 ulp for x from -86.9 to 88.7. Below that the result is 0, above it infinity; a NaN stays a NaN.
//
// F is a vector on the CPU and a float on a GPU; Words are the unsigned integers of its size. Each product has one sum
// that it can be fused with, so the bits are the same on every machine that has fused multiply-add.
template <class Words, class F>
HD F portable_exp(F x) {
    const F hi = 89.f - F{}, lo = -87.f - F{};  // k - 1 is 127 at hi, and at lo -127, whose exponent bits are all 0
    F c           = x > hi ? hi : x;            // a NaN compares false here and below, and so stays
    c             = c < lo ? lo : c;
    // Adding 1.5·2^23 rounds to an integer, which is then in the low bits. The 126 more make these the exponent bits
    // of 2^(k-1).
    const F magic = 12582912.f + 126.f - F{};
    const F t     = c * 1.44269504088896341f + magic;
    const F k     = t - magic;
    const F r     = (c - k * 0.693359375f) + k * 2.12194440e-4f;  // ln2 as the sum of two floats (Cody and Waite)
    F p           = r * (2 * 1.9875691500e-4f) + 2 * 1.3981999507e-3f;
    p             = p * r + 2 * 8.3334519073e-3f;
    p             = p * r + 2 * 4.1665795894e-2f;
    p             = p * r + 2 * 1.6666665459e-1f;
    p             = p * r + 2 * 5.0000001201e-1f;
    p             = p * r + 2.f;
    p             = p * r + 2.f;
    Words bits;
    memcpy(&bits, &t, sizeof bits);
    bits = bits << 23;
    F power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

namespace cpu {

using host::parallel_ranges;

// Calls f(i) for each i in [0, n). Threads take one i at a time, which suits tasks of unequal work that share no
// result.
template <class F>
inline void parallel_tasks(int64_t n, F f) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < n; i++) f(i);
}

// Vectors wider than a register would be kept on the stack by GCC, so that every operation loads and stores them.
#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
typedef float floats __attribute__((vector_size(4 * lanes)));
typedef int32_t ints __attribute__((vector_size(4 * lanes)));
typedef uint32_t words __attribute__((vector_size(4 * lanes)));
typedef uint16_t halves __attribute__((vector_size(2 * lanes)));
// Vectors in a tensor, which are aligned no better than their elements. Only load and store use these types: a variable
// or a template's argument of such a type would lose its attributes in places, and clang would then access it as if it
// were aligned.
typedef float floats_in_memory __attribute__((vector_size(4 * lanes), aligned(4), may_alias));
typedef uint16_t halves_in_memory __attribute__((vector_size(2 * lanes), aligned(2), may_alias));

inline floats broadcast(float x) { return x - floats{}; }
inline floats load(const float* p) { return *reinterpret_cast<const floats_in_memory*>(p); }
inline floats load(const bf16* p) {
    const halves h = *reinterpret_cast<const halves_in_memory*>(p);
    return reinterpret_cast<floats>(__builtin_convertvector(h, words) << 16);
}
inline void store(float* p, floats v) { *reinterpret_cast<floats_in_memory*>(p) = v; }
inline void store(bf16* p, floats v) {  // rounds as bf16(float) does
    const words u       = reinterpret_cast<words>(v);
    const words rounded = u + 0x7fffu + ((u >> 16) & 1u);
    const words picked  = v != v ? u | 0x00400000u : rounded;
    const halves h      = __builtin_convertvector(picked >> 16, halves);

    *reinterpret_cast<halves_in_memory*>(p) = h;
}
// Load and store of the first n < lanes elements. The other lanes are read as `fill` and are not written.
template <class T>
inline floats load(const T* p, int64_t n, float fill = 0.f) {
    T tmp[lanes];
    for (int i = 0; i < lanes; i++) tmp[i] = i < n ? p[i] : T(fill);
    return load(tmp);
}
template <class T>
inline void store(T* p, floats v, int64_t n) {
    T tmp[lanes];
    store(tmp, v);
    for (int64_t i = 0; i < n; i++) p[i] = tmp[i];
}
inline float sum(floats v) {  // adds the halves of the vector until one number is left
    float x[lanes];
    store(x, v);
    for (int w = lanes / 2; w; w /= 2)
        for (int i = 0; i < w; i++) x[i] += x[i + w];
    return x[0];
}
inline floats max(floats a, floats b) { return a > b ? a : b; }
inline float max(floats v) {
    float x[lanes];
    store(x, v);
    for (int w = lanes / 2; w; w /= 2)
        for (int i = 0; i < w; i++) x[i] = x[i] > x[i + w] ? x[i] : x[i + w];
    return x[0];
}

// Calls f(i, n) along a row in steps of `lanes`: n is `lanes`, and in the last call what is left. With load(p + i, n)
// the body reads as one loop. nvcc compiles this file a second time for the GPU, for which it cannot compile vectors. f
// is not called there, so it is never instantiated.
template <class F>
inline void for_lanes([[maybe_unused]] int64_t n, [[maybe_unused]] F f) {
#ifndef __CUDA_ARCH__
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) f(i, std::integral_constant<int64_t, lanes>{});
    if (i < n) f(i, n - i);
#endif
}
template <class T>
inline floats load(const T* p, std::integral_constant<int64_t, lanes>, float = 0.f) {
    return load(p);
}
template <class T>
inline void store(T* p, floats v, std::integral_constant<int64_t, lanes>) {
    store(p, v);
}

// Returns v with 0 in all lanes from n on, so that a sum over the end of a row counts only the row.
inline floats keep(floats v, int64_t n) {
    for (int64_t i = n; i < lanes; i++) v[i] = 0.f;
    return v;
}
inline floats keep(floats v, std::integral_constant<int64_t, lanes>) { return v; }

// Returns Σ f(i, n) over a row. f is called as for_lanes calls it. There are 64 running sums for any number of lanes,
// and they are added in the same order, so the error does not grow where vectors are short.
template <class F>
inline float sum_lanes(int64_t length, F f) {
    constexpr std::integral_constant<int64_t, lanes> all{};
    constexpr int parts  = 16 / lanes;  // vectors that hold 16 sums
    floats acc[4][parts] = {};
    int64_t i            = 0;
    for (; i + 64 <= length; i += 64)
        for (int k = 0; k < 4; k++)
            for (int p = 0; p < parts; p++) acc[k][p] += f(i + k * 16 + p * lanes, all);
    for (; i + 16 <= length; i += 16)
        for (int p = 0; p < parts; p++) acc[0][p] += f(i + p * lanes, all);
    for (int p = 0; i + lanes <= length; i += lanes, p++) acc[1][p] += f(i, all);
    if (i < length) acc[1][(length % 16) / lanes] += keep(f(i, length - i), length - i);
    floats total[parts];
    for (int p = 0; p < parts; p++) total[p] = (acc[0][p] + acc[1][p]) + (acc[2][p] + acc[3][p]);
    for (int w = parts / 2; w; w /= 2)
        for (int p = 0; p < w; p++) total[p] += total[p + w];
    return sum(total[0]);
}

// Calls f(i, n) over [0, length) as for_lanes does, on all threads. f must treat each element by itself.
template <class F>
inline void parallel_lanes(int64_t length, F f) {
    parallel_ranges(ceil_div(length, lanes), 1024, [=](int64_t begin, int64_t end) {
        const int64_t first = begin * lanes, last = std::min(end * lanes, length);
        for_lanes(last - first, [=](int64_t i, auto n) { f(first + i, n); });
    });
}

inline floats exp(floats x) {
#ifdef __CUDA_ARCH__  // nvcc cannot compile vectors for the GPU, where nobody calls this
    return x;
#else
    return portable_exp<words>(x);
#endif
}

}  // namespace cpu
