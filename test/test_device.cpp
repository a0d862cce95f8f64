// test_device.cpp - from_host(); Feed, which sends the next bytes while the device works, and Answers, which bring
// bytes back; Graph, which records work; and --cpu
#include "kernels/feed.h"
#include "kernels/host.h"
#include "kernels/ops.h"
#include "test/programs.h"
#include "test/reference.h"

constexpr auto F32 = DType::F32;

TEST_CASE("from_host writes every element once, in the dtype of the tensor", "[ops]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(DType::F32, DType::BF16);
    const int64_t n  = GENERATE(1, 1000, 5'000'001);  // the last is more than a GPU's queue can hold at once
    CAPTURE(dev, dtype, n);
    const auto value = [](int64_t i) { return float(i % 8191) - 4000.5f; };
    std::vector<float> values(n);
    for (int64_t i = 0; i < n; i++) values[i] = value(i);
    Buffer copied(dev, {n}, dtype), filled(dev, {n}, dtype);
    from_host(copied, values, dev->stream());
    int64_t next    = 0;
    const Fill fill = [&](void* out, int64_t first, int64_t count) {
        REQUIRE(first == next);
        next = first + count;
        for (int64_t i = 0; i < count; i++)
            if (dtype == F32)
                static_cast<float*>(out)[i] = value(first + i);
            else
                static_cast<bf16*>(out)[i] = bf16(value(first + i));
    };
    from_host(filled, fill, dev->stream());
    CHECK(next == n);
    CHECK(filled.bytes() == copied.bytes());
    const std::vector<float> back = floats_of(copied, dev->stream());
    for (int64_t i = 0; i < n; i++)
        if (back[i] != (dtype == F32 ? value(i) : float(bf16(value(i))))) FAIL("element " << i << " is " << back[i]);
}

TEST_CASE("a feed brings what was sent, in order, while the device works", "[ops]") {
    const auto dev  = GENERATE(from_range(devices()));
    const int64_t n = GENERATE(1, 5, 20000);
    CAPTURE(dev, n);
    const Stream s = dev->stream();
    Feed feed(*dev, 4 * n);
    const Tensor arrived{feed.arrived(), F32, {n}};
    const auto send = [&](int turn) {
        float* out = static_cast<float*>(feed.outgoing());
        for (int64_t i = 0; i < n; i++) out[i] = float(turn * 100000 + i);
        feed.send();
    };
    std::vector<Buffer> seen;
    for (int turn = 0; turn < 5; turn++) seen.emplace_back(dev, Shape{n}, F32);
    send(0);
    for (int turn = 0; turn < 5; turn++) {
        feed.arrive();
        copy(seen[turn], arrived, s);
        send(turn + 1);
    }
    for (int turn = 0; turn < 5; turn++) {
        const Values v = seen[turn].values();
        CAPTURE(turn);
        for (int64_t i = 0; i < n; i++) REQUIRE(v[i] == turn * 100000 + i);
    }
}

TEST_CASE("answers come in order, with what was there when they were asked for", "[ops]") {
    const auto dev  = GENERATE(from_range(devices()));
    const int64_t n = GENERATE(1, 20000);
    CAPTURE(dev, n);
    const Stream s = dev->stream();
    Buffer x(dev, {n}, F32);
    Answers answers(*dev, 4 * n);
    const auto ask = [&](int value) {
        from_host(x, std::vector<float>(n, float(value)), s);
        answers.ask(x);
    };
    ask(0);
    for (int turn = 0; turn < 5; turn++) {
        ask(turn + 1);
        const float* const got = static_cast<const float*>(answers.answer());
        CHECK(std::all_of(got, got + n, [&](float v) { return v == float(turn); }));
    }
    ask(6);
    CHECK_REFUSED(answers.ask(x), "2 asks are open");
    answers.answer();
    answers.answer();
    CHECK_REFUSED(answers.answer(), "without an ask");
    CHECK_REFUSED(answers.ask(Buffer(dev, {n + 1}, F32)), "bytes are asked for");
    if (dev->where() == Machine::cpu) return;
    // An answer throws the error of the work before it, and not that of work after it.
    const Buffer rows(dev, {1, 1, 8}, F32), wte(dev, {5, 8}, F32, Kind::ordinary),
        wpe(dev, {1, 8}, F32, Kind::ordinary);
    const Buffer bad(dev, {1, 1}, DType::I32, Values{9});
    ask(7);
    embedding_forward(rows, bad, {}, wte, wpe, s);
    answers.ask(x);
    CHECK(static_cast<const float*>(answers.answer())[0] == 7);
    CHECK_REFUSED(answers.answer(), "9");
    ask(8);
    CHECK(static_cast<const float*>(answers.answer())[0] == 8);
}

TEST_CASE("a graph does its work every time that it is run", "[ops]") {
    const auto dev    = GENERATE(from_range(devices()));
    const bool record = dev->where() == Machine::cuda && GENERATE(true, false);
    CAPTURE(dev, record);
    const Stream s = dev->stream();
    Buffer total(dev, {1}, F32, Values{0});
    const Buffer ones(dev, {10000}, F32, Values(10000, 1.0)), many(dev, {3000000}, F32, Kind::zeros);
    Graph graph(*dev, record);
    for (int i = 1; i <= 6; i++) {
        graph.run([&] { sum(total, ones, 1.f, s); });  // uses scratch memory
        if (i == 4) {                                  // needs more scratch memory, so that it moves
            Buffer norm(dev, {1}, F32);
            squared_norm(norm, many, s);
        }
        CHECK(total.values() == Values{10000. * i});
    }
}

TEST_CASE("an op works after a GPU had no memory for another one", "[ops][errors]") {
    const auto dev = GENERATE(from_range(devices()));
    CAPTURE(dev);
    Buffer total(dev, {1}, F32, Values{0});
    const Buffer ones(dev, {10000}, F32, Values(10000, 1.0));
    std::string said;
    try {
        dev->reserve_scratch(int64_t(1) << 50);
    } catch (const RunError& e) { said = e.what(); }
    if (dev->where() == Machine::cuda)
        CHECK(missing_words(said, {"out of memory", "cudaMalloc", "a smaller batch or context takes less"}) == "");
    sum(total, ones, 1.f, dev->stream());
    CHECK(total.values() == Values{10000.});
}

TEST_CASE("graphs are for GPUs", "[ops][errors]") {
    CHECK_REFUSED(Graph(*devices()[0], true), "a CUDA graph needs a GPU");
}

TEST_CASE("--cpu runs the kernels for a level of x86-64, or says why it cannot", "[programs][machine]") {
    const Scratch scratch;
    const auto level      = GENERATE(2, 3, 4);
    const std::string cpu = fmt::format("v{}", level);
    const Ran ran         = run(scratch, "train_gpt", "--model gpt2 --device cpu --dry-run --cpu " + cpu);
    CAPTURE(ran.out, ran.err);
    if (host::cpu_level() == 0) {  // these tests are from a build like that of the programs
        CHECK(ran.code == 2);
        CHECK(ran.err.find("PORTABLE=1") != std::string::npos);
    } else if (ran.code == 2) {
        CHECK(level > host::cpu_level());
        CHECK(ran.err.find("this CPU has not all instructions of x86-64-" + cpu) != std::string::npos);
    } else {
        CHECK(ran.code == 0);
        CHECK(ran.out.find("x86-64-" + cpu + " kernels") != std::string::npos);
        CHECK(ran.out.find("--cpu " + cpu) != std::string::npos);
    }
}
