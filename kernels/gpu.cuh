// gpu.cuh - what the CUDA half of every op is made of: Queue, launch(), vectors of 16 bytes, sums over warps and blocks
//
// A sum adds in the order of its loop, then over the lanes of a warp and the warps of a block in a fixed tree. How work
// is cut depends on shapes only, never on the number of multiprocessors, and no floating-point number is added
// atomically: the same bits on every run and on every GPU.
#pragma once
#include <cuda_runtime.h>

#include <memory>
#include <type_traits>
#include <vector>

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#endif

#include "device.h"

namespace gpu {

// ---- every status is looked at --------------------------------------------------------------------------------------

inline void check(cudaError_t status, const char* call, const char* file, int line) {
    if (status == cudaSuccess) return;
    throw_at<RunError>(file, line, "CUDA: {} ({}) from {}", cudaGetErrorName(status), cudaGetErrorString(status), call);
}
#define CUDA_RUN(...) gpu::check((__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)

// ---- the queue behind a Stream --------------------------------------------------------------------------------------

// How many blocks of how many threads, with so many bytes of shared memory each; remembers the line that said so.
struct Grid {
    int64_t blocks;
    int threads;
    int64_t shared;
    const char* file;
    int line;
    Grid(int64_t blocks, int threads, int64_t shared = 0, const char* file = __builtin_FILE(),
         int line = __builtin_LINE())
        : blocks(blocks), threads(threads), shared(shared), file(file), line(line) {}
};

// Ids are checked on the GPU, before anything is read or written with them, and the host hears of a bad one when it
// next waits: until then the op that met it, and every later one that asks ready(), does nothing.
struct BadId {
    int rule;  // 0: none so far; else the number of the IdRule that it breaks
    int32_t id;
    int64_t at;  // index in the tensor of ids
};
using IdText = std::string (*)(const char* op, int64_t at, int64_t columns, int64_t id, int64_t limit);
struct IdRule {
    IdText text;
    const char* op;
    int64_t columns, limit;
    const char* file;
    int line;
};
HD bool ready(const BadId* bad) { return bad->rule == 0; }

struct Products;  // cuBLASLt's handle, workspace and plans: matmul.cu

// One CUDA stream and all that ops on it share. Kernels run in the order in which they are queued, so one piece of
// scratch memory serves op after op. Belongs to a Device.
class Queue {
  public:
    Queue(int index, bool sync_each);
    ~Queue();
    Queue(const Queue&)            = delete;
    Queue& operator=(const Queue&) = delete;

    cudaStream_t stream = nullptr;
    cudaDeviceProp limits{};
    const char* op = "";       // the op that queues work now
    BadId* bad     = nullptr;  // in the GPU's memory
    std::shared_ptr<Products> products;

    // Memory for what one op keeps between its kernels; the next op overwrites it. Grows, which waits for the GPU, only
    // when an op asks for more than ever before: from a model's second step on it never does.
    void* scratch(int64_t bytes);
    template <class T>
    T* scratch_of(int64_t count) {
        return static_cast<T*>(scratch(count * int64_t(sizeof(T))));
    }

    cudaError_t fault();                                           // of what was queued last; under --sync waits for it
    void launched(const Grid& g);                                  // throws its fault
    void expect_ids(Tensor ids, int64_t low, const IdRule& rule);  // low <= id < rule.limit for all of them
    void upload(void* dst, const void* src, int64_t bytes);        // src may be touched when it returns
    void download(void* dst, const void* src, int64_t bytes);      // wait() is part of it
    void wait();                                                   // until the GPU has done all; throws what went wrong
    bool sync_each() const { return sync_each_; }
    const void* scratch_now() const { return scratch_; }

  private:
    struct Slot {  // pinned memory on its way to the GPU
        char* memory     = nullptr;
        cudaEvent_t gone = nullptr;
    };
    std::vector<Slot> slots_;
    size_t next_slot_ = 0;
    std::vector<IdRule> rules_;
    struct Heard {  // pinned, so that reading it needs no wait of its own
        BadId bad;
        char bytes[256];
    };
    Heard* heard_          = nullptr;
    void* scratch_         = nullptr;
    int64_t scratch_bytes_ = 0;
    int index_;
    bool sync_each_;
};

// The GPU's side of a Feed (device.h): the host writes into pinned memory, a stream of its own copies that to `landed`,
// and arrive() moves it on when the step before no longer reads what came first. Two pinned buffers, so that the host
// may write the next bytes while a copy is under way.
class Feed {
  public:
    Feed(Queue& q, int64_t bytes);
    ~Feed();
    Feed(const Feed&)            = delete;
    Feed& operator=(const Feed&) = delete;

    void* outgoing();
    void send();
    void arrive(void* to);

  private:
    struct Buffer {
        void* memory     = nullptr;
        cudaEvent_t gone = nullptr;
    };
    Queue& queue_;
    size_t bytes_;
    cudaStream_t stream_ = nullptr;
    Buffer buffers_[2];
    int turn_          = 0;
    void* landed_      = nullptr;
    cudaEvent_t taken_ = nullptr;  // landed may be written again
};

// A CUDA graph of the work that a Graph (device.h) runs.
class Recording {
  public:
    explicit Recording(Queue& q) : queue_(q) {}
    ~Recording() {
        if (graph_) cudaGraphExecDestroy(graph_);  // a call that fails would be the next launch's last error
    }
    Recording(const Recording&)            = delete;
    Recording& operator=(const Recording&) = delete;

    void run(const std::function<void()>& work);

  private:
    void record(const std::function<void()>& work);

    Queue& queue_;
    cudaGraphExec_t graph_ = nullptr;
    const void* scratch_   = nullptr;  // where it was when the graph was recorded
    bool ran_              = false;
};

inline Queue& queue_of(Stream s) { return *static_cast<Queue*>(s.handle); }
inline Stream stream_of(Queue& q) { return {Machine::cuda, &q}; }

// Names the op while its kernels are queued: in errors, and as a range for profilers.
class Op {
  public:
    Op(Stream s, const char* name) : queue_(queue_of(s)) {
        queue_.op = name;
#ifdef NVTX_VERSION
        nvtxRangePushA(name);
#endif
    }
    ~Op() {
#ifdef NVTX_VERSION
        nvtxRangePop();
#endif
    }
    operator Queue&() const { return queue_; }

  private:
    Queue& queue_;
};

template <class... P, class... A>
void launch(void (*kernel)(P...), const Grid& g, Queue& q, A... args) {
    if (g.blocks == 0) return;
    if (g.blocks < 0 || g.blocks > INT32_MAX || g.shared > int64_t(q.limits.sharedMemPerBlockOptin))
        throw_at<RunError>(g.file, g.line, "{}: {} blocks with {} bytes of shared memory each; {} allows {} and {}",
                           q.op, g.blocks, g.shared, q.limits.name, INT32_MAX, q.limits.sharedMemPerBlockOptin);
    if (g.shared > 48 << 10)
        CUDA_RUN(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(g.shared)));
    kernel<<<unsigned(g.blocks), unsigned(g.threads), size_t(g.shared), q.stream>>>(P(args)...);
    q.launched(g);
}

// ---- vectors --------------------------------------------------------------------------------------------------------

// W elements in float. A thread moves 16 bytes at a time where it can: W is wide<T> when every pointer and row is
// aligned to that, else 1.
template <int W>
struct Floats {
    float at[W];
    __device__ float& operator[](int i) { return at[i]; }
    __device__ float operator[](int i) const { return at[i]; }
};
template <class T>
constexpr int wide = 16 / int(sizeof(T));

template <class... P>
bool aligned(const P*... pointers) {
    return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// A number known to the compiler, passed as an argument. (std::integral_constant would need --expt-relaxed-constexpr,
// and with that nvcc 13.0 compiles the CPU half's lambdas for the GPU as well and fails on their vectors.)
template <int n>
struct Constant {
    HD constexpr operator int() const { return n; }
};

// run(width) with wide<T> or 1.
template <class T, class Run>
void for_width(bool is_wide, Run run) {
    if (is_wide)
        run(Constant<wide<T>>{});
    else
        run(Constant<1>{});
}

template <int bytes>
struct WordOf;
template <>
struct WordOf<16> {
    using type = uint4;
};
template <>
struct WordOf<8> {
    using type = uint2;
};
template <>
struct WordOf<4> {
    using type = uint32_t;
};
template <>
struct WordOf<2> {
    using type = uint16_t;
};
template <int bytes>
using Word = typename WordOf<bytes>::type;

// Two floats as bf16 in one word, rounded to nearest even; the first is in the lower half.
__device__ inline uint32_t bf16_pair(float low, float high) {
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

// W elements as they lie in memory: half the registers of their floats when T is bf16.
template <int W, class T>
using Packed = Word<W* int(sizeof(T))>;
template <int W, class T>
__device__ inline Packed<W, T> load_packed(const T* p) {
    return *reinterpret_cast<const Packed<W, T>*>(p);
}
template <int W, class T>
__device__ inline Floats<W> unpack(Packed<W, T> word) {
    Floats<W> v;
    if constexpr (std::is_same_v<T, float>) {
        const float* f = reinterpret_cast<const float*>(&word);
        for (int i = 0; i < W; i++) v[i] = f[i];
    } else if constexpr (W == 1) {
        v[0] = __uint_as_float(uint32_t(word) << 16);
    } else {
        const uint32_t* pair = reinterpret_cast<const uint32_t*>(&word);
        for (int i = 0; i < W; i += 2) {
            v[i]     = __uint_as_float(pair[i / 2] << 16);
            v[i + 1] = __uint_as_float(pair[i / 2] & 0xffff0000u);
        }
    }
    return v;
}
template <int W, class T>
__device__ inline Floats<W> load(const T* p) {
    return unpack<W, T>(load_packed<W>(p));
}

template <int W, class T>
__device__ inline void store(T* p, const Floats<W>& v) {
    Packed<W, T> word;
    if constexpr (std::is_same_v<T, float>) {
        float* f = reinterpret_cast<float*>(&word);
        for (int i = 0; i < W; i++) f[i] = v[i];
    } else if constexpr (W == 1) {
        word = uint16_t(bf16_pair(v[0], 0.f));
    } else {
        uint32_t* pair = reinterpret_cast<uint32_t*>(&word);
        for (int i = 0; i < W; i += 2) pair[i / 2] = bf16_pair(v[i], v[i + 1]);
    }
    *reinterpret_cast<Packed<W, T>*>(p) = word;
}

// f(i, width) over [0, n), shared by the whole grid: W elements to a thread, and what is left at the end one by one.
// With load<width>(p + i) it reads as one loop.
template <int W, class F>
__device__ inline void for_grid(int64_t n, F f) {
    const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = thread; i < n / W; i += threads) f(i * W, Constant<W>{});
    if (W > 1 && thread < n % W) f(n - n % W + thread, Constant<1>{});
}
// The grid for it: a thread for every W elements.
inline Grid grid_over(int64_t n, int W, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return Grid(n ? std::max<int64_t>(1, ceil_div(n / W, 256)) : 0, 256, 0, file, line);
}

// ---- sums -----------------------------------------------------------------------------------------------------------

// Every lane gets the sum over the warp.
template <class X>
__device__ inline X warp_sum(X x) {
    for (int w = 16; w; w /= 2) x += __shfl_xor_sync(~0u, x, w);
    return x;
}

// Every thread gets the sum over the block, whose threads are a multiple of 32.
template <class X>
__device__ inline X block_sum(X x) {
    __shared__ X of_warp[32];
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    __syncthreads();  // of_warp may still be read from the sum before
    if (lane == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(lane < warps ? of_warp[lane] : X(0));
}

}  // namespace gpu
