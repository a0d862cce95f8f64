// exec.h - the machine: decoded instructions, warps of 32 lanes, blocks
//
// A register is 32 lanes of its natural width in a row; a predicate is a 32-bit mask. A handler runs one decoded
// instruction for all active lanes and returns the next one. Lanes of a warp that went different ways are groups, each
// with its own place; the scheduler (engine.cpp) runs the group that is deepest in calls and lowest in the code, and
// joins groups that meet.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "counters.h"
#include "findings.h"
#include "launch.h"
#include "ptx.h"

namespace emu {

constexpr int kLanes    = 32;
constexpr uint32_t kAll = 0xffffffffu;

struct Warp;
struct Block;
struct Worker;
struct Instr;
using Handler = const Instr* (*)(Warp&, const Instr*);

// The place of an operand's lanes: in the frame's registers, or among the function's constants, which are stored once
// per lane.
struct Ref {
    int32_t offset = -1;
    uint32_t pool  = 0;
    bool none() const { return offset < 0; }
};

struct Instr {
    Handler run   = nullptr;
    Handler inner = nullptr;  // what a guard guards
    Ref d, a, b, c;
    int64_t imm         = 0;        // address offset, comparison, shift …: the handler's own business
    const Instr* target = nullptr;  // of a branch
    Ref guard;
    bool guard_negated  = false;
    uint8_t flags       = 0;  // kSplits …
    uint8_t imm2        = 0;  // more of imm, for handlers that need it
    uint32_t imm3       = 0;
    int64_t imm4        = 0;
    uint8_t window      = 0;  // of a memory instruction: access.h
    uint8_t more_defs   = 0;  // of `more`, so many are written, the rest read
    uint16_t site       = 0;  // memory instructions: their allocation cache
    uint32_t more       = 0;  // further operands: Function::more[more …]
    uint32_t more_count = 0;
    uint32_t index      = 0;  // in Function::code
};

// Instr::flags
constexpr uint8_t kSplits = 1;  // may change the group (branch, barrier, call …): a guard becomes a branch around it
constexpr uint8_t kOwnGuard = 2;   // reads its guard itself
constexpr uint8_t kWritesC  = 4;   // c is a second result
constexpr uint8_t kLeaves   = 8;   // never goes on to the next instruction
constexpr uint8_t kReadsD   = 16;  // d is read as well

struct AlignedBytes {
    std::unique_ptr<std::byte[], void (*)(std::byte*)> data{nullptr, [](std::byte*) {}};
    size_t size = 0;
    void resize(size_t n);  // 64-byte aligned, contents undefined
};

struct ParamBlob {
    std::string name;
    uint32_t offset, bytes;  // from Function::blob_base: 32 lanes × bytes
};

struct Function {
    const ptx::Function* source = nullptr;
    ptx::Module* module         = nullptr;
    std::string name;
    std::vector<Instr> code;                      // one per PTX instruction, plus helpers; ends with an exit
    std::vector<const ptx::Instruction*> origin;  // per code index
    std::vector<uint8_t> counter_class;           // per code index: Class, or 255 for helpers
    std::vector<Ref> more;
    std::vector<std::vector<uint32_t>> tables;  // brx.idx
    AlignedBytes pool;                          // constants, 32 lanes each
    uint32_t frame_bytes = 0;                   // registers and parameter blobs of one warp
    uint32_t blob_base   = 0;                   // parameter blobs come after the registers
    uint32_t live_regs   = 0;                   // estimate of what ptxas would need
    uint32_t local_bytes = 0;
    bool calls           = false;
    uint32_t pred_bytes  = 0;                // the predicates come first in a frame; cleared when it is made
    std::vector<ParamBlob> params, results;  // device functions only
    uint32_t sites = 0;                      // memory instructions
    std::string missing;                     // not empty: the first form we lack, with its line
    int shared_granule = 2;                  // log2 bytes of the smallest shared access: race records are per granule
};

enum class State : uint8_t { Ready, Barrier, Sync, Exited };

struct Frame {
    Frame* parent       = nullptr;
    const Instr* back   = nullptr;  // where the caller goes on
    Function* function  = nullptr;
    std::byte* regs     = nullptr;
    uint32_t local_base = 0;
    uint32_t allocated  = 0;  // alloca: bytes behind the function's own
    int depth           = 0;
    std::vector<uint32_t> results;  // the caller's blobs for our results
    int users = 0;                  // groups in it, and frames called from it
    AlignedBytes memory;
    uint32_t local_end() const { return local_base + function->local_bytes + allocated; }
};

struct Group {
    uint32_t mask;
    const Instr* pc;
    Frame* frame;
    State state      = State::Ready;
    uint32_t members = 0;  // Sync: the lanes it waits for
    uint16_t barrier = 0;  // Barrier: which
};

// cp.async is carried out at its wait, so that a missing wait shows.
struct AsyncCopy {
    uint32_t mask, group;
    const Instr* instr;
    uint64_t dst[kLanes], src[kLanes];
    uint32_t bytes, from[kLanes];  // `from` bytes of the source, then zeros
};

// A register with lanes that hold what nobody wrote: idle_reads.cpp.
struct IdleValue {
    Frame* frame;
    int reg;  // of the PTX
    uint32_t lanes;
    uint8_t read;  // in Block::idle_reads
};
struct IdleRead {
    const Instr* at;
    Finding finding;  // if its value does harm
};

struct Warp {
    std::byte* base[2] = {};  // Ref::pool selects: registers, constants
    uint32_t mask      = 0;   // lanes of the running group (and of its guard)
    uint32_t live      = 0;
    Block* block       = nullptr;
    Worker* worker     = nullptr;
    Frame* frame       = nullptr;  // of the running group
    uint32_t index     = 0;        // in the block
    int current        = 0;        // running group
    uint32_t polls     = 0;        // volatile loads and atomics of late: it may be waiting
    int64_t unfair     = 0;        // for so many instructions the group that is last in order goes first
    uint32_t carry     = 0;        // condition code register, a bit per lane
    uint32_t forced    = 0;        // lanes that need not wait for absent ones any more
    uint64_t issued    = 0;        // instructions
    std::vector<Group> groups;
    std::vector<AsyncCopy> copies;
    std::vector<IdleValue> idle;
    uint32_t committed[kLanes] = {};  // cp.async groups per lane
    uint32_t tid[3][kLanes];

    template <class T> T* reg(Ref r) { return reinterpret_cast<T*>(base[r.pool] + r.offset); }
    uint32_t& pred(Ref r) { return *reinterpret_cast<uint32_t*>(base[r.pool] + r.offset); }
};

struct BarrierState {
    uint32_t arrived  = 0;  // threads
    uint32_t expected = 0;  // 0: every live thread
    uint32_t reduced  = 0;  // bar.red: and / or / popc so far
    bool any          = false;
};

struct Launch;
struct SharedRaces;  // checker.h
struct GlobalRaces;
struct GlobalActor;

struct Block {
    Launch* launch = nullptr;
    uint32_t ctaid[3];
    uint64_t index = 0;
    std::vector<Warp> warps;
    AlignedBytes shared, local, local_shadow;  // shadows: Check::All, see checker.h
    std::vector<uint8_t> shared_shadow;
    uint32_t shared_bytes = 0, local_stride = 0;
    uint32_t live = 0;  // threads
    BarrierState barriers[16];
    std::shared_ptr<SharedRaces> races;
    GlobalActor* actor  = nullptr;     // in the launch's GlobalRaces
    int next_warp       = 0;           // in the order of the schedule: who runs first in the next turn
    bool pending_copies = false;       // a cp.async has been issued
    bool holds_unset    = false;       // bytes of shared memory have been marked as holding what nobody wrote
    std::vector<Finding> unwritten;    // a read of what nobody wrote: a race if somebody does before the next barrier
    std::vector<IdleRead> idle_reads;  // loads from shared memory that nobody wrote, as long as no harm came of it
    uint64_t issued = 0;
    bool done       = false;
    uint8_t* shadow_of_local() { return reinterpret_cast<uint8_t*>(local_shadow.data.get()); }
};

// The allocation that a memory instruction touched last, per host thread. It makes an exact bounds check cost two
// comparisons.
struct Site {
    uint64_t begin = 0, end = 0, delta = 0;
};

struct SiteCounts {  // --profile: per code index
    uint64_t warps = 0, lanes = 0;
};

struct Suspect;  // races.h

struct Worker {
    Launch* launch = nullptr;
    int number     = 0;
    bool checking = false, profiling = false;  // --check all, --profile
    std::vector<Site> sites;
    uint64_t instructions = 0;
    uint64_t rng          = 0;
    Counters counts;
    std::unordered_map<const Function*, std::vector<SiteCounts>> profile;
    std::vector<SiteCounts>* profile_now = nullptr;
    std::vector<Frame*> spare_frames;
    std::vector<Suspect> suspects;                     // overlapping writes whose values are not known yet
    std::unordered_map<const Instr*, uint64_t*> told;  // those that stored the same value: how often
    Worker();
    ~Worker();
};

struct KernelCode;  // module.h's Kernel::code: the functions of one kernel, decoded

struct Launch {
    Kernel* kernel;
    KernelCode* code;
    Function* function;
    LaunchConfig config;
    const std::byte* params;
    uint32_t param_bytes;
    uint32_t shared_bytes, local_stride;
    uint64_t workspace = 0;  // cooperative groups: address of the grid barrier
    bool check_all, profiling;
    uint32_t number;         // of this launch in the process
    std::atomic<int>* stop;  // not zero: a Fault ended the launch
    Fault fault = Fault::None;
    std::string message;
    std::mutex lock;
    double deadline;
    std::shared_ptr<GlobalRaces> races;
    uint64_t clock_base;
};

// The windows of generic addresses: not canonical on x86, so no host pointer lies in them.
constexpr uint64_t kSharedWindow = 1ull << 56, kLocalWindow = 2ull << 56, kParamWindow = 3ull << 56;
constexpr int kWindowShift = 56;

// The system's part of a block's shared memory lies behind the kernel's own and is cleared. Cooperative groups of
// several warps meet there. Only kernels that ask for its address have it.
constexpr uint32_t kReservedShared = 1024;

// Returned by a handler that stops its group, after it has stored where the group goes on.
constexpr const Instr* kStop = nullptr;

template <class D, class F> inline void for_lanes(const Warp& w, D* d, F f) {
    if (w.mask == kAll) {
#pragma GCC ivdep
        for (int l = 0; l < kLanes; l++) d[l] = f(l);
    } else {
        const uint32_t mask = w.mask;
#pragma GCC ivdep
        for (int l = 0; l < kLanes; l++) {
            const D v = f(l);
            d[l]      = mask >> l & 1 ? v : d[l];
        }
    }
}

template <class F> inline void each_lane(uint32_t mask, F f) {
    for (; mask; mask &= mask - 1) f(__builtin_ctz(mask));
}

inline constexpr struct LaneBits {
    uint32_t of[kLanes];
    constexpr LaneBits() : of() {
        for (int l = 0; l < kLanes; l++) of[l] = 1u << l;
    }
} kLaneBit;

template <class F>
inline uint32_t mask_of(F f) {  // bit l: f(l); an or over a table, which compilers turn into vector code
    uint32_t m = 0;
#pragma GCC ivdep
    for (int l = 0; l < kLanes; l++) m |= f(l) ? kLaneBit.of[l] : 0u;
    return m;
}

// Ends the launch with this fault, unless another one was first. Returns kStop, which the handler returns.
const Instr* fail_launch(Warp& w, Fault fault, const std::string& message);
// "kernel.cu:41", or the PTX line.
std::string place_of(const Function& f, const Instr* i);
std::string place_of(const Function& f, const ptx::Instruction& i);
// A Finding with kernel, source, block and thread filled in for this lane.
Finding finding_at(Warp& w, const Instr* i, Kind kind, int lane, const std::string& what);
inline uint32_t thread_of(const Warp& w, int lane) { return w.index * kLanes + lane; }

}  // namespace emu
