// findings.cpp - see findings.h
#include "findings.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "options.h"
#include "summary.h"

namespace emu {

// A function of cudart/ that turns the call sites in a text into file and line. It is null without cudart/.
__attribute__((weak)) std::string resolve_sites(const std::string& text);

namespace {

struct Seen {
    uint64_t times = 0;
    bool info;
};

struct Reports {
    std::mutex lock;
    std::map<std::string, Seen> places;  // by kind, kernel and source: each is printed once and then counted
    uint64_t count = 0;
    std::vector<void (*)()> hooks;
    Summary summary;
};
Reports& reports() {
    static auto* r = new Reports;  // never destroyed, because atexit handlers report findings, too
    return *r;
}

void print_summary() {
    Reports& r        = reports();
    uint64_t findings = 0, infos = 0;
    for (const auto& [place, seen] : r.places) (seen.info ? infos : findings) += seen.times;
    if (!r.summary.launches && !findings && !infos) return;
    const char* check = options().check == Check::All ? "all" : options().check == Check::Memory ? "memory" : "off";
    auto counted      = [](uint64_t n, const char* one, const char* many) {
        return std::to_string(n) + " " + (n == 1 ? one : many);
    };
    std::string line = "emulate: " + counted(r.summary.launches, "launch", "launches") + " of " +
                       counted(r.summary.kernels.size(), "kernel", "kernels") + ", check " + check + ", " +
                       counted(findings, "finding", "findings");
    if (infos) line += ", " + counted(infos, "info", "infos");
    std::fprintf(stderr, "%s\n", line.c_str());
}

void finish() {
    Reports& r = reports();
    for (size_t k = 0; k < r.hooks.size(); k++) r.hooks[k]();
    print_summary();
    if (r.count) {
        std::fflush(stdout);
        _exit(86);
    }
}

// Registers finish() when the library is loaded, so that it runs after the program's own handlers.
__attribute__((constructor)) void install() { std::atexit(finish); }

}  // namespace

Summary& summary() { return reports().summary; }

const char* name(Kind kind) {
    switch (kind) {
        case Kind::OutOfBounds: return "out of bounds";
        case Kind::Misaligned: return "misaligned access";
        case Kind::UseAfterFree: return "use after free";
        case Kind::DoubleFree: return "double free";
        case Kind::InvalidFree: return "invalid free";
        case Kind::Leak: return "leak";
        case Kind::Uninitialised: return "uninitialised";
        case Kind::SharedRace: return "shared-memory race";
        case Kind::WarpRace: return "race between warps";
        case Kind::GlobalRace: return "race between blocks";
        case Kind::StreamRace: return "race between streams";
        case Kind::EarlyRace: return "race of an early launch";
        case Kind::BarrierDivergence: return "barrier divergence";
        case Kind::AbsentLane: return "absent lane";
        case Kind::AsyncCopyRace: return "cp.async data before its wait";
        case Kind::ProxyFence: return "missing proxy fence";
        case Kind::Transaction: return "mbarrier transaction";
        case Kind::WgmmaRegisters: return "wgmma registers in use";
        case Kind::RegisterBudget: return "register budget";
        case Kind::HostRace: return "host access to memory in use";
        case Kind::HostDereference: return "host access to device memory";
        case Kind::Deadlock: return "deadlock";
        case Kind::Collective: return "collective mismatch";
        case Kind::UncheckedLaunch: return "unchecked launch";
        case Kind::SameValueOverlap: return "same-value overlap";
        case Kind::BarrierFence: return "mbarrier without a proxy fence";
        case Kind::WarpExchange: return "order by an exchange alone";
    }
    return "finding";
}

bool is_info(Kind kind) { return kind >= Kind::UncheckedLaunch; }

uint64_t& report(const Finding& f) {
    Reports& r = reports();
    const std::lock_guard hold(r.lock);
    const bool info = is_info(f.kind);
    Seen& seen      = r.places[std::string(name(f.kind)) + "|" + f.kernel + "|" + f.source];
    seen.info       = info;
    r.count += !info;
    if (seen.times++ && (info || options().keep_going)) return seen.times;

    std::fflush(stdout);
    std::string text = "emulate: " + std::string(info ? "info: " : "") + name(f.kind) + ": " + f.what + "\n";
    if (!f.kernel.empty()) text += "    in " + f.kernel + (f.source.empty() ? "" : " at " + f.source) + "\n";
    if (f.in_kernel) {
        char where[128];
        std::snprintf(where, sizeof where, "    block (%u,%u,%u) thread (%u,%u,%u)\n", f.block[0], f.block[1],
                      f.block[2], f.thread[0], f.thread[1], f.thread[2]);
        text += where;
    }
    if (!f.allocation.empty()) text += "    " + f.allocation + "\n";
    std::fputs((resolve_sites ? resolve_sites(text) : text).c_str(), stderr);
    if (info || options().keep_going) return seen.times;
    print_summary();
    std::fflush(stderr);
    _exit(86);
}

std::string hex(uint64_t v) {
    char text[32];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
    return text;
}

void at_exit(void (*hook)()) { reports().hooks.push_back(hook); }

void give_up(const std::string& why) {
    std::fflush(stdout);
    std::fprintf(stderr, "emulate: %s\n", why.c_str());
    std::fflush(stderr);
    _exit(1);
}

}  // namespace emu
