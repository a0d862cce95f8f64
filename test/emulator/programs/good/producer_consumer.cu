// producer_consumer.cu - one block hands numbers to another through a flag in global memory, with fences
#include <cuda/atomic>

#include "../check.h"

// Blocks in a cooperative launch are all resident, so one may wait for another.
__global__ void pass(int* box, int* flag, int* out, int n) {
    cuda::atomic_ref<int, cuda::thread_scope_device> turn(*flag);
    if (threadIdx.x != 0) return;
    for (int i = 0; i < n; i++) {
        if (blockIdx.x == 0) {
            while (turn.load(cuda::memory_order_acquire) != 2 * i) {}
            *box = i * i;
            turn.store(2 * i + 1, cuda::memory_order_release);
        } else {
            while (turn.load(cuda::memory_order_acquire) != 2 * i + 1) {}
            out[i] = *box;
            turn.store(2 * i + 2, cuda::memory_order_release);
        }
    }
}

int main() {
    int n = 50;
    Device<int> box(1), flag(1), out(n);
    CUDA(cudaMemset(flag, 0, 4));
    int *b = box, *f = flag, *o = out;
    void* args[] = {&b, &f, &o, &n};
    CUDA(cudaLaunchCooperativeKernel((const void*)pass, dim3(2), dim3(32), args, 0, nullptr));
    const auto got = out.host();
    for (int i = 0; i < n; i++) EXPECT(got[i] == i * i);
    std::puts("ok");
}
