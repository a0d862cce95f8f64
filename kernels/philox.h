// philox.h - Philox4x32-10: four random words from a counter and a key, on both machines
//
//   Salmon, Moraes, Dror, Shaw 2011: Parallel random numbers: as easy as 1, 2, 3
#pragma once
#include <cstdint>

#include "tensor.h"

struct Philox {
    uint32_t word[4];
};

// One of the 10 rounds. The keys grow from round to round by the authors' Weyl constants, the golden ratio and √3 - 1.
constexpr int philox_rounds     = 10;
constexpr uint32_t philox_weyl0 = 0x9E3779B9u, philox_weyl1 = 0xBB67AE85u;
HD Philox philox_round(const Philox& c, uint32_t key0, uint32_t key1) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c.word[0], p1 = uint64_t(0xCD9E8D57u) * c.word[2];
    return {{uint32_t(p1 >> 32) ^ c.word[1] ^ key0, uint32_t(p1), uint32_t(p0 >> 32) ^ c.word[3] ^ key1, uint32_t(p0)}};
}
template <int rounds = philox_rounds>
HD Philox philox(Philox counter, uint32_t key0, uint32_t key1) {
    for (int round = 0; round < rounds; round++) {
        counter = philox_round(counter, key0, key1);
        key0 += philox_weyl0;
        key1 += philox_weyl1;
    }
    return counter;
}

// The same for n counters at once, in a loop that compilers turn into vector instructions: word[k][i] is word k of
// counter i, and then of its result.
template <int rounds = philox_rounds, int n>
inline void philox_of(uint32_t (&word)[4][n], uint64_t key) {
    for (int round = 0; round < rounds; round++) {
        const uint32_t key0 = uint32_t(key) + uint32_t(round) * philox_weyl0,
                       key1 = uint32_t(key >> 32) + uint32_t(round) * philox_weyl1;
#pragma omp simd
        for (int i = 0; i < n; i++) {
            const Philox next = philox_round({{word[0][i], word[1][i], word[2][i], word[3][i]}}, key0, key1);
            word[0][i]        = next.word[0];
            word[1][i]        = next.word[1];
            word[2][i]        = next.word[2];
            word[3][i]        = next.word[3];
        }
    }
}

// Returns the i-th of the numbers of (key, step), uniform in [0, 1) and a multiple of 2^-24.
HD float philox_uniform(uint64_t key, uint64_t step, uint64_t i) {
    const Philox b = philox({{uint32_t(i / 4), uint32_t(i / 4 >> 32), uint32_t(step), uint32_t(step >> 32)}},
                            uint32_t(key), uint32_t(key >> 32));
    return float(b.word[i % 4] >> 8) * 0x1p-24f;
}
