// spec.h - the emulated GPU: what cudaGetDeviceProperties returns, and the peak rates for the profile's lower bounds
#pragma once
#include <cstddef>
#include <string>

namespace emu {

struct DeviceSpec {
    const char* key;   // h100, a100, rtx4090, v100, tiny: the argument of --gpu
    const char* name;  // as the driver names it
    int major, minor;  // compute capability
    int sms;
    size_t memory_bytes;
    size_t l2_bytes;
    int shared_per_block;        // bytes, without opting in
    int shared_per_block_optin;  // with cudaFuncAttributeMaxDynamicSharedMemorySize
    int shared_per_sm;
    int registers_per_sm;
    int threads_per_sm;
    int blocks_per_sm;
    int clock_khz, memory_clock_khz, bus_bits;
    double bandwidth;  // bytes/s
    double fp32_peak;  // FLOP/s outside of the tensor cores
    double bf16_peak;  // FLOP/s of the tensor cores in bf16 and f16, without sparsity
    int async_engines;
};

const DeviceSpec* find_spec(const std::string& key);  // null when there is no such GPU
const DeviceSpec& device_spec();                      // that of --gpu, with the SMs of --sms

}  // namespace emu
