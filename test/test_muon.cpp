// test_muon.cpp - Muon: against torch.optim.Muon step by step, its ops against their formulas, and runs of train_gpt
#include <array>
#include "test/golden.h"
#include "test/programs.h"
#include "test/reference.h"

constexpr auto F32 = DType::F32, BF16 = DType::BF16;

// The numbers of test/make_golden_muon.py: [-0.5, 0.5), from the index of an element, its weight's row and the step.
static std::vector<float> golden_values(int64_t n, uint64_t row, uint64_t step) {
    std::vector<float> v(size_t(n), 0.f);
    for (int64_t i = 0; i < n; i++) {
        uint64_t z = (uint64_t(i) + row * 1000000 + step * 100000000) * 0x9e3779b97f4a7c15u;
        z          = (z ^ (z >> 31)) * 0xbf58476d1ce4e5b9u;
        z ^= z >> 29;
        v[size_t(i)] = float(z >> 40) * 0x1p-24f - 0.5f;
    }
    return v;
}

TEST_CASE("six updates by Muon equal those of torch.optim.Muon and AdamW in float64", "[model][muon]") {
    const Device* dev = GENERATE(from_range(devices()));
    CAPTURE(dev);
    const SafetensorsReader golden("test/golden/muon.safetensors");
    Config c  = tiny_config(7, 64);
    c.context = 7;
    Model m(c, F32, {1, 1, true}, *dev);
    OptimizerSettings settings{OptimizerKind::muon};
    const auto optimizer = make_optimizer(m, settings);
    const Schedule schedule{Schedule::Kind::cosine, 1e-2f, 1e-3f, 2, 6};
    const auto fill = [&](Params& p, uint64_t step) {
        uint64_t row = 0;
        for (const ParamRow& r : param_rows(p, c))
            from_host(*r.tensor, golden_values(r.shape.numel(), row++, step), m.stream);
    };
    fill(m.params, 0);
    zero(m.acts.loss, m.stream);
    for (int64_t step = 0; step < schedule.steps; step++) {
        fill(m.grads, uint64_t(step) + 1);
        update(m, *optimizer, schedule, step);
        for (const ParamRow& r : param_rows(m.params, c)) {
            const auto wanted = floats_of(golden, fmt::format("{}.{}", step, r.name));
            const double off  = largest_difference(floats_of(*r.tensor, m.stream), wanted);
            CAPTURE(step, r.name, off);
            CHECK(off <= (r.update == Update::matrix ? 2e-6 : 1e-6));  // an update is about 0.01
        }
    }
}

TEST_CASE("the rate of the matrices goes on without a jump where a run gets more steps", "[muon][schedule]") {
    const Device dev("cpu");
    Model m(tiny_config(7, 64), F32, {1, 1, true}, dev);
    OptimizerSettings settings{OptimizerKind::muon};
    const auto optimizer = make_optimizer(m, settings);
    const Schedule first{Schedule::Kind::cosine, 1e-2f, 1e-3f, 2, 10};
    Schedule longer    = first;
    longer.steps       = 20;
    const Schedule now = continued(first, {longer, true}, 8);
    REQUIRE(now.start == 8);
    for (int64_t step = 0; step < 20; step++) {
        const Schedule& s = step < 8 ? first : now;
        float numbers[Optimizer::numbers_bytes / 4];
        optimizer->numbers(numbers, s, step);
        CAPTURE(step);
        // They are twice the rate of the other weights at the peak and everywhere.
        CHECK(numbers[4] == Approx(2 * learning_rate(s, step)).epsilon(1e-6));
    }
}

// The iteration on u (R,C), or on its transpose when u has more rows than columns. In float, every matrix is rounded to
// dtype; in double, none is.
template <class Number>
static Values newton_schulz_of(const Values& u, int64_t R, int64_t C, DType dtype) {
    if (R > C) {
        const auto transpose = [](const Values& v, int64_t rows, int64_t columns) {
            Values out(v.size());
            for (int64_t i = 0; i < rows * columns; i++) out[i % columns * rows + i / columns] = v[i];
            return out;
        };
        return transpose(newton_schulz_of<Number>(transpose(u, R, C), C, R, dtype), C, R);
    }
    const bool plain   = std::is_same_v<Number, float>;
    const auto kept    = [&](Number x) { return plain ? Number(rounded(double(x), dtype)) : x; };
    using Matrix       = std::vector<Number>;
    const auto product = [&](const Matrix& a, const Matrix& b, int64_t M, int64_t K, int64_t N, bool b_transposed) {
        Matrix out(size_t(M * N));
        for (int64_t i = 0; i < M; i++)
            for (int64_t j = 0; j < N; j++) {
                Number sum = 0;
                for (int64_t k = 0; k < K; k++) sum += a[i * K + k] * (b_transposed ? b[j * K + k] : b[k * N + j]);
                out[i * N + j] = kept(sum);
            }
        return out;
    };
    Number norm2 = 0;
    for (double x : u) norm2 += Number(x) * Number(x);
    Matrix x;
    for (double v : u) x.push_back(kept(Number(v) / (std::sqrt(norm2) + Number(1e-7))));
    for (int step = 0; step < 5; step++) {
        Matrix gram        = product(x, x, R, C, R, true);
        const Matrix gram2 = product(gram, gram, R, R, R, false);
        for (size_t i = 0; i < gram.size(); i++) gram[i] = kept(Number(-4.7750) * gram[i] + Number(2.0315) * gram2[i]);
        const Matrix more = product(gram, x, R, R, C, false);
        for (size_t i = 0; i < x.size(); i++) x[i] = kept(Number(3.4445) * x[i] + more[i]);
    }
    return Values(x.begin(), x.end());
}

TEST_CASE("muon_orthogonalise", "[ops][muon]") {
    const auto dev    = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(F32, BF16);
    const auto [R, C] = GENERATE(table<int64_t, int64_t>({{16, 48}, {48, 16}, {33, 70}}));
    const auto scale  = GENERATE(1e-6, 1., 1e4);
    CAPTURE(dev, dtype, R, C, scale);
    const int64_t m = std::min(R, C);
    const Buffer u(dev, {R, C}, F32, Kind::ordinary, 1, scale);
    Buffer x(dev, {R, C}, dtype), product(dev, {R, C}, dtype), gram(dev, {m, m}, dtype), gram2(dev, {m, m}, dtype),
        norm2(dev, {1}, F32);
    muon_orthogonalise(x, u, {product, gram, gram2, norm2}, dev->stream());
    CHECK_CLOSE(x, newton_schulz_of<double>(u.values(), R, C, dtype), newton_schulz_of<float>(u.values(), R, C, dtype));
}

// The rounding error of one tiny matrix says little about the next: the plain voice may happen to be exact. So the
// largest errors of many matrices are compared, as they are within one large matrix. Of square ones there are only the
// smallest: larger ones have singular values near zero, which five steps amplify 485 times with their rounding, so that
// a single matrix of the many would decide.
TEST_CASE("muon_orthogonalise of the smallest matrices", "[ops][muon]") {
    const auto dev    = GENERATE(from_range(devices()));
    const auto dtype  = GENERATE(F32, BF16);
    const auto [R, C] = GENERATE(table<int64_t, int64_t>({{1, 1}, {1, 9}, {9, 1}, {2, 2}, {3, 40}, {40, 3}, {5, 9}}));
    CAPTURE(dev, dtype, R, C);
    const int64_t m = std::min(R, C), count = 64;
    Values ours, want, plain;
    const auto append = [](Values& all, const Values& some) { all.insert(all.end(), some.begin(), some.end()); };
    for (int64_t i = 0; i < count; i++) {
        const double scale = std::array{1e-6, 1., 1e4}[size_t(i % 3)];
        const Buffer u(dev, {R, C}, F32, Kind::ordinary, uint64_t(i) + 1, scale);
        Buffer x(dev, {R, C}, dtype), product(dev, {R, C}, dtype), gram(dev, {m, m}, dtype), gram2(dev, {m, m}, dtype),
            norm2(dev, {1}, F32);
        muon_orthogonalise(x, u, {product, gram, gram2, norm2}, dev->stream());
        append(ours, x.values());
        append(want, newton_schulz_of<double>(u.values(), R, C, dtype));
        append(plain, newton_schulz_of<float>(u.values(), R, C, dtype));
    }
    CHECK_CLOSE(Buffer(dev, {count * R * C}, dtype, ours), want, plain);
}

TEST_CASE("muon_momentum and muon_apply", "[ops][muon]") {
    const auto dev           = GENERATE(from_range(devices()));
    const auto dtype         = GENERATE(F32, BF16);
    const auto n             = GENERATE(as<int64_t>{}, 1, 7, 40001);
    const auto [norm2, clip] = GENERATE(table<float, float>({{4.f, 1.f}, {4.f, 3.f}, {4.f, 0.f}, {0.f, 1.f}}));
    CAPTURE(dev, dtype, n, norm2, clip);
    const float beta = 0.95f, lr = 0.02f, scale = 1.5f, decay = 0.1f;
    Buffer momentum(dev, {n}, F32, Kind::ordinary, 1), grad(dev, {n}, F32, Kind::ordinary, 2);
    const Buffer norm(dev, {1}, F32, Values{norm2});
    const Values b = momentum.values(), g = grad.values();
    const auto momentum_of = [&, norm2 = norm2, clip = clip](auto zero) {
        using Number        = decltype(zero);
        const Number shrink = clip > 0 && norm2 > clip * clip ? Number(clip) / std::sqrt(Number(norm2)) : Number(1);
        std::pair<Values, Values> out;
        for (size_t i = 0; i < g.size(); i++) {
            const Number gi = Number(g[i]) * shrink, now = Number(beta) * Number(b[i]) + gi;
            out.first.push_back(double(now));
            out.second.push_back(double(gi + Number(beta) * now));
        }
        return out;
    };
    muon_momentum(momentum, grad, norm, {}, beta, clip, dev->stream());
    const auto want = momentum_of(0.), plain = momentum_of(0.f);
    CHECK_CLOSE(momentum, want.first, plain.first);
    CHECK_CLOSE(grad, want.second, plain.second);

    Buffer master(dev, {n}, F32, Kind::ordinary, 3), w_half(dev, {n}, BF16);
    const Buffer x(dev, {n}, dtype, Kind::ordinary, 4), update(dev, {2}, DType::I32);
    const Tensor w = dtype == F32 ? master.tensor() : w_half.tensor();  // fp32 weights are their own masters
    const MuonUpdate numbers{lr, 3};
    from_host(update, &numbers, dev->stream());
    const Values before = master.values(), direction = x.values();
    const auto applied = [&](auto zero) {
        using Number = decltype(zero);
        Values out;
        for (size_t i = 0; i < before.size(); i++) {
            const Number old = Number(before[i]);
            out.push_back(old - Number(lr) * (Number(scale) * Number(direction[i]) + Number(decay) * old));
        }
        return out;
    };
    muon_apply(w, master, x, norm, {}, update, scale, decay, {}, dev->stream());
    CHECK_CLOSE(master, applied(0.), applied(0.f));
    if (dtype == BF16) CHECK(w_half.values() == rounded(master.values(), BF16));
}

TEST_CASE("products of matrices, transposed or not", "[ops][muon]") {
    const auto dev   = GENERATE(from_range(devices()));
    const auto dtype = GENERATE(F32, BF16);
    const bool ta = GENERATE(false, true), tb = GENERATE(false, true);
    const int64_t M = 9, K = 17, N = 5;
    CAPTURE(dev, dtype, ta, tb);
    const Buffer a(dev, ta ? Shape{K, M} : Shape{M, K}, dtype, Kind::ordinary, 1),
        b(dev, tb ? Shape{N, K} : Shape{K, N}, dtype, Kind::ordinary, 2);
    Buffer out(dev, {M, N}, dtype);
    matmul(out, ta ? transposed(a) : Factor(a), tb ? transposed(b) : Factor(b), dev->stream());
    const Values av = a.values(), bv = b.values();
    const auto product = [&](auto zero) {
        Values all;
        for (int64_t i = 0; i < M; i++)
            for (int64_t j = 0; j < N; j++) {
                auto sum = zero;
                for (int64_t k = 0; k < K; k++)
                    sum +=
                        decltype(zero)(av[ta ? k * M + i : i * K + k]) * decltype(zero)(bv[tb ? j * K + k : k * N + j]);
                all.push_back(double(sum));
            }
        return all;
    };
    CHECK_CLOSE(out, product(0.), product(0.f));
}

TEST_CASE("a run with --optimizer muon resumes to the bit and takes no more than it planned", "[programs][muon]") {
    const auto dtype = GENERATE(as<std::string>{}, "fp32", "bf16 --stochastic-rounding");
    CAPTURE(dtype);
    const Scratch s;
    write_shard(s / "train.bin", 4000);
    const std::string options =
        "--model nano --optimizer muon --device cpu --batch 2 --context 16 --eval-every 0 --dtype " + dtype +
        " --train-data " + quoted(s / "train.bin");
    const auto trained = [&](const std::string& words) {
        const Ran r = run(s, "train_gpt", words);
        CAPTURE(r.err);
        REQUIRE(r.code == 0);
        return r.out;
    };
    for (const std::string of_muon : {"--muon-momentum", "--muon-learning-rate"})
        refused(s, "train_gpt", "--model nano --dry-run " + of_muon + " 0.9",
                {(of_muon + " has an effect only with --optimizer muon").c_str()});
    trained(options + " --steps 6 --save-every 3 --out " + quoted(s / "all"));
    trained(options + " --steps 6 --save-every 3 --out " + quoted(s / "half"));
    std::filesystem::remove_all(s / "half/checkpoints/0000006");
    std::filesystem::remove(s / "half/log.jsonl");
    trained("--resume --out " + quoted(s / "half"));
    const std::string all = losses(s / "all"), half = losses(s / "half");
    CHECK(all.size() > half.size());
    CHECK(all.substr(all.size() - half.size()) == half);
    CHECK(records(s / "all", "end")[0]["fingerprint"] == records(s / "half", "end")[0]["fingerprint"]);
    const std::string state = read_text(s / "all/checkpoints/0000006/state.safetensors").substr(0, 20000);
    CHECK(state.find("\"momentum.h.0.qkv.weight\"") != state.npos);
    CHECK(state.find("\"m.h.0.qkv.weight\"") == state.npos);
    CHECK(state.find("\"m.wte.weight\"") != state.npos);
}
