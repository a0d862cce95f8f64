// launch.h - runs one kernel to its end
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "module.h"

namespace emu {

struct Dim {
    uint32_t x = 1, y = 1, z = 1;
    uint64_t count() const { return uint64_t(x) * y * z; }
};

struct LaunchConfig {
    Dim grid, block, cluster;
    size_t dynamic_shared = 0;
    bool cooperative      = false;
    bool explicit_cluster = false;  // the program has given the size of its clusters
    uint32_t op           = 0;      // the operation's number, as in Memory::check
    int device            = 0;      // the device on which it runs
    std::string where;              // the call site, for messages
};

// Why a launch has ended early, and the error that cudaGetLastError then returns. Findings have been reported already.
enum class Fault {
    None,
    IllegalAddress,      // cudaErrorIllegalAddress
    MisalignedAddress,   // cudaErrorMisalignedAddress
    IllegalInstruction,  // cudaErrorIllegalInstruction
    Assert,              // cudaErrorAssert
    Trap,                // cudaErrorLaunchFailure
    Timeout,             // cudaErrorLaunchTimeout
    Missing,             // cudaErrorUnsupportedPtxVersion: the emulator lacks an instruction, which the message names
};

struct LaunchResult {
    Fault fault = Fault::None;
    std::string message;
};

// Packs the arguments as the kernel's .param block. This is done when the launch is queued, because `args` points into
// the caller's stack frame.
std::vector<std::byte> pack_arguments(const Kernel& kernel, void** args);

// Runs the kernel and returns when it has ended. The caller has validated the dimensions and the shared memory, and
// holds a lock so that one launch runs at a time.
LaunchResult launch(Kernel& kernel, const LaunchConfig& config, const std::vector<std::byte>& arguments);

// Returns how many blocks of this kernel fit on one SM, by registers, threads and shared memory.
int blocks_per_sm(const Kernel& kernel, int block_threads, size_t dynamic_shared);
// Returns how many clusters of so many blocks fit on the device. The SMs of a cluster belong to one GPC.
int clusters_on_device(const Kernel& kernel, int block_threads, size_t dynamic_shared, uint64_t cluster_blocks);

}  // namespace emu
