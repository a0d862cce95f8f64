// float.cpp - single and double precision
#include "floats.h"

#include "approx.h"
#include "compare.h"
#include "lanes.h"

namespace emu {
namespace {

// There is a template per operation, with the modifiers Ftz and Sat. A NaN result is the canonical NaN, as on GPUs.
inline float canonical(float x) { return x == x ? x : as_float(0x7fffffff); }
inline double canonical(double x) { return x == x ? x : as_double(0xfff8000000000000ull); }

template <bool Sat, class T> inline T finish(T x) { return Sat ? saturate(x) : canonical(x); }

// clang-format off
template <bool Ftz, bool Sat> struct Add {
    template <class T> static T f(T a, T b) { return finish<Sat>(ftz<Ftz>(ftz<Ftz>(a) + ftz<Ftz>(b))); }
};
template <bool Ftz, bool Sat> struct Sub {
    template <class T> static T f(T a, T b) { return finish<Sat>(ftz<Ftz>(ftz<Ftz>(a) - ftz<Ftz>(b))); }
};
template <bool Ftz, bool Sat> struct Mul {
    template <class T> static T f(T a, T b) { return finish<Sat>(ftz<Ftz>(ftz<Ftz>(a) * ftz<Ftz>(b))); }
};
template <bool Ftz, bool Sat> struct Div {
    template <class T> static T f(T a, T b) { return finish<Sat>(ftz<Ftz>(ftz<Ftz>(a) / ftz<Ftz>(b))); }
};
template <bool Ftz, bool Sat> struct Fma {
    static float f(float a, float b, float c) {
        return finish<Sat>(ftz<Ftz>(__builtin_fmaf(ftz<Ftz>(a), ftz<Ftz>(b), ftz<Ftz>(c))));
    }
    static double f(double a, double b, double c) { return canonical(__builtin_fma(a, b, c)); }
};
template <bool Ftz, bool> struct Sqrt {
    template <class T> static T f(T a) { return canonical(ftz<Ftz>(std::sqrt(ftz<Ftz>(a)))); }
};
template <bool Ftz, bool> struct Rcp {
    template <class T> static T f(T a) { return canonical(ftz<Ftz>(T(1) / ftz<Ftz>(a))); }
};
template <bool Ftz, bool> struct Rsqrt {
    template <class T> static T f(T a) { return canonical(ftz<Ftz>(T(1) / std::sqrt(ftz<Ftz>(a)))); }
};
template <bool Ftz, bool> struct Ex2 { static float f(float a) { return ftz<Ftz>(exp2_approx(ftz<Ftz>(a))); } };
template <bool Ftz, bool> struct Lg2 { static float f(float a) { return ftz<Ftz>(log2_approx(ftz<Ftz>(a))); } };
template <bool Ftz, bool> struct Sin { static float f(float a) { return canonical(ftz<Ftz>(std::sin(ftz<Ftz>(a)))); } };
template <bool Ftz, bool> struct Cos { static float f(float a) { return canonical(ftz<Ftz>(std::cos(ftz<Ftz>(a)))); } };
template <bool Ftz, bool> struct Tanh { static float f(float a) { return ftz<Ftz>(tanh_approx(ftz<Ftz>(a))); } };
template <bool Ftz, bool> struct Abs { template <class T> static T f(T a) { return ftz<Ftz>(std::abs(a)); } };
template <bool Ftz, bool> struct Neg { template <class T> static T f(T a) { return ftz<Ftz>(-a); } };
template <bool Ftz, bool Nan> struct Min {
    template <class T> static T f(T a, T b) {
        if (Nan && (a != a || b != b)) return canonical(a + b);
        return canonical(min_number(ftz<Ftz>(a), ftz<Ftz>(b)));
    }
};
template <bool Ftz, bool Nan> struct Max {
    template <class T> static T f(T a, T b) {
        if (Nan && (a != a || b != b)) return canonical(a + b);
        return canonical(max_number(ftz<Ftz>(a), ftz<Ftz>(b)));
    }
};
// The larger or smaller magnitude, with the product of the signs.
template <template <bool, bool> class Op> struct XorSign {
    template <bool Ftz, bool Nan> struct Of {
        static float f(float a, float b) {
            const float r = Op<Ftz, Nan>::f(std::abs(a), std::abs(b));
            return r != r ? r : as_float(bits(r) | ((bits(a) ^ bits(b)) & 0x80000000u));
        }
        static double f(double, double) { return 0; }  // there is none for doubles
    };
};
struct CopySign { template <class T> static T f(T sign, T a) { return std::copysign(a, sign); } };
struct TestFinite { template <class T> static bool f(T a) { return std::isfinite(a); } };
struct TestInfinite { template <class T> static bool f(T a) { return std::isinf(a); } };
struct TestNumber { template <class T> static bool f(T a) { return a == a; } };
struct TestNan { template <class T> static bool f(T a) { return a != a; } };
// PTX counts zeros as normal.
struct TestNormal { template <class T> static bool f(T a) { return std::isnormal(a) || a == 0; } };
struct TestSubnormal { template <class T> static bool f(T a) { return std::fpclassify(a) == FP_SUBNORMAL; } };
// clang-format on

// Chooses between the four versions (.ftz, .sat) of an operation. Doubles have neither modifier.
template <template <bool, bool> class Op, class Pick>
Handler by_modifiers(const ptx::Instruction& i, bool second, Pick pick) {
    if (type_of(i) == Type::f64) return pick.template operator()<Op<false, false>, double>();
    if (has(i, "ftz"))
        return second ? pick.template operator()<Op<true, true>, float>()
                      : pick.template operator()<Op<true, false>, float>();
    return second ? pick.template operator()<Op<false, true>, float>()
                  : pick.template operator()<Op<false, false>, float>();
}

Rounding rounding_of(const ptx::Instruction& i) {
    return has(i, "rz") ? kZero : has(i, "rm") ? kDown : has(i, "rp") ? kUp : kNearest;
}

// Directed rounding sets the processor's rounding mode for the loop over lanes. The function is not inlined, so that
// the compiler does not move arithmetic across the change of the mode.
template <Handler Inner> __attribute__((noinline)) const Instr* rounded(Warp& w, const Instr* i) {
    std::fesetround(fenv_of(Rounding(i->imm)));
    const Instr* next = Inner(w, i);
    std::fesetround(FE_TONEAREST);
    return next;
}
template <template <bool, bool> class Op> void build1(Builder& b, const ptx::Instruction& i) {
    const Rounding r = rounding_of(i);
    const Handler h  = by_modifiers<Op>(i, has(i, "sat"), [&]<class O, class T> {
        constexpr Handler plain = &unary<O, T, T>;
        return r == kNearest ? plain : Handler(&rounded<plain>);
    });

    emit_op(b, i, h, type_of(i), {type_of(i)}).imm = r;
}
// rcp.approx.ftz.f64 and rsqrt.approx.ftz.f64 read the upper 32 bits only, and their results have no more.
double upper_half(double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, 8);
    bits &= 0xffffffff00000000;
    std::memcpy(&x, &bits, 8);
    return x;
}
template <template <bool, bool> class Op> struct Coarse {
    static double f(double a) { return upper_half(flush(Op<false, false>::f(flush(upper_half(a))))); }
};
template <template <bool, bool> class Op> void build_coarse(Builder& b, const ptx::Instruction& i) {
    emit_op(b, i, &unary<Coarse<Op>, double, double>, Type::f64, {Type::f64});
}
template <template <bool, bool> class Op> void build2(Builder& b, const ptx::Instruction& i) {
    const Rounding r = rounding_of(i);
    const Handler h  = by_modifiers<Op>(i, has(i, "sat") || has(i, "NaN"), [&]<class O, class T> {
        constexpr Handler plain = &binary<O, T, T, T>;
        return r == kNearest ? plain : Handler(&rounded<plain>);
    });
    emit_op(b, i, h, type_of(i), {type_of(i), type_of(i)}).imm = r;
}
template <template <bool, bool> class Op> void build3(Builder& b, const ptx::Instruction& i) {
    const Rounding r = rounding_of(i);
    const Handler h  = by_modifiers<Op>(i, has(i, "sat"), [&]<class O, class T> {
        constexpr Handler plain = &ternary<O, T, T, T, T>;
        return r == kNearest ? plain : Handler(&rounded<plain>);
    });
    emit_op(b, i, h, type_of(i), {type_of(i), type_of(i), type_of(i)}).imm = r;
}
void build_copysign(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    emit_op(b, i, t == Type::f64 ? &binary<CopySign, double, double, double> : &binary<CopySign, float, float, float>,
            t, {t, t});
}

template <class Op, class T> const Instr* testp(Warp& w, const Instr* i) {
    const T* a = w.reg<T>(i->a);
    put_pred(w, i->d, mask_of([=](int l) { return Op::f(a[l]); }));
    return i + 1;
}
template <class Op> Handler testp_of(Type t) { return t == Type::f64 ? &testp<Op, double> : &testp<Op, float>; }
void build_testp(Builder& b, const ptx::Instruction& i) {
    const Type t    = type_of(i);
    const auto& m   = i.mods[1];
    const Handler h = m == "finite"       ? testp_of<TestFinite>(t)
                      : m == "infinite"   ? testp_of<TestInfinite>(t)
                      : m == "number"     ? testp_of<TestNumber>(t)
                      : m == "notanumber" ? testp_of<TestNan>(t)
                      : m == "normal"     ? testp_of<TestNormal>(t)
                                          : testp_of<TestSubnormal>(t);
    if (i.ops.size() != 2) throw Undecodable("2 operands expected");
    const Ref a = b.read(i.ops[1], t), d = b.write_pred(i.ops[0].reg);
    Instr& x = b.emit(h);
    x.a = a, x.d = d;
}

template <bool Ftz, class T> struct FloatCompare {
    template <int Cmp> static bool f(T a, T b) { return compare(Cmp, ftz<Ftz>(a), ftz<Ftz>(b)); }
};
void build_setp(Builder& b, const ptx::Instruction& i) {
    const Type t    = type_at(i, i.mods[0] == "set" ? 1 : 0);
    const int cmp   = comparison(i);
    const Handler h = t == Type::f64  ? setp_handler<FloatCompare<false, double>, double>(cmp)
                      : has(i, "ftz") ? setp_handler<FloatCompare<true, float>, float>(cmp)
                                      : setp_handler<FloatCompare<false, float>, float>(cmp);
    build_comparison(b, i, t, h);
}

}  // namespace

std::vector<Row> float_rows() {
    return {
        {"add .{ROUND}? .ftz? .sat? .f32", build2<Add>},
        {"add .{ROUND}? .f64", build2<Add>},
        {"sub .{ROUND}? .ftz? .sat? .f32", build2<Sub>},
        {"sub .{ROUND}? .f64", build2<Sub>},
        {"mul .{ROUND}? .ftz? .sat? .f32", build2<Mul>},
        {"mul .{ROUND}? .f64", build2<Mul>},
        {"{fma,mad} .{ROUND}? .ftz? .sat? .f32", build3<Fma>},
        {"{fma,mad} .{ROUND}? .f64", build3<Fma>},
        {"div .{ROUND,approx,full} .ftz? .f32", build2<Div>},
        {"div .{ROUND} .f64", build2<Div>},
        {"rcp .{ROUND,approx} .ftz? .f32", build1<Rcp>},
        {"rcp .{ROUND} .f64", build1<Rcp>},
        {"rcp .approx .ftz .f64", build_coarse<Rcp>},
        {"sqrt .{ROUND,approx} .ftz? .f32", build1<Sqrt>},
        {"sqrt .{ROUND} .f64", build1<Sqrt>},
        {"rsqrt .approx .ftz? .f32", build1<Rsqrt>},
        {"rsqrt .approx .f64", build1<Rsqrt>},
        {"rsqrt .approx .ftz .f64", build_coarse<Rsqrt>},
        {"ex2 .approx .ftz? .f32", build1<Ex2>},
        {"lg2 .approx .ftz? .f32", build1<Lg2>},
        {"sin .approx .ftz? .f32", build1<Sin>},
        {"cos .approx .ftz? .f32", build1<Cos>},
        {"tanh .approx .f32", build1<Tanh>},
        {"abs .ftz? .f32", build1<Abs>},
        {"abs .f64", build1<Abs>},
        {"neg .ftz? .f32", build1<Neg>},
        {"neg .f64", build1<Neg>},
        {"min .ftz? .NaN? .f32", build2<Min>},
        {"min .ftz? .NaN? .xorsign .abs .f32", build2<XorSign<Min>::Of>},
        {"min .f64", build2<Min>},
        {"max .ftz? .NaN? .f32", build2<Max>},
        {"max .ftz? .NaN? .xorsign .abs .f32", build2<XorSign<Max>::Of>},
        {"max .f64", build2<Max>},
        {"copysign .{FLOAT}", build_copysign},
        {"testp .{finite,infinite,number,notanumber,normal,subnormal} .{FLOAT}", build_testp},
        {"setp .{CMP} .{BOOL}? .ftz? .{FLOAT}", build_setp},
        {"set .{CMP} .{BOOL}? .ftz? .{u32,s32,f32} .{FLOAT}", build_setp},
    };
}

}  // namespace emu
