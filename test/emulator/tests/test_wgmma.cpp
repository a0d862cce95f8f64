// test_wgmma.cpp - products of warpgroups, against sums in double over a reading of NVIDIA's documentation of matrices
// in shared memory, element by element
#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <set>

#include "catch.h"
#include "forms.h"
#include "swizzle.h"

using namespace emu;
using namespace emu::test;

namespace {

// An element type: its name, its size and its values. Only a few whole numbers and halves are used, so that every sum
// is exact in float, and with f16 accumulators in f16.
struct Element {
    const char* name;
    int bytes;
    uint32_t (*bits)(double);
};
uint32_t float_bits(double v) { return uint32_t(bits_of(float(v))); }
uint32_t small_float(double v, int exponent, int mantissa) {  // for exact values
    if (v == 0) return 0;
    int e;
    const double m = std::frexp(std::fabs(v), &e);  // 0.5 to 1
    const int bias = (1 << (exponent - 1)) - 1;
    return uint32_t(v < 0) << (exponent + mantissa) | uint32_t(e - 1 + bias) << mantissa |
           uint32_t(std::ldexp(2 * m - 1, mantissa));
}
const Element kBf16{"bf16", 2, [](double v) { return float_bits(v) >> 16; }},
    kF16{"f16", 2, [](double v) { return small_float(v, 5, 10); }}, kTf32{"tf32", 4, float_bits},
    kE4m3{"e4m3", 1, [](double v) { return small_float(v, 4, 3); }},
    kE5m2{"e5m2", 1, [](double v) { return small_float(v, 5, 2); }};

constexpr int kWidth[] = {1, 8, 4, 2};  // chunks of 16 bytes that lie side by side, by the mode in a descriptor

// A matrix in shared memory of `rows` rows (of A, or columns of B) and the depth of one product.
struct Matrix {
    int mode        = 0, rows, bytes;  // bytes: of an element
    bool transposed = false;
    uint32_t begin = 0, row = 0;  // where the pattern begins: a multiple of 1024, and a 128-byte row after it
    uint32_t step    = 0;         // the product starts at this multiple of its depth
    uint32_t leading = 0, stride = 0;

    uint32_t pattern() const { return begin + row * 128; }
    uint64_t descriptor() const {
        uint32_t start = pattern();
        if (transposed) start += step * 2 * (mode ? stride : leading);
        else start += step * 2 * (mode ? 16 : leading);
        return uint64_t(start >> 4) | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 |
               uint64_t(mode ? row : 0) << 49 | uint64_t(mode) << 62;
    }
    // The byte of shared memory with byte 0 of element k of a row.
    uint32_t place(int r, int k) const {
        const int per = 16 / bytes, width = kWidth[mode];
        k += int(step) * 2 * per;
        const int chunk = (transposed ? r : k) / per, line = transposed ? k : r;  // eight lines are a core matrix
        uint32_t at = uint32_t((transposed ? r : k) % per * bytes);
        if (!mode) {  // core matrices are 128 bytes in a row
            const uint32_t along = transposed ? stride : leading, across = transposed ? leading : stride;
            return pattern() + at + uint32_t(line % 8 * 16) + uint32_t(line / 8) * across + uint32_t(chunk) * along;
        }
        at += uint32_t(line % 8 * width * 16 + chunk % width * 16) + uint32_t(line / 8) * stride +
              uint32_t(chunk / width) * leading;
        const auto& table  = swizzle_of_matrix(mode);
        const auto& places = table[at / 128 % table.size()];
        const auto there   = std::find(places.begin(), places.end(), int(at % 128 / 16)) - places.begin();
        return pattern() + at / 128 * 128 + uint32_t(there) * 16 + at % 16;
    }
    uint32_t end() const {
        uint32_t most = 0;
        for (int r = 0; r < rows; r++)
            for (int k = 0; k < 32 / bytes; k++) most = std::max(most, place(r, k));
        return most / 1024 * 1024 + 1024;
    }
};

struct Case {
    Element a, b;
    bool half;  // the accumulators are f16
    int n;
    Matrix ma, mb;  // ma is not used when A is in registers
    bool registers;
    int scale_a, scale_b;
    bool adds;
    std::string scale;  // the operand scale-d: %p, !%p, 0 or 1
};

std::string list(const char* name, int n) {
    std::string text = "{";
    for (int k = 0; k < n; k++) text += (k ? ", " : "") + std::string(name) + std::to_string(k);
    return text + "}";
}

std::string form_of(const Case& c) {
    const int depth  = 32 / c.a.bytes;
    std::string text = "wgmma.mma_async.sync.aligned.m64n" + std::to_string(c.n) + "k" + std::to_string(depth) +
                       (c.half ? ".f16." : ".f32.") + c.a.name + "." + c.b.name;
    text += " " + list("%d", c.half ? c.n / 4 : c.n / 2) + ", " + (c.registers ? list("%a", 4) : "%da") + ", %db, " +
            c.scale + ", " + std::to_string(c.scale_a) + ", " + std::to_string(c.scale_b);
    if (c.a.bytes == 2) {
        if (!c.registers) text += c.ma.transposed ? ", 1" : ", 0";
        text += c.mb.transposed ? ", 1" : ", 0";
    }
    return text + ";\n";
}

// Thread by thread, the registers: d and a are [register][thread].
std::string kernel(const std::string& body, uint32_t shared, int registers, bool reads) {
    std::string text = R"(.version 8.7
.target sm_90
.address_size 64
.visible .entry k(.param .u64 from, .param .u64 pa, .param .u64 pd, .param .u64 pda, .param .u64 pdb, .param .u32 adds)
{
.reg .pred %p, %q;
.reg .b32 %i, %at, %x, %tile, %adds, %a<4>, %d<128>;
.reg .b64 %from, %pa, %pd, %da, %db, %wide;
.shared .align 1024 .b8 tile[)" +
                       std::to_string(shared) + R"(];
ld.param.u64 %from, [from];
ld.param.u64 %pa, [pa];
ld.param.u64 %pd, [pd];
ld.param.u64 %da, [pda];
ld.param.u64 %db, [pdb];
ld.param.u32 %adds, [adds];
setp.ne.u32 %p, %adds, 0;
mov.u32 %tile, tile;
mov.u32 %i, %tid.x;
mul.wide.u32 %wide, %i, 4;
add.u64 %pa, %pa, %wide;
add.u64 %pd, %pd, %wide;
add.u64 %from, %from, %wide;
mad.lo.u32 %at, %i, 4, %tile;
mov.u32 %i, 0;
IN:
ld.global.b32 %x, [%from];
st.shared.b32 [%at], %x;
add.u64 %from, %from, 512;
add.u32 %at, %at, 512;
add.u32 %i, %i, 512;
setp.lt.u32 %q, %i, )" +
                       std::to_string(shared) + ";\n@%q bra IN;\n";
    for (int k = 0; k < 4; k++)
        text += "ld.global.b32 %a" + std::to_string(k) + ", [%pa+" + std::to_string(512 * k) + "];\n";
    for (int k = 0; reads && k < registers; k++)
        text += "ld.global.b32 %d" + std::to_string(k) + ", [%pd+" + std::to_string(512 * k) + "];\n";
    text += "fence.proxy.async;\nbar.sync 0;\nwgmma.fence.sync.aligned;\n" + body +
            "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
    for (int k = 0; k < registers; k++)
        text += "st.global.b32 [%pd+" + std::to_string(512 * k) + "], %d" + std::to_string(k) + ";\n";
    return text + "ret;\n}\n";
}

std::mt19937& random_numbers() {
    static std::mt19937 r(7);
    return r;
}
double half_or_whole() {  // one of -1.5 … 1.5
    return (int(random_numbers()() % 7) - 3) / 2.0;
}

// Runs the product and compares every accumulator.
void check(const Case& c) {
    const int depth = 32 / c.a.bytes, registers = c.half ? c.n / 4 : c.n / 2;
    const uint32_t shared = std::max(c.registers ? 0 : c.ma.end(), c.mb.end());
    std::vector<uint8_t> tile(shared);
    for (auto& x : tile) x = uint8_t(random_numbers()());
    std::vector<double> a(64 * depth), b(depth * c.n), d(64 * c.n);
    std::vector<uint32_t> ra(4 * 128), rd(registers * 128);
    std::set<uint32_t> taken;
    const auto put = [&](const Matrix& m, int r, int k, uint32_t bits) {
        std::memcpy(&tile[m.place(r, k)], &bits, size_t(m.bytes));
        REQUIRE(taken.insert(m.place(r, k)).second);  // the layout has no overlap
    };
    for (int r = 0; r < 64; r++)
        for (int k = 0; k < depth; k++) {
            const double v = a[r * depth + k] = half_or_whole();
            if (!c.registers) put(c.ma, r, k, c.a.bits(v));
            // Warp w has rows 16w to 16w + 15. Its lane 4g + t has rows g and g + 8, 4 bytes at 4t and at 16 + 4t.
            const int byte = k * c.a.bytes, lane = r % 8 * 4 + byte % 16 / 4, reg = byte / 16 * 2 + r / 8 % 2;
            ra[size_t(reg * 128 + r / 16 * 32 + lane)] |= c.a.bits(v) << byte % 4 * 8;
        }
    for (int k = 0; k < depth; k++)
        for (int n = 0; n < c.n; n++) put(c.mb, n, k, c.b.bits(b[k * c.n + n] = half_or_whole()));
    const auto at = [&](int r, int n) {  // the accumulator's place in rd, in halves
        const int lane = r % 8 * 4 + n % 8 / 2, pair = n / 8 * 2 + r / 8 % 2, thread = r / 16 * 32 + lane;
        return c.half ? (pair * 128 + thread) * 2 + n % 2 : ((pair * 2 + n % 2) * 128 + thread) * 2;
    };
    auto* halves = reinterpret_cast<uint16_t*>(rd.data());
    for (int r = 0; r < 64; r++)
        for (int n = 0; n < c.n; n++) {
            const double v = d[r * c.n + n] = half_or_whole();
            if (c.half) halves[at(r, n)] = uint16_t(kF16.bits(v));
            else rd[size_t(at(r, n) / 2)] = float_bits(v);
        }
    DeviceArray<uint8_t> from(tile);
    DeviceArray<uint32_t> pa(ra), pd(rd);
    const uint64_t da = c.registers ? 0 : c.ma.descriptor(), db = c.mb.descriptor();
    const std::string text = kernel(form_of(c), shared, registers, true);
    INFO(form_of(c) << "A mode " << c.ma.mode << " B mode " << c.mb.mode << " row " << c.mb.row << " step "
                    << c.mb.step);
    const bool negated = c.scale[0] == '!';
    const auto r = run(load_kernel(text, "k"), {1, 1, 1}, {128, 1, 1}, from.address, pa.address, pd.address, da, db,
                       uint32_t(c.adds != negated));
    REQUIRE(r.message == "");
    std::memcpy(rd.data(), pd.host(), rd.size() * 4);
    for (int r = 0; r < 64; r++)
        for (int n = 0; n < c.n; n++) {
            double want = c.adds ? d[r * c.n + n] : 0;
            for (int k = 0; k < depth; k++) want += c.scale_a * c.scale_b * a[r * depth + k] * b[k * c.n + n];
            const uint32_t got    = c.half ? halves[at(r, n)] : rd[size_t(at(r, n) / 2)];
            const uint32_t wanted = c.half ? kF16.bits(want) : float_bits(want);
            if (got != wanted && (got | wanted) << (c.half ? 17 : 1)) {  // zeros have any sign
                CAPTURE(r, n, got, wanted, want);
                FAIL("another value");
            }
        }
}

// Gives the matrix a place from `from` on, with offsets that leave no overlap.
void lay_out(Matrix& m, uint32_t from) {
    auto draw = [](uint32_t least, uint32_t most) { return least + uint32_t(random_numbers()()) % (most - least + 1); };
    m.begin   = (from + 1023) / 1024 * 1024;
    m.row     = m.mode ? draw(0, m.mode == 1 ? 7 : m.mode == 2 ? 3 : 1) : draw(0, 7);
    const uint32_t width = uint32_t(kWidth[m.mode]), atom = 128 * width;
    const int chunks        = m.rows * m.bytes / 16;  // of a line, when transposed
    // A tile is as wide as the swizzle. Without one it has up to four products.
    const uint32_t products = m.transposed ? draw(1, 2) : m.mode ? width / 2 : draw(1, 4);
    m.step                  = draw(0, products - 1);
    if (m.transposed) {
        const uint32_t across = (uint32_t(chunks) + width - 1) / width;  // atoms side by side, for 8 lines each
        const bool inner      = draw(0, 1);                              // the order of atoms in memory
        const uint32_t lines = products * 2, one = atom, other = atom * ((inner ? across : lines) + draw(0, 1));
        (m.mode ? m.leading : m.stride) = inner ? one : other;
        (m.mode ? m.stride : m.leading) = inner ? other : one;
    } else if (m.mode) m.stride = atom * draw(1, 2), m.leading = 16;
    else {
        const bool inner = draw(0, 1);
        m.leading        = inner ? 128 : 128 * (uint32_t(m.rows) / 8 + draw(0, 2));
        m.stride         = inner ? 128 * (products * 2 + draw(0, 2)) : 128;
    }
}

Case random_case(const Element& a, const Element& b, bool half) {
    auto& r = random_numbers();
    Case c{a, b, half, 8 * (1 + int(r() % 32)), {}, {}, r() % 2 == 0, r() % 2 ? 1 : -1, r() % 2 ? 1 : -1, r() % 2 == 0,
           {}};
    const char* scales[] = {"%p", "!%p", c.adds ? "1" : "0"};
    c.scale              = scales[r() % 3];
    c.ma                 = {int(r() % 4), 64, a.bytes, a.bytes == 2 && r() % 2},
    c.mb                 = {int(r() % 4), c.n, b.bytes, b.bytes == 2 && r() % 2};
    lay_out(c.ma, 0);
    lay_out(c.mb, c.registers ? 0 : c.ma.end());
    return c;
}

}  // namespace

TEST_CASE("a product of a warpgroup is right for every type, size, descriptor and swizzle", "[wgmma]") {
    const struct {
        Element a, b;
        bool half;
    } types[] = {{kBf16, kBf16, false}, {kF16, kF16, false},   {kF16, kF16, true},   {kTf32, kTf32, false},
                 {kE4m3, kE4m3, false}, {kE4m3, kE5m2, false}, {kE5m2, kE4m3, true}, {kE5m2, kE5m2, true}};
    for (const auto& t : types)
        for (int k = 0; k < 60; k++) check(random_case(t.a, t.b, t.half));
}

// A called function computes its products at once. The sums are added up by the caller.
TEST_CASE("a product in a function that is called", "[wgmma]") {
    Matrix m;
    m.rows = 64, m.bytes = 2, m.mode = 1, m.stride = 1024;
    std::vector<uint8_t> tile(m.end());
    std::vector<double> a(64 * 16);
    for (int r = 0; r < 64; r++)
        for (int k = 0; k < 16; k++) {
            const uint32_t bits = kBf16.bits(a[r * 16 + k] = half_or_whole());
            std::memcpy(&tile[m.place(r, k)], &bits, 2);
        }
    const Case c{kBf16, kBf16, false, 64, m, m, false, 1, 1, false, "%s"};
    std::string text = kernel(
        "{\n.param .b64 x;\n.param .b64 y;\n.param .b32 z;\nst.param.b64 [x], %da;\nst.param.b64 [y], %db;\n"
        "call.uni (z), product, (x, y);\nld.param.b32 %d0, [z];\n}\n",
        m.end(), 1, false);
    text.insert(text.find(".visible"),
                ".func (.param .b32 last) product(.param .b64 a, .param .b64 b)\n{\n.reg .pred %s;\n"
                ".reg .b32 %d<32>;\n.reg .b64 %da, %db;\nld.param.b64 %da, [a];\nld.param.b64 %db, [b];\n"
                "setp.ne.u64 %s, %da, %da;\n" +
                    form_of(c) +
                    "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n"
                    "st.param.b32 [last], %d31;\nret;\n}\n");
    DeviceArray<uint8_t> from(tile);
    DeviceArray<uint32_t> pa(std::vector<uint32_t>(4 * 128)), pd(std::vector<uint32_t>(128));
    const auto r = run(load_kernel(text, "k"), {1, 1, 1}, {128, 1, 1}, from.address, pa.address, pd.address,
                       m.descriptor(), m.descriptor(), uint32_t(1));
    REQUIRE(r.message == "");
    for (int t = 0; t < 128; t++) {  // register 31 is the last of a thread
        const int row = t / 32 * 16 + t % 32 / 4 + 8, column = 56 + t % 4 * 2 + 1;
        double want = 0;
        for (int k = 0; k < 16; k++) want += a[row * 16 + k] * a[column * 16 + k];
        CHECK(from_bits<float>(pd[size_t(t)]) == float(want));
    }
}
