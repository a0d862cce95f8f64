// builtins.cpp - see builtins.h
#include "builtins.h"

#include <algorithm>
#include <cstdio>

#include "access.h"
#include "findings.h"

namespace emu {
namespace {

// Reads a string in device memory up to 64 KiB, or up to the first byte that is not readable.
std::string device_string(Warp& w, int lane, uint64_t address) {
    std::string s;
    while (s.size() < 65536) {
        const std::byte* p = lane_bytes(w, lane, address + s.size(), 1);
        if (!p || *p == std::byte{0}) break;
        s.push_back(char(*p));
    }
    return s;
}

template <class T> std::string converted(const std::string& spec, T value) {
    std::string text(size_t(std::max(0, std::snprintf(nullptr, 0, spec.c_str(), value))) + 1, 0);
    std::snprintf(text.data(), text.size(), spec.c_str(), value);
    text.pop_back();
    return text;
}

// Formats as printf does, and counts the arguments. Each conversion is done by the host's printf, with the value that
// the kernel stored for it.
std::string format_lane(Warp& w, int lane, const std::string& format, uint64_t args, int& count) {
    std::string out;
    count     = 0;
    auto take = [&](size_t bytes, void* to) {
        count++;
        args               = (args + bytes - 1) / bytes * bytes;
        const std::byte* p = lane_bytes(w, lane, args, uint32_t(bytes));
        if (p) std::memcpy(to, p, bytes);
        else std::memset(to, 0, bytes);
        args += bytes;
    };
    for (size_t k = 0; k < format.size(); k++) {
        if (format[k] != '%') {
            out += format[k];
            continue;
        }
        std::string spec = "%", narrow;
        bool wide        = false;
        for (k++; k < format.size() && std::strchr("-+ #0123456789.*hlLqjzt", format[k]); k++) {
            if (format[k] == '*') {
                int n = 0;
                take(4, &n);
                spec += std::to_string(n);
            } else if (format[k] == 'h') narrow += 'h';
            else if (std::strchr("lLqjzt", format[k])) wide = true;
            else spec += format[k];
        }
        const char c = k < format.size() ? format[k] : '%';
        if (c == '%') out += '%';
        else if (std::strchr("eEfFgGaA", c)) {
            double v;
            take(8, &v);
            out += converted(spec + c, v);
        } else if (c == 's') {
            uint64_t address;
            take(8, &address);
            out += converted(spec + c, device_string(w, lane, address).c_str());
        } else if (c == 'p') {
            uint64_t v;
            take(8, &v);
            out += converted(spec + 's', hex(v).c_str());
        } else if (!std::strchr("diouxXc", c)) out += spec + c;  // this is no conversion
        else if (wide && c != 'c') {
            long long v;
            take(8, &v);
            out += converted(spec + "ll" + c, v);
        } else {
            int v;
            take(4, &v);
            out += converted(spec + (c == 'c' ? "" : narrow) + c, v);
        }
    }
    return out;
}

bool vprintf_builtin(BuiltinCall& c) {  // returns the number of arguments, as CUDA's printf does
    each_lane(c.w.mask, [&](int l) {
        int32_t count            = 0;
        const std::string format = device_string(c.w, l, c.argument<uint64_t>(0, l));
        const std::string text   = format_lane(c.w, l, format, c.argument<uint64_t>(1, l), count);
        std::fwrite(text.data(), 1, text.size(), stdout);
        if (c.result) reinterpret_cast<int32_t*>(c.result)[l] = count;
    });
    return true;
}

bool assert_builtin(BuiltinCall& c) {
    const Block& b = *c.w.block;
    auto text      = [&](size_t k, int l) { return device_string(c.w, l, c.argument<uint64_t>(k, l)); };
    std::fflush(stdout);
    each_lane(c.w.mask, [&](int l) {
        std::fprintf(stderr, "%s:%u: %s: block: [%u,%u,%u], thread: [%u,%u,%u] Assertion `%s` failed.\n",
                     text(1, l).c_str(), c.argument<uint32_t>(2, l), text(3, l).c_str(), b.ctaid[0], b.ctaid[1],
                     b.ctaid[2], c.w.tid[0][l], c.w.tid[1][l], c.w.tid[2][l], text(0, l).c_str());
    });
    fail_launch(c.w, Fault::Assert, "device-side assert: " + text(0, __builtin_ctz(c.w.mask)));
    return false;
}

bool malloc_builtin(BuiltinCall& c) {
    each_lane(c.w.mask, [&](int l) {
        const uint64_t a = Memory::get().allocate(c.argument<uint64_t>(0, l), Space::Heap,
                                                  "malloc in the kernel at " + place_of(*c.w.frame->function, c.i),
                                                  false, c.w.block->launch->config.device);
        std::memcpy(c.result + size_t(l) * 8, &a, 8);
    });
    return true;
}

bool free_builtin(BuiltinCall& c) {
    each_lane(c.w.mask, [&](int l) {
        if (const uint64_t a = c.argument<uint64_t>(0, l))
            Memory::get().free(a, "free in the kernel at " + place_of(*c.w.frame->function, c.i));
    });
    for (Site& s : c.w.worker->sites) s = {};
    return true;
}

}  // namespace

const Builtin kBuiltins[] = {
    {"vprintf", vprintf_builtin, 2},
    {"__assertfail", assert_builtin, 5},
    {"malloc", malloc_builtin, 1},
    {"free", free_builtin, 1},
};

int find_builtin(const std::string& name) {
    for (int k = 0; k < int(std::size(kBuiltins)); k++)
        if (name == kBuiltins[k].name) return k;
    return -1;
}

}  // namespace emu
