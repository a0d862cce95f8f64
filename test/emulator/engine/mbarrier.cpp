// mbarrier.cpp - barriers that are objects in shared memory, as cuda::barrier uses them on compute_80
//
// The 64 bits of a barrier are opaque to programs. Here they are the arrivals that this phase still needs (20 bits),
// the arrivals of a phase (20) and the number of the phase (24). The token that arrive returns is the word before the
// arrival. Its phase is over when the barrier's word has another phase. An arrival releases, and a wait that succeeds
// acquires, which the checker treats like fences with a flag. .expect_tx is missing, because it counts bulk copies.
#include "access.h"
#include "checker.h"
#include "handlers.h"
#include "lanes.h"

namespace emu {
namespace {

constexpr uint64_t kCount = (1 << 20) - 1;
constexpr int kExpected = 20, kPhase = 40;
constexpr uint8_t kDrop = 1, kStays = 2, kParity = 1;  // Instr::imm2

uint64_t* word_of(const Reach& r, int l) { return reinterpret_cast<uint64_t*>(r.place(l, 8)); }

void reach_barrier(Warp& w, const Instr* i, Touch touch, Reach& r) {
    if (Window(i->window) == Window::Shared) reach_shared(w, i, 8, touch, r);
    else reach_any(w, i, 8, touch, r);
}

const Instr* init(Warp& w, const Instr* i) {
    Reach r;
    reach_barrier(w, i, Touch::Store, r);
    const uint32_t* count = w.reg<uint32_t>(i->b);
    uint32_t bad          = 0;
    each_lane(r.mask, [&](int l) {
        bad |= uint32_t(count[l] == 0 || count[l] > kCount) << l;
        *word_of(r, l) = uint64_t(count[l]) << kExpected | count[l];
    });
    return bad ? fail_launch(w, Fault::IllegalInstruction, "mbarrier.init: the count must be 1 to 1048575") : i + 1;
}

const Instr* invalidate(Warp& w, const Instr* i) {
    Reach r;
    reach_barrier(w, i, Touch::Store, r);
    each_lane(r.mask, [&](int l) { *word_of(r, l) = 0; });
    return i + 1;
}

const Instr* arrive_at(Warp& w, const Instr* i) {
    checker_fence(w, false);
    w.polls++;
    Reach r;
    reach_barrier(w, i, Touch::Atomic, r);
    const uint32_t* count = i->b.none() ? nullptr : w.reg<uint32_t>(i->b);
    uint64_t* token       = i->d.none() ? nullptr : w.reg<uint64_t>(i->d);
    bool good             = true;
    each_lane(r.mask, [&](int l) {
        uint64_t& word   = *word_of(r, l);
        const uint64_t n = count ? count[l] : 1, before = word;
        uint64_t missing = before & kCount, expected = before >> kExpected & kCount, phase = before >> kPhase;
        good &= n && n <= missing && !(i->imm2 & kStays && n == missing);
        if (!good) return;
        if (i->imm2 & kDrop) expected -= n;
        missing -= n;
        if (!missing) missing = expected, phase++;
        word = phase << kPhase | expected << kExpected | missing;
        if (token) token[l] = before;
    });
    return good ? i + 1
                : fail_launch(w, Fault::IllegalInstruction,
                              "mbarrier.arrive: more arrivals than the phase has left, or no barrier here");
}

// A loop around a wait that has failed would only use up the rest of the turn.
const Instr* test_wait(Warp& w, const Instr* i) {
    Reach r;
    reach_barrier(w, i, Touch::VolatileLoad, r);
    uint32_t over = 0;
    each_lane(r.mask, [&](int l) {
        const uint64_t phase = *word_of(r, l) >> kPhase;
        const bool done      = i->imm2 & kParity ? (phase & 1) != (w.reg<uint32_t>(i->b)[l] & 1)
                                                 : phase != w.reg<uint64_t>(i->b)[l] >> kPhase;
        over |= uint32_t(done) << l;
    });
    put_pred(w, i->d, over);
    if (over && w.block->launch->check_all) checker_warp_sync(w);
    return over == r.mask ? i + 1 : give_way(w, i + 1);
}

const Instr* pending_count(Warp& w, const Instr* i) {
    const uint64_t* token = w.reg<uint64_t>(i->a);
    for_lanes(w, w.reg<uint32_t>(i->d), [=](int l) { return uint32_t(token[l] & kCount); });
    return i + 1;
}

// The thread's copies are made here and not at the wait, because another thread's access before its wait is a race
// anyway. Without .noinc the instruction adds an arrival to the phase and makes it, which changes nothing.
const Instr* arrive_after_copies(Warp& w, const Instr* i) {
    finish_copies(w);
    return i->imm2 ? arrive_at(w, i) : i + 1;
}

Instr& emit_at(Builder& b, const ptx::Instruction& i, const Operand& place, Handler h) {
    const bool shared = has(i, "shared") || has(i, "shared::cta");
    if (!place.memory) throw Undecodable("an address expected");
    const auto at       = b.address(place, shared);
    const uint16_t site = b.site();
    Instr& x            = b.emit(h);
    x.a = at.base, x.imm = at.offset, x.site = site;
    if (at.narrow) x.flags |= kAddress32;
    x.window = uint8_t(shared ? Window::Shared : Window::Generic);
    return x;
}

void build_init(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 2) throw Undecodable("an address and a count expected");
    const Ref count                 = b.read(i.ops[1], Type::b32);
    emit_at(b, i, i.ops[0], init).b = count;
}
void build_invalidate(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 1) throw Undecodable("an address expected");
    emit_at(b, i, i.ops[0], invalidate);
}
void build_arrive(Builder& b, const ptx::Instruction& i) {
    const bool result = !i.ops.empty() && !i.ops[0].memory;
    const size_t at   = result ? 1 : 0;
    if (i.ops.size() < at + 1 || i.ops.size() > at + 2) throw Undecodable("an address expected");
    const Ref count = i.ops.size() > at + 1 ? b.read(i.ops[at + 1], Type::b32) : Ref{};
    const Ref token = result ? b.write(i.ops[0], Type::b64) : Ref{};
    Instr& x        = emit_at(b, i, i.ops[at], arrive_at);
    x.b = count, x.d = token;
    x.imm2 = (has(i, "arrive_drop") ? kDrop : 0) | (has(i, "noComplete") ? kStays : 0);
}
void build_wait(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() < 3) throw Undecodable("a predicate, an address and a token or parity expected");
    const bool parity = has(i, "parity");
    const Ref what = b.read(i.ops[2], parity ? Type::b32 : Type::b64), over = b.write_pred(i.ops[0].reg);
    Instr& x = emit_at(b, i, i.ops[1], test_wait);
    x.b = what, x.d = over, x.imm2 = parity ? kParity : 0;
    x.flags |= kSplits;
}
void build_pending_count(Builder& b, const ptx::Instruction& i) {
    emit_op(b, i, pending_count, Type::b32, {Type::b64});
}
void build_arrive_after_copies(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 1) throw Undecodable("an address expected");
    emit_at(b, i, i.ops[0], arrive_after_copies).imm2 = has(i, "noinc") ? 4 : 0;
}

}  // namespace

std::vector<Row> mbarrier_rows() {
    return {
        {"mbarrier .init .{shared,shared::cta}? .b64", build_init},
        {"mbarrier .inval .{shared,shared::cta}? .b64", build_invalidate},
        {"mbarrier .{arrive,arrive_drop} .noComplete? .{SEM}? .{SCOPE}? .{shared,shared::cta}? .b64", build_arrive},
        {"mbarrier .{test_wait,try_wait} .parity? .{SEM}? .{SCOPE}? .{shared,shared::cta}? .b64", build_wait},
        {"mbarrier .pending_count .b64", build_pending_count},
        {"cp .async .mbarrier .arrive .noinc? .{shared,shared::cta}? .b64", build_arrive_after_copies},
    };
}

}  // namespace emu
