// batch_feed.h - copies batches of token ids to the device, for training, evaluation and generation
#pragma once
#include <cstring>
#include <vector>

#include "data/loader.h"
#include "kernels/feed.h"

// Carries a fixed number of batches, and a few numbers beside them, from the host to a fixed place on the device. Ops
// recorded as a CUDA graph can therefore read the next batches from the same addresses.
//
// Call put() for each batch, then send(), then arrive(). Ops that are queued after arrive() read what was sent last. On
// a GPU send() copies at once, while kernels that read the batches before may still run.
class BatchFeed {
  public:
    struct Capacity {
        int64_t rows          = 1;      // the most tokens of one batch
        int64_t batches       = 1;      // how many are sent together
        bool documents        = true;   // false: batches have no starts and positions
        bool scales           = false;  // batches have scales
        int64_t numbers_bytes = 0;
        int64_t bytes() const { return numbers_bytes + batches * tensors() * rows * size_of(DType::I32); }
        int64_t tensors() const { return (documents ? 4 : 2) + scales; }
    };
    BatchFeed(const Device& device, const Capacity& capacity)
        : capacity_(capacity), batches_(size_t(capacity.batches)), feed_(device, capacity.bytes()) {}

    // Host memory for the numbers of the next send().
    void* outgoing_numbers() { return feed_.outgoing(); }
    // Copies a batch of host memory into the next send(). A tensor that it lacks stays null on the device.
    void put(int64_t index, const Batch& batch) {
        const int64_t first =
            capacity_.numbers_bytes + index * capacity_.tensors() * capacity_.rows * size_of(DType::I32);
        char* const outgoing = static_cast<char*>(feed_.outgoing());
        char* const arrived  = static_cast<char*>(feed_.arrived());
        const auto place     = [&](Tensor from, int64_t slot) {
            if (!from) return Tensor{};
            CHECK_CALL(slot < capacity_.tensors() && from.numel() <= capacity_.rows,
                           "a batch of {} does not fit: there is room for {} tokens{}", from.str(), capacity_.rows,
                       capacity_.documents ? "" : " without starts and positions");
            const int64_t at = first + slot * capacity_.rows * size_of(DType::I32);
            std::memcpy(outgoing + at, from.ptr, size_t(from.bytes()));
            return Tensor{arrived + at, from.dtype, from.shape};
        };
        batches_.at(size_t(index)) = {place(batch.tokens, 0), place(batch.targets, 1), place(batch.starts, 2),
                                      place(batch.positions, 3), place(batch.scales, capacity_.documents ? 4 : 2)};
    }
    void send() { feed_.send(); }
    void arrive() { feed_.arrive(); }

    // Returns the batch that was put last at this index, with tensors in device memory. They are valid once it has
    // arrived.
    const Batch& batch(int64_t index) const { return batches_.at(size_t(index)); }
    Tensor numbers() const { return {feed_.arrived(), DType::I32, {capacity_.numbers_bytes / size_of(DType::I32)}}; }

    // Calls put(), send() and arrive() for a single batch.
    const Batch& bring(const Batch& batch) {
        put(0, batch);
        send();
        arrive();
        return batches_[0];
    }

  private:
    Capacity capacity_;
    std::vector<Batch> batches_;
    Feed feed_;
};
