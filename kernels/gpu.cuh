// gpu.cuh - the building blocks of every op's kernels: vectors of 16 bytes, loops over a grid, early launches,
// clusters, sums over warps and blocks
//
// A sum adds in the order of its loop, then over the lanes of a warp and the warps of a block in a fixed tree. How work
// is split depends on shapes only, never on the number of multiprocessors. No floating-point number is added
// atomically. So every run gives the same bits, and so does every GPU for all ops but products and attention in bf16.
#pragma once
#include <algorithm>
#include <type_traits>

#include "queue.cuh"

namespace gpu {

// ---- vectors --------------------------------------------------------------------------------------------------------

// W elements in float. A thread moves 16 bytes at a time where it can: W is wide<T> when all pointers and rows are
// aligned to 16 bytes, else 1.
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

// A compile-time number passed as an argument. std::integral_constant would need --expt-relaxed-constexpr, with which
// nvcc 13.0 compiles the lambdas of the CPU half for the GPU as well and fails on their vectors.
template <int n>
struct Constant {
    HD constexpr operator int() const { return n; }
};

// Calls run(width) with wide<T> or 1.
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

// The types that unpack() and pack() below convert: another 16-bit type needs a branch of its own in both.
template <class T>
constexpr bool has_vectors = std::is_same_v<T, float> || std::is_same_v<T, bf16>;

// W elements as memory holds them: half the registers of their floats when T is bf16.
template <int W, class T>
using Packed = Word<W* int(sizeof(T))>;
template <int W, class T>
__device__ inline Packed<W, T> load_packed(const T* p) {
    return *reinterpret_cast<const Packed<W, T>*>(p);
}
template <int W, class T>
__device__ inline Floats<W> unpack(Packed<W, T> word) {
    static_assert(has_vectors<T>);
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
__device__ inline Packed<W, T> pack(const Floats<W>& v) {
    static_assert(has_vectors<T>);
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
    return word;
}
// v as it would be read after it was stored.
template <class T, int W>
__device__ inline Floats<W> rounded(const Floats<W>& v) {
    return unpack<W, T>(pack<W, T>(v));
}
// load() and store() of more than 16 bytes are two accesses or more.
template <int W, class T>
__device__ inline Floats<W> load(const T* p) {
    if constexpr (W > wide<T>) {
        Floats<W> v;
        for (int i = 0; i < W; i += wide<T>) {
            const Floats<wide<T>> part = load<wide<T>>(p + i);
            for (int k = 0; k < wide<T>; k++) v[i + k] = part[k];
        }
        return v;
    } else {
        return unpack<W, T>(load_packed<W>(p));
    }
}

template <int W, class T>
__device__ inline void store(T* p, const Floats<W>& v) {
    if constexpr (W > wide<T>) {
        for (int i = 0; i < W; i += wide<T>) {
            Floats<wide<T>> part;
            for (int k = 0; k < wide<T>; k++) part[k] = v[i + k];
            store(p + i, part);
        }
    } else {
        *reinterpret_cast<Packed<W, T>*>(p) = pack<W, T>(v);
    }
}

extern __shared__ __align__(128) char shared_memory[];  // as much as the launch says

// Starts to copy 16 bytes from global to shared memory, whose address `to` __cvta_generic_to_shared() gives. Where
// `valid` is false it writes zeros and reads nothing. wait_for_copies() waits for the copies of the calling thread.
__device__ inline void copy_chunk_async(uint32_t to, const void* from, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Loads four 8 × 8 matrices of bf16 from shared memory. Lane l gives the address of row l%8 of matrix l/8.
__device__ inline void load_matrices(uint32_t (&m)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

constexpr float log2e = 1.44269504f;
__device__ inline float exp2_fast(float x) {  // 2 ulp; exact at 0, 0 at -inf; results below 2^-126 are 0
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Calls f(i, width) over [0, n), shared by the whole grid: W elements at a time, and the last n mod W one by one. With
// load<width>(p + i) the body reads as one loop.
template <int W, class F>
__device__ inline void for_grid(int64_t n, F f) {
    const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = thread; i < n / W; i += threads) f(i * W, Constant<W>{});
    if (W > 1 && thread < n % W) f(n - n % W + thread, Constant<1>{});
}
// Returns the grid for for_grid(): a thread for every W elements.
inline Grid grid_over(int64_t n, int W, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return Grid(n ? std::max<int64_t>(1, ceil_div(n / W, 256)) : 0, 256, 0, file, line);
}

// ---- kernels that begin early ---------------------------------------------------------------------------------------

// Waits until the kernels in front of this one have ended, if launch_early() let it begin before that, and makes what
// they wrote visible.
__device__ inline void wait_for_kernels() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next kernel begin, if it is launched early, as soon as every block of this one has come here or has ended.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Asks for a line of 128 bytes to be brought into the L2 cache.
__device__ inline void prefetch(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// ---- clusters -------------------------------------------------------------------------------------------------------

// The blocks of a cluster (Grid::in_clusters) can reach each other's shared memory. Without clusters, and before
// compute capability 9.0, a block is a cluster of its own.
__device__ inline int cluster_blocks() {
    uint32_t blocks = 1;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
#endif
    return int(blocks);
}
__device__ inline int block_in_cluster() {
    uint32_t block = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(block));
#endif
    return int(block);
}
// The variable that another block of the cluster has at the place of this one in shared memory. It is there until that
// block ends.
template <class X>
__device__ inline X* of_block(X* shared, int block) {
#if __CUDA_ARCH__ >= 900
    asm("mapa.u64 %0, %0, %1;" : "+l"(shared) : "r"(block));
#endif
    return shared;
}
// Waits until all threads of the cluster have come here or ended, and sees what they wrote to shared memory before.
__device__ inline void wait_for_cluster() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#else
    __syncthreads();
#endif
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
    __syncthreads();  // threads may still read of_warp for the sum before
    if (lane == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(lane < warps ? of_warp[lane] : X(0));
}

// Returns whether this block is the last of `blocks` that call it with the same counter (Queue::counters).
// The last block may read, by __ldcg(), whatever the others wrote before their calls. The counter is then 0 again.
// Every thread of a block has to make the call, and all of them get the same answer.
__device__ inline bool is_last_of(int blocks, uint32_t* ended) {
    __shared__ bool is_last;
    __threadfence();  // each thread's writes come before the increment
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicInc(ended, uint32_t(blocks - 1)) == uint32_t(blocks - 1);
    __syncthreads();
    if (is_last) __threadfence();
    return is_last;
}

}  // namespace gpu
