// checker.cpp - bytes and registers nobody wrote; which check an access goes through
#include "checker.h"

#include <algorithm>

#include "access.h"
#include "handlers.h"
#include "options.h"
#include "races.h"

namespace emu {
namespace op {

// A value that nobody wrote arrives where it does harm; imm: the register, target: the instruction that read it first.
const Instr* check_set(Warp& w, const Instr* i) {
    if (const uint32_t bad = w.mask & ~w.pred(i->a)) {
        const auto& f     = *w.frame->function;
        const auto& here  = *f.origin[i->index];
        const auto* first = reinterpret_cast<const ptx::Instruction*>(i->target);
        std::string what =
            here.form + " uses register " + f.source->regs[size_t(i->imm)].name + ", whose value nobody wrote";
        if (first && first != &here) what += "; it comes from " + first->form + " at " + place_of(f, *first);
        report(finding_at(w, i, Kind::Uninitialised, __builtin_ctz(bad), what));
        w.pred(i->a) |= bad;  // once is enough
    }
    return i + 1;
}
const Instr* mark_set(Warp& w, const Instr* i) {
    uint32_t set = kAll;
    for (uint32_t k = 0; k < i->more_count; k++) set &= w.pred(w.frame->function->more[i->more + k]);
    uint32_t& mask = w.pred(i->d);
    mask           = (mask & ~w.mask) | (set & w.mask);
    return i + 1;
}

const Instr* mark_chosen(Warp& w, const Instr* i) {
    const uint32_t p = w.pred(i->c) ^ (i->imm ? kAll : 0), set = (w.pred(i->a) & p) | (w.pred(i->b) & ~p);
    uint32_t& mask   = w.pred(i->d);
    mask             = (mask & ~w.mask) | (set & w.mask);
    return i + 1;
}

}  // namespace op

namespace {

std::string hex(uint64_t v) {
    char text[32];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
    return text;
}

// Calls f(lane, shadow, bytes) for each piece of the access: one piece when it is contiguous or uniform.
template <class Place, class F> void each_piece(const Reach& r, uint32_t size, Place shadow_of, F f) {
    if (r.shape == Reach::Contiguous) return f(0, shadow_of(0), size * kLanes);
    if (r.shape == Reach::Uniform) {
        const int l = __builtin_ctz(r.mask);
        return f(l, shadow_of(l), size);
    }
    each_lane(r.mask, [&](int l) { f(l, shadow_of(l), size); });
}

void report_unwritten(Warp& w, const Instr* i, uint32_t size, const Reach& r, int lane, const uint8_t* shadow,
                      uint32_t bytes, const char* space, bool global) {
    uint32_t k = 0;
    while (k < bytes && shadow[k] & 1) k++;
    if (r.shape == Reach::Contiguous) lane = int(k / size);
    const uint64_t address = r.addr[lane];
    Finding f              = finding_at(
                     w, i, Kind::Uninitialised, lane,
                     "read of " + std::to_string(size) + " bytes at " + space + " " + hex(address) + ", which nobody wrote");
    f.address = address;
    if (global) f.allocation = Memory::get().describe(address);
    if (space == std::string_view("shared")) return w.block->unwritten.push_back(f);
    report(f);
}

}  // namespace

void check_global(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r) {
    Memory& memory  = Memory::get();
    const int first = __builtin_ctz(r.mask);
    if (!memory.in_arena(r.addr[first])) return;
    const bool stores = writes(touch), loads = touch != Touch::Store && touch != Touch::VolatileStore;
    each_piece(
        r, size, [&](int l) { return memory.shadow(r.addr[l]); },
        [&](int lane, uint8_t* shadow, uint32_t bytes) {
            if (all_ones(shadow, bytes)) return;
            if (loads) {
                report_unwritten(w, i, size, r, lane, shadow, bytes, "global", true);
                if (options().keep_going) std::memset(shadow, 1, bytes);
            }
            if (stores) std::memset(shadow, 1, bytes);
        });
    check_global_races(w, i, size, touch, r);
}

void check_shared(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r) {
    Block& b          = *w.block;
    const bool stores = writes(touch),
               loads  = touch != Touch::Store && touch != Touch::VolatileStore && touch != Touch::AsyncCopy;
    each_piece(
        r, size, [&](int l) { return b.shared_shadow.data() + r.addr[l]; },
        [&](int lane, uint8_t* shadow, uint32_t bytes) {
            if (all_ones(shadow, bytes)) return;  // written, and no copy under way
            if (touch != Touch::AsyncCopy && b.pending_copies) {
                uint8_t any = 0;
                for (uint32_t k = 0; k < bytes; k++) any |= shadow[k];
                if (any & 2) {
                    uint32_t k = 0;
                    while (!(shadow[k] & 2)) k++;
                    if (r.shape == Reach::Contiguous) lane = int(k / size);
                    report(finding_at(w, i, Kind::AsyncCopyRace, lane,
                                      (stores ? "write to shared " : "read of shared ") + hex(r.addr[lane]) +
                                          ", where a cp.async is under way that has not been waited for"));
                    for (k = 0; k < bytes; k++) shadow[k] = 1;
                }
            }
            if (loads && std::any_of(shadow, shadow + bytes, [](uint8_t s) { return !(s & 1); })) {
                if (b.unwritten.empty()) report_unwritten(w, i, size, r, lane, shadow, bytes, "shared", false);
                if (options().keep_going)
                    for (uint32_t k = 0; k < bytes; k++) shadow[k] |= 1;
            }
            if (stores) std::memset(shadow, 1, bytes);
        });
    check_shared_races(w, i, size, touch, r);
}

void check_local(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r) {
    Block& b = *w.block;
    each_lane(r.mask, [&](int l) {
        uint8_t* shadow = b.local_shadow.data() + size_t(thread_of(w, l)) * b.local_stride + r.addr[l];
        if (writes(touch)) std::memset(shadow, 1, size);
        else if (!all_ones(shadow, size)) {
            report_unwritten(w, i, size, r, l, shadow, size, "local", false);
            std::memset(shadow, 1, size);
        }
    });
}

void forget_local(Warp& w, uint32_t from, uint32_t bytes) {
    Block& b = *w.block;
    each_lane(w.mask, [&](int l) {
        std::memset(b.local_shadow.data() + size_t(thread_of(w, l)) * b.local_stride + from, 0, bytes);
    });
}

void note_pending(Warp& w, const AsyncCopy& copy, bool pending) {
    Block& b = *w.block;
    if (!b.launch->check_all) return;
    b.pending_copies = true;
    each_lane(copy.mask, [&](int l) {
        if (copy.dst[l] + copy.bytes > b.shared_bytes) return;  // reported when it is carried out
        for (uint32_t k = 0; k < copy.bytes; k++) {
            uint8_t& shadow = b.shared_shadow[copy.dst[l] + k];
            shadow          = pending ? shadow | 2 : shadow & 1;
        }
    });
}

void report_unwritten_shared(Block& b) {
    for (const Finding& f : b.unwritten) report(f);
    b.unwritten.clear();
}

void checker_block(Block& b) {
    b.shared_shadow.assign(b.shared_bytes + 64, 0);
    b.local_shadow.assign(b.local.size, 0);
    start_shared_races(b);
    start_global_races(b);
}

}  // namespace emu
