// checker.cpp - see checker.h
#include "checker.h"

#include "access.h"
#include "handlers.h"
#include "races.h"

namespace emu {

namespace op {
const Instr* check_set(Warp&, const Instr* i) { return i + 1; }
const Instr* mark_set(Warp& w, const Instr* i) {
    w.pred(i->d) |= w.mask;
    return i + 1;
}
}  // namespace op

void checker_launch(Launch&) {}
void checker_block(Block&) {}
void checker_barrier(Block&, int) {}
void checker_warp_sync(Warp&) {}
void checker_fence(Warp&, bool) {}
void check_global(Warp&, const Instr*, uint32_t, Touch, const Reach&) {}
void check_shared(Warp&, const Instr*, uint32_t, Touch, const Reach&) {}
void note_pending(Warp&, const AsyncCopy&, bool) {}
void check_local(Warp&, const Instr*, uint32_t, Touch, const Reach&) {}
void note_api_access(Address, size_t, bool, const char*, uint32_t) {}
void forget_races(Address, size_t) {}
void Memory::set_order(OrderedBefore) {}

}  // namespace emu
