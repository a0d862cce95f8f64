// A kernel is launched with programmatic stream serialization, so it may begin before the kernel in front of it has
// ended. It reads what that kernel writes before it waits, or overwrites what that kernel reads. It lets the next
// kernel begin, which reads what the kernel before last writes. It ends without a wait, so that its end says nothing
// about the kernel in front of it.
// finding: race of an early launch
// check: all
// cases: read, overwrite, next, never, graph, async
// arch: -gencode arch=compute_90,code=[compute_90,sm_90]
#include <string>

#include "../dependent.h"

// out = in + 1. It waits at its beginning or, where `early` is set, at its end or never.
__global__ void copy(int* out, const int* in, bool early, bool waits) {
    launch_dependents();
    if (!early) wait_for_grids();
    const int i = blockIdx.x * blockDim.x + threadIdx.x, x = in[i];  // <- read, next, never, graph
    if (waits) wait_for_grids();
    out[i] = x + 1;  // <- overwrite
}

// The same with cp.async, which begins to read before it is waited for.
__global__ void copy_async(int* out, const int* in, bool early) {
    __shared__ int tile[64];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (!early) wait_for_grids();
    const auto to = uint32_t(__cvta_generic_to_shared(tile + threadIdx.x));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(in + i) : "memory");  // <- async
    wait_for_grids();
    asm volatile("cp.async.wait_all;" ::: "memory");
    out[i] = tile[threadIdx.x] + 1;
}

int main(int argc, char** argv) {
    const std::string which = argv[1];
    const bool wrong        = argc == 2;
    const int n             = 256;
    Device<int> a(n), b(n), c(n), d(n);
    CUDA(cudaMemset(a, 0, n * 4));
    CUDA(cudaMemset(c, 0, n * 4));
    cudaStream_t s;
    CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CUDA(cudaDeviceSynchronize());
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    if (which == "graph") CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    launch_early(s, copy, b, a, false, true);
    if (which == "read" || which == "graph") {
        launch_early(s, copy, c, b, wrong, true);
    } else if (which == "async") {
        launch_early(s, copy_async, c, b, wrong);
    } else if (which == "overwrite") {
        launch_early(s, copy, a, c, wrong, !wrong);
    } else if (which == "next") {  // the kernel before last still writes b
        launch_early(s, copy, c, a, false, true);
        launch_early(s, copy, d, b, wrong, true);
    } else if (which == "never") {
        launch_early(s, copy, d, c, wrong, !wrong);
        launch_early(s, copy, c, b, false, true);
    }
    if (which == "graph") {
        CUDA(cudaStreamEndCapture(s, &graph));
        CUDA(cudaGraphInstantiate(&exec, graph, 0));
        CUDA(cudaGraphLaunch(exec, s));
    }
    CUDA(cudaDeviceSynchronize());
}
