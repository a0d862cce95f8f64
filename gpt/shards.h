// shards.h - how weights and gradients travel between the processes during a step
//
//   --shard      none              optimizer            gradients                weights
//   gradients    summed in all     their slices summed  leave a buffer           leave a buffer
//   weights      are whole         gathered after the update                     gathered before each use
//
// A bucket is gathered as soon as it is updated, while the next forward pass begins. That pass waits for each bucket
// where it reads it. It waits likewise for weights that the CPU updates (--offload), also in a process that is alone.
//
// Gradients travel in fp32, or rounded to bf16 (--wire). Norms, losses and votes always travel in fp32.
//
// Params lie in buckets (params.h): the tables, each block, and the final norm with the head. A model's forward pass
// says arrive(bucket) before it reads weights, and its backward pass enter(bucket) before it writes gradients and
// leave(bucket) when they are complete. On a GPU all of this travels on a stream of its own, while the next block is
// computed. Everything that reads weights or the optimizer's state in another way calls settle() first.
#pragma once
#include <initializer_list>
#include <utility>
#include <vector>

#include "gpt/params.h"
#include "kernels/ops.h"

class Shards {
  public:
    // group: null in a process that is alone.
    Shards(Collective* group, const ParamLayout& layout, const ParamMemory& weights, const ParamMemory& gradients,
           const Device& device)
        : group_(group),
          layout_(layout),
          weights_(weights),
          gradients_(gradients),
          stream_(device.stream()),
          held_(weights.buffers(), nothing),
          updated_(layout.buckets.size()),
          on_the_way_(weights.buffers() + gradients.buffers()) {
        if (!group_) return;
        memory_.plan({buckets()}, DType::F32);
        memory_.allocate(device);
        norms_ = memory_.take({buckets()}, DType::F32);
        if (layout_.sharding.wire == DType::BF16) group_->reserve(layout_.most_elements());
    }
    Shards(const Shards&)            = delete;
    Shards& operator=(const Shards&) = delete;

    // Whether weights must be gathered before they are read. Then all processes must read them together.
    bool travel() const { return weights_.sliced(); }
    Collective* group() const { return group_; }

    // ---- weights

    // Forgets which buckets are in the buffers: weights have changed, or a graph has been replayed since.
    void forget() {
        if (travel()) std::fill(held_.begin(), held_.end(), nothing);
    }
    // From here on the ops find the weights of bucket b.
    void arrive(int64_t b) {
        if (travel()) request(b);
        wait(weights_.buffer(b));
        wait_for(std::exchange(updated_[b], {}), stream_);
    }
    // Lets the weights of bucket b travel while the ops that are queued next are at work. On the CPU nothing works
    // meanwhile, and there is no second buffer.
    void fetch(int64_t b) {
        if (travel() && stream_.where == Machine::cuda && b >= 1 && b < buckets()) request(b);
    }

    // ---- gradients

    // Begins micro-step i of n. Returns what backward() does with the gradients of the micro-steps before.
    Into begin(int64_t i, int64_t n) {
        first_ = i == 0, last_ = i + 1 == n;
        return first_ || gradients_.sliced() ? Into::set : Into::add;
    }
    // From here on the ops find the weights of bucket b and memory for its gradients. The weights that the backward
    // pass needs next begin to travel.
    void enter(int64_t b) {
        arrive(b);
        if (b > 1) fetch(b - 1);
        clear(b);
    }
    // From here on the memory for the gradients of bucket b is free.
    void clear(int64_t b) {
        if (!gradients_.sliced()) return;
        wait(gradient_mark(b));
        for (const Tensor& gap : gradients_.gaps(b)) zero(gap, stream_);
    }
    // The gradients of bucket b are complete for this micro-step.
    void leave(int64_t b) {
        if (!group_ || (!gradients_.sliced() && !last_)) return;
        group_->follow(stream_);
        if (layout_.sharding.cuts(ShardLevel::optimizer))
            group_->reduce_scatter(gradients_.slice(b), gradients_.bucket(b), layout_.buckets[b].cut,
                                   gradients_.sliced() && !first_ ? Sum::add : Sum::set, layout_.sharding.wire);
        else
            group_->sum({gradients_.bucket(b)}, layout_.sharding.wire);
        mark(gradient_mark(b));
    }
    // norm2 (1) = the squared norm of the sums of all gradients. `others` are summed over the processes too. Each
    // process squares its own slices, whatever the level, so that the norm has the same bits at each.
    void finish(Tensor norm2, std::initializer_list<Tensor> others) {
        settle();
        if (!group_) return squared_norm(norm2, gradients_.all(), stream_);
        zero(norms_, stream_);
        for (int64_t b = 0; b < buckets(); b++)
            if (const Tensor own = gradients_.slice(b); own.numel()) squared_norm(norms_.rows(b, 1), own, stream_);
        run([&](Collective& group) {
            group.sum({norms_});
            group.sum(others);
        });
        zero(norm2, stream_);
        sum(norm2, norms_, 1.f, stream_);
    }

    // Does something with all processes after the ops that are queued, and before those that are queued next.
    template <class Work>
    void run(Work work) {
        group_->follow(stream_);
        work(*group_);
        group_->mark(0);
        group_->wait(0, stream_);
    }

    // After the slices of the weights were set: brings them together again where weights are whole. updated: the events
    // after which the slices of the first buckets are set; those of the others are set by the ops that are queued.
    void publish(std::vector<Event> updated = {}) {
        forget();
        updated_ = std::move(updated);
        updated_.resize(size_t(buckets()));
        if (travel() || !layout_.sharding.cuts(ShardLevel::optimizer)) return;
        for (int64_t b = 0; b < buckets(); b++) gather(b);
    }
    // From here on the ops find all weights where they are whole, the optimizer's state, and free memory for gradients.
    void settle() {
        for (size_t i = 0; i < on_the_way_.size(); i++) wait(int(i));
        for (Event& e : updated_) wait_for(std::exchange(e, {}), stream_);
    }

  private:
    static constexpr int64_t nothing = -1;
    int64_t buckets() const { return int64_t(layout_.buckets.size()); }

    void request(int64_t b) {
        int64_t& held = held_[weights_.buffer(b)];
        if (held == b) return;
        held = b;
        gather(b);
    }
    void gather(int64_t b) {
        group_->follow(stream_);  // the ops that read what lies in the buffer are queued
        group_->follow(updated_[b]);
        group_->all_gather(weights_.bucket(b), weights_.slice(b), layout_.buckets[b].cut);
        mark(weights_.buffer(b));
    }
    int gradient_mark(int64_t b) const { return weights_.buffers() + gradients_.buffer(b) % gradients_.buffers(); }
    void mark(int number) {
        group_->mark(number);
        on_the_way_[number] = true;
    }
    void wait(int number) {
        if (on_the_way_[number]) group_->wait(number, stream_);
        on_the_way_[number] = false;
    }

    Collective* const group_;
    const ParamLayout& layout_;
    const ParamMemory &weights_, &gradients_;
    const Stream stream_;
    std::vector<int64_t> held_;     // the bucket that each buffer of weights holds
    std::vector<Event> updated_;    // the update of each bucket, if no op waits for it yet
    std::vector<bool> on_the_way_;  // marks that no op waits for yet
    bool first_ = true, last_ = true;
    Arena memory_{"norms of gradients"};
    Tensor norms_;  // (buckets)
};
