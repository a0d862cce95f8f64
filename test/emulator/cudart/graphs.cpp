// graphs.cpp - graphs built by hand: nodes, edges, their parameters
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "graph.h"

CUgraph_st::~CUgraph_st() {
    emu::graphs().erase(this);
    for (cudaGraphNode_t node : nodes) {
        delete node->child;
        delete node;
    }
}

namespace emu {

std::set<cudaGraph_t>& graphs() {
    static auto& all = *new std::set<cudaGraph_t>;
    return all;
}

cudaGraphNode_t add_node(cudaGraph_t graph, Work work, std::vector<cudaGraphNode_t> after) {
    auto* node  = new CUgraphNode_st;
    node->graph = graph;
    node->work  = std::move(work);
    node->after = std::move(after);
    graph->nodes.push_back(node);
    return node;
}

cudaError_t make_work(const cudaKernelNodeParams& p, Work& work) {
    const auto* before = std::any_cast<KernelLaunch>(&work.params);
    KernelLaunch launch;
    if (p.extra) return lacking("a kernel's arguments in `extra`");
    if (const cudaError_t error = prepare_launch(launch, p.func, p.gridDim, p.blockDim, p.kernelParams,
                                                 p.sharedMemBytes, before ? before->attributes : LaunchAttributes{}))
        return error;
    work = launch_work(launch);
    return cudaSuccess;
}

cudaError_t make_work(const cudaHostNodeParams& p, Work& work) {
    if (!p.fn) return cudaErrorInvalidValue;
    work        = host_work("host function of a graph", [p] { p.fn(p.userData); });
    work.params = p;
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

cudaError_t make_work(const EventParams& p, Work& work) {
    if (!find_event(p.event)) return cudaErrorInvalidResourceHandle;
    work.type   = p.type;
    work.params = p.event;
    return cudaSuccess;
}

namespace {

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

cudaError_t symbol_params(const void* symbol, size_t offset, const void* other, size_t bytes, bool to_symbol,
                          cudaMemcpyKind kind, cudaMemcpy3DParms& p) {
    void* place;
    if (const cudaError_t error = symbol_range(symbol, offset, bytes, &place)) return error;
    p = to_symbol ? line_params(place, other, bytes, kind) : line_params(const_cast<void*>(other), place, bytes, kind);
    return cudaSuccess;
}

#if CUDART_VERSION >= 12020
cudaError_t make_work(const cudaGraphNodeParams& p, Work& work) {
    const auto& k = p.kernel;
    const auto& m = p.memset;
    switch (p.type) {
        case cudaGraphNodeTypeEmpty: return cudaSuccess;
        case cudaGraphNodeTypeKernel:
            return make_work(
                cudaKernelNodeParams{k.func, k.gridDim, k.blockDim, k.sharedMemBytes, k.kernelParams, k.extra}, work);
        case cudaGraphNodeTypeMemcpy: return make_work(p.memcpy.copyParams, work);
        case cudaGraphNodeTypeMemset:
            return make_work(cudaMemsetParams{m.dst, m.pitch, m.value, m.elementSize, m.width, m.height}, work);
        case cudaGraphNodeTypeHost: return make_work(cudaHostNodeParams{p.host.fn, p.host.userData}, work);
        case cudaGraphNodeTypeEventRecord: return make_work(EventParams{p.eventRecord.event, p.type}, work);
        case cudaGraphNodeTypeWaitEvent: return make_work(EventParams{p.eventWait.event, p.type}, work);
        default: return lacking("nodes of this type in a graph built by hand");
    }
}
#endif
constexpr struct NoParams {
} no_params;
cudaError_t make_work(const NoParams&, Work&) { return cudaSuccess; }

// Does the work of every cudaGraphAdd…Node.
template <class Params>
cudaError_t add(cudaGraphNode_t* out, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                const Params* params) {
    if (!out || !graphs().count(graph) || (count && !after) || !params) return cudaErrorInvalidValue;
    Work work;
    if (const cudaError_t error = make_work(*params, work)) return error;
    *out = add_node(graph, std::move(work), {after, after + count});
    return cudaSuccess;
}

Work* work_of(cudaGraphNode_t node) { return node ? &node->work : nullptr; }

template <class Params> cudaError_t get_params(cudaGraphNode_t node, Params* out) {
    auto* params = node ? std::any_cast<Params>(&node->work.params) : nullptr;
    if (!params || !out) return cudaErrorInvalidValue;
    *out = *params;
    return cudaSuccess;
}

// Fills an array of `*count` handles, or only counts them when there is no array.
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

}  // namespace
}  // namespace emu

using namespace emu;

// --- graphs ---------------------------------------------------------------------------------------------------------

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned flags) {
    return CALL.run(
        [&] {
            if (!graph || flags) return cudaErrorInvalidValue;
            *graph = *graphs().insert(new CUgraph_st).first;
            return cudaSuccess;
        },
        flags);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return CALL.run(
        [&] {
            if (!graphs().count(graph)) return cudaErrorInvalidValue;
            delete graph;
            return cudaSuccess;
        },
        graph);
}
cudaError_t cudaGraphClone(cudaGraph_t* out, cudaGraph_t graph) {
    return CALL.run(
        [&] {
            if (!out || !graphs().count(graph)) return cudaErrorInvalidValue;
            *out = *graphs().insert(clone(graph)).first;
            return cudaSuccess;
        },
        graph);
}
cudaError_t cudaGraphNodeFindInClone(cudaGraphNode_t* out, cudaGraphNode_t node, cudaGraph_t graph) {
    return CALL.run(
        [&] {
            if (!graphs().count(graph)) return cudaErrorInvalidValue;
            for (cudaGraphNode_t candidate : graph->nodes)
                if (candidate->original == node) return answer(out, candidate);
            return cudaErrorInvalidValue;
        },
        node, graph);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
    return CALL.run([&] { return graphs().count(graph) ? give(graph->nodes, nodes, count) : cudaErrorInvalidValue; },
                    graph);
}
cudaError_t cudaGraphGetRootNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
    return CALL.run(
        [&] {
            if (!graphs().count(graph)) return cudaErrorInvalidValue;
            std::vector<cudaGraphNode_t> roots;
            for (cudaGraphNode_t node : graph->nodes)
                if (node->after.empty()) roots.push_back(node);
            return give(roots, nodes, count);
        },
        graph);
}
static cudaError_t get_edges(cudaGraph_t graph, cudaGraphNode_t* from, cudaGraphNode_t* to, size_t* count) {
    if (!graphs().count(graph) || !count) return cudaErrorInvalidValue;
    size_t n = 0;
    for (cudaGraphNode_t node : graph->nodes)
        for (cudaGraphNode_t dependency : node->after) {
            if (from && to && n < *count) from[n] = dependency, to[n] = node;
            n++;
        }
    *count = from && to ? std::min(*count, n) : n;
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
    if (!graphs().count(graph) || (count && (!from || !to))) return cudaErrorInvalidValue;
    for (size_t i = 0; i < count; i++) {
        if (!from[i] || !to[i]) return cudaErrorInvalidValue;
        auto& after      = to[i]->after;
        const auto place = std::find(after.begin(), after.end(), from[i]);
        if ((place == after.end()) != add || from[i]->graph != graph || to[i]->graph != graph)
            return cudaErrorInvalidValue;
        if (add) after.push_back(from[i]);
        else after.erase(place);
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
    return CALL.run([&] { return add(node, graph, after, count, &no_params); }, graph);
}
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                   const cudaKernelNodeParams* params) {
    return CALL.run([&] { return add(node, graph, after, count, params); }, graph);
}
cudaError_t cudaGraphAddMemcpyNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                   const cudaMemcpy3DParms* params) {
    return CALL.run([&] { return add(node, graph, after, count, params); }, graph);
}
cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                     size_t count, void* dst, const void* src, size_t bytes, cudaMemcpyKind kind) {
    const cudaMemcpy3DParms params = line_params(dst, src, bytes, kind);
    return CALL.run([&] { return add(node, graph, after, count, &params); }, graph);
}
cudaError_t cudaGraphAddMemcpyNodeToSymbol(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                           size_t count, const void* symbol, const void* src, size_t bytes,
                                           size_t offset, cudaMemcpyKind kind) {
    return CALL.run(
        [&] {
            cudaMemcpy3DParms p;
            if (const cudaError_t error = symbol_params(symbol, offset, src, bytes, true, kind, p)) return error;
            return add(node, graph, after, count, &p);
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
            return add(node, graph, after, count, &p);
        },
        graph);
}
cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                   const cudaMemsetParams* params) {
    return CALL.run([&] { return add(node, graph, after, count, params); }, graph);
}
cudaError_t cudaGraphAddHostNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                 const cudaHostNodeParams* params) {
    return CALL.run([&] { return add(node, graph, after, count, params); }, graph);
}
cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                       size_t count, cudaGraph_t child) {
    return CALL.run(
        [&] {
            if (!graphs().count(child)) return cudaErrorInvalidValue;
            if (const cudaError_t e = add(node, graph, after, count, &no_params)) return e;
            (*node)->child = clone(child);
            return cudaSuccess;
        },
        graph);
}
cudaError_t cudaGraphAddEventRecordNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                        size_t count, cudaEvent_t event) {
    const EventParams params{event, cudaGraphNodeTypeEventRecord};
    return CALL.run([&] { return add(node, graph, after, count, &params); }, graph);
}
cudaError_t cudaGraphAddEventWaitNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                      size_t count, cudaEvent_t event) {
    const EventParams params{event, cudaGraphNodeTypeWaitEvent};
    return CALL.run([&] { return add(node, graph, after, count, &params); }, graph);
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
    return CALL.run([&] { return add(node, graph, after, count, p); }, graph, p->type);
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
cudaError_t cudaGraphEventWaitNodeGetEvent(cudaGraphNode_t node, cudaEvent_t* out) {
    return CALL.run([&] { return get_params(node, out); }, node);
}
cudaError_t cudaGraphEventRecordNodeSetEvent(cudaGraphNode_t node, cudaEvent_t event) {
    constexpr auto type = cudaGraphNodeTypeEventRecord;
    const EventParams p{event, type};
    return CALL.run([&] { return set_params(work_of(node), type, &p); }, node);
}
cudaError_t cudaGraphEventWaitNodeSetEvent(cudaGraphNode_t node, cudaEvent_t event) {
    constexpr auto type = cudaGraphNodeTypeWaitEvent;
    const EventParams p{event, type};
    return CALL.run([&] { return set_params(work_of(node), type, &p); }, node);
}
cudaError_t cudaGraphChildGraphNodeGetGraph(cudaGraphNode_t node, cudaGraph_t* out) {
    return CALL.run(
        [&] {
            if (!node || !node->child) return cudaErrorInvalidValue;
            graphs().insert(*out = node->child);
            return cudaSuccess;
        },
        node);
}

// Of the attributes, a program can set the size of clusters.
cudaError_t cudaGraphKernelNodeSetAttribute(cudaGraphNode_t node, cudaKernelNodeAttrID id,
                                            const cudaKernelNodeAttrValue* value) {
    return CALL.run(
        [&] {
            const auto* launch = node ? std::any_cast<KernelLaunch>(&node->work.params) : nullptr;
            if (!launch || !value) return cudaErrorInvalidValue;
            if (id != cudaLaunchAttributeClusterDimension) return lacking("this attribute of a kernel node");
            KernelLaunch changed = *launch;
            const auto& size     = value->clusterDim;
            if (const cudaError_t error = set_cluster(changed, dim3(size.x, size.y, size.z))) return error;
            const bool overlaps = node->work.overlaps;
            node->work          = launch_work(changed);
            node->work.overlaps = overlaps;
            return cudaSuccess;
        },
        node, id);
}
cudaError_t cudaGraphKernelNodeGetAttribute(cudaGraphNode_t node, cudaKernelNodeAttrID id,
                                            cudaKernelNodeAttrValue* value) {
    return CALL.run(
        [&] {
            const auto* launch = node ? std::any_cast<KernelLaunch>(&node->work.params) : nullptr;
            if (!launch || !value) return cudaErrorInvalidValue;
            if (id != cudaLaunchAttributeClusterDimension) return lacking("this attribute of a kernel node");
            value->clusterDim = {launch->cluster.x, launch->cluster.y, launch->cluster.z};
            return cudaSuccess;
        },
        node, id);
}

cudaError_t cudaGraphKernelNodeSetParams(cudaGraphNode_t node, const cudaKernelNodeParams* p) {
    return CALL.run([&] { return set_params(work_of(node), cudaGraphNodeTypeKernel, p); }, node);
}
cudaError_t cudaGraphMemcpyNodeSetParams(cudaGraphNode_t node, const cudaMemcpy3DParms* p) {
    return CALL.run([&] { return set_params(work_of(node), cudaGraphNodeTypeMemcpy, p); }, node);
}
cudaError_t cudaGraphMemcpyNodeSetParams1D(cudaGraphNode_t node, void* dst, const void* src, size_t bytes,
                                           cudaMemcpyKind kind) {
    const cudaMemcpy3DParms p = line_params(dst, src, bytes, kind);
    return cudaGraphMemcpyNodeSetParams(node, &p);
}
cudaError_t cudaGraphMemsetNodeSetParams(cudaGraphNode_t node, const cudaMemsetParams* p) {
    return CALL.run([&] { return set_params(work_of(node), cudaGraphNodeTypeMemset, p); }, node);
}
cudaError_t cudaGraphHostNodeSetParams(cudaGraphNode_t node, const cudaHostNodeParams* p) {
    return CALL.run([&] { return set_params(work_of(node), cudaGraphNodeTypeHost, p); }, node);
}
