// test_readers.cpp - the readers of fat binaries and PTX: damaged files are errors and never crashes
#include <random>

#include "catch.h"
#include "engine/fatbin.h"
#include "engine/ptx.h"
#include "ptx_program.h"

using namespace emu;
using namespace emu::test;

namespace {

const char* kText = R"(
.version 8.4
.target sm_80
.address_size 64
.global .align 8 .u64 table[3] = {generic(data), data+4, 0};
.global .align 4 .b8 data[16] = {1, 2, 0xFF, 4};
.const .align 4 .f32 factors[2] = {0f3F800000, 2.5};
.extern .shared .align 16 .b8 dynamic[];
.func (.param .b32 r) twice(.param .b32 x)
{
    .reg .b32 %r<3>;
    ld.param.u32 %r1, [x];
    shl.b32 %r2, %r1, 1;
    st.param.b32 [r+0], %r2;
    ret;
}
.visible .entry k(.param .u64 out, .param .align 8 .b8 pair[16])
.maxntid 128, 1, 1
{
    .reg .pred %p<2>;
    .reg .b32 %r<9>;
    .reg .f32 %f<3>;
    .reg .b64 %rd<4>;
    .loc 1 10 3
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %tid.x;
    setp.lt.u32 %p1, %r1, 8;
    @!%p1 bra END;
    { .reg .b32 %r1; mov.b32 %r1, 5; add.s32 %r2, %r1, 1; }
    { .param .b32 a; st.param.b32 [a+0], %r2; .param .b32 b; call.uni (b), twice, (a); ld.param.b32 %r3, [b+0]; }
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    mov.b32 {%r4, %r5}, %rd3;
    st.global.u32 [%rd3+0], %r3;
END:
    ret;
}
.file 1 "kernel.cu"
)";

// Parses a text with all its functions.
void read_all(const std::string& text) {
    auto m = ptx::parse(text);
    for (auto& f : m->functions) ptx::parse_body(*f);
}

}  // namespace

// The values are those that ptxas 13.0 writes for a variable of 64 bits.
TEST_CASE("constant expressions in initial values, operands and addresses", "[readers]") {
    const std::pair<const char*, int64_t> expressions[] = {
        {"1+2*3", 7},
        {"(1+2)*3", 9},
        {"-1/2", 0},
        {"-1/2U", 0x7fffffffffffffff},
        {"-7/2", -3},
        {"-7 % 3", -1},
        {"-16>>2U", -4},
        {"(.u64)-16>>2", 0x3ffffffffffffffc},
        {"(.s64)0xfffffffffffffff0>>2", -4},
        {"0xfffffffffffffff0>>2", 0x3ffffffffffffffc},
        {"-1<1", 1},
        {"-1<1U", 0},
        {"0xffffffffffffffff<0", 0},
        {"-9223372036854775808/2", 0x4000000000000000},
        {"~5", -6},
        {"!5", 0},
        {"1<<4|3&2^1", 19},
        {"1|2==2", 1},
        {"5&4==4", 1},
        {"1&&0||1", 1},
        {"3>2?5:6", 5},
        {"1?2:0?3:4", 2},
        {"1?-1:1U", -1},
        {"- -3", 3},
        {"-(3)", -3},
        {"2-1-1", 0},
        {"16/4/2", 2},
        {"1<<2<<3", 32},
        {"0x10+010+0b11", 27},
        {"3<=2", 0},
        {"3>=3", 1},
        {"-1==0xffffffffffffffff", 1},
        {"-5>>64", -5},
        {"WARP_SZ*2", 64},
    };
    const size_t n = std::size(expressions);
    std::string initial, code;
    for (size_t k = 0; k < n; k++) {
        initial += std::string(k ? ", " : "") + expressions[k].first;
        code += std::string("mov.b64 %x, ") + expressions[k].first + ";\nst.global.b64 [%out+" + std::to_string(k) +
                "*8], %x;\nld.global.b64 %x, [table+8*" + std::to_string(k) + "];\nst.global.b64 [%out+8*(" +
                std::to_string(n) + "+" + std::to_string(k) + ")], %x;\n";
    }
    Kernel& kernel = load_kernel(".version 8.0\n.target sm_80\n.address_size 64\n.global .align 8 .u64 table[" +
                                     std::to_string(n) + "] = {" + initial +
                                     "};\n.visible .entry k(.param .u64 out)\n{\n.reg .b64 %out, %x;\n"
                                     "ld.param.u64 %out, [out];\n" +
                                     code + "ret;\n}\n",
                                 "k");
    DeviceArray<int64_t> out(2 * n);
    REQUIRE(run(kernel, {1, 1, 1}, {1, 1, 1}, out.address).message == "");
    for (size_t k = 0; k < n; k++) {
        INFO(expressions[k].first);
        CHECK(out[k] == expressions[k].second);
        CHECK(out[n + k] == expressions[k].second);
    }
    const std::string wrong[] = {"7/0", "1.0+2.0", "1+", "(1", "1 ? 2", std::string(100000, '(')};
    for (const std::string& text : wrong)
        CHECK_THROWS_AS(ptx::parse(".version 8.0\n.global .u64 v = " + text + ";\n"), ptx::SyntaxError);
}

TEST_CASE("a complete text is read", "[readers]") {
    auto m = ptx::parse(kText);
    CHECK(m->version == 84);
    CHECK(m->target == 80);
    REQUIRE(m->by_name.count("k"));
    auto& k = *m->by_name["k"];
    ptx::parse_body(k);
    CHECK(k.params.size() == 2);
    CHECK(k.params[1].bytes == 16);
    CHECK(k.maxntid[0] == 128);
    CHECK(k.code.front().source_line == 10);
    CHECK(m->files.at(1) == "kernel.cu");

    DeviceArray<uint32_t> out(8);
    Kernel& kernel = load_kernel(kText, "k");
    struct {
        uint64_t a, b;
    } pair{};
    CHECK(run(kernel, {}, {8, 1, 1}, out.address, pair).fault == Fault::None);
    for (int i = 0; i < 8; i++) CHECK(out[size_t(i)] == 12);
}

TEST_CASE("numbers with an exponent", "[readers]") {
    auto m              = ptx::parse(".version 8.0\n.const .f64 x[4] = {0.5e-3, 1e+2, -2.5E1, 0d4008000000000000};");
    const double want[] = {0.5e-3, 100, -25, 3};
    REQUIRE(m->variables.size() == 1);
    CHECK(m->variables[0].init == std::string(reinterpret_cast<const char*>(want), sizeof want));
}

TEST_CASE("a declaration of several variables", "[readers]") {
    auto m = ptx::parse(
        ".version 8.0\n.global .align 8 .u32 a = 1, b[2] = {2, 3};\n"
        ".entry k()\n{\n.shared .b32 x, y[3];\n}\n");
    REQUIRE(m->variables.size() == 2);
    const ptx::Variable &a = m->variables[0], &b = m->variables[1];
    CHECK((a.name == "a" && a.bytes == 4 && a.align == 8 && a.init == std::string("\1\0\0\0", 4)));
    CHECK((b.name == "b" && b.bytes == 8 && b.align == 8 && b.init == std::string("\2\0\0\0\3\0\0\0", 8)));
    ptx::Function& k = *m->by_name["k"];
    ptx::parse_body(k);
    REQUIRE(k.variables.size() == 2);
    CHECK((k.variables[0].bytes == 4 && k.variables[1].bytes == 12 && k.variables[1].align == 4));
}

TEST_CASE("a kernel may begin with an instruction that does nothing here", "[readers]") {
    Kernel& k = load_kernel(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k()\n"
        "{\nfence.proxy.async.global;\nret;\n}\n",
        "k");
    CHECK(run(k, {1, 1, 1}, {32, 1, 1}).message == "");
}

TEST_CASE("damaged texts are errors", "[readers]") {
    std::mt19937 random(1);
    const std::string whole = kText;
    const std::string junk  = "{}[]();,.<>@%|-+0x9\"/*\n:_$";
    int refused             = 0;
    for (int round = 0; round < 4000; round++) {
        std::string text = whole;
        for (int k = int(random() % 4) + 1; k-- && !text.empty();) {
            const size_t at = random() % text.size();
            switch (random() % 4) {
                case 0: text.erase(at, random() % 20 + 1); break;
                case 1: text[at] = junk[random() % junk.size()]; break;
                case 2: text.insert(at, 1, junk[random() % junk.size()]); break;
                default: text.resize(at + 1);
            }
        }
        try {
            read_all(text);
        } catch (const ptx::SyntaxError&) { refused++; }
    }
    CHECK(refused > 1000);
    CHECK_THROWS_AS(read_all(std::string(100000, '{')), ptx::SyntaxError);
    CHECK_THROWS_AS(read_all(".version 8.0\n.global .b8 x[99999999999][99999999];"), ptx::SyntaxError);
    CHECK_THROWS_AS(read_all(".version 8.0\n.entry k() { .reg .b32 %r<4000000000>; }"), ptx::SyntaxError);
    CHECK_THROWS_AS(read_all(".version 8.0\n.entry k() { mov.b32 " + std::string(100000, '{') + "}"), ptx::SyntaxError);
}

TEST_CASE("damaged texts that still parse do not break the decoder", "[readers]") {
    std::mt19937 random(2);
    const std::string whole = kText;
    for (int round = 0; round < 300; round++) {
        std::string text = whole;
        const size_t at  = text.find("ld.param.u64 %rd1") + random() % 600;
        if (at >= text.size()) continue;
        text[at]                 = "abdlrsu0123456789.%,"[random() % 20];
        const std::string binary = fatbin_of(text);
        Module* m                = load_module(binary.data());
        if (Kernel* k = find_kernel(m, "k")) {
            // An empty grid decodes the kernel without running it, because a damaged program could do anything.
            LaunchConfig nothing;
            nothing.grid = {0, 1, 1};
            launch(*k, nothing, std::vector<std::byte>(k->param_bytes + 1));
        } else CHECK(!why_missing(m, "k").empty());
    }
}

TEST_CASE("damaged fat binaries are errors", "[readers]") {
    const std::string whole = fatbin_of(kText);
    CHECK(read_fatbin(whole.data(), whole.size()).size() == 1);
    for (size_t n = 0; n < whole.size(); n += 7) {
        std::string cut = whole.substr(0, n);
        cut.shrink_to_fit();
        CHECK_THROWS_AS(read_fatbin(cut.data(), cut.size()), DamagedBinary);
    }
    std::mt19937 random(3);
    for (int round = 0; round < 3000; round++) {
        std::string binary = whole;
        for (int k = 0; k < 3; k++) binary[random() % 100] = char(random());
        try {
            read_fatbin(binary.data(), binary.size());
        } catch (const DamagedBinary&) {}
    }
}

TEST_CASE("lz4 blocks", "[readers]") {
    // The block has three literals "abc", a match of 27 bytes at distance 3, and five last literals.
    const uint8_t block[] = {0x3f, 'a', 'b', 'c', 3, 0, 27 - 4 - 15, 0x50, 'x', 'y', 'z', 'x', 'y'};
    std::string want;
    for (int k = 0; k < 10; k++) want += "abc";
    want += "xyzxy";
    CHECK(inflate_lz4(block, sizeof block, want.size()) == want);
    CHECK_THROWS_AS(inflate_lz4(block, sizeof block, want.size() - 1), DamagedBinary);
    CHECK_THROWS_AS(inflate_lz4(block, sizeof block - 1, want.size()), DamagedBinary);
    const uint8_t far[] = {0x10, 'a', 9, 0};
    CHECK_THROWS_AS(inflate_lz4(far, sizeof far, 100), DamagedBinary);
    std::mt19937 random(4);
    for (int round = 0; round < 3000; round++) {
        std::vector<uint8_t> noise(random() % 60);
        for (auto& b : noise) b = uint8_t(random());
        try {
            inflate_lz4(noise.data(), noise.size(), 1000);
        } catch (const DamagedBinary&) {}
    }
}
