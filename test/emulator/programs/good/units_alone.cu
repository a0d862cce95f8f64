// A program of one unit is built with -rdc=true for sm_80, which puts its PTX into another place of the binary.
// libraries: -rdc=true -code=sm_80,compute_80
#include "../check.h"

__constant__ int step = 3;
__device__ int at(int i) { return i * step; }
__global__ void fill(int* p) { p[threadIdx.x] = at(threadIdx.x); }

int main() {
    Device<int> p(32);
    fill<<<1, 32>>>(p);
    CUDA(cudaDeviceSynchronize());
    for (int i = 0; i < 32; i++) EXPECT(p.host()[i] == 3 * i);
    std::puts("ok");
}
