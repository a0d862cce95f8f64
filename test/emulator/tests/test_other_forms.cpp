// test_other_forms.cpp - control flow, address spaces, barriers, hints, and arithmetic that the other tests leave out
#include "forms.h"
#include "warp_forms.h"

using namespace emu;
using namespace emu::test;

TEST_CASE("signs of doubles, predicates, comparisons into registers", "[forms]") {
    check(
        {"abs.f64", 8, 8, 0, 0, true}, [](uint64_t a, uint64_t, uint64_t) { return a & ~(1ull << 63); }, same64);
    check(
        {"neg.f64", 8, 8, 0, 0, true}, [](uint64_t a, uint64_t, uint64_t) { return a ^ 1ull << 63; }, same64);
    const std::pair<const char*, bool (*)(bool, bool)> logic[] = {{"and", [](bool a, bool b) { return a && b; }},
                                                                  {"or", [](bool a, bool b) { return a || b; }},
                                                                  {"xor", [](bool a, bool b) { return a != b; }}};
    for (const auto& [name, f] : logic)
        check({std::string("setp.lt.s32 %p, %a, 0;\nsetp.lt.s32 %e, %b, 0;\n") + name +
                   ".pred %p, %p, %e;\nnot.pred %e, %p;\nmov.pred %p, %e;\nselp.b32 %d, 1, 0, %p",
               4, 4, 4, 0},
              [f = f](uint64_t a, uint64_t b, uint64_t) { return uint64_t(!f(int32_t(a) < 0, int32_t(b) < 0)); });
    check({"set.lt.u32.s32", 4, 4, 4, 0},
          [](uint64_t a, uint64_t b, uint64_t) { return int32_t(a) < int32_t(b) ? ~0u : 0u; });
    check({"set.ge.f32.u32", 4, 4, 4, 0},
          [](uint64_t a, uint64_t b, uint64_t) { return uint32_t(a) >= uint32_t(b) ? 0x3f800000u : 0u; });
    check({"set.gt.f16.f16", 2, 2, 2, 0, true, true},
          [](uint64_t a, uint64_t b, uint64_t) { return half_value(a) > half_value(b) ? 0x3c00u : 0u; });
    check({"set.ne.u32.bf16", 4, 2, 2, 0, true, true}, [](uint64_t a, uint64_t b, uint64_t) {
        const long double x = bf16_value(a), y = bf16_value(b);
        return x < y || x > y ? ~0u : 0u;
    });
    check({"mad.hi.sat.s32", 4, 4, 4, 4}, [](uint64_t a, uint64_t b, uint64_t c) {
        const int64_t sum = (int64_t(int32_t(a)) * int32_t(b) >> 32) + int32_t(c);
        return uint64_t(uint32_t(int32_t(std::clamp<int64_t>(sum, INT32_MIN, INT32_MAX))));
    });
}

// The references go through the bits, as the manual describes it.
TEST_CASE("bmsk and fns", "[forms]") {
    for (const bool wraps : {false, true})
        check({wraps ? "bmsk.wrap.b32" : "bmsk.clamp.b32", 4, 4, 4, 0}, [=](uint64_t a, uint64_t b, uint64_t) {
            const uint64_t from = wraps ? a & 31 : std::min<uint64_t>(a, 32),
                           n    = wraps ? b & 31 : std::min<uint64_t>(b, 32);
            uint32_t mask       = 0;
            for (uint64_t k = 0; k < n && from + k < 32; k++) mask |= 1u << (from + k);
            return mask;
        });
    check({"and.b32 %t, %b, 31;\nshl.b32 %u, %c, 26;\nshr.s32 %u, %u, 26;\nfns.b32 %d, %a, %t, %u", 4, 4, 4, 4},
          [](uint64_t a, uint64_t b, uint64_t c) {
              const int base = int(b & 31), offset = int(int32_t(uint32_t(c) << 26) >> 26);
              if (offset == 0) return a >> base & 1 ? uint64_t(base) : uint64_t(0xffffffff);
              int count = 0;
              for (int k = base; k >= 0 && k<32; k += offset> 0 ? 1 : -1)
                  if (a >> k & 1 && ++count == std::abs(offset)) return uint64_t(k);
              return uint64_t(0xffffffff);
          });
}

TEST_CASE("approximations that only hardware has", "[forms]") {
    auto within = [](double absolute, double relative) {
        return [=](uint64_t got, uint64_t want) {
            const double g = from_bits<float>(got), w = from_bits<float>(want);
            return std::fabs(g - w) <= absolute + relative * std::fabs(w);
        };
    };
    const std::string below_two = "and.b32 %t, %a, 0xbfffffff;\n";  // |x| < 2
    auto angle                  = [](uint64_t a) { return double(from_bits<float>(uint32_t(a & 0xbfffffff))); };
    check(
        {below_two + "sin.approx.f32 %d, %t", 4, 4, 0, 0, true},
        [&](uint64_t a, uint64_t, uint64_t) { return bits_of(float(std::sin(angle(a)))); }, within(0x1p-20, 0));
    check(
        {below_two + "cos.approx.ftz.f32 %d, %t", 4, 4, 0, 0, true},
        [&](uint64_t a, uint64_t, uint64_t) { return bits_of(float(std::cos(angle(a)))); }, within(0x1p-20, 0));
    // The lower half of the result's 64 bits is zero.
    const Same coarse = [](uint64_t got, uint64_t want) {
        const double g = from_bits<double>(got), w = from_bits<double>(want);
        return (got & 0xffffffff) == 0 && std::fabs(g - w) <= 0x1p-19 * std::fabs(w);
    };
    const std::string positive = "and.b64 %o, %a, 0x3fefffffffffffff;\nor.b64 %o, %o, 0x3ff0000000000000;\n";  // 1 … 2
    auto one_to_two = [](uint64_t a) { return from_bits<double>((a & 0x3fefffffffffffff) | 0x3ff0000000000000); };
    check(
        {positive + "rcp.approx.ftz.f64 %d, %o", 8, 8, 0, 0},
        [&](uint64_t a, uint64_t, uint64_t) { return bits_of(1 / one_to_two(a)); }, coarse);
    // .ftz turns subnormal operands and results into zeros.
    const auto flushed = [](double x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0, x) : x; };
    const Same special = [&](uint64_t got, uint64_t want) { return same64(got, want) || coarse(got, want); };
    check(
        {"rcp.approx.ftz.f64", 8, 8, 0, 0, true},
        [&](uint64_t a, uint64_t, uint64_t) { return bits_of(flushed(1 / flushed(from_bits<double>(a)))); }, special);
    check(
        {"rsqrt.approx.ftz.f64", 8, 8, 0, 0, true},
        [&](uint64_t a, uint64_t, uint64_t) { return bits_of(1 / std::sqrt(flushed(from_bits<double>(a)))); }, special);
    check(
        {positive + "rsqrt.approx.ftz.f64 %d, %o", 8, 8, 0, 0},
        [&](uint64_t a, uint64_t, uint64_t) { return bits_of(1 / std::sqrt(one_to_two(a))); }, coarse);
    check(
        {positive + "rsqrt.approx.f64 %d, %o", 8, 8, 0, 0},
        [&](uint64_t a, uint64_t, uint64_t) { return bits_of(1 / std::sqrt(one_to_two(a))); },
        [](uint64_t got, uint64_t want) {
            return std::fabs(from_bits<double>(got) / from_bits<double>(want) - 1) <= 0x1p-50;
        });
    for (const auto& [t, relative, ftz] : {std::tuple{kHalf, 0x1p-9, ""}, {kBrain, 0x1p-6, ".ftz"}})
        for (const bool exponential : {false, true}) {
            const std::string form =
                exponential ? std::string("ex2.approx") + ftz + "." + t.name : std::string("tanh.approx.") + t.name;
            const Reference want = [=, t = t](uint64_t a, uint64_t, uint64_t) {
                const long double x = t.value(a);
                return t.rounded(exponential ? std::exp2(x) : std::tanh(x));
            };
            const Same same = [=, t = t, relative = relative](uint64_t got, uint64_t wanted) {
                const long double g = t.value(got), w = t.value(wanted);
                return t.same(got, wanted) || std::fabs(g - w) <= relative * std::fabs(w) + 0x1p-23L;
            };
            check({form, 2, 2, 0, 0, true}, want, same);
            check(
                {form + "x2", 4, 4, 0, 0},
                [&](uint64_t a, uint64_t, uint64_t) { return want(a & 0xffff, 0, 0) | want(a >> 16, 0, 0) << 16; },
                [&](uint64_t g, uint64_t w) { return same(g & 0xffff, w & 0xffff) && same(g >> 16, w >> 16); });
        }
}

TEST_CASE("branches by table, exits, address spaces", "[forms]") {
    check({"and.b32 %t, %a, 3;\nTABLE: .branchtargets B0, B1, B2, B1;\nbrx.idx %t, TABLE;\n"
           "B0: mov.b32 %d, %b;\nbra.uni E;\nB1: not.b32 %d, %b;\nbra.uni E;\nB2: neg.s32 %d, %b;\nE: nop",
           4, 4, 4, 0},
          [](uint64_t a, uint64_t b, uint64_t) { return a % 4 == 0   ? b
                                                        : a % 4 == 2 ? -b
                                                                     : ~b; });
    check({"setp.lt.s32 %p, %a, 0;\nst.global.b32 [%q0], %a;\n@%p exit;\nmov.b32 %d, 7", 4, 4, 0, 0},
          [](uint64_t a, uint64_t, uint64_t) { return int32_t(a) < 0 ? a : 7; });
    check({"cvta.to.global.u64 %o, %q1;\nldu.global.b32 %d, [%o]", 4, 4, 0, 0},
          [](uint64_t a, uint64_t, uint64_t) { return a; });
    check({".shared .b32 word;\n.reg .b64 %s;\nmov.u64 %s, word;\ncvta.shared.u64 %s, %s;\n"
           "isspacep.global %p, %q0;\nselp.b32 %d, 1, 0, %p;\nisspacep.shared %p, %s;\nselp.b32 %t, 2, 0, %p;\n"
           "add.u32 %d, %d, %t;\nisspacep.shared %p, %q0;\nselp.b32 %t, 4, 0, %p;\nadd.u32 %d, %d, %t;\n"
           "mapa.u64 %o, %s, 0;\nisspacep.shared::cta %p, %o;\nselp.b32 %t, 8, 0, %p;\nadd.u32 %d, %d, %t",
           4, 4, 0, 0},
          [](uint64_t, uint64_t, uint64_t) { return 11; });
}

TEST_CASE("isspacep tells constants, parameters and global memory apart", "[forms]") {
    Kernel& k = load_kernel(R"(.version 8.0
.target sm_80
.address_size 64
.const .align 4 .b32 one = 1;
.global .align 4 .b32 two = 2;
.visible .entry k(.param .u64 out, .param .align 8 .b8 pair[16])
{
.reg .pred %p;
.reg .b32 %r, %bit;
.reg .b64 %a<3>, %out;
.local .b32 mine;
ld.param.u64 %out, [out];
mov.u64 %a0, one;
cvta.const.u64 %a0, %a0;
mov.u64 %a1, two;
cvta.global.u64 %a1, %a1;
mov.u64 %a2, pair;
cvta.param.u64 %a2, %a2;
mov.u32 %r, 0;
isspacep.const %p, %a0;
selp.b32 %bit, 1, 0, %p;
or.b32 %r, %r, %bit;
isspacep.global %p, %a0;
selp.b32 %bit, 2, 0, %p;
or.b32 %r, %r, %bit;
isspacep.const %p, %a1;
selp.b32 %bit, 4, 0, %p;
or.b32 %r, %r, %bit;
isspacep.global %p, %a1;
selp.b32 %bit, 8, 0, %p;
or.b32 %r, %r, %bit;
isspacep.param %p, %a2;
selp.b32 %bit, 16, 0, %p;
or.b32 %r, %r, %bit;
isspacep.global %p, %a2;
selp.b32 %bit, 32, 0, %p;
or.b32 %r, %r, %bit;
isspacep.const %p, %a2;
selp.b32 %bit, 64, 0, %p;
or.b32 %r, %r, %bit;
mov.u64 %a0, mine;
cvta.local.u64 %a0, %a0;
isspacep.local %p, %a0;
selp.b32 %bit, 128, 0, %p;
or.b32 %r, %r, %bit;
isspacep.global %p, %a0;
selp.b32 %bit, 256, 0, %p;
or.b32 %r, %r, %bit;
st.global.b32 [%out], %r;
ret;
}
)",
                            "k");
    DeviceArray<uint32_t> out(1);
    struct {
        uint64_t a, b;
    } pair{};
    CHECK(run(k, {1, 1, 1}, {1, 1, 1}, out.address, pair).message == "");
    CHECK(out[0] == (1 | 8 | 16 | 32 | 128));
}

TEST_CASE("hints, fences and pauses change no value", "[forms]") {
    for (const std::string form :
         {"prefetch.global.L2 [%q1]", "prefetchu.L1 [%q1]", "applypriority.global.L2::evict_normal [%q1], 128",
          "discard.global.L2 [%q2], 128", "membar.gl", "fence.acq_rel.gpu", "fence.sc.cta", "fence.proxy.async",
          "fence.proxy.alias", "nop", "brkpt", "pmevent 1", "nanosleep.u32 20", "griddepcontrol.wait",
          "prefetch.tensormap [%q1]", "createpolicy.fractional.L2::evict_first.b64 %q1, 1.0",
          "setmaxnreg.dec.sync.aligned.u32 40",
          "setmaxnreg.dec.sync.aligned.u32 40;\nsetmaxnreg.inc.sync.aligned.u32 64"})
        check({form + ";\nmov.b32 %d, %a", 4, 4, 0, 0}, [](uint64_t a, uint64_t, uint64_t) { return a; });
}

// The end of a kernel that calls the function at address %rd2, and this function, which has shared memory.
static const std::string call_by_address = R"({
.param .b32 a;
.param .b32 b;
st.param.b32 [a], 5;
shape: .callprototype (.param .b32 _) _ (.param .b32 _);
call (b), %rd2, (a), shape;
ld.param.b32 %r1, [b];
}
st.global.u32 [%rd1], %r1;
ret;
}
.func (.param .b32 r) f(.param .b32 x)
{
.reg .b32 %r1;
.shared .align 4 .b32 word;
ld.param.b32 %r1, [x];
st.shared.b32 [word], %r1;
ld.shared.b32 %r1, [word];
st.param.b32 [r], %r1;
ret;
}
)";

// C++ reaches a virtual function so: through a table of addresses, of which the kernel knows nothing.
TEST_CASE("a function that is called by its address has shared memory of its own", "[forms]") {
    Kernel& k = load_kernel(R"(.version 8.0
.target sm_80
.address_size 64
.func (.param .b32 r) f(.param .b32 x);
.global .align 8 .u64 table[1] = {f};
.visible .entry k(.param .u64 out)
{
.reg .b32 %r1;
.reg .b64 %rd<3>;
ld.param.u64 %rd1, [out];
ld.global.u64 %rd2, [table];
)" + call_by_address,
                            "k");
    DeviceArray<uint32_t> out(1);
    CHECK(run(k, {1, 1, 1}, {1, 1, 1}, out.address).message == "");
    CHECK(out[0] == 5);
}

// Another kernel has stored the address, so that neither a table nor this kernel's code tells which function it is.
TEST_CASE("a function whose address another kernel took has shared memory of its own", "[forms]") {
    const std::string text = R"(.version 8.0
.target sm_80
.address_size 64
.func (.param .b32 r) f(.param .b32 x);
.visible .entry store(.param .u64 to)
{
.reg .b64 %rd<3>;
ld.param.u64 %rd1, [to];
mov.u64 %rd2, f;
st.global.u64 [%rd1], %rd2;
ret;
}
.visible .entry k(.param .u64 out, .param .u64 function)
{
.reg .b32 %r1;
.reg .b64 %rd<3>;
ld.param.u64 %rd1, [out];
ld.param.u64 %rd2, [function];
)" + call_by_address;
    Kernel& k              = load_kernel(text, "k");
    DeviceArray<uint64_t> function(1);
    DeviceArray<uint32_t> out(1);
    CHECK(run(*find_kernel(k.module, "store"), {1, 1, 1}, {1, 1, 1}, function.address).message == "");
    CHECK(run(k, {1, 1, 1}, {1, 1, 1}, out.address, function[0]).message == "");
    CHECK(out[0] == 5);
}

TEST_CASE("trap ends the launch", "[forms]") {
    Kernel& k =
        load_kernel(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\ntrap;\nret;\n}\n", "k");
    CHECK(run(k, {1, 1, 1}, {32, 1, 1}).message != "");
}

// A block has one warp, which has to complete every barrier by itself.
TEST_CASE("barriers that reduce, barriers that only arrive, one lane of a warp", "[warp]") {
    Planes in(1, std::vector<uint64_t>(64 * 32));
    for (auto& v : in[0]) v = random_bits()() % 3;  // %q0 is true for values that are not zero
    for (auto& v : std::vector<size_t>{0, 1})
        std::fill_n(in[0].begin() + long(v * 32), 32, v);  // two warps without and with all
    const Planes out = run_lanes(
        "bar.red.popc.u32 %y0, 1, %q0;\nbarrier.red.and.pred %pr0, 2, %q0;\nselp.b32 %y1, 1, 0, %pr0;\n"
        "bar.red.or.pred %pr1, 3, %q0;\nselp.b32 %y2, 1, 0, %pr1;\nbar.arrive 4, 64;\nbar.sync 4, 64;\n"
        "bar.warp.sync -1;\nelect.sync %y3|%pr2, -1;\nselp.b32 %y4, 1, 0, %pr2;\n",
        in, 5);
    for (size_t w = 0; w < 64; w++) {
        uint64_t count = 0, elected = 0;
        for (size_t l = 0; l < 32; l++) count += in[0][w * 32 + l] != 0, elected += out[4][w * 32 + l];
        CHECK(elected == 1);
        for (size_t l = 0; l < 32; l++) {
            const size_t t = w * 32 + l;
            same_or_fail("bar.red.popc", t, out[0][t], count);
            same_or_fail("barrier.red.and", t, out[1][t], count == 32);
            same_or_fail("bar.red.or", t, out[2][t], count > 0);
            CHECK(out[4][w * 32 + out[3][t]] == 1);
        }
    }
}

// The second warp has 3 or 31 threads, which arrive at the barrier one after the other.
TEST_CASE("a barrier for a number of threads counts whole warps", "[warp]") {
    Kernel& k = load_kernel(R"(.version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out)
{
.reg .pred %p;
.reg .b32 %t, %l;
.reg .b64 %o, %w;
mov.u32 %t, %tid.x;
mov.u32 %l, %laneid;
setp.lt.u32 %p, %t, 32;
@%p bra WHOLE;
setp.eq.u32 %p, %l, 0;
@%p bra FIRST;
setp.eq.u32 %p, %l, 1;
@%p bra SECOND;
barrier.sync 1, 64;
bra DONE;
FIRST:
barrier.arrive 1, 64;
bra DONE;
SECOND:
barrier.sync 1, 64;
bra DONE;
WHOLE:
barrier.sync 1, 64;
DONE:
ld.param.u64 %o, [out];
mul.wide.u32 %w, %t, 4;
add.u64 %o, %o, %w;
st.global.u32 [%o], %t;
ret;
}
)",
                            "k");
    for (const uint32_t threads : {35u, 63u, 64u}) {
        DeviceArray<uint32_t> out(threads);
        CHECK(run(k, {1, 1, 1}, {threads, 1, 1}, out.address).message == "");
        for (uint32_t t = 0; t < threads; t++) CHECK(out[t] == t);
    }
}
