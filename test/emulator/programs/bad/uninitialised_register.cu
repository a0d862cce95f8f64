// A register is declared but never set.
// finding: uninitialised
// check: all
#include "../check.h"

__global__ void plus(float* x, bool fixed) {
    float y;
    if (fixed) {
        asm("{ .reg .f32 t; mov.f32 t, 0f3f800000; add.f32 %0, %1, t; }" : "=f"(y) : "f"(x[threadIdx.x]));
    } else {
        asm("{ .reg .f32 t; add.f32 %0, %1, t; }" : "=f"(y) : "f"(x[threadIdx.x]));  // <- block 0, thread 0
    }
    x[threadIdx.x] = y;
}

int main(int argc, char**) {
    Device<float> x(whole_numbers(32));
    plus<<<1, 32>>>(x, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
