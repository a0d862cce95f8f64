// streams.cpp - the queue of operations, streams and events
#include "streams.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "modules.h"

namespace emu {
namespace {

void merge(Clock& into, const Clock& from) {
    if (into.size() < from.size()) into.resize(from.size());
    for (size_t i = 0; i < from.size(); i++) into[i] = std::max(into[i], from[i]);
}

bool covers(const Clock& clock, uint32_t slot, uint32_t seq) { return slot < clock.size() && clock[slot] >= seq; }

constexpr double kMoment = 0.2;  // seconds without progress after which watch() runs what is ready

std::atomic<double>& last_progress() {  // the time of the last call, or of the last operation that ended
    static auto* time = new std::atomic<double>(now());
    return *time;
}

// The race check remembers this many operations. Older ones count as ordered, so a race may be missed, but none is
// false.
constexpr size_t max_records = 1 << 16;

// These are never destroyed, because programs synchronise and free in static destructors, which may run later.
auto& streams           = *new std::set<CUstream_st*>;
auto& events            = *new std::set<CUevent_st*>;
uint64_t next_stream_id = 1;

CUstream_st* make_stream(unsigned flags, int priority) {
    auto* stream     = new CUstream_st;
    stream->device   = current_device();
    stream->flags    = flags;
    stream->priority = priority;
    stream->id       = next_stream_id++;
    stream->slot     = Queue::get().new_slot();
    streams.insert(stream);
    return stream;
}

}  // namespace

Queue& Queue::get() {
    static Queue* queue = new Queue;
    return *queue;
}

Queue::Queue() : random_state(options().streams_seed * 0x9e3779b97f4a7c15ull + 1) {
    Memory::get().set_order([](uint32_t earlier, uint32_t later) { return Queue::get().ordered(earlier, later); },
                            [](uint32_t op) { return Queue::get().follows(op); });
}

uint32_t Queue::new_slot() {
    slots.push_back({});
    return uint32_t(slots.size() - 1);
}

NodePtr Queue::add(Work work, const std::vector<NodePtr>& after, uint32_t slot, int device) {
    auto node    = std::make_shared<Node>();
    node->device = slots[slot].device = device;
    node->number                      = next_number++;
    if (node->number == 1) std::thread([this] { watch(); }).detach();
    node->work  = std::move(work);
    node->slot  = slot;
    node->seq   = ++slots[slot].last_seq;
    node->clock = host_clock;
    Follows follows;
    if (after.size() == 1 && !covers(host_clock, after[0]->slot, after[0]->seq))
        follows = {after[0]->number, node->work.overlaps && after[0]->work.type == cudaGraphNodeTypeKernel};
    for (const NodePtr& dependency : after) {
        merge(node->clock, dependency->clock);
        if (dependency->state == Node::Done) continue;
        dependency->dependents.push_back(node.get());
        node->dependencies.push_back(dependency);
        node->unmet++;
    }
    if (node->clock.size() <= slot) node->clock.resize(slot + 1);
    node->clock[slot] = node->seq;

    records[node->number] = {slot, node->seq, node->clock, follows};
    if (records.size() > max_records) records.erase(records.begin());
    if (options().check == Check::All)
        for (const HostRange& range : node->work.host) {
            owned.push_back({range, slot, node->seq, node->clock, node->work.what, 0});
            settle(owned.back());
        }
    pending[node->number] = node;
    if (node->unmet == 0) {
        node->state         = Node::Ready;
        ready[node->number] = node;
    }
    progress();
    return node;
}

bool Queue::ordered(uint32_t earlier, uint32_t later) const {
    const auto a = records.find(earlier), b = records.find(later);
    return a == records.end() || b == records.end() || covers(b->second.clock, a->second.slot, a->second.seq);
}

Follows Queue::follows(uint32_t op) const {
    const auto record = records.find(op);
    return record == records.end() ? Follows{} : record->second.follows;
}

void Queue::finish(const NodePtr& node, cudaError_t error) {
    if (error != cudaSuccess && sticky_error() == cudaSuccess) set_sticky_error(error);
    node->state     = Node::Done;
    node->finished  = now();
    last_progress() = node->finished;
    node->work.run  = nullptr;
    node->dependencies.clear();
    ready.erase(node->number);
    for (Node* dependent : node->dependents)
        if (--dependent->unmet == 0) {
            dependent->state         = Node::Ready;
            ready[dependent->number] = pending.at(dependent->number);
        }
    node->dependents.clear();
    pending.erase(node->number);
}

// Returns false when the operation must wait for a peer. After a sticky error most work is skipped.
bool Queue::run(const NodePtr& node) {
    cudaError_t error = cudaSuccess;
    node->state       = Node::Running;
    if (node->work.run && (sticky_error() == cudaSuccess || node->work.after_error)) {
        if (node->work.unlocked) {
            call_host(node);
            return true;
        }
        error = node->work.run(node->number);
    }
    if (error == cudaErrorNotReady) {
        node->state = Node::Ready;
        return false;
    }
    finish(node, error);
    return true;
}

// Runs a function of the program in a thread of its own, because it may wait for something that this thread does next.
// Usually it ends at once, and this thread waits for that, so that every run has the same order. The function may read
// what the operations before it wrote, and write what those behind it will read.
void Queue::call_host(const NodePtr& node) {
    host_waited_for(*node);
    lend_to(*node);
    auto done = std::make_shared<std::atomic<bool>>(false);
    std::thread([this, node, done] {
        const cudaError_t error = node->work.run(node->number);
        const std::lock_guard hold(runtime_lock());
        take_back_from(*node);
        finish(node, error);
        done->store(true);
        progress();
    }).detach();
    runtime_lock().unlock();
    for (const double start = now(); !done->load() && now() - start < kMoment;)
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    runtime_lock().lock();
}

std::string Queue::what_waits() const {
    std::string text;
    for (const auto& [ticket, wait] : waits) text += "; " + wait;
    if (waits.empty()) text = "; the program waits outside of CUDA";
    size_t shown = 0;
    for (const auto& [number, node] : pending) {
        if (shown++ == 4) return text + "; …";
        text += "; " + node->work.what +
                (node->state == Node::Running ? " has not returned"
                 : node->dependencies.empty() ? " has not run"
                                              : " is behind " + node->dependencies[0]->work.what);
    }
    return text + (pending.empty() ? "; nothing is queued" : "");
}

void Queue::watch() {
    for (;;) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        if (now() - last_progress() < kMoment) continue;
        const std::lock_guard hold(runtime_lock());
        while (run_one(0)) {}  // a peer may wait for any of it
        if (now() - last_progress() < patience() || (pending.empty() && options().timeout <= 0)) continue;
        Finding f{};
        f.kind = Kind::Deadlock;
        f.what = "there was no progress for --timeout seconds" + what_waits();
        report(f);
        _exit(86);
    }
}

bool Queue::run_one(uint64_t ticket) {
    std::vector<NodePtr> choices;
    for (auto& [number, node] : ready)
        if (node->state == Node::Ready && (ticket == 0 || node->wanted == ticket)) choices.push_back(node);
    if (options().streams == Streams::Late) std::reverse(choices.begin(), choices.end());
    if (options().streams == Streams::Random)
        for (size_t i = choices.size(); i > 1; i--) {
            random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
            std::swap(choices[i - 1], choices[(random_state >> 33) % i]);
        }
    for (const NodePtr& node : choices)
        if (node->state == Node::Ready && run(node)) return true;
    return false;
}

void Queue::progress() {
    switch (options().streams) {
        case Streams::Eager:
            while (run_one(0)) {}
            break;
        case Streams::Late: break;
        case Streams::Random:
            do random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
            while ((random_state >> 40) % 4 == 0 && run_one(0));
            break;
    }
}

uint64_t Queue::want(const std::vector<NodePtr>& targets) {
    const uint64_t ticket = next_ticket++;
    std::vector<Node*> stack;
    for (const NodePtr& target : targets) stack.push_back(target.get());
    while (!stack.empty()) {
        Node* node = stack.back();
        stack.pop_back();
        if (node->wanted == ticket || node->state == Node::Done) continue;
        node->wanted = ticket;
        for (const NodePtr& dependency : node->dependencies) stack.push_back(dependency.get());
    }
    return ticket;
}

void Queue::host_waited_for(const Node& node) {
    merge(host_clock, node.clock);
    release_owned();
}

void Queue::release_owned() {
    std::erase_if(owned, [&](const Owned& o) {
        const bool released = covers(host_clock, o.slot, o.seq);
        if (released && !o.lent_to) Memory::get().disown(o.range.begin, o.range.bytes);
        return released;
    });
}

void Queue::lend_to(const Node& host_function) {
    host_functions.push_back(&host_function);
    for (Owned& o : owned) {
        if (o.lent_to || !covers(o.clock, host_function.slot, host_function.seq)) continue;
        Memory::get().disown(o.range.begin, o.range.bytes);
        o.lent_to = host_function.number;
    }
}
void Queue::take_back_from(const Node& host_function) {
    std::erase(host_functions, &host_function);
    for (Owned& o : owned)
        if (o.lent_to == host_function.number) settle(o);
}
void Queue::settle(Owned& o) {
    const auto before = std::find_if(host_functions.begin(), host_functions.end(),
                                     [&](const Node* f) { return covers(o.clock, f->slot, f->seq); });
    o.lent_to         = before == host_functions.end() ? 0 : (*before)->number;
    if (!o.lent_to) Memory::get().own(o.range.begin, o.range.bytes, o.range.access, o.what.c_str());
}

// Nothing can run here before another process or thread makes progress, so they get the lock and the processor.
void Queue::block_until_progress(double since) {
    runtime_lock().unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(now() - since < 0.01 ? 5 : 200));
    runtime_lock().lock();
}

void Queue::wait(const std::vector<NodePtr>& targets) {
    uint64_t ticket     = want(targets);
    const bool anything = options().streams != Streams::Late;  // late runs only what the wait needs
    auto finished       = [](const NodePtr& node) { return node->state == Node::Done; };
    double stuck        = 0;
    auto waiting        = waits.end();
    while (!std::all_of(targets.begin(), targets.end(), finished)) {
        if (run_one(anything ? 0 : ticket)) {
            stuck = 0;
            continue;
        }
        if (stuck == 0) stuck = now();
        if (waiting == waits.end()) waiting = waits.emplace(ticket, call_site() + " waits");
        // Work that waits for a peer in this process needs the peer's operation, which the wait does not include.
        if (!anything && run_one(0)) continue;
        block_until_progress(stuck);
        ticket = want(targets);
    }
    if (waiting != waits.end()) waits.erase(waiting);
    for (const NodePtr& target : targets) host_waited_for(*target);
}

void Queue::wait_all(int device) {
    const auto meant = [&](int d) { return device == kEveryDevice || d == device; };
    std::vector<NodePtr> everything;
    for (auto& [number, node] : pending)
        if (meant(node->device)) everything.push_back(node);
    wait(everything);
    for (CUstream_st* stream : streams)
        if (stream->tail && meant(stream->device)) host_waited_for(*stream->tail);
    for (auto& [number, node] : pending)
        if (meant(node->device)) return;  // another thread has queued more
    host_clock.resize(slots.size());
    for (size_t slot = 0; slot < slots.size(); slot++)
        if (meant(slots[slot].device)) host_clock[slot] = slots[slot].last_seq;
    release_owned();
    std::erase_if(records, [&](const auto& r) { return covers(host_clock, r.second.slot, r.second.seq); });
}

bool Queue::poll(const NodePtr& target) {
    if (target->state != Node::Done) {
        const uint64_t ticket = want({target});
        run_one(options().streams == Streams::Late ? ticket : 0);
        if (options().streams == Streams::Late && target->state != Node::Done) return false;
    }
    if (target->state != Node::Done) return false;
    host_waited_for(*target);
    return true;
}

CUstream_st* legacy_stream(int device) {
    static auto& of_device = *new std::map<int, CUstream_st*>;
    CUstream_st*& stream   = of_device[device];
    if (!stream) {
        stream         = make_stream(0, 0);
        stream->device = device;
        stream->legacy = true;
    }
    return stream;
}

CUstream_st* find_stream(cudaStream_t handle) {
    if (handle == nullptr || handle == cudaStreamLegacy) return legacy_stream(current_device());
    if (handle == cudaStreamPerThread) {
        thread_local auto& mine = *new std::map<int, CUstream_st*>;
        CUstream_st*& stream    = mine[current_device()];
        if (!stream) stream = make_stream(0, 0);
        return stream;
    }
    return streams.count(handle) ? handle : nullptr;
}

const std::set<CUstream_st*>& all_streams() { return streams; }
CUevent_st* find_event(cudaEvent_t handle) { return events.count(handle) ? handle : nullptr; }

std::vector<NodePtr> dependencies_of(CUstream_st& stream) {
    std::vector<NodePtr> after;
    if (stream.tail) after.push_back(stream.tail);
    if (stream.legacy) {
        for (CUstream_st* other : streams)
            if (other != &stream && other->device == stream.device && other->blocking() && other->tail)
                after.push_back(other->tail);
    } else if (stream.blocking()) {
        if (NodePtr& tail = legacy_stream(stream.device)->tail) after.push_back(tail);
    }
    return after;
}

NodePtr enqueue(CUstream_st& stream, Work work, std::vector<NodePtr> also_after) {
    for (NodePtr& node : dependencies_of(stream)) also_after.push_back(node);
    return stream.tail = Queue::get().add(std::move(work), also_after, stream.slot, stream.device);
}

cudaError_t submit(cudaStream_t handle, Work work) {
    CUstream_st* stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (stream->capture) return capture_add(*stream, std::move(work));
    if (stream->legacy)
        for (CUstream_st* other : streams)
            if (other->capture && other->blocking()) {
                refuse_during_capture();
                return cudaErrorStreamCaptureImplicit;
            }
    enqueue(*stream, std::move(work));
    return cudaSuccess;
}

cudaError_t wait_stream(cudaStream_t handle) {
    CUstream_st* stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (stream->capture) return refuse_to_wait(stream);
    if (stream->legacy)
        if (const cudaError_t error = refuse_during_capture()) return error;
    // The default stream is done when the operations that its next one would wait for are done.
    std::vector<NodePtr> targets;
    if (stream->legacy) targets = dependencies_of(*stream);
    else if (stream->tail) targets = {stream->tail};
    Queue::get().wait(targets);
    forget_unchecked_launches();
    return sticky_error();
}

cudaError_t wait_device(int device) {
    if (const cudaError_t error = refuse_during_capture()) return error;
    Queue::get().wait_all(device);
    forget_unchecked_launches();
    return sticky_error();
}

Work host_work(const char* name, std::function<void()> function) {
    Work work{cudaGraphNodeTypeHost, name};
    work.unlocked = true;
    work.run      = [function](uint32_t) {
        function();
        return cudaSuccess;
    };
    return work;
}

void note_call() { last_progress() = now(); }

bool is_capturing(cudaStream_t handle) {
    CUstream_st* stream = find_stream(handle);
    return stream && stream->capture;
}

}  // namespace emu

using namespace emu;

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
    return CALL.run(
        [&] {
            if (!stream || flags & ~unsigned(cudaStreamNonBlocking)) return cudaErrorInvalidValue;
            *stream = make_stream(flags, std::clamp(priority, -5, 0));
            return cudaSuccess;
        },
        flags, priority);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

// The work of a destroyed stream still finishes. The call itself usually does not wait.
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    return CALL.run(
        [&] {
            if (!streams.count(handle) || handle->legacy) return cudaErrorInvalidResourceHandle;
            // The default stream has to wait for a blocking stream's last operation, which it could no longer find.
            if (handle->blocking() && handle->tail && handle->tail->state != Node::Done)
                Queue::get().wait({handle->tail});
            if (handle->capture) leave_capture(*handle);
            streams.erase(handle);
            delete handle;
            return cudaSuccess;
        },
        handle);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return CALL.run([&] { return wait_stream(stream); }, stream);
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
    return CALL.run(
        [&] {
            CUstream_st* stream = find_stream(handle);
            if (!stream) return cudaErrorInvalidResourceHandle;
            if (stream->capture) return refuse_to_wait(stream);
            for (const NodePtr& node : stream->legacy ? dependencies_of(*stream) : std::vector<NodePtr>{stream->tail})
                if (node && !Queue::get().poll(node)) return cudaErrorNotReady;
            return sticky_error();
        },
        handle);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t handle_of_event, unsigned flags) {
    return CALL.run(
        [&] {
            CUstream_st* stream = find_stream(handle);
            CUevent_st* event   = find_event(handle_of_event);
            if (!stream || !event) return cudaErrorInvalidResourceHandle;
            if (stream->capture && flags & cudaEventWaitExternal) {  // the graph waits for the event at each launch
                Work work{cudaGraphNodeTypeWaitEvent, call_site()};
                work.params = handle_of_event;
                return capture_add(*stream, std::move(work));
            }
            if (event->capture || stream->capture) return capture_wait(*stream, *event);
            if (!event->node) return cudaSuccess;
            enqueue(*stream, {cudaGraphNodeTypeWaitEvent, call_site()}, {event->node});
            return cudaSuccess;
        },
        handle, handle_of_event, flags);
}

template <class T> static cudaError_t get(cudaStream_t handle, T CUstream_st::*member, T* out) {
    const CUstream_st* stream = find_stream(handle);
    return stream ? answer(out, stream->*member) : cudaErrorInvalidResourceHandle;
}
cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
    return CALL.run([&] { return get(stream, &CUstream_st::flags, flags); }, stream);
}
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
    return CALL.run([&] { return get(stream, &CUstream_st::priority, priority); }, stream);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    return CALL.run([&] {
        if (least) *least = 0;
        if (greatest) *greatest = -5;
        return cudaSuccess;
    });
}

// L2 policy and priority are hints. They are remembered for programs that read them back.
static auto& stream_attributes = *new std::map<std::pair<cudaStream_t, int>, cudaStreamAttrValue>;
cudaError_t cudaStreamSetAttribute(cudaStream_t stream, cudaStreamAttrID id, const cudaStreamAttrValue* value) {
    return CALL.run(
        [&] {
            if (!find_stream(stream)) return cudaErrorInvalidResourceHandle;
            if (!value) return cudaErrorInvalidValue;
            stream_attributes[{stream, int(id)}] = *value;
            return cudaSuccess;
        },
        stream, id);
}
cudaError_t cudaStreamGetAttribute(cudaStream_t stream, cudaStreamAttrID id, cudaStreamAttrValue* value) {
    return CALL.run(
        [&] {
            if (!find_stream(stream)) return cudaErrorInvalidResourceHandle;
            const auto row = stream_attributes.find({stream, int(id)});
            return answer(value, row == stream_attributes.end() ? cudaStreamAttrValue{} : row->second);
        },
        stream, id);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
    return CALL.run(
        [&] {
            if (!function) return cudaErrorInvalidValue;
            Work work   = host_work("cudaLaunchHostFunc", [=] { function(data); });
            work.params = cudaHostNodeParams{function, data};
            return submit(stream, std::move(work));
        },
        stream);
}
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void* data, unsigned flags) {
    return CALL.run(
        [&] {
            if (!callback || flags) return cudaErrorInvalidValue;
            if (is_capturing(stream)) return refuse_to_wait(find_stream(stream));
            Work work        = host_work("cudaStreamAddCallback", [=] { callback(stream, sticky_error(), data); });
            work.after_error = true;  // unlike a host function, a callback is told of the error
            return submit(stream, std::move(work));
        },
        stream);
}
cudaError_t cudaStreamAttachMemAsync(cudaStream_t stream, void* pointer, size_t, unsigned) {
    return CALL.run([&] { return find_stream(stream) ? cudaSuccess : cudaErrorInvalidResourceHandle; }, stream,
                    pointer);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    return CALL.run(
        [&] {
            const unsigned known = cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess;
            if (!event || flags & ~known) return cudaErrorInvalidValue;
            if (flags & cudaEventInterprocess) return lacking("events that processes share");
            *event           = new CUevent_st;
            (*event)->flags  = flags;
            (*event)->device = current_device();
            events.insert(*event);
            return cudaSuccess;
        },
        flags);
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return CALL.run(
        [&] {
            if (!events.erase(event)) return cudaErrorInvalidResourceHandle;
            delete event;
            return cudaSuccess;
        },
        event);
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t handle, cudaStream_t handle_of_stream, unsigned flags) {
    return CALL.run(
        [&] {
            CUevent_st* event   = find_event(handle);
            CUstream_st* stream = find_stream(handle_of_stream);
            if (!event || !stream || event->device != stream->device) return cudaErrorInvalidResourceHandle;
            if (stream->capture && !(flags & cudaEventRecordExternal)) {
                event->capture      = stream->capture;
                event->capture_tail = stream->capture_tail;
                return cudaSuccess;
            }
            event->capture = nullptr;
            Work work{cudaGraphNodeTypeEventRecord, call_site()};
            if (stream->capture) {
                work.params = handle;
                return capture_add(*stream, std::move(work));
            }
            event->node = enqueue(*stream, std::move(work));
            return cudaSuccess;
        },
        handle, handle_of_stream, flags);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return cudaEventRecordWithFlags(event, stream, 0);
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
    return CALL.run(
        [&] {
            CUevent_st* event = find_event(handle);
            if (!event) return cudaErrorInvalidResourceHandle;
            if (event->capture) return cudaErrorCapturedEvent;
            if (event->node) Queue::get().wait({event->node});
            forget_unchecked_launches();
            return sticky_error();
        },
        handle);
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
    return CALL.run(
        [&] {
            CUevent_st* event = find_event(handle);
            if (!event) return cudaErrorInvalidResourceHandle;
            if (event->capture) return cudaErrorCapturedEvent;
            if (event->node && !Queue::get().poll(event->node)) return cudaErrorNotReady;
            return sticky_error();
        },
        handle);
}

// The time between the ends of the two operations is measured on the host: it is the emulator's speed, not a GPU's.
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
    return CALL.run(
        [&] {
            CUevent_st *a = find_event(start), *b = find_event(end);
            if (!ms) return cudaErrorInvalidValue;
            if (!a || !b || !a->node || !b->node || a->device != b->device) return cudaErrorInvalidResourceHandle;
            if ((a->flags | b->flags) & cudaEventDisableTiming) return cudaErrorInvalidResourceHandle;
            if (a->node->state != Node::Done || b->node->state != Node::Done) return cudaErrorNotReady;
            *ms = float((b->node->finished - a->node->finished) * 1e3);
            return cudaSuccess;
        },
        start, end);
}

cudaError_t cudaDeviceSynchronize() {
    return CALL.run([&] {
        if (const cudaError_t error = refuse_to_wait(nullptr)) return error;
        return wait_device(current_device());
    });
}
