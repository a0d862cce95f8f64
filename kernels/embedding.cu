// embedding.cu - token and position lookup
//
//   out[n] = wte[token[n]] + wpe[position[n]]        out (B,T,C), tokens (B,T), wte (Vp,C), wpe (maxT,C) or null
//   dwte[token[n]] += dout[n],  dwpe[position[n]] += dout[n]
//
//   If positions is null, position[n] is n mod T. Every id is checked before any memory is accessed with it.
#include "cpu.h"
#include "dropout.h"
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
static void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe,
                              const ElementMask& drop) {
    const Lookup lookup("embedding_forward", tokens, positions, wte, wpe);
    const int64_t C        = wte.shape[1];
    T* rows                = out.data<T>();
    const T* wte_at        = wte.data<T>();
    const T* wpe_at        = wpe.data_or_null<T>();
    const ElementMask mask = drop.step_at ? drop.of_step() : drop;
    parallel_ranges(tokens.numel(), 16, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; n++) {
            const T* token_row    = wte_at + lookup.token[n] * C;
            const T* position_row = wpe_at ? wpe_at + lookup.position_of(n) * C : nullptr;
            for_lanes(C, [=](int64_t i, auto k) {
                const floats token = load(token_row + i, k);
                store(rows + n * C + i, position_row ? token + load(position_row + i, k) : token, k);
            });
            if (drop.step_at) mask.apply(rows + n * C, rows + n * C, n * C, C);
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

// On a GPU, backward sorts the rows by id. 64 chunks of the list at most are sorted at once, and each block adds up a
// tile of the sorted list.
struct RowOfId {
    int32_t id, row;
};
constexpr int sort_values = 256, tile_rows = 16;
static int64_t sort_chunk(int64_t N) { return std::max<int64_t>(1024, round_up(ceil_div(N, 64), 1024)); }

#ifdef __CUDACC__
namespace gpu {

// A block computes 4 rows, after each of its threads has checked their ids. If one of them is bad, it computes none. A
// thread loads a vector of each of them before it adds and stores, so that 128 bytes of it are in flight.
constexpr int rows_at_once = 4;

template <int W, bool drops, class T>
static __global__ void embedding_forward_kernel(T* out, const int32_t* token, const int32_t* position, const T* wte,
                                                const T* wpe, int64_t N, uint32_t length, int C, BadId* bad,
                                                IdRule tokens, IdRule positions, ElementMask drop) {
    let_next_begin();
    if constexpr (drops) drop = drop.of_step();
    int64_t n[rows_at_once], token_row[rows_at_once], position_row[rows_at_once];
    bool good = true;
    for (int r = 0; r < rows_at_once; r++) {
        n[r]             = min(int64_t(blockIdx.x) * rows_at_once + r, N - 1);  // the last row may be written twice
        token_row[r]     = int64_t(token[n[r]]) * C;
        position_row[r]  = wpe ? int64_t(position ? position[n[r]] : uint32_t(n[r]) % length) * C : 0;
        const auto check = [&](const int32_t* ids, const IdRule& rule) {
            if (rule.allows(ids[n[r]])) return;
            if (threadIdx.x == 0) report(bad, ids[n[r]], n[r], rule);
            good = false;
        };
        check(token, tokens);
        if (wpe && position) check(position, positions);
    }
    if (!good) return;
    for (int i = threadIdx.x * W; i < C; i += blockDim.x * W) {
        Packed<W, T> of_token[rows_at_once], of_position[rows_at_once];
        for (int r = 0; r < rows_at_once; r++) {
            of_token[r] = load_packed<W>(wte + token_row[r] + i);
            if (wpe) of_position[r] = load_packed<W>(wpe + position_row[r] + i);
        }
        for (int r = 0; r < rows_at_once; r++) {
            Floats<W> v = unpack<W, T>(of_token[r]);
            if (wpe) {
                const Floats<W> p = unpack<W, T>(of_position[r]);
                for (int k = 0; k < W; k++) v[k] += p[k];
            }
            if constexpr (drops) v = drop.apply<W>(rounded<T>(v), n[r] * C + i);
            store(out + n[r] * C + i, v);
        }
    }
}

// The threads of a block, of which each has vectors of W columns.
static int threads_for(int64_t C, int W) { return int(std::min<int64_t>(round_up(C / W, 32), 256)); }

template <class T>
static void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe,
                              const ElementMask& drop, Queue& q) {
    const int64_t N = tokens.numel(), C = wte.shape[1];
    const char* op = "embedding_forward";
    for_width<T>(C % wide<T> == 0 && aligned(out.ptr, wte.ptr, wpe.ptr), [&](auto width) {
        for_dropout(drop.step_at, [&](auto drops) {
            launch(embedding_forward_kernel<width, drops, T>, {ceil_div(N, rows_at_once), threads_for(C, width)}, q,
                   out.data<T>(), tokens.data<int32_t>(), positions.data_or_null<int32_t>(), wte.data<T>(),
                   wpe.data_or_null<T>(), N, uint32_t(tokens.shape[1]), int(C), q.bad, token_rule(op, tokens, wte),
                   wpe && positions ? position_rule(op, positions, wpe) : IdRule(), drop);
        });
    });
    if (q.sync_each()) q.wait();
}

// Backward adds up the rows of dout that have the same id. First the rows are sorted by id with a stable sort, so that
// the rows of an id are consecutive, a run, and in order. Then the sums of runs are taken in tiles of the sorted list.
// So every sum has one owner and one order, and a token that is a twentieth of the text keeps no block busy alone.

// The sort is a radix sort by 8 bits of the id in each pass, from the lowest. Blocks own chunks of the list. In a pass
// count_kernel counts how often each value of the 8 bits occurs in each chunk, and scatter_kernel adds these counts up
// to where the rows of its chunk go.
constexpr int sort_threads = 1024, sort_warps = sort_threads / 32;

static __global__ void __launch_bounds__(sort_threads)
    count_kernel(int32_t* counts, const RowOfId* from, const int32_t* ids, int64_t N, int64_t chunk, int shift,
                 const BadId* bad) {
    __shared__ int32_t of_value[sort_values];
    if (!ready(bad)) return;
    const int thread = threadIdx.x;
    if (thread < sort_values) of_value[thread] = 0;
    __syncthreads();
    const int64_t begin = blockIdx.x * chunk, end = min(N, begin + chunk);
    for (int64_t i = begin + thread; i < end; i += sort_threads)
        atomicAdd(&of_value[(from ? from[i].id : ids[i]) >> shift & (sort_values - 1)], 1);
    __syncthreads();
    if (thread < sort_values) counts[blockIdx.x * sort_values + thread] = of_value[thread];
}

static __global__ void __launch_bounds__(sort_threads)
    scatter_kernel(RowOfId* to, const int32_t* counts, const RowOfId* from, const int32_t* ids, int64_t N,
                   int64_t chunk, int shift, const BadId* bad) {
    // place: where the next row with a value goes. of_warps: how often a value occurs among the 32 rows of a warp, and
    // then where the first of these rows goes.
    __shared__ int32_t place[sort_values], of_warps[sort_warps][sort_values];
    if (!ready(bad)) return;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;

    // place = the rows with smaller values, and those with this value in the chunks before. Four threads add for each
    // value, and of_warps holds their sums meanwhile.
    {
        constexpr int parts = sort_threads / sort_values;
        const int value = thread % sort_values, part = thread / sort_values;
        int before = 0, all = 0;
#pragma unroll 8
        for (int b = part; b < int(gridDim.x); b += parts) {
            const int count = counts[b * sort_values + value];
            before += b < int(blockIdx.x) ? count : 0;
            all += count;
        }
        of_warps[part][value]         = all;
        of_warps[parts + part][value] = before;
        __syncthreads();
        int sum = 0;
        if (thread < sort_values) {
            all = before = 0;
            for (int p = 0; p < parts; p++) {
                all += of_warps[p][value];
                before += of_warps[parts + p][value];
            }
            sum = all;  // over this value and the smaller ones of its warp
            for (int d = 1; d < 32; d *= 2) {
                const int left = __shfl_up_sync(~0u, sum, d);
                if (lane >= d) sum += left;
            }
            if (lane == 31) of_warps[2 * parts][warp] = sum;
        }
        __syncthreads();
        if (thread < sort_values) {
            for (int w = 0; w < warp; w++) sum += of_warps[2 * parts][w];
            place[value] = sum - all + before;
        }
        __syncthreads();
    }

    const int64_t begin = blockIdx.x * chunk, end = min(N, begin + chunk);
    for (int64_t first = begin; first < end; first += sort_threads) {
        const int64_t i    = first + thread;
        const bool has_row = i < end;
        RowOfId row{0, 0};
        if (has_row) row = from ? from[i] : RowOfId{ids[i], int32_t(i)};
        const int value = row.id >> shift & (sort_values - 1);
        unsigned peers  = __ballot_sync(~0u, has_row);  // the lanes whose rows have the same value
        for (int bit = 1; bit < sort_values; bit *= 2) {
            const unsigned set = __ballot_sync(~0u, value & bit);
            peers &= value & bit ? set : ~set;
        }
        const unsigned earlier = peers & ((1u << lane) - 1);
        for (int v = lane; v < sort_values; v += 32) of_warps[warp][v] = 0;
        __syncwarp();
        if (has_row && !earlier) of_warps[warp][value] = __popc(peers);
        __syncthreads();
        if (thread < sort_values) {
            int next = place[thread];
            for (int w = 0; w < sort_warps; w++) {
                const int count     = of_warps[w][thread];
                of_warps[w][thread] = next;
                next += count;
            }
            place[thread] = next;
        }
        __syncthreads();
        if (has_row) to[of_warps[warp][value] + __popc(earlier)] = row;
        __syncwarp();  // before the warp sets its counts to 0 again
    }
}

// There is a block for each (tile, slab): a slab is a range of columns. It adds the runs that begin in its tile to the
// table. The end of a run that began in a tile before is written to `heads`.
template <int W, class T>
static __global__ void add_runs_kernel(float* table, float* heads, const T* dout, const RowOfId* sorted, int64_t N,
                                       int C, int slabs, const BadId* bad) {
    const int64_t tile = blockIdx.x / slabs, first = tile * tile_rows, end = min(N, first + tile_rows);
    const int column = (int(blockIdx.x) % slabs * int(blockDim.x) + int(threadIdx.x)) * W;
    if (!ready(bad) || column >= C) return;
    table += column;
    dout += column;
    constexpr int at_once = 4;  // rows that are in flight together
    int32_t id            = first ? sorted[first - 1].id : -1;
    float* to             = sorted[first].id == id ? heads + tile * C + column : nullptr;
    Floats<W> sum         = {};
    for (int64_t i = first; i < end; i += at_once) {
        bool begins[at_once];
        float* of_run[at_once];
        Packed<W, T> row[at_once];
        Floats<W> before[at_once];
        for (int k = 0; k < at_once; k++) {
            const RowOfId next = sorted[min(i + k, end - 1)];
            begins[k]          = next.id != id;
            id                 = next.id;
            of_run[k]          = table + int64_t(id) * C;
            row[k]             = load_packed<W>(dout + int64_t(next.row) * C);
            if (begins[k]) before[k] = load<W>(of_run[k]);
        }
        for (int k = 0; k < at_once && i + k < end; k++) {
            if (begins[k]) {
                if (to) store(to, sum);
                to  = of_run[k];
                sum = before[k];
            }
            const Floats<W> v = unpack<W, T>(row[k]);
            for (int e = 0; e < W; e++) sum[e] += v[e];
        }
    }
    store(to, sum);
}

// to += rows[0] + rows[stride] + …, `count` rows. 8 rows are loaded at a time, and added in order.
template <int W, class T>
static __device__ void add_rows(float* to, const T* rows, int64_t stride, int count) {
    constexpr int at_once = 8;
    Floats<W> sum         = load<W>(to);
    for (int j = 0; j < count; j += at_once) {
        Packed<W, T> row[at_once];
        for (int k = 0; k < at_once; k++)
            if (j + k < count) row[k] = load_packed<W>(rows + (j + k) * stride);
        for (int k = 0; k < at_once && j + k < count; k++) {
            const Floats<W> v = unpack<W, T>(row[k]);
            for (int e = 0; e < W; e++) sum[e] += v[e];
        }
    }
    store(to, sum);
}

// There is a block for each (tile, slab). That of the first tile after the one in which a run began adds the rest of
// the run, from `heads`.
template <int W>
static __global__ void add_heads_kernel(float* table, const float* heads, const RowOfId* sorted, int64_t N, int C,
                                        int slabs, const BadId* bad) {
    const int64_t tile = blockIdx.x / slabs + 1, first = tile * tile_rows;
    const int column = (int(blockIdx.x) % slabs * int(blockDim.x) + int(threadIdx.x)) * W;
    if (!ready(bad) || column >= C) return;
    const int32_t id = sorted[first].id;
    if (sorted[first - 1].id != id || (tile > 1 && sorted[first - tile_rows - 1].id == id)) return;
    int tiles = 1;
    while (first + tiles * tile_rows < N && sorted[first + tiles * tile_rows].id == id) tiles++;
    add_rows<W>(table + int64_t(id) * C + column, heads + tile * C + column, C, tiles);
}

// There is a block for each (t, slab). It serves positions that are 0..T-1 in each sequence.
template <int W, class T>
static __global__ void add_by_time_kernel(float* table, const T* dout, int B, int64_t length, int C, int slabs,
                                          const BadId* bad) {
    const int64_t t  = blockIdx.x / slabs;
    const int column = (int(blockIdx.x) % slabs * int(blockDim.x) + int(threadIdx.x)) * W;
    if (!ready(bad) || column >= C) return;
    add_rows<W>(table + t * C + column, dout + t * C + column, length * C, B);
}

template <class T>
static void embedding_backward(Tensor dwte, Tensor dwpe, Tensor dout, Tensor tokens, Tensor positions, Queue& q) {
    q.expect_ids(tokens, token_rule("embedding_backward", tokens, dwte));
    if (dwpe && positions) q.expect_ids(positions, position_rule("embedding_backward", positions, dwpe));
    const int64_t B = tokens.shape[0], length = tokens.shape[1], N = B * length, C = dwte.shape[1];
    const int64_t chunk = sort_chunk(N), chunks = ceil_div(N, chunk), tiles = ceil_div(N, tile_rows);
    const T* rows         = dout.data<T>();
    float* const heads    = q.scratch<float>(embedding_backward_cost(B, length, C, dout.dtype).scratch);
    RowOfId* const lists  = reinterpret_cast<RowOfId*>(heads + round_up(tiles * C, 2));
    int32_t* const counts = reinterpret_cast<int32_t*>(lists + 2 * N);
    for_width<T>(C % wide<T> == 0 && aligned(rows, dwte.ptr, dwpe.ptr), [&](auto width) {
        const int threads = threads_for(C, width), slabs = int(ceil_div(C / width, threads));
        const auto by_id = [&](Tensor table, Tensor ids) {
            const RowOfId* from = nullptr;
            RowOfId* to         = lists;
            for (int shift = 0; shift == 0 || table.shape[0] - 1 >> shift; shift += 8) {
                launch(count_kernel, {chunks, sort_threads}, q, counts, from, ids.data<int32_t>(), N, chunk, shift,
                       q.bad);
                launch(scatter_kernel, {chunks, sort_threads}, q, to, counts, from, ids.data<int32_t>(), N, chunk,
                       shift, q.bad);
                from = to;
                to   = from == lists ? lists + N : lists;
            }
            launch(add_runs_kernel<width, T>, {tiles * slabs, threads}, q, table.data<float>(), heads, rows, from, N, C,
                   slabs, q.bad);
            constexpr int four  = width < 4 ? 1 : 4;  // 16 bytes of fp32
            const int of_heads  = threads_for(C, four);
            const int64_t parts = ceil_div(C / four, of_heads);
            launch(add_heads_kernel<four>, {std::max<int64_t>(tiles - 1, 0) * parts, of_heads}, q, table.data<float>(),
                   heads, from, N, C, int(parts), q.bad);
        };
        by_id(dwte, tokens);
        if (dwpe && positions)
            by_id(dwpe, positions);
        else if (dwpe)
            launch(add_by_time_kernel<width, T>, {length * slabs, threads}, q, dwpe.data<float>(), rows, B, length, C,
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

void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe, Stream s,
                       const Dropout& drop) {
    expect_lookup(__func__, tokens, positions, wte, wpe);
    expect(out, Shape({tokens.shape[0], tokens.shape[1], wte.shape[1]}), wte.dtype, wte);
    const ElementMask mask = element_mask(__func__, drop, out);
    RUN_ON(s, out.dtype, embedding_forward, out, tokens, positions, wte, wpe, mask);
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
    // The heads of the tiles, two lists of rows, and the counts of each chunk.
    const int64_t N = B * T, heads = round_up(ceil_div(N, tile_rows) * C, 2), chunks = ceil_div(N, sort_chunk(N));
    cost.scratch = 4 * heads + 2 * N * int64_t(sizeof(RowOfId)) + 4 * chunks * sort_values;
    return cost;
}
