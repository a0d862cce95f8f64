// idle_reads.cpp - uninitialised values from shared memory, which are reported where they are used
//
// A merge may read one element too far and discard the value, which is no mistake. After such a load the warp runs
// instruction by instruction in this file. Every register that depends on the value is followed, lane by lane, until it
// is overwritten or used: as an address, in a branch, in another lane, in global memory. The result of and, or, selp,
// and setp with a second predicate depends only on the operands that decide it.
#include "idle_reads.h"

#include <algorithm>

#include "checker.h"
#include "data_flow.h"
#include "handlers.h"
#include "lanes.h"
#include "options.h"

namespace emu {
namespace {

constexpr size_t kMostReads = 31;  // of a block: the index has five bits in a byte of shadow

// The lanes of a register that hold an uninitialised value, and the index of the read that it came from.
struct Idle {
    uint32_t lanes = 0;
    uint8_t read   = 0;
};

Idle idle_of(const Warp& w, int reg) {
    for (const IdleValue& v : w.idle)
        if (v.reg == reg && v.frame == w.frame) return {v.lanes, v.read};
    return {};
}

void set_idle(Warp& w, int reg, uint32_t lanes, Idle to) {
    to.lanes &= lanes;
    auto v = std::find_if(w.idle.begin(), w.idle.end(),
                          [&](const IdleValue& o) { return o.reg == reg && o.frame == w.frame; });
    if (v == w.idle.end()) {
        if (to.lanes) w.idle.push_back({w.frame, reg, to.lanes, to.read});
        return;
    }
    v->lanes = (v->lanes & ~lanes) | to.lanes;
    if (to.lanes) v->read = to.read;
    if (!v->lanes) w.idle.erase(v);
}

// The value is used: the read becomes a finding at the next barrier, unless a race is found before.
void report_use(Warp& w, const Instr* i, Idle idle) {
    Block& b             = *w.block;
    const auto& function = *w.frame->function;
    const auto& here     = *function.origin[i->index];
    if (b.unwritten.empty()) {
        b.unwritten.push_back(b.idle_reads[idle.read].finding);
        b.unwritten.back().what += "; " + here.form + " at " + place_of(function, here) + " uses it";
    }
    std::erase_if(w.idle, [&](IdleValue& v) {  // it is reported only once
        if (v.read == idle.read) v.lanes &= ~idle.lanes;
        return !v.lanes;
    });
}

bool first_of_its_instruction(const Function& f, const Instr* i) {
    return i->index == 0 || f.origin[i->index - 1] != f.origin[i->index];
}

// Returns the lanes that run the instruction or may run it, because their guard is uninitialised.
uint32_t running(Warp& w, const Instr* i, const ptx::Instruction& x, Idle& guard) {
    if (x.guard < 0) return w.mask;
    guard = idle_of(w, x.guard);
    guard.lanes &= w.mask;
    const uint32_t p = w.pred(i->guard);
    return (w.mask & (x.guard_negated ? ~p : p)) | guard.lanes;
}

bool has_result(const ptx::Instruction& x) {
    for (const char* s : {"st", "red", "bra", "brx", "cp", "stmatrix"})
        if (x.mods[0] == s) return false;
    if (x.mods[0] == "bar" || x.mods[0] == "barrier") return has(x, "red");
    return x.mods[0] != "wmma" || x.mods[1] != "store";
}

// Returns the value of the predicate that is the instruction's last operand.
uint32_t last_predicate(Warp& w, const Instr* i, const ptx::Instruction& x) {
    while (i->c.none()) i++;
    return w.pred(i->c) ^ (x.ops.back().negated ? kAll : 0);
}

// Returns which lanes of the result are uninitialised. i: the first handler of the instruction.
Idle combined(Warp& w, const Instr* i, const ptx::Instruction& x) {
    Idle all;
    std::vector<uint32_t> of(x.ops.size());
    for (size_t k = 1; k < x.ops.size(); k++)
        each_register(x.ops[k], [&](int reg) {
            const Idle v = idle_of(w, reg);
            of[k] |= v.lanes;
            if (v.lanes) all.read = v.read;
        });
    for (uint32_t lanes : of) all.lanes |= lanes;
    if (!all.lanes) return all;
    const bool last_decides = x.ops.size() == 4 && x.ops[3].reg >= 0 && (x.mods[0] == "selp" || x.mods[0] == "setp");
    if (last_decides) {
        const uint32_t p = last_predicate(w, i, x);
        if (x.mods[0] == "selp") all.lanes = (of[1] & p) | (of[2] & ~p) | of[3];
        else if (has(x, "and") || has(x, "or")) all.lanes = ((of[1] | of[2]) & (has(x, "and") ? p : ~p)) | of[3];
    } else if (x.mods.back() == "pred" && (x.mods[0] == "and" || x.mods[0] == "or")) {
        const uint32_t flip =
            x.mods[0] == "and" ? 0 : kAll;  // a false operand of `and`, or a true one of `or`, decides alone
        const uint32_t a = w.pred(i->a) ^ (x.ops[1].negated ? kAll : 0) ^ flip;
        const uint32_t b = w.pred(i->b) ^ (x.ops[2].negated ? kAll : 0) ^ flip;
        all.lanes        = (of[1] & (b | of[2])) | (of[2] & (a | of[1]));
    }
    return all;
}

// Follows the values through an instruction, before it runs.
void follow(Warp& w, const Instr* i, const ptx::Instruction& x) {
    Idle guard;
    const uint32_t on = running(w, i, x, guard);
    if (is_followed(x) && x.mods[0] != "ret" && x.mods[0] != "exit" && x.mods[0] != "trap") {
        Idle now = combined(w, i, x);
        if (!now.lanes) now.read = guard.read;
        now.lanes |= guard.lanes;
        if (!x.ops.empty()) each_register(x.ops[0], [&](int reg) { set_idle(w, reg, on, now); });
        return;
    }
    if (guard.lanes) report_use(w, i, guard);
    auto use = [&](int reg) {
        Idle v = idle_of(w, reg);
        v.lanes &= on;
        if (v.lanes) report_use(w, i, v);
    };
    const bool result = has_result(x);
    for (size_t k = result; k < x.ops.size(); k++)
        if (k != 1 || !stores_to_block(x)) each_register(x.ops[k], use);
    for (const auto& o : x.arguments) each_register(o, use);
    if (result && !x.ops.empty()) each_register(x.ops[0], [&](int reg) { set_idle(w, reg, on, {}); });
    if (x.mods[0] == "ret" || x.mods[0] == "exit")
        std::erase_if(w.idle, [&](IdleValue& v) { return v.frame == w.frame && !(v.lanes &= ~on); });
}

// Marks the bytes that a store has written to shared or local memory, when the registers were uninitialised.
void mark_stored(Warp& w, const Instr* i, const ptx::Instruction& x) {
    if (!stores_to_block(x) || !i->d.none() || i->b.none() || (i->inner ? i->inner : i->run) == op::store_unset) return;
    Idle guard;
    const uint32_t on    = running(w, i, x, guard);
    const auto& parts    = x.ops[1].parts;
    const uint32_t bytes = uint32_t(ptx::bytes_of(ptx::type_of(x.mods.back())));
    for (size_t k = 0; k < std::max<size_t>(1, parts.size()); k++) {
        const Idle v = idle_of(w, parts.empty() ? x.ops[1].reg : parts[k].reg);
        each_lane(v.lanes & on, [&](int l) {
            Window window;
            if (uint8_t* shadow = block_shadow(w, i, l, uint32_t(k) * bytes, bytes, window))
                std::memset(shadow, kWritten | kUnset | (v.read + 1) << kReadShift, bytes);
            else if (window == Window::Global) report_use(w, i, {1u << l, v.read});
        });
    }
}

}  // namespace

bool follows_idle_read(const Warp& w, const Instr* i) {
    const auto* x = w.frame->function->origin[i->index];
    return x && x->mods[0] == "ld" && !x->ops.empty();
}

void hold_idle_read(Warp& w, const Instr* i, int lane, const uint8_t* shadow, uint32_t size, const Finding& finding) {
    Block& b    = *w.block;
    auto number = [&] {
        const auto known = std::find_if(b.idle_reads.begin(), b.idle_reads.end(), [&](auto& r) { return r.at == i; });
        if (known != b.idle_reads.end()) return uint8_t(known - b.idle_reads.begin());
        if (b.idle_reads.size() < kMostReads) b.idle_reads.push_back({i, finding});
        return uint8_t(b.idle_reads.size() - 1);
    };
    const auto& to       = w.frame->function->origin[i->index]->ops[0];
    const size_t n       = std::max<size_t>(1, to.parts.size());
    const uint32_t bytes = size / uint32_t(n);
    for (size_t k = 0; k < n; k++)
        for (const uint8_t* s = shadow + k * bytes; s < shadow + (k + 1) * bytes; s++) {
            if (*s & kWritten && !(*s >> kReadShift)) continue;
            const uint8_t read = *s & kWritten ? uint8_t((*s >> kReadShift) - 1) : number();
            const int reg      = to.parts.empty() ? to.reg : to.parts[k].reg;
            if (reg >= 0) set_idle(w, reg, 1u << lane, {1u << lane, read});
            break;
        }
    b.holds_unset = true;  // turns off the fast paths of the checks
}

const Instr* run_following(Warp& w, const Instr* i, const Instr* begin, uintptr_t span, int64_t& budget) {
    const Function& f = *w.frame->function;
    while (uintptr_t(i) - uintptr_t(begin) < span && budget > 0 && !w.idle.empty()) {
        budget--;
        if (w.block->launch->profiling) {
            auto& counts = (*w.worker->profile_now)[i->index];
            counts.warps++, counts.lanes += uint64_t(__builtin_popcount(w.mask));
        }
        const auto* x = f.origin[i->index];
        if (x && first_of_its_instruction(f, i)) follow(w, i, *x);
        const Instr* next = i->run(w, i);
        if (x) mark_stored(w, i, *x);
        i = next;
    }
    return i;
}

}  // namespace emu
