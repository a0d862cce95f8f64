// dropout.h - which elements dropout sets to 0
//
//   Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov 2014: Dropout: a simple way to prevent overfitting
//
// Whether an element is dropped is a function of (key, step, place, element). The element is an index into the tensor
// of all sequences of the step, those of all micro-steps and processes. So a mask is never stored, and it does not
// depend on threads, on recomputation, or on how the sequences of a step are divided.
#pragma once
#include <cmath>
#include <type_traits>

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
    // Choices in place of an index that a compiler may not know, for which a GPU's registers have no address.
    const bool upper    = element / 4 % 2;
    const uint32_t even = upper ? block.word[2] : block.word[0], odd = upper ? block.word[3] : block.word[1];
    const uint32_t pair = element / 2 % 2 ? odd : even;
    return (element % 2 ? pair >> 16 : pair & 0xffffu) >= threshold;
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

// Calls f with whether elements are dropped, as a compile-time constant, so that without dropout a kernel has not one
// instruction more.
template <class F>
void for_dropout(bool drops, F f) {
    if (drops)
        f(std::true_type{});
    else
        f(std::false_type{});
}

// ---- elements of a tensor -------------------------------------------------------------------------------------------
//
// Other ops drop elements of a tensor in their own pass over memory: add_forward, add_layernorm_forward,
// embedding_forward and layernorm_backward take a Dropout. They give the bits of dropout() followed or preceded by the
// op alone, so what has been dropped and scaled is rounded to the tensor's dtype before it is added.

// The mask of a tensor (…,C), for the kernels of these ops.
struct ElementMask {
    const int32_t* step_at = nullptr;  // null: nothing is dropped
    uint64_t key = 0, first = 0;       // first: the element of the step's tensor with which this one begins
    uint32_t step = 0, place = 0, threshold = 0;
    float scale = 1;

    ElementMask() = default;
    ElementMask(const Dropout& d, const Tensor& x)
        : step_at(d.step.data<int32_t>()),
          key(d.key),
          first(uint64_t(d.first * x.shape[-1])),
          place(d.place),
          threshold(d.threshold()),
          scale(d.scale()) {}

    // Reads the number of the step, where the kernel runs. A mask keeps and drops elements only after that.
    HD ElementMask of_step() const {
        ElementMask mask = *this;
        mask.step        = uint32_t(*step_at);
        return mask;
    }
    HD Philox block(uint64_t element) const { return dropout_block(key, step, place, element / 8); }
    // x or 0. The product is not fused with what the result is added to.
    HD float apply(float x, const Philox& block, uint64_t element) const {
#ifdef __CUDA_ARCH__
        const float scaled = __fmul_rn(x, scale);
#else
        const float scaled = x * scale;
#endif
        return dropout_keeps(block, element, threshold) ? scaled : 0.f;
    }
    // out = the n elements of x with the mask applied, the first of which is element i of the tensor. out may be x.
    template <class T>
    void apply(T* out, const T* x, int64_t i, int64_t n) const {
        Philox of_element{};
        for (int64_t k = 0; k < n; k++) {
            const uint64_t element = first + uint64_t(i + k);
            if (k == 0 || element % 8 == 0) of_element = block(element);
            out[k] = T(apply(float(x[k]), of_element, element));
        }
    }
#ifdef __CUDACC__
    // The same for W elements in registers, from element i of the tensor on. first and i are multiples of W, so that
    // the elements share a block.
    template <int W, class Floats>
    __device__ Floats apply(Floats x, int64_t i) const {
        static_assert(8 % W == 0);
        const uint64_t element  = first + uint64_t(i);
        const Philox of_element = block(element);
        for (int k = 0; k < W; k++) x[k] = apply(x[k], of_element, element % 8 / W * W + k);
        return x;
    }
#endif
};
// Checks the arguments of an op. A rate outside [0, 1) is a CallError.
inline ElementMask element_mask(const char* op, const Dropout& drop, const Tensor& x) {
    drop.check(op);
    if (drop.rate == 0) return {};
    expect(drop.step, Shape({1}), DType::I32, x);
    return {drop, x};
}
