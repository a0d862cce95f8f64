// checker.h - what --check all checks besides bounds: uninitialised memory, and races in shared and global memory
#pragma once
#include "access.h"
#include "exec.h"

namespace emu {

// The bits of the shadow of a byte in shared or local memory. kWritten: it has been written. 2: a cp.async is going to
// write it. kUnset: the value that was written was unset itself. The upper bits are then the index of the value's
// origin in Block::idle_reads, counted from 1, or 0 when it came from a register that was never set.
constexpr uint8_t kWritten = 1, kUnset = 4;
constexpr int kReadShift = 3;

// Returns the shadow of `bytes` bytes at `offset` from a lane's address, or null outside of shared and local memory.
uint8_t* block_shadow(Warp& w, const Instr* i, int lane, uint32_t offset, uint32_t bytes, Window& window);

// What the async proxy does for --check all. A byte of shared memory that it is going to write or read has bit 2 in its
// shadow, and async_reads tells the two apart.
constexpr uint64_t kNoClash = ~0ull;
inline bool async_read(const Block& b, uint64_t at) { return !b.async_reads.empty() && b.async_reads[at / 16]; }
// Returns the first byte that an unfinished asynchronous operation is going to write, or also read when `write` is set.
uint64_t clash_with_copies(const Block& b, uint64_t first, uint32_t bytes, bool write);
std::string clash_text(const Block& b, uint64_t at);
void mark_async_reads(Block& b, uint64_t first, uint32_t bytes, int change);  // change: 1 at the start, -1 at the end
// One lane touches a range of the shared memory of block b.
void touch_range(Warp& w, const Instr* i, int lane, Block& b, uint64_t first, uint32_t bytes, Touch touch);
void check_async_read(Warp& w, const Instr* i, int lane, uint64_t first, uint32_t bytes, const char* reader);

void checker_launch(Launch& l);
void checker_launch_end(Launch& l);
void checker_cluster(Cluster& c);        // called when it has been made
void checker_barrier(Block& b, int id);  // called when a barrier of the block opens
void checker_arrival(Warp& w, int id);   // called when lanes arrive at a barrier and do not wait
void report_unwritten(Block& b);         // called at barriers and at the end of the block
void checker_warp_sync(Warp& w);         // __syncwarp
void checker_exchange(Warp& w);          // shfl, vote, match and redux of the lanes in w.mask
void checker_fence(Warp& w, bool device_wide);

// counters.cpp
void count_launch(Launch& l, std::vector<std::unique_ptr<Worker>>& workers, int n, double seconds);

}  // namespace emu
