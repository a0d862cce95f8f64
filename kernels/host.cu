// host.cu - see host.h
#include "host.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>

#include "cpu.h"

namespace host {

void exp_shifted(float* out, const float* x, int64_t n, float shift, float scale) {
    cpu::for_lanes(n, [=](int64_t i, auto count) {
        cpu::store(out + i, cpu::exp((cpu::load(x + i, count) - shift) / scale), count);
    });
}

#ifdef GPT_CPU_LEVEL  // the Makefile sets it for the kernels of a level
int cpu_level() { return GPT_CPU_LEVEL; }

static bool cpu_has(int level) {
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    return level == 2 || (v3 && (level == 3 || v4));
}

void use_cpu_level(int level, char** argv) {
    if (level == cpu_level()) return;
    CHECK(cpu_has(level),
          "--cpu v{}: this CPU has not all instructions of x86-64-v{}; --cpu auto runs the kernels for it", level,
          level);
    // The libraries are …/glibc-hwcaps/x86-64-v2/libgpt_kernels.so and the same for v3 and v4. LD_LIBRARY_PATH comes
    // before the folders that the loader chooses from by itself.
    Dl_info here;
    CHECK_RUN(dladdr(reinterpret_cast<void*>(&cpu_level), &here),
              "--cpu v{}: the loader does not say where the kernels are", level);
    std::string folder = here.dli_fname;
    folder             = folder.substr(0, folder.rfind('/'));
    folder             = folder.substr(0, folder.rfind('-')) + "-v" + std::to_string(level);
    const char* before = getenv("LD_LIBRARY_PATH");
    CHECK_RUN(!before || std::string(before).rfind(folder, 0) != 0,
              "--cpu v{}: the loader did not take the kernels of {}", level, folder);
    setenv("LD_LIBRARY_PATH", (before ? folder + ":" + before : folder).c_str(), 1);
    if (level < 4) setenv("DNNL_MAX_CPU_ISA", level == 2 ? "SSE41" : "AVX2", 0);
    execv("/proc/self/exe", argv);
    throw_at<RunError>(__FILE__, __LINE__, "--cpu v{}: the program could not be started again: {}", level, os_error());
}
#else
int cpu_level() { return 0; }
void use_cpu_level(int level, char**) {
    fail(
        "--cpu v{}: this program has its kernels once, for one CPU; make PORTABLE=1 builds them for x86-64-v2, v3 and "
        "v4",
        level);
}
#endif

}  // namespace host
