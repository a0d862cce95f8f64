// step.h - what goes into a training step and comes out of it: batches and the numbers of the update, sent ahead while
// the device works on the step before; loss and gradient norm, read with the only wait
#pragma once
#include <cmath>
#include <cstring>

#include "data/loader.h"
#include "gpt/model.h"

// Everything a step reads that the step before could not know. It lies at the same place in every step, so that a step
// can be recorded once and played again.
class StepInputs {
  public:
    // documents: whether the batches have starts and positions.
    StepInputs(const Device& device, const BatchShape& z, int64_t micro_steps, bool documents = false)
        : shape_{z.batch, z.context},
          micro_steps_(micro_steps),
          documents_(documents),
          feed_(device, bytes(z, micro_steps, documents)) {}

    // Starts to bring the next step's: a batch for every micro-step, and the numbers of its update.
    void send(Loader& data, const AdamWUpdate& update) {
        char* to       = static_cast<char*>(feed_.outgoing());
        const auto put = [&](const void* from, int64_t n) { std::memcpy(to, from, size_t(n)), to += n; };
        put(&update, sizeof update);
        for (int64_t i = 0; i < micro_steps_; i++) {
            const Batch& batch = data.next();
            put(batch.tokens.ptr, batch.tokens.bytes());
            put(batch.targets.ptr, batch.targets.bytes());
            if (!documents_) continue;
            put(batch.starts.ptr, batch.starts.bytes());
            put(batch.positions.ptr, batch.positions.bytes());
        }
        feed_.send();
    }
    // From here on, in the order of the stream, they are those that were sent.
    void arrive() { feed_.arrive(); }

    Tensor update() const { return {feed_.arrived(), DType::I32, {4}}; }  // an AdamWUpdate
    Batch batch(int64_t micro) const {
        const int64_t n   = shape_.numel();
        int32_t* const at = update().data<int32_t>() + 4 + tensors(documents_) * n * micro;
        const auto tensor = [&](int64_t i) { return Tensor{at + i * n, DType::I32, shape_}; };
        return documents_ ? Batch{tensor(0), tensor(1), tensor(2), tensor(3)} : Batch{tensor(0), tensor(1)};
    }

    static int64_t bytes(const BatchShape& z, int64_t micro_steps, bool documents) {
        return int64_t(sizeof(AdamWUpdate)) + tensors(documents) * micro_steps * z.rows() * size_of(DType::I32);
    }

  private:
    static int64_t tensors(bool documents) { return documents ? 4 : 2; }

    Shape shape_;
    int64_t micro_steps_;
    bool documents_;
    Feed feed_;
};

struct Scores {
    float loss, norm;
    bool stop;  // a process was asked to
    bool finite() const { return std::isfinite(loss) && std::isfinite(norm); }
};

// Waits for the step, and throws what went wrong in it.
inline Scores read_scores(const Model& m) {
    float scores[3];  // the loss, the squared norm, how many processes were asked to stop
    to_host(scores, m.acts.scores, m.stream);
    return {scores[0], std::sqrt(scores[1]), scores[2] > 0};
}
