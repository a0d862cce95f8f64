// optimizers.h - the list of optimizers, one row for each
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpt/adamw.h"
#include "gpt/muon.h"

struct OptimizerRow {
    OptimizerKind kind;
    const char* name;  // the value of --optimizer
    std::unique_ptr<Optimizer> (*make)(Model&, const OptimizerSettings&);
    std::vector<StateKind> (*kinds)();
    int64_t (*working_bytes)(const Config&, DType);
    std::string (*other_rates)(const OptimizerSettings&);
    bool whole_matrices;  // one process updates a whole matrix
};
template <class T>
OptimizerRow optimizer_row(OptimizerKind kind, const char* name, bool whole_matrices) {
    const auto make = [](Model& model, const OptimizerSettings& settings) -> std::unique_ptr<Optimizer> {
        return std::make_unique<T>(model, settings);
    };
    return {kind, name, make, T::kinds, T::working_bytes, T::other_rates, whole_matrices};
}

inline const std::vector<OptimizerRow>& optimizers() {
    static const std::vector<OptimizerRow> all = {optimizer_row<AdamW>(OptimizerKind::adamw, "adamw", false),
                                                  optimizer_row<Muon>(OptimizerKind::muon, "muon", true)};
    return all;
}

inline const OptimizerRow& row_of(OptimizerKind kind) {
    for (const OptimizerRow& row : optimizers())
        if (row.kind == kind) return row;
    CHECK_CALL(false, "there is no optimizer of kind {}", int(kind));
}

// Creates the optimizer of a model that trains.
inline std::unique_ptr<Optimizer> make_optimizer(Model& model, const OptimizerSettings& settings) {
    return row_of(settings.kind).make(model, settings);
}
