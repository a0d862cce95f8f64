// Lanes read a word, the warp exchanges values, and one lane writes the word. Only the exchange orders the accesses.
// info: order by an exchange alone
// check: all
// cases: shuffle, vote, match
#include "../check.h"

__global__ void count(unsigned* out, int how, bool fixed) {
    __shared__ unsigned s[32];
    s[threadIdx.x] = threadIdx.x;
    __syncwarp();
    unsigned v = s[0] + s[31 - threadIdx.x];
    if (how == 0)
        for (int o = 16; o; o /= 2) v += __shfl_xor_sync(~0u, v, o);
    else v = how == 1 ? __ballot_sync(~0u, v & 1) : __match_any_sync(~0u, v / 2);
    if (fixed) __syncwarp();
    if (threadIdx.x == 0) s[0] = v;  // <-
    __syncwarp();
    out[threadIdx.x] = s[0];
}

int main(int argc, char** argv) {
    const std::string which = argv[1];
    Device<unsigned> out(32);
    count<<<1, 32>>>(out, which == "shuffle" ? 0 : which == "vote" ? 1 : 2, argc > 2);
    CUDA(cudaDeviceSynchronize());
}
