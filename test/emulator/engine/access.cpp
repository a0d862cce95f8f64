// access.cpp - see access.h
#include "access.h"

#include "checker.h"
#include "handlers.h"
#include "options.h"

namespace emu {
namespace {

const char* verb(Touch t) {
    return t == Touch::Atomic || t == Touch::Reduce ? "atomic operation on"
           : t == Touch::AsyncCopy                  ? "cp.async of"
           : writes(t)                              ? "write of"
                                                    : "read of";
}

void bad_lane(Warp& w, const Instr* i, Kind kind, Fault fault, int lane, uint64_t address, uint32_t size, Touch touch,
              const std::string& why, const std::string& allocation) {
    const std::string what =
        std::string(verb(touch)) + " " + std::to_string(size) + " bytes at " + hex(address) + ": " + why;
    if (options().check == Check::Off) {
        fail_launch(w, fault, what);
        return;
    }
    report_unwritten(*w.block);  // an uninitialised value may be the reason for a wrong address
    Finding f    = finding_at(w, i, kind, lane, what);
    f.address    = address;
    f.allocation = allocation;
    report(f);
}

// Checks the lanes one by one. Returns those whose access is good and whose pointer in r.at has been set.
uint32_t slow_global(Warp& w, const Instr* i, uint32_t size, uint32_t align, Touch touch, Reach& r, uint32_t lanes) {
    Memory& memory = Memory::get();
    uint32_t good  = 0;
    uint32_t left  = lanes;
    while (left) {
        const int l      = __builtin_ctz(left);
        const uint64_t a = r.addr[l];
        left &= left - 1;
        if (a & (align - 1)) {
            bad_lane(w, i, Kind::Misaligned, Fault::MisalignedAddress, l, a, size, touch,
                     "the address is not a multiple of " + std::to_string(align), memory.describe(a));
            continue;
        }
        const Allocation* in  = memory.find(a);
        const Allocation* own = pointed_to(w, i, in);
        if (const int device = w.block->launch->config.device; in && !in->usable_on(device)) {
            bad_lane(w, i, Kind::OutOfBounds, Fault::IllegalAddress, l, a, size, touch,
                     wrong_device(*in, device).substr(2), memory.describe(a));
            continue;
        }
        if (in && own && in != own) {
            bad_lane(w, i, Kind::OutOfBounds, Fault::IllegalAddress, l, a, size, touch,
                     "in another allocation than its pointer points to",
                     memory.describe(a) + "\n    its pointer points to " + memory.describe(own->begin));
            continue;
        }
        if (in && in->holds(a, size)) {
            Site& site = w.worker->sites[i->site];
            site       = {in->begin, in->end(), memory.in_arena(in->begin) ? memory.work_delta : 0};
            for (uint32_t rest = left | 1u << l; rest; rest &= rest - 1) {  // handles all lanes in this allocation
                const int k = __builtin_ctz(rest);
                if (!in->holds(r.addr[k], size) || r.addr[k] & (align - 1)) continue;
                r.at[k] = reinterpret_cast<std::byte*>(r.addr[k] + site.delta);
                good |= 1u << k;
                left &= ~(1u << k);
            }
            continue;
        }
        const Allocation* freed = in ? nullptr : memory.find_freed(a);
        if (freed)
            bad_lane(w, i, Kind::UseAfterFree, Fault::IllegalAddress, l, a, size, touch,
                     "the memory has been freed by " + freed->freed_by, memory.describe(a));
        else
            bad_lane(w, i, Kind::OutOfBounds, Fault::IllegalAddress, l, a, size, touch, "outside of every allocation",
                     memory.describe(a, own));
    }
    return good;
}

// Fills r.addr with base + displacement for all lanes. To compute only the active ones would take longer.
inline void addresses(Warp& w, const Instr* i, Reach& r) {
    const auto add = uint64_t(i->imm);
    if (i->a.none()) {
        for (int l = 0; l < kLanes; l++) r.addr[l] = add;
    } else if (i->flags & kAddress32) {
        const uint32_t* a = w.reg<uint32_t>(i->a);
        for (int l = 0; l < kLanes; l++) r.addr[l] = uint32_t(a[l] + uint32_t(add));
    } else {
        const uint64_t* a = w.reg<uint64_t>(i->a);
        for (int l = 0; l < kLanes; l++) r.addr[l] = a[l] + add;
    }
}

inline Reach::Shape shape_of(const Reach& r, uint32_t mask, uint32_t size) {
    if (mask == kAll) {
        const uint64_t first = r.addr[0];
        const int shift      = __builtin_ctz(size);  // sizes are powers of two, and a 64-bit multiplication is slow
        uint64_t gaps = 0, moves = 0;
        for (int l = 0; l < kLanes; l++) {
            gaps |= r.addr[l] ^ (first + (uint64_t(l) << shift));
            moves |= r.addr[l] ^ first;
        }
        return !gaps ? Reach::Contiguous : !moves ? Reach::Uniform : Reach::Scattered;
    }
    const uint64_t first = r.addr[__builtin_ctz(mask)];
    uint64_t moves       = 0;
    for (int l = 0; l < kLanes; l++) moves |= mask >> l & 1 ? r.addr[l] ^ first : 0;
    return moves ? Reach::Scattered : Reach::Uniform;
}

inline void global_from_addresses(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r) {
    const Site& site    = w.worker->sites[i->site];
    const uint64_t have = site.end - site.begin, room = have - size;
    const int lowest    = __builtin_ctz(r.mask);
    const uint64_t from = r.addr[lowest] - site.begin;
    r.shape             = shape_of(r, r.mask, size);
    bool good           = have >= size;
    uint32_t elsewhere  = 0;  // lanes that touch registered memory of the host, which has no shadow and no records
    if (r.shape == Reach::Contiguous)
        good &= from <= room && have - from >= uint64_t(size) * kLanes && !(r.addr[lowest] & (size - 1));
    else if (r.shape == Reach::Uniform) good &= from <= room && !(r.addr[lowest] & (size - 1));
    else {
        uint64_t bad = 0;
        for (int l = 0; l < kLanes; l++)
            bad |= r.mask >> l & 1 ? uint64_t(r.addr[l] - site.begin > room) | (r.addr[l] & (size - 1)) : 0;
        good &= bad == 0;
    }
    if (!good) [[unlikely]] {
        r.shape = Reach::Scattered;
        r.mask  = slow_global(w, i, size, size, touch, r, r.mask);
        each_lane(r.mask, [&](int l) { elsewhere |= uint32_t(!Memory::get().in_arena(r.addr[l])) << l; });
    } else {
        r.first = reinterpret_cast<std::byte*>(r.addr[lowest] + site.delta);
        if (r.shape == Reach::Scattered)
            for (int l = 0; l < kLanes; l++) r.at[l] = reinterpret_cast<std::byte*>(r.addr[l] + site.delta);
    }
    const Launch& launch = *w.block->launch;
    if (launch.check_all && r.mask & ~elsewhere) {
        r.mask ^= elsewhere;
        check_global(w, i, size, touch, r);
        r.mask ^= elsewhere;
    }
    if (launch.profiling && r.mask) count_global(w, size, touch, r);
}

void cluster_from_addresses(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r);

// The addresses are those of the shared memory of block b.
inline void shared_from_addresses(Warp& w, Block& b, const Instr* i, uint32_t size, Touch touch, Reach& r) {
    const uint64_t bytes = b.shared_bytes;
    if (w.block->window)
        for (int l = 0; l < kLanes; l++) r.addr[l] = own_offset(*w.block, r.addr[l]);
    uint64_t bad = 0;
    for (int l = 0; l < kLanes; l++)
        bad |= r.mask >> l & 1
                   ? uint64_t(r.addr[l] + size > bytes) | uint64_t(r.addr[l] > bytes) | (r.addr[l] & (size - 1))
                   : 0;
    if (bad) [[unlikely]] {
        uint64_t ranks = 0;
        each_lane(r.mask, [&](int l) { ranks |= r.addr[l] >> kRankShift; });
        // Where the cluster has one block, an address beyond it is more likely a negative index than a wrong rank.
        const uint64_t highest = w.block->cluster->blocks.size() > 1 ? 255 : 1;
        if (ranks && ranks <= highest) return cluster_from_addresses(w, i, size, touch, r);
        const uint32_t lanes = r.mask;
        r.mask               = 0;
        each_lane(lanes, [&](int l) {
            const uint64_t a = r.addr[l], before = (uint64_t(1) << 32) - a;
            const std::string have = "the block has " + std::to_string(bytes) + " bytes of shared memory (" +
                                     std::to_string(b.launch->config.dynamic_shared) + " of them dynamic)";
            if (a & (size - 1))
                bad_lane(w, i, Kind::Misaligned, Fault::MisalignedAddress, l, a, size, touch,
                         "the shared address is not a multiple of " + std::to_string(size), have);
            else if (a > bytes || a + size > bytes)
                bad_lane(w, i, Kind::OutOfBounds, Fault::IllegalAddress, l, a, size, touch,
                         (before <= 1u << kRankShift
                              ? std::to_string(before) + " bytes before the beginning of shared memory"
                              : "beyond the end of shared memory") +
                             of_block(w, b),
                         have);
            else r.mask |= 1u << l;
        });
        if (!r.mask) return;
    }
    std::byte* base = b.shared.data.get();
    r.of            = &b;
    r.shape         = shape_of(r, r.mask, size);
    r.first         = base + r.addr[__builtin_ctz(r.mask)];
    if (r.shape == Reach::Scattered)
        for (int l = 0; l < kLanes; l++) r.at[l] = base + r.addr[l];
    if (b.launch->check_all) check_shared(w, i, size, touch, r);
    if (b.launch->profiling) count_shared(w, size, touch, r);
}

// Some of the addresses name a block of the cluster by its rank.
void cluster_from_addresses(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r) {
    uint32_t good = 0, left = r.mask;
    while (left) {
        const int first     = __builtin_ctz(left);
        const uint64_t rank = r.addr[first] >> kRankShift;
        Reach part;
        part.mask = 0;
        each_lane(left, [&](int l) { part.mask |= uint32_t(r.addr[l] >> kRankShift == rank) << l; });
        left &= ~part.mask;
        uint64_t at = r.addr[first];
        Block* of   = block_at(w, at);
        if (!of) {
            bad_lane(w, i, Kind::OutOfBounds, Fault::IllegalAddress, first, at, size, touch,
                     "in the shared memory of the block of rank " + std::to_string(rank - 1) +
                         ", but the cluster has " + std::to_string(w.block->cluster->blocks.size()) + " blocks",
                     "");
            continue;
        }
        if (of->done) {
            bad_lane(w, i, Kind::UseAfterFree, Fault::IllegalAddress, first, at, size, touch,
                     "in the shared memory of " + name_of(*of) + " of the cluster, which has ended", "");
            continue;
        }
        for (int l = 0; l < kLanes; l++) part.addr[l] = r.addr[l] & ((1u << kRankShift) - 1);
        shared_from_addresses(w, *of, i, size, touch, part);
        each_lane(part.mask, [&](int l) { r.at[l] = part.place(l, size); });
        good |= part.mask;
    }
    r.shape = Reach::Scattered;
    r.mask  = good;
}

void local_from_addresses(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r) {
    const Block& b       = *w.block;
    const uint32_t lanes = r.mask;
    // Each thread has a stack of frames. The memory above the frame of the running function is not in use.
    const uint64_t top   = w.frame->local_end();
    r.mask               = 0;
    r.shape              = Reach::Scattered;
    each_lane(lanes, [&](int l) {
        const uint64_t a = r.addr[l];
        if (a & (size - 1))
            return bad_lane(w, i, Kind::Misaligned, Fault::MisalignedAddress, l, a, size, touch,
                            "the local address is not a multiple of " + std::to_string(size), "");
        if (a > top || a + size > top)
            return bad_lane(w, i, Kind::OutOfBounds, Fault::IllegalAddress, l, a, size, touch,
                            "beyond the thread's local memory",
                            "the thread has " + std::to_string(top) + " bytes of local memory here");
        r.at[l] = b.local.data.get() + size_t(thread_of(w, l)) * b.local_stride + a;
        r.mask |= 1u << l;
    });
    if (b.launch->check_all && r.mask) check_local(w, i, size, touch, r);
    if (b.launch->profiling && r.mask) count_local(w, size, r);
}

void param_from_addresses(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r) {
    const Launch& launch = *w.block->launch;
    const uint32_t lanes = r.mask;
    r.mask               = 0;
    r.shape              = Reach::Scattered;
    each_lane(lanes, [&](int l) {
        const uint64_t a = r.addr[l];
        if (a > launch.param_bytes || a + size > launch.param_bytes || writes(touch))
            return bad_lane(w, i, Kind::OutOfBounds, Fault::IllegalAddress, l, a, size, touch,
                            "outside of the kernel's parameters", "");
        r.at[l] = const_cast<std::byte*>(launch.params) + a;
        r.mask |= 1u << l;
    });
}

}  // namespace

void reach_addresses(Warp& w, const Instr* i, Window window, uint32_t size, Touch touch, Reach& r) {
    switch (window) {
        case Window::Global: return global_from_addresses(w, i, size, touch, r);
        case Window::Shared: return shared_from_addresses(w, *w.block, i, size, touch, r);
        case Window::Local: return local_from_addresses(w, i, size, touch, r);
        case Window::Param: return param_from_addresses(w, i, size, touch, r);
        case Window::Generic: break;
    }
    // Generic addresses usually lie in one window for all lanes.
    const uint32_t lanes = r.mask;
    const uint64_t top   = r.addr[__builtin_ctz(lanes)] >> kWindowShift;
    uint64_t differ      = 0;
    for (int l = 0; l < kLanes; l++) differ |= lanes >> l & 1 ? (r.addr[l] >> kWindowShift) ^ top : 0;
    constexpr uint64_t inside = (1ull << kWindowShift) - 1;
    if (!differ) {
        if (top > 3) return reach_addresses(w, i, Window::Global, size, touch, r);  // a wild address is reported there
        if (top)
            for (int l = 0; l < kLanes; l++) r.addr[l] &= inside;
        return reach_addresses(w, i, Window(top), size, touch, r);
    }
    uint32_t good = 0, left = lanes;
    while (left) {
        const uint64_t here = r.addr[__builtin_ctz(left)] >> kWindowShift;
        Reach part;
        part.mask = 0;
        each_lane(left, [&](int l) { part.mask |= uint32_t(r.addr[l] >> kWindowShift == here) << l; });
        left &= ~part.mask;
        for (int l = 0; l < kLanes; l++) part.addr[l] = here && here <= 3 ? r.addr[l] & inside : r.addr[l];
        reach_addresses(w, i, here <= 3 ? Window(here) : Window::Global, size, touch, part);
        each_lane(part.mask, [&](int l) { r.at[l] = part.place(l, size); });
        good |= part.mask;
    }
    r.shape = Reach::Scattered;
    r.mask  = good;
}

void reach_global(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r) {
    addresses(w, i, r);
    r.mask = w.mask;
    global_from_addresses(w, i, size, touch, r);
}
std::byte* reach_range(Warp& w, const Instr* i, int lane, Address a, uint32_t bytes, Touch touch, bool counts) {
    const Site& site = w.worker->sites[i->site];
    Reach r;
    r.shape          = Reach::Uniform;
    r.mask           = 1u << lane;
    r.addr[lane]     = a;
    const bool known = site.end - site.begin >= bytes && a - site.begin <= site.end - site.begin - bytes;
    if (!known && !slow_global(w, i, bytes, 1, touch, r, r.mask)) return nullptr;
    r.first = reinterpret_cast<std::byte*>(a + site.delta);
    if (w.block->launch->check_all) check_global(w, i, bytes, touch, r);
    if (w.block->launch->profiling && counts) count_global(w, bytes, touch, r);
    return r.first;
}
void reach_shared(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r) {
    addresses(w, i, r);
    r.mask = w.mask;
    shared_from_addresses(w, *w.block, i, size, touch, r);
}
void reach_any(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r) {
    addresses(w, i, r);
    r.mask = w.mask;
    reach_addresses(w, i, Window(i->window), size, touch, r);
}

std::string name_of(const Block& b) {
    return "block (" + std::to_string(b.ctaid[0]) + "," + std::to_string(b.ctaid[1]) + "," +
           std::to_string(b.ctaid[2]) + ")";
}

std::string of_block(const Warp& w, const Block& b) { return &b == w.block ? "" : " of " + name_of(b); }

std::byte* lane_bytes(Warp& w, int lane, uint64_t address, uint32_t bytes) {
    const uint64_t window = address >> kWindowShift, inside = address & ((1ull << kWindowShift) - 1);
    const Block& b = *w.block;
    if (window == 0) {
        const Allocation* in = Memory::get().find(address);
        return in && in->holds(address, bytes) ? Memory::get().host(address) : nullptr;
    }
    if (window == 1) {
        uint64_t at     = inside;
        const Block* of = block_at(w, at);
        return of && at + bytes <= of->shared_bytes ? of->shared.data.get() + at : nullptr;
    }
    if (window == 2)
        return inside + bytes <= b.local_stride
                   ? b.local.data.get() + size_t(thread_of(w, lane)) * b.local_stride + inside
                   : nullptr;
    return nullptr;
}

}  // namespace emu
