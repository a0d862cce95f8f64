// Memory leaks are reported when the program ends and its static objects are gone: after infos that name call sites,
// with work that is still queued, and for pinned memory.
// finding: leak
// check: all
// cases: infos, queued, pinned
#include "../check.h"

template <int N> __global__ void same(float* p) { p[N] = 1.0f; }
template <int N> void launch(bool fixed) {
    float* p;
    CUDA(cudaMalloc(&p, 256));
    same<N><<<4, 32>>>(p);
    CUDA(cudaDeviceSynchronize());
    if (fixed) CUDA(cudaFree(p));
}

int main(int argc, char** argv) {
    const std::string which = argv[1];
    const bool fixed        = argc > 2;
    float *p, *q;
    CUDA(cudaMalloc(&p, 256));
    if (which == "infos") launch<1>(fixed), launch<2>(fixed), launch<3>(fixed), launch<4>(fixed);
    if (which == "queued") same<5><<<4, 32>>>(p);
    if (which == "pinned") CUDA(cudaMallocHost(&q, 256));
    if (which == "pinned" && fixed) CUDA(cudaFreeHost(q));
    if (fixed) CUDA(cudaFree(p));
}
