// Half of the lanes do not come to an instruction for which the rest waits. The member mask of a shuffle names all
// lanes, and half of them wait at a barrier. mma, ldmatrix and the like need the whole warp, and half of it ends.
// finding: absent lane
// cases: shuffle, mma, ldmatrix, movmatrix, load, wmma
#include <mma.h>

#include "../check.h"

using namespace nvcuda;

__global__ void pairs(int* x, const half* matrix, const char* which, bool fixed) {
    __shared__ alignas(16) int rows[32];
    const auto is  = [=](const char* word) { return which[0] == word[0] && which[1] == word[1]; };
    const int lane = threadIdx.x;
    const auto row = unsigned(__cvta_generic_to_shared(&rows[lane % 8 * 4]));
    int y          = x[lane];
    rows[lane]     = y;
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> a;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> b;
    wmma::fragment<wmma::accumulator, 16, 16, 16, half> c;
    wmma::load_matrix_sync(a, matrix, 16);
    wmma::load_matrix_sync(b, matrix, 16);
    wmma::fill_fragment(c, half(0));
    __syncthreads();
    if (is("sh") && !fixed && lane >= 16) __syncthreads();
    if (fixed || lane < 16) {
        unsigned even = 0, odd = 0;
        if (is("sh")) y += __shfl_xor_sync(~0u, y, 1);  // <- shuffle
        if (is("mm"))
            asm volatile("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %2}, {%2}, {%2, %2};"
                         : "=r"(even), "=r"(odd)
                         : "r"(0));  // <- mma
        if (is("ld"))
            asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                         : "=r"(even)
                         : "r"(row));  // <- ldmatrix
        if (is("mo"))
            asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(even) : "r"(y));  // <- movmatrix
        if (is("lo")) wmma::load_matrix_sync(a, matrix, 16);                                      // <- load
        if (is("wm")) wmma::mma_sync(c, a, b, c);                                                 // <- wmma
        y += int(even + odd) + int(float(a.x[0])) + int(float(c.x[0]));
    }
    x[lane] = y;
}

int main(int argc, char** argv) {
    Device<int> x(std::vector<int>(32, 3));
    Device<half> matrix(std::vector<half>(256, half(1)));
    Device<char> which(std::vector<char>(argv[1], argv[1] + 2));
    pairs<<<1, 32>>>(x, matrix, which, argc > 2);
    CUDA(cudaDeviceSynchronize());
}
