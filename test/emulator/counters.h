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
    uint64_t by_class[size_t(Class::Count)] = {};                        // warp instructions
    uint64_t global_requests = 0, global_bytes = 0, global_sectors = 0;  // bytes asked; sectors of 32 bytes touched
    uint64_t dram_read = 0, dram_written = 0;                            // bytes that miss the L2 model
    uint64_t shared_requests = 0, shared_wavefronts = 0;
    uint64_t shared_conflicts = 0;  // wavefronts beyond the fewest for accesses of that size
    uint64_t local_bytes = 0, atomics = 0, barriers = 0;
    double flops = 0, tensor_flops = 0;
    double seconds         = 0;  // host time spent emulating
    int registers          = 0;
    uint32_t static_shared = 0, dynamic_shared = 0;
    void add(const Counters& other);
};

// A library call counts itself under its own name: its tensor_flops, the bytes it moves, its launches.
void count(const std::string& kernel, const Counters& counters);

// Counts bytes that a library reads or writes, after the L2 model.
void count_bytes(uint64_t address, uint64_t bytes, bool write, Counters& counters);

// cudaProfilerStart: a section begins, with an L2 that holds nothing. cudaProfilerStop: it ends, and what it left dirty
// in the L2 is written to memory, as a line of its own.
void count_section(bool begins);

// Ends a step: what has been counted since the last call belongs to `name`, a training step that the program marks
// (nvtx.cpp), or to "" between steps.
void count_step(const std::string& name);

// The table on stderr and the JSON of --profile; registered with at_exit by the core.
void print_counters();

}  // namespace emu
