// streams.h - the order of operations: streams, events, and who must wait for whom
//
// Every operation is a Node. Its dependencies are exactly those CUDA promises: the operation before it in its stream,
// the events it waits for, the legacy default stream, and the host calls that waited before it was queued. What may
// run, in which order, is up to the --streams schedule: eager (at once), late (only when somebody waits, the newest
// first) or random. A program may also wait where we do not see it, for a flag or another thread: when nothing has
// moved for a moment, everything that may run does, and after --timeout the program ends. Whatever the schedule, a
// vector clock per node remembers which operations are ordered, so that two unordered ones that touch the same bytes
// are a finding even when they happened to run in the lucky order.
#pragma once
#include <map>
#include <memory>
#include <set>

#include "runtime.h"

namespace emu {

using Clock = std::vector<uint32_t>;  // per slot (a stream, or a branch of a graph): the newest operation it has seen

struct Node {
    enum State { Waiting, Ready, Running, Done };
    uint32_t number = 0;
    Work work;
    uint32_t slot = 0, seq = 0;
    Clock clock;
    State state     = Waiting;
    int unmet       = 0;                              // dependencies that are not done
    uint64_t wanted = 0;                              // ticket of the wait that needs it
    double finished = 0;                              // seconds, for cudaEventElapsedTime
    std::vector<std::shared_ptr<Node>> dependencies;  // emptied when done
    std::vector<Node*> dependents;
};
using NodePtr = std::shared_ptr<Node>;

class Queue {
  public:
    static Queue& get();

    NodePtr add(Work work, const std::vector<NodePtr>& after, uint32_t slot);
    uint32_t new_slot();

    void wait(const std::vector<NodePtr>& targets);  // run what they need, then the host has seen them
    bool poll(const NodePtr& target);                // done? if not, lets one operation happen
    void wait_all();

    // Ops that were ordered before everything the host has not seen yet.
    bool ordered(uint32_t earlier, uint32_t later) const;

  private:
    Queue();
    bool run_one(uint64_t ticket);  // something wanted (0: anything) that is ready; false: nothing could
    bool run(const NodePtr& node);
    void finish(const NodePtr& node, cudaError_t error);
    void progress();  // what the schedule does by itself after each submission
    uint64_t want(const std::vector<NodePtr>& targets);
    void seen(const Node& node);  // the host waited for it
    void block_until_progress(double since);
    void call_host(const NodePtr& node);  // a function of the program: by a thread of its own
    void watch();                         // another thread: what must happen while the program waits outside of CUDA
    std::string what_waits() const;

    std::map<uint32_t, NodePtr> ready;    // by number
    std::map<uint32_t, NodePtr> pending;  // not done, ready or not
    Clock host_clock;
    struct Record {
        uint32_t slot, seq;
        Clock clock;
    };
    std::map<uint32_t, Record> records;
    struct Owned {
        HostRange range;
        uint32_t slot, seq;
    };
    std::vector<Owned> owned;
    std::vector<uint32_t> last_seq;              // per slot
    std::multimap<uint64_t, std::string> waits;  // by ticket: the calls that wait now, and for what
    uint32_t next_number = 1;
    uint64_t next_ticket = 1;
    uint64_t random_state;
};

}  // namespace emu

// The runtime's handles are pointers to these.
struct Capture;

struct CUstream_st {
    int device     = 0;
    unsigned flags = 0;
    int priority   = 0;
    uint64_t id    = 0;
    uint32_t slot  = 0;
    bool legacy    = false;  // the default stream: ordered with every blocking stream of its device
    emu::NodePtr tail;       // the newest operation, done or not; null: none yet
    std::shared_ptr<Capture> capture;
    std::vector<cudaGraphNode_t> capture_tail;  // what the next captured node depends on
    bool blocking() const { return !(flags & cudaStreamNonBlocking); }
};

struct CUevent_st {
    unsigned flags = 0;
    int device     = 0;
    emu::NodePtr node;  // null: never recorded
    std::shared_ptr<Capture> capture;
    std::vector<cudaGraphNode_t> capture_tail;
};

namespace emu {

CUstream_st* find_stream(cudaStream_t handle);  // null when it is no live stream; 0, legacy and per-thread resolved
CUstream_st* legacy_stream(int device);
const std::set<CUstream_st*>& all_streams();
CUevent_st* find_event(cudaEvent_t handle);

// The dependencies of the stream's next operation, those of the legacy default stream included.
std::vector<NodePtr> dependencies_of(CUstream_st& stream);
// A function of the program. It runs without the lock and must not call CUDA.
Work host_work(const char* name, std::function<void()> function);
NodePtr enqueue(CUstream_st& stream, Work work, std::vector<NodePtr> also_after = {});

// Refuses a call that waits or allocates while a capture is in progress, and marks the capture as invalid.
cudaError_t refuse_during_capture();
cudaError_t capture_add(CUstream_st& stream, Work work);
// The stream joins the event's capture and waits for what it recorded.
cudaError_t capture_wait(CUstream_st& stream, CUevent_st& event);

cudaError_t wait_device();

}  // namespace emu
