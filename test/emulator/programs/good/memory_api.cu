// memory_api.cu - managed, pinned, pitched and pooled memory, 2-D copies, fills, attributes of pointers
#include <cstring>

#include "../check.h"

__global__ void increment(int* x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i]++;
}

__global__ void scatter(int* const* places) { *places[threadIdx.x] += threadIdx.x; }

int main() {
    int* managed;
    CUDA(cudaMallocManaged(&managed, 100 * 4));
    for (int i = 0; i < 100; i++) managed[i] = i;
    increment<<<1, 128>>>(managed, 100);
    CUDA(cudaDeviceSynchronize());
    for (int i = 0; i < 100; i++) EXPECT(managed[i] == i + 1);

    int* pinned;  // mapped: the kernel may use it directly
    CUDA(cudaHostAlloc(&pinned, 100 * 4, cudaHostAllocMapped));
    for (int i = 0; i < 100; i++) pinned[i] = 2 * i;
    int* mapped;
    CUDA(cudaHostGetDevicePointer(&mapped, pinned, 0));
    increment<<<1, 128>>>(mapped, 100);
    CUDA(cudaDeviceSynchronize());
    for (int i = 0; i < 100; i++) EXPECT(pinned[i] == 2 * i + 1);

    char* pitched;
    size_t pitch;
    CUDA(cudaMallocPitch(&pitched, &pitch, 37, 5));
    EXPECT(pitch >= 37 && pitch % 32 == 0);
    char image[5][40], back[5][64];
    for (int r = 0; r < 5; r++)
        for (int c = 0; c < 40; c++) image[r][c] = char(r * 40 + c);
    CUDA(cudaMemcpy2D(pitched, pitch, image, 40, 37, 5, cudaMemcpyHostToDevice));
    CUDA(cudaMemset2D(pitched + 10, pitch, 0x55, 3, 2));
    CUDA(cudaMemcpy2D(back, 64, pitched, pitch, 37, 5, cudaMemcpyDeviceToHost));
    for (int r = 0; r < 5; r++)
        for (int c = 0; c < 37; c++) EXPECT(back[r][c] == (r < 2 && c >= 10 && c < 13 ? 0x55 : char(r * 40 + c)));

    cudaMemPool_t pool;
    CUDA(cudaDeviceGetDefaultMemPool(&pool, 0));
    unsigned long long threshold = ~0ull;
    CUDA(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
    int* pooled;
    CUDA(cudaMallocAsync(&pooled, 400, 0));
    CUDA(cudaMemcpyAsync(pooled, managed, 400, cudaMemcpyDefault, 0));
    increment<<<1, 128>>>(pooled, 100);
    CUDA(cudaMemcpyAsync(pinned, pooled, 400, cudaMemcpyDefault, 0));
    CUDA(cudaFreeAsync(pooled, 0));
    CUDA(cudaStreamSynchronize(0));
    for (int i = 0; i < 100; i++) EXPECT(pinned[i] == i + 2);

    size_t before, total, after;
    CUDA(cudaMemGetInfo(&before, &total));
    void* large;
    CUDA(cudaMalloc(&large, 1 << 20));
    CUDA(cudaMemGetInfo(&after, &total));
    EXPECT(before - after >= 1 << 20 && total >= before);
    cudaPointerAttributes attributes;
    CUDA(cudaPointerGetAttributes(&attributes, large));
    EXPECT(attributes.type == cudaMemoryTypeDevice);
    CUDA(cudaPointerGetAttributes(&attributes, pinned));
    EXPECT(attributes.type == cudaMemoryTypeHost);
    CUDA(cudaPointerGetAttributes(&attributes, managed));
    EXPECT(attributes.type == cudaMemoryTypeManaged);
    CUDA(cudaPointerGetAttributes(&attributes, image));
    EXPECT(attributes.type == cudaMemoryTypeUnregistered);
    void* huge = &huge;
    EXPECT(cudaMalloc(&huge, total + 1) == cudaErrorMemoryAllocation);
    EXPECT(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess);
    std::vector<int> registered(1000, 5);
    CUDA(cudaHostRegister(registered.data(), 4000, cudaHostRegisterDefault));
    increment<<<4, 256>>>(registered.data(), 1000);
    CUDA(cudaDeviceSynchronize());
    EXPECT(registered[999] == 6);
    // The lanes of a warp read and write memory of the device and registered memory at once.
    std::vector<int*> places;
    for (int i = 0; i < 32; i++) places.push_back(i % 2 ? registered.data() + i : static_cast<int*>(large) + i);
    CUDA(cudaMemset(large, 0, 128));
    Device<int*> list(places);
    scatter<<<1, 32>>>(list);
    CUDA(cudaDeviceSynchronize());
    for (int i = 1; i < 32; i += 2) EXPECT(registered[i] == 6 + i);
    CUDA(cudaHostUnregister(registered.data()));
    CUDA(cudaFree(large));
    CUDA(cudaFree(managed));
    CUDA(cudaFree(pitched));
    CUDA(cudaFreeHost(pinned));
    std::puts("ok");
}
