// refusals.cu - calls that the runtime refuses: null pointers, handles that were destroyed, calls during a capture
#include "../check.h"

__global__ void nothing() {}

void null_pointers() {
    EXPECT(cudaGetDeviceCount(nullptr) == cudaErrorInvalidValue);
    EXPECT(cudaGetDevice(nullptr) == cudaErrorInvalidValue);
    EXPECT(cudaDeviceGetLimit(nullptr, cudaLimitStackSize) == cudaErrorInvalidValue);
    EXPECT(cudaStreamGetFlags(0, nullptr) == cudaErrorInvalidValue);
    EXPECT(cudaGetSymbolSize(nullptr, nullptr) == cudaErrorInvalidSymbol);
    EXPECT(cudaThreadExchangeStreamCaptureMode(nullptr) == cudaErrorInvalidValue);
    cudaGraph_t graph;
    cudaGraphNode_t node;
    CUDA(cudaGraphCreate(&graph, 0));
    EXPECT(cudaGraphAddKernelNode(&node, graph, nullptr, 0, nullptr) == cudaErrorInvalidValue);
    EXPECT(cudaGraphAddMemsetNode(&node, graph, nullptr, 0, nullptr) == cudaErrorInvalidValue);
    CUDA(cudaGraphAddEmptyNode(&node, graph, nullptr, 0));
    EXPECT(cudaGraphKernelNodeSetParams(node, nullptr) == cudaErrorInvalidValue);
    CUDA(cudaGraphDestroy(graph));
}

void memory() {
    void *p, *pinned;
    size_t pitch;
    EXPECT(cudaMalloc(&p, ~size_t(0)) == cudaErrorMemoryAllocation);
    EXPECT(cudaMallocHost(&p, ~size_t(0)) == cudaErrorMemoryAllocation);
    EXPECT(cudaMallocPitch(&p, &pitch, ~size_t(0), 1) == cudaErrorMemoryAllocation);
    EXPECT(cudaMallocPitch(&p, &pitch, 512, ~size_t(0) / 2) == cudaErrorMemoryAllocation);
    EXPECT(cudaMallocManaged(&p, 4, 7) == cudaErrorInvalidValue);
    CUDA(cudaMalloc(&p, 4));
    EXPECT(cudaHostGetDevicePointer(&pinned, p, 0) == cudaErrorInvalidValue);  // p is no memory of the host
    CUDA(cudaFree(p));

    cudaMemPool_t pool;
    EXPECT(cudaDeviceGetDefaultMemPool(&pool, 99) == cudaErrorInvalidDevice);
    CUDA(cudaDeviceGetDefaultMemPool(&pool, 0));
    EXPECT(cudaMemPoolDestroy(pool) == cudaErrorInvalidValue);  // a default pool stays
    EXPECT(cudaMemPoolCreate(&pool, nullptr) == cudaErrorInvalidValue);
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned, properties.location.type = cudaMemLocationTypeDevice;
    CUDA(cudaMemPoolCreate(&pool, &properties));
    CUDA(cudaMemPoolDestroy(pool));
    EXPECT(cudaMallocFromPoolAsync(&p, 4, pool, 0) == cudaErrorInvalidValue);
}

void captures() {
    cudaStream_t s;
    cudaEvent_t event;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    void* p;
    CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CUDA(cudaEventCreate(&event));
    // A relaxed capture allows allocations, but nothing may wait for its stream.
    CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed));
    CUDA(cudaMalloc(&p, 4));
    EXPECT(cudaStreamQuery(s) == cudaErrorStreamCaptureUnsupported);
    EXPECT(cudaStreamEndCapture(s, &graph) == cudaErrorStreamCaptureInvalidated);
    CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed));
    EXPECT(cudaDeviceSynchronize() == cudaErrorStreamCaptureUnsupported);
    EXPECT(cudaStreamEndCapture(s, &graph) == cudaErrorStreamCaptureInvalidated);
    CUDA(cudaFree(p));
    // Another capture forbids them all, except in a thread that says that they do no harm.
    CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    CUDA(cudaThreadExchangeStreamCaptureMode(&mode));
    EXPECT(mode == cudaStreamCaptureModeGlobal);
    CUDA(cudaMalloc(&p, 4));
    CUDA(cudaThreadExchangeStreamCaptureMode(&mode));
    // The graph waits for the event and not for what was recorded in this capture.
    CUDA(cudaStreamWaitEvent(s, event, cudaEventWaitExternal));
    nothing<<<1, 1, 0, s>>>();
    CUDA(cudaStreamEndCapture(s, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaGraphLaunch(exec, s));
    CUDA(cudaStreamSynchronize(s));
    CUDA(cudaFree(p));
    CUDA(cudaGraphExecDestroy(exec));
    EXPECT(cudaGraphLaunch(exec, s) == cudaErrorInvalidValue);
    EXPECT(cudaGraphExecDestroy(exec) == cudaErrorInvalidValue);
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    EXPECT(cudaMallocHost(&p, 4) == cudaErrorStreamCaptureUnsupported);
    EXPECT(cudaStreamEndCapture(s, &graph) == cudaErrorStreamCaptureInvalidated);
    CUDA(cudaStreamDestroy(s));
    CUDA(cudaEventDestroy(event));
}

// A launch that records an event would leave a later wait without anything to wait for.
void events_of_launches() {
    cudaLaunchAttribute attribute{};
    cudaLaunchConfig_t config{};
    config.gridDim = config.blockDim = 1, config.attrs = &attribute, config.numAttrs = 1;
    attribute.id = cudaLaunchAttributeProgrammaticEvent;
    EXPECT(cudaLaunchKernelEx(&config, nothing) == cudaErrorNotSupported);
#if CUDART_VERSION >= 12030
    attribute.id = cudaLaunchAttributeLaunchCompletionEvent;
    EXPECT(cudaLaunchKernelEx(&config, nothing) == cudaErrorNotSupported);
#endif
}

int main() {
    null_pointers();
    events_of_launches();
    memory();
    captures();
    cudaGetLastError();
    std::puts("ok");
}
