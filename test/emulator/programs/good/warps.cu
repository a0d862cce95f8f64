// warps.cu - votes, matches, shuffles, divergence, recursion, lane-wise locks
#include "../check.h"

__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

__global__ void primitives(int* out) {
    const int lane = threadIdx.x;
    int* o         = out + lane * 12;
    o[0]           = __ballot_sync(~0u, lane % 3 == 0);
    o[1]           = __any_sync(~0u, lane == 40) * 2 + __all_sync(~0u, lane < 32);
    o[2]           = __match_any_sync(~0u, lane / 5);
    o[3]           = __reduce_add_sync(~0u, lane);
    o[4]           = __reduce_max_sync(0xffu << (lane / 8 * 8), lane);
    o[5]           = __shfl_xor_sync(~0u, lane, 5);
    o[6]           = __shfl_sync(~0u, lane, lane + 3, 8);
    o[7]           = fibonacci(lane % 10);
    if (lane % 2) o[8] = __popc(__activemask());
    else o[8] = -__popc(__ballot_sync(0x55555555, lane > 7));
    int steps = 0;  // the Collatz sequence: each lane leaves the loop at another time
    for (int x = lane + 1; x != 1; x = x % 2 ? 3 * x + 1 : x / 2) steps++;
    o[9]  = steps;
    o[10] = __shfl_up_sync(~0u, lane, 4);
    o[11] = __brev(lane) >> 27;
}

__device__ int locked, total;
__global__ void lock() {  // each lane takes the lock in turn, which needs independent thread scheduling
    for (bool done = false; !done;) {
        if (atomicCAS(&locked, 0, 1) == 0) {
            __threadfence();
            total = total + threadIdx.x;
            __threadfence();
            atomicExch(&locked, 0);
            done = true;
        }
    }
}

int main() {
    Device<int> out(32 * 12);
    primitives<<<1, 32>>>(out);
    CUDA(cudaGetLastError());
    const auto y    = out.host();
    const int fib[] = {0, 1, 1, 2, 3, 5, 8, 13, 21, 34};
    for (int lane = 0; lane < 32; lane++) {
        const int* o   = &y[lane * 12];
        unsigned match = 0;
        for (int l = 0; l < 32; l++) match |= unsigned(l / 5 == lane / 5) << l;
        int steps = 0, reversed = 0;
        for (int x = lane + 1; x != 1; x = x % 2 ? 3 * x + 1 : x / 2) steps++;
        for (int b = 0; b < 5; b++) reversed |= (lane >> b & 1) << (4 - b);
        EXPECT(unsigned(o[0]) == 0x49249249u);
        EXPECT(o[1] == 1 && unsigned(o[2]) == match && o[3] == 496 && o[4] == lane / 8 * 8 + 7);
        EXPECT(o[5] == (lane ^ 5) && o[6] == lane / 8 * 8 + (lane + 3) % 8 && o[7] == fib[lane % 10]);
        EXPECT(lane % 2 ? o[8] > 0 && o[8] <= 32 : o[8] == -12);
        EXPECT(o[9] == steps && o[10] == (lane < 4 ? lane : lane - 4) && o[11] == reversed);
    }
    lock<<<1, 32>>>();
    int sum = 0;
    CUDA(cudaMemcpyFromSymbol(&sum, total, 4));
    EXPECT(sum == 496);
    std::puts("ok");
}
