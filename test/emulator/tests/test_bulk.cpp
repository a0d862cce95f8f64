// test_bulk.cpp - bulk copies and tensor maps, against a reading of NVIDIA's documentation element by element
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <array>
#include <bit>
#include <climits>
#include <random>

#include "catch.h"
#include "ptx_program.h"
#include "swizzle.h"

using namespace emu;
using namespace emu::test;

namespace {

// The kernel of every case: thread 0 runs `body` with an initialised mbarrier at `full`, then the tile goes to `to`.
constexpr size_t kTile = 32768;
std::string kernel(const std::string& body) {
    return R"(.version 8.7
.target sm_90
.address_size 64
.visible .entry k(.param .align 64 .b8 map[128], .param .u64 from, .param .u64 to, .param .u32 bytes,
                  .param .u32 c0, .param .u32 c1, .param .u32 c2, .param .u32 c3, .param .u32 c4)
{
.reg .pred %p;
.reg .b32 %n, %i, %at, %x, %tile, %c<5>;
.reg .b64 %from, %to, %map, %wide;
.shared .align 1024 .b8 tile[)" +
           std::to_string(kTile) + R"(];
.shared .align 8 .b64 full;
ld.param.u64 %from, [from];
ld.param.u64 %to, [to];
ld.param.u32 %n, [bytes];
ld.param.u32 %c0, [c0];
ld.param.u32 %c1, [c1];
ld.param.u32 %c2, [c2];
ld.param.u32 %c3, [c3];
ld.param.u32 %c4, [c4];
mov.b64 %map, map;
cvta.param.u64 %map, %map;
mov.u32 %tile, tile;
mov.u32 %i, %tid.x;
setp.ne.u32 %p, %i, 0;
@%p bra SECOND;
mbarrier.init.shared::cta.b64 [full], 1;
fence.mbarrier_init.release.cluster;
)" + body + R"(
SECOND:
bar.sync 0;
OUT:
shl.b32 %at, %i, 2;
setp.ge.u32 %p, %at, )" +
           std::to_string(kTile) + R"(;
@%p bra DONE;
cvt.u64.u32 %wide, %at;
add.u64 %wide, %to, %wide;
add.u32 %at, %at, %tile;
ld.shared.b32 %x, [%at];
st.global.b32 [%wide], %x;
add.u32 %i, %i, 32;
bra OUT;
DONE:
ret;
}
)";
}
const std::string kWait = "WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 %p, [full], 0;\n@!%p bra WAIT;\n";

struct Result {
    std::vector<uint8_t> tile;
    std::string message;
};
Result run_copy(const std::string& body, const CUtensorMap& map, Address from, uint32_t bytes,
                std::array<int, 5> c = {}) {
    DeviceArray<uint8_t> to(kTile);
    INFO(body);
    std::array<uint64_t, 16> parameter;  // unlike a CUtensorMap it has the alignment of any argument
    std::memcpy(&parameter, &map, sizeof parameter);
    const auto r = run(load_kernel(kernel(body), "k"), {1, 1, 1}, {32, 1, 1}, parameter, from, to.address, bytes, c[0],
                       c[1], c[2], c[3], c[4]);
    return {std::vector<uint8_t>(to.host(), to.host() + kTile), r.message};
}

std::vector<uint8_t> random_bytes(size_t n) {
    static std::mt19937 random(99);
    std::vector<uint8_t> v(n);
    for (auto& x : v) x = uint8_t(random());
    return v;
}

decltype(&cuTensorMapEncodeTiled) encoder() {
    void* function;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 13000
    REQUIRE(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found) ==
            cudaSuccess);
#else
    REQUIRE(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found) == cudaSuccess);
#endif
    REQUIRE(found == cudaDriverEntryPointSuccess);
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

// A tensor in global memory with random bytes, and its box.
struct Tensor {
    CUtensorMapDataType type;
    size_t element;
    size_t rank;
    std::array<uint64_t, 5> size{1, 1, 1, 1, 1}, pitch{};  // pitch: bytes from one index to the next
    std::array<uint32_t, 5> box{1, 1, 1, 1, 1};
    int swizzle;
    bool nan;
    std::vector<uint8_t> bytes;

    size_t box_bytes() const { return element * box[0] * box[1] * box[2] * box[3] * box[4]; }
    CUtensorMap map(Address at) const {
        alignas(64) CUtensorMap m;
        const uint32_t step[] = {1, 1, 1, 1, 1};
        REQUIRE(encoder()(&m, type, cuuint32_t(rank), reinterpret_cast<void*>(at), size.data(), pitch.data() + 1,
                          box.data(), step, CU_TENSOR_MAP_INTERLEAVE_NONE, CUtensorMapSwizzle(swizzle),
                          CU_TENSOR_MAP_L2_PROMOTION_NONE,
                          nan ? CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA
                              : CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS);
        return m;
    }
    // Calls f(byte in shared memory, byte in the tensor or -1) for every byte of the box at these coordinates, when the
    // tile begins at `dense`.
    template <class F> void each(std::array<int, 5> c, size_t dense, F f) const {
        const Swizzle& pattern = kSwizzles[swizzle];
        std::array<uint32_t, 5> i;
        for (i[4] = 0; i[4] < box[4]; i[4]++)
            for (i[3] = 0; i[3] < box[3]; i[3]++)
                for (i[2] = 0; i[2] < box[2]; i[2]++)
                    for (i[1] = 0; i[1] < box[1]; i[1]++)
                        for (i[0] = 0; i[0] < box[0]; i[0]++)
                            for (size_t k = 0; k < element; k++, dense++) {
                                bool inside   = true;
                                uint64_t from = k;
                                for (size_t d = 0; d < 5; d++) {
                                    const int64_t x = c[d] + int64_t(i[d]);
                                    inside &= x >= 0 && x < int64_t(size[d]);
                                    from += uint64_t(x) * (d ? pitch[d] : element);
                                }
                                const size_t row = dense / 128, chunk = dense % 128 / 16;
                                const auto& places = pattern[row % pattern.size()];
                                size_t place       = 0;
                                while (size_t(places[place]) != chunk) place++;
                                f(row * 128 + place * 16 + dense % 16, inside ? int64_t(from) : -1);
                            }
    }
};

Tensor random_tensor(size_t rank, int swizzle, std::mt19937& random) {
    auto draw = [&](size_t least, size_t most) { return least + random() % (most - least + 1); };
    const struct {
        CUtensorMapDataType type;
        size_t bytes;
    } types[]        = {{CU_TENSOR_MAP_DATA_TYPE_UINT8, 1},    {CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2},
                        {CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2},  {CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4},
                        {CU_TENSOR_MAP_DATA_TYPE_TFLOAT32, 4}, {CU_TENSOR_MAP_DATA_TYPE_INT64, 8}};
    const auto& type = types[random() % 6];
    Tensor t{type.type, type.bytes, rank, {1, 1, 1, 1, 1}, {}, {1, 1, 1, 1, 1}, swizzle, false, {}};
    t.nan       = type.bytes != 1 && type.bytes != 8 && random() % 2;
    size_t rows = 1, bytes = 0;
    for (size_t d = 0; d < rank; d++) {
        t.size[d]           = d ? draw(1, 9) : draw(1, 200);
        const size_t chunks = swizzle ? size_t(1) << swizzle : draw(1, 8);  // of 16 bytes, in a row of the box
        t.box[d]            = uint32_t(d ? draw(1, rank > 3 ? 3 : 12) : 16 / type.bytes * chunks);
        bytes               = d ? (bytes * t.size[d] + 15) / 16 * 16 : t.size[0] * t.element;
        if (d + 1 < rank) t.pitch[d + 1] = bytes = (bytes + 15) / 16 * 16 + 16 * draw(0, 2);
        rows *= d ? t.box[d] : 1;
    }
    t.bytes = random_bytes(bytes + 16);
    return t;
}

std::array<int, 5> random_place(const Tensor& t, std::mt19937& random) {
    std::array<int, 5> c{};
    for (size_t d = 0; d < t.rank; d++) c[d] = int(random() % (t.size[d] + t.box[d])) - int(t.box[d] / 2);
    if (random() % 8 == 0) {  // far outside, or just outside
        const int far[] = {INT_MIN, INT_MAX, int(t.size[0]), -int(t.box[0])};
        c[0]            = far[random() % 4];
    }
    return c;
}

std::string coordinates(size_t rank) {
    std::string text = "{%c0";
    for (size_t d = 1; d < rank; d++) text += ", %c" + std::to_string(d);
    return text + "}";
}

}  // namespace

TEST_CASE("bytes that an mbarrier expects", "[forms]") {
    // Each step is followed by a test whether phase 0 or phase 1 is over, whose results are the bits of the word.
    const char* const steps[] = {
        "mbarrier.arrive.expect_tx.shared::cta.b64 %wide, [full], 48",  // no arrivals are left, but 48 bytes
        "mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [full], 32",
        "mbarrier.complete_tx.shared::cluster.b64 [full], 16",  // phase 0 is over
        "mbarrier.complete_tx.shared::cta.b64 [full], 64",      // may come before its expect_tx
        "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [full], 64",
        "mbarrier.arrive.release.cta.shared::cta.b64 _, [full]",  // phase 1 is over
        "mbarrier.arrive_drop.expect_tx.shared::cluster.b64 _, [full], 16",
        "mbarrier.arrive.shared.b64 _, [full]",
    };
    const uint32_t over[] = {0, 0, 1, 1, 1, 3, 3, 3};
    std::string body;
    for (size_t k = 0; k + 1 < std::size(steps); k++) {
        body += std::string(steps[k]) + ";\n";
        for (int parity : {0, 1})
            body += "mbarrier.test_wait.parity.acquire.cta.shared::cta.b64 %p, [full], " + std::to_string(parity) +
                    ";\nselp.b32 %x, 1, 0, %p;\nst.shared.b8 [tile+" + std::to_string(2 * k + size_t(parity)) +
                    "], %x;\n";
    }
    const Result r = run_copy(body, {}, 0, 0);
    CHECK(r.message == "");
    // In phase n the phase of the other parity counts as over: parity 1 before phase 0 ends, parity 0 after it …
    for (size_t k = 0; k + 1 < std::size(steps); k++) {
        const bool second = over[k] == 1;  // phase 1 runs
        CHECK(r.tile[2 * k] == (second ? 1 : 0));
        CHECK(r.tile[2 * k + 1] == (second ? 0 : 1));
    }
    // Generic addresses work in shared memory alone.
    const char* const generic =
        "mbarrier.arrive.expect_tx.b64 _, [%wide], 16;\nmbarrier.complete_tx.b64 [%wide], 16;\n"
        "mbarrier.try_wait.parity.b64 %p, [%wide], 0;\n@!%p trap;\n";
    CHECK(run_copy(std::string("mov.b64 %wide, full;\ncvta.shared.u64 %wide, %wide;\n") + generic, {}, 0, 0).message ==
          "");
    DeviceArray<uint64_t> barrier(std::vector<uint64_t>{1});
    CHECK(run_copy(std::string("mov.b64 %wide, %from;\n") + generic, {}, barrier.address, 0)
              .message.find("not in shared memory") != std::string::npos);
    // The barrier that has lost its only thread expects no arrivals any more, so a further one is an error.
    CHECK(run_copy(body + steps[7] + ";\n" + steps[7] + ";\n", {}, 0, 0).message.find("mbarrier") != std::string::npos);
}

TEST_CASE("bulk copies", "[forms]") {
    for (const uint32_t n : {16u, 32u, 48u, 4096u, 16384u})
        for (const char* form : {"shared::cluster.global", "shared::cta.global"}) {
            DeviceArray<uint8_t> from(random_bytes(n));
            const Result r =
                run_copy(std::string("mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], %n;\ncp.async.bulk.") +
                             form + ".mbarrier::complete_tx::bytes [%tile+64], [%from], %n, [full];\n" + kWait,
                         {}, from.address, n);
            CHECK(r.message == "");
            for (size_t k = 0; k < kTile; k++)
                if (!(r.tile[k] == (k >= 64 && k < 64 + n ? from[k - 64] : 0xff))) FAIL("byte " << k);
            // From there to another place of shared memory, and back to global memory
            DeviceArray<uint8_t> back(n + 32);
            std::memset(back.host(), 7, n + 32);
            const Result s = run_copy(
                std::string("add.u32 %at, %n, %n;\nmbarrier.expect_tx.relaxed.cta.shared::cta.b64 [full], %at;\n"
                            "cp.async.bulk.prefetch.L2.global [%from], %n;\n"
                            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%tile], "
                            "[%from], %n, [full], %wide;\n") +
                    "LOADED:\nmbarrier.test_wait.parity.shared::cta.b64 %p, [full], 1;\n@!%p bra LOADED;\n" +
                    "mbarrier.test_wait.parity.shared::cta.b64 %p, [full], "
                    "0;\nmbarrier.test_wait.parity.shared::cta.b64 "
                    "%p, [full], 0;\n" +
                    "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%tile+16384], [%tile], "
                    "%n, "
                    "[full];\nmbarrier.arrive.shared::cta.b64 _, [full];\n" +
                    kWait + "ld.param.u64 %to, [map];\nadd.u64 %to, %to, 16;\n" +
                    "cp.async.bulk.global.shared::cta.bulk_group [%to], [%tile+16384], %n;\n"
                    "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;\nst.shared.b8 [tile+16384], 0;\n"
                    "cp.async.bulk.wait_group 0;\nld.param.u64 %to, [to];\n",
                [&] {
                    CUtensorMap m{};
                    m.opaque[0] = back.address;
                    return m;
                }(),
                from.address, n);
            CHECK(s.message == "");
            for (size_t k = 0; k < n + 32; k++)
                if (!(back[k] == (k >= 16 && k < 16 + n ? from[k - 16] : 7))) FAIL("byte " << k);
        }
}

TEST_CASE("tiles of tensors, with every swizzle and beyond every edge", "[forms]") {
    std::mt19937 random(7);
    for (size_t rank = 1; rank <= 5; rank++)
        for (int swizzle = 0; swizzle < 4; swizzle++)
            for (int repeat = 0; repeat < 12; repeat++) {
                const Tensor t         = random_tensor(rank, swizzle, random);
                const auto c           = random_place(t, random);
                const size_t begin     = random() % 8 * 128;  // of the tile; the pattern goes by the address
                const std::string tile = "[%tile+" + std::to_string(begin) + "]";
                if (begin + t.box_bytes() > kTile) continue;
                CAPTURE(rank, swizzle, t.element, t.size, t.box, c, t.nan, begin);
                DeviceArray<uint8_t> tensor(t.bytes);
                const auto n           = uint32_t(t.box_bytes());
                const std::string form = std::to_string(rank) + "d";
                const Result r =
                    run_copy("cp.async.bulk.prefetch.tensor." + form + ".L2.global.tile [%map, " + coordinates(rank) +
                                 "];\nmbarrier.arrive.expect_tx.shared::cta.b64 _, [full], %n;\ncp.async.bulk.tensor." +
                                 form + (repeat % 2 ? ".shared::cluster.global.tile" : ".shared::cta.global") +
                                 ".mbarrier::complete_tx::bytes " + tile + ", [%map, " + coordinates(rank) +
                                 "], [full];\n" + kWait,
                             t.map(tensor.address), 0, n, c);
                REQUIRE(r.message == "");
                std::vector<uint8_t> want(kTile, 0xff);
                t.each(c, begin, [&](size_t place, int64_t from) {
                    want[place] = from >= 0 ? t.bytes[size_t(from)] : t.nan ? 0xff : 0;
                });
                CHECK((r.tile == want));

                // The other way: the bytes of `image` are in the tile.
                DeviceArray<uint8_t> image(random_bytes(kTile));
                const Result s = run_copy(
                    "mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 32768;\ncp.async.bulk.shared::cluster.global."
                    "mbarrier::complete_tx::bytes [%tile], [%from], 32768, [full];\n" +
                        kWait + "cp.async.bulk.tensor." + form + ".global.shared::cta" + (repeat % 2 ? ".tile" : "") +
                        ".bulk_group [%map, " + coordinates(rank) + "], " + tile +
                        ";\ncp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\n",
                    t.map(tensor.address), image.address, n, c);
                REQUIRE(s.message == "");
                std::vector<uint8_t> after = t.bytes;
                t.each(c, begin, [&](size_t place, int64_t at) {
                    if (at >= 0) after[size_t(at)] = image[place];
                });
                CHECK((std::vector<uint8_t>(tensor.host(), tensor.host() + t.bytes.size()) == after));
            }
}

// The bytes of whole numbers as elements of a type: u32, s64, f16 …
std::vector<uint8_t> elements(const std::string& type, const std::vector<int64_t>& numbers) {
    const size_t size = type == "bf16" || type == "f16" ? 2 : type.substr(1) == "64" ? 8 : 4;
    std::vector<uint8_t> bytes(numbers.size() * size);
    for (size_t k = 0; k < numbers.size(); k++) {
        const int64_t n  = numbers[k];
        const auto small = float(n);
        const auto store = [&](auto x) { std::memcpy(&bytes[k * size], &x, sizeof x); };
        if (type == "f16") store(_Float16(small));
        else if (type == "bf16") store(uint16_t(std::bit_cast<uint32_t>(small) >> 16));
        else if (type == "f32") store(small);
        else if (type == "f64") store(double(n));
        else if (size == 8) store(n);
        else store(int32_t(n));
    }
    return bytes;
}
int64_t reduced(const std::string& op, int64_t old, int64_t v) {
    if (op == "add") return old + v;
    if (op == "min") return std::min(old, v);
    if (op == "max") return std::max(old, v);
    if (op == "and") return old & v;
    if (op == "or") return old | v;
    if (op == "xor") return old ^ v;
    if (op == "inc") return old >= v ? 0 : old + 1;
    return old == 0 || old > v ? v : old - 1;  // dec
}
const std::string kLoadTile =
    "mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 32768;\ncp.async.bulk.shared::cluster.global."
    "mbarrier::complete_tx::bytes [%tile], [%from], 32768, [full];\n" +
    kWait;

TEST_CASE("bulk copies that reduce", "[forms]") {
    std::mt19937 random(11);
    const struct {
        const char* type;
        std::vector<std::string> ops;
    } rows[] = {{"b32", {"and", "or", "xor"}},
                {"b64", {"and", "or", "xor"}},
                {"u32", {"add", "min", "max", "inc", "dec"}},
                {"s32", {"add", "min", "max"}},
                {"u64", {"add", "min", "max"}},
                {"s64", {"min", "max"}},
                {"f16", {"add", "min", "max"}},
                {"bf16", {"add", "min", "max"}},
                {"f32", {"add"}},
                {"f64", {"add"}}};
    for (const auto& [name, ops] : rows)
        for (const std::string& op : ops) {
            const std::string type = name;
            const bool positive = type[0] == 'u', half = type == "f16" || type == "bf16";
            // Numbers and sums that every type holds exactly
            std::vector<int64_t> before(40), with(kTile / 2, 0), after;
            for (auto& x : before) x = int64_t(random() % 101) - (positive ? 0 : 50);
            for (auto& x : with) x = int64_t(random() % 101) - (positive ? 0 : 50);
            for (size_t k = 0; k < before.size(); k++) after.push_back(reduced(op, before[k], with[k]));
            DeviceArray<uint8_t> to(elements(type, before)), from(elements(type, with));
            const auto n           = uint32_t(to.n);
            const std::string form = "cp.reduce.async.bulk.global.shared::cta.bulk_group." + op +
                                     (half && op == "add" ? ".noftz." : ".") + type;
            CUtensorMap m{};
            m.opaque[0] = to.address;
            const Result r =
                run_copy(kLoadTile + "ld.param.u64 %to, [map];\n" + form +
                             " [%to], [%tile], %n;\ncp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\n"
                             "ld.param.u64 %to, [to];\n",
                         m, from.address, n);
            CAPTURE(form);
            CHECK(r.message == "");
            CHECK((std::vector<uint8_t>(to.host(), to.host() + n) == elements(type, after)));
        }
}

TEST_CASE("tiles that are added to tensors", "[forms]") {
    std::mt19937 random(13);
    const std::pair<CUtensorMapDataType, const char*> types[] = {
        {CU_TENSOR_MAP_DATA_TYPE_FLOAT32, "f32"}, {CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, "bf16"},
        {CU_TENSOR_MAP_DATA_TYPE_FLOAT16, "f16"}, {CU_TENSOR_MAP_DATA_TYPE_INT32, "s32"},
        {CU_TENSOR_MAP_DATA_TYPE_UINT32, "u32"},  {CU_TENSOR_MAP_DATA_TYPE_INT64, "s64"},
        {CU_TENSOR_MAP_DATA_TYPE_UINT64, "u64"},  {CU_TENSOR_MAP_DATA_TYPE_FLOAT64, "f64"}};
    for (const auto& [type, name] : types)
        for (size_t rank = 1; rank <= 5; rank++) {
            const int swizzle = int(random() % 4);
            Tensor t          = random_tensor(rank, swizzle, random);
            while (t.type != CU_TENSOR_MAP_DATA_TYPE_FLOAT32) t = random_tensor(rank, swizzle, random);
            const size_t size = elements(name, {0}).size();
            t.type = type, t.element = size, t.nan = false;
            t.size[0] = t.size[0] * 4 / size, t.box[0] = uint32_t(t.box[0] * 4 / size);
            if (!t.size[0]) t.size[0] = 1;
            if (t.box_bytes() > kTile) continue;
            const auto c = random_place(t, random);
            std::vector<int64_t> before(t.bytes.size() / size), with(kTile / size);
            for (auto& x : before) x = int64_t(random() % 101);
            for (auto& x : with) x = int64_t(random() % 101);
            DeviceArray<uint8_t> tensor(elements(name, before)), image(elements(name, with));
            const std::string form = std::to_string(rank) + "d";
            CAPTURE(name, rank, swizzle, t.size, t.box, c);
            const Result r = run_copy(kLoadTile + "cp.reduce.async.bulk.tensor." + form + ".global.shared::cta.add" +
                                          (rank % 2 ? ".tile" : "") + ".bulk_group [%map, " + coordinates(rank) +
                                          "], [%tile];\ncp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\n",
                                      t.map(tensor.address), image.address, 0, c);
            CHECK(r.message == "");
            std::vector<int64_t> after = before;
            t.each(c, 0, [&](size_t place, int64_t at) {
                if (at >= 0 && at % int64_t(size) == 0) after[size_t(at) / size] += with[place / size];
            });
            CHECK((std::vector<uint8_t>(tensor.host(), tensor.host() + tensor.n) == elements(name, after)));
        }
    // PTX has no maximum of f32 here, and no operation on bytes.
    for (const auto& [type, op] : {std::pair{CU_TENSOR_MAP_DATA_TYPE_FLOAT32, "max"},
                                   {CU_TENSOR_MAP_DATA_TYPE_UINT8, "add"},
                                   {CU_TENSOR_MAP_DATA_TYPE_INT32, "inc"}}) {
        Tensor t{
            type, type == CU_TENSOR_MAP_DATA_TYPE_UINT8 ? 1u : 4u, 1, {64, 1, 1, 1, 1}, {}, {16, 1, 1, 1, 1}, 0, false,
            {}};
        DeviceArray<uint8_t> tensor(256), image(random_bytes(kTile));
        const Result r = run_copy(kLoadTile + "cp.reduce.async.bulk.tensor.1d.global.shared::cta." + op +
                                      ".bulk_group [%map, {%c0}], [%tile];\n",
                                  t.map(tensor.address), image.address, 0);
        CHECK(r.message.find("cannot reduce") != std::string::npos);
    }
}

TEST_CASE("tensor maps that the driver refuses", "[forms]") {
    struct Case {
        const char* why;
        cuuint32_t rank;
        uint64_t address, size0, stride;
        cuuint32_t box0, box1, step;
        CUtensorMapSwizzle swizzle;
        CUtensorMapDataType type     = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
        CUtensorMapFloatOOBfill fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
    };
    const auto none = CU_TENSOR_MAP_SWIZZLE_NONE;
    const Case good{"", 2, 4096, 64, 128, 64, 8, 1, CU_TENSOR_MAP_SWIZZLE_128B};
    auto with = [&](const char* why, auto change) {
        Case c = good;
        c.why  = why;
        change(c);
        return c;
    };
    const Case cases[] = {
        good,
        with("six dimensions", [](Case& c) { c.rank = 6; }),
        with("address", [](Case& c) { c.address = 4104; }),
        with("size", [](Case& c) { c.size0 = 0; }),
        with("stride", [](Case& c) { c.stride = 136; }),
        with("box", [](Case& c) { c.box1 = 257; }),
        with("row of the box", [&](Case& c) { c.box0 = 4, c.swizzle = none; }),
        with("row of the box, which does not fill the swizzle", [](Case& c) { c.box0 = 32; }),
        with("swizzle too narrow", [](Case& c) { c.swizzle = CU_TENSOR_MAP_SWIZZLE_64B; }),
        with("element stride", [](Case& c) { c.step = 9; }),
        with("NaN of integers",
             [](Case& c) {
                 c.type = CU_TENSOR_MAP_DATA_TYPE_UINT16, c.fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA;
             }),
    };
    for (const Case& c : cases) {
        CUtensorMap m;
        const cuuint64_t size[] = {c.size0, 9, 1, 1, 1, 1}, stride[] = {c.stride, 4096, 4096, 4096, 4096};
        const cuuint32_t box[] = {c.box0, c.box1, 1, 1, 1, 1}, step[] = {1, c.step, 1, 1, 1, 1};
        CAPTURE(c.why);
        CHECK((encoder()(&m, c.type, c.rank, reinterpret_cast<void*>(c.address), size, stride, box, step,
                         CU_TENSOR_MAP_INTERLEAVE_NONE, c.swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                         c.fill) == CUDA_SUCCESS) == (c.why[0] == 0));
    }
}
