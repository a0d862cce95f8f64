// transpose.cu - naive, tiled with bank conflicts, tiled with a padded row: the same result, three memory patterns
#include "../check.h"

constexpr int tile = 32;

__global__ void naive(float* out, const float* in, int rows, int cols) {
    const int c = blockIdx.x * tile + threadIdx.x, r = blockIdx.y * tile + threadIdx.y;
    if (r < rows && c < cols) out[c * rows + r] = in[r * cols + c];
}

template <int padding> __global__ void tiled(float* out, const float* in, int rows, int cols) {
    __shared__ float part[tile][tile + padding];
    int c = blockIdx.x * tile + threadIdx.x, r = blockIdx.y * tile + threadIdx.y;
    for (int j = 0; j < tile; j += 8)
        if (r + j < rows && c < cols) part[threadIdx.y + j][threadIdx.x] = in[(r + j) * cols + c];
    __syncthreads();
    c = blockIdx.y * tile + threadIdx.x, r = blockIdx.x * tile + threadIdx.y;
    for (int j = 0; j < tile; j += 8)
        if (r + j < cols && c < rows) out[(r + j) * rows + c] = part[threadIdx.x][threadIdx.y + j];
}

int main() {
    const int rows = 131, cols = 200;
    const auto x = whole_numbers(rows * cols);
    Device<float> in(x);
    const dim3 grid((cols + tile - 1) / tile, (rows + tile - 1) / tile);
    for (int kind = 0; kind < 3; kind++) {
        Device<float> out(rows * cols);
        if (kind == 0) naive<<<grid, dim3(tile, tile)>>>(out, in, rows, cols);
        if (kind == 1) tiled<0><<<grid, dim3(tile, 8)>>>(out, in, rows, cols);
        if (kind == 2) tiled<1><<<grid, dim3(tile, 8)>>>(out, in, rows, cols);
        CUDA(cudaGetLastError());
        const auto y = out.host();
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < cols; c++) EXPECT(y[c * rows + r] == x[r * cols + c]);
    }
    std::puts("ok");
}
