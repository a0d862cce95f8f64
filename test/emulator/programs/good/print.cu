// print.cu - printf from a kernel: every conversion, and a string argument
#include "../check.h"

__global__ void hello(const char* who, float x) {
    if (threadIdx.x == 3) printf("%s %d %u %lld %5.2f %c %% %x %s\n", "from", -7, 42u, 1ll << 40, x, 'c', 255, who);
    if (threadIdx.x == 3) printf("plain\n");
}
__device__ char name[] = "device";

int main() {
    char* address;
    CUDA(cudaGetSymbolAddress((void**)&address, name));
    hello<<<1, 32>>>(address, 3.14159f);
    CUDA(cudaDeviceSynchronize());
    std::puts("ok");
}
