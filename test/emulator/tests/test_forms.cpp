// test_forms.cpp - integers, bits, comparisons
#include "forms.h"

using namespace emu;
using namespace emu::test;

TEST_CASE("integer arithmetic", "[forms]") {
    for (const IntType& t : kInts) {
        const int w         = t.bytes;
        const std::string s = std::string(".") + t.name;
        auto v              = [=](uint64_t x) { return value(x, w, t.sign); };
        check({"add" + s, w, w, w, 0}, [=](auto a, auto b, auto) { return uint64_t(v(a) + v(b)); });
        check({"sub" + s, w, w, w, 0}, [=](auto a, auto b, auto) { return uint64_t(v(a) - v(b)); });
        check({"mul.lo" + s, w, w, w, 0}, [=](auto a, auto b, auto) { return a * b; });
        check({"mul.hi" + s, w, w, w, 0}, [=](auto a, auto b, auto) {
            if (w == 8 && !t.sign) return uint64_t((unsigned __int128)(a)*b >> 64);
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
                uint64_t r          = 0;
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

TEST_CASE("carries, lop3, dot products, bit fields, prmt", "[forms]") {
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
    for (const bool sign : {false, true}) {
        const std::string t = sign ? ".s32" : ".u32";
        auto v              = [=](uint64_t x) { return value(x << 8, 4, sign) >> 8; };
        auto high           = [=](uint64_t a, uint64_t b) { return (v(a) * v(b)) >> 16; };
        check({"mul24.hi" + t, 4, 4, 4, 0}, [=](auto a, auto b, auto) { return uint64_t(high(a, b)); });
        check({"mad24.hi" + t, 4, 4, 4, 4}, [=](auto a, auto b, auto c) { return uint64_t(high(a, b)) + c; });
        check({"mad24.lo" + t, 4, 4, 4, 4}, [=](auto a, auto b, auto c) { return uint64_t(v(a) * v(b)) + c; });
        if (!sign) continue;
        check({"mad24.hi.sat" + t, 4, 4, 4, 4}, [=](auto a, auto b, auto c) {
            const i128 sum = i128(int32_t(high(a, b))) + value(c, 4, true);
            return uint64_t(sum > INT_MAX ? INT_MAX : sum < INT_MIN ? INT_MIN : sum);
        });
    }
    for (const bool ors : {false, true})
        for (const bool negated : {false, true})
            for (const std::string d : {"%d", "_"})
                check({"setp.lt.s32 %e, %a, 5;\nmov.b32 %d, 0;\nlop3." + std::string(ors ? "or" : "and") + ".b32 " + d +
                           "|%p, %a, %b, %c, 0x80, " + (negated ? "!" : "") +
                           "%e;\nselp.b32 %t, 0x10000, 0, %p;\nxor.b32 %d, %d, %t",
                       4, 4, 4, 4},
                      [=](auto a, auto b, auto c) {
                          const uint64_t r = a & b & c;
                          const bool q     = (int32_t(a) < 5) != negated;
                          return (d == "_" ? 0 : r) ^ ((ors ? r || q : r && q) ? 0x10000 : 0);
                      });
    check({"mad24.lo.u32", 4, 4, 4, 4}, [](auto a, auto b, auto c) { return (a & 0xffffff) * (b & 0xffffff) + c; });
    check({"mad24.lo.s32", 4, 4, 4, 4}, [](auto a, auto b, auto c) {
        auto low = [](uint64_t v) { return i128(v & 0xffffff) - (v & 0x800000 ? 0x1000000 : 0); };
        return uint64_t(low(a) * low(b)) + c;
    });
    for (const IntType& t : kInts) {
        if (t.bytes == 2) continue;
        auto high = [=](uint64_t a, uint64_t b) {
            if (t.bytes == 8 && !t.sign) return uint64_t((unsigned __int128)(a)*b >> 64);
            return uint64_t(value(a, t.bytes, t.sign) * value(b, t.bytes, t.sign) >> (8 * t.bytes));
        };
        const uint64_t mask = t.bytes == 8 ? ~0ull : 0xffffffff;
        const std::string s = std::string(t.name) + " %d, ";
        check({"mad.hi.cc." + s + "%a, %b, %c", t.bytes, t.bytes, t.bytes, t.bytes},
              [=](auto a, auto b, auto c) { return high(a, b) + c; });
        check({"mad.hi.cc." + s + "%a, %b, %c;\naddc." + s + "0, 0", t.bytes, t.bytes, t.bytes, t.bytes},
              [=](auto a, auto b, auto c) { return uint64_t(((high(a, b) + c) & mask) < c); });
        check({"add.cc.u32 %t, 0, 0;\nmadc.hi." + s + "%a, %b, %c", t.bytes, t.bytes, t.bytes, t.bytes},
              [=](auto a, auto b, auto c) { return high(a, b) + c; });
    }
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
    // The manual's table of prmt's modes has the selected bytes, highest first, for each value of c's lowest two bits.
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
    // For each comparison: whether it holds for a < b, a == b and a > b, and when an operand is NaN.
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
            // The second result is that of the opposite comparison. Both are combined with a third predicate.
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
    check({"slct.ftz.b32.f32", 4, 4, 4, 4, false, false, true}, [](auto a, auto b, auto c) {
        const float x = from_bits<float>(c);
        return x >= 0 || std::fpclassify(x) == FP_SUBNORMAL ? a : b;
    });
    const std::pair<const char*, std::function<bool(float)>> tests[] = {
        {"finite", [](float x) { return std::isfinite(x); }},
        {"infinite", [](float x) { return std::isinf(x); }},
        {"number", [](float x) { return !std::isnan(x); }},
        {"notanumber", [](float x) { return std::isnan(x); }},
        {"normal", [](float x) { return std::isnormal(x) || x == 0; }},  // zeros count as normal
        {"subnormal", [](float x) { return std::fpclassify(x) == FP_SUBNORMAL; }}};
    for (const auto& [name, is] : tests)
        check({std::string("testp.") + name + ".f32 %p, %a;\nselp.u32 %d, 1, 0, %p", 4, 4, 0, 0, true},
              [is = is](auto a, auto, auto) { return is(from_bits<float>(a)); });
}

// The instructions of CUDA's DPX functions, such as __vimax_s16x2_relu.
TEST_CASE("minima with relu, and sums and minima of halves", "[forms]") {
    for (const bool larger : {false, true}) {
        const std::string name = larger ? "max." : "min.";
        auto pick              = [=](uint64_t a, uint64_t b, int bytes, bool sign, bool relu) {
            const i128 x = value(a, bytes, sign), y = value(b, bytes, sign), r = (x < y) == larger ? y : x;
            return uint64_t(relu && r < 0 ? 0 : r);
        };
        check({name + "s32.relu", 4, 4, 4, 0}, [=](auto a, auto b, auto) { return pick(a, b, 4, true, true); });
        for (const std::string type : {"u16x2", "s16x2", "s16x2.relu"})
            check({name + type, 4, 4, 4, 0}, [=](auto a, auto b, auto) {
                auto half = [=](int k) { return pick(a >> k, b >> k, 2, type[0] == 's', type.size() > 5) & 0xffff; };
                return half(16) << 16 | half(0);
            });
    }
    for (const std::string type : {"u16x2", "s16x2"})
        check({"add." + type, 4, 4, 4, 0},
              [](auto a, auto b, auto) { return ((a >> 16) + (b >> 16)) << 16 | ((a + b) & 0xffff); });
}

TEST_CASE("a subtraction without a borrow sets the carry", "[forms]") {
    for (const bool wide : {false, true}) {
        const int bytes     = wide ? 8 : 4;
        const std::string t = wide ? ".u64" : ".u32";
        check({"sub.cc" + t + " %d, %a, %b;\naddc" + t + " %d, 0, 0", bytes, bytes, bytes, 0},
              [=](uint64_t a, uint64_t b, uint64_t) { return uint64_t(a >= b); });
        check({"sub.cc" + t + " %d, %a, %b;\nsubc" + t + " %d, 0, 0", bytes, bytes, bytes, 0},
              [=](uint64_t a, uint64_t b, uint64_t) { return a >= b ? 0 : ~uint64_t(0); });
    }
}

// vadd4.s32.u32.s32.sat and the like. As the manual says, the parts are extracted, combined and clamped, and the
// results are inserted or added up.
TEST_CASE("SIMD video", "[forms]") {
    const std::vector<std::pair<std::string, std::function<i128(i128, i128)>>> ops = {
        {"vadd", [](i128 a, i128 b) { return a + b; }},
        {"vsub", [](i128 a, i128 b) { return a - b; }},
        {"vavrg", [](i128 a, i128 b) { return a + b >= 0 ? (a + b + 1) / 2 : -((-(a + b) + 1) / 2); }},
        {"vabsdiff", [](i128 a, i128 b) { return a < b ? b - a : a - b; }},
        {"vmin", [](i128 a, i128 b) { return a < b ? a : b; }},
        {"vmax", [](i128 a, i128 b) { return a < b ? b : a; }},
        {"vset.lt", [](i128 a, i128 b) { return i128(a < b); }},
        {"vset.ge", [](i128 a, i128 b) { return i128(a >= b); }},
    };
    for (const auto& [name, op] : ops)
        for (const int parts : {2, 4})
            for (const int signs : {0, 1, 2, 3, 4, 5, 6, 7})
                for (const std::string mode : {"", ".sat", ".add"}) {
                    const bool set = name.size() > 4 && name[4] == '.';
                    if (set && (mode == ".sat" || signs & 1)) continue;
                    auto type = [&](int k) { return signs >> k & 1 ? ".s32" : ".u32"; };
                    const std::string form =
                        set ? "vset" + std::to_string(parts) + type(1) + type(2) + name.substr(4) + mode
                            : name + std::to_string(parts) + type(0) + type(1) + type(2) + mode;
                    const int bytes = 4 / parts;
                    check({form, 4, 4, 4, 4}, [&, parts = parts, bytes](uint64_t a, uint64_t b, uint64_t c) {
                        uint64_t d = mode == ".add" ? c : 0;
                        for (int k = 0; k < parts; k++) {
                            auto part = [&](uint64_t x, int sign) {
                                i128 v          = i128(x >> (8 * bytes * k)) % (i128(1) << (8 * bytes));
                                const i128 size = i128(1) << (8 * bytes);
                                return signs >> sign & 1 && v >= size / 2 ? v - size : v;
                            };
                            i128 r         = op(part(a, 1), part(b, 2));
                            const i128 top = (i128(1) << (8 * bytes - (signs & 1))) - 1;
                            const i128 low = signs & 1 ? -top - 1 : 0;
                            if (mode == ".sat") r = r < low ? low : r > top ? top : r;
                            if (mode == ".add") d += uint64_t(r);
                            else d |= (uint64_t(r) & ((1ull << (8 * bytes)) - 1)) << (8 * bytes * k);
                        }
                        return d;
                    });
                }
}

TEST_CASE("alloca gives each call its own memory, and stackrestore gives it back", "[forms]") {
    check({".reg .b64 %s, %p1, %p2, %n;\ncvt.u64.u32 %n, 24;\nstacksave.u64 %s;\nalloca.u64 %p1, %n, 16;\n"
           "alloca.u64 %p2, %n;\nst.local.b32 [%p1+20], %a;\nst.local.b32 [%p2], %b;\nld.local.b32 %d, [%p1+20];\n"
           "ld.local.b32 %t, [%p2];\nsub.u32 %d, %d, %t;\nstackrestore.u64 %s;\nalloca.u64 %p2, %n, 16;\n"
           "sub.u64 %p1, %p1, %p2;\ncvt.u32.u64 %t, %p1;\nadd.u32 %d, %d, %t",
           4, 4, 4, 0},
          [](uint64_t a, uint64_t b, uint64_t) { return uint64_t(uint32_t(a - b)); });
}

TEST_CASE("bytes and vectors are packed and taken apart", "[forms]") {
    const std::string bytes = "{.reg .b8 a0, a1, a2, a3;\n.reg .b16 h;\n";
    check({bytes + "mov.b32 {a0, a1, a2, a3}, %a;\nmov.b32 %d, {a3, a2, a1, a0};}", 4, 4, 0, 0},
          [](auto a, auto, auto) { return __builtin_bswap32(uint32_t(a)); });
    check({bytes + "mov.b16 {a0, _}, %a;\nmov.b16 {_, a1}, %b;\nmov.b16 %d, {a1, a0};}", 2, 2, 2, 0},
          [](auto a, auto b, auto) { return (a & 255) << 8 | b >> 8; });
    check({"mov.b32 %t, %a;\nmov.b32 %u, %b;\nmov.v2.b32 {%t, %u}, {%u, %t};\nshl.b32 %t, %t, 1;\nadd.u32 %d, %t, %u",
           4, 4, 4, 0},
          [](auto a, auto b, auto) { return 2 * b + a; });
    check({"{.reg .b32 x, y, z, w;\nmov.v4.b32 {x, y, z, w}, {%a, %b, 3, %a};\nadd.u32 %d, x, y;\n"
           "add.u32 %d, %d, z;\nadd.u32 %d, %d, w;}",
           4, 4, 4, 0},
          [](auto a, auto b, auto) { return 2 * a + b + 3; });
    // The parts of a vector register are registers.
    check(
        {"{.reg .v2 .b32 v, %w;\nmov.b64 v, %a;\nmov.b32 %w.x, v.y;\nmov.b32 %w.y, v.x;\nmov.b64 %d, %w;}", 8, 8, 0, 0},
        [](auto a, auto, auto) { return a >> 32 | a << 32; });
    check({"{.reg .v4 .b16 v;\nmov.b64 {v.x, v.y, v.z, v.w}, %a;\nmov.b64 %d, v;}", 8, 8, 0, 0},
          [](auto a, auto, auto) { return a; });
}
