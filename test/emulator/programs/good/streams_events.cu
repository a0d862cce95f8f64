// streams_events.cu - a pipeline over two streams that are ordered only by events, with a host function at its end
#include <cstring>

#include "../check.h"

__global__ void scale(float* x, float by, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= by;
}
__global__ void add(float* y, const float* x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += x[i];
}

int main() {
    const int n = 4096, pieces = 4;
    float *in, *out;
    CUDA(cudaMallocHost(&in, n * pieces * 4));
    CUDA(cudaMallocHost(&out, n * 4));
    for (int i = 0; i < n * pieces; i++) in[i] = float(i % 13);
    cudaStream_t copy, work;
    CUDA(cudaStreamCreateWithFlags(&copy, cudaStreamNonBlocking));
    CUDA(cudaStreamCreateWithFlags(&work, cudaStreamNonBlocking));
    cudaEvent_t arrived[2], used[2], begin, end;
    for (int i = 0; i < 2; i++) {
        CUDA(cudaEventCreateWithFlags(&arrived[i], cudaEventDisableTiming));
        CUDA(cudaEventCreateWithFlags(&used[i], cudaEventDisableTiming));
    }
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    float *buffer[2], *sum;
    CUDA(cudaMallocAsync(&buffer[0], n * 4, copy));
    CUDA(cudaMallocAsync(&buffer[1], n * 4, copy));
    CUDA(cudaMallocAsync(&sum, n * 4, work));
    CUDA(cudaMemsetAsync(sum, 0, n * 4, work));
    CUDA(cudaEventRecord(begin, work));
    for (int p = 0; p < pieces; p++) {
        const int b = p % 2;
        CUDA(cudaStreamWaitEvent(copy, used[b], 0));  // recorded two pieces ago, or never
        CUDA(cudaMemcpyAsync(buffer[b], in + p * n, n * 4, cudaMemcpyHostToDevice, copy));
        CUDA(cudaEventRecord(arrived[b], copy));
        CUDA(cudaStreamWaitEvent(work, arrived[b], 0));
        scale<<<n / 256, 256, 0, work>>>(buffer[b], float(p + 1), n);
        add<<<n / 256, 256, 0, work>>>(sum, buffer[b], n);
        CUDA(cudaEventRecord(used[b], work));
    }
    CUDA(cudaMemcpyAsync(out, sum, n * 4, cudaMemcpyDeviceToHost, work));
    int called = 0;
    CUDA(cudaLaunchHostFunc(
        work, [](void* flag) { *static_cast<int*>(flag) = 1; }, &called));
    CUDA(cudaEventRecord(end, work));
    while (cudaEventQuery(end) == cudaErrorNotReady) {}
    CUDA(cudaStreamSynchronize(work));
    EXPECT(called == 1);
    for (int i = 0; i < n; i++) {
        float expected = 0;
        for (int p = 0; p < pieces; p++) expected += in[p * n + i] * float(p + 1);
        EXPECT(out[i] == expected);
    }
    float ms = -1;
    CUDA(cudaEventElapsedTime(&ms, begin, end));
    EXPECT(ms >= 0);

    // The default stream is ordered with every blocking stream, both ways.
    cudaStream_t blocking;
    CUDA(cudaStreamCreate(&blocking));
    CUDA(cudaMemsetAsync(sum, 0, n * 4, blocking));
    add<<<n / 256, 256>>>(sum, buffer[0], n);
    scale<<<n / 256, 256, 0, blocking>>>(sum, 2, n);
    CUDA(cudaMemcpy(out, sum, n * 4, cudaMemcpyDeviceToHost));
    for (int i = 0; i < n; i++) EXPECT(out[i] == in[2 * n + i] * 6);

    for (float* p : {buffer[0], buffer[1], sum}) CUDA(cudaFreeAsync(p, work));
    CUDA(cudaDeviceSynchronize());
    CUDA(cudaFreeHost(in));
    CUDA(cudaFreeHost(out));
    for (cudaStream_t s : {copy, work, blocking}) CUDA(cudaStreamDestroy(s));
    for (cudaEvent_t e : {arrived[0], arrived[1], used[0], used[1], begin, end}) CUDA(cudaEventDestroy(e));
    std::puts("ok");
}
