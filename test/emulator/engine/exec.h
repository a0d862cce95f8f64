// exec.h - the machine: decoded instructions, warps of 32 lanes, blocks
//
// A register is an array of 32 lanes, and a predicate is a 32-bit mask. A handler runs one decoded instruction for all
// active lanes and returns the next one. When the lanes of a warp diverge, they form groups, each with its own program
// counter. The scheduler (engine.cpp) runs the group that is deepest in calls and lowest in the code, and joins groups
// that meet.
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
struct Cluster;
struct Worker;
struct Instr;
struct Wgmma;
using Handler = const Instr* (*)(Warp&, const Instr*);

// The place of an operand: in the registers of the frame (pool 0) or among the constants of the function (pool 1).
struct Ref {
    int32_t offset = -1;
    uint32_t pool  = 0;
    bool none() const { return offset < 0; }
};

struct Instr {
    Handler run   = nullptr;
    Handler inner = nullptr;  // the guarded handler, when `run` is op::guarded
    Ref d, a, b, c;
    int64_t imm         = 0;        // an address offset, a comparison …: each handler says what
    const Instr* target = nullptr;  // of a branch
    Ref guard;
    bool guard_negated  = false;
    uint8_t flags       = 0;  // kSplits and the following
    uint8_t imm2        = 0;  // more immediates, for handlers that need them
    uint32_t imm3       = 0;
    int64_t imm4        = 0;
    uint8_t window      = 0;  // of a memory instruction: the Window in access.h
    uint8_t more_defs   = 0;  // the number of further operands that are written; they come first
    uint16_t site       = 0;  // of a memory instruction: its index in Worker::sites
    uint32_t more       = 0;  // the index of the first further operand in Function::more
    uint32_t more_count = 0;
    uint32_t index      = 0;  // in Function::code
};

// Instr::flags
constexpr uint8_t kSplits   = 1;   // may change the group, so a guard becomes a branch around it
constexpr uint8_t kOwnGuard = 2;   // the handler reads the guard itself
constexpr uint8_t kWritesC  = 4;   // c is a second result
constexpr uint8_t kLeaves   = 8;   // never goes on to the next instruction
constexpr uint8_t kReadsD   = 16;  // d is read as well as written

struct AlignedBytes {
    std::unique_ptr<std::byte[], void (*)(std::byte*)> data{nullptr, [](std::byte*) {}};
    size_t size = 0;
    void resize(size_t n);  // aligned to 64 bytes, with undefined contents
};

// A parameter or result of a device function: 32 lanes of `bytes` bytes, at an offset from Function::blob_base.
struct ParamBlob {
    std::string name;
    uint32_t offset, bytes;
};

struct Function {
    const ptx::Function* source = nullptr;
    ptx::Module* module         = nullptr;
    std::string name;
    std::vector<Instr> code;                      // one or more per PTX instruction; ends with an exit
    std::vector<const ptx::Instruction*> origin;  // per element of code
    std::vector<Ref> more;                        // operands beyond those in Instr
    std::vector<std::vector<uint32_t>> tables;    // targets of brx.idx, the blobs of calls, registers of wgmma
    AlignedBytes pool;                            // the constants, 32 lanes each
    uint32_t frame_bytes = 0;                     // the registers and parameter blobs of one warp
    uint32_t blob_base   = 0;                     // the parameter blobs come after the registers
    uint32_t live_regs   = 0;                     // an estimate of the registers that ptxas would need
    uint32_t local_bytes = 0;
    bool calls           = false;
    uint32_t pred_bytes  = 0;                // the predicates come first in a frame and are cleared when it is made
    std::vector<ParamBlob> params, results;  // of device functions
    std::vector<int> wgmma_registers;        // PTX registers that a wgmma uses, for --check all
    uint32_t sites = 0;                      // the number of memory instructions
    std::string missing;                     // why the function cannot be decoded, else empty
    int shared_granule = 2;  // log2 of the bytes of the smallest access to shared memory, for which races are recorded
};

enum class State : uint8_t { Ready, Barrier, Sync, Exited };

struct Frame {
    Frame* parent          = nullptr;
    const Instr* return_pc = nullptr;  // where the caller goes on
    Function* function     = nullptr;
    std::byte* regs        = nullptr;
    uint32_t local_base    = 0;
    uint32_t allocated     = 0;  // the bytes of alloca, which follow those of the function
    int depth              = 0;
    std::vector<uint32_t> results;  // the caller's blobs that receive the results
    int users = 0;                  // the number of groups in the frame and of frames called from it
    AlignedBytes memory;
    uint32_t local_end() const { return local_base + function->local_bytes + allocated; }
};

struct Group {
    uint32_t mask;
    const Instr* pc;
    Frame* frame;
    State state                        = State::Ready;
    uint32_t members                   = 0;   // the lanes that it waits for in State::Sync
    uint16_t barrier                   = 0;   // the number of the barrier in State::Barrier
    static constexpr uint16_t kCluster = 16;  // the number of the cluster's barrier. A block has 0 to 15
    bool at(uint16_t b) const { return state == State::Barrier && barrier == b; }
};

// A cp.async that has been issued. The copy is made at its wait, so that a missing wait gives a wrong result.
struct AsyncCopy {
    uint32_t mask, group;
    const Instr* instr;
    uint64_t dst[kLanes], src[kLanes];
    uint32_t bytes, from[kLanes];  // `from` bytes come from the source, and the others are zeros
};

// Combines the elements of `bytes` bytes with those at `at`, each by one atomic operation.
using Reduction = void (*)(std::byte* at, const std::byte* from, uint32_t bytes);

// A cp.async.bulk that has been issued. Like cp.async it is made when it is waited for: bulk.cpp.
struct BulkCopy {
    struct Piece {
        uint64_t from, to;  // global addresses, or offsets in shared memory; kFill: there is no source
        uint32_t bytes;
    };
    static constexpr uint64_t kFill = ~0ull;
    enum Way : uint8_t { ToShared, ToGlobal, Within };  // within shared memory: between blocks of a cluster
    Way way;
    Warp* warp;
    Block* block;  // the block whose shared memory is written, or read by ToGlobal
    const Instr* instr;
    Function* function;
    int lane;
    uint64_t barrier = 0;             // of ToShared and Within: the mbarrier by which the copy ends
    uint32_t group   = 0;             // of ToGlobal: the thread's group
    int polls        = 0;             // how often its mbarrier has been tested since
    uint8_t fill     = 0;             // the byte that stands outside of the tensor
    Reduction reduce = nullptr;       // of ToGlobal: combines the data with what is there; otherwise it is replaced
    bool counts      = true;          // false for a multicast copy to one more block, which reads L2 no second time
    uint64_t from = 0, to = 0;        // the range in shared memory that is read, and the one that is written
    uint32_t bytes = 0, swizzle = 0;  // the bits of the row that are added to those of the 16 bytes: bulk.cpp
    std::vector<Piece> pieces;        // with addresses in shared memory before they are swizzled
    std::vector<std::byte> data;      // what has been read from shared memory, after wait_group.read, or st.async's
    std::vector<uint64_t> knows;      // to another block, for --check all: SharedRaces::knows of its warp at its start
    bool stores() const { return way == Within && !data.empty(); }  // it is an st.async
};

// A register with lanes that hold an uninitialised value from shared memory: idle_reads.cpp.
struct IdleValue {
    Frame* frame;
    int reg;  // the PTX register
    uint32_t lanes;
    uint8_t read;  // the index in Block::idle_reads
};
struct IdleRead {
    const Instr* at;
    Finding finding;  // to report when the value is used
};

// Counts the waits in a row that failed while nothing changed in the cluster. When all its warps only wait, the cluster
// cannot go on.
struct FailedWait {
    static constexpr uint64_t kLoop = 256;        // a loop around a wait has fewer instructions
    uint64_t times = 0, issued = 0, signals = 0;  // `issued` and Cluster::signals at the last one
    const Instr* at  = nullptr;
    uint64_t barrier = 0;  // the address of the mbarrier
};

struct Warp {
    std::byte* base[2] = {};  // of the registers and of the constants, by Ref::pool
    uint32_t mask      = 0;   // the active lanes: those of the running group whose guard holds
    uint32_t started   = 0;   // the lanes with which it began
    uint32_t live      = 0;   // those that have not ended
    Block* block       = nullptr;
    Worker* worker     = nullptr;
    Frame* frame       = nullptr;  // of the running group
    uint32_t index     = 0;        // in the block
    uint32_t actor     = 0;        // its number in SharedRaces
    int current        = 0;        // the index of the running group
    uint32_t polls     = 0;        // the number of volatile loads and atomics in this turn
    int64_t unfair     = 0;        // for so many instructions the order of the groups is reversed: pick_group
    uint32_t carry     = 0;        // the carry flag of each lane
    uint32_t forced    = 0;        // lanes that need not wait for absent ones any more
    uint64_t issued    = 0;        // the number of instructions that were run
    std::vector<Group> groups;
    std::vector<AsyncCopy> copies;
    std::vector<IdleValue> idle;
    uint32_t committed[kLanes]   = {};  // the number of cp.async groups of each lane
    uint32_t bulk_groups[kLanes] = {};  // the number of cp.async.bulk groups
    FailedWait failed;
    std::shared_ptr<Wgmma> wgmma;  // the products in flight: wgmma.cpp
    uint32_t registers = 0;        // of a thread, once setmaxnreg has changed it
    uint32_t waited =
        kAll;  // the lanes that have executed griddepcontrol.wait, or all when there is nothing to wait for
    uint32_t tid[3][kLanes];
    // The lanes that have arrived at the barrier of the cluster and not waited, those of them that arrived in a phase
    // with an odd number, and the instruction of the first of them.
    uint32_t in_cluster = 0, in_odd_phase = 0;
    const Instr* arrived_at = nullptr;
    // The lanes that have arrived at each counted barrier of the block while others of the warp have not.
    uint32_t early[16]      = {};

    template <class T> T* reg(Ref r) { return reinterpret_cast<T*>(base[r.pool] + r.offset); }
    uint32_t& pred(Ref r) { return *reinterpret_cast<uint32_t*>(base[r.pool] + r.offset); }
};

struct BarrierState {
    uint32_t arrived  = 0;  // the number of threads
    uint32_t expected = 0;  // the number of threads; 0 for every live one
    uint32_t reduced  = 0;  // the result of bar.red so far
    bool any          = false;
};

struct Launch;
struct SharedRaces;  // races.h
struct GlobalRaces;
struct GlobalActor;

struct Block {
    Launch* launch   = nullptr;
    Cluster* cluster = nullptr;
    uint32_t rank    = 0;  // in the cluster
    uint32_t window  = 0;  // what is added to an offset in its shared memory when a program takes the address
    uint32_t ctaid[3];
    uint64_t index = 0;  // in the grid; the blocks of a cluster follow each other
    std::vector<Warp> warps;
    AlignedBytes shared, local, local_shadow;  // the shadows are for --check all: checker.h
    std::vector<uint8_t> shared_shadow;
    uint32_t shared_bytes = 0, local_stride = 0;
    uint32_t live = 0;  // the number of threads that have not ended
    BarrierState barriers[16];
    std::shared_ptr<SharedRaces> races;  // of the cluster, or its own when the cluster has too many warps
    uint32_t records    = 0;             // the block's number in `races`
    GlobalActor* actor  = nullptr;       // in the launch's GlobalRaces
    bool pending_copies = false;         // a cp.async has been issued
    bool holds_unset    = false;         // a byte of shared or local memory is marked with kUnset
    std::vector<BulkCopy> bulk;          // the copies that are not finished
    int64_t spare_registers = 0;         // that setmaxnreg has freed
    bool triggered          = false;     // it has executed griddepcontrol.launch_dependents
    // For --check all, per 16 bytes of shared memory: how many operations of the async proxy are going to read them.
    std::vector<uint16_t> async_reads;
    std::vector<Finding> unwritten;  // uninitialised reads, reported at the next barrier unless a race is found before
    std::vector<IdleRead> idle_reads;  // loads from uninitialised shared memory whose values are followed
    uint64_t issued = 0;
    bool done       = false;  // it has ended
    uint8_t* shadow_of_local() { return reinterpret_cast<uint8_t*>(local_shadow.data.get()); }
};

// Blocks that run at the same time, on one thread of the emulator, and can reach each other's shared memory. Without
// thread block clusters each block has its own.
struct Cluster {
    std::vector<std::unique_ptr<Block>> blocks;  // by their rank
    std::vector<Warp*> warps;                    // of all blocks
    int next_warp     = 0;  // the warp that runs first in the next turn, in the order of the schedule
    uint64_t signals  = 0;  // counts everything that happens for which a failed wait may have waited
    uint32_t phase    = 0;  // of the cluster's barrier
    bool barrier_used = false;
};

// The allocation that a memory instruction touched last, per host thread. It reduces an exact bounds check to two
// comparisons.
struct Site {
    uint64_t begin = 0, end = 0, delta = 0;
};

struct SiteCounts {  // for --profile, per element of Function::code
    uint64_t warps = 0, lanes = 0;
};

struct Suspect;  // races.h

struct Worker {
    bool checking = false, profiling = false;  // --check all, --profile
    std::vector<Site> sites;
    uint64_t instructions = 0;
    uint64_t rng          = 0;
    Counters counts;
    std::unordered_map<const Function*, std::vector<SiteCounts>> profile;
    std::vector<SiteCounts>* profile_now = nullptr;
    std::vector<Frame*> spare_frames;
    std::vector<Suspect> suspects;  // overlapping writes whose values are not known yet
    // The instructions of which an info has been reported, with the count of that info.
    std::unordered_map<const Instr*, uint64_t*> reported_infos;
    Worker();
    ~Worker();
};

struct KernelCode;  // the decoded functions of one kernel: kernel_code.h

struct Launch {
    Kernel* kernel;
    KernelCode* code;
    Function* function;
    LaunchConfig config;
    const std::byte* params;
    uint32_t param_bytes;
    uint32_t shared_bytes, local_stride;
    uint64_t workspace = 0;  // the address of cooperative groups' grid barrier
    bool check_all, profiling;
    uint32_t number;         // of this launch in the process
    std::atomic<int>* stop;  // not 0 when a fault has ended the launch
    Fault fault = Fault::None;
    std::string message;
    std::mutex lock;
    double deadline;
    std::shared_ptr<GlobalRaces> races;
    uint64_t clock_base;
    // Of a launch that may begin before the kernel in front of it has ended, for --check all: whether a thread of it
    // has waited, and whether its dependents cannot begin before that.
    bool overlaps = false;
    std::atomic<bool> waited{false}, triggers_late{false};
};

// The windows of generic addresses. These are not canonical on x86, so no host pointer lies in them.
// In a cluster of several blocks the shared memory of the block of rank r begins at (r + 1) << kRankShift, for its own
// threads, too. (On hardware it is r << 24.) Accesses by name use offsets from 0 on, which mean the own block.
constexpr int kRankShift         = 24;
constexpr uint64_t kSharedWindow = 1ull << 56, kLocalWindow = 2ull << 56, kParamWindow = 3ull << 56;
constexpr int kWindowShift = 56;

// Kernels that ask for its address have an area for the system behind their own shared memory. It is cleared.
// Cooperative groups of several warps synchronise there.
constexpr uint32_t kReservedShared = 1024;

// A handler returns this to stop its group, after it has stored where the group goes on.
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

// Returns a mask with f(l) in bit l. Compilers turn an or over a table into vector code.
template <class F> inline uint32_t mask_of(F f) {
    uint32_t m = 0;
#pragma GCC ivdep
    for (int l = 0; l < kLanes; l++) m |= f(l) ? kLaneBit.of[l] : 0u;
    return m;
}

// Ends the launch with this fault, unless it has another one already. Returns kStop, for the handler to return.
const Instr* fail_launch(Warp& w, Fault fault, const std::string& message);
// Returns "kernel.cu:41", or the PTX line without -lineinfo.
std::string place_of(const Function& f, const Instr* i);
std::string place_of(const Function& f, const ptx::Instruction& i);
// Returns a Finding with the kernel, source, block and thread of this lane.
Finding finding_at(Warp& w, const Instr* i, Kind kind, int lane, const std::string& what);
// Sets the place in the grid of the block with this Block::index.
void place_block(const LaunchConfig& config, uint64_t index, uint32_t (&at)[3]);
inline uint32_t thread_of(const Warp& w, int lane) { return w.index * kLanes + lane; }

}  // namespace emu
