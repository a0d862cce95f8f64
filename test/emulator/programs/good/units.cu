// Relocatable device code, as CMake's CUDA_SEPARABLE_COMPILATION makes it. The program uses functions, variables and
// constants of another unit, and both units have local names that are the same.
// libraries: -rdc=true test/emulator/programs/good/units/other.cu
#include "../check.h"

extern __device__ int counter;
extern __constant__ float factors[4];
extern __device__ float (*operation)(float);
__device__ float twice(float x);
void fill_factors();
int count();
float other_unit(float x);

static __device__ __noinline__ float own(float x) { return x + 1; }
static __device__ int calls;
__device__ int sum_of(int n) { return n < 2 ? n : n + sum_of(n - 1); }

__global__ void work(float* p) {
    const int i = threadIdx.x;
    if (p[i] < 0) std::printf("negative: %g\n", p[i]);
    p[i] = own(operation(twice(p[i]) * factors[i % 4])) + sum_of(i % 8);
    atomicAdd(&counter, 1), atomicAdd(&calls, 1);
}

int main() {
    std::vector<float> x(64);
    for (int i = 0; i < 64; i++) x[i] = i;
    Device<float> p(x);
    fill_factors();
    work<<<1, 64>>>(p);
    CUDA(cudaDeviceSynchronize());
    for (int i = 0; i < 64; i++) EXPECT(p.host()[i] == -2.0f * i * (i % 4 + 1) + 1 + (i % 8) * (i % 8 + 1) / 2);
    int n = 0;
    CUDA(cudaMemcpyFromSymbol(&n, calls, sizeof n));
    EXPECT(count() == 69 && n == 64 && other_unit(3) == 30);
    std::puts("ok");
}
