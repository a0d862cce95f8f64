// step.h - one training step behind one call
//
//   Step steps(model, optimizer, comm, data, schedule, {micro_steps, documents, graph});
//   const StepResult r = steps.run(step, stop_asked);      // for step 0, 1, …
//
// run() brings `micro_steps` batches and the numbers of the update to the device, and runs forward, head and backward
// on each batch. The loss is the mean over all tokens of the step that count, in every micro-step and every process.
// run() sums gradients and loss over all processes (shards.h), updates the weights, and waits for the result. While the
// device works, the batches of the next step are already on their way. A step whose loss or gradient norm is not finite
// leaves weights and optimizer as they were.
//
// stop_asked is read before the work and after it. Every process votes with what it read before, so that all of them
// stop after the same step. A process that is alone also stops when it was asked during the step.
//
// A Step must be destroyed before Comm::finish(): NCCL ends only when no CUDA graph holds its sums any more.
#pragma once
#include <cmath>
#include <csignal>
#include <cstring>
#include <vector>

#include "gpt/busy.h"
#include "gpt/comm.h"
#include "gpt/optimizer.h"
#include "gpt/preferences.h"
#include "kernels/measure.h"

struct StepResult {
    float loss;  // the mean over the tokens of the step that count, in nats; of preferences, over the pairs
    float norm;  // of the gradients, before clipping
    bool stop;   // a process was asked to stop: all of them stop after the same step
    float margin = 0, accuracy = 0;  // of preferences: the means over the pairs of the step
    bool finite() const { return std::isfinite(loss) && std::isfinite(norm); }  // false: the update was skipped
};

struct StepSettings {
    int64_t micro_steps = 1;      // batches that make one step
    bool documents      = false;  // batches have starts and positions
    bool graph          = false;  // a GPU records the step as a CUDA graph and replays it
};

class Step {
  public:
    Step(Model& model, Optimizer& optimizer, const Comm& comm, Loader& data, const Schedule& schedule,
         const StepSettings& settings, Preferences* preferences = nullptr)
        : model_(model),
          optimizer_(optimizer),
          comm_(comm),
          data_(data),
          schedule_(schedule),
          settings_(settings),
          preferences_(preferences),
          position_(data.position()),
          feed_(*model.device, feed_capacity(model.shape, settings.micro_steps, settings.documents, data.masked())),
          scales_(data.masked() ? model.shape.rows() : 0),
          graph_(*model.device, settings.graph) {
        memory_.plan({5}, DType::F32);
        memory_.allocate(*model.device);
        results_ = memory_.take({5}, DType::F32);
        zero(results_, model.stream);
    }

    StepResult run(int64_t step, const volatile std::sig_atomic_t& stop_asked) {
        const ProfilerRange range("step");
        const Busy busy(fmt::format("step {}{}", step + 1, sent_ < 0 ? ", which prepares its products" : ""));
        if (sent_ != step) send(step);
        position_ = data_.position();
        comm_.reach(step, Comm::Phase::queueing);
        feed_.arrive();
        comm_.vote(votes(), stop_asked, model_.stream);
        graph_.run([&] { work(); });
        comm_.reach(step, Comm::Phase::reading_data);
        if (step + 1 < schedule_.steps) send(step + 1);  // while the device works

        float results[5];
        comm_.reach(step, Comm::Phase::waiting);
        to_host(results, results_, model_.stream);  // the one wait of a step
        comm_.reach(step + 1, Comm::Phase::between_steps);
        return {results[0], std::sqrt(results[1]), comm_.any(results[2], stop_asked), results[3], results[4]};
    }

    // The position in the data where the next step begins. A checkpoint keeps it.
    LoaderPosition position() const { return position_; }

    // masked: the data has a loss mask.
    static BatchFeed::Capacity feed_capacity(const BatchShape& shape, int64_t micro_steps, bool documents,
                                             bool masked) {
        return {shape.rows(), micro_steps, documents, masked, Optimizer::numbers_bytes};
    }

  private:
    Tensor loss() const { return results_.rows(0, 1); }
    Tensor norm2() const { return results_.rows(1, 1); }  // the squared norm of the gradients
    Tensor votes() const { return results_.rows(2, 1); }  // how many processes were asked to stop
    Tensor pairs() const { return results_.rows(3, 2); }  // the margin and the accuracy of preferences

    void send(int64_t step) {
        optimizer_.numbers(feed_.outgoing_numbers(), schedule_, step);
        const uint32_t number = uint32_t(step);
        std::memcpy(static_cast<char*>(feed_.outgoing_numbers()) + step_number * sizeof number, &number, sizeof number);
        // How many tokens count is known only for data with a mask, and differs from step to step. All ranks compute
        // the same number, because each knows the order of the data.
        if (data_.masked())
            std::fill(scales_.begin(), scales_.end(),
                      float(1. / double(data_.counted(settings_.micro_steps * data_.sequences_per_batch()))));
        if (preferences_)
            preferences_->begin(data_.documents_in(settings_.micro_steps * data_.sequences_per_batch()) / 2);
        for (int64_t i = 0; i < settings_.micro_steps; i++) {
            Batch batch = data_.next();
            if (preferences_) preferences_->put(batch, data_.first_documents());
            if (data_.masked()) batch.scales = {scales_.data(), DType::F32, batch.tokens.shape};
            feed_.put(i, batch);
        }
        feed_.send();
        sent_ = step;
    }

    // Queues all work of a step. It is always the same ops on the same memory, so that a graph can replay them, unless
    // preferences are weighed on the host.
    void work() {
        const float tokens = float(model_.shape.rows() * settings_.micro_steps * comm_.world());
        const float scale  = data_.masked() ? 1.f : 1.f / tokens;  // the scales of a batch hold what a mask makes of it
        zero(loss(), model_.stream);
        for (int64_t i = 0; i < settings_.micro_steps; i++) {
            const Batch& batch   = feed_.batch(i);
            const Into into      = model_.shards->begin(i, settings_.micro_steps);
            model_.dropout.step  = feed_.numbers().rows(step_number, 1);
            model_.dropout.first = (i * comm_.world() + comm_.rank()) * model_.shape.rows();
            forward(model_, batch, Keep::for_backward);
            if (preferences_) preferences_->weigh(model_, batch, size_t(i));
            head(model_, batch, loss(), scale, into);
            backward(model_, batch, into);
            comm_.move();
        }
        if (preferences_) {
            const std::vector<float> shares = preferences_->shares();
            from_host(loss(), std::vector<float>{shares[0]}, model_.stream);
            from_host(pairs(), std::vector<float>{shares[1], shares[2]}, model_.stream);
        }
        model_.shards->finish(norm2(), {loss(), votes(), pairs()});
        optimizer_.step(loss(), norm2(), feed_.numbers());
        model_.shards->publish(optimizer_.updated());
        // A launch of a graph ends when all of its work is done, so there the next forward pass waits for all weights.
        if (settings_.graph) model_.shards->settle();
    }

    // The word behind the optimizer's numbers that holds the number of the step, for dropout.
    static constexpr int64_t step_number = Optimizer::numbers_bytes / int64_t(sizeof(int32_t)) - 1;

    Model& model_;
    Optimizer& optimizer_;
    const Comm& comm_;
    Loader& data_;
    const Schedule schedule_;
    const StepSettings settings_;
    Preferences* preferences_;  // null: the loss is that of the likelihood
    LoaderPosition position_;
    int64_t sent_ = -1;  // the step whose batches were sent last
    BatchFeed feed_;
    std::vector<float> scales_;
    Graph graph_;
    Arena memory_{"step"};
    Tensor results_;  // (5) fp32
};
