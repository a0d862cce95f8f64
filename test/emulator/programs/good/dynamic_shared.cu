// dynamic_shared.cu - more than 48 KiB of shared memory, which a program must ask for
#include "../check.h"

__global__ void reverse(int* data, int n) {
    extern __shared__ int copy[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) copy[i] = data[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) data[i] = copy[n - 1 - i];
}

// A declared alignment holds, though other variables come before the dynamic ones.
__global__ void aligned(int* misaligned) {
    extern __shared__ __align__(1024) int copy1024[];
    __shared__ int before[5];
    before[0]   = 0;
    *misaligned = before[0] + int(__cvta_generic_to_shared(copy1024) % 1024);
}

int main() {
    const int n = 20'000;
    std::vector<int> x(n);
    for (int i = 0; i < n; i++) x[i] = i * 3;
    Device<int> data(x);
    reverse<<<1, 512, n * sizeof(int)>>>(data, n);
    EXPECT(cudaGetLastError() == cudaErrorInvalidValue);
    CUDA(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, n * sizeof(int)));
    reverse<<<1, 512, n * sizeof(int)>>>(data, n);
    CUDA(cudaGetLastError());
    const auto y = data.host();
    for (int i = 0; i < n; i++) EXPECT(y[i] == x[n - 1 - i]);
    EXPECT(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, 1 << 30) ==
           cudaErrorInvalidValue);
    cudaGetLastError();
    aligned<<<1, 1, 4096>>>(data);
    EXPECT(data.host()[0] == 0);
    std::puts("ok");
}
