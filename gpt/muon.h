// muon.h - Muon (Jordan 2024: https://kellerjordan.github.io/posts/muon) for hidden matrices, AdamW for all other
// weights
//
// A momentum buffer is the only state of a matrix, half of AdamW's. The three matrices in the rows of qkv are
// orthogonalised one by one, as Jordan advises. The learning rate of the matrices is a setting of its own. Its peak is
// 0.02 by default, as Jordan's, and it follows AdamW's schedule in proportion. kernels/muon.cu computes the update.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "gpt/optimizer.h"

class Muon : public Optimizer {
  public:
    Muon(Model& model, const OptimizerSettings& settings) : Optimizer(model, settings, kinds()) {
        std::vector<AdamWRow> others;
        each_row([&](const ParamRow& r, const RowTensors& t, Rounding rounding) {
            if (is_matrix(r))
                matrices_.push_back({t.weight, t.master, t.state[2], t.gradient, decay_of(r), rounding, t.parts});
            else
                others.push_back(
                    {t.weight, t.master, t.state[0], t.state[1], t.gradient, decay_of(r), rounding, r.bucket});
        });
        others_ = AdamWTable(std::move(others), *model.device);
        plan_work(memory_, model.config, model.dtype);
        memory_.allocate(*model.device);
        work_ = take_work(model.config, model.dtype, [&](const Shape& s, DType t) { return memory_.take(s, t); });
    }

    static std::vector<StateKind> kinds() { return {{"m", is_other}, {"v", is_other}, {"momentum", is_matrix}}; }
    static int64_t working_bytes(const Config& c, DType dtype) {
        Arena work;
        plan_work(work, c, dtype);
        return work.bytes();
    }

    static std::string other_rates(const OptimizerSettings& settings) {
        return fmt::format(" · {} for the matrices of the blocks, along the same curve", settings.muon_learning_rate);
    }

    void numbers(void* to, const Schedule& schedule, int64_t step) const override {
        Numbers n;
        const float rate = learning_rate(schedule, step);
        n.others         = adamw_update(rate, settings_.beta1, settings_.beta2, step + 1);
        n.matrices = {float(double(settings_.muon_learning_rate) * rate / schedule.learning_rate), uint32_t(step + 1)};
        std::memcpy(to, &n, sizeof n);
    }

    void step(Tensor loss, Tensor norm2, Tensor numbers) override {
        const Stream s = model_.stream;
        // It comes first because the CPU may do it (--offload), while the GPU updates the matrices.
        adamw(others_, norm2, loss, numbers.rows(0, 4),
              {settings_.beta1, settings_.beta2, settings_.eps, settings_.clip}, s);
        for (const Matrix& m : matrices_) {
            const int64_t rows = m.weight.shape[0] / m.parts, columns = m.weight.shape[1],
                          side   = std::min(rows, columns);
            const auto first     = [](Tensor t, const Shape& shape) { return t.rows(0, shape.numel()).view(shape); };
            const Tensor x       = first(work_.direction, m.weight.shape);
            const MuonSpace work = {first(work_.product, {rows, columns}), first(work_.gram, {side, side}),
                                    first(work_.gram2, {side, side}), work_.norm2};
            muon_momentum(m.momentum, m.gradient, norm2, loss, settings_.muon_momentum, settings_.clip, s);
            for (int64_t i = 0; i < m.parts; i++)
                muon_orthogonalise(x.rows(i * rows, rows), m.gradient.rows(i * rows, rows), work, s);
            const float scale = std::sqrt(std::max(1.f, float(rows) / float(columns)));
            muon_apply(m.weight, m.master, x, norm2, loss, numbers.rows(4, 2), scale, m.weight_decay, m.rounding, s);
        }
    }
    std::vector<Event> updated() const override { return others_.updated(); }

  private:
    static bool is_matrix(const ParamRow& r) { return r.update == Update::matrix; }
    static bool is_other(const ParamRow& r) { return !is_matrix(r); }

    struct Matrix {
        Tensor weight, master, momentum, gradient;
        float weight_decay;
        Rounding rounding;
        int64_t parts;
    };
    struct Numbers {
        AdamWUpdate others;
        MuonUpdate matrices;
    };
    static_assert(sizeof(Numbers) <= numbers_bytes && offsetof(Numbers, matrices) == 16, "words 0-3 and 4-5");

    // Working memory that serves one matrix after another, as large as the largest of them needs.
    struct Work {
        Tensor direction;    // holds a weight with all its parts
        Tensor product;      // holds one part
        Tensor gram, gram2;  // hold the square of a part's smaller side
        Tensor norm2;
    };
    template <class Take>
    static Work take_work(const Config& c, DType dtype, Take take) {
        int64_t weight = 0, part = 0, gram = 0;
        Params shapes;
        for (const ParamRow& r : param_rows(shapes, c)) {
            if (!is_matrix(r)) continue;
            const int64_t side = std::min(r.shape[0] / r.parts, r.shape[1]);
            weight             = std::max(weight, r.shape.numel());
            part               = std::max(part, r.shape.numel() / r.parts);
            gram               = std::max(gram, side * side);
        }
        return {take({weight}, dtype), take({part}, dtype), take({gram}, dtype), take({gram}, dtype),
                take({1}, DType::F32)};
    }
    static void plan_work(Arena& arena, const Config& c, DType dtype) {
        take_work(c, dtype, [&](const Shape& shape, DType t) {
            arena.plan(shape, t);
            return Tensor{};
        });
    }

    std::vector<Matrix> matrices_;
    AdamWTable others_;
    Arena memory_{"muon"};
    Work work_;
};
