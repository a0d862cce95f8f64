// graph_exec.cpp - executable graphs: instantiated, launched, updated
//
// A launch queues the nodes with the dependencies of the graph, and the --streams schedule chooses the order of
// branches.
#include <algorithm>
#include <cstring>

#include "graph.h"

namespace emu {
namespace {

auto& execs = *new std::set<cudaGraphExec_t>;  // those that have not been destroyed

// Appends the nodes of the graph and its child graphs in an order that respects the edges. Returns false for a cycle.
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
            if (node->after.empty())
                items.back().work.overlaps = false;  // a graph begins when what is before has ended
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
    if (!out || !graphs().count(graph)) return cudaErrorInvalidValue;
    auto exec = std::make_unique<CUgraphExec_st>();
    std::vector<size_t> leaves;
    if (!flatten(graph, exec->items, {}, leaves)) return cudaErrorInvalidValue;
    exec->flags = flags;
    // A node takes the slot of its first dependency that no other node has taken, so that the clocks stay short.
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
    *out = *execs.insert(exec.release()).first;
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
        const auto* handle = item.enabled ? std::any_cast<cudaEvent_t>(&work.params) : nullptr;
        CUevent_st* event  = handle ? find_event(*handle) : nullptr;
        const bool records = work.type == cudaGraphNodeTypeEventRecord;
        if (event && !records && event->node) after.push_back(event->node);  // its last record before the launch
        queued.push_back(Queue::get().add(std::move(work), after, item.slot, stream.device));
        if (event && records) event->node = queued.back(), event->capture = nullptr;
    }
    Work join;
    join.what = "cudaGraphLaunch";
    if (queued.empty()) queued = before;
    exec.last = stream.tail = Queue::get().add(std::move(join), queued, stream.slot, stream.device);
}

CUgraphExec_st::Item* find_item(cudaGraphExec_t exec, cudaGraphNode_t node) {
    if (!execs.count(exec)) return nullptr;
    for (auto& item : exec->items)
        if (item.node == node) return &item;
    return nullptr;
}

Work* work_of(cudaGraphExec_t exec, cudaGraphNode_t node) {
    auto* item = find_item(exec, node);
    return item ? &item->work : nullptr;
}

}  // namespace
}  // namespace emu

using namespace emu;

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
            if (!params) return cudaErrorInvalidValue;
            const cudaError_t error = instantiate(exec, graph, params->flags);
            params->errNode_out     = nullptr;
            params->result_out      = error ? cudaGraphInstantiateError : cudaGraphInstantiateSuccess;
            return error;
        },
        graph);
}
cudaError_t cudaGraphExecGetFlags(cudaGraphExec_t exec, unsigned long long* flags) {
    return CALL.run([&] { return execs.count(exec) ? answer(flags, exec->flags) : cudaErrorInvalidValue; }, exec);
}
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream) {
    return CALL.run([&] { return execs.count(exec) && find_stream(stream) ? cudaSuccess : cudaErrorInvalidValue; },
                    exec, stream);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle) {
    return CALL.run(
        [&] {
            CUstream_st* stream = find_stream(handle);
            if (!stream || !execs.count(exec)) return cudaErrorInvalidValue;
            if (stream->capture) {  // the nodes are added to the graph that is being captured
                std::vector<cudaGraphNode_t> added;
                for (auto& item : exec->items) {
                    std::vector<cudaGraphNode_t> after;
                    for (size_t i : item.after) after.push_back(added[i]);
                    if (after.empty()) after = stream->capture_tail;
                    Work work = item.work;
                    if (!item.enabled) work.run = nullptr;
                    added.push_back(add_node(stream->capture->graph, std::move(work), after));
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
            if (!execs.erase(exec)) return cudaErrorInvalidValue;
            delete exec;  // the nodes of a launch have copies of the work
            return cudaSuccess;
        },
        exec);
}

#if CUDART_VERSION >= 12000
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* info) {
    return CALL.run(
        [&] {
            if (!execs.count(exec)) return cudaErrorInvalidValue;
            cudaGraphExecUpdateResultInfo unused;
            if (!info) info = &unused;
            *info        = {};
            info->result = cudaGraphExecUpdateErrorTopologyChanged;
            std::vector<CUgraphExec_st::Item> items;
            std::vector<size_t> leaves;
            if (!graphs().count(graph) || !flatten(graph, items, {}, leaves) || items.size() != exec->items.size())
                return cudaErrorGraphExecUpdateFailure;
            for (size_t i = 0; i < items.size(); i++) {
                info->errorNode = items[i].node;
                if (items[i].after != exec->items[i].after) return cudaErrorGraphExecUpdateFailure;
                if (items[i].work.type != exec->items[i].work.type) {
                    info->result = cudaGraphExecUpdateErrorNodeTypeChanged;
                    return cudaErrorGraphExecUpdateFailure;
                }
            }
            // The items keep the nodes of the graph that was instantiated, because the program has those handles.
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
    return CALL.run([&] { return set_params(work_of(exec, node), cudaGraphNodeTypeKernel, p); }, exec, node);
}
cudaError_t cudaGraphExecMemcpyNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node, const cudaMemcpy3DParms* p) {
    return CALL.run([&] { return set_params(work_of(exec, node), cudaGraphNodeTypeMemcpy, p); }, exec, node);
}
cudaError_t cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t exec, cudaGraphNode_t node, void* dst, const void* src,
                                               size_t bytes, cudaMemcpyKind kind) {
    const cudaMemcpy3DParms p = line_params(dst, src, bytes, kind);
    return cudaGraphExecMemcpyNodeSetParams(exec, node, &p);
}
cudaError_t cudaGraphExecMemsetNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node, const cudaMemsetParams* p) {
    return CALL.run([&] { return set_params(work_of(exec, node), cudaGraphNodeTypeMemset, p); }, exec, node);
}
cudaError_t cudaGraphExecHostNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node, const cudaHostNodeParams* p) {
    return CALL.run([&] { return set_params(work_of(exec, node), cudaGraphNodeTypeHost, p); }, exec, node);
}
cudaError_t cudaGraphExecEventRecordNodeSetEvent(cudaGraphExec_t exec, cudaGraphNode_t node, cudaEvent_t event) {
    constexpr auto type = cudaGraphNodeTypeEventRecord;
    const EventParams p{event, type};
    return CALL.run([&] { return set_params(work_of(exec, node), type, &p); }, exec, node);
}
cudaError_t cudaGraphExecEventWaitNodeSetEvent(cudaGraphExec_t exec, cudaGraphNode_t node, cudaEvent_t event) {
    constexpr auto type = cudaGraphNodeTypeWaitEvent;
    const EventParams p{event, type};
    return CALL.run([&] { return set_params(work_of(exec, node), type, &p); }, exec, node);
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
            return answer(enabled, unsigned(item->enabled));
        },
        exec, node);
}
