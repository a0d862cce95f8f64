// streams.h - the order of operations: streams, events, and which operation must wait for which
//
// Every operation is a Node. Its dependencies are exactly those that CUDA promises: the operation before it in its
// stream, the events it waits for, the legacy default stream, and the host calls that waited before it was queued.
//
// The --streams schedule decides when a node runs whose dependencies are done: eager (at once), late (only when the
// program waits for it, the newest first) or random. A program may also wait for a flag or for another thread, which
// the emulator does not see. After a moment without progress every ready node is run, and after --timeout the program
// ends.
//
// A vector clock per node remembers which operations are ordered. Two unordered operations that touch the same bytes
// are a finding, even if they ran in the right order this time.
#pragma once
#include <map>
#include <memory>
#include <set>

#include "runtime.h"

namespace emu {

// A vector clock: the newest operation of each slot that came before. A slot is a stream or a branch of a graph.
using Clock = std::vector<uint32_t>;

struct Node {
    enum State { Waiting, Ready, Running, Done };
    uint32_t number = 0;
    Work work;
    uint32_t slot = 0, seq = 0;
    int device = 0;
    Clock clock;
    State state     = Waiting;
    int unmet       = 0;                              // the number of dependencies that are not done
    uint64_t wanted = 0;                              // the ticket of the last wait that needs it
    double finished = 0;                              // the time in seconds, for cudaEventElapsedTime
    std::vector<std::shared_ptr<Node>> dependencies;  // emptied when the node is done
    std::vector<Node*> dependents;
};
using NodePtr = std::shared_ptr<Node>;

constexpr int kEveryDevice = -1;

class Queue {
  public:
    static Queue& get();

    NodePtr add(Work work, const std::vector<NodePtr>& after, uint32_t slot, int device);
    uint32_t new_slot();

    void wait(const std::vector<NodePtr>& targets);  // runs what the targets need until they are done
    bool poll(const NodePtr& target);                // runs one operation if the target is not done; returns if it is
    void wait_all(int device);                       // waits for the operations of this device or of kEveryDevice

    // Returns whether the operation with one number is ordered before that with the other.
    bool ordered(uint32_t earlier, uint32_t later) const;
    Follows follows(uint32_t op) const;  // memory.h

  private:
    Queue();
    bool run_one(uint64_t ticket);  // runs a ready node that this wait needs (0: any); false when none could run
    bool run(const NodePtr& node);
    void finish(const NodePtr& node, cudaError_t error);
    void progress();  // runs what the schedule wants to run after an operation was queued
    uint64_t want(const std::vector<NodePtr>& targets);  // marks what the targets need with a new ticket
    void host_waited_for(const Node& node);
    void release_owned();  // memory of operations for which the host has waited
    void block_until_progress(double since);
    void call_host(const NodePtr& node);
    void watch();  // runs in a thread of its own, for programs that wait outside of CUDA
    std::string what_waits() const;

    std::map<uint32_t, NodePtr> ready;    // by number
    std::map<uint32_t, NodePtr> pending;  // all nodes that are not done, by number
    Clock host_clock;
    struct Record {
        uint32_t slot, seq;
        Clock clock;
        Follows follows;
    };
    std::map<uint32_t, Record> records;
    struct Owned {
        HostRange range;
        uint32_t slot, seq;
        Clock clock;
        std::string what;
        uint64_t lent_to;  // the number of a host function that runs now, behind which the operation is queued; or 0
    };
    void lend_to(const Node& host_function);
    void take_back_from(const Node& host_function);
    void settle(Owned& o);  // lends it to a host function that runs now and comes before the operation, or else owns it
    std::vector<const Node*> host_functions;  // those that run now
    std::vector<Owned> owned;
    struct Slot {
        uint32_t last_seq = 0;
        int device        = 0;  // the device of the newest operation
    };
    std::vector<Slot> slots;
    std::multimap<uint64_t, std::string> waits;  // the calls that wait now, by ticket
    uint32_t next_number = 1;
    uint64_t next_ticket = 1;
    uint64_t random_state;
};

}  // namespace emu

struct Capture;

// The runtime's handles are pointers to the following.
struct CUstream_st {
    int device     = 0;
    unsigned flags = 0;
    int priority   = 0;
    uint64_t id    = 0;
    uint32_t slot  = 0;
    bool legacy    = false;  // the default stream, which is ordered with every blocking stream of its device
    emu::NodePtr tail;       // the newest operation, done or not; null before the first one
    std::shared_ptr<Capture> capture;
    std::vector<cudaGraphNode_t> capture_tail;  // the nodes on which the next captured node depends
    bool blocking() const { return !(flags & cudaStreamNonBlocking); }
};

struct CUevent_st {
    unsigned flags = 0;
    int device     = 0;
    emu::NodePtr node;  // null when it was never recorded
    std::shared_ptr<Capture> capture;
    std::vector<cudaGraphNode_t> capture_tail;
};

namespace emu {

// Returns null when the handle is no live stream. The handles 0, legacy and per-thread give the stream they stand for.
CUstream_st* find_stream(cudaStream_t handle);
CUstream_st* legacy_stream(int device);
const std::set<CUstream_st*>& all_streams();
CUevent_st* find_event(cudaEvent_t handle);

// Returns the dependencies of the stream's next operation, including those through the legacy default stream.
std::vector<NodePtr> dependencies_of(CUstream_st& stream);
// The work of calling a function of the program. It runs without the lock and must not call CUDA.
Work host_work(const char* name, std::function<void()> function);
NodePtr enqueue(CUstream_st& stream, Work work, std::vector<NodePtr> also_after = {});

// Refuses a call that could disturb a capture, such as an allocation, and marks the capture as invalid. The modes of
// the capture and of the thread can allow it.
cudaError_t refuse_during_capture();
// Refuses, whatever the modes, a call that waits for a stream which is being captured. Null means any stream of the
// current device.
cudaError_t refuse_to_wait(const CUstream_st* stream);
cudaError_t capture_add(CUstream_st& stream, Work work);
// The stream joins the event's capture and waits for what it recorded.
cudaError_t capture_wait(CUstream_st& stream, CUevent_st& event);
// The stream is destroyed. Its capture ends, or goes on without it if it began in another stream.
void leave_capture(CUstream_st& stream);

cudaError_t wait_device(int device);  // waits for one device, or for kEveryDevice

}  // namespace emu
