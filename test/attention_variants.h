// attention_variants.h - ways for the attention kernels on tensor cores to divide their work, for bench_ops --variants
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernels/ops.h"

// What attention_forward and attention_backward take, in bf16, and δ (B,H,T) in fp32, which is scratch memory of
// theirs.
struct AttentionTensors {
    Tensor dqkv, dout, out, lse, qkv, delta;
    float scale;
};

// One kernel with one way to divide its work. The first of each kernel and D is the one that the op runs.
struct AttentionVariant {
    std::string name;
    int64_t D;
    int products;           // of a tile with a tile
    int registers, blocks;  // registers of a thread, and blocks that fit on a multiprocessor
    std::function<void(const AttentionTensors&, Stream)> run;
};

// Returns all variants, those for Hopper only where they run; none in a build without a CUDA half.
std::vector<AttentionVariant> attention_variants(bool hopper);
