// vectors.h - tests of many lanes or bytes with one result
//
// AVX-512 tests a vector with one instruction. For a plain loop, compilers combine the parts of the vector with five
// dependent shuffles, which take a third of the time of a checked load.
#pragma once
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "exec.h"

namespace emu {

typedef uint64_t Vector64 __attribute__((vector_size(64), aligned(1), may_alias));

inline bool all_zero(const Vector64& v) {
#ifdef __AVX512F__
    return !_mm512_test_epi64_mask(__m512i(v), __m512i(v));
#else
    uint64_t any = 0;
    for (int k = 0; k < 8; k++) any |= v[k];
    return !any;
#endif
}

// Returns whether a[l] is a[0] + (l << shift) in all lanes.
template <class A> inline bool in_a_row(const A* a, int shift) {
    constexpr int n = 64 / int(sizeof(A));
    typedef A Lanes __attribute__((vector_size(64), aligned(sizeof(A))));
    Lanes step{}, gaps{};
    for (int l = 0; l < n; l++) step[l] = A(l) << shift;
    for (int l = 0; l < kLanes; l += n)
        gaps |= *reinterpret_cast<const Lanes*>(a + l) ^ (step + (a[0] + (A(l) << shift)));
    return all_zero(Vector64(gaps));
}

// Returns whether numbers[k] is first + (k >> Shift) for 32 << Shift numbers, compared in the given bits.
template <int Shift> inline bool in_order(const uint64_t* numbers, uint64_t first, uint64_t bits) {
    typedef uint64_t Numbers __attribute__((vector_size(64), aligned(8)));
    Numbers step{}, gaps{};
    for (int k = 0; k < 8; k++) step[k] = uint64_t(k) >> Shift;
    for (uint64_t k = 0; k < uint64_t(kLanes) << Shift; k += 8)
        gaps |= *reinterpret_cast<const Numbers*>(numbers + k) ^ (step + (first + (k >> Shift)));
    gaps &= bits;
    return all_zero(Vector64(gaps));
}

// Returns whether all bytes are 1. n is a power of two up to 512.
inline bool all_ones(const uint8_t* bytes, size_t n) {
    constexpr uint64_t ones = 0x0101010101010101ull;
    if (n >= 64) {
        Vector64 differ{};
        for (size_t k = 0; k < n; k += 64) differ |= *reinterpret_cast<const Vector64*>(bytes + k) ^ ones;
        return all_zero(differ);
    }
    auto are = [=](auto some, size_t at) {
        std::memcpy(&some, bytes + at, sizeof some);
        return some == decltype(some)(ones);
    };
    switch (n) {
        case 1: return are(uint8_t(), 0);
        case 2: return are(uint16_t(), 0);
        case 4: return are(uint32_t(), 0);
        case 8: return are(uint64_t(), 0);
        case 16: return are(uint64_t(), 0) && are(uint64_t(), 8);
        default: return are(uint64_t(), 0) && are(uint64_t(), 8) && are(uint64_t(), 16) && are(uint64_t(), 24);
    }
}

}  // namespace emu
