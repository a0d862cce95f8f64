// test_matmul_hopper.cpp - our products for Hopper, against the formulas in double
//
// They need a GPU of compute capability 9.0, which the emulator is. Elsewhere these tests do nothing.
#include <zlib.h>

#include <cstdio>
#include <set>

#include "kernels/product.h"
#include "test/reference.h"

namespace {

constexpr auto F32 = DType::F32, BF16 = DType::BF16;
const Tensor none;

ProductChoice choice(Product p, const std::string& way) {
    p.alignment = 16;
    return {p.str(), way};
}

// The products of a layer, in the order in which they run below.
std::vector<Product> products_of_layer(int N, int IC, int OC, Gelu form) {
    const Product forward{N, OC, IC, BF16, BF16, false, true}, dx{N, IC, OC, BF16, BF16},
        dw{OC, IC, N, BF16, F32, true};
    std::vector<Product> all(8, forward);
    all[1].bias = true;
    all[2].gelu = all[3].gelu = form;
    all[3].bias = all[3].keeps_pre = true;
    all[4]                         = dx;
    all[5]                         = dx;
    all[5].slope                   = form;
    all[6] = all[7]   = dw;
    all[6].row_sums   = true;
    all[7].accumulate = true;
    return all;
}

// A layer whose products take the given ways.
struct Layer {
    Device dev{"cuda"};
    int N, IC, OC;
    Gelu form;
    Buffer x, w, b, dy, pre_in, out, out_bias, act_alone, act, pre, dx, dpre, dw_set, db, dw_added;
    Layer(int N, int IC, int OC, Gelu form, const std::vector<ProductChoice>& ways)
        : N(N),
          IC(IC),
          OC(OC),
          form(form),
          x(&dev, {N, IC}, BF16, Kind::ordinary, 1),
          w(&dev, {OC, IC}, BF16, Kind::ordinary, 2, 0.1),
          b(&dev, {OC}, BF16, Kind::ordinary, 3),
          dy(&dev, {N, OC}, BF16, Kind::ordinary, 4),
          pre_in(&dev, {N, IC}, BF16, Kind::ordinary, 5),
          out(&dev, {N, OC}, BF16),
          out_bias(&dev, {N, OC}, BF16),
          act_alone(&dev, {N, OC}, BF16),
          act(&dev, {N, OC}, BF16),
          pre(&dev, {N, OC}, BF16),
          dx(&dev, {N, IC}, BF16),
          dpre(&dev, {N, IC}, BF16),
          dw_set(&dev, {OC, IC}, F32),
          db(&dev, {OC}, F32),
          dw_added(&dev, {OC, IC}, F32, Kind::ordinary, 6) {
        choose_products(dev, ways, "ways of the test", nullptr);
    }
    void run() {
        const Stream s = dev.stream();
        matmul_forward(out, x, w, none, s);
        matmul_forward(out_bias, x, w, b, s);
        matmul_gelu_forward(act_alone, none, x, w, none, form, s);
        matmul_gelu_forward(act, pre, x, w, b, form, s);
        matmul_backward(dx, dw_set, db, dy, x, w, Into::set, s);
        matmul_gelu_backward(dpre, dw_added, none, dy, x, w, pre_in, form, Into::add, s);
    }
    Bytes bits() const {
        Bytes all;
        for (const Buffer* r : {&out, &out_bias, &act_alone, &act, &pre, &dx, &dpre, &dw_set, &db, &dw_added})
            all.push_back(r->bytes());
        return all;
    }
    void check() {
        const Values dw_before = dw_added.values();
        run();
        const auto forward = [&](auto real, const Values& bias) {
            return reference::matmul_forward<decltype(real)>(x.values(), w.values(), bias, N, IC, OC);
        };
        const auto gelu = [&](const Values& from_double, const Values& from_float, Buffer& result) {
            CHECK_CLOSE(result, reference::gelu_forward<double>(from_double, form),
                        reference::gelu_forward<float>(rounded(from_float, BF16), form));
        };
        const Values sums = forward(0., {}), plain = forward(0.f, {}), with_bias = forward(0., b.values()),
                     plain_bias = forward(0.f, b.values());
        CHECK_CLOSE(out, sums, plain);
        CHECK_CLOSE(out_bias, with_bias, plain_bias);
        CHECK_CLOSE(pre, with_bias, plain_bias);
        gelu(sums, plain, act_alone);
        gelu(with_bias, plain_bias, act);
        const auto backward = [&](auto real, const Values& dw, const Values& db) {
            return reference::matmul_backward<decltype(real)>(dw, db, dy.values(), x.values(), w.values(), N, IC, OC);
        };
        const Values zeros(size_t(OC) * IC, 0.), no_db(size_t(OC), 0.);
        const auto want = backward(0., zeros, no_db), plain_want = backward(0.f, zeros, no_db);
        const auto added = backward(0., dw_before, no_db), plain_added = backward(0.f, dw_before, no_db);
        CHECK_CLOSE(dx, want.dx, plain_want.dx);
        CHECK_CLOSE(dw_set, want.dw, plain_want.dw);
        CHECK_CLOSE(db, want.db, plain_want.db);
        CHECK_CLOSE(dw_added, added.dw, plain_added.dw);
        CHECK_CLOSE(dpre, reference::gelu_backward<double>(want.dx, pre_in.values(), form),
                    reference::gelu_backward<float>(rounded(plain_want.dx, BF16), pre_in.values(), form));
    }
};

// Every product of the layer takes this way. Those with gelu have no kernel for tiles of 320 columns, and stay
// cuBLASLt's.
std::vector<ProductChoice> ways(int N, int IC, int OC, Gelu form, const std::string& way) {
    std::vector<ProductChoice> all;
    for (const Product& p : products_of_layer(N, IC, OC, form))
        if (way.find("x320") == std::string::npos || (!p.gelu && !p.slope)) all.push_back(choice(p, way));
    return all;
}

}  // namespace

TEST_CASE("products on Hopper agree with the formulas", "[ops][hopper]") {
    if (!hopper()) return;
    const std::string tile = GENERATE("128x256", "128x192", "256x128", "128x320");
    const auto [N, IC, OC] = GENERATE(table<int, int, int>({{64, 64, 64}, {328, 136, 520}, {1160, 72, 264}}));
    const bool pairs       = GENERATE(false, true);
    const int clusters     = GENERATE(1, 7);
    const Gelu form        = GENERATE(Gelu::tanh, Gelu::erf);
    if (pairs && form == Gelu::erf) return;  // takes no other way than without pairs
    const std::string way =
        fmt::format("hopper {}, {} blocks{}", tile, pairs ? 2 * clusters : clusters, pairs ? " in pairs" : "");
    CAPTURE(way, N, IC, OC, form == Gelu::erf);
    Layer whole(N, IC, OC, form, ways(N, IC, OC, form, way));
    if (clusters == 1) whole.pre_in.set(Buffer(&whole.dev, {N, IC}, BF16, Kind::huge, 5).values());
    whole.check();
    if (N == 64 && clusters > 1) return;  // one step along K for one tile cannot be shared
    Layer split(N, IC, OC, form, ways(N, IC, OC, form, way + ", split sums"));
    split.check();
    // One alone has whole tiles. Else the bits show that sums were split, because they add in another order.
    CHECK((split.dw_set.bytes() == whole.dw_set.bytes()) == (clusters == 1));
}

TEST_CASE(
    "whole sums on Hopper have the same bits for any tile and any number of blocks, split ones the same every time",
    "[ops][hopper]") {
    if (!hopper()) return;
    const int N = 600, IC = 200, OC = 392;
    const Gelu form = GENERATE(Gelu::tanh, Gelu::erf);
    const auto bits = [&](const std::string& way) {
        Layer layer(N, IC, OC, form, ways(N, IC, OC, form, way));
        layer.run();
        return layer.bits();
    };
    const Bytes once = bits("hopper 128x256, 1 blocks");
    for (const char* way : {"hopper 128x256, 4 blocks", "hopper 128x192, 3 blocks", "hopper 256x128, 132 blocks",
                            "hopper 128x192, 4 blocks in pairs"})
        CHECK(bits(way) == once);
    for (const std::string split :
         {"hopper 128x192, 7 blocks, split sums", "hopper 128x192, 10 blocks in pairs, split sums"}) {
        const Bytes parts = bits(split);
        CHECK(bits(split) == parts);
        CHECK(parts != once);
    }
}

// Prints a checksum for a test of test_emulated.cpp, which runs this in several orders of blocks.
TEST_CASE("the bits of shared tiles", "[.last-block]") {
    for (const std::string way : {"hopper 128x192, 7 blocks, split sums", "hopper 128x320, 17 blocks, split sums",
                                  "hopper 128x192, 10 blocks in pairs, split sums"}) {
        Layer layer(600, 200, 392, Gelu::tanh, ways(600, 200, 392, Gelu::tanh, way));
        layer.run();
        for (const auto& bytes : layer.bits())
            std::printf("%s: %08lx\n", way.c_str(),
                        crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), uInt(bytes.size())));
    }
}

TEST_CASE("our products for Hopper are timed beside those of cuBLASLt", "[ops][hopper]") {
    if (!hopper()) return;
    const Gelu form = GENERATE(Gelu::tanh, Gelu::erf);
    Layer layer(256, 136, 200, form, {});
    std::vector<ProductChoice> timed;
    choose_products(layer.dev, {}, "", [&](const ProductChoice& c) { timed.push_back(c); });
    layer.check();
    std::set<std::string> products;
    for (const ProductChoice& c : timed) {
        CAPTURE(c.product);
        products.insert(c.product);
        CHECK(c.ours.rfind("hopper ", 0) == 0);
        CHECK(std::count(c.ways.begin(), c.ways.end(), c.ours) == 1);
        CHECK(std::count(c.ways.begin(), c.ways.end(), c.algorithm) == 1);
        CHECK(std::count_if(c.ways.begin(), c.ways.end(),
                            [](const std::string& way) { return way.rfind("hopper ", 0) == 0; }) >= 3);
        CHECK((c.seconds_of_ours >= 0.98 * c.seconds && c.seconds > 0 && c.seconds_of_first >= c.seconds));
    }
    for (Product p : products_of_layer(256, 136, 200, form)) CHECK(products.count(choice(p, "").product) == 1);
}

TEST_CASE("ways that do not exist for a product on Hopper are refused", "[ops][hopper][errors]") {
    if (!hopper()) return;
    const auto refused = [&](const Product& p, const std::string& way) {
        CAPTURE(p.str(), way);
        const Device dev("cuda");
        CHECK_REFUSED(choose_products(dev, {choice(p, way)}, "products.json", nullptr), "products.json", way.c_str(),
                      "no kernel of ours");
    };
    const std::string way = "hopper 128x256, 4 blocks";
    const Product plain{300, 200, 136, BF16, BF16, false, true};
    for (const char* wrong : {"hopper 128x128, 4 blocks", "hopper 128x256, 0 blocks", "hopper 128x256, 4 blocks ",
                              "hopper 128x256", "hopper 128x256, -4 blocks", "hopper 128x256, 99999999999 blocks",
                              "hopper 128x256, 5 blocks in pairs", "hopper 128x256, split sums, 4 blocks"})
        refused(plain, wrong);
    const auto changed = [&](auto change) {
        Product p = plain;
        change(p);
        return p;
    };
    refused(changed([](Product& p) { p.in = p.out = F32; }), way);
    refused(changed([](Product& p) { p.K = 132; }), way);
    refused(changed([](Product& p) { p.N = 196; }), way);
    refused(changed([](Product& p) { p.K = 56; }), way);
    refused(changed([](Product& p) { p.accumulate = true; }), way);
    refused(changed([](Product& p) { p.a_transposed = true; }), way);
    refused(changed([](Product& p) { p.gelu = Gelu::tanh; }), "hopper 128x320, 4 blocks");
    refused(changed([](Product& p) {
                p.b_transposed = false;
                p.slope        = Gelu::erf;
            }),
            "hopper 128x320, 4 blocks");
    // Three tiles of five steps are too few for 16 blocks, and the pieces of 500 blocks find no room.
    const Product sums{300, 200, 320, BF16, F32, true};
    refused(sums, "hopper 128x256, 16 blocks, split sums");
    refused(Product{30000, 200, 32000, BF16, F32, true}, "hopper 128x256, 500 blocks, split sums");
}
