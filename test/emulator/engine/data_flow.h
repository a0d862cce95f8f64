// data_flow.h - what an instruction does with its operands, for the checks that follow uninitialised values
#pragma once
#include "ptx.h"

namespace emu {

// Returns whether an uninitialised operand matters: in memory, an address, a branch or a barrier. Elsewhere it is only
// passed on. nvcc itself adds and moves unset registers when the result is not used.
inline bool is_sink(const ptx::Instruction& i) {
    for (const char* s :
         {"st", "atom", "red", "ld", "bra", "brx", "bar", "barrier", "cp", "ldmatrix", "stmatrix", "wgmma"})
        if (i.mods[0] == s) return true;
    return false;
}

// Returns whether values are followed from the operands to the result. Values from other lanes or from calls are not.
inline bool is_followed(const ptx::Instruction& i) {
    for (const char* s : {"shfl", "vote", "match", "redux", "mma", "wmma", "call", "activemask", "elect", "movmatrix"})
        if (i.mods[0] == s) return false;
    return !is_sink(i);
}

// Returns whether this is a store or load that may access shared or local memory, the memory of a block. st.async is
// none: it stores later.
inline bool is_block_access(const ptx::Instruction& i, const char* opcode) {
    if (i.mods[0] != opcode) return false;
    for (const auto& m : i.mods)
        if (m == "global" || m == "const" || m == "async" || m.starts_with("param")) return false;
    return true;
}
inline bool stores_to_block(const ptx::Instruction& i) { return is_block_access(i, "st"); }
inline bool loads_from_block(const ptx::Instruction& i) { return is_block_access(i, "ld"); }

template <class F> void each_register(const ptx::Operand& o, F f) {
    if (o.reg >= 0) f(o.reg);
    if (o.also >= 0) f(o.also);
    for (const auto& p : o.parts) each_register(p, f);
}

}  // namespace emu
