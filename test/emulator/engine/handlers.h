// handlers.h - the handlers that decoder and scheduler use by name; the instruction table has all others
#pragma once
#include "exec.h"

namespace emu {

class Builder;

namespace op {

// control.cpp
const Instr* guarded(Warp& w, const Instr* i);  // runs i->inner for the lanes whose guard holds
const Instr* branch(Warp& w, const Instr* i);
const Instr* branch_guarded(Warp& w, const Instr* i);
const Instr* branch_table(Warp& w, const Instr* i);
const Instr* leave(Warp& w, const Instr* i);             // exit, or ret of a kernel
const Instr* return_to_caller(Warp& w, const Instr* i);  // ret of a device function

// move.cpp
Handler resize(int from_bytes, int to_bytes, bool sign);
Handler add_offset(int bytes);
const Instr* local_base(Warp& w, const Instr* i);
Handler shared_address(int bytes);
void special(Builder& b, Ref to, const std::string& name, int bytes);
void special_pred(Builder& b, Ref to, const std::string& name);  // a special register that is a predicate

// checker.cpp
const Instr* check_set(Warp& w, const Instr* i);  // a: the predicate of the lanes that are set
const Instr* store_unset(Warp& w, const Instr* i);
const Instr* load_unset(Warp& w, const Instr* i);
const Instr* mark_set(Warp& w, const Instr* i);
const Instr* mark_chosen(Warp& w, const Instr* i);

// wgmma.cpp
const Instr* touch_wgmma(Warp& w, const Instr* i);

}  // namespace op

// engine.cpp: the groups of a warp
Group& split(Warp& w, uint32_t mask, const Instr* pc);  // moves these lanes from the running group to a new one
Frame* new_frame(Worker& worker, Function& f);
void release_frame(Worker& worker, Frame* frame);
// For shfl and the like. Returns true when every live lane of `members` has arrived; w.mask then has all of them.
// Otherwise the group waits, and the handler must return kStop.
bool gather(Warp& w, const Instr* i, uint32_t members);
// The same for mma, ldmatrix, wgmma and the like, which need all lanes with which the warp began. It is a finding if
// one has ended.
bool gather_warp(Warp& w, const Instr* i);
void arrive(Warp& w, const Instr* i, int barrier, uint32_t expected, bool waits);
void leave_lanes(Warp& w);
// For an instruction that waits: ends the warp's turn, so that others run, and goes on at `next` in its next one.
const Instr* give_way(Warp& w, const Instr* next);
bool run_cluster(Cluster& c, int64_t budget);  // returns whether all its blocks have ended
void end_block(Block& b);                      // in launch.cpp, when its threads have ended. A second call does nothing
// The barrier of a cluster: lanes arrive, and later they wait.
void arrive_in_cluster(Warp& w, const Instr* i, bool aligned);
bool wait_in_cluster(Warp& w, const Instr* i);  // returns whether the group goes on
bool aligned_barrier(const Instr* i);
void finish_reduction(Group& g, uint32_t reduced);  // control.cpp: writes the result of bar.red

}  // namespace emu
