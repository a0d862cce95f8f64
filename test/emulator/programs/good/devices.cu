// devices.cu - two devices: which calls take a stream, an event or memory of another device than the current one
// options: --devices 2
#include "../check.h"

__global__ void set(int* x, int value) { *x = value; }

__device__ int counter = 5;
__constant__ int summand;
__managed__ int shared_with_all = 1;

__global__ void count() { counter += summand, shared_with_all *= 2; }

// Each device has its own variables, and all share the managed ones.
void variables() {
    for (int device = 0; device < 2; device++) {
        CUDA(cudaSetDevice(device));
        const int value = 10 * device + 1;
        CUDA(cudaMemcpyToSymbol(summand, &value, sizeof value));
        count<<<1, 1>>>();
        CUDA(cudaGetLastError());
        if (device == 0) CUDA(cudaDeviceSynchronize());  // before the other device uses the managed variable
    }
    for (int device = 0; device < 2; device++) {
        CUDA(cudaSetDevice(device));
        int counted;
        CUDA(cudaMemcpyFromSymbol(&counted, counter, sizeof counted));
        EXPECT(counted == 5 + 10 * device + 1);
    }
    CUDA(cudaDeviceSynchronize());
    EXPECT(shared_with_all == 4);
}

__global__ void fill(int n) {
    extern __shared__ int numbers[];
    numbers[n - 1] = n;
}

// What a kernel is allowed on one device it is not yet allowed on another.
void attributes() {
    const int bytes = 60 << 10, n = bytes / int(sizeof(int));
    for (int device = 0; device < 2; device++) {
        CUDA(cudaSetDevice(device));
        fill<<<1, 1, bytes>>>(n);
        EXPECT(cudaGetLastError() == cudaErrorInvalidValue);
        CUDA(cudaFuncSetAttribute(fill, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
        fill<<<1, 1, bytes>>>(n);
        CUDA(cudaGetLastError());
        CUDA(cudaDeviceSynchronize());
    }
}

int main() {
    variables();
    attributes();
    cudaStream_t first;
    cudaEvent_t begin, end;
    CUDA(cudaSetDevice(0));
    CUDA(cudaStreamCreate(&first));
    CUDA(cudaEventCreate(&begin));
    Device<int> x(1);
    set<<<1, 1, 0, first>>>(x, 3);
    CUDA(cudaGetLastError());
    CUDA(cudaEventRecord(begin, first));

    CUDA(cudaSetDevice(1));
    CUDA(cudaEventCreate(&end));
    set<<<1, 1, 0, first>>>(x, 4);  // the stream belongs to device 0
    EXPECT(cudaGetLastError() == cudaErrorInvalidResourceHandle);
    EXPECT(cudaEventRecord(begin, 0) == cudaErrorInvalidResourceHandle);
    CUDA(cudaEventRecord(end, 0));
    CUDA(cudaStreamWaitEvent(0, begin, 0));
    CUDA(cudaEventSynchronize(begin));
    CUDA(cudaEventSynchronize(end));
    float ms;
    EXPECT(cudaEventElapsedTime(&ms, begin, end) == cudaErrorInvalidResourceHandle);
    CUDA(cudaMemsetAsync(x, 0, sizeof(int), first));  // copies and fills take streams of any device
    CUDA(cudaStreamSynchronize(first));
    EXPECT(x.host()[0] == 0);
    EXPECT(cudaMemcpyPeer(x, 2, x, 0, sizeof(int)) == cudaErrorInvalidDevice);
    EXPECT(cudaDeviceEnablePeerAccess(1, 0) == cudaErrorInvalidDevice);
    EXPECT(cudaDeviceEnablePeerAccess(0, 0) == cudaErrorPeerAccessUnsupported);

    // Each device has its own memory.
    size_t before, after, total;
    cudaPointerAttributes where;
    CUDA(cudaMemGetInfo(&before, &total));
    CUDA(cudaSetDevice(0));
    Device<char> large(1 << 20);
    CUDA(cudaSetDevice(1));
    CUDA(cudaMemGetInfo(&after, &total));
    EXPECT(after == before);
    CUDA(cudaPointerGetAttributes(&where, large));
    EXPECT(where.device == 0);
    Device<int> y(1);
    set<<<1, 1>>>(y, 7);
    CUDA(cudaMemcpyPeer(x, 0, y, 1, sizeof(int)));
    EXPECT(x.host()[0] == 7);
    CUDA(cudaStreamDestroy(first));
    CUDA(cudaEventDestroy(begin));
    CUDA(cudaEventDestroy(end));
    cudaGetLastError();
    std::puts("ok");
}
