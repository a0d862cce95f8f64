// bench_engine.cpp - warp-instructions per second of the streams that matter, on one host thread unless EMU_THREADS
// says else
//
// Each kernel is a loop of unrolled instructions of one kind; what is counted is what the warps issued, address
// arithmetic included.
#include <cstdio>
#include <ctime>
#include <string>

#include "../tests/ptx_program.h"

using namespace emu;
using namespace emu::test;

namespace {

// A kernel whose loop body is `body`, repeated `unroll` times; %rd1 is the lane's address in a buffer of 1 MiB.
std::string kernel_of(const std::string& declarations, const std::string& before, const std::string& body, int unroll) {
    std::string text =
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 buffer, .param .u32 count)\n{\n"
        ".reg .pred %p;\n.reg .b32 %n, %t;\n.reg .b64 %rd<4>;\n" +
        declarations +
        "ld.param.u64 %rd0, [buffer];\nld.param.u32 %n, [count];\nmov.u32 %t, %tid.x;\n"
        "mul.wide.u32 %rd1, %t, 16;\nadd.u64 %rd1, %rd0, %rd1;\nmul.wide.u32 %rd2, %t, 4;\nadd.u64 %rd2, %rd0, "
        "%rd2;\n" +
        before + "LOOP:\n";
    for (int k = 0; k < unroll; k++) text += body;
    return text + "sub.u32 %n, %n, 1;\nsetp.ne.u32 %p, %n, 0;\n@%p bra LOOP;\nret;\n}\n";
}

struct Row { const char* name; double wanted; std::string ptx; int per_loop; };

// Processor time of all threads: other programs on the machine do not count.
double cpu_seconds() {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

double measure(const Row& row, uint32_t loops, Dim grid, Dim block) {
    Kernel& k = load_kernel(row.ptx, "k");
    DeviceArray<float> buffer(1 << 18);
    std::memset(buffer.host(), 0, sizeof(float) << 18);
    Memory::get().mark_written(buffer.address, sizeof(float) << 18);
    run(k, grid, block, buffer.address, 1u);  // decode, touch the pages
    double best = 0;
    for (int again = 0; again < 5; again++) {
        const double start = cpu_seconds();
        run(k, grid, block, buffer.address, loops);
        const double s = cpu_seconds() - start;
        best = std::max(best, double(loops) * row.per_loop * double(grid.count()) * double(block.count()) / 32 / s);
    }
    return best;
}

}  // namespace

int main() {
    const std::string f     = ".reg .f32 %f<20>;\n",
                      setup = "mov.f32 %f0, 0f3F000000;\nmov.f32 %f1, 0f3F800000;\nmov.f32 %f2, 0f00000000;\n";
    std::string loads, tanhs, exps, fmas, shared, mixed;
    for (int k = 0; k < 16; k++) {
        const std::string d = "%f" + std::to_string(3 + k % 16);
        fmas += "fma.rn.f32 " + d + ", " + d + ", %f1, %f0;\n";
        loads += "ld.global.f32 " + d + ", [%rd2+" + std::to_string(k * 4096) + "];\n";
        exps += "ex2.approx.ftz.f32 " + d + ", %f0;\n";
        tanhs += "tanh.approx.f32 " + d + ", %f0;\n";
        shared += "ld.shared.f32 " + d + ", [%t];\n";
    }
    std::string init = setup;
    for (int k = 3; k < 19; k++) init += "mov.f32 %f" + std::to_string(k) + ", 0f3F000000;\n";
    const std::string mma =
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f3,%f4,%f5,%f6}, {%a0,%a1,%a2,%a3}, {%a0,%a1}, "
        "{%f3,%f4,%f5,%f6};\n";
    const std::string a = ".reg .b32 %a<4>;\n.shared .align 16 .b8 tile[1024];\n";
    const std::string zero = "mov.b32 %a0, 0;\nmov.b32 %a1, 0;\nmov.b32 %a2, 0;\nmov.b32 %a3, 0;\n";
    std::string adds, conv;
    for (int k = 0; k < 16; k++)
        adds += "add.s32 %a" + std::to_string(k % 4) + ", %a" + std::to_string((k + 1) % 4) + ", 3;\n";
    const Row rows[] = {
        {"fma.rn.f32", 150e6, kernel_of(f, init, fmas, 1), 19},
        {"ld.global.f32, coalesced", 150e6, kernel_of(f, init, loads, 1), 19},
        {"add.s32", 150e6, kernel_of(a, zero, adds, 1), 19},
        {"ex2.approx.ftz.f32", 40e6, kernel_of(f, init, exps, 1), 19},
        {"tanh.approx.f32", 40e6, kernel_of(f, init, tanhs, 1), 19},
        {"mma.m16n8k16.bf16", 2e6, kernel_of(f + a, init + zero, mma, 4), 4},
    };
    std::printf("%-28s %14s %14s\n", "stream", "M/s", "wanted");
    for (const Row& row : rows) {
        const bool heavy = row.wanted < 10e6;
        const double got = measure(row, heavy ? 2000 : 20000, {8, 1, 1}, {128, 1, 1});
        std::printf("%-28s %14.1f %14.1f %s\n", row.name, got / 1e6, row.wanted / 1e6,
                    got >= row.wanted ? "" : "below");
    }
}
