// launch.cpp - runs a kernel from its first block to its last
#include "launch.h"

#include <algorithm>
#include <deque>
#include <map>
#include <thread>
#include <utility>

#include "bulk.h"
#include "checker.h"
#include "handlers.h"
#include "kernel_code.h"
#include "options.h"
#include "races.h"
#include "spec.h"
#include "summary.h"
#include "wgmma.h"

namespace emu {
namespace {

constexpr uint32_t kCallStack  = 64 << 10;  // local memory per thread when a kernel calls functions
constexpr int64_t kBlockTurn   = 1 << 20;   // instructions before the next block or cluster gets a turn
constexpr int64_t kCooperative = 1 << 14;   // the same in a cooperative launch, where blocks wait for each other

std::unique_ptr<Block> make_block(Launch& launch, Worker& worker, Cluster& cluster, uint64_t index) {
    auto b         = std::make_unique<Block>();
    const Dim size = launch.config.block;
    b->launch      = &launch;
    b->cluster     = &cluster;
    b->index       = index;
    b->rank        = uint32_t(index % launch.config.cluster.count());
    b->window      = launch.config.cluster.count() > 1 ? (b->rank + 1) << kRankShift : 0;
    place_block(launch.config, index, b->ctaid);
    b->live         = uint32_t(size.count());
    b->shared_bytes = launch.shared_bytes;
    b->local_stride = launch.local_stride;
    const int warps = int((b->live + kLanes - 1) / kLanes);
    b->shared.resize(b->shared_bytes + 64);
    std::memset(b->shared.data.get(), 0xff, b->shared.size);
    if (launch.code->layout.reserved_shared)
        std::memset(b->shared.data.get() + b->shared_bytes - kReservedShared, 0, kReservedShared);
    if (b->local_stride) b->local.resize(size_t(warps) * kLanes * b->local_stride);
    b->warps.resize(size_t(warps));
    for (int k = 0; k < warps; k++) {
        Warp& w              = b->warps[size_t(k)];
        w.block              = b.get();
        w.worker             = &worker;
        w.index              = uint32_t(k);
        const uint32_t lanes = std::min<uint32_t>(kLanes, b->live - uint32_t(k) * kLanes);
        w.live = w.started = lanes == kLanes ? kAll : (1u << lanes) - 1;
        w.waited           = launch.overlaps ? 0 : kAll;
        for (uint32_t l = 0; l < uint32_t(kLanes); l++) {
            const uint32_t t = uint32_t(k) * kLanes + l;
            w.tid[0][l]      = t % size.x;
            w.tid[1][l]      = t / size.x % size.y;
            w.tid[2][l]      = t / size.x / size.y;
        }
        w.groups.push_back(
            {w.live, launch.function->code.data(), new_frame(worker, *launch.function), State::Ready, 0, 0});
    }
    return b;
}

// Makes the n-th cluster.
std::unique_ptr<Cluster> make_cluster(Launch& launch, Worker& worker, uint64_t n) {
    auto c            = std::make_unique<Cluster>();
    const auto blocks = launch.config.cluster.count();
    for (uint64_t rank = 0; rank < blocks; rank++) {
        c->blocks.push_back(make_block(launch, worker, *c, n * blocks + rank));
        for (Warp& w : c->blocks.back()->warps) c->warps.push_back(&w);
    }
    if (launch.check_all) checker_cluster(*c);
    return c;
}

}  // namespace

void end_block(Block& b) {
    if (std::exchange(b.done, true)) return;
    end_bulk(b);
    end_wgmma(b);
    report_unwritten(b);
    if (b.launch->check_all && !b.launch->stop->load()) end_shared_races(b);
    if (!b.triggered && std::any_of(b.warps.begin(), b.warps.end(), [](const Warp& w) { return w.waited; }))
        b.launch->triggers_late.store(true);  // the end of a block is its trigger
    for (Warp& w : b.warps)
        for (Group& g : w.groups)
            if (g.state != State::Exited) release_frame(*w.worker, g.frame);
}

namespace {

// Returns the index of the n-th cluster to run.
uint64_t nth_cluster(uint64_t n, uint64_t count) {
    const Options& o = options();
    if (o.schedule == Schedule::Reverse) return count - 1 - n;
    if (o.schedule != Schedule::Random || count < 2) return n;
    // Multiplication by a number that has no common factor with count is a permutation.
    uint64_t step = (o.schedule_arg * 2654435761u + 0x9e3779b9u) % count | 1;
    auto gcd      = [](uint64_t a, uint64_t b) {
        while (b) std::swap(a %= b, b);
        return a;
    };
    while (gcd(step, count) != 1) step++;
    return (uint64_t((unsigned __int128)(n)*step % count) + o.schedule_arg % count) % count;
}

struct Clusters {
    std::atomic<uint64_t> next{0};
    uint64_t count, resident;
};

void end_cluster(Cluster& c) {
    for (auto& b : c.blocks) end_block(*b);
}

// Runs clusters until none is left. When a cluster waits for another one, at a grid barrier or for a flag, the next one
// is started, up to as many as the device would hold at once.
void work(Launch& launch, Worker& worker, Clusters& clusters) {
    std::deque<std::unique_ptr<Cluster>> waiting;
    const bool together = launch.config.cooperative;
    auto take           = [&]() -> std::unique_ptr<Cluster> {
        const uint64_t n = clusters.next.fetch_add(1);
        return n < clusters.count ? make_cluster(launch, worker, nth_cluster(n, clusters.count)) : nullptr;
    };
    if (together)
        while (auto c = take()) waiting.push_back(std::move(c));
    for (;;) {
        if (launch.stop->load()) break;
        std::unique_ptr<Cluster> c;
        if (!together && waiting.size() < clusters.resident) c = take();
        if (!c) {
            if (waiting.empty()) break;
            c = std::move(waiting.front());
            waiting.pop_front();
        }
        if (run_cluster(*c, together ? kCooperative : kBlockTurn)) end_cluster(*c);
        else waiting.push_back(std::move(c));
    }
    for (auto& c : waiting) end_cluster(*c);
}

// Returns the memory of cooperative groups' grid barrier. The layout is that of its driver interface: the word is at 4.
uint64_t grid_workspace(int device) {
    static auto& of_device = *new std::map<int, Address>;
    Memory& m              = Memory::get();
    Address& at            = of_device[device];
    if (!at) at = m.allocate(4096, Space::Symbol, "workspace of cooperative launches", true, device);
    std::memset(m.host(at), 0, 4096);
    m.mark_written(at, 4096);
    return at;
}

std::vector<std::unique_ptr<Worker>>& workers() {
    static auto* list = new std::vector<std::unique_ptr<Worker>>;
    return *list;
}

uint32_t launches     = 0;
uint64_t clock_so_far = 0;

}  // namespace

Worker::Worker()  = default;
Worker::~Worker() = default;

std::vector<std::byte> pack_arguments(const Kernel& kernel, void** args) {
    std::vector<std::byte> packed(std::max<uint32_t>(kernel.param_bytes, 1));
    for (size_t k = 0; k < kernel.params.size(); k++)
        std::memcpy(packed.data() + kernel.params[k].offset, args[k], kernel.params[k].bytes);
    return packed;
}

LaunchResult launch(Kernel& kernel, const LaunchConfig& config, const std::vector<std::byte>& arguments) {
    const auto code = code_of(kernel);
    if (!code) return {Fault::Missing, why_missing(kernel.module, kernel.name)};
    Function* f = code->get(code->source);
    if (!f->missing.empty()) {
        std::fprintf(stderr, "emulate: missing: %s\n", f->missing.c_str());
        return {Fault::Missing, f->missing};
    }
    if (config.grid.count() == 0 || config.block.count() == 0) return {};
    const Options& o = options();
    std::atomic<int> stop{0};
    Launch l{};
    l.kernel       = &kernel;
    l.code         = code.get();
    l.function     = f;
    l.config       = config;
    l.params       = arguments.data();
    l.param_bytes  = uint32_t(arguments.size());
    l.shared_bytes = kernel.static_shared;
    if (config.dynamic_shared) l.shared_bytes = code->layout.dynamic_at + uint32_t(config.dynamic_shared);
    if (code->layout.reserved_shared) l.shared_bytes = (l.shared_bytes + 15) / 16 * 16 + kReservedShared;
    l.local_stride = f->local_bytes + (f->calls ? kCallStack : 0);
    l.check_all    = o.check == Check::All;
    l.profiling    = !o.profile.empty();
    l.number       = ++launches;
    l.stop         = &stop;
    l.deadline     = now() + patience();
    l.clock_base   = clock_so_far;
    if (config.cooperative) l.workspace = grid_workspace(config.device);
    if (l.check_all) checker_launch(l);
    summary().launches++;
    summary().kernels.insert(kernel.name);

    const double start = now();
    Clusters clusters;
    const uint64_t size = config.cluster.count();
    clusters.count      = config.grid.count() / size;
    const int fit       = std::max(1, blocks_per_sm(kernel, int(config.block.count()), config.dynamic_shared));
    const int n         = int(std::min<uint64_t>(uint64_t(std::max(1, o.threads)), clusters.count));
    clusters.resident   = std::max<uint64_t>(1, uint64_t(fit) * uint64_t(device_spec().sms) / size / uint64_t(n));
    while (int(workers().size()) < n) workers().push_back(std::make_unique<Worker>());
    for (int k = 0; k < n; k++) {
        Worker& w      = *workers()[size_t(k)];
        w.checking     = l.check_all;
        w.profiling    = l.profiling;
        w.instructions = 0;
        w.rng          = o.schedule_arg * 1000003 + l.number * 97 + uint64_t(k);
        w.sites.assign(65536, Site{});  // functions share the sites, because each numbers its own from 0
    }
    if (n == 1) work(l, *workers()[0], clusters);
    else {
        std::vector<std::thread> threads;
        for (int k = 0; k < n; k++) threads.emplace_back([&, k] { work(l, *workers()[size_t(k)], clusters); });
        for (auto& t : threads) t.join();
    }
    if (l.check_all) checker_launch_end(l);
    for (int k = 0; k < n; k++) clock_so_far += workers()[size_t(k)]->instructions;
    if (l.profiling) count_launch(l, workers(), n, now() - start);
    return {l.fault, l.message};
}

int blocks_per_sm(const Kernel& kernel, int threads, size_t dynamic_shared) {
    const DeviceSpec& d = device_spec();
    const int warps     = (threads + kLanes - 1) / kLanes;
    if (threads < 1 || threads > kernel.max_threads) return 0;
    const size_t shared = kernel.static_shared + dynamic_shared;
    if (shared > size_t(d.shared_per_block_optin)) return 0;
    // A warp gets registers in units of 256. A block gets shared memory in units of 128 bytes and 1 KiB for the system.
    const int registers = (std::max(kernel.registers, 1) * kLanes + 255) / 256 * 256;
    const int by_regs   = d.registers_per_sm / (registers * warps);
    const int by_warps  = d.threads_per_sm / (warps * kLanes);
    const int by_shared = int(size_t(d.shared_per_sm) / ((shared + 127) / 128 * 128 + 1024));
    return std::min({d.blocks_per_sm, by_regs, by_warps, by_shared});
}

int clusters_on_device(const Kernel& kernel, int threads, size_t dynamic_shared, uint64_t cluster_blocks) {
    // NVIDIA does not say how many SMs a GPC has. On the H100 with 132 SMs it is 16 or 18.
    constexpr int kGpc = 16;
    const int fit = blocks_per_sm(kernel, threads, dynamic_shared), sms = device_spec().sms;
    const auto of = [&](int gpc) { return int(uint64_t(fit) * uint64_t(gpc) / cluster_blocks); };
    return sms / kGpc * of(kGpc) + of(sms % kGpc);
}

void place_block(const LaunchConfig& config, uint64_t index, uint32_t (&at)[3]) {
    const Dim grid = config.grid, size = config.cluster;
    const uint64_t cluster = index / size.count(), rank = index % size.count();
    const uint64_t across = grid.x / size.x, down = grid.y / size.y;
    at[0] = uint32_t(cluster % across * size.x + rank % size.x);
    at[1] = uint32_t(cluster / across % down * size.y + rank / size.x % size.y);
    at[2] = uint32_t(cluster / across / down * size.z + rank / size.x / size.y);
}

const Instr* fail_launch(Warp& w, Fault fault, const std::string& message) {
    Launch& l = *w.block->launch;
    const std::lock_guard hold(l.lock);
    if (l.fault == Fault::None) {
        l.fault   = fault;
        l.message = message;
    }
    l.stop->store(1);
    return kStop;
}

std::string place_of(const Function& f, const Instr* i) {
    const size_t at = size_t(i - f.code.data());
    if (i < f.code.data() || at >= f.origin.size() || !f.origin[at]) return "";
    return place_of(f, *f.origin[at]);
}

std::string place_of(const Function& f, const ptx::Instruction& p) {
    auto text = [&](int number, int line) {
        const auto file = f.module->files.find(number);
        return line && file != f.module->files.end() ? file->second + ":" + std::to_string(line) : std::string();
    };
    const std::string inner = text(p.file, p.source_line), outer = text(p.outer_file, p.outer_line);
    if (!inner.empty()) return outer.empty() || outer == inner ? inner : inner + ", inlined at " + outer;
    return "PTX line " + std::to_string(p.line) + " (" + p.form + "; build with -lineinfo to see the source line)";
}

Finding finding_at(Warp& w, const Instr* i, Kind kind, int lane, const std::string& what) {
    Finding f;
    f.kind      = kind;
    f.what      = what;
    f.kernel    = w.block->launch->kernel->pretty;
    f.in_kernel = true;
    for (int k = 0; k < 3; k++) f.block[k] = w.block->ctaid[k], f.thread[k] = w.tid[k][lane];
    const Function* function = w.frame ? w.frame->function : w.block->launch->function;
    f.source                 = place_of(*function, i);
    return f;
}

}  // namespace emu
