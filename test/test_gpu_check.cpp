// test_gpu_check.cpp - scripts/gpu_check.sh as it runs in an archive on a machine with a GPU, where programs and
// NVIDIA's tools are stand-ins that print what the real ones print
#include <filesystem>

#include "test/catch.h"
#include "test/programs.h"
#include "test/scratch.h"

namespace fs = std::filesystem;

namespace {

// A folder like that which `make dist` makes, and one with the tools.
struct FakeMachine {
    Scratch s;
    FakeMachine() {
        fs::create_directories(s / "archive/libexec");
        for (const char* name : {"gpu_check.sh", "test_parallel.sh"})
            fs::copy_file(std::string("scripts/") + name, s / (std::string("archive/libexec/") + name));
        program("archive/libexec/test_gpt", R"sh(
case "$1" in
--list-test-names-only) printf '%s\n' "layernorm" "matmul, of [one] row" "gelu"; exit 3 ;;
esac
[ "$1" = --input-file ] || exit 9
! grep -q '[^\\],' "$2" || exit 9  # a comma separates names, as in Catch2
echo "All tests passed ($(wc -l <"$2") assertions in $(wc -l <"$2") test cases)"
)sh");
        program("archive/bin/train_gpt", R"sh(
[ "$1" != --version ] || { echo "train_gpt of gpt.cu abc1234, CUDA 13.0"; exit; }
while [ $# -gt 0 ]; do
    case "$1" in
    --out) out=$2 ;;
    --tune) tune=1 ;;
    esac
    shift
done
mkdir -p "$out"
echo '{"event":"start","startup_s":1.25}' >"$out/log.jsonl"
for i in 1 2 3 4 5; do echo "{\"event\":\"step\",\"step\":$i,\"ms\":56.$i,\"tokens_per_s\":583000.$i,\"peak\":0.5}" >>"$out/log.jsonl"; done
echo '{"event":"end","fingerprint":"0123"}' >>"$out/log.jsonl"
[ -z "${tune:-}" ] || printf '%s\n' '"product": "a",' '"us": 80.1,' '"first_us": 90.2' >"$out/products.json"
)sh");
        program("archive/bin/infer_gpt",
                "echo '400 tokens of prompt in 0.010 s · 400 tokens at 5123.4 tokens/s' >&2\n");
        program("archive/libexec/bench_ops", R"sh(
case "$*" in
*--hardware*) exec "$BENCH_OPS" "$@" ;;
*--compare-attention*)
    echo "NVIDIA H100 80GB HBM3 · 16 threads · copy 2960.0 GB/s"
    echo "attention forward D 64 T 1024, mma bf16         172 us  300123.0 GFLOP/s    37% of 802000"
    echo "attention forward D 64 T 1024, hopper bf16      140 us  368000.0 GFLOP/s    45% of 802000" ;;
*--profiled*) ;;
*)
    echo "rope, a quarter of D         bf16          41 us    1036.0 GB/s       35% of 2960.0"
    echo "attention decode             bf16          40 us    2600.0 GB/s       88% of 2960.0" ;;
esac
)sh");
        write_text(s / "archive/libexec/bench_attention.py", "");
        write_text(s / "archive/libexec/counts.json",
                   nlohmann::json{{"kernels",
                                   {{{"kernel", "void gpu::add_kernel<8, bf16>(bf16*)"},
                                     {"launches", 1},
                                     {"dram_read", 1000000},
                                     {"shared_conflicts", 0},
                                     {"shared_wavefronts", 0},
                                     {"warp_instructions", 1000}}}}}
                       .dump());
        program("tools/nvidia-smi", R"sh(
case "$*" in
"--query-gpu=name --format=csv,noheader") echo "NVIDIA H100 80GB HBM3" ;;
-L) echo "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)" ;;
*) echo "NVIDIA H100 80GB HBM3, 580.159, 81559 MiB, 1980 MHz, 2619 MHz, 700.00 W, 31" ;;
esac
)sh");
        program("tools/python3", R"sh(
echo "PyTorch 2.11.0 on NVIDIA H100 80GB HBM3, cuDNN 91002"
echo "attention forward D 64 T 1024, cuDNN  bf16 153 us 336700.0 GFLOP/s"
echo "FlashAttention refuses D 128 T 4096: No available kernel. Aborting execution."
)sh");
        program("tools/compute-sanitizer", R"sh(
echo "========= COMPUTE-SANITIZER"
echo "========= ERROR SUMMARY: 0 errors"
)sh");
        program("tools/ncu", R"sh(
echo "==PROF== Connected to process 7 (bench_ops)"
echo "==PROF== Profiling \"add_kernel\" - 0: 0%....50%....100% - 2 passes"
echo "==PROF== Disconnected from process 7"
echo '"ID","Process ID","Kernel Name","gpu__time_duration.sum","dram__bytes_read.sum","l1tex__data_bank_conflicts_pipe_lsu.sum","l1tex__data_pipe_lsu_wavefronts_mem_shared.sum","smsp__inst_executed.sum"'
echo '"","","","ns","byte","","",""'
echo '"0","7","void gpu::add_kernel<(int)8, bf16>(T2 *)","1,500","1,010,000","0","0","1,200"'
)sh");
    }
    void program(const std::string& path, const std::string& script) const {
        fs::create_directories(fs::path(s / path).parent_path());
        write_text(s / path, "#!/bin/bash\n" + script);
        fs::permissions(s / path, fs::perms::owner_all);
    }
    // Runs the script and returns what it prints.
    Ran check_once(const std::string& words, const std::string& environment = "") const {
        return shell(s, "BENCH_OPS=" + quoted(fs::absolute(build_folder()).string() + "/bench_ops") +
                            " PATH=" + quoted(s / "tools") + ":$PATH LD_LIBRARY_PATH= " + environment + " " +
                            quoted(s / "archive/libexec/gpu_check.sh") + " --to " + quoted(s / "out") + " " + words);
    }
    // The same, where the one report has all of it as well.
    Ran check(const std::string& words) const {
        const Ran r = check_once(words);
        for (const auto& e : fs::directory_iterator(s / "out"))
            CHECK_THAT(r.out, Catch::Contains(read_text(e.path().string())));
        return r;
    }
};

}  // namespace

TEST_CASE("gpu_check.sh runs every part, and sets what it measured beside the targets", "[programs]") {
    const FakeMachine machine;
    const Ran r = machine.check("--minutes 10");
    CAPTURE(r.out, r.err);
    CHECK(r.code == 0);
    CHECK(missing_words(r.out, {"NVIDIA H100 80GB HBM3 · train_gpt of gpt.cu abc1234", "580.159, 81559 MiB",
                                "passed: 3 of 3 test cases, 3 assertions",
                                "--model gpt2-xl --dtype bf16 --context 1024 --batch 8 --steps 12 --graph: 56.4",
                                "ready in 1.25 s",
                                "timed products: 1, of which another than cuBLASLt's first choice is faster: 1",
                                "64 at once: 400 tokens of prompt", "1 at once, no early launch: 400 tokens",
                                "forward D 64 T 1024           300      368      337               -",
                                "FlashAttention refuses D 128 T 4096", "PyTorch 2.11.0", "verdict: 1 of the 1 kernels",
                                "memcheck: ========= ERROR SUMMARY: 0 errors", "initcheck: ",
                                "skipped: there is one GPU", "verdict: every part that was run passed"}) == "");
    const auto row = [&](const std::string& name) {
        const size_t at = r.out.rfind("\n" + name);
        REQUIRE(at != std::string::npos);
        return r.out.substr(at + 1, r.out.find('\n', at + 1) - at - 1);
    };
    CHECK_THAT(row("GPT-2 124M, batch 32 "), Catch::Contains("583000") && Catch::Contains("1.01  reached"));
    CHECK_THAT(row("start-up of GPT-2 1558M"), Catch::Contains("<1.5") && Catch::Contains("1.20  reached"));
    CHECK_THAT(row("generation, 64 at once"), Catch::Contains("5123.4") && Catch::Contains("0.05"));
    CHECK_THAT(row("attention forward D 64 T 1024 hopper"), Catch::Contains("1.05  reached"));
    CHECK_THAT(row("rope, a quarter of D bf16"), Catch::Contains("35") && Catch::Contains("0.41"));
    CHECK_THAT(row("layernorm backward bf16"), Catch::Contains(" - "));
    CHECK_THAT(row("kernels of ten"), Catch::Contains("0.10"));
}

TEST_CASE("gpu_check.sh names what fails, and ends with a report whatever happens", "[programs]") {
    const FakeMachine machine;
    machine.program("tools/ncu", R"sh(
echo "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters on the target device 0."
exit 1
)sh");
    machine.program("tools/python3", "echo \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1\n");
    machine.program("tools/compute-sanitizer", R"sh(
case "$*" in
*initcheck*) echo "========= Error: No attachable process found. compute-sanitizer timed-out." ;;
*) echo "========= Invalid __global__ write of size 4 bytes"; echo "========= ERROR SUMMARY: 1 error"; exit 9 ;;
esac
)sh");
    machine.program("archive/bin/infer_gpt", "echo 'error: out of memory' >&2; exit 1\n");
    machine.program("archive/bin/train_gpt", "case \"$*\" in *'--batch 64 --graph'*) exit 1 ;; esac\n" +
                                                 read_text(machine.s / "archive/bin/train_gpt"));
    // As Catch2 ends where a check failed.
    machine.program("archive/libexec/test_gpt", R"sh(
[ "$1" != --list-test-names-only ] || { printf '%s\n' layernorm matmul gelu; exit 3; }
! grep -q gelu "$2" || { echo "test cases: 1 | 0 passed | 1 failed"; echo "assertions: 5 | 3 passed | 2 failed"; exit 2; }
echo "All tests passed ($(wc -l <"$2") assertions in $(wc -l <"$2") test cases)"
)sh");
    const Ran r = machine.check("--minutes 10");
    CAPTURE(r.out, r.err);
    CHECK(r.code == 1);
    CHECK(missing_words(r.out, {"passed: 2 of 3 test cases, 5 assertions", "ERR_NVGPUCTRPERM",
                                "No module named 'torch'", "Invalid __global__ write", "initcheck: no summary",
                                "error: out of memory", "== targets for an H100", "368", "verdict: FAILED in ",
                                "training GPT-2 124M, batch 8, 32, 64; generation, GPT-2 124M bf16; ncu; "
                                "compute-sanitizer over every op"}) == "");

    // Tests that hang are stopped when their time is over, also when they do not mind SIGTERM.
    machine.program("archive/libexec/test_gpt", R"sh(
[ "$1" != --list-test-names-only ] || { echo "one"; exit 1; }
trap '' TERM
echo "this test hangs"
sleep 100 & wait; wait; sleep 100
)sh");
    const Ran slow =
        shell(machine.s, "PATH=" + quoted(machine.s / "tools") + ":$PATH LD_LIBRARY_PATH= timeout -s INT 3 " +
                             quoted(machine.s / "archive/libexec/gpu_check.sh") + " --minutes 4 --to " +
                             quoted(machine.s / "slow"));
    CAPTURE(slow.out);
    CHECK_THAT(slow.out, Catch::Contains("verdict: FAILED: it was stopped by a signal after "));
    CHECK(shell(machine.s, "grep -h verdict " + quoted(machine.s / "slow") + "/*").code == 0);
}

TEST_CASE("gpu_check.sh keeps earlier reports, and stops where programs cannot use the GPU", "[programs]") {
    const FakeMachine machine;
    CHECK(machine.check("--minutes 4").code == 0);
    machine.program("archive/libexec/bench_ops", "echo 'error: the driver is too old' >&2; exit 2\n");
    const Ran r = machine.check_once("--minutes 4");
    CAPTURE(r.out, r.err);
    CHECK(r.code == 2);
    CHECK(missing_words(r.out, {"error: the driver is too old", "verdict: FAILED: our programs cannot use this GPU",
                                "-2.txt"}) == "");
    CHECK(shell(machine.s, "ls " + quoted(machine.s / "out") + " | wc -l").out == "2\n");

    // Of two GPUs, programs may see one.
    machine.program("tools/nvidia-smi", "[ \"$1\" = -L ] && printf 'GPU %s\\n' 0 1 || echo NVIDIA H100\n");
    machine.program("archive/libexec/bench_ops", "");
    const auto skipped = Catch::Contains("skipped: there is one GPU");
    CHECK_THAT(machine.check_once("--minutes 4", "CUDA_VISIBLE_DEVICES=1").out, skipped);
    CHECK_THAT(machine.check_once("--minutes 4", "CUDA_VISIBLE_DEVICES=1,0").out, !skipped);
    CHECK_THAT(machine.check_once("--minutes 4", "env -u CUDA_VISIBLE_DEVICES").out, !skipped);
}
