// graph.h - graphs, executable graphs and captures
#pragma once
#include <thread>

#include "modules.h"
#include "streams.h"

struct CUgraphNode_st {
    CUgraph_st* graph = nullptr;
    emu::Work work;
    std::vector<cudaGraphNode_t> after;
    cudaGraph_t child        = nullptr;  // a clone that the node owns
    cudaGraphNode_t original = nullptr;  // the node that this one was cloned from
};

struct CUgraph_st {
    std::vector<cudaGraphNode_t> nodes;
    ~CUgraph_st();
};

struct CUgraphExec_st {
    struct Item {
        cudaGraphNode_t node;  // the node it was made from, for cudaGraphExecKernelNodeSetParams and the like
        emu::Work work;
        std::vector<size_t> after;
        uint32_t slot = 0;
        bool enabled  = true;
    };
    std::vector<Item> items;  // in an order that respects `after`
    emu::NodePtr last;        // of the last launch: launches of one graph never overlap
    unsigned long long flags = 0;
};

struct Capture {
    cudaGraph_t graph = nullptr;
    cudaStreamCaptureMode mode{};
    CUstream_st* origin = nullptr;
    std::thread::id thread;
    bool invalidated = false, over = false;
    unsigned long long id = 0;
    std::vector<cudaGraphNode_t> abandoned;  // the last nodes of streams that were destroyed
};

namespace emu {

std::set<cudaGraph_t>& graphs();  // those that have not been destroyed
cudaGraphNode_t add_node(cudaGraph_t graph, Work work, std::vector<cudaGraphNode_t> after);
cudaMemcpy3DParms line_params(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind);

struct EventParams {
    cudaEvent_t event;
    cudaGraphNodeType type;
};
// Makes the work of a node from the parameters that the program gives.
cudaError_t make_work(const cudaKernelNodeParams& p, Work& work);
cudaError_t make_work(const cudaMemcpy3DParms& p, Work& work);
cudaError_t make_work(const cudaMemsetParams& p, Work& work);
cudaError_t make_work(const cudaHostNodeParams& p, Work& work);
cudaError_t make_work(const EventParams& p, Work& work);

// Gives a node of this type new parameters, in a graph or in an executable graph.
template <class Params> cudaError_t set_params(Work* work, cudaGraphNodeType type, const Params* params) {
    if (!work || work->type != type || !params) return cudaErrorInvalidValue;
    Work fresh;
    fresh.params = work->params;  // its launch attributes stay
    if (const cudaError_t error = make_work(*params, fresh)) return error;
    *work = std::move(fresh);
    return cudaSuccess;
}

}  // namespace emu
