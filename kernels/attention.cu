// attention.cu - causal attention that never holds a T×T matrix
//
//   s_ts = scale q_t·k_s,   p_ts = exp(s_ts - lse_t),   lse_t = log Σ_s exp s_ts,   out_t = Σ_s p_ts v_s
//   Query t sees the keys s with max(start_t, t - window + 1) <= s <= t.
//
//   forward   The keys are streamed in tiles. Each query keeps its running maximum m, the sum l of exp(s - m), and the
//             sum acc of exp(s - m) v. When a tile raises m, l and acc are rescaled by exp(m_old - m_new): the online
//             softmax. In the end out = acc / l and lse = m + log l.
//   backward  p is recomputed from lse, tile by tile. With δ_t = dout_t·out_t and ds_ts = p_ts (dout_t·v_s - δ_t):
//             dv_s = Σ_t p_ts dout_t,   dq_t = scale Σ_s ds_ts k_s,   dk_s = scale Σ_t ds_ts q_t
//   dropout   Training may drop probabilities (dropout.h). With m_ts = 0 or 1 / (1 - rate), out_t = Σ_s m_ts p_ts v_s,
//             ds_ts = p_ts (m_ts dout_t·v_s - δ_t) and dv_s = Σ_t m_ts p_ts dout_t; lse and δ are as above. The masks
//             are computed again wherever they are needed, and never stored.
//   decoding  One new query per sequence reads its whole cache. Memory bandwidth is everything, so there is one pass.
//
// Storage is in the tensors' dtype, arithmetic in fp32. The CPU half is in this file and, over a cache, in
// attention_cached.h. The CUDA half is in attention_gpu.cuh.
//
// On the CPU, a panel of 32 queries is multiplied with tiles of 64 keys. The queries lie in the lanes of vectors:
// scores are stored as Sᵀ (keys, queries), so that the maxima, sums and rescaling of a query never cross lanes. All
// products are one function, product(), on fp32 tiles padded with zeros. A NaN or infinity in k or v reaches every
// query of a panel that its tile is multiplied with.
#include <algorithm>
#include <cfloat>
#include <climits>
#include <memory>
#include <vector>

#include "attention_mask.h"
#include "cpu.h"
#include "dropout.h"
#include "ids.h"
#include "ops.h"

// The rows of a cache that new keys and values may be written to. Both halves check positions by this rule.
static IdRule position_rule(Tensor positions, int64_t S) { return {"attention_cached", "position", positions, 0, S}; }

namespace cpu {

constexpr int64_t queries = 32;  // a panel has this many: one per lane of a few vectors
constexpr int64_t keys    = 64;  // a tile has this many: with D = 64, they and the panel's scores fit into 32 KB of L1
constexpr int64_t max_D   = 256;

// ---- the product that all time goes into ----------------------------------------------------------------------------

// The block of c that is summed in registers, in rows × vectors. AVX-512 has 32 registers, so there it is 16 sums,
// which hide the latency of the multiply-add and use each loaded value 2 or 8 times. Elsewhere 8 sums fit.
#ifdef __AVX512F__
constexpr int block_rows = 8;
#else
constexpr int block_rows = 4;
#endif
constexpr int block_wide = 2;

// A matrix of floats: element (i,j) is p[i · row_stride + j · column_stride].
struct Matrix {
    const float* p;
    int64_t row_stride, column_stride;
    Matrix transposed() const { return {p, column_stride, row_stride}; }
};

// One block: c[i][j] = or += Σ_k a(i,k) b[k][j], for `wide` vectors j. Rows of b and c have stride N.
template <int wide>
inline void product_block(float* c, int64_t N, int64_t K, Matrix a, const float* b, Into into) {
    floats acc[block_rows][wide];
    for (int i = 0; i < block_rows; i++)
        for (int j = 0; j < wide; j++) acc[i][j] = into == Into::add ? load(c + i * N + j * lanes) : floats{};
    for (int64_t k = 0; k < K; k++, a.p += a.column_stride, b += N) {
        floats bk[wide];
        for (int j = 0; j < wide; j++) bk[j] = load(b + j * lanes);
        for (int i = 0; i < block_rows; i++) {
            const floats aik = broadcast(a.p[i * a.row_stride]);
            for (int j = 0; j < wide; j++) acc[i][j] += aik * bk[j];
        }
    }
    for (int i = 0; i < block_rows; i++)
        for (int j = 0; j < wide; j++) store(c + i * N + j * lanes, acc[i][j]);
}

// c (M,N) = or += a (M,K) b (K,N). M is a multiple of block_rows, N of lanes.
inline void product(float* c, int64_t M, int64_t N, int64_t K, Matrix a, const float* b, Into into) {
    const auto column = [&](int64_t j, auto wide) {
        for (int64_t i = 0; i < M; i += block_rows)
            product_block<wide>(c + i * N + j, N, K, {a.p + i * a.row_stride, a.row_stride, a.column_stride}, b + j,
                                into);
    };
    int64_t j = 0;
    for (; j + block_wide * lanes <= N; j += block_wide * lanes) column(j, std::integral_constant<int, block_wide>{});
    for (; j < N; j += lanes) column(j, std::integral_constant<int, 1>{});
}

// ---- tiles in and out -----------------------------------------------------------------------------------------------

// The rows of one head: row t is D elements at p + t · stride.
template <class X>
struct Rows {
    X* p;
    int64_t stride;
    X* operator[](int64_t t) const { return p + t * stride; }
    Rows from(int64_t t) const { return {(*this)[t], stride}; }
};

// Lane j of the result is lane from[j] of a followed by b.
inline floats shuffle(floats a, floats b, ints from) {
#ifdef __clang__
    floats out;
    for (int j = 0; j < lanes; j++) out[j] = from[j] < lanes ? a[from[j]] : b[from[j] - lanes];
    return out;
#else
    return __builtin_shuffle(a, b, from);
#endif
}

// Transposes a block of lanes × lanes. In each step, rows i and i + w exchange their off-diagonal squares of width w.
template <int w = 1>
inline void transpose(floats (&block)[lanes]) {
    ints upper, lower;
    for (int j = 0; j < lanes; j++) {
        upper[j] = j & w ? lanes + j - w : j;
        lower[j] = j & w ? lanes + j : j + w;
    }
    for (int i = 0; i < lanes; i++) {
        if (i & w) continue;
        const floats a = block[i], b = block[i + w];
        block[i]     = shuffle(a, b, upper);
        block[i + w] = shuffle(a, b, lower);
    }
    if constexpr (2 * w < lanes) transpose<2 * w>(block);
}

// tile (padded, Dp) = n rows in fp32, with zeros below them and to their right.
template <class X>
void load_tile(float* tile, Rows<const X> rows, int64_t n, int64_t padded, int64_t D, int64_t Dp) {
    for (int64_t i = 0; i < n; i++)
        for_lanes(D, [&](int64_t d, auto some) { store(tile + i * Dp + d, load(rows[i] + d, some)); });
    std::fill(tile + n * Dp, tile + padded * Dp, 0.f);
}

// columns (Dp, queries) = n rows, transposed, with zeros below them and to their right.
template <class X>
void load_columns(float* columns, Rows<const X> rows, int64_t n, int64_t D) {
    for (int64_t q = 0; q < queries; q += lanes)
        for_lanes(D, [&](int64_t d, auto some) {
            floats block[lanes];
            for (int i = 0; i < lanes; i++) block[i] = q + i < n ? load(rows[q + i] + d, some) : floats{};
            transpose(block);
            for (int i = 0; i < lanes; i++) store(columns + (d + i) * queries + q, block[i]);
        });
}

// n rows = columns (Dp, queries), transposed back, row q times factor[q].
template <class X>
void store_columns(Rows<X> rows, const float* columns, const float* factor, int64_t n, int64_t D) {
    for (int64_t q = 0; q < n; q += lanes)
        for_lanes(D, [&](int64_t d, auto some) {
            floats block[lanes];
            for (int i = 0; i < lanes; i++) block[i] = load(columns + (d + i) * queries + q) * load(factor + q);
            transpose(block);
            for (int i = 0; i < lanes && q + i < n; i++) store(rows[q + i] + d, block[i], some);
        });
}

// Buffers that each thread keeps between calls.
template <class Buffers>
Buffers& thread_buffers() {
    static thread_local const std::unique_ptr<Buffers> buffers(new Buffers);
    return *buffers;
}

// The number of parts that one head's work is split into, at most `limit`, so that few heads still occupy many threads.
// It depends on shapes alone: the order of sums, and so every bit of the result, is the same for any number of threads.
inline int64_t parts_per_head(int64_t heads, int64_t limit) {
    return std::clamp<int64_t>(ceil_div(16, heads), 1, limit);
}

// ---- the mask -------------------------------------------------------------------------------------------------------

// Which keys the queries of one sequence see. Query t is at position past + t among the keys.
struct Mask {
    const int32_t* starts;  // belongs to this sequence; may be null
    int64_t window, past;
    int64_t first_key(int64_t t) const { return ::first_key<int64_t>(past + t, starts ? starts[t] : 0, window); }
};

// Up to 32 queries, and which keys they see.
struct Panel {
    int64_t row, n;                      // queries [row, row + n)
    int64_t begin     = INT64_MAX, end;  // keys that some of them see
    int64_t all_begin = 0, all_end;      // keys that all of them see
    // Each query sees keys first to last, inclusive; lanes from n on see none.
    ints first[queries / lanes], last[queries / lanes];

    Panel(const Mask& mask, int64_t row, int64_t T) : row(row), n(std::min<int64_t>(queries, T - row)) {
        end     = mask.past + row + n;
        all_end = mask.past + row + 1;
        for (int64_t i = 0; i < queries; i++) {
            first[i / lanes][i % lanes] = i < n ? int32_t(mask.first_key(row + i)) : INT_MAX;
            last[i / lanes][i % lanes]  = i < n ? int32_t(mask.past + row + i) : -1;
            if (i >= n) continue;
            begin     = std::min(begin, mask.first_key(row + i));
            all_begin = std::max(all_begin, mask.first_key(row + i));
        }
    }

    // Sets the scores (n, queries) of keys [key, key + n) to -inf where the query does not see the key. It does nothing
    // when all queries see all the keys.
    void hide(float* scores, int64_t key, int64_t n) const {
        if (key >= all_begin && key + n <= all_end) return;
        for (int64_t s = 0; s < n; s++)
            for (int v = 0; v < queries / lanes; v++) {
                float* p          = scores + s * queries + v * lanes;
                const ints key_s  = int32_t(key + s) - ints{};
                const ints hidden = (key_s < first[v]) | (key_s > last[v]);
                store(p, hidden ? broadcast(-INFINITY) : load(p));
            }
    }
};

// ---- dropout --------------------------------------------------------------------------------------------------------

// mask (n, queries) = 0 for the probabilities that are dropped and 1 / (1 - rate) for the others, for the panel of
// queries from `row` on and the keys from `key` on.
inline void fill_mask(float* mask, const HeadDropout& drop, int64_t row, int64_t key, int64_t n) {
    // The mask of 16 keys and a panel of 32 queries takes 4 · 16 blocks.
    constexpr int tile = 16, pairs = 4;
    uint32_t word[4][pairs * queries / 2];
    const float scale        = drop.scale;
    const uint32_t threshold = drop.threshold;
    for (int64_t first = key / tile * tile; first < key + n; first += tile) {
        for (int64_t i = 0; i < pairs * queries / 2; i++) {
            const int64_t pair = i / (queries / 2), q = i % (queries / 2);
            const Philox c = drop.counter(uint32_t(row + q / 8 * tile + q % 8), uint32_t(first + 2 * pair));
            for (int k = 0; k < 4; k++) word[k][i] = c.word[k];
        }
        philox_of<mask_rounds>(word, drop.random_key);
        for (int64_t s = std::max(first, key); s < std::min(first + tile, key + n); s++)
            for (int64_t q = 0; q < queries; q += 8) {  // the bits of 8 queries lie side by side
                const uint32_t* bits = &word[s % 2 * 2 + q / 8 % 2][s % 8 / 2 * (queries / 2) + q / 16 * 8];
                const int shift      = int(s / 8 % 2 * 16);
                float* to            = mask + (s - key) * queries + q;
#pragma omp simd
                for (int i = 0; i < 8; i++) to[i] = (bits[i] >> shift & 0xffffu) >= threshold ? scale : 0.f;
            }
    }
}

// ---- forward --------------------------------------------------------------------------------------------------------

struct ForwardPanel {
    alignas(64) float q[max_D * queries], acc[max_D * queries];  // (Dp, queries)
    alignas(64) float m[queries], l[queries];
};

// One step of the online softmax: scores become exp(scale s - m) in place, for the new maximum m of each query, and l
// and acc, which are relative to the old maximum, are rescaled to the new one.
inline void online_softmax(ForwardPanel& f, float* scores, int64_t n, float scale, int64_t Dp) {
    for (int v = 0; v < queries; v += lanes) {
        const floats old = load(f.m + v);
        floats m         = old;
        for (int64_t s = 0; s < n; s++) m = max(m, load(scores + s * queries + v) * scale);
        floats sum = {};
        for (int64_t s = 0; s < n; s++) {
            const floats p = exp(load(scores + s * queries + v) * scale - m);
            store(scores + s * queries + v, p);
            sum += p;
        }
        const floats rescale = exp(old - m);
        store(f.m + v, m);
        store(f.l + v, load(f.l + v) * rescale + sum);
        for (int64_t d = 0; d < Dp; d++) store(f.acc + d * queries + v, load(f.acc + d * queries + v) * rescale);
    }
}

struct ForwardBuffers {
    ForwardPanel panel[2];
    alignas(64) float k[keys * max_D], v[keys * max_D];  // (keys, Dp)
    alignas(64) float scores[keys * queries], mask[keys * queries];
};

// Computes two panels of queries, [row, row + 64), against all the keys that they see. Each tile of keys is loaded once
// for both. With a null `drop` nothing is dropped.
template <class X>
void forward_rows(Rows<X> out, float* lse, Rows<const X> q, Rows<const X> k, Rows<const X> v, int64_t row, int64_t T,
                  int64_t D, const Mask& mask, float scale, const HeadDropout* drop = nullptr) {
    const int64_t Dp      = round_up(D, lanes);
    ForwardBuffers& b     = thread_buffers<ForwardBuffers>();
    const Panel panels[2] = {{mask, row, T}, {mask, std::min(row + queries, T), T}};
    for (int i = 0; i < 2; i++) {
        load_columns(b.panel[i].q, q.from(panels[i].row), panels[i].n, D);
        std::fill_n(b.panel[i].acc, Dp * queries, 0.f);
        std::fill_n(b.panel[i].m, queries, -FLT_MAX);
        std::fill_n(b.panel[i].l, queries, 0.f);
    }

    const int64_t end = panels[1].end;
    for (int64_t key = std::min(panels[0].begin, panels[1].begin); key < end; key += keys) {
        const int64_t n = std::min(keys, end - key);
        load_tile(b.k, k.from(key), n, round_up(n, 8), D, Dp);
        load_tile(b.v, v.from(key), n, round_up(n, 8), D, Dp);
        for (int i = 0; i < 2; i++) {
            const Panel& p = panels[i];
            if (p.n == 0 || key >= p.end || key + n <= p.begin) continue;
            const int64_t seen = round_up(std::min(n, p.end - key), 8);
            product(b.scores, seen, queries, Dp, {b.k, Dp, 1}, b.panel[i].q, Into::set);
            p.hide(b.scores, key, seen);
            online_softmax(b.panel[i], b.scores, seen, scale, Dp);
            if (drop) {
                fill_mask(b.mask, *drop, p.row, key, seen);
                for_lanes(seen * queries,
                          [&](int64_t j, auto) { store(b.scores + j, load(b.scores + j) * load(b.mask + j)); });
            }
            product(b.panel[i].acc, Dp, queries, seen, {b.v, 1, Dp}, b.scores, Into::add);
        }
    }

    for (int i = 0; i < 2; i++) {
        const Panel& p  = panels[i];
        ForwardPanel& f = b.panel[i];
        float inverse[queries];
        for (int64_t j = 0; j < queries; j++) inverse[j] = 1.f / f.l[j];
        store_columns(out.from(p.row), f.acc, inverse, p.n, D);
        if (lse)
            for (int64_t j = 0; j < p.n; j++) lse[p.row + j] = f.m[j] + std::log(f.l[j]);
    }
}

template <class X>
void attention_forward(Tensor out, Tensor lse, Tensor qkv, Tensor starts, float scale, int64_t window,
                       const HeadDropouts& drops) {
    const int64_t B = qkv.shape[0], T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4];
    const int64_t blocks = ceil_div(T, 2 * queries);
    parallel_tasks(B * H * blocks, [&](int64_t i) {
        const int64_t b = i / blocks / H, h = i / blocks % H;
        const int64_t block = blocks - 1 - i % blocks;  // the longest rows first
        const X* q          = qkv.data<X>() + (b * T * 3 * H + h) * D;
        const Mask mask{starts ? starts.data<int32_t>() + b * T : nullptr, window, 0};
        const HeadDropout drop = drops.step ? drops.head(i / blocks) : HeadDropout{};
        forward_rows<X>({out.data<X>() + (b * T * H + h) * D, H * D}, lse.data<float>() + (b * H + h) * T,
                        {q, 3 * H * D}, {q + H * D, 3 * H * D}, {q + 2 * H * D, 3 * H * D}, block * 2 * queries, T, D,
                        mask, scale, drops.step ? &drop : nullptr);
    });
}

// ---- backward -------------------------------------------------------------------------------------------------------

struct BackwardBuffers {
    alignas(64) float q[queries * max_D], dout[queries * max_D];                  // (queries, Dp)
    alignas(64) float q_columns[max_D * queries], dout_columns[max_D * queries];  // (Dp, queries)
    alignas(64) float dq_columns[max_D * queries];
    alignas(64) float k[keys * max_D], v[keys * max_D];  // (keys, Dp)
    alignas(64) float p[keys * queries], ds[keys * queries], mask[keys * queries];
    alignas(64) float lse[queries], delta[queries];
};

// Works in place: the scores in p become p = exp(scale s - lse), and the dp in ds becomes ds = p (dp - δ). With a mask
// m of dropout, ds becomes p (m dp - δ), and p becomes m p.
template <bool drops>
inline void softmax_backward(float* p, float* ds, const float* lse, const float* delta, int64_t n, float scale,
                             const float* mask) {
    for (int64_t s = 0; s < n; s++)
        for (int v = 0; v < queries; v += lanes) {
            const int64_t i = s * queries + v;
            const floats pi = exp(load(p + i) * scale - load(lse + v));
            if constexpr (drops) {
                store(p + i, pi * load(mask + i));
                store(ds + i, pi * (load(ds + i) * load(mask + i) - load(delta + v)));
            } else {
                store(p + i, pi);
                store(ds + i, pi * (load(ds + i) - load(delta + v)));
            }
        }
}

template <class X>
struct Head {  // the inputs of one head, and where its gradients go
    Rows<const X> q, k, v, out, dout;
    Rows<X> dq, dk, dv;
    const float* lse;
    int64_t D;
};

// Computes the gradients of one panel of queries against all the keys that it sees. Writes dq, and adds to dk and dv
// (T, Dp).
template <class X>
void backward_panel(const Head<X>& h, float* dk, float* dv, const Panel& panel, float scale, const HeadDropout* drop) {
    const int64_t Dp = round_up(h.D, lanes), n = panel.n;
    BackwardBuffers& b = thread_buffers<BackwardBuffers>();
    load_tile(b.q, h.q.from(panel.row), n, queries, h.D, Dp);
    load_tile(b.dout, h.dout.from(panel.row), n, queries, h.D, Dp);
    load_columns(b.q_columns, h.q.from(panel.row), n, h.D);
    load_columns(b.dout_columns, h.dout.from(panel.row), n, h.D);
    // δ is summed in the order of dp, so that a row which sees only itself has ds = p (dp - δ) = 0 exactly.
    float* const out_columns = b.dq_columns;
    load_columns(out_columns, h.out.from(panel.row), n, h.D);
    for (int v = 0; v < queries; v += lanes) {
        floats delta = {};
        for (int64_t d = 0; d < Dp; d++)
            delta += load(b.dout_columns + d * queries + v) * load(out_columns + d * queries + v);
        store(b.delta + v, delta);
    }
    for (int64_t i = 0; i < queries; i++) b.lse[i] = i < n ? h.lse[panel.row + i] : 0.f;
    std::fill_n(b.dq_columns, Dp * queries, 0.f);

    for (int64_t key = panel.begin; key < panel.end; key += keys) {
        const int64_t count = std::min(keys, panel.end - key), seen = round_up(count, 8);
        load_tile(b.k, h.k.from(key), count, seen, h.D, Dp);
        load_tile(b.v, h.v.from(key), count, seen, h.D, Dp);
        const Matrix k{b.k, Dp, 1}, v{b.v, Dp, 1}, p{b.p, queries, 1}, ds{b.ds, queries, 1};
        product(b.p, seen, queries, Dp, k, b.q_columns, Into::set);
        panel.hide(b.p, key, seen);
        product(b.ds, seen, queries, Dp, v, b.dout_columns, Into::set);
        if (drop) {
            fill_mask(b.mask, *drop, panel.row, key, seen);
            softmax_backward<true>(b.p, b.ds, b.lse, b.delta, seen, scale, b.mask);
        } else {
            softmax_backward<false>(b.p, b.ds, b.lse, b.delta, seen, scale, nullptr);
        }
        product(dv + key * Dp, seen, Dp, queries, p, b.dout, Into::add);
        product(dk + key * Dp, seen, Dp, queries, ds, b.q, Into::add);
        product(b.dq_columns, Dp, queries, seen, k.transposed(), b.ds, Into::add);
    }
    float factor[queries];
    std::fill_n(factor, queries, scale);
    store_columns(h.dq.from(panel.row), b.dq_columns, factor, n, h.D);
}

// Returns memory for the sums of one call. The calling thread keeps it for the next call.
inline float* scratch(int64_t n) {
    struct alignas(64) Line {
        float x[16];
    };
    static thread_local std::vector<Line> lines;
    if (int64_t(lines.size()) * 16 < n) lines = std::vector<Line>(ceil_div(n, 16));
    return lines.data()->x;
}

// gradient (T, D) = factor × the sum of `count` parts (T, Dp), in order. Part i begins at parts + i · stride.
template <class X>
void store_sum(Rows<X> gradient, const float* parts, int64_t count, int64_t stride, int64_t T, int64_t D,
               float factor) {
    const int64_t Dp = round_up(D, lanes);
    for (int64_t t = 0; t < T; t++)
        for_lanes(D, [&](int64_t d, auto some) {
            floats total = {};
            for (int64_t i = 0; i < count; i++) total += load(parts + i * stride + t * Dp + d);
            store(gradient[t] + d, total * factor, some);
        });
}

template <class X>
void attention_backward(Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv, Tensor starts, float scale,
                        int64_t window, const HeadDropouts& drops) {
    const int64_t B = qkv.shape[0], T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4];
    const auto head = [&](int64_t i) {
        const int64_t b = i / H, h = i % H, C = H * D;
        const int64_t x_offset = (b * T * H + h) * D, qkv_offset = (b * T * 3 * H + h) * D;
        const X* q = qkv.data<X>() + qkv_offset;
        X* dq      = dqkv.data<X>() + qkv_offset;
        Head<X> x;
        x.q    = {q, 3 * C};
        x.k    = {q + C, 3 * C};
        x.v    = {q + 2 * C, 3 * C};
        x.dq   = {dq, 3 * C};
        x.dk   = {dq + C, 3 * C};
        x.dv   = {dq + 2 * C, 3 * C};
        x.out  = {out.data<X>() + x_offset, C};
        x.dout = {dout.data<X>() + x_offset, C};
        x.lse  = lse.data<float>() + i * T;
        x.D    = D;
        return x;
    };
    // A part of a head takes every parts-th panel. It has its own sums for dk and dv, (T + 8, Dp) each, because the
    // last tile is rounded up to 8 keys. If a head is one part, its sums are finished before the next head begins, so
    // each thread needs only one set.
    const int64_t panels = ceil_div(T, queries), parts = parts_per_head(B * H, panels);
    const int64_t half = (T + 8) * round_up(D, lanes), set = 2 * half;
    float* const sums = scratch(set * (parts == 1 ? omp_get_max_threads() : B * H * parts));

    const auto finish = [&](int64_t i, const float* first) {
        const Head<X> h = head(i);
        store_sum(h.dk, first, parts, set, T, D, scale);
        store_sum(h.dv, first + half, parts, set, T, D, 1.f);
    };
    parallel_tasks(B * H * parts, [&](int64_t task) {
        const int64_t i = task / parts;
        float* const dk = sums + set * (parts == 1 ? omp_get_thread_num() : task);
        std::fill_n(dk, set, 0.f);
        const Mask mask{starts ? starts.data<int32_t>() + i / H * T : nullptr, window, 0};
        const HeadDropout drop = drops.step ? drops.head(i) : HeadDropout{};
        for (int64_t p = task % parts; p < panels; p += parts)
            backward_panel(head(i), dk, dk + half, Panel(mask, p * queries, T), scale, drops.step ? &drop : nullptr);
        if (parts == 1) finish(i, dk);
    });
    if (parts > 1) parallel_tasks(B * H, [&](int64_t i) { finish(i, sums + set * i * parts); });
}

}  // namespace cpu

#include "attention_cached.h"

// On a GPU, the decode kernel splits the cache of S rows into parts of this many keys, one block for each part and
// query. Few queries get short parts, so that they occupy the whole GPU. The shapes alone decide, so every GPU adds in
// the same order.
static int64_t decode_part(int64_t queries, int64_t S) {
    const int64_t wanted = std::max<int64_t>(1, 2048 / queries);  // parts of each query
    return std::clamp<int64_t>(round_up(ceil_div(S, wanted), 64), 64, 1024);
}

#ifdef __CUDACC__
#include "attention_gpu.cuh"
#endif

// ---- both halves ----------------------------------------------------------------------------------------------------

static void check_attention(const char* op, const Tensor& qkv, float scale, int64_t window) {
    CHECK_CALL(qkv && qkv.shape.dims == 5 && qkv.shape[2] == 3, "{}: qkv is {}, expected (B,T,3,H,D)", op, qkv.str());
    CHECK_CALL(qkv.numel() > 0, "{}: qkv is {}, expected at least one row and one head", op, qkv.str());
    CHECK(qkv.shape[4] >= 1 && qkv.shape[4] <= cpu::max_D, "{}: head width {} in qkv {}, expected 1..{}", op,
          qkv.shape[4], qkv.str(), cpu::max_D);
    CHECK_CALL(qkv.shape[1] < INT_MAX, "{}: qkv is {} with {} rows, but positions have 32 bits", op, qkv.str(),
               qkv.shape[1]);
    CHECK_CALL(scale > 0 && std::isfinite(scale), "{}: scale is {}, expected a positive number such as 1/sqrt(D)", op,
               scale);
    CHECK_CALL(window >= 1, "{}: window is {}, expected at least 1: every row sees itself", op, window);
}

// The masks of the heads of qkv, after a check of `drop`.
static HeadDropouts head_dropouts(const char* op, const Tensor& qkv, const Dropout& drop) {
    drop.check(op);
    if (drop.rate == 0) return {};
    const int64_t T = qkv.shape[1];
    expect(drop.step, Shape({1}), DType::I32, qkv);
    CHECK_CALL(drop.first % T == 0, "{}: drop.first is {}, expected the first row of a sequence of {}", op, drop.first,
               T);
    return {drop, T, qkv.shape[3]};
}

void attention_forward(Tensor out, Tensor lse, Tensor qkv, Tensor starts, float scale, int64_t window, Stream s,
                       const Dropout& drop) {
    check_attention(__func__, qkv, scale, window);
    const int64_t B = qkv.shape[0], T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4];
    expect(out, (Shape{B, T, H, D}), qkv.dtype, qkv);
    expect(lse, (Shape{B, H, T}), DType::F32, qkv);
    expect_maybe(starts, (Shape{B, T}), DType::I32, qkv);
    const HeadDropouts drops = head_dropouts(__func__, qkv, drop);
    RUN_ON(s, qkv.dtype, attention_forward, out, lse, qkv, starts, scale, window, drops);
}

void attention_backward(Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv, Tensor starts, float scale,
                        int64_t window, Stream s, const Dropout& drop) {
    check_attention(__func__, qkv, scale, window);
    const int64_t B = qkv.shape[0], T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4];
    expect(dqkv, qkv.shape, qkv.dtype, qkv);
    expect(dout, (Shape{B, T, H, D}), qkv.dtype, qkv);
    expect(out, (Shape{B, T, H, D}), qkv.dtype, qkv);
    expect(lse, (Shape{B, H, T}), DType::F32, qkv);
    expect_maybe(starts, (Shape{B, T}), DType::I32, qkv);
    const HeadDropouts drops = head_dropouts(__func__, qkv, drop);
    RUN_ON(s, qkv.dtype, attention_backward, dqkv, dout, out, lse, qkv, starts, scale, window, drops);
}

void attention_cached(Tensor out, Tensor k_cache, Tensor v_cache, Tensor qkv, Tensor positions, Rope rope, float scale,
                      int64_t window, Stream s) {
    check_attention(__func__, qkv, scale, window);
    const int64_t B = qkv.shape[0], T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4];
    CHECK_CALL(k_cache && k_cache.shape.dims == 4, "attention_cached: k_cache is {}, expected (B,H,S,D)",
               k_cache.str());
    const int64_t S = k_cache.shape[2];
    expect(out, (Shape{B, T, H, D}), qkv.dtype, qkv);
    expect(k_cache, (Shape{B, H, S, D}), qkv.dtype, qkv);
    expect(v_cache, (Shape{B, H, S, D}), qkv.dtype, qkv);
    expect(positions, (Shape{B, T}), DType::I32, qkv);
    CHECK_CALL(T <= S && S < INT_MAX, "attention_cached: {} new rows do not fit into k_cache {}: it holds {}", T,
               k_cache.str(), S);
    RUN_ON(s, qkv.dtype, attention_cached, out, k_cache, v_cache, qkv, positions, rope, scale, window);
}

// Returns the FLOPs of one product over all pairs of a row and a row that it sees. Forward has two, backward five.
static double attention_product(int64_t B, int64_t T, int64_t past, int64_t H, int64_t D) {
    return 2. * double(B * H * D) * (double(T) * double(past) + double(T) * double(T + 1) / 2);
}
Cost attention_forward_cost(int64_t B, int64_t T, int64_t H, int64_t D, DType x) {
    const double rows = double(B * T * H);
    return {4. * rows * double(D * size_of(x)) + 4. * rows, 2 * attention_product(B, T, 0, H, D)};
}
Cost attention_backward_cost(int64_t B, int64_t T, int64_t H, int64_t D, DType x) {
    const double rows = double(B * T * H);
    Cost cost{8. * rows * double(D * size_of(x)) + 4. * rows, 5 * attention_product(B, T, 0, H, D)};
    cost.scratch = B * T * H * size_of(DType::F32);  // δ of each row
    return cost;
}
// A call keeps the largest difference, in a part of 64 bytes, and of one sequence dqkv and δ, or out and lse.
int64_t attention_trial_scratch(int64_t T, int64_t H, int64_t D, DType x) {
    return x == DType::BF16 ? 64 + T * H * (3 * D * size_of(x) + size_of(DType::F32)) : 0;
}
// The op reads the caches up to `past` and all of qkv, appends k and v, and writes out. S is the size of the caches.
Cost attention_cached_cost(int64_t B, int64_t T, int64_t past, int64_t S, int64_t H, int64_t D, DType x) {
    const double row = double(B * H * D * size_of(x));
    Cost cost{row * double(2 * past + 6 * T), 2 * attention_product(B, T, past, H, D)};
    if (T == 1)  // each part has D sums, its maximum and the sum of weights
        cost.scratch = B * H * ceil_div(S, decode_part(B * H, S)) * (D + 2) * size_of(DType::F32);
    return cost;
}
