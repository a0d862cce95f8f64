// A product with a vector takes the upper rows of a larger matrix, whose last column was not allocated.
// finding: out of bounds
// libraries: -lcublas
#include <cublas_v2.h>

#include "../check.h"

int main(int argc, char**) {
    const int rows = 100, columns = 8, ld = 128;
    Device<float> a(std::vector<float>(size_t(ld) * (argc > 1 ? columns : columns - 1), 1.f));
    Device<float> x(std::vector<float>(columns, 1.f)), y(rows);
    const float one = 1, zero = 0;
    cublasHandle_t handle;
    EXPECT(!cublasCreate(&handle));
    cublasSgemv(handle, CUBLAS_OP_N, rows, columns, &one, a, ld, x, 1, &zero, y, 1);  // <-
    CUDA(cudaDeviceSynchronize());
    EXPECT(y.host()[99] == columns);
    EXPECT(!cublasDestroy(handle));
}
