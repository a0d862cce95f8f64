// data_flow.h - what an instruction does with its operands, for the checks that follow values which nobody wrote
#pragma once
#include "ptx.h"

namespace emu {

// Where a value that nobody wrote does harm: memory, an address, a branch. Elsewhere it is only passed on; nvcc itself
// adds and moves registers that were never set when nothing comes of it.
inline bool is_sink(const ptx::Instruction& i) {
    for (const char* s : {"st", "atom", "red", "ld", "bra", "brx", "bar", "barrier", "cp", "ldmatrix", "stmatrix"})
        if (i.mods[0] == s) return true;
    return false;
}

// Whether a value is followed through the instruction; what other lanes or a call contribute is not.
inline bool is_followed(const ptx::Instruction& i) {
    for (const char* s : {"shfl", "vote", "match", "redux", "mma", "wmma", "call", "activemask", "elect", "movmatrix"})
        if (i.mods[0] == s) return false;
    return !is_sink(i);
}

// Stores and loads of what may be shared or local memory.
inline bool is_at_home(const ptx::Instruction& i, const char* opcode) {
    if (i.mods[0] != opcode) return false;
    for (const auto& m : i.mods)
        if (m == "global" || m == "const" || m.starts_with("param")) return false;
    return true;
}
inline bool stores_at_home(const ptx::Instruction& i) { return is_at_home(i, "st"); }
inline bool loads_from_home(const ptx::Instruction& i) { return is_at_home(i, "ld"); }

template <class F> void each_register(const ptx::Operand& o, F f) {
    if (o.reg >= 0) f(o.reg);
    if (o.also >= 0) f(o.also);
    for (const auto& p : o.parts) each_register(p, f);
}

}  // namespace emu
