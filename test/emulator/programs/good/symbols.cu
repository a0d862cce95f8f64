// symbols.cu - variables on the device: constant, global with an initial value, managed, copied both ways
#include "../check.h"

__constant__ float coefficients[4] = {1, 2, 3, 4};
__device__ int counter             = 5;
__device__ float table[8];
__managed__ int shared_with_host = 11;

__global__ void evaluate(float* out, int n) {
    const int i = threadIdx.x;
    if (i < n) out[i] = coefficients[0] + i * (coefficients[1] + i * (coefficients[2] + i * coefficients[3]));
    if (i < 8) table[i] = float(i * i);
    if (i == 0) {
        counter += 3;
        shared_with_host *= 2;
    }
}

int main() {
    Device<float> out(10);
    evaluate<<<1, 32>>>(out, 10);
    auto y = out.host();
    for (int i = 0; i < 10; i++) EXPECT(y[i] == 1 + i * (2 + i * (3 + i * 4)));
    int count = 0;
    CUDA(cudaMemcpyFromSymbol(&count, counter, sizeof count));
    EXPECT(count == 8 && shared_with_host == 22);
    const float other[2] = {10, 20};
    CUDA(cudaMemcpyToSymbol(coefficients, other, sizeof other, 2 * sizeof(float)));
    evaluate<<<1, 32>>>(out, 10);
    y = out.host();
    for (int i = 0; i < 10; i++) EXPECT(y[i] == 1 + i * (2 + i * (10 + i * 20)));
    float* address;
    size_t bytes;
    CUDA(cudaGetSymbolAddress((void**)&address, table));
    CUDA(cudaGetSymbolSize(&bytes, table));
    EXPECT(bytes == 32);
    float squares[8];
    CUDA(cudaMemcpy(squares, address, bytes, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 8; i++) EXPECT(squares[i] == i * i);
    std::puts("ok");
}
