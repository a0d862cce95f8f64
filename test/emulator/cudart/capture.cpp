// capture.cpp - captured streams: their operations become nodes of a graph, with the same Work
#include <algorithm>
#include <utility>

#include "graph.h"

namespace emu {
namespace {

auto& captures = *new std::set<std::shared_ptr<Capture>>;

thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

void invalidate(Capture& capture) { capture.invalidated = true; }

// No stream is captured any more.
void end_capture(const std::shared_ptr<Capture>& capture) {
    for (CUstream_st* stream : all_streams()) {
        if (stream->capture != capture) continue;
        stream->capture = nullptr;
        stream->capture_tail.clear();
    }
    capture->over = true;
    captures.erase(capture);
}

}  // namespace

cudaError_t refuse_during_capture() {
    cudaError_t error = cudaSuccess;
    if (thread_mode == cudaStreamCaptureModeRelaxed) return error;
    for (const auto& capture : captures) {
        const bool mine   = capture->thread == std::this_thread::get_id();
        const bool global = capture->mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal;
        if (global || (mine && capture->mode != cudaStreamCaptureModeRelaxed)) {
            invalidate(*capture);
            error = cudaErrorStreamCaptureUnsupported;
        }
    }
    return error;
}

cudaError_t refuse_to_wait(const CUstream_st* stream) {
    cudaError_t error = cudaSuccess;
    for (const CUstream_st* other : all_streams())
        if (other->capture && (stream ? other == stream : other->device == current_device())) {
            invalidate(*other->capture);
            error = cudaErrorStreamCaptureUnsupported;
        }
    return error;
}

cudaError_t capture_add(CUstream_st& stream, Work work) {
    if (stream.capture->invalidated) return cudaErrorStreamCaptureInvalidated;
    stream.capture_tail = {add_node(stream.capture->graph, std::move(work), stream.capture_tail)};
    return cudaSuccess;
}

cudaError_t capture_wait(CUstream_st& stream, CUevent_st& event) {
    if (!event.capture) {  // it was recorded outside of the capture, so the graph could not repeat the wait
        invalidate(*stream.capture);
        return cudaErrorStreamCaptureIsolation;
    }
    if (event.capture->over) return cudaErrorCapturedEvent;
    if (!stream.capture) {
        if (stream.legacy) return cudaErrorStreamCaptureImplicit;
        stream.capture      = event.capture;
        stream.capture_tail = {};
    }
    if (stream.capture != event.capture) {
        invalidate(*stream.capture);
        invalidate(*event.capture);
        return cudaErrorStreamCaptureMerge;
    }
    for (cudaGraphNode_t node : event.capture_tail)
        if (std::find(stream.capture_tail.begin(), stream.capture_tail.end(), node) == stream.capture_tail.end())
            stream.capture_tail.push_back(node);
    return cudaSuccess;
}

void leave_capture(CUstream_st& stream) {
    const std::shared_ptr<Capture> capture = stream.capture;
    if (capture->origin == &stream) return end_capture(capture);
    capture->abandoned.insert(capture->abandoned.end(), stream.capture_tail.begin(), stream.capture_tail.end());
}

}  // namespace emu

using namespace emu;

static cudaError_t begin_capture(cudaStream_t handle, cudaGraph_t graph, const cudaGraphNode_t* after, size_t count,
                                 cudaStreamCaptureMode mode) {
    static unsigned long long next_id = 1;
    CUstream_st* stream               = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (stream->legacy) return cudaErrorStreamCaptureUnsupported;
    if (stream->capture) return cudaErrorIllegalState;
    if (unsigned(mode) > cudaStreamCaptureModeRelaxed || (count && !after) || (graph && !graphs().count(graph)))
        return cudaErrorInvalidValue;
    auto capture    = std::make_shared<Capture>();
    capture->graph  = graph ? graph : *graphs().insert(new CUgraph_st).first;
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
                invalidate(*capture);
                return cudaErrorStreamCaptureUnmatched;
            }
            // Every other stream of the capture must have been joined: its last nodes are ancestors of this stream's.
            std::set<cudaGraphNode_t> reached;
            std::vector<cudaGraphNode_t> stack = stream->capture_tail;
            while (!stack.empty()) {
                cudaGraphNode_t node = stack.back();
                stack.pop_back();
                if (reached.insert(node).second) stack.insert(stack.end(), node->after.begin(), node->after.end());
            }
            std::vector<cudaGraphNode_t> tails = capture->abandoned;
            for (const CUstream_st* other : all_streams())
                if (other->capture == capture)
                    tails.insert(tails.end(), other->capture_tail.begin(), other->capture_tail.end());
            const bool joined =
                std::all_of(tails.begin(), tails.end(), [&](cudaGraphNode_t node) { return reached.count(node); });
            end_capture(capture);
            if (capture->invalidated) return cudaErrorStreamCaptureInvalidated;
            if (!joined) return cudaErrorStreamCaptureUnjoined;
            *graph = capture->graph;
            return cudaSuccess;
        },
        handle);
}

static cudaError_t capture_info(cudaStream_t handle, cudaStreamCaptureStatus* status, unsigned long long* id,
                                cudaGraph_t* graph, const cudaGraphNode_t** after, size_t* count) {
    CUstream_st* stream = find_stream(handle);
    if (!stream || !status) return stream ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle;
    *status = !stream->capture               ? cudaStreamCaptureStatusNone
              : stream->capture->invalidated ? cudaStreamCaptureStatusInvalidated
                                             : cudaStreamCaptureStatusActive;
    if (!stream->capture) return cudaSuccess;
    if (id) *id = stream->capture->id;
    if (graph) *graph = stream->capture->graph;
    if (after) *after = stream->capture_tail.data();
    if (count) *count = stream->capture_tail.size();
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    return CALL.run([&] { return capture_info(stream, status, nullptr, nullptr, nullptr, nullptr); }, stream);
}
static cudaError_t update_capture(cudaStream_t handle, cudaGraphNode_t* after, size_t count, unsigned flags) {
    CUstream_st* stream = find_stream(handle);
    if (!stream || !stream->capture) return cudaErrorIllegalState;
    if (count && !after) return cudaErrorInvalidValue;
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
    return CALL.run([&] {
        if (!mode || unsigned(*mode) > cudaStreamCaptureModeRelaxed) return cudaErrorInvalidValue;
        std::swap(*mode, thread_mode);
        return cudaSuccess;
    });
}
