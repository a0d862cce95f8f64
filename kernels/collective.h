// collective.h - sums over processes that have a GPU each, by NCCL
#pragma once
#include <initializer_list>
#include <memory>
#include <string>

#include "device.h"

namespace gpu {
class Communicator;
}

// A process's place among `world` processes that add up tensors together.
class Collective {
  public:
    // "NCCL 2.28.3", or "" for a binary without it.
    static std::string library();
    // Names a new group: one process makes the id, and all of them build their Collective with it.
    static std::string new_id();

    // Returns when all processes have come. s: a stream of this process's GPU.
    Collective(const std::string& id, int rank, int world, Stream s);
    // What is under way is abandoned, as after an error, unless finish() was called.
    ~Collective();
    Collective(const Collective&)            = delete;
    Collective& operator=(const Collective&) = delete;

    // Every tensor, in fp32, becomes its sum over the processes: the same bits in each of them. Queued like any op, and
    // all processes queue the same; may be recorded in a Graph.
    void sum(std::initializer_list<Tensor> tensors) const;
    void finish();  // when all that was queued is done, in all processes

  private:
    std::shared_ptr<gpu::Communicator> communicator_;
};
