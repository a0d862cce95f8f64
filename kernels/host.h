// host.h - work on host memory for the code above the ops: loops shared by all CPU threads, exp, and which CPU's
// kernels run
//
// The code above the ops includes this header and leaves cpu.h, with its vectors of one register, to the ops.
#pragma once
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "tensor.h"

namespace host {

// Calls f(begin, end) for contiguous ranges of [0, n), one per thread, of at least `grain` elements each.
template <class F>
inline void parallel_ranges(int64_t n, int64_t grain, F f) {
    const int64_t chunks = std::min<int64_t>(omp_get_max_threads(), ceil_div(n, std::max<int64_t>(grain, 1)));
    if (chunks <= 1) return n > 0 ? f(int64_t(0), n) : void();
#pragma omp parallel for num_threads(chunks) schedule(static, 1)
    for (int64_t c = 0; c < chunks; c++) f(n * c / chunks, n * (c + 1) / chunks);
}

// out[i] = e^((x[i] - shift) / scale), within 1.2 ulp of the exponential of that argument in fp32.
void exp_shifted(float* out, const float* x, int64_t n, float shift, float scale);

// A build with PORTABLE=1 has the kernels three times on x86-64: for the levels v2, v3 and v4 of the architecture,
// which differ mostly in SSE, AVX2 and AVX-512. The dynamic loader takes those for the highest level that the CPU has.
// Returns that level: 2, 3 or 4. It is 0 in a build that has the kernels once, for one CPU.
int cpu_level();
// Starts the program again with the kernels for another level, and with oneDNN restricted to its instructions. It
// returns when these run already. A level that the build or the CPU does not have is an InputError.
void use_cpu_level(int level, char** argv);

// In an archive that `make dist` made, the kernels with a CUDA half are a library of their own, because the dynamic
// loader starts no program that lacks one of its libraries, and NVIDIA's are not everywhere. Programs begin with the
// kernels without it. This starts the program again with the others, or returns why they cannot be used.
std::string use_cuda_half();
bool has_cuda_half();  // whether there is such a library
bool has_nvidia_driver();

}  // namespace host
