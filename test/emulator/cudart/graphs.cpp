// graphs.cpp - graphs: built by hand or by capturing a stream, instantiated, launched, updated
//
// A captured operation is the same Work that would have been queued. A launch queues the nodes with the graph's own
// dependencies, so the branches of a graph may run in any order the --streams schedule can think of.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <thread>

#include "modules.h"
#include "streams.h"

struct CUgraphNode_st {
    CUgraph_st* graph = nullptr;
    emu::Work work;
    std::vector<cudaGraphNode_t> after;
    cudaGraph_t child        = nullptr;  // our own clone
    cudaGraphNode_t original = nullptr;  // in the graph this one was cloned from
};

struct CUgraph_st {
    std::vector<cudaGraphNode_t> nodes;
    ~CUgraph_st();
};

CUgraph_st::~CUgraph_st() {
    for (cudaGraphNode_t node : nodes) {
        delete node->child;
        delete node;
    }
}

struct CUgraphExec_st {
    struct Item {
        cudaGraphNode_t node;  // where it came from, for cudaGraphExecKernelNodeSetParams and the like
        emu::Work work;
        std::vector<size_t> after;
        uint32_t slot = 0;
        bool enabled  = true;
    };
    std::vector<Item> items;  // in an order that respects `after`
    emu::NodePtr last;        // a graph never overlaps itself
    unsigned long long flags = 0;
};

struct Capture {
    cudaGraph_t graph = nullptr;
    cudaStreamCaptureMode mode{};
    CUstream_st* origin = nullptr;
    std::thread::id thread;
    bool spoilt = false, over = false;
    unsigned long long id = 0;
};

namespace emu {

cudaError_t memcpy_work(const cudaMemcpy3DParms& params, Work& work);  // memory.cpp
cudaError_t memset_work(const cudaMemsetParams& params, Work& work);

namespace {

auto& captures = *new std::set<std::shared_ptr<Capture>>;
auto& graphs   = *new std::set<cudaGraph_t>;

cudaGraphNode_t add_node(cudaGraph_t graph, Work work, std::vector<cudaGraphNode_t> after) {
    auto* node  = new CUgraphNode_st;
    node->graph = graph;
    node->work  = std::move(work);
    node->after = std::move(after);
    graph->nodes.push_back(node);
    return node;
}

cudaGraph_t clone(cudaGraph_t from) {
    auto* to = new CUgraph_st;
    std::map<cudaGraphNode_t, cudaGraphNode_t> copy_of;
    for (cudaGraphNode_t node : from->nodes) {
        cudaGraphNode_t copy = copy_of[node] = add_node(to, node->work, {});
        copy->original                       = node;
        if (node->child) copy->child = clone(node->child);
    }
    for (cudaGraphNode_t node : from->nodes)
        for (cudaGraphNode_t dependency : node->after) copy_of[node]->after.push_back(copy_of[dependency]);
    return to;
}

// Appends the graph's nodes, children unfolded, in an order that respects the edges. False: there is a cycle.
bool flatten(cudaGraph_t graph, std::vector<CUgraphExec_st::Item>& items, const std::vector<size_t>& before,
             std::vector<size_t>& leaves) {
    std::map<cudaGraphNode_t, size_t> place;
    std::set<size_t> has_dependents;
    while (place.size() < graph->nodes.size()) {
        bool moved = false;
        for (cudaGraphNode_t node : graph->nodes) {
            if (place.count(node)) continue;
            if (!std::all_of(node->after.begin(), node->after.end(), [&](cudaGraphNode_t d) { return place.count(d); }))
                continue;
            std::vector<size_t> after;
            for (cudaGraphNode_t dependency : node->after) {
                after.push_back(place[dependency]);
                has_dependents.insert(place[dependency]);
            }
            if (after.empty()) after = before;
            if (node->child) {
                std::vector<size_t> ends;
                if (!flatten(node->child, items, after, ends)) return false;
                if (!ends.empty()) after = ends;
            }
            items.push_back({node, node->work, after});
            place[node] = items.size() - 1;
            moved       = true;
        }
        if (!moved) return false;
    }
    for (auto& [node, index] : place)
        if (!has_dependents.count(index)) leaves.push_back(index);
    return true;
}

cudaError_t instantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long flags) {
    if (!out || !graphs.count(graph)) return cudaErrorInvalidValue;
    auto exec = std::make_unique<CUgraphExec_st>();
    std::vector<size_t> leaves;
    if (!flatten(graph, exec->items, {}, leaves)) return cudaErrorInvalidValue;
    exec->flags = flags;
    // A node continues the branch of its first dependency if nobody else did: so few clocks suffice.
    std::set<size_t> continued;
    for (auto& item : exec->items) {
        bool found = false;
        for (size_t i : item.after)
            if (!found && continued.insert(i).second) {
                item.slot = exec->items[i].slot;
                found     = true;
            }
        if (!found) item.slot = Queue::get().new_slot();
    }
    *out = exec.release();
    return cudaSuccess;
}

void launch_graph(CUgraphExec_st& exec, CUstream_st& stream) {
    std::vector<NodePtr> before = dependencies_of(stream), queued;
    if (exec.last) before.push_back(exec.last);
    for (auto& item : exec.items) {
        std::vector<NodePtr> after;
        for (size_t i : item.after) after.push_back(queued[i]);
        if (after.empty()) after = before;
        Work work = item.work;
        if (!item.enabled) work.run = nullptr;
        const bool records = work.type == cudaGraphNodeTypeEventRecord && work.params.has_value();
        CUevent_st* event  = records ? find_event(std::any_cast<cudaEvent_t>(work.params)) : nullptr;
        queued.push_back(Queue::get().add(std::move(work), after, item.slot));
        if (event) event->node = queued.back(), event->capture = nullptr;
    }
    Work join;
    join.what = "cudaGraphLaunch";
    if (queued.empty()) queued = before;
    exec.last = stream.tail = Queue::get().add(std::move(join), queued, stream.slot);
}

CUgraphExec_st::Item* find_item(cudaGraphExec_t exec, cudaGraphNode_t node) {
    if (!exec) return nullptr;
    for (auto& item : exec->items)
        if (item.node == node) return &item;
    return nullptr;
}

cudaError_t kernel_work(const cudaKernelNodeParams& p, Work& work) {
    KernelLaunch launch;
    if (p.extra) return cudaErrorNotSupported;
    if (const cudaError_t error =
            prepare_launch(launch, p.func, p.gridDim, p.blockDim, p.kernelParams, p.sharedMemBytes, false))
        return error;
    work = launch_work(launch);
    return cudaSuccess;
}

cudaError_t host_work(const cudaHostNodeParams& p, Work& work) {
    if (!p.fn) return cudaErrorInvalidValue;
    work.type     = cudaGraphNodeTypeHost;
    work.what     = "host function of a graph";
    work.unlocked = true;
    work.run      = [p](uint32_t) { return p.fn(p.userData), cudaSuccess; };
    work.params   = p;
    return cudaSuccess;
}

cudaMemcpy3DParms line_params(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind) {
    cudaMemcpy3DParms p{};
    p.dstPtr = {dst, bytes, bytes, 1};
    p.srcPtr = {const_cast<void*>(src), bytes, bytes, 1};
    p.extent = {bytes, 1, 1};
    p.kind   = kind;
    return p;
}

cudaError_t symbol_params(const void* symbol, size_t offset, const void* other, size_t bytes, bool to_symbol,
                          cudaMemcpyKind kind, cudaMemcpy3DParms& p) {
    Variable* variable;
    if (const cudaError_t error = find_symbol(symbol, &variable)) return error;
    if (offset > variable->bytes || bytes > variable->bytes - offset) return cudaErrorInvalidValue;
    void* place = reinterpret_cast<void*>(variable->address + offset);
    p = to_symbol ? line_params(place, other, bytes, kind) : line_params(const_cast<void*>(other), place, bytes, kind);
    return cudaSuccess;
}

// Makes the Work, then adds it: the pattern of every cudaGraphAdd…Node.
template <class Make>
cudaError_t add(cudaGraphNode_t* out, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count, Make make) {
    if (!out || !graphs.count(graph) || (count && !after)) return cudaErrorInvalidValue;
    Work work;
    if (const cudaError_t error = make(work)) return error;
    *out = add_node(graph, std::move(work), {after, after + count});
    return cudaSuccess;
}

template <class Make>
cudaError_t set_params(Work* work, cudaGraphNodeType type, Make make) {
    if (!work || work->type != type) return cudaErrorInvalidValue;
    Work fresh;
    if (const cudaError_t error = make(fresh)) return error;
    *work = std::move(fresh);
    return cudaSuccess;
}
Work* work_of(cudaGraphNode_t node) { return node ? &node->work : nullptr; }
Work* work_of(cudaGraphExec_t exec, cudaGraphNode_t node) {
    auto* item = find_item(exec, node);
    return item ? &item->work : nullptr;
}

template <class Params>
cudaError_t get_params(cudaGraphNode_t node, Params* out) {
    auto* params = node ? std::any_cast<Params>(&node->work.params) : nullptr;
    if (!params || !out) return cudaErrorInvalidValue;
    *out = *params;
    return cudaSuccess;
}

// The answer of a call that fills an array of `*count` handles, or only counts when there is no array.
cudaError_t give(const std::vector<cudaGraphNode_t>& nodes, cudaGraphNode_t* out, size_t* count) {
    if (!count) return cudaErrorInvalidValue;
    if (out) {
        for (size_t i = 0; i < *count; i++) out[i] = i < nodes.size() ? nodes[i] : nullptr;
        *count = std::min(*count, nodes.size());
    } else {
        *count = nodes.size();
    }
    return cudaSuccess;
}

void spoil(Capture& capture) { capture.spoilt = true; }

}  // namespace

cudaError_t refuse_during_capture() {
    cudaError_t error = cudaSuccess;
    for (const auto& capture : captures) {
        const bool mine = capture->thread == std::this_thread::get_id();
        if (capture->mode == cudaStreamCaptureModeGlobal ||
            (capture->mode == cudaStreamCaptureModeThreadLocal && mine)) {
            spoil(*capture);
            error = cudaErrorStreamCaptureUnsupported;
        }
    }
    return error;
}

cudaError_t capture_add(CUstream_st& stream, Work work) {
    if (stream.capture->spoilt) return cudaErrorStreamCaptureInvalidated;
    stream.capture_tail = {add_node(stream.capture->graph, std::move(work), stream.capture_tail)};
    return cudaSuccess;
}

cudaError_t capture_wait(CUstream_st& stream, CUevent_st& event) {
    if (!event.capture) {  // recorded outside: the graph could not repeat that wait
        spoil(*stream.capture);
        return cudaErrorStreamCaptureIsolation;
    }
    if (event.capture->over) return cudaErrorCapturedEvent;
    if (!stream.capture) {
        if (stream.legacy) return cudaErrorStreamCaptureImplicit;
        stream.capture      = event.capture;
        stream.capture_tail = {};
    }
    if (stream.capture != event.capture) {
        spoil(*stream.capture);
        spoil(*event.capture);
        return cudaErrorStreamCaptureMerge;
    }
    for (cudaGraphNode_t node : event.capture_tail)
        if (std::find(stream.capture_tail.begin(), stream.capture_tail.end(), node) == stream.capture_tail.end())
            stream.capture_tail.push_back(node);
    return cudaSuccess;
}

}  // namespace emu

using namespace emu;

// --- capture --------------------------------------------------------------------------------------------------------

static cudaError_t begin_capture(cudaStream_t handle, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                 cudaStreamCaptureMode mode) {
    static unsigned long long next_id = 1;
    CUstream_st* stream               = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (stream->legacy) return cudaErrorStreamCaptureUnsupported;
    if (stream->capture) return cudaErrorIllegalState;
    auto capture    = std::make_shared<Capture>();
    capture->graph  = graph ? graph : *graphs.insert(new CUgraph_st).first;
    capture->mode   = mode;
    capture->origin = stream;
    capture->thread = std::this_thread::get_id();
    capture->id     = next_id++;
    captures.insert(capture);
    stream->capture      = capture;
    stream->capture_tail = {after, after + count};
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    return CALL.run([&] { return begin_capture(stream, nullptr, nullptr, 0, mode); }, stream, mode);
}
#if CUDART_VERSION >= 12030
cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph, const cudaGraphNode_t* after,
                                          const cudaGraphEdgeData*, size_t count, cudaStreamCaptureMode mode) {
    return CALL.run([&] { return graph ? begin_capture(stream, graph, after, count, mode) : cudaErrorInvalidValue; },
                    stream, graph);
}
#endif

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
    return CALL.run(
        [&] {
            CUstream_st* stream = find_stream(handle);
            if (!stream) return cudaErrorInvalidResourceHandle;
            if (!graph) return cudaErrorInvalidValue;
            const std::shared_ptr<Capture> capture = stream->capture;
            if (!capture) return cudaErrorIllegalState;
            *graph = nullptr;
            if (capture->origin != stream) {
                spoil(*capture);
                return cudaErrorStreamCaptureUnmatched;
            }
            // Every other stream that joined must have come back: its last node is an ancestor of ours.
            std::set<cudaGraphNode_t> reached;
            std::vector<cudaGraphNode_t> stack = stream->capture_tail;
            while (!stack.empty()) {
                cudaGraphNode_t node = stack.back();
                stack.pop_back();
                if (reached.insert(node).second) stack.insert(stack.end(), node->after.begin(), node->after.end());
            }
            bool joined = true;
            for (CUstream_st* other : all_streams()) {
                if (other->capture != capture) continue;
                for (cudaGraphNode_t node : other->capture_tail) joined = joined && reached.count(node);
                other->capture = nullptr;
                other->capture_tail.clear();
            }
            capture->over = true;
            captures.erase(capture);
            if (capture->spoilt) return cudaErrorStreamCaptureInvalidated;
            if (!joined) return cudaErrorStreamCaptureUnjoined;
            *graph = capture->graph;
            return cudaSuccess;
        },
        handle);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
    return CALL.run(
        [&] {
            CUstream_st* stream = find_stream(handle);
            if (!stream || !status) return stream ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle;
            *status = !stream->capture          ? cudaStreamCaptureStatusNone
                      : stream->capture->spoilt ? cudaStreamCaptureStatusInvalidated
                                                : cudaStreamCaptureStatusActive;
            return cudaSuccess;
        },
        handle);
}

static cudaError_t capture_info(cudaStream_t handle, cudaStreamCaptureStatus* status, unsigned long long* id,
                                cudaGraph_t* graph, const cudaGraphNode_t** after, size_t* count) {
    CUstream_st* stream = find_stream(handle);
    if (!stream || !status) return stream ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle;
    *status = !stream->capture          ? cudaStreamCaptureStatusNone
              : stream->capture->spoilt ? cudaStreamCaptureStatusInvalidated
                                        : cudaStreamCaptureStatusActive;
    if (!stream->capture) return cudaSuccess;
    if (id) *id = stream->capture->id;
    if (graph) *graph = stream->capture->graph;
    if (after) *after = stream->capture_tail.data();
    if (count) *count = stream->capture_tail.size();
    return cudaSuccess;
}
static cudaError_t update_capture(cudaStream_t handle, cudaGraphNode_t* after, size_t count, unsigned flags) {
    CUstream_st* stream = find_stream(handle);
    if (!stream || !stream->capture) return cudaErrorIllegalState;
    if (flags == cudaStreamSetCaptureDependencies) stream->capture_tail.clear();
    stream->capture_tail.insert(stream->capture_tail.end(), after, after + count);
    return cudaSuccess;
}
#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** after, const cudaGraphEdgeData** edges,
                                     size_t* count) {
    if (edges) *edges = nullptr;
    return CALL.run([&] { return capture_info(stream, status, id, graph, after, count); }, stream);
}
cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream, cudaGraphNode_t* after, const cudaGraphEdgeData*,
                                                size_t count, unsigned flags) {
    return CALL.run([&] { return update_capture(stream, after, count, flags); }, stream);
}
#else
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** after, size_t* count) {
    return CALL.run([&] { return capture_info(stream, status, id, graph, after, count); }, stream);
}
cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream, cudaGraphNode_t* after, size_t count,
                                                unsigned flags) {
    return CALL.run([&] { return update_capture(stream, after, count, flags); }, stream);
}
#endif

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
    thread_local cudaStreamCaptureMode current = cudaStreamCaptureModeGlobal;
    return CALL.run([&] { return std::swap(*mode, current), cudaSuccess; });
}

// --- graphs ---------------------------------------------------------------------------------------------------------

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned flags) {
    return CALL.run(
        [&] {
            if (!graph || flags) return cudaErrorInvalidValue;
            *graph = *graphs.insert(new CUgraph_st).first;
            return cudaSuccess;
        },
        flags);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return CALL.run(
        [&] {
            if (!graphs.erase(graph)) return cudaErrorInvalidValue;
            delete graph;
            return cudaSuccess;
        },
        graph);
}
cudaError_t cudaGraphClone(cudaGraph_t* out, cudaGraph_t graph) {
    return CALL.run(
        [&] {
            if (!out || !graphs.count(graph)) return cudaErrorInvalidValue;
            *out = *graphs.insert(clone(graph)).first;
            return cudaSuccess;
        },
        graph);
}
cudaError_t cudaGraphNodeFindInClone(cudaGraphNode_t* out, cudaGraphNode_t node, cudaGraph_t graph) {
    return CALL.run(
        [&] {
            for (cudaGraphNode_t candidate : graph->nodes)
                if (candidate->original == node) return *out = candidate, cudaSuccess;
            return cudaErrorInvalidValue;
        },
        node, graph);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
    return CALL.run([&] { return graphs.count(graph) ? give(graph->nodes, nodes, count) : cudaErrorInvalidValue; },
                    graph);
}
cudaError_t cudaGraphGetRootNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
    return CALL.run(
        [&] {
            if (!graphs.count(graph)) return cudaErrorInvalidValue;
            std::vector<cudaGraphNode_t> roots;
            for (cudaGraphNode_t node : graph->nodes)
                if (node->after.empty()) roots.push_back(node);
            return give(roots, nodes, count);
        },
        graph);
}
static cudaError_t get_edges(cudaGraph_t graph, cudaGraphNode_t* from, cudaGraphNode_t* to, size_t* count) {
    if (!graphs.count(graph) || !count) return cudaErrorInvalidValue;
    size_t n = 0;
    for (cudaGraphNode_t node : graph->nodes)
        for (cudaGraphNode_t dependency : node->after) {
            if (from && to && n < *count) from[n] = dependency, to[n] = node;
            n++;
        }
    *count = n;
    return cudaSuccess;
}
static cudaError_t get_dependents(cudaGraphNode_t node, cudaGraphNode_t* nodes, size_t* count) {
    std::vector<cudaGraphNode_t> found;
    if (!node) return cudaErrorInvalidValue;
    for (cudaGraphNode_t other : node->graph->nodes)
        if (std::count(other->after.begin(), other->after.end(), node)) found.push_back(other);
    return give(found, nodes, count);
}
static cudaError_t change_edges(cudaGraph_t graph, const cudaGraphNode_t* from, const cudaGraphNode_t* to, size_t count,
                                bool add) {
    if (!graphs.count(graph)) return cudaErrorInvalidValue;
    for (size_t i = 0; i < count; i++) {
        auto& after      = to[i]->after;
        const auto place = std::find(after.begin(), after.end(), from[i]);
        if ((place == after.end()) != add || from[i]->graph != graph || to[i]->graph != graph)
            return cudaErrorInvalidValue;
        if (add)
            after.push_back(from[i]);
        else
            after.erase(place);
    }
    return cudaSuccess;
}
#if CUDART_VERSION >= 13000
#define EMU_EDGES_OUT , cudaGraphEdgeData*
#define EMU_EDGES_IN , const cudaGraphEdgeData*
#else
#define EMU_EDGES_OUT
#define EMU_EDGES_IN
#endif
cudaError_t cudaGraphGetEdges(cudaGraph_t graph, cudaGraphNode_t* from, cudaGraphNode_t* to EMU_EDGES_OUT,
                              size_t* count) {
    return CALL.run([&] { return get_edges(graph, from, to, count); }, graph);
}
cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t* nodes EMU_EDGES_OUT, size_t* count) {
    return CALL.run([&] { return node ? give(node->after, nodes, count) : cudaErrorInvalidValue; }, node);
}
cudaError_t cudaGraphNodeGetDependentNodes(cudaGraphNode_t node, cudaGraphNode_t* nodes EMU_EDGES_OUT, size_t* count) {
    return CALL.run([&] { return get_dependents(node, nodes, count); }, node);
}
cudaError_t cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                     const cudaGraphNode_t* to EMU_EDGES_IN, size_t count) {
    return CALL.run([&] { return change_edges(graph, from, to, count, true); }, graph);
}
cudaError_t cudaGraphRemoveDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                        const cudaGraphNode_t* to EMU_EDGES_IN, size_t count) {
    return CALL.run([&] { return change_edges(graph, from, to, count, false); }, graph);
}
cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* type) {
    return CALL.run(
        [&] {
            if (!node || !type) return cudaErrorInvalidValue;
            *type = node->child ? cudaGraphNodeTypeGraph : node->work.type;
            return cudaSuccess;
        },
        node);
}
cudaError_t cudaGraphDestroyNode(cudaGraphNode_t node) {
    return CALL.run(
        [&] {
            if (!node) return cudaErrorInvalidValue;
            for (cudaGraphNode_t other : node->graph->nodes) std::erase(other->after, node);
            std::erase(node->graph->nodes, node);
            delete node->child;
            delete node;
            return cudaSuccess;
        },
        node);
}

// --- nodes ----------------------------------------------------------------------------------------------------------

cudaError_t cudaGraphAddEmptyNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                  size_t count) {
    return CALL.run([&] { return add(node, graph, after, count, [](Work&) { return cudaSuccess; }); }, graph);
}
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                   const cudaKernelNodeParams* params) {
    return CALL.run([&] { return add(node, graph, after, count, [&](Work& w) { return kernel_work(*params, w); }); },
                    graph);
}
cudaError_t cudaGraphAddMemcpyNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                   const cudaMemcpy3DParms* params) {
    return CALL.run([&] { return add(node, graph, after, count, [&](Work& w) { return memcpy_work(*params, w); }); },
                    graph);
}
cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                     size_t count, void* dst, const void* src, size_t bytes, cudaMemcpyKind kind) {
    const cudaMemcpy3DParms params = line_params(dst, src, bytes, kind);
    return CALL.run([&] { return add(node, graph, after, count, [&](Work& w) { return memcpy_work(params, w); }); },
                    graph);
}
cudaError_t cudaGraphAddMemcpyNodeToSymbol(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                           size_t count, const void* symbol, const void* src, size_t bytes,
                                           size_t offset, cudaMemcpyKind kind) {
    return CALL.run(
        [&] {
            cudaMemcpy3DParms p;
            if (const cudaError_t error = symbol_params(symbol, offset, src, bytes, true, kind, p)) return error;
            return add(node, graph, after, count, [&](Work& w) { return memcpy_work(p, w); });
        },
        graph);
}
cudaError_t cudaGraphAddMemcpyNodeFromSymbol(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                             size_t count, void* dst, const void* symbol, size_t bytes, size_t offset,
                                             cudaMemcpyKind kind) {
    return CALL.run(
        [&] {
            cudaMemcpy3DParms p;
            if (const cudaError_t error = symbol_params(symbol, offset, dst, bytes, false, kind, p)) return error;
            return add(node, graph, after, count, [&](Work& w) { return memcpy_work(p, w); });
        },
        graph);
}
cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                   const cudaMemsetParams* params) {
    return CALL.run([&] { return add(node, graph, after, count, [&](Work& w) { return memset_work(*params, w); }); },
                    graph);
}
cudaError_t cudaGraphAddHostNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                 const cudaHostNodeParams* params) {
    return CALL.run([&] { return add(node, graph, after, count, [&](Work& w) { return host_work(*params, w); }); },
                    graph);
}
cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                       size_t count, cudaGraph_t child) {
    return CALL.run(
        [&] {
            if (!graphs.count(child)) return cudaErrorInvalidValue;
            if (const cudaError_t e = add(node, graph, after, count, [](Work&) { return cudaSuccess; })) return e;
            (*node)->child = clone(child);
            return cudaSuccess;
        },
        graph);
}
static cudaError_t event_work(cudaEvent_t event, cudaGraphNodeType type, Work& work) {
    if (!find_event(event)) return cudaErrorInvalidResourceHandle;
    if (type == cudaGraphNodeTypeWaitEvent) return cudaErrorNotSupported;  // the event of another launch
    work.type   = type;
    work.params = event;
    return cudaSuccess;
}
cudaError_t cudaGraphAddEventRecordNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                        size_t count, cudaEvent_t event) {
    return CALL.run(
        [&] {
            return add(node, graph, after, count,
                       [&](Work& w) { return event_work(event, cudaGraphNodeTypeEventRecord, w); });
        },
        graph);
}
#if CUDART_VERSION >= 13000
cudaError_t cudaGraphAddNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                             const cudaGraphEdgeData*, size_t count, cudaGraphNodeParams* p) {
#elif CUDART_VERSION >= 12020
cudaError_t cudaGraphAddNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                             cudaGraphNodeParams* p) {
#endif
#if CUDART_VERSION >= 12020
    if (!p) return cudaErrorInvalidValue;
    if (p->type == cudaGraphNodeTypeGraph) return cudaGraphAddChildGraphNode(node, graph, after, count, p->graph.graph);
    return CALL.run(
        [&] {
            return add(node, graph, after, count, [&](Work& work) {
                switch (p->type) {
                    case cudaGraphNodeTypeEmpty:
                        return cudaSuccess;
                    case cudaGraphNodeTypeKernel: {
                        const auto& k = p->kernel;
                        return kernel_work({k.func, k.gridDim, k.blockDim, k.sharedMemBytes, k.kernelParams, k.extra},
                                           work);
                    }
                    case cudaGraphNodeTypeMemcpy:
                        return memcpy_work(p->memcpy.copyParams, work);
                    case cudaGraphNodeTypeMemset: {
                        const auto& m = p->memset;
                        return memset_work({m.dst, m.pitch, m.value, m.elementSize, m.width, m.height}, work);
                    }
                    case cudaGraphNodeTypeHost:
                        return host_work({p->host.fn, p->host.userData}, work);
                    case cudaGraphNodeTypeEventRecord:
                        return event_work(p->eventRecord.event, p->type, work);
                    default:
                        return cudaErrorNotSupported;
                }
            });
        },
        graph, p->type);
}
#endif

cudaError_t cudaGraphKernelNodeGetParams(cudaGraphNode_t node, cudaKernelNodeParams* out) {
    return CALL.run(
        [&] {
            auto* launch = node ? std::any_cast<KernelLaunch>(&node->work.params) : nullptr;
            if (!launch || !out) return cudaErrorInvalidValue;
            launch->argument_pointers.clear();
            for (const Param& param : launch->function->kernel->params)
                launch->argument_pointers.push_back(launch->arguments.data() + param.offset);
            const void* function = launch->function->stub ? launch->function->stub : launch->function;
            *out                 = {};
            out->func            = const_cast<void*>(function);
            out->gridDim         = launch->grid;
            out->blockDim        = launch->block;
            out->sharedMemBytes  = unsigned(launch->dynamic_shared);
            out->kernelParams    = launch->argument_pointers.data();
            return cudaSuccess;
        },
        node);
}
cudaError_t cudaGraphMemcpyNodeGetParams(cudaGraphNode_t node, cudaMemcpy3DParms* out) {
    return CALL.run([&] { return get_params(node, out); }, node);
}
cudaError_t cudaGraphMemsetNodeGetParams(cudaGraphNode_t node, cudaMemsetParams* out) {
    return CALL.run([&] { return get_params(node, out); }, node);
}
cudaError_t cudaGraphHostNodeGetParams(cudaGraphNode_t node, cudaHostNodeParams* out) {
    return CALL.run([&] { return get_params(node, out); }, node);
}
cudaError_t cudaGraphEventRecordNodeGetEvent(cudaGraphNode_t node, cudaEvent_t* out) {
    return CALL.run([&] { return get_params(node, out); }, node);
}
cudaError_t cudaGraphChildGraphNodeGetGraph(cudaGraphNode_t node, cudaGraph_t* out) {
    return CALL.run(
        [&] {
            if (!node || !node->child) return cudaErrorInvalidValue;
            graphs.insert(*out = node->child);
            return cudaSuccess;
        },
        node);
}

cudaError_t cudaGraphKernelNodeSetParams(cudaGraphNode_t node, const cudaKernelNodeParams* p) {
    return CALL.run(
        [&] { return set_params(work_of(node), cudaGraphNodeTypeKernel, [&](Work& w) { return kernel_work(*p, w); }); },
        node);
}
cudaError_t cudaGraphMemcpyNodeSetParams(cudaGraphNode_t node, const cudaMemcpy3DParms* p) {
    return CALL.run(
        [&] { return set_params(work_of(node), cudaGraphNodeTypeMemcpy, [&](Work& w) { return memcpy_work(*p, w); }); },
        node);
}
cudaError_t cudaGraphMemcpyNodeSetParams1D(cudaGraphNode_t node, void* dst, const void* src, size_t bytes,
                                           cudaMemcpyKind kind) {
    const cudaMemcpy3DParms p = line_params(dst, src, bytes, kind);
    return cudaGraphMemcpyNodeSetParams(node, &p);
}
cudaError_t cudaGraphMemsetNodeSetParams(cudaGraphNode_t node, const cudaMemsetParams* p) {
    return CALL.run(
        [&] { return set_params(work_of(node), cudaGraphNodeTypeMemset, [&](Work& w) { return memset_work(*p, w); }); },
        node);
}
cudaError_t cudaGraphHostNodeSetParams(cudaGraphNode_t node, const cudaHostNodeParams* p) {
    return CALL.run(
        [&] { return set_params(work_of(node), cudaGraphNodeTypeHost, [&](Work& w) { return host_work(*p, w); }); },
        node);
}
// Attributes of kernel nodes are hints, except the cooperative flag, which a graph here does not carry.
cudaError_t cudaGraphKernelNodeSetAttribute(cudaGraphNode_t node, cudaLaunchAttributeID id,
                                            const cudaLaunchAttributeValue*) {
    return CALL.run(
        [&] {
            if (!node) return cudaErrorInvalidValue;
            return id == cudaLaunchAttributeCooperative ? cudaErrorNotSupported : cudaSuccess;
        },
        node, id);
}
cudaError_t cudaGraphKernelNodeCopyAttributes(cudaGraphNode_t, cudaGraphNode_t) {
    return CALL.run([] { return cudaSuccess; });
}

// --- executable graphs ----------------------------------------------------------------------------------------------

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
    return CALL.run([&] { return instantiate(exec, graph, flags); }, graph, flags);
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
    return CALL.run([&] { return instantiate(exec, graph, flags); }, graph, flags);
}
cudaError_t cudaGraphInstantiateWithParams(cudaGraphExec_t* exec, cudaGraph_t graph,
                                           cudaGraphInstantiateParams* params) {
    return CALL.run(
        [&] {
            const cudaError_t error = instantiate(exec, graph, params->flags);
            params->errNode_out     = nullptr;
            params->result_out      = error ? cudaGraphInstantiateError : cudaGraphInstantiateSuccess;
            return error;
        },
        graph);
}
cudaError_t cudaGraphExecGetFlags(cudaGraphExec_t exec, unsigned long long* flags) {
    return CALL.run([&] { return *flags = exec->flags, cudaSuccess; }, exec);
}
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream) {
    return CALL.run([&] { return exec && find_stream(stream) ? cudaSuccess : cudaErrorInvalidValue; }, exec, stream);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle) {
    return CALL.run(
        [&] {
            CUstream_st* stream = find_stream(handle);
            if (!stream || !exec) return cudaErrorInvalidValue;
            if (stream->capture) {  // becomes part of the graph being captured, dependencies and all
                std::vector<cudaGraphNode_t> added;
                for (auto& item : exec->items) {
                    std::vector<cudaGraphNode_t> after;
                    for (size_t i : item.after) after.push_back(added[i]);
                    if (after.empty()) after = stream->capture_tail;
                    added.push_back(add_node(stream->capture->graph, item.work, after));
                }
                if (!added.empty()) stream->capture_tail = {add_node(stream->capture->graph, {}, added)};
                return cudaSuccess;
            }
            launch_graph(*exec, *stream);
            return sticky_error();
        },
        exec, handle);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    return CALL.run(
        [&] {
            if (!exec) return cudaErrorInvalidValue;
            delete exec;  // a launch under way has its own copies
            return cudaSuccess;
        },
        exec);
}

#if CUDART_VERSION >= 12000
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* info) {
    return CALL.run(
        [&] {
            cudaGraphExecUpdateResultInfo unused;
            if (!info) info = &unused;
            *info        = {};
            info->result = cudaGraphExecUpdateErrorTopologyChanged;
            std::vector<CUgraphExec_st::Item> items;
            std::vector<size_t> leaves;
            if (!graphs.count(graph) || !flatten(graph, items, {}, leaves) || items.size() != exec->items.size())
                return cudaErrorGraphExecUpdateFailure;
            for (size_t i = 0; i < items.size(); i++) {
                info->errorNode = items[i].node;
                if (items[i].after != exec->items[i].after) return cudaErrorGraphExecUpdateFailure;
                if (items[i].work.type != exec->items[i].work.type) {
                    info->result = cudaGraphExecUpdateErrorNodeTypeChanged;
                    return cudaErrorGraphExecUpdateFailure;
                }
            }
            // The nodes stay known under the handles of the graph that was instantiated.
            for (size_t i = 0; i < items.size(); i++) exec->items[i].work = std::move(items[i].work);
            *info        = {};
            info->result = cudaGraphExecUpdateSuccess;
            return cudaSuccess;
        },
        exec, graph);
}
#endif
cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams* p) {
    return CALL.run(
        [&] {
            return set_params(work_of(exec, node), cudaGraphNodeTypeKernel,
                              [&](Work& w) { return kernel_work(*p, w); });
        },
        exec, node);
}
cudaError_t cudaGraphExecMemcpyNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node, const cudaMemcpy3DParms* p) {
    return CALL.run(
        [&] {
            return set_params(work_of(exec, node), cudaGraphNodeTypeMemcpy,
                              [&](Work& w) { return memcpy_work(*p, w); });
        },
        exec, node);
}
cudaError_t cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t exec, cudaGraphNode_t node, void* dst, const void* src,
                                               size_t bytes, cudaMemcpyKind kind) {
    const cudaMemcpy3DParms p = line_params(dst, src, bytes, kind);
    return cudaGraphExecMemcpyNodeSetParams(exec, node, &p);
}
cudaError_t cudaGraphExecMemsetNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node, const cudaMemsetParams* p) {
    return CALL.run(
        [&] {
            return set_params(work_of(exec, node), cudaGraphNodeTypeMemset,
                              [&](Work& w) { return memset_work(*p, w); });
        },
        exec, node);
}
cudaError_t cudaGraphExecHostNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node, const cudaHostNodeParams* p) {
    return CALL.run(
        [&] {
            return set_params(work_of(exec, node), cudaGraphNodeTypeHost, [&](Work& w) { return host_work(*p, w); });
        },
        exec, node);
}
cudaError_t cudaGraphNodeSetEnabled(cudaGraphExec_t exec, cudaGraphNode_t node, unsigned enabled) {
    return CALL.run(
        [&] {
            auto* item = find_item(exec, node);
            if (!item) return cudaErrorInvalidValue;
            item->enabled = enabled;
            return cudaSuccess;
        },
        exec, node, enabled);
}
cudaError_t cudaGraphNodeGetEnabled(cudaGraphExec_t exec, cudaGraphNode_t node, unsigned* enabled) {
    return CALL.run(
        [&] {
            auto* item = find_item(exec, node);
            if (!item) return cudaErrorInvalidValue;
            *enabled = item->enabled;
            return cudaSuccess;
        },
        exec, node);
}

cudaError_t cudaGraphDebugDotPrint(cudaGraph_t graph, const char* path, unsigned) {
    return CALL.run(
        [&] {
            FILE* file = graphs.count(graph) ? std::fopen(path, "w") : nullptr;
            if (!file) return cudaErrorInvalidValue;
            std::fprintf(file, "digraph graph_ {\n");
            for (cudaGraphNode_t node : graph->nodes) {
                std::fprintf(file, "  n%p [label=\"%s\"];\n", static_cast<void*>(node),
                             node->work.what.empty() ? "empty" : resolve_sites(node->work.what).c_str());
                for (cudaGraphNode_t d : node->after)
                    std::fprintf(file, "  n%p -> n%p;\n", static_cast<void*>(d), static_cast<void*>(node));
            }
            std::fprintf(file, "}\n");
            std::fclose(file);
            return cudaSuccess;
        },
        graph, path);
}

// --- objects whose life a graph may hold ----------------------------------------------------------------------------

struct CUuserObject_st {
    void* pointer;
    cudaHostFn_t destroy;
    unsigned references;
};
static cudaError_t release(cudaUserObject_t object, unsigned count) {
    if (!object || count > object->references) return cudaErrorInvalidValue;
    object->references -= count;
    if (object->references == 0) {
        object->destroy(object->pointer);
        delete object;
    }
    return cudaSuccess;
}
cudaError_t cudaUserObjectCreate(cudaUserObject_t* out, void* pointer, cudaHostFn_t destroy, unsigned count, unsigned) {
    return CALL.run([&] { return *out = new CUuserObject_st{pointer, destroy, count}, cudaSuccess; }, pointer, count);
}
cudaError_t cudaUserObjectRetain(cudaUserObject_t object, unsigned count) {
    return CALL.run([&] { return object->references += count, cudaSuccess; }, object, count);
}
cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned count) {
    return CALL.run([&] { return release(object, count); }, object, count);
}
cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned count, unsigned flags) {
    return CALL.run(
        [&] {
            if (!(flags & cudaGraphUserObjectMove)) object->references += count;
            return cudaSuccess;
        },
        graph, object, count, flags);
}
cudaError_t cudaGraphReleaseUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned count) {
    return CALL.run([&] { return release(object, count); }, graph, object, count);
}
