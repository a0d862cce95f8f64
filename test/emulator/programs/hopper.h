// hopper.h - the instructions of Hopper (sm_90a) that the programs use, one function each
#pragma once
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "check.h"

using bf16 = __nv_bfloat16;

__device__ inline uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// Chooses one lane of the warp. All of them must call it.
__device__ inline bool elect_one() {
    uint32_t chosen;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.b32 %0, 1, 0, p;\n}" : "=r"(chosen));
    return chosen;
}

// --- mbarrier: a phase ends when `count` threads have arrived and the bytes announced are there ----------------------
__device__ inline void init_barrier(uint64_t* b, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
__device__ inline void arrive(uint64_t* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
__device__ inline void arrive_expecting(uint64_t* b, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
                 : "memory");
}
// Waits until the phase with this parity is over. The first phase has parity 0.
__device__ inline void wait(uint64_t* b, int parity) {
    asm volatile(
        "{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra AGAIN;\n}" ::"r"(
            shared_address(b)),
        "r"(parity)
        : "memory");
}

// --- the async proxy -------------------------------------------------------------------------------------------------
__device__ inline void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ inline void load_bulk(void* to, const void* from, uint32_t bytes, uint64_t* b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(b))
                 : "memory");
}
__device__ inline void store_bulk(void* to, const void* from, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)),
                 "r"(bytes)
                 : "memory");
}
__device__ inline void load_tile(void* to, const CUtensorMap& map, int x, int y, uint64_t* b) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(to)),
        "l"(&map), "r"(x), "r"(y), "r"(shared_address(b))
        : "memory");
}
// Adds to what is in global memory.
__device__ inline void add_bulk(float* to, const float* from, uint32_t bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
                 "r"(shared_address(from)), "r"(bytes)
                 : "memory");
}
__device__ inline void store_tile(const CUtensorMap& map, int x, int y, const void* from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(x),
                 "r"(y), "r"(shared_address(from))
                 : "memory");
}
__device__ inline void commit_bulk() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
__device__ inline void wait_bulk() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// --- clusters: blocks that run at the same time and reach each other's shared memory ---------------------------------
__device__ inline uint32_t cluster_rank() {
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// The shared address that the same variable has in the block of this rank.
__device__ inline uint32_t address_in(const void* p, uint32_t rank) {
    uint32_t address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(rank));
    return address;
}
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
__device__ inline void sync_cluster() { cluster_arrive(), cluster_wait(); }
// Lets other blocks of the cluster, and bulk copies, use the mbarriers that this thread has initialised.
__device__ inline void fence_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Tells nothing but what was done before a fence, as the initialisation of mbarriers before fence_init.
__device__ inline void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
__device__ inline void arrive_in(uint64_t* b, uint32_t rank) {
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(address_in(b, rank)) : "memory");
}
// Copies a tile to the same place in each block whose bit in `blocks` is set. Each block's own barrier counts the
// bytes.
__device__ inline void load_tile(void* to, const CUtensorMap& map, int x, int y, uint64_t* b, uint16_t blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
        "l"(&map), "r"(x), "r"(y), "r"(shared_address(b)), "h"(blocks)
        : "memory");
}
// Copies from this block's shared memory to that of another block, where the barrier is, too.
__device__ inline void send_bulk(void* to, const void* from, uint32_t bytes, uint64_t* b, uint32_t rank) {
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     address_in(to, rank)),
                 "r"(shared_address(from)), "r"(bytes), "r"(address_in(b, rank))
                 : "memory");
}

// Stores a number in another block's shared memory. The barrier there counts its four bytes.
__device__ inline void send(int* to, int value, uint64_t* b, uint32_t rank) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(address_in(to, rank)),
        "r"(value), "r"(address_in(b, rank))
        : "memory");
}

// --- wgmma: the four warps of a warpgroup multiply matrices in shared memory; the sums stay in registers -------------
__device__ inline void fence_wgmma() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_wgmma() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Open = 0> __device__ inline void wait_wgmma() {  // `Open` groups may stay open
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Open) : "memory");
}
// Describes a matrix of bf16 whose rows have 128 bytes and are swizzled as by a tensor map. Eight rows have 1024 bytes.
// In a cluster the highest byte of an address has to do with the block's rank, for which a descriptor has no room.
__device__ inline uint64_t describe(const bf16* tile) {
    return uint64_t((shared_address(tile) & 0x3ffff) >> 4) | uint64_t(1024 >> 4) << 32 | 1ull << 62;
}
// d (64 x 64) = or += a (64 x 16) . b, where b has a row for each column of d (64 x 16). With AcrossB b is (16 x 64),
// and with AcrossA so is a.
template <int AcrossB = 0, int AcrossA = 0>
__device__ inline void multiply(float (&d)[32], uint64_t a, uint64_t b, bool adds) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
        "%13, "
        "%14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, "
        "%36, "
        "%35;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
          "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
          "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(int(adds)), "n"(AcrossB), "n"(AcrossA));
}
// The row and column of d[k] in this thread.
__device__ inline int row_of(int k) { return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + k / 2 % 2 * 8; }
__device__ inline int column_of(int k) { return k / 4 * 8 + threadIdx.x % 4 * 2 + k % 2; }

// --- setmaxnreg: the warps of a warpgroup give registers back or take them; a thread then has this many --------------
template <int Registers> __device__ inline void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers> __device__ inline void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

// Describes a matrix of bf16 and its tiles of `high` x `wide` elements, of which a row has 128 bytes or less.
inline CUtensorMap tensor_map(const bf16* matrix, int rows, int columns, int high, int wide,
                              CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B) {
    void* function;
    cudaDriverEntryPointQueryResult found;
    CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
    EXPECT(found == cudaDriverEntryPointSuccess);
    const cuuint64_t size[] = {cuuint64_t(columns), cuuint64_t(rows)}, stride[] = {cuuint64_t(columns) * sizeof(bf16)};
    const cuuint32_t box[] = {cuuint32_t(wide), cuuint32_t(high)}, step[] = {1, 1};
    CUtensorMap map;
    const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
    EXPECT(encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<bf16*>(matrix), size, stride, box, step,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS);
    return map;
}
