// modules.cpp - fat binaries, kernels, variables, launches
#include "modules.h"

#include <cstring>
#include <map>
#include <set>

#include "streams.h"

namespace emu {
namespace {

std::vector<CUlib_st*>& libraries() {
    static auto* all = new std::vector<CUlib_st*>;  // never destroyed: used before and after main
    return *all;
}
std::map<const void*, CUfunc_st*>& functions() {  // finds a kernel by its stub and by its handle
    static auto* all = new std::map<const void*, CUfunc_st*>;
    return *all;
}

// Returns the module of the current device.
emu::Module* module_of(CUlib_st& library) {
    auto [row, fresh] = library.modules.try_emplace(current_device());
    if (fresh) {
        const emu::Module* other = nullptr;
        for (const auto& [device, module] : library.modules)
            if (module) other = module;
        row->second = load_module(library.data, library.units, current_device(), other);
        for (CUlib_st::Variable& variable : library.variables)
            if (variable.managed)
                if (const Variable* found = find_variable(row->second, variable.name))
                    *variable.managed = reinterpret_cast<void*>(found->address);
    }
    return row->second;
}

CUfunc_st* add_function(CUlib_st* library, const void* stub, const std::string& name) {
    auto* function    = new CUfunc_st;
    function->stub    = stub;
    function->name    = name;
    function->library = library;
    library->functions.push_back(function);
    functions()[stub ? stub : function] = function;
    functions()[function]               = function;
    return function;
}

cudaError_t refuse(const KernelLaunch& launch, cudaError_t error, const std::string& why) {
    const auto& f = *launch.function;
    std::fprintf(stderr, "emulate: %s <<<(%u,%u,%u), (%u,%u,%u), %zu>>> refused: %s\n",
                 f.kernel ? f.kernel->pretty.c_str() : f.name.c_str(), launch.grid.x, launch.grid.y, launch.grid.z,
                 launch.block.x, launch.block.y, launch.block.z, launch.dynamic_shared, why.c_str());
    return error;
}

cudaError_t error_of(Fault fault) {
    switch (fault) {
        case Fault::None: return cudaSuccess;
        case Fault::IllegalAddress: return cudaErrorIllegalAddress;
        case Fault::MisalignedAddress: return cudaErrorMisalignedAddress;
        case Fault::IllegalInstruction: return cudaErrorIllegalInstruction;
        case Fault::Assert: return cudaErrorAssert;
        case Fault::Trap: return cudaErrorLaunchFailure;
        case Fault::Timeout: return cudaErrorLaunchTimeout;
        case Fault::Missing: return cudaErrorUnsupportedPtxVersion;
    }
    return cudaErrorUnknown;
}

auto& unchecked_site = *new std::string;

void report_unchecked_launch() {
    if (unchecked_site.empty() || options().check != Check::All) return;
    Finding finding{};
    finding.kind   = Kind::UncheckedLaunch;
    finding.what   = "no call after the last launch would have returned an error of it";
    finding.kernel = unchecked_site;
    report(finding);
}

struct PushedLaunch {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
};
thread_local auto& pushed         = *new std::vector<PushedLaunch>;
thread_local void* launch_address = nullptr;  // is that of the <<<>>>, because the launch itself lies in the stub

uint64_t count(dim3 d) { return uint64_t(d.x) * d.y * d.z; }
std::string text(dim3 d) { return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z); }

LaunchAttributes attributes_of(const cudaLaunchConfig_t& config) {
    LaunchAttributes all;
    for (unsigned i = 0; i < config.numAttrs; i++) {
        const cudaLaunchAttribute& attribute = config.attrs[i];
        if (attribute.id == cudaLaunchAttributeCooperative) all.cooperative = attribute.val.cooperative;
        if (attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization)
            all.overlaps = attribute.val.programmaticStreamSerializationAllowed;
        if (const auto& c = attribute.val.clusterDim; attribute.id == cudaLaunchAttributeClusterDimension)
            all.cluster = dim3(c.x, c.y, c.z);
    }
    return all;
}

uint64_t most_cluster_blocks(CUfunc_st& function) { return function.here().non_portable_cluster ? 16 : 8; }

cudaError_t launch_on(cudaStream_t stream, const void* function, dim3 grid, dim3 block, void** args, size_t shared,
                      const LaunchAttributes& attributes) {
    KernelLaunch launch;
    if (const cudaError_t error = prepare_launch(launch, function, grid, block, args, shared, attributes)) return error;
    note_unchecked_launch(launch.function->kernel->pretty);
    const CUstream_st* queue = find_stream(stream);
    if (!queue || queue->device != current_device())
        return refuse(launch, cudaErrorInvalidResourceHandle,
                      queue ? "the stream is of another device than the current one" : "the stream does not exist");
    Work work     = launch_work(launch);
    work.overlaps = attributes.overlaps && device_spec().major >= 9;
    return submit(stream, std::move(work));
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const LaunchAttributes& a) {
    std::string all;
    const auto add = [&](const std::string& one) { all += (all.empty() ? "" : ", ") + one; };
    if (a.cooperative) add("cooperative");
    if (a.overlaps) add("early");
    if (a.cluster) add("cluster " + text(*a.cluster));
    return out << '{' << all << '}';
}

void note_unchecked_launch(const std::string& site) {
    static const bool hooked = (at_exit(report_unchecked_launch), true);
    if (hooked) unchecked_site = site;
}
void forget_unchecked_launches() { unchecked_site.clear(); }

void before_first_call() {
    static std::once_flag once;
    if (options().coverage)
        std::call_once(once, [] {
            for (CUlib_st* library : libraries()) module_of(*library);
            exit(0);
        });
}

CUfunc_st* find_function(const void* stub_or_handle) {
    const auto row = functions().find(stub_or_handle);
    return row == functions().end() ? nullptr : row->second;
}

cudaError_t load(const void* stub_or_handle, CUfunc_st*& function) {
    function = find_function(stub_or_handle);
    if (!function) return cudaErrorInvalidDeviceFunction;
    if (function->kernel) return cudaSuccess;
    emu::Module* module = module_of(*function->library);
    function->kernel    = find_kernel(module, function->name);
    if (function->kernel) return cudaSuccess;
    const std::string& name = function->name;
    std::fprintf(stderr, "emulate: kernel %s: %s\n", name.c_str(), why_missing(module, name).c_str());
    return cudaErrorNoKernelImageForDevice;
}

cudaError_t find_symbol(const void* symbol, Variable** found) {
    for (CUlib_st* library : libraries())
        for (CUlib_st::Variable& variable : library->variables)
            if (variable.host == symbol || (variable.managed && *variable.managed == symbol)) {
                *found = find_variable(module_of(*library), variable.name);
                return *found ? cudaSuccess : cudaErrorInvalidSymbol;
            }
    return cudaErrorInvalidSymbol;
}

cudaError_t symbol_range(const void* symbol, size_t offset, size_t bytes, void** out) {
    Variable* variable;
    if (const cudaError_t error = find_symbol(symbol, &variable)) return error;
    if (offset > variable->bytes || bytes > variable->bytes - offset) return cudaErrorInvalidValue;
    return answer(out, reinterpret_cast<void*>(variable->address + offset));
}

cudaError_t set_cluster(KernelLaunch& launch, const std::optional<dim3>& attribute) {
    const Kernel& kernel = *launch.function->kernel;
    const dim3 compiled(kernel.cluster[0], kernel.cluster[1], kernel.cluster[2]);
    const auto bad = [&](const std::string& why) { return refuse(launch, cudaErrorInvalidClusterSize, why); };
    launch.attributes.cluster = attribute;
    launch.cluster            = attribute ? *attribute : compiled.x ? compiled : dim3(1, 1, 1);
    const dim3 c              = launch.cluster;
    const uint64_t blocks = count(c), most = most_cluster_blocks(*launch.function);
    const std::string size = "a cluster of " + text(c) + " blocks";
    if (attribute && compiled.x && (c.x != compiled.x || c.y != compiled.y || c.z != compiled.z))
        return bad(size + ", but the kernel was compiled for " + text(compiled) + " (__cluster_dims__)");
    if (kernel.counts_clusters)
        return refuse(launch, cudaErrorNotSupported,
                      "the emulator lacks kernels whose grid counts clusters (__cluster_dims__ with __block_size__)");
    if (kernel.wants_cluster && !attribute && !compiled.x)
        return bad("the kernel was compiled for clusters and needs cudaLaunchAttributeClusterDimension");
    if (!blocks || launch.grid.x % c.x || launch.grid.y % c.y || launch.grid.z % c.z)
        return bad(size + ": each dimension of the grid must be a multiple of the cluster's");
    if (blocks == 1) return cudaSuccess;
    if (device_spec().major < 9)
        return refuse(launch, cudaErrorNotSupported, size + " needs a GPU of compute capability 9.0 or later");
    if (blocks > most)
        return bad(size + ", but " + std::to_string(most) + " are the limit" +
                   (most == 8 ? " until cudaFuncAttributeNonPortableClusterSizeAllowed raises it to 16" : ""));
    if (!clusters_on_device(kernel, int(count(launch.block)), launch.dynamic_shared, blocks))
        return bad(size + " does not fit on the multiprocessors of a GPC");
    return cudaSuccess;
}

cudaError_t prepare_launch(KernelLaunch& launch, const void* handle, dim3 grid, dim3 block, void** args, size_t shared,
                           const LaunchAttributes& attributes) {
    CUfunc_st* function;
    if (const cudaError_t error = load(handle, function)) return error;
    launch                 = {function, grid, block, shared, attributes, {}, {}, {}};
    const Kernel& kernel   = *function->kernel;
    const DeviceSpec& gpu  = device_spec();
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;

    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return refuse(launch, cudaErrorInvalidConfiguration, "a grid is 1..2147483647 x 1..65535 x 1..65535 blocks");
    if (!threads || block.x > 1024 || block.y > 1024 || block.z > 64 || threads > 1024)
        return refuse(launch, cudaErrorInvalidConfiguration,
                      "a block is 1..1024 x 1..1024 x 1..64 threads, 1024 in all");
    if (kernel.reqntid[0] &&
        (block.x != kernel.reqntid[0] || block.y != kernel.reqntid[1] || block.z != kernel.reqntid[2]))
        return refuse(launch, cudaErrorInvalidValue, "the kernel was compiled for another block size (.reqntid)");
    if (threads > uint64_t(kernel.max_threads))
        return refuse(launch, kernel.maxntid[0] ? cudaErrorInvalidValue : cudaErrorLaunchOutOfResources,
                      "the kernel allows " + std::to_string(kernel.max_threads) +
                          " threads per block (__launch_bounds__ or registers)");
    if (shared > function->dynamic_shared_limit())
        return refuse(launch, cudaErrorInvalidValue,
                      "shared memory: " + std::to_string(kernel.static_shared) + " static + " + std::to_string(shared) +
                          " dynamic bytes, but 49152 are the limit until cudaFuncAttributeMaxDynamicSharedMemorySize "
                          "raises it, to " +
                          std::to_string(gpu.shared_per_block_optin) + " at most");
    if (const cudaError_t error = set_cluster(launch, attributes.cluster)) return error;
    if (attributes.cooperative) {
        const int resident = blocks_per_sm(kernel, int(threads), shared) * gpu.sms;
        if (uint64_t(grid.x) * grid.y * grid.z > uint64_t(resident))
            return refuse(launch, cudaErrorCooperativeLaunchTooLarge,
                          "a cooperative launch needs all its blocks resident: " + std::to_string(resident) + " fit");
    }
    if (!args && !kernel.params.empty()) return refuse(launch, cudaErrorInvalidValue, "no arguments given");
    launch.arguments = pack_arguments(kernel, args);
    return cudaSuccess;
}

Work launch_work(const KernelLaunch& launch) {
    Work work{cudaGraphNodeTypeKernel, launch.function->kernel->pretty};
    work.params = launch;
    LaunchConfig config;
    config.grid             = {launch.grid.x, launch.grid.y, launch.grid.z};
    config.block            = {launch.block.x, launch.block.y, launch.block.z};
    config.cluster          = {launch.cluster.x, launch.cluster.y, launch.cluster.z};
    config.explicit_cluster = launch.attributes.cluster || launch.function->kernel->cluster[0];
    config.dynamic_shared   = launch.dynamic_shared;
    config.cooperative      = launch.attributes.cooperative;
    config.device           = current_device();
    config.where            = call_site();
    Kernel* kernel          = find_kernel(module_of(*launch.function->library), launch.function->name);
    work.run                = [kernel, config, arguments = launch.arguments](uint32_t op) mutable {
        config.op                 = op;
        const LaunchResult result = emu::launch(*kernel, config, arguments);
        if (result.fault != Fault::None && !result.message.empty())
            std::fprintf(stderr, "emulate: %s: %s\n", kernel->pretty.c_str(), resolve_sites(result.message).c_str());
        return error_of(result.fault);
    };
    return work;
}

}  // namespace emu

using namespace emu;

extern "C" {

// --- what nvcc's host code calls before main -----------------------------------------------------------------------

struct FatBinaryWrapper {
    uint32_t magic, version;
    const void* data;
    const void** units;  // in version 2: the fat binaries of the units that nvlink has linked
};

void** __cudaRegisterFatBinary(void* wrapper) {
    const auto* binary = static_cast<const FatBinaryWrapper*>(wrapper);
    if (!binary || binary->magic != 0x466243b1)
        give_up("__cudaRegisterFatBinary: this is no fat binary wrapper (magic 0x466243b1 expected)");
    auto* library = new CUlib_st;
    library->data = binary->data;
    if (binary->version == 2) library->units = binary->units;
    libraries().push_back(library);
    return reinterpret_cast<void**>(library);
}
void __cudaRegisterFatBinaryEnd(void**) {}
// Modules live until the process ends: programs free memory and launch from static destructors.
void __cudaUnregisterFatBinary(void**) {}

void __cudaRegisterFunction(void** handle, const char* stub, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
    add_function(reinterpret_cast<CUlib_st*>(handle), stub, name);
}
void __cudaRegisterVar(void** handle, char* host, char*, const char* name, int, size_t, int, int) {
    reinterpret_cast<CUlib_st*>(handle)->variables.push_back({host, name, nullptr});
}
void __cudaRegisterManagedVar(void** handle, void** host, char*, const char* name, int, size_t, int, int) {
    reinterpret_cast<CUlib_st*>(handle)->variables.push_back({host, name, host});
}
void __cudaRegisterHostVar(void**, const char*, char*, size_t) {}
void __cudaRegisterUnifiedTable(void**, const void*, const void*) {}
void __cudaRegisterTexture(void**, const void*, const void**, const char*, int, int, int) {}
void __cudaRegisterSurface(void**, const void*, const void**, const char*, int, int) {}
// The host code calls this before it touches a __managed__ variable.
char __cudaInitModule(void** handle) {
    std::lock_guard guard(runtime_lock());
    module_of(*reinterpret_cast<CUlib_st*>(handle));
    return 1;
}

// --- <<<>>> ---------------------------------------------------------------------------------------------------------

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    pushed.push_back({grid, block, shared, stream});
    launch_address = __builtin_return_address(0);
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    if (pushed.empty()) return cudaErrorMissingConfiguration;
    *grid = pushed.back().grid, *block = pushed.back().block, *shared = pushed.back().shared;
    *static_cast<cudaStream_t*>(stream) = pushed.back().stream;
    pushed.pop_back();
    return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
    CUfunc_st* function = find_function(stub);
    return function ? answer(kernel, reinterpret_cast<cudaKernel_t>(function)) : cudaErrorInvalidDeviceFunction;
}

static cudaError_t launch_call(const char* name, void* caller, const void* function, dim3 grid, dim3 block, void** args,
                               size_t shared, cudaStream_t stream, const LaunchAttributes& attributes = {}) {
    void* address  = launch_address ? launch_address : caller;
    launch_address = nullptr;
    return Call(name, address)
        .run([&] { return launch_on(stream, function, grid, block, args, shared, attributes); },
             find_function(function) ? find_function(function)->name.c_str() : "?", grid, block, shared, stream,
             attributes);
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args, size_t shared,
                               cudaStream_t stream) {
    return launch_call("cudaLaunchKernel", __builtin_return_address(0), kernel, grid, block, args, shared, stream);
}
cudaError_t __cudaLaunchKernel_ptsz(cudaKernel_t kernel, dim3 grid, dim3 block, void** args, size_t shared,
                                    cudaStream_t stream) {
    return __cudaLaunchKernel(kernel, grid, block, args, shared, stream ? stream : cudaStreamPerThread);
}

}  // extern "C"

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** args, size_t shared,
                             cudaStream_t stream) {
    return launch_call(__func__, __builtin_return_address(0), function, grid, block, args, shared, stream);
}
cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3 grid, dim3 block, void** args, size_t shared,
                                        cudaStream_t stream) {
    return launch_call(__func__, __builtin_return_address(0), function, grid, block, args, shared, stream,
                       {true, false, {}});
}

// Priorities, carve-outs and L2 windows are ignored. A kernel with programmatic stream serialization runs in the order
// of its stream, too, which is one that it allows; --check all finds what would be wrong in another.
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** args) {
    if (!config || (config->numAttrs && !config->attrs)) return cudaErrorInvalidValue;
    for (unsigned i = 0; i < config->numAttrs; i++) {
        bool records = config->attrs[i].id == cudaLaunchAttributeProgrammaticEvent;
#if CUDART_VERSION >= 12030
        records = records || config->attrs[i].id == cudaLaunchAttributeLaunchCompletionEvent;
#endif
        if (records) return CALL.run([] { return lacking("launches that record an event"); });
    }
    return launch_call(__func__, __builtin_return_address(0), function, config->gridDim, config->blockDim, args,
                       config->dynamicSmemBytes, config->stream, attributes_of(*config));
}

// --- attributes and occupancy of kernels -----------------------------------------------------------------------------

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* handle) {
    return CALL.run(
        [&] {
            CUfunc_st* function;
            if (!attributes) return cudaErrorInvalidValue;
            if (const cudaError_t error = load(handle, function)) return error;
            const Kernel& kernel                      = *function->kernel;
            *attributes                               = {};
            attributes->sharedSizeBytes               = kernel.static_shared;
            attributes->constSizeBytes                = kernel.const_bytes;
            attributes->localSizeBytes                = kernel.local_bytes;
            attributes->maxThreadsPerBlock            = kernel.max_threads;
            attributes->numRegs                       = kernel.registers;
            attributes->ptxVersion                    = kernel.ptx_target;
            attributes->binaryVersion                 = device_spec().major * 10 + device_spec().minor;
            attributes->maxDynamicSharedSizeBytes     = int(function->dynamic_shared_limit());
            attributes->preferredShmemCarveout        = function->here().preferred_carveout;
            attributes->clusterDimMustBeSet           = kernel.wants_cluster;
            attributes->requiredClusterWidth          = int(kernel.cluster[0]);
            attributes->requiredClusterHeight         = int(kernel.cluster[1]);
            attributes->requiredClusterDepth          = int(kernel.cluster[2]);
            attributes->nonPortableClusterSizeAllowed = function->here().non_portable_cluster;
            return cudaSuccess;
        },
        handle);
}

cudaError_t cudaFuncSetAttribute(const void* handle, cudaFuncAttribute attribute, int value) {
    return CALL.run(
        [&] {
            CUfunc_st* function;
            if (const cudaError_t error = load(handle, function)) return error;
            switch (attribute) {
                case cudaFuncAttributeMaxDynamicSharedMemorySize:
                    if (value < 0 ||
                        value > device_spec().shared_per_block_optin - int(function->kernel->static_shared))
                        return cudaErrorInvalidValue;
                    function->here().raised_shared = value;
                    return cudaSuccess;
                case cudaFuncAttributePreferredSharedMemoryCarveout:
                    if (value < -1 || value > 100) return cudaErrorInvalidValue;
                    function->here().preferred_carveout = value;
                    return cudaSuccess;
                case cudaFuncAttributeNonPortableClusterSizeAllowed:
                    function->here().non_portable_cluster = value;
                    return cudaSuccess;
                case cudaFuncAttributeClusterSchedulingPolicyPreference: return cudaSuccess;
                default: return lacking("this attribute of a kernel");
            }
        },
        handle, attribute, value);
}
cudaError_t cudaFuncSetCacheConfig(const void* handle, cudaFuncCache config) {
    return CALL.run([&] { return find_function(handle) ? cudaSuccess : cudaErrorInvalidDeviceFunction; }, handle,
                    config);
}
cudaError_t cudaFuncSetSharedMemConfig(const void* handle, cudaSharedMemConfig config) {
    return CALL.run([&] { return find_function(handle) ? cudaSuccess : cudaErrorInvalidDeviceFunction; }, handle,
                    config);
}
cudaError_t cudaGetFuncBySymbol(cudaFunction_t* function, const void* symbol) {
    return CALL.run(
        [&] {
            CUfunc_st* found = find_function(symbol);
            return found ? answer(function, found) : cudaErrorInvalidDeviceFunction;
        },
        symbol);
}
cudaError_t cudaGetKernel(cudaKernel_t* kernel, const void* symbol) {
    return CALL.run([&] { return __cudaGetKernel(kernel, symbol); }, symbol);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* handle, int threads,
                                                                   size_t shared, unsigned) {
    return CALL.run(
        [&] {
            CUfunc_st* function;
            if (const cudaError_t error = load(handle, function)) return error;
            if (!blocks || threads <= 0) return cudaErrorInvalidValue;
            *blocks = blocks_per_sm(*function->kernel, threads, shared);
            return cudaSuccess;
        },
        handle, threads, shared);
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* handle, int threads, size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, handle, threads, shared, 0);
}
// The number of clusters that are on the device at once, and the largest cluster of which at least one fits.
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* handle, const cudaLaunchConfig_t* config) {
    return CALL.run(
        [&] {
            CUfunc_st* function;
            if (const cudaError_t error = load(handle, function)) return error;
            if (!clusters || !config) return cudaErrorInvalidValue;
            KernelLaunch launch{function, config->gridDim, config->blockDim, config->dynamicSmemBytes, {}, {}, {}, {}};
            if (const cudaError_t error = set_cluster(launch, attributes_of(*config).cluster)) return error;
            *clusters = clusters_on_device(*function->kernel, int(count(launch.block)), launch.dynamic_shared,
                                           count(launch.cluster));
            return cudaSuccess;
        },
        handle);
}
cudaError_t cudaOccupancyMaxPotentialClusterSize(int* size, const void* handle, const cudaLaunchConfig_t* config) {
    return CALL.run(
        [&] {
            CUfunc_st* function;
            if (const cudaError_t error = load(handle, function)) return error;
            if (!size || !config) return cudaErrorInvalidValue;
            if (device_spec().major < 9) return cudaErrorNotSupported;
            const auto fits = [&](int blocks) {
                return clusters_on_device(*function->kernel, int(count(config->blockDim)), config->dynamicSmemBytes,
                                          uint64_t(blocks)) > 0;
            };
            for (*size = int(most_cluster_blocks(*function)); *size > 1 && !fits(*size); *size -= 1) {}
            return cudaSuccess;
        },
        handle);
}
cudaError_t cudaOccupancyAvailableDynamicSMemPerBlock(size_t* shared, const void* handle, int blocks, int threads) {
    return CALL.run(
        [&] {
            CUfunc_st* function;
            if (const cudaError_t error = load(handle, function)) return error;
            if (!shared || blocks <= 0 || threads <= 0) return cudaErrorInvalidValue;
            for (*shared = device_spec().shared_per_block_optin - function->kernel->static_shared; *shared >= 128;
                 *shared -= 128)
                if (blocks_per_sm(*function->kernel, threads, *shared) >= blocks) break;
            return cudaSuccess;
        },
        handle, blocks, threads);
}

// --- variables ------------------------------------------------------------------------------------------------------

cudaError_t cudaGetSymbolAddress(void** pointer, const void* symbol) {
    return CALL.run([&] { return symbol_range(symbol, 0, 0, pointer); }, symbol);
}
cudaError_t cudaGetSymbolSize(size_t* bytes, const void* symbol) {
    return CALL.run(
        [&] {
            Variable* variable;
            if (const cudaError_t error = find_symbol(symbol, &variable)) return error;
            return answer(bytes, variable->bytes);
        },
        symbol);
}
