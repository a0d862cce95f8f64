// modules.h - the program's kernels and variables, by the addresses that nvcc's host code uses for them
#pragma once
#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime.h"

// A registered kernel: the object behind cudaFunction_t and cudaKernel_t.
struct CUfunc_st {
    const void* stub = nullptr;  // the host function that launches it
    std::string name;
    struct CUlib_st* library = nullptr;
    emu::Kernel* kernel      = nullptr;  // the kernel of the device that used it first; null before

    // What cudaFuncSetAttribute set on one device. The others do not have it.
    struct Settings {
        int raised_shared         = -1;  // cudaFuncAttributeMaxDynamicSharedMemorySize; -1 when not set
        int preferred_carveout    = -1;
        bool non_portable_cluster = false;
    };
    std::map<int, Settings> settings = {};
    Settings& here() { return settings[emu::current_device()]; }

    // Without opting in, static and dynamic shared memory together are limited to 48 KiB.
    size_t dynamic_shared_limit() {
        const int raised = here().raised_shared;
        return raised >= 0 ? size_t(raised) : 48 * 1024 - std::min(48u * 1024, kernel->static_shared);
    }
};

// A registered fat binary. It is loaded when a device first uses it, and each device has its own variables.
struct CUlib_st {
    const void* data                    = nullptr;
    const void** units                  = nullptr;  // the fat binaries of the units, with -rdc=true
    std::map<int, emu::Module*> modules = {};       // the modules by device
    struct Variable {
        void* host;
        std::string name;
        void** managed;  // where the program keeps the address of a __managed__ variable, else null
    };
    std::vector<Variable> variables;
    std::vector<CUfunc_st*> functions;
};

namespace emu {

// Returns the function that is known by this stub or handle; null when it was never registered.
CUfunc_st* find_function(const void* stub_or_handle);
// Finds the function and loads its kernel. When the kernel can't be loaded, it prints why.
cudaError_t load(const void* stub_or_handle, CUfunc_st*& function);
// Finds a variable of the device by the address of its counterpart on the host.
cudaError_t find_symbol(const void* symbol, Variable** variable);

// Finds the address of `bytes` bytes at `offset` in the variable.
cudaError_t symbol_range(const void* symbol, size_t offset, size_t bytes, void** out);

struct LaunchAttributes {
    bool cooperative = false, overlaps = false;
    std::optional<dim3> cluster;  // cudaLaunchAttributeClusterDimension
};
// For --trace: {early, cluster 8 x 1 x 1}.
std::ostream& operator<<(std::ostream& out, const LaunchAttributes& attributes);

struct KernelLaunch {
    CUfunc_st* function = nullptr;
    dim3 grid, block;
    size_t dynamic_shared = 0;
    LaunchAttributes attributes;
    dim3 cluster;  // that of the attribute, or the one that the kernel was compiled for
    std::vector<std::byte> arguments;
    std::vector<void*> argument_pointers;  // into `arguments`, for cudaGraphKernelNodeGetParams
};

// Checks everything for which a launch is refused before it reaches the device, and packs its arguments.
cudaError_t prepare_launch(KernelLaunch& launch, const void* function, dim3 grid, dim3 block, void** args,
                           size_t shared, const LaunchAttributes& attributes);
// Chooses and checks the size of its clusters.
cudaError_t set_cluster(KernelLaunch& launch, const std::optional<dim3>& attribute);
Work launch_work(const KernelLaunch& launch);

void note_unchecked_launch(const std::string& site);
void forget_unchecked_launches();  // called when the program has looked at the error state

}  // namespace emu
