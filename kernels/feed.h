// feed.h - keeps a device busy: a Feed copies the next bytes to it while it works, Answers bring bytes from it while it
// works on, and a Graph queues recorded work in one launch
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "device.h"

namespace gpu {
class Upload;
class Downloads;
class Recording;
}  // namespace gpu

// Copies bytes to a device while it works on the previous ones. Fill outgoing() and call send(). Ops that are queued
// after arrive() find the bytes at arrived(). On a GPU the copy starts at send(), in a stream of its own.
class Feed {
  public:
    Feed(const Device& device, int64_t bytes);
    ~Feed();
    Feed(const Feed&)            = delete;
    Feed& operator=(const Feed&) = delete;

    void* outgoing();  // `bytes` of host memory for the next send()
    void send();
    void arrive();  // is called at most once per send()
    void* arrived() const { return arrived_; }
    // The memory that a Feed of `bytes` takes on the device.
    static int64_t device_bytes(int64_t bytes, Machine where) { return where == Machine::cuda ? 2 * bytes : bytes; }

  private:
    const Device& device_;
    int64_t bytes_;
    void* arrived_;
    std::vector<char> outgoing_;           // is used on the CPU
    std::shared_ptr<gpu::Upload> upload_;  // is used on a GPU
};

// Brings bytes from a device, which may work on what was queued after ask() while the host waits for them. Two asks may
// be open at a time.
class Answers {
  public:
    Answers(const Device& device, int64_t bytes);
    ~Answers();
    Answers(const Answers&)            = delete;
    Answers& operator=(const Answers&) = delete;

    void ask(Tensor src);  // has `bytes` bytes
    // Waits for the bytes of the oldest ask() that is open, and for the work that was queued before it, whose errors it
    // throws as sync() does. If another ask() was queued after a bad id, its answer throws as well. The bytes are there
    // until the next ask().
    const void* answer();

  private:
    int64_t bytes_;
    std::vector<char> answers_[2];               // are used on the CPU
    int asked_ = 0, answered_ = 0;               // say which of the two is next
    std::shared_ptr<gpu::Downloads> downloads_;  // is used on a GPU
};

// Queues the same work again and again: the same ops on the same tensors. On a GPU the second run records it as a CUDA
// graph, and every run from then on is one launch.
class Graph {
  public:
    // Without `record`, run() just does the work. `record` needs Device::has_graphs(): InputError on a CPU, and on a
    // GPU that waits after every kernel.
    //
    // early: kernels of the graph may begin before those in front of them have ended, and load weights, positions and
    // what a cache held before. So nothing in the work may write these before the last op that reads them, as weights
    // do that arrive from other processes.
    Graph(const Device& device, bool record, bool early = false);
    ~Graph();
    Graph(const Graph&)            = delete;
    Graph& operator=(const Graph&) = delete;

    void run(const std::function<void()>& work);

  private:
    std::shared_ptr<gpu::Recording> recording_;
};
