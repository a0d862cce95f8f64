// test_programs.cpp - the programs in programs/, built by nvcc and run as a user runs them
//
// A program in good/ must print "ok" and have no finding under every schedule. The mistake of a program in bad/ must be
// found with its kind, file and line and, if the source names them, its block and thread. The same program with one
// argument more is its fixed twin, which must have no finding. A program with several cases takes the case as its first
// argument, and the line of a case is marked "// <- case". If the schedule decides which of two kinds is found, the
// head names both ("// finding: … or …").
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <sstream>

#include "catch.h"

namespace fs = std::filesystem;

namespace {

const fs::path sources = "test/emulator/programs", programs = "build/emulator/programs";

struct Result {
    int code;
    std::string output;
};
Result run(const std::string& command, const std::string& environment = "MALLOC_PERTURB_=165") {
    Result result{};
    // MALLOC_PERTURB_ lets glibc overwrite freed memory, so that a use after free in the emulator itself is noticed.
    FILE* pipe = popen((environment + " timeout 300 " + command + " 2>&1").c_str(), "r");
    if (!pipe) return {-1, "cannot start " + command};
    char buffer[4096];
    while (const size_t n = fread(buffer, 1, sizeof buffer, pipe)) result.output.append(buffer, n);
    result.code = WEXITSTATUS(pclose(pipe));
    return result;
}

// A source's head ("// finding: …", "// check: …", "// options: …", "// cases: …") and its marked lines.
struct Program {
    fs::path source;
    std::map<std::string, std::string> says;
    std::vector<std::pair<int, std::string>> marked;  // the number of a line, and the text after its mark
    std::string place;                                // "block (3,0,0) thread (232,0,0)"
    std::string command(const std::string& options) const {
        const fs::path binary = programs / source.parent_path().filename() / source.stem();
        return "scripts/emulate " + (says.count("options") ? says.at("options") + " " : "") + options + " " +
               binary.string();
    }
    std::vector<std::string> list(const std::string& key) const {
        std::vector<std::string> words;
        std::stringstream text(says.count(key) ? says.at(key) : "");
        for (std::string word; std::getline(text >> std::ws, word, ',');) words.push_back(word);
        return words.empty() ? std::vector<std::string>{""} : words;
    }
    bool built() const { return fs::exists(programs / source.parent_path().filename() / source.stem()); }
};
Program read(const fs::path& source) {
    Program program{source, {}, {}, {}};
    std::ifstream file(source);
    std::string line;
    for (int number = 1; std::getline(file, line); number++) {
        for (const char* key : {"finding", "info", "check", "options", "cases", "costs"})
            if (line.rfind(std::string("// ") + key + ": ", 0) == 0)
                program.says[key] = line.substr(std::strlen(key) + 5);
        const size_t mark = line.find("// <-");
        if (mark == std::string::npos) continue;
        program.marked.push_back({number, line.substr(mark + 5)});
        int block = 0, thread = 0;
        if (std::sscanf(line.c_str() + mark, "// <- block %d, thread %d", &block, &thread) == 2)
            program.place = "block (" + std::to_string(block) + ",0,0) thread (" + std::to_string(thread) + ",0,0)";
    }
    return program;
}

std::vector<Program> collection(const char* folder) {
    std::vector<Program> all;
    for (const auto& entry : fs::directory_iterator(sources / folder))
        if (entry.path().extension() == ".cu" && read(entry.path()).built()) all.push_back(read(entry.path()));
    std::sort(all.begin(), all.end(), [](const Program& a, const Program& b) { return a.source < b.source; });
    if (all.empty()) WARN("programs/" << folder << " is not built (no nvcc): skipped");
    return all;
}

const char* schedules[] = {"--schedule barrier --streams eager",     "--schedule rr:1 --streams late",
                           "--schedule rr:7 --streams random:1",     "--schedule reverse --streams late",
                           "--schedule random:1 --streams random:2", "--schedule random:2 --sms 8"};

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
// Whether the text has a finding of this kind, or of one of the two in "… or …".
bool has_kind(const std::string& text, const std::string& kind) {
    const size_t split = kind.find(" or ");
    if (split == std::string::npos) return has(text, kind + ":");
    return has(text, kind.substr(0, split) + ":") || has(text, kind.substr(split + 4) + ":");
}

}  // namespace

TEST_CASE("known-good programs are right and clean under every schedule", "[programs]") {
    for (const Program& program : collection("good"))
        for (const std::string options : schedules) {
            const std::string command = program.command("--check all " + options);
            const Result result       = run(command);
            INFO(command << "\n" << result.output);
            CHECK(result.code == 0);
            CHECK((has(result.output, "ok\n") && !has(result.output, "1 finding")));
        }
}

TEST_CASE("known-good programs are right with two host threads", "[programs]") {
    for (const Program& program : collection("good")) {
        const std::string command = program.command("--threads 2");
        const Result result       = run(command);
        INFO(command << "\n" << result.output);
        CHECK(result.code == 0);
    }
}

TEST_CASE("known-bad programs are found, their fixed twins are clean, under every schedule", "[programs]") {
    for (const Program& program : collection("bad")) {
        const bool info        = program.says.count("info");
        const std::string kind = program.says.at(info ? "info" : "finding");
        const std::string check =
            "--check " + (program.says.count("check") ? program.says.at("check") : "memory") + " ";
        for (const std::string& which : program.list("cases"))
            for (const std::string options : schedules) {
                const std::string command = program.command(check + options) + " " + which;
                auto fixed                = std::async(std::launch::async, [&] { return run(command + " fixed"); });
                const Result bad = run(command), twin = fixed.get();
                INFO(command << "\n" << bad.output);
                CHECK(has_kind(bad.output, kind));
                CHECK(bad.code == (info ? 0 : 86));
                bool line = program.marked.empty();
                for (const auto& [number, of] : program.marked)
                    line =
                        line || (has(bad.output, program.source.filename().string() + ":" + std::to_string(number)) &&
                                 (of.empty() || of[1] == 'b' || has(of, which)));
                CHECK(line);
                CHECK(has(bad.output, program.place));
                INFO("fixed twin:\n" << twin.output);
                CHECK(twin.code == 0);
                CHECK(!has_kind(twin.output, kind));
            }
    }
}

TEST_CASE("products of bf16 are right on processors for which oneDNN has none", "[programs]") {
    if (!fs::exists(programs / "good/cublaslt_layer")) return;
    for (const char* most : {"SSE41", "AVX2"}) {
        const Result result =
            run("scripts/emulate build/emulator/programs/good/cublaslt_layer", std::string("DNNL_MAX_CPU_ISA=") + most);
        INFO(most << "\n" << result.output);
        CHECK(result.code == 0);
        CHECK(has(result.output, "ok\n"));
    }
}

TEST_CASE("a failed assertion is printed for each lane, and the kernel is named once", "[programs]") {
    if (!fs::exists(programs / "good/asserts")) return;
    const std::string text = run("scripts/emulate " + (programs / "good/asserts").string()).output;
    INFO(text);
    size_t lines = 0;
    for (size_t at = 0; (at = text.find("Assertion `", at)) != std::string::npos; at++) lines++;
    CHECK(lines == 4);
    CHECK(has(text, "emulate: below(int): device-side assert"));
}

TEST_CASE("printf prints widths and returns the number of its arguments", "[programs]") {
    if (!fs::exists(programs / "good/print")) return;
    const std::string text = run("scripts/emulate " + (programs / "good/print").string()).output;
    INFO(text);
    CHECK(has(text, "from -7 42 1099511627776  3.14 c % ff device\n"));
    CHECK(has(text, "[   ab][cd  ][he]\n[    7] [-3]\n"));
    CHECK(has(text, "\nwide" + std::string(596, ' ') + "\n100%\nok\n"));
}

TEST_CASE("an access in front of shared memory is described as one", "[programs]") {
    if (!fs::exists(programs / "bad/out_of_bounds_shared")) return;
    const std::string text =
        run("scripts/emulate " + (programs / "bad/out_of_bounds_shared").string() + " before").output;
    INFO(text);
    CHECK(has(text, "4 bytes before the beginning of shared memory"));
}

TEST_CASE("every block runs once in a random order of any seed", "[programs]") {
    if (!fs::exists(programs / "good/vector_add")) return;
    const Result result =
        run("scripts/emulate --schedule random:18446744073709551615 " + (programs / "good/vector_add").string());
    INFO(result.output);
    CHECK(has(result.output, "ok\n"));
}

TEST_CASE("without a device or with an old driver every call says so", "[programs]") {
    if (!fs::exists(programs / "good/vector_add")) return;
    for (const auto& [option, text] : std::map<std::string, std::string>{
             {"--devices 0", "no CUDA-capable device is detected"},
             {"--driver 11.8", "CUDA driver version is insufficient for CUDA runtime version"}}) {
        const Result result = run("scripts/emulate " + option + " " + (programs / "good/vector_add").string());
        INFO(option << "\n" << result.output);
        CHECK(result.code == 1);
        CHECK(has(result.output, text));
    }
}

TEST_CASE("what the emulator lacks is named", "[programs]") {
    if (!fs::exists(programs / "good/devices")) return;
    const std::string text = run("scripts/emulate --devices 2 " + (programs / "good/devices").string()).output;
    INFO(text);
    CHECK(has(text, "the emulator lacks peer access between devices: cudaErrorPeerAccessUnsupported"));
}

TEST_CASE("--check all costs at most three times what memory does, whatever the kernel does", "[.costs]") {
    const Program program = read(sources / "good/costs.cu");
    if (!program.built()) return;
    for (const std::string& which : program.list("costs")) {
        const auto seconds = [&](const std::string& check) {  // returns the least processor time of three runs
            double least = 1e9;
            for (int k = 0; k < 3; k++) {
                rusage before, after;
                getrusage(RUSAGE_CHILDREN, &before);
                REQUIRE(run(program.command("--check " + check) + " " + which, "").code == 0);
                getrusage(RUSAGE_CHILDREN, &after);
                const auto used = [](const rusage& r) {
                    return double(r.ru_utime.tv_sec) + 1e-6 * double(r.ru_utime.tv_usec);
                };
                least = std::min(least, used(after) - used(before));
            }
            return least;
        };
        const double all = seconds("all"), memory = seconds("memory");
        INFO(which << ": " << all << " s and " << memory << " s");
        CHECK(all <= 3 * memory + 0.02);
    }
}

TEST_CASE("--profile counts each step that the program marks", "[programs]") {
    if (!fs::exists(programs / "good/steps")) {
        WARN("programs/good/steps is not built (no nvcc): skipped");
        return;
    }
    const std::string json = (fs::temp_directory_path() / ("steps." + std::to_string(getpid()) + ".json")).string();
    const Result result    = run("scripts/emulate --profile " + json + " build/emulator/programs/good/steps");
    INFO(result.output);
    CHECK(result.code == 0);
    std::stringstream text;
    text << std::ifstream(json).rdbuf();
    fs::remove(json);
    INFO(text.str());
    const auto steps         = text.str().substr(text.str().find("\"steps\":"));
    const std::string kernel = "\"kernels\":[{\"kernel\":\"add(int*, int)\",\"launches\":";
    CHECK(has(steps, "{\"name\":\"step 1\"," + kernel + "1,"));
    CHECK(has(steps, "{\"name\":\"step 2\"," + kernel + "2,"));
    CHECK(has(steps, "{\"name\":\"step 3\"," + kernel + "3,"));
    CHECK(has(steps, "{\"name\":\"\"," + kernel + "1,"));  // the evaluation at the end
}

TEST_CASE("a multicast copy is counted once in global memory and for each block in shared memory", "[programs]") {
    if (!fs::exists(programs / "good/pipeline_cluster")) return;
    const auto counted = [](const std::string& program, const std::string& key) {
        const std::string json =
            (fs::temp_directory_path() / ("copies." + std::to_string(getpid()) + ".json")).string();
        const Result result = run("scripts/emulate --profile " + json + " build/emulator/programs/good/" + program);
        INFO(result.output);
        REQUIRE(result.code == 0);
        std::stringstream text;
        text << std::ifstream(json).rdbuf();
        fs::remove(json);
        const size_t at = text.str().find('"' + key + "\":");
        REQUIRE(at != std::string::npos);
        return std::atol(text.str().c_str() + at + key.size() + 3);
    };
    // Both compute the same product. There are 6 blocks and 5 tiles of matrix b with 64 x 64 elements of two bytes.
    CHECK(counted("pipeline", "bulk_bytes") == counted("pipeline_cluster", "bulk_bytes"));
    CHECK(counted("pipeline", "global_bytes") - counted("pipeline_cluster", "global_bytes") == 6 / 2 * 5 * 64 * 64 * 2);
}

TEST_CASE("scripts/emulate refuses invalid options and says why", "[programs]") {
    const std::map<std::string, std::string> mistakes{
        {"--cehck all x", "did you mean --check?"},
        {"--check some x", "--check takes off, memory or all, not 'some'"},
        {"--schedule rr:0 x", "--schedule takes barrier, rr:N"},
        {"--gpu h200 x", "--gpu takes h100"},
        {"--sms x y", "--sms takes a whole number from 1 to 1024, not 'x'"},
        {"--sms 1025 y", "--sms takes a whole number from 1 to 1024, not '1025'"},
        {"--sms 08 no-such-program", "no such program"},  // a zero in front does not make a number octal
        {"--devices 020 x", "--devices takes a whole number from 0 to 16, not '020'"},
        {"--threads 257 x", "--threads takes a whole number from 1 to 256, not '257'"},
        {"--timeout", "--timeout needs a value"},
        {"--trace=1 x", "--trace takes no value"},
        {"no-such-program", "no such program"},
    };
    for (const auto& [arguments, message] : mistakes) {
        const Result result = run("scripts/emulate " + arguments);
        INFO(arguments << "\n" << result.output);
        CHECK(result.code == 2);
        CHECK(has(result.output, message));
    }
}

TEST_CASE("the emulator refuses invalid variables and names the range", "[programs]") {
    if (!fs::exists(programs / "good/steps")) return;
    const std::map<std::string, std::string> mistakes{
        {"EMU_SMS=1.5", "EMU_SMS=1.5: a whole number from 1 to 1024 is expected"},
        {"EMU_SMS=0", "EMU_SMS=0: a whole number from 1 to 1024 is expected"},
        {"EMU_DEVICES=-1", "EMU_DEVICES=-1: a whole number from 0 to 16 is expected"},
        {"EMU_THREADS=257", "EMU_THREADS=257: a whole number from 1 to 256 is expected"},
        {"EMU_DRIVER=99999999.1", "EMU_DRIVER=99999999.1: a version such as 12.4"},
        {"EMU_TIMEOUT=-1", "EMU_TIMEOUT=-1: seconds from 0 to 1e9 are expected"},
        {"EMU_SCHEDULE=rr:-1", "EMU_SCHEDULE=rr:-1: the schedules are"},
        {"EMU_STREAMS=random:-1", "EMU_STREAMS=random:-1: the orders of streams are"},
        {"EMU_STREAMS=random", "EMU_STREAMS=random: the orders of streams are"},
        {"EMU_SCHEDULE=random", "EMU_SCHEDULE=random: the schedules are"},
    };
    for (const auto& [variable, message] : mistakes) {
        const Result result = run("scripts/emulate build/emulator/programs/good/steps", variable);
        INFO(variable << "\n" << result.output);
        CHECK(result.code != 0);
        CHECK(has(result.output, message));
    }
    // A decimal number may begin with zeros.
    CHECK(run("scripts/emulate --sms 08 build/emulator/programs/good/steps").code == 0);
}
