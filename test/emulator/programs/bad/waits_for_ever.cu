// The host waits forever: in a call of CUDA for a host function that does not return, and outside of CUDA, with queued
// work or without.
// finding: deadlock
// options: --timeout 1
// cases: function, condition, nothing
#include <atomic>
#include <condition_variable>
#include <thread>

#include "../check.h"

__global__ void add(int* p) { *p += 1; }

int main(int argc, char** argv) {
    const std::string which = argv[1];
    std::mutex m;
    std::condition_variable c;
    std::atomic<bool> go{argc > 2};
    Device<int> x(std::vector<int>(1));
    if (which != "nothing") {
        CUDA(cudaLaunchHostFunc(
            nullptr,
            [](void* p) {
                while (!*static_cast<std::atomic<bool>*>(p)) std::this_thread::yield();
            },
            &go));
        add<<<1, 1>>>(x);
    }
    if (which == "function") CUDA(cudaDeviceSynchronize());
    std::unique_lock hold(m);
    if (!go) c.wait(hold, [&] { return go.load(); });
}
