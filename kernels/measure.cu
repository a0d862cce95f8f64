// measure.cu - see measure.h
#include "measure.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <tuple>

#include "arena.h"
#include "ops.h"
#ifdef __CUDACC__
#include <cuda_profiler_api.h>

#include "queue.cuh"

namespace gpu {

static std::vector<double> seconds_per_call(Queue& q, int calls, const Work& work) {
    std::vector<cudaEvent_t> events(calls + 1);
    for (cudaEvent_t& e : events) CUDA_RUN(cudaEventCreate(&e));
    CUDA_RUN(cudaEventRecord(events[0], q.stream));
    for (int i = 0; i < calls; i++) {
        work();
        CUDA_RUN(cudaEventRecord(events[i + 1], q.stream));
    }
    q.wait();
    std::vector<double> seconds(calls);
    for (int i = 0; i < calls; i++) {
        float milliseconds = 0;
        CUDA_RUN(cudaEventElapsedTime(&milliseconds, events[i], events[i + 1]));
        seconds[i] = milliseconds * 1e-3;
    }
    for (cudaEvent_t e : events) CUDA_RUN(cudaEventDestroy(e));
    return seconds;
}

}  // namespace gpu
#endif

std::vector<double> seconds_per_call(Stream s, int warm_up, int calls, const Work& work) {
    for (int i = 0; i < warm_up; i++) work();
    sync(s);
#ifdef __CUDACC__
    if (s.where == Machine::cuda) return gpu::seconds_per_call(gpu::queue_of(s), calls, work);
#endif
    std::vector<double> seconds(calls);
    for (double& each : seconds) {
        const auto start = std::chrono::steady_clock::now();
        work();
        each = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    return seconds;
}

// Returns the FLOP/s of the fastest of five products of two n × n squares. n = 1024 keeps a CPU busy for milliseconds.
// On a GPU n grows until a product takes a millisecond, beside which the time to start it does not count. The squares
// are not zero, because a GPU takes less power for zeros and clocks higher.
static double measure_flops(const Device& device, DType dtype) {
    const Stream s = device.stream();
    std::vector<float> tile(1 << 20);
    for (uint32_t i = 0; i < tile.size(); i++) tile[i] = float(int32_t(i * 2654435761u)) * 0x1p-31f;
    const auto fill = [&](Tensor square) {
        const Tensor tiles = square.view({square.numel() >> 20, 1 << 20});
        for (int64_t i = 0; i < tiles.shape[0]; i++) from_host(tiles.rows(i, 1).view({1 << 20}), tile, s);
    };
    for (int64_t n = 1024;; n *= 2) {
        Arena arena("peak measurement");
        for (int i = 0; i < 3; i++) arena.plan({n, n}, dtype);
        arena.allocate(device);
        const Tensor x = arena.take({n, n}, dtype), w = arena.take({n, n}, dtype), y = arena.take({n, n}, dtype);
        fill(x);
        fill(w);
        const auto seconds = seconds_per_call(s, 1, 5, [&] { matmul_forward(y, x, w, Tensor{}, s); });
        const double best  = *std::min_element(seconds.begin(), seconds.end());
        if (device.where() == Machine::cpu || best > 1e-3 || n == 8192) return 2.0 * double(n * n * n) / best;
    }
}

double peak_flops(const Device& device, DType dtype) {
    static std::map<std::tuple<std::string, int, DType>, double> known;
    double& rate = known[{device.name(), device.threads(), dtype}];
    if (rate == 0) rate = measure_flops(device, dtype);
    return rate;
}

#ifdef NVTX_VERSION
ProfilerRange::ProfilerRange(const char* name) { nvtxRangePushA(name); }
ProfilerRange::~ProfilerRange() { nvtxRangePop(); }
#else
ProfilerRange::ProfilerRange(const char*) {}
ProfilerRange::~ProfilerRange() {}
#endif

void profiled(Stream s, const Work& work) {
    sync(s);
#ifdef __CUDACC__
    if (s.where == Machine::cuda) {
        CUDA_RUN(cudaProfilerStart());
        work();
        sync(s);
        CUDA_RUN(cudaProfilerStop());
        return;
    }
#endif
    work();
}
