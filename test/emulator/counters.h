// counters.h - what a profiler would count, per kernel
#pragma once
#include <cstdint>
#include <map>
#include <string>

namespace emu {

// clang-format off
enum class Class : uint8_t { Integer, Float, Double, Half, Special, Convert, Move, Compare, Load, Store, Atomic, Shuffle, Tensor,
                             Barrier, Control, Count };
// clang-format on

struct Counters {
    uint64_t launches = 0, blocks = 0, threads = 0;
    uint64_t warp_instructions = 0, lane_instructions = 0;
    uint64_t by_class[size_t(Class::Count)] = {};                        // warp instructions of each class
    uint64_t global_requests = 0, global_bytes = 0, global_sectors = 0;  // sectors have 32 bytes
    uint64_t dram_read = 0, dram_written = 0;                            // bytes that miss in the L2 model
    uint64_t shared_requests = 0, shared_wavefronts = 0;
    uint64_t shared_conflicts = 0;  // wavefronts beyond the fewest that accesses of their size take
    uint64_t local_bytes = 0, atomics = 0, barriers = 0;
    uint64_t bulk_bytes = 0;                              // of shared memory that bulk copies read or write
    double flops = 0, tensor_flops = 0, wgmma_flops = 0;  // those of wgmma are in both of the last two
    double seconds         = 0;                           // host time spent emulating
    int registers          = 0;
    uint32_t static_shared = 0, dynamic_shared = 0;
    void add(const Counters& other);
};

// Adds to the counters of a kernel. Library calls count themselves under their own names.
void count(const std::string& kernel, const Counters& counters);

// Passes bytes that a library reads or writes through the L2 model.
void count_bytes(uint64_t address, uint64_t bytes, bool write, Counters& counters);

// Begins a section with an empty L2 (cudaProfilerStart), or ends it (cudaProfilerStop). At its end the dirty lines of
// the L2 count as written, under a name of their own.
void count_section(bool begins);

// Ends a step. All that has been counted since the last call belongs to `name`: a training step that the program marks
// (nvtx.cpp), or "" between two steps.
void count_step(const std::string& name);

// Prints the table on stderr and writes the JSON file of --profile. The core calls it through at_exit.
void print_counters();

}  // namespace emu
