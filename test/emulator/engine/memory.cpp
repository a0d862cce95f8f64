// memory.cpp - see memory.h
#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <shared_mutex>

#include "findings.h"
#include "options.h"
#include "races.h"
#include "spec.h"

namespace emu {
namespace {

constexpr size_t kGiB    = size_t(1) << 30;
constexpr uint64_t kPage = 4096, kAlign = 512, kLargestGap = 64 << 10;
constexpr size_t kPoisonLimit =
    16 << 20;  // bytes of an allocation that are poisoned without --check all, because page faults take time

bool host_visible(Space s) { return s == Space::Pinned || s == Space::Managed || s == Space::Registered; }
bool uses_device_memory(Space s) { return s != Space::Pinned && s != Space::Registered; }

std::string text_of(const Allocation& a) {
    return std::to_string(a.bytes) + " bytes at " + hex(a.begin) +
           (options().devices > 1 ? " on device " + std::to_string(a.device) : "") + " by " + a.origin +
           (a.freed ? ", freed by " + a.freed_by : "");
}

}  // namespace

struct Memory::State {
    mutable std::shared_mutex lock;
    std::map<Address, std::unique_ptr<Allocation>> live;
    std::multimap<Address, std::unique_ptr<Allocation>> freed;
    Address next = 0;
    std::map<int, size_t> used;  // bytes by device
    int file = -1;
};

Memory& Memory::get() {
    static auto* m = new Memory;  // never destroyed, because atexit handlers use it
    return *m;
}

Memory::Memory() : s(new State) {
    s->file = memfd_create("emulated device memory", MFD_CLOEXEC);
    if (s->file < 0) give_up("memfd_create failed: cannot make device memory");
    // Addresses are not used again, so the arena is larger than any device. Pages are allocated when they are touched.
    for (arena_bytes = 2048 * kGiB; arena_bytes >= 4 * kGiB; arena_bytes /= 2) {
        if (ftruncate(s->file, off_t(arena_bytes))) continue;
        void* view = mmap(nullptr, arena_bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, s->file, 0);
        void* work = mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, s->file, 0);
        void* shadows =
            mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (view != MAP_FAILED && work != MAP_FAILED && shadows != MAP_FAILED) {
            arena_begin  = reinterpret_cast<Address>(view);
            work_delta   = reinterpret_cast<Address>(work) - arena_begin;
            shadow_delta = reinterpret_cast<Address>(shadows) - arena_begin;
            s->next      = arena_begin + kPage;
            install_fault_handler();
            return;
        }
        for (void* p : {view, work, shadows})
            if (p != MAP_FAILED) munmap(p, arena_bytes);
    }
    give_up("cannot reserve address space for device memory; raise the limit (ulimit -v)");
}

Address Memory::allocate(size_t bytes, Space space, const std::string& origin, bool variable, int device) {
    const std::lock_guard hold(s->lock);
    if (uses_device_memory(space) && (bytes > capacity() || s->used[device] > capacity() - bytes)) return 0;
    const bool pages  = host_visible(space);
    const Address at  = pages ? (s->next + kPage - 1) / kPage * kPage : s->next;
    const size_t room = (std::max<size_t>(bytes, 1) + (pages ? kPage : kAlign) - 1) / (pages ? kPage : kAlign) *
                        (pages ? kPage : kAlign);
    if (room > arena_begin + arena_bytes - at) return 0;
    s->next = at + room + std::min(room, kLargestGap);
    if (pages) mprotect(reinterpret_cast<void*>(at), room, PROT_READ | PROT_WRITE);
    auto a   = std::make_unique<Allocation>();
    a->begin = at, a->bytes = bytes, a->space = space, a->origin = origin, a->variable = variable;
    a->device = device;
    if (uses_device_memory(space)) s->used[device] += bytes;
    if (!variable) std::memset(host(at), 0xff, options().check == Check::All ? bytes : std::min(bytes, kPoisonLimit));
    // The emulator does not see what the host writes to pinned and managed memory, so all of it counts as written.
    if (pages && options().check == Check::All) std::memset(shadow(at), 1, bytes);
    s->live[at] = std::move(a);
    return at;
}

FreeResult Memory::free(Address begin, const std::string& by) {
    std::unique_lock hold(s->lock);
    auto it = s->live.find(begin);
    if (it == s->live.end() || it->second->variable) {
        hold.unlock();
        const Allocation* freed = find_freed(begin);
        const bool twice        = freed && freed->begin == begin;
        if (options().check != Check::Off) {
            Finding f;
            f.kind = twice ? Kind::DoubleFree : Kind::InvalidFree;
            f.what = by + " of " + hex(begin) +
                     (twice ? ", which was freed by " + freed->freed_by : ", which is not the begin of an allocation");
            f.address    = begin;
            f.allocation = describe(begin);
            report(f);
        }
        return twice ? FreeResult::Double : FreeResult::Unknown;
    }
    auto a      = std::move(it->second);
    a->freed    = true;
    a->freed_by = by;
    s->live.erase(it);
    if (uses_device_memory(a->space)) s->used[a->device] -= a->bytes;
    // The pages are freed, but the addresses are not used again. Pages that are shared with a neighbour are kept.
    const Address from = (a->begin + kPage - 1) / kPage * kPage, to = a->end() / kPage * kPage;
    if (from < to) {
        fallocate(s->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(from - arena_begin), off_t(to - from));
        madvise(shadow(from), to - from, MADV_DONTNEED);
        forget_races(from, to - from);
    }
    if (host_visible(a->space))
        mprotect(reinterpret_cast<void*>(begin), (a->bytes + kPage - 1) / kPage * kPage, PROT_NONE);
    s->freed.emplace(begin, std::move(a));
    return FreeResult::Ok;
}

void Memory::register_host(void* begin, size_t bytes, const std::string& origin, int device) {
    const std::lock_guard hold(s->lock);
    auto a   = std::make_unique<Allocation>();
    a->begin = reinterpret_cast<Address>(begin), a->bytes = bytes, a->space = Space::Registered, a->origin = origin;
    a->device        = device;
    const Address at = a->begin;
    s->live[at]      = std::move(a);
}

bool Memory::unregister_host(void* begin) {
    const std::lock_guard hold(s->lock);
    auto it = s->live.find(reinterpret_cast<Address>(begin));
    if (it == s->live.end() || it->second->space != Space::Registered) return false;
    s->live.erase(it);
    return true;
}

// Returns the allocation of the map that holds the byte, or null.
template <class Map> static const Allocation* find_in(const Map& allocations, Address a) {
    auto it = allocations.upper_bound(a);
    if (it == allocations.begin()) return nullptr;
    const Allocation& found = *std::prev(it)->second;
    return a - found.begin < std::max<size_t>(found.bytes, 1) ? &found : nullptr;
}
const Allocation* Memory::find(Address a) const {
    const std::shared_lock hold(s->lock);
    return find_in(s->live, a);
}
const Allocation* Memory::find_freed(Address a) const {
    const std::shared_lock hold(s->lock);
    return find_in(s->freed, a);
}

std::string Memory::describe(Address a, const Allocation* from) const {
    if (const Allocation* in = find(a)) return text_of(*in);
    if (const Allocation* in = find_freed(a)) return text_of(*in);
    const std::shared_lock hold(s->lock);
    const Allocation *before = nullptr, *after = nullptr;
    auto it = s->live.upper_bound(a);
    if (it != s->live.end()) after = it->second.get();
    if (it != s->live.begin()) before = std::prev(it)->second.get();
    if (from) before = from->begin < a ? from : nullptr, after = before ? nullptr : from;
    if (before && (!after || a - before->end() <= after->begin - a))
        return std::to_string(a - before->end()) + " bytes past the end of " + text_of(*before);
    if (after) return std::to_string(after->begin - a) + " bytes before " + text_of(*after);
    return "";
}

std::vector<const Allocation*> Memory::live() const {
    const std::shared_lock hold(s->lock);
    std::vector<const Allocation*> list;
    for (const auto& [begin, a] : s->live) list.push_back(a.get());
    return list;
}

size_t Memory::used(int device) const {
    const std::shared_lock hold(s->lock);
    const auto found = s->used.find(device);
    return found == s->used.end() ? 0 : found->second;
}
size_t Memory::capacity() const { return device_spec().memory_bytes; }

std::string wrong_device(const Allocation& a, int device) {
    return ", in the memory of device " + std::to_string(a.device) + ", while this runs on device " +
           std::to_string(device) + " without peer access";
}

bool Memory::check(Address a, size_t bytes, Access access, const char* what, uint32_t op, int device) {
    if (bytes == 0) return true;
    const Allocation* in = find(a);
    if (!in && !in_arena(a)) return true;  // plain host memory
    auto say = [&](Kind kind, const std::string& text, Address at) {
        if (options().check == Check::Off) return;
        Finding f;
        f.kind = kind, f.what = text, f.kernel = what, f.address = at, f.allocation = describe(at);
        report(f);
    };
    const std::string verb = access == Access::Read ? "reads " : "writes ";
    if (!in || !in->holds(a, bytes)) {
        const bool freed = !in && find_freed(a);
        say(freed ? Kind::UseAfterFree : Kind::OutOfBounds,
            verb + std::to_string(bytes) + " bytes at " + hex(a) +
                (freed ? " of freed memory"
                 : in  ? ", past the end of the allocation"
                       : ", outside of every allocation"),
            in ? in->begin : a);
        return false;
    }
    if (device != kAnyDevice && !in->usable_on(device)) {
        say(Kind::OutOfBounds, verb + std::to_string(bytes) + " bytes at " + hex(a) + wrong_device(*in, device), a);
        return false;
    }
    if (options().check != Check::All || !in_arena(a)) return true;
    if (access == Access::Read && !written(a, bytes)) {
        size_t k = 0;
        while (shadow(a)[k]) k++;
        say(Kind::Uninitialised,
            "reads " + std::to_string(bytes) + " bytes at " + hex(a) + "; the byte at offset " + std::to_string(k) +
                " was never written",
            a + k);
    }
    note_api_access(a, bytes, access == Access::Write, what, op);
    return true;
}

bool Memory::check_device(Address a, size_t bytes, Access access, const char* what, uint32_t op, int device) {
    if (bytes == 0 || in_arena(a) || find(a)) return check(a, bytes, access, what, op, device);
    Finding f{Kind::OutOfBounds};
    f.what    = "a host pointer was given where device memory is expected";
    f.kernel  = what;
    f.address = a;
    report(f);
    return false;
}

bool Memory::copy(Address dst, Address src, size_t bytes, const char* what, uint32_t op) {
    if (bytes == 0) return true;
    const bool all = options().check == Check::All;
    // Unwritten bytes may be copied, so the source counts as written while its bounds and races are checked.
    std::vector<uint8_t> state;
    if (all && in_arena(src)) {
        const Allocation* in = find(src);
        if (in && in->holds(src, bytes)) {
            state.assign(shadow(src), shadow(src) + bytes);
            std::memset(shadow(src), 1, bytes);
        }
    }
    const bool good = check(src, bytes, Access::Read, what, op) && check(dst, bytes, Access::Write, what, op);
    if (!state.empty()) std::memcpy(shadow(src), state.data(), bytes);
    if (!good) return false;
    std::memmove(host(dst), host(src), bytes);
    if (all && in_arena(dst)) {
        if (state.empty()) std::memset(shadow(dst), 1, bytes);
        else std::memcpy(shadow(dst), state.data(), bytes);
    }
    return true;
}

bool Memory::fill(Address dst, uint32_t value, size_t element, size_t count, const char* what, uint32_t op) {
    if (!check(dst, element * count, Access::Write, what, op)) return false;
    std::byte* p = host(dst);
    if (element == 1) std::memset(p, int(value), count);
    else
        for (size_t k = 0; k < count; k++) std::memcpy(p + k * element, &value, element);
    mark_written(dst, element * count);
    return true;
}

void Memory::mark_written(Address a, size_t bytes) {
    if (options().check == Check::All && in_arena(a)) std::memset(shadow(a), 1, bytes);
}
void Memory::mark_unwritten(Address a, size_t bytes) {
    if (!in_arena(a)) return;
    std::memset(host(a), 0xff, bytes);
    if (options().check == Check::All) std::memset(shadow(a), 0, bytes);
}
bool Memory::written(Address a, size_t bytes) const {
    if (options().check != Check::All || !in_arena(a)) return true;
    return bytes == 0 || !std::memchr(shadow(a), 0, bytes);
}

}  // namespace emu
