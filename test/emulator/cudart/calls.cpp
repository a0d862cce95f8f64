// calls.cpp - what every entry point does (trace, last error, call sites), and the calls that ask for errors
#include <dlfcn.h>
#include <elf.h>
#include <execinfo.h>
#include <unistd.h>

#include <cstdio>
#include <map>

#include "modules.h"
#include "streams.h"

namespace emu {
namespace {

thread_local const char* current_function = nullptr;
thread_local void* current_address        = nullptr;
thread_local cudaError_t last_error       = cudaSuccess;
std::atomic<cudaError_t> sticky{cudaSuccess};

struct ErrorText {
    cudaError_t error;
    const char *name, *text;
};
#define E(code, text) \
    { code, #code, text }
const ErrorText error_texts[] = {
    E(cudaSuccess, "no error"),
    E(cudaErrorInvalidValue, "invalid argument"),
    E(cudaErrorMemoryAllocation, "out of memory"),
    E(cudaErrorInitializationError, "initialization error"),
    E(cudaErrorCudartUnloading, "driver shutting down"),
    E(cudaErrorProfilerDisabled, "profiler disabled while using external profiling tool"),
    E(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    E(cudaErrorInvalidPitchValue, "invalid pitch argument"),
    E(cudaErrorInvalidSymbol, "invalid device symbol"),
    E(cudaErrorInvalidTexture, "invalid texture reference"),
    E(cudaErrorInvalidChannelDescriptor, "invalid channel descriptor"),
    E(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    E(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    E(cudaErrorMissingConfiguration, "__global__ function call is not configured"),
    E(cudaErrorInvalidDeviceFunction, "invalid device function"),
    E(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    E(cudaErrorInvalidDevice, "invalid device ordinal"),
    E(cudaErrorInvalidKernelImage, "device kernel image is invalid"),
    E(cudaErrorDeviceUninitialized, "invalid device context"),
    E(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
    E(cudaErrorPeerAccessUnsupported, "peer access is not supported between these two devices"),
    E(cudaErrorInvalidPtx, "a PTX JIT compilation failed"),
    E(cudaErrorUnsupportedPtxVersion, "the provided PTX was compiled with an unsupported toolchain."),
    E(cudaErrorInvalidSource, "device kernel image is invalid"),
    E(cudaErrorFileNotFound, "file not found"),
    E(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    E(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    E(cudaErrorSymbolNotFound, "named symbol not found"),
    E(cudaErrorNotReady, "device not ready"),
    E(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    E(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    E(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    E(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled"),
    E(cudaErrorPeerAccessNotEnabled, "peer access has not been enabled"),
    E(cudaErrorSetOnActiveProcess, "cannot set while device is active in this process"),
    E(cudaErrorContextIsDestroyed, "context is destroyed"),
    E(cudaErrorAssert, "device-side assert triggered"),
    E(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped"),
    E(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region"),
    E(cudaErrorHardwareStackError, "hardware stack error"),
    E(cudaErrorIllegalInstruction, "an illegal instruction was encountered"),
    E(cudaErrorMisalignedAddress, "misaligned address"),
    E(cudaErrorInvalidAddressSpace, "operation not supported on global/shared address space"),
    E(cudaErrorInvalidPc, "invalid program counter"),
    E(cudaErrorLaunchFailure, "unspecified launch failure"),
    E(cudaErrorCooperativeLaunchTooLarge, "too many blocks in cooperative launch"),
    E(cudaErrorNotPermitted, "operation not permitted"),
    E(cudaErrorNotSupported, "operation not supported"),
    E(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    E(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
    E(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences"),
    E(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    E(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    E(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    E(cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a capturing blocking stream"),
    E(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream"),
    E(cudaErrorStreamCaptureWrongThread, "attempt to terminate a thread-local capture sequence from another thread"),
    E(cudaErrorTimeout, "wait operation timed out"),
    E(cudaErrorGraphExecUpdateFailure,
      "the graph update was not performed because it included changes which violated "
      "constraints specific to instantiated graph update"),
    E(cudaErrorInvalidClusterSize, "cluster misconfiguration"),
    E(cudaErrorUnknown, "unknown error"),
};
#undef E

const ErrorText* find_text(cudaError_t error) {
    for (const ErrorText& row : error_texts)
        if (row.error == error) return &row;
    return nullptr;
}

// Returns file:line of a return address from the debug information. Without it, this is the function's name or else the
// offset in the file. The text is empty for an address in CUDA's own header.
std::string describe_address(uint64_t address) {
    Dl_info info{};
    if (!dladdr(reinterpret_cast<void*>(address), &info) || !info.dli_fname) return "an unknown place";
    const auto base   = reinterpret_cast<uint64_t>(info.dli_fbase);
    const auto* elf   = static_cast<const Elf64_Ehdr*>(info.dli_fbase);
    const uint64_t at = elf->e_type == ET_EXEC ? address - 1 : address - 1 - base;
    char exe[4096];  // because argv[0] may be relative to another folder than the current one
    const ssize_t n  = readlink("/proc/self/exe", exe, sizeof exe - 1);
    std::string path = info.dli_fname;
    if (n > 0 && path.find(".so") == std::string::npos) path.assign(exe, size_t(n));
    std::string found;
    bool wrapper = false;
    if (path.find('\'') == std::string::npos) {
        char command[4400], line[4096];
        std::snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%llx 2>/dev/null", path.c_str(),
                      static_cast<unsigned long long>(at));
        if (FILE* pipe = popen(command, "r")) {
            while (found.empty() && std::fgets(line, sizeof line, pipe)) {
                std::string text(line);
                text = text.substr(0, text.find_first_of("\n "));
                if (text[0] == '?' || text.find(":?") != std::string::npos) continue;
                wrapper = text.find("/cuda_runtime") != std::string::npos;  // cudaMalloc<T> and friends
                if (!wrapper) found = text;
            }
            pclose(pipe);
        }
    }
    if (wrapper && found.empty()) return "";
    if (!found.empty()) {
        const size_t slash = found.rfind('/');
        return slash == std::string::npos ? found : found.substr(slash + 1);
    }
    char offset[32];
    std::snprintf(offset, sizeof offset, "+0x%llx", static_cast<unsigned long long>(at));
    if (info.dli_sname) return demangle(info.dli_sname);
    return path.substr(path.rfind('/') + 1) + offset;
}

}  // namespace

std::mutex& runtime_lock() {
    static std::mutex* lock = new std::mutex;  // never destroyed: programs free memory in static destructors
    return *lock;
}

cudaError_t sticky_error() { return sticky; }
void set_sticky_error(cudaError_t error) { sticky = error; }

cudaError_t lacking(const char* what, cudaError_t error) {
    std::fprintf(stderr, "emulate: %s: the emulator lacks %s: %s\n", resolve_sites(call_site()).c_str(), what,
                 cudaGetErrorName(error));
    return error;
}

std::string call_site(bool deep) {
    if (!current_function) return "the program";
    // Without optimisation cudaMalloc<T>() of cuda_runtime.h is a function of its own, and the site is in its caller.
    void* frames[16];
    const int n = deep ? backtrace(frames, 16) : 0;
    for (int k = 0; k + 1 < n; k++)
        if (frames[k] == current_address) {
            char text[200];
            std::snprintf(text, sizeof text, "%s from @{%llx,%llx}", current_function,
                          reinterpret_cast<unsigned long long>(current_address),
                          reinterpret_cast<unsigned long long>(frames[k + 1]));
            return text;
        }
    char text[160];
    std::snprintf(text, sizeof text, "%s from @{%llx}", current_function,
                  reinterpret_cast<unsigned long long>(current_address));
    return text;
}

std::string resolve_sites(const std::string& text) {
    // Both are never destroyed, because findings at the end of the program have call sites, too.
    static auto& lock  = *new std::mutex;
    static auto& known = *new std::map<uint64_t, std::string>;
    std::string out;
    size_t from = 0;
    for (size_t mark; (mark = text.find("@{", from)) != std::string::npos;) {
        const size_t end = text.find('}', mark);
        char* more;
        const uint64_t address = std::strtoull(text.c_str() + mark + 2, &more, 16);
        const uint64_t caller  = *more == ',' ? std::strtoull(more + 1, nullptr, 16) : 0;
        std::lock_guard guard(lock);
        auto row = known.find(address);
        if (row == known.end()) row = known.emplace(address, describe_address(address)).first;
        const bool wrapper = row->second.empty();
        out += text.substr(from, mark - from) + (!wrapper ? row->second
                                                 : caller ? describe_address(caller)
                                                          : "a wrapper of the runtime's header");
        if (end == std::string::npos) return out;
        from = end + 1;
    }
    return out + text.substr(from);
}

void trace_line(const char* function, const std::string& arguments, const std::string& result) {
    std::fprintf(stderr, "emulate: %s(%s) = %s\n", function, arguments.c_str(), result.c_str());
}

Call::Call(const char* function, void* return_address)
    : function(function), outer_function(current_function), outer_address(current_address) {
    before_first_call();
    note_call();
    if (!current_function) {  // of calls inside of each other, the program made the outer one
        current_function = function;
        current_address  = return_address;
    }
}

Call::~Call() {
    current_function = outer_function;
    current_address  = outer_address;
}

cudaError_t Call::record(cudaError_t error) {
    if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
    return error;
}

}  // namespace emu

using namespace emu;

cudaError_t cudaGetLastError() {
    std::lock_guard guard(runtime_lock());
    forget_unchecked_launches();
    const cudaError_t error = sticky_error() != cudaSuccess ? sticky_error() : last_error;
    last_error              = cudaSuccess;
    if (options().trace) trace_line(__func__, "", cudaGetErrorName(error));
    return error;
}

cudaError_t cudaPeekAtLastError() {
    std::lock_guard guard(runtime_lock());
    forget_unchecked_launches();
    return sticky_error() != cudaSuccess ? sticky_error() : last_error;
}

const char* cudaGetErrorName(cudaError_t error) {
    const ErrorText* row = find_text(error);
    return row ? row->name : "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
    const ErrorText* row = find_text(error);
    return row ? row->text : "unrecognized error code";
}
