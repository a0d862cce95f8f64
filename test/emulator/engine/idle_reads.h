// idle_reads.h - idle reads: loads of uninitialised shared memory, which are reported only when the value is used
#pragma once
#include "exec.h"

namespace emu {

// Returns whether this is a load whose value is followed. Other reads of such bytes are findings at once.
bool follows_idle_read(const Warp& w, const Instr* i);
// Begins to follow the registers that a lane loads from uninitialised bytes. `finding` is reported when they are used.
void hold_idle_read(Warp& w, const Instr* i, int lane, const uint8_t* shadow, uint32_t size, const Finding& finding);
// Runs instructions instead of the scheduler's own loop, while Warp::idle is not empty.
const Instr* run_following(Warp& w, const Instr* i, const Instr* begin, uintptr_t span, int64_t& budget);

}  // namespace emu
