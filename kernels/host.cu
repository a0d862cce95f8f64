// host.cu - see host.h
#include "host.h"

#include <dlfcn.h>
#include <glob.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

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
          "--cpu v{}: this CPU has not all instructions of x86-64-v{}; --cpu auto takes the highest level that it has",
          level, level);
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
    CHECK_RUN(false, "--cpu v{}: the program could not be started again: {}", level, os_error());
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

// ---- the CUDA half -------------------------------------------------------------------------------------------------

bool has_nvidia_driver() { return dlopen("libcuda.so.1", RTLD_LAZY); }

#if defined(GPT_CPU_LEVEL) && !defined(__CUDACC__)
// Returns the path of a library of NVIDIA's in the folders of Python's packages or of the toolkit, or "".
static std::string find_nvidia(const std::string& library) {
    const auto below = [](const char* variable) {
        return std::string(getenv(variable) ? getenv(variable) : "/dev/null");
    };
    const std::string packages = "/lib/python3*/*-packages/nvidia/*/lib";
    for (const std::string& folders :
         {below("VIRTUAL_ENV") + packages, below("CONDA_PREFIX") + packages, below("CONDA_PREFIX") + "/lib",
          below("HOME") + "/.local" + packages, "/usr/local" + packages, std::string("/usr/local/cuda*/lib64"),
          std::string("/opt/cuda/lib64")}) {
        glob_t found{};
        const bool any         = glob((folders + "/" + library).c_str(), 0, nullptr, &found) == 0;
        const std::string path = any ? found.gl_pathv[0] : "";
        globfree(&found);
        if (any) return path;
    }
    return "";
}

// The libraries are HOME/glibc-hwcaps/x86-64-v3/libgpt_kernels.so and
// HOME/cuda/glibc-hwcaps/x86-64-v3/libgpt_kernels.so. Returns HOME and the latter, or two empty texts where it does not
// exist.
static std::pair<std::string, std::string> cuda_kernels() {
    Dl_info here;
    if (!dladdr(reinterpret_cast<void*>(&cuda_kernels), &here)) return {};
    const std::string own = here.dli_fname, home = own.substr(0, own.rfind("/glibc-hwcaps/"));
    const std::string kernels = home + "/cuda" + own.substr(home.size());
    if (access(kernels.c_str(), R_OK) != 0) return {};
    return {home, kernels};
}
bool has_cuda_half() { return !cuda_kernels().second.empty(); }

std::string use_cuda_half() {
    const auto [home, kernels] = cuda_kernels();
    if (kernels.empty()) return "this program was built without its CUDA half";
    const std::string folder = kernels.substr(0, kernels.rfind('/'));
    // `home` has the archive's other libraries, which must not come from a folder in which NVIDIA's are found.
    const char* before       = getenv("LD_LIBRARY_PATH");
    std::string path         = folder + ":" + home + (before ? std::string(":") + before : "");
    if (before && std::string(before).rfind(folder, 0) == 0) return "the loader did not take the kernels of " + folder;
    std::string loaded;
    while (!dlopen(kernels.c_str(), RTLD_NOW)) {  // the loader names a library that it lacks, and then a colon
        const std::string said = dlerror(), library = said.substr(0, said.find(':')), found = find_nvidia(library);
        // A library that is loaded and still lacking has another name inside.
        if (library == std::exchange(loaded, library) || found.empty() || !dlopen(found.c_str(), RTLD_NOW)) {
            if (!has_nvidia_driver()) return "there is no NVIDIA driver on this machine";
            return said + "; libraries of CUDA are looked for in LD_LIBRARY_PATH, in the system's folders, in " +
                   "/usr/local/cuda*/lib64 and among Python's packages (nvidia/*/lib)";
        }
        path += ":" + found.substr(0, found.rfind('/'));
    }
    // This one is opened when several GPUs need it (open_nccl.h).
    const std::string nccl = dlopen("libnccl.so.2", RTLD_LAZY) ? "" : find_nvidia("libnccl.so.2");
    if (!nccl.empty()) path += ":" + nccl.substr(0, nccl.rfind('/'));
    setenv("LD_LIBRARY_PATH", path.c_str(), 1);
    std::ifstream line("/proc/self/cmdline");
    std::string words{std::istreambuf_iterator<char>(line), {}};
    std::vector<char*> argv;
    for (size_t at = 0; at < words.size(); at = words.find('\0', at) + 1) argv.push_back(&words[at]);
    argv.push_back(nullptr);
    execv("/proc/self/exe", argv.data());
    return "the program could not be started again: " + os_error();
}
#else
bool has_cuda_half() { return false; }
std::string use_cuda_half() { return "this program was built without its CUDA half"; }
#endif

}  // namespace host
