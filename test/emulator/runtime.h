// runtime.h - what libcudart shares with libcublasLt and libnccl: operations in streams, errors, the trace
//
// Work is anything that a stream does: a kernel, a copy, a matrix product, a collective. submit() queues it, and the
// --streams schedule decides when it runs, after everything it depends on. One lock guards all of the runtime's state,
// and Work::run is called under it.
#pragma once
#include <cuda_runtime_api.h>

#include <any>
#include <atomic>
#include <functional>
#include <mutex>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "engine.h"

namespace emu {

// Pinned or managed memory that a queued operation uses. The host must not touch it before it has synchronised.
struct HostRange {
    Address begin;
    size_t bytes;
    Access access;
};

struct Work {
    cudaGraphNodeType type                      = cudaGraphNodeTypeEmpty;
    std::string what                            = {};  // for messages: "cudaMemcpyAsync from main.cu:31"
    // Returns cudaErrorNotReady when it must wait for a peer, and is then called again later.
    std::function<cudaError_t(uint32_t op)> run = {};
    std::vector<HostRange> host                 = {};
    std::any params                             = {};     // what cudaGraphKernelNodeGetParams and the like return
    bool unlocked                               = false;  // it calls a function of the program, without the lock
    bool after_error                            = false;  // it runs even after a sticky error
    // It is a kernel that was launched with programmatic stream serialization.
    bool overlaps                               = false;
};

// Queues the work, or adds it to the graph when the stream is being captured. The caller holds the lock.
cudaError_t submit(cudaStream_t stream, Work work);

// Waits until everything that is queued in the stream is done. The lock is released while it waits for a peer.
cudaError_t wait_stream(cudaStream_t stream);

// Returns whether the stream is being captured. In that case nothing may wait for it.
bool is_capturing(cudaStream_t stream);

std::mutex& runtime_lock();
int current_device();
bool is_device(int device);

// Names the API call that this thread is in: "cudaMalloc from main.cu:31". The text holds the return address in place
// of file and line, until resolve_sites() looks it up in the debug information. `deep` adds the caller's caller,
// because a program without optimisation makes some calls through a wrapper in CUDA's header.
std::string call_site(bool deep = false);
std::string resolve_sites(const std::string& text);

// Returns one value through a pointer, which is all that many calls do.
template <class T, class Value> cudaError_t answer(T* out, const Value& value) {
    if (!out) return cudaErrorInvalidValue;
    *out = value;
    return cudaSuccess;
}

// The error that every later call returns, as after a fault in a kernel. It is cudaSuccess when there is none.
cudaError_t sticky_error();
void set_sticky_error(cudaError_t error);

// The error of every call that needs a device, where the driver is too old or there is no device; else cudaSuccess.
cudaError_t missing_device();

// Prints that the emulator lacks what the program asks of this call, and returns the error.
cudaError_t lacking(const char* what, cudaError_t error = cudaErrorNotSupported);

void trace_line(const char* function, const std::string& arguments, const std::string& result);
void before_first_call();  // --coverage prints its list here and ends the program
void note_call();          // tells the watch in streams.cpp that the program makes progress

// What every entry point does around its own work: lock, trace, call site, last error. The arguments after the body are
// for the trace: return CALL.run([&] { …; return cudaSuccess; }, pointer, bytes);
class Call {
  public:
    Call(const char* function, void* return_address);
    ~Call();
    template <class Body, class... Args> cudaError_t run(Body body, const Args&... args) {
        std::unique_lock guard(runtime_lock());
        cudaError_t error = sticky_error();
        if (error == cudaSuccess) error = missing_device();
        return finish(error == cudaSuccess ? body() : error, args...);
    }
    // Does the same for the few calls that work even after a sticky error or without a device.
    template <class Body, class... Args> cudaError_t always(Body body, const Args&... args) {
        std::unique_lock guard(runtime_lock());
        return finish(body(), args...);
    }

  private:
    template <class... Args> cudaError_t finish(cudaError_t error, const Args&... args) {
        if (options().trace) trace_line(function, join(args...), cudaGetErrorName(error));
        return record(error);
    }
    template <class... Args> static std::string join(const Args&... args) {
        std::ostringstream text;
        [[maybe_unused]] const char* comma = "";
        (((text << comma, print(text, args)), comma = ", "), ...);
        return text.str();
    }
    template <class T> static void print(std::ostream& out, const T& value) {
        if constexpr (std::is_pointer_v<T> && !std::is_same_v<std::decay_t<T>, const char*>)
            out << reinterpret_cast<const void*>(value);
        else if constexpr (std::is_same_v<T, dim3>) out << '{' << value.x << ' ' << value.y << ' ' << value.z << '}';
        else if constexpr (std::is_enum_v<T>) out << int(value);
        else out << value;
    }
    static cudaError_t record(cudaError_t error);  // remembers it for cudaGetLastError

    const char* function;
    const char* outer_function;
    void* outer_address;
};
#define CALL ::emu::Call(__func__, __builtin_return_address(0))
// Marks the call site in functions of the other libraries, which do not return a cudaError_t.
#define SITE ::emu::Call site_(__func__, __builtin_return_address(0))

}  // namespace emu
