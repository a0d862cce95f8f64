// idle_reads.h - loads from shared memory that nobody wrote, reported where their value does harm
#pragma once
#include "exec.h"

namespace emu {

// Whether the value of this load is followed; other instructions that read such bytes are findings at once.
bool follows_idle_read(const Warp& w, const Instr* i);
// Of a lane whose bytes are not all written, or hold what nobody wrote: from here on its registers are followed.
// finding: what is to be said when they do harm.
void hold_idle_read(Warp& w, const Instr* i, int lane, const uint8_t* shadow, uint32_t size, const Finding& finding);
// Instead of the scheduler's own loop, while Warp::idle is not empty.
const Instr* run_following(Warp& w, const Instr* i, const Instr* begin, uintptr_t span, int64_t& budget);

}  // namespace emu
