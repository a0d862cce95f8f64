// bulk.h - bulk copies of the async proxy, and the tensor maps that describe some of them
#pragma once
#include <string>

#include "exec.h"
#include "ptx.h"

namespace emu {

// What a CUtensorMap holds. The real one is opaque, and this one fits into its 128 bytes.
struct TensorMap {
    uint64_t magic;
    uint64_t address;
    uint64_t strides[4];  // bytes from one index of dimension 1, 2 … to the next
    uint32_t last[5];     // the largest index of each dimension
    uint16_t box[5];
    uint8_t rank, element;  // the number of dimensions, and the bytes of an element
    uint8_t swizzle;        // 0, 1, 3, 7: none, 32, 64 and 128 bytes
    uint8_t fill;           // the byte that stands outside of the tensor
    ptx::Type type;         // of an element
    static constexpr uint64_t kMagic = 0x70616d726f736e74;
};

// Where 16 bytes of shared memory lie when their address is swizzled. In the modes of 32, 64 and 128 bytes the lowest
// 1, 2 or 3 bits of the address's 128-byte row (bits 7 to 9) are added modulo 2 to those of its 16 bytes (bits 4 to 6).
inline uint64_t swizzled(uint64_t address, uint32_t mask) { return address ^ (address >> 7 & mask) << 4; }

void poll_bulk(Block& b, uint64_t barrier);  // a thread tests this mbarrier
void end_bulk(Block& b);                     // the block ends

// atomic.cpp
enum AtomicOp { kAdd, kMin, kMax, kAnd, kOr, kXor, kInc, kDec, kExch };
AtomicOp atomic_op(const ptx::Instruction& i);  // the one that a modifier names
// What a bulk copy to global memory does to elements of this type; null when there is no such operation.
Reduction reduction_of(AtomicOp op, ptx::Type t);

// mbarrier.cpp: a copy has brought these bytes.
void complete_transaction(const BulkCopy& copy);
// Remembers that a wait failed, and ends the warp's turn. The group goes on at `next`.
const Instr* failed_wait(Warp& w, const Instr* i, const Instr* next, uint64_t barrier);
// Says what the mbarrier still waits for.
std::string describe_barrier(const Block& b, uint64_t barrier);

}  // namespace emu
