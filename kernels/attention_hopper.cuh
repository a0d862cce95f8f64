// attention_hopper.cuh - attention with the instructions of Hopper (sm_90a): bf16, D a multiple of 8 from 40 to 256
//
// Shah et al. 2024 (FlashAttention-3, arXiv 2407.08608) describe how Hopper wants attention divided:
//
//   a producer warp        asks the Tensor Memory Accelerator (TMA) for tiles of q, k and v. An mbarrier for each
//                          stage of shared memory says when a tile is there, and when it may be overwritten
//   two warpgroups         of four warps each own 64 queries each. One instruction (wgmma) multiplies 64 rows with a
//                          whole tile of shared memory, while the warps that issued it go on
//   turns                  the warpgroups issue their products in turns, so that the softmax of one lies under the
//                          products of the other. Within a warpgroup, the scores of the next keys are computed while
//                          the weights of these keys are multiplied with v
//
// Registers follow the work: the producer gives up most of its registers, and the warpgroups take them (setmaxnreg).
// A block stays on its multiprocessor and takes one tile of queries after another, so that the copies for the next
// tile begin while this one ends. Tiles differ in their work, so a block takes the next one that is left when it gets
// that far, from a counter in memory. Which block computes a tile does not change its bits.
//
//   tiles     128 queries, and N keys at a time. A tile lies in shared memory in blocks of 64 columns. Such a row has
//             128 bytes, and TMA and wgmma agree on where its chunks of 16 bytes are (128-byte swizzle)
//   numbers   the softmax, the mask and the meaning of lse are those of attention_tensor.cuh
//
// Only machine code for sm_90a has these kernels; on other GPUs their bodies are empty and attention_gpu.cuh does not
// launch them. The instructions themselves are in hopper.cuh.
#pragma once
#include "attention_tensor.cuh"
#include "hopper.cuh"

namespace gpu {

// ---- products of a warpgroup ---------------------------------------------------------------------------------------

template <int N>
__device__ inline void pin(Sums<1, N>& c) {
    for (auto& block : c.at[0]) pin(block);
}

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
    const uint64_t left  = matrix_descriptor(a.address, a.block_bytes),
                   right = matrix_descriptor(b.address, b.block_bytes);
#pragma unroll
    for (int k = 0; k < D / 16; k++)  // a step of 16 columns is 32 bytes of a row; the swizzle takes care of itself
        wgmma<false>(Constant<N>{}, c.at[0][0], advance(left, k / 4 * a.block_bytes + k % 4 * 32),
                     advance(right, k / 4 * b.block_bytes + k % 4 * 32), k > 0);
}

// Issues c += (columns [0, N) of p) · (rows [0, N) of b), for p in registers. A product is 128 columns wide, 64 or the
// rest of D.
template <int D, int N, int columns, int rows>
__device__ inline void issue_product(Sums<1, D>& c, const LeftOperand<1, columns>& p, WideTile<D, rows> b) {
    const uint64_t right = matrix_descriptor(b.address, b.block_bytes);
#pragma unroll
    for (int k = 0; k < N / 16; k++) {  // 16 rows are 2048 bytes of a block
#pragma unroll
        for (int i = 0; i < D / 128; i++)
            wgmma<true>(Constant<128>{}, c.at[0][16 * i], p[0][k], advance(right, 2 * i * b.block_bytes + k * 2048),
                        true);
        constexpr int wide = D / 128 * 128;
        if constexpr (D % 128 >= 64)
            wgmma<true>(Constant<64>{}, c.at[0][wide / 8], p[0][k],
                        advance(right, wide / 64 * b.block_bytes + k * 2048), true);
        if constexpr (D % 64 > 0)
            wgmma<true>(Constant<D % 64>{}, c.at[0][D / 64 * 8], p[0][k],
                        advance(right, D / 64 * b.block_bytes + k * 2048), true);
    }
}

// Describes all heads of a tensor to TMA: (D, heads, rows, sequences), of which it brings boxes of 64 columns and
// `rows` rows of one head.
inline CUtensorMap map_of(const Heads<const bf16>& x, const Problem& p, int64_t B, int rows) {
    const auto bytes = [](int64_t elements) { return cuuint64_t(elements) * sizeof(bf16); };
    return tensor_map(x.p, {cuuint64_t(p.D), cuuint64_t(p.H), cuuint64_t(p.T), cuuint64_t(B)},
                      {bytes(x.head_stride), bytes(x.row_stride), bytes(x.batch_stride)}, {64, 1, cuuint32_t(rows), 1});
}

// ---- a block and its memory ----------------------------------------------------------------------------------------

// How a kernel divides its work. A block has `own` tiles of its own `rows` rows, and streams N rows at a time of two
// heads, a and b, through `stages` stages.
template <int D_, int N_, int stages_, int own_, int rows_ = 128>
struct HopperTiling {
    static constexpr int D = D_, N = N_, stages = stages_, own = own_, rows = rows_;
    // Where a warpgroup of 64 queries sees only the first half of its last tile of 128 keys, it multiplies with these
    // alone. Smaller tiles have no such half (0), because most of them are seen or hidden as a whole.
    static constexpr int short_tile = N == 128 ? 64 : 0;
    using Own                       = WideTile<D, rows>;
    using Streamed                  = WideTile<D, N>;
    // A tile begins at a multiple of 1024 bytes, which dynamic shared memory need not.
    static constexpr int shared     = 1024 + own * Own::bytes + 2 * stages * Streamed::bytes;
    static constexpr int barriers   = 2 + 4 * stages;
    static_assert(shared + 2048 <= 227 << 10);
};

// Where the tiles and barriers of a block lie. A tile is full when its bytes have come, and empty when the 8 warps that
// compute have read it for the last time. Barriers lie in pairs, of own tiles, of a and of b: full, then empty.
template <class Tiling>
struct BlockMemory {
    using Own      = typename Tiling::Own;
    using Streamed = typename Tiling::Streamed;
    // What the kernel declares as __shared__. `tile` is the number of the tile that the own tiles belong to.
    struct Static {
        uint64_t barriers[Tiling::barriers];
        int tile;
    };
    uint32_t tiles, barriers;
    int* tile;

    __device__ explicit BlockMemory(Static& memory)
        : tiles((uint32_t(__cvta_generic_to_shared(shared_memory)) + 1023) / 1024 * 1024),
          barriers(uint32_t(__cvta_generic_to_shared(memory.barriers))),
          tile(&memory.tile) {}
    __device__ Own own(int i) const { return {tiles + i * Own::bytes}; }
    __device__ Streamed a(int stage) const { return {tiles + Tiling::own * Own::bytes + 2 * stage * Streamed::bytes}; }
    __device__ Streamed b(int stage) const { return {a(stage).address + Streamed::bytes}; }
    __device__ uint32_t own_full() const { return barriers; }
    __device__ uint32_t own_empty() const { return barriers + 8; }
    __device__ uint32_t a_full(int stage) const { return barriers + 16 + 32 * stage; }
    __device__ uint32_t a_empty(int stage) const { return a_full(stage) + 8; }
    __device__ uint32_t b_full(int stage) const { return a_full(stage) + 16; }
    __device__ uint32_t b_empty(int stage) const { return a_full(stage) + 24; }

    // One thread calls it, before a barrier of the block. `lanes` arrive at a stage's tile a besides TMA.
    __device__ void init(int lanes = 0) const {
        for (int i = 0; i < Tiling::barriers; i++)
            init_barrier(barriers + 8 * i, i % 2 ? 8 : i % 4 == 2 ? 1 + lanes : 1);
        fence_for_copies();
    }
};

// How the tiles of a launch are dealt to its blocks. The first tile of a block has the block's number. The tiles after
// these are counted in `taken`, one of Queue::counters, which is 0 again after as many calls of next() as there are
// tiles.
struct Deal {
    int tiles;
    uint32_t* taken;
    __device__ int next() const { return int(gridDim.x + atomicInc(taken, uint32_t(tiles - 1))); }
};

// Calls f(own) for each tile that the block takes, in the producer warp. Before that, lane 0 waits until the own tiles
// are empty, wait_until_empty(parity), and writes the tile's number for the warps that compute. f announces the rows of
// the tile. At the end there are none, but the number says that no tile is left.
template <class Tiling, class WaitUntilEmpty, class F>
__device__ inline void bring_tiles(const BlockMemory<Tiling>& at, const Problem& p, TileOrder order, const Deal& deal,
                                   WaitUntilEmpty wait_until_empty, F f) {
    uint32_t parity = 0;
    for (int tile = blockIdx.x;; parity ^= 1) {
        if (threadIdx.x == 0) {
            wait_until_empty(parity);
            *at.tile = tile;
        }
        if (tile >= deal.tiles) break;
        f(OwnTile(p, Tiling::rows, order, tile, deal.tiles));
        if (threadIdx.x == 0) tile = deal.next();
        tile = __shfl_sync(~0u, tile, 0);
    }
    if (threadIdx.x == 0) arrive(at.own_full());
}

// Calls f(own) for each of these tiles, in the warps that compute, when its own tiles are full.
template <class Tiling, class F>
__device__ inline void each_tile(const BlockMemory<Tiling>& at, const Problem& p, TileOrder order, const Deal& deal,
                                 F f) {
    for (uint32_t parity = 0;; parity ^= 1) {
        wait_for_phase(at.own_full(), parity);
        __syncwarp();  // Lanes that had no row of the tile before to store came here first.
        const int tile = *at.tile;
        if (tile >= deal.tiles) break;
        f(OwnTile(p, Tiling::rows, order, tile, deal.tiles));
    }
}

// The keys that some query in [row, row + rows) sees; queries past the end of the sequence see what its last one sees.
// All lanes of a warp call it together.
struct KeyRange {
    int begin, end;
    __device__ KeyRange(const Problem& p, int b, int row, int rows) : end(min(row + rows, p.T)) {
        int first = INT_MAX;
        for (int i = threadIdx.x % 32; i < rows; i += 32) first = min(first, p.first_key(b, min(row + i, p.T - 1)));
        begin = __reduce_min_sync(~0u, first);
    }
    // The keys of a block's tile. Tiles that dropout masks begin at multiples of 16.
    __device__ KeyRange(const Problem& p, const OwnTile& own, int rows, bool drops)
        : KeyRange(p, own.b, own.row, rows) {
        if (drops) begin = begin / 16 * 16;
    }
};

// What a warp that computes knows of a tile of queries.
struct OwnQueries : OwnTile {
    KeyRange keys;       // some query of the tile sees them
    KeyRange of_group;   // some query of the warpgroup sees them
    int warp_row;        // the first of the warp's 16 queries
    SeenByWarp<1> seen;  // which keys these 16 see
    __device__ OwnQueries(const Problem& p, const OwnTile& own, int rows, int group, bool drops)
        : OwnTile(own),
          keys(p, own, rows, drops),
          of_group(p, b, row + 64 * group, 64),
          warp_row(row + 64 * group + threadIdx.x / 32 % 4 * 16),
          seen(p, b, warp_row) {}
    // Where the first tile of N keys begins of which the warpgroup sees any.
    __device__ int first_tile(int N) const { return keys.begin + (of_group.begin - keys.begin) / N * N; }
};

// What the producer, the first warp of a block, does where queries are owned. For each of the block's tiles of queries
// it brings `first` own tiles, which `maps` describe, and then the tiles of k and v. If `first` is above Tiling::own,
// the last own tile lies where the stages are. Then the warps that compute release the own tiles twice: when they have
// read this last one, and at the end.
template <class Tiling, int first, bool drops>
__device__ inline void bring_keys(const BlockMemory<Tiling>& at, const CUtensorMap* maps, const CUtensorMap& k,
                                  const CUtensorMap& v, const Problem& p, const Deal& deal) {
    constexpr bool in_stages = first > Tiling::own;
    RingPlace<Tiling::stages> place;
    const auto wait_until_empty = [&](uint32_t parity) { wait_for_phase(at.own_empty(), in_stages ? 1 : parity ^ 1); };
    bring_tiles(at, p, TileOrder::last_to_first, deal, wait_until_empty, [&](const OwnTile& own) {
        const KeyRange keys(p, own, Tiling::rows, drops);
        if (threadIdx.x == 0) {
            arrive_expecting(at.own_full(), first * Tiling::Own::bytes);
#pragma unroll
            for (int i = 0; i < first; i++) at.own(i).copy(maps[i], own.h, own.row, own.b, at.own_full());
            if (in_stages) wait_for_phase(at.own_empty(), 0);
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
    });
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
    const int64_t tiles  = blocks_of(qkv, Tiling::rows);
    const int64_t blocks = std::min<int64_t>(tiles, queue.limits.multiProcessorCount);
    CHECK_RUN(tiles + blocks <= INT32_MAX, "attention: {} tiles of {} rows are too many", tiles, Tiling::rows);
    const Grid grid(blocks, hopper_threads, Tiling::shared);
    launch(kernel, grid, queue, args..., Deal{int(tiles), queue.counters});
}

// ---- forward -------------------------------------------------------------------------------------------------------

template <int D, bool drops = false>
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

// Turns scores into weights, of which dropout sets some to 0 after they were added up. Returns as raise_tops() does.
template <int N, bool drops>
__device__ inline bool weigh_scores(Sums<1, N>& s, float (&rescale)[2], Softmax<1>& softmax, const OwnQueries& own,
                                    int key, const HeadDropout& drop) {
    float sum[1][2];
    if (!own.seen.all_of(key, N)) own.seen.template hide<N>(s, key);
    const bool raised = raise_tops<N>(rescale, softmax, s);
    weigh<1, N>(sum, s, softmax);
    for (int i = 0; i < 2; i++) softmax.sum[0][i] += sum[0][i];
    if constexpr (drops)
        each_dropout<RowsAre::queries, 1, N>(
            drop, own.warp_row, key, [&](int, int n, int i, bool keeps) { s[0][n][i] = keeps ? s[0][n][i] : 0.f; });
    return raised;
}

// Computes 64 queries of each tile. Each round multiplies q with the next keys, and the weights of the keys before with
// v.
template <class Tiling, bool drops>
__device__ inline void compute_forward(const BlockMemory<Tiling>& at, Heads<bf16> out, float* lse, const Problem& p,
                                       const Deal& deal) {
    constexpr int D = Tiling::D, N = Tiling::N;
    const int lane = threadIdx.x % 32, group = computing_warpgroup();
    const Turns turns{group};
    if (group == 1) turns.pass();  // the first turn is warpgroup 0's
    const auto q = at.own(0).from(64 * group);
    RingPlace<Tiling::stages> k, v;
    each_tile(at, p, TileOrder::last_to_first, deal, [&](const OwnTile& tile) {
        const OwnQueries own(p, tile, Tiling::rows, group, drops);
        const HeadDropout drop = own.template dropout<drops>(p);
        Sums<1, N> s;
        Sums<1, D> acc;
        Softmax<1> softmax(p.scale);
        float rescale[2];
        clear<1, D>(acc);
        // The other warpgroup may see keys before or after those that this one sees. In these rounds this one passes
        // the turn on, and releases the tiles.
        int key              = own.keys.begin;
        const auto skip_turn = [&] {
            turns.wait();
            turns.pass();
        };
        const auto skip_tile = [&] {
            wait_for_phase(at.a_full(k.stage), k.parity);
            wait_for_phase(at.b_full(v.stage), v.parity);
            release(at.a_empty(k.stage));
            release(at.b_empty(v.stage));
            k.next();
            v.next();
        };
        for (const int first = own.first_tile(N); key < first; key += N) {
            skip_turn();
            skip_tile();
        }
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
        weigh_scores<N, drops>(s, rescale, softmax, own, key, drop);
        LeftOperand<1, N> weights = round_to_bf16<1, N>(s);

        const auto multiply_with = [&](auto keys) {  // the first keys of a tile
            constexpr int seen = keys;
            Sums<1, seen> s;
            wait_for_phase(at.a_full(k.stage), k.parity);
            wait_for_phase(at.b_full(v.stage), v.parity);
            turns.wait();
            pin(s);
            pin(acc);
            begin_products();
            issue_product_transposed<D, seen>(s, q, at.a(k.stage));
            commit_products();
            issue_product<D, N>(acc, weights, at.b(v.stage));
            commit_products();
            turns.pass();
            wait_for_products<1>();  // the scores are there
            pin(s);
            release(at.a_empty(k.stage));
            k.next();
            const bool raised = weigh_scores<seen, drops>(s, rescale, softmax, own, key, drop);
            wait_for_products<0>();
            pin(acc);
            release(at.b_empty(v.stage));
            v.next();
            if (raised)
#pragma unroll
                for (int n = 0; n < D / 8; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) acc[0][n][i] *= rescale[i / 2];
            const LeftOperand<1, seen> rounded = round_to_bf16<1, seen>(s);
#pragma unroll
            for (int i = 0; i < seen / 16; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) weights[0][i][j] = rounded[0][i][j];
        };
        for (key += N; key + Tiling::short_tile < own.of_group.end; key += N) multiply_with(Constant<N>{});
        bool is_short = false;
        if constexpr (Tiling::short_tile > 0)
            if (key < own.of_group.end) {
                is_short = true;
                multiply_with(Constant<Tiling::short_tile>{});
                key += N;
            }
        // One round at most is left, because the other warpgroup sees at most 64 keys more.
        static_assert(N >= 64);
        if (key < own.keys.end) skip_turn();
        release(at.own_empty());
        wait_for_phase(at.b_full(v.stage), v.parity);
        const auto add_last = [&](auto keys) {
            pin(acc);
            begin_products();
            issue_product<D, keys>(acc, weights, at.b(v.stage));
            commit_products();
            wait_for_products<0>();
            pin(acc);
        };
        if (is_short)
            add_last(Constant<Tiling::short_tile>{});
        else
            add_last(Constant<N>{});
        release(at.b_empty(v.stage));
        v.next();
        if (key < own.keys.end) skip_tile();

        float factor[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float sum = softmax.sum[0][i];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            factor[i]   = (drops ? drop.scale : 1.f) / sum;
            const int t = own.warp_row + lane / 4 + 8 * i;
            if (lane % 4 || t >= p.T) continue;
            // As in attention_forward_kernel, the rounding of the exponent of the top is taken back.
            const float top             = softmax.top[0][i];
            const float rounding        = fmaf(top, softmax.scale_log2e, -softmax.shift(0, i));
            lse[own.head_offset(p) + t] = fmaf(top, p.scale, logf(sum) - rounding * ln2);
        }
        store_rows<D>(out.at(own.b, own.h), acc, factor, own.warp_row + lane / 4, p.T, p.D);
    });
    if (group == 0) turns.wait();  // the turn that is passed last
}

template <class Tiling, bool drops = false>
__global__ void __launch_bounds__(hopper_threads, 1)
    attention_forward_hopper_kernel(Heads<bf16> out, float* lse, const __grid_constant__ ForwardMaps x, Problem p,
                                    Deal deal) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    __shared__ typename BlockMemory<Tiling>::Static memory;
    const BlockMemory<Tiling> at(memory);
    divide_block<24, 240>([&] { at.init(); }, [&] { bring_keys<Tiling, 1, drops>(at, &x.q, x.k, x.v, p, deal); },
                          [&] { compute_forward<Tiling, drops>(at, out, lse, p, deal); });
#endif
}

template <class Tiling, bool drops = false>
void forward_hopper(Heads<bf16> out, float* lse, Inputs<bf16> x, const Problem& p, Tensor qkv, Queue& queue) {
    const auto map = [&](const Heads<const bf16>& heads, int rows) { return map_of(heads, p, qkv.shape[0], rows); };
    const ForwardMaps maps{map(x.q, Tiling::rows), map(x.k, Tiling::N), map(x.v, Tiling::N)};
    launch_on_hopper<Tiling>(attention_forward_hopper_kernel<Tiling, drops>, qkv, queue, out, lse, maps, p);
}

}  // namespace gpu
