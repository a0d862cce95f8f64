// findings.h - the mistakes that the checker finds; the first one ends the program with exit code 86 unless
// --keep-going
#pragma once
#include <cstdint>
#include <string>

namespace emu {

enum class Kind {
    OutOfBounds,  // global, shared, local, constant or an API call's range
    Misaligned,
    UseAfterFree,
    DoubleFree,
    InvalidFree,
    Leak,
    Uninitialised,  // bytes or registers nobody wrote
    SharedRace,     // between warps without a barrier, between lanes without __syncwarp
    WarpRace,       // in global memory, between warps of a block without a barrier
    GlobalRace,     // between blocks of a launch
    StreamRace,     // between operations of unordered streams
    BarrierDivergence,
    AbsentLane,        // shfl / vote / match / redux with lanes that never come or a source that takes no part
    AsyncCopyRace,     // cp.async data touched before its wait
    HostRace,          // host access to memory that an unfinished operation owns
    HostDereference,   // host access to device memory
    Deadlock,          // includes the watchdog
    Collective,        // NCCL ranks that disagree
    UncheckedLaunch,   // info
    SameValueOverlap,  // info
    WarpExchange,      // info: a read and a later write of one warp, ordered by an exchange of values alone
};

struct Finding {
    Kind kind;
    std::string what   = {};  // one sentence: "read of 4 bytes at 0x… is 4 bytes past the end"
    std::string kernel = {};  // or the API call
    std::string source = {};  // "file.cu:41", or "PTX line 312" without -lineinfo
    uint32_t block[3] = {}, thread[3] = {};
    bool in_kernel         = false;  // block and thread mean something
    uint64_t address       = 0;      // 0: none
    std::string allocation = {};     // "4096 bytes at 0x… by cudaMalloc from train.cu:31", or empty
};

bool is_info(Kind kind);
const char* name(Kind kind);

// Prints the finding on stderr; the same kind at the same place is printed once and then counted. Unless it is an info
// or --keep-going is set, it then flushes stdout, prints the summary and ends the program with _exit(86). Returns the
// count, so that a caller can count the same finding again without building it. Thread-safe.
uint64_t& report(const Finding& finding);

// The number of findings so far, without infos.
uint64_t findings_count();

// Adds a hook that runs when the program ends, as leak checks and counters do. After all hooks the core prints its
// summary: "emulate: 12 launches of 3 kernels, check all, 0 findings". Findings under --keep-going make the exit
// code 86.
void at_exit(void (*hook)());

// Prints "emulate: …" and ends the program with exit code 1. It is for what the emulator lacks or cannot do at all.
[[noreturn]] void give_up(const std::string& why);

}  // namespace emu
