// checker.cpp - finds uninitialised bytes and registers, and passes each access through its checks
#include "checker.h"

#include <algorithm>
#include <set>

#include "access.h"
#include "handlers.h"
#include "idle_reads.h"
#include "kernel_code.h"
#include "options.h"
#include "races.h"

namespace emu {

uint8_t* block_shadow(Warp& w, const Instr* i, int lane, uint32_t offset, uint32_t bytes, Window& window) {
    Block& b    = *w.block;
    uint64_t at = uint64_t(i->imm) + offset;
    if (i->flags & kAddress32) at = uint32_t(at + w.reg<uint32_t>(i->a)[lane]);
    else if (!i->a.none()) at += w.reg<uint64_t>(i->a)[lane];
    window = Window(i->window);
    if (window == Window::Generic) {
        window = Window(at >> kWindowShift);
        at &= (1ull << kWindowShift) - 1;
    }
    if (window == Window::Shared) at = own_offset(b, at);
    if (window == Window::Shared && at + bytes <= b.shared_bytes) return b.shared_shadow.data() + at;
    if (window == Window::Local && at + bytes <= b.local_stride)
        return b.shadow_of_local() + size_t(thread_of(w, lane)) * b.local_stride + at;
    return nullptr;
}

namespace op {

namespace {

void report_unset(Warp& w, const Instr* i, int lane, uint32_t reg) {
    const auto& f     = *w.frame->function;
    const auto& here  = *f.origin[i->index];
    const auto* first = reinterpret_cast<const ptx::Instruction*>(i->target);
    std::string what  = here.form + " uses register " + f.source->regs[reg].name + ", which was never set";
    if (first && first != &here) what += "; the value comes from " + first->form + " at " + place_of(f, *first);
    report(finding_at(w, i, Kind::Uninitialised, lane, what));
}

}  // namespace

// Reports an unset register where its value matters. imm: the register, target: the instruction that read it first.
const Instr* check_set(Warp& w, const Instr* i) {
    if (const uint32_t bad = w.mask & ~w.pred(i->a)) {
        report_unset(w, i, __builtin_ctz(bad), uint32_t(i->imm));
        w.pred(i->a) |= bad;  // it is reported only once
    }
    return i + 1;
}

// Runs after a store to shared or local memory and marks the bytes that got an unset value. That is no finding yet,
// because kernels exchange tiles that are partly unset. A load of such bytes makes its register unset again. b: the
// lanes that were set, imm3: the register, imm2: the number of bytes. The address operands are those of the store.
const Instr* store_unset(Warp& w, const Instr* i) {
    each_lane(w.mask & ~w.pred(i->b), [&](int l) {
        Window window;
        if (uint8_t* shadow = block_shadow(w, i, l, 0, i->imm2, window)) {
            std::memset(shadow, kWritten | kUnset, i->imm2);
            w.block->holds_unset = true;
        } else if (window == Window::Global) report_unset(w, i, l, i->imm3);
    });
    return i + 1;
}

// Runs before a load from shared or local memory. d: the mask of set lanes of the loaded register.
const Instr* load_unset(Warp& w, const Instr* i) {
    uint32_t set = kAll;
    each_lane(w.mask, [&](int l) {
        Window window;
        if (const uint8_t* shadow = block_shadow(w, i, l, 0, i->imm2, window))
            for (int k = 0; k < i->imm2; k++) set &= shadow[k] & kUnset ? ~(1u << l) : kAll;
    });
    uint32_t& mask = w.pred(i->d);
    mask           = (mask & ~w.mask) | (set & w.mask);
    return i + 1;
}
// A result is set in the lanes in which all of its tracked sources are. more: the masks of the sources.
const Instr* mark_set(Warp& w, const Instr* i) {
    uint32_t set = kAll;
    for (uint32_t k = 0; k < i->more_count; k++) set &= w.pred(w.frame->function->more[i->more + k]);
    uint32_t& mask = w.pred(i->d);
    mask           = (mask & ~w.mask) | (set & w.mask);
    return i + 1;
}

// The result of selp is set in the lanes in which the chosen source is. c: the predicate.
const Instr* mark_chosen(Warp& w, const Instr* i) {
    const uint32_t p = w.pred(i->c) ^ (i->imm ? kAll : 0), set = (w.pred(i->a) & p) | (w.pred(i->b) & ~p);
    uint32_t& mask = w.pred(i->d);
    mask           = (mask & ~w.mask) | (set & w.mask);
    return i + 1;
}

}  // namespace op

namespace {

// Calls f(lane, shadow, bytes) for each range of the access. A contiguous or uniform access is one range.
template <class Place, class F> void each_piece(const Reach& r, uint32_t size, Place shadow_of, F f) {
    if (r.shape == Reach::Contiguous) return f(0, shadow_of(0), size * kLanes);
    if (r.shape == Reach::Uniform) {
        const int l = __builtin_ctz(r.mask);
        return f(l, shadow_of(l), size);
    }
    each_lane(r.mask, [&](int l) { f(l, shadow_of(l), size); });
}

bool all_written(const uint8_t* shadow, uint32_t n) {
    return std::all_of(shadow, shadow + n, [](uint8_t s) { return s & 1; });
}

bool none_written(const uint8_t* shadow, uint32_t n) {
    for (uint32_t k = 0; k < n; k++)
        if (shadow[k] & 1) return false;
    return true;
}

// Returns whether the value of a register is only stored again.
bool only_copied(const ptx::Function& f, int reg, std::set<int>& seen) {
    if (!seen.insert(reg).second) return true;
    for (const auto& i : f.code)
        for (size_t k = 0; k < i.ops.size(); k++) {
            const bool stores = i.mods[0] == "st", moves = i.mods[0] == "mov" || i.mods[0] == "shfl";
            if (k == 0 && !stores) continue;  // operand 0 is the result
            bool used = i.ops[k].reg == reg;
            for (const auto& part : i.ops[k].parts) used |= part.reg == reg;
            if (!used || (stores && k == 1)) continue;
            if (!moves || k != 1 || i.ops[0].reg < 0 || !only_copied(f, i.ops[0].reg, seen)) return false;
        }
    return true;
}

// Returns whether the lane copies a structure with padding. Then a part of what it reads has been written, and
// registers that hold only padding are only stored again.
bool is_padding(Warp& w, const Instr* i, uint32_t size, const uint8_t* shadow) {
    if (none_written(shadow, size)) return false;
    const auto& f    = *w.frame->function;
    const auto& load = *f.origin[i->index];
    if (load.mods[0] != "ld" || load.ops.empty()) return load.mods[0] == "cp";
    const auto& parts    = load.ops[0].parts;
    const uint32_t bytes = size / uint32_t(std::max<size_t>(1, parts.size()));
    for (size_t k = 0; k < std::max<size_t>(1, parts.size()); k++) {
        std::set<int> seen;
        const int reg = parts.empty() ? load.ops[0].reg : parts[k].reg;
        if (none_written(shadow + k * bytes, bytes) && !only_copied(*f.source, reg, seen)) return false;
    }
    return true;
}

// Returns the first lane that reads uninitialised bytes and does not only copy padding, or -1.
template <class Place> int unwritten_lane(Warp& w, const Instr* i, uint32_t size, const Reach& r, Place shadow_of) {
    for (uint32_t left = r.mask; left; left &= left - 1) {
        const int l           = __builtin_ctz(left);
        const uint8_t* shadow = shadow_of(l);
        if (!all_written(shadow, size) && !is_padding(w, i, size, shadow)) return l;
    }
    return -1;
}

Finding unwritten(Warp& w, const Instr* i, uint32_t size, const Reach& r, int lane, const char* space) {
    const uint64_t address = r.addr[lane];
    const std::string what = "read of " + std::to_string(size) + " bytes at " + space + " " + hex(address) +
                             (r.of ? of_block(w, *r.of) : "");
    Finding f = finding_at(w, i, Kind::Uninitialised, lane, what + ", which were never written");
    f.address = address;
    return f;
}

// Begins to follow the lanes of a load that read uninitialised bytes other than padding.
template <class Place>
void hold_idle_reads(Warp& w, const Instr* i, uint32_t size, const Reach& r, const char* space, Place shadow_of) {
    each_lane(r.mask, [&](int l) {
        uint8_t* shadow = shadow_of(l);
        if (all_ones(shadow, size) || (!all_written(shadow, size) && is_padding(w, i, size, shadow))) return;
        hold_idle_read(w, i, l, shadow, size, unwritten(w, i, size, r, l, space));
        if (options().keep_going)
            for (uint32_t k = 0; k < size; k++) shadow[k] |= kWritten;
    });
}

}  // namespace

void check_global(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r) {
    Memory& memory  = Memory::get();
    const int first = __builtin_ctz(r.mask);
    if (!memory.in_arena(r.addr[first]) || known_global(w, size, touch, r)) return;
    const bool stores = writes(touch),
               loads  = touch != Touch::Store && touch != Touch::VolatileStore && touch != Touch::BulkLoad;
    auto shadow_of    = [&](int l) { return memory.shadow(r.addr[l]); };
    each_piece(r, size, shadow_of, [&](int, uint8_t* shadow, uint32_t bytes) {
        if (all_ones(shadow, bytes)) return;
        if (loads && !all_written(shadow, bytes)) {
            const bool first = w.block->unwritten.empty();
            if (const int lane = first ? unwritten_lane(w, i, size, r, shadow_of) : -1; lane >= 0) {
                Finding f    = unwritten(w, i, size, r, lane, "global");
                f.allocation = Memory::get().describe(f.address);
                w.block->unwritten.push_back(f);
                if (touch != Touch::Load)
                    report_unwritten(*w.block);  // now, because a loop that waits for a flag may never end
            }
            if (options().keep_going) std::memset(shadow, 1, bytes);
        }
        if (stores) std::memset(shadow, 1, bytes);
    });
    check_global_races(w, i, size, touch, r);
}

void check_shared(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r) {
    if (known_shared(w, size, touch, r)) return;
    if (touch == Touch::Store && !w.worker->reported_infos.empty() && overlaps_again(w, i, size, r)) return;
    Block& b          = *r.of;
    Block& own        = *w.block;
    const bool stores = writes(touch),
               loads  = touch != Touch::Store && touch != Touch::VolatileStore && touch != Touch::AsyncCopy;
    bool idle         = false;
    auto shadow_of    = [&](int l) { return b.shared_shadow.data() + r.addr[l]; };
    each_piece(r, size, shadow_of, [&](int lane, uint8_t* shadow, uint32_t bytes) {
        if (all_ones(shadow, bytes)) return;  // all bytes have set values, and no cp.async is going to write them
        if (touch != Touch::AsyncCopy && b.pending_copies) {
            const auto at = uint64_t(shadow - b.shared_shadow.data());
            if (const uint64_t bad = clash_with_copies(b, at, bytes, stores); bad != kNoClash) {
                if (r.shape == Reach::Contiguous) lane = int((bad - at) / size);
                report(finding_at(w, i, Kind::AsyncCopyRace, lane,
                                  (stores ? "write to shared " : "read of shared ") + hex(r.addr[lane]) +
                                      of_block(w, b) + clash_text(b, bad)));
                std::memset(shadow, 1, bytes);
            }
        }
        const auto carried = std::find_if(shadow, shadow + bytes, [](uint8_t s) { return s >> kReadShift; });
        if (loads && &b == &own && follows_idle_read(w, i)) idle = true;
        else if (loads && carried != shadow + bytes && own.unwritten.empty())
            own.unwritten.push_back(b.idle_reads[(*carried >> kReadShift) - 1u].finding);
        else if (loads && !all_written(shadow, bytes)) {
            const int reader = own.unwritten.empty() ? unwritten_lane(w, i, size, r, shadow_of) : -1;
            if (reader >= 0) own.unwritten.push_back(unwritten(w, i, size, r, reader, "shared"));
            if (options().keep_going)
                for (uint32_t k = 0; k < bytes; k++) shadow[k] |= 1;
        }
        if (stores) std::memset(shadow, 1, bytes);
    });
    if (idle) hold_idle_reads(w, i, size, r, "shared", shadow_of);
    check_shared_races(w, i, size, touch, r);
}

uint64_t clash_with_copies(const Block& b, uint64_t first, uint32_t bytes, bool write) {
    for (uint64_t at = first; at < first + bytes; at++)
        if (b.shared_shadow[at] & 2 && (write || !async_read(b, at))) return at;
    return kNoClash;
}
std::string clash_text(const Block& b, uint64_t at) {
    return async_read(b, at) ? ", which a bulk copy or wgmma reads that has not been waited for"
                             : ", to which a cp.async copies that has not been waited for";
}

void mark_async_reads(Block& b, uint64_t first, uint32_t bytes, int change) {
    if (b.async_reads.empty()) b.async_reads.resize(b.shared_bytes / 16 + 1);
    b.pending_copies = true;
    for (uint64_t at = first & ~15ull; at < first + bytes; at += 16) {
        uint16_t& readers = b.async_reads[at / 16];
        const bool before = readers;
        readers           = uint16_t(readers + change);
        if (before == (readers != 0)) continue;
        constexpr uint64_t twos = 0x0202020202020202;
        for (uint8_t* shadow = &b.shared_shadow[at]; shadow < &b.shared_shadow[at] + 16; shadow += 8) {
            uint64_t eight;
            std::memcpy(&eight, shadow, 8);
            eight = (eight & ~twos) | (before ? 0 : twos);
            std::memcpy(shadow, &eight, 8);
        }
    }
}

void touch_range(Warp& w, const Instr* i, int lane, Block& b, uint64_t first, uint32_t bytes, Touch touch) {
    Reach r;
    r.of         = &b;
    r.shape      = Reach::Uniform;
    r.mask       = 1u << lane;
    r.addr[lane] = first;
    check_shared_races(w, i, bytes, touch, r);
}

void check_async_read(Warp& w, const Instr* i, int lane, uint64_t first, uint32_t bytes, const char* reader) {
    Block& b = *w.block;
    if (const uint64_t bad = clash_with_copies(b, first, bytes, false); bad != kNoClash)
        report(finding_at(w, i, Kind::AsyncCopyRace, lane,
                          std::string(reader) + " reads shared " + hex(bad) + clash_text(b, bad)));
    touch_range(w, i, lane, b, first, bytes, Touch::Load);
    check_proxy(w, i, lane, first, bytes, reader);
}

void check_local(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r) {
    Block& b = *w.block;
    each_lane(r.mask, [&](int l) {
        uint8_t* shadow = b.shadow_of_local() + size_t(thread_of(w, l)) * b.local_stride + r.addr[l];
        if (writes(touch)) std::memset(shadow, 1, size);
        else if (!all_written(shadow, size) && !is_padding(w, i, size, shadow)) {
            report(unwritten(w, i, size, r, l, "local"));
            std::memset(shadow, 1, size);
        }
    });
    if (!writes(touch) && w.block->holds_unset && follows_idle_read(w, i))
        hold_idle_reads(w, i, size, r, "local", [&](int l) {
            return b.shadow_of_local() + size_t(thread_of(w, l)) * b.local_stride + r.addr[l];
        });
}

void forget_local(Warp& w, uint32_t from, uint32_t bytes) {
    Block& b = *w.block;
    each_lane(w.mask, [&](int l) {
        std::memset(b.shadow_of_local() + size_t(thread_of(w, l)) * b.local_stride + from, 0, bytes);
    });
}

void note_pending(Warp& w, const AsyncCopy& copy, bool pending) {
    Block& b = *w.block;
    if (!b.launch->check_all) return;
    if (pending && w.mask & ~w.waited) {  // the hardware may read the source now, before griddepcontrol.wait
        Reach source;
        std::memcpy(source.addr, copy.src, sizeof source.addr);
        each_lane(copy.mask,
                  [&](int l) { source.mask |= uint32_t(copy.from[l] && Memory::get().in_arena(copy.src[l])) << l; });
        if (source.mask) check_global_races(w, copy.instr, copy.bytes, Touch::Load, source);
    }
    b.pending_copies = true;
    each_lane(copy.mask, [&](int l) {
        const uint64_t at = copy.dst[l];
        if (at + copy.bytes > b.shared_bytes) return;  // this is reported when the copy is made
        const bool in_use = async_read(b, at);
        if (pending && in_use)
            report(finding_at(w, copy.instr, Kind::AsyncCopyRace, l,
                              "a cp.async writes shared " + hex(at) + clash_text(b, at)));
        for (uint32_t k = 0; k < copy.bytes; k++) {
            uint8_t& shadow = b.shared_shadow[at + k];
            shadow          = pending ? shadow | 2 : uint8_t((shadow & 1) | (in_use ? 2 : 0));
        }
    });
}

void report_unwritten(Block& b) {
    for (const Finding& f : b.unwritten) report(f);
    b.unwritten.clear();
}

static void start_shadows(Block& b) {
    b.shared_shadow.assign(b.shared_bytes + 64, 0);
    if (b.launch->code->layout.reserved_shared)
        std::memset(b.shared_shadow.data() + b.shared_bytes - kReservedShared, 1, kReservedShared);
    // The shadow of a called function's frame is cleared by forget_local. To clear the whole stack would be 64 MB per
    // block.
    b.local_shadow.resize(b.local.size);
    const uint32_t own = b.launch->function->local_bytes;
    for (size_t at = 0; own && at < b.local.size; at += b.local_stride) std::memset(b.shadow_of_local() + at, 0, own);
}

void checker_cluster(Cluster& c) {
    for (auto& b : c.blocks) start_shadows(*b);
    start_shared_races(c);
    for (auto& b : c.blocks) start_global_races(*b);
}

}  // namespace emu
