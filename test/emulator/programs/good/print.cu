// print.cu - printf from a kernel: every conversion, a string argument, widths, and what it returns
#include "../check.h"

__global__ void hello(const char* who, float x) {
    if (threadIdx.x == 3) printf("%s %d %u %lld %5.2f %c %% %x %s\n", "from", -7, 42u, 1ll << 40, x, 'c', 255, who);
    if (threadIdx.x == 3) printf("plain\n");
}
__global__ void widths(int* returned) {
    returned[0] = printf("[%5s][%-4s][%.2s]\n", "ab", "cd", "hello");
    returned[1] = printf("[%*d] [%hd]\n", 5, 7, 65533);
    returned[2] = printf("%-600s\n", "wide");
    returned[3] = printf("100%%\n");
}
__device__ char name[] = "device";

int main() {
    char* address;
    CUDA(cudaGetSymbolAddress((void**)&address, name));
    hello<<<1, 32>>>(address, 3.14159f);
    Device<int> returned(4);
    widths<<<1, 1>>>(returned);
    const int want[] = {3, 3, 1, 0};
    for (int k = 0; k < 4; k++) EXPECT(returned.host()[size_t(k)] == want[k]);
    std::puts("ok");
}
