// queue.cuh - the CUDA stream behind a Stream: checked statuses, scratch memory, checked ids, copies, and launch()
#pragma once
#include <cuda_runtime.h>

#include <array>
#include <memory>
#include <set>
#include <vector>

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#endif

#include "device.h"
#include "ids.h"

namespace gpu {

// ---- statuses -------------------------------------------------------------------------------------------------------

inline void check(cudaError_t status, const char* call, const char* file, int line) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // clears the error, which the next launch would report as its own
    throw_at<RunError>(file, line, "CUDA: {} ({}) from {}{}", cudaGetErrorName(status), cudaGetErrorString(status),
                       call, status == cudaErrorMemoryAllocation ? "; a smaller batch or context takes less" : "");
}
// Makes a CUDA call, and throws a RunError that names it when it fails.
#define CUDA_RUN(...) gpu::check((__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)

// ---- the queue behind a Stream --------------------------------------------------------------------------------------

// The size of a launch: blocks, threads of each, and bytes of dynamic shared memory of each. It remembers the line that
// made it, for messages.
struct Grid {
    int64_t blocks;
    int threads;
    int64_t shared;
    const char* file;
    int line;
    int cluster = 1;  // the blocks of a cluster
    Grid(int64_t blocks, int threads, int64_t shared = 0, const char* file = __builtin_FILE(),
         int line = __builtin_LINE())
        : blocks(blocks), threads(threads), shared(shared), file(file), line(line) {}
    // Every `of` blocks are a cluster: they run at the same time and can reach each other's shared memory (gpu.cuh).
    // This takes a kernel that is compiled_for_hopper().
    Grid in_clusters(int of) const {
        Grid g    = *this;
        g.cluster = of;
        return g;
    }
};

// Ids are checked on the GPU, before anything is read or written with them. The host learns of a bad id when it waits
// the next time, or takes an answer (feed.h). Until then the op that met it does nothing with it, and every later op
// that asks ready() does nothing.
struct BadId {
    int found;    // 0 or 1
    int32_t id;   // the first bad one
    int64_t at;   // its index in the tensor of ids
    IdRule rule;  // a copy of the host's; the GPU does not follow its pointers
};
HD bool ready(const BadId* bad) { return !bad->found; }
#ifdef __CUDACC__
// Tells the host of a bad id that a kernel met. If several threads do, one of them is heard.
__device__ inline void report(BadId* bad, int32_t id, int64_t at, const IdRule& rule) {
    if (atomicCAS(&bad->found, 0, 1)) return;
    bad->id   = id;
    bad->at   = at;
    bad->rule = rule;
}
#endif

// What distinguishes calls of Hopper's attention kernels: forward (0) or backward (1), D, and whether they have a
// window, documents and dropout.
using HopperCall = std::array<int64_t, 5>;
// What comparisons of Hopper's attention kernels with those that use mma.sync have shown in this run.
struct HopperTrials {
    bool failed = false;
    std::set<HopperCall> passed;  // the calls that agreed
};
class Queue;
bool has_hopper_attention(const Queue& queue);  // attention.cu

struct Products;  // cuBLASLt's handle, workspace and plans: matmul.cu

// One CUDA stream, and what the ops on it share. It belongs to a Device. Kernels run in the order in which they are
// queued, so one block of scratch memory serves op after op.
class Queue {
  public:
    Queue(int index, bool sync_each);
    ~Queue();
    Queue(const Queue&)            = delete;
    Queue& operator=(const Queue&) = delete;

    cudaStream_t stream = nullptr;
    cudaDeviceProp limits{};
    const char* op             = "";       // the op that is queueing work
    BadId* bad                 = nullptr;  // lies in the GPU's memory
    bool tf32                  = false;    // products in fp32 round their operands to TF32
    AttentionKernels attention = AttentionKernels::automatic;
    HopperTrials hopper;
    bool may_launch_early                  = true;   // see launch_early()
    bool launches_early                    = false;  // work is being recorded whose kernels do so
    // Numbers that are 0 between ops. Blocks that share a result count themselves in one of them, so that the last one
    // can combine the parts; or they count in one the tiles that they take. The last to count sets the number to 0
    // again.
    uint32_t* counters                     = nullptr;
    static constexpr int64_t most_counters = 1 << 18;
    std::shared_ptr<Products> products;

    // Memory for what one op keeps between its kernels; the next op overwrites it. An op asks for the `scratch` of its
    // Cost (ops.h). The memory grows, which waits for the GPU, when an op asks for more than ever before. From a
    // model's second step on it never does.
    template <class T>
    T* scratch(int64_t bytes) {
        return static_cast<T*>(reserve_scratch(bytes));
    }
    void* reserve_scratch(int64_t bytes);

    cudaError_t fault();           // the error of what was queued last; waits for that work if sync_each()
    void launched(const Grid& g);  // throws that error
    void expect_ids(Tensor ids, const IdRule& rule);
    void upload(Tensor dst, const Fill& fill);                 // has called fill() for everything when it returns
    void download(void* dst, const void* src, int64_t bytes);  // waits, as wait() does
    void wait();                                               // waits until all queued work is done; throws its error
    // Throws the error of work that the host has waited for: `status` is what waiting returned, and `met` a copy of
    // *bad that was made after the work.
    void expect_success(cudaError_t status, const BadId& met);
    bool sync_each() const { return sync_each_; }
    const void* scratch_now() const { return scratch_; }

  private:
    struct Slot {  // pinned memory that upload() copies from
        char* memory       = nullptr;
        cudaEvent_t copied = nullptr;
    };
    std::vector<Slot> slots_;
    size_t next_slot_ = 0;
    struct Answer {  // pinned, so that a copy into it does not block
        BadId bad;
        char bytes[256];  // holds a small download
    };
    Answer* answer_        = nullptr;
    void* scratch_         = nullptr;
    int64_t scratch_bytes_ = 0;
    int index_;
    bool sync_each_;
};

inline Queue& queue_of(Stream s) { return *static_cast<Queue*>(s.handle); }
inline Stream stream_of(Queue& q) { return {Machine::cuda, &q}; }

// Names the op, while it lives, in errors and as a range for profilers. RUN_ON passes one to every GPU half as its
// Queue.
class OpScope {
  public:
    OpScope(Stream s, const char* name) : queue_(queue_of(s)) {
        queue_.op = name;
#ifdef NVTX_VERSION
        nvtxRangePushA(name);
#endif
    }
    ~OpScope() {
#ifdef NVTX_VERSION
        nvtxRangePop();
#endif
    }
    operator Queue&() const { return queue_; }

  private:
    Queue& queue_;
};

// Whether a kernel runs as code for compute capability 9.0 or later. The GPU may have that and the code not, where it
// was compiled for older GPUs alone.
template <class... P>
bool compiled_for_hopper(void (*kernel)(P...), const Queue& q) {
    cudaFuncAttributes compiled{};
    if (q.limits.major >= 9) CUDA_RUN(cudaFuncGetAttributes(&compiled, kernel));
    return compiled.ptxVersion >= 90;
}

template <class... P, class... A>
void launch_with(bool early, void (*kernel)(P...), const Grid& g, Queue& q, A... args) {
    if (g.blocks == 0) return;
    if (g.blocks < 0 || g.blocks > INT32_MAX || g.shared > int64_t(q.limits.sharedMemPerBlockOptin))
        throw_at<RunError>(g.file, g.line, "{}: {} blocks with {} bytes of shared memory each; {} allows {} and {}",
                           q.op, g.blocks, g.shared, q.limits.name, INT32_MAX, q.limits.sharedMemPerBlockOptin);
    if (g.shared > 40 << 10)  // more than 48 KB need this, and a kernel may have static ones too
        CUDA_RUN(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(g.shared)));
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config{};
    config.gridDim          = {unsigned(g.blocks), 1, 1};
    config.blockDim         = {unsigned(g.threads), 1, 1};
    config.dynamicSmemBytes = size_t(g.shared);
    config.stream           = q.stream;
    config.attrs            = attributes;
    const auto add          = [&](cudaLaunchAttributeID id) -> cudaLaunchAttributeValue& {
        cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
        attribute.id                   = id;
        return attribute.val;
    };
    if (early) add(cudaLaunchAttributeProgrammaticStreamSerialization).programmaticStreamSerializationAllowed = 1;
    if (g.cluster > 1) add(cudaLaunchAttributeClusterDimension).clusterDim = {unsigned(g.cluster), 1, 1};
    CUDA_RUN(cudaLaunchKernelEx(&config, kernel, P(args)...));
    q.launched(g);
}
template <class... P, class... A>
void launch(void (*kernel)(P...), const Grid& g, Queue& q, A... args) {
    launch_with(false, kernel, g, q, args...);
}

// Launches a kernel that may begin before the kernel in front of it has ended, which CUDA calls programmatic dependent
// launch. Its threads call wait_for_kernels() (gpu.cuh) before they read what a kernel in front of it in the same
// recorded work writes, and before they write anything. What they load before that, such as weights, is on its way
// while the other kernels still run. It takes code for compute capability 9.0, because other code does not wait.
// Everywhere else, and in work that is not recorded, this is launch().
template <class... P, class... A>
void launch_early(void (*kernel)(P...), const Grid& g, Queue& q, A... args) {
    launch_with(q.launches_early && compiled_for_hopper(kernel, q), kernel, g, q, args...);
}

}  // namespace gpu
