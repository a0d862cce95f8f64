// collective.h - sums over processes that have a GPU each, by NCCL
#pragma once
#include <initializer_list>
#include <memory>
#include <string>

#include "device.h"

namespace gpu {
class Communicator;
}

// One process's membership in a group of `world` processes, numbered by rank, that sum their tensors with each other.
class Collective {
  public:
    // "NCCL 2.28.3", or "" for a binary without it.
    static std::string library();
    // The id of a new group. One process makes it, sends it to the others, and all build their Collective with it.
    static std::string new_id();

    // Returns when every process of the group has called it. s: a stream of this process's GPU.
    Collective(const std::string& id, int rank, int world, Stream s);
    // Aborts sums that are under way, unless finish() was called: after an error the other processes may never answer.
    ~Collective();
    Collective(const Collective&)            = delete;
    Collective& operator=(const Collective&) = delete;

    // Replaces every tensor by its sum over the processes, with the same bits in each of them. The tensors are fp32.
    // All processes must call it in the same order. It is queued like an op, and a Graph (feed.h) may record it.
    void sum(std::initializer_list<Tensor> tensors) const;
    void finish();  // returns when all queued work is done in every process; no sum may follow

  private:
    std::shared_ptr<gpu::Communicator> communicator_;
};
