// memory.h - device memory is one arena, and beside it lies one shadow byte per byte
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
inline Address address_of(const void* pointer) { return reinterpret_cast<Address>(pointer); }

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
    // Whether the program allocated it and has to free it.
    bool to_be_freed() const { return !variable && space <= Space::Managed; }
};

enum class Access : uint8_t { Read, Write };
enum class FreeResult { Ok, Unknown, Double };

// Whether operation `earlier` is sure to finish before `later` starts, in every order of the streams.
using OrderedBefore = bool (*)(uint32_t earlier, uint32_t later);

class Memory {
  public:
    static Memory& get();

    // Returns memory that is aligned to 512 bytes, filled with 0xff (NaN in every float type) and marked as unwritten;
    // 0 when the emulated device is full. Behind it lies a gap as large as itself, 512 bytes to 64 KiB, which is never
    // used, so that an overrun does not reach the next allocation.
    Address allocate(size_t bytes, Space space, const std::string& origin, bool variable = false);
    FreeResult free(Address begin, const std::string& by);  // reports DoubleFree / InvalidFree itself
    void register_host(void* begin, size_t bytes, const std::string& origin);
    bool unregister_host(void* begin);

    // find() returns the live allocation that holds the byte, find_dead() a freed one. The pointers stay valid for
    // ever.
    const Allocation* find(Address a) const;
    const Allocation* find_dead(Address a) const;
    // Says in words which allocation is at, or nearest to, this address, or where it lies as seen from `from`.
    std::string describe(Address a, const Allocation* from = nullptr) const;
    std::vector<const Allocation*> live() const;

    size_t used() const;      // bytes of Device, Async, Symbol and Heap allocations
    size_t capacity() const;  // device_spec().memory_bytes

    // The place at which the emulator reads and writes the byte. A registered or plain host pointer is its own place.
    std::byte* host(Address a) const { return reinterpret_cast<std::byte*>(in_arena(a) ? a + work_delta : a); }
    uint8_t* shadow(Address a) const { return reinterpret_cast<uint8_t*>(a + shadow_delta); }  // 1: written; arena only
    bool in_arena(Address a) const { return a - arena_begin < arena_bytes; }

    // The check of runtime and library calls. It reports what it finds in the name of `what` ("cudaMemcpyAsync",
    // "cublasLtMatmul: A") and returns whether the range may be touched at all; plain host memory always may. `op` is
    // the operation's number for race checks between streams, and 0 for a synchronous call.
    bool check(Address a, size_t bytes, Access access, const char* what, uint32_t op = 0);
    // The same for a call that takes device memory only: a plain host pointer is a finding.
    bool check_device(Address a, size_t bytes, Access access, const char* what, uint32_t op);

    // Checks, copies the bytes, and copies their shadows: unwritten bytes may be copied and stay unwritten.
    bool copy(Address dst, Address src, size_t bytes, const char* what, uint32_t op = 0);
    bool fill(Address dst, uint32_t value, size_t element_bytes, size_t count, const char* what, uint32_t op = 0);

    void mark_written(Address a, size_t bytes);
    void mark_unwritten(Address a, size_t bytes);  // poison, too
    bool written(Address a, size_t bytes) const;   // every byte

    // An operation owns host-visible memory until it is finished, and a host access meanwhile is a HostRace. The pages
    // are protected, and the fault handler tells our accesses from the program's. Registered memory is not covered.
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
