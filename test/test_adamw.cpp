// test_adamw.cpp - AdamW against test/reference.h: one row, tables of rows, and rounding at random
#include "kernels/feed.h"
#include "kernels/ops.h"
#include "test/reference.h"

constexpr auto F32 = DType::F32, BF16 = DType::BF16, I32 = DType::I32;
static const Tensor none;

static Buffer on_device(const Device* dev, const AdamWUpdate& update) {
    Buffer b(dev, {4}, I32);
    from_host(b, &update, dev->stream());
    return b;
}

// One update of a table of one row.
static void adamw_row(const Device* dev, const AdamWRow& row, Tensor norm2, const AdamWUpdate& update,
                      const AdamWRule& rule) {
    adamw(AdamWTable({row}, *dev), norm2, none, on_device(dev, update), rule, dev->stream());
}

TEST_CASE("adamw", "[ops]") {
    const auto dev           = GENERATE(from_range(devices()));
    const auto dtype         = GENERATE(F32, BF16);
    const auto n             = GENERATE(1, 7, 33, 40001);
    const auto count         = GENERATE(as<int64_t>{}, 1, 2, 1000, 1000000000);
    const auto [norm2, clip] = GENERATE(table<float, float>({{4.f, 1.f}, {4.f, 3.f}, {4.f, 0.f}, {0.f, 1.f}}));
    const auto decay         = GENERATE(0.f, 0.1f);
    CAPTURE(dev, dtype, n, count, norm2, clip, decay);
    const reference::AdamWStep step{1e-2f, 0.9f, 0.95f, 1e-8f, decay, clip, count};

    Buffer master(dev, {n}, F32, Kind::ordinary, 1), m(dev, {n}, F32, Kind::ordinary, 2, 0.1),
        v(dev, {n}, F32, Kind::ordinary, 3);
    Values v_values = v.values();
    for (double& x : v_values) x *= 0.01 * x;
    v.set(v_values);
    const Buffer grad(dev, {n}, F32, Kind::ordinary, 4), norm(dev, {1}, F32, Values{norm2});
    Buffer w_half(dev, {n}, BF16);
    const Tensor w = dtype == F32 ? master.tensor() : w_half.tensor();  // in fp32 the weights are their own master
    const reference::Moments before{master.values(), m.values(), v.values()};
    adamw_row(dev, {w, master, m, v, grad, decay}, norm, step.update(), step.rule());
    const auto want  = reference::adamw<double>(before, grad.values(), norm2, step);
    const auto plain = reference::adamw<float>(before, grad.values(), norm2, step);
    CHECK_CLOSE(m, want.m, plain.m);
    CHECK_CLOSE(v, want.v, plain.v);
    CHECK_CLOSE(master, want.master, plain.master);
    if (dtype == BF16) CHECK(w_half.values() == rounded(master.values(), BF16));
}

TEST_CASE("adamw changes nothing when the loss or a gradient is not finite", "[ops]") {
    const auto dev     = GENERATE(from_range(devices()));
    const float bad    = GENERATE(NAN, INFINITY, -INFINITY);
    const bool in_loss = GENERATE(false, true);
    CAPTURE(dev, bad, in_loss);
    Buffer w(dev, {40}, BF16, Kind::ordinary, 1), master(dev, {40}, F32, Kind::ordinary, 1);
    Buffer m(dev, {40}, F32, Kind::ordinary, 2), v(dev, {40}, F32, Kind::zeros);
    const Buffer grad(dev, {40}, F32, Kind::garbage), norm(dev, {1}, F32, Values{in_loss ? 1.f : bad}),
        loss(dev, {1}, F32, Values{in_loss ? bad : 1.f});
    const Bytes before{w.bytes(), master.bytes(), m.bytes(), v.bytes()};
    adamw(AdamWTable({{w, master, m, v, grad, 0.1f}}, *dev), norm, loss,
          on_device(dev, adamw_update(1e-2f, 0.9f, 0.95f, 3)), {0.9f, 0.95f, 1e-8f, 1.f}, dev->stream());
    CHECK(before == Bytes{w.bytes(), master.bytes(), m.bytes(), v.bytes()});
}

// The rows of a table, and their memory. Each row begins at a multiple of `alignment` elements: with 1 most rows have
// odd addresses, with 32 each begins at 64 bytes or more.
struct AdamWRows {
    Buffer w, master, m, v, grad;
    std::vector<AdamWRow> rows;

    AdamWRows(const Device* dev, DType dtype, const std::vector<int64_t>& sizes, int64_t alignment, bool own_master)
        : w(dev, {total(sizes, alignment)}, dtype, Kind::zeros),
          master(dev, w.tensor().shape, F32, Kind::ordinary, 1),
          m(dev, w.tensor().shape, F32, Kind::ordinary, 2, 0.1),
          v(dev, w.tensor().shape, F32, Kind::ordinary, 3),
          grad(dev, w.tensor().shape, F32, Kind::ordinary, 4) {
        Values squares = v.values();
        for (double& x : squares) x *= 0.01 * x;
        v.set(squares);
        int64_t at = 0;
        for (const int64_t n : sizes) {
            const auto row  = [&](const Buffer& b) { return b.tensor().rows(at, n); };
            const size_t i  = rows.size();
            const Tensor to = dtype == F32 && own_master ? row(master) : row(w);
            rows.push_back({to, row(master), row(m), row(v), row(grad), i % 2 ? 0.1f : 0.f, {i % 3 ? 7 + i : 0}});
            at += ceil(n, alignment);
        }
    }
    Bytes bytes() const { return {w.bytes(), master.bytes(), m.bytes(), v.bytes()}; }

  private:
    static int64_t ceil(int64_t n, int64_t alignment) { return (n + alignment - 1) / alignment * alignment; }
    static int64_t total(const std::vector<int64_t>& sizes, int64_t alignment) {
        int64_t n = 0;
        for (const int64_t size : sizes) n += ceil(size, alignment);
        return n;
    }
};

TEST_CASE("one update of a table equals updates of its rows one by one, to the bit", "[ops]") {
    const auto dev        = GENERATE(from_range(devices()));
    const auto dtype      = GENERATE(F32, BF16);
    const bool own_master = GENERATE(false, true);
    const bool many       = GENERATE(false, true);
    const auto alignment  = GENERATE(as<int64_t>{}, 1, 32);
    CAPTURE(dev, dtype, own_master, many, alignment);
    std::vector<int64_t> sizes = {1, 3, 4, 4095, 4096, 4097, 8192, 12289};
    if (many) sizes = std::vector<int64_t>(300, 5);
    const Buffer norm(dev, {1}, F32, Values{4});
    const AdamWUpdate update = adamw_update(1e-2f, 0.9f, 0.95f, 3);
    const AdamWRule rule{0.9f, 0.95f, 1e-8f, 1.f};
    const AdamWRows in_table(dev, dtype, sizes, alignment, own_master);
    const AdamWRows one_by_one(dev, dtype, sizes, alignment, own_master);
    const Bytes before = in_table.bytes();
    CHECK(before == one_by_one.bytes());
    const AdamWTable table(in_table.rows, *dev);
    for (int twice = 0; twice < 2; twice++) {
        adamw(table, norm, none, on_device(dev, update), rule, dev->stream());
        for (const AdamWRow& row : one_by_one.rows) adamw_row(dev, row, norm, update, rule);
    }
    CHECK(in_table.bytes() == one_by_one.bytes());
    CHECK(in_table.bytes() != before);
}

// One update with a learning rate of 0: the masters stay as they are, and are rounded to w.
static std::vector<unsigned char> rounded_at_random(const Device* dev, const Values& masters, uint64_t key,
                                                    int64_t step) {
    const int64_t n = int64_t(masters.size());
    Buffer master(dev, {n}, F32, masters), w(dev, {n}, BF16), m(dev, {n}, F32, Kind::zeros),
        v(dev, {n}, F32, Kind::zeros);
    const Buffer grad(dev, {n}, F32, Kind::zeros), norm(dev, {1}, F32, Values{1});
    adamw_row(dev, {w, master, m, v, grad, 0.f, {key}}, norm, adamw_update(0.f, 0.9f, 0.95f, step),
              {0.9f, 0.95f, 1e-8f, 0.f});
    CHECK(master.values() == masters);
    const auto bytes = w.bytes();
    w.set(Values(masters.size(), 0.));
    round_at_random(w, master, {key}, uint32_t(step), dev->stream());
    CHECK(w.bytes() == bytes);
    return bytes;
}

TEST_CASE("adamw has the same bits on every device", "[ops]") {
    const auto dtype    = GENERATE(F32, BF16);
    const auto rounding = GENERATE(uint64_t(0), uint64_t(7));
    const int64_t n     = 40001;
    if (dtype == F32 && rounding) return;
    std::vector<Bytes> results;
    for (const auto& dev : devices()) {
        Buffer master(dev, {n}, F32, Kind::ordinary, 1), m(dev, {n}, F32, Kind::ordinary, 2),
            v(dev, {n}, F32, Kind::ordinary, 3);
        Values squares = v.values();
        for (double& x : squares) x *= x;
        v.set(squares);
        const Buffer grad(dev, {n}, F32, Kind::ordinary, 4), norm(dev, {1}, F32, Values{9.f});
        Buffer w_half(dev, {n}, BF16);
        const Tensor w = dtype == F32 ? master.tensor() : w_half.tensor();
        for (int64_t step = 1; step < 4; step++)
            adamw_row(dev, {w, master, m, v, grad, .1f, {rounding}}, norm, adamw_update(1e-3f, .9f, .95f, step),
                      {.9f, .95f, 1e-8f, 1.f});
        results.push_back({w_half.bytes(), master.bytes(), m.bytes(), v.bytes()});
    }
    for (const Bytes& result : results) CHECK((result == results[0]));
}

TEST_CASE("adamw rounds at random to one of two neighbours, the same on every device", "[ops]") {
    const auto dev = GENERATE(from_range(devices()));
    const auto n   = GENERATE(1, 3, 4, 63, 10001);
    CAPTURE(dev, n);
    Values masters = Buffer(devices()[0], {n}, F32, Kind::ordinary, 1).values();
    for (size_t i = 0; i < masters.size(); i += 5) masters[i] = rounded(masters[i], BF16);
    const auto bytes = rounded_at_random(dev, masters, 42, 7);
    CHECK(bytes == rounded_at_random(devices()[0], masters, 42, 7));
    for (size_t i = 0; i < masters.size(); i++) {
        bf16 w;
        std::memcpy(&w, bytes.data() + 2 * i, 2);
        CAPTURE(i, masters[i], float(w));
        CHECK(std::fabs(float(w) - masters[i]) < ulp(masters[i], BF16));
        if (i % 5 == 0) CHECK(double(float(w)) == masters[i]);
    }
    if (n < 100) return;
    CHECK(bytes != rounded_at_random(dev, masters, 42, 8));
    CHECK(bytes != rounded_at_random(dev, masters, 43, 7));
}

// Weights on a GPU, and their state in the GPU's memory or in the host's.
struct StateIn {
    Arena state{"state"}, rest{"rest"};
    AdamWTable table;
    std::vector<Tensor> all;

    StateIn(const Device& dev, Memory memory, DType dtype, const std::vector<int64_t>& sizes, uint64_t key) {
        const auto each = [&](auto take, auto take_state) {
            std::vector<AdamWRow> rows;
            for (const int64_t n : sizes) {
                const Tensor w = take(Shape{n}, dtype), master = dtype == F32 ? w : take_state(Shape{n}, F32);
                const Tensor m = take_state(Shape{n}, F32), v = take_state(Shape{n}, F32), grad = take(Shape{n}, F32);
                rows.push_back({w, master, m, v, grad, n % 2 ? 0.f : 0.1f, {key, 0}, int64_t(rows.size()) / 2 * 3});
            }
            return rows;
        };
        const auto plan = [](Arena& a) { return [&](const Shape& s, DType t) { return a.plan(s, t), Tensor{}; }; };
        const auto take = [](Arena& a) { return [&](const Shape& s, DType t) { return a.take(s, t); }; };
        each(plan(rest), plan(state));
        rest.allocate(dev);
        state.allocate(dev, memory);
        auto rows     = each(take(rest), take(state));
        uint64_t seed = 1;
        for (const AdamWRow& r : rows) {
            const Values values = Buffer(&dev, r.w.shape, F32, Kind::ordinary, seed++).values();
            from_host(r.master, std::vector<float>(values.begin(), values.end()), dev.stream());
            from_host(r.grad, std::vector<float>(values.rbegin(), values.rend()), dev.stream());
            if (dtype == BF16) copy(r.w, r.master, dev.stream());
            for (const Tensor& t : {r.w, r.master, r.m, r.v}) all.push_back(t);
        }
        table = AdamWTable(std::move(rows), dev);
    }
    Bytes bytes(Stream s) const {
        Bytes b;
        for (const Tensor& t : all) {
            b.emplace_back(size_t(t.bytes()));
            to_host(b.back().data(), t, s);
        }
        return b;
    }
};

TEST_CASE("adamw gives the same bits when the state of a GPU's weights is in host memory", "[ops]") {
    const auto dev = devices().back();
    const auto [dtype, key, in_graph] =
        GENERATE(table<DType, uint64_t, bool>({{F32, 0, false}, {BF16, 0, true}, {BF16, 7, false}}));
    const int64_t most               = int64_t(1) << 22;  // weights of a chunk that is updated at once
    const std::vector<int64_t> sizes = {5, 64, most + 17, 33, 1};
    const Buffer norm(dev, {1}, F32, Values{9.f}), bad(dev, {1}, F32, Values{double(INFINITY)});
    StateIn here(*dev, Memory::device, dtype, sizes, key), there(*dev, Memory::host, dtype, sizes, key);
    const Bytes before = there.bytes(dev->stream());
    CHECK((before == here.bytes(dev->stream())));
    Graph graph(*dev, in_graph && dev->has_graphs());
    const Buffer numbers(dev, {4}, I32);
    Buffer norm_now(dev, {1}, F32);
    const AdamWRule rule{.9f, .95f, 1e-8f, 1.f};
    for (int64_t step = 1; step <= 4; step++) {
        const AdamWUpdate update = adamw_update(1e-3f, .9f, .95f, step);
        from_host(numbers, &update, dev->stream());
        copy(norm_now, step == 3 ? bad : norm, dev->stream());  // the third update is skipped
        adamw(here.table, norm_now, none, numbers, rule, dev->stream());
        graph.run([&] {
            adamw(there.table, norm_now, none, numbers, rule, dev->stream());
            for (const Event& e : there.table.updated()) wait_for(e, dev->stream());
        });
        CHECK((there.bytes(dev->stream()) == here.bytes(dev->stream())));
    }
    CHECK((there.bytes(dev->stream()) != before));
    const auto updated = there.table.updated();  // the rows are of groups 0, 3 and 6
    for (size_t group = 0; group < updated.size(); group++) CHECK(bool(updated[group]) == (group % 3 == 0));
    CHECK(updated.size() == (dev->where() == Machine::cuda ? 7 : 0));
    CHECK(here.table.updated().empty());
}

TEST_CASE("an update in host memory keeps its rule while the next one is queued with another", "[ops]") {
    const auto dev    = devices().back();
    const int64_t two = (int64_t(1) << 22) + 5;  // weights of two chunks
    const Buffer norm(dev, {1}, F32, Values{9.f}), loss(dev, {1}, F32, Values{double(INFINITY)});
    const Buffer numbers = on_device(dev, adamw_update(1e-3f, .9f, .95f, 1));
    const StateIn here(*dev, Memory::device, BF16, {two}, 7), there(*dev, Memory::host, BF16, {two}, 7);
    const AdamWRule rules[] = {{.9f, .95f, 1e-8f, 1.f}, {.5f, .6f, 1e-2f, 0.f}};
    const auto update       = [&](const StateIn& state, int rule, Tensor with_loss) {
        adamw(state.table, norm, with_loss, numbers, rules[rule], dev->stream());
        for (const Event& e : state.table.updated()) wait_for(e, dev->stream());
    };
    Graph graph(*dev, dev->has_graphs());
    for (int twice = 0; twice < 2; twice++) {
        for (const StateIn* state : {&here, &there}) {
            update(*state, 0, none);
            update(*state, 1, none);
            update(*state, 0, loss);  // skipped, because the loss is not finite
        }
        CHECK((there.bytes(dev->stream()) == here.bytes(dev->stream())));
    }
    // The graph does its work, is recorded and is replayed, each after an update by another rule.
    for (int twice = 0; twice < 3; twice++) {
        update(here, 1, none);
        graph.run([&] { update(there, 1, none); });
        update(here, 0, none);
        update(there, 0, none);
        CHECK((there.bytes(dev->stream()) == here.bytes(dev->stream())));
    }
}

TEST_CASE("a table without rows has nothing to update", "[ops]") {
    const auto dev    = GENERATE(from_range(devices()));
    const auto memory = GENERATE(Memory::device, Memory::host);
    const Buffer norm(dev, {1}, F32, Values{9.f});
    const StateIn nothing(*dev, memory, BF16, {}, 0);
    for (int twice = 0; twice < 2; twice++)
        adamw(nothing.table, norm, none, on_device(dev, adamw_update(1e-3f, .9f, .95f, 1)), {.9f, .95f, 1e-8f, 1.f},
              dev->stream());
    CHECK(nothing.table.updated().empty());
    sync(dev->stream());
}

TEST_CASE("the mean of weights that adamw rounds at random is the master", "[ops]") {
    const auto dev     = GENERATE(from_range(devices()));
    const auto dropped = GENERATE(0.02, 0.25, 0.5, 0.9);  // is a fraction of the distance between neighbours
    const auto sign    = GENERATE(1., -1.);
    const int64_t n    = 40000;
    const double below = 1.5, gap = ulp(below, BF16);
    const auto bytes = rounded_at_random(dev, rounded(Values(n, sign * (below + dropped * gap)), F32), 9, 3);
    int64_t up       = 0;
    for (int64_t i = 0; i < n; i++) {
        bf16 w;
        std::memcpy(&w, bytes.data() + 2 * i, 2);
        up += std::fabs(float(w)) > below;
    }
    CAPTURE(dev, dropped, sign, up);
    const double wanted = n * dropped, deviation = std::sqrt(n * dropped * (1 - dropped));
    CHECK(std::fabs(double(up) - wanted) < 5 * deviation);
}

TEST_CASE("adamw refuses wrong shapes and steps", "[ops][errors]") {
    const auto dev = devices()[0];
    const Stream s = dev->stream();
    const AdamWRule rule{0.9f, 0.95f, 1e-8f, 1.f};
    Buffer w(dev, {8}, BF16, Kind::ordinary), f(dev, {8}, F32, Kind::zeros), seven(dev, {7}, F32, Kind::zeros);
    const auto table = [&](Tensor master, Tensor m, Tensor v, Tensor grad) {
        return AdamWTable({{w, f, f, f, f, 0.1f}, {w, master, m, v, grad, 0.1f}}, *dev);
    };
    const Buffer norm(dev, {1}, F32, Values{1}), update = on_device(dev, adamw_update(1e-2f, 0.9f, 0.95f, 1));
    CHECK_REFUSED(table(w, f, f, f), "adamw", "master is (8) bf16, expected (8) fp32");
    CHECK_REFUSED(table(f, seven, f, f), "adamw", "m is (7)");
    CHECK_REFUSED(table(f, f, seven, f), "adamw", "v is (7)");
    CHECK_REFUSED(table(f, f, f, seven), "adamw", "grad is (7)");
    CHECK_REFUSED(AdamWTable({{w, f, f, f, f, 0.f}, {f, f, f, f, f, 0.f}}, *dev), "adamw", "w is (8) fp32");
    const AdamWTable good = table(f, f, f, f);
    CHECK_REFUSED(adamw(good, f, none, update, rule, s), "adamw", "grad_norm2 is (8)");
    CHECK_REFUSED(adamw(good, norm, f, update, rule, s), "adamw", "loss is (8)");
    CHECK_REFUSED(adamw(good, norm, none, norm, rule, s), "adamw", "update is (1)");
    CHECK_REFUSED(adamw_update(1e-2f, 0.9f, 0.95f, 0), "adamw", "step is 0");
    CHECK_REFUSED(adamw_update(1e-2f, 1.f, 0.95f, 1), "adamw", "beta1 is 1");
}

TEST_CASE("adamw is the same for any number of threads", "[ops]") {
    const auto dev  = devices()[0];
    const int64_t n = 100003;
    const Buffer grad(dev, {n}, F32, Kind::ordinary, 1), norm2(dev, {1}, F32, Values{4});
    auto run = [&] {
        Buffer w(dev, {n}, BF16), master(dev, {n}, F32, Kind::ordinary, 2);
        Buffer m(dev, {n}, F32, Kind::zeros), v(dev, {n}, F32, Kind::zeros);
        adamw_row(dev, {w, master, m, v, grad, 0.1f, {5}}, norm2, adamw_update(1e-2f, 0.9f, 0.95f, 1),
                  {0.9f, 0.95f, 1e-8f, 1.f});
        return Bytes{w.bytes(), master.bytes(), m.bytes(), v.bytes()};
    };
    CHECK_SAME_FOR_ANY_THREADS(run);
}
