// measure.cu - see measure.h
#include "measure.h"

#include <chrono>
#ifdef __CUDACC__
#include <cuda_profiler_api.h>

#include "gpu.cuh"

namespace gpu {

static std::vector<double> seconds_of_each(Queue& q, int calls, const Work& work) {
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

std::vector<double> seconds_of_each(Stream s, int warm_up, int calls, const Work& work) {
    for (int i = 0; i < warm_up; i++) work();
    sync(s);
#ifdef __CUDACC__
    if (s.where == Machine::cuda) return gpu::seconds_of_each(gpu::queue_of(s), calls, work);
#endif
    std::vector<double> seconds(calls);
    for (double& each : seconds) {
        const auto start = std::chrono::steady_clock::now();
        work();
        each = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    return seconds;
}

#ifdef NVTX_VERSION
ProfilerRange::ProfilerRange(const char* name) { nvtxRangePushA(name); }
ProfilerRange::~ProfilerRange() { nvtxRangePop(); }
#else
ProfilerRange::ProfilerRange(const char*) {}
ProfilerRange::~ProfilerRange() {}
#endif

void counted(Stream s, const Work& work) {
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
