// embedding.cu - token and position lookup
//
//   out[n] = wte[token[n]] + wpe[position[n]]        out (B,T,C), tokens (B,T), wte (Vp,C), wpe (maxT,C) or null
//   dwte[token[n]] += dout[n],  dwpe[position[n]] += dout[n]
//
//   If positions is null, position[n] is n mod T. Every id is checked before any memory is accessed with it.
#include "cpu.h"
#include "ids.h"
#include "ops.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

// Tokens index the rows of wte. Positions, if they are given, index the rows of wpe.
static IdRule token_rule(const char* op, Tensor tokens, Tensor wte) { return {op, "token", tokens, 0, wte.shape[0]}; }
static IdRule position_rule(const char* op, Tensor positions, Tensor wpe) {
    return {op, "position", positions, 0, wpe.shape[0]};
}

namespace cpu {

// Says which rows of the two tables row n of the output reads.
struct Lookup {
    const int32_t* token;
    const int32_t* position;  // null: n mod T
    int64_t T;
    Lookup(const char* op, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe)
        : token(tokens.data<int32_t>()), position(positions.data_or_null<int32_t>()), T(tokens.shape[-1]) {
        expect_ids(tokens, token_rule(op, tokens, wte));
        if (wpe && positions) expect_ids(positions, position_rule(op, positions, wpe));
    }
    int64_t position_of(int64_t n) const { return position ? position[n] : n % T; }
};

template <class T>
static void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe) {
    const Lookup lookup("embedding_forward", tokens, positions, wte, wpe);
    const int64_t C = wte.shape[1];
    T* rows         = out.data<T>();
    const T* wte_at = wte.data<T>();
    const T* wpe_at = wpe.data_or_null<T>();
    parallel_ranges(tokens.numel(), 16, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; n++) {
            const T* token_row    = wte_at + lookup.token[n] * C;
            const T* position_row = wpe_at ? wpe_at + lookup.position_of(n) * C : nullptr;
            for_lanes(C, [=](int64_t i, auto k) {
                const floats token = load(token_row + i, k);
                store(rows + n * C + i, position_row ? token + load(position_row + i, k) : token, k);
            });
        }
    });
}

// Threads own columns, not rows. Each visits all rows in order and adds its columns, so a token that occurs twice needs
// neither atomics nor sorting, and every sum has one order.
template <class T>
static void embedding_backward(Tensor dwte, Tensor dwpe, Tensor dout, Tensor tokens, Tensor positions) {
    const Lookup lookup("embedding_backward", tokens, positions, dwte, dwpe);
    const int64_t N = tokens.numel(), C = dwte.shape[1];
    const T* rows = dout.data<T>();
    float* wte_at = dwte.data<float>();
    float* wpe_at = dwpe.data_or_null<float>();
    parallel_ranges(ceil_div(C, lanes), 4, [=](int64_t begin, int64_t end) {
        const int64_t first = begin * lanes, count = std::min(end * lanes, C) - first;
        for (int64_t n = 0; n < N; n++) {
            const T* row        = rows + n * C + first;
            float* token_row    = wte_at + lookup.token[n] * C + first;
            float* position_row = wpe_at ? wpe_at + lookup.position_of(n) * C + first : nullptr;
            for_lanes(count, [=](int64_t i, auto k) {
                const floats d = load(row + i, k);
                store(token_row + i, load(token_row + i, k) + d, k);
                if (position_row) store(position_row + i, load(position_row + i, k) + d, k);
            });
        }
    });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

static void expect_ids(const char* op, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe, Queue& q) {
    q.expect_ids(tokens, token_rule(op, tokens, wte));
    if (wpe && positions) q.expect_ids(positions, position_rule(op, positions, wpe));
}

// Each warp computes one row.
template <int W, class T>
static __global__ void embedding_forward_kernel(T* out, const int32_t* token, const int32_t* position, const T* wte,
                                                const T* wpe, int64_t N, int64_t length, int64_t C, const BadId* bad) {
    const int64_t n = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
    if (n >= N || !ready(bad)) return;
    const T* token_row    = wte + token[n] * C;
    const T* position_row = wpe ? wpe + (position ? position[n] : n % length) * C : nullptr;
    for (int64_t i = threadIdx.x % 32 * W; i < C; i += 32 * W) {
        Floats<W> v = load<W>(token_row + i);
        if (position_row) {
            const Floats<W> p = load<W>(position_row + i);
            for (int k = 0; k < W; k++) v[k] += p[k];
        }
        store(out + n * C + i, v);
    }
}

template <class T>
static void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe, Queue& q) {
    expect_ids("embedding_forward", tokens, positions, wte, wpe, q);
    const int64_t N = tokens.numel(), C = wte.shape[1];
    for_width<T>(C % wide<T> == 0 && aligned(out.ptr, wte.ptr, wpe.ptr), [&](auto width) {
        launch(embedding_forward_kernel<width, T>, {ceil_div(N, 4), 128}, q, out.data<T>(), tokens.data<int32_t>(),
               positions.data_or_null<int32_t>(), wte.data<T>(), wpe.data_or_null<T>(), N, tokens.shape[1], C, q.bad);
    });
}

// Backward adds up the rows of dout that have the same token. First their indices are sorted by token with a stable
// sort, so that the rows of a token are consecutive and in order. Then one block per token adds its rows. So every sum
// has one owner and one order.

// Writes 0..N-1, sorted by ids[n], to `order`: a radix sort by 8 bits of the id in each pass. It is one block, and each
// of its 32 warps owns a chunk of the list. A warp counts how often each value of the 8 bits occurs in its chunk, and
// running sums of these counts say where its rows go. On an H100, 32768 ids took 151 us (2026-11-26).
constexpr int sort_warps = 32, sort_values = 256;
static __global__ void __launch_bounds__(32 * sort_warps)
    sort_kernel(int32_t* order, int32_t* other, const int32_t* ids, int64_t N, int passes, const BadId* bad) {
    __shared__ int counts[sort_warps][sort_values], totals[sort_warps];
    if (!ready(bad)) return;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int64_t chunk = ceil_div(N, 32 * sort_warps) * 32;
    const int64_t begin = warp * chunk, end = min(N, begin + chunk);

    for (int pass = 0; pass < passes; pass++) {
        int32_t* const to         = (passes - pass) % 2 ? order : other;  // the last pass ends in order
        const int32_t* const from = to == order ? other : order;
        // Calls f(row, value, peers) for the rows of the warp's chunk, one row in each lane, and counts the values.
        // `peers` is the set of lanes that have the same value.
        const auto each_row       = [&](auto f) {
            for (int64_t i = begin + lane; i - lane < end; i += 32) {
                const bool has_row = i < end;
                const int32_t row  = !has_row ? 0 : pass ? from[i] : int32_t(i);
                const int value    = has_row ? ids[row] >> (8 * pass) & (sort_values - 1) : 0;
                unsigned peers     = __ballot_sync(~0u, has_row);
                for (int bit = 1; bit < sort_values; bit *= 2) {
                    const unsigned set = __ballot_sync(~0u, value & bit);
                    peers &= value & bit ? set : ~set;
                }
                if (has_row) f(row, value, peers);
                __syncwarp();
                if (has_row && lane == __ffs(int(peers)) - 1) counts[warp][value] += __popc(peers);
                __syncwarp();
            }
        };
        for (int v = lane; v < sort_values; v += 32) counts[warp][v] = 0;
        __syncwarp();
        each_row([](int32_t, int, unsigned) {});
        __syncthreads();

        // Each count becomes the index of its first row in the sorted list: the sum of all counts of smaller values,
        // and of this value in the warps before. A thread handles one value in 8 warps.
        constexpr int per_thread = sort_warps * sort_values / (32 * sort_warps), groups = sort_warps / per_thread;
        const int value = thread / groups, first = thread % groups * per_thread;
        int sum = 0;
        for (int w = first; w < first + per_thread; w++) sum += counts[w][value];
        int index = sum;  // the sum over this thread and all before it
        for (int d = 1; d < 32; d *= 2) {
            const int left = __shfl_up_sync(~0u, index, d);
            if (lane >= d) index += left;
        }
        if (lane == 31) totals[warp] = index;
        __syncthreads();
        for (int w = 0; w < warp; w++) index += totals[w];
        index -= sum;
        for (int w = first; w < first + per_thread; w++) {
            const int count  = counts[w][value];
            counts[w][value] = index;
            index += count;
        }
        __syncthreads();

        each_row([&](int32_t row, int value, unsigned peers) {
            to[counts[warp][value] + __popc(peers & ((1u << lane) - 1))] = row;
        });
        __syncthreads();
    }
}

// to += rows[row_of(0)] + rows[row_of(1)] + … until row_of returns -1. 8 rows are loaded at a time, and added in order.
template <int W, class T, class RowOf>
static __device__ void add_rows(float* to, const T* rows, int64_t C, RowOf row_of) {
    Floats<W> sum = load<W>(to);
    bool more     = true;
    for (int64_t j = 0; more; j += 8) {
        int64_t row[8];
        Floats<W> v[8] = {};
        for (int k = 0; k < 8; k++) {
            row[k] = more ? row_of(j + k) : -1;
            more   = row[k] >= 0;
        }
        for (int k = 0; k < 8; k++)
            if (row[k] >= 0) v[k] = load<W>(rows + row[k] * C);
        for (int k = 0; k < 8; k++)
            for (int e = 0; e < W && row[k] >= 0; e++) sum[e] += v[k][e];
    }
    store(to, sum);
}

// There is a block for each (i, slab), where a slab is a range of columns. The block of the first i with an id adds to
// the table row of that id.
template <int W, class T>
static __global__ void add_by_id_kernel(float* table, const T* dout, const int32_t* order, const int32_t* ids,
                                        int64_t N, int64_t C, int slabs, const BadId* bad) {
    const int64_t i = blockIdx.x / slabs, column = (blockIdx.x % slabs * int64_t(blockDim.x) + threadIdx.x) * W;
    if (!ready(bad) || column >= C) return;
    const int32_t id = ids[order[i]];
    if (i > 0 && ids[order[i - 1]] == id) return;
    add_rows<W>(table + id * C + column, dout + column, C, [=](int64_t j) -> int64_t {
        const int32_t row = i + j < N ? order[i + j] : -1;
        return row >= 0 && ids[row] == id ? row : -1;
    });
}

// There is a block for each (t, slab). It serves positions that are 0..T-1 in each sequence.
template <int W, class T>
static __global__ void add_by_time_kernel(float* table, const T* dout, int64_t N, int64_t length, int64_t C, int slabs,
                                          const BadId* bad) {
    const int64_t t = blockIdx.x / slabs, column = (blockIdx.x % slabs * int64_t(blockDim.x) + threadIdx.x) * W;
    if (!ready(bad) || column >= C) return;
    add_rows<W>(table + t * C + column, dout + column, C,
                [=](int64_t j) -> int64_t { return t + j * length < N ? t + j * length : -1; });
}

template <class T>
static void embedding_backward(Tensor dwte, Tensor dwpe, Tensor dout, Tensor tokens, Tensor positions, Queue& q) {
    expect_ids("embedding_backward", tokens, positions, dwte, dwpe, q);
    const int64_t N = tokens.numel(), C = dwte.shape[1], length = tokens.shape[1];
    const T* rows        = dout.data<T>();
    int32_t* const order = q.scratch<int32_t>(embedding_backward_cost(tokens.shape[0], length, C, dout.dtype).scratch);
    // A thread has 4 columns: 16 bytes of the fp32 table, and 8 or 16 of a row.
    for_width<float>(C % 4 == 0 && aligned(rows, dwte.ptr, dwpe.ptr), [&](auto width) {
        const int threads = int(std::min<int64_t>(round_up(C / width, 32), 256));
        const int slabs   = int(ceil_div(C / width, threads));
        const auto by_id  = [&](Tensor table, Tensor ids) {
            int passes = 1;
            while (table.shape[0] - 1 >> 8 * passes) passes++;
            launch(sort_kernel, {1, 32 * sort_warps}, q, order, order + N, ids.data<int32_t>(), N, passes, q.bad);
            launch(add_by_id_kernel<width, T>, {N * slabs, threads}, q, table.data<float>(), rows, order,
                    ids.data<int32_t>(), N, C, slabs, q.bad);
        };
        by_id(dwte, tokens);
        if (dwpe && positions)
            by_id(dwpe, positions);
        else if (dwpe)
            launch(add_by_time_kernel<width, T>, {length * slabs, threads}, q, dwpe.data<float>(), rows, N, length, C,
                   slabs, q.bad);
    });
}

}  // namespace gpu
#endif

static void expect_lookup(const char* op, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe) {
    CHECK_CALL(tokens && tokens.shape.dims == 2 && tokens.dtype == DType::I32,
               "{}: tokens is {}, expected (B, T) int32", op, tokens.str());
    CHECK_CALL(wte && wte.shape.dims == 2, "{}: the token table is {}, expected (Vp, C)", op, wte.str());
    const int64_t C = wte.shape[1], T = tokens.shape[1];
    CHECK_CALL(!wpe || (wpe.shape.dims == 2 && wpe.shape[1] == C && wpe.dtype == wte.dtype),
               "{}: the position table is {}, expected (maxT, {}) {} because the token table is {}", op, wpe.str(), C,
               name_of(wte.dtype), wte.str());
    CHECK_CALL(!wpe || positions || T <= wpe.shape[0], "{}: tokens has {} columns, but the position table is {}", op, T,
               wpe.str());
    CHECK_CALL(!positions || (positions.shape == tokens.shape && positions.dtype == DType::I32),
               "{}: positions is {}, expected {} int32 because tokens is {}", op, positions.str(), tokens.shape.str(),
               tokens.str());
}

void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe, Stream s) {
    expect_lookup(__func__, tokens, positions, wte, wpe);
    expect(out, Shape({tokens.shape[0], tokens.shape[1], wte.shape[1]}), wte.dtype, wte);
    RUN_ON(s, out.dtype, embedding_forward, out, tokens, positions, wte, wpe);
}

void embedding_backward(Tensor dwte, Tensor dwpe, Tensor dout, Tensor tokens, Tensor positions, Stream s) {
    expect_lookup(__func__, tokens, positions, dwte, dwpe);
    expect_dtype(dwte, DType::F32);
    expect(dout, Shape({tokens.shape[0], tokens.shape[1], dwte.shape[1]}), dout.dtype, dwte);
    RUN_ON(s, dout.dtype, embedding_backward, dwte, dwpe, dout, tokens, positions);
}

Cost embedding_forward_cost(int64_t B, int64_t T, int64_t C, DType x) {
    const double rows = double(B * T * C), e = double(size_of(x));
    return {2 * e * rows + e * double(T * C) + 4. * double(B * T)};
}
// A row of dwte is read and written for each token, and a row of dwpe for each position 0..T-1.
Cost embedding_backward_cost(int64_t B, int64_t T, int64_t C, DType x) {
    const double rows = double(B * T * C), e = double(size_of(x));
    Cost cost{(e + 8) * rows + 8. * double(T * C) + 4. * double(B * T)};
    cost.scratch = 2 * B * T * size_of(DType::I32);  // two lists of rows, to sort them by token
    return cost;
}
