// Inline assembly reads beyond the end of a parameter, which gives the next one.
// finding: out of bounds
#include "../check.h"

extern "C" __global__ void take(int* out, int a, int b, bool fixed) {
    int x;
    if (fixed) asm volatile("ld.param.u32 %0, [take_param_1];" : "=r"(x));
    else asm volatile("ld.param.u32 %0, [take_param_1+4];" : "=r"(x));  // <-
    *out = x;
}

int main(int argc, char**) {
    Device<int> out(1);
    take<<<1, 1>>>(out, 1, 2, argc > 1);
    CUDA(cudaDeviceSynchronize());
    EXPECT(out.host()[0] == 1);
}
