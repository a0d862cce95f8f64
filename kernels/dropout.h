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
#include "philox.h"

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
};

// The block of 8 × 16 bits for elements 8 i to 8 i + 7.
HD Philox dropout_block(uint64_t key, uint32_t step, uint32_t place, uint64_t i) {
    return philox({{uint32_t(i), uint32_t(i >> 32), step, place}}, uint32_t(key), uint32_t(key >> 32));
}
HD bool dropout_keeps(const Philox& block, uint64_t element, uint32_t threshold) {
    return (block.word[element % 8 / 2] >> (element % 2 * 16) & 0xffffu) >= threshold;
}

// out = x / (1 - rate) where the mask keeps the element, else 0. Backward is the same op on a gradient. A rate outside
// [0, 1) is a CallError.
void dropout(Tensor out /*=*/, Tensor x, const Dropout& d, Stream s);  // (N,C) x; out may be x
