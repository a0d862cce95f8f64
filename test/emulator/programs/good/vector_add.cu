// vector_add.cu - the first program: c = a + b, with a ragged last block
#include "../check.h"

__global__ void add(float* c, const float* a, const float* b, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}

int main() {
    const int n  = 100'003;
    const auto a = whole_numbers(n, 1), b = whole_numbers(n, 2);
    Device<float> da(a), db(b), dc(n);
    add<<<(n + 255) / 256, 256>>>(dc, da, db, n);
    CUDA(cudaGetLastError());
    const auto c = dc.host();
    for (int i = 0; i < n; i++) EXPECT(c[i] == a[i] + b[i]);
    std::puts("ok");
}
