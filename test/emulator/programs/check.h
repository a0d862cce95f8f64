// check.h - macros that end the program after a failed call or check, device arrays, and numbers
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#define CUDA(call)                                                                                \
    do {                                                                                          \
        const cudaError_t error_ = (call);                                                        \
        if (error_ != cudaSuccess) {                                                              \
            std::printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
            std::exit(1);                                                                         \
        }                                                                                         \
    } while (0)
#define EXPECT(condition)                                                      \
    do {                                                                       \
        if (!(condition)) {                                                    \
            std::printf("%s:%d failed: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                      \
        }                                                                      \
    } while (0)

// A device array that frees itself, with copies in and out.
template <class T> struct Device {
    T* data = nullptr;
    size_t n;
    explicit Device(size_t n) : n(n) { CUDA(cudaMalloc(&data, n * sizeof(T))); }
    explicit Device(const std::vector<T>& host) : Device(host.size()) {
        CUDA(cudaMemcpy(data, host.data(), n * sizeof(T), cudaMemcpyHostToDevice));
    }
    ~Device() { cudaFree(data); }
    Device(const Device&) = delete;
    operator T*() { return data; }
    std::vector<T> host() const {
        std::vector<T> out(n);
        CUDA(cudaMemcpy(out.data(), data, n * sizeof(T), cudaMemcpyDeviceToHost));
        return out;
    }
};

// Returns small whole numbers. Their sums are exact in float, so results can be compared with ==.
inline std::vector<float> whole_numbers(size_t n, unsigned seed = 1) {
    std::vector<float> x(n);
    for (float& v : x) v = float(int((seed = seed * 1664525u + 1013904223u) >> 24) % 17 - 8);
    return x;
}
