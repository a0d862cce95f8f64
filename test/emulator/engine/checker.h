// checker.h - what --check all adds to bounds: bytes nobody wrote, races in shared and global memory
#pragma once
#include "exec.h"

namespace emu {

void checker_launch(Launch& l);
void checker_block(Block& b);
void checker_barrier(Block& b, int id);           // a barrier of the block opens
void report_unwritten_shared(Block& b);            // at barriers and at the end
void checker_warp_sync(Warp& w);                  // __syncwarp
void checker_fence(Warp& w, bool device_wide);

// counters.cpp
void count_launch(Launch& l, std::vector<std::unique_ptr<Worker>>& workers, int n, double seconds);

}  // namespace emu
