// idle_reads.h - loads from shared memory that nobody wrote, reported where their value does harm
#pragma once
#include "exec.h"

namespace emu {

// Whether the value of this load is followed; other instructions that read such bytes are findings at once.
bool follows_idle_read(const Warp& w, const Instr* i);
// Begins to follow the registers that a lane loads from bytes which nobody wrote. `finding` is reported when they do
// harm.
void hold_idle_read(Warp& w, const Instr* i, int lane, const uint8_t* shadow, uint32_t size, const Finding& finding);
// Instead of the scheduler's own loop, while Warp::idle is not empty.
const Instr* run_following(Warp& w, const Instr* i, const Instr* begin, uintptr_t span, int64_t& budget);

}  // namespace emu
