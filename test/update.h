// update.h - one update of a model's weights by the gradients that it holds
#pragma once
#include "gpt/optimizers.h"

// The memory that one update reads on the device: the squared norm of the gradients and the numbers of the update.
struct UpdateInputs {
    Arena memory;
    Tensor norm2, numbers;

    UpdateInputs(Model& m, const Optimizer& optimizer, const Schedule& schedule, int64_t step) {
        constexpr int64_t words = Optimizer::numbers_bytes / 4;
        memory.plan({1}, DType::F32);
        memory.plan({words}, DType::I32);
        memory.allocate(*m.device);
        norm2 = memory.take({1}, DType::F32), numbers = memory.take({words}, DType::I32);
        std::vector<int32_t> host(words);
        optimizer.numbers(host.data(), schedule, step);
        from_host(numbers, host.data(), m.stream);
    }
    void update(Model& m, Optimizer& optimizer) const {
        squared_norm(norm2, m.all_grads, m.stream);
        optimizer.step(m.acts.loss, norm2, numbers);
    }
};
inline Schedule constant_rate(float rate) { return {Schedule::Kind::constant, rate, 0.f, 0, 1}; }
