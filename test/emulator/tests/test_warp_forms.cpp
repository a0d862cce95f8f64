// test_warp_forms.cpp - what lanes do together, matrix fragments and atomics, against scalar references
//
// References follow the formulas of the PTX manual element by element. Every case runs on many warps at once, a warp
// per block. Matrices hold small integers: every format has them, and every order of summation gives the same.
#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "catch.h"
#include "ptx_program.h"

using namespace emu;
using namespace emu::test;

namespace {

constexpr uint32_t kUntouched = 0xdeadbeef;
using Planes                  = std::vector<std::vector<uint64_t>>;  // [value][thread]

std::mt19937_64& random_bits() {
    static std::mt19937_64 r(4711);
    return r;
}
uint64_t bits_in(int bytes, uint64_t v) { return bytes == 8 ? v : v & ((1ull << (8 * bytes)) - 1); }
std::string number(size_t n) { return std::to_string(n); }

// Runs `body` in every lane. Value k of the inputs is in %w<k> (64 bits), %x<k> (32), %h<k> (16) and %q<k> (nonzero);
// %y<k> (`wide`: %z<k>, 64 bits) are the outputs. %p and %pr<4> are free predicates, `tile` is shared memory, %tile its
// address there, %cell the address of the thread's word of output 0.
Planes run_lanes(const std::string& body, const Planes& in, size_t outputs, bool wide = false) {
    const size_t n = in[0].size(), inputs = in.size();
    std::string text =
        ".version 8.7\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 from, .param .u64 to)\n{\n"
        ".reg .pred %p, %pr<4>, %q<" +
        number(inputs) + ">;\n.reg .b16 %h<" + number(inputs) + ">, %s<4>;\n.reg .b32 %x<" + number(inputs) +
        ">, %lane, %cta, %i, %tile, %at, %t<4>, %y<" + number(outputs) + ">;\n.reg .b64 %w<" + number(inputs) +
        ">, %from, %cell, %o, %a, %z<" + number(outputs) +
        ">;\n.shared .align 16 .b8 tile[8192];\nmov.u32 %lane, %tid.x;\nmov.u32 %cta, %ctaid.x;\n"
        "mad.lo.s32 %i, %cta, 32, %lane;\nmov.u32 %tile, tile;\nmul.wide.u32 %o, %i, 8;\n"
        "ld.param.u64 %from, [from];\nadd.u64 %from, %from, %o;\nld.param.u64 %cell, [to];\nadd.u64 %cell, %cell, "
        "%o;\n";
    for (size_t k = 0; k < inputs; k++) {
        const std::string s = number(k);
        text += "ld.global.b64 %w" + s + ", [%from+" + number(k * n * 8) + "];\ncvt.u32.u64 %x" + s + ", %w" + s +
                ";\ncvt.u16.u64 %h" + s + ", %w" + s + ";\nsetp.ne.u32 %q" + s + ", %x" + s + ", 0;\n";
    }
    for (size_t k = 0; k < outputs; k++)
        text += "mov.b32 %y" + number(k) + ", 0xdeadbeef;\nmov.b64 %z" + number(k) + ", 0;\n";
    text += body;
    for (size_t k = 0; k < outputs; k++) {
        const std::string s = number(k);
        if (!wide) text += "cvt.u64.u32 %z" + s + ", %y" + s + ";\n";
        text += "st.global.b64 [%cell+" + number(k * n * 8) + "], %z" + s + ";\n";
    }
    text += "ret;\n}\n";
    std::vector<uint64_t> flat;
    for (const auto& plane : in) flat.insert(flat.end(), plane.begin(), plane.end());
    DeviceArray<uint64_t> from(flat), to(outputs * n);
    INFO(body);
    const LaunchResult r = run(load_kernel(text, "k"), {uint32_t(n / 32), 1, 1}, {32, 1, 1}, from.address, to.address);
    REQUIRE(r.message == "");
    Planes out(outputs, std::vector<uint64_t>(n));
    for (size_t k = 0; k < outputs; k++)
        for (size_t t = 0; t < n; t++) out[k][t] = to[k * n + t];
    return out;
}

void same_or_fail(const std::string& what, size_t thread, uint64_t got, uint64_t want) {
    if (got == want) return;
    std::ostringstream s;
    s << what << ", warp " << thread / 32 << ", lane " << thread % 32 << std::hex << ": got " << got << " want "
      << want;
    FAIL(s.str());
}

// Member masks for all warps: each lane's own set, of one to three that divide the warp.
std::vector<uint64_t> random_sets(size_t warps) {
    std::vector<uint64_t> sets(warps * 32);
    for (size_t w = 0; w < warps; w++) {
        const uint32_t first = w == 0 ? ~0u : uint32_t(random_bits()()), second = ~first & uint32_t(random_bits()());
        for (size_t l = 0; l < 32; l++)
            sets[w * 32 + l] = first >> l & 1 ? first : second >> l & 1 ? second : ~(first | second);
    }
    return sets;
}

}  // namespace

TEST_CASE("shfl", "[warp]") {
    const size_t warps = 64, n = warps * 32;
    Planes in(3, std::vector<uint64_t>(n));
    for (size_t t = 0; t < n; t++) {
        in[0][t] = uint32_t(random_bits()());
        in[1][t] = random_bits()() & 63;
        in[2][t] = random_bits()() & 0x1f1f;
    }
    for (const std::string mode : {"up", "down", "bfly", "idx"}) {
        const Planes out = run_lanes("shfl.sync." + mode +
                                         ".b32 %y0|%p, %x0, %x1, %x2, -1;\nselp.u32 %y1, 1, 0, %p;\n"
                                         "shfl.sync." +
                                         mode + ".b32 %y2, %x0, %x1, %x2, -1;\n",
                                     in, 3);
        for (size_t t = 0; t < n; t++) {
            const int lane = int(t % 32), b = int(in[1][t] & 31), clamp = int(in[2][t] & 31), mask = int(in[2][t] >> 8);
            const int top = (lane & mask) | (clamp & ~mask), bottom = lane & mask;
            const int j  = mode == "up"     ? lane - b
                           : mode == "down" ? lane + b
                           : mode == "bfly" ? lane ^ b
                                            : bottom | (b & ~mask);
            const bool p = mode == "up" ? j >= top : j <= top;
            same_or_fail("shfl." + mode, t, out[0][t], in[0][t - size_t(lane) + size_t(p ? j : lane)]);
            same_or_fail("shfl." + mode + "'s predicate", t, out[1][t], p);
            same_or_fail("shfl." + mode + " without predicate", t, out[2][t], out[0][t]);
        }
    }
    // Segments of a width, as the C functions of CUDA see them: the neighbours inside the segment, or oneself.
    for (int width : {1, 2, 4, 8, 16, 32})
        for (int by : {0, 1, 3, 8, 31}) {
            const std::string c = number(size_t((32 - width) << 8)), down = number(size_t((32 - width) << 8 | 31)),
                              d = number(size_t(by));
            const Planes out =
                run_lanes("shfl.sync.up.b32 %y0, %x0, " + d + ", " + c + ", -1;\nshfl.sync.down.b32 %y1, %x0, " + d +
                              ", " + down + ", -1;\nshfl.sync.bfly.b32 %y2, %x0, " + d + ", " + down +
                              ", -1;\nshfl.sync.idx.b32 %y3, %x0, " + d + ", " + down + ", -1;\n",
                          in, 4);
            for (size_t t = 0; t < n; t++) {
                const int lane = int(t % 32), start = lane / width * width, end = start + width;
                auto at = [&](int from) { return in[0][t - size_t(lane) + size_t(from)]; };
                same_or_fail("__shfl_up_sync", t, out[0][t], at(lane - by >= start ? lane - by : lane));
                same_or_fail("__shfl_down_sync", t, out[1][t], at(lane + by < end ? lane + by : lane));
                same_or_fail("__shfl_xor_sync", t, out[2][t], at((lane ^ by) < end ? lane ^ by : lane));
                same_or_fail("__shfl_sync", t, out[3][t], at(start + by % width));
            }
        }
}

TEST_CASE("shfl, vote and activemask in a branch", "[warp]") {
    const size_t warps = 64, n = warps * 32;
    Planes in(4, std::vector<uint64_t>(n));  // value, source lane, whether it goes in, the set that does
    for (size_t w = 0; w < warps; w++) {
        const uint32_t set = uint32_t(random_bits()()) | 1u << (w % 32);
        for (size_t l = 0; l < 32; l++) {
            const size_t t = w * 32 + l;
            uint64_t from  = random_bits()() % 32;
            while (!(set >> from & 1)) from = (from + 1) % 32;
            in[0][t] = uint32_t(random_bits()()), in[1][t] = from, in[2][t] = set >> l & 1, in[3][t] = set;
        }
    }
    const Planes out = run_lanes(
        "@!%q2 bra OUT;\nactivemask.b32 %y0;\nshfl.sync.idx.b32 %y1, %x0, %x1, 0x1f, %x3;\n"
        "and.b32 %t0, %x0, 1;\nsetp.ne.u32 %p, %t0, 0;\nvote.sync.ballot.b32 %y2, %p, %x3;\n"
        "vote.sync.ballot.b32 %y3, !%p, %x3;\nOUT:\n",
        in, 4);
    for (size_t t = 0; t < n; t++) {
        const bool inside = in[2][t];
        const size_t warp = t / 32 * 32;
        uint32_t odd      = 0;
        for (size_t l = 0; l < 32; l++) odd |= uint32_t(in[0][warp + l] & 1) << l;
        same_or_fail("activemask", t, out[0][t], inside ? in[3][t] : kUntouched);
        same_or_fail("shfl.idx of some lanes", t, out[1][t], inside ? in[0][warp + in[1][t]] : kUntouched);
        same_or_fail("ballot of some lanes", t, out[2][t], inside ? odd & in[3][t] : kUntouched);
        same_or_fail("ballot of a negation", t, out[3][t], inside ? ~odd & in[3][t] : kUntouched);
    }
}

TEST_CASE("vote, match and redux in sets of lanes", "[warp]") {
    const size_t warps = 96, n = warps * 32;
    Planes in(3, std::vector<uint64_t>(n));  // value, members, predicate
    in[1] = random_sets(warps);
    for (size_t t = 0; t < n; t++) {
        const uint64_t r = random_bits()();
        in[0][t]         = t / 32 % 3 == 0 ? r : t / 32 % 3 == 1 ? (r % 3) << 32 | (r >> 8) % 3 : 0x0700000007;
        in[2][t]         = t / 32 % 4 == 0 ? 1 : t / 32 % 4 == 1 ? 0 : r >> 20 & 1;
    }
    auto check_sets = [&](const std::string& body,
                          const std::vector<std::function<uint64_t(const std::vector<size_t>&, size_t)>>& want) {
        const Planes out = run_lanes(body, in, want.size());
        for (size_t t = 0; t < n; t++) {
            std::vector<size_t> set;
            for (size_t l = 0; l < 32; l++)
                if (in[1][t] >> l & 1) set.push_back(t / 32 * 32 + l);
            for (size_t k = 0; k < want.size(); k++)
                same_or_fail(body + "result " + number(k), t, out[k][t], uint32_t(want[k](set, t)));
        }
    };
    using Set = const std::vector<size_t>&;
    auto yes  = [&](Set s) { return std::count_if(s.begin(), s.end(), [&](size_t t) { return in[2][t] != 0; }); };
    check_sets(
        "vote.sync.all.pred %pr0, %q2, %x1;\nvote.sync.any.pred %pr1, %q2, %x1;\nvote.sync.uni.pred %pr2, %q2, %x1;\n"
        "vote.sync.all.pred %pr3, !%q2, %x1;\nselp.u32 %y0, 1, 0, %pr0;\nselp.u32 %y1, 1, 0, %pr1;\n"
        "selp.u32 %y2, 1, 0, %pr2;\nselp.u32 %y3, 1, 0, %pr3;\nvote.sync.ballot.b32 %y4, %q2, %x1;\n",
        {[&](Set s, size_t) { return yes(s) == long(s.size()); }, [&](Set s, size_t) { return yes(s) > 0; },
         [&](Set s, size_t) { return yes(s) == 0 || yes(s) == long(s.size()); },
         [&](Set s, size_t) { return yes(s) == 0; },
         [&](Set s, size_t) {
             uint64_t m = 0;
             for (size_t t : s) m |= in[2][t] << t % 32;
             return m;
         }});
    for (const bool wide : {false, true}) {
        auto value = [&in, wide](size_t t) { return wide ? in[0][t] : uint32_t(in[0][t]); };
        auto same  = [=](Set s, size_t t) {
            uint64_t m = 0;
            for (size_t o : s) m |= uint64_t(value(o) == value(t)) << o % 32;
            return m;
        };
        const std::string type = wide ? "b64" : "b32", x = wide ? "%w0" : "%x0";
        check_sets("match.any.sync." + type + " %y0, " + x + ", %x1;\nmatch.all.sync." + type + " %y1|%p, " + x +
                       ", %x1;\nselp.u32 %y2, 1, 0, %p;\n",
                   {same, [&](Set s, size_t t) { return same(s, t) == in[1][t] ? in[1][t] : 0; },
                    [&](Set s, size_t t) { return same(s, t) == in[1][t]; }});
    }
    auto folded = [&](auto zero, auto f) {
        return [&in, zero, f](Set s, size_t) {
            auto v = decltype(zero)(in[0][s[0]]);
            for (size_t k = 1; k < s.size(); k++) v = f(v, decltype(zero)(in[0][s[k]]));
            return uint64_t(uint32_t(v));
        };
    };
    auto low = [](auto a, auto b) { return a < b ? a : b; };
    auto top = [](auto a, auto b) { return a < b ? b : a; };
    check_sets(
        "redux.sync.add.u32 %y0, %x0, %x1;\nredux.sync.add.s32 %y1, %x0, %x1;\nredux.sync.min.u32 %y2, %x0, %x1;\n"
        "redux.sync.min.s32 %y3, %x0, %x1;\nredux.sync.max.u32 %y4, %x0, %x1;\nredux.sync.max.s32 %y5, %x0, %x1;\n"
        "redux.sync.and.b32 %y6, %x0, %x1;\nredux.sync.or.b32 %y7, %x0, %x1;\nredux.sync.xor.b32 %y8, %x0, %x1;\n",
        {folded(0u, std::plus<>()), folded(0u, std::plus<>()), folded(0u, low), folded(0, low), folded(0u, top),
         folded(0, top), folded(0u, std::bit_and<>()), folded(0u, std::bit_or<>()), folded(0u, std::bit_xor<>())});
}

// --- matrix fragments ------------------------------------------------------------------------------------------------

namespace {

struct Place {
    int row, column;
};
// A lane's element i, with g = lane / 4 and t = lane % 4: the manual's formulas for each shape.
using Layout = Place (*)(int i, int g, int t);
enum Number { kF16, kBf16, kTf32, kF64, kS8, kU8, kE4m3, kE5m2, kF32, kS32 };
struct NumberFormat {
    const char* name;
    int bytes, least, most;
};
const NumberFormat kFormats[] = {{"f16", 2, -8, 8},    {"bf16", 2, -8, 8}, {"tf32", 4, -8, 8}, {"f64", 8, -99, 99},
                                 {"s8", 1, -128, 127}, {"u8", 1, 0, 255},  {"e4m3", 1, -2, 2}, {"e5m2", 1, -2, 2},
                                 {"f32", 4, -99, 99},  {"s32", 4, -99, 99}};

uint64_t encoded(int value, Number as) {
    auto small = [&](int exponent_bits, int mantissa_bits) {  // a float of these widths, from its definition
        if (value == 0) return uint64_t(0);
        int a = std::abs(value), e = 0;
        while (a >> (e + 1)) e++;
        const uint64_t fraction = (uint64_t(a) << (mantissa_bits - e)) - (1ull << mantissa_bits);
        return uint64_t(value < 0) << (exponent_bits + mantissa_bits) |
               uint64_t(e + (1 << (exponent_bits - 1)) - 1) << mantissa_bits | fraction;
    };
    switch (as) {
        case kF16:
            return small(5, 10);
        case kBf16:
            return small(8, 7);
        case kTf32:
        case kF32:
            return small(8, 23);
        case kF64:
            return small(11, 52);
        case kE4m3:
            return small(4, 3);
        case kE5m2:
            return small(5, 2);
        case kS32:
            return uint32_t(value);
        default:
            return uint8_t(value);
    }
}

struct Mma {
    const char* shape;
    int m, n, k, elements_a, elements_b;  // elements a lane holds
    Layout a, b;
    std::vector<std::array<Number, 4>> types;      // d a b c
    std::array<const char*, 2> around = {"", ""};  // what stands before and behind the types
};

Place c_of(int i, int g, int t) { return {i < 2 ? g : g + 8, t * 2 + (i & 1)}; }

const Mma kMma[] = {
    {"m16n8k8",
     16,
     8,
     8,
     4,
     2,
     [](int i, int g, int t) {
         return Place{i < 2 ? g : g + 8, t * 2 + (i & 1)};
     },
     [](int i, int g, int t) {
         return Place{t * 2 + i, g};
     },
     {{kF32, kF16, kF16, kF32}, {kF16, kF16, kF16, kF16}, {kF32, kBf16, kBf16, kF32}}},
    {"m16n8k16",
     16,
     8,
     16,
     8,
     4,
     [](int i, int g, int t) {
         return Place{i < 2 || (i >= 4 && i < 6) ? g : g + 8, t * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
     },
     [](int i, int g, int t) {
         return Place{t * 2 + (i & 1) + (i >= 2 ? 8 : 0), g};
     },
     {{kF32, kF16, kF16, kF32}, {kF16, kF16, kF16, kF16}, {kF32, kBf16, kBf16, kF32}}},
    {"m16n8k4",
     16,
     8,
     4,
     2,
     1,
     [](int i, int g, int t) {
         return Place{i == 0 ? g : g + 8, t};
     },
     [](int, int g, int t) {
         return Place{t, g};
     },
     {{kF32, kTf32, kTf32, kF32}, {kF64, kF64, kF64, kF64}}},
    {"m16n8k8",
     16,
     8,
     8,
     4,
     2,
     [](int i, int g, int t) {
         return Place{i == 0 || i == 2 ? g : g + 8, i < 2 ? t : t + 4};
     },
     [](int i, int g, int t) {
         return Place{i == 0 ? t : t + 4, g};
     },
     {{kF32, kTf32, kTf32, kF32}, {kF64, kF64, kF64, kF64}}},
    {"m16n8k16",
     16,
     8,
     16,
     8,
     4,
     [](int i, int g, int t) {
         return Place{i % 2 == 0 ? g : g + 8, i % 2 == 0 ? i * 2 + t : i * 2 - 2 + t};
     },
     [](int i, int g, int t) {
         return Place{t + i * 4, g};
     },
     {{kF64, kF64, kF64, kF64}}},
    {"m8n8k4",
     8,
     8,
     4,
     1,
     1,
     [](int, int g, int t) {
         return Place{g, t};
     },
     [](int, int g, int t) {
         return Place{t, g};
     },
     {{kF64, kF64, kF64, kF64}}},
    {"m8n8k16",
     8,
     8,
     16,
     4,
     4,
     [](int i, int g, int t) {
         return Place{g, t * 4 + i};
     },
     [](int i, int g, int t) {
         return Place{t * 4 + i, g};
     },
     {{kS32, kS8, kS8, kS32}, {kS32, kU8, kU8, kS32}}},
    {"m16n8k16",
     16,
     8,
     16,
     8,
     4,
     [](int i, int g, int t) {
         return Place{i < 4 ? g : g + 8, t * 4 + (i & 3)};
     },
     [](int i, int g, int t) {
         return Place{t * 4 + i, g};
     },
     {{kS32, kS8, kS8, kS32}, {kS32, kU8, kU8, kS32}, {kS32, kS8, kU8, kS32}, {kS32, kU8, kS8, kS32}}},
    {"m16n8k32",
     16,
     8,
     32,
     16,
     8,
     [](int i, int g, int t) {
         return Place{i < 4 || (i >= 8 && i < 12) ? g : g + 8, t * 4 + (i & 3) + (i >= 8 ? 16 : 0)};
     },
     [](int i, int g, int t) {
         return Place{t * 4 + (i & 3) + (i >= 4 ? 16 : 0), g};
     },
     {{kS32, kS8, kS8, kS32},
      {kS32, kU8, kU8, kS32},
      {kS32, kS8, kU8, kS32},
      {kS32, kU8, kS8, kS32},
      {kF32, kE4m3, kE4m3, kF32},
      {kF32, kE5m2, kE4m3, kF32},
      {kF16, kE4m3, kE5m2, kF16}}},
};

// Registers of a fragment: elements side by side from the low end.
int element_bytes(Number x) { return kFormats[x].bytes; }
int registers(int elements, Number x) { return x == kF64 ? elements : elements * element_bytes(x) / 4; }

std::string braces(const char* prefix, int first, int count) {
    std::string s;
    for (int k = 0; k < count; k++) s += (k ? ", " : "") + (prefix + number(size_t(first + k)));
    return "{" + s + "}";
}

}  // namespace

TEST_CASE("mma fragments", "[warp]") {
    const size_t warps = 4;
    for (const Mma& s : kMma)
        for (const auto& [td, ta, tb, tc] : s.types) {
            const int elements_c = s.m / 4, ra = registers(s.elements_a, ta), rb = registers(s.elements_b, tb),
                      rc = registers(elements_c, tc);
            Planes in(size_t(ra + rb + rc), std::vector<uint64_t>(warps * 32, 0));
            std::vector<std::vector<int>> a(warps), b(warps), c(warps);
            auto fill = [&](std::vector<int>& matrix, int rows, int columns, Number as, size_t warp, int first,
                            int elements, auto place) {
                matrix.resize(size_t(rows * columns));
                const NumberFormat& f = kFormats[as];
                for (int& v : matrix) v = f.least + int(random_bits()() % uint64_t(f.most - f.least + 1));
                const int each = std::max(1, 4 / f.bytes);
                for (int l = 0; l < 32; l++)
                    for (int i = 0; i < elements; i++) {
                        const Place p = place(i, l / 4, l % 4);
                        in[size_t(first + i / each)][warp * 32 + size_t(l)] |=
                            encoded(matrix[size_t(p.row * columns + p.column)], as) << (i % each * f.bytes * 8);
                    }
            };
            for (size_t w = 0; w < warps; w++) {
                fill(a[w], s.m, s.k, ta, w, 0, s.elements_a, s.a);
                fill(b[w], s.k, s.n, tb, w, ra, s.elements_b, s.b);
                fill(c[w], s.m, s.n, tc, w, ra + rb, elements_c, c_of);
            }
            const bool wide        = td == kF64;
            const char* from       = wide ? "%w" : "%x";
            auto name              = [](Number x) { return std::string(".") + kFormats[x].name; };
            const std::string text = std::string("mma.sync.aligned.") + s.shape + ".row.col" + name(td) + name(ta) +
                                     name(tb) + name(tc) + " " + braces(wide ? "%z" : "%y", 0, rc) + ", " +
                                     braces(from, 0, ra) + ", " + braces(from, ra, rb) + ", " +
                                     braces(from, ra + rb, rc) + ";\n";
            const Planes out = run_lanes(text, in, size_t(rc), wide);
            const int each   = std::max(1, 4 / element_bytes(td));
            for (size_t w = 0; w < warps; w++)
                for (int l = 0; l < 32; l++)
                    for (int i = 0; i < elements_c; i++) {
                        const Place p = c_of(i, l / 4, l % 4);
                        int sum       = c[w][size_t(p.row * s.n + p.column)];
                        for (int k = 0; k < s.k; k++)
                            sum += a[w][size_t(p.row * s.k + k)] * b[w][size_t(k * s.n + p.column)];
                        const uint64_t got =
                            out[size_t(i / each)][w * 32 + size_t(l)] >> (i % each * element_bytes(td) * 8);
                        same_or_fail(text, w * 32 + size_t(l), bits_in(element_bytes(td), got), encoded(sum, td));
                    }
        }
}

// A in the first quarter of the tile, B in the second, C and then D in the third; each with room between its rows.
TEST_CASE("wmma", "[warp]") {
    struct Wmma {
        int m, n, k;
        Number d, ab, c;
        int regs_a, regs_b, regs_c, regs_d;
    };
    const Wmma all[] = {{16, 16, 16, kF32, kF16, kF32, 8, 8, 8, 8}, {16, 16, 16, kF16, kF16, kF16, 8, 8, 4, 4},
                        {16, 16, 16, kF16, kF16, kF32, 8, 8, 8, 4}, {32, 8, 16, kF32, kF16, kF32, 8, 8, 8, 8},
                        {8, 32, 16, kF32, kF16, kF32, 8, 8, 8, 8},  {16, 16, 16, kF32, kBf16, kF32, 4, 4, 8, 8},
                        {32, 8, 16, kF32, kBf16, kF32, 8, 2, 8, 8}, {8, 32, 16, kF32, kBf16, kF32, 2, 8, 8, 8},
                        {16, 16, 8, kF32, kTf32, kF32, 4, 4, 8, 8}, {8, 8, 4, kF64, kF64, kF64, 1, 1, 2, 2},
                        {16, 16, 16, kS32, kS8, kS32, 2, 2, 8, 8},  {16, 16, 16, kS32, kU8, kS32, 2, 2, 8, 8},
                        {32, 8, 16, kS32, kS8, kS32, 4, 1, 8, 8},   {8, 32, 16, kS32, kU8, kS32, 1, 4, 8, 8}};
    for (const Wmma& s : all)
        for (const std::string la : {"row", "col"})
            for (const std::string lb : {"row", "col"}) {
                const std::string lc = la == lb ? "row" : "col";
                std::vector<uint8_t> tile(8192, 0);
                auto pitch = [](int rows, int columns, const std::string& layout, Number as) {
                    return (layout == "row" ? columns : rows) + 16 / element_bytes(as);
                };
                auto at = [&](int r, int c, int rows, int columns, const std::string& layout, Number as) {
                    const int step = pitch(rows, columns, layout, as);
                    return size_t((layout == "row" ? r * step + c : c * step + r) * element_bytes(as));
                };
                auto fill = [&](size_t base, int rows, int columns, const std::string& layout, Number as) {
                    std::vector<int> matrix;
                    const NumberFormat& f = kFormats[as];
                    for (int i = 0; i < rows * columns; i++) {
                        matrix.push_back(f.least + int(random_bits()() % uint64_t(f.most - f.least + 1)));
                        const uint64_t v = encoded(matrix.back(), as);
                        std::memcpy(&tile[base + at(i / columns, i % columns, rows, columns, layout, as)], &v,
                                    size_t(f.bytes));
                    }
                    return matrix;
                };
                const std::vector<int> a = fill(0, s.m, s.k, la, s.ab), b = fill(2048, s.k, s.n, lb, s.ab),
                                       c = fill(4096, s.m, s.n, lc, s.c);
                Planes in(32, std::vector<uint64_t>(32));
                for (size_t k = 0; k < 32; k++) std::memcpy(in[k].data(), &tile[k * 256], 256);
                const std::string shape = ".m" + number(size_t(s.m)) + "n" + number(size_t(s.n)) + "k" +
                                          number(size_t(s.k)),
                                  reg = s.d == kF64 ? ".b64" : ".b32";
                auto name             = [](Number x) { return std::string(".") + kFormats[x].name; };
                auto step             = [&](int rows, int columns, const std::string& layout, Number as) {
                    return ", " + number(size_t(pitch(rows, columns, layout, as))) + ";\n";
                };
                std::string body =
                    "mad.lo.s32 %at, %lane, 8, %tile;\n.reg " + reg + " %fa<8>, %fb<8>, %fc<8>, %fd<8>;\n";
                for (size_t k = 0; k < 32; k++)
                    body += "st.shared.b64 [%at+" + number(k * 256) + "], %w" + number(k) + ";\n";
                body += "bar.sync 0;\nwmma.load.a.sync.aligned." + la + shape + ".shared" + name(s.ab) + " " +
                        braces("%fa", 0, s.regs_a) + ", [%tile]" + step(s.m, s.k, la, s.ab);
                body += "wmma.load.b.sync.aligned." + lb + shape + ".shared" + name(s.ab) + " " +
                        braces("%fb", 0, s.regs_b) + ", [%tile+2048]" + step(s.k, s.n, lb, s.ab);
                body += "wmma.load.c.sync.aligned." + lc + shape + ".shared" + name(s.c) + " " +
                        braces("%fc", 0, s.regs_c) + ", [%tile+4096]" + step(s.m, s.n, lc, s.c);
                const std::string types =
                    s.ab == kF16 ? name(s.d) + name(s.c) : name(s.d) + name(s.ab) + name(s.ab) + name(s.c);
                body += "wmma.mma.sync.aligned." + la + "." + lb + shape + types + " " + braces("%fd", 0, s.regs_d) +
                        ", " + braces("%fa", 0, s.regs_a) + ", " + braces("%fb", 0, s.regs_b) + ", " +
                        braces("%fc", 0, s.regs_c) + ";\n";
                body += "bar.sync 0;\nwmma.store.d.sync.aligned." + lc + shape + ".shared" + name(s.d) +
                        " [%tile+4096], " + braces("%fd", 0, s.regs_d) + step(s.m, s.n, lc, s.d) + "bar.sync 0;\n";
                for (size_t k = 0; k < 8; k++)
                    body += "ld.shared.b64 %z" + number(k) + ", [%at+" + number(4096 + k * 256) + "];\n";
                const Planes out = run_lanes(body, in, 8, true);
                std::vector<uint8_t> d(2048);
                for (size_t k = 0; k < 8; k++) std::memcpy(&d[k * 256], out[k].data(), 256);
                for (int i = 0; i < s.m * s.n; i++) {
                    int sum = c[size_t(i)];
                    for (int k = 0; k < s.k; k++) sum += a[size_t(i / s.n * s.k + k)] * b[size_t(k * s.n + i % s.n)];
                    uint64_t got = 0;
                    std::memcpy(&got, &d[at(i / s.n, i % s.n, s.m, s.n, lc, s.d)], size_t(element_bytes(s.d)));
                    same_or_fail("wmma " + la + " " + lb + shape + types + ", element " + number(size_t(i)), 0, got,
                                 encoded(sum, s.d));
                }
            }
}

TEST_CASE("ldmatrix, stmatrix and movmatrix", "[warp]") {
    const size_t warps = 8, n = warps * 32;
    Planes in(6, std::vector<uint64_t>(n));  // two planes: 16 bytes of shared memory; the row's address; registers
    for (size_t w = 0; w < warps; w++) {
        std::vector<uint64_t> rows(32);
        for (size_t l = 0; l < 32; l++) rows[l] = l * 16;
        std::shuffle(rows.begin(), rows.end(), random_bits());
        for (size_t l = 0; l < 32; l++) {
            in[2][w * 32 + l] = rows[l];
            for (size_t k : {0, 1, 3, 4, 5}) in[k][w * 32 + l] = random_bits()();
        }
    }
    const std::string fill = "mad.lo.s32 %at, %lane, 16, %tile;\nst.shared.v2.b64 [%at], {%w0, %w1};\nbar.sync 0;\n";
    const std::string row  = "add.u32 %t0, %tile, %x2;\n";
    // Half-word h of slot `at` bytes into the tile, as filled.
    auto tile              = [&](size_t warp, uint64_t at, int h) {
        return uint16_t(in[size_t(h / 4)][warp * 32 + at / 16] >> (h % 4 * 16));
    };
    for (int count : {1, 2, 4})
        for (const bool trans : {false, true}) {
            const std::string form =
                ".sync.aligned.m8n8.x" + number(size_t(count)) + (trans ? ".trans" : "") + ".shared.b16 ";
            const Planes out =
                run_lanes(fill + row + "ldmatrix" + form + braces("%y", 0, count) + ", [%t0];\n", in, size_t(count));
            for (size_t t = 0; t < n; t++)
                for (int j = 0; j < count; j++) {
                    const size_t warp = t / 32, lane = t % 32;
                    auto element = [&](size_t r, size_t c) {
                        return tile(warp, in[2][warp * 32 + size_t(j) * 8 + r], int(c));
                    };
                    const size_t g = lane / 4, e = lane % 4 * 2;
                    const uint32_t want = trans ? element(e, g) | uint32_t(element(e + 1, g)) << 16
                                                : element(g, e) | uint32_t(element(g, e + 1)) << 16;
                    same_or_fail("ldmatrix" + form, t, out[size_t(j)][t], want);
                }
            const Planes stored = run_lanes(fill + row + "stmatrix" + form + "[%t0], " +
                                                (count == 4   ? "{%x0, %x3, %x4, %x5}"
                                                 : count == 2 ? "{%x0, %x3}"
                                                              : "{%x0}") +
                                                ";\nbar.sync 0;\nld.shared.v4.b32 {%y0, %y1, %y2, %y3}, [%at];\n",
                                            in, 4);
            const size_t regs[] = {0, 3, 4, 5};
            for (size_t w = 0; w < warps; w++)
                for (size_t l = 0; l < 32; l++) {  // row l % 8 of matrix l / 8 lies at the address that lane l gave
                    const uint64_t at = in[2][w * 32 + l];
                    for (size_t c = 0; c < 8; c++) {
                        const size_t r = l % 8, holder = trans ? c * 4 + r / 2 : r * 4 + c / 2,
                                     half   = trans ? r % 2 : c % 2;
                        const uint16_t want = l / 8 < size_t(count)
                                                  ? uint16_t(in[regs[l / 8]][w * 32 + holder] >> (16 * half))
                                                  : tile(w, at, int(c));
                        same_or_fail("stmatrix" + form, w * 32 + l,
                                     uint16_t(stored[c / 2][w * 32 + at / 16] >> (c % 2 * 16)), want);
                    }
                }
        }
    const Planes moved = run_lanes("movmatrix.sync.aligned.m8n8.trans.b16 %y0, %x0;\n", in, 1);
    for (size_t t = 0; t < n; t++) {
        const size_t warp = t / 32 * 32, g = t % 32 / 4, e = t % 4 * 2;
        auto element = [&](size_t r, size_t c) {
            return uint32_t(in[0][warp + r * 4 + c / 2] >> (c % 2 * 16) & 0xffff);
        };
        same_or_fail("movmatrix", t, moved[0][t], element(e, g) | element(e + 1, g) << 16);
    }
}

// --- atomics ---------------------------------------------------------------------------------------------------------

namespace {

float float_of(uint64_t v) {
    const uint32_t u = uint32_t(v);
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
uint64_t bits_of_float(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    return u;
}
// Global memory adds floats with subnormals as zeros, shared memory with subnormals as they are (PTX manual, "atom").
uint64_t flushed(uint64_t v) { return v & 0x7f800000 ? v : v & 0x80000000; }
uint64_t add_half(uint64_t a, uint64_t b) {
    auto value = [](uint64_t v) {
        _Float16 h;
        const uint16_t u = uint16_t(v);
        std::memcpy(&h, &u, 2);
        return double(h);
    };
    const _Float16 sum = _Float16(value(a) + value(b));
    uint16_t u;
    std::memcpy(&u, &sum, 2);
    return u;
}
uint64_t add_bf16(uint64_t a, uint64_t b) {
    const uint64_t sum = bits_of_float(float_of((a & 0xffff) << 16) + float_of((b & 0xffff) << 16));
    return ((sum >> 15 & 1) && (sum & 0x17fff) != 0 ? (sum >> 16) + ((sum & 0x7fff) || (sum >> 16 & 1)) : sum >> 16) &
           0xffff;
}
uint64_t pairs(uint64_t (*f)(uint64_t, uint64_t), uint64_t a, uint64_t b) {
    return f(a >> 16 & 0xffff, b >> 16 & 0xffff) << 16 | f(a & 0xffff, b & 0xffff);
}

struct AtomicForm {
    std::string name;  // operation and type
    int bytes;
    std::function<uint64_t(uint64_t old, uint64_t b, uint64_t c)> fresh;
    std::vector<uint64_t> edges;
};

std::vector<AtomicForm> atomic_forms() {
    const std::vector<uint64_t> words   = {0, 1, 2, 7, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 0x12345678},
                                longs   = {0, 1, 2, 0x7fffffff, 0xffffffff, 1ull << 32, ~0ull >> 1, 1ull << 63, ~0ull},
                                floats  = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x3f800001, 0x7f7fffff,
                                           0x33800000, 0x4b800000, 0x00000001, 0x807fffff, 0x00800001, 0x80800000},
                                doubles = {0, 1ull << 63, 0x3ff0000000000000, 0xbff0000000000001, 0x7fefffffffffffff,
                                           1},
                                halves  = {0x00000000, 0x3c003c00, 0xbc003c01, 0x7bff7bff,
                                           0x00010400, 0x80018000, 0x4bff2345},
                                brains  = {0x00000000, 0x3f803f80, 0xbf803f81, 0x3b803b81,
                                           0x42283e19, 0x80800080, 0x7f7f3f00};
    std::vector<AtomicForm> list;
    auto both = [&](const char* op, const char* type32, const char* type64, auto f32, auto f64) {
        list.push_back(
            {std::string(op) + "." + type32, 4, [=](auto a, auto b, auto) { return uint64_t(f32(a, b)); }, words});
        list.push_back(
            {std::string(op) + "." + type64, 8, [=](auto a, auto b, auto) { return uint64_t(f64(a, b)); }, longs});
    };
    auto on  = []<class T>(T, auto f) { return [=](uint64_t a, uint64_t b) { return uint64_t(f(T(a), T(b))); }; };
    auto low = [](auto a, auto b) { return a < b ? a : b; };
    auto top = [](auto a, auto b) { return a < b ? b : a; };
    both("add", "u32", "u64", on(uint32_t(), std::plus<>()), on(uint64_t(), std::plus<>()));
    both("min", "u32", "u64", on(uint32_t(), low), on(uint64_t(), low));
    both("max", "u32", "u64", on(uint32_t(), top), on(uint64_t(), top));
    both("min", "s32", "s64", on(int32_t(), low), on(int64_t(), low));
    both("max", "s32", "s64", on(int32_t(), top), on(int64_t(), top));
    both("and", "b32", "b64", on(uint32_t(), std::bit_and<>()), on(uint64_t(), std::bit_and<>()));
    both("or", "b32", "b64", on(uint32_t(), std::bit_or<>()), on(uint64_t(), std::bit_or<>()));
    both("xor", "b32", "b64", on(uint32_t(), std::bit_xor<>()), on(uint64_t(), std::bit_xor<>()));
    auto second = [](auto, auto b) { return b; };
    both("exch", "b32", "b64", second, second);
    list.push_back({"add.s32", 4, [](auto a, auto b, auto) { return a + b; }, words});
    list.push_back({"inc.u32", 4, [](auto a, auto b, auto) { return a >= b ? 0 : a + 1; }, words});
    list.push_back({"dec.u32", 4, [](auto a, auto b, auto) { return a == 0 || a > b ? b : a - 1; }, words});
    auto swapped = [](uint64_t a, uint64_t b, uint64_t c) { return a == b ? c : a; };
    list.push_back({"cas.b16", 2, swapped, {0, 1, 2, 0x7fff, 0xffff, 0x8000}});
    list.push_back({"cas.b32", 4, swapped, words});
    list.push_back({"cas.b64", 8, swapped, longs});
    list.push_back(
        {"add.f32", 4, [](auto a, auto b, auto) { return bits_of_float(float_of(a) + float_of(b)); }, floats});
    list.push_back({"add.f64", 8,
                    [](uint64_t a, uint64_t b, uint64_t) {
                        double x, y;
                        std::memcpy(&x, &a, 8), std::memcpy(&y, &b, 8);
                        x += y;
                        std::memcpy(&a, &x, 8);
                        return a;
                    },
                    doubles});
    std::vector<uint64_t> half, brain;
    for (uint64_t v : halves) half.push_back(v & 0xffff), half.push_back(v >> 16);
    for (uint64_t v : brains) brain.push_back(v & 0xffff), brain.push_back(v >> 16);
    list.push_back({"add.noftz.f16", 2, [](auto a, auto b, auto) { return add_half(a, b); }, half});
    list.push_back({"add.noftz.bf16", 2, [](auto a, auto b, auto) { return add_bf16(a, b); }, brain});
    list.push_back({"add.noftz.f16x2", 4, [](auto a, auto b, auto) { return pairs(add_half, a, b); }, halves});
    list.push_back({"add.noftz.bf16x2", 4, [](auto a, auto b, auto) { return pairs(add_bf16, a, b); }, brains});
    return list;
}

}  // namespace

// A cell per lane, in all spaces, with and without a result; then one cell for a whole warp.
TEST_CASE("atomics", "[warp]") {
    for (const AtomicForm& f : atomic_forms()) {
        Planes in(3);
        for (uint64_t a : f.edges)
            for (uint64_t b : f.edges)
                for (uint64_t c : {f.edges[0], f.edges[3]}) in[0].push_back(a), in[1].push_back(b), in[2].push_back(c);
        while (in[0].size() % 32)
            for (auto& plane : in) plane.push_back(f.edges[1]);
        const std::string kind   = f.bytes == 2   ? "%h"
                                   : f.bytes == 4 ? "%x"
                                                  : "%w",
                          bits   = ".b" + number(size_t(f.bytes * 8)),
                          result = f.bytes == 2   ? "%s0"
                                   : f.bytes == 4 ? "%t0"
                                                  : "%z1",
                          left   = f.bytes == 2   ? "%s1"
                                   : f.bytes == 4 ? "%t1"
                                                  : "%z0";
        const bool cas = f.name.starts_with("cas"), exch = f.name.starts_with("exch");
        const std::string values = kind + "1" + (cas ? ", " + kind + "2" : "");
        for (const std::string where : {".global", ".shared", "generic, global", "generic, shared"})
            for (const bool red : {false, true}) {
                const std::string space = where[0] == '.' ? where : "";
                if (red && (cas || exch)) continue;
                const std::string cell = where == ".shared"           ? "[%at+8]"
                                         : where == "generic, shared" ? "[%a+8]"
                                                                      : "[%cell]",
                                  form = (red ? "red" : "atom") + space + "." + f.name;
                std::string body =
                    "mad.lo.s32 %at, %lane, 16, %tile;\ncvt.u64.u32 %a, %at;\ncvta.shared.u64 %a, %a;\nst" + space +
                    bits + " " + cell + ", " + kind + "0;\n" + form + " " + (red ? "" : result + ", ") + cell + ", " +
                    values + ";\nld" + space + bits + " " + left + ", " + cell + ";\n";
                if (red) body += "mov" + bits + " " + result + ", " + kind + "0;\n";
                const std::string widen = "cvt.u64.u" + number(size_t(f.bytes * 8));
                if (f.bytes < 8) body += widen + " %z0, " + left + ";\n" + widen + " %z1, " + result + ";\n";
                const Planes out = run_lanes(body, in, 2, true);
                for (size_t t = 0; t < in[0].size(); t++) {
                    const uint64_t a = in[0][t], b = in[1][t];
                    std::ostringstream s;
                    s << form << std::hex << " of " << a << " and " << b;
                    same_or_fail(s.str() + " returns", t, out[1][t], a);
                    uint64_t want = f.fresh(a, b, in[2][t]);
                    if (f.name == "add.f32" && where != ".shared" && where != "generic, shared")
                        want = flushed(bits_of_float(float_of(flushed(a)) + float_of(flushed(b))));
                    same_or_fail(s.str() + " leaves", t, out[0][t], bits_in(f.bytes, want));
                }
            }
    }
}

TEST_CASE("atomics on one cell", "[warp]") {
    const size_t warps = 16, n = warps * 32;
    Planes in(2, std::vector<uint64_t>(n));
    for (size_t t = 0; t < n; t++) in[0][t] = uint32_t(random_bits()()), in[1][t] = t & 1;
    // Tickets: every lane gets another number. The sum and the largest come out whatever the order; so do odd lanes
    // alone.
    const Planes out = run_lanes(
        "st.shared.v4.b32 [tile], {%y0, %y0, %y0, %y0};\nmov.u32 %t0, 0;\nst.shared.b32 [tile], %t0;\n"
        "st.shared.b32 [tile+4], %t0;\nst.shared.b32 [tile+8], %t0;\nbar.sync 0;\n"
        "atom.shared.add.u32 %y0, [tile], 1;\nred.shared.add.u32 [tile+4], %x0;\n"
        "@%q1 atom.shared.max.u32 %y1, [tile+8], %x0;\nbar.sync 0;\nld.shared.b32 %y2, [tile+4];\n"
        "ld.shared.b32 %y3, [tile+8];\n",
        in, 4);
    for (size_t w = 0; w < warps; w++) {
        uint32_t tickets = 0, sum = 0, most = 0;
        for (size_t t = w * 32; t < w * 32 + 32; t++) {
            REQUIRE(out[0][t] < 32);
            tickets |= 1u << out[0][t], sum += uint32_t(in[0][t]);
            if (t & 1)
                most = std::max(most, uint32_t(in[0][t]));
            else
                same_or_fail("guarded atom writes a lane without the guard", t, out[1][t], kUntouched);
        }
        CHECK(tickets == ~0u);
        same_or_fail("the sum", w * 32, out[2][w * 32], sum);
        same_or_fail("the largest", w * 32, out[3][w * 32 + 5], most);
    }
}

TEST_CASE("cp.async arrives with its group", "[warp]") {
    const size_t warps = 4, n = warps * 32;
    Planes in(4, std::vector<uint64_t>(n));
    for (auto& plane : in)
        for (uint64_t& v : plane) v = random_bits()();
    for (size_t t = 0; t < n; t++) in[3][t] = t % 17;  // bytes that are copied, the rest is zero
    const std::string plane = number(n * 8), second = number(n * 16);
    // %a: a 16-byte aligned place among the inputs, lane - 1 without its lowest bit.
    std::string body =
        "mad.lo.s32 %at, %lane, 8, %tile;\nmad.lo.s32 %t0, %lane, 16, %tile;\nadd.u32 %t0, %t0, 1024;\n"
        "sub.u32 %t1, %lane, 1;\nand.b32 %t1, %t1, 30;\nmul.wide.u32 %a, %lane, 8;\n"
        "sub.u64 %a, %from, %a;\nmul.wide.u32 %o, %t1, 8;\nadd.u64 %a, %a, %o;\n";
    body += "cp.async.ca.shared.global [%at], [%from], 8;\ncp.async.commit_group;\n";
    body += "cp.async.ca.shared.global [%at+512], [%from+" + plane + "], 8;\ncp.async.commit_group;\n";
    body += "cp.async.ca.shared.global [%t0], [%a+" + second + "], 16, %x3;\ncp.async.wait_group 1;\n";
    body +=
        "ld.shared.b64 %z0, [%at];\ncp.async.wait_all;\nld.shared.b64 %z1, [%at+512];\n"
        "ld.shared.v2.b64 {%z2, %z3}, [%t0];\n";
    const Planes out = run_lanes(body, in, 4, true);
    for (size_t t = 0; t < n; t++) {
        const size_t lane = t % 32, from = t - lane + ((lane - 1) & 30);
        same_or_fail("the first group", t, out[0][t], in[0][t]);
        same_or_fail("the second group", t, out[1][t], in[1][t]);
        same_or_fail("16 bytes, low", t, out[2][t], bits_in(int(std::min<uint64_t>(in[3][t], 8)), in[2][from]));
        const uint64_t high = in[3][t] > 8 ? in[3][t] - 8 : 0;
        same_or_fail("16 bytes, high", t, out[3][t], high ? bits_in(int(high), in[2][from + 1]) : 0);
    }
}

// Each lane's 16 bytes of global memory are its words of outputs 0 and 1, seen as one array.
TEST_CASE("reductions of vectors and swaps of 128 bits", "[warp]") {
    const size_t n = 32;  // one block: the outputs go where the 16 bytes were
    Planes in(6, std::vector<uint64_t>(n));
    for (size_t t = 0; t < n; t++) {
        for (size_t k = 0; k < 4; k++) in[k][t] = encoded(int(random_bits()() % 2000) - 1000, kF32);
        for (size_t k = 4; k < 6; k++)
            in[k][t] = encoded(int(random_bits()() % 99), kF16) << 16 | encoded(int(random_bits()() % 99), kF16);
    }
    const std::string mine = "mul.wide.u32 %a, %i, 8;\nadd.u64 %a, %cell, %a;\nst.global.v4.b32 [%a], ";
    const std::string back = "ld.global.v4.b32 {%y0, %y1, %y2, %y3}, [%a];\nbar.sync 0;\n";
    for (const std::string form :
         {"red.global.add.v4.f32", "red.global.v4.f32.add", "red.relaxed.gpu.global.add.v4.f32"}) {
        const Planes out =
            run_lanes(mine + "{%x0, %x1, %x2, %x3};\n" + form + " [%a], {%x3, %x2, %x1, %x0};\n" + back, in, 4);
        for (size_t t = 0; t < n; t++)
            for (size_t k = 0; k < 4; k++)
                same_or_fail(form, t, out[k][t], bits_of_float(float_of(in[k][t]) + float_of(in[3 - k][t])));
    }
    for (const std::string form : {"red.global.add.noftz.v2.f16x2", "red.global.v2.f16x2.add.noftz"}) {
        const Planes out = run_lanes(mine + "{%x4, %x5, %x4, %x5};\n" + form + " [%a], {%x5, %x5};\n" + back, in, 4);
        for (size_t t = 0; t < n; t++)
            for (size_t k = 0; k < 2; k++) same_or_fail(form, t, out[k][t], pairs(add_half, in[4 + k][t], in[5][t]));
    }
    // Even lanes find what they expect.
    const Planes swapped = run_lanes(
        mine +
            "{%x0, %x1, %x2, %x3};\n{.reg .b128 old, want, fresh;\n.reg .b64 l, h, o;\nand.b32 %t0, %lane, 1;\n"
            "mov.b64 l, {%x0, %x1};\nmov.b64 h, {%x2, %x3};\ncvt.u64.u32 o, %t0;\nadd.u64 h, h, o;\n"
            "mov.b128 want, {l, h};\nmov.b128 fresh, {h, l};\natom.global.cas.b128 old, [%a], want, fresh;\n"
            "mov.b128 {l, h}, old;\nmov.b64 {%t0, %t1}, h;\nmov.b32 %y4, %t1;}\n" +
            back,
        in, 5);
    for (size_t t = 0; t < n; t++) {
        same_or_fail("cas.b128 returns", t, swapped[4][t], in[3][t]);
        for (size_t k = 0; k < 4; k++) same_or_fail("cas.b128 leaves", t, swapped[k][t], in[t % 2 ? k : k ^ 2][t]);
    }
}
