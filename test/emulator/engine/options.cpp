// options.cpp - options from the environment, and the table of GPUs
#include "options.h"

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "findings.h"
#include "spec.h"

namespace emu {
namespace {

constexpr size_t kGiB = size_t(1) << 30;
constexpr size_t kMiB = size_t(1) << 20;
constexpr int kKiB    = 1024;

// The figures come from the data sheets of the H100 SXM5 80 GB, A100 SXM4 80 GB, GeForce RTX 4090 and V100 SXM2 32 GB.
// The lines of each entry: names, compute capability and SMs; sizes of memory and L2; shared memory per block, with
// opting in, and per SM; registers, threads and blocks per SM; clocks of the cores and the memory (kHz) and bus width;
// bandwidth, peaks and copy engines.
// clang-format off
constexpr DeviceSpec kSpecs[] = {
    {"h100", "NVIDIA H100 80GB HBM3", 9, 0, 132,
     80 * kGiB, 50 * kMiB, 48 * kKiB, 227 * kKiB, 228 * kKiB, 65536, 2048, 32,
     1980000, 2619000, 5120, 3.35e12, 66.9e12, 989.4e12, 3},
    {"a100", "NVIDIA A100-SXM4-80GB", 8, 0, 108,
     80 * kGiB, 40 * kMiB, 48 * kKiB, 163 * kKiB, 164 * kKiB, 65536, 2048, 32,
     1410000, 1593000, 5120, 2.039e12, 19.5e12, 312e12, 3},
    {"rtx4090", "NVIDIA GeForce RTX 4090", 8, 9, 128,
     24 * kGiB, 72 * kMiB, 48 * kKiB, 99 * kKiB, 100 * kKiB, 65536, 1536, 24,
     2520000, 10501000, 384, 1.008e12, 82.6e12, 165.2e12, 2},
    // The V100 is older than bf16 and shows what a program says to such a GPU.
    {"v100", "Tesla V100-SXM2-32GB", 7, 0, 80,
     32 * kGiB, 6 * kMiB, 48 * kKiB, 96 * kKiB, 96 * kKiB, 65536, 2048, 32,
     1530000, 877000, 4096, 0.9e12, 15.7e12, 125e12, 6},
    // The tiny GPU is so small that a program easily runs out of anything.
    {"tiny", "Emulated tiny GPU", 8, 0, 2,
     256 * kMiB, 1 * kMiB, 48 * kKiB, 99 * kKiB, 100 * kKiB, 65536, 1536, 16,
     1000000, 1000000, 64, 16e9, 0.5e12, 2e12, 1},
};
// clang-format on

[[noreturn]] void bad(const char* name, const std::string& value, const std::string& wanted) {
    give_up(std::string(name) + "=" + value + ": " + wanted);
}

// Reads a whole number. A sign, other characters before or after it, and a number of more than 64 bits are refused.
bool whole(const std::string& text, uint64_t* number) {
    const char* end = text.data() + text.size();
    const auto read = std::from_chars(text.data(), end, *number);
    return read.ec == std::errc() && read.ptr == end;
}

// Returns whether the text is WORD:NUMBER.
bool takes(const std::string& text, const std::string& word, uint64_t* number) {
    return text.rfind(word + ":", 0) == 0 && whole(text.substr(word.size() + 1), number);
}

Options read_environment() {
    Options o;
    auto get = [](const char* name) {
        const char* v = std::getenv(name);
        return std::string(v ? v : "");
    };
    auto number = [&](const char* name, int low, int high, int otherwise) {
        const std::string v = get(name);
        if (v.empty()) return otherwise;
        uint64_t x = 0;
        if (!whole(v, &x) || x < uint64_t(low) || x > uint64_t(high))
            bad(name, v, "a whole number from " + std::to_string(low) + " to " + std::to_string(high) + " is expected");
        return int(x);
    };
    auto flag = [&](const char* name) { return !get(name).empty() && get(name) != "0"; };
    if (const auto v = get("EMU_GPU"); !v.empty()) {
        o.gpu = v;
        if (!find_spec(v)) bad("EMU_GPU", v, "the GPUs are h100, a100, rtx4090, v100 and tiny");
    }
    o.sms     = number("EMU_SMS", 1, 1024, 0);
    o.devices = number("EMU_DEVICES", 0, 16, 1);
    if (const auto v = get("EMU_DRIVER"); !v.empty()) {
        int major = 0, minor = 0, end = 0;
        std::sscanf(v.c_str(), "%d.%d%n", &major, &minor, &end);
        if (v != "0" && (end == 0 || v[size_t(end)] || major < 1 || major > 999 || minor < 0 || minor > 99))
            bad("EMU_DRIVER", v, "a version such as 12.4, or 0, is expected");
        o.driver = major * 1000 + minor * 10;
    }
    if (const auto v = get("EMU_CHECK"); !v.empty()) {
        if (v == "off") o.check = Check::Off;
        else if (v == "memory") o.check = Check::Memory;
        else if (v == "all") o.check = Check::All;
        else bad("EMU_CHECK", v, "the checks are off, memory and all");
    }
    if (const auto v = get("EMU_SCHEDULE"); !v.empty()) {
        if (v == "barrier") o.schedule = Schedule::Barrier;
        else if (takes(v, "rr", &o.schedule_arg) && o.schedule_arg) o.schedule = Schedule::RoundRobin;
        else if (v == "reverse") o.schedule = Schedule::Reverse;
        else if (takes(v, "random", &o.schedule_arg)) o.schedule = Schedule::Random;
        else bad("EMU_SCHEDULE", v, "the schedules are barrier, rr:N, reverse and random:SEED");
    }
    if (const auto v = get("EMU_STREAMS"); !v.empty()) {
        if (v == "eager") o.streams = Streams::Eager;
        else if (v == "late") o.streams = Streams::Late;
        else if (takes(v, "random", &o.streams_seed)) o.streams = Streams::Random;
        else bad("EMU_STREAMS", v, "the orders of streams are eager, late and random:SEED");
    }
    if (const auto v = get("EMU_TIMEOUT"); !v.empty()) {
        char* end;
        o.timeout = std::strtod(v.c_str(), &end);
        if (*end || !(o.timeout >= 0 && o.timeout <= 1e9)) bad("EMU_TIMEOUT", v, "seconds from 0 to 1e9 are expected");
    }
    o.threads    = number("EMU_THREADS", 1, 256, 1);
    o.profile    = get("EMU_PROFILE");
    o.trace      = flag("EMU_TRACE");
    o.keep_going = flag("EMU_KEEP_GOING");
    o.coverage   = flag("EMU_COVERAGE");
    return o;
}

}  // namespace

const Options& options() {
    static const auto* o = new Options(read_environment());  // never destroyed, because it is read at exit
    return *o;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double patience() { return options().timeout > 0 ? options().timeout : 600; }

const DeviceSpec* find_spec(const std::string& key) {
    for (const auto& s : kSpecs)
        if (key == s.key) return &s;
    return nullptr;
}

const DeviceSpec& device_spec() {
    static const DeviceSpec spec = [] {
        DeviceSpec s = *find_spec(options().gpu);
        if (options().sms) {  // the peaks are proportional to the SMs, but the bandwidth is not
            const double share = double(options().sms) / s.sms;
            s.fp32_peak *= share, s.bf16_peak *= share;
            s.sms = options().sms;
        }
        return s;
    }();
    return spec;
}

}  // namespace emu
