// warp_forms.h - tests the instructions of a whole warp against scalar references
//
// The references follow the formulas of the PTX manual element by element. A case runs on many blocks of one warp.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <sstream>

#include "catch.h"
#include "ptx_program.h"

namespace emu::test {

constexpr uint32_t kUntouched = 0xdeadbeef;
using Planes                  = std::vector<std::vector<uint64_t>>;  // [value][thread]

inline std::mt19937_64& random_bits() {
    static std::mt19937_64 r(4711);
    return r;
}
inline uint64_t bits_in(int bytes, uint64_t v) { return bytes == 8 ? v : v & ((1ull << (8 * bytes)) - 1); }
inline std::string number(size_t n) { return std::to_string(n); }

// Runs `body` in every lane. Input k is in %w<k> (64 bits), %x<k> (32 bits) and %h<k> (16 bits), and %q<k> is true
// if it is not zero. Output k is %y<k>, or with `wide` %z<k> (64 bits). %p and %pr<4> are free predicates. %tile is the
// address of `tile` in shared memory, and %cell that of the thread's word of output 0.
inline Planes run_lanes(const std::string& body, const Planes& in, size_t outputs, bool wide = false) {
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

inline void same_or_fail(const std::string& what, size_t thread, uint64_t got, uint64_t want) {
    if (got == want) return;
    std::ostringstream s;
    s << what << ", warp " << thread / 32 << ", lane " << thread % 32 << std::hex << ": got " << got << " want "
      << want;
    FAIL(s.str());
}

// Returns a member mask for each lane. One to three sets divide each warp.
inline std::vector<uint64_t> random_sets(size_t warps) {
    std::vector<uint64_t> sets(warps * 32);
    for (size_t w = 0; w < warps; w++) {
        const uint32_t first = w == 0 ? ~0u : uint32_t(random_bits()()), second = ~first & uint32_t(random_bits()());
        for (size_t l = 0; l < 32; l++)
            sets[w * 32 + l] = first >> l & 1 ? first : second >> l & 1 ? second : ~(first | second);
    }
    return sets;
}

enum Number { kF16, kBf16, kTf32, kF64, kS8, kU8, kE4m3, kE5m2, kF32, kS32 };
struct NumberFormat {
    const char* name;
    int bytes, least, most;
};
inline const NumberFormat kFormats[] = {
    {"f16", 2, -8, 8}, {"bf16", 2, -8, 8}, {"tf32", 4, -8, 8}, {"f64", 8, -99, 99}, {"s8", 1, -128, 127},
    {"u8", 1, 0, 255}, {"e4m3", 1, -2, 2}, {"e5m2", 1, -2, 2}, {"f32", 4, -99, 99}, {"s32", 4, -99, 99}};

// Returns a small whole number in that format.
inline uint64_t encoded(int value, Number as) {
    auto small = [&](int exponent_bits, int mantissa_bits) {  // encodes a float with these widths
        if (value == 0) return uint64_t(0);
        int a = std::abs(value), e = 0;
        while (a >> (e + 1)) e++;
        const uint64_t fraction = (uint64_t(a) << (mantissa_bits - e)) - (1ull << mantissa_bits);
        return uint64_t(value < 0) << (exponent_bits + mantissa_bits) |
               uint64_t(e + (1 << (exponent_bits - 1)) - 1) << mantissa_bits | fraction;
    };
    switch (as) {
        case kF16: return small(5, 10);
        case kBf16: return small(8, 7);
        case kTf32:
        case kF32: return small(8, 23);
        case kF64: return small(11, 52);
        case kE4m3: return small(4, 3);
        case kE5m2: return small(5, 2);
        case kS32: return uint32_t(value);
        default: return uint8_t(value);
    }
}

}  // namespace emu::test
