// test_forms.cpp - instruction forms against scalar references that share no code with the engine
//
// Each form runs over every combination of edge values and some random ones. References work in a wider type (128-bit
// integers, long double) and round once at the end, or step through bits one at a time.
#include <cfenv>
#include <climits>
#include <cmath>
#include <functional>
#include <random>

#include "catch.h"
#include "ptx_program.h"

using namespace emu;
using namespace emu::test;

namespace {

using i128 = __int128;

template <class T> T from_bits(uint64_t v) {
    T x;
    std::memcpy(&x, &v, sizeof x);
    return x;
}
template <class T> uint64_t bits_of(T x) {
    uint64_t v = 0;
    std::memcpy(&v, &x, sizeof x);
    return v;
}

std::vector<uint64_t> edges(int bytes, bool floats) {
    std::vector<uint64_t> v;
    if (bytes == 2)
        v = {0,      1,      2,      7,      15,     16,     17,     0x7fff, 0x8000, 0x8001, 0xffff,
             0x3c00, 0xbc00, 0x7c00, 0xfc00, 0x7e00, 0x0400, 0x03ff, 0x3f80, 0x7f80, 0x5555};
    else if (bytes == 4 && floats)
        v = {0,          0x80000000, 1,          0x80000001, 0x007fffff, 0x00800000, 0x3f800000, 0xbf800000,
             0x3f000000, 0x3fc00000, 0x40200000, 0xc0200000, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000,
             0x7fc00000, 0x4f000000, 0xcf000000, 0x4effffff, 0x5f000000, 0x33800000};
    else if (bytes == 4)
        v = {0,      1,      2,       3,          31,         32,         33,         255,        256,       0x7fff,
             0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0x80000001, 0xfffffffe, 0xffffffff, 0x12345678};
    else if (floats)
        v = {0,
             1ull << 63,
             1,
             0x000fffffffffffff,
             0x3ff0000000000000,
             0xbff0000000000000,
             0x3fe0000000000000,
             0x4004000000000000,
             0x7fefffffffffffff,
             0x7ff0000000000000,
             0xfff0000000000000,
             0x7ff8000000000000,
             0x41e0000000000000,
             0xc1e0000000000000,
             0x43e0000000000000};
    else
        v = {0,
             1,
             2,
             31,
             32,
             63,
             64,
             65,
             0x7fffffff,
             0x80000000,
             0xffffffff,
             0x100000000,
             0x7fffffffffffffff,
             0x8000000000000000,
             0xffffffffffffffff};
    return v;
}

// d = form a[, b[, c]] for all combinations; a name with %d in it is the instructions as they are (%p, %e, %t, %u
// free); widths in bytes, 0: operand absent. `same` compares got and wanted bits.
struct Form {
    std::string name;
    int d, a, b, c;
    bool fa = false, fb = false, fc = false;  // edge values of floats
};
using Reference = std::function<uint64_t(uint64_t, uint64_t, uint64_t)>;
using Same      = std::function<bool(uint64_t, uint64_t)>;
bool equal(uint64_t x, uint64_t y) { return x == y; }

std::string reg(int bytes) { return ".b" + std::to_string(bytes * 8); }

void check(const Form& f, const Reference& want, const Same& same = equal) {
    std::mt19937_64 random(12345);
    std::vector<uint64_t> va, vb, vc;
    auto values = [&](int bytes, bool floats) {
        if (!bytes) return std::vector<uint64_t>{0};
        auto v              = edges(bytes, floats);
        const uint64_t mask = bytes == 8 ? ~0ull : (1ull << (8 * bytes)) - 1;
        for (int k = 0; k < 6; k++) v.push_back(random() & mask);
        return v;
    };
    for (uint64_t a : values(f.a, f.fa))
        for (uint64_t b : values(f.b, f.fb))
            for (uint64_t c : values(f.c, f.fc)) va.push_back(a), vb.push_back(b), vc.push_back(c);
    const size_t n = va.size();
    std::string text =
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 pd, .param .u64 pa, .param .u64 "
        "pb, .param .u64 "
        "pc, .param .u32 n)\n{\n.reg .pred %p, %e;\n.reg .b32 %t, %u, %n, %i;\n.reg .b64 %o, %q<4>;\n";
    text += ".reg " + reg(f.d) + " %d;\n.reg " + reg(f.a) + " %a;\n";
    if (f.b) text += ".reg " + reg(f.b) + " %b;\n";
    if (f.c) text += ".reg " + reg(f.c) + " %c;\n";
    text +=
        "ld.param.u32 %n, [n];\nmov.u32 %t, %ctaid.x;\nmov.u32 %u, %ntid.x;\nmov.u32 %i, %tid.x;\nmad.lo.s32 %i, %t, "
        "%u, %i;\n"
        "setp.ge.u32 %p, %i, %n;\n@%p bra DONE;\nmul.wide.u32 %o, %i, 8;\n";
    const char* names[] = {"pd", "pa", "pb", "pc"};
    for (int k = 0; k < 4; k++)
        text += std::string("ld.param.u64 %q") + char('0' + k) + ", [" + names[k] + "];\nadd.u64 %q" + char('0' + k) +
                ", %q" + char('0' + k) + ", %o;\n";
    text += "ld.global" + reg(f.a) + " %a, [%q1];\n";
    if (f.b) text += "ld.global" + reg(f.b) + " %b, [%q2];\n";
    if (f.c) text += "ld.global" + reg(f.c) + " %c, [%q3];\n";
    text += f.name.find("%d") != std::string::npos ? f.name
                                                   : f.name + " %d, %a" + (f.b ? ", %b" : "") + (f.c ? ", %c" : "");
    text += ";\nst.global" + reg(f.d) + " [%q0], %d;\nDONE: ret;\n}\n";
    DeviceArray<uint64_t> d(n), a(va), b(vb), c(vc);
    std::memset(d.host(), 0, n * 8);
    Kernel& k = load_kernel(text, "k");
    CAPTURE(f.name);
    const LaunchResult r =
        run(k, {uint32_t((n + 127) / 128), 1, 1}, {128, 1, 1}, d.address, a.address, b.address, c.address, uint32_t(n));
    REQUIRE(r.message == "");
    for (size_t i = 0; i < n; i++) {
        const uint64_t w = want(va[i], vb[i], vc[i]), mask = f.d == 8 ? ~0ull : (1ull << (8 * f.d)) - 1;
        if (same(d[i] & mask, w & mask)) continue;
        std::ostringstream s;
        s << std::hex << f.name << " a " << va[i] << " b " << vb[i] << " c " << vc[i] << " got " << (d[i] & mask)
          << " want " << (w & mask);
        FAIL(s.str());
    }
}

// Integers of a PTX type as 128-bit numbers.
i128 value(uint64_t v, int bytes, bool sign) {
    const uint64_t mask = bytes == 8 ? ~0ull : (1ull << (8 * bytes)) - 1;
    v &= mask;
    if (sign && v >> (8 * bytes - 1) & 1) return i128(v) - (i128(1) << (8 * bytes));
    return i128(v);
}

struct IntType { const char* name; int bytes; bool sign; };
const IntType kInts[] = {{"u16", 2, false}, {"s16", 2, true},  {"u32", 4, false},
                         {"s32", 4, true},  {"u64", 8, false}, {"s64", 8, true}};

bool nan32(uint64_t v) { return std::isnan(from_bits<float>(v)); }
bool same32(uint64_t x, uint64_t y) { return x == y || (nan32(x) && nan32(y)); }
bool same64(uint64_t x, uint64_t y) {
    return x == y || (std::isnan(from_bits<double>(x)) && std::isnan(from_bits<double>(y)));
}

// A number rounded to a binary format, by trying: the format's neighbours are enumerated from its bits.
long double half_value(uint64_t h) {
    const int e = int(h >> 10 & 31), m = int(h & 1023);
    const long double v = e == 31 ? (m ? NAN : INFINITY)
                          : e     ? std::ldexp((long double)(1024 + m), e - 25)
                                  : std::ldexp((long double)m, -24);
    return h & 0x8000 ? -v : v;
}
long double bf16_value(uint64_t h) { return from_bits<float>(uint32_t(h) << 16); }
// `rest` is what x lost when it was computed: it decides ties. `truncated`: toward zero instead.
uint64_t nearest16(long double x, long double (*value_of)(uint64_t), int infinity, long double rest = 0,
                   bool truncated = false) {
    if (std::isnan(x)) return 0x7fff;
    const uint64_t sign = std::signbit(x) ? 0x8000 : 0;
    const long double a = std::fabs(x);
    uint64_t low = 0, high = uint64_t(infinity);  // bits of positive numbers are in order
    while (high - low > 1) {
        const uint64_t mid = (low + high) / 2;
        (value_of(mid) <= a ? low : high) = mid;
    }
    if (truncated) return sign | (std::isinf(x) ? high : low);
    // Beyond the largest number the next step decides about infinity.
    const long double top    = high == uint64_t(infinity) ? 2 * value_of(low) - value_of(low - 1) : value_of(high),
                      bottom = value_of(low);
    const bool tie = a - bottom == top - a, away = rest != 0 ? (rest > 0) == (x > 0) : low & 1;
    const bool up  = a - bottom > top - a || (tie && away);
    return sign | (up ? high : low);
}

}  // namespace

TEST_CASE("integer arithmetic", "[forms]") {
    for (const IntType& t : kInts) {
        const int w         = t.bytes;
        const std::string s = std::string(".") + t.name;
        auto v              = [=](uint64_t x) { return value(x, w, t.sign); };
        check({"add" + s, w, w, w, 0}, [=](auto a, auto b, auto) { return uint64_t(v(a) + v(b)); });
        check({"sub" + s, w, w, w, 0}, [=](auto a, auto b, auto) { return uint64_t(v(a) - v(b)); });
        check({"mul.lo" + s, w, w, w, 0}, [=](auto a, auto b, auto) { return a * b; });
        check({"mul.hi" + s, w, w, w, 0}, [=](auto a, auto b, auto) {
            if (w == 8 && !t.sign) return uint64_t((unsigned __int128)(a) * b >> 64);
            return uint64_t((v(a) * v(b)) >> (8 * w));
        });
        check({"mad.lo" + s, w, w, w, w}, [=](auto a, auto b, auto c) { return a * b + c; });
        check({"min" + s, w, w, w, 0}, [=](auto a, auto b, auto) { return uint64_t(std::min(v(a), v(b))); });
        check({"max" + s, w, w, w, 0}, [=](auto a, auto b, auto) { return uint64_t(std::max(v(a), v(b))); });
        check({"div" + s, w, w, w, 0}, [=](auto a, auto b, auto) { return b ? uint64_t(v(a) / v(b)) : ~uint64_t(0); });
        check({"rem" + s, w, w, w, 0}, [=](auto a, auto b, auto) { return b ? uint64_t(v(a) % v(b)) : a; });
        check({"shr" + s, w, w, 4, 0},
              [=](auto a, auto b, auto) { return uint64_t(v(a) >> std::min<uint64_t>(b, 8 * w)); });
        check({"sad" + s, w, w, w, w},
              [=](auto a, auto b, auto c) { return uint64_t(v(c) + (v(a) < v(b) ? v(b) - v(a) : v(a) - v(b))); });
        if (t.sign) {
            check({"abs" + s, w, w, 0, 0}, [=](auto a, auto, auto) { return uint64_t(v(a) < 0 ? -v(a) : v(a)); });
            check({"neg" + s, w, w, 0, 0}, [=](auto a, auto, auto) { return uint64_t(-v(a)); });
        }
        if (w < 8) {
            check({"mul.wide" + s, 2 * w, w, w, 0}, [=](auto a, auto b, auto) { return uint64_t(v(a) * v(b)); });
            check({"mad.wide" + s, 2 * w, w, w, 2 * w},
                  [=](auto a, auto b, auto c) { return uint64_t(v(a) * v(b)) + c; });
        }
    }
    auto clamp = [](i128 x) { return uint64_t(x > INT_MAX ? INT_MAX : x < INT_MIN ? INT_MIN : x); };
    check({"add.sat.s32", 4, 4, 4, 0},
          [=](auto a, auto b, auto) { return clamp(value(a, 4, true) + value(b, 4, true)); });
    check({"sub.sat.s32", 4, 4, 4, 0},
          [=](auto a, auto b, auto) { return clamp(value(a, 4, true) - value(b, 4, true)); });
    check({"mul24.lo.s32", 4, 4, 4, 0}, [=](auto a, auto b, auto) {
        return uint64_t((value(a << 8, 4, true) >> 8) * (value(b << 8, 4, true) >> 8));
    });
}

TEST_CASE("bits", "[forms]") {
    for (int w : {2, 4, 8}) {
        const std::string s = ".b" + std::to_string(8 * w);
        check({"and" + s, w, w, w, 0}, [](auto a, auto b, auto) { return a & b; });
        check({"or" + s, w, w, w, 0}, [](auto a, auto b, auto) { return a | b; });
        check({"xor" + s, w, w, w, 0}, [](auto a, auto b, auto) { return a ^ b; });
        check({"not" + s, w, w, 0, 0}, [](auto a, auto, auto) { return ~a; });
        check({"shl" + s, w, w, 4, 0}, [=](auto a, auto b, auto) { return b >= uint64_t(8 * w) ? 0 : a << b; });
        if (w == 2) continue;
        check({"popc" + s, 4, w, 0, 0}, [](auto a, auto, auto) {
            uint64_t n = 0;
            for (; a; a >>= 1) n += a & 1;
            return n;
        });
        check({"clz" + s, 4, w, 0, 0}, [=](auto a, auto, auto) {
            uint64_t n = 0;
            for (int k = 8 * w - 1; k >= 0 && !(a >> k & 1); k--) n++;
            return n;
        });
        check({"brev" + s, w, w, 0, 0}, [=](auto a, auto, auto) {
            uint64_t r = 0;
            for (int k = 0; k < 8 * w; k++) r |= (a >> k & 1) << (8 * w - 1 - k);
            return r;
        });
        for (bool sign : {false, true}) {
            const std::string t = std::string(sign ? ".s" : ".u") + std::to_string(8 * w);
            check({"bfe" + t, w, w, 4, 4}, [=](auto a, auto b, auto c) {
                const uint64_t at = b & 255, n = c & 255, width = uint64_t(8 * w);
                uint64_t r = 0;
                const uint64_t fill = sign && n ? a >> std::min(at + n - 1, width - 1) & 1 : 0;
                for (uint64_t k = 0; k < width; k++) r |= (k < n && at + k < width ? a >> (at + k) & 1 : fill) << k;
                return r;
            });
            check({"bfind" + t, 4, w, 0, 0}, [=](auto a, auto, auto) {
                const uint64_t skip = sign ? a >> (8 * w - 1) & 1 : 0;
                for (int k = 8 * w - 1; k >= 0; k--)
                    if ((a >> k & 1) != skip) return uint64_t(k);
                return ~uint64_t(0);
            });
        }
    }
    check({"prmt.b32", 4, 4, 4, 4}, [](auto a, auto b, auto c) {
        uint64_t r = 0;
        for (int k = 0; k < 4; k++) {
            const uint64_t which = c >> (4 * k) & 15, from = (which & 7) < 4 ? a : b,
                           byte = from >> (8 * (which & 3)) & 255;
            r |= (which & 8 ? (byte & 128 ? 255 : 0) : byte) << (8 * k);
        }
        return r;
    });
    check({"shf.l.wrap.b32", 4, 4, 4, 4}, [](auto a, auto b, auto c) { return ((b << 32 | a) << (c & 31)) >> 32; });
    check({"shf.r.wrap.b32", 4, 4, 4, 4}, [](auto a, auto b, auto c) { return (b << 32 | a) >> (c & 31); });
    check({"shf.r.clamp.b32", 4, 4, 4, 4},
          [](auto a, auto b, auto c) { return (b << 32 | a) >> std::min<uint64_t>(c, 32); });
    check({"shf.l.clamp.b32", 4, 4, 4, 4},
          [](auto a, auto b, auto c) { return c >= 32 ? a : ((b << 32 | a) << c) >> 32; });
    check({"dp4a.s32.s32", 4, 4, 4, 4}, [](auto a, auto b, auto c) {
        i128 s = value(c, 4, true);
        for (int k = 0; k < 4; k++) s += value(a >> (8 * k), 1, true) * value(b >> (8 * k), 1, true);
        return uint64_t(s);
    });
}

TEST_CASE("single precision", "[forms]") {
    auto f       = [](uint64_t v) { return from_bits<float>(v); };
    auto ld      = [](uint64_t v) { return (long double)from_bits<float>(v); };
    auto rounded = [](int mode,
                      auto compute) {  // a long double holds sums and products of floats well enough to round once
        return [=](uint64_t a, uint64_t b, uint64_t c) {
            std::fesetround(mode);
            volatile float r = compute(a, b, c);
            std::fesetround(FE_TONEAREST);
            return bits_of(float(r));
        };
    };
    const std::pair<const char*, int> modes[] = {
        {"rn", FE_TONEAREST}, {"rz", FE_TOWARDZERO}, {"rm", FE_DOWNWARD}, {"rp", FE_UPWARD}};
    for (const auto& [name, mode] : modes) {
        const std::string m = std::string(".") + name + ".f32";
        check({"add" + m, 4, 4, 4, 0, true, true},
              rounded(mode,
                      [=](auto a, auto b, auto) {
                          volatile float x = f(a), y = f(b);
                          return x + y;
                      }),
              same32);
        check({"sub" + m, 4, 4, 4, 0, true, true},
              rounded(mode,
                      [=](auto a, auto b, auto) {
                          volatile float x = f(a), y = f(b);
                          return x - y;
                      }),
              same32);
        check({"mul" + m, 4, 4, 4, 0, true, true},
              rounded(mode,
                      [=](auto a, auto b, auto) {
                          volatile float x = f(a), y = f(b);
                          return x * y;
                      }),
              same32);
        check({"div" + m, 4, 4, 4, 0, true, true},
              rounded(mode,
                      [=](auto a, auto b, auto) {
                          volatile float x = f(a), y = f(b);
                          return x / y;
                      }),
              same32);
        check({"fma" + m, 4, 4, 4, 4, true, true, true},
              rounded(mode, [=](auto a, auto b, auto c) { return std::fma(f(a), f(b), f(c)); }), same32);
        check({"sqrt" + m, 4, 4, 0, 0, true},
              rounded(mode,
                      [=](auto a, auto, auto) {
                          volatile float x = f(a);
                          return std::sqrt(x);
                      }),
              same32);
    }
    auto flush = [=](float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.f, x) : x; };
    check(
        {"add.ftz.f32", 4, 4, 4, 0, true, true},
        [=](auto a, auto b, auto) { return bits_of(flush(flush(f(a)) + flush(f(b)))); }, same32);
    check({"fma.rn.ftz.f32", 4, 4, 4, 4, true, true, true}, [=](auto a, auto b, auto c) {
        return bits_of(flush(std::fma(flush(f(a)), flush(f(b)), flush(f(c)))));
    }, same32);
    check({"add.sat.f32", 4, 4, 4, 0, true, true}, [=](auto a, auto b, auto) {
        const float x = f(a) + f(b);
        return bits_of(std::isnan(x) || x <= 0 ? 0.f : x >= 1 ? 1.f : x);
    }, same32);
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
    check({"abs.f32", 4, 4, 0, 0, true}, [](auto a, auto, auto) { return a & 0x7fffffff; }, same32);
    check({"neg.f32", 4, 4, 0, 0, true}, [](auto a, auto, auto) { return a ^ 0x80000000; }, same32);
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

TEST_CASE("double precision", "[forms]") {
    auto d = [](uint64_t v) { return from_bits<double>(v); };
    check({"add.rn.f64", 8, 8, 8, 0, true, true}, [=](auto a, auto b, auto) { return bits_of(d(a) + d(b)); }, same64);
    check({"mul.rn.f64", 8, 8, 8, 0, true, true}, [=](auto a, auto b, auto) { return bits_of(d(a) * d(b)); }, same64);
    check({"div.rn.f64", 8, 8, 8, 0, true, true}, [=](auto a, auto b, auto) { return bits_of(d(a) / d(b)); }, same64);
    check(
        {"fma.rn.f64", 8, 8, 8, 8, true, true, true},
        [=](auto a, auto b, auto c) { return bits_of(std::fma(d(a), d(b), d(c))); }, same64);
    check({"sqrt.rn.f64", 8, 8, 0, 0, true}, [=](auto a, auto, auto) { return bits_of(std::sqrt(d(a))); }, same64);
    for (const auto& [name, mode] : {std::pair{".rz", FE_TOWARDZERO}, {".rm", FE_DOWNWARD}, {".rp", FE_UPWARD}}) {
        const std::string m = std::string(name) + ".f64";
        auto rounded        = [d, mode = mode](auto compute) {  // volatile: the mode is no constant to the compiler
            return [=](uint64_t a, uint64_t b, uint64_t c) {
                volatile double x = d(a), y = d(b), z = d(c);
                std::fesetround(mode);
                volatile double r = compute(x, y, z);
                std::fesetround(FE_TONEAREST);
                return bits_of(double(r));
            };
        };
        check({"add" + m, 8, 8, 8, 0, true, true}, rounded([](double x, double y, double) { return x + y; }), same64);
        check({"sub" + m, 8, 8, 8, 0, true, true}, rounded([](double x, double y, double) { return x - y; }), same64);
        check({"mul" + m, 8, 8, 8, 0, true, true}, rounded([](double x, double y, double) { return x * y; }), same64);
        check({"div" + m, 8, 8, 8, 0, true, true}, rounded([](double x, double y, double) { return x / y; }), same64);
        check({"fma" + m, 8, 8, 8, 8, true, true, true},
              rounded([](double x, double y, double z) { return std::fma(x, y, z); }), same64);
        check({"sqrt" + m, 8, 8, 0, 0, true}, rounded([](double x, double, double) { return std::sqrt(x); }), same64);
        check({"rcp" + m, 8, 8, 0, 0, true}, rounded([](double x, double, double) { return 1 / x; }), same64);
    }
}

TEST_CASE("16-bit floats", "[forms]") {
    for (const bool half : {true, false}) {
        const std::string s  = half ? ".f16" : ".bf16";
        auto* v              = half ? half_value : bf16_value;
        const int infinity   = half ? 0x7c00 : 0x7f80;
        auto nearest         = [=](long double x) { return nearest16(x, v, infinity); };
        auto fused = [=](uint64_t a, uint64_t b, uint64_t c) {  // the product is exact in a long double, the sum is not
            const long double x = v(a) * v(b), y = v(c), sum = x + y, part = sum - x;
            const long double rest = std::isfinite(sum) ? (x - (sum - part)) + (y - part) : 0;
            return nearest16(sum, v, infinity, rest);
        };
        auto same            = [=](uint64_t x, uint64_t y) { return x == y || (std::isnan(v(x)) && std::isnan(v(y))); };
        check({"add.rn" + s, 2, 2, 2, 0}, [=](auto a, auto b, auto) { return nearest(v(a) + v(b)); }, same);
        check({"sub.rn" + s, 2, 2, 2, 0}, [=](auto a, auto b, auto) { return nearest(v(a) - v(b)); }, same);
        check({"mul.rn" + s, 2, 2, 2, 0}, [=](auto a, auto b, auto) { return nearest(v(a) * v(b)); }, same);
        check({"fma.rn" + s, 2, 2, 2, 2}, fused, same);
        check({"neg" + s, 2, 2, 0, 0}, [](auto a, auto, auto) { return a ^ 0x8000; }, same);
        check({"abs" + s, 2, 2, 0, 0}, [](auto a, auto, auto) { return a & 0x7fff; }, same);
        check({"fma.rn" + s + "x2", 4, 4, 4, 0 + 4}, [=](auto a, auto b, auto c) {
            uint64_t r = 0;
            for (int k = 0; k < 32; k += 16) r |= fused(a >> k & 0xffff, b >> k & 0xffff, c >> k & 0xffff) << k;
            return r;
        }, [=](uint64_t x, uint64_t y) { return same(x & 0xffff, y & 0xffff) && same(x >> 16, y >> 16); });
        check(
            {"cvt.rn" + s + ".f32", 2, 4, 0, 0, true}, [=](auto a, auto, auto) { return nearest(from_bits<float>(a)); },
            same);
        check({"cvt.f32" + s, 4, 2, 0, 0}, [=](auto a, auto, auto) { return bits_of(float(v(a))); }, same32);
    }
}

TEST_CASE("conversions", "[forms]") {
    auto saturated = [](long double x, const IntType& t) -> uint64_t {
        const i128 low  = t.sign ? -(i128(1) << (8 * t.bytes - 1)) : 0,
                   high = (i128(1) << (8 * t.bytes - (t.sign ? 1 : 0))) - 1;
        if (std::isnan(x)) return t.bytes == 8 ? uint64_t(1) << 63 : 0;
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
              [=](auto a, auto, auto) { return saturated(std::floor(from_bits<double>(a)), t); });
        check({"cvt.rpi." + s + ".f64", t.bytes, 8, 0, 0, true},
              [=](auto a, auto, auto) { return saturated(std::ceil(from_bits<double>(a)), t); });
        check({"cvt.rn.f32." + s, 4, t.bytes, 0, 0},
              [=](auto a, auto, auto) { return bits_of(float(value(a, t.bytes, t.sign))); });
        check({"cvt.rn.f64." + s, 8, t.bytes, 0, 0},
              [=](auto a, auto, auto) { return bits_of(double(value(a, t.bytes, t.sign))); });
        check({"cvt.rn.f16." + s, 2, t.bytes, 0, 0}, [=](auto a, auto, auto) {
            return nearest16((long double)value(a, t.bytes, t.sign), half_value, 0x7c00);
        });
        for (const IntType& from : kInts)
            check({"cvt." + s + "." + from.name, t.bytes, from.bytes, 0, 0},
                  [=](auto a, auto, auto) { return uint64_t(value(a, from.bytes, from.sign)); });
    }
    for (const auto& [name, mode] :
         {std::pair{"rn", FE_TONEAREST}, {"rz", FE_TOWARDZERO}, {"rm", FE_DOWNWARD}, {"rp", FE_UPWARD}}) {
        const int m = mode;
        check({std::string("cvt.") + name + ".f32.f64", 4, 8, 0, 0, true}, [=](auto a, auto, auto) {
            std::fesetround(m);
            volatile float r = float(from_bits<double>(a));
            std::fesetround(FE_TONEAREST);
            return bits_of(float(r));
        }, same32);
        check({std::string("cvt.") + name + ".f32.s32", 4, 4, 0, 0}, [=](auto a, auto, auto) {
            std::fesetround(m);
            volatile int32_t i = int32_t(a);
            volatile float r   = float(i);
            std::fesetround(FE_TONEAREST);
            return bits_of(float(r));
        }, same32);
    }
    // Both 16-bit formats: directed modes, and what becomes of negative and too large numbers.
    for (const bool half : {true, false}) {
        const std::string s = half ? "f16" : "bf16";
        auto* v             = half ? half_value : bf16_value;
        const int infinity  = half ? 0x7c00 : 0x7f80;
        auto same           = [=](uint64_t x, uint64_t y) { return x == y || (std::isnan(v(x)) && std::isnan(v(y))); };
        auto same2 = [=](uint64_t x, uint64_t y) { return same(x & 0xffff, y & 0xffff) && same(x >> 16, y >> 16); };
        auto f     = [](uint64_t a) { return (long double)from_bits<float>(a); };
        auto toward_zero = [=](long double x) { return nearest16(x, v, infinity, 0, true); };
        auto relu        = [](long double x) { return x <= 0 ? 0 : x; };
        // The sign of a clamped zero is nobody's promise.
        auto same_relu   = [=](uint64_t x, uint64_t y) {
            for (uint64_t sign : {0x8000u, 0x80000000u})
                if (!(x & (sign - (sign >> 15)))) x &= ~sign;
            return same2(x, y);
        };
        auto finite  = [=](uint64_t h) { return (h & 0x7fff) == uint64_t(infinity) ? h - 1 : h; };
        auto nearest = [=](long double x) { return nearest16(x, v, infinity); };
        check(
            {"cvt.rz." + s + ".f32", 2, 4, 0, 0, true}, [=](auto a, auto, auto) { return toward_zero(f(a)); }, same);
        check(
            {"cvt.rn.relu." + s + ".f32", 2, 4, 0, 0, true}, [=](auto a, auto, auto) { return nearest(relu(f(a))); },
            same_relu);
        check(
            {"cvt.rn.satfinite." + s + ".f32", 2, 4, 0, 0, true},
            [=](auto a, auto, auto) { return finite(nearest(f(a))); }, same);
        check(
            {"cvt.rn." + s + "x2.f32", 4, 4, 4, 0, true, true},
            [=](auto a, auto b, auto) { return nearest(f(a)) << 16 | nearest(f(b)); }, same2);
        check(
            {"cvt.rz." + s + "x2.f32", 4, 4, 4, 0, true, true},
            [=](auto a, auto b, auto) { return toward_zero(f(a)) << 16 | toward_zero(f(b)); }, same2);
        check(
            {"cvt.rn.relu." + s + "x2.f32", 4, 4, 4, 0, true, true},
            [=](auto a, auto b, auto) { return nearest(relu(f(a))) << 16 | nearest(relu(f(b))); }, same_relu);
        check(
            {"cvt.rn.satfinite." + s + "x2.f32", 4, 4, 4, 0, true, true},
            [=](auto a, auto b, auto) { return finite(nearest(f(a))) << 16 | finite(nearest(f(b))); }, same2);
    }
    auto tf32 = [](auto round) {  // 10 bits of mantissa remain
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
            if (e4 ? (code & 0x7f) == 0x7f : e == 31 && m)
                v = NAN;
            else if (!e4 && e == 31)
                v = INFINITY;
            return code & 0x80 ? -v : v;
        };
        auto nearest = [=](long double x) -> uint64_t {  // of all codes the closest, of two the even one
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
            return nearest16(value_of(a >> 8), half_value, 0x7c00) << 16 |
                   nearest16(value_of(a & 0xff), half_value, 0x7c00);
        });
    }
}

TEST_CASE("carries, tables of three bits, bytes", "[forms]") {
    const std::string halves = "{.reg .b32 al, ah, bl, bh, cl, ch;\nmov.b64 {al, ah}, %a;\nmov.b64 {bl, bh}, %b;\n";
    check({halves + "add.cc.u32 cl, al, bl;\naddc.u32 ch, ah, bh;\nmov.b64 %d, {cl, ch};}", 8, 8, 8, 0},
          [](auto a, auto b, auto) { return a + b; });
    check({halves + "sub.cc.u32 cl, al, bl;\nsubc.u32 ch, ah, bh;\nmov.b64 %d, {cl, ch};}", 8, 8, 8, 0},
          [](auto a, auto b, auto) { return a - b; });
    check({halves + "mov.b64 {cl, ch}, %c;\nmad.lo.cc.u32 cl, al, bl, cl;\nmadc.hi.u32 ch, al, bl, ch;\n"
                    "mov.b64 %d, {cl, ch};}",
           8, 8, 8, 8},
          [](auto a, auto b, auto c) { return uint64_t(uint32_t(a)) * uint32_t(b) + c; });
    check({"add.cc.u64 %d, %a, %b;\naddc.u64 %d, 0, 0", 8, 8, 8, 0}, [](auto a, auto b, auto) { return a + b < a; });
    for (const IntType& t : kInts)
        check({std::string("mad.hi.") + t.name, t.bytes, t.bytes, t.bytes, t.bytes}, [=](auto a, auto b, auto c) {
            if (t.bytes == 8 && !t.sign) return uint64_t((unsigned __int128)(a)*b >> 64) + c;
            return uint64_t(value(a, t.bytes, t.sign) * value(b, t.bytes, t.sign) >> (8 * t.bytes)) + c;
        });
    check({"mul24.lo.u32", 4, 4, 4, 0}, [](auto a, auto b, auto) { return (a & 0xffffff) * (b & 0xffffff); });
    check({"mad24.lo.u32", 4, 4, 4, 4}, [](auto a, auto b, auto c) { return (a & 0xffffff) * (b & 0xffffff) + c; });
    for (unsigned table : {0x00u, 0xffu, 0xe8u, 0x96u, 0x1bu, 0xcau, 0x40u})
        check({"lop3.b32 %d, %a, %b, %c, " + std::to_string(table), 4, 4, 4, 4}, [=](auto a, auto b, auto c) {
            uint64_t r = 0;
            for (int k = 0; k < 32; k++)
                r |= uint64_t(table >> ((a >> k & 1) * 4 + (b >> k & 1) * 2 + (c >> k & 1)) & 1) << k;
            return r;
        });
    for (const bool sa : {false, true})
        for (const bool sb : {false, true}) {
            const std::string types = std::string(sa ? ".s32" : ".u32") + (sb ? ".s32" : ".u32");
            check({"dp4a" + types, 4, 4, 4, 4}, [=](auto a, auto b, auto c) {
                i128 sum = i128(c);
                for (int k = 0; k < 4; k++) sum += value(a >> (8 * k), 1, sa) * value(b >> (8 * k), 1, sb);
                return uint64_t(sum);
            });
            for (const bool high : {false, true})
                check({std::string(high ? "dp2a.hi" : "dp2a.lo") + types, 4, 4, 4, 4}, [=](auto a, auto b, auto c) {
                    i128 sum = i128(c);
                    for (int k = 0; k < 2; k++)
                        sum += value(a >> (16 * k), 2, sa) * value(b >> (8 * k + (high ? 16 : 0)), 1, sb);
                    return uint64_t(sum);
                });
        }
    for (const bool wide : {false, true}) {
        const int w = wide ? 8 : 4;
        check({std::string("cnot.b") + (wide ? "64" : "32"), w, w, 0, 0}, [](auto a, auto, auto) { return a == 0; });
        for (int at : {0, 5, 31, 60, 255})
            for (int n : {0, 1, 8, 32, 64})
                check({std::string("bfi.b") + (wide ? "64" : "32") + " %d, %a, %b, " + std::to_string(at) + ", " +
                           std::to_string(n),
                       w, w, w, 0},
                      [=](auto a, auto b, auto) {
                          for (int k = 0; k < n && at + k < 8 * w; k++)
                              b = (b & ~(1ull << (at + k))) | (a >> k & 1) << (at + k);
                          return b;
                      });
    }
    // prmt's modes, as the manual's table: which bytes, from the highest down, for each value of c's lowest two bits.
    const std::pair<const char*, std::array<const char*, 4>> modes[] = {
        {"f4e", {"3210", "4321", "5432", "6543"}}, {"b4e", {"5670", "6701", "7012", "0123"}},
        {"rc8", {"0000", "1111", "2222", "3333"}}, {"ecl", {"3210", "3211", "3222", "3333"}},
        {"ecr", {"0000", "1110", "2210", "3210"}}, {"rc16", {"1010", "3232", "1010", "3232"}}};
    for (const auto& [mode, table] : modes)
        check({std::string("prmt.b32.") + mode, 4, 4, 4, 4}, [table = table](auto a, auto b, auto c) {
            uint64_t r = 0;
            for (int k = 0; k < 4; k++) r |= ((b << 32 | a) >> (8 * (table[c & 3][3 - k] - '0')) & 255) << (8 * k);
            return r;
        });
}

TEST_CASE("comparisons", "[forms]") {
    // For each name: whether it holds below, at and above equality, and with a NaN.
    struct Comparison {
        const char* name;
        bool below, equal, above, nan;
    };
    const Comparison all[] = {{"eq", 0, 1, 0, 0},  {"ne", 1, 0, 1, 0},  {"lt", 1, 0, 0, 0},  {"le", 1, 1, 0, 0},
                              {"gt", 0, 0, 1, 0},  {"ge", 0, 1, 1, 0},  {"equ", 0, 1, 0, 1}, {"neu", 1, 0, 1, 1},
                              {"ltu", 1, 0, 0, 1}, {"leu", 1, 1, 0, 1}, {"gtu", 0, 0, 1, 1}, {"geu", 0, 1, 1, 1},
                              {"num", 1, 1, 1, 0}, {"nan", 0, 0, 0, 1}};
    using Value            = std::function<long double(uint64_t)>;
    auto holds             = [](const Comparison& c, long double a, long double b) {
        return std::isnan(a) || std::isnan(b) ? c.nan : a < b ? c.below : a > b ? c.above : c.equal;
    };
    const std::tuple<const char*, int, Value> floats[] = {{"f32", 4, [](uint64_t a) { return from_bits<float>(a); }},
                                                          {"f64", 8, [](uint64_t a) { return from_bits<double>(a); }},
                                                          {"f16", 2, half_value},
                                                          {"bf16", 2, bf16_value}};
    for (const Comparison& c : all) {
        for (const auto& [type, w, v] : floats)
            check({std::string("setp.") + c.name + "." + type + " %p, %a, %b;\nselp.u32 %d, 1, 0, %p", 4, w, w, 0,
                   w > 2, w > 2},
                  [&, v = v](auto a, auto b, auto) { return holds(c, v(a), v(b)); });
        check({std::string("set.") + c.name + ".u32.f32", 4, 4, 4, 0, true, true}, [&](auto a, auto b, auto) {
            return holds(c, from_bits<float>(a), from_bits<float>(b)) ? 0xffffffffu : 0u;
        });
        check({std::string("set.") + c.name + ".f32.f32", 4, 4, 4, 0, true, true}, [&](auto a, auto b, auto) {
            return holds(c, from_bits<float>(a), from_bits<float>(b)) ? 0x3f800000u : 0u;
        });
        if (std::string(c.name).size() > 2) continue;
        for (const IntType& t : kInts) {
            auto is = [=](uint64_t a, uint64_t b) {
                return holds(c, (long double)value(a, t.bytes, t.sign), (long double)value(b, t.bytes, t.sign));
            };
            check({std::string("setp.") + c.name + "." + t.name + " %p, %a, %b;\nselp.u32 %d, 1, 0, %p", 4, t.bytes,
                   t.bytes, 0},
                  [=](auto a, auto b, auto) { return is(a, b); });
            // The second result is the opposite, and both are joined with a third predicate.
            for (const std::string join : {"and", "or", "xor"})
                check({"setp.ne.u32 %p, %c, 0;\nsetp." + std::string(c.name) + "." + join + "." + t.name +
                           " %p|%e, %a, %b, !%p;\nselp.u32 %d, 1, 0, %p;\nselp.u32 %t, 2, 0, %e;\nor.b32 %d, %d, %t",
                       4, t.bytes, t.bytes, 4},
                      [=](auto a, auto b, auto third) {
                          const bool x = is(a, b), z = third == 0;
                          auto joined = [&](bool y) { return join == "and" ? y && z : join == "or" ? y || z : y != z; };
                          return uint64_t(joined(x)) | uint64_t(joined(!x)) << 1;
                      });
        }
    }
    check({"slct.b32.s32", 4, 4, 4, 4}, [](auto a, auto b, auto c) { return c >> 31 ? b : a; });
    check({"slct.b64.f32", 8, 8, 8, 4, false, false, true},
          [](auto a, auto b, auto c) { return from_bits<float>(c) >= 0 ? a : b; });
    const std::pair<const char*, std::function<bool(float)>> tests[] = {
        {"finite", [](float x) { return std::isfinite(x); }},
        {"infinite", [](float x) { return std::isinf(x); }},
        {"number", [](float x) { return !std::isnan(x); }},
        {"notanumber", [](float x) { return std::isnan(x); }},
        {"normal", [](float x) { return std::isnormal(x); }},
        {"subnormal", [](float x) { return std::fpclassify(x) == FP_SUBNORMAL; }}};
    for (const auto& [name, is] : tests)
        check({std::string("testp.") + name + ".f32 %p, %a;\nselp.u32 %d, 1, 0, %p", 4, 4, 0, 0, true},
              [is = is](auto a, auto, auto) { return is(from_bits<float>(a)); });
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
    for (const bool half : {true, false}) {
        const std::string s = half ? "f16" : "bf16";
        auto* v             = half ? half_value : bf16_value;
        const int infinity  = half ? 0x7c00 : 0x7f80;
        auto nearest        = [=](long double x) { return nearest16(x, v, infinity); };
        auto same           = [=](uint64_t x, uint64_t y) { return x == y || (std::isnan(v(x)) && std::isnan(v(y))); };
        auto same2 = [=](uint64_t x, uint64_t y) { return same(x & 0xffff, y & 0xffff) && same(x >> 16, y >> 16); };
        auto clamp = [](long double x) { return std::isnan(x) || x <= 0 ? 0 : x >= 1 ? 1 : x; };
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
            [=](auto a, auto b, auto c) {
                const long double x = v(a) * v(b), y = v(c), sum = x + y, part = sum - x;
                const long double rest = std::isfinite(sum) ? (x - (sum - part)) + (y - part) : 0;
                return sum < 0 ? 0 : nearest16(sum, v, infinity, rest);
            },
            [=](uint64_t x, uint64_t y) { return same(x, y) || ((x | y) & 0x7fff) == 0; });
        check(
            {"cvt.rn." + s + ".f64", 2, 8, 0, 0, true},
            [=](auto a, auto, auto) { return nearest(from_bits<double>(a)); }, same);
        check(
            {"cvt.f64." + s, 8, 2, 0, 0}, [=](auto a, auto, auto) { return bits_of(double(v(a))); }, same64);
        if (!half) continue;
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
