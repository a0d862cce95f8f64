// dropout.h - which elements dropout sets to 0, and the op that does so
//
//   Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov 2014: Dropout: a simple way to prevent overfitting
//
// Whether an element is dropped is a function of (key, step, place, element). The element is an index into the tensor
// of all sequences of the step, those of all micro-steps and processes. So a mask is never stored, and it does not
// depend on threads, on recomputation, or on how the sequences of a step are divided.
#pragma once
#include <cmath>

#include "device.h"
#include "random.h"

// Dropout at one place of a model. 16 random bits decide about an element, so the rate is rounded to a multiple of
// 2^-16, and what is kept is multiplied by the inverse of the rounded rate's complement: the expected value is exact.
struct Dropout {
    float rate   = 0;    // from 0 to below 1; 0: nothing is dropped
    uint64_t key = 0;    // the key of Random(seed, "dropout")
    Tensor step{};       // (1) int32: the number of the step, in the memory of the device, where a CUDA graph reads it
    int64_t first  = 0;  // the row of the step's tensor with which this tensor begins
    uint32_t place = 0;  // differs between all places of the model

    uint32_t threshold() const { return uint32_t(std::fmin(std::round(double(rate) * 65536), 65535)); }
    float scale() const { return float(65536. / double(65536 - threshold())); }
    void check(const char* op) const {
        CHECK_CALL(rate >= 0 && rate < 1, "{}: the rate is {}, expected 0 or more and less than 1", op, rate);
    }
};

// The block of 8 × 16 bits for elements 8 i to 8 i + 7.
HD Philox dropout_block(uint64_t key, uint32_t step, uint32_t place, uint64_t i) {
    return philox({{uint32_t(i), uint32_t(i >> 32), step, place}}, uint32_t(key), uint32_t(key >> 32));
}
HD bool dropout_keeps(const Philox& block, uint64_t element, uint32_t threshold) {
    return (block.word[element % 8 / 2] >> (element % 2 * 16) & 0xffffu) >= threshold;
}

// ---- attention ------------------------------------------------------------------------------------------------------
//
// Attention drops probabilities in its kernels (attention.cu). An element is (sequence, head, query, key). The mask of
// a tile of 16 queries and 16 keys takes 32 blocks. Block (i, j), with i < 8 and j < 4, is for the queries i and i + 8
// and for the keys 2 j, 2 j + 1, 2 j + 8 and 2 j + 9. These are the elements of one lane in the results of mma.sync
// where queries are the rows, and those of two lanes where keys are. On the CPU, 8 queries side by side have 8 blocks.
//
// 7 rounds of Philox suffice for all tests of BigCrush (Salmon et al., table 2), and the time goes into the rounds.
constexpr int mask_rounds = 7;

// The mask of one head of one sequence.
struct HeadDropout {
    uint64_t random_key;
    uint32_t step, head, threshold;  // head: sequence · H + h, for the sequence's number in the step
    float scale;

    HD Philox counter(uint32_t query, uint32_t key) const {
        return {{query / 16 * 8 + query % 8, key / 16 * 4 + key % 8 / 2, head, step}};
    }
    // The block of a counter that is moved on by `queries` and `keys` tiles.
    HD Philox block(Philox counter, uint32_t queries = 0, uint32_t keys = 0) const {
        counter.word[0] += 8 * queries;
        counter.word[1] += 4 * keys;
        return philox<mask_rounds>(counter, uint32_t(random_key), uint32_t(random_key >> 32));
    }
    HD bool keeps(const Philox& block, uint32_t query, uint32_t key) const {
        // Choices in place of one index that a compiler does not know, for which a GPU's registers have no address.
        const bool lower    = query / 8 % 2;
        const uint32_t even = lower ? block.word[1] : block.word[0], odd = lower ? block.word[3] : block.word[2];
        const uint32_t bits = key % 2 ? odd : even;
        // The 16 bits are compared at the top of a word, where those below them change nothing.
        return (key / 8 % 2 ? bits : bits << 16) >= threshold << 16;
    }
    HD bool keeps(uint32_t query, uint32_t key) const { return keeps(block(counter(query, key)), query, key); }
};

// The masks of all heads of a tensor (B,T,H,…), of which `first` is the first row: the number of a sequence in the step
// times T. Their places are apart from those of the op below, because the key is another.
struct HeadDropouts {
    const int32_t* step = nullptr;  // null: nothing is dropped
    uint64_t random_key = 0;
    uint32_t first_head = 0, threshold = 0;
    float scale = 1;

    HeadDropouts() = default;
    HeadDropouts(const Dropout& d, int64_t T, int64_t H)
        : step(d.rate > 0 ? d.step.data<int32_t>() : nullptr),
          random_key(mix64(d.key + d.place)),
          first_head(uint32_t(d.first / T * H)),
          threshold(d.threshold()),
          scale(d.scale()) {}
    HD HeadDropout head(int64_t i) const {  // head i % H of sequence i / H
        return {random_key, uint32_t(*step), first_head + uint32_t(i), threshold, scale};
    }
};

// ---- elements of a tensor -------------------------------------------------------------------------------------------

// out = x / (1 - rate) where the mask keeps the element, else 0. Backward is the same op on a gradient. A rate outside
// [0, 1) is a CallError.
void dropout(Tensor out /*=*/, Tensor x, const Dropout& d, Stream s);  // (N,C) x; out may be x
