// A bulk copy goes beyond the end of an array, of shared memory, or of the tensor's memory. Its tensor map is none. Its
// box is larger than shared memory.
// finding: out of bounds
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
// cases: from, to, shared, map, box, tensor
#include "../hopper.h"

__global__ void copy(float* out, const float* in, uint32_t bytes, int from, int to, int at) {
    __shared__ alignas(128) float tile[64];
    __shared__ uint64_t full;
    if (threadIdx.x) return;
    init_barrier(&full, 1);
    fence_async();
    arrive_expecting(&full, bytes);
    load_bulk(tile + at, in + from, bytes, &full);  // <- from, shared
    wait(&full, 0);
    store_bulk(out + to, tile, bytes);  // <- to
    commit_bulk();
    wait_bulk();
}

__global__ void load(const __grid_constant__ CUtensorMap map) {
    __shared__ alignas(128) bf16 tile[4 * 64];
    __shared__ uint64_t full;
    if (threadIdx.x) return;
    init_barrier(&full, 1);
    fence_async();
    arrive_expecting(&full, sizeof tile);
    load_tile(tile, map, 0, 5, &full);  // <- map, box, tensor
    wait(&full, 0);
}

int main(int argc, char** argv) {
    const std::string which = argc > 2 ? "" : argv[1];
    Device<float> in(whole_numbers(64)), out(64);
    Device<bf16> matrix(std::vector<bf16>(8 * 64));
    CUtensorMap map = tensor_map(matrix, which == "tensor" ? 9 : 8, 64, which == "box" ? 256 : 4, 64);
    if (which == "map") map.opaque[0] = 0;
    if (std::string("from to shared").find(argv[1]) != std::string::npos)
        copy<<<1, 32>>>(out, in, 256, which == "from" ? 4 : 0, which == "to" ? 4 : 0, which == "shared" ? 32 : 0);
    else load<<<1, 32>>>(map);
    CUDA(cudaDeviceSynchronize());
}
