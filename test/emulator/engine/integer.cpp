// integer.cpp - integer arithmetic, logic, shifts, comparisons, bit fields
#include <algorithm>
#include <limits>

#include "compare.h"
#include "handlers.h"
#include "lanes.h"

namespace emu {
namespace {

// Arithmetic wraps, so its type is unsigned. It has at least 32 bits, because a promotion to int could overflow.
template <class T> using Wrap = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
template <class T>
using Wide =
    std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                       std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                                          std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;

// clang-format off
template <class T> struct Add { static T f(T a, T b) { return T(Wrap<T>(a) + Wrap<T>(b)); } };
template <class T> struct Sub { static T f(T a, T b) { return T(Wrap<T>(a) - Wrap<T>(b)); } };
template <class T> struct Mul { static T f(T a, T b) { return T(Wrap<T>(a) * Wrap<T>(b)); } };
template <class T> struct MulHi { static T f(T a, T b) { return T((Wide<T>(a) * Wide<T>(b)) >> (8 * sizeof(T))); } };
template <class T> struct MulWide { static Wide<T> f(T a, T b) { return Wide<T>(a) * Wide<T>(b); } };
template <class T> struct Mad { static T f(T a, T b, T c) { return T(Wrap<T>(a) * Wrap<T>(b) + Wrap<T>(c)); } };
template <class T> struct MadHi { static T f(T a, T b, T c) { return Add<T>::f(MulHi<T>::f(a, b), c); } };
template <class T> struct MadWide {
    static Wide<T> f(T a, T b, Wide<T> c) { return Add<Wide<T>>::f(Wide<T>(a) * Wide<T>(b), c); }
};
inline int32_t clamp32(int64_t v) { return int32_t(v < INT32_MIN ? INT32_MIN : v > INT32_MAX ? INT32_MAX : v); }
struct AddSat { static int32_t f(int32_t a, int32_t b) { return clamp32(int64_t(a) + b); } };
struct SubSat { static int32_t f(int32_t a, int32_t b) { return clamp32(int64_t(a) - b); } };
struct MadHiSat { static int32_t f(int32_t a, int32_t b, int32_t c) { return clamp32((int64_t(a) * b >> 32) + c); } };
template <class T> struct Mul24 {
    static T f(T a, T b) { return T(Wide<T>(T(Wrap<T>(a) << 8) >> 8) * (T(Wrap<T>(b) << 8) >> 8)); }
};
template <class T> struct Mad24 { static T f(T a, T b, T c) { return Add<T>::f(Mul24<T>::f(a, b), c); } };
template <class T> struct Mul24Hi {  // the upper 32 of the 48 bits
    static T f(T a, T b) { return T(Wide<T>(T(Wrap<T>(a) << 8) >> 8) * (T(Wrap<T>(b) << 8) >> 8) >> 16); }
};
template <class T> struct Mad24Hi { static T f(T a, T b, T c) { return Add<T>::f(Mul24Hi<T>::f(a, b), c); } };
struct Mad24HiSat {
    static int32_t f(int32_t a, int32_t b, int32_t c) { return clamp32(int64_t(Mul24Hi<int32_t>::f(a, b)) + c); }
};
template <class T> struct Halves {  // the two halves of a word, for u16x2 and s16x2
    template <class F> static uint32_t each(uint32_t a, uint32_t b, F f) {
        return uint32_t(uint16_t(f(T(a >> 16), T(b >> 16)))) << 16 | uint16_t(f(T(a), T(b)));
    }
};
template <class T, bool Larger, bool Relu> struct MinMaxHalves {
    static uint32_t f(uint32_t a, uint32_t b) {
        return Halves<T>::each(a, b, [](T x, T y) {
            const T r = (x < y) == Larger ? y : x;
            return Relu && r < 0 ? T(0) : r;
        });
    }
};
struct AddHalves {
    static uint32_t f(uint32_t a, uint32_t b) { return Halves<uint16_t>::each(a, b, Add<uint16_t>::f); }
};
struct MinRelu { static int32_t f(int32_t a, int32_t b) { return std::max(std::min(a, b), 0); } };
struct MaxRelu { static int32_t f(int32_t a, int32_t b) { return std::max({a, b, 0}); } };

// PTX does not specify x / 0. GPUs return all ones, and x as the remainder. INT_MIN / -1 wraps to INT_MIN.
template <class T> struct Div {
    static T f(T a, T b) {
        if (b == 0) return T(~T(0));
        if (std::is_signed_v<T> && b == T(-1)) return T(Wrap<T>(0) - Wrap<T>(a));
        return T(a / b);
    }
};
template <class T> struct Rem {
    static T f(T a, T b) {
        if (b == 0) return a;
        if (std::is_signed_v<T> && b == T(-1)) return 0;
        return T(a % b);
    }
};
template <class T> struct Min { static T f(T a, T b) { return a < b ? a : b; } };
template <class T> struct Max { static T f(T a, T b) { return a > b ? a : b; } };
template <class T> struct Abs { static T f(T a) { return a < 0 ? T(Wrap<T>(0) - Wrap<T>(a)) : a; } };
template <class T> struct Neg { static T f(T a) { return T(Wrap<T>(0) - Wrap<T>(a)); } };
template <class T> struct Sad {
    static T f(T a, T b, T c) { return Add<T>::f(c, a < b ? Sub<T>::f(b, a) : Sub<T>::f(a, b)); }
};
template <class T> struct And { static T f(T a, T b) { return a & b; } };
template <class T> struct Or { static T f(T a, T b) { return a | b; } };
template <class T> struct Xor { static T f(T a, T b) { return a ^ b; } };
template <class T> struct Not { static T f(T a) { return T(~a); } };
template <class T> struct Cnot { static T f(T a) { return a == 0; } };

// A shift by the width or more gives 0, or all sign bits.
template <class T> struct Shl { static T f(T a, uint32_t n) { return n < 8 * sizeof(T) ? T(Wrap<T>(a) << n) : T(0); } };
template <class T> struct Shr {
    static T f(T a, uint32_t n) {
        constexpr uint32_t top = 8 * sizeof(T) - 1;
        if (std::is_signed_v<T>) return T(a >> (n < top ? n : top));
        return n <= top ? T(a >> n) : T(0);
    }
};
template <bool Left, bool Wraps> struct Funnel {  // of the 64 bits b:a
    static uint32_t f(uint32_t a, uint32_t b, uint32_t n) {
        n                = Wraps ? n & 31 : n < 32 ? n : 32;
        const uint64_t v = uint64_t(b) << 32 | a;
        return uint32_t(Left ? v << n >> 32 : v >> n);
    }
};
template <class T> struct Popc { static uint32_t f(T a) { return uint32_t(__builtin_popcountll(a)); } };
template <class T> struct Clz {
    static uint32_t f(T a) { return a ? uint32_t(__builtin_clzll(a)) - (64 - 8 * sizeof(T)) : uint32_t(8 * sizeof(T)); }
};
template <class T> struct Brev {
    static T f(T a) {
        uint64_t v = a;
        v          = (v >> 1 & 0x5555555555555555) | (v & 0x5555555555555555) << 1;
        v          = (v >> 2 & 0x3333333333333333) | (v & 0x3333333333333333) << 2;
        v          = (v >> 4 & 0x0f0f0f0f0f0f0f0f) | (v & 0x0f0f0f0f0f0f0f0f) << 4;
        return T(__builtin_bswap64(v) >> (64 - 8 * sizeof(T)));
    }
};
// Finds the highest bit that differs from the sign, or for unsigned types from zero. It is -1 when there is none.
template <class T, bool ShiftAmount> struct Bfind {
    static uint32_t f(T a) {
        using U   = std::make_unsigned_t<T>;
        const U v = std::is_signed_v<T> && a < 0 ? U(~a) : U(a);
        if (!v) return ~0u;
        const uint32_t bit = 63 - uint32_t(__builtin_clzll(v));
        return ShiftAmount ? uint32_t(8 * sizeof(T) - 1) - bit : bit;
    }
};
template <class T> struct Bfe {
    static T f(T a, uint32_t position, uint32_t length) {
        constexpr uint32_t bits = 8 * sizeof(T);
        position &= 0xff, length &= 0xff;
        if (!length) return 0;
        const uint32_t sign_at = std::min(position + length - 1, bits - 1);
        const bool sign        = std::is_signed_v<T> && (a >> sign_at & 1);
        using U                = std::make_unsigned_t<T>;
        const U field          = position < bits ? U(U(a) >> position) : U(0);
        const uint32_t have    = position < bits ? std::min(length, bits - position) : 0;
        const U mask           = have >= bits ? U(~U(0)) : U((U(1) << have) - 1);
        return T(sign ? U(field | ~mask) : U(field & mask));
    }
};
template <class T> struct Bfi {
    static T f(T a, T b, uint32_t position, uint32_t length) {
        constexpr uint32_t bits = 8 * sizeof(T);
        position &= 0xff, length &= 0xff;
        if (position >= bits || !length) return b;
        const uint32_t have = std::min(length, bits - position);
        const T ones        = have >= bits ? T(~T(0)) : T((T(1) << have) - 1);
        const T mask        = T(ones << position);
        return T((b & ~mask) | (T(a << position) & mask));
    }
};
template <bool Wraps> struct Bmsk {
    static uint32_t f(uint32_t a, uint32_t b) {
        if (Wraps) a &= 31, b &= 31;
        if (a >= 32) return 0;
        return (b >= 32 ? ~0u : (1u << b) - 1) << a;
    }
};
struct Fns {  // finds the n-th set bit from `base` on, upwards for n > 0 and downwards for n < 0
    static uint32_t f(uint32_t mask, uint32_t base, int32_t n) {
        if (n == 0) return base < 32 && mask >> base & 1 ? base : ~0u;
        const int step = n > 0 ? 1 : -1;
        for (int bit = int(base), left = n > 0 ? n : -n; bit >= 0 && bit < 32; bit += step)
            if (mask >> bit & 1 && --left == 0) return uint32_t(bit);
        return ~0u;
    }
};
// prmt: each nibble of the selector names one of the 8 bytes of b:a. Bit 3 replicates the sign of that byte instead.
struct Prmt {
    static uint32_t f(uint32_t a, uint32_t b, uint32_t selector) {
        const uint64_t bytes = uint64_t(b) << 32 | a;
        uint32_t d           = 0;
        for (int k = 0; k < 4; k++) {
            const uint32_t s = selector >> (4 * k);
            uint32_t v       = uint32_t(bytes >> (8 * (s & 7))) & 0xff;
            if (s & 8) v = v & 0x80 ? 0xff : 0;
            d |= v << (8 * k);
        }
        return d;
    }
};
template <int Mode> struct PrmtMode {
    static uint32_t f(uint32_t a, uint32_t b, uint32_t c) {
        const uint32_t n = c & 3;
        uint32_t s       = 0;
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t byte = 0;
            if (Mode == 0) byte = n + k;                                  // f4e
            else if (Mode == 1) byte = (n + 8 - k) & 7;                   // b4e
            else if (Mode == 2) byte = n;                                 // rc8
            else if (Mode == 3) byte = k > n ? k : n;                     // ecl
            else if (Mode == 4) byte = k < n ? k : n;                     // ecr
            else byte = (n & 1) * 2 + (k & 1);                            // rc16
            s |= (byte & 7) << (4 * k);
        }
        return Prmt::f(a, b, s);
    }
};
// dp4a adds four products of bytes to c. dp2a adds two products of a's halves and bytes in the lower or upper half of b.
template <class A, class B> struct Dp4a {
    static uint32_t f(uint32_t a, uint32_t b, uint32_t c) {
        int32_t sum = 0;
        for (int k = 0; k < 4; k++) sum += int32_t(A(a >> (8 * k))) * int32_t(B(b >> (8 * k)));
        return c + uint32_t(sum);
    }
};
template <class A, class B, bool High> struct Dp2a {
    static uint32_t f(uint32_t a, uint32_t b, uint32_t c) {
        int64_t sum = 0;
        for (int k = 0; k < 2; k++) sum += int64_t(A(a >> (16 * k))) * int64_t(B(b >> (8 * k + (High ? 16 : 0))));
        return c + uint32_t(sum);
    }
};
// clang-format on

template <template <class> class Op> void build2(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    emit_op(b, i, with_int(t, []<class T> { return &binary<Op<T>, T, T, T>; }), t, {t, t});
}
template <template <class> class Op> void build1(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    emit_op(b, i, with_int(t, []<class T> { return &unary<Op<T>, T, T>; }), t, {t});
}
template <template <class> class Op> void build3(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    emit_op(b, i, with_int(t, []<class T> { return &ternary<Op<T>, T, T, T, T>; }), t, {t, t, t});
}
template <template <class> class Op> void build_shift(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    emit_op(b, i, with_int(t, []<class T> { return &binary<Op<T>, T, T, uint32_t>; }), t, {t, Type::u32});
}
Type wide_of(Type t) {
    switch (t) {
        case Type::u16: return Type::u32;
        case Type::s16: return Type::s32;
        case Type::u32: return Type::u64;
        case Type::s32: return Type::s64;
        default: throw Undecodable("no wider type");
    }
}
template <class F> Handler narrow_int(Type t, F use) {
    if (reg_bytes(t) == 8) throw Undecodable("no wider type");
    return with_int(t, [&]<class T>() -> Handler {
        if constexpr (sizeof(T) < 8) return use.template operator()<T>();
        else return nullptr;
    });
}
void build_mul_wide(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    emit_op(b, i, narrow_int(t, []<class T> { return &binary<MulWide<T>, Wide<T>, T, T>; }), wide_of(t), {t, t});
}
void build_mad_wide(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    emit_op(b, i, narrow_int(t, []<class T> { return &ternary<MadWide<T>, Wide<T>, T, T, Wide<T>>; }), wide_of(t),
            {t, t, wide_of(t)});
}
template <class Op> void build_u32x2(Builder& b, const ptx::Instruction& i) {
    emit_op(b, i, &binary<Op, uint32_t, uint32_t, uint32_t>, Type::u32, {Type::u32, Type::u32});
}
template <class Op> void build_s32x2(Builder& b, const ptx::Instruction& i) {
    emit_op(b, i, &binary<Op, int32_t, int32_t, int32_t>, Type::s32, {Type::s32, Type::s32});
}
template <class Op> void build_u32x3(Builder& b, const ptx::Instruction& i) {
    emit_op(b, i, &ternary<Op, uint32_t, uint32_t, uint32_t, uint32_t>, Type::u32, {Type::u32, Type::u32, Type::u32});
}
template <bool Larger> void build_minmax_halves(Builder& b, const ptx::Instruction& i) {
    if (type_of(i) == Type::u16x2) build_u32x2<MinMaxHalves<uint16_t, Larger, false>>(b, i);
    else if (has(i, "relu")) build_u32x2<MinMaxHalves<int16_t, Larger, true>>(b, i);
    else build_u32x2<MinMaxHalves<int16_t, Larger, false>>(b, i);
}
template <class Op> void build_s32x3(Builder& b, const ptx::Instruction& i) {
    emit_op(b, i, &ternary<Op, int32_t, int32_t, int32_t, int32_t>, Type::s32, {Type::s32, Type::s32, Type::s32});
}
template <class Op> void build_fns(Builder& b, const ptx::Instruction& i) {
    emit_op(b, i, &ternary<Op, uint32_t, uint32_t, uint32_t, int32_t>, Type::u32, {Type::u32, Type::u32, Type::s32});
}
void build_count(Builder& b, const ptx::Instruction& i) {  // popc, clz: the result is always u32
    const Type t    = type_of(i);
    const bool popc = i.mods[0] == "popc", wide = reg_bytes(t) == 8;
    const Handler h =
        popc ? (wide ? &unary<Popc<uint64_t>, uint32_t, uint64_t> : &unary<Popc<uint32_t>, uint32_t, uint32_t>)
             : (wide ? &unary<Clz<uint64_t>, uint32_t, uint64_t> : &unary<Clz<uint32_t>, uint32_t, uint32_t>);
    emit_op(b, i, h, Type::u32, {t});
}
void build_bfind(Builder& b, const ptx::Instruction& i) {
    const Type t     = type_of(i);
    const bool shift = has(i, "shiftamt");
    emit_op(b, i,
            with_int(t,
                     [=]<class T> {
                         return shift ? &unary<Bfind<T, true>, uint32_t, T> : &unary<Bfind<T, false>, uint32_t, T>;
                     }),
            Type::u32, {t});
}
void build_bfe(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    emit_op(b, i, with_int(t, []<class T> { return &ternary<Bfe<T>, T, T, uint32_t, uint32_t>; }), t,
            {t, Type::u32, Type::u32});
}
template <class T> const Instr* bfi(Warp& w, const Instr* i) {
    const T *a = w.reg<T>(i->a), *b = w.reg<T>(i->b);
    const uint32_t* position = w.reg<uint32_t>(i->c);
    const uint32_t* length   = w.reg<uint32_t>(w.frame->function->more[i->more]);
    for_lanes(w, w.reg<T>(i->d), [=](int l) { return Bfi<T>::f(a[l], b[l], position[l], length[l]); });
    return i + 1;
}
void build_bfi(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 5) throw Undecodable("5 operands expected");
    const Type t = type_of(i);
    const Ref a = b.read(i.ops[1], t), to = b.read(i.ops[2], t);
    const Ref pos = b.read(i.ops[3], Type::u32), length = b.read(i.ops[4], Type::u32), d = b.write(i.ops[0], t);
    Instr& x = b.emit(reg_bytes(t) == 8 ? bfi<uint64_t> : bfi<uint32_t>);
    x.d = d, x.a = a, x.b = to, x.c = pos;
    b.more(x, {}, {length});
}
// lop3 is any function of three bits. imm is its truth table, and the result is an or over the rows that give one.
const Instr* lop3(Warp& w, const Instr* i) {
    const uint32_t *a = w.reg<uint32_t>(i->a), *b = w.reg<uint32_t>(i->b), *c = w.reg<uint32_t>(i->c);
    uint32_t row[8];
    for (int k = 0; k < 8; k++) row[k] = i->imm >> k & 1 ? kAll : 0;
    for_lanes(w, w.reg<uint32_t>(i->d), [=](int l) {
        const uint32_t x = a[l], y = b[l], z = c[l];
        return (~x & ~y & ~z & row[0]) | (~x & ~y & z & row[1]) | (~x & y & ~z & row[2]) | (~x & y & z & row[3]) |
               (x & ~y & ~z & row[4]) | (x & ~y & z & row[5]) | (x & y & ~z & row[6]) | (x & y & z & row[7]);
    });
    return i + 1;
}
// lop3.and and lop3.or combine whether the result is not zero with a predicate. imm2: 1: or, 2: it is negated, more:
// the predicates of the result and of the operand.
const Instr* lop3_with_predicate(Warp& w, const Instr* i) {
    lop3(w, i);
    const uint32_t* d = w.reg<uint32_t>(i->d);
    const Ref* more   = &w.frame->function->more[i->more];
    const uint32_t q = w.pred(more[1]) ^ (i->imm2 & 2 ? kAll : 0), set = mask_of([=](int l) { return d[l] != 0; });
    put_pred(w, more[0], i->imm2 & 1 ? set | q : set & q);
    return i + 1;
}
void build_lop3(Builder& b, const ptx::Instruction& i) {
    const size_t wanted = has(i, "and") || has(i, "or") ? 6 : 5;
    if (i.ops.size() != wanted || i.ops[4].kind != Operand::Int)
        throw Undecodable(std::to_string(wanted) + " operands expected, the fifth a constant");
    const Ref x = b.read(i.ops[1], Type::b32), y = b.read(i.ops[2], Type::b32), z = b.read(i.ops[3], Type::b32);
    bool negated     = false;
    const bool tests = i.ops.size() == 6;
    const Ref q      = tests ? b.read_pred(i.ops[5], negated) : Ref{};
    const Ref d = b.write(i.ops[0], Type::b32), p = tests ? b.write_pred(i.ops[0].also) : Ref{};
    Instr& n = b.emit(tests ? lop3_with_predicate : lop3);
    n.d = d, n.a = x, n.b = y, n.c = z, n.imm = int64_t(i.ops[4].bits);
    n.imm2 = (has(i, "or") ? 1 : 0) | (negated ? 2 : 0);
    if (tests) b.more(n, {p}, {q});
}
void build_shf(Builder& b, const ptx::Instruction& i) {
    const bool left = has(i, "l"), wraps = has(i, "wrap");
    if (left) wraps ? build_u32x3<Funnel<true, true>>(b, i) : build_u32x3<Funnel<true, false>>(b, i);
    else wraps ? build_u32x3<Funnel<false, true>>(b, i) : build_u32x3<Funnel<false, false>>(b, i);
}
void build_prmt(Builder& b, const ptx::Instruction& i) {
    if (has(i, "f4e")) build_u32x3<PrmtMode<0>>(b, i);
    else if (has(i, "b4e")) build_u32x3<PrmtMode<1>>(b, i);
    else if (has(i, "rc8")) build_u32x3<PrmtMode<2>>(b, i);
    else if (has(i, "ecl")) build_u32x3<PrmtMode<3>>(b, i);
    else if (has(i, "ecr")) build_u32x3<PrmtMode<4>>(b, i);
    else if (has(i, "rc16")) build_u32x3<PrmtMode<5>>(b, i);
    else build_u32x3<Prmt>(b, i);
}
void build_dp(Builder& b, const ptx::Instruction& i) {
    const bool sa = type_at(i, 0) == Type::s32, sb = type_at(i, 1) == Type::s32;
    if (i.mods[0] == "dp4a") {
        if (sa) sb ? build_u32x3<Dp4a<int8_t, int8_t>>(b, i) : build_u32x3<Dp4a<int8_t, uint8_t>>(b, i);
        else sb ? build_u32x3<Dp4a<uint8_t, int8_t>>(b, i) : build_u32x3<Dp4a<uint8_t, uint8_t>>(b, i);
    } else if (has(i, "hi")) {
        if (sa) sb ? build_u32x3<Dp2a<int16_t, int8_t, true>>(b, i) : build_u32x3<Dp2a<int16_t, uint8_t, true>>(b, i);
        else sb ? build_u32x3<Dp2a<uint16_t, int8_t, true>>(b, i) : build_u32x3<Dp2a<uint16_t, uint8_t, true>>(b, i);
    } else {
        if (sa) sb ? build_u32x3<Dp2a<int16_t, int8_t, false>>(b, i) : build_u32x3<Dp2a<int16_t, uint8_t, false>>(b, i);
        else sb ? build_u32x3<Dp2a<uint16_t, int8_t, false>>(b, i) : build_u32x3<Dp2a<uint16_t, uint8_t, false>>(b, i);
    }
}

// add.cc, addc, sub.cc, subc, mad.cc, madc: the carry of each lane is a bit of Warp::carry. A subtraction is a + ~b +
// 1, so its carry is 1 when nothing was borrowed. nvcc's 128-bit division reads that carry with addc.
enum Extended { kAdd = 0, kSub = 1, kMad = 2, kMadHi = 3, kTakes = 4, kGives = 8 };
template <class T> const Instr* extended(Warp& w, const Instr* i) {  // only mad.hi depends on the sign of T
    using U    = std::make_unsigned_t<T>;
    const U *a = w.reg<U>(i->a), *b = w.reg<U>(i->b), *c = i->c.none() ? nullptr : w.reg<U>(i->c);
    U* d        = w.reg<U>(i->d);
    const int k = int(i->imm);
    each_lane(w.mask, [&](int l) {
        using Double  = std::conditional_t<sizeof(U) == 4, uint64_t, unsigned __int128>;
        const U carry = k & kTakes ? w.carry >> l & 1 : (k & 3) == kSub;
        Double sum    = 0;
        if ((k & 3) == kAdd) sum = Double(a[l]) + b[l] + carry;
        else if ((k & 3) == kSub) sum = Double(a[l]) + U(~b[l]) + carry;
        else sum = Double((k & 3) == kMad ? Mul<U>::f(a[l], b[l]) : U(MulHi<T>::f(T(a[l]), T(b[l])))) + c[l] + carry;
        d[l] = U(sum);
        if (k & kGives) w.carry = (w.carry & ~(1u << l)) | uint32_t((sum >> (8 * sizeof(U)) & 1) << l);
    });
    return i + 1;
}
void build_extended(Builder& b, const ptx::Instruction& i) {
    const Type t     = type_of(i);
    const auto& name = i.mods[0];
    const bool mad   = name.starts_with("mad");
    const int kind   = mad ? (has(i, "hi") ? kMadHi : kMad) : name.starts_with("sub") ? kSub : kAdd;
    const Handler h  = reg_bytes(t) == 8 ? (t == Type::s64 ? extended<int64_t> : extended<uint64_t>)
                                         : (t == Type::s32 ? extended<int32_t> : extended<uint32_t>);
    Instr& x         = mad ? emit_op(b, i, h, t, {t, t, t}) : emit_op(b, i, h, t, {t, t});
    x.imm            = kind | (name.back() == 'c' ? int(kTakes) : 0) | (has(i, "cc") ? int(kGives) : 0);
}

template <class T> struct IntCompare {
    template <int Cmp> static bool f(T a, T b) { return compare(Cmp, a, b); }
};
void build_setp(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    build_comparison(b, i, t, with_int(t, [&]<class T> { return setp_handler<IntCompare<T>, T>(int_comparison(i)); }));
}
void build_set(Builder& b, const ptx::Instruction& i) {
    const Type t = type_at(i, 1);
    build_comparison(b, i, t, with_int(t, [&]<class T> { return setp_handler<IntCompare<T>, T>(int_comparison(i)); }));
}

// and.pred and the like work on the masks of all lanes.
enum Logic { kAnd, kOr, kXor, kNot, kMov };
const Instr* pred_logic(Warp& w, const Instr* i) {
    const uint32_t a = w.pred(i->a) ^ (i->imm & 8 ? kAll : 0);
    const uint32_t b = i->b.none() ? 0 : w.pred(i->b) ^ (i->imm & 16 ? kAll : 0);
    switch (i->imm & 7) {
        case kAnd: put_pred(w, i->d, a & b); break;
        case kOr: put_pred(w, i->d, a | b); break;
        case kXor: put_pred(w, i->d, a ^ b); break;
        case kNot: put_pred(w, i->d, ~a); break;
        default: put_pred(w, i->d, a);
    }
    return i + 1;
}
void build_pred_logic(Builder& b, const ptx::Instruction& i) {
    const auto& n  = i.mods[0];
    const int kind = n == "and" ? kAnd : n == "or" ? kOr : n == "xor" ? kXor : n == "not" ? kNot : kMov;
    bool na = false, nb = false;
    if (i.ops.size() != (kind >= kNot ? 2u : 3u)) throw Undecodable("wrong number of operands");
    if (kind == kMov && i.ops[1].kind == Operand::Special)
        return op::special_pred(b, b.write_pred(i.ops[0].reg), i.ops[1].name);
    const Ref a = b.read_pred(i.ops[1], na);
    const Ref c = kind >= kNot ? Ref{} : b.read_pred(i.ops[2], nb);
    const Ref d = b.write_pred(i.ops[0].reg);
    Instr& x    = b.emit(pred_logic);
    x.a = a, x.b = c, x.d = d;
    x.imm = kind | (na ? 8 : 0) | (nb ? 16 : 0);
}

}  // namespace

std::vector<Row> integer_rows() {
    return {
        {"add .{INT}", build2<Add>},
        {"sub .{INT}", build2<Sub>},
        {"add .sat .s32", build_s32x2<AddSat>},
        {"sub .sat .s32", build_s32x2<SubSat>},
        {"mul .lo .{INT}", build2<Mul>},
        {"mul .hi .{INT}", build2<MulHi>},
        {"mul .wide .{u16,s16,u32,s32}", build_mul_wide},
        {"mad .lo .{INT}", build3<Mad>},
        {"mad .hi .{INT}", build3<MadHi>},
        {"mad .hi .sat .s32", build_s32x3<MadHiSat>},
        {"mad .wide .{u16,s16,u32,s32}", build_mad_wide},
        {"mul24 .lo .u32", build_u32x2<Mul24<uint32_t>>},
        {"mul24 .lo .s32", build_s32x2<Mul24<int32_t>>},
        {"mul24 .hi .u32", build_u32x2<Mul24Hi<uint32_t>>},
        {"mul24 .hi .s32", build_s32x2<Mul24Hi<int32_t>>},
        {"mad24 .lo .u32", build_u32x3<Mad24<uint32_t>>},
        {"mad24 .lo .s32", build_s32x3<Mad24<int32_t>>},
        {"mad24 .hi .u32", build_u32x3<Mad24Hi<uint32_t>>},
        {"mad24 .hi .s32", build_s32x3<Mad24Hi<int32_t>>},
        {"mad24 .hi .sat .s32", build_s32x3<Mad24HiSat>},
        {"{add,addc,sub,subc} .cc .{u32,s32,u64,s64,b32,b64}", build_extended},
        {"{addc,subc} .{u32,s32,u64,s64}", build_extended},
        {"mad .{lo,hi} .cc .{u32,s32,u64,s64}", build_extended},
        {"madc .{lo,hi} .cc? .{u32,s32,u64,s64}", build_extended},
        {"div .{INT}", build2<Div>},
        {"rem .{INT}", build2<Rem>},
        {"min .{INT}", build2<Min>},
        {"max .{INT}", build2<Max>},
        {"min .relu .s32", build_s32x2<MinRelu>},
        {"max .relu .s32", build_s32x2<MaxRelu>},
        {"min .{u16x2,s16x2}", build_minmax_halves<false>},
        {"max .{u16x2,s16x2}", build_minmax_halves<true>},
        {"min .relu .s16x2", build_minmax_halves<false>},
        {"max .relu .s16x2", build_minmax_halves<true>},
        {"add .{u16x2,s16x2}", build_u32x2<AddHalves>},
        {"abs .{s16,s32,s64}", build1<Abs>},
        {"neg .{s16,s32,s64}", build1<Neg>},
        {"sad .{INT}", build3<Sad>},
        {"and .{BITS}", build2<And>},
        {"or .{BITS}", build2<Or>},
        {"xor .{BITS}", build2<Xor>},
        {"not .{BITS}", build1<Not>},
        {"cnot .{BITS}", build1<Cnot>},
        {"{and,or,xor,not,mov} .pred", build_pred_logic},
        {"shl .{BITS}", build_shift<Shl>},
        {"shr .{b16,b32,b64,u16,s16,u32,s32,u64,s64}", build_shift<Shr>},
        {"shf .{l,r} .{clamp,wrap} .b32", build_shf},
        {"lop3 .{and,or}? .b32", build_lop3},
        {"popc .{b32,b64}", build_count},
        {"clz .{b32,b64}", build_count},
        {"bfind .shiftamt? .{u32,s32,u64,s64}", build_bfind},
        {"brev .{b32,b64}", build1<Brev>},
        {"bfe .{u32,s32,u64,s64}", build_bfe},
        {"bfi .{b32,b64}", build_bfi},
        {"bmsk .clamp .b32", build_u32x2<Bmsk<false>>},
        {"bmsk .wrap .b32", build_u32x2<Bmsk<true>>},
        {"fns .b32", build_fns<Fns>},
        {"prmt .b32 .{f4e,b4e,rc8,ecl,ecr,rc16}?", build_prmt},
        {"dp4a .{u32,s32} .{u32,s32}", build_dp},
        {"dp2a .{lo,hi} .{u32,s32} .{u32,s32}", build_dp},
        {"setp .{CMP} .{BOOL}? .{BITS,INT}", build_setp},
        {"set .{CMP} .{BOOL}? .{u32,s32,f32} .{BITS,INT}", build_set},
    };
}

}  // namespace emu
