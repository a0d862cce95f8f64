// warp.cpp - the instructions of a whole warp: shfl, vote, match, redux, activemask, bar.warp.sync, elect
#include "checker.h"
#include "findings.h"
#include "handlers.h"
#include "lanes.h"
#include "options.h"

namespace emu {
namespace {

// Runs Body when all members have arrived. Lanes may belong to different sets, such as the tiles of a warp, and Body
// runs once per set. The member mask is in i->guard, because a guard of these instructions becomes a branch around
// them.
template <Handler Body> const Instr* collective(Warp& w, const Instr* i) {
    const uint32_t* members = w.reg<uint32_t>(i->guard);
    uint32_t same = kAll, any = 0;
    for (int l = 0; l < kLanes; l++) {
        const uint32_t m = w.mask >> l & 1 ? members[l] : kAll;
        same &= m;
        any |= w.mask >> l & 1 ? m : 0;
    }
    if (same == kAll && w.mask == kAll) {
        if (w.worker->checking) checker_exchange(w);
        return Body(w, i);
    }
    if ((w.live & any & ~w.mask) != 0 || w.groups.size() > 1)
        if (!gather(w, i, any)) return kStop;
    const uint32_t outside = w.mask & ~mask_of([=](int l) { return members[l] >> l & 1; });
    if (outside && options().check != Check::Off)
        report(finding_at(w, i, Kind::AbsentLane, __builtin_ctz(outside),
                          "this lane executes the instruction but is not in its member mask"));
    const uint32_t all = w.mask;
    for (uint32_t left = all; left;) {
        const uint32_t set = members[__builtin_ctz(left)];
        w.mask             = left & mask_of([=](int l) { return members[l] == set; });
        left &= ~w.mask;
        if (w.worker->checking) checker_exchange(w);
        Body(w, i);
    }
    w.mask = all;
    return i + 1;
}

enum ShuffleMode { kUp, kDown, kBfly, kIdx };

// a: the value, b: the lane or distance, more[0]: clamp and segment mask, d: the result, c: the predicate or none.
template <int Mode> const Instr* shfl(Warp& w, const Instr* i) {
    const Ref* more   = &w.frame->function->more[i->more];
    const uint32_t *a = w.reg<uint32_t>(i->a), *b = w.reg<uint32_t>(i->b), *c = w.reg<uint32_t>(more[0]);
    uint32_t v[kLanes], inside = 0, from_absent = 0;
    for (int l = 0; l < kLanes; l++) {
        const int by = int(b[l] & 31), clamp = int(c[l] & 31), segment = int(c[l] >> 8 & 31);
        const int highest = (l & segment) | (clamp & ~segment), lowest = l & segment;
        int from = 0;
        bool ok  = false;
        if (Mode == kUp) from = l - by, ok = from >= highest;
        else if (Mode == kDown) from = l + by, ok = from <= highest;
        else if (Mode == kBfly) from = l ^ by, ok = from <= highest;
        else from = lowest | (by & ~segment), ok = from <= highest;
        if (!ok) from = l;
        v[l] = a[from];
        inside |= uint32_t(ok) << l;
        from_absent |= uint32_t(!(w.mask >> from & 1)) << l;
    }
    if (const uint32_t bad = from_absent & w.mask; bad && options().check != Check::Off) [[unlikely]]
        report(finding_at(w, i, Kind::AbsentLane, __builtin_ctz(bad),
                          "shfl reads a lane that does not take part: its value is undefined"));
    for_lanes(w, w.reg<uint32_t>(i->d), [&](int l) { return v[l]; });
    if (!i->c.none()) put_pred(w, i->c, inside);
    return i + 1;
}
void build_shfl(Builder& b, const ptx::Instruction& i) {
    const bool sync = has(i, "sync");
    if (i.ops.size() != (sync ? 5u : 4u)) throw Undecodable("wrong number of operands");
    const Ref a = b.read(i.ops[1], Type::b32), by = b.read(i.ops[2], Type::b32);
    const Ref clamp = b.read(i.ops[3], Type::b32), members = sync ? b.read(i.ops[4], Type::b32) : b.constant(kAll, 4);
    const Ref d = b.write(i.ops[0], Type::b32), p = i.ops[0].also >= 0 ? b.write_pred(i.ops[0].also) : Ref{};
    Instr& x = b.emit(has(i, "up")     ? collective<shfl<kUp>>
                      : has(i, "down") ? collective<shfl<kDown>>
                      : has(i, "bfly") ? collective<shfl<kBfly>>
                                       : collective<shfl<kIdx>>);
    x.guard  = members;
    x.a = a, x.b = by, x.d = d, x.c = p;
    x.flags = kSplits | (p.none() ? 0 : kWritesC);
    b.more(x, {}, {clamp});
}

enum Vote { kVoteAll, kVoteAny, kVoteUni, kVoteBallot };
const Instr* vote(Warp& w, const Instr* i) {  // a: the predicate
    const uint32_t p = w.pred(i->a) ^ (i->imm & 8 ? kAll : 0), yes = p & w.mask;
    switch (i->imm & 7) {
        case kVoteAll: put_pred(w, i->d, yes == w.mask ? kAll : 0); break;
        case kVoteAny: put_pred(w, i->d, yes ? kAll : 0); break;
        case kVoteUni: put_pred(w, i->d, yes == w.mask || !yes ? kAll : 0); break;
        default: for_lanes(w, w.reg<uint32_t>(i->d), [=](int) { return yes; });
    }
    return i + 1;
}
void build_vote(Builder& b, const ptx::Instruction& i) {
    const bool sync = has(i, "sync"), ballot = has(i, "ballot");
    if (i.ops.size() != (sync ? 3u : 2u)) throw Undecodable("wrong number of operands");
    bool negated;
    const Ref p = b.read_pred(i.ops[1], negated), members = sync ? b.read(i.ops[2], Type::b32) : Ref{};
    const Ref d = ballot ? b.write(i.ops[0], Type::b32) : b.write_pred(i.ops[0].reg);
    Instr& x    = b.emit(sync ? collective<vote> : vote);
    x.a = p, x.guard = members, x.d = d;
    x.imm = (ballot ? kVoteBallot : has(i, "all") ? kVoteAll : has(i, "any") ? kVoteAny : kVoteUni) | (negated ? 8 : 0);
    x.flags = kSplits;
}

template <class T> const Instr* match_any(Warp& w, const Instr* i) {
    const T* a  = w.reg<T>(i->a);
    uint32_t* d = w.reg<uint32_t>(i->d);
    uint32_t same[kLanes];
    each_lane(w.mask, [&](int l) { same[l] = w.mask & mask_of([&](int k) { return a[k] == a[l]; }); });
    each_lane(w.mask, [&](int l) { d[l] = same[l]; });
    return i + 1;
}
template <class T> const Instr* match_all(Warp& w, const Instr* i) {
    const T* a          = w.reg<T>(i->a);
    const T first       = a[__builtin_ctz(w.mask)];
    const bool all      = (w.mask & ~mask_of([&](int k) { return a[k] == first; })) == 0;
    const uint32_t mask = all ? w.mask : 0;
    for_lanes(w, w.reg<uint32_t>(i->d), [=](int) { return mask; });
    if (!i->c.none()) put_pred(w, i->c, all ? kAll : 0);
    return i + 1;
}
void build_match(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 3) throw Undecodable("3 operands expected");
    const Type t = type_of(i);
    const Ref a = b.read(i.ops[1], t), members = b.read(i.ops[2], Type::b32), d = b.write(i.ops[0], Type::b32);
    const Ref p     = i.ops[0].also >= 0 ? b.write_pred(i.ops[0].also) : Ref{};
    const bool wide = reg_bytes(t) == 8;
    Instr& x        = b.emit(has(i, "any") ? (wide ? collective<match_any<uint64_t>> : collective<match_any<uint32_t>>)
                                           : (wide ? collective<match_all<uint64_t>> : collective<match_all<uint32_t>>));
    x.a = a, x.guard = members, x.d = d, x.c = p;
    x.flags = kSplits | (p.none() ? 0 : kWritesC);
}

enum Redux { kRedAdd, kRedMin, kRedMax, kRedAnd, kRedOr, kRedXor };
template <class T> const Instr* redux(Warp& w, const Instr* i) {
    const T* a = w.reg<T>(i->a);
    T v        = a[__builtin_ctz(w.mask)];
    each_lane(w.mask & (w.mask - 1), [&](int l) {
        switch (i->imm) {
            case kRedAdd: v = T(uint32_t(v) + uint32_t(a[l])); break;
            case kRedMin: v = std::min(v, a[l]); break;
            case kRedMax: v = std::max(v, a[l]); break;
            case kRedAnd: v = v & a[l]; break;
            case kRedOr: v = v | a[l]; break;
            default: v = v ^ a[l];
        }
    });
    for_lanes(w, w.reg<T>(i->d), [=](int) { return v; });
    return i + 1;
}
void build_redux(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 3) throw Undecodable("3 operands expected");
    const Type t = type_of(i);
    const Ref a = b.read(i.ops[1], t), members = b.read(i.ops[2], Type::b32), d = b.write(i.ops[0], t);
    Instr& x = b.emit(t == Type::s32 ? collective<redux<int32_t>> : collective<redux<uint32_t>>);
    x.a = a, x.guard = members, x.d = d;
    x.imm   = has(i, "add")   ? kRedAdd
              : has(i, "min") ? kRedMin
              : has(i, "max") ? kRedMax
              : has(i, "and") ? kRedAnd
              : has(i, "or")  ? kRedOr
                              : kRedXor;
    x.flags = kSplits;
}

const Instr* activemask(Warp& w, const Instr* i) {
    const uint32_t mask = w.mask;
    for_lanes(w, w.reg<uint32_t>(i->d), [=](int) { return mask; });
    return i + 1;
}
void build_activemask(Builder& b, const ptx::Instruction& i) {
    const Ref d          = b.write(i.ops.at(0), Type::b32);
    b.emit(activemask).d = d;
}

const Instr* warp_barrier(Warp& w, const Instr* i) {
    checker_warp_sync(w);
    return i + 1;
}
void build_warp_barrier(Builder& b, const ptx::Instruction& i) {
    const Ref members = b.read(i.ops.at(0), Type::b32);
    Instr& x          = b.emit(collective<warp_barrier>);
    x.guard = members, x.flags = kSplits;
}

const Instr* elect(Warp& w, const Instr* i) {  // elects the lowest lane of the set
    const uint32_t leader = uint32_t(__builtin_ctz(w.mask));
    for_lanes(w, w.reg<uint32_t>(i->d), [=](int) { return leader; });
    if (!i->c.none()) put_pred(w, i->c, 1u << leader);
    return i + 1;
}
void build_elect(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 2) throw Undecodable("2 operands expected");
    const Ref members = b.read(i.ops[1], Type::b32), d = b.write(i.ops[0], Type::b32);
    const Ref p = i.ops[0].also >= 0 ? b.write_pred(i.ops[0].also) : Ref{};
    Instr& x    = b.emit(collective<elect>);
    x.guard = members, x.d = d, x.c = p;
    x.flags = kSplits | (p.none() ? 0 : kWritesC);
}

}  // namespace

std::vector<Row> warp_rows() {
    return {
        {"shfl .sync? .{up,down,bfly,idx} .b32", build_shfl},
        {"vote .sync? .{all,any,uni} .pred", build_vote},
        {"vote .sync? .ballot .b32", build_vote},
        {"match .{any,all} .sync .{b32,b64}", build_match},
        {"redux .sync .{add,min,max} .{u32,s32}", build_redux},
        {"redux .sync .{and,or,xor} .b32", build_redux},
        {"activemask .b32", build_activemask},
        {"{bar,barrier} .warp .sync", build_warp_barrier},
        {"elect .sync", build_elect},
    };
}

}  // namespace emu
