// NVTX ranges mark steps of training and, inside of them, their parts. --profile has a table for each step.
#include <nvtx3/nvToolsExt.h>

#include <string>

#include "../check.h"

__global__ void add(int* x, int n) { x[threadIdx.x] += n; }

int main() {
    Device<int> x(std::vector<int>(32, 0));
    for (int step = 1; step <= 3; step++) {
        nvtxRangePushA(("step " + std::to_string(step)).c_str());
        for (int k = 0; k < step; k++) {
            nvtxRangePushA("backward");
            add<<<1, 32>>>(x, 1);
            nvtxRangePop();
        }
        CUDA(cudaDeviceSynchronize());
        nvtxRangePop();
    }
    nvtxRangePushA("evaluation");
    add<<<1, 32>>>(x, 1);
    nvtxRangePop();
    for (const int v : x.host()) EXPECT(v == 7);
    std::puts("ok");
}
