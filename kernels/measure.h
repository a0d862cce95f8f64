// measure.h - how fast a device is, how long work takes on it, and which work a profiler should record
#pragma once
#include <functional>
#include <vector>

#include "device.h"

using Work = std::function<void()>;  // queues ops on a stream

// Returns the rate of a matrix product in FLOP/s. It is measured the first time for a device and dtype, then
// remembered.
double peak_flops(const Device& device, DType dtype);

// Returns the seconds of each of `calls` calls, from the beginning of its first op to the end of its last. Before them
// come `warm_up` calls that are not timed. On a GPU this is the time between two events of the stream, and all calls
// are queued before the first is waited for.
std::vector<double> seconds_per_call(Stream s, int warm_up, int calls, const Work& work);

// While it lives, it names the work that is queued, for profilers (an NVTX range). nsys draws it, and the emulator's
// --profile counts each range by itself. On the CPU it does nothing.
class ProfilerRange {
  public:
    explicit ProfilerRange(const char* name);
    ~ProfilerRange();
    ProfilerRange(const ProfilerRange&)            = delete;
    ProfilerRange& operator=(const ProfilerRange&) = delete;
};

// Does the work once, between cudaProfilerStart and cudaProfilerStop. ncu and nsys, asked for that range, record only
// this; for the emulator's --profile it is a section of the counts. On the CPU it only does the work.
void profiled(Stream s, const Work& work);
