// half.cpp - f16 and bf16, one or two to a register
//
// Sums and products are computed in float. It has more than twice the precision plus two bits, so rounding twice gives
// the same as rounding once. For fma the product is exact in double, and the sum is rounded to odd and then to 16 bits.
#include "approx.h"
#include "compare.h"
#include "floats.h"
#include "lanes.h"

namespace emu {
namespace {

struct F16 {
    static float wide(uint16_t v) { return half_to_float(v); }
    static uint16_t narrow(float f) { return float_to_half(f); }
    static uint16_t narrow(double f) { return double_to_half(f); }
    static uint16_t flush(uint16_t v) { return v & 0x7c00 ? v : v & 0x8000; }
    static constexpr uint16_t one = 0x3c00;
};
struct B16 {
    static float wide(uint16_t v) { return bf16_to_float(v); }
    static uint16_t narrow(float f) { return float_to_bf16(f); }
    static uint16_t narrow(double f) { return double_to_bf16(f); }
    static uint16_t flush(uint16_t v) { return v & 0x7f80 ? v : v & 0x8000; }
    static constexpr uint16_t one = 0x3f80;
};

struct Mods {
    bool ftz, sat, relu;
};
inline Mods mods_of(const Instr* i) { return {bool(i->imm & 1), bool(i->imm & 2), bool(i->imm & 4)}; }

template <class H> inline uint16_t finish(uint16_t v, Mods m) {
    if (m.ftz) v = H::flush(v);
    const bool nan = H::wide(v) != H::wide(v);
    if (m.sat) return nan || v >> 15 ? 0 : v > H::one ? H::one : v;
    if (m.relu && !nan && v >> 15) return 0;
    return v;
}
template <class H> inline float in(uint16_t v, Mods m) { return H::wide(m.ftz ? H::flush(v) : v); }

struct Add {
    template <class H> static uint16_t f(uint16_t a, uint16_t b, Mods m) {
        return H::narrow(in<H>(a, m) + in<H>(b, m));
    }
};
struct Sub {
    template <class H> static uint16_t f(uint16_t a, uint16_t b, Mods m) {
        return H::narrow(in<H>(a, m) - in<H>(b, m));
    }
};
struct Mul {
    template <class H> static uint16_t f(uint16_t a, uint16_t b, Mods m) {
        return H::narrow(in<H>(a, m) * in<H>(b, m));
    }
};
template <bool Nan, bool Larger, bool XorSign> struct MinMax {
    template <class H> static uint16_t f(uint16_t a, uint16_t b, Mods m) {
        float x = in<H>(a, m), y = in<H>(b, m);
        if (Nan && (x != x || y != y)) return 0x7fff;
        const uint16_t sign = (a ^ b) & 0x8000;
        if (XorSign) x = std::abs(x), y = std::abs(y);
        const float v = Larger ? max_number(x, y) : min_number(x, y);
        if (v != v) return 0x7fff;
        const uint16_t r = H::narrow(v);
        return XorSign ? uint16_t((r & 0x7fff) | sign) : r;
    }
};
struct Fma {
    template <class H> static uint16_t f(uint16_t a, uint16_t b, uint16_t c, Mods m) {
        return H::narrow(sum_to_odd(double(in<H>(a, m)) * double(in<H>(b, m)), double(in<H>(c, m))));
    }
};
struct Neg {
    template <class H> static uint16_t f(uint16_t a, Mods m) { return (m.ftz ? H::flush(a) : a) ^ 0x8000; }
};
struct Abs {
    template <class H> static uint16_t f(uint16_t a, Mods m) { return (m.ftz ? H::flush(a) : a) & 0x7fff; }
};
struct Tanh {
    template <class H> static uint16_t f(uint16_t a, Mods m) { return H::narrow(tanh_approx(in<H>(a, m))); }
};
struct Ex2 {
    template <class H> static uint16_t f(uint16_t a, Mods m) { return H::narrow(exp2_approx(in<H>(a, m))); }
};

// R is uint16_t for one number, or uint32_t for two.
template <class F, class R> inline R each_half(F f) {
    if constexpr (sizeof(R) == 2) return f(0);
    else return R(f(0)) | R(f(16)) << 16;
}
template <class Op, class H, class R> const Instr* run1(Warp& w, const Instr* i) {
    const R* a   = w.reg<R>(i->a);
    const Mods m = mods_of(i);
    for_lanes(w, w.reg<R>(i->d), [=](int l) {
        auto f = [=](int s) { return finish<H>(Op::template f<H>(uint16_t(a[l] >> s), m), m); };
        return each_half<decltype(f), R>(f);
    });
    return i + 1;
}
template <class Op, class H, class R> const Instr* run2(Warp& w, const Instr* i) {
    const R *a = w.reg<R>(i->a), *b = w.reg<R>(i->b);
    const Mods m = mods_of(i);
    for_lanes(w, w.reg<R>(i->d), [=](int l) {
        auto f = [=](int s) { return finish<H>(Op::template f<H>(uint16_t(a[l] >> s), uint16_t(b[l] >> s), m), m); };
        return each_half<decltype(f), R>(f);
    });
    return i + 1;
}
template <class Op, class H, class R> const Instr* run3(Warp& w, const Instr* i) {
    const R *a = w.reg<R>(i->a), *b = w.reg<R>(i->b), *c = w.reg<R>(i->c);
    const Mods m = mods_of(i);
    for_lanes(w, w.reg<R>(i->d), [=](int l) {
        auto f = [=](int s) {
            return finish<H>(Op::template f<H>(uint16_t(a[l] >> s), uint16_t(b[l] >> s), uint16_t(c[l] >> s), m), m);
        };
        return each_half<decltype(f), R>(f);
    });
    return i + 1;
}

// Calls `pick` with the format and the register type of one of the four types.
template <class Pick> Handler by_type(Type t, Pick pick) {
    switch (t) {
        case Type::f16: return pick.template operator()<F16, uint16_t>();
        case Type::f16x2: return pick.template operator()<F16, uint32_t>();
        case Type::bf16: return pick.template operator()<B16, uint16_t>();
        case Type::bf16x2: return pick.template operator()<B16, uint32_t>();
        default: throw Undecodable("no 16-bit float type");
    }
}
Type register_of(Type t) { return reg_bytes(t) == 2 ? Type::b16 : Type::b32; }
int64_t mods_bits(const ptx::Instruction& i) { return has(i, "ftz") + 2 * has(i, "sat") + 4 * has(i, "relu"); }

template <class Op> void build1(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i), r = register_of(t);
    emit_op(b, i, by_type(t, []<class H, class R> { return &run1<Op, H, R>; }), r, {r}).imm = mods_bits(i);
}
template <class Op> void build2(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i), r = register_of(t);
    emit_op(b, i, by_type(t, []<class H, class R> { return &run2<Op, H, R>; }), r, {r, r}).imm = mods_bits(i);
}
template <bool Larger> void build_minmax(Builder& b, const ptx::Instruction& i) {
    const bool nan = has(i, "NaN"), sign = has(i, "xorsign");
    if (nan) sign ? build2<MinMax<true, Larger, true>>(b, i) : build2<MinMax<true, Larger, false>>(b, i);
    else sign ? build2<MinMax<false, Larger, true>>(b, i) : build2<MinMax<false, Larger, false>>(b, i);
}
void build_fma(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i), r = register_of(t);
    emit_op(b, i, by_type(t, []<class H, class R> { return &run3<Fma, H, R>; }), r, {r, r, r}).imm = mods_bits(i);
}

template <class H, bool Ftz> struct HalfCompare {
    template <int Cmp> static bool f(uint16_t x, uint16_t y) {
        return compare(Cmp, H::wide(Ftz ? H::flush(x) : x), H::wide(Ftz ? H::flush(y) : y));
    }
};
// Instr::imm of the following: 64 for .ftz, and the comparison in the bits from 8 on.
template <class H> inline bool compared(const Instr* i, uint16_t x, uint16_t y) {
    const Mods m{bool(i->imm & 64), false, false};
    return compare(int(i->imm >> 8), in<H>(x, m), in<H>(y, m));
}
int64_t compared_bits(const ptx::Instruction& i) { return comparison(i) << 8 | (has(i, "ftz") ? 64 : 0); }
// setp.f16x2 d|e, with a predicate per half.
template <class H> const Instr* setp2(Warp& w, const Instr* i) {
    const uint32_t *a = w.reg<uint32_t>(i->a), *b = w.reg<uint32_t>(i->b);
    const uint32_t c = i->c.none() ? 0 : w.pred(i->c) ^ (i->imm & 16 ? kAll : 0);  // d may be the same predicate
    for (int half = 0; half < 2; half++) {
        uint32_t r = mask_of(
            [=](int l) { return compared<H>(i, uint16_t(a[l] >> (16 * half)), uint16_t(b[l] >> (16 * half))); });
        if (!i->c.none()) r = (i->imm & 3) == 1 ? r & c : (i->imm & 3) == 2 ? r | c : r ^ c;
        if (half == 0) put_pred(w, i->d, r);
        else if (i->more_count) put_pred(w, w.frame->function->more[i->more], r);
    }
    return i + 1;
}
// set gives 1.0 or all ones per half.
template <class H, class R> const Instr* set_half(Warp& w, const Instr* i) {
    const R *a = w.reg<R>(i->a), *b = w.reg<R>(i->b);
    const uint16_t yes = i->imm & 128 ? 0xffff : H::one;
    R* d               = w.reg<R>(i->d);
    each_lane(w.mask, [&](int l) {
        auto f = [&](int s) { return uint16_t(compared<H>(i, uint16_t(a[l] >> s), uint16_t(b[l] >> s)) ? yes : 0); };
        d[l]   = each_half<decltype(f), R>(f);
    });
    return i + 1;
}
void build_setp(Builder& b, const ptx::Instruction& i) {
    const Type t  = type_of(i);
    const int cmp = comparison(i);
    if (reg_bytes(t) == 4) {
        build_comparison(b, i, Type::b32, t == Type::f16x2 ? setp2<F16> : setp2<B16>);
        b.f.code.back().imm |= compared_bits(i);
    } else
        build_comparison(b, i, Type::b16,
                         t != Type::f16  ? setp_handler<HalfCompare<B16, false>, uint16_t>(cmp)
                         : has(i, "ftz") ? setp_handler<HalfCompare<F16, true>, uint16_t>(cmp)
                                         : setp_handler<HalfCompare<F16, false>, uint16_t>(cmp));
}
// set of one 16-bit float into a register of 32 bits.
template <class H> const Instr* set_word(Warp& w, const Instr* i) {
    const uint16_t *a = w.reg<uint16_t>(i->a), *b = w.reg<uint16_t>(i->b);
    for_lanes(w, w.reg<uint32_t>(i->d), [=](int l) { return compared<H>(i, a[l], b[l]) ? ~0u : 0u; });
    return i + 1;
}
void build_set(Builder& b, const ptx::Instruction& i) {
    const Type to = type_at(i, 0), t = type_at(i, 1), r = register_of(t);
    if (i.ops.size() == 3 && reg_bytes(t) == 2 && (to == Type::u32 || to == Type::s32)) {
        emit_op(b, i, t == Type::f16 ? set_word<F16> : set_word<B16>, to, {r, r}).imm = compared_bits(i);
        return;
    }
    if (i.ops.size() != 3) throw Undecodable("set with a third predicate is not supported for 16-bit floats");
    if (reg_bytes(to) != reg_bytes(t)) throw Undecodable("set from 16-bit floats to this type is not supported");
    emit_op(b, i, by_type(t, []<class H, class R> { return &set_half<H, R>; }), r, {r, r}).imm =
        compared_bits(i) | (ptx::is_float(to) ? 0 : 128);
}

}  // namespace

std::vector<Row> half_rows() {
    return {
        {"add .rn? .ftz? .sat? .{f16,f16x2}", build2<Add>},
        {"add .rn? .{bf16,bf16x2}", build2<Add>},
        {"sub .rn? .ftz? .sat? .{f16,f16x2}", build2<Sub>},
        {"sub .rn? .{bf16,bf16x2}", build2<Sub>},
        {"mul .rn? .ftz? .sat? .{f16,f16x2}", build2<Mul>},
        {"mul .rn? .{bf16,bf16x2}", build2<Mul>},
        {"fma .rn .ftz? .{sat,relu}? .{f16,f16x2}", build_fma},
        {"fma .rn .relu? .{bf16,bf16x2}", build_fma},
        {"min .ftz? .NaN? .xorsign? .abs? .{f16,f16x2,bf16,bf16x2}", build_minmax<false>},
        {"max .ftz? .NaN? .xorsign? .abs? .{f16,f16x2,bf16,bf16x2}", build_minmax<true>},
        {"neg .ftz? .{f16,f16x2,bf16,bf16x2}", build1<Neg>},
        {"abs .ftz? .{f16,f16x2,bf16,bf16x2}", build1<Abs>},
        {"tanh .approx .{f16,f16x2,bf16,bf16x2}", build1<Tanh>},
        {"ex2 .approx .ftz? .{f16,f16x2,bf16,bf16x2}", build1<Ex2>},
        {"setp .{CMP} .{BOOL}? .ftz? .{f16,f16x2,bf16,bf16x2}", build_setp},
        {"set .{CMP} .{BOOL}? .ftz? .{f16,bf16,f16x2,bf16x2,u16,u32,s32} .{f16,f16x2,bf16,bf16x2}", build_set},
    };
}

}  // namespace emu
