// compare.h - setp and set for any type: d is (a cmp b) bool c, and e is (not (a cmp b)) bool c
#pragma once
#include "lanes.h"

namespace emu {

enum Comparison { kEq, kNe, kLt, kLe, kGt, kGe, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu, kNum, kNan };
enum class Combine { None, And, Or, Xor };

inline int comparison(const ptx::Instruction& i) {
    constexpr const char* names[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                                     "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
    for (int k = 0; k < 14; k++)
        if (i.mods[1] == names[k]) return k;
    constexpr const char* unsigned_names[] = {"lo", "ls", "hi", "hs"};
    for (int k = 0; k < 4; k++)
        if (i.mods[1] == unsigned_names[k]) return kLt + k;
    throw Undecodable("unknown comparison");
}
inline int int_comparison(const ptx::Instruction& i) {
    const int c = comparison(i);
    if (c > kGe) throw Undecodable("this comparison is for floats only");
    return c;
}

// An ordered comparison with a NaN is false, an unordered one (kEqu and following) is true.
template <class T> inline bool compare(int comparison, T a, T b) {
    switch (comparison) {
        case kEq: return a == b;
        case kNe: return a < b || a > b;
        case kLt: return a < b;
        case kLe: return a <= b;
        case kGt: return a > b;
        case kGe: return a >= b;
        case kEqu: return !(a < b || a > b);
        case kNeu: return !(a == b);
        case kLtu: return !(a >= b);
        case kLeu: return !(a > b);
        case kGtu: return !(a <= b);
        case kGeu: return !(a < b);
        case kNum: return a == a && b == b;
        default: return a != a || b != b;
    }
}

// Writes the result: a predicate, and for the second one its opposite, or for `set` a number per lane.
inline void finish_comparison(Warp& w, const Instr* i, uint32_t r) {
    uint32_t opposite = ~r;
    if (!i->c.none()) {
        const uint32_t c = w.pred(i->c) ^ (i->imm & 16 ? kAll : 0);
        switch (Combine(i->imm & 3)) {
            case Combine::And: r &= c, opposite &= c; break;
            case Combine::Or: r |= c, opposite |= c; break;
            default: r ^= c, opposite ^= c;
        }
    }
    if (i->imm & 4) {  // set gives all ones, or 1.0
        const uint32_t yes = i->imm & 8 ? 0x3f800000u : kAll;
        for_lanes(w, w.reg<uint32_t>(i->d), [=](int l) { return r >> l & 1 ? yes : 0u; });
        return;
    }
    put_pred(w, i->d, r);
    if (i->more_count) put_pred(w, w.frame->function->more[i->more], opposite);
}

template <class Op, int Cmp, class T> const Instr* setp(Warp& w, const Instr* i) {
    const T *a = w.reg<T>(i->a), *b = w.reg<T>(i->b);
    finish_comparison(w, i, mask_of([=](int l) { return Op::template f<Cmp>(a[l], b[l]); }));
    return i + 1;
}

template <class Op, class T> Handler setp_handler(int cmp) {
    switch (cmp) {
        case kEq: return setp<Op, kEq, T>;
        case kNe: return setp<Op, kNe, T>;
        case kLt: return setp<Op, kLt, T>;
        case kLe: return setp<Op, kLe, T>;
        case kGt: return setp<Op, kGt, T>;
        case kGe: return setp<Op, kGe, T>;
        case kEqu: return setp<Op, kEqu, T>;
        case kNeu: return setp<Op, kNeu, T>;
        case kLtu: return setp<Op, kLtu, T>;
        case kLeu: return setp<Op, kLeu, T>;
        case kGtu: return setp<Op, kGtu, T>;
        case kGeu: return setp<Op, kGeu, T>;
        case kNum: return setp<Op, kNum, T>;
        default: return setp<Op, kNan, T>;
    }
}

inline void build_comparison(Builder& b, const ptx::Instruction& i, Type t, Handler h) {
    const bool set     = i.mods[0] == "set";
    const bool combine = i.ops.size() == 4;
    if (i.ops.size() != 3 && !combine) throw Undecodable("3 or 4 operands expected");
    bool negated = false;
    const Ref x = b.read(i.ops[1], t), y = b.read(i.ops[2], t), c = combine ? b.read_pred(i.ops[3], negated) : Ref{};
    const Ref d = set ? b.write(i.ops[0], Type::b32) : b.write_pred(i.ops[0].reg);
    const Ref e = i.ops[0].also >= 0 ? b.write_pred(i.ops[0].also) : Ref{};
    Instr& n    = b.emit(h);
    n.d = d, n.a = x, n.b = y, n.c = c;
    n.imm = int(!combine ? Combine::None : has(i, "and") ? Combine::And : has(i, "or") ? Combine::Or : Combine::Xor);
    n.imm |= negated ? 16 : 0;
    if (set) n.imm |= 4 | (type_at(i, 0) == Type::f32 ? 8 : 0);
    if (!e.none()) b.more(n, {e}, {});
}

}  // namespace emu
