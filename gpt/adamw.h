// adamw.h - AdamW (Loshchilov & Hutter 2017: arXiv 1711.05101) for every weight; kernels/adamw.cu computes the update
#pragma once
#include "gpt/optimizer.h"

class AdamW : public Optimizer {
  public:
    AdamW(Model& model, const OptimizerSettings& settings) : Optimizer(model, settings, kinds()) {
        // The rows come in the order in which a forward pass reads them, the tables first. A head that is tied to the
        // token table reads it last, but the embedding reads it before everything else.
        std::vector<AdamWRow> rows;
        each_row([&](const ParamRow& r, const RowTensors& t, Rounding rounding) {
            rows.push_back({t.weight, t.master, t.state[0], t.state[1], t.gradient, decay_of(r), rounding, r.bucket});
        });
        table_ = AdamWTable(std::move(rows), *model.device);
    }

    static std::vector<StateKind> kinds() { return {{"m", every_row}, {"v", every_row}}; }

    void numbers(void* to, const Schedule& schedule, int64_t step) const override {
        const AdamWUpdate update =
            adamw_update(learning_rate(schedule, step), settings_.beta1, settings_.beta2, step + 1);
        std::memcpy(to, &update, sizeof update);
    }

    void step(Tensor loss, Tensor norm2, Tensor numbers) override {
        adamw(table_, norm2, loss, numbers.rows(0, 4),
              {settings_.beta1, settings_.beta2, settings_.eps, settings_.clip}, model_.stream);
    }
    std::vector<Event> updated() const override { return table_.updated(); }

  private:
    AdamWTable table_;
};
