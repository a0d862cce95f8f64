// matmul_few_rows.cuh - the product of a few rows with a large weight on a GPU, for generation
//
//   out (N,OC) = x (N,IC) wᵀ (IC,OC) + b for N <= few_rows. x may go through a layernorm before, out through gelu, and
//   out may be added to the residual stream.
//
// Each weight is read once, and that is the whole cost. A weight of GPT-2 124M has 1.2 to 4.7 MB, and an H100 moves 2
// MB during the latency of one load. So many loads must be in flight: a warp computes one output at a time, and a lane
// has issued four loads of 16 bytes before it uses the first. Where rows of w are long, the four warps of a block
// share an output. The order of an output's sum depends on IC alone, so a row gets the same bits whatever rows are
// beside it.
//
// Every block computes the layernorm of all rows for itself, in shared memory. A launch of its own would take longer
// than these 1.5 KB a row from the L2 cache.
//
// A lane loads its next weights as soon as it has used those before: the first ones before the kernels in front of this
// one have ended, the others before it adds up the sums of its warp. Each weight of a block of GPT-2 124M fits into the
// registers of an H100: 4 loads of 16 bytes in the 101,000 threads of 6 blocks on each multiprocessor are 6.5 MB.
#pragma once
#include <climits>
#include <optional>

#include "gelu.h"
#include "normalise_row.cuh"
#include "ops.h"

namespace gpu {

constexpr int few_rows_warps         = 4;
constexpr int64_t few_rows_grid      = 2048;      // blocks; with more outputs, a warp computes several
constexpr int64_t few_rows_norm_room = 48 << 10;  // bytes of shared memory for normalised rows

// What a product of few rows does beside the product.
template <class T>
struct FewRowsExtras {
    const T *norm_w, *norm_b;  // null: x is not normalised
    float eps;
    bool has_gelu;
    Gelu gelu;
    const T* residual;  // null: nothing is added
};

// The blocks that share a multiprocessor, which leave 64 to 96 registers to a thread.
template <int R, bool normalises, class T>
constexpr int few_rows_blocks = R > 4 || (normalises && sizeof(T) == 4) ? 5
                                : normalises                            ? 6
                                : R > 2                                 ? 7
                                                                        : 8;

// R is N, rounded up; rows past the end repeat the last one. `sharers` warps share an output.
template <int W, int R, int sharers, bool normalises, class T>
static __global__ void __launch_bounds__(32 * few_rows_warps, few_rows_blocks<R, normalises, T>)
    few_rows_kernel(T* out, const T* x, const T* w, const T* b, int N, int IC, int64_t OC, FewRowsExtras<T> also) {
    constexpr int outputs = few_rows_warps / sharers, loads = 4, stride = 32 * W * sharers;
    extern __shared__ uint4 normalised[];
    __shared__ float of_warp[few_rows_warps][R];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, begin = (warp % sharers * 32 + lane) * W;
    const int64_t step = int64_t(gridDim.x) * outputs;
    int64_t o          = int64_t(blockIdx.x) * outputs + warp / sharers;

    Packed<W, T> weights[loads];
    const auto fetch = [&](int64_t output, int first) {
#pragma unroll
        for (int u = 0; u < loads; u++)
            if (output < OC && first + u * stride < IC)
                weights[u] = load_packed<W>(w + output * IC + first + u * stride);
    };
    let_next_begin();
    fetch(o, begin);
    if (b && lane == 0 && o < OC) prefetch(b + o);
    if constexpr (normalises)
        for (int i = threadIdx.x * 128 / int(sizeof(T)); i < IC; i += blockDim.x * 128 / int(sizeof(T))) {
            prefetch(also.norm_w + i);
            prefetch(also.norm_b + i);
        }
    wait_for_kernels();

    if constexpr (normalises) {
        T* const rows = reinterpret_cast<T*>(normalised);
        for (int r = warp; r < N; r += few_rows_warps) {
            T* const row = rows + r * IC;
            for (int i = lane * W; i < IC; i += 32 * W)
                *reinterpret_cast<Packed<W, T>*>(row + i) = load_packed<W>(x + int64_t(r) * IC + i);
            scale_and_shift<W>(row, row, mean_and_rstd<W>(row, also.eps, IC), also.norm_w, also.norm_b, IC);
        }
        __syncthreads();
        x = rows;
    }
    // So many vectors of x are on their way at once. Normalised rows lie in shared memory.
    constexpr int ahead = normalises || R > 1 ? 1 : loads;
    for (; o < OC; o += step) {
        const bool writes = lane < N && (sharers == 1 || warp == 0);
        const float bias  = writes && b ? float(b[o]) : 0.f,
                    base  = writes && also.residual ? float(also.residual[lane * OC + o]) : 0.f;
        float sums[R]     = {};
        for (int first = begin; first < IC;) {
#pragma unroll
            for (int u = 0; u < loads; u += ahead) {
                Packed<W, T> of_x[ahead][R];
#pragma unroll
                for (int a = 0; a < ahead; a++)
#pragma unroll
                    for (int r = 0; r < R; r++)
                        if (const int i = first + (u + a) * stride; i < IC)
                            of_x[a][r] = load_packed<W>(x + int64_t(min(r, N - 1)) * IC + i);
#pragma unroll
                for (int a = 0; a < ahead; a++) {
                    if (first + (u + a) * stride >= IC) continue;
                    const Floats<W> weight = unpack<W, T>(weights[u + a]);
#pragma unroll
                    for (int r = 0; r < R; r++) {
                        const Floats<W> v = unpack<W, T>(of_x[a][r]);
                        for (int k = 0; k < W; k++) sums[r] = fmaf(v[k], weight[k], sums[r]);
                    }
                }
            }
            first += loads * stride;
            const bool same_output = first < IC;
            fetch(same_output ? o : o + step, same_output ? first : begin);
        }
        float mine = 0;  // of row `lane`
#pragma unroll
        for (int r = 0; r < R; r++) {
            sums[r] = warp_sum(sums[r]);
            if (lane == r) mine = sums[r];
        }
        if constexpr (sharers > 1) {
            __syncthreads();  // the output before has been read
            if (lane < R) of_warp[warp][lane] = mine;
            __syncthreads();
            if (!writes) continue;
            mine = 0;
            for (int i = 0; i < few_rows_warps; i++) mine += of_warp[i][lane];
        }
        if (!writes) continue;
        if (b) mine += bias;
        if (also.has_gelu) mine = also.gelu == Gelu::tanh ? gelu<Gelu::tanh>(mine) : gelu<Gelu::erf>(mine);
        if (also.residual) mine = base + float(T(mine));
        out[lane * OC + o] = T(mine);
    }
}

// Computes the product, or does nothing and returns false where x has more rows, or where they do not fit into a
// block's shared memory to be normalised. norm: null, or with its weights.
template <class T>
static bool few_rows_forward(Tensor out, Tensor x, Tensor w, Tensor b, const Norm& norm, float eps,
                             std::optional<Gelu> kind, Tensor residual, Queue& q) {
    const int64_t N = x.shape[0], IC = x.shape[1], OC = w.shape[0];
    if (N > few_rows || IC > INT_MAX / 2) return false;
    const int64_t room = norm.w ? N * IC * int64_t(sizeof(T)) : 0;
    if (room > few_rows_norm_room) return false;
    const FewRowsExtras<T> also = {norm.w.data_or_null<T>(), norm.b.data_or_null<T>(),  eps,
                                   kind.has_value(),         kind.value_or(Gelu::tanh), residual.data_or_null<T>()};
    for_width<T>(IC % wide<T> == 0 && aligned(x.ptr, w.ptr, norm.w.ptr, norm.b.ptr), [&](auto width) {
        const auto run = [&](auto rows, auto sharers) {
            const int64_t blocks = std::min(few_rows_grid, ceil_div(OC * sharers, few_rows_warps));
            const auto kernel    = norm.w ? few_rows_kernel<width, rows, sharers, true, T>
                                          : few_rows_kernel<width, rows, sharers, false, T>;
            launch_early(kernel, {blocks, 32 * few_rows_warps, room}, q, out.data<T>(), x.data<T>(), w.data<T>(),
                         b.data_or_null<T>(), int(N), int(IC), OC, also);
        };
        const auto run_rows = [&](auto rows) {  // a lane has 8 loads or more of a long row
            if (IC >= 8 * 32 * width)
                run(rows, Constant<few_rows_warps>{});
            else
                run(rows, Constant<1>{});
        };
        if (N <= 1)
            run_rows(Constant<1>{});
        else if (N <= 2)
            run_rows(Constant<2>{});
        else if (N <= 4)
            run_rows(Constant<4>{});
        else
            run_rows(Constant<8>{});
    });
    return true;
}

}  // namespace gpu
