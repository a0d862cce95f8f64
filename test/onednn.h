// onednn.h - which kernels oneDNN has for this CPU
#pragma once
#include "kernels/host.h"

// Without AVX-512, oneDNN splits the sum over a product's inner dimension by the number of threads. It then keeps
// partial sums, and copies of operands in another order, while it multiplies.
inline bool onednn_has_avx512() {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx512f") && (host::cpu_level() == 0 || host::cpu_level() == 4);
#else
    return false;
#endif
}
