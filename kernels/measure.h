// measure.h - how long work takes where it runs, and which work a profiler should count
#pragma once
#include <functional>
#include <vector>

#include "device.h"

using Work = std::function<void()>;  // queues ops on a stream

// Seconds from the beginning of each call's first op to the end of its last, after `warm_up` calls that do not count.
// On a GPU between two events of the stream, with all calls queued before the first is waited for; on the CPU by the
// clock.
std::vector<double> seconds_of_each(Stream s, int warm_up, int calls, const Work& work);

// Names the work that is queued while it lives, for profilers (an NVTX range): nsys draws it, and the emulator's
// --profile counts each "step" for itself. On the CPU nothing.
class ProfilerRange {
  public:
    explicit ProfilerRange(const char* name);
    ~ProfilerRange();
    ProfilerRange(const ProfilerRange&)            = delete;
    ProfilerRange& operator=(const ProfilerRange&) = delete;
};

// One call of it between cudaProfilerStart and cudaProfilerStop: what ncu and nsys record when asked for that range,
// and a section of the emulator's counts. On the CPU just the call.
void counted(Stream s, const Work& work);
