// findings.h - the mistakes that the checker finds; the first one ends the program with exit code 86 unless
// --keep-going
#pragma once
#include <cstdint>
#include <string>

namespace emu {

enum class Kind {
    OutOfBounds,  // in global, shared, local or constant memory, or by a call of the API
    Misaligned,
    UseAfterFree,
    DoubleFree,
    InvalidFree,
    Leak,
    Uninitialised,  // bytes or registers that were never written
    SharedRace,     // between warps without a barrier, or between lanes without __syncwarp
    WarpRace,       // in global memory, between warps of a block without a barrier
    GlobalRace,     // between blocks of a launch
    StreamRace,     // between operations of unordered streams
    EarlyRace,      // between kernels of which the second begins early: programmatic dependent launch
    BarrierDivergence,
    AbsentLane,       // a lane for which others wait never comes: of a member mask, or for mma of the warp
    AsyncCopyRace,    // the data of a cp.async is touched before its wait
    ProxyFence,       // the async proxy reads what was written with no fence.proxy.async
    Transaction,      // an mbarrier gets more bytes than expect_tx announced
    WgmmaRegisters,   // registers of a wgmma are touched before its wait, or with no wgmma.fence
    RegisterBudget,   // setmaxnreg asks for registers that the block does not have
    HostRace,         // the host touches memory that an unfinished operation uses
    HostDereference,  // the host touches device memory
    Deadlock,         // or no progress for --timeout seconds
    Collective,       // NCCL ranks call different operations
    // The following are infos, which do not end the program.
    UncheckedLaunch,
    SameValueOverlap,
    BarrierFence,  // a bulk copy uses an mbarrier that was initialised with no fence.proxy.async since
    WarpExchange,  // a read and a later write of one warp, ordered by an exchange of values alone
};

struct Finding {
    Kind kind;
    std::string what   = {};  // "read of 4 bytes at 0x…: outside of every allocation"
    std::string kernel = {};  // the kernel, or the call of the API
    std::string source = {};  // "file.cu:41", or "PTX line 312" without -lineinfo
    uint32_t block[3] = {}, thread[3] = {};
    bool in_kernel         = false;  // block and thread are valid
    uint64_t address       = 0;      // 0 when the finding has none
    std::string allocation = {};     // "4096 bytes at 0x… by cudaMalloc from train.cu:31", or empty
};

bool is_info(Kind kind);
const char* name(Kind kind);

// Prints the finding on stderr. The same kind at the same place is printed once and counted from then on. Unless it is
// an info or --keep-going is set, this flushes stdout, prints the summary and ends the program with _exit(86). Returns
// the count, so that a caller can count the same finding again without building it. It may be called from any thread.
uint64_t& report(const Finding& finding);

std::string hex(uint64_t value);  // "0x1f"

// Adds a hook that runs when the program ends, as leak checks and counters do. After all hooks the core prints its
// summary: "emulate: 12 launches of 3 kernels, check all, 0 findings". Findings under --keep-going make the exit
// code 86.
void at_exit(void (*hook)());

// Prints "emulate: …" and ends the program with exit code 1, when the emulator cannot go on.
[[noreturn]] void give_up(const std::string& why);

}  // namespace emu
