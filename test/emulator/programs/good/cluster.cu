// cluster.cu - clusters of blocks: each block sums a part of the numbers, and reads the other blocks' sums from their
// shared memory. The size of a cluster is chosen at the launch, or when the kernel is compiled.
// arch: -arch=compute_90
#include <cooperative_groups.h>

#include "../check.h"

namespace cg = cooperative_groups;

constexpr int kThreads = 64;

struct Place {
    unsigned cluster, clusters, rank, blocks, x, y, across, named;
    bool ranks;
};

// Adds in[0 … n) to out[cluster], where n is the same for each block. Every block of the cluster finds the same sum.
__global__ void sum(float* out, const float* in, int n, Place* places) {
    __shared__ float parts[kThreads], whole;
    __shared__ int left;
    const auto cluster = cg::this_cluster();
    const int block    = blockIdx.y * gridDim.x + blockIdx.x;
    float mine         = 0;
    for (int k = threadIdx.x; k < n; k += kThreads) mine += in[block * n + k];
    parts[threadIdx.x] = mine;
    if (threadIdx.x == 0) left = 0;
    __syncthreads();
    if (threadIdx.x == 0) {
        whole = 0;
        for (int k = 0; k < kThreads; k++) whole += parts[k];
    }
    cluster.sync();
    float all = 0;
    for (unsigned r = 0; r < cluster.num_blocks(); r++) all += *cluster.map_shared_rank(&whole, r);
    atomicAdd(cluster.map_shared_rank(&left, 0), 1);  // by all threads of the cluster
    cluster.sync();                                   // the other blocks' shared memory has been read, and they may end
    if (threadIdx.x == 0) out[block] = all;
    if (cluster.block_rank() == 0 && threadIdx.x == 0 && left != int(cluster.num_threads())) out[block] = -1;
    unsigned id, ids, named = 0;
    asm("mov.u32 %0, %%clusterid.x;" : "=r"(id));
    asm("mov.u32 %0, %%nclusterid.x;" : "=r"(ids));
    asm("{\n.reg .pred p;\nmov.pred p, %%is_explicit_cluster;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(named));
    const auto index = cluster.block_index();
    const bool ranks = cluster.query_shared_rank(cluster.map_shared_rank(&whole, cluster.num_blocks() - 1)) ==
                           cluster.num_blocks() - 1 &&
                       cluster.query_shared_rank(&whole) == cluster.block_rank();
    if (threadIdx.x == 0)
        places[block] = {id,      ids,     cluster.block_rank(),   cluster.num_blocks(),
                         index.x, index.y, cluster.dim_blocks().x, named,
                         ranks};
}

// The blocks of a cluster write to global memory, and one thread speaks for all of them: the cluster that is the last
// one adds what all clusters have written.
__global__ void __cluster_dims__(2, 1, 1) total(int* out, int* parts, int* done) {
    __shared__ int last;
    const auto cluster                           = cg::this_cluster();
    parts[blockIdx.x * blockDim.x + threadIdx.x] = int(blockIdx.x + threadIdx.x);
    cluster.sync();
    if (cluster.block_rank() == 0 && threadIdx.x == 0) {
        __threadfence();
        const int before = atomicAdd(done, 1);
        __threadfence();
        for (unsigned r = 0; r < 2; r++) *cluster.map_shared_rank(&last, r) = before == int(gridDim.x / 2) - 1;
    }
    cluster.sync();
    if (!last) return;
    for (unsigned k = cluster.thread_rank(); k < gridDim.x * blockDim.x; k += cluster.num_threads())
        atomicAdd(out, parts[k]);
}

// Passes a number from block to block around the cluster. Arrival and wait are apart, and in between each thread only
// uses its own block's memory.
__global__ void __cluster_dims__(4, 1, 1) pass_on(int* out) {
    __shared__ int box[2];
    const auto cluster  = cg::this_cluster();
    const unsigned next = (cluster.block_rank() + 1) % 4;
    int held            = int(cluster.block_rank());
    cluster.sync();  // all blocks have begun
    for (int step = 0; step < 3; step++) {
        if (threadIdx.x == 0) *cluster.map_shared_rank(&box[step % 2], next) = held;
        auto token = cluster.barrier_arrive();
        __syncthreads();
        cluster.barrier_wait(std::move(token));
        held = box[step % 2];
    }
    if (threadIdx.x == 0) out[blockIdx.x] = held;
}

cudaError_t launch(dim3 grid, dim3 cluster, float* out, const float* in, int n, Place* places,
                   cudaStream_t stream = 0) {
    cudaLaunchAttribute attribute;
    attribute.id             = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {cluster.x, cluster.y, cluster.z};
    cudaLaunchConfig_t config{};
    config.gridDim = grid, config.blockDim = kThreads, config.stream = stream;
    config.attrs = &attribute, config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, sum, out, in, n, places);
}

int main() {
    const int n = 100, blocks = 48;
    const auto numbers = whole_numbers(n * blocks);
    Device<float> in(numbers), out(blocks);
    Device<Place> places(blocks);
    cudaDeviceProp properties;
    CUDA(cudaGetDeviceProperties(&properties, 0));
    EXPECT(properties.clusterLaunch);
    CUDA(cudaFuncSetAttribute(sum, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));

    const auto check = [&](dim3 grid, dim3 cluster) {
        const auto got   = out.host();
        const auto where = places.host();
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                const unsigned x0 = x / cluster.x * cluster.x, y0 = y / cluster.y * cluster.y;
                float all = 0;
                for (unsigned v = y0; v < y0 + cluster.y; v++)
                    for (unsigned u = x0; u < x0 + cluster.x; u++)
                        for (int k = 0; k < n; k++) all += numbers[(v * grid.x + u) * n + k];
                const Place& p = where[y * grid.x + x];
                EXPECT(got[y * grid.x + x] == all);
                EXPECT(p.cluster == x / cluster.x && p.clusters == grid.x / cluster.x);
                EXPECT(p.x == x - x0 && p.y == y - y0 && p.rank == p.y * cluster.x + p.x);
                EXPECT(p.blocks == cluster.x * cluster.y && p.across == cluster.x && p.ranks);
                EXPECT(p.named == 1);
            }
    };
    for (const dim3 cluster : {dim3(2), dim3(1, 2), dim3(4), dim3(2, 2), dim3(8), dim3(4, 2)}) {
        CUDA(launch(dim3(24, 2), cluster, out, in, n, places));
        CUDA(cudaDeviceSynchronize());
        check(dim3(24, 2), cluster);
    }
    if (properties.multiProcessorCount >= 16) {
        CUDA(launch(48, 16, out, in, n, places));
        CUDA(cudaDeviceSynchronize());
        check(48, 16);
    }

    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA(cudaStreamCreate(&stream));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    CUDA(launch(dim3(24, 2), dim3(2, 2), out, in, n, places, stream));
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaMemset(out, 0, blocks * sizeof(float)));
    CUDA(cudaGraphLaunch(exec, stream));
    CUDA(cudaStreamSynchronize(stream));
    check(dim3(24, 2), dim3(2, 2));

    Device<int> parts(blocks * kThreads), result(std::vector<int>(2));
    total<<<blocks, kThreads>>>(result, parts, result + 1);
    CUDA(cudaDeviceSynchronize());
    EXPECT(result.host()[0] == kThreads * blocks * (blocks - 1 + kThreads - 1) / 2);

    Device<int> passed(8);
    pass_on<<<8, kThreads>>>(passed);
    CUDA(cudaDeviceSynchronize());
    for (int k = 0; k < 8; k++) EXPECT(passed.host()[k] == (k + 1) % 4);

    EXPECT(launch(dim3(25, 2), 2, out, in, n, places) == cudaErrorInvalidClusterSize);
    EXPECT(launch(dim3(24, 2), dim3(1, 3), out, in, n, places) == cudaErrorInvalidClusterSize);
    CUDA(cudaFuncSetAttribute(sum, cudaFuncAttributeNonPortableClusterSizeAllowed, 0));
    EXPECT(launch(48, 16, out, in, n, places) == cudaErrorInvalidClusterSize);
    pass_on<<<6, kThreads>>>(passed);
    EXPECT(cudaGetLastError() == cudaErrorInvalidClusterSize);

    cudaLaunchAttribute attribute;
    attribute.id             = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {2, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = 48, config.blockDim = kThreads, config.attrs = &attribute, config.numAttrs = 1;
    int size, clusters;
    CUDA(cudaOccupancyMaxPotentialClusterSize(&size, sum, &config));
    EXPECT(size == 8);
    CUDA(cudaOccupancyMaxActiveClusters(&clusters, sum, &config));
    EXPECT(clusters >= properties.multiProcessorCount / 2);
    std::puts("ok");
}
