// checker.h - what --check all checks besides bounds: bytes that nobody wrote, races in shared and global memory
#pragma once
#include "access.h"
#include "exec.h"

namespace emu {

// Bits of the shadow of a byte of shared or local memory: it has been written; a cp.async to it is under way (2); the
// value that was written is one that nobody set. The upper bits then say which of Block::idle_reads it came from,
// counted from 1, and are 0 for a register that never was set.
constexpr uint8_t kWritten = 1, kUnset = 4;
constexpr int kReadShift = 3;

// Returns the shadow of `bytes` bytes at `offset` from a lane's address when that is in shared or local memory, else
// null.
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
