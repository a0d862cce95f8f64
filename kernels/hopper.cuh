// hopper.cuh - the instructions that Hopper added (sm_90a): mbarriers, copies by the Tensor Memory Accelerator (TMA),
// products of a warpgroup, and registers that move between warps; and how the kernels that use them divide a block.
// attention_hopper.cuh and matmul_hopper.cuh use them.
#pragma once
#include <cuda.h>

#include <chrono>
#include <thread>

#include "gpu.cuh"

namespace gpu {

// ---- mbarriers and copies ------------------------------------------------------------------------------------------

// A barrier in shared memory has phases. A phase ends when `arrivals` threads have arrived and all announced bytes have
// come; then the next one begins.
__device__ inline void init_barrier(uint32_t barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Shows to TMA what this thread wrote to shared memory. TMA is another "proxy", which a barrier between threads does
// not order.
__device__ inline void fence_for_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ inline void arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives, and announces bytes that TMA will bring in this phase.
__device__ inline void arrive_expecting(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Arrives when the copies of 4 or 16 bytes that this thread has begun (copy_word_async) have been made.
__device__ inline void arrive_after_copies(uint32_t barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// Arrives at the barrier that a block of the cluster has at this place. It shows the other block nothing that this one
// wrote: with .release.cluster it would wait for all of its writes to global memory as well.
__device__ inline void arrive_in_block(uint32_t barrier, int block) {
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
        "}" ::"r"(barrier),
        "r"(block)
        : "memory");
}
// Waits until the phase of this parity is over. The first phase has parity 0, and until it ends the phase of parity 1
// counts as over.
__device__ inline void wait_for_phase(uint32_t barrier, uint32_t parity) {
    uint32_t over;
    do {
        asm volatile(
            "{\n"
            ".reg .pred over;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
            "selp.u32 %0, 1, 0, over;\n"
            "}"
            : "=r"(over)
            : "r"(barrier), "r"(parity)
            : "memory");
    } while (!over);
}

// Starts to copy the box of `map` that begins at (column, head, row, sequence) to shared memory. Elements outside of
// the tensor become zeros, and their bytes count as brought.
__device__ inline void copy_box(uint32_t to, const CUtensorMap& map, int column, int head, int row, int sequence,
                                uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
        "[%6];" ::"r"(to),
        "l"(&map), "r"(column), "r"(head), "r"(row), "r"(sequence), "r"(barrier)
        : "memory");
}

// Copies to this place in the shared memory of both blocks of a cluster. Each block's barrier of this place counts the
// bytes.
__device__ inline void copy_box_to_both(uint32_t to, const CUtensorMap& map, int column, int head, int row,
                                        int sequence, uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(to),
        "l"(&map), "r"(column), "r"(head), "r"(row), "r"(sequence), "r"(barrier), "h"(uint16_t(0b11))
        : "memory");
}

// Starts to copy a box of `map` from shared memory. It leaves out elements that lie outside of the tensor. What threads
// wrote to shared memory needs a fence_for_copies() of theirs and a barrier before. commit_stores() makes a group of
// the boxes that this thread has begun; wait_until_read() waits until shared memory may be overwritten,
// wait_for_stores() until everything is written.
__device__ inline void store_box(const CUtensorMap& map, int column, int head, int row, int sequence, uint32_t from) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(&map),
                 "r"(column), "r"(head), "r"(row), "r"(sequence), "r"(from)
                 : "memory");
}
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
__device__ inline void wait_until_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ inline void wait_for_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// ---- registers and turns -------------------------------------------------------------------------------------------

// All warps of a warpgroup call these. What one warpgroup gives up another may take.
template <int registers>
__device__ inline void give_up_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ inline void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

// The two warpgroups issue their products in turns. Barrier 1 + i lets warpgroup i go on when the other one has passed
// the turn to it; arriving there does not wait.
struct Turns {
    int own;
    __device__ void wait() const { asm volatile("bar.sync %0, 256;" ::"r"(1 + own) : "memory"); }
    __device__ void pass() const { asm volatile("bar.arrive %0, 256;" ::"r"(2 - own) : "memory"); }
};

// ---- how a block divides its work -----------------------------------------------------------------------------------

constexpr int hopper_threads = 384;  // the producer's warpgroup and the two that compute

// A place in a ring of stages, and the parity of the phase that its barriers are in.
template <int stages>
struct RingPlace {
    int stage       = 0;
    uint32_t parity = 0;
    __device__ void next() {
        if (++stage < stages) return;
        stage = 0;
        parity ^= 1;
    }
};

// Returns 0 or 1 in the warpgroups that compute. All lanes of a warp get the value of lane 0, so the compiler knows
// that they agree, and keeps descriptors of matrices in the registers that a warp shares.
__device__ inline int computing_warpgroup() { return __shfl_sync(~0u, int(threadIdx.x) / 128 - 1, 0); }

// Tells the producer that this warp has read a tile for the last time.
__device__ inline void release(uint32_t empty) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(empty);
}

// Divides a block into the warp that brings tiles and the two warpgroups that compute. One thread calls init() before.
// The parts have to stand on the two sides of one condition, in a kernel whose launch bounds limit its registers: else
// the compiler ignores setmaxnreg.
template <int few, int many, class Init, class Bring, class Compute>
__device__ inline void divide_block(Init init, Bring bring, Compute compute) {
    if (threadIdx.x == 0) init();
    __syncthreads();
    if (threadIdx.x < 128) {
        give_up_registers<few>();
        if (threadIdx.x < 32) bring();
    } else {
        take_registers<many>();
        compute();
    }
}

// ---- products of a warpgroup ---------------------------------------------------------------------------------------

// A matrix of bf16 in shared memory, as wgmma wants it described: where it begins, in chunks of 16 bytes, how far apart
// groups of 8 rows are (1024 bytes) and blocks of 64 columns, and the swizzle of 128 bytes (PTX ISA, "Matrix
// descriptor"). The distance of blocks is used for `columns_a` and `columns_b` of wgmma() alone. In a cluster the
// highest byte of an address is the block's rank, which the descriptor does not have.
__device__ inline uint64_t matrix_descriptor(uint32_t address, int block_bytes) {
    return uint64_t((address & 0x3ffff) >> 4) | uint64_t(block_bytes >> 4) << 16 | uint64_t(1024 >> 4) << 32 |
           uint64_t(1) << 62;
}
// The same matrix from a later byte on. The address is in the lowest bits, and no sum carries out of them.
__device__ inline uint64_t advance(uint64_t matrix, int bytes) { return matrix + (bytes >> 4); }

// Products run beside the warps that issue them. begin_products() comes before the first product that reads registers
// which were written since; commit_products() makes a group of those issued since the last one; and
// wait_for_products<n>() waits until at most n groups are unfinished.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int open>
__device__ inline void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(open) : "memory");
}
// wgmma for n columns: c (64 × n) += a (64 × 16) b (16 × n), or = if `add` is 0. Warp w of the warpgroup holds rows 16
// w to 16 w + 15 of c and of an a in registers, just as mma() of attention_tensor.cuh divides a matrix of 16 rows. A
// matrix in shared memory has its rows, or with `columns_a` and `columns_b` its columns, along the 16 that are summed
// over.
#define REGISTERS_4 "%0, %1, %2, %3"
#define REGISTERS_8 REGISTERS_4 ", %4, %5, %6, %7"
#define REGISTERS_16 REGISTERS_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define REGISTERS_24 REGISTERS_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define REGISTERS_32 REGISTERS_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_64                                                                                                   \
    REGISTERS_32                                                                                                       \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
    "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_96                                                                                                   \
    REGISTERS_64                                                                                                       \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, " \
    "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define REGISTERS_128                                                                                                  \
    REGISTERS_96                                                                                                       \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, " \
    "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FLOATS_4(c, i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define FLOATS_8(c, i)                                                                                          \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
        "+f"(c[i + 7])
#define FLOATS_16(c, i) FLOATS_8(c, i), FLOATS_8(c, i + 8)
#define FLOATS_24(c, i) FLOATS_16(c, i), FLOATS_8(c, i + 16)
#define FLOATS_32(c, i) FLOATS_16(c, i), FLOATS_16(c, i + 16)
#define FLOATS_64(c, i) FLOATS_32(c, i), FLOATS_32(c, i + 32)
#define FLOATS_96(c, i) FLOATS_64(c, i), FLOATS_32(c, i + 64)
#define FLOATS_128(c, i) FLOATS_64(c, i), FLOATS_64(c, i + 64)
// x0 to x6 number the operands after the n / 2 sums.
#define WGMMA(n, half, x0, x1, x2, x3, x4, x5, x6)                                                             \
    template <bool columns_b, bool columns_a = false>                                                          \
    __device__ inline void wgmma(Constant<n>, float* c, uint64_t a, uint64_t b, bool add) {                    \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " x2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n   \
                     "k16.f32.bf16.bf16 {" REGISTERS_##half "}, " x0 ", " x1 ", add, 1, 1, " x4 ", " x3 ";\n}" \
                     : FLOATS_##half(c, 0)                                                                     \
                     : "l"(a), "l"(b), "r"(int(add)), "n"(int(columns_b)), "n"(int(columns_a))                 \
                     : "memory");                                                                              \
    }                                                                                                          \
    template <bool columns_b>                                                                                  \
    __device__ inline void wgmma(Constant<n>, float* c, const uint32_t(&a)[4], uint64_t b, bool add) {         \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " x5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n   \
                     "k16.f32.bf16.bf16 {" REGISTERS_##half "}, {" x0 ", " x1 ", " x2 ", " x3 "}, " x4         \
                                                            ", add, 1, 1, " x6 ";\n}"                          \
                     : FLOATS_##half(c, 0)                                                                     \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(columns_b))  \
                     : "memory");                                                                              \
    }
WGMMA(8, 4, "%4", "%5", "%6", "%7", "%8", "%9", "%10")
WGMMA(16, 8, "%8", "%9", "%10", "%11", "%12", "%13", "%14")
WGMMA(32, 16, "%16", "%17", "%18", "%19", "%20", "%21", "%22")
WGMMA(48, 24, "%24", "%25", "%26", "%27", "%28", "%29", "%30")
WGMMA(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
WGMMA(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
WGMMA(192, 96, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
WGMMA(256, 128, "%128", "%129", "%130", "%131", "%132", "%133", "%134")
#undef WGMMA

// The compiler does not know that a product still writes its sums after it was issued. It must not move what reads
// them to before the wait, or what writes them to after the product.
template <int n>
__device__ inline void pin(float (&c)[n]) {
#pragma unroll
    for (int i = 0; i < n; i++) asm volatile("" : "+f"(c[i])::"memory");
}

// ---- what the host prepares ----------------------------------------------------------------------------------------

inline bool is_hopper(const Queue& q) { return q.limits.major == 9 && q.limits.minor == 0; }
// Whether the program has a kernel's machine code for Hopper. A build for other GPUs has only PTX for compute_80, which
// the driver compiles into kernels that do nothing.
template <class Kernel>
bool has_machine_code(Kernel kernel) {
    cudaFuncAttributes attributes{};
    CUDA_RUN(cudaFuncGetAttributes(&attributes, kernel));
    return attributes.ptxVersion == 90;
}

// Describes a tensor of bf16 to TMA, which brings boxes of it, swizzled in rows of 128 bytes. Sizes and the box count
// elements, beginning with the dimension whose elements lie side by side. The strides of the others are in bytes.
// The function is the driver's, and the runtime finds it, so that programs need not link to the driver's library.
inline CUtensorMap tensor_map(const bf16* x, const cuuint64_t (&sizes)[4], const cuuint64_t (&strides)[3],
                              const cuuint32_t (&box)[4]) {
    static const auto encode = [] {
        void* function                        = nullptr;
        cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
        CUDA_RUN(
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
#else
        CUDA_RUN(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found));
#endif
        CHECK_RUN(found == cudaDriverEntryPointSuccess,
                  "the driver lacks cuTensorMapEncodeTiled, which our kernels for Hopper need and the driver of CUDA "
                  "12.0 has; to run without them, give --attention mma and leave out --tune and products.json");
        return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
    }();
    const cuuint32_t every[] = {1, 1, 1, 1};
    CUtensorMap map;
    const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<bf16*>(x), sizes, strides, box,
                                   every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    CHECK_RUN(status == CUDA_SUCCESS, "cuTensorMapEncodeTiled refuses rows of {} elements, {} bytes apart (error {})",
              sizes[0], strides[1], int(status));
    return map;
}

// Waits for kernels that are tried for the first time, ten minutes at most. If they fail or do not end, so must the
// program, at once: whatever it would still ask of the GPU would wait for them, or fail too. `instead` completes "Start
// again …"; `call` says what they computed.
inline void wait_for_trial(Queue& queue, const std::string& instead, const std::string& call) {
    const auto begin   = std::chrono::steady_clock::now();
    cudaError_t status = cudaErrorNotReady;
    while (status == cudaErrorNotReady && std::chrono::steady_clock::now() - begin < std::chrono::minutes(10)) {
        status = cudaStreamQuery(queue.stream);
        if (status == cudaErrorNotReady) std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    if (status == cudaSuccess) return;
    fmt::print(stderr,
               "error: {}: the kernels for Hopper {}. Start again {}, and please report this line and what nvidia-smi "
               "prints ({}).\n",
               queue.op,
               status == cudaErrorNotReady ? "have not ended after 10 minutes"
                                           : fmt::format("failed: {}", cudaGetErrorString(status)),
               instead, call);
    std::_Exit(1);
}

}  // namespace gpu
