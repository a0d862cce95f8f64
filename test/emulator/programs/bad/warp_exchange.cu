// Lanes read a word, the warp exchanges values, and one lane writes the word. Only the exchange orders the accesses.
// info: order by an exchange alone
// check: all
// cases: shuffle, vote, match, again
#include "../check.h"

__global__ void count(unsigned* out, int how, bool fixed) {
    __shared__ unsigned s[32];
    s[threadIdx.x] = threadIdx.x;
    __syncwarp();
    unsigned v = s[0] + s[31 - threadIdx.x];
    if (how == 0 || how == 3)
        for (int o = 16; o; o /= 2) v += __shfl_xor_sync(~0u, v, o);
    else v = how == 1 ? __ballot_sync(~0u, v & 1) : __match_any_sync(~0u, v / 2);
    if (fixed) __syncwarp();
    if (how == 3 && threadIdx.x == 0) {  // this lane reads the word once more, which says nothing of the others
        unsigned more;
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(more) : "r"(unsigned(__cvta_generic_to_shared(s))));
        v += more;
    }
    if (threadIdx.x == 0) s[0] = v;  // <-
    __syncwarp();
    out[threadIdx.x] = s[0];
}

int main(int argc, char** argv) {
    const std::string which = argv[1];
    Device<unsigned> out(32);
    count<<<1, 32>>>(out, which == "shuffle" ? 0 : which == "vote" ? 1 : which == "match" ? 2 : 3, argc > 2);
    CUDA(cudaDeviceSynchronize());
}
