// optimizers.h - the list of optimizers: their names, and how each is made and planned
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpt/adamw.h"
#include "gpt/muon.h"

// The values of --optimizer.
inline const std::vector<std::pair<std::string, OptimizerKind>>& optimizer_names() {
    static const std::vector<std::pair<std::string, OptimizerKind>> names = {{"adamw", OptimizerKind::adamw},
                                                                             {"muon", OptimizerKind::muon}};
    return names;
}

// Creates the optimizer of a model that trains.
inline std::unique_ptr<Optimizer> make_optimizer(Model& model, const OptimizerSettings& settings) {
    switch (settings.kind) {
        case OptimizerKind::adamw: return std::make_unique<AdamW>(model, settings);
        case OptimizerKind::muon: return std::make_unique<Muon>(model, settings);
    }
    fail("there is no optimizer of kind {}", int(settings.kind));
}

// Returns the bytes that an optimizer takes: state, masters of bf16 weights, and working memory.
inline int64_t optimizer_bytes(OptimizerKind kind, const Config& c, DType dtype) {
    switch (kind) {
        case OptimizerKind::adamw: return AdamW::bytes(c, dtype);
        case OptimizerKind::muon: return Muon::bytes(c, dtype);
    }
    fail("there is no optimizer of kind {}", int(kind));
}

// Returns what a run's header adds to the learning rate, for an optimizer that has more than one.
inline std::string other_rates(const OptimizerSettings& settings) {
    return settings.kind == OptimizerKind::muon
               ? fmt::format(" · {} for the matrices of the blocks, along the same curve", settings.muon_learning_rate)
               : "";
}
