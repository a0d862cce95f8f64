// counters.cpp - see counters.h
//
// Instructions are counted per place in the code while it runs, and are sorted into classes at the end of a launch. The
// L2 model has the device's L2 size, 128-byte lines and 16 ways, replaces the least recently used line, and keeps its
// contents across launches. A miss reads a 32-byte sector from DRAM, and replacing a line writes its dirty sectors.
#include "counters.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <mutex>

#include "access.h"
#include "checker.h"
#include "findings.h"
#include "kernel_code.h"
#include "options.h"
#include "spec.h"

namespace emu {
namespace {

struct Line {
    uint64_t tag    = ~0ull;
    uint64_t used   = 0;
    uint8_t present = 0, dirty = 0;
};
struct L2 {
    static constexpr size_t kWays = 16;
    std::vector<Line> lines;
    size_t sets;
    uint64_t clock = 0;  // 32 bits would overflow after some minutes
    L2() : sets(std::max<size_t>(1, device_spec().l2_bytes / 128 / kWays)) { lines.resize(sets * kWays); }

    void touch(uint64_t sector, bool write, Counters& c) {
        const uint64_t tag = sector / 4;
        const uint8_t bit  = uint8_t(1u << (sector & 3));
        Line* set          = &lines[(tag * 0x9e3779b97f4a7c15ull >> 20) % sets * kWays];
        Line* line         = nullptr;
        for (size_t k = 0; k < kWays && !line; k++)
            if (set[k].tag == tag) line = &set[k];
        if (!line) {
            line = std::min_element(set, set + kWays, [](const Line& a, const Line& b) { return a.used < b.used; });
            c.dram_written += 32u * uint64_t(__builtin_popcount(line->dirty));
            *line = {tag, 0, 0, 0};
        }
        if (!(line->present & bit) && !write) c.dram_read += 32;
        line->present |= bit;
        if (write) line->dirty |= bit;
        line->used = ++clock;
    }
    // Empties the cache and returns the bytes that were dirty.
    uint64_t empty() {
        uint64_t written = 0;
        for (Line& line : lines) written += 32u * uint64_t(__builtin_popcount(line.dirty)), line = {};
        return written;
    }
};
std::mutex lock;
L2& l2() {
    static auto* cache = new L2;
    return *cache;
}

using Table = std::map<std::string, Counters>;  // by kernel
struct Step {
    std::string name;
    Table kernels;
};
struct Report {
    std::vector<std::string> order;
    Table kernels, section, step;
    std::vector<Table> sections;
    std::vector<Step> steps;
};
Report& totals() {
    static auto* r = new Report;
    return *r;
}

const char* class_name(size_t c) {
    constexpr const char* names[] = {"integer", "float", "double", "half",    "special", "convert", "move",   "compare",
                                     "load",    "store", "atomic", "shuffle", "tensor",  "barrier", "control"};
    return names[c];
}

Class class_of(const ptx::Instruction& i) {
    const auto& n = i.mods[0];
    auto any      = [&](std::initializer_list<const char*> list) {
        return std::any_of(list.begin(), list.end(), [&](const char* s) { return n == s; });
    };
    auto typed = [&](std::initializer_list<const char*> list) {
        for (auto m : i.mods)
            for (const char* t : list)
                if (m == t) return true;
        return false;
    };
    if (any({"ld", "ldu", "ldmatrix"}) || (n == "wmma" && typed({"load"})) || n == "cp") return Class::Load;
    if (any({"st", "stmatrix"}) || (n == "wmma" && typed({"store"}))) return Class::Store;
    if (any({"atom", "red"})) return Class::Atomic;
    if (any({"mma", "wmma"}) || (n == "wgmma" && typed({"mma_async"}))) return Class::Tensor;
    if (any({"shfl", "vote", "match", "redux", "activemask", "movmatrix", "elect"})) return Class::Shuffle;
    if (any({"bar", "barrier", "membar", "fence", "mbarrier", "wgmma"})) return Class::Barrier;
    if (any({"bra", "brx", "call", "ret", "exit", "trap", "nanosleep"})) return Class::Control;
    if (any({"setp", "set", "selp", "slct", "testp"})) return Class::Compare;
    if (n == "cvt") return Class::Convert;
    if (any({"mov", "cvta", "prmt", "isspacep", "mapa"})) return Class::Move;
    if (any({"ex2", "lg2", "sin", "cos", "tanh", "rsqrt", "rcp"}) || typed({"approx", "full"})) return Class::Special;
    if (typed({"f64"})) return Class::Double;
    if (typed({"f16", "f16x2", "bf16", "bf16x2"})) return Class::Half;
    return typed({"f32"}) ? Class::Float : Class::Integer;
}

// Returns the FLOPs of one instruction: those of a lane, or for the tensor cores those of the warp.
double flops_of(const ptx::Instruction& i, Class c) {
    if (c == Class::Tensor) {
        int m = 0, n = 0, k = 0;
        for (auto mod : i.mods)
            if (std::sscanf(std::string(mod).c_str(), "m%dn%dk%d", &m, &n, &k) == 3)
                return 2.0 * m * n * k / (i.mods[0] == "wgmma" ? 4 : 1);  // four warps make one product
        return 0;
    }
    if (c != Class::Float && c != Class::Double && c != Class::Half) return 0;
    const auto& op    = i.mods[0];
    const double each = op == "fma" || op == "mad"                                                 ? 2
                        : op == "add" || op == "sub" || op == "mul" || op == "div" || op == "sqrt" ? 1
                                                                                                   : 0;
    return each * (i.mods.back().ends_with("x2") ? 2 : 1);
}

std::string quoted(const std::string& s) {
    std::string q = "\"";
    for (char ch : s)
        if (ch == '"' || ch == '\\') q += std::string("\\") + ch;
        else q += uint8_t(ch) < ' ' ? ' ' : ch;
    return q + "\"";
}

void json_of(std::ostream& out, const std::string& name, const Counters& c) {
    const DeviceSpec& d = device_spec();
    out << "{\"kernel\":" << quoted(name) << ",\"launches\":" << c.launches << ",\"blocks\":" << c.blocks
        << ",\"threads\":" << c.threads << ",\"warp_instructions\":" << c.warp_instructions
        << ",\"lane_instructions\":" << c.lane_instructions << ",\"by_class\":{";
    for (size_t k = 0; k < size_t(Class::Count); k++)
        out << (k ? "," : "") << "\"" << class_name(k) << "\":" << c.by_class[k];
    out << "},\"global_requests\":" << c.global_requests << ",\"global_bytes\":" << c.global_bytes
        << ",\"global_sectors\":" << c.global_sectors << ",\"dram_read\":" << c.dram_read
        << ",\"dram_written\":" << c.dram_written << ",\"shared_requests\":" << c.shared_requests
        << ",\"shared_wavefronts\":" << c.shared_wavefronts << ",\"shared_conflicts\":" << c.shared_conflicts
        << ",\"local_bytes\":" << c.local_bytes << ",\"atomics\":" << c.atomics << ",\"barriers\":" << c.barriers
        << ",\"flops\":" << c.flops << ",\"tensor_flops\":" << c.tensor_flops << ",\"wgmma_flops\":" << c.wgmma_flops
        << ",\"bulk_bytes\":" << c.bulk_bytes << ",\"registers\":" << c.registers
        << ",\"static_shared\":" << c.static_shared << ",\"dynamic_shared\":" << c.dynamic_shared
        << ",\"bound_by_bytes_s\":" << double(c.dram_read + c.dram_written) / d.bandwidth
        << ",\"bound_by_flops_s\":" << c.flops / d.fp32_peak + c.tensor_flops / d.bf16_peak
        << ",\"emulated_s\":" << c.seconds << "}";
}

uint64_t sectors_of(const Reach& r, uint32_t size, std::vector<uint64_t>& sectors) {
    sectors.clear();
    auto add = [&](uint64_t a, uint64_t bytes) {
        for (uint64_t s = a / 32; s <= (a + bytes - 1) / 32; s++) sectors.push_back(s);
    };
    if (r.shape == Reach::Contiguous) add(r.addr[0], uint64_t(size) * kLanes);
    else if (r.shape == Reach::Uniform) add(r.addr[__builtin_ctz(r.mask)], size);
    else {
        each_lane(r.mask, [&](int l) { add(r.addr[l], size); });
        std::sort(sectors.begin(), sectors.end());
        sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
    }
    return sectors.size();
}

}  // namespace

void Counters::add(const Counters& o) {
    launches += o.launches, blocks += o.blocks, threads += o.threads;
    warp_instructions += o.warp_instructions, lane_instructions += o.lane_instructions;
    for (size_t k = 0; k < size_t(Class::Count); k++) by_class[k] += o.by_class[k];
    global_requests += o.global_requests, global_bytes += o.global_bytes, global_sectors += o.global_sectors;
    dram_read += o.dram_read, dram_written += o.dram_written;
    shared_requests += o.shared_requests, shared_wavefronts += o.shared_wavefronts;
    shared_conflicts += o.shared_conflicts;
    local_bytes += o.local_bytes, atomics += o.atomics, barriers += o.barriers, bulk_bytes += o.bulk_bytes;
    flops += o.flops, tensor_flops += o.tensor_flops, wgmma_flops += o.wgmma_flops, seconds += o.seconds;
    registers      = std::max(registers, o.registers);
    static_shared  = std::max(static_shared, o.static_shared);
    dynamic_shared = std::max(dynamic_shared, o.dynamic_shared);
}

void count_global(Warp& w, uint32_t size, Touch touch, const Reach& r) {
    static thread_local auto& sectors = *new std::vector<uint64_t>;
    Counters& c                       = w.worker->counts;
    c.global_requests++;
    c.global_bytes += uint64_t(size) * uint64_t(__builtin_popcount(r.mask));
    c.global_sectors += sectors_of(r, size, sectors);
    if (touch == Touch::Atomic || touch == Touch::Reduce) c.atomics += uint64_t(__builtin_popcount(r.mask));
    const std::lock_guard hold(lock);
    for (uint64_t s : sectors) l2().touch(s, writes(touch), c);
}

// Shared memory has 32 banks of 4 bytes. Lanes that access the same word share it. Accesses of 8 and 16 bytes are made
// for a half or a quarter of the warp at a time.
void count_shared(Warp& w, uint32_t size, Touch touch, const Reach& r) {
    Counters& c = w.worker->counts;
    c.shared_requests++;
    if (touch == Touch::Atomic) c.atomics += uint64_t(__builtin_popcount(r.mask));
    if (r.shape == Reach::Uniform) return void(c.shared_wavefronts++);
    const int lanes_at_once = size <= 4 ? 32 : size == 8 ? 16 : 8;
    for (int from = 0; from < kLanes; from += lanes_at_once) {
        std::vector<uint64_t> words[32];
        size_t most = 0;
        for (int l = from; l < from + lanes_at_once; l++) {
            if (!(r.mask >> l & 1)) continue;
            for (uint64_t word = r.addr[l] / 4; word <= (r.addr[l] + size - 1) / 4; word++) {
                auto& bank = words[word % 32];
                if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
                most = std::max(most, bank.size());
            }
        }
        c.shared_wavefronts += most;
        c.shared_conflicts += most ? most - 1 : 0;
    }
}

void count_local(Warp& w, uint32_t size, const Reach& r) {
    w.worker->counts.local_bytes += uint64_t(size) * uint64_t(__builtin_popcount(r.mask));
}

void count(const std::string& kernel, const Counters& counters) {
    if (options().profile.empty()) return;
    const std::lock_guard hold(lock);
    Report& r                = totals();
    static const bool hooked = (at_exit(print_counters), true);
    if (hooked && !r.kernels.count(kernel)) r.order.push_back(kernel);
    r.kernels[kernel].add(counters);
    r.section[kernel].add(counters);
    r.step[kernel].add(counters);
}

void count_bytes(uint64_t address, uint64_t bytes, bool write, Counters& c) {
    if (options().profile.empty() || !bytes) return;
    const std::lock_guard hold(lock);
    for (uint64_t s = address / 32; s <= (address + bytes - 1) / 32; s++) l2().touch(s, write, c);
}

void count_section(bool begins) {
    if (options().profile.empty()) return;
    Counters left;
    {
        const std::lock_guard hold(lock);
        left.dram_written = l2().empty();
        if (begins) totals().section.clear();
    }
    if (begins) return;
    if (left.dram_written) count("(left in the L2)", left);
    const std::lock_guard hold(lock);
    totals().sections.push_back(std::move(totals().section));
    totals().section.clear();
}

void count_step(const std::string& name) {
    if (options().profile.empty()) return;
    const std::lock_guard hold(lock);
    Report& r = totals();
    if (!name.empty() || !r.step.empty()) r.steps.push_back({name, std::move(r.step)});
    r.step.clear();
}

void count_launch(Launch& l, std::vector<std::unique_ptr<Worker>>& workers, int n, double seconds) {
    Counters c;
    for (int k = 0; k < n; k++) {
        Worker& w = *workers[size_t(k)];
        c.add(w.counts);
        w.counts = {};
        for (auto& [f, counts] : w.profile)
            for (size_t at = 0; at < counts.size(); at++) {
                const SiteCounts s = counts[at];
                const auto* origin = f->origin[at];
                if (!s.warps || !origin) continue;
                if (at && f->origin[at - 1] == origin) continue;  // several handlers of one PTX instruction count once
                const Class kind = class_of(*origin);
                c.warp_instructions += s.warps, c.lane_instructions += s.lanes;
                c.by_class[size_t(kind)] += s.warps;
                const double flops = flops_of(*origin, kind);
                if (kind == Class::Tensor) c.tensor_flops += flops * double(s.warps);
                if (origin->mods[0] == "wgmma") c.wgmma_flops += flops * double(s.warps);
                if (kind != Class::Tensor) c.flops += flops * double(s.lanes);
            }
        w.profile.clear();
    }
    c.launches = 1, c.blocks = l.config.grid.count(), c.threads = c.blocks * l.config.block.count();
    c.seconds = seconds, c.registers = l.kernel->registers;
    c.static_shared = l.kernel->static_shared, c.dynamic_shared = uint32_t(l.config.dynamic_shared);
    count(l.kernel->pretty, c);
}

static void print_head(const char* what) {
    std::fprintf(stderr, "\n%-36s %7s %9s %6s %9s %7s %9s %8s %8s %9s %9s\n", what, "calls", "warp ins", "lanes",
                 "DRAM MB", "sect/rq", "shared rq", "conflict", "GFLOP", "bytes us", "FLOPs us");
}

static void print_row(const std::string& name, const Counters& c) {
    const DeviceSpec& d = device_spec();
    const double bytes  = double(c.dram_read + c.dram_written);
    auto per            = [](uint64_t a, uint64_t b) { return b ? double(a) / double(b) : 0.0; };
    std::fprintf(stderr, "%-36.36s %7llu %9.3g %5.0f%% %9.3f %7.2f %9.3g %8.3g %8.3f %9.1f %9.1f\n", name.c_str(),
                 (unsigned long long)c.launches, double(c.warp_instructions),
                 100 * per(c.lane_instructions, c.warp_instructions) / kLanes, bytes / 1e6,
                 per(c.global_sectors, c.global_requests), double(c.shared_requests), double(c.shared_conflicts),
                 (c.flops + c.tensor_flops) / 1e9, 1e6 * bytes / d.bandwidth,
                 1e6 * (c.flops / d.fp32_peak + c.tensor_flops / d.bf16_peak));
}

static void json_of(std::ostream& out, const Table& kernels) {
    out << "[";
    bool first = true;
    for (const auto& [name, c] : kernels) {
        out << (first ? "" : ",");
        json_of(out, name, c);
        first = false;
    }
    out << "]";
}

void print_counters() {
    constexpr size_t kStepsShown = 20;  // at the beginning and at the end
    Report& r                    = totals();
    const DeviceSpec& d          = device_spec();
    if (!r.steps.empty()) {
        count_step("");
        print_head("step");
        for (size_t k = 0; k < r.steps.size(); k++) {
            if (k == kStepsShown && r.steps.size() > 2 * kStepsShown) {
                k = r.steps.size() - kStepsShown;
                std::fprintf(stderr, "...\n");
            }
            Counters all;
            for (const auto& [name, c] : r.steps[k].kernels) all.add(c);
            print_row(r.steps[k].name.empty() ? "(between steps)" : r.steps[k].name, all);
        }
    }
    print_head("kernel");
    for (const auto& name : r.order) print_row(name, r.kernels[name]);
    std::fprintf(stderr,
                 "bytes us, FLOPs us: bounds for %s (%.0f GB/s, %.0f TFLOP/s fp32, %.0f bf16), not times; DRAM under "
                 "an LRU L2 of %zu MB\n",
                 d.name, d.bandwidth / 1e9, d.fp32_peak / 1e12, d.bf16_peak / 1e12, d.l2_bytes >> 20);
    std::ofstream out(options().profile);
    out << "{\"device\":\"" << d.name << "\",\"kernels\":[";
    for (size_t k = 0; k < r.order.size(); k++) {
        out << (k ? ",\n" : "\n");
        json_of(out, r.order[k], r.kernels[r.order[k]]);
    }
    out << "],\n\"sections\":[";
    for (size_t k = 0; k < r.sections.size(); k++) {
        out << (k ? ",\n" : "\n");
        json_of(out, r.sections[k]);
    }
    out << "],\n\"steps\":[";
    for (size_t k = 0; k < r.steps.size(); k++) {
        out << (k ? ",\n" : "\n") << "{\"name\":" << quoted(r.steps[k].name) << ",\"kernels\":";
        json_of(out, r.steps[k].kernels);
        out << "}";
    }
    out << "]}\n";
    if (!out) std::fprintf(stderr, "emulate: cannot write the profile to %s\n", options().profile.c_str());
}

}  // namespace emu
