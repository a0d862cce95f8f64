// One or several lanes read a word of shared memory, and after a __syncwarp one lane writes it. That is no race.
#include "../check.h"

__global__ void exchange(int* out) {
    __shared__ int words[64];
    const int t = threadIdx.x, base = t / 32 * 32, lane = t % 32;
    int s    = 0;
    words[t] = lane;
    __syncwarp();
    for (int round = 0; round < 4; round++) {
        s += words[base + lane * 7 % 5];
        __syncwarp();
        if (lane == 11 + round) words[base + 3] += 1;
        __syncwarp();
    }
    out[t] = s;
}

int main() {
    Device<int> out(64);
    exchange<<<1, 64>>>(out);
    CUDA(cudaDeviceSynchronize());
    const std::vector<int> got = out.host();
    for (int t = 0; t < 64; t++) {
        const int word = t % 32 * 7 % 5;
        EXPECT(got[t] == 4 * word + (word == 3 ? 0 + 1 + 2 + 3 : 0));
    }
    std::puts("ok");
}
