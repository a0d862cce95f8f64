// memory.h - device memory: one arena with a shadow byte per byte
//
// The program sees addresses in the arena, which is mapped without any permission. A host that dereferences one faults,
// and the fault becomes a finding. The emulator itself works through a second mapping of the same pages, at
// host(address). Pinned and managed memory is accessible at its own address, too. Freed addresses are not used again.
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
    Registered,  // cudaHostRegister: the program's own pages, which have no shadow
    Symbol,      // __device__ variables
    Constant,    // __constant__ variables
    Heap,        // malloc in a kernel
};

struct Allocation {
    Address begin;
    size_t bytes;
    Space space;
    std::string origin;     // "cudaMalloc from main.cu:31"
    bool variable = false;  // a variable of a module, which is never freed
    int device    = 0;      // on which it was allocated
    bool freed    = false;
    std::string freed_by;  // "cudaFree from main.cu:80"
    Address end() const { return begin + bytes; }
    bool holds(Address a, size_t n) const { return a >= begin && n <= bytes && a - begin <= bytes - n; }
    // Whether kernels of a device may use it. There is no peer access.
    bool usable_on(int other) const {
        return device == other || space == Space::Pinned || space == Space::Managed || space == Space::Registered;
    }
    // Whether the program has to free it.
    bool to_be_freed() const { return !variable && space <= Space::Managed; }
};

enum class Access : uint8_t { Read, Write };
enum class FreeResult { Ok, Unknown, Double };

// Returns whether operation `earlier` finishes before `later` starts in every order of the streams.
using OrderedBefore = bool (*)(uint32_t earlier, uint32_t later);
// What an operation follows in its stream or graph: the number of that operation, or 0 when there is none, when there
// are several, or when the host has waited for it. overlaps: both are kernels, and the second was launched with
// programmatic stream serialization, so it may begin before the first has ended.
struct Follows {
    uint32_t op   = 0;
    bool overlaps = false;
};
using FollowedBy = Follows (*)(uint32_t op);

std::string wrong_device(const Allocation& a, int device);  // says that a kernel of this device may not use it

class Memory {
  public:
    static Memory& get();

    // Returns memory that is aligned to 512 bytes, filled with 0xff (NaN in every float type) and marked as unwritten,
    // or 0 when the emulated device is full. A gap of the same size, but at most 64 KiB, follows and is never used, so
    // that an overrun does not reach the next allocation.
    Address allocate(size_t bytes, Space space, const std::string& origin, bool variable = false, int device = 0);
    FreeResult free(Address begin, const std::string& by);  // reports DoubleFree and InvalidFree
    void register_host(void* begin, size_t bytes, const std::string& origin, int device);
    bool unregister_host(void* begin);

    // find() returns the live allocation that holds the byte, find_freed() a freed one. They stay valid forever.
    const Allocation* find(Address a) const;
    const Allocation* find_freed(Address a) const;
    // Describes the allocation that holds this address or is nearest to it, or the address in relation to `from`.
    std::string describe(Address a, const Allocation* from = nullptr) const;
    std::vector<const Allocation*> live() const;

    size_t used(int device) const;  // bytes of allocations other than pinned and registered memory
    size_t capacity() const;        // device_spec().memory_bytes

    // The emulator's own pointer to the byte. For a registered or plain host pointer it is the same pointer.
    std::byte* host(Address a) const { return reinterpret_cast<std::byte*>(in_arena(a) ? a + work_delta : a); }
    uint8_t* shadow(Address a) const {
        return reinterpret_cast<uint8_t*>(a + shadow_delta);
    }  // in the arena; 1: written
    bool in_arena(Address a) const { return a - arena_begin < arena_bytes; }

    // Checks an access by the runtime or a library. Findings are reported in the name of `what` ("cudaMemcpyAsync",
    // "cublasLtMatmul: A"). Returns whether the range may be touched at all; plain host memory always may. `op` is the
    // operation's number for race checks between streams, and 0 for a synchronous call. `device` is where a kernel of a
    // library runs; copies and fills reach the memory of every device.
    static constexpr int kAnyDevice = -1;
    bool check(Address a, size_t bytes, Access access, const char* what, uint32_t op = 0, int device = kAnyDevice);
    // Does the same for a call that takes device memory only: a plain host pointer is a finding.
    bool check_device(Address a, size_t bytes, Access access, const char* what, uint32_t op, int device);

    // Checks both ranges and copies the bytes with their shadows. Unwritten bytes may be copied and stay unwritten.
    bool copy(Address dst, Address src, size_t bytes, const char* what, uint32_t op = 0);
    bool fill(Address dst, uint32_t value, size_t element_bytes, size_t count, const char* what, uint32_t op = 0);

    void mark_written(Address a, size_t bytes);
    void mark_unwritten(Address a, size_t bytes);  // fills them with 0xff, too
    bool written(Address a, size_t bytes) const;   // whether every byte has been written

    // An operation owns host-visible memory until it has finished, and a host access meanwhile is a HostRace. The pages
    // are protected, so that the access faults. Registered memory is not covered.
    void own(Address a, size_t bytes, Access access, const char* what);
    void disown(Address a, size_t bytes);

    void set_order(OrderedBefore ordered, FollowedBy followed);

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
