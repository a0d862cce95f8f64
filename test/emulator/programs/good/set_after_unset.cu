// A word of shared memory gets a value, then an uninitialised one, then a value again. The last one is read.
#include "../check.h"

__global__ void overwrite(int* out, int n) {
    __shared__ int words[32];
    int got;
    asm volatile(
        "{\n\t.reg .b32 unset;\n\t.reg .pred p;\n\t"
        "setp.gt.s32 p, %2, 100;\n\t"
        "@p mov.b32 unset, 3;\n\t"
        "st.shared.b32 [%1], 1;\n\t"
        "st.shared.b32 [%1], unset;\n\t"
        "st.shared.b32 [%1], 2;\n\t"
        "ld.shared.b32 %0, [%1];\n\t}"
        : "=r"(got)
        : "r"(unsigned(__cvta_generic_to_shared(words + threadIdx.x))), "r"(n)
        : "memory");
    out[threadIdx.x] = got;
}

int main() {
    Device<int> out(32);
    overwrite<<<1, 32>>>(out, 7);
    CUDA(cudaDeviceSynchronize());
    for (int x : out.host()) EXPECT(x == 2);
    std::puts("ok");
}
