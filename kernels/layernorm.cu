// layernorm.cu - brings each row to mean 0 and variance 1, then scales and shifts its columns
//
//   forward    x̂ = (x - mean) rstd,  rstd = 1/√(variance + eps),  y = x̂ w + b
//   backward   g = dy w:   dx += rstd (g - mean(g) - x̂ mean(g x̂)),   dw = or += Σ_n dy x̂,   db = or += Σ_n dy
//
//   x, y, dx, dy (N,C); w, b, dw, db (C); mean, rstd (N) fp32, kept from forward for backward.
//   Ba, Kiros, Hinton 2016: arXiv 1607.06450
#include <vector>

#include "cpu.h"
#include "dropout.h"
#include "ops.h"
#ifdef __CUDACC__
#include "normalise_row.cuh"
#endif

// The gradient of x by the formula above, for one element on the GPU and for a vector of them on the CPU.
template <class F>
HD F layernorm_dx(F g, F x, float mean, float rstd, float g_mean, float gx_mean) {
    return rstd * (g - g_mean - (x - mean) * rstd * gx_mean);
}

namespace cpu {

static int64_t row_grain(int64_t C) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(C, 1)); }

// Two passes for the variance, not E[x²] - E[x]²: with |mean| ≫ std the subtraction cancels, and the row is in cache.
template <class T>
static void mean_and_rstd(float& mean, float& rstd, const T* x, float eps, int64_t C) {
    const float m               = sum_lanes(C, [=](int64_t i, auto n) { return load(x + i, n); }) / C;
    const auto squared_distance = [=](int64_t i, auto n) {
        const floats d = load(x + i, n) - m;
        return d * d;
    };
    mean = m;
    rstd = 1.f / std::sqrt(sum_lanes(C, squared_distance) / C + eps);
}

// The norms of a row share the machine code of this function, so that equal weights give equal bits. When g++ 12 may
// inline both calls, the last bits differ on aarch64.
template <class T>
[[gnu::noinline]] static void scale_and_shift(T* y, const T* x, float m, float r, const T* w, const T* b, int64_t C) {
    for_lanes(C,
              [=](int64_t i, auto n) { store(y + i, (load(x + i, n) - m) * r * load(w + i, n) + load(b + i, n), n); });
}

// Normalises sum = (a + b) + c, or a alone where b is null. A sum is read back as it was rounded, so the result is that
// of add_forward() and layernorm_forward() to the bit.
template <class T>
static void add_layernorm_forward(Tensor sum, Tensor y, Tensor mean, Tensor rstd, Tensor a, Tensor b, Tensor w,
                                  Tensor bias, float eps, const ElementMask& drop, Tensor c, const ElementMask& drop_c,
                                  const SecondNorm& second) {
    const int64_t N = a.shape[0], C = a.shape[1];
    const T *in = a.data<T>(), *other = b.data_or_null<T>(), *third = c.data_or_null<T>();
    const T *scale = w.data<T>(), *shift = bias.data<T>(), *scale2 = second.w.data_or_null<T>(),
            *shift2 = second.b.data_or_null<T>();
    T *sums = sum.data_or_null<T>(), *out = y.data<T>(), *out2 = second.out.data_or_null<T>();
    float *m = mean.data<float>(), *r = rstd.data<float>();
    const auto of_step     = [](const ElementMask& mask) { return mask.step_at ? mask.of_step() : mask; };
    const ElementMask mask = of_step(drop), mask_c = of_step(drop_c);
    parallel_ranges(N, row_grain(C), [=](int64_t begin, int64_t end) {
        std::vector<T> kept(mask.step_at || mask_c.step_at ? C : 0);  // a row of b or c after dropout
        for (int64_t n = begin; n < end; n++) {
            const int64_t row = n * C;
            const T* x        = in + row;
            const auto add    = [&](const T* added, const ElementMask& dropping) {
                if (dropping.step_at) {
                    dropping.apply(kept.data(), added, row, C);
                    added = kept.data();
                }
                T* const to         = sums + row;
                const T* const from = x;
                for_lanes(C, [=](int64_t i, auto k) { store(to + i, load(from + i, k) + load(added + i, k), k); });
                x = to;
            };
            if (other) add(other + row, mask);
            if (third) add(third + row, mask_c);
            mean_and_rstd(m[n], r[n], x, eps, C);
            scale_and_shift(out + row, x, m[n], r[n], scale, shift, C);
            if (out2) scale_and_shift(out2 + row, x, m[n], r[n], scale2, shift2, C);
        }
    });
}
template <class T>
static void layernorm_forward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b, float eps,
                              const SecondNorm& second) {
    add_layernorm_forward<T>({}, y, mean, rstd, x, {}, w, b, eps, {}, {}, {}, second);
}

// Computes one row's dx, and adds its share of dw and db. Lanes past the end of the row load dy = 0, so they add
// nothing.
template <class T>
static void layernorm_backward_row(T* dx, float* dw, float* db, const T* dy, const T* x, const T* w, float mean,
                                   float rstd, int64_t C, Into dx_into) {
    if (dx_into == Into::set) std::fill_n(dx, C, T(0.f));
    floats g_sum = {}, gx_sum = {};
    for_lanes(C, [&](int64_t i, auto n) {
        const floats d = load(dy + i, n), xhat = (load(x + i, n) - mean) * rstd, g = d * load(w + i, n);
        g_sum += g;
        gx_sum += g * xhat;
        store(dw + i, load(dw + i, n) + d * xhat, n);
        store(db + i, load(db + i, n) + d, n);
    });
    // A single element is normalised to 0, whatever it is, so its gradient is 0. The formula would give it the rounding
    // error of g where the compiler fuses g's product with the subtraction of g_mean, which is a sum of rounded g.
    if (C == 1) return;
    const float g_mean = sum(g_sum) / C, gx_mean = sum(gx_sum) / C;
    for_lanes(C, [=](int64_t i, auto n) {
        const floats x_i = load(x + i, n), g = load(dy + i, n) * load(w + i, n);
        store(dx + i, load(dx + i, n) + layernorm_dx(g, x_i, mean, rstd, g_mean, gx_mean), n);
    });
}

// dw and db are sums down the columns. The rows are split into at most 64 chunks, whatever the number of threads. Each
// chunk has its own sums, which are then added in order.
template <class T>
static void layernorm_backward(Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Tensor mean, Tensor rstd,
                               Into into, Tensor dropped, const ElementMask& drop, Into dx_into) {
    const int64_t N = x.shape[0], C = x.shape[1];
    const int64_t rows = std::max<int64_t>(8, ceil_div(N, 64)), chunks = ceil_div(N, rows);
    std::vector<float> partial(chunks * 2 * C);
    float* sums     = partial.data();
    T* x_grad       = dx.data<T>();
    const T *y_grad = dy.data<T>(), *in = x.data<T>(), *scale = w.data<T>();
    const float *m = mean.data<float>(), *r = rstd.data<float>();
    T* kept                = dropped.data_or_null<T>();
    const ElementMask mask = kept ? drop.of_step() : drop;
    parallel_ranges(chunks, 1, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin * rows; n < std::min(end * rows, N); n++) {
            float* chunk = sums + n / rows * 2 * C;
            layernorm_backward_row(x_grad + n * C, chunk, chunk + C, y_grad + n * C, in + n * C, scale, m[n], r[n], C,
                                   dx_into);
            if (kept) mask.apply(kept + n * C, x_grad + n * C, n * C, C);
        }
    });
    const auto add_chunks = [=](float* total, const float* first) {
        parallel_lanes(C, [=](int64_t i, auto n) {
            floats s = load(first + i, n);
            for (int64_t c = 1; c < chunks; c++) s += load(first + c * 2 * C + i, n);
            store(total + i, into == Into::add ? load(total + i, n) + s : s, n);
        });
    };
    add_chunks(dw.data<float>(), sums);
    add_chunks(db.data<float>(), sums + C);
}

}  // namespace cpu

constexpr int most_chunks = 256;
// Returns how many rows a chunk of the backward pass has on a GPU. There are at least 8, and more where most_chunks
// such chunks would not hold all N.
static int64_t backward_chunk(int64_t N) { return std::max<int64_t>(8, round_up(ceil_div(N, most_chunks), 4)); }

#ifdef __CUDACC__
namespace gpu {

// What only the pass at the end of a parallel block has: a second addend, with a mask of its own, and the norm of the
// same rows by other weights. Either may be null.
template <class T>
struct OfParallelBlock {
    const T* c;
    ElementMask drop;
    T* y;
    const T *w, *bias;
};

// Normalises sum = a + b, as it was rounded when it was written, or a alone if b is null. With `drops`, elements of b
// are dropped first. With `parallel`, sum = (a + b) + c, and there may be a second norm.
template <int W, bool drops, bool parallel, class T>
static __global__ void layernorm_forward_kernel(T* sum, T* y, float* mean, float* rstd, const T* a, const T* b,
                                                const T* w, const T* bias, float eps, int64_t N, int C, int row_bytes,
                                                ElementMask drop, OfParallelBlock<T> also) {
    extern __shared__ uint4 rows[];
    const int warp  = threadIdx.x / 32;
    const int64_t n = int64_t(blockIdx.x) * (blockDim.x / 32) + warp;
    let_next_begin();
    wait_for_kernels();
    if (n >= N) return;
    T* const row = reinterpret_cast<T*>(reinterpret_cast<char*>(rows) + warp * row_bytes);
    if constexpr (drops) drop = drop.of_step();
    if constexpr (drops && parallel) also.drop = also.drop.of_step();
    a += n * C;
    for (int i = threadIdx.x % 32 * W; i < C; i += 32 * W) {
        if (b) {
            Floats<W> x = load<W>(a + i), other = load<W>(b + n * C + i), third;
            if constexpr (parallel)
                if (also.c) third = load<W>(also.c + n * C + i);
            if constexpr (drops) other = rounded<T>(drop.apply<W>(other, n * C + i));
            for (int k = 0; k < W; k++) x[k] += other[k];
            if constexpr (parallel)
                if (also.c) {
                    if constexpr (drops) third = rounded<T>(also.drop.template apply<W>(third, n * C + i));
                    x = rounded<T>(x);
                    for (int k = 0; k < W; k++) x[k] += third[k];
                }
            store(sum + n * C + i, x);
            store(row + i, x);
        } else {
            *reinterpret_cast<Packed<W, T>*>(row + i) = load_packed<W>(a + i);
        }
    }
    const MeanAndRstd of_row = mean_and_rstd<W>(row, eps, C);
    scale_and_shift<W>(y + n * C, row, of_row, w, bias, C);
    if constexpr (parallel)
        if (also.y) scale_and_shift<W>(also.y + n * C, row, of_row, also.w, also.bias, C);
    if (threadIdx.x % 32) return;
    mean[n] = of_row.mean;
    rstd[n] = of_row.rstd;
}

template <class T>
static void add_layernorm_forward(Tensor sum, Tensor y, Tensor mean, Tensor rstd, Tensor a, Tensor b, Tensor w,
                                  Tensor bias, float eps, ElementMask drop, Tensor c, ElementMask drop_c,
                                  const SecondNorm& second, Queue& q) {
    const int64_t N = a.shape[0], C = a.shape[1], row_bytes = round_up(C * int64_t(sizeof(T)), 16);
    const int64_t rows = std::clamp<int64_t>((48 << 10) / row_bytes, 1, 4);
    // A mask that drops nothing keeps every element and multiplies it by 1. One kernel has both masks or none.
    if (c && drop.step_at && !drop_c.step_at) drop_c.step_at = drop.step_at;
    if (c && drop_c.step_at && !drop.step_at) drop.step_at = drop_c.step_at;
    const OfParallelBlock<T> also{c.data_or_null<T>(), drop_c, second.out.data_or_null<T>(), second.w.data_or_null<T>(),
                                  second.b.data_or_null<T>()};
    const auto run = [&](auto width, auto drops, auto parallel) {
        launch_early(layernorm_forward_kernel<width, drops, parallel, T>,
                     {ceil_div(N, rows), int(32 * rows), rows * row_bytes}, q, sum.data_or_null<T>(), y.data<T>(),
                     mean.data<float>(), rstd.data<float>(), a.data<T>(), b.data_or_null<T>(), w.data<T>(),
                     bias.data<T>(), eps, N, int(C), int(row_bytes), drop, also);
    };
    for_width<T>(C % wide<T> == 0 && aligned(a.ptr, b.ptr, sum.ptr, y.ptr, w.ptr, bias.ptr, c.ptr, second.out.ptr,
                                             second.w.ptr, second.b.ptr),
                 [&](auto width) {
                     for_dropout(drop.step_at, [&](auto drops) {
                         if (c || second.out)
                             run(width, drops, std::true_type{});
                         else
                             run(width, drops, std::false_type{});
                     });
                 });
}
template <class T>
static void layernorm_forward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b, float eps,
                              const SecondNorm& second, Queue& q) {
    add_layernorm_forward<T>({}, y, mean, rstd, x, {}, w, b, eps, {}, {}, {}, second, q);
}

// In backward each block takes a chunk of rows. Its threads are groups of P, and each group takes R rows at a time: a
// thread has V vectors of W columns, the same in every row, so its sums for dw and db stay in registers until the block
// adds up those of its groups and writes them. Blocks that end last add the chunks (add_chunks()). There are at most
// 256 chunks on every GPU: at N = 8192, C = 768 in bf16 their sums are 3 % of the bytes that the op has to move.
//
// A multiprocessor of an H100 needs 40 KB of loads in flight. At C = 768 in bf16 a block has 4 groups of 96 threads,
// and each thread loads 96 bytes of R = 2 rows: 72 KB in the two blocks that share a multiprocessor, which leave 80
// registers to a thread. A row that takes more than half of such a block has a block to itself, which loads more rows.
constexpr int backward_threads = 512, group_threads = 384;  // of a block at most, with one group and with several
// The floats of shared memory that a group's sums for dw take; those for db take as many.
HD int group_sums(int W, int P) { return W * (P + 32 / W); }

// Where the sums of rows go, which are the gradients of w and b.
struct RowSums {
    float *dw, *db;    // (C)
    float* of_chunks;  // (chunks, 2, C): dw and db of each chunk
    uint32_t* ended;   // counters of the queue
    Into into;
};

// Every block calls this when it has written the sums of its chunk. Blocks form sets of 16 neighbours, and in each set
// the block that ends last adds up the chunks of the set. The last block to do so adds up the sets and completes dw,
// db. All sums are taken in the order of the chunks, so the bits do not depend on which block ends last. A second
// kernel would take another launch. One block for all chunks would read 16 times as much as the last block of a set.
static __device__ void add_chunks(const RowSums& sums, int64_t C) {
    constexpr int side = 16;
    static_assert(side * side == most_chunks, "a block adds at most 16 results, each of at most 16 chunks");
    const auto add = [&](const float* first, int count, int64_t stride, auto&& store_sum) {
        for (int64_t i = threadIdx.x; i < 2 * C; i += blockDim.x) {
            float v[side], sum = 0;
            for (int k = 0; k < side; k++) v[k] = k < count ? __ldcg(first + k * stride + i) : 0.f;
            for (int k = 0; k < side; k++) sum += v[k];
            store_sum(i, sum);
        }
    };
    const int chunks = int(gridDim.x), set = int(blockIdx.x) / side, first = set * side,
              in_set = min(side, chunks - first), sets = (chunks + side - 1) / side;
    float* const result = sums.of_chunks + first * 2 * C;  // takes the place of the sums of the set's first chunk
    if (!is_last_of(in_set, sums.ended + 1 + set)) return;
    add(result, in_set, 2 * C, [&](int64_t i, float sum) { result[i] = sum; });
    if (!is_last_of(sets, sums.ended)) return;
    add(sums.of_chunks, sets, side * 2 * C, [&](int64_t i, float sum) {
        float& total = i < C ? sums.dw[i] : sums.db[i - C];
        total        = sums.into == Into::add ? total + sum : sum;
    });
}

// With `drops`, dropped = dx with the mask of `drop`. dropped may be dx, because each element is written after dx's.
template <bool drops, int W, class T>
static __device__ void store_dx(T* dx, T* dropped, int64_t i, const Floats<W>& v, const ElementMask& mask) {
    store(dx + i, v);
    if constexpr (drops) store(dropped + i, mask.apply<W>(rounded<T>(v), i));
}

template <int W, int V, int R, bool drops, class T>
static __global__ void __launch_bounds__(R == 2 && V == 1 ? group_threads : backward_threads, R == 2 && V == 1 ? 2 : 1)
    layernorm_backward_kernel(T* dx, RowSums sums, const T* dy, const T* x, const T* w, const float* mean,
                              const float* rstd, int64_t N, int C, int64_t chunk, T* dropped, ElementMask drop,
                              Into dx_into, int P) {
    extern __shared__ uint4 memory[];
    __shared__ float2 warp_sums[2][R][backward_threads / 32];  // Σ g and Σ g x̂ of each warp, in two alternating halves
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, groups = blockDim.x / P, group = threadIdx.x / P,
              first_warp = group * P / 32;
    const int64_t end    = min(N, (blockIdx.x + 1) * chunk);
    const auto column    = [&](int v) { return (v * P + int(threadIdx.x) % P) * W; };
    Packed<W, T> w_packed[V];
    for (int v = 0; v < V; v++)
        if (column(v) < C) w_packed[v] = load_packed<W>(w + column(v));
    if constexpr (drops) drop = drop.of_step();
    Floats<W> dw[V] = {}, db[V] = {};
    int half = 0;
    for (int64_t first = blockIdx.x * chunk; first < end; first += groups * R, half ^= 1) {
        const int64_t n = first + group * R;  // this group's first row
        Packed<W, T> dy_packed[R][V], x_packed[R][V], dx_packed[R][V];
        float row_mean[R], row_rstd[R];
        for (int r = 0; r < R; r++)
            if (n + r < end) {
                for (int v = 0; v < V; v++)
                    if (column(v) < C) {
                        const int64_t i = (n + r) * C + column(v);
                        dy_packed[r][v] = load_packed<W>(dy + i);
                        x_packed[r][v]  = load_packed<W>(x + i);
                        dx_packed[r][v] = dx_into == Into::add ? load_packed<W>(dx + i) : Packed<W, T>{};
                    }
                row_mean[r] = mean[n + r];
                row_rstd[r] = rstd[n + r];
            }
        for (int r = 0; r < R; r++) {
            float g_sum = 0, gx_sum = 0;
            for (int v = 0; v < V; v++)
                if (n + r < end && column(v) < C) {
                    const Floats<W> dy_v = unpack<W, T>(dy_packed[r][v]), x_v = unpack<W, T>(x_packed[r][v]),
                                    w_v = unpack<W, T>(w_packed[v]);
                    for (int k = 0; k < W; k++) {
                        const float xhat = (x_v[k] - row_mean[r]) * row_rstd[r], g = dy_v[k] * w_v[k];
                        g_sum += g;
                        gx_sum += g * xhat;
                        dw[v][k] += dy_v[k] * xhat;
                        db[v][k] += dy_v[k];
                    }
                }
            g_sum  = warp_sum(g_sum);
            gx_sum = warp_sum(gx_sum);
            if (lane == 0) warp_sums[half][r][warp] = {g_sum, gx_sum};
        }
        __syncthreads();  // one barrier is enough, because the next rows use the other half of warp_sums
#pragma unroll
        for (int r = 0; r < R && n + r < end; r++) {
            float g_mean = 0, gx_mean = 0;
            for (int i = first_warp; i < first_warp + P / 32; i++) {
                g_mean += warp_sums[half][r][i].x;
                gx_mean += warp_sums[half][r][i].y;
            }
            g_mean /= float(C);
            gx_mean /= float(C);
#pragma unroll
            for (int v = 0; v < V; v++)
                if (column(v) < C) {
                    const Floats<W> dy_v = unpack<W, T>(dy_packed[r][v]), x_v = unpack<W, T>(x_packed[r][v]),
                                    w_v = unpack<W, T>(w_packed[v]);
                    Floats<W> dx_v      = unpack<W, T>(dx_packed[r][v]);
                    for (int k = 0; k < W; k++)
                        dx_v[k] += layernorm_dx(dy_v[k] * w_v[k], x_v[k], row_mean[r], row_rstd[r], g_mean, gx_mean);
                    store_dx<drops>(dx, dropped, (n + r) * C + column(v), dx_v, drop);
                }
        }
    }
    // The sums of the block are dw (C), then db (C).
    float* const of_block = sums.of_chunks + int64_t(blockIdx.x) * 2 * C;
    if (groups == 1) {
        for (int v = 0; v < V; v++)
            if (column(v) < C) {
                store(of_block + column(v), dw[v]);
                store(of_block + C + column(v), db[v]);
            }
    } else {
        // Several groups, for which V is 1, add their sums in shared memory. Each group has a matrix for dw and one for
        // db, with column c at [c % W][c / W]. Their rows are so long that no access to them has bank conflicts.
        float* const of_groups = reinterpret_cast<float*>(memory);
        const int row = group_sums(W, P) / W, matrix = W * row;
        for (int k = 0; k < W && column(0) < C; k++) {
            float* const place = of_groups + group * 2 * matrix + k * row + threadIdx.x % P;
            place[0]           = dw[0][k];
            place[matrix]      = db[0][k];
        }
        __syncthreads();
        for (int i = threadIdx.x; i < 2 * C; i += blockDim.x) {
            const int c              = i % C;
            const float* const place = of_groups + i / C * matrix + c % W * row + c / W;
            float sum                = place[0];
            for (int g = 1; g < groups; g++) sum += place[g * 2 * matrix];
            of_block[i] = sum;
        }
    }
    add_chunks(sums, C);
}

// Computes the same for rows of any width. The column sums are in shared memory. A block takes one row at a time, and
// reads it again from the cache for dx.
template <int W, bool drops, class T>
static __global__ void __launch_bounds__(backward_threads, drops ? 2 : 0)
    layernorm_backward_wide_kernel(T* dx, RowSums sums, const T* dy, const T* x, const T* w, const float* mean,
                                   const float* rstd, int64_t N, int64_t C, int64_t chunk, T* dropped, ElementMask drop,
                                   Into dx_into) {
    extern __shared__ uint4 memory[];
    if constexpr (drops) drop = drop.of_step();
    float* const chunk_sums = reinterpret_cast<float*>(memory);  // holds dw (C), then db (C)
    const int64_t end       = min(N, (blockIdx.x + 1) * chunk);
    const auto each_vector  = [&](auto f) {
        for (int64_t i = threadIdx.x * W; i < C; i += blockDim.x * W) f(i);
    };
    for (int64_t i = threadIdx.x; i < 2 * C; i += blockDim.x) chunk_sums[i] = 0;
    __syncthreads();
    for (int64_t n = blockIdx.x * chunk; n < end; n++) {
        const float row_mean = mean[n], row_rstd = rstd[n];
        float g_sum = 0, gx_sum = 0;
        each_vector([&](int64_t i) {
            const Floats<W> dy_v = load<W>(dy + n * C + i), x_v = load<W>(x + n * C + i), w_v = load<W>(w + i);
            for (int k = 0; k < W; k++) {
                const float xhat = (x_v[k] - row_mean) * row_rstd, g = dy_v[k] * w_v[k];
                g_sum += g;
                gx_sum += g * xhat;
                chunk_sums[i + k] += dy_v[k] * xhat;
                chunk_sums[C + i + k] += dy_v[k];
            }
        });
        const float g_mean = block_sum(g_sum) / float(C), gx_mean = block_sum(gx_sum) / float(C);
        each_vector([&](int64_t i) {
            const Floats<W> dy_v = load<W>(dy + n * C + i), x_v = load<W>(x + n * C + i), w_v = load<W>(w + i);
            Floats<W> dx_v = dx_into == Into::add ? load<W>(dx + n * C + i) : Floats<W>{};
            for (int k = 0; k < W; k++)
                dx_v[k] += layernorm_dx(dy_v[k] * w_v[k], x_v[k], row_mean, row_rstd, g_mean, gx_mean);
            store_dx<drops>(dx, dropped, n * C + i, dx_v, drop);
        });
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < 2 * C; i += blockDim.x) sums.of_chunks[blockIdx.x * 2 * C + i] = chunk_sums[i];
    add_chunks(sums, C);
}

template <class T>
static void layernorm_backward(Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Tensor mean, Tensor rstd,
                               Into into, Tensor dropped, const ElementMask& drop, Into dx_into, Queue& q) {
    const int64_t N = x.shape[0], C = x.shape[1];
    const int64_t chunk = backward_chunk(N), chunks = ceil_div(N, chunk);
    const RowSums sums{dw.data<float>(), db.data<float>(),
                       q.scratch<float>(layernorm_backward_cost(N, C, x.dtype).scratch), q.counters, into};
    const auto kernels = [&](auto width, auto drops) {
        const int64_t vectors = C / width, threads_of_1 = round_up(vectors, 32),
                      threads_of_2 = round_up(ceil_div(vectors, 2), 32);
        const auto run             = [&](auto kernel, const Grid& g, auto... more) {
            launch(kernel, g, q, dx.data<T>(), sums, dy.data<T>(), x.data<T>(), w.data<T>(), mean.data<float>(),
                               rstd.data<float>(), N, C, chunk, dropped.data_or_null<T>(), drop, dx_into, more...);
        };
        if (2 * threads_of_1 <= group_threads) {
            constexpr int R      = 2;
            const int64_t groups = std::clamp<int64_t>(chunk / R, 1, group_threads / threads_of_1);
            run(layernorm_backward_kernel<width, 1, R, drops, T>,
                {chunks, int(groups * threads_of_1),
                 groups * 2 * group_sums(width, int(threads_of_1)) * int64_t(sizeof(float))},
                int(threads_of_1));
        } else if (threads_of_1 <= backward_threads) {
            run(layernorm_backward_kernel<width, 1, 4, drops, T>, {chunks, int(threads_of_1)}, int(threads_of_1));
        } else if (threads_of_2 <= backward_threads) {
            // With two rows at a time the registers do not suffice for Philox.
            run(layernorm_backward_kernel < width, 2, drops ? 1 : 2, drops, T >, {chunks, int(threads_of_2)},
                int(threads_of_2));
        } else {
            run(layernorm_backward_wide_kernel<width, drops, T>,
                {chunks, backward_threads, 2 * C * int64_t(sizeof(float))});
        }
    };
    for_width<T>(C % wide<T> == 0 && aligned(dx.ptr, dy.ptr, x.ptr, w.ptr, dropped.ptr),
                 [&](auto width) { for_dropout(dropped.ptr, [&](auto drops) { kernels(width, drops); }); });
}

}  // namespace gpu
#endif

static void expect_rows(const char* op, Tensor x) {
    CHECK_CALL(x && x.shape.dims == 2 && x.shape[1] > 0, "{}: x is {}, expected (N, C)", op, x.str());
}
static void expect_second(const char* op, const SecondNorm& second, Tensor x) {
    if (!second.out) return;
    const auto expect_one = [&](Tensor t, const char* name, const Shape& shape) {
        expect_at(__FILE__, __LINE__, op, t, name, shape, x.dtype, x, "the input");
    };
    expect_one(second.out, "second.out", x.shape);
    expect_one(second.w, "second.w", {x.shape[1]});
    expect_one(second.b, "second.b", {x.shape[1]});
}

void layernorm_forward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b, float eps, Stream s,
                       const SecondNorm& second) {
    expect_rows(__func__, x);
    expect(y, x.shape, x.dtype, x);
    expect(mean, Shape({x.shape[0]}), DType::F32, x);
    expect(rstd, Shape({x.shape[0]}), DType::F32, x);
    expect(w, Shape({x.shape[1]}), x.dtype, x);
    expect(b, Shape({x.shape[1]}), x.dtype, x);
    expect_second(__func__, second, x);
    RUN_ON(s, x.dtype, layernorm_forward, y, mean, rstd, x, w, b, eps, second);
}

void add_layernorm_forward(Tensor sum, Tensor y, Tensor mean, Tensor rstd, Tensor a, const Addend& b, Tensor w,
                           Tensor bias, float eps, Stream s, const Addend& c, const SecondNorm& second) {
    expect_rows(__func__, a);
    expect(b.x, a.shape, a.dtype, a);
    expect_maybe(c.x, a.shape, a.dtype, a);
    expect(sum, a.shape, a.dtype, a);
    expect(y, a.shape, a.dtype, a);
    expect(mean, Shape({a.shape[0]}), DType::F32, a);
    expect(rstd, Shape({a.shape[0]}), DType::F32, a);
    expect(w, Shape({a.shape[1]}), a.dtype, a);
    expect(bias, Shape({a.shape[1]}), a.dtype, a);
    expect_second(__func__, second, a);
    const ElementMask mask_b = element_mask(__func__, b.drop, a);
    const ElementMask mask_c = c.x ? element_mask(__func__, c.drop, a) : ElementMask{};
    RUN_ON(s, a.dtype, add_layernorm_forward, sum, y, mean, rstd, a, b.x, w, bias, eps, mask_b, c.x, mask_c, second);
}

void layernorm_backward(Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Tensor mean, Tensor rstd,
                        Into into, Stream s, const Dropout& drop, Tensor dropped, Into dx_into) {
    expect_rows(__func__, x);
    expect(dx, x.shape, x.dtype, x);
    expect(dw, Shape({x.shape[1]}), DType::F32, x);
    expect(db, Shape({x.shape[1]}), DType::F32, x);
    expect(dy, x.shape, x.dtype, x);
    expect(w, Shape({x.shape[1]}), x.dtype, x);
    expect(mean, Shape({x.shape[0]}), DType::F32, x);
    expect(rstd, Shape({x.shape[0]}), DType::F32, x);
    const ElementMask mask = element_mask(__func__, drop, x);
    if (mask.step_at) expect(dropped, x.shape, x.dtype, x);
    if (!mask.step_at) dropped = {};
    RUN_ON(s, x.dtype, layernorm_backward, dx, dw, db, dy, x, w, mean, rstd, into, dropped, mask, dx_into);
}

Cost layernorm_forward_cost(int64_t N, int64_t C, DType x, int norms) {
    const double e = double(size_of(x));
    return {(1 + norms) * e * double(N * C) + 8. * double(N) + norms * 2 * e * double(C)};
}
Cost add_layernorm_forward_cost(int64_t N, int64_t C, DType x, int addends, int norms) {
    const double sums = double(1 + addends) * double(size_of(x)) * double(N * C);  // reads the addends, writes the sum
    return Cost{sums} + layernorm_forward_cost(N, C, x, norms);
}
Cost layernorm_backward_cost(int64_t N, int64_t C, DType x) {
    const double e = double(size_of(x));
    Cost cost{4 * e * double(N * C) + 8. * double(N) + (e + 8) * double(C)};
    cost.scratch = ceil_div(N, backward_chunk(N)) * 2 * C * size_of(DType::F32);  // dw and db of every chunk of rows
    return cost;
}
