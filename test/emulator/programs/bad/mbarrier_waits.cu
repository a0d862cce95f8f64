// A phase of an mbarrier never ends: it expects more bytes than come, more arrivals than come, or the wait is for the
// parity of the phase after.
// finding: deadlock
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: bytes, arrivals, parity
#include "../hopper.h"

__global__ void load(float* out, const float* in, uint32_t expected, int arrivals, int parity) {
    __shared__ alignas(16) float tile[64];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        init_barrier(&full, arrivals);
        fence_async();
        arrive_expecting(&full, expected);
        load_bulk(tile, in, sizeof tile, &full);
    }
    __syncthreads();
    wait(&full, 0);                   // <- bytes, arrivals
    if (parity) wait(&full, parity);  // <- parity
    out[threadIdx.x] = tile[threadIdx.x];
}

int main(int argc, char** argv) {
    const std::string which = argc > 2 ? "" : argv[1];
    Device<float> in(whole_numbers(64)), out(64);
    load<<<1, 64>>>(out, in, which == "bytes" ? 512 : 256, which == "arrivals" ? 2 : 1, which == "parity");
    CUDA(cudaDeviceSynchronize());
}
