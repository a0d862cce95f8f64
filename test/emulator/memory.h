// memory.h - device memory: one arena, and beside it one shadow byte per byte
//
// An address is what the program sees. Device memory is mapped there without any permission, so a host that
// dereferences it faults and we can say so; the emulator itself works through a second mapping of the same pages at
// host(address). Pinned and managed memory is readable at its own address too. While checking, a freed address is never
// used again.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace emu {

using Address = uint64_t;

enum class Space : uint8_t {
    Device,      // cudaMalloc
    Async,       // cudaMallocAsync, pools
    Pinned,      // cudaMallocHost, cudaHostAlloc
    Managed,     // cudaMallocManaged
    Registered,  // cudaHostRegister: the program's own pages, no shadow
    Symbol,      // __device__ and __constant__ variables
    Heap,        // malloc in a kernel
};

struct Allocation {
    Address begin;
    size_t bytes;
    Space space;
    std::string origin;     // "cudaMalloc from main.cu:31"
    bool variable = false;  // of the module: nobody frees it
    bool freed    = false;
    std::string freed_by;  // "cudaFree from main.cu:80"
    Address end() const { return begin + bytes; }
    bool holds(Address a, size_t n) const { return a >= begin && n <= bytes && a - begin <= bytes - n; }
};

enum class Access : uint8_t { Read, Write };
enum class FreeResult { Ok, Unknown, Double };

// Says whether operation `earlier` surely finished before `later` starts, whatever the streams do.
using OrderedBefore = bool (*)(uint32_t earlier, uint32_t later);

class Memory {
  public:
    static Memory& get();

    // 0 when the emulated device is full. 512-byte aligned, poisoned (0xff: NaN in every float type), unwritten. Behind
    // it lies a gap as large as itself (512 bytes to 64 KiB), so that an overrun does not reach the next allocation.
    Address allocate(size_t bytes, Space space, const std::string& origin, bool variable = false);
    FreeResult free(Address begin, const std::string& by);  // reports DoubleFree / InvalidFree itself
    void register_host(void* begin, size_t bytes, const std::string& origin);
    bool unregister_host(void* begin);

    // The live allocation that holds the byte; find_dead: a freed one. Pointers stay valid for ever.
    const Allocation* find(Address a) const;
    const Allocation* find_dead(Address a) const;
    // For a Finding: what is at, or nearest to, this address; or where it is as seen from an allocation.
    std::string describe(Address a, const Allocation* from = nullptr) const;
    std::vector<const Allocation*> live() const;

    size_t used() const;      // bytes of Device, Async, Symbol and Heap allocations
    size_t capacity() const;  // device_spec().memory_bytes

    // Where the emulator reads and writes the byte; a registered or plain host pointer is its own place.
    std::byte* host(Address a) const { return reinterpret_cast<std::byte*>(in_arena(a) ? a + work_delta : a); }
    uint8_t* shadow(Address a) const { return reinterpret_cast<uint8_t*>(a + shadow_delta); }  // 1: written; arena only
    bool in_arena(Address a) const { return a - arena_begin < arena_bytes; }

    // For runtime and library calls. Each reports what it finds (what: "cudaMemcpyAsync", "cublasLtMatmul: A") and says
    // whether the range may be touched at all. Plain host memory is always fine. `op` is the operation's number for
    // race checks between streams, 0 for one that is ordered with everything (a synchronous call).
    bool check(Address a, size_t bytes, Access access, const char* what, uint32_t op = 0);

    // check + memmove + shadow: unwritten bytes stay unwritten in the copy (copying them is no error by itself).
    bool copy(Address dst, Address src, size_t bytes, const char* what, uint32_t op = 0);
    bool fill(Address dst, uint32_t value, size_t element_bytes, size_t count, const char* what, uint32_t op = 0);

    void mark_written(Address a, size_t bytes);
    void mark_unwritten(Address a, size_t bytes);  // poison, too
    bool written(Address a, size_t bytes) const;   // every byte

    // An operation that is not finished owns host-visible memory: a host access meanwhile is a HostRace. Pages are
    // protected; the fault handler tells ours from the program's. Registered memory is not covered.
    void own(Address a, size_t bytes, Access access, const char* what);
    void disown(Address a, size_t bytes);

    void set_order(OrderedBefore ordered);

    Address arena_begin = 0;
    size_t arena_bytes  = 0;
    uint64_t work_delta = 0, shadow_delta = 0;

    struct State;  // memory.cpp
    State& state() { return *s; }

  private:
    Memory();
    std::unique_ptr<State> s;
};

}  // namespace emu
