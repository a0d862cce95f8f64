// Half of the lanes take the other branch, while the rest wait for the whole warp. The member mask of a shuffle names
// all lanes, and mma and ldmatrix are always of the whole warp.
// finding: absent lane
// cases: shuffle, mma, ldmatrix
#include "../check.h"

__global__ void pairs(int* x, const char which, bool fixed) {
    __shared__ alignas(16) int rows[32];
    const int lane = threadIdx.x;
    const auto row = unsigned(__cvta_generic_to_shared(&rows[lane % 8 * 4]));
    int y          = x[lane];
    rows[lane]     = y;
    __syncthreads();
    if (fixed || lane < 16) {
        if (which == 's') y += __shfl_xor_sync(~0u, y, 1);  // <- shuffle
        unsigned even = 0, odd = 0;
        if (which == 'm')
            asm volatile("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %2}, {%2}, {%2, %2};"
                         : "=r"(even), "=r"(odd)
                         : "r"(0));  // <- mma
        if (which == 'l')
            asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                         : "=r"(even)
                         : "r"(row));  // <- ldmatrix
        y += int(even + odd);
    }
    x[lane] = y;
}

int main(int argc, char** argv) {
    Device<int> x(std::vector<int>(32, 3));
    pairs<<<1, 32>>>(x, argv[1][0], argc > 2);
    CUDA(cudaDeviceSynchronize());
}
