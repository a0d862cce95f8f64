// A vector is loaded from an address that is aligned only to the elements.
// finding: misaligned access
#include "../check.h"

__global__ void sum4(float* out, const float* in) {
    const float4 v   = reinterpret_cast<const float4*>(in)[threadIdx.x];  // <- block 0, thread 0
    out[threadIdx.x] = v.x + v.y + v.z + v.w;
}

int main(int argc, char**) {
    Device<float> in(whole_numbers(132)), out(32);
    sum4<<<1, 32>>>(out, in + (argc > 1 ? 4 : 1));
    CUDA(cudaDeviceSynchronize());
}
