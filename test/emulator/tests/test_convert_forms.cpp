// test_convert_forms.cpp - cvt between all types
#include "forms.h"

using namespace emu;
using namespace emu::test;

TEST_CASE("conversions", "[forms]") {
    auto saturated = [](long double x, const IntType& t, int from = 4) -> uint64_t {
        const i128 low  = t.sign ? -(i128(1) << (8 * t.bytes - 1)) : 0,
                   high = (i128(1) << (8 * t.bytes - (t.sign ? 1 : 0))) - 1;
        if (std::isnan(x)) return t.bytes == 8 || from == 8 ? uint64_t(1) << (8 * t.bytes - 1) : 0;
        if (x <= (long double)low) return uint64_t(low);
        if (x >= (long double)high) return uint64_t(high);
        return uint64_t(i128(x));
    };
    for (const IntType& t : kInts) {
        const std::string s = t.name;
        check({"cvt.rzi." + s + ".f32", t.bytes, 4, 0, 0, true},
              [=](auto a, auto, auto) { return saturated(std::trunc(from_bits<float>(a)), t); });
        check({"cvt.rni." + s + ".f32", t.bytes, 4, 0, 0, true},
              [=](auto a, auto, auto) { return saturated(std::nearbyint(from_bits<float>(a)), t); });
        check({"cvt.rmi." + s + ".f64", t.bytes, 8, 0, 0, true},
              [=](auto a, auto, auto) { return saturated(std::floor(from_bits<double>(a)), t, 8); });
        check({"cvt.rpi." + s + ".f64", t.bytes, 8, 0, 0, true},
              [=](auto a, auto, auto) { return saturated(std::ceil(from_bits<double>(a)), t, 8); });
        check({"cvt.rn.f32." + s, 4, t.bytes, 0, 0},
              [=](auto a, auto, auto) { return bits_of(float(value(a, t.bytes, t.sign))); });
        check({"cvt.rn.f64." + s, 8, t.bytes, 0, 0},
              [=](auto a, auto, auto) { return bits_of(double(value(a, t.bytes, t.sign))); });
        check({"cvt.rn.f16." + s, 2, t.bytes, 0, 0},
              [=](auto a, auto, auto) { return kHalf.rounded((long double)value(a, t.bytes, t.sign)); });
        for (const IntType& from : kInts)
            check({"cvt." + s + "." + from.name, t.bytes, from.bytes, 0, 0},
                  [=](auto a, auto, auto) { return uint64_t(value(a, from.bytes, from.sign)); });
    }
    for (const auto& [name, mode] : kRoundings) {
        auto itself = [](auto a, auto, auto) { return a; };
        check({std::string("cvt.") + name + ".f32.f64", 4, 8, 0, 0, true}, rounded<float, double>(mode, itself),
              same32);
        check({std::string("cvt.") + name + ".f32.s32", 4, 4, 0, 0}, rounded<float, int32_t>(mode, itself), same32);
    }
    // Both 16-bit formats in all rounding modes, with negative numbers and with numbers that are too large.
    for (const Format16& t : {kHalf, kBrain}) {
        const std::string s = t.name;
        auto same           = [=](uint64_t x, uint64_t y) { return t.same(x, y); };
        auto same2          = [=](uint64_t x, uint64_t y) { return t.same2(x, y); };
        auto f              = [](uint64_t a) { return (long double)from_bits<float>(a); };
        auto toward_zero    = [=](long double x) { return t.rounded(x, 0, true); };
        auto relu           = [](long double x) { return x <= 0 ? 0 : x; };
        // PTX does not say which sign a clamped zero has.
        auto same_relu      = [=](uint64_t x, uint64_t y) {
            for (uint64_t sign : {0x8000u, 0x80000000u})
                if (!(x & (sign - (sign >> 15)))) x &= ~sign;
            return same2(x, y);
        };
        auto finite  = [=](uint64_t h) { return (h & 0x7fff) == t.infinity ? h - 1 : h; };
        auto nearest = [=](long double x) { return t.rounded(x); };
        auto pair    = [=](auto convert) {
            return [=](uint64_t a, uint64_t b, uint64_t) { return convert(f(a)) << 16 | convert(f(b)); };
        };
        auto nearest_relu   = [=](long double x) { return nearest(relu(x)); };
        auto nearest_finite = [=](long double x) { return finite(nearest(x)); };
        check(
            {"cvt.rz." + s + ".f32", 2, 4, 0, 0, true}, [=](auto a, auto, auto) { return toward_zero(f(a)); }, same);
        check(
            {"cvt.rn.relu." + s + ".f32", 2, 4, 0, 0, true}, [=](auto a, auto, auto) { return nearest_relu(f(a)); },
            same_relu);
        check(
            {"cvt.rn.satfinite." + s + ".f32", 2, 4, 0, 0, true},
            [=](auto a, auto, auto) { return nearest_finite(f(a)); }, same);
        check(
            {"cvt.rn.relu.satfinite." + s + ".f32", 2, 4, 0, 0, true},
            [=](auto a, auto, auto) { return finite(nearest_relu(f(a))); }, same_relu);
        check({"cvt.rn." + s + "x2.f32", 4, 4, 4, 0, true, true}, pair(nearest), same2);
        check({"cvt.rz." + s + "x2.f32", 4, 4, 4, 0, true, true}, pair(toward_zero), same2);
        check({"cvt.rn.relu." + s + "x2.f32", 4, 4, 4, 0, true, true}, pair(nearest_relu), same_relu);
        check({"cvt.rn.satfinite." + s + "x2.f32", 4, 4, 4, 0, true, true}, pair(nearest_finite), same2);
    }
    auto tf32 = [](auto round) {  // tf32 has 10 bits of mantissa
        return [=](uint64_t a, uint64_t, uint64_t) {
            const uint32_t u = uint32_t(a);
            if ((u & 0x7f800000) == 0x7f800000) return u & 0x7fffff ? uint64_t(0x7fffffff) : uint64_t(u);
            return uint64_t(round(u));
        };
    };
    check({"cvt.rn.tf32.f32", 4, 4, 0, 0, true}, tf32([](uint32_t u) {
              const uint32_t low = u & ~0x1fffu, rest = u & 0x1fff;
              return rest > 0x1000 || (rest == 0x1000 && (u & 0x2000)) ? low + 0x2000 : low;
          }),
          same32);
    check({"cvt.rz.tf32.f32", 4, 4, 0, 0, true}, tf32([](uint32_t u) { return u & ~0x1fffu; }), same32);
    check(
        {"cvt.rna.satfinite.tf32.f32", 4, 4, 0, 0, true},
        [=](auto a, auto b, auto c) {
            const uint64_t r = tf32([](uint32_t u) { return (u + 0x1000) & ~0x1fffu; })(a, b, c);
            return (r & 0x7fffffff) == 0x7f800000 ? r - 0x2000 : r;
        },
        same32);
    check(
        {"cvt.rn.relu.tf32.f32", 4, 4, 0, 0, true},
        [=](auto a, auto b, auto c) {
            const uint64_t r = tf32([](uint32_t u) { return (u + 0xfff + (u >> 13 & 1)) & ~0x1fffu; })(a, b, c);
            return nan32(a) ? 0x7fffffff : r >> 31 ? 0 : r;
        },
        same32);
    check({"cvt.rna.tf32.f32", 4, 4, 0, 0, true}, [](auto a, auto, auto) {
        const uint32_t u = uint32_t(a);
        if ((u & 0x7f800000) == 0x7f800000) return u & 0x7fffff ? uint64_t(0x7fffffff) : uint64_t(u);
        return uint64_t((u + 0x1000) & ~0x1fffu);
    });
}

TEST_CASE("fp8", "[forms]") {
    for (const bool e4 : {true, false}) {
        const std::string s = e4 ? "e4m3x2" : "e5m2x2";
        const uint64_t top  = e4 ? 0x7e : 0x7b;
        const int mantissa = e4 ? 3 : 2, bias = e4 ? 7 : 15;
        auto value_of = [=](uint64_t code) -> long double {
            const int e = int(code & 0x7f) >> mantissa, m = int(code) & ((1 << mantissa) - 1);
            long double v = e ? std::ldexp((long double)((1 << mantissa) + m), e - bias - mantissa)
                              : std::ldexp((long double)m, 1 - bias - mantissa);
            if (e4 ? (code & 0x7f) == 0x7f : e == 31 && m) v = NAN;
            else if (!e4 && e == 31) v = INFINITY;
            return code & 0x80 ? -v : v;
        };
        // Tries all codes and takes the closest one, or of two that are equally close the even one.
        auto nearest = [=](long double x) -> uint64_t {
            if (std::isnan(x)) return 0x7f;
            const long double a = std::min(std::fabs(x), value_of(top));
            uint64_t best       = 0;
            for (uint64_t code = 0; code <= top; code++) {
                const long double d = std::fabs(value_of(code) - a), least = std::fabs(value_of(best) - a);
                if (d < least || (d == least && code % 2 == 0)) best = code;
            }
            return best | (std::signbit(x) ? 0x80 : 0);
        };
        auto f    = [](uint64_t a) { return (long double)from_bits<float>(a); };
        auto relu = [](long double x) { return x < 0 ? 0 : x; };
        auto same = [](uint64_t x, uint64_t y) {
            const uint64_t d = x ^ y;  // zeros after .relu may have either sign
            return d == 0 || ((d & 0x7f7f) == 0 && (!(x & 0x7f) || !(d & 0x80)) && (!(x & 0x7f00) || !(d & 0x8000)));
        };
        check({"cvt.rn.satfinite." + s + ".f32", 2, 4, 4, 0, true, true},
              [=](auto a, auto b, auto) { return nearest(f(a)) << 8 | nearest(f(b)); });
        check(
            {"cvt.rn.satfinite.relu." + s + ".f32", 2, 4, 4, 0, true, true},
            [=](auto a, auto b, auto) { return nearest(relu(f(a))) << 8 | nearest(relu(f(b))); }, same);
        check({"cvt.rn.satfinite." + s + ".f16x2", 2, 4, 0, 0},
              [=](auto a, auto, auto) { return nearest(half_value(a >> 16)) << 8 | nearest(half_value(a & 0xffff)); });
        check({"cvt.rn.f16x2." + s, 4, 2, 0, 0}, [=](auto a, auto, auto) {
            return kHalf.rounded(value_of(a >> 8)) << 16 | kHalf.rounded(value_of(a & 0xff));
        });
    }
}
