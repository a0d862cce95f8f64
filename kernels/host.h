// host.h - work on host memory for the code above the ops: loops shared by all CPU threads, and exp
//
// The code above the ops includes this header and leaves cpu.h, with its vectors of one register, to the ops.
#pragma once
#include "cpu.h"

namespace host {

// Calls f(begin, end) for contiguous ranges of [0, n), one per thread, of at least `grain` elements each.
using cpu::parallel_ranges;

// out[i] = e^((x[i] - shift) / scale), within 1.2 ulp of the exponential of that argument in fp32.
inline void exp_shifted(float* out, const float* x, int64_t n, float shift, float scale) {
    cpu::for_lanes(n, [&](int64_t i, auto count) {
        cpu::store(out + i, cpu::exp((cpu::load(x + i, count) - shift) / scale), count);
    });
}

}  // namespace host
