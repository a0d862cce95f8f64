// bench_engine.cpp - warp-instructions per second of important instructions, and the figures that they should reach
//
// A kernel is a loop of unrolled instructions of one kind. All instructions that the warps issue are counted, including
// those of the loop. "bench TEXT" runs the streams of instructions whose name contains TEXT. Options are read once per
// process, so the bench starts itself for each way of running. The ways that are compared run one right after the
// other, in several rounds, because the speed of the machine varies.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "../tests/ptx_program.h"

using namespace emu;
using namespace emu::test;

namespace {

constexpr int kUnroll = 16, kOverhead = 3;      // the instructions of the loop itself are sub, setp and bra
constexpr double kSlower = 2.5, kFaster = 1.7;  // the figures that --check all and --threads 2 should reach
constexpr int kRounds = 5;

struct Stream {
    const char* name;
    double wanted;     // warp-instructions per second, or 0
    std::string body;  // the unrolled instructions
    int count      = kUnroll;
    uint32_t loops = 20000;
};

// Each block has 64 KiB of its own at %q. The addresses of thread t are %q + 4 t in %rd, %q + 2 t in %half, %q + 16 t
// in %wide and %q + 512 t in %far. Its addresses in shared memory are 4 t in %s, 16 t in %t and 132 (t mod 32) in %u.
// %f0 … %f19 are floats, and %a0 … %a3 are words.
std::string kernel_of(const Stream& stream) {
    std::string text =
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 buffer, .param .u32 count)\n{\n"
        ".reg .pred %p;\n.reg .b32 %n, %tid, %s, %t, %u, %a<4>;\n.reg .b64 %q, %rd, %wide, %far, %half;\n"
        ".reg .f32 %f<20>;\n.reg .b16 %h;\n.shared .align 16 .b8 tile[16384];\n"
        "ld.param.u64 %q, [buffer];\nld.param.u32 %n, [count];\nmov.u32 %tid, %tid.x;\n"
        "mov.u32 %s, %ctaid.x;\nmad.wide.u32 %q, %s, 65536, %q;\n"
        "mad.wide.u32 %rd, %tid, 4, %q;\nmad.wide.u32 %wide, %tid, 16, %q;\nmad.wide.u32 %half, %tid, 2, %q;\n"
        "mad.wide.u32 %far, %tid, 512, %q;\n"
        "and.b32 %u, %tid, 31;\nmul.lo.u32 %u, %u, 132;\nshl.b32 %s, %tid, 2;\nshl.b32 %t, %tid, 4;\nmov.b16 %h, 0;\n";
    for (int k = 0; k < 20; k++) text += "mov.f32 %f" + std::to_string(k) + ", 0f3F000000;\n";
    for (int k = 0; k < 4; k++) text += "mov.b32 %a" + std::to_string(k) + ", 0;\n";
    for (int k = 0; k < 16; k++) text += "st.shared.f32 [%s+" + std::to_string(k * 512) + "], %f0;\n";
    return text + "bar.sync 0;\nLOOP:\n" + stream.body +
           "sub.u32 %n, %n, 1;\nsetp.ne.u32 %p, %n, 0;\n@%p bra LOOP;\nret;\n}\n";
}

// Repeats the text 16 times. # becomes a register, and @ an offset, a multiple of `stride`, that differ each time.
std::string unrolled(const std::string& text, int stride = 0) {
    std::string all;
    for (int k = 0; k < kUnroll; k++)
        for (char c : text)
            all += c == '#'   ? "%f" + std::to_string(4 + k % 16)
                   : c == '@' ? std::to_string(k * stride)
                              : std::string(1, c);
    return all;
}

std::vector<Stream> streams(const std::string& filter) {
    const std::string mma =
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4,%f5,%f6,%f7}, {%a0,%a1,%a2,%a3}, {%a0,%a1}, "
        "{%f4,%f5,%f6,%f7};\n";
    std::vector<Stream> all = {
        {"fma.rn.f32", 150e6, unrolled("fma.rn.f32 #, #, %f1, %f0;\n")},
        {"add.s32", 0, unrolled("add.s32 %a0, %a1, 3;\n")},
        {"ld.global.f32 coalesced", 150e6, unrolled("ld.global.f32 #, [%rd+@];\n", 4096)},
        {"ld.global.v4 coalesced", 0, unrolled("ld.global.v4.f32 {%f0,%f1,%f2,%f3}, [%wide+@];\n", 4096), 16, 5000},
        {"ld.global.u16 coalesced", 0, unrolled("ld.global.u16 %h, [%half+@];\n", 4096)},
        {"ld.global.f32 far apart", 0, unrolled("ld.global.f32 #, [%far+@];\n", 4), 16, 2000},
        {"st.global.f32 coalesced", 0, unrolled("st.global.f32 [%rd+@], #;\n", 4096)},
        {"ld.shared.f32", 0, unrolled("ld.shared.f32 #, [%s+@];\n", 512)},
        {"ld.shared.f32 by columns", 0, unrolled("ld.shared.f32 #, [%u+@];\n", 4), 16, 5000},
        {"ld.shared.v4", 0, unrolled("ld.shared.v4.f32 {%f0,%f1,%f2,%f3}, [%t];\n"), 16, 5000},
        {"st.shared.f32", 0, unrolled("st.shared.f32 [%s+@], #;\n", 512)},
        {"ex2.approx.ftz.f32", 40e6, unrolled("ex2.approx.ftz.f32 #, %f0;\n")},
        {"tanh.approx.f32", 40e6, unrolled("tanh.approx.f32 #, %f0;\n")},
        {"mma.m16n8k16.bf16", 2e6, unrolled(mma), 16, 500},
    };
    std::erase_if(all, [&](const Stream& s) { return std::string(s.name).find(filter) == std::string::npos; });
    return all;
}

double seconds(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
}

// Prints warp-instructions per second of a stream, by the processor time of all threads and by the wall clock.
void measure(const Stream& stream) {
    const Dim grid{16, 1, 1}, block{128, 1, 1};
    Kernel& k = load_kernel(kernel_of(stream), "k");
    DeviceArray<float> buffer(1 << 18);
    std::memset(buffer.host(), 0, sizeof(float) << 18);
    Memory::get().mark_written(buffer.address, sizeof(float) << 18);
    run(k, grid, block, buffer.address, 1u);  // decodes the kernel and touches the pages
    const double issued =
        double(stream.loops) * (stream.count + kOverhead) * double(grid.count()) * double(block.count()) / 32;
    const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), wall = seconds(CLOCK_MONOTONIC);
    run(k, grid, block, buffer.address, stream.loops);
    std::printf("%g %g\n", issued / (seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu),
                issued / (seconds(CLOCK_MONOTONIC) - wall));
}

// A way of running: so many programs at once, each with so many threads.
struct Way {
    const char* check;
    int threads, programs;
};
constexpr Way kOne{"memory", 1, 1}, kAll{"all", 1, 1}, kTwo{"memory", 2, 1}, kTwoAll{"all", 2, 1},
    kPrograms{"memory", 1, 2};

struct Rates {
    double cpu = 0, wall = 0;  // the sums over all programs
};
Rates run_as(const Way& way, const std::string& program, const Stream& stream) {
    setenv("EMU_CHECK", way.check, 1);
    setenv("EMU_THREADS", std::to_string(way.threads).c_str(), 1);
    std::vector<FILE*> copies;
    for (int i = 0; i < way.programs; i++)
        copies.push_back(popen(('"' + program + "\" measure '" + stream.name + "' 2>/dev/null").c_str(), "r"));
    Rates sum;
    for (FILE* copy : copies) {
        Rates r;
        if (!copy || std::fscanf(copy, "%lg %lg", &r.cpu, &r.wall) != 2 || pclose(copy)) {
            std::fprintf(stderr, "bench: %s failed with --check %s --threads %d\n", stream.name, way.check,
                         way.threads);
            std::exit(1);
        }
        sum.cpu += r.cpu, sum.wall += r.wall;
    }
    return sum;
}

}  // namespace

int main(int argc, char** argv) {
    const bool child         = argc > 1 && std::string(argv[1]) == "measure";
    const std::string filter = argc > 1 + child ? argv[1 + child] : "";
    if (child) {
        for (const Stream& s : streams(filter))
            if (s.name == filter) measure(s);
        return 0;
    }
    std::printf(
        "M/s: millions of warp-instructions per second of processor time, with one thread and bounds checks.\n"
        "check all: how many times slower --check all is (wanted: at most %.1f).\n"
        "2 threads: how many times faster two threads are, with either check (wanted: at least %.1f).\n"
        "2 programs: how many times more two programs at once do, which is the most that the machine can give.\n"
        "All figures are medians of %d rounds, in each of which the ways run one after the other.\n\n",
        kSlower, kFaster, kRounds);
    std::printf("%-26s %8s %8s %12s %12s %14s %14s\n", "stream", "M/s", "wanted", "check all", "2 threads",
                "2, check all", "2 programs");
    bool good = true;
    auto mark = [&](bool fine) { return good &= fine, fine ? ' ' : '!'; };
    for (const Stream& s : streams(filter)) {
        std::vector<double> rate, slower, faster, faster_checked, machine;
        for (int round = 0; round < kRounds; round++) {
            auto as         = [&](const Way& way) { return run_as(way, argv[0], s); };
            const Rates one = as(kOne), two = as(kTwo), programs = as(kPrograms), all = as(kAll), two_all = as(kTwoAll);
            rate.push_back(one.cpu);
            slower.push_back(one.cpu / all.cpu);
            faster.push_back(two.wall / one.wall);
            faster_checked.push_back(two_all.wall / all.wall);
            machine.push_back(programs.wall / one.wall);
        }
        std::printf("%-26s %7.1f%c ", s.name, median(rate) / 1e6, mark(median(rate) >= s.wanted));
        if (s.wanted > 0) std::printf("%8.0f ", s.wanted / 1e6);
        else std::printf("%8s ", "");
        std::printf("%11.2f%c ", median(slower), mark(median(slower) <= kSlower));
        std::printf("%11.2f%c ", median(faster), mark(median(faster) >= kFaster));
        std::printf("%13.2f%c %13.2f\n", median(faster_checked), mark(median(faster_checked) >= kFaster),
                    median(machine));
    }
    if (!good) std::printf("\n! is worse than wanted\n");
}
