// mbarrier.cpp - barriers that are objects in shared memory
//
// The 64 bits of a barrier are opaque to programs. Here they are the arrivals that this phase still needs (20 bits),
// the arrivals of a phase (20), the bytes of bulk copies that this phase still needs (21, with an offset) and the
// number of the phase (3). The token that arrive returns is the word before the arrival. A phase is over when it needs
// neither arrivals nor bytes; the barrier's word then has another number. An arrival releases and a wait that succeeds
// acquires: race_clocks.cpp has the clocks.
#include <cstdlib>
#include <utility>

#include "access.h"
#include "bulk.h"
#include "checker.h"
#include "handlers.h"
#include "lanes.h"
#include "races.h"

namespace emu {
namespace {

constexpr uint64_t kCount = (1 << 20) - 1;
constexpr int kExpected = 20, kBytes = 40, kPhase = 61, kNoBytes = 1 << 20;
constexpr int64_t kMostBytes = kNoBytes - 2;  // one less than PTX allows, because fresh memory holds that number
constexpr uint8_t kDrop = 1, kStays = 2, kExpects = 4, kBrings = 8, kArrives = 16, kParity = 1;  // Instr::imm2
constexpr uint32_t kRelaxed = 1;                                                                 // Instr::imm3

constexpr char kNoBarrier[] =
    "there is no mbarrier here: it was not initialised, or with a count of 0, or its memory was overwritten";

struct Barrier {
    uint64_t missing, expected;
    int64_t bytes;
    uint64_t phase;
    explicit Barrier(uint64_t word)
        : missing(word & kCount),
          expected(word >> kExpected & kCount),
          bytes(int64_t(word >> kBytes & ((1 << 21) - 1)) - kNoBytes),
          phase(word >> kPhase) {}
    uint64_t word() const {
        return phase << kPhase | uint64_t(bytes + kNoBytes) << kBytes | expected << kExpected | missing;
    }
    // Whether an mbarrier.init has written it: neither fresh memory nor zeros are a barrier.
    bool valid() const { return missing <= expected && std::abs(bytes) <= kMostBytes; }
};

// Calls f with one lane for each address.
template <class F> void each_place(const Reach& r, F f) {
    uint64_t last = ~0ull;
    each_lane(r.mask, [&](int l) {
        if (r.addr[l] != last) f(l);
        last = r.addr[l];
    });
}

uint64_t& word_of(const Reach& r, int l) { return *reinterpret_cast<uint64_t*>(r.place(l, 8)); }

// Returns the block in whose shared memory the lane's barrier is, and its address there; or null when it is in none's.
Block* owner(const Warp& w, const Instr* i, const Reach& r, int l, uint64_t& at) {
    at       = r.addr[l];
    Block* b = block_at(w, at);
    if (!b || Window(i->window) == Window::Shared) return b;
    const std::byte *place = r.place(l, 8), *begin = b->shared.data.get();
    return place >= begin && place < begin + b->shared_bytes ? b : nullptr;
}

// Returns false after a generic address outside of shared memory. Only arrivals and numbers of bytes may go to another
// block of the cluster.
bool reach_barrier(Warp& w, const Instr* i, Touch touch, Reach& r, bool of_others = false) {
    if (Window(i->window) == Window::Shared) reach_shared(w, i, 8, touch, r);
    else reach_any(w, i, 8, touch, r);
    const uint32_t mask = std::exchange(r.mask, 0);
    each_lane(mask, [&](int l) {
        uint64_t at;
        const Block* b = owner(w, i, r, l, at);
        if (!of_others) r.addr[l] = at;
        r.mask |= uint32_t(b && (of_others || b == w.block)) << l;
    });
    return r.mask == mask;
}
const Instr* outside(Warp& w, const Instr* i) {
    return fail_launch(w, Fault::IllegalAddress,
                       place_of(*w.frame->function, i) + ": mbarrier: its address is not in shared memory" +
                           (w.block->cluster->blocks.size() > 1 ? " of this block" : ""));
}

const Instr* refuse(Warp& w, const Instr* i, const std::string& why) {
    return fail_launch(w, Fault::IllegalInstruction, place_of(*w.frame->function, i) + ": mbarrier: " + why);
}

// Ends the phase of a barrier of block b when it is complete. More bytes than announced would complete it too early on
// a GPU.
void settle(Warp& w, const Instr* i, int lane, Block& b, uint64_t at, Barrier& x) {
    b.cluster->signals++;
    if (!x.missing && x.bytes < 0) {
        report(finding_at(w, i, Kind::Transaction, lane,
                          "the bulk copies of the mbarrier at shared " + hex(at) + of_block(w, b) + " bring " +
                              std::to_string(-x.bytes) + " bytes more in this phase than expect_tx announced"));
        x.bytes = 0;
    }
    if (x.missing || x.bytes) return;
    x.missing = x.expected;
    x.phase   = (x.phase + 1) & 7;
    if (b.launch->check_all) clock_phase(b, at);
}

// PTX allows counts from 1 on. FlashAttention 3 initialises barriers that it never uses with 0, and GPUs let it do so.
// Here these are no barriers, so using one is an error.
const Instr* init(Warp& w, const Instr* i) {
    Reach r;
    if (!reach_barrier(w, i, Touch::Store, r)) return outside(w, i);
    const uint32_t* count = w.reg<uint32_t>(i->b);
    uint32_t bad          = 0;
    each_lane(r.mask, [&](int l) {
        bad |= uint32_t(count[l] > kCount) << l;
        Barrier x(uint64_t(kNoBytes) << kBytes);
        x.missing = x.expected = count[l];
        word_of(r, l)          = count[l] ? x.word() : 0;
        if (w.block->launch->check_all) clock_init(w, l, r.addr[l]);
    });
    if (!bad) return i + 1;
    return refuse(w, i, "the count " + std::to_string(count[__builtin_ctz(bad)]) + " is more than 1048575");
}

const Instr* invalidate(Warp& w, const Instr* i) {
    Reach r;
    if (!reach_barrier(w, i, Touch::Store, r)) return outside(w, i);
    each_lane(r.mask, [&](int l) { word_of(r, l) = 0; });
    return i + 1;
}

// Arrives, announces bytes (expect_tx) or takes announced bytes away (complete_tx). b: the number of them or none.
const Instr* arrive_at(Warp& w, const Instr* i) {
    w.polls++;
    Reach r;
    if (!reach_barrier(w, i, Touch::Atomic, r, true)) return outside(w, i);
    const uint32_t* number = i->b.none() ? nullptr : w.reg<uint32_t>(i->b);
    uint64_t* token        = i->d.none() ? nullptr : w.reg<uint64_t>(i->d);
    const char* wrong      = nullptr;
    each_lane(r.mask, [&](int l) {
        const uint64_t before = word_of(r, l), given = number ? number[l] : 1;
        Barrier x(before);
        const uint64_t n     = !(i->imm2 & kArrives) ? 0 : i->imm2 & kExpects ? 1 : given;
        const int64_t change = i->imm2 & kExpects ? int64_t(given) : i->imm2 & kBrings ? -int64_t(given) : 0;
        if (!x.valid()) wrong = kNoBarrier;
        else if ((i->imm2 & kArrives) && (!n || n > x.missing || (i->imm2 & kStays && n == x.missing)))
            wrong = "more arrivals than the phase has left";
        else if (std::abs(x.bytes + change) > kMostBytes) wrong = "more than 1048574 bytes";
        if (wrong) return;
        x.bytes += change;
        if (i->imm2 & kDrop) x.expected -= n;
        x.missing -= n;
        uint64_t at;
        Block& b = *owner(w, i, r, l, at);
        if (b.launch->check_all && !(i->imm3 & kRelaxed)) clock_arrival(w, b, at);
        settle(w, i, l, b, at, x);
        word_of(r, l) = x.word();
        if (token) token[l] = before;
    });
    return wrong ? refuse(w, i, wrong) : i + 1;
}

const Instr* test_wait(Warp& w, const Instr* i) {
    Reach r;
    if (!reach_barrier(w, i, Touch::VolatileLoad, r)) return outside(w, i);
    if (!w.block->bulk.empty()) each_place(r, [&](int l) { poll_bulk(*w.block, r.addr[l]); });
    uint32_t over = 0;
    bool valid    = true;
    each_lane(r.mask, [&](int l) {
        const Barrier x(word_of(r, l));
        const bool done = i->imm2 & kParity ? (x.phase & 1) != (w.reg<uint32_t>(i->b)[l] & 1)
                                            : x.phase != Barrier(w.reg<uint64_t>(i->b)[l]).phase;
        over |= uint32_t(done) << l;
        valid &= x.valid();
    });
    if (!valid) return refuse(w, i, kNoBarrier);
    put_pred(w, i->d, over);
    if (over && w.block->launch->check_all && !(i->imm3 & kRelaxed))
        each_place(r, [&](int l) {
            if (over >> l & 1) clock_wait(w, r.addr[l]);
        });
    if (over) w.failed.times = 0;
    return over == r.mask ? i + 1 : failed_wait(w, i, i + 1, r.addr[__builtin_ctz(r.mask & ~over)]);
}

const Instr* pending_count(Warp& w, const Instr* i) {
    const uint64_t* token = w.reg<uint64_t>(i->a);
    for_lanes(w, w.reg<uint32_t>(i->d), [=](int l) { return uint32_t(token[l] & kCount); });
    return i + 1;
}

// The thread's copies are made here and not at the wait, because another thread's access before its wait is a race
// anyway. Without .noinc the instruction adds an arrival to the phase and makes it, which only orders the copies.
const Instr* arrive_after_copies(Warp& w, const Instr* i) {
    finish_copies(w);
    if (i->imm2) return arrive_at(w, i);
    Reach r;
    if (!reach_barrier(w, i, Touch::Atomic, r)) return outside(w, i);
    if (w.block->launch->check_all) each_place(r, [&](int l) { clock_arrival(w, *w.block, r.addr[l]); });
    return i + 1;
}

Instr& emit_at(Builder& b, const ptx::Instruction& i, const Operand& place, Handler h) {
    const bool shared = has(i, "shared") || has(i, "shared::cta") || has(i, "shared::cluster");
    if (!place.memory) throw Undecodable("an address expected");
    const auto at       = b.address(place, shared);
    const uint16_t site = b.site();
    Instr& x            = b.emit(h);
    x.a = at.base, x.imm = at.offset, x.site = site;
    if (at.narrow) x.flags |= kAddress32;
    x.window = uint8_t(shared ? Window::Shared : Window::Generic);
    x.imm3   = has(i, "relaxed") ? kRelaxed : 0;
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
    x.imm2 = kArrives | (has(i, "arrive_drop") ? kDrop : 0) | (has(i, "noComplete") ? kStays : 0) |
             (has(i, "expect_tx") ? kExpects : 0);
    if (has(i, "expect_tx") && count.none()) throw Undecodable("a number of bytes expected");
}
void build_bytes(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 2) throw Undecodable("an address and a number of bytes expected");
    const Ref count = b.read(i.ops[1], Type::b32);
    Instr& x        = emit_at(b, i, i.ops[0], arrive_at);
    x.b = count, x.imm2 = has(i, "expect_tx") ? kExpects : kBrings;
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
    emit_at(b, i, i.ops[0], arrive_after_copies).imm2 = has(i, "noinc") ? kArrives : 0;
}

}  // namespace

void complete_transaction(const BulkCopy& c) {
    auto& word = *reinterpret_cast<uint64_t*>(c.block->shared.data.get() + c.barrier);
    Barrier x(word);
    if (!x.valid())
        return void(fail_launch(*c.warp, Fault::IllegalInstruction,
                                place_of(*c.function, c.instr) + ": there is no mbarrier at shared " + hex(c.barrier) +
                                    of_block(*c.warp, *c.block)));
    x.bytes -= c.bytes;
    settle(*c.warp, c.instr, c.lane, *c.block, c.barrier, x);
    word = x.word();
}

std::string describe_barrier(const Block& b, uint64_t barrier) {
    const Barrier x(*reinterpret_cast<const uint64_t*>(b.shared.data.get() + barrier));
    return "the mbarrier at shared " + hex(barrier) + " still needs " + std::to_string(x.missing) + " arrivals of " +
           std::to_string(x.expected) + " and " + std::to_string(x.bytes) + " bytes";
}

// A loop around a wait that has failed would only use up the rest of the turn.
const Instr* failed_wait(Warp& w, const Instr* i, const Instr* next, uint64_t barrier) {
    FailedWait& f          = w.failed;
    const uint64_t signals = w.block->cluster->signals;
    if (f.signals != signals || w.issued - f.issued > FailedWait::kLoop) f.times = 0;
    f = {f.times + 1, w.issued, signals, i, barrier};
    return give_way(w, next);
}

std::vector<Row> mbarrier_rows() {
    return {
        {"mbarrier .init .{SHARED}? .b64", build_init},
        {"mbarrier .inval .{SHARED}? .b64", build_invalidate},
        {"mbarrier .{arrive,arrive_drop} .{expect_tx,noComplete}? .{SEM}? .{SCOPE}? .{SHARED}? .b64", build_arrive},
        {"mbarrier .{expect_tx,complete_tx} .{SEM}? .{SCOPE}? .{SHARED}? .b64", build_bytes},
        {"mbarrier .{test_wait,try_wait} .parity? .{SEM}? .{SCOPE}? .{SHARED}? .b64", build_wait},
        {"mbarrier .pending_count .b64", build_pending_count},
        {"cp .async .mbarrier .arrive .noinc? .{SHARED}? .b64", build_arrive_after_copies},
    };
}

}  // namespace emu
