// early_launch.cu - a chain of kernels in a graph: each begins early, loads its weights, and waits for those in front
// arch: -gencode arch=compute_90,code=[compute_90,sm_90]
#include "../dependent.h"

constexpr int kN = 256, kLayers = 5;

// No kernel of a round before the last one writes the number of the round, so that all of them may read it early. The
// last one waits before it writes it, and the others have ended then.
__global__ void layer(int* x, const int* w, const int* round) {
    launch_dependents();
    const int i = blockIdx.x * blockDim.x + threadIdx.x, weight = w[i] * (*round + 1);
    wait_for_grids();
    x[i] += weight;
}
__global__ void count(int* round) {
    wait_for_grids();
    if (blockIdx.x == 0 && threadIdx.x == 0) ++*round;
}
// One thread waits for all of its block, and the next kernel begins only after that.
__global__ void twice(int* x, const int* w) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, weight = w[i];
    if (threadIdx.x == 0) wait_for_grids();
    __syncthreads();
    launch_dependents();
    x[i] = 2 * x[i] + weight;
}

int main() {
    const std::vector<int> weights(kN, 3), zero(kN, 0);
    Device<int> x(zero), w(weights), rounds(std::vector<int>(1, 0));
    cudaStream_t s;
    CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CUDA(cudaDeviceSynchronize());
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    for (int l = 0; l < kLayers; l++) {
        launch_early(s, twice, x, w);
        launch_early(s, layer, x, w, rounds);
    }
    launch_early(s, count, rounds);
    CUDA(cudaStreamEndCapture(s, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    int want = 0;
    for (int round = 0; round < 3; round++) {
        CUDA(cudaGraphLaunch(exec, s));
        for (int l = 0; l < kLayers; l++) want = 2 * want + 3 + 3 * (round + 1);
    }
    CUDA(cudaStreamSynchronize(s));
    for (const int value : x.host()) EXPECT(value == want);
    EXPECT(rounds.host()[0] == 3);
    std::printf("ok\n");
}
