// graphs.cu - capture over two streams, launch again and again, update a kernel's arguments, build one by hand
#include "../check.h"

__global__ void axpy(float* y, const float* x, float a, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}

int main() {
    const int n = 1000, blocks = 4;
    const auto hx = whole_numbers(n);
    Device<float> x(hx), y(n), z(n);
    CUDA(cudaMemset(y, 0, n * 4));
    cudaStream_t s, side;
    cudaEvent_t fork, join;
    CUDA(cudaStreamCreate(&s));
    CUDA(cudaStreamCreate(&side));
    CUDA(cudaEventCreate(&fork));
    CUDA(cudaEventCreate(&join));

    auto record = [&](float a) {
        cudaGraph_t graph;
        CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
        CUDA(cudaEventRecord(fork, s));
        CUDA(cudaStreamWaitEvent(side, fork, 0));
        CUDA(cudaMemsetAsync(z, 0, n * 4, side));
        axpy<<<blocks, 256, 0, side>>>(z, x, 1, n);
        axpy<<<blocks, 256, 0, s>>>(y, x, a, n);
        CUDA(cudaEventRecord(join, side));
        CUDA(cudaStreamWaitEvent(s, join, 0));
        axpy<<<blocks, 256, 0, s>>>(y, z, 10, n);
        CUDA(cudaStreamEndCapture(s, &graph));
        return graph;
    };
    cudaGraph_t graph = record(1);
    size_t nodes      = 0;
    CUDA(cudaGraphGetNodes(graph, nullptr, &nodes));
    EXPECT(nodes == 4);
    cudaGraphExec_t exec;
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 3; i++) CUDA(cudaGraphLaunch(exec, s));
    CUDA(cudaStreamSynchronize(s));
    auto got = y.host();
    for (int i = 0; i < n; i++) EXPECT(got[i] == 33 * hx[i]);

    cudaGraph_t other = record(2);
    cudaGraphExecUpdateResultInfo info;
    CUDA(cudaGraphExecUpdate(exec, other, &info));
    CUDA(cudaGraphLaunch(exec, s));
    CUDA(cudaStreamSynchronize(s));
    got = y.host();
    for (int i = 0; i < n; i++) EXPECT(got[i] == 45 * hx[i]);

    // By hand: memset -> kernel, then new arguments for the kernel in the executable graph.
    cudaGraph_t hand;
    cudaGraphNode_t clear, kernel;
    CUDA(cudaGraphCreate(&hand, 0));
    cudaMemsetParams fill{};
    fill.dst = y, fill.elementSize = 4, fill.width = n, fill.height = 1;
    CUDA(cudaGraphAddMemsetNode(&clear, hand, nullptr, 0, &fill));
    float *yp = y, a = 5;
    const float* xp = x;
    int count       = n;
    void* args[]    = {&yp, &xp, &a, &count};
    cudaKernelNodeParams params{};
    params.func = (void*)axpy, params.gridDim = blocks, params.blockDim = 256, params.kernelParams = args;
    CUDA(cudaGraphAddKernelNode(&kernel, hand, &clear, 1, &params));
    cudaGraphExec_t hand_exec;
    CUDA(cudaGraphInstantiate(&hand_exec, hand, 0));
    CUDA(cudaGraphLaunch(hand_exec, s));
    CUDA(cudaStreamSynchronize(s));
    got = y.host();
    for (int i = 0; i < n; i++) EXPECT(got[i] == 5 * hx[i]);
    a = 7;
    CUDA(cudaGraphExecKernelNodeSetParams(hand_exec, kernel, &params));
    CUDA(cudaGraphLaunch(hand_exec, s));
    CUDA(cudaStreamSynchronize(s));
    got = y.host();
    for (int i = 0; i < n; i++) EXPECT(got[i] == 7 * hx[i]);

    // What a capture does not allow.
    CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    EXPECT(cudaStreamSynchronize(s) == cudaErrorStreamCaptureUnsupported);
    EXPECT(cudaStreamEndCapture(s, &graph) == cudaErrorStreamCaptureInvalidated);
    cudaGetLastError();
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphExecDestroy(hand_exec));
    CUDA(cudaGraphDestroy(other));
    CUDA(cudaGraphDestroy(hand));
    CUDA(cudaStreamDestroy(s));
    CUDA(cudaStreamDestroy(side));
    std::puts("ok");
}
