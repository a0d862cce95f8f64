// philox.h - Philox4x32-10: four random words from a counter and a key, on both machines
//
//   Salmon, Moraes, Dror, Shaw 2011: Parallel random numbers: as easy as 1, 2, 3
#pragma once
#include <cstdint>

#include "tensor.h"

struct Philox {
    uint32_t word[4];
};

HD Philox philox(Philox counter, uint32_t key0, uint32_t key1) {
    uint32_t* c = counter.word;
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = uint64_t(0xD2511F53u) * c[0], p1 = uint64_t(0xCD9E8D57u) * c[2];
        counter = {{uint32_t(p1 >> 32) ^ c[1] ^ key0, uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ key1, uint32_t(p0)}};
        key0 += 0x9E3779B9u;  // the golden ratio and √3 - 1, the authors' Weyl constants
        key1 += 0xBB67AE85u;
    }
    return counter;
}

// Returns the i-th of the numbers of (key, step), uniform in [0, 1) and a multiple of 2^-24.
HD float philox_uniform(uint64_t key, uint64_t step, uint64_t i) {
    const Philox b = philox({{uint32_t(i / 4), uint32_t(i / 4 >> 32), uint32_t(step), uint32_t(step >> 32)}},
                            uint32_t(key), uint32_t(key >> 32));
    return float(b.word[i % 4] >> 8) * 0x1p-24f;
}
