// device.cpp - the emulated device: properties, attributes, limits, and the calls that have no effect or are refused
#include <cstdlib>
#include <cstring>
#include <map>

#include "modules.h"
#include "streams.h"

namespace emu {
namespace {

thread_local int device_now = 0;
auto& limits                = *new std::map<int, size_t>{{cudaLimitStackSize, 1024},
                                                         {cudaLimitPrintfFifoSize, 1 << 20},
                                                         {cudaLimitMallocHeapSize, 8 << 20},
                                                         {cudaLimitDevRuntimeSyncDepth, 2},
                                                         {cudaLimitDevRuntimePendingLaunchCount, 2048},
                                                         {cudaLimitMaxL2FetchGranularity, 64},
                                                         {cudaLimitPersistingL2CacheSize, 0}};
unsigned device_flags       = cudaDeviceScheduleAuto;

int device_count() { return options().devices; }

int driver_version() { return options().driver < 0 ? CUDART_VERSION : options().driver; }

void fill_properties(cudaDeviceProp& p, int device) {
    const DeviceSpec& gpu = device_spec();
    p                     = {};
    std::snprintf(p.name, sizeof p.name, "%s (emulated)", gpu.name);
    for (int i = 0; i < 16; i++) p.uuid.bytes[i] = char(0x10 * (i % 8) + device);
    p.totalGlobalMem     = gpu.memory_bytes;
    p.sharedMemPerBlock  = size_t(gpu.shared_per_block);
    p.regsPerBlock       = gpu.registers_per_sm;
    p.warpSize           = 32;
    p.memPitch           = 0x7fffffff;
    p.maxThreadsPerBlock = 1024;
    p.maxThreadsDim[0] = 1024, p.maxThreadsDim[1] = 1024, p.maxThreadsDim[2] = 64;
    p.maxGridSize[0] = 0x7fffffff, p.maxGridSize[1] = 65535, p.maxGridSize[2] = 65535;
    p.totalConstMem                     = 65536;
    p.major                             = gpu.major;
    p.minor                             = gpu.minor;
    p.textureAlignment                  = 512;
    p.texturePitchAlignment             = 32;
    p.surfaceAlignment                  = 512;
    p.multiProcessorCount               = gpu.sms;
    p.canMapHostMemory                  = 1;
    p.concurrentKernels                 = 1;
    p.ECCEnabled                        = 1;
    p.pciBusID                          = device + 1;
    p.asyncEngineCount                  = gpu.async_engines;
    p.unifiedAddressing                 = 1;
    p.memoryBusWidth                    = gpu.bus_bits;
    p.l2CacheSize                       = int(gpu.l2_bytes);
    p.persistingL2CacheMaxSize          = int(gpu.l2_bytes / 16 * 10);
    p.accessPolicyMaxWindowSize         = 128 << 20;
    p.maxThreadsPerMultiProcessor       = gpu.threads_per_sm;
    p.streamPrioritiesSupported         = 1;
    p.globalL1CacheSupported            = 1;
    p.localL1CacheSupported             = 1;
    p.sharedMemPerMultiprocessor        = size_t(gpu.shared_per_sm);
    p.regsPerMultiprocessor             = gpu.registers_per_sm;
    p.managedMemory                     = 1;
    p.concurrentManagedAccess           = 1;
    p.computePreemptionSupported        = 1;
    p.canUseHostPointerForRegisteredMem = 1;
    p.cooperativeLaunch                 = 1;
    p.sharedMemPerBlockOptin            = size_t(gpu.shared_per_block_optin);
    p.maxBlocksPerMultiProcessor        = gpu.blocks_per_sm;
    p.reservedSharedMemPerBlock         = 1024;
    p.hostRegisterSupported             = 1;
    p.memoryPoolsSupported              = 1;
    p.clusterLaunch                     = gpu.major >= 9;
#if CUDART_VERSION >= 13000
    p.hostNumaId = -1;
#else
    p.clockRate                        = gpu.clock_khz;
    p.memoryClockRate                  = gpu.memory_clock_khz;
    p.cooperativeMultiDeviceLaunch     = 0;
    p.singleToDoublePrecisionPerfRatio = gpu.minor == 0 ? 2 : 64;
#endif
}

cudaError_t attribute(int* value, cudaDeviceAttr which) {
    const DeviceSpec& gpu = device_spec();
    switch (which) {
        case cudaDevAttrMaxThreadsPerBlock:
        case cudaDevAttrMaxBlockDimX:
        case cudaDevAttrMaxBlockDimY: *value = 1024; break;
        case cudaDevAttrMaxBlockDimZ: *value = 64; break;
        case cudaDevAttrMaxGridDimX: *value = 0x7fffffff; break;
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ: *value = 65535; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = gpu.shared_per_block; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = gpu.shared_per_block_optin; break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = gpu.shared_per_sm; break;
        case cudaDevAttrReservedSharedMemoryPerBlock: *value = 1024; break;
        case cudaDevAttrTotalConstantMemory: *value = 65536; break;
        case cudaDevAttrWarpSize: *value = 32; break;
        case cudaDevAttrMaxPitch: *value = 0x7fffffff; break;
        case cudaDevAttrMaxRegistersPerBlock:
        case cudaDevAttrMaxRegistersPerMultiprocessor: *value = gpu.registers_per_sm; break;
        case cudaDevAttrClockRate: *value = gpu.clock_khz; break;
        case cudaDevAttrMemoryClockRate: *value = gpu.memory_clock_khz; break;
        case cudaDevAttrGlobalMemoryBusWidth: *value = gpu.bus_bits; break;
        case cudaDevAttrL2CacheSize: *value = int(gpu.l2_bytes); break;
        case cudaDevAttrMaxPersistingL2CacheSize: *value = int(gpu.l2_bytes / 16 * 10); break;
        case cudaDevAttrMaxAccessPolicyWindowSize: *value = 128 << 20; break;
        case cudaDevAttrClusterLaunch: *value = gpu.major >= 9; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = gpu.threads_per_sm; break;
        case cudaDevAttrMaxBlocksPerMultiprocessor: *value = gpu.blocks_per_sm; break;
        case cudaDevAttrMultiProcessorCount: *value = gpu.sms; break;
        case cudaDevAttrComputeCapabilityMajor: *value = gpu.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = gpu.minor; break;
        case cudaDevAttrAsyncEngineCount: *value = gpu.async_engines; break;
        case cudaDevAttrTextureAlignment:
        case cudaDevAttrSurfaceAlignment: *value = 512; break;
        case cudaDevAttrTexturePitchAlignment: *value = 32; break;
        case cudaDevAttrSingleToDoublePrecisionPerfRatio: *value = gpu.minor == 0 ? 2 : 64; break;
        case cudaDevAttrHostNumaId: *value = -1; break;
        case cudaDevAttrMemSyncDomainCount:
        case cudaDevAttrGpuOverlap:
        case cudaDevAttrCanMapHostMemory:
        case cudaDevAttrConcurrentKernels:
        case cudaDevAttrEccEnabled:
        case cudaDevAttrUnifiedAddressing:
        case cudaDevAttrStreamPrioritiesSupported:
        case cudaDevAttrGlobalL1CacheSupported:
        case cudaDevAttrLocalL1CacheSupported:
        case cudaDevAttrManagedMemory:
        case cudaDevAttrConcurrentManagedAccess:
        case cudaDevAttrComputePreemptionSupported:
        case cudaDevAttrCanUseHostPointerForRegisteredMem:
        case cudaDevAttrCooperativeLaunch:
        case cudaDevAttrHostRegisterSupported:
        case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
        default:  // textures, interoperation, NUMA and other features that the emulated device lacks
            if (which <= 0 || which >= cudaDevAttrMax) return cudaErrorInvalidValue;
            *value = 0;
    }
    return cudaSuccess;
}

}  // namespace

int current_device() { return device_now; }
bool is_device(int device) { return device >= 0 && device < device_count(); }

cudaError_t missing_device() {
    if (driver_version() / 1000 < CUDART_VERSION / 1000) return cudaErrorInsufficientDriver;
    return device_count() ? cudaSuccess : cudaErrorNoDevice;
}

}  // namespace emu

using namespace emu;

cudaError_t cudaGetDeviceCount(int* count) {
    return CALL.always([&] {
        if (!count) return cudaErrorInvalidValue;
        const cudaError_t error = sticky_error() != cudaSuccess ? sticky_error() : missing_device();
        *count                  = error == cudaSuccess ? device_count() : 0;
        return error;
    });
}
cudaError_t cudaGetDevice(int* device) {
    return CALL.run([&] { return answer(device, device_now); });
}
static cudaError_t set_device(int device) {
    if (!is_device(device)) return cudaErrorInvalidDevice;
    device_now = device;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    return CALL.run(
        [&] {
            if (!is_device(device) && device > 0)
                std::fprintf(stderr, "emulate: cudaSetDevice(%d) with --devices %d; --devices N gives N devices\n",
                             device, device_count());
            return set_device(device);
        },
        device);
}
cudaError_t cudaInitDevice(int device, unsigned, unsigned) {
    return CALL.run([&] { return is_device(device) ? cudaSuccess : cudaErrorInvalidDevice; }, device);
}
cudaError_t cudaSetValidDevices(int* devices, int count) {
    return CALL.run(
        [&] {
            if (count < 0 || (count && !devices)) return cudaErrorInvalidValue;
            for (int i = 0; i < count; i++)
                if (!is_device(devices[i])) return cudaErrorInvalidDevice;
            return cudaSuccess;
        },
        count);
}
cudaError_t cudaChooseDevice(int* device, const cudaDeviceProp*) {
    return CALL.run([&] { return answer(device, 0); });
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    return CALL.run(
        [&] {
            if (!properties) return cudaErrorInvalidValue;
            if (!is_device(device)) return cudaErrorInvalidDevice;
            fill_properties(*properties, device);
            return cudaSuccess;
        },
        device);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
    return CALL.run(
        [&] {
            if (!value) return cudaErrorInvalidValue;
            if (!is_device(device)) return cudaErrorInvalidDevice;
            if (which == cudaDevAttrPciBusId) return answer(value, device + 1);
            return attribute(value, which);
        },
        which, device);
}

static cudaError_t set_limit(cudaLimit limit, size_t value) {
    if (!limits.count(limit)) return cudaErrorUnsupportedLimit;
    limits[limit] = value;
    return cudaSuccess;
}
cudaError_t cudaDeviceSetLimit(cudaLimit limit, size_t value) {
    return CALL.run([&] { return set_limit(limit, value); }, limit, value);
}
cudaError_t cudaDeviceGetLimit(size_t* value, cudaLimit limit) {
    return CALL.run(
        [&] {
            if (!limits.count(limit)) return cudaErrorUnsupportedLimit;
            return answer(value, limits[limit]);
        },
        limit);
}
cudaError_t cudaDeviceSetCacheConfig(cudaFuncCache config) {
    return CALL.run([] { return cudaSuccess; }, config);
}
cudaError_t cudaDeviceGetCacheConfig(cudaFuncCache* config) {
    return CALL.run([&] { return answer(config, cudaFuncCachePreferNone); });
}
cudaError_t cudaDeviceSetSharedMemConfig(cudaSharedMemConfig config) {
    return CALL.run([] { return cudaSuccess; }, config);
}
cudaError_t cudaDeviceGetSharedMemConfig(cudaSharedMemConfig* config) {
    return CALL.run([&] { return answer(config, cudaSharedMemBankSizeFourByte); });
}
cudaError_t cudaCtxResetPersistingL2Cache() {
    return CALL.run([] { return cudaSuccess; });
}
cudaError_t cudaSetDeviceFlags(unsigned flags) {
    return CALL.run([&] { return answer(&device_flags, flags); }, flags);
}
cudaError_t cudaGetDeviceFlags(unsigned* flags) {
    return CALL.run([&] { return answer(flags, device_flags | cudaDeviceMapHost); });
}

// Frees all memory of the device and clears the sticky error, as a new context would.
cudaError_t cudaDeviceReset() {
    return CALL.always([&] {
        if (sticky_error() == cudaSuccess) wait_device(device_now);
        for (const Allocation* a : Memory::get().live())
            if (a->to_be_freed() && a->device == device_now) Memory::get().free(a->begin, call_site());
        set_sticky_error(cudaSuccess);
        return cudaSuccess;
    });
}

#if CUDART_VERSION < 13000
cudaError_t cudaThreadSynchronize() { return cudaDeviceSynchronize(); }
cudaError_t cudaThreadExit() { return cudaDeviceReset(); }
#endif

cudaError_t cudaRuntimeGetVersion(int* version) {
    return CALL.always([&] { return answer(version, CUDART_VERSION); });
}
cudaError_t cudaDriverGetVersion(int* version) {
    return CALL.always([&] { return answer(version, driver_version()); });
}

// --- other devices and processes, which are refused ------------------------------------------------------------------

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
    return CALL.run(
        [&] {
            if (!is_device(device) || !is_device(peer)) return cudaErrorInvalidDevice;
            return answer(can, 0);
        },
        device, peer);
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
    return CALL.run(
        [&] {
            if (!is_device(peer) || peer == device_now) return cudaErrorInvalidDevice;
            return lacking("peer access between devices", cudaErrorPeerAccessUnsupported);
        },
        peer);
}
cudaError_t cudaDeviceDisablePeerAccess(int peer) {
    return CALL.run([&] { return is_device(peer) ? cudaErrorPeerAccessNotEnabled : cudaErrorInvalidDevice; }, peer);
}
cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr, int device, int peer) {
    return CALL.run(
        [&] {
            if (!is_device(device) || !is_device(peer) || device == peer) return cudaErrorInvalidDevice;
            return answer(value, 0);
        },
        device, peer);
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int bytes, int device) {
    return CALL.run(
        [&] {
            if (!text || bytes < 1) return cudaErrorInvalidValue;
            if (!is_device(device)) return cudaErrorInvalidDevice;
            std::snprintf(text, size_t(bytes), "0000:%02x:00.0", device + 1);
            return cudaSuccess;
        },
        device);
}
cudaError_t cudaDeviceGetByPCIBusId(int* device, const char* text) {
    return CALL.run(
        [&] {
            unsigned domain = 0, bus = 0;
            if (!text || std::sscanf(text, "%x:%x", &domain, &bus) != 2 || !is_device(int(bus) - 1))
                return cudaErrorInvalidValue;
            return answer(device, int(bus) - 1);
        },
        text);
}

// --- tools -----------------------------------------------------------------------------------------------------------

// --profile has a section for each pair of these calls.
extern "C" cudaError_t cudaProfilerStart() {
    return CALL.run([] {
        count_section(true);
        return cudaSuccess;
    });
}
extern "C" cudaError_t cudaProfilerStop() {
    return CALL.run([] {
        count_section(false);
        return cudaSuccess;
    });
}

cudaChannelFormatDesc cudaCreateChannelDesc(int x, int y, int z, int w, cudaChannelFormatKind kind) {
    return {x, y, z, w, kind};
}
cudaError_t cudaDeviceGraphMemTrim(int device) {
    return CALL.run([&] { return is_device(device) ? cudaSuccess : cudaErrorInvalidDevice; }, device);
}
cudaError_t cudaDeviceFlushGPUDirectRDMAWrites(cudaFlushGPUDirectRDMAWritesTarget, cudaFlushGPUDirectRDMAWritesScope) {
    return CALL.run([] { return cudaSuccess; });
}
