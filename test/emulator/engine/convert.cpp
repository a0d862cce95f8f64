// convert.cpp - cvt in all its forms
#include <limits>

#include "convert8.h"
#include "floats.h"
#include "lanes.h"

namespace emu {
namespace {

// These types stand for formats that share a C++ type.
// clang-format off
struct Half { uint16_t v; };
struct Bf16 { uint16_t v; };
struct Byte8 { uint16_t v; };   // u8 in a 16-bit register
struct SByte8 { uint16_t v; };  // s8 in a 16-bit register

template <class T> struct Load { static T f(T x) { return x; } };
template <> struct Load<Half> { static float f(Half x) { return half_to_float(x.v); } };
template <> struct Load<Bf16> { static float f(Bf16 x) { return bf16_to_float(x.v); } };
template <> struct Load<Byte8> { static uint8_t f(Byte8 x) { return uint8_t(x.v); } };
template <> struct Load<SByte8> { static int8_t f(SByte8 x) { return int8_t(x.v); } };
// clang-format on

enum Mode { kRn = 0, kRz, kRm, kRp, kRni, kRzi, kRmi, kRpi, kRna };

template <class F> inline F to_whole(F x, int mode) {
    switch (mode) {
        case kRzi: return std::trunc(x);
        case kRmi: return std::floor(x);
        case kRpi: return std::ceil(x);
        default: return std::nearbyint(x);
    }
}

// Conversions from float to integer saturate. As PTX says, NaN gives 0, or only the highest bit when the source or the
// result has 64 bits.
template <class I, class F> inline I saturate_int(F x) {
    constexpr F low    = F(std::numeric_limits<I>::min());
    // max + 1 is a power of two and therefore exact, which max may not be.
    constexpr F beyond = F(2) * F(std::numeric_limits<I>::max() / 2 + 1);
    if (!(x == x)) return sizeof(I) == 8 || sizeof(F) == 8 ? I(1ull << (8 * sizeof(I) - 1)) : I(0);
    if (x < low) return std::numeric_limits<I>::min();
    return x >= beyond ? std::numeric_limits<I>::max() : I(x);
}

// With .sat a narrowing conversion clamps, and without it wraps.
template <class To, class From> inline To int_to_int(From x, bool sat) {
    if (!sat) return To(x);
    __int128 v = x;
    if (v < std::numeric_limits<To>::min()) v = std::numeric_limits<To>::min();
    if (v > std::numeric_limits<To>::max()) v = std::numeric_limits<To>::max();
    return To(v);
}

constexpr int kModeMask = 15, kFtz = 16, kSat = 32, kRelu = 64, kSatFinite = 128;

// The conversion between a pair of types. The modifiers are read once per warp, outside of the loop over lanes.
template <class To, class From> struct Pair {
    static const Instr* run(Warp& w, const Instr* i) {
        const From* a  = w.reg<From>(i->a);
        const int mode = int(i->imm) & kModeMask;
        const bool ftz = i->imm & kFtz, sat = i->imm & kSat, relu = i->imm & kRelu, finite = i->imm & kSatFinite;
        constexpr bool to_f   = std::is_floating_point_v<To> || std::is_same_v<To, Half> || std::is_same_v<To, Bf16>;
        using Value           = decltype(Load<From>::f(From{}));
        constexpr bool from_f = std::is_floating_point_v<Value>;
        const bool directed   = to_f && (mode == kRz || mode == kRm || mode == kRp);
        if (directed) std::fesetround(fenv_of(Rounding(mode)));
        if constexpr (!to_f && !from_f) {
            using Out = decltype(Load<To>::f(To{}));
            store(w, i, [=](int l) { return int_to_int<Out>(Load<From>::f(a[l]), sat); });
        } else if constexpr (!to_f) {
            using Out = decltype(Load<To>::f(To{}));
            if (mode == kRzi && !ftz)
                store(w, i, [=](int l) { return saturate_int<Out>(std::trunc(Load<From>::f(a[l]))); });
            else
                store(w, i, [=](int l) {
                    Value x = Load<From>::f(a[l]);
                    if constexpr (sizeof(Value) == 4) x = ftz ? flush(x) : x;
                    return saturate_int<Out>(to_whole(x, mode));
                });
        } else if constexpr (!from_f) {
            store(w, i, [=](int l) {
                if constexpr (std::is_same_v<To, double>)
                    return sat ? saturate(double(Load<From>::f(a[l]))) : double(Load<From>::f(a[l]));
                else if constexpr (std::is_same_v<To, float>)
                    return sat ? saturate(float(Load<From>::f(a[l]))) : float(Load<From>::f(a[l]));
                else return narrow<To>(integer_as_double(Load<From>::f(a[l])), mode, false, sat);
            });
        } else {
            store(w, i, [=](int l) {
                Value x = Load<From>::f(a[l]);
                if constexpr (sizeof(Value) == 4) x = ftz ? flush(x) : x;
                if (mode >= kRni && mode <= kRpi) x = to_whole(x, mode);
                if constexpr (std::is_same_v<To, double>) return sat ? saturate(double(x)) : double(x);
                else if constexpr (std::is_same_v<To, float>) {
                    float v = float(x);
                    v       = ftz ? flush(v) : v;
                    v       = relu ? (v > 0 ? v : v == v ? 0.f : v) : v;
                    return sat ? saturate(v) : v == v ? v : as_float(0x7fffffff);
                } else return narrow<To>(x, mode, relu, sat, finite);
            });
        }
        if (directed) std::fesetround(FE_TONEAREST);
        return i + 1;
    }

    // A double may be too narrow for a 64-bit integer. Its low bits are then folded into one, which rounds the same.
    template <class I> static double integer_as_double(I x) {
        if constexpr (sizeof(I) < 8) return double(x);
        else {
            const bool negative = x < I(0);
            const uint64_t u    = negative ? 0 - uint64_t(x) : uint64_t(x);
            const uint64_t odd  = u >> 53 ? ((u >> 12) | ((u & 0xfff) != 0)) << 12 : u;
            const double d      = double(odd & ~0xfffull) + double(odd & 0xfff);
            return negative ? -d : d;
        }
    }

    // Rounds to f16 or bf16 in any mode. Directed modes round to the nearest first and then step to the neighbour if
    // needed. `finite` turns an infinity into the largest number.
    template <class T> static T narrow(double x, int mode, bool relu, bool sat, bool finite = false) {
        constexpr bool half = std::is_same_v<T, Half>;
        if (relu) x = x > 0 ? x : x == x ? 0.0 : x;
        if (sat) x = saturate(x);
        if (x != x) return {0x7fff};
        uint16_t v;
        if (mode == kRz || mode == kRm || mode == kRp) {
            v                 = half ? double_to_half(x) : double_to_bf16(x);
            const double back = half ? half_to_float(v) : bf16_to_float(v);
            const bool beyond = std::abs(back) > std::abs(x), below = std::abs(back) < std::abs(x);
            const bool up = mode == kRp ? x > 0 : mode == kRm ? x < 0 : false;  // away from zero
            if (beyond && !up) v--;
            if (below && up) v++;
        } else v = half ? double_to_half(x) : double_to_bf16(x);
        if (finite && (v & 0x7fff) == (half ? 0x7c00 : 0x7f80)) v--;
        return {v};
    }

    template <class F> static void store(Warp& w, const Instr* i, F f) {
        using Raw =
            std::conditional_t<std::is_same_v<To, Half> || std::is_same_v<To, Bf16> || std::is_same_v<To, Byte8>,
                               uint16_t, std::conditional_t<std::is_same_v<To, SByte8>, int16_t, To>>;
        for_lanes(w, w.reg<Raw>(i->d), [=](int l) {
            const auto v = f(l);
            if constexpr (std::is_same_v<To, Half> || std::is_same_v<To, Bf16>) return Raw(v.v);
            else return Raw(v);
        });
    }
};

template <class To> Handler from_type(Type t) {
    switch (t) {
        case Type::u8: return Pair<To, Byte8>::run;
        case Type::s8: return Pair<To, SByte8>::run;
        case Type::u16: return Pair<To, uint16_t>::run;
        case Type::s16: return Pair<To, int16_t>::run;
        case Type::u32: return Pair<To, uint32_t>::run;
        case Type::s32: return Pair<To, int32_t>::run;
        case Type::u64: return Pair<To, uint64_t>::run;
        case Type::s64: return Pair<To, int64_t>::run;
        case Type::f16: return Pair<To, Half>::run;
        case Type::bf16: return Pair<To, Bf16>::run;
        case Type::f32: return Pair<To, float>::run;
        case Type::f64: return Pair<To, double>::run;
        default: throw Undecodable("no conversion from this type");
    }
}
Handler pair_of(Type to, Type from) {
    switch (to) {
        case Type::u8: return from_type<Byte8>(from);
        case Type::s8: return from_type<SByte8>(from);
        case Type::u16: return from_type<uint16_t>(from);
        case Type::s16: return from_type<int16_t>(from);
        case Type::u32: return from_type<uint32_t>(from);
        case Type::s32: return from_type<int32_t>(from);
        case Type::u64: return from_type<uint64_t>(from);
        case Type::s64: return from_type<int64_t>(from);
        case Type::f16: return from_type<Half>(from);
        case Type::bf16: return from_type<Bf16>(from);
        case Type::f32: return from_type<float>(from);
        case Type::f64: return from_type<double>(from);
        default: throw Undecodable("no conversion to this type");
    }
}

int modifiers(const ptx::Instruction& i) {
    constexpr std::pair<std::string_view, int> modes[] = {{"rn", kRn},   {"rz", kRz},   {"rm", kRm},
                                                          {"rp", kRp},   {"rni", kRni}, {"rzi", kRzi},
                                                          {"rmi", kRmi}, {"rpi", kRpi}, {"rna", kRna}};

    int m = 0;
    for (const auto& [name, mode] : modes)
        if (has(i, name)) m = mode;
    return m | (has(i, "ftz") ? kFtz : 0) | (has(i, "sat") ? kSat : 0) | (has(i, "relu") ? kRelu : 0) |
           (has(i, "satfinite") ? kSatFinite : 0);
}

void build_cvt(Builder& b, const ptx::Instruction& i) {
    const Type to = type_at(i, 0), from = type_at(i, 1);
    Instr& x = emit_op(b, i, pair_of(to, from), to, {from});
    x.imm    = modifiers(i);
}

// Packs two floats. The first operand goes to the upper half.
template <class T> const Instr* pack2(Warp& w, const Instr* i) {
    const float *a = w.reg<float>(i->a), *b = w.reg<float>(i->b);
    const int mode  = int(i->imm) & kModeMask;
    const bool relu = i->imm & kRelu, finite = i->imm & kSatFinite;
    if (mode == kRn && !relu && !finite)
        for_lanes(w, w.reg<uint32_t>(i->d), [=](int l) {
            if constexpr (std::is_same_v<T, Half>) return uint32_t(float_to_half(a[l])) << 16 | float_to_half(b[l]);
            else return uint32_t(float_to_bf16(a[l])) << 16 | float_to_bf16(b[l]);
        });
    else
        for_lanes(w, w.reg<uint32_t>(i->d), [=](int l) {
            return uint32_t(Pair<T, float>::template narrow<T>(a[l], mode, relu, false, finite).v) << 16 |
                   Pair<T, float>::template narrow<T>(b[l], mode, relu, false, finite).v;
        });
    return i + 1;
}
void build_pack2(Builder& b, const ptx::Instruction& i) {
    const Handler h = type_at(i, 0) == Type::f16x2 ? pack2<Half> : pack2<Bf16>;
    Instr& x        = emit_op(b, i, h, Type::b32, {Type::f32, Type::f32});
    x.imm           = modifiers(i);
}

// tf32 keeps 10 bits of mantissa. Ties go away from zero with .rna and to even with .rn; .rz truncates.
const Instr* tf32(Warp& w, const Instr* i) {
    const uint32_t* a = w.reg<uint32_t>(i->a);
    const int mode    = int(i->imm) & kModeMask;
    const bool relu = i->imm & kRelu, finite = i->imm & kSatFinite;
    for_lanes(w, w.reg<uint32_t>(i->d), [=](int l) {
        uint32_t u = a[l];
        if ((u & 0x7fffffff) > 0x7f800000) return 0x7fffffffu;
        if (relu && u >> 31) return 0u;
        if ((u & 0x7fffffff) != 0x7f800000) u += mode == kRn ? 0xfff + (u >> 13 & 1) : mode == kRna ? 0x1000 : 0;
        if (finite && (u & 0x7f800000) == 0x7f800000) u = (u & 0x80000000) | 0x7f7fe000;
        return u & ~0x1fffu;
    });
    return i + 1;
}
void build_tf32(Builder& b, const ptx::Instruction& i) {
    emit_op(b, i, tf32, Type::b32, {Type::f32}).imm = modifiers(i);
}

template <int Exponent> const Instr* fp8_pack(Warp& w, const Instr* i) {
    const float *a = w.reg<float>(i->a), *b = w.reg<float>(i->b);
    const bool relu = i->imm & kRelu;
    for_lanes(w, w.reg<uint16_t>(i->d),
              [=](int l) { return uint16_t(to_fp8<Exponent>(a[l], relu) << 8 | to_fp8<Exponent>(b[l], relu)); });
    return i + 1;
}
template <int Exponent> const Instr* fp8_from_half2(Warp& w, const Instr* i) {
    const uint32_t* a = w.reg<uint32_t>(i->a);
    const bool relu   = i->imm & kRelu;
    for_lanes(w, w.reg<uint16_t>(i->d), [=](int l) {
        return uint16_t(to_fp8<Exponent>(half_to_float(uint16_t(a[l] >> 16)), relu) << 8 |
                        to_fp8<Exponent>(half_to_float(uint16_t(a[l])), relu));
    });
    return i + 1;
}
template <int Exponent> const Instr* fp8_to_half2(Warp& w, const Instr* i) {
    const uint16_t* a = w.reg<uint16_t>(i->a);
    const bool relu   = i->imm & kRelu;
    for_lanes(w, w.reg<uint32_t>(i->d), [=](int l) {
        float hi = from_fp8<Exponent>(uint8_t(a[l] >> 8)), lo = from_fp8<Exponent>(uint8_t(a[l]));
        if (relu) hi = hi < 0 ? 0 : hi, lo = lo < 0 ? 0 : lo;
        return uint32_t(float_to_half(hi)) << 16 | float_to_half(lo);
    });
    return i + 1;
}
void build_fp8(Builder& b, const ptx::Instruction& i) {
    const Type to = type_at(i, 0), from = type_at(i, 1);
    const bool e4 = to == Type::e4m3x2 || from == Type::e4m3x2;
    if (from == Type::f32)
        emit_op(b, i, e4 ? fp8_pack<4> : fp8_pack<5>, Type::b16, {Type::f32, Type::f32}).imm = modifiers(i);
    else if (from == Type::f16x2)
        emit_op(b, i, e4 ? fp8_from_half2<4> : fp8_from_half2<5>, Type::b16, {Type::b32}).imm = modifiers(i);
    else emit_op(b, i, e4 ? fp8_to_half2<4> : fp8_to_half2<5>, Type::b32, {Type::b16}).imm = modifiers(i);
}

// cvt.pack saturates two s32 to 16 or 8 bits each and appends them to the lower bits of c.
template <class To> const Instr* pack_int(Warp& w, const Instr* i) {
    const int32_t *a = w.reg<int32_t>(i->a), *b = w.reg<int32_t>(i->b);
    const uint32_t* c  = i->c.none() ? nullptr : w.reg<uint32_t>(i->c);
    constexpr int size = 8 * sizeof(To);
    uint32_t* d        = w.reg<uint32_t>(i->d);
    each_lane(w.mask, [&](int l) {
        using U          = std::make_unsigned_t<To>;
        const uint32_t v = uint32_t(U(int_to_int<To>(a[l], true))) << size | U(int_to_int<To>(b[l], true));
        d[l]             = c ? uint32_t(uint64_t(c[l]) << (2 * size)) | v : v;
    });
    return i + 1;
}
void build_pack_int(Builder& b, const ptx::Instruction& i) {
    const Type t    = type_at(i, 0);
    const Handler h = t == Type::u16   ? pack_int<uint16_t>
                      : t == Type::s16 ? pack_int<int16_t>
                      : t == Type::u8  ? pack_int<uint8_t>
                                       : pack_int<int8_t>;
    if (i.ops.size() == 4) emit_op(b, i, h, Type::b32, {Type::s32, Type::s32, Type::b32});
    else emit_op(b, i, h, Type::b32, {Type::s32, Type::s32});
}

}  // namespace

std::vector<Row> convert_rows() {
    return {
        {"cvt .{IROUND,ROUND}? .ftz? .sat? .{INT8,f16,f32,f64,bf16} .{INT8,f16,f32,f64,bf16}", build_cvt},
        {"cvt .{ROUND} .relu? .satfinite? .{f16,bf16} .{f32,f64}", build_cvt},
        {"cvt .{ROUND} .relu? .satfinite? .{f16x2,bf16x2} .f32", build_pack2},
        {"cvt .{rna,rn,rz} .relu? .satfinite? .tf32 .f32", build_tf32},
        {"cvt .rn .satfinite .relu? .{e4m3x2,e5m2x2} .{f32,f16x2}", build_fp8},
        {"cvt .rn .relu? .f16x2 .{e4m3x2,e5m2x2}", build_fp8},
        {"cvt .pack .sat .{u16,s16} .s32", build_pack_int},
        {"cvt .pack .sat .{u8,s8} .s32 .b32", build_pack_int},
    };
}

}  // namespace emu
