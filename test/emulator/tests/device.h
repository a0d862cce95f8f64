// device.h - device arrays for the tests that call the emulator's libraries from C++, without nvcc
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

template <class T> struct DeviceArray {
    T* data = nullptr;
    size_t n;
    explicit DeviceArray(size_t n) : n(n) {
        if (cudaMalloc(reinterpret_cast<void**>(&data), n * sizeof(T))) throw std::runtime_error("cudaMalloc");
    }
    explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
        if (cudaMemcpy(data, host.data(), n * sizeof(T), cudaMemcpyHostToDevice))
            throw std::runtime_error("cudaMemcpy");
    }
    ~DeviceArray() { cudaFree(data); }
    DeviceArray(const DeviceArray&) = delete;
    std::vector<T> host() const {
        std::vector<T> out(n);
        if (const cudaError_t e = cudaMemcpy(out.data(), data, n * sizeof(T), cudaMemcpyDeviceToHost))
            throw std::runtime_error(cudaGetErrorString(e));
        return out;
    }
};

// Returns reproducible numbers in [-1, 1) with so few bits that every 16-bit float represents them exactly.
inline std::vector<double> numbers(size_t n, unsigned seed) {
    std::vector<double> x(n);
    for (double& v : x) v = (int((seed = seed * 1664525u + 1013904223u) >> 24) - 128) / 128.0;
    return x;
}
