// What runs on device 1 uses memory of device 0, without peer access: a kernel, or a call of cublas.
// finding: out of bounds
// options: --devices 2
// libraries: -lcublas
// cases: kernel, library
#include <cublas_v2.h>

#include "../check.h"

__global__ void increment(float* x) { x[threadIdx.x] += 1; }  // <- kernel

int main(int argc, char** argv) {
    CUDA(cudaSetDevice(0));
    Device<float> there(std::vector<float>(32, 1.f));
    CUDA(cudaSetDevice(1));
    Device<float> here(std::vector<float>(32, 1.f));
    float* x = argc > 2 ? here : there;
    if (argv[1][0] == 'k') {
        increment<<<1, 32>>>(x);
    } else {
        const float two = 2;
        cublasHandle_t handle;
        EXPECT(!cublasCreate(&handle));
        EXPECT(!cublasSscal(handle, 32, &two, x, 1));  // <- library
        EXPECT(!cublasDestroy(handle));
    }
    CUDA(cudaDeviceSynchronize());
    EXPECT(here.host()[31] == 2);
}
