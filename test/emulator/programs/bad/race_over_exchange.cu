// Lanes read what other lanes wrote before the warp exchanged values. An exchange does not order accesses to memory.
// finding: shared-memory race
// check: all
// cases: shuffle, vote, match
#include "../check.h"

__global__ void mirror(unsigned* out, int how, bool fixed) {
    __shared__ unsigned s[32];
    s[threadIdx.x]   = threadIdx.x;
    const unsigned v = how == 0   ? __shfl_xor_sync(~0u, threadIdx.x, 1)
                       : how == 1 ? __ballot_sync(~0u, threadIdx.x & 1)
                                  : __match_any_sync(~0u, threadIdx.x / 2);
    if (fixed) __syncwarp();
    out[threadIdx.x] = v + s[31 - threadIdx.x];  // <-
}

int main(int argc, char** argv) {
    const std::string which = argv[1];
    Device<unsigned> out(32);
    mirror<<<1, 32>>>(out, which == "shuffle" ? 0 : which == "vote" ? 1 : 2, argc > 2);
    CUDA(cudaDeviceSynchronize());
}
