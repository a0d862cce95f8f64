// attention_hopper.cuh - attention with the instructions of Hopper (sm_90a): bf16, D a multiple of 8 from 40 to 256
//
// Shah et al. 2024 (FlashAttention-3, arXiv 2407.08608) describe how Hopper wants attention divided:
//
//   a producer warp        asks for tiles of q, k and v. The copy engine (TMA) brings them, and an mbarrier for each
//                          stage of shared memory says when a tile is there and when it may be overwritten
//   two warpgroups         of four warps each own 64 queries each. One instruction (wgmma) multiplies 64 rows with a
//                          whole tile of shared memory, while the warps that issued it go on
//   turns                  the warpgroups issue their products in turns, so that the softmax of one lies under the
//                          products of the other. Within a warpgroup, the scores of the next keys are computed while
//                          the weights of these keys are multiplied with v
//
// Registers follow the work: the producer gives up most of its registers, and the warpgroups take them (setmaxnreg).
// A block stays on its multiprocessor and takes one tile of queries after another, so that the copies for the next
// tile begin while this one ends.
//
//   tiles     128 queries, and N keys at a time. A tile lies in shared memory in blocks of 64 columns. Such a row has
//             128 bytes, and the copy engine and wgmma agree on where its chunks of 16 bytes are (128-byte swizzle)
//   numbers   the softmax, the mask and the meaning of lse are those of attention_tensor.cuh
//
// Only machine code for sm_90a has these kernels; on other GPUs their bodies are empty and attention_gpu.cuh does not
// launch them.
#pragma once
#include <cuda.h>

#include <chrono>
#include <thread>

#include "attention_tensor.cuh"

namespace gpu {

// ---- mbarriers and copies ------------------------------------------------------------------------------------------

// A barrier in shared memory has phases. A phase ends when `arrivals` threads have arrived and all announced bytes have
// come; then the next one begins.
__device__ inline void init_barrier(uint32_t barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Shows to the copy engine what this thread wrote to shared memory. The engine is another "proxy", which a barrier
// between threads does not order.
__device__ inline void fence_for_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ inline void arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives, and announces bytes that the copy engine will bring in this phase.
__device__ inline void arrive_expecting(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Arrives when the copies of 4 or 16 bytes that this thread has begun (copy_word_async) have been made.
__device__ inline void arrive_after_copies(uint32_t barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// Waits until the phase of this parity is over. Before the first phase, which has parity 0, one of parity 1 is over.
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

// ---- products of a warpgroup ---------------------------------------------------------------------------------------

// A matrix of bf16 in shared memory, as wgmma wants it described: where it begins, in chunks of 16 bytes, how far apart
// groups of 8 rows are (1024 bytes) and blocks of 64 columns, and the swizzle of 128 bytes (PTX ISA, "Matrix
// descriptor"). The distance of blocks is used when the 64 columns of a block are not those that a product sums over.
__device__ inline uint64_t describe(uint32_t address, int block_bytes) {
    return uint64_t(address >> 4) | uint64_t(block_bytes >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
// The same matrix from a later byte on. The address is in the lowest bits, and no sum carries out of them.
__device__ inline uint64_t later(uint64_t matrix, int bytes) { return matrix + (bytes >> 4); }

// Products run beside the warps that issue them. begin_products() comes before the first product that reads registers
// which were written since; commit_products() makes a group of those issued since the last one; and
// wait_for_products<n>() waits until at most n groups are unfinished.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int open>
__device__ inline void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(open) : "memory");
}
// The compiler does not know that a product still writes its sums after it was issued. It must not move what reads
// them to before the wait, or what writes them to after the product.
template <int N>
__device__ inline void pin(Sums<1, N>& c) {
    for (auto& block : c.at[0])
        for (float& x : block) asm volatile("" : "+f"(x)::"memory");
}

// wgmma for n columns: c (64 × n) += a (64 × 16) b (16 × n), or = if `add` is 0. Warp w of the warpgroup holds rows 16
// w to 16 w + 15 of c and of an a in registers, just as mma() of attention_tensor.cuh divides a matrix of 16 rows. A
// matrix in shared memory has its rows, or with `columns_b` its columns, along the 16 that are summed over.
#define REGISTERS_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define REGISTERS_16 REGISTERS_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define REGISTERS_24 REGISTERS_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define REGISTERS_32 REGISTERS_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_64                                                                                                   \
    REGISTERS_32                                                                                                       \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
    "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FLOATS_8(c, i)                                                                                          \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
        "+f"(c[i + 7])
#define FLOATS_16(c, i) FLOATS_8(c, i), FLOATS_8(c, i + 8)
#define FLOATS_24(c, i) FLOATS_16(c, i), FLOATS_8(c, i + 16)
#define FLOATS_32(c, i) FLOATS_16(c, i), FLOATS_16(c, i + 16)
#define FLOATS_64(c, i) FLOATS_32(c, i), FLOATS_32(c, i + 32)
// x0 to x6 number the operands after the n / 2 sums.
#define WGMMA(n, half, x0, x1, x2, x3, x4, x5, x6)                                                            \
    template <bool columns_b>                                                                                 \
    __device__ inline void wgmma(Constant<n>, float* c, uint64_t a, uint64_t b, bool add) {                   \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " x2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n  \
                     "k16.f32.bf16.bf16 {" REGISTERS_##half "}, " x0 ", " x1 ", add, 1, 1, 0, " x3 ";\n}"     \
                     : FLOATS_##half(c, 0)                                                                    \
                     : "l"(a), "l"(b), "r"(int(add)), "n"(int(columns_b))                                     \
                     : "memory");                                                                             \
    }                                                                                                         \
    template <bool columns_b>                                                                                 \
    __device__ inline void wgmma(Constant<n>, float* c, const uint32_t(&a)[4], uint64_t b, bool add) {        \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " x5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n  \
                     "k16.f32.bf16.bf16 {" REGISTERS_##half "}, {" x0 ", " x1 ", " x2 ", " x3 "}, " x4        \
                                                            ", add, 1, 1, " x6 ";\n}"                         \
                     : FLOATS_##half(c, 0)                                                                    \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(columns_b)) \
                     : "memory");                                                                             \
    }
WGMMA(16, 8, "%8", "%9", "%10", "%11", "%12", "%13", "%14")
WGMMA(32, 16, "%16", "%17", "%18", "%19", "%20", "%21", "%22")
WGMMA(48, 24, "%24", "%25", "%26", "%27", "%28", "%29", "%30")
WGMMA(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
WGMMA(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
#undef WGMMA

// A tile of D columns in shared memory, in blocks of 64 columns.
template <int D, int rows>
struct WideTile {
    static constexpr int blocks = (D + 63) / 64, block_bytes = rows * 128, bytes = blocks * block_bytes;
    uint32_t address;  // a multiple of 1024, because the swizzle depends on it
    __device__ WideTile from(int row) const { return {address + row * 128}; }  // a multiple of 8 rows further on
    __device__ void copy(const CUtensorMap& map, int head, int row, int sequence, uint32_t barrier) const {
#pragma unroll
        for (int i = 0; i < blocks; i++) copy_box(address + i * block_bytes, map, 64 * i, head, row, sequence, barrier);
    }
};

// Issues c = (rows [0, 64) of a) · (rows [0, N) of b)ᵀ.
template <int D, int N, int rows_a, int rows_b>
__device__ inline void issue_product_transposed(Sums<1, N>& c, WideTile<D, rows_a> a, WideTile<D, rows_b> b) {
    const uint64_t left = describe(a.address, a.block_bytes), right = describe(b.address, b.block_bytes);
#pragma unroll
    for (int k = 0; k < D / 16; k++)  // a step of 16 columns is 32 bytes of a row; the swizzle takes care of itself
        wgmma<false>(Constant<N>{}, c.at[0][0], later(left, k / 4 * a.block_bytes + k % 4 * 32),
                     later(right, k / 4 * b.block_bytes + k % 4 * 32), k > 0);
}

// Issues c += p · b, for p (64, N) in registers. A product is 128 columns wide, 64 or the rest of D.
template <int D, int N>
__device__ inline void issue_product(Sums<1, D>& c, const LeftOperand<1, N>& p, WideTile<D, N> b) {
    const uint64_t right = describe(b.address, b.block_bytes);
#pragma unroll
    for (int k = 0; k < N / 16; k++) {  // 16 rows are 2048 bytes of a block
#pragma unroll
        for (int i = 0; i < D / 128; i++)
            wgmma<true>(Constant<128>{}, c.at[0][16 * i], p[0][k], later(right, 2 * i * b.block_bytes + k * 2048),
                        true);
        constexpr int wide = D / 128 * 128;
        if constexpr (D % 128 >= 64)
            wgmma<true>(Constant<64>{}, c.at[0][wide / 8], p[0][k], later(right, wide / 64 * b.block_bytes + k * 2048),
                        true);
        if constexpr (D % 64 > 0)
            wgmma<true>(Constant<D % 64>{}, c.at[0][D / 64 * 8], p[0][k],
                        later(right, D / 64 * b.block_bytes + k * 2048), true);
    }
}

// ---- what the host prepares ----------------------------------------------------------------------------------------

// Describes all heads of a tensor to the copy engine: (D, heads, rows, sequences), of which it brings boxes of 64
// columns and `rows` rows of one head, swizzled. The function is the driver's, and the runtime finds it, so that
// programs need not link to the driver's library.
inline CUtensorMap map_of(const Heads<const bf16>& x, const Problem& p, int64_t B, int rows) {
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
                  "the driver lacks cuTensorMapEncodeTiled, which --attention mma does without");
        return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
    }();
    const auto bytes           = [](int64_t elements) { return cuuint64_t(elements) * sizeof(bf16); };
    const cuuint64_t sizes[]   = {cuuint64_t(p.D), cuuint64_t(p.H), cuuint64_t(p.T), cuuint64_t(B)};
    const cuuint64_t strides[] = {bytes(x.head_stride), bytes(x.row_stride), bytes(x.batch_stride)};
    const cuuint32_t box[] = {64, 1, cuuint32_t(rows), 1}, every[] = {1, 1, 1, 1};
    CUtensorMap map;
    const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<bf16*>(x.p), sizes, strides,
                                   box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    CHECK_RUN(status == CUDA_SUCCESS, "cuTensorMapEncodeTiled refuses heads of width {} with rows of {} (error {})",
              p.D, x.row_stride, int(status));
    return map;
}

// ---- a block and its memory ----------------------------------------------------------------------------------------

// How a kernel divides its work. A block has `own` tiles of its own 128 rows, and streams N rows at a time of two
// heads, a and b, through `stages` stages.
template <int D_, int N_, int stages_, int own_>
struct HopperTiling {
    static constexpr int D = D_, N = N_, stages = stages_, own = own_, rows = 128;
    using Own                     = WideTile<D, rows>;
    using Streamed                = WideTile<D, N>;
    // A tile begins at a multiple of 1024 bytes, which dynamic shared memory need not.
    static constexpr int shared   = 1024 + own * Own::bytes + 2 * stages * Streamed::bytes;
    static constexpr int barriers = 2 + 4 * stages;
    static_assert(shared + 4096 <= 227 << 10);
};

constexpr int hopper_threads = 384;  // the producer's warpgroup and the two that compute

// Where the tiles and barriers of a block lie. A tile is full when its bytes have come, and empty when the 8 warps that
// compute have read it for the last time. Barriers lie in pairs, of own tiles, of a and of b: full, then empty.
template <class Tiling>
struct BlockMemory {
    using Own      = typename Tiling::Own;
    using Streamed = typename Tiling::Streamed;
    uint32_t tiles, barriers;

    __device__ explicit BlockMemory(const uint64_t* barriers)
        : tiles((uint32_t(__cvta_generic_to_shared(shared_memory)) + 1023) / 1024 * 1024),
          barriers(uint32_t(__cvta_generic_to_shared(barriers))) {}
    __device__ Own own(int i) const { return {tiles + i * Own::bytes}; }
    __device__ Streamed a(int stage) const { return {tiles + Tiling::own * Own::bytes + 2 * stage * Streamed::bytes}; }
    __device__ Streamed b(int stage) const { return {a(stage).address + Streamed::bytes}; }
    __device__ uint32_t own_full() const { return barriers; }
    __device__ uint32_t own_empty() const { return barriers + 8; }
    __device__ uint32_t a_full(int stage) const { return barriers + 16 + 32 * stage; }
    __device__ uint32_t a_empty(int stage) const { return a_full(stage) + 8; }
    __device__ uint32_t b_full(int stage) const { return a_full(stage) + 16; }
    __device__ uint32_t b_empty(int stage) const { return a_full(stage) + 24; }

    // One thread calls it, before a barrier of the block. `lanes` arrive at a stage's tile a besides the copy engine.
    __device__ void init(int lanes = 0) const {
        for (int i = 0; i < Tiling::barriers; i++)
            init_barrier(barriers + 8 * i, i % 2 ? 8 : i % 4 == 2 ? 1 + lanes : 1);
        fence_for_copies();
    }
};

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

// The place before in the ring; its parity is not used.
template <int stages>
__device__ inline RingPlace<stages> before(RingPlace<stages> place) {
    place.stage = place.stage ? place.stage - 1 : stages - 1;
    return place;
}

// Returns 0 or 1 in the warpgroups that compute. All lanes of a warp get the value of lane 0, so the compiler knows
// that they agree, and keeps descriptors of matrices in the registers that a warp shares.
__device__ inline int computing_warpgroup() { return __shfl_sync(~0u, int(threadIdx.x) / 128 - 1, 0); }

// Tells the producer that this warp has read a tile for the last time.
__device__ inline void release(uint32_t empty) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(empty);
}

// The keys that some query of a tile sees. All lanes of a warp call it together.
struct KeyRange {
    int begin, end;
    __device__ KeyRange(const Problem& p, const OwnTile& own, int rows) : end(min(own.row + rows, p.T)) {
        int first = INT_MAX;
        for (int i = threadIdx.x % 32; i < rows; i += 32)
            first = min(first, p.first_key(own.b, min(own.row + i, p.T - 1)));
        begin = __reduce_min_sync(~0u, first);
    }
};

// Does for a warp what end_of_queries() does for a block.
__device__ inline int end_of_queries_of_warp(const Problem& p, int b, int first, int last) {
    const int window_end = int(min(int64_t(p.T), int64_t(last) + p.window));
    if (!p.starts) return window_end;
    int end = first;
    for (int t = first + threadIdx.x % 32; t < window_end; t += 32)
        if (p.first_key(b, t) <= last) end = t + 1;
    return __reduce_max_sync(~0u, end);
}

// The first warp of the block runs it where queries are owned: for each of the block's tiles it brings the own tiles
// that `maps` describe, and then the tiles of k and v.
template <class Tiling>
__device__ inline void bring_keys(const BlockMemory<Tiling>& at, const CUtensorMap* maps, const CUtensorMap& k,
                                  const CUtensorMap& v, const Problem& p, int tiles) {
    RingPlace<Tiling::stages> place;
    uint32_t own_parity = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, own_parity ^= 1) {
        const OwnTile own(p, Tiling::rows, TileOrder::last_to_first, tile, tiles);
        const KeyRange keys(p, own, Tiling::rows);
        if (threadIdx.x == 0) {
            wait_for_phase(at.own_empty(), own_parity ^ 1);
            arrive_expecting(at.own_full(), Tiling::own * Tiling::Own::bytes);
#pragma unroll
            for (int i = 0; i < Tiling::own; i++) at.own(i).copy(maps[i], own.h, own.row, own.b, at.own_full());
            for (int key = keys.begin; key < keys.end; key += Tiling::N, place.next()) {
                const int i = place.stage;
                wait_for_phase(at.a_empty(i), place.parity ^ 1);
                arrive_expecting(at.a_full(i), Tiling::Streamed::bytes);
                at.a(i).copy(k, own.h, key, own.b, at.a_full(i));
                wait_for_phase(at.b_empty(i), place.parity ^ 1);
                arrive_expecting(at.b_full(i), Tiling::Streamed::bytes);
                at.b(i).copy(v, own.h, key, own.b, at.b_full(i));
            }
        }
        __syncwarp();
    }
}

// The kernels divide a block into the warp that brings tiles and the two warpgroups that compute. The compiler needs to
// see one condition for that, and a limit of registers at the start of the kernel, or it ignores setmaxnreg.
template <int few, int many, class Tiling, class Bring, class Compute>
__device__ inline void divide_block(const BlockMemory<Tiling>& at, int lanes, Bring bring, Compute compute) {
    if (threadIdx.x == 0) at.init(lanes);
    __syncthreads();
    if (threadIdx.x < 128) {
        give_up_registers<few>();
        if (threadIdx.x < 32) bring();
    } else {
        take_registers<many>();
        compute();
    }
}

// Stores factor × c to rows row and row + 8 of a head; `row` is the lane's. Two lanes exchange words, so that each has
// 8 bytes of one block of 8 columns, and two such blocks make the 32 bytes that memory is written by.
template <int D>
__device__ inline void store_rows(Rows<bf16> head, const Sums<1, D>& c, const float (&factor)[2], int row, int end,
                                  int width) {
    const int lane = threadIdx.x % 32, odd = lane % 2;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        bf16* const to   = head[row + 8 * i] + odd * 8 + lane % 4 / 2 * 4;
        const bool valid = row + 8 * i < end;
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t word[2];
#pragma unroll
            for (int j = 0; j < 2; j++)
                word[j] = bf16_pair(c[0][n + j][2 * i] * factor[i], c[0][n + j][2 * i + 1] * factor[i]);
            const uint32_t other = __shfl_xor_sync(~0u, odd ? word[0] : word[1], 1);
            if (valid && 8 * (n + odd) < width)
                *reinterpret_cast<uint2*>(to + 8 * n) = odd ? uint2{other, word[1]} : uint2{word[0], other};
        }
    }
}

// A launch needs as many blocks as there are multiprocessors, or tiles if they are fewer.
template <class Tiling, class... P, class... A>
void launch_on_hopper(void (*kernel)(P...), Tensor qkv, Queue& queue, A... args) {
    const int64_t tiles = blocks_of(qkv, Tiling::rows);
    CHECK_RUN(tiles <= INT32_MAX, "attention: {} tiles of {} rows are too many", tiles, Tiling::rows);
    const Grid grid(std::min<int64_t>(tiles, queue.limits.multiProcessorCount), hopper_threads, Tiling::shared);
    launch(kernel, grid, queue, args..., int(tiles));
}

// ---- forward -------------------------------------------------------------------------------------------------------

template <int D>
using HopperForwardTilingOf = HopperTiling<D, D <= 128 ? 128 : 64, 2, 1>;  // own: q

struct ForwardMaps {
    CUtensorMap q, k, v;
};

// The online softmax of attention_tensor.cuh, where a step cannot be repeated, because its scores are gone when the
// weights are there. So it begins by looking for the largest scores. A row whose largest score would weigh more than
// 2^8 gets it as its new top; `rescale` is what its sums are to be multiplied with. Returns whether some row of the
// warp has a new top.
template <int N>
__device__ inline bool raise_tops(float (&rescale)[2], Softmax<1>& softmax, const Sums<1, N>& s) {
    bool raised = false;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float top = s[0][0][2 * i];
#pragma unroll
        for (int n = 0; n < N / 8; n++) top = fmaxf(top, fmaxf(s[0][n][2 * i], s[0][n][2 * i + 1]));
        top                = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top                = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        const float before = softmax.shift(0, i);
        const bool raise   = fmaf(top, softmax.scale_log2e, -before) > 8.f;
        if (raise) softmax.top[0][i] = top;
        rescale[i] = raise ? exp2_fast(before - softmax.shift(0, i)) : 1.f;
        softmax.sum[0][i] *= rescale[i];
        raised |= raise;
    }
    return __any_sync(~0u, raised);
}

// Turns scores into weights. Returns as raise_tops() does.
template <int N>
__device__ inline bool weigh_scores(Sums<1, N>& s, float (&rescale)[2], Softmax<1>& softmax, const SeenByWarp<1>& seen,
                                    int key) {
    float sum[1][2];
    if (!seen.all_of(key, N)) seen.template hide<N>(s, key);
    const bool raised = raise_tops<N>(rescale, softmax, s);
    weigh<1, N>(sum, s, softmax);
    for (int i = 0; i < 2; i++) softmax.sum[0][i] += sum[0][i];
    return raised;
}

// Computes 64 queries of each tile. Each round multiplies q with the next keys, and the weights of the keys before with
// v.
template <class Tiling>
__device__ inline void compute_forward(const BlockMemory<Tiling>& at, Heads<bf16> out, float* lse, const Problem& p,
                                       int tiles) {
    constexpr int D = Tiling::D, N = Tiling::N;
    const int lane = threadIdx.x % 32, group = computing_warpgroup();
    const Turns turns{group};
    if (group == 1) turns.pass();  // the first turn is warpgroup 0's
    const auto q = at.own(0).from(64 * group);
    RingPlace<Tiling::stages> k, v;
    uint32_t own_parity = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, own_parity ^= 1) {
        const OwnTile own(p, Tiling::rows, TileOrder::last_to_first, tile, tiles);
        const KeyRange keys(p, own, Tiling::rows);
        const int row = own.row + 64 * group + threadIdx.x / 32 % 4 * 16;  // the warp's first
        const SeenByWarp<1> seen(p, own.b, row);

        Sums<1, N> s;
        Sums<1, D> acc;
        Softmax<1> softmax(p.scale);
        float rescale[2];
        clear<1, D>(acc);
        wait_for_phase(at.own_full(), own_parity);
        wait_for_phase(at.a_full(k.stage), k.parity);
        turns.wait();
        begin_products();
        issue_product_transposed<D, N>(s, q, at.a(k.stage));
        commit_products();
        turns.pass();
        wait_for_products<0>();
        pin(s);
        release(at.a_empty(k.stage));
        k.next();
        weigh_scores<N>(s, rescale, softmax, seen, keys.begin);
        LeftOperand<1, N> weights = round_to_bf16<1, N>(s);

        for (int key = keys.begin + N; key < keys.end; key += N) {
            wait_for_phase(at.a_full(k.stage), k.parity);
            wait_for_phase(at.b_full(v.stage), v.parity);
            turns.wait();
            pin(s);
            pin(acc);
            begin_products();
            issue_product_transposed<D, N>(s, q, at.a(k.stage));
            commit_products();
            issue_product<D, N>(acc, weights, at.b(v.stage));
            commit_products();
            turns.pass();
            wait_for_products<1>();  // the scores are there
            pin(s);
            release(at.a_empty(k.stage));
            k.next();
            const bool raised = weigh_scores<N>(s, rescale, softmax, seen, key);
            wait_for_products<0>();
            pin(acc);
            release(at.b_empty(v.stage));
            v.next();
            if (raised)
#pragma unroll
                for (int n = 0; n < D / 8; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) acc[0][n][i] *= rescale[i / 2];
            weights = round_to_bf16<1, N>(s);
        }
        release(at.own_empty());
        wait_for_phase(at.b_full(v.stage), v.parity);
        pin(acc);
        begin_products();
        issue_product<D, N>(acc, weights, at.b(v.stage));
        commit_products();
        wait_for_products<0>();
        pin(acc);
        release(at.b_empty(v.stage));
        v.next();

        float factor[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float sum = softmax.sum[0][i];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            factor[i]   = 1.f / sum;
            const int t = row + lane / 4 + 8 * i;
            if (lane % 4 || t >= p.T) continue;
            // As in attention_forward_kernel, the rounding of the exponent of the top is taken back.
            const float top             = softmax.top[0][i];
            const float rounding        = fmaf(top, softmax.scale_log2e, -softmax.shift(0, i));
            lse[own.head_offset(p) + t] = fmaf(top, p.scale, logf(sum) - rounding * ln2);
        }
        store_rows<D>(out.at(own.b, own.h), acc, factor, row + lane / 4, p.T, p.D);
    }
    if (group == 0) turns.wait();  // the turn that is passed last
}

template <class Tiling>
__global__ void __launch_bounds__(hopper_threads, 1)
    attention_forward_hopper_kernel(Heads<bf16> out, float* lse, const __grid_constant__ ForwardMaps x, Problem p,
                                    int tiles) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    __shared__ uint64_t barriers[Tiling::barriers];
    const BlockMemory<Tiling> at(barriers);
    divide_block<24, 240>(
        at, 0, [&] { bring_keys(at, &x.q, x.k, x.v, p, tiles); }, [&] { compute_forward(at, out, lse, p, tiles); });
#endif
}

template <class Tiling>
void forward_hopper(Heads<bf16> out, float* lse, Inputs<bf16> x, const Problem& p, Tensor qkv, Queue& queue) {
    const auto map = [&](const Heads<const bf16>& heads, int rows) { return map_of(heads, p, qkv.shape[0], rows); };
    const ForwardMaps maps{map(x.q, Tiling::rows), map(x.k, Tiling::N), map(x.v, Tiling::N)};
    launch_on_hopper<Tiling>(attention_forward_hopper_kernel<Tiling>, qkv, queue, out, lse, maps, p);
}

// ---- backward: dq --------------------------------------------------------------------------------------------------

template <int D>
using HopperQueryTilingOf = HopperTiling<D, D <= 64 ? 128 : 64, 2, 3>;  // own: q, dout, out

struct QueryMaps {
    CUtensorMap q, dout, out, k, v;
};

// Computes dq, and δ (B,H,T) for the kernel of dk and dv. The products of ds and k run on while those of the next keys
// are issued.
template <class Tiling>
__device__ inline void compute_backward_q(const BlockMemory<Tiling>& at, Heads<bf16> dq, float* delta, const float* lse,
                                          const Problem& p, int tiles) {
    constexpr int D = Tiling::D, N = Tiling::N;
    const int lane = threadIdx.x % 32, group = computing_warpgroup(), warp = threadIdx.x / 32 % 4;
    const auto q = at.own(0).from(64 * group), dout = at.own(1).from(64 * group), out = at.own(2).from(64 * group);
    const float scale_log2e = p.scale * log2e;
    RingPlace<Tiling::stages> k, v;
    uint32_t own_parity = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, own_parity ^= 1) {
        const OwnTile own(p, Tiling::rows, TileOrder::last_to_first, tile, tiles);
        const KeyRange keys(p, own, Tiling::rows);
        const int row = own.row + 64 * group + 16 * warp;  // the warp's first
        const SeenByWarp<1> seen(p, own.b, row);

        wait_for_phase(at.own_full(), own_parity);
        // As in attention_backward_q_kernel, δ is the diagonal of a product like dP.
        float row_lse[2], row_delta[2];
        {
            Sums<1, 64> d;
            begin_products();
            issue_product_transposed<D, 64>(d, dout, out);
            commit_products();
            wait_for_products<0>();
            pin(d);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float diagonal = 0.f;
#pragma unroll
                for (int n = i; n < 8;
                     n += 2)  // the columns of the warp's own rows are in blocks 2 warp and 2 warp + 1
                    if (n / 2 == warp) diagonal = lane / 4 % 2 ? d[0][n][2 * i + 1] : d[0][n][2 * i];
                row_delta[i] = __shfl_sync(~0u, diagonal, lane / 4 * 4 + lane / 8);
                const int t  = row + lane / 4 + 8 * i;
                row_lse[i]   = t < p.T ? lse[own.head_offset(p) + t] * log2e : 0.f;
                if (lane % 4 == 0 && t < p.T) delta[own.head_offset(p) + t] = row_delta[i];
            }
        }

        Sums<1, N> s, dp;
        Sums<1, D> acc;
        LeftOperand<1, N> ds;
        clear<1, D>(acc);
        for (int key = keys.begin; key < keys.end; key += N) {
            wait_for_phase(at.a_full(k.stage), k.parity);
            wait_for_phase(at.b_full(v.stage), v.parity);
            pin(s);
            pin(dp);
            begin_products();
            issue_product_transposed<D, N>(s, q, at.a(k.stage));
            commit_products();
            issue_product_transposed<D, N>(dp, dout, at.b(v.stage));
            commit_products();
            if (key > keys.begin) {
                wait_for_products<2>();  // the keys before have been added
                pin(acc);
                release(at.a_empty(before(k).stage));
            }
            wait_for_products<1>();
            pin(s);
            if (!seen.all_of(key, N)) seen.template hide<N>(s, key);
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[0][n][i] = probability(s[0][n][i], scale_log2e, row_lse[i / 2]);
            wait_for_products<0>();
            pin(dp);
            release(at.b_empty(v.stage));
            v.next();
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[0][n][i] *= dp[0][n][i] - row_delta[i / 2];
            ds = round_to_bf16<1, N>(s);
            pin(acc);
            begin_products();
            issue_product<D, N>(acc, ds, at.a(k.stage));
            commit_products();
            k.next();
        }
        wait_for_products<0>();
        pin(acc);
        release(at.a_empty(before(k).stage));
        release(at.own_empty());
        const float factor[2] = {p.scale, p.scale};
        store_rows<D>(dq.at(own.b, own.h), acc, factor, row + lane / 4, p.T, p.D);
    }
}

template <class Tiling>
__global__ void __launch_bounds__(hopper_threads, 1)
    attention_backward_q_hopper_kernel(Heads<bf16> dq, float* delta, const float* lse,
                                       const __grid_constant__ QueryMaps x, Problem p, int tiles) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    __shared__ uint64_t barriers[Tiling::barriers];
    const BlockMemory<Tiling> at(barriers);
    divide_block<24, 240>(
        at, 0, [&] { bring_keys(at, &x.q, x.k, x.v, p, tiles); },
        [&] { compute_backward_q(at, dq, delta, lse, p, tiles); });
#endif
}

template <class Tiling>
void backward_q_hopper(Heads<bf16> dq, float* delta, Heads<const bf16> dout, Heads<const bf16> out, const float* lse,
                       Inputs<bf16> x, const Problem& p, Tensor qkv, Queue& queue) {
    const auto map = [&](const Heads<const bf16>& heads, int rows) { return map_of(heads, p, qkv.shape[0], rows); };
    const QueryMaps maps{map(x.q, Tiling::rows), map(dout, Tiling::rows), map(out, Tiling::rows), map(x.k, Tiling::N),
                         map(x.v, Tiling::N)};
    launch_on_hopper<Tiling>(attention_backward_q_hopper_kernel<Tiling>, qkv, queue, dq, delta, lse, maps, p);
}

// ---- backward: dk and dv -------------------------------------------------------------------------------------------

template <int D>
using HopperKeyTilingOf = HopperTiling<D, D <= 96 ? 64 : 48, 2, 2>;  // own: k, v

struct KeyMaps {
    CUtensorMap k, v, q, dout;
};

// What the kernel of dk and dv streams besides tiles: a number of each kind for each of N queries.
template <int N>
struct QueryNumbers {
    float lse[N], delta[N];
    int starts[N];
    int query;  // the first of the N queries
    int end;    // one past the last query that sees one of the block's keys
};

// The first warp of the block runs it where keys are owned. Its lanes copy the numbers.
template <class Tiling>
__device__ inline void bring_queries(const BlockMemory<Tiling>& at, QueryNumbers<Tiling::N>* numbers, const KeyMaps& x,
                                     const float* delta, const float* lse, const Problem& p, int tiles) {
    constexpr int N = Tiling::N;
    const int lane  = threadIdx.x;
    RingPlace<Tiling::stages> place;
    uint32_t own_parity = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, own_parity ^= 1) {
        const OwnTile own(p, Tiling::rows, TileOrder::first_to_last, tile, tiles);
        const int64_t offset = own.head_offset(p);
        const int last_key   = min(own.row + Tiling::rows, p.T) - 1,
                  end        = end_of_queries_of_warp(p, own.b, own.row, last_key);
        if (lane == 0) {
            wait_for_phase(at.own_empty(), own_parity ^ 1);
            arrive_expecting(at.own_full(), 2 * Tiling::Own::bytes);
            at.own(0).copy(x.k, own.h, own.row, own.b, at.own_full());
            at.own(1).copy(x.v, own.h, own.row, own.b, at.own_full());
        }
        for (int query = own.row; query < end; query += N, place.next()) {
            const int i         = place.stage;
            QueryNumbers<N>& to = numbers[i];
            wait_for_phase(at.a_empty(i), place.parity ^ 1);
#pragma unroll
            for (int n = lane; n < N; n += 32) {
                const int t      = min(query + n, p.T - 1);
                const bool valid = query + n < p.T;
                copy_word_async(to.lse + n, lse + offset + t, valid);
                copy_word_async(to.delta + n, delta + offset + t, valid);
                if (p.starts) copy_word_async(to.starts + n, p.starts + int64_t(own.b) * p.T + t, valid);
            }
            arrive_after_copies(at.a_full(i));
            if (lane == 0) {
                to.query = query, to.end = end;
                arrive_expecting(at.a_full(i), Tiling::Streamed::bytes);
                at.a(i).copy(x.q, own.h, query, own.b, at.a_full(i));
                wait_for_phase(at.b_empty(i), place.parity ^ 1);
                arrive_expecting(at.b_full(i), Tiling::Streamed::bytes);
                at.b(i).copy(x.dout, own.h, query, own.b, at.b_full(i));
            }
            __syncwarp();
        }
    }
}

// Hides scores of a warp's 16 keys, from `first_of_warp` on, from the queries that do not see them.
template <int N>
__device__ inline void hide_keys(Sums<1, N>& s, const QueryNumbers<N>& numbers, int first_of_warp, const Problem& p) {
    const int lane = threadIdx.x % 32, query = numbers.query;
    Range first_keys = {query - p.window + 1, query - p.window + N};
    if (p.starts) {
        first_keys = {INT_MAX, INT_MIN};
#pragma unroll
        for (int n = lane; n < N; n += 32) {
            const int first = first_key(query + n, numbers.starts[n], p.window);
            first_keys      = {min(first_keys.min, first), max(first_keys.max, first)};
        }
        first_keys.max = __reduce_max_sync(~0u, first_keys.max);
    }
    if (query >= first_of_warp + 15 && first_keys.max <= first_of_warp) return;  // all queries see all of the keys
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int i = 8 * n + lane % 4 * 2 + j, t = query + i;
            const int first     = first_key(t, p.starts ? numbers.starts[i] : 0, p.window);
            const int key       = first_of_warp + lane / 4 - first;
            const unsigned seen = t - first;  // counts the visible keys after `first`
#pragma unroll
            for (int k = 0; k < 2; k++)
                if (unsigned(key + 8 * k) > seen) s[0][n][2 * k + j] = -INFINITY;
        }
}

// Computes dk and dv of 64 keys of each tile; rows of the products are keys, and columns are queries.
template <class Tiling>
__device__ inline void compute_backward_kv(const BlockMemory<Tiling>& at, const QueryNumbers<Tiling::N>* numbers,
                                           Heads<bf16> dk, Heads<bf16> dv, const Problem& p, int tiles) {
    constexpr int D = Tiling::D, N = Tiling::N;
    const int lane = threadIdx.x % 32, group = computing_warpgroup(), warp = threadIdx.x / 32 % 4;
    const auto k = at.own(0).from(64 * group), v = at.own(1).from(64 * group);
    const float scale_log2e = p.scale * log2e;
    RingPlace<Tiling::stages> place;
    uint32_t own_parity = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, own_parity ^= 1) {
        const OwnTile own(p, Tiling::rows, TileOrder::first_to_last, tile, tiles);
        const int row = own.row + 64 * group + 16 * warp;  // the warp's first
        Sums<1, N> s, dp;
        Sums<1, D> dk_sums, dv_sums;
        LeftOperand<1, N> weights, ds;
        clear<1, D>(dk_sums);
        clear<1, D>(dv_sums);
        wait_for_phase(at.own_full(), own_parity);
        for (bool is_first = true, is_last = false; !is_last; is_first = false) {
            const int stage                = place.stage;
            const QueryNumbers<N>& columns = numbers[stage];
            wait_for_phase(at.a_full(stage), place.parity);
            wait_for_phase(at.b_full(stage), place.parity);
            pin(s);
            pin(dp);
            begin_products();
            issue_product_transposed<D, N>(s, k, at.a(stage));
            commit_products();
            issue_product_transposed<D, N>(dp, v, at.b(stage));
            commit_products();
            if (!is_first) {
                wait_for_products<2>();  // the queries before have been added
                pin(dv_sums);
                pin(dk_sums);
                release(at.a_empty(before(place).stage));
                release(at.b_empty(before(place).stage));
            }
            is_last = columns.query + N >= columns.end;
            wait_for_products<1>();
            pin(s);
            hide_keys<N>(s, columns, row, p);
#pragma unroll
            for (int n = 0; n < N / 8; n++) {  // s becomes p
                const float2 lses = *reinterpret_cast<const float2*>(columns.lse + 8 * n + lane % 4 * 2);
                const float even = lses.x * log2e, odd = lses.y * log2e;
#pragma unroll
                for (int i = 0; i < 4; i++) s[0][n][i] = probability(s[0][n][i], scale_log2e, i % 2 ? odd : even);
            }
            weights = round_to_bf16<1, N>(s);
            pin(dv_sums);
            begin_products();
            issue_product<D, N>(dv_sums, weights, at.b(stage));
            commit_products();
            wait_for_products<1>();
            pin(dp);
#pragma unroll
            for (int n = 0; n < N / 8; n++) {  // s becomes ds
                const float2 deltas = *reinterpret_cast<const float2*>(columns.delta + 8 * n + lane % 4 * 2);
#pragma unroll
                for (int i = 0; i < 4; i++) s[0][n][i] *= dp[0][n][i] - (i % 2 ? deltas.y : deltas.x);
            }
            ds = round_to_bf16<1, N>(s);
            pin(dk_sums);
            begin_products();
            issue_product<D, N>(dk_sums, ds, at.a(stage));
            commit_products();
            place.next();
        }
        wait_for_products<0>();
        pin(dv_sums);
        pin(dk_sums);
        release(at.a_empty(before(place).stage));
        release(at.b_empty(before(place).stage));
        release(at.own_empty());
        const float one[2] = {1.f, 1.f}, scales[2] = {p.scale, p.scale};
        store_rows<D>(dk.at(own.b, own.h), dk_sums, scales, row + lane / 4, p.T, p.D);
        store_rows<D>(dv.at(own.b, own.h), dv_sums, one, row + lane / 4, p.T, p.D);
    }
}

template <class Tiling>
__global__ void __launch_bounds__(hopper_threads, 1)
    attention_backward_kv_hopper_kernel(Heads<bf16> dk, Heads<bf16> dv, const float* delta, const float* lse,
                                        const __grid_constant__ KeyMaps x, Problem p, int tiles) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    __shared__ uint64_t barriers[Tiling::barriers];
    __shared__ __align__(16) QueryNumbers<Tiling::N> numbers[Tiling::stages];
    const BlockMemory<Tiling> at(barriers);
    divide_block<40, 232>(
        at, 32, [&] { bring_queries(at, numbers, x, delta, lse, p, tiles); },
        [&] { compute_backward_kv(at, numbers, dk, dv, p, tiles); });
#endif
}

template <class Tiling>
void backward_kv_hopper(Heads<bf16> dk, Heads<bf16> dv, Heads<const bf16> dout, const float* delta, const float* lse,
                        Inputs<bf16> x, const Problem& p, Tensor qkv, Queue& queue) {
    const auto map = [&](const Heads<const bf16>& heads, int rows) { return map_of(heads, p, qkv.shape[0], rows); };
    const KeyMaps maps{map(x.k, Tiling::rows), map(x.v, Tiling::rows), map(x.q, Tiling::N), map(dout, Tiling::N)};
    launch_on_hopper<Tiling>(attention_backward_kv_hopper_kernel<Tiling>, qkv, queue, dk, dv, delta, lse, maps, p);
}

// ---- whether to use it ---------------------------------------------------------------------------------------------
//
// No GPU has run these kernels yet. So the first call of each kind in a run also runs the kernels that use mma.sync,
// and if the results differ by more than rounding explains, the run goes on with those.

inline bool needs_trial(const Queue& queue, const std::array<int64_t, 4>& kind) {
    return queue.attention == AttentionKernels::automatic && !queue.hopper.passed.count(kind);
}

// A call that is recorded as a CUDA graph cannot be compared. The first run of what is recorded was one without a
// graph.
inline bool hopper_takes(const Problem& p, const Queue& queue, const std::array<int64_t, 4>& kind) {
    if (queue.attention == AttentionKernels::mma || !p.is_wide || p.drops.step || !has_hopper_attention(queue))
        return false;
    if (!needs_trial(queue, kind)) return true;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    CUDA_RUN(cudaStreamIsCapturing(queue.stream, &capture));
    return !queue.hopper.failed && capture == cudaStreamCaptureStatusNone;
}

// The largest difference so far, in units of the largest that is allowed, as the bits of a float, above the row where
// it is. As a whole number it can be compared atomically.
using Difference = unsigned long long;

// Block h compares head h of a sequence. Elements may differ by `share` of the largest |element| of that head of
// `scale`, lse by 2^-12 of its size.
static __global__ void compare_attention_kernel(Difference* worst, Heads<const bf16> x, Heads<const bf16> right,
                                                Heads<const bf16> scale, float share, const float* lse,
                                                const float* right_lse, Problem p, uint32_t first_row) {
    __shared__ int largest;  // the bits of a float that is not negative
    __shared__ Difference worst_here;
    const int h = blockIdx.x;
    if (threadIdx.x == 0) largest = 0, worst_here = 0;
    __syncthreads();
    const auto at = [&](const Heads<const bf16>& heads, int i) { return float(heads.at(0, h)[i / p.D][i % p.D]); };
    int most      = 0;
    for (int i = threadIdx.x; i < p.T * p.D; i += blockDim.x) most = max(most, __float_as_int(fabsf(at(scale, i))));
    atomicMax(&largest, most);
    __syncthreads();
    Difference mine    = 0;
    const auto compare = [&](float ours, float theirs, float allowed, int t) {
        const bool alike = ours == theirs || (isnan(ours) && isnan(theirs));
        const float d = fabsf(ours - theirs) / allowed, bad = alike ? 0.f : isnan(d) ? INFINITY : d;
        mine = max(mine, Difference(__float_as_uint(bad)) << 32 | (first_row + uint32_t(h) * p.T + t));
    };
    for (int i = threadIdx.x; i < p.T * p.D; i += blockDim.x)
        compare(at(x, i), at(right, i), __int_as_float(largest) * share, i / p.D);
    for (int t = threadIdx.x; lse && t < p.T; t += blockDim.x) {
        const float theirs = right_lse[h * p.T + t];
        compare(lse[h * p.T + t], theirs, (1 + fabsf(theirs)) / 4096, t);
    }
    atomicMax(&worst_here, mine);
    __syncthreads();
    if (threadIdx.x == 0) atomicMax(worst, worst_here);
}

// Compares results with others, a sequence at a time.
class HopperTrial {
  public:
    // `bytes` of scratch memory are for the other results of one sequence.
    HopperTrial(const Problem& p, int64_t bytes, Queue& queue)
        : p_(p), queue_(queue), worst_(queue.scratch<Difference>(64 + bytes)) {
        CUDA_RUN(cudaMemsetAsync(worst_, 0, sizeof *worst_, queue_.stream));
    }
    char* memory() const { return reinterpret_cast<char*>(worst_) + 64; }
    void compare(int64_t sequence, const Heads<const bf16>& x, const Heads<const bf16>& right,
                 const Heads<const bf16>& scale, float share, const float* lse = nullptr,
                 const float* right_lse = nullptr) {
        launch(compare_attention_kernel, Grid(p_.H, 256), queue_, worst_, x, right, scale, share, lse, right_lse, p_,
               uint32_t(sequence * p_.H * p_.T));
    }
    // Waits for the comparisons. If results differ, it warns, and Hopper's kernels are not used again.
    bool passes(const std::array<int64_t, 4>& kind) {
        wait();
        Difference found = 0;
        queue_.download(&found, worst_, sizeof found);
        const uint32_t bits = uint32_t(found >> 32), row = uint32_t(found);
        float difference;
        std::memcpy(&difference, &bits, sizeof difference);
        if (difference <= 1.f) return queue_.hopper.passed.insert(kind), true;
        queue_.hopper.failed = true;
        fmt::print(stderr,
                   "warning: {}: the kernels for Hopper differ from those with mma.sync by {:.3g} times what rounding "
                   "explains, in row {} of head {} of sequence {} (T {} H {} D {} window {}{}). This run goes on with "
                   "mma.sync. Please report this line and what nvidia-smi prints; --attention mma leaves the "
                   "comparison out.\n",
                   queue_.op, difference, row % p_.T, row / p_.T % p_.H, row / p_.T / p_.H, p_.T, p_.H, p_.D, p_.window,
                   p_.starts ? ", documents" : "");
        return false;
    }

  private:
    // Waits for the comparisons, ten minutes at most. If the kernels fail or do not end, so must the program, at once:
    // whatever it would still ask of the GPU would wait for them, or fail too.
    void wait() const {
        const auto begin   = std::chrono::steady_clock::now();
        cudaError_t status = cudaErrorNotReady;
        while (status == cudaErrorNotReady && std::chrono::steady_clock::now() - begin < std::chrono::minutes(10)) {
            status = cudaStreamQuery(queue_.stream);
            if (status == cudaErrorNotReady) std::this_thread::sleep_for(std::chrono::microseconds(100));
        }
        if (status == cudaSuccess) return;
        fmt::print(stderr,
                   "error: {}: the kernels for Hopper {}. Start again with --attention mma, which does without them, "
                   "and please report this line and what nvidia-smi prints (T {} H {} D {} window {}{}).\n",
                   queue_.op,
                   status == cudaErrorNotReady ? "have not ended after 10 minutes"
                                               : fmt::format("failed: {}", cudaGetErrorString(status)),
                   p_.T, p_.H, p_.D, p_.window, p_.starts ? ", documents" : "");
        std::_Exit(1);
    }

    const Problem& p_;
    Queue& queue_;
    Difference* worst_;
};

}  // namespace gpu
