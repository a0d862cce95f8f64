// checker.h - what --check all adds to bounds: bytes nobody wrote, races in shared and global memory
#pragma once
#include "access.h"
#include "exec.h"

namespace emu {

// Shadow of a byte of shared or local memory: written; it holds what nobody wrote, the upper bits then saying which of
// Block::idle_reads it came from, counted from 1 (0: a register that never was set). A cp.async under way is 2.
constexpr uint8_t kWritten = 1, kUnset = 4;
constexpr int kReadShift = 3;

// The shadow of `bytes` bytes, `offset` behind where a memory instruction's lane goes when that is shared or local
// memory, else null.
uint8_t* home_shadow(Warp& w, const Instr* i, int lane, uint32_t offset, uint32_t bytes, Window& window);

void checker_launch(Launch& l);
void checker_block(Block& b);
void checker_barrier(Block& b, int id);  // a barrier of the block opens
void report_unwritten(Block& b);         // at barriers and at the end
void checker_warp_sync(Warp& w);         // __syncwarp
void checker_exchange(Warp& w);          // shfl, vote, match, redux of the lanes w.mask
void checker_fence(Warp& w, bool device_wide);

// counters.cpp
void count_launch(Launch& l, std::vector<std::unique_ptr<Worker>>& workers, int n, double seconds);

}  // namespace emu
