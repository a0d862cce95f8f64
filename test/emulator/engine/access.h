// access.h - finds and checks the bytes that the lanes of a warp access
#pragma once
#include "exec.h"
#include "memory.h"
#include "vectors.h"

namespace emu {

// A state space of PTX.
enum class Window : uint8_t { Global = 0, Shared = 1, Local = 2, Param = 3, Generic = 4 };

constexpr uint8_t kAddress32 = 32;  // Instr::flags: the base register has 32 bits

// The bytes that a memory instruction of a warp touches. Two shapes matter for speed: Contiguous, lane after lane
// without a gap, and Uniform, all lanes at one place. Otherwise each lane has its own pointer.
struct Reach {
    enum Shape : uint8_t { Scattered, Contiguous, Uniform };
    Shape shape      = Scattered;
    uint32_t mask    = 0;  // the lanes that may touch their bytes
    std::byte* first = nullptr;
    Block* of        = nullptr;  // the block whose shared memory it is. Null for other memory, and when blocks differ
    alignas(64) std::byte* at[kLanes];
    alignas(64) uint64_t addr[kLanes];  // the lane's address inside of its window

    // The bytes of one lane, when every lane touches `size` of them.
    std::byte* place(int lane, size_t size) const {
        return shape == Scattered ? at[lane] : shape == Uniform ? first : first + size_t(lane) * size;
    }
};

// The kind of an access, which decides how the checker treats it.
// BulkLoad: a bulk copy takes bytes from global memory, where unwritten ones may be among them.
// Reduce: the reduction of a bulk copy, which is atomic, but tells its thread nothing of what others did.
enum class Touch : uint8_t { Load, Store, Atomic, Reduce, AsyncCopy, VolatileLoad, VolatileStore, BulkLoad };
inline bool writes(Touch t) {
    return t == Touch::Store || t == Touch::Atomic || t == Touch::Reduce || t == Touch::AsyncCopy ||
           t == Touch::VolatileStore;
}

// Returns the block of the cluster to which an address of shared memory belongs, and takes the block's rank out of the
// address. It is null when the cluster has no such block.
inline Block* block_at(const Warp& w, uint64_t& at) {
    const uint64_t rank = at >> kRankShift;
    at &= (1u << kRankShift) - 1;
    if (!rank) return w.block;
    const auto& blocks = w.block->cluster->blocks;
    return rank <= blocks.size() ? blocks[rank - 1].get() : nullptr;
}
// Takes the rank of the block out of an address of its own shared memory.
inline uint64_t own_offset(const Block& b, uint64_t at) {
    return b.window && at >> kRankShift == b.rank + 1 ? at - b.window : at;
}
std::string name_of(const Block& b);                  // "block (1,0,0)"
std::string of_block(const Warp& w, const Block& b);  // " of block (1,0,0)", or nothing for the warp's own block

// These compute each lane's address, base register i->a plus i->imm, and check `size` bytes there. The register has 32
// bits when i->flags has kAddress32; without one the address is absolute.
void reach_global(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r);
void reach_shared(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r);
void reach_any(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r);  // local, param and generic addresses

// Does the same for addresses that are in r.addr already, for the lanes in r.mask.
void reach_addresses(Warp& w, const Instr* i, Window window, uint32_t size, Touch touch, Reach& r);

// Finds and checks any number of bytes of global memory that one lane touches. Returns null after a finding. counts:
// whether the profile counts them.
std::byte* reach_range(Warp& w, const Instr* i, int lane, Address a, uint32_t bytes, Touch touch, bool counts = true);

// The fast path of --check all, for adjacent bytes that a warp touches in the order of its lanes. True means that
// nothing is wrong and the access has been recorded. Otherwise the slow path checks it again and reports what is wrong.
bool watch_global(Warp& w, Address first, uint32_t size, bool write);
bool watch_shared(Warp& w, uint32_t first, uint32_t size, bool write);

// The fastest path, for 32 adjacent lanes in the allocation that this instruction touched last. Returns the address of
// the first lane, or null when the access is of another kind or may have to be reported.
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
    const uint32_t first = a[0] + uint32_t(i->imm) - w.block->window;
    const bool good      = (uint64_t(first) + (uint64_t(size) << 5) <= w.block->shared_bytes) & !(first & (size - 1));
    if (!good || !in_a_row(a, __builtin_ctz(size))) return nullptr;
    if (w.worker->checking && !watch_shared(w, first, size, write)) return nullptr;
    return w.block->shared.data.get() + first;
}

// pointers.cpp: returns the allocation into which the pointer behind this access points. When there are several such
// pointers and one points into `in`, it returns `in`. It returns null when the allocation is not known.
const Allocation* pointed_to(Warp& w, const Instr* i, const Allocation* in);

// Returns one lane's bytes at a generic address, for builtins, or null when they are outside of every allocation.
std::byte* lane_bytes(Warp& w, int lane, uint64_t address, uint32_t bytes);

// checker.cpp: called for --check all after the check of bounds.
void check_global(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
void check_shared(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
// Marks shared bytes that a cp.async is going to write. They must not be touched before its wait.
void note_pending(Warp& w, const AsyncCopy& copy, bool pending);
// matrix_ops.cpp: carries out all cp.async of the active lanes.
void finish_copies(Warp& w);
void forget_local(Warp& w, uint32_t from, uint32_t bytes);  // makes the frame of a call uninitialised
void check_local(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
// counters.cpp: called for --profile.
void count_global(Warp& w, uint32_t size, Touch touch, const Reach& r);
void count_shared(Warp& w, uint32_t size, Touch touch, const Reach& r);
void count_local(Warp& w, uint32_t size, const Reach& r);

}  // namespace emu
