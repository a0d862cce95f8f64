// device.h - where memory lives and where ops run: Device, Stream, copies, and RUN_ON, the one place that chooses a
// machine
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tensor.h"

enum class Machine : uint8_t { cpu, cuda };

// Memory of the device itself or, for a GPU, pinned memory of the host, which the GPU reaches over PCIe.
enum class Memory : uint8_t { device, host };

// A queue of work on one machine. It is passed by value; its handle belongs to the Device that made it.
struct Stream {
    Machine where = Machine::cpu;
    void* handle  = nullptr;  // a gpu::Queue when where == cuda
};

// A point in the work of a GPU, which streams can wait for. It is passed by value, and its handle belongs to what made
// it. A null one has passed already.
struct Event {
    void* handle = nullptr;  // a cudaEvent_t
    explicit operator bool() const { return handle; }
};

// Which kernels compute attention in bf16 on a GPU. `automatic` takes those for Hopper where they run, and compares
// them with those that use mma.sync when a run uses them first.
enum class AttentionKernels : uint8_t { automatic, mma, hopper };

constexpr int most_cpu_threads = 4096;

// One processor and its memory.
class Device {
  public:
    // kind: auto (a GPU if one can be used, else the CPU), cpu or cuda. index: which GPU.
    // threads: how many CPU threads, 0 for one per core.
    // sync_each: on a GPU, wait after every kernel, so that an error names the op that caused it.
    explicit Device(const std::string& kind = "auto", int index = 0, int threads = 0, bool sync_each = false);
    ~Device();
    Device(const Device&)            = delete;
    Device& operator=(const Device&) = delete;

    Stream stream() const { return stream_; }
    Machine where() const { return stream_.where; }
    std::string name() const { return name_; }  // "AMD EPYC" or "H100 80GB"
    int threads() const { return threads_; }
    std::string no_gpu() const { return no_gpu_; }  // why kind auto chose the CPU; "" where there is no reason to say
    bool fast_bf16() const;                         // products in bf16 run at twice the rate of fp32 or better
    bool has_graphs() const;                        // work can be recorded as a CUDA graph (feed.h)
    int64_t free_bytes() const;                     // memory that a run could still take

    // Returns memory that is aligned to 64 bytes. RunError when there is too little of it.
    void* allocate(int64_t bytes, Memory memory = Memory::device) const;
    void release(void* p) const;
    // Makes the scratch memory of ops at least this large. Otherwise it grows when an op asks for more, and that waits
    // for the GPU.
    void reserve_scratch(int64_t bytes) const;
    // From now on, products in fp32 on a GPU round their operands to TF32, which has 11 bits of precision, and add in
    // fp32. They run on tensor cores then. InputError on a CPU.
    void use_tf32() const;
    // From now on, attention uses these kernels. InputError when they are Hopper's and this device cannot run them.
    void use_attention(AttentionKernels which) const;
    bool has_hopper_attention() const;
    // Lets a Graph launch kernels early (feed.h), which it does on GPUs of compute capability 9.0 and above unless this
    // is set to false.
    void allow_early_launches(bool allowed) const;

  private:
    void use_gpu(int index, bool sync_each, bool insist);

    Stream stream_;
    std::shared_ptr<void> queue_;  // owns what stream_ points to on a GPU
    std::string name_, no_gpu_;
    int threads_ = 1;
};

void copy(Tensor dst /*=*/, Tensor src, Stream s);  // same shape; converts between the dtypes that ops compute in
void zero(Tensor t /*=*/, Stream s);
void sync(Stream s);               // waits until all queued work is done
void wait_for(Event e, Stream s);  // what is queued on s from here on waits for the event; the host does not
// Copy to and from ordinary host memory, which the host may use again when the call returns. to_host() waits for all
// queued work.
void to_host(void* dst, Tensor src, Stream s);                        // dst: src.bytes() of memory
void from_host(Tensor dst, const void* src, Stream s);                // src: dst.bytes() of memory
void from_host(Tensor dst, const std::vector<float>& src, Stream s);  // rounded to the dtype of dst
// Lets the host write dst where it lies, or, for a GPU, into the memory that is copied to it, while the part before is
// on its way. fill(out, first, count) writes elements [first, first + count) of dst, in its dtype, to `out`. It is
// called for one part after another and should use all cores.
using Fill = std::function<void(void* out, int64_t first, int64_t count)>;
void from_host(Tensor dst, const Fill& fill, Stream s);
std::vector<float> floats_of(Tensor src, Stream s);  // converts any dtype that ops compute in to fp32

// Every tensor of an op is null or has at least one element: libraries and launches do not take empty ones.
inline void expect_elements(const char* op, const Tensor& t) {
    CHECK_CALL(!t || t.numel() > 0, "{}: a tensor is {}, expected one with elements", op, t.str());
}
template <class T>
void expect_elements(const char*, const T&) {}  // of an argument that is no tensor
template <class... Args>
void expect_all_elements(const char* op, const Args&... args) {
    (expect_elements(op, args), ...);
}

// RUN_ON(s, dtype, op, args…) runs the half of an op that belongs to the stream's machine: cpu::op<T>(args…) or
// gpu::op<T>(args…, queue), where T is the C++ type of `dtype`. RUN_UNTYPED(s, op, args…) is the same for an op whose
// halves are not templates, because it has one dtype only. Both refuse empty tensors.
#ifdef __CUDACC__
#define RUN_HALF_(s, name, op, ...)                      \
    do {                                                 \
        expect_all_elements(name, __VA_ARGS__);          \
        if ((s).where == Machine::cpu)                   \
            cpu::op(__VA_ARGS__);                        \
        else                                             \
            gpu::op(__VA_ARGS__, gpu::OpScope(s, name)); \
    } while (0)
#else
#define RUN_HALF_(s, name, op, ...)                                                                  \
    do {                                                                                             \
        CHECK_CALL((s).where == Machine::cpu, name ": this binary was built without its CUDA half"); \
        expect_all_elements(name, __VA_ARGS__);                                                      \
        cpu::op(__VA_ARGS__);                                                                        \
    } while (0)
#endif
#define RUN_ON(s, dtype, op, ...) \
    for_dtype(dtype, [&](auto tag_) { RUN_HALF_(s, #op, op<typename decltype(tag_)::type>, __VA_ARGS__); })
#define RUN_UNTYPED(s, op, ...) RUN_HALF_(s, #op, op, __VA_ARGS__)
