// control.cpp - branches, calls, barriers, fences, exits
#include <algorithm>

#include "access.h"
#include "builtins.h"
#include "bulk.h"
#include "checker.h"
#include "forms.h"
#include "handlers.h"
#include "kernel_code.h"
#include "lanes.h"
#include "races.h"
#include "spec.h"

namespace emu {
namespace op {

const Instr* guarded(Warp& w, const Instr* i) {
    const uint32_t all = w.mask, guard = w.pred(i->guard);
    const uint32_t on = all & (i->guard_negated ? ~guard : guard);
    if (!on) return i + 1;
    w.mask            = on;
    const Instr* next = i->inner(w, i);
    w.mask            = all;
    return next;
}

const Instr* branch(Warp&, const Instr* i) { return i->target; }

const Instr* branch_guarded(Warp& w, const Instr* i) {
    const uint32_t guard = w.pred(i->guard);
    const uint32_t taken = w.mask & (i->guard_negated ? ~guard : guard);
    if (taken == w.mask) return i->target;
    if (!taken) return i + 1;
    // Lanes that branch to an exit leave at once, so that the next barrier does not wait for them.
    if (i->target->run == leave || (i + 1)->run == leave) {
        const uint32_t all = w.mask;
        const bool jumpers = i->target->run == leave;
        w.mask             = jumpers ? taken : all & ~taken;
        leave_lanes(w);
        w.mask = all & ~w.mask;
        return jumpers ? i + 1 : i->target;
    }
    w.groups[w.current].pc = i + 1;
    split(w, taken, i->target);
    return kStop;
}

const Instr* branch_table(Warp& w, const Instr* i) {
    const auto& table     = w.frame->function->tables[size_t(i->imm)];
    const uint32_t* index = w.reg<uint32_t>(i->a);
    const Instr* code     = w.frame->function->code.data();
    for (;;) {
        const uint32_t want = index[__builtin_ctz(w.mask)];
        if (want >= table.size()) return fail_launch(w, Fault::IllegalInstruction, "brx.idx: index beyond its table");
        const uint32_t same = w.mask & mask_of([&](int l) { return index[l] == want; });
        if (same == w.mask) {
            w.groups[w.current].pc = code + table[want];
            return kStop;
        }
        split(w, same, code + table[want]);
        w.mask &= ~same;
    }
}

const Instr* leave(Warp& w, const Instr*) {
    leave_lanes(w);
    return kStop;
}

const Instr* return_to_caller(Warp& w, const Instr*) {
    Group& g      = w.groups[w.current];
    Frame* frame  = g.frame;
    g.pc          = frame->return_pc;
    Frame* parent = frame->parent;
    const auto& f = *frame->function;
    for (size_t k = 0; k < f.results.size() && k < frame->results.size(); k++) {
        const auto& from    = f.results[k];
        const uint32_t size = from.bytes;
        std::byte* to       = parent->regs + parent->function->blob_base + frame->results[k];
        each_lane(w.mask, [&](int l) {
            std::memcpy(to + size_t(l) * size, frame->regs + f.blob_base + from.offset + size_t(l) * size, size);
        });
    }
    g.frame = parent;
    parent->users++;
    release_frame(*w.worker, frame);
    return kStop;
}

namespace {

const Instr* enter(Warp& w, const Instr* i, Function& f) {
    if (!f.missing.empty()) return fail_launch(w, Fault::Missing, f.missing);
    Group& g      = w.groups[w.current];
    Frame* caller = g.frame;
    if (caller->local_end() + f.local_bytes > w.block->local_stride || caller->depth > 20000)
        return fail_launch(
            w, Fault::IllegalAddress,
            "stack overflow in " + f.name + ": recursion deeper than " + std::to_string(caller->depth) + " calls");
    Frame* frame      = new_frame(*w.worker, f);
    frame->parent     = caller;
    frame->return_pc  = i + 1;
    frame->depth      = caller->depth + 1;
    frame->local_base = caller->local_end();
    const auto& spots = caller->function->tables[size_t(i->imm)];  // the caller's blobs: results, then arguments
    frame->results.assign(spots.begin(), spots.begin() + i->imm2);
    for (size_t k = 0; k < f.params.size() && k + i->imm2 < spots.size(); k++) {
        const uint32_t size   = f.params[k].bytes;
        const std::byte* from = caller->regs + caller->function->blob_base + spots[k + i->imm2];
        std::byte* to         = frame->regs + f.blob_base + f.params[k].offset;
        std::memcpy(to, from, size_t(size) * kLanes);
    }
    if (w.block->launch->check_all) forget_local(w, frame->local_base, f.local_bytes);
    g.frame = frame;
    g.pc    = f.code.data();
    return kStop;
}

// alloca gives all lanes the same place in their local memory, as large as the largest request. imm: the alignment.
template <class T> const Instr* allocate_local(Warp& w, const Instr* i) {
    Frame& f         = *w.groups[size_t(w.current)].frame;
    const T* sizes   = w.reg<T>(i->a);
    const auto align = uint64_t(i->imm);
    uint64_t bytes   = 0;
    each_lane(w.mask, [&](int l) { bytes = std::max(bytes, uint64_t(sizes[l])); });
    const uint64_t at = (f.local_end() + align - 1) / align * align, stride = w.block->local_stride;
    if (bytes > stride || at + bytes > stride)
        return fail_launch(w, Fault::IllegalAddress, "stack overflow: alloca of " + std::to_string(bytes) + " bytes");
    f.allocated = uint32_t(at + bytes) - f.local_base - f.function->local_bytes;
    if (w.block->launch->check_all) forget_local(w, uint32_t(at), uint32_t(bytes));
    for_lanes(w, w.reg<T>(i->d), [=](int) { return T(at); });
    return i + 1;
}
void build_alloca(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    if (i.ops.size() < 2) throw Undecodable("2 operands expected");
    const Ref size = b.read(i.ops[1], t), d = b.write(i.ops[0], t);
    Instr& x = b.emit(reg_bytes(t) == 8 ? allocate_local<uint64_t> : allocate_local<uint32_t>);
    x.a = size, x.d = d;
    x.imm     = i.ops.size() > 2 && i.ops[2].kind == Operand::Int && i.ops[2].bits ? int64_t(i.ops[2].bits) : 8;
    b.f.calls = true;
}

template <class T> const Instr* save_stack(Warp& w, const Instr* i) {
    const T top = w.groups[size_t(w.current)].frame->allocated;
    for_lanes(w, w.reg<T>(i->d), [=](int) { return top; });
    return i + 1;
}
// If other lanes of the function may still use their memory, it is freed only when the function returns.
template <class T> const Instr* restore_stack(Warp& w, const Instr* i) {
    Frame& f   = *w.groups[size_t(w.current)].frame;
    const T to = w.reg<T>(i->a)[__builtin_ctz(w.mask)];
    if (f.users == 1 && to <= f.allocated) f.allocated = uint32_t(to);
    return i + 1;
}
void build_stacksave(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    if (i.ops.size() != 1) throw Undecodable("1 operand expected");
    const Ref d = b.write(i.ops[0], t);
    Instr& x    = b.emit(reg_bytes(t) == 8 ? save_stack<uint64_t> : save_stack<uint32_t>);
    x.d         = d;
}
void build_stackrestore(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    if (i.ops.size() != 1) throw Undecodable("1 operand expected");
    const Ref a = b.read(i.ops[0], t);
    Instr& x    = b.emit(reg_bytes(t) == 8 ? restore_stack<uint64_t> : restore_stack<uint32_t>);
    x.a         = a;
}

const Instr* call(Warp& w, const Instr* i) {
    Function* f = w.block->launch->code->get(reinterpret_cast<const ptx::Function*>(i->target));
    return f ? enter(w, i, *f) : fail_launch(w, Fault::Missing, "call of a function that is only declared");
}

const Instr* call_indirect(Warp& w, const Instr* i) {
    const uint64_t* to  = w.reg<uint64_t>(i->a);
    const uint64_t want = to[__builtin_ctz(w.mask)];
    const uint32_t same = w.mask & mask_of([&](int l) { return to[l] == want; });
    if (same != w.mask) {  // the other lanes make their call later
        split(w, w.mask & ~same, i);
        w.mask = same;
    }
    Function* f = w.block->launch->code->by_address(want);
    return f ? enter(w, i, *f)
             : fail_launch(w, Fault::IllegalInstruction, "indirect call of an address that is not a function");
}

const Instr* call_builtin(Warp& w, const Instr* i) {
    const auto& f     = *w.frame->function;
    const auto& spots = f.tables[size_t(i->imm)];
    std::byte* blobs  = w.frame->regs + f.blob_base;
    BuiltinCall c{w, i, {}, nullptr};
    if (i->imm2) c.result = blobs + spots[0];
    for (size_t k = i->imm2; k < spots.size(); k++) c.arguments.push_back(blobs + spots[k]);
    return reinterpret_cast<const Builtin*>(i->target)->run(c) ? i + 1 : kStop;
}

void build_call(Builder& b, const ptx::Instruction& i) {
    std::vector<uint32_t> spots;
    for (const auto* list : {&i.results, &i.arguments})
        for (const auto& o : *list) {
            const ParamBlob* blob = b.blob(o.name);
            if (!blob) throw Undecodable("call with an argument that is not a .param variable");
            spots.push_back(blob->offset);
        }
    b.f.tables.push_back(spots);
    const auto table = int64_t(b.f.tables.size() - 1);
    const Operand& o = i.ops[0];
    if (o.kind == Operand::Reg) {
        const Ref target = b.read(o, Type::b64);
        Instr& x         = b.emit(call_indirect);
        x.a              = target;
        x.flags          = kSplits;
        x.imm            = table;
        x.imm2           = uint8_t(i.results.size());
    } else if (const int k = find_builtin(o.name); k >= 0) {
        Instr& x = b.emit(call_builtin);
        x.flags  = kSplits;
        x.imm    = table;
        x.target = reinterpret_cast<const Instr*>(&kBuiltins[k]);
        x.imm2   = uint8_t(i.results.size());
    } else {
        const uint64_t callee = b.layout.code_address(o.name);
        if (!callee) throw Undecodable("call of " + o.name + ", which is not in the module");
        Instr& x = b.emit(call);
        x.target = reinterpret_cast<const Instr*>(callee);
        x.flags  = kSplits;
        x.imm    = table;
        x.imm2   = uint8_t(i.results.size());
    }
    b.f.calls = true;
}

void build_branch(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 1 || i.ops[0].kind != Operand::Symbol) throw Undecodable("a label expected");
    Instr& x = b.emit(i.guard < 0 ? branch : branch_guarded);
    x.flags  = kSplits | kOwnGuard | (i.guard < 0 ? kLeaves : 0);
    b.branch_to(x, i.ops[0].name);
}

void build_branch_table(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 2) throw Undecodable("an index and a table expected");
    const Ref index = b.read(i.ops[0], Type::b32);
    Instr& x        = b.emit(branch_table);
    x.a             = index;
    x.flags         = kSplits | kLeaves;
    b.branch_to(x, i.ops[1].name);
}

void build_leave(Builder& b, const ptx::Instruction& i) {
    b.emit(b.entry || i.mods[0] == "exit" ? leave : return_to_caller).flags = kSplits | kLeaves;
}

const Instr* trap(Warp& w, const Instr* i) {
    return fail_launch(w, Fault::Trap, "trap at " + place_of(*w.frame->function, i));
}
void build_trap(Builder& b, const ptx::Instruction&) { b.emit(trap).flags = kSplits; }

const Instr* nothing(Warp&, const Instr* i) { return i + 1; }
void build_nothing(Builder& b, const ptx::Instruction&) { b.emit(nothing); }

const Instr* sleep(Warp& w, const Instr* i) { return give_way(w, i + 1); }
void build_sleep(Builder& b, const ptx::Instruction&) { b.emit(sleep).flags = kSplits; }

const Instr* fence(Warp& w, const Instr* i) {
    checker_fence(w, i->imm != 0);
    return i + 1;
}
void build_fence(Builder& b, const ptx::Instruction& i) {
    bool block_only = false;
    for (auto m : i.mods) block_only |= m == "cta";
    b.emit(fence).imm = !block_only;
}

const Instr* wait_for_grids(Warp& w, const Instr* i) {
    w.waited |= w.mask;
    w.block->launch->waited.store(true, std::memory_order_relaxed);
    return i + 1;
}
const Instr* launch_dependents(Warp& w, const Instr* i) {
    Block& b = *w.block;
    if (!b.triggered && w.waited & w.mask) b.launch->triggers_late.store(true, std::memory_order_relaxed);
    b.triggered = true;
    return i + 1;
}
void build_grid_control(Builder& b, const ptx::Instruction& i) {
    b.emit(has(i, "wait") ? wait_for_grids : launch_dependents);
}

const Instr* fence_proxy(Warp& w, const Instr* i) {
    if (w.block->launch->check_all) proxy_fence(w, i->imm != 0);
    return i + 1;
}
void build_proxy_fence(Builder& b, const ptx::Instruction& i) {
    if (!has(i, "global")) b.emit(fence_proxy).imm = has(i, "mbarrier_init");
}

// The registers of a thread when the kernel starts. Where no cubin tells, they are all that the block could have.
uint32_t registers_at_start(const Launch& l) {
    if (l.kernel->registers_known) return uint32_t(l.kernel->registers);
    const uint64_t all = uint64_t(device_spec().registers_per_sm) / l.config.block.count();
    return uint32_t(std::min<uint64_t>(255, all)) / 8 * 8;
}

// setmaxnreg takes registers from a thread, or gives it some that others have given up, for which it waits. imm: their
// number, imm2: inc.
const Instr* set_registers(Warp& w, const Instr* i) {
    Block& b            = *w.block;
    const auto wanted   = uint32_t(i->imm);
    const uint32_t have = w.registers ? w.registers : registers_at_start(*b.launch);
    if (i->imm2 ? wanted < have : wanted > have)
        report(finding_at(w, i, Kind::RegisterBudget, __builtin_ctz(w.mask),
                          (i->imm2 ? "setmaxnreg.inc to " : "setmaxnreg.dec to ") + std::to_string(wanted) +
                              " registers, but a thread has " + std::to_string(have)));
    if (i->imm2 && wanted > have && int64_t(wanted - have) * kLanes > b.spare_registers) return failed_wait(w, i, i, 0);
    b.spare_registers += (int64_t(have) - int64_t(wanted)) * kLanes;
    w.registers = wanted;
    b.cluster->signals++;
    w.failed.times = 0;
    return i + 1;
}
void build_registers(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 1 || i.ops[0].kind != Operand::Int) throw Undecodable("a constant expected");
    const uint64_t n = i.ops[0].bits;
    if (n < 24 || n > 256 || n % 8) throw Undecodable("the number must be a multiple of 8 from 24 to 256");
    Instr& x = b.emit(set_registers);
    x.imm = int64_t(n), x.imm2 = has(i, "inc"), x.flags = kSplits;
}

enum Reduction { kNone, kAnd, kOr, kPopc };

// a: the barrier's number, b: the number of threads or none, c: the predicate of a reduction. imm: Reduction, 8:
// arrive, 32: aligned, 64: the predicate is negated.
const Instr* barrier(Warp& w, const Instr* i) {
    const int lane       = __builtin_ctz(w.mask);
    const uint32_t id    = w.reg<uint32_t>(i->a)[lane];
    const uint32_t count = i->b.none() ? 0 : w.reg<uint32_t>(i->b)[lane];
    if (id > 15) return fail_launch(w, Fault::IllegalInstruction, "barrier " + std::to_string(id) + ": there are 16");
    if (count % kLanes)
        return fail_launch(w, Fault::IllegalInstruction,
                           "barrier for " + std::to_string(count) + " threads, which is no multiple of the warp size");
    BarrierState& bar = w.block->barriers[id];
    const int kind    = int(i->imm & 7);
    if (kind != kNone) {
        const uint32_t p = w.pred(i->c) ^ (i->imm & 64 ? kAll : 0), here = w.mask & p;
        const uint32_t absent = w.mask & ~p;
        if (kind == kPopc) bar.reduced += uint32_t(__builtin_popcount(here));
        else if (kind == kOr) bar.reduced |= here != 0;
        else bar.reduced |= absent != 0;  // is inverted, because a new barrier starts at zero
    }
    arrive(w, i, int(id), count, !(i->imm & 8));
    return kStop;
}

void build_barrier(Builder& b, const ptx::Instruction& i) {
    const auto& m     = i.mods;
    auto has          = [&](std::string_view s) { return std::find(m.begin(), m.end(), s) != m.end(); };
    const bool reduce = has("red"), arrives = has("arrive");
    const int kind     = !reduce ? kNone : has("and") ? kAnd : has("or") ? kOr : kPopc;
    const bool to_pred = kind == kAnd || kind == kOr;
    size_t at          = reduce ? 1 : 0;
    Ref id{}, count{}, p{}, d{};
    bool negated = false;
    if (i.ops.size() <= at) throw Undecodable("a barrier number expected");
    id = b.read(i.ops[at++], Type::b32);
    if (i.ops.size() > at + (reduce ? 1 : 0)) count = b.read(i.ops[at++], Type::b32);
    if (reduce) {
        p = b.read_pred(i.ops.at(at), negated);
        d = to_pred ? b.write_pred(i.ops[0].reg) : b.write(i.ops[0], Type::u32);
    }
    Instr& x = b.emit(barrier);
    x.a = id, x.b = count, x.c = p, x.d = d;
    x.imm   = kind | (arrives ? 8 : 0) | (m[0] == "bar" || has("aligned") ? 32 : 0) | (negated ? 64 : 0);
    x.flags = kSplits;
}

// The barrier of a cluster. imm2: aligned, imm3: relaxed.
const Instr* cluster_arrive(Warp& w, const Instr* i) {
    arrive_in_cluster(w, i, i->imm2);
    if (w.block->launch->check_all) clock_cluster_arrival(w, i->imm3);
    return i + 1;
}
const Instr* cluster_wait(Warp& w, const Instr* i) {
    if (!wait_in_cluster(w, i)) return kStop;
    if (w.block->launch->check_all) clock_cluster_wait(w);
    return i + 1;
}
void build_cluster_barrier(Builder& b, const ptx::Instruction& i) {
    Instr& x = b.emit(has(i, "arrive") ? cluster_arrive : cluster_wait);
    x.imm2 = has(i, "aligned"), x.imm3 = has(i, "relaxed");
    x.flags = kSplits;
}

}  // namespace
}  // namespace op

bool aligned_barrier(const Instr* i) {
    return i->run == op::cluster_wait ? i->imm2 : i->run == op::barrier && i->imm & 32;
}

void finish_reduction(Group& g, uint32_t reduced) {
    const Instr* i = g.pc - 1;
    const int kind = int(i->imm & 7);
    if (i->run != op::barrier || kind == op::kNone) return;
    std::byte* at = g.frame->regs + i->d.offset;
    if (kind == op::kPopc) {
        each_lane(g.mask, [&](int l) { reinterpret_cast<uint32_t*>(at)[l] = reduced; });
    } else {
        const bool yes = kind == op::kOr ? reduced != 0 : reduced == 0;
        auto& p        = *reinterpret_cast<uint32_t*>(at);
        p              = yes ? p | g.mask : p & ~g.mask;
    }
}

std::vector<Row> control_rows() {
    using namespace op;
    return {
        {"bra .uni?", build_branch},
        {"brx .idx .uni?", build_branch_table},
        {"call .uni?", build_call},
        {"ret .uni?", build_leave},
        {"exit", build_leave},
        {"trap", build_trap},
        {"brkpt", build_nothing},
        {"nop", build_nothing},
        {"pmevent .mask?", build_nothing},
        {"setmaxnreg .{inc,dec} .sync .aligned .u32", build_registers},
        {"griddepcontrol .{launch_dependents,wait}", build_grid_control},
        {"discard .global? .L2 .128?", build_nothing},
        {"prefetch .{const,param}? .tensormap", build_nothing},
        {"{prefetch,prefetchu} .{SPACE}? .{L1,L2,L2::evict_last,L2::evict_normal}", build_nothing},
        {"applypriority .global? .L2::evict_normal", build_nothing},
        {"alloca .{u32,u64}", build_alloca},
        {"stacksave .{u32,u64}", build_stacksave},
        {"stackrestore .{u32,u64}", build_stackrestore},
        {"nanosleep .u32", build_sleep},
        {"membar .{cta,gl,sys}", build_fence},
        {"fence .{SEM}? .{SCOPE}", build_fence},
        {"fence .proxy .alias", build_nothing},
        {"fence .proxy .async .{global,shared::cta,shared::cluster}?", build_proxy_fence},
        {"fence .mbarrier_init .release .cluster", build_proxy_fence},
        {"{bar,barrier} .cta? .sync .aligned?", build_barrier},
        {"{bar,barrier} .cta? .arrive .aligned?", build_barrier},
        {"{bar,barrier} .cta? .red .{and,or} .aligned? .pred", build_barrier},
        {"{bar,barrier} .cta? .red .popc .aligned? .u32", build_barrier},
        {"barrier .cluster .arrive .{release,relaxed}? .aligned?", build_cluster_barrier},
        {"barrier .cluster .wait .acquire? .aligned?", build_cluster_barrier},
    };
}

}  // namespace emu
