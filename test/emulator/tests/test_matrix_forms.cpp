// test_matrix_forms.cpp - mma, wmma and the loads and stores of their fragments
//
// Matrices hold small integers, which every format represents exactly, so the order of summation does not matter.
#include "warp_forms.h"

using namespace emu;
using namespace emu::test;

namespace {

struct Place {
    int row, column;
};
// The place of a lane's element i in the matrix, by the manual's formulas: g = lane / 4 and t = lane % 4.
using Layout = Place (*)(int i, int g, int t);
struct Mma {
    const char* shape;
    int m, n, k, elements_a, elements_b;  // elements of A and of B that one lane holds
    Layout a, b;
    std::vector<std::array<Number, 4>> types;  // of D, A, B and C
};

Place c_of(int i, int g, int t) { return {i < 2 ? g : g + 8, t * 2 + (i & 1)}; }

// clang-format off
const Mma kMma[] = {
    {"m16n8k8", 16, 8, 8, 4, 2, c_of,
     [](int i, int g, int t) { return Place{t * 2 + i, g}; },
     {{kF32, kF16, kF16, kF32}, {kF16, kF16, kF16, kF16}, {kF32, kBf16, kBf16, kF32}}},
    {"m16n8k16", 16, 8, 16, 8, 4,
     [](int i, int g, int t) { return Place{i % 4 < 2 ? g : g + 8, t * 2 + (i & 1) + (i >= 4 ? 8 : 0)}; },
     [](int i, int g, int t) { return Place{t * 2 + (i & 1) + (i >= 2 ? 8 : 0), g}; },
     {{kF32, kF16, kF16, kF32}, {kF16, kF16, kF16, kF16}, {kF32, kBf16, kBf16, kF32}}},
    {"m16n8k4", 16, 8, 4, 2, 1,
     [](int i, int g, int t) { return Place{i == 0 ? g : g + 8, t}; },
     [](int, int g, int t) { return Place{t, g}; },
     {{kF32, kTf32, kTf32, kF32}, {kF64, kF64, kF64, kF64}}},
    {"m16n8k8", 16, 8, 8, 4, 2,
     [](int i, int g, int t) { return Place{i % 2 == 0 ? g : g + 8, i < 2 ? t : t + 4}; },
     [](int i, int g, int t) { return Place{i == 0 ? t : t + 4, g}; },
     {{kF32, kTf32, kTf32, kF32}, {kF64, kF64, kF64, kF64}}},
    {"m16n8k16", 16, 8, 16, 8, 4,
     [](int i, int g, int t) { return Place{i % 2 == 0 ? g : g + 8, i / 2 * 4 + t}; },
     [](int i, int g, int t) { return Place{t + i * 4, g}; },
     {{kF64, kF64, kF64, kF64}}},
    {"m8n8k4", 8, 8, 4, 1, 1,
     [](int, int g, int t) { return Place{g, t}; },
     [](int, int g, int t) { return Place{t, g}; },
     {{kF64, kF64, kF64, kF64}}},
    {"m8n8k16", 8, 8, 16, 4, 4,
     [](int i, int g, int t) { return Place{g, t * 4 + i}; },
     [](int i, int g, int t) { return Place{t * 4 + i, g}; },
     {{kS32, kS8, kS8, kS32}, {kS32, kU8, kU8, kS32}}},
    {"m16n8k16", 16, 8, 16, 8, 4,
     [](int i, int g, int t) { return Place{i < 4 ? g : g + 8, t * 4 + (i & 3)}; },
     [](int i, int g, int t) { return Place{t * 4 + i, g}; },
     {{kS32, kS8, kS8, kS32}, {kS32, kU8, kU8, kS32}, {kS32, kS8, kU8, kS32}, {kS32, kU8, kS8, kS32}}},
    {"m16n8k32", 16, 8, 32, 16, 8,
     [](int i, int g, int t) { return Place{i % 8 < 4 ? g : g + 8, t * 4 + (i & 3) + (i >= 8 ? 16 : 0)}; },
     [](int i, int g, int t) { return Place{t * 4 + (i & 3) + (i >= 4 ? 16 : 0), g}; },
     {{kS32, kS8, kS8, kS32}, {kS32, kU8, kU8, kS32}, {kS32, kS8, kU8, kS32}, {kS32, kU8, kS8, kS32},
      {kF32, kE4m3, kE4m3, kF32}, {kF32, kE5m2, kE4m3, kF32}, {kF16, kE4m3, kE5m2, kF16}}},
};
// clang-format on

// A register of a fragment holds several elements, the first in its lowest bits.
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

// The tile in shared memory holds A at 0, B at 2048, and C and then D at 4096. Their rows have gaps between them.
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
    Planes in(6, std::vector<uint64_t>(n));  // 0, 1: shared memory, 2: address of a row, 3 to 5: registers
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
    // Returns the h-th half-word of the 16 bytes at offset `at` of the tile, as it was filled.
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
