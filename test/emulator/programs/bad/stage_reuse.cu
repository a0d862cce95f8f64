// A producer refills a stage of the pipeline before the consumers have said that they are done with it.
// finding: shared-memory race
// check: all
// arch: -gencode arch=compute_90a,code=[compute_90a,sm_90a]
#include "../hopper.h"

__global__ void sum(float* out, const float* in, int tiles, bool fixed) {
    __shared__ alignas(16) float tile[64];
    __shared__ uint64_t full, empty;
    if (threadIdx.x == 0) {
        init_barrier(&full, 1);
        init_barrier(&empty, 64);
        fence_async();
    }
    __syncthreads();
    if (threadIdx.x == 64) {
        for (int k = 0; k < tiles; k++) {
            wait(fixed ? &empty : &full, k % 2 ^ 1);
            arrive_expecting(&full, sizeof tile);
            load_bulk(tile, in + 64 * k, sizeof tile, &full);  // <-
        }
    } else if (threadIdx.x < 64) {
        float sum = 0;
        for (int k = 0; k < tiles; k++) {
            wait(&full, k % 2);
            sum += tile[63 - threadIdx.x];
            arrive(&empty);
        }
        out[threadIdx.x] = sum;
    }
}

int main(int argc, char**) {
    Device<float> in(whole_numbers(64 * 8)), out(64);
    sum<<<1, 96>>>(out, in, 8, argc > 1);
    CUDA(cudaDeviceSynchronize());
}
