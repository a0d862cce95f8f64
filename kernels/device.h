// device.h - where memory lives and where ops run: Device, Stream, Arena, and RUN_ON, the one place that chooses a
// machine
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tensor.h"

enum class Machine : uint8_t { cpu, cuda };

// A queue of work on one machine. Passed by value; the Device that made it owns what is behind it.
struct Stream {
    Machine where = Machine::cpu;
    void* handle  = nullptr;  // a gpu::Queue when where == cuda
};

// One processor and its memory. Handles of libraries live here.
class Device {
  public:
    // kind: auto (a GPU that can be used, else the CPU), cpu or cuda. threads: CPU threads, 0 for one per core.
    // sync_each: on a GPU, wait after every kernel, so that an error names the op that caused it.
    explicit Device(const std::string& kind = "auto", int index = 0, int threads = 0, bool sync_each = false);
    ~Device();
    Device(const Device&)            = delete;
    Device& operator=(const Device&) = delete;

    Stream stream() const { return stream_; }
    Machine where() const { return stream_.where; }
    std::string name() const { return name_; }  // "AMD EPYC" or "H100 80GB"
    int threads() const { return threads_; }
    bool fast_bf16() const;            // bf16 products at twice the rate of fp32 or better
    double peak_flops(DType t) const;  // measured matrix-product rate, FLOP/s; measured once, cached
    int64_t free_bytes() const;        // memory that a run could still take

    void* allocate(int64_t bytes) const;  // 64-byte aligned; RunError when there is no more
    void release(void* p) const;
    // On a GPU: the memory that ops keep things in between their kernels has at least so many bytes from here on.
    void reserve_scratch(int64_t bytes) const;

  private:
    void use_gpu(int index, bool sync_each, bool insist);

    Stream stream_;
    std::shared_ptr<void> queue_;  // what stream_ points to on a GPU
    std::string name_;
    int threads_ = 1;
    mutable std::map<DType, double> peak_;
};

std::string backends();  // the libraries in this binary, for --version

// Lets idle threads sleep after a few microseconds, by starting the program again with GOMP_SPINCOUNT=3000; call it
// first in main(). The OpenMP library reads that once, before main. Spinning for longer, its default, makes a step four
// times slower as soon as another program wants one of the cores; not spinning at all makes decoding a third slower. An
// OMP_WAIT_POLICY or GOMP_SPINCOUNT that is set already stays.
void let_idle_threads_sleep(char** argv);

void copy(Tensor dst /*=*/, Tensor src, Stream s);  // same shape; converts between fp32 and bf16
void zero(Tensor t /*=*/, Stream s);
void sync(Stream s);  // waits until all queued work is done
// To and from ordinary host memory; same shape and dtype; the host side may be touched when the call returns. to_host()
// waits for all that was queued before.
void to_host(void* dst, Tensor src, Stream s);
void from_host(Tensor dst, const void* src, Stream s);
void from_host(Tensor dst, const std::vector<float>& src, Stream s);  // rounded to the dtype of dst
std::vector<float> floats_of(Tensor src, Stream s);                   // every element of an fp32 or bf16 tensor

namespace gpu {
class Feed;
class Recording;
}  // namespace gpu

// Brings bytes to a device while it works on those that came before: fill outgoing(), send() them, and from arrive()
// on, in the order of the stream, they lie at arrived(). On a GPU the copy has a stream of its own and starts at
// send().
class Feed {
  public:
    Feed(const Device& device, int64_t bytes);
    ~Feed();
    Feed(const Feed&)            = delete;
    Feed& operator=(const Feed&) = delete;

    void* outgoing();  // `bytes` of host memory for the next send()
    void send();
    void arrive();  // at most once per send()
    void* arrived() const { return arrived_; }
    // What `bytes` take on the device.
    static int64_t device_bytes(int64_t bytes, Machine where) { return where == Machine::cuda ? 2 * bytes : bytes; }

  private:
    const Device& device_;
    int64_t bytes_;
    void* arrived_;
    std::vector<char> host_;          // what was filled on the CPU
    std::shared_ptr<gpu::Feed> gpu_;  // and on a GPU
};

// Work that is queued again and again unchanged: the same ops on the same tensors. On a GPU, the second time records it
// as a CUDA graph, and from then on it costs one launch.
class Graph {
  public:
    // record false: run() does the work and nothing else, as it always does on the CPU.
    Graph(const Device& device, bool record);
    ~Graph();
    Graph(const Graph&)            = delete;
    Graph& operator=(const Graph&) = delete;

    void run(const std::function<void()>& work);

  private:
    std::shared_ptr<gpu::Recording> recording_;
};

// Memory for a table of tensors, in one block. Walk the table once with plan() to learn the size, call allocate(), and
// walk it again with take(): both walks see the same rows, so the second gets the memory that the first asked for.
class Arena {
  public:
    explicit Arena(std::string group = "") : group_(std::move(group)) {}
    Arena(Arena&& o) noexcept { *this = std::move(o); }
    Arena& operator=(Arena&& o) noexcept;
    ~Arena();

    void plan(const Shape& shape, DType dtype) { planned_ += padded(shape, dtype); }
    void allocate(const Device& device);  // zero-filled
    Tensor take(const Shape& shape, DType dtype);
    void rewind() { used_ = 0; }  // take() starts over: the same memory under other shapes
    int64_t bytes() const { return planned_; }
    // All the elements taken so far as one flat tensor, padding between rows included (it stays zero).
    Tensor flat(DType dtype) const;

  private:
    static int64_t padded(const Shape& shape, DType dtype) { return (shape.numel() * size_of(dtype) + 63) / 64 * 64; }
    std::string group_;
    const Device* device_ = nullptr;
    char* base_           = nullptr;
    int64_t planned_ = 0, used_ = 0;
};

// RUN_ON(s, dtype, op, args…) runs the half of an op that belongs to the stream's machine: cpu::op<T>(args…) or
// gpu::op<T>(args…, queue), where T is the C++ type of `dtype`. RUN_UNTYPED(s, op, args…) is the same for an op whose
// halves are no templates, because it knows one dtype only.
#ifdef __CUDACC__
#define RUN_HALF_(s, name, op, ...)                 \
    do {                                            \
        if ((s).where == Machine::cpu)              \
            cpu::op(__VA_ARGS__);                   \
        else                                        \
            gpu::op(__VA_ARGS__, gpu::Op(s, name)); \
    } while (0)
#else
#define RUN_HALF_(s, name, op, ...)                                                             \
    do {                                                                                        \
        CHECK((s).where == Machine::cpu, name ": this binary was built without its CUDA half"); \
        cpu::op(__VA_ARGS__);                                                                   \
    } while (0)
#endif
#define RUN_ON(s, dtype, op, ...) \
    for_dtype(dtype, [&](auto type_) { RUN_HALF_(s, #op, op<typename decltype(type_)::type>, __VA_ARGS__); })
#define RUN_UNTYPED(s, op, ...) RUN_HALF_(s, #op, op, __VA_ARGS__)
