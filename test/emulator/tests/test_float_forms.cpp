// test_float_forms.cpp - floating point: arithmetic, approximations, saturation
#include "forms.h"

using namespace emu;
using namespace emu::test;

// The operations that floats and doubles share, in one rounding mode.
template <class T> static void check_arithmetic(const std::string& suffix, int mode, const Same& same) {
    const int n = sizeof(T);
    auto two    = [&](const char* name, auto f) {
        check({name + suffix, n, n, n, 0, true, true}, rounded<T>(mode, f), same);
    };
    auto one = [&](const char* name, auto f) { check({name + suffix, n, n, 0, 0, true}, rounded<T>(mode, f), same); };
    two("add", [](T x, T y, T) { return x + y; });
    two("sub", [](T x, T y, T) { return x - y; });
    two("mul", [](T x, T y, T) { return x * y; });
    two("div", [](T x, T y, T) { return x / y; });
    one("rcp", [](T x, T, T) { return 1 / x; });
    one("sqrt", [](T x, T, T) { return std::sqrt(x); });
    check({"fma" + suffix, n, n, n, n, true, true, true},
          rounded<T>(mode, [](T x, T y, T z) { return std::fma(x, y, z); }), same);
}

TEST_CASE("arithmetic in all rounding modes", "[forms]") {
    for (const auto& [name, mode] : kRoundings) {
        check_arithmetic<float>(std::string(".") + name + ".f32", mode, same32);
        check_arithmetic<double>(std::string(".") + name + ".f64", mode, same64);
    }
}

TEST_CASE("single precision", "[forms]") {
    auto f     = [](uint64_t v) { return from_bits<float>(v); };
    auto ld    = [](uint64_t v) { return (long double)from_bits<float>(v); };
    auto flush = [=](float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.f, x) : x; };
    check(
        {"add.ftz.f32", 4, 4, 4, 0, true, true},
        [=](auto a, auto b, auto) { return bits_of(flush(flush(f(a)) + flush(f(b)))); }, same32);
    check(
        {"fma.rn.ftz.f32", 4, 4, 4, 4, true, true, true},
        [=](auto a, auto b, auto c) { return bits_of(flush(std::fma(flush(f(a)), flush(f(b)), flush(f(c))))); },
        same32);
    check(
        {"add.sat.f32", 4, 4, 4, 0, true, true},
        [=](auto a, auto b, auto) {
            const float x = f(a) + f(b);
            return bits_of(std::isnan(x) || x <= 0 ? 0.f : x >= 1 ? 1.f : x);
        },
        same32);
    auto pick = [=](bool larger) {
        return [=](uint64_t a, uint64_t b, uint64_t) -> uint64_t {
            if (nan32(a)) return b;
            if (nan32(b)) return a;
            if (f(a) == f(b)) return larger ? a & b : a | b;  // zeros of both signs
            return (f(a) < f(b)) == larger ? b : a;
        };
    };
    check({"min.f32", 4, 4, 4, 0, true, true}, pick(false), same32);
    check({"max.f32", 4, 4, 4, 0, true, true}, pick(true), same32);
    check(
        {"abs.f32", 4, 4, 0, 0, true}, [](auto a, auto, auto) { return a & 0x7fffffff; }, same32);
    check(
        {"neg.f32", 4, 4, 0, 0, true}, [](auto a, auto, auto) { return a ^ 0x80000000; }, same32);
    check(
        {"copysign.f32", 4, 4, 4, 0, true, true},
        [](auto a, auto b, auto) { return (a & 0x80000000) | (b & 0x7fffffff); }, same32);

    // Approximations: relative error, or absolute near zero.
    auto close = [=](double relative, double absolute) {
        return [=](uint64_t got, uint64_t want) {
            if (nan32(got) || nan32(want)) return nan32(got) && nan32(want);
            const double x = f(got), y = f(want);
            return x == y || std::fabs(x - y) <= relative * std::fabs(y) + absolute;
        };
    };
    auto approx = [=](auto function) {
        return [=](uint64_t a, uint64_t, uint64_t) { return bits_of(float(function(ld(a)))); };
    };
    check({"ex2.approx.f32", 4, 4, 0, 0, true}, approx([](long double x) { return std::exp2(x); }), close(3e-7, 2e-45));
    check({"lg2.approx.f32", 4, 4, 0, 0, true}, approx([](long double x) { return std::log2(x); }), close(3e-7, 2e-7));
    check({"tanh.approx.f32", 4, 4, 0, 0, true}, approx([](long double x) { return std::tanh(x); }),
          close(1e-6, 1e-45));
    check({"rcp.approx.f32", 4, 4, 0, 0, true}, approx([](long double x) { return 1 / x; }), close(2e-7, 1e-45));
    check({"rsqrt.approx.f32", 4, 4, 0, 0, true}, approx([](long double x) { return x < 0 ? NAN : 1 / std::sqrt(x); }),
          close(3e-7, 0));
}

TEST_CASE("16-bit floats", "[forms]") {
    for (const Format16& t : {kHalf, kBrain}) {
        const std::string s = std::string(".") + t.name;
        auto v              = t.value;
        auto nearest        = [=](long double x) { return t.rounded(x); };
        auto fused          = [=](uint64_t a, uint64_t b, uint64_t c) { return t.fused(a, b, c); };
        auto same           = [=](uint64_t x, uint64_t y) { return t.same(x, y); };
        check(
            {"add.rn" + s, 2, 2, 2, 0}, [=](auto a, auto b, auto) { return nearest(v(a) + v(b)); }, same);
        check(
            {"sub.rn" + s, 2, 2, 2, 0}, [=](auto a, auto b, auto) { return nearest(v(a) - v(b)); }, same);
        check(
            {"mul.rn" + s, 2, 2, 2, 0}, [=](auto a, auto b, auto) { return nearest(v(a) * v(b)); }, same);
        check({"fma.rn" + s, 2, 2, 2, 2}, fused, same);
        check(
            {"neg" + s, 2, 2, 0, 0}, [](auto a, auto, auto) { return a ^ 0x8000; }, same);
        check(
            {"abs" + s, 2, 2, 0, 0}, [](auto a, auto, auto) { return a & 0x7fff; }, same);
        check(
            {"fma.rn" + s + "x2", 4, 4, 4, 4},
            [=](auto a, auto b, auto c) {
                uint64_t r = 0;
                for (int k = 0; k < 32; k += 16) r |= fused(a >> k & 0xffff, b >> k & 0xffff, c >> k & 0xffff) << k;
                return r;
            },
            [=](uint64_t x, uint64_t y) { return t.same2(x, y); });
        check(
            {"cvt.rn" + s + ".f32", 2, 4, 0, 0, true}, [=](auto a, auto, auto) { return nearest(from_bits<float>(a)); },
            same);
        check(
            {"cvt.f32" + s, 4, 2, 0, 0}, [=](auto a, auto, auto) { return bits_of(float(v(a))); }, same32);
    }
}

TEST_CASE("16-bit floats: comparisons and .ftz", "[forms]") {
    // Zeros count as subnormal here, because flushing does not change them.
    auto subnormal = [](const Format16& t, uint64_t h) { return !(h & t.infinity); };
    for (const Format16& t : {kHalf, kBrain}) {
        const std::string s = t.name;
        auto less           = [v = t.value](uint64_t a, uint64_t b) { return v(a) < v(b); };
        // The predicate is an operand and the first result.
        check({"setp.ne.u32 %p, %c, 0;\nsetp.lt.and." + s +
                   "x2 %p|%e, %a, %b, %p;\nselp.b32 %d, 1, 0, %p;\nselp.b32 %t, 2, 0, %e;\nor.b32 %d, %d, %t",
               4, 4, 4, 4},
              [=](auto a, auto b, auto c) {
                  const bool low = less(a & 0xffff, b & 0xffff), high = less(a >> 16, b >> 16);
                  return c ? uint64_t(low) | uint64_t(high) << 1 : 0;
              });
    }
    auto flushed = [=](uint64_t h) { return subnormal(kHalf, h) ? h & 0x8000 : h; };
    auto less    = [=](uint64_t a, uint64_t b) { return half_value(flushed(a)) < half_value(flushed(b)); };
    check({"setp.lt.ftz.f16 %p, %a, %b;\nselp.b32 %d, 1, 0, %p", 4, 2, 2, 0},
          [=](auto a, auto b, auto) { return uint64_t(less(a, b)); });
    check({"set.lt.ftz.u32.f16", 4, 2, 2, 0}, [=](auto a, auto b, auto) { return less(a, b) ? 0xffffffffu : 0; });
    check({"set.lt.ftz.f16.f16", 2, 2, 2, 0}, [=](auto a, auto b, auto) { return less(a, b) ? 0x3c00u : 0; });
    check({"setp.lt.ftz.f16x2 %p|%e, %a, %b;\nselp.b32 %d, 1, 0, %p;\nselp.b32 %t, 2, 0, %e;\nor.b32 %d, %d, %t", 4, 4,
           4, 0},
          [=](auto a, auto b, auto) {
              return uint64_t(less(a & 0xffff, b & 0xffff)) | uint64_t(less(a >> 16, b >> 16)) << 1;
          });
    check({"mov.b16 %d, 0xc300;\nex2.approx.ftz.bf16 %d, %d", 2, 2, 0, 0},  // 2^-128
          [](uint64_t, uint64_t, uint64_t) { return 0; });
}

TEST_CASE("saturation and minima", "[forms]") {
    auto clamped = [](i128 x, int bytes, bool sign) {
        const i128 most = (i128(1) << (8 * bytes - sign)) - 1, least = sign ? -(i128(1) << (8 * bytes - 1)) : 0;
        return uint64_t(x < least ? least : x > most ? most : x);
    };
    for (const IntType& from : kInts) {
        auto v = [=](uint64_t a) { return value(a, from.bytes, from.sign); };
        for (const IntType& t : kInts)
            check({std::string("cvt.sat.") + t.name + "." + from.name, t.bytes, from.bytes, 0, 0},
                  [=](auto a, auto, auto) { return clamped(v(a), t.bytes, t.sign); });
        check({std::string("cvt.sat.u8.") + from.name, 2, from.bytes, 0, 0},
              [=](auto a, auto, auto) { return clamped(v(a), 1, false); });
        check({std::string("cvt.sat.s8.") + from.name, 2, from.bytes, 0, 0},
              [=](auto a, auto, auto) { return clamped(v(a), 1, true); });
        check({std::string("cvt.u8.") + from.name, 2, from.bytes, 0, 0}, [](auto a, auto, auto) { return a & 255; });
        check({std::string("cvt.s8.") + from.name, 2, from.bytes, 0, 0},
              [](auto a, auto, auto) { return uint64_t(value(a, 1, true)); });
    }
    check({"cvt.pack.sat.s16.s32", 4, 4, 4, 0}, [=](auto a, auto b, auto) {
        return clamped(value(a, 4, true), 2, true) << 16 | (clamped(value(b, 4, true), 2, true) & 0xffff);
    });
    check({"cvt.pack.sat.u8.s32.b32", 4, 4, 4, 4}, [=](auto a, auto b, auto c) {
        return c << 16 | clamped(value(a, 4, true), 1, false) << 8 | clamped(value(b, 4, true), 1, false);
    });
    for (const Format16& t16 : {kHalf, kBrain}) {
        const std::string s = t16.name;
        auto v              = t16.value;
        auto nearest        = [=](long double x) { return t16.rounded(x); };
        auto same           = [=](uint64_t x, uint64_t y) { return t16.same(x, y); };
        auto same2          = [=](uint64_t x, uint64_t y) { return t16.same2(x, y); };
        auto clamp          = [](long double x) { return std::isnan(x) || x <= 0 ? 0 : x >= 1 ? 1 : x; };
        for (const bool larger : {false, true})
            for (const bool nan : {false, true}) {
                const std::string form = std::string(larger ? "max" : "min") + (nan ? ".NaN." : ".") + s;
                auto pick              = [=](uint64_t a, uint64_t b) -> uint64_t {
                    const bool na = std::isnan(v(a)), nb = std::isnan(v(b));
                    if (nan ? na || nb : na && nb) return 0x7fff;
                    if (na || nb) return na ? b : a;
                    if (v(a) == v(b)) return larger ? a & b : a | b;  // zeros of both signs
                    return (v(a) < v(b)) == larger ? b : a;
                };
                check(
                    {form, 2, 2, 2, 0}, [=](auto a, auto b, auto) { return pick(a, b); }, same);
                check(
                    {form + "x2", 4, 4, 4, 0},
                    [=](auto a, auto b, auto) { return pick(a >> 16, b >> 16) << 16 | pick(a & 0xffff, b & 0xffff); },
                    same2);
            }
        check(
            {"fma.rn.relu." + s, 2, 2, 2, 2},
            [=](auto a, auto b, auto c) { return v(a) * v(b) + v(c) < 0 ? 0 : t16.fused(a, b, c); },
            [=](uint64_t x, uint64_t y) { return same(x, y) || ((x | y) & 0x7fff) == 0; });
        check(
            {"cvt.rn." + s + ".f64", 2, 8, 0, 0, true},
            [=](auto a, auto, auto) { return nearest(from_bits<double>(a)); }, same);
        check(
            {"cvt.f64." + s, 8, 2, 0, 0}, [=](auto a, auto, auto) { return bits_of(double(v(a))); }, same64);
        if (s != "f16") continue;
        check(
            {"add.sat.f16", 2, 2, 2, 0}, [=](auto a, auto b, auto) { return nearest(clamp(v(a) + v(b))); }, same);
        check(
            {"mul.sat.f16", 2, 2, 2, 0}, [=](auto a, auto b, auto) { return nearest(clamp(v(a) * v(b))); }, same);
        for (const IntType& t : kInts)
            check({std::string("cvt.rzi.") + t.name + ".f16", t.bytes, 2, 0, 0}, [=](auto a, auto, auto) {
                if (std::isnan(v(a))) return t.bytes == 8 ? uint64_t(1) << 63 : 0;
                const long double x = std::isinf(v(a)) ? std::copysign(1e30L, v(a)) : std::trunc(v(a));
                return clamped(i128(x), t.bytes, t.sign);
            });
    }
    for (const bool larger : {false, true}) {
        const std::string name = larger ? "max" : "min";
        check(
            {name + ".f64", 8, 8, 8, 0, true, true},
            [=](auto a, auto b, auto) {
                const double x = from_bits<double>(a), y = from_bits<double>(b);
                if (std::isnan(x) || std::isnan(y)) return std::isnan(x) ? b : a;
                if (x == y) return larger ? a & b : a | b;
                return (x < y) == larger ? b : a;
            },
            same64);
        check(
            {name + ".NaN.f32", 4, 4, 4, 0, true, true},
            [=](auto a, auto b, auto) {
                if (nan32(a) || nan32(b)) return uint64_t(0x7fffffff);
                const float x = from_bits<float>(a), y = from_bits<float>(b);
                return x == y ? (larger ? a & b : a | b) : (x < y) == larger ? b : a;
            },
            same32);
        for (const bool ftz : {false, true})
            for (const bool nan : {false, true})
                check(
                    {name + (ftz ? ".ftz" : "") + (nan ? ".NaN" : "") + ".xorsign.abs.f32", 4, 4, 4, 0, true, true},
                    [=](auto a, auto b, auto) {
                        // The bits of numbers that are not negative are in their order.
                        const auto size     = [=](uint64_t x) { return ftz && !(x & 0x7f800000) ? 0 : x & 0x7fffffff; };
                        const uint64_t sign = (a ^ b) & 0x80000000;
                        if ((nan32(a) && nan32(b)) || (nan && (nan32(a) || nan32(b)))) return uint64_t(0x7fffffff);
                        if (nan32(a) || nan32(b)) return sign | size(nan32(a) ? b : a);
                        return sign | (larger ? std::max(size(a), size(b)) : std::min(size(a), size(b)));
                    },
                    same32);
    }
    check(
        {"cvt.f64.f32", 8, 4, 0, 0, true}, [](auto a, auto, auto) { return bits_of(double(from_bits<float>(a))); },
        same64);
    check({"cvt.sat.f32.f32", 4, 4, 0, 0, true}, [](auto a, auto, auto) {
        const float x = from_bits<float>(a);
        return bits_of(std::isnan(x) || x <= 0 ? 0.f : x >= 1 ? 1.f : x);
    });
    check(
        {"cvt.rni.f32.f32", 4, 4, 0, 0, true},
        [](auto a, auto, auto) { return bits_of(std::nearbyint(from_bits<float>(a))); }, same32);
}
