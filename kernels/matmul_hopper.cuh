// matmul_hopper.cuh - the kernel of our products for Hopper (sm_90a): a and b in bf16, sums in fp32
//
//   c (M,N) = a (M,K) · b (K,N)
//
// The epilogues are those of cuBLASLt that a model needs: a bias, gelu, gelu', +=, and the sums of a's rows. The kernel
// is built like attention_hopper.cuh:
//
//   tiles             a block computes a tile of c at a time, for example 128 × 256, and takes one tile after another
//   a producer warp   loads 64 columns of a and 64 rows of b at a time with the Tensor Memory Accelerator (TMA),
//                     through a ring of stages
//   two warpgroups    own half of the tile's rows each, and multiply a stage when it is there. Neither waits for the
//                     other one, so that one can write its results while the other still multiplies
//   results           in bf16 go through shared memory, from where TMA writes them while the block goes on. Those in
//                     fp32, where K is long, are written by the threads that have them
//
// Two blocks can form a cluster. Their tiles lie one above the other, so they need the same part of b. Each loads half
// of it, and TMA writes that to the shared memory of both.
//
// The blocks can share tiles (tile_work.h). Whoever ends the last piece of a tile adds all of them, in a fixed order.
//
// Only machine code for sm_90a has this kernel. README.md has its floor and what the emulator counts.
#pragma once
#include "gelu.h"
#include "hopper.cuh"
#include "matmul_hopper.h"
#include "tile_work.h"

namespace gpu {

// ---- tiles and their epilogues --------------------------------------------------------------------------------------

// What is done with the sums of a tile.
enum class Epilogue : uint8_t {
    bf16_sums,   // c = sums + bias
    bf16_gelu,   // c = gelu(sums + bias), and pre = sums + bias
    bf16_slope,  // c = sums ∘ gelu'(pre)
    fp32_sums,   // c = or += sums
};

// A block computes M × N of c at a time, of which each warpgroup has half of the rows. Shared memory has as many stages
// as fit, and a stage has 64 steps of K. Results in bf16 are written 64 · out_blocks columns at a time: all 320 columns
// would not fit beside three stages, so such a tile is written as 192 columns and then 128.
template <int M_, int N_, Epilogue epilogue_>
struct ProductTiling {
    static constexpr int M = M_, N = N_, rows = M / 2, columns_of_64 = N / 64;
    static constexpr Epilogue epilogue = epilogue_;
    static constexpr int stage_bytes   = (M + N) * 128;
    static constexpr int out_blocks    = N > 256 ? 3 : columns_of_64;
    // Each warpgroup has room for its results in bf16. Where results are fp32, the two rooms together hold a matrix of
    // ones (64 × 8). The sums of a's rows are the product of a with it.
    static constexpr int out_bytes     = epilogue == Epilogue::fp32_sums ? 512 : rows * out_blocks * 128;
    static constexpr int stages        = ((226 << 10) - 1024 - 2 * out_bytes) / stage_bytes;
    static constexpr int shared        = 1024 + stages * stage_bytes + 2 * out_bytes;
    static constexpr int barriers      = 2 * stages + 2;
    // Epilogues with gelu keep a whole tile.
    static constexpr bool exists =
        out_blocks == columns_of_64 || epilogue == Epilogue::bf16_sums || epilogue == Epilogue::fp32_sums;
    static_assert(M % 128 == 0 && N % 64 == 0 && stages >= 3);
};

struct HopperOperands {
    CUtensorMap a, b, c, pre;  // c and pre where results are bf16
    float* sums;               // c (M, N) where results are fp32
    const bf16* bias;          // (N), may be null
    Gelu form;                 // the form that gelu or its slope has
    bool keeps_pre;            // pre is written
    bool adds;                 // += in place of =, where results are fp32
    float* row_sums;           // (M), may be null
    float* pieces;             // a tile of sums for each slot, as the threads hold them
    float* piece_row_sums;     // M sums for each slot
    uint32_t* ended;  // the pieces that have ended of a warpgroup's half of each shared tile; the last one makes it 0
    int M, N;
    // A cluster has this many blocks, 1 or 2. Their tiles lie one above the other, and are one tile in `work`, which
    // divides tiles among clusters.
    int together;
    TileWork work;

    __device__ int cluster() const { return int(blockIdx.x) / together; }
    __device__ int in_cluster() const { return int(blockIdx.x) % together; }
    // This block's tile is in this row of tiles.
    __device__ int row(const Piece& piece) const { return piece.row * together + in_cluster(); }
    __device__ bool sums_rows(const Piece& piece) const { return row_sums && piece.column == 0; }
};

// ---- shared memory --------------------------------------------------------------------------------------------------

// Where a stage of an operand lies in shared memory: so many lines with 64 steps of K. A line is a row of a, or a
// column of b. Shared memory has rows of 128 bytes, which are swizzled. Such a row holds 64 steps of K of one line
// (K-major), or with `across` one step of K of 64 lines (MN-major); then the stage is lines/64 blocks of 64 such rows.
// TMA brings the stage in `parts` equal parts, which divide the lines, or with `across` the 64 steps of K.
template <int lines, bool across, int parts>
struct OperandTile {
    static constexpr int block_bytes = across ? 64 * 128 : 0;
    static constexpr int box_rows    = (across ? 64 : lines) / parts;  // a box of TMA has these rows of 128 bytes
    static_assert(box_rows <= 256, "TMA brings at most 256 rows at a time");
    uint32_t address;
    // Calls copy(to, column, row) for each box of a part of the stage that begins at `line` and k.
    template <class Copy>
    __device__ void each_box(int part, int line, int k, Copy copy) const {
        const int first = part * box_rows;
        if constexpr (across)
#pragma unroll
            for (int i = 0; i < lines / 64; i++)
                copy(address + i * block_bytes + first * 128, line + 64 * i, k + first);
        else
            copy(address + first * 128, k, line + first);
    }
    // Describes to wgmma the lines from `line` on, a multiple of 64, and the 16 steps of K from k on.
    __device__ uint64_t matrix(int line, int k) const {
        return across ? matrix_descriptor(address + line / 64 * block_bytes + k * 128, block_bytes)
                      : matrix_descriptor(address + line * 128 + k * 2, 0);
    }
};
// Describes an operand or a result to TMA, which moves boxes of 64 columns and so many rows.
inline CUtensorMap map_of_matrix(const void* x, int64_t rows, int64_t columns, int box_rows) {
    const cuuint64_t bytes = cuuint64_t(columns) * sizeof(bf16);
    return tensor_map(static_cast<const bf16*>(x), {cuuint64_t(columns), 1, cuuint64_t(rows), 1},
                      {bytes, bytes, cuuint64_t(rows) * bytes}, {64, 1, cuuint32_t(box_rows), 1});
}

template <class Tiling, bool columns_a, bool columns_b>
struct ProductMemory {
    using A = OperandTile<Tiling::M, columns_a, 1>;
    using B = OperandTile<Tiling::N, columns_b, 2>;
    uint32_t tiles, barriers;

    __device__ explicit ProductMemory(const uint64_t* barriers)
        : tiles((uint32_t(__cvta_generic_to_shared(shared_memory)) + 1023) / 1024 * 1024),
          barriers(uint32_t(__cvta_generic_to_shared(barriers))) {}
    __device__ A a(int stage) const { return {tiles + stage * Tiling::stage_bytes}; }
    __device__ B b(int stage) const { return {a(stage).address + Tiling::M * 128}; }
    // The place of a warpgroup's results in bf16; or, from group 0 on, a matrix of 8 columns of ones, in the layout of
    // b.
    __device__ uint32_t out(int group) const {
        return tiles + Tiling::stages * Tiling::stage_bytes + group * Tiling::out_bytes;
    }
    __device__ uint32_t full(int stage) const { return barriers + 16 * stage; }
    __device__ uint32_t empty(int stage) const { return full(stage) + 8; }
    __device__ uint32_t pre_full(int group) const { return barriers + 16 * Tiling::stages + 8 * group; }
    __device__ void init(int together) const {
        for (int i = 0; i < Tiling::stages; i++) {
            init_barrier(full(i), 1);
            init_barrier(empty(i), 8 * together);
        }
        for (int i = 0; i < 2; i++) init_barrier(pre_full(i), 1);
        if (Tiling::epilogue == Epilogue::fp32_sums) {
            constexpr uint32_t ones = 0x3f803f80;
            uint4* const to         = static_cast<uint4*>(__cvta_shared_to_generic(out(0)));
            for (int i = 0; i < 64; i++) to[i] = {ones, ones, ones, ones};
        }
        fence_for_copies();
    }
};

// ---- epilogues ------------------------------------------------------------------------------------------------------

// Gelu and its slope as gelu.h and gelu.cu have them, but with the hardware's approximations of 2^x and 1/x. Beside the
// products of the other warpgroup a dozen instructions fit, and results are rounded to bf16.

// exp(-x²/2) and Φ(x). The polynomial in t has coefficients that minimise the largest relative error of Φ(-|x|) over
// |x| <= 8, which is 5e-6.
struct Normal {
    float exponential, probability;
    __device__ explicit Normal(float x) : exponential(exp2_fast(-0.7213475204f * x * x)) {
        const float t = __fdividef(1.f, fmaf(0.35f, fabsf(x), 1.f));
        float r       = fmaf(t, -0.1049513744f, 0.2993197314f);
        r             = fmaf(r, t, -0.0110994207f);
        r             = fmaf(r, t, 0.1841769778f);
        r             = fmaf(r, t, 0.1320292079f);
        r             = fmaf(r, t, 0.0005224117f);
        probability   = x < 0.f ? exponential * r : fmaf(-exponential, r, 1.f);
    }
};
template <Gelu form>
__device__ inline float gelu_in_product(float x) {
    if constexpr (form == Gelu::erf) return x * Normal(x).probability;
    return __fdividef(x, 1.f + exp2_fast(-2.302208198f * x * fmaf(0.044715f * x, x, 1.f)));
}
template <Gelu form>
__device__ inline float gelu_slope_in_product(float x) {
    if constexpr (form == Gelu::erf) {
        const Normal normal(x);
        return fmaf(0.3989422804f * x, normal.exponential, normal.probability);
    }
    x             = fabsf(x) > 9.f ? copysignf(9.f, x) : x;  // beyond, the slope is 0 or 1 in bf16; a NaN stays one
    const float e = exp2_fast(-2.302208198f * x * fmaf(0.044715f * x, x, 1.f)),
                s = __fdividef(1.f, 1.f + e);  // s = σ(2u), and 1 - s = e s
    return fmaf(x * (e * s) * s, fmaf(0.2140644532f * x, x, 1.5957691216f), s);
}
// Calls f(form), where form.value is the product's form of gelu at compile time.
template <class F>
__device__ inline void for_form(Gelu form, F f) {
    if (form == Gelu::tanh)
        f(std::integral_constant<Gelu, Gelu::tanh>{});
    else
        f(std::integral_constant<Gelu, Gelu::erf>{});
}

// All threads of a warpgroup wait for each other.
__device__ inline void wait_for_group(int group) { asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory"); }
// Does the same, and says whether one of these threads came with `flag`.
__device__ inline bool any_of_group(int group, bool flag) {
    uint32_t any;
    asm volatile(
        "{\n.reg .pred flag, any;\nsetp.ne.u32 flag, %1, 0;\nbar.red.or.pred any, %2, 128, flag;\n"
        "selp.u32 %0, 1, 0, any;\n}"
        : "=r"(any)
        : "r"(uint32_t(flag)), "r"(1 + group)
        : "memory");
    return any;
}

__device__ inline void store_matrices(uint32_t address, const uint32_t (&m)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(m[0]), "r"(m[1]),
                 "r"(m[2]), "r"(m[3])
                 : "memory");
}
// Where a warpgroup puts its results in bf16: in blocks of 64 columns, whose rows have 128 bytes and are swizzled. A
// wide tile's blocks take turns in the place that there is; `first` is the first block that is there now.
template <class Tiling>
struct ResultTile {
    static constexpr int block_bytes = Tiling::rows * 128;
    uint32_t address;
    int row, column;  // the place of the tile in c
    int first = 0;

    // stmatrix and ldmatrix take 16 rows of two neighbouring blocks of 8 columns, n and n + 1, of which the lanes of a
    // warp hold what wgmma gives them. This lane's address is that of row l%16 of block n + l/16.
    __device__ uint32_t at(int m, int n) const {
        const int lane = threadIdx.x % 32, r = 64 * m + threadIdx.x / 32 % 4 * 16 + lane % 16;
        return address + (n / 8 - first) * block_bytes + r * 128 + ((n % 8 + lane / 16) ^ (r % 8)) * 16;
    }
    // Calls f(block, its address) for each block of 64 columns that is there now.
    template <class F>
    __device__ void each_block(F f) const {
#pragma unroll
        for (int i = 0; i < Tiling::out_blocks; i++)
            if (first + i < Tiling::columns_of_64) f(first + i, address + i * block_bytes);
    }
    __device__ void load(const CUtensorMap& map, uint32_t barrier) const {
        arrive_expecting(barrier, Tiling::out_bytes);
        each_block([&](int i, uint32_t to) { copy_box(to, map, column + 64 * i, 0, row, 0, barrier); });
    }
    // All threads of the warpgroup call it when they have written their part.
    __device__ void store(const CUtensorMap& map, int group, bool leads) const {
        fence_for_copies();
        wait_for_group(group);
        if (!leads) return;
        each_block([&](int i, uint32_t from) { store_box(map, column + 64 * i, 0, row, 0, from); });
        commit_stores();
    }
    // Writes word(m, n, i) for the sums i and i + 1 of each block of 8 columns.
    template <class Word>
    __device__ void fill(Word word) const {
#pragma unroll
        for (int m = 0; m < Tiling::rows / 64; m++)
            each_block([&](int block, uint32_t) {
#pragma unroll
                for (int n = 8 * block; n < 8 * block + 8; n += 2)
                    store_matrices(at(m, n), {word(m, n, 0), word(m, n, 2), word(m, n + 1, 0), word(m, n + 1, 2)});
            });
    }
};

// Of 16 rows and 8 columns of sums, wgmma gives four to each lane: columns 2 (t%4) and 2 (t%4) + 1 of one row, and of
// the row 8 below. This is the first of these rows, within a tile, for thread t of the two warpgroups.
template <class Tiling>
__device__ inline int row_of(int t, int m) {
    return t / 128 * Tiling::rows + 64 * m + t % 128 / 32 * 16 + t % 32 / 4;
}

// ---- the kernel -----------------------------------------------------------------------------------------------------

// One lane runs it for the whole block.
template <class Tiling, bool columns_a, bool columns_b>
__device__ inline void bring_operands(const ProductMemory<Tiling, columns_a, columns_b>& at, const HopperOperands& p) {
    RingPlace<Tiling::stages> place;
    p.work.each_piece(p.cluster(), [&](const Piece& piece) {
        const StepsInTurns turns(p.work, piece);
        for (int i = 0; i < piece.steps; i++, place.next()) {
            const uint32_t full = at.full(place.stage);
            const int k         = 64 * turns.step(p.cluster(), i);
            const auto a        = at.a(place.stage);
            const auto b        = at.b(place.stage);
            // When every block of the cluster has read what was there:
            wait_for_phase(at.empty(place.stage), place.parity ^ 1);
            arrive_expecting(full, Tiling::stage_bytes);
            a.each_box(0, p.row(piece) * Tiling::M, k,
                       [&](uint32_t to, int column, int row) { copy_box(to, p.a, column, 0, row, 0, full); });
            for (int part = 0; part < 2; part++)
                b.each_box(part, piece.column * Tiling::N, k, [&](uint32_t to, int column, int row) {
                    if (p.together == 1)
                        copy_box(to, p.b, column, 0, row, 0, full);
                    else if (part == p.in_cluster())
                        copy_box_to_both(to, p.b, column, 0, row, 0, full);
                });
        }
    });
}

// The sums that a thread holds of its warpgroup's half of a tile, a part for every 64 rows.
template <class Tiling>
struct TileSums {
    static constexpr int parts = Tiling::rows / 64;
    float c[parts][Tiling::N / 2];
    float of_row[parts][4];  // sums of two rows of a: [0] and [1] of the first, [2] and [3] of the one 8 below
};

// Multiplies a piece of a tile. Products of one stage are still under way when those of the next one are issued.
template <class Tiling, bool columns_a, bool columns_b>
__device__ inline void multiply_piece(TileSums<Tiling>& sums, const ProductMemory<Tiling, columns_a, columns_b>& at,
                                      const HopperOperands& p, RingPlace<Tiling::stages>& place, const Piece& piece,
                                      int group) {
    constexpr int parts = TileSums<Tiling>::parts;
    int before          = 0;
    const auto release  = [&](int stage) {
        __syncwarp();
        const int lane = threadIdx.x % 32;
        if (p.together > 1 && lane < p.together) arrive_in_block(at.empty(stage), lane);
        if (p.together == 1 && lane == 0) arrive(at.empty(stage));
    };
    for (int i = 0; i < piece.steps; i++) {
        const auto a     = at.a(place.stage);
        const auto b     = at.b(place.stage);
        const auto row_a = [&](int m, int k) { return a.matrix(group * Tiling::rows + 64 * m, k); };
        const bool adds  = i > 0;
        wait_for_phase(at.full(place.stage), place.parity);
        // The sum of a row of a is its product with a column of ones.
        if (Tiling::epilogue == Epilogue::fp32_sums && p.sums_rows(piece)) {
            begin_products();
#pragma unroll
            for (int k = 0; k < 64; k += 16)
#pragma unroll
                for (int m = 0; m < parts; m++)
                    wgmma<false, columns_a>(Constant<8>{}, sums.of_row[m], row_a(m, k), matrix_descriptor(at.out(0), 0),
                                            adds || k > 0);
            commit_products();
        }
        begin_products();
#pragma unroll
        for (int k = 0; k < 64; k += 16)
#pragma unroll
            for (int m = 0; m < parts; m++) {
                constexpr int at_once = Tiling::N < 256 ? Tiling::N : 256;
                wgmma<columns_b, columns_a>(Constant<at_once>{}, sums.c[m], row_a(m, k), b.matrix(0, k), adds || k > 0);
                if constexpr (at_once < Tiling::N)
                    wgmma<columns_b, columns_a>(Constant<Tiling::N - at_once>{}, sums.c[m] + at_once / 2, row_a(m, k),
                                                b.matrix(at_once, k), adds || k > 0);
            }
        commit_products();
        if (adds) {
            wait_for_products<1>();
            release(before);
        }
        before = place.stage;
        place.next();
    }
    wait_for_products<0>();
#pragma unroll
    for (int m = 0; m < parts; m++) {
        pin(sums.c[m]);
        if (Tiling::epilogue == Epilogue::fp32_sums) pin(sums.of_row[m]);
    }
    release(before);
}

// Calls f(i, x) for each four sums that a thread holds of 16 rows and 8 columns; i counts them.
template <class Tiling, class F>
__device__ inline void each_four(TileSums<Tiling>& sums, F f) {
#pragma unroll
    for (int m = 0; m < TileSums<Tiling>::parts; m++)
#pragma unroll
        for (int n = 0; n < Tiling::N / 8; n++) f(m * (Tiling::N / 8) + n, &sums.c[m][4 * n]);
}

// Completes a tile that blocks share. Each warpgroup calls it for its half. Blocks that come before the last one keep
// their sums in global memory and get false. The last one adds all of them in the order of the blocks, and gets true.
template <class Tiling>
__device__ inline bool complete(TileSums<Tiling>& sums, const HopperOperands& p, const Piece& piece, int group,
                                bool leads) {
    const int t        = threadIdx.x - 128;
    const auto slot_of = [&](int slot) { return slot * p.together + p.in_cluster(); };
    const auto kept    = [&](int slot) {
        return reinterpret_cast<float4*>(p.pieces + int64_t(slot_of(slot)) * Tiling::M * Tiling::N) + t;
    };
    // Of the four lanes that have the sum of a row, the first keeps it.
    const bool has_row_sums  = Tiling::epilogue == Epilogue::fp32_sums && p.sums_rows(piece) && t % 4 == 0;
    const auto kept_row_sums = [&](int slot, int m) {
        return p.piece_row_sums + slot_of(slot) * Tiling::M + row_of<Tiling>(t, m);
    };
    const int cluster = p.cluster(), first = p.work.first_block(piece.tile),
              others      = p.work.last_block(piece.tile) - first;
    uint32_t* const ended = p.ended + 2 * ((piece.tile - p.work.whole) * p.together + p.in_cluster()) + group;

    // If all other pieces are there, the tile's first or second block need not keep its own: the sum begins with these
    // two, and p0 + p1 has the bits of p1 + p0.
    const bool in_front = cluster - first <= 1;
    const bool keeps    = !in_front || !any_of_group(group, leads && atomicAdd(ended, 0) == uint32_t(others));
    if (keeps) {
        each_four(sums, [to = kept(piece.slot)](int i, const float* x) { to[256 * i] = {x[0], x[1], x[2], x[3]}; });
        if (has_row_sums)
            for (int m = 0; m < TileSums<Tiling>::parts; m++)
                for (int i = 0; i < 2; i++) kept_row_sums(piece.slot, m)[8 * i] = sums.of_row[m][2 * i];
        __threadfence();
        wait_for_group(group);
    }
    // The last piece's increment makes it 0 again.
    if (!any_of_group(group, leads && atomicInc(ended, others) == uint32_t(others))) return false;
    __threadfence();

    if (keeps) {  // the sum starts from -0, because -0 + x is x also for x = -0, and 0 + x is not
        each_four(sums, [](int, float* sum) { sum[0] = sum[1] = sum[2] = sum[3] = -0.f; });
        for (auto& row : sums.of_row) row[0] = row[2] = -0.f;
    }
#pragma unroll 1
    for (int block = first; block <= first + others; block++) {
        if (!keeps && block == cluster) continue;
        const int slot = p.work.slot(block, piece.tile);
        each_four(sums, [from = kept(slot)](int i, float* sum) {
            const float4 x = __ldcg(from + 256 * i);
            sum[0] += x.x;
            sum[1] += x.y;
            sum[2] += x.z;
            sum[3] += x.w;
        });
        if (has_row_sums)
            for (int m = 0; m < TileSums<Tiling>::parts; m++)
                for (int i = 0; i < 2; i++) sums.of_row[m][2 * i] += __ldcg(kept_row_sums(slot, m) + 8 * i);
    }
    return true;
}

// Stores the tile in fp32.
template <class Tiling>
__device__ inline void end_in_fp32(const HopperOperands& p, const TileSums<Tiling>& sums, const Piece& piece) {
    const int t = threadIdx.x - 128;
#pragma unroll
    for (int m = 0; m < TileSums<Tiling>::parts; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = p.row(piece) * Tiling::M + row_of<Tiling>(t, m) + 8 * i;
            if (row >= p.M) continue;
            const auto column     = [&](int n) { return piece.column * Tiling::N + 8 * n + t % 4 * 2; };
            const auto at         = [&](int n) { return p.sums + int64_t(row) * p.N + column(n); };
            constexpr int at_once = 8;  // loads that are under way together
#pragma unroll
            for (int first = 0; first < Tiling::N / 8; first += at_once) {
                Floats<2> before[at_once]{};
#pragma unroll
                for (int n = 0; n < at_once; n++)
                    if (p.adds && column(first + n) < p.N) before[n] = load<2>(at(first + n));
#pragma unroll
                for (int n = 0; n < at_once; n++) {
                    const float* c = sums.c[m] + 4 * (first + n) + 2 * i;
                    const Floats<2> sum =
                        p.adds ? Floats<2>{before[n][0] + c[0], before[n][1] + c[1]} : Floats<2>{c[0], c[1]};
                    if (column(first + n) < p.N) store(at(first + n), sum);
                }
            }
            if (p.sums_rows(piece) && t % 4 == 0) p.row_sums[row] = sums.of_row[m][2 * i];
        }
}

template <class Tiling>
__device__ inline void add_bias(TileSums<Tiling>& sums, const HopperOperands& p, int column) {
#pragma unroll
    for (int n = 0; n < Tiling::N / 8; n++) {
        const int at         = column + 8 * n + threadIdx.x % 4 * 2;
        const Floats<2> bias = at < p.N ? load<2>(p.bias + at) : Floats<2>{};
        for (auto& part : sums.c)
#pragma unroll
            for (int i = 0; i < 4; i++) part[4 * n + i] += bias[i % 2];
    }
}

// Stores a tile times gelu's slope in bf16. The slope's argument, `pre`, is where the results go.
template <class Tiling>
__device__ inline void end_in_slope(const HopperOperands& p, const TileSums<Tiling>& sums,
                                    const ResultTile<Tiling>& result, int group, bool leads) {
    for_form(p.form, [&](auto form) {
        constexpr Gelu kind = decltype(form)::value;
#pragma unroll
        for (int m = 0; m < TileSums<Tiling>::parts; m++)
#pragma unroll
            for (int n = 0; n < Tiling::N / 8; n += 2) {
                uint32_t words[4];
                load_matrices(words, result.at(m, n));
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float* c      = sums.c[m] + 4 * (n + i / 2) + 2 * (i % 2);
                    const Floats<2> pre = unpack<2, bf16>(words[i]);
                    words[i]            = bf16_pair(c[0] * gelu_slope_in_product<kind>(pre[0]),
                                                    c[1] * gelu_slope_in_product<kind>(pre[1]));
                }
                __syncwarp();  // all lanes have loaded what they store over
                store_matrices(result.at(m, n), words);
            }
    });
    result.store(p.c, group, leads);
}

// Stores a tile in bf16, or gelu of it, after adding the bias.
template <class Tiling>
__device__ inline void end_in_bf16(const HopperOperands& p, TileSums<Tiling>& sums, const ResultTile<Tiling>& result,
                                   int group, bool leads) {
    const auto wait_for_room = [&] {
        if (leads) wait_until_read();
        wait_for_group(group);
    };
    const auto word = [&](int m, int n, int i) { return bf16_pair(sums.c[m][4 * n + i], sums.c[m][4 * n + i + 1]); };
    if (p.bias) add_bias(sums, p, result.column);
    if constexpr (Tiling::epilogue == Epilogue::bf16_sums) {
#pragma unroll
        for (int first = 0; first < Tiling::columns_of_64; first += Tiling::out_blocks) {
            const ResultTile<Tiling> part{result.address, result.row, result.column, first};
            wait_for_room();
            part.fill(word);
            part.store(p.c, group, leads);
        }
    } else {
        if (p.keeps_pre) {
            wait_for_room();
            result.fill(word);
            result.store(p.pre, group, leads);
        }
        wait_for_room();
        for_form(p.form, [&](auto form) {
            constexpr Gelu kind = decltype(form)::value;
            result.fill([&](int m, int n, int i) {
                const float* c = sums.c[m] + 4 * n + i;
                return bf16_pair(gelu_in_product<kind>(c[0]), gelu_in_product<kind>(c[1]));
            });
        });
        result.store(p.c, group, leads);
    }
}

template <class Tiling, bool columns_a, bool columns_b>
__device__ inline void compute_product(const ProductMemory<Tiling, columns_a, columns_b>& at, const HopperOperands& p) {
    constexpr Epilogue epilogue = Tiling::epilogue;
    const int group             = computing_warpgroup();
    const bool leads            = threadIdx.x % 128 == 0;
    RingPlace<Tiling::stages> place;
    uint32_t pre_parity = 0;
    p.work.each_piece(p.cluster(), [&](const Piece& piece) {
        const ResultTile<Tiling> result{at.out(group), p.row(piece) * Tiling::M + group * Tiling::rows,
                                        piece.column * Tiling::N};
        const bool alone    = piece.slot < 0;
        const auto load_pre = [&] {
            if (epilogue != Epilogue::bf16_slope || !leads) return;
            wait_until_read();
            result.load(p.pre, at.pre_full(group));
        };
        if (alone) load_pre();
        TileSums<Tiling> sums;
        multiply_piece(sums, at, p, place, piece, group);
        if (!alone) {
            if (!complete(sums, p, piece, group, leads)) return;
            load_pre();
        }
        if constexpr (epilogue == Epilogue::fp32_sums) {
            end_in_fp32(p, sums, piece);
        } else if constexpr (epilogue == Epilogue::bf16_slope) {
            wait_for_phase(at.pre_full(group), pre_parity);
            pre_parity ^= 1;
            end_in_slope(p, sums, result, group, leads);
        } else {
            end_in_bf16(p, sums, result, group, leads);
        }
    });
    if (leads) wait_for_stores();
    if (p.together > 1) wait_for_cluster();  // the other block may still release stages of this one
}

template <class Tiling, bool columns_a, bool columns_b>
__global__ void __launch_bounds__(hopper_threads, 1) product_hopper_kernel(const __grid_constant__ HopperOperands p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    __shared__ uint64_t barriers[Tiling::barriers];
    const ProductMemory<Tiling, columns_a, columns_b> at(barriers);
    // The other block's barriers are used from now on.
    const auto begin = [&] {
        if (p.together > 1) wait_for_cluster();
    };
    divide_block<40, 232>([&] { at.init(p.together); },
                          [&] {
                              begin();
                              if (threadIdx.x == 0) bring_operands(at, p);
                              __syncwarp();
                          },
                          [&] {
                              begin();
                              compute_product(at, p);
                          });
#endif
}

}  // namespace gpu
