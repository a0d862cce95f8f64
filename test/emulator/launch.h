// launch.h - run one kernel to its end
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
    Dim grid, block;
    size_t dynamic_shared = 0;
    bool cooperative      = false;
    uint32_t op           = 0;  // the operation's number, see Memory::check
    uint64_t stream       = 0;  // for messages
    std::string where;          // call site, for messages
};

// What cudaGetLastError would say afterwards; the finding itself has been reported already.
enum class Fault {
    None,
    IllegalAddress,      // cudaErrorIllegalAddress
    MisalignedAddress,   // cudaErrorMisalignedAddress
    IllegalInstruction,  // cudaErrorIllegalInstruction
    Assert,              // cudaErrorAssert
    Trap,                // cudaErrorLaunchFailure
    Timeout,             // cudaErrorLaunchTimeout
    Missing,             // a form we lack: cudaErrorUnsupportedPtxVersion; the message names it
};

struct LaunchResult {
    Fault fault = Fault::None;
    std::string message;
};

// The arguments, packed as the kernel's .param block: done when the launch is queued, because args point into the
// caller's frame.
std::vector<std::byte> pack_arguments(const Kernel& kernel, void** args);

// Runs the kernel, synchronously. Dimensions and shared memory have been validated by the caller. One at a time: the
// caller holds its own lock.
LaunchResult launch(Kernel& kernel, const LaunchConfig& config, const std::vector<std::byte>& arguments);

// Blocks of this kernel that fit one SM: the occupancy calculation from registers, threads and shared memory.
int blocks_per_sm(const Kernel& kernel, int block_threads, size_t dynamic_shared);

}  // namespace emu
