// random.h - random numbers that do not depend on the order in which they are drawn
//
// A number is a function of (seed, purpose, step, index): Random(seed, "sample", step).uniform(i). So all threads,
// processes, batch sizes and resumed runs see the same numbers. The generator is Philox4x32-10 (philox.h). Its key is a
// hash of seed and purpose, and its counter is (index, step).
#pragma once
#include <cmath>
#include <cstdint>
#include <string_view>

#include "philox.h"

// A bijection of the 64-bit integers that looks random (the finaliser of SplitMix64, Steele et al. 2014).
inline uint64_t mix64(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

inline uint64_t hash64(std::string_view bytes, uint64_t h = 0xcbf29ce484222325u) {  // FNV-1a
    for (unsigned char c : bytes) h = (h ^ c) * 0x100000001b3u;
    return h;
}

class Random {
  public:
    Random(uint64_t seed, std::string_view purpose, uint64_t step = 0)
        : key_(mix64(hash64(purpose) ^ mix64(seed + 0x9e3779b97f4a7c15u))), step_(step) {}
    uint64_t key() const { return key_; }

    // These return the i-th number. i may take any values in any order.
    float uniform(uint64_t i) const { return philox_uniform(key_, step_, i); }                  // [0, 1)
    float normal(uint64_t i) const { return normals(block(i / 4), int(i % 4 / 2)).of[i % 2]; }  // mean 0, variance 1
    uint64_t below(uint64_t i, uint64_t n) const {                                              // 0..n-1; n = 0 gives 0
        return uint64_t((static_cast<unsigned __int128>(word64(i)) * n) >> 64);
    }
    uint64_t word64(uint64_t i) const {
        const Philox b = block(i / 2);
        return uint64_t(b.word[i % 2 * 2]) << 32 | b.word[i % 2 * 2 + 1];
    }

    // out[j] = std · normal(first + j), to the bit, and several times as fast (random.cu).
    void fill_normal(float* out, uint64_t first, uint64_t n, float std) const;

  private:
    struct Pair {
        float of[2];
    };

    Philox block(uint64_t n) const {
        return philox({{uint32_t(n), uint32_t(n >> 32), uint32_t(step_), uint32_t(step_ >> 32)}}, uint32_t(key_),
                      uint32_t(key_ >> 32));
    }
    // Box and Muller 1958, in double and rounded once. Logarithms and cosines of different C libraries differ in the
    // last bit of a double, which changes a float about once in 2^28 draws. Adding 0.5 keeps the logarithm finite, and
    // |z| below 6.8.
    static Pair normals(const Philox& b, int pair) {
        const double u = (b.word[2 * pair] + 0.5) * 0x1p-32, v = (b.word[2 * pair + 1] + 0.5) * 0x1p-32;
        const double r = std::sqrt(-2 * std::log(u)), angle = 6.283185307179586477 * v;
        return {{float(r * std::cos(angle)), float(r * std::sin(angle))}};
    }

    uint64_t key_, step_;
};

// Returns the place of i < n in a shuffle of 0..n-1 that the key chooses. It is a bijection, in O(1) memory. A Feistel
// network permutes 0..4^h-1, where 4^h is the smallest such power that is n or more. A result outside 0..n-1 goes
// through it again ("cycle walking", Black and Rogaway 2002). As 4^h <= 4 n, this takes at most four passes
// on average.
inline uint64_t permutation(uint64_t i, uint64_t n, uint64_t key) {
    int h = 1;
    while (h < 32 && n > uint64_t(1) << (2 * h)) h++;
    const uint64_t mask = (uint64_t(1) << h) - 1;
    do {
        uint64_t left = i >> h, right = i & mask;
        for (uint64_t round = 0; round < 6; round++) {
            const uint64_t mixed = left ^ (mix64(mix64(key + round * 0x9e3779b97f4a7c15u) ^ right) >> (64 - h));
            left                 = right;
            right                = mixed;
        }
        i = left << h | right;
    } while (i >= n);
    return i;
}
