// wgmma.h - the products of warpgroups: what a descriptor says, and the arithmetic
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "bulk.h"
#include "ptx.h"

namespace emu {

constexpr uint32_t kWgmmaRows = 64, kMostChunks = 512;

// A matrix in shared memory. An operand of a product has 32 bytes in the direction of K: two chunks of 16 bytes for
// each row of A (or column of B). When it is transposed, the chunks lie in the other direction, and there are as many.
// Eight chunks in the direction that is not theirs make a core matrix. With a swizzle of 32, 64 or 128 bytes, 2, 4 or 8
// core matrices are interleaved: a row of all of them lies together.
struct Descriptor {
    uint32_t start, leading, stride;  // in bytes
    uint32_t base;     // the 128-byte row of shared memory, modulo 8, in which the swizzle's pattern starts
    uint32_t swizzle;  // log2 of the number of chunks that lie together
    explicit Descriptor(uint64_t bits);
    static bool valid(uint64_t bits) { return !(bits & 0x3ff1'c000'c000'c000); }  // the unused bits are zeros

    // Chunk c (0 or 1) of a row, in the direction of K.
    uint32_t along_k(uint32_t row, uint32_t c) const {
        return place(row % 8, row / 8 * stride, swizzle ? c * 16 : c * leading);
    }
    // Chunk c of line k, for a transposed operand.
    uint32_t across_k(uint32_t k, uint32_t c) const {
        return swizzle ? place(k % 8, k / 8 * stride, (c & ((1u << swizzle) - 1)) * 16 + (c >> swizzle) * leading)
                       : place(k % 8, k / 8 * leading, c * stride);
    }

  private:
    uint32_t place(uint32_t line, uint32_t a, uint32_t b) const {
        const uint32_t at = start + (line * 16 << swizzle) + a + b;
        return at ^ (((at >> 7) - base) & ((1u << swizzle) - 1)) << 4;
    }
};

// The chunks of an operand, in order: those of row 0, of row 1 … or of line 0, of line 1 …
struct Operands {
    const std::byte* chunk[kMostChunks];
    bool transposed;
};

// c += sign · a · b, where c has 64 rows of n columns, in blocks of 16 columns: c[column / 16][row][column % 16]. A sum
// runs over k in order and is rounded at each step, as that of mma.sync (tensor.cpp). Only the rows of the warps in
// `warps` are computed.
void multiply_warpgroup(ptx::Type a_type, ptx::Type b_type, float* c, const Operands& a, const Operands& b, uint32_t n,
                        bool negative, uint32_t warps);

void end_wgmma(Block& b);  // the block ends
// Of a warp that waits for others of its warpgroup: says for which ones, and returns whether one of these has ended.
std::string describe_wgmma(const Warp& w);
bool wgmma_lacks_warp(const Warp& w);

}  // namespace emu
