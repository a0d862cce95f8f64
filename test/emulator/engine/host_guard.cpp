// host_guard.cpp - the fault handler, which finds host accesses to device memory and to memory that is in use
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <list>
#include <mutex>

#include "findings.h"
#include "options.h"
#include "races.h"

namespace emu {
namespace {

constexpr uint64_t kPage = 4096;
struct sigaction previous;
std::mutex owners_lock;
auto& owners = *new std::list<HostOwner>;

void protect(Address a, size_t bytes, int how) {
    const Address from = a / kPage * kPage, to = (a + bytes + kPage - 1) / kPage * kPage;
    mprotect(reinterpret_cast<void*>(from), to - from, how);
}

// Sets the permissions of the pages of [a, a+bytes) to what the remaining owners allow.
void refresh(Address a, size_t bytes) {
    for (Address page = a / kPage * kPage; page < a + bytes; page += kPage) {
        int how = PROT_READ | PROT_WRITE;
        for (const auto& o : owners)
            if (o.begin < page + kPage && o.begin + o.bytes > page)
                how &= o.access == Access::Write ? PROT_NONE : PROT_READ;  // the host may read what an owner reads
        protect(page, 1, how);
    }
}

// This is not async-signal-safe in general. But the fault comes from a plain load or store of the program.
void on_fault(int signal, siginfo_t* info, void* context) {
    const auto a   = reinterpret_cast<Address>(info->si_addr);
    Memory& memory = Memory::get();
    auto chain     = [&] {
        if (previous.sa_flags & SA_SIGINFO && previous.sa_sigaction)
            return previous.sa_sigaction(signal, info, context);
        sigaction(signal, &previous, nullptr);  // the instruction faults again, with the default action
    };
    if (!memory.in_arena(a)) return chain();
    const Allocation* in = memory.find(a);
    const bool visible   = in && (in->space == Space::Pinned || in->space == Space::Managed);
    Finding f;
    f.address    = a;
    f.allocation = memory.describe(a);
    char text[256];
    if (visible) {
        const std::lock_guard hold(owners_lock);
        auto owner = std::find_if(owners.begin(), owners.end(),
                                  [&](const HostOwner& o) { return a >= o.begin && a < o.begin + o.bytes; });
        // The page holds memory of an owner, but the address is beside it. The access may pass, and the page is no
        // longer watched.
        if (owner == owners.end()) return protect(a, 1, PROT_READ | PROT_WRITE);
        std::snprintf(text, sizeof text, "the host touches 0x%llx, which an unfinished %s %s", (unsigned long long)a,
                      owner->what.c_str(), owner->access == Access::Write ? "is going to write" : "is reading");
        f.kind = Kind::HostRace;
    } else {
        std::snprintf(text, sizeof text, "the host dereferences 0x%llx, which is %s", (unsigned long long)a,
                      in ? "device memory" : "in the device's address range");
        f.kind = Kind::HostDereference;
    }
    f.what              = text;
    const auto* machine = static_cast<const ucontext_t*>(context);
    char site[64];  // for resolve_sites, which expects a return address, one byte after the instruction
    std::snprintf(site, sizeof site, "the program at @{%llx}",
                  (unsigned long long)machine->uc_mcontext.gregs[REG_RIP] + 1);
    f.kernel = site;
    if (options().check != Check::Off) report(f);
    if (visible) return protect(a, 1, PROT_READ | PROT_WRITE);
    return chain();
}

}  // namespace

void install_fault_handler() {
    struct sigaction ours = {};
    ours.sa_sigaction     = on_fault;
    ours.sa_flags         = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &ours, &previous);
}

void Memory::own(Address a, size_t bytes, Access access, const char* what) {
    if (!bytes || !in_arena(a) || options().check == Check::Off) return;
    const Allocation* in = find(a);
    if (!in || (in->space != Space::Pinned && in->space != Space::Managed)) return;
    const std::lock_guard hold(owners_lock);
    owners.push_back({a, bytes, access, what});
    refresh(a, bytes);
}

void Memory::disown(Address a, size_t bytes) {
    const std::lock_guard hold(owners_lock);
    auto it = std::find_if(owners.begin(), owners.end(),
                           [&](const HostOwner& o) { return o.begin == a && o.bytes == bytes; });
    if (it == owners.end()) return;
    owners.erase(it);
    refresh(a, bytes);
}

}  // namespace emu
