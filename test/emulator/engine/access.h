// access.h - from the lanes' addresses to the bytes behind them, checked
#pragma once
#include "exec.h"
#include "memory.h"
#include "vectors.h"

namespace emu {

enum class Window : uint8_t { Global = 0, Shared = 1, Local = 2, Param = 3, Generic = 4 };

constexpr uint8_t kAddress32 = 32;  // Instr::flags: the base register has 32 bits

// Where a memory instruction of a warp goes. The two shapes that matter for speed are told apart: lane after lane
// without a gap, and all lanes at one place; otherwise each lane has its own pointer.
struct Reach {
    enum Shape : uint8_t { Scattered, Contiguous, Uniform };
    Shape shape      = Scattered;
    uint32_t mask    = 0;  // lanes that may touch their bytes
    std::byte* first = nullptr;
    alignas(64) std::byte* at[kLanes];
    alignas(64) uint64_t addr[kLanes];  // as in its window
};

// What kind of touching: also decides what the checker does with it.
enum class Touch : uint8_t { Load, Store, Atomic, AsyncCopy, VolatileLoad, VolatileStore };
inline bool writes(Touch t) {
    return t == Touch::Store || t == Touch::Atomic || t == Touch::AsyncCopy || t == Touch::VolatileStore;
}

// Base register i->a (32 bits wide when i->flags has kAddress32; none: absolute) plus i->imm, `size` bytes per lane.
void reach_global(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r);
void reach_shared(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r);
void reach_any(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r);  // local, param, generic

// The same from addresses already in r.addr (r.mask: lanes), in a window.
void reach_addresses(Warp& w, const Instr* i, Window window, uint32_t size, Touch touch, Reach& r);

// --check all for bytes in a row that one warp reads or writes in order of its lanes: true when nothing is wrong, and
// the access has been recorded; else the long way does it again, and says what is wrong.
bool watch_global(Warp& w, Address first, uint32_t size, bool write);
bool watch_shared(Warp& w, uint32_t first, uint32_t size, bool write);

// The shortest way: where all 32 lanes go when they follow each other in the allocation this instruction touched last
// and there is nothing to say about it, else null.
inline std::byte* straight_global(Warp& w, const Instr* i, uint32_t size, bool write) {
    if (w.mask != kAll || w.worker->profiling || i->a.none()) return nullptr;
    const uint64_t* a    = w.reg<uint64_t>(i->a);
    const uint64_t first = a[0] + uint64_t(i->imm);
    const Site& site     = w.worker->sites[i->site];
    const uint64_t have = site.end - site.begin, from = first - site.begin, all = uint64_t(size) << 5;
    const bool good = (have >= all) & (from <= have - all) & !(first & (size - 1));
    if (!good || !in_a_row(a, __builtin_ctz(size))) return nullptr;
    if (w.worker->checking && site.delta && !watch_global(w, first, size, write)) return nullptr;
    return reinterpret_cast<std::byte*>(first + site.delta);
}
inline std::byte* straight_shared(Warp& w, const Instr* i, uint32_t size, bool write) {
    if (w.mask != kAll || w.worker->profiling || !(i->flags & kAddress32)) return nullptr;
    const uint32_t* a    = w.reg<uint32_t>(i->a);
    const uint32_t first = a[0] + uint32_t(i->imm);
    const bool good      = (uint64_t(first) + (uint64_t(size) << 5) <= w.block->shared_bytes) & !(first & (size - 1));
    if (!good || !in_a_row(a, __builtin_ctz(size))) return nullptr;
    if (w.worker->checking && !watch_shared(w, first, size, write)) return nullptr;
    return w.block->shared.data.get() + first;
}

// pointers.cpp: the allocation that the pointer behind this access leads to, `in` if that is one of several; null when
// that is not known.
const Allocation* pointed_to(Warp& w, const Instr* i, const Allocation* in);

// One lane's bytes at a generic address, for builtins; null when they cannot be touched (a finding is then out).
std::byte* lane_bytes(Warp& w, int lane, uint64_t address, uint32_t bytes);

// checker.cpp, called for Check::All after the bounds were found good.
void check_global(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
void check_shared(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
// Shared bytes that a cp.async is going to write: nobody may touch them before its wait.
void note_pending(Warp& w, const AsyncCopy& copy, bool pending);
// matrix_ops.cpp: carries out all cp.async of the active lanes.
void finish_copies(Warp& w);
void forget_local(Warp& w, uint32_t from, uint32_t bytes);  // a call's fresh frame
void check_local(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
// counters.cpp, called for --profile.
void count_global(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
void count_shared(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
void count_local(Warp& w, uint32_t size, const Reach& r);

}  // namespace emu
