// transfer.h - communicators, and how the operations of a group move data between the ranks
#pragma once
#include <nccl.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime.h"
#include "segment.h"

struct ncclComm {
    std::string name;  // of the segment
    int ranks = 1, rank = 0, device = 0;
    std::unique_ptr<emu::Segment> segment;
    uint64_t round     = 0;  // the last round that this rank has finished
    uint64_t sequence  = 0;  // the number of collectives called so far
    uint64_t split     = 0;  // the number of splits so far
    ncclResult_t error = ncclSuccess;
    bool finalized     = false;
    std::string message;
    std::vector<double> scales;                        // the factors of pre-multiplied sums, by op - ncclNumOps
    std::map<std::pair<int, int>, uint64_t> messages;  // the number of messages so far, by (from, to)
};
// Operations that are not finished keep their communicator alive when the program destroys it.
using CommPtr = std::shared_ptr<ncclComm>;

namespace emu::nccl {

extern std::string& last_error_text;

// Puts the communicator into an error state. Its operations end, and the next call or ncclCommGetAsyncError returns it.
void fail(ncclComm& comm, ncclResult_t result, const std::string& text, bool finding);

// Returns true when the communicator has failed, because an awaited rank has ended or does not arrive. `since` is the
// time at which the wait began, or 0.
bool check_peers(ncclComm& comm, const CallRecord& mine, double& since, const std::vector<int>& awaited);

// Returns the ranks whose counter is less than round.
std::vector<int> ranks_behind(const ncclComm& comm, std::atomic<uint64_t> Slot::*counter, uint64_t round);

enum class Collective { AllReduce, Reduce, Broadcast, AllGather, ReduceScatter, AllToAll, Gather, Scatter, Send, Recv };

struct Operation {
    Collective kind;
    CallRecord call{};
    Address send = 0, receive = 0;
    int peer     = -1;
    double scale = 0;  // the factor of a pre-multiplied sum
    // How far the operation is:
    bool started = false, done = false;
    bool posted          = false;  // this round's share has been published
    size_t offset        = 0;      // the bytes of the contribution that have been moved
    double waiting_since = 0;
};

size_t element(const Operation& o);  // the bytes of an element

// One group's operations on one communicator. Collectives run in order, and messages run at the same time.
struct Batch {
    CommPtr comm;
    cudaStream_t stream;
    std::vector<Operation> operations;
};

// Moves the operations as far as the other ranks allow. Returns true when all are finished, or have failed.
bool advance(Batch& batch, uint32_t op);

}  // namespace emu::nccl
