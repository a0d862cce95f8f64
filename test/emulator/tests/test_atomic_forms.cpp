// test_atomic_forms.cpp - atomics and asynchronous copies
#include "warp_forms.h"

using namespace emu;
using namespace emu::test;

namespace {

// Sums in global memory flush subnormals to zero, and sums in shared memory do not (PTX manual, "atom").
uint64_t flushed(uint64_t v) { return v & 0x7f800000 ? v : v & 0x80000000; }
uint64_t add_half(uint64_t a, uint64_t b) {
    return bits_of(_Float16(double(from_bits<_Float16>(a)) + double(from_bits<_Float16>(b))));
}
// The sum is computed in float and rounded to the nearest bf16, ties to even.
uint64_t add_bf16(uint64_t a, uint64_t b) {
    const uint64_t sum = bits_of(from_bits<float>((a & 0xffff) << 16) + from_bits<float>((b & 0xffff) << 16));
    return (sum + 0x7fff + (sum >> 16 & 1)) >> 16 & 0xffff;
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
    list.push_back({"add.f32", 4,
                    [](auto a, auto b, auto) { return bits_of(from_bits<float>(a) + from_bits<float>(b)); }, floats});
    list.push_back({"add.f64", 8,
                    [](auto a, auto b, auto) { return bits_of(from_bits<double>(a) + from_bits<double>(b)); },
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

// Each lane has a cell of its own, in all state spaces, with and without a result.
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
                        want = flushed(bits_of(from_bits<float>(flushed(a)) + from_bits<float>(flushed(b))));
                    same_or_fail(s.str() + " leaves", t, out[0][t], bits_in(f.bytes, want));
                }
            }
    }
}

TEST_CASE("atomics on one cell", "[warp]") {
    const size_t warps = 16, n = warps * 32;
    Planes in(2, std::vector<uint64_t>(n));
    for (size_t t = 0; t < n; t++) in[0][t] = uint32_t(random_bits()()), in[1][t] = t & 1;
    // The first atomic gives every lane another number. The sum, and the maximum of the odd lanes, depend on no order.
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
            if (t & 1) most = std::max(most, uint32_t(in[0][t]));
            else same_or_fail("guarded atom writes a lane without the guard", t, out[1][t], kUntouched);
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
    for (size_t t = 0; t < n; t++) in[3][t] = t % 17;  // the number of bytes that are copied; the others become zero
    const std::string plane = number(n * 8), second = number(n * 16);
    // %a is the address of an input that is aligned to 16 bytes, that of lane - 1 without its lowest bit.
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

// Each lane uses 16 bytes of global memory, which are the memory of outputs 0 and 1 taken as one array.
TEST_CASE("reductions of vectors and swaps of 128 bits", "[warp]") {
    const size_t n = 32;  // there is only one block, because the outputs overwrite the 16 bytes
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
                same_or_fail(form, t, out[k][t], bits_of(from_bits<float>(in[k][t]) + from_bits<float>(in[3 - k][t])));
    }
    for (const std::string form : {"red.global.add.noftz.v2.f16x2", "red.global.v2.f16x2.add.noftz"}) {
        const Planes out = run_lanes(mine + "{%x4, %x5, %x4, %x5};\n" + form + " [%a], {%x5, %x5};\n" + back, in, 4);
        for (size_t t = 0; t < n; t++)
            for (size_t k = 0; k < 2; k++) same_or_fail(form, t, out[k][t], pairs(add_half, in[4 + k][t], in[5][t]));
    }
    // The even lanes find the expected value and swap.
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
