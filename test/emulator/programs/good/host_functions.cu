// The host reads what a copy wrote, without a call of CUDA that waits: in a host function of the stream, and after such
// a function has notified it by a condition variable or a future. A host function writes memory that a copy behind it
// reads or overwrites. That copy may be queued while the function runs.
#include <condition_variable>
#include <future>
#include <thread>

#include "../check.h"

__global__ void add(int* p) { p[threadIdx.x] += 1; }

struct Buffer {
    int* host;
    Device<int> device{32};
    cudaStream_t stream;
    Buffer() {
        CUDA(cudaMallocHost(&host, 128));
        CUDA(cudaStreamCreate(&stream));
        for (int i = 0; i < 32; i++) host[i] = i;
        CUDA(cudaMemcpyAsync(device, host, 128, cudaMemcpyHostToDevice, stream));
        add<<<1, 32, 0, stream>>>(device);
        CUDA(cudaMemcpyAsync(host, device, 128, cudaMemcpyDeviceToHost, stream));
    }
    ~Buffer() { cudaStreamSynchronize(stream), cudaFreeHost(host), cudaStreamDestroy(stream); }
    int sum() const {
        int s = 0;
        for (int i = 0; i < 32; i++) s += host[i];
        return s;
    }
};

int main() {
    int seen = 0;
    {
        Buffer b;
        std::pair<Buffer*, int*> data{&b, &seen};
        CUDA(cudaLaunchHostFunc(
            b.stream,
            [](void* p) { *static_cast<decltype(data)*>(p)->second = static_cast<decltype(data)*>(p)->first->sum(); },
            &data));
        CUDA(cudaStreamSynchronize(b.stream));
        EXPECT(seen == 528);
    }
    {
        Buffer b;
        struct {
            std::mutex m;
            std::condition_variable c;
            bool ready = false;
        } flag;
        std::unique_lock hold(flag.m);  // it is held while the function is queued, which locks it, too
        CUDA(cudaLaunchHostFunc(
            b.stream,
            [](void* p) {
                auto& f = *static_cast<decltype(flag)*>(p);
                const std::lock_guard hold(f.m);
                f.ready = true;
                f.c.notify_one();
            },
            &flag));
        flag.c.wait(hold, [&] { return flag.ready; });
        EXPECT(b.sum() == 528);
    }
    {
        Buffer b;
        std::promise<void> told;
        CUDA(cudaLaunchHostFunc(
            b.stream, [](void* p) { static_cast<std::promise<void>*>(p)->set_value(); }, &told));
        std::thread([&] { told.get_future().wait(), seen = b.sum(); }).join();
        EXPECT(seen == 528);
    }
    {
        Buffer b;
        CUDA(cudaLaunchHostFunc(
            b.stream,
            [](void* p) {
                for (int i = 0; i < 32; i++) static_cast<int*>(p)[i] *= 2;
            },
            b.host));
        CUDA(cudaMemcpyAsync(b.device, b.host, 128, cudaMemcpyHostToDevice, b.stream));
        add<<<1, 32, 0, b.stream>>>(b.device);
        CUDA(cudaMemcpyAsync(b.host, b.device, 128, cudaMemcpyDeviceToHost, b.stream));
        CUDA(cudaStreamSynchronize(b.stream));
        EXPECT(b.sum() == 2 * 528 + 32);
    }
    {
        Buffer b;
        struct {
            int* host;
            std::promise<void> queued;
        } data{b.host, {}};
        CUDA(cudaLaunchHostFunc(
            b.stream,
            [](void* p) {
                auto& d = *static_cast<decltype(data)*>(p);
                d.queued.get_future().wait();
                d.host[0] = 1000;
            },
            &data));
        CUDA(cudaMemcpyAsync(b.host, b.device, 128, cudaMemcpyDeviceToHost, b.stream));
        data.queued.set_value();
        CUDA(cudaStreamSynchronize(b.stream));
        EXPECT(b.sum() == 528);
    }
    std::puts("ok");
}
