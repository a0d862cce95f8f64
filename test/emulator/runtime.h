// runtime.h - what libcudart shares with libcublasLt and libnccl: operations in streams, errors, the trace
//
// Work is anything a stream does: a kernel, a copy, a matrix product, a collective. It is queued by submit() and run
// when the --streams schedule says so, never before what it depends on. One lock guards everything; run() is called
// under it.
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

// Pinned or managed memory that a queued operation reads or writes. The host must not touch it until it has
// synchronised.
struct HostRange {
    Address begin;
    size_t bytes;
    Access access;
};

struct Work {
    cudaGraphNodeType type                      = cudaGraphNodeTypeEmpty;
    std::string what                            = {};  // for messages: "cudaMemcpyAsync from main.cu:31"
    // Answers cudaErrorNotReady while it waits for a peer; then it is called again later.
    std::function<cudaError_t(uint32_t op)> run = {};
    std::vector<HostRange> host                 = {};
    std::any params                             = {};     // the answer of cudaGraphKernelNodeGetParams and the like
    bool unlocked                               = false;  // a callback into the program, which runs without the lock
};

// Queues the work, or adds it to the graph when the stream is being captured. Call under the lock.
cudaError_t submit(cudaStream_t stream, Work work);

// Waits until everything that is queued in the stream is done. The lock is released while it waits for a peer.
cudaError_t wait_stream(cudaStream_t stream);

// Whether the stream is being captured; then nothing may wait for it.
bool is_capturing(cudaStream_t stream);

std::mutex& runtime_lock();
int current_device();

// Names the API call that this thread is in: "cudaMalloc from main.cu:31". The place is a mark until somebody reads the
// text; resolve_sites() then looks it up in the debug information. `deep` also marks the caller's caller, for calls
// that a program without optimisation makes through a wrapper of CUDA's header.
std::string call_site(bool deep = false);
std::string resolve_sites(const std::string& text);

// The whole of many calls: gives one value.
template <class T, class Value> cudaError_t answer(T* out, const Value& value) {
    *out = value;
    return cudaSuccess;
}

// An error that every later call answers, as after a fault in a kernel; cudaSuccess when there is none.
cudaError_t sticky_error();
void set_sticky_error(cudaError_t error);

void trace_line(const char* function, const std::string& arguments, const std::string& result);
void before_first_call();  // --coverage ends the program here
void note_call();          // the program is alive: see streams.h

// The frame around every entry point: lock, trace, call site, last error.
//     return CALL.run([&] { …; return cudaSuccess; }, pointer, bytes);       the arguments are for the trace
class Call {
  public:
    Call(const char* function, void* return_address);
    ~Call();
    template <class Body, class... Args> cudaError_t run(Body body, const Args&... args) {
        std::unique_lock guard(runtime_lock());
        const cudaError_t sticky = sticky_error();
        return finish(sticky != cudaSuccess ? sticky : body(), args...);
    }
    // For the few calls that answer even after a sticky error.
    template <class Body, class... Args> cudaError_t always(Body body, const Args&... args) {
        std::unique_lock guard(runtime_lock());
        return finish(body(), args...);
    }

  private:
    template <class... Args> cudaError_t finish(cudaError_t error, const Args&... args) {
        if (options().trace) trace_line(function, join(args...), error_name(error));
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
    static const char* error_name(cudaError_t error);
    static cudaError_t record(cudaError_t error);  // remembers it for cudaGetLastError

    const char* function;
    const char* outer_function;
    void* outer_address;
};
#define CALL ::emu::Call(__func__, __builtin_return_address(0))
// Names the call site in the functions of the other libraries, which answer no cudaError_t.
#define SITE ::emu::Call site_(__func__, __builtin_return_address(0))

}  // namespace emu
