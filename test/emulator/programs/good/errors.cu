// errors.cu - refused launches and calls, and a sticky error
#include <cstring>

#include "../check.h"

__global__ void nothing() {}
__global__ void __launch_bounds__(64) small() {}
__global__ void stop() { __trap(); }

int main() {
    nothing<<<1, 1025>>>();
    EXPECT(cudaPeekAtLastError() == cudaErrorInvalidConfiguration &&
           cudaGetLastError() == cudaErrorInvalidConfiguration);
    EXPECT(cudaGetLastError() == cudaSuccess);
    nothing<<<0, 32>>>();
    EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
    nothing<<<dim3(1, 65536), 32>>>();
    EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
    small<<<1, 128>>>();
    EXPECT(cudaGetLastError() != cudaSuccess);
    nothing<<<1, 32, 49153>>>();
    EXPECT(cudaGetLastError() == cudaErrorInvalidValue);
    int host[4];
    Device<int> device(4);
    EXPECT(cudaMemcpy(host, host + 2, 4, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    EXPECT(cudaSetDevice(99) == cudaErrorInvalidDevice);
    EXPECT(cudaStreamSynchronize((cudaStream_t)0x1234) == cudaErrorInvalidResourceHandle);
    int can = 1;
    CUDA(cudaDeviceCanAccessPeer(&can, 0, 0));
    EXPECT(can == 0);
    cudaGetLastError();
    EXPECT(!std::strcmp(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation"));
    EXPECT(!std::strcmp(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory"));
    nothing<<<1, 32>>>();
    CUDA(cudaDeviceSynchronize());

    cudaDeviceProp p;
    CUDA(cudaGetDeviceProperties(&p, 0));
    EXPECT(p.warpSize == 32 && p.major >= 8 && p.multiProcessorCount > 0 && p.totalGlobalMem > 0);
    cudaFuncAttributes attributes;
    CUDA(cudaFuncGetAttributes(&attributes, small));
    EXPECT(attributes.maxThreadsPerBlock == 64 && attributes.numRegs > 0);

    stop<<<1, 32>>>();
    // A callback learns of the error, unless the error has come so early that the callback is not queued any more.
    cudaError_t told    = cudaSuccess;
    const auto callback = [](cudaStream_t, cudaError_t error, void* to) { *static_cast<cudaError_t*>(to) = error; };
    const cudaError_t queued = cudaStreamAddCallback(0, callback, &told, 0);
    EXPECT(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
    EXPECT(told == cudaErrorLaunchFailure || queued == cudaErrorLaunchFailure);
    EXPECT(cudaGetLastError() == cudaErrorLaunchFailure);
    EXPECT(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
    EXPECT(cudaMemset(device, 0, 4) == cudaErrorLaunchFailure);
    std::puts("ok");
    std::fflush(stdout);
    std::_Exit(0);
}
