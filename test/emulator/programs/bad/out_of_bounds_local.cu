// A thread's own array has eight elements, but the loop writes n.
// finding: out of bounds
#include "../check.h"

__global__ void reverse(int* out, const int* in, int n) {
    int own[8];
    for (int i = 0; i < n; i++) own[i] = in[(i * 5 + threadIdx.x) % 8];  // <- block 0, thread 0
    int sum = 0;
    for (int i = 0; i < n; i++) sum += own[in[i % 8] % 8] * i;
    out[threadIdx.x] = sum;
}

int main(int argc, char**) {
    Device<int> in(std::vector<int>{3, 1, 4, 1, 5, 9, 2, 6}), out(32);
    reverse<<<1, 32>>>(out, in, argc > 1 ? 8 : 9);
    CUDA(cudaDeviceSynchronize());
}
