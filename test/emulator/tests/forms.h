// forms.h - tests an instruction form on all combinations of edge values and some random values, against a reference
//
// The references share no code with the engine. They compute in a wider type (128-bit integers, long double) and round
// once at the end, or they go through the bits one at a time.
#pragma once
#include <cfenv>
#include <climits>
#include <cmath>
#include <functional>
#include <random>
#include <sstream>

#include "catch.h"
#include "ptx_program.h"

namespace emu::test {

using i128 = __int128;

// The values of a type at which something changes: zeros, ones, limits and their neighbours, infinities, NaN.
inline std::vector<uint64_t> edges(int bytes, bool floats) {
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
        // clang-format off
        v = {0, 1ull << 63, 1, 0x000fffffffffffff, 0x3ff0000000000000, 0xbff0000000000000, 0x3fe0000000000000,
             0x4004000000000000, 0x7fefffffffffffff, 0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000,
             0x41e0000000000000, 0xc1e0000000000000, 0x43e0000000000000};
    else
        v = {0, 1, 2, 31, 32, 63, 64, 65, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffffffff,
             0x8000000000000000, 0xffffffffffffffff};
    // clang-format on
    return v;
}

// An instruction form, which is run as "name %d, %a, %b, %c". A name that has %d in it is run as it is and may use the
// registers %p, %e, %t and %u. The widths of the operands are in bytes, and an absent operand has the width 0.
struct Form {
    std::string name;
    int d, a, b, c;
    bool fa = false, fb = false, fc = false;  // whether the operands get the edge values of floats
};
using Reference = std::function<uint64_t(uint64_t, uint64_t, uint64_t)>;
using Same      = std::function<bool(uint64_t, uint64_t)>;
inline bool equal(uint64_t x, uint64_t y) { return x == y; }

inline std::string reg(int bytes) { return ".b" + std::to_string(bytes * 8); }

inline void check(const Form& f, const Reference& want, const Same& same = equal) {
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

// Returns an integer of a PTX type as a 128-bit number.
inline i128 value(uint64_t v, int bytes, bool sign) {
    const uint64_t mask = bytes == 8 ? ~0ull : (1ull << (8 * bytes)) - 1;
    v &= mask;
    if (sign && v >> (8 * bytes - 1) & 1) return i128(v) - (i128(1) << (8 * bytes));
    return i128(v);
}

struct IntType {
    const char* name;
    int bytes;
    bool sign;
};
inline const IntType kInts[] = {{"u16", 2, false}, {"s16", 2, true},  {"u32", 4, false},
                                {"s32", 4, true},  {"u64", 8, false}, {"s64", 8, true}};

inline const std::pair<const char*, int> kRoundings[] = {
    {"rn", FE_TONEAREST}, {"rz", FE_TOWARDZERO}, {"rm", FE_DOWNWARD}, {"rp", FE_UPWARD}};

// The reference for compute(a, b, c) on numbers of type From, rounded to T in this mode. The numbers are volatile, so
// that the compiler computes nothing before the mode is set.
template <class T, class From = T, class F> Reference rounded(int mode, F compute) {
    return [=](uint64_t a, uint64_t b, uint64_t c) {
        volatile From x = from_bits<From>(a), y = from_bits<From>(b), z = from_bits<From>(c);
        std::fesetround(mode);
        volatile T r = T(compute(x, y, z));
        std::fesetround(FE_TONEAREST);
        return bits_of(T(r));
    };
}

inline bool nan32(uint64_t v) { return std::isnan(from_bits<float>(v)); }
inline bool same32(uint64_t x, uint64_t y) { return x == y || (nan32(x) && nan32(y)); }
inline bool same64(uint64_t x, uint64_t y) {
    return x == y || (std::isnan(from_bits<double>(x)) && std::isnan(from_bits<double>(y)));
}

// The values of the 16-bit formats, from their bits.
inline long double half_value(uint64_t h) {
    const int e = int(h >> 10 & 31), m = int(h & 1023);
    const long double v = e == 31 ? (m ? NAN : INFINITY)
                          : e     ? std::ldexp((long double)(1024 + m), e - 25)
                                  : std::ldexp((long double)m, -24);
    return h & 0x8000 ? -v : v;
}
inline long double bf16_value(uint64_t h) { return from_bits<float>(uint32_t(h) << 16); }

struct Format16 {
    const char* name;  // in PTX
    long double (*value)(uint64_t bits);
    uint64_t infinity;

    bool same(uint64_t x, uint64_t y) const { return x == y || (std::isnan(value(x)) && std::isnan(value(y))); }
    bool same2(uint64_t x, uint64_t y) const { return same(x & 0xffff, y & 0xffff) && same(x >> 16, y >> 16); }

    // Rounds to the nearest number, or toward zero. `rest` is the rounding error of x itself, which decides ties.
    uint64_t rounded(long double x, long double rest = 0, bool toward_zero = false) const {
        if (std::isnan(x)) return 0x7fff;
        const uint64_t sign = std::signbit(x) ? 0x8000 : 0;
        const long double a = std::fabs(x);
        uint64_t low = 0, high = infinity;  // bits of positive numbers are in order
        while (high - low > 1) {
            const uint64_t mid             = (low + high) / 2;
            (value(mid) <= a ? low : high) = mid;
        }
        if (toward_zero) return sign | (std::isinf(x) ? high : low);
        // Above the largest number, the next step of the same size decides whether the result is infinity.
        const long double bottom = value(low), top = high == infinity ? 2 * bottom - value(low - 1) : value(high);
        const bool tie = a - bottom == top - a, away = rest != 0 ? (rest > 0) == (x > 0) : low & 1;
        const bool up = a - bottom > top - a || (tie && away);
        return sign | (up ? high : low);
    }
    // a * b + c. The product is exact in a long double; the rounding error of the sum is computed by Knuth's two-sum.
    uint64_t fused(uint64_t a, uint64_t b, uint64_t c) const {
        const long double x = value(a) * value(b), y = value(c), sum = x + y, part = sum - x;
        return rounded(sum, std::isfinite(sum) ? (x - (sum - part)) + (y - part) : 0);
    }
};
inline const Format16 kHalf{"f16", half_value, 0x7c00}, kBrain{"bf16", bf16_value, 0x7f80};

}  // namespace emu::test
