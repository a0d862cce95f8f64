// test_cluster.cpp - the instructions for clusters of blocks, in every form
#include <functional>

#include "catch.h"
#include "ptx_program.h"

using namespace emu;
using namespace emu::test;

namespace {

const std::string kSync = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n";

struct Result {
    std::vector<uint32_t> out;  // of each thread, one block after the other, counted x first
    std::string message;
};
// Runs blocks of 32 threads. `body` leaves its result in %d. It has a shared variable `word` of 16 bytes and an
// mbarrier `full` for one arrival, registers %r0 … (32 bits) and %l0 … (64), %tid, %rank (of the block) and %next (of
// the next block), and predicates %p and %q. At the end the blocks wait for each other.
Result run_blocks(const std::string& body, Dim grid, Dim cluster) {
    const std::string text = R"(.version 8.7
.target sm_90
.address_size 64
.visible .entry k(.param .u64 out)
{
.reg .pred %p, %q;
.reg .b16 %h;
.reg .b32 %r<10>, %d, %tid, %rank, %next;
.reg .b64 %l<10>, %out, %wide;
.shared .align 16 .b8 word[64];
.shared .align 8 .b64 full;
mov.u32 %tid, %tid.x;
mov.u32 %rank, %cluster_ctarank;
mov.u32 %r0, %cluster_nctarank;
add.u32 %next, %rank, 1;
rem.u32 %next, %next, %r0;
setp.ne.u32 %p, %tid, 0;
@%p bra READY;
mbarrier.init.shared::cta.b64 [full], 1;
fence.mbarrier_init.release.cluster;
READY:
)" + kSync + body + "\n" + kSync +
                             R"(
ld.param.u64 %out, [out];
mov.u32 %r0, %ctaid.z;
mov.u32 %r1, %nctaid.y;
mov.u32 %r2, %ctaid.y;
mad.lo.u32 %r0, %r0, %r1, %r2;
mov.u32 %r1, %nctaid.x;
mov.u32 %r2, %ctaid.x;
mad.lo.u32 %r0, %r0, %r1, %r2;
mov.u32 %r1, %ntid.x;
mad.lo.u32 %r0, %r0, %r1, %tid;
mul.wide.u32 %wide, %r0, 4;
add.u64 %out, %out, %wide;
st.global.b32 [%out], %d;
ret;
}
)";
    DeviceArray<uint32_t> out(grid.count() * 32);
    LaunchConfig config;
    config.grid = grid, config.block = {32, 1, 1}, config.cluster = cluster, config.explicit_cluster = true;
    INFO(body);
    const auto r = run(load_kernel(text, "k"), config, out.address);
    return {std::vector<uint32_t>(out.host(), out.host() + out.n), r.message};
}

// Each thread must find want(rank of its block, rank of the next one, thread).
void check(const std::string& body, uint32_t blocks,
           const std::function<uint32_t(uint32_t rank, uint32_t next, uint32_t thread)>& want) {
    const Result r = run_blocks(body, {2 * blocks, 1, 1}, {blocks, 1, 1});
    INFO(body);
    CHECK(r.message == "");
    size_t wrong = 0;
    for (uint32_t b = 0; b < 2 * blocks; b++)
        for (uint32_t t = 0; t < 32; t++) wrong += r.out[b * 32 + t] != want(b % blocks, (b + 1) % blocks, t);
    CHECK(wrong == 0);
}

// Makes %r1 and %l1 the addresses in the next block of what lies at `symbol`, in shared memory and generic.
std::string there(const std::string& symbol) {
    return "mov.u32 %r1, " + symbol + ";\nmapa.shared::cluster.u32 %r1, %r1, %next;\nmov.u64 %l1, " + symbol +
           ";\ncvta.shared.u64 %l1, %l1;\nmapa.u64 %l1, %l1, %next;\n";
}
const std::string kWait =
    "WAIT:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p, [full], 0;\n"
    "@!%p bra WAIT;\n";
const std::string kFirst = "setp.eq.u32 %q, %tid, 0;\n";

}  // namespace

TEST_CASE("where a block is in its cluster", "[cluster]") {
    const Dim grid{6, 4, 2}, cluster{3, 2, 1};
    const std::pair<const char*, std::function<uint32_t(Dim)>> registers[] = {
        {"clusterid.x", [=](Dim b) { return b.x / cluster.x; }},
        {"clusterid.y", [=](Dim b) { return b.y / cluster.y; }},
        {"clusterid.z", [=](Dim b) { return b.z / cluster.z; }},
        {"nclusterid.x", [=](Dim) { return grid.x / cluster.x; }},
        {"nclusterid.y", [=](Dim) { return grid.y / cluster.y; }},
        {"nclusterid.z", [=](Dim) { return grid.z / cluster.z; }},
        {"cluster_ctaid.x", [=](Dim b) { return b.x % cluster.x; }},
        {"cluster_ctaid.y", [=](Dim b) { return b.y % cluster.y; }},
        {"cluster_ctaid.z", [=](Dim b) { return b.z % cluster.z; }},
        {"cluster_nctaid.x", [=](Dim) { return cluster.x; }},
        {"cluster_nctaid.y", [=](Dim) { return cluster.y; }},
        {"cluster_nctaid.z", [=](Dim) { return cluster.z; }},
        {"cluster_ctarank", [=](Dim b) { return b.y % cluster.y * cluster.x + b.x % cluster.x; }},
        {"cluster_nctarank", [=](Dim) { return uint32_t(cluster.count()); }},
    };
    for (const auto& [name, want] : registers) {
        const Result r = run_blocks(std::string("mov.u32 %d, %") + name + ";\n", grid, cluster);
        INFO(name);
        CHECK(r.message == "");
        for (uint32_t z = 0; z < grid.z; z++)
            for (uint32_t y = 0; y < grid.y; y++)
                for (uint32_t x = 0; x < grid.x; x++)
                    CHECK(r.out[((z * grid.y + y) * grid.x + x) * 32] == want({x, y, z}));
    }
    check("mov.pred %p, %is_explicit_cluster;\nselp.u32 %d, 5, 3, %p;\n", 2,
          [](uint32_t, uint32_t, uint32_t) { return 5; });
}

TEST_CASE("addresses in other blocks of a cluster", "[cluster]") {
    for (const uint32_t blocks : {1u, 2u, 4u, 16u}) {
        const auto next = [](uint32_t, uint32_t n, uint32_t) { return n; };
        check(there("word") + "getctarank.shared::cluster.u32 %d, %r1;\n", blocks, next);
        check(there("word") + "getctarank.u64 %d, %l1;\n", blocks, next);
        check(there("word") + "cvta.shared::cluster.u64 %l2, %l1;\ngetctarank.u64 %d, %l2;\n", blocks, next);
        // An address that is mapped a second time belongs to the block of the second rank.
        check(there("word") + "mapa.shared::cluster.u32 %r2, %r1, 0;\ngetctarank.shared::cluster.u32 %d, %r2;\n",
              blocks, [](uint32_t, uint32_t, uint32_t) { return 0; });
        check("mov.u32 %r1, word;\ngetctarank.shared::cluster.u32 %d, %r1;\n", blocks,
              [](uint32_t rank, uint32_t, uint32_t) { return rank; });
        check(there("word") +
                  "isspacep.shared::cluster %p, %l1;\nselp.u32 %d, 1, 0, %p;\nisspacep.shared::cta %p, %l1;\n"
                  "selp.u32 %r2, 2, 0, %p;\nadd.u32 %d, %d, %r2;\n",
              blocks, [](uint32_t rank, uint32_t n, uint32_t) { return rank == n ? 3 : 1; });
    }
}

TEST_CASE("loads, stores and atomic operations in another block's shared memory", "[cluster]") {
    const std::string store =
        "mov.u32 %r2, word;\nmad.lo.u32 %r3, %rank, 100, %tid;\n"
        "setp.lt.u32 %q, %tid, 16;\nshl.b32 %r4, %tid, 2;\nadd.u32 %r2, %r2, %r4;\n"
        "@%q st.shared.b32 [%r2], %r3;\n" +
        kSync + there("word") +
        "and.b32 %r5, %r4, 63;\nadd.u32 %r1, %r1, %r5;\n"
        "cvt.u64.u32 %l2, %r5;\nadd.u64 %l1, %l1, %l2;\n";
    const auto loaded = [](uint32_t, uint32_t n, uint32_t t) { return n * 100 + t % 16; };
    for (const uint32_t blocks : {1u, 2u, 3u, 8u}) {
        check(store + "ld.shared::cluster.u32 %d, [%r1];\n", blocks, loaded);
        check(store + "ld.relaxed.cluster.shared::cluster.u32 %d, [%r1];\n", blocks, loaded);
        check(store + "ld.u32 %d, [%l1];\n", blocks, loaded);
        // Each block writes to the next one, and a lane reads what that of the block before has written.
        const std::string written = kSync + "ld.shared.u32 %d, [word+8];\n";
        const auto before         = [&](uint32_t rank, uint32_t, uint32_t) { return (rank + blocks - 1) % blocks; };
        for (const char* st : {"st.shared::cluster.u32 [%r1+8], %rank", "st.u32 [%l1+8], %rank",
                               "st.release.cluster.shared::cluster.u32 [%r1+8], %rank"})
            check(there("word") + kFirst + "@%q " + st + ";\n" + written, blocks, before);
        check(there("word") + kFirst + "@%q st.shared::cluster.v2.u32 [%r1+8], {%rank, %rank};\n" + written, blocks,
              before);
        const std::string clear = kFirst + "mov.u32 %r2, 7;\n@%q st.shared.u32 [word+8], %r2;\n" + kSync;
        for (const char* add :
             {"red.shared::cluster.add.u32 [%r1+8], 2", "atom.shared::cluster.add.u32 %r3, [%r1+8], 2",
              "red.release.cluster.shared::cluster.add.u32 [%r1+8], 2", "red.add.u32 [%l1+8], 2"})
            check(clear + there("word") + add + ";\n" + written, blocks,
                  [](uint32_t, uint32_t, uint32_t) { return 7 + 2 * 32; });
    }
    // Lanes of one instruction may go to several blocks.
    check(kFirst + "@%q st.shared.u32 [word], %rank;\n" + kSync +
              "and.b32 %r3, %tid, 3;\nmov.u32 %r1, word;\nmapa.shared::cluster.u32 %r1, %r1, %r3;\n"
              "ld.shared::cluster.u32 %d, [%r1];\n",
          4, [](uint32_t, uint32_t, uint32_t t) { return t % 4; });
}

TEST_CASE("the barrier of a cluster", "[cluster]") {
    const auto rank_before = [](uint32_t rank, uint32_t, uint32_t) { return (rank + 3) % 4; };
    for (const std::string arrive : {"barrier.cluster.arrive", "barrier.cluster.arrive.release",
                                     "barrier.cluster.arrive.aligned", "barrier.cluster.arrive.release.aligned"})
        for (const std::string wait : {"barrier.cluster.wait", "barrier.cluster.wait.acquire",
                                       "barrier.cluster.wait.aligned", "barrier.cluster.wait.acquire.aligned"})
            check(there("word") + kFirst + "@%q st.shared::cluster.u32 [%r1], %rank;\n" + arrive +
                      ";\nmov.u32 %r5, 1;\n" + wait + ";\nld.shared.u32 %d, [word];\n",
                  4, rank_before);
    // A fence before makes a relaxed arrival tell what was done before the fence.
    check(there("word") + kFirst +
              "@%q st.shared::cluster.u32 [%r1], %rank;\nfence.acq_rel.cluster;\n"
              "barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;\n"
              "ld.shared.u32 %d, [word];\n",
          4, rank_before);
    // Threads that have ended are not waited for.
    const Result r = run_blocks("mov.u32 %d, 9;\nsetp.ge.u32 %p, %tid, 16;\n@%p exit;\n", {4, 1, 1}, {4, 1, 1});
    CHECK(r.message == "");
    CHECK((r.out[0] == 9 && r.out[3 * 32 + 15] == 9));
}

TEST_CASE("mbarriers of another block", "[cluster]") {
    const auto ok = [](uint32_t, uint32_t, uint32_t) { return 4; };
    for (const std::string arrive : {"mbarrier.arrive.shared::cluster.b64 _, [%r1]",
                                     "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r1]",
                                     "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r1], 1",
                                     "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%r1]",
                                     "mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r1], 0",
                                     "mbarrier.arrive.shared::cluster.b64 _, [%r1+0]"})
        check(there("full") + kFirst + "@%q " + arrive + ";\n" + kWait + "mov.u32 %d, 4;\n", 3, ok);
    // The next block expects 16 bytes here, and here they come.
    check(there("full") + kFirst +
              "@%q mbarrier.expect_tx.relaxed.cluster.shared::cluster.b64 [%r1], 16;\n"
              "@%q mbarrier.arrive.shared::cluster.b64 _, [%r1];\n" +
              kSync +
              "mbarrier.test_wait.parity.shared::cta.b64 %p, [full], 0;\n"
              "selp.u32 %d, 100, 4, %p;\n" +
              kSync + "@%q mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%r1], 16;\n" + kWait,
          3, ok);
    const Result wait =
        run_blocks(there("full") + "mbarrier.test_wait.parity.b64 %p, [%l1], 0;\n", {2, 1, 1}, {2, 1, 1});
    CHECK(wait.message.find("not in shared memory of this block") != std::string::npos);
}

TEST_CASE("st.async", "[cluster]") {
    const std::string setup = there("full") +
                              "mov.u32 %r5, %r1;\nmov.u32 %r6, word;\nmapa.shared::cluster.u32 %r7, %r6, %next;\n"
                              "add.u32 %r3, %rank, 70;\ncvt.u64.u32 %l3, %r3;\ncvt.u64.u32 %l5, %r5;\n" +
                              kFirst;
    const std::pair<std::string, std::string> forms[] = {
        {"st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r7+28], %r3, [%r5]", "4"},
        {"st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r7+28], %r3, [%r5]", "4"},
        {"st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.s32 [%r7+24], {%tid, %r3}, [%r5]", "8"},
        {"st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r7+16], {%tid, %tid, %tid, %r3}, [%r5]",
         "16"},
        {"shl.b64 %l3, %l3, 32;\n@%q st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b64 [%r7+24], %l3, "
         "[%r5]",
         "8"},
        {"shl.b64 %l4, %l3, 32;\n@%q st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.u64 [%r7+16], "
         "{%l3, %l4}, [%r5]",
         "16"},
    };
    for (const auto& [store, bytes] : forms)
        check(setup + "@%q mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], " + bytes + ";\n" +
                  (store[0] == 's' && store[1] == 't' ? "@%q " : "") + store + ";\n" + kWait +
                  "ld.shared.u32 %d, [word+28];\n",
              3, [](uint32_t rank, uint32_t, uint32_t) { return (rank + 2) % 3 + 70; });
}

TEST_CASE("bulk copies to other blocks", "[cluster]") {
    const std::string fill =
        "add.u32 %r3, %rank, 40;\nmov.u32 %r2, word;\nshl.b32 %r4, %tid, 2;\nadd.u32 %r2, %r2, %r4;\n"
        "setp.lt.u32 %q, %tid, 4;\n@%q st.shared.b32 [%r2], %r3;\nfence.proxy.async;\n" +
        kSync + kFirst;
    // 16 bytes from the first quarter of `word` to the second one of the next block.
    check(
        fill + there("full") +
            "mov.u32 %r5, %r1;\nmov.u32 %r6, word;\nmapa.shared::cluster.u32 %r7, %r6, %next;\n"
            "@%q mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 16;\n"
            "@%q cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r7+16], [%r6], 16, [%r5];\n" +
            kWait + "ld.shared.u32 %d, [word+28];\n",
        4, [](uint32_t rank, uint32_t, uint32_t) { return (rank + 3) % 4 + 40; });
    // Block 1 copies its own result pointer's bytes, 16 of global memory, to blocks 0 and 2 of 4.
    const std::string multicast =
        "mov.u32 %d, 0;\nand.b32 %r5, %rank, 1;\nsetp.eq.u32 %p, %r5, 0;\n@!%p bra SEND;\n" + kFirst +
        "@%q mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 16;\nSEND:\nld.param.u64 %l3, [out];\n" + kFirst +
        "setp.eq.and.u32 %q, %rank, 1, %q;\nmov.u32 %r6, word;\nmov.u32 %r5, full;\n";
    for (const std::string copy :
         {"mov.b16 %h, 5;\n@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
          "[%r6], [%l3], 16, [%r5], %h;\n",
          "mov.b16 %h, 5;\nmov.u64 %l4, 0;\n@%q "
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint "
          "[%r6], [%l3], 16, [%r5], %h, %l4;\n"}) {
        const std::string taken =
            "and.b32 %r5, %rank, 1;\nsetp.eq.u32 %p, %r5, 1;\n@%p bra DONE;\n" + kWait + "mov.u32 %d, 6;\nDONE:\n";
        check(multicast + copy + taken, 4, [](uint32_t rank, uint32_t, uint32_t) { return rank % 2 ? 0 : 6; });
    }
}
