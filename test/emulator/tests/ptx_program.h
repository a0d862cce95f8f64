// ptx_program.h - makes a fat binary of PTX text, loads it and launches its kernels through the core, without nvcc
#pragma once
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine.h"

namespace emu::test {

template <class T> T from_bits(uint64_t v) {
    T x;
    std::memcpy(&x, &v, sizeof x);
    return x;
}
template <class T> uint64_t bits_of(T x) {
    uint64_t v = 0;
    std::memcpy(&v, &x, sizeof x);
    return v;
}

// Returns an uncompressed fat binary with one PTX entry. engine/fatbin.cpp describes the layout.
inline std::string fatbin_of(const std::string& ptx, uint32_t arch = 80) {
    std::string entry(80, 0), text = ptx + '\0';
    auto put = [](std::string& to, size_t at, auto v) { std::memcpy(&to[at], &v, sizeof v); };
    put(entry, 0, uint16_t(1)), put(entry, 4, uint32_t(80)), put(entry, 8, uint64_t(text.size())), put(entry, 28, arch);
    put(entry, 40, uint64_t(0x11));
    std::string header(16, 0);
    put(header, 0, uint32_t(0xba55ed50)), put(header, 4, uint16_t(1)), put(header, 6, uint16_t(16));
    put(header, 8, uint64_t(entry.size() + text.size()));
    return header + entry + text;
}

// An array in device memory that the test reads and writes directly.
template <class T> struct DeviceArray {
    Address address;
    size_t n;
    explicit DeviceArray(size_t n) : address(Memory::get().allocate(n * sizeof(T), Space::Device, "test")), n(n) {}
    explicit DeviceArray(const std::vector<T>& v) : DeviceArray(v.size()) {
        std::memcpy(host(), v.data(), n * sizeof(T));
        Memory::get().mark_written(address, n * sizeof(T));
    }
    ~DeviceArray() { Memory::get().free(address, "test"); }
    DeviceArray(const DeviceArray&) = delete;
    T* host() { return reinterpret_cast<T*>(Memory::get().host(address)); }
    T& operator[](size_t i) { return host()[i]; }
};

// Loads the PTX and returns the kernel called `name`. The module stays loaded.
inline Kernel& load_kernel(const std::string& ptx, const std::string& name) {
    static auto* kept = new std::vector<std::string>;
    kept->push_back(fatbin_of(ptx));
    Module* m = load_module(kept->back().data());
    Kernel* k = find_kernel(m, name);
    if (!k) throw std::runtime_error(why_missing(m, name));
    return *k;
}

template <class... Args> LaunchResult run(Kernel& kernel, const LaunchConfig& config, Args... args) {
    void* pointers[] = {static_cast<void*>(&args)..., nullptr};
    return launch(kernel, config, pack_arguments(kernel, pointers));
}
template <class... Args> LaunchResult run(Kernel& kernel, Dim grid, Dim block, Args... args) {
    LaunchConfig config;
    config.grid = grid, config.block = block;
    return run(kernel, config, args...);
}

}  // namespace emu::test
