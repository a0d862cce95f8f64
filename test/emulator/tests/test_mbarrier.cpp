// test_mbarrier.cpp - the phases of a barrier in shared memory, as the manual describes them
#include "catch.h"
#include "ptx_program.h"

using namespace emu;
using namespace emu::test;

// Only one thread runs, so the result of each instruction is known. It is stored in out.
static const char* const kPhases = R"(.version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out, .param .u64 in)
{
.reg .pred %p;
.reg .b32 %r;
.reg .b64 %to, %from, %first, %second, %third, %fourth;
.shared .align 8 .b64 bar;
.shared .align 16 .b32 data[4];
ld.param.u64 %to, [out];
ld.param.u64 %from, [in];
mbarrier.init.shared.b64 [bar], 3;
mbarrier.arrive.shared.b64 %first, [bar];
mbarrier.pending_count.b64 %r, %first;
st.global.b32 [%to], %r;
mbarrier.test_wait.shared.b64 %p, [bar], %first;
selp.b32 %r, 1, 0, %p;
st.global.b32 [%to+4], %r;
mbarrier.arrive.noComplete.shared.b64 %second, [bar], 1;
mbarrier.pending_count.b64 %r, %second;
st.global.b32 [%to+8], %r;
mbarrier.test_wait.parity.shared.b64 %p, [bar], 0;
selp.b32 %r, 1, 0, %p;
st.global.b32 [%to+12], %r;
mbarrier.arrive_drop.shared.b64 %third, [bar];
mbarrier.test_wait.shared.b64 %p, [bar], %first;
selp.b32 %r, 1, 0, %p;
st.global.b32 [%to+16], %r;
mbarrier.test_wait.parity.shared.b64 %p, [bar], 0;
selp.b32 %r, 1, 0, %p;
st.global.b32 [%to+20], %r;
mbarrier.test_wait.parity.shared.b64 %p, [bar], 1;
selp.b32 %r, 1, 0, %p;
st.global.b32 [%to+24], %r;
mbarrier.arrive.shared.b64 %fourth, [bar];
mbarrier.pending_count.b64 %r, %fourth;
st.global.b32 [%to+28], %r;
cp.async.ca.shared.global [data], [%from], 16;
cp.async.mbarrier.arrive.noinc.shared.b64 [bar];
mbarrier.test_wait.shared.b64 %p, [bar], %fourth;
selp.b32 %r, 1, 0, %p;
st.global.b32 [%to+32], %r;
ld.shared.b32 %r, [data+12];
st.global.b32 [%to+36], %r;
mbarrier.inval.shared.b64 [bar];
ret;
}
)";

TEST_CASE("phases of a barrier in shared memory", "[forms]") {
    DeviceArray<uint32_t> out(10), in(std::vector<uint32_t>{7, 8, 9, 10});
    const auto result = run(load_kernel(kPhases, "k"), {1, 1, 1}, {1, 1, 1}, out.address, in.address);
    REQUIRE(result.message == "");
    CHECK(out[0] == 3);  // the arrivals that were pending before the first one
    CHECK(out[1] == 0);  // the phase is not over
    CHECK(out[2] == 2);
    CHECK(out[3] == 0);  // phase 0 is not over by its parity, either
    CHECK(out[4] == 1);  // the third arrival has ended it
    CHECK(out[5] == 1);
    CHECK(out[6] == 0);   // phase 1 has begun
    CHECK(out[7] == 2);   // it expects one arrival less, because one has dropped out
    CHECK(out[8] == 1);   // the arrival of the copies was the last one
    CHECK(out[9] == 10);  // the copies had been made before
}

// Runs these instructions with a barrier that was initialised with this count, and returns the message.
static std::string with_barrier(const std::string& count, const std::string& body) {
    Kernel& k = load_kernel(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k()\n{\n"
        ".reg .pred %p;\n.shared .align 8 .b64 bar;\nmbarrier.init.shared.b64 [bar], " +
            count + ";\n" + body + "ret;\n}\n",
        "k");
    return run(k, {1, 1, 1}, {1, 1, 1}).message;
}

TEST_CASE("an mbarrier that expects too many bytes ends the launch", "[forms]") {
    const std::string expect = "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 600000;\n";
    CHECK(with_barrier("1", expect + expect).find("more than 1048574 bytes") != std::string::npos);
}

TEST_CASE("an mbarrier with a count of 0 must not be used", "[forms]") {
    CHECK(with_barrier("0", "") == "");
    CHECK(with_barrier("0", "mbarrier.arrive.shared::cta.b64 _, [bar];\n").find("a count of 0") != std::string::npos);
    CHECK(with_barrier("0", "mbarrier.test_wait.parity.shared::cta.b64 %p, [bar], 0;\n").find("a count of 0") !=
          std::string::npos);
    CHECK(with_barrier("1048575", "") == "");
    CHECK(with_barrier("1048576", "").find("more than 1048575") != std::string::npos);
}
