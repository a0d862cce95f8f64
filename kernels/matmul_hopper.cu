// matmul_hopper.cu - products with the instructions of Hopper (sm_90a): a and b in bf16, sums in fp32
//
//   c (M,N) = a (M,K) · b (K,N)   with the same epilogues as cuBLASLt's: a bias, gelu, gelu', +=, and the sums of a's
//   rows
//
// Products are cuBLASLt's unless somebody measured that this kernel is faster (`--tune`, cublaslt.cuh). It is built
// like attention_hopper.cuh:
//
//   tiles             a block computes a tile of c at a time, for example 128 × 256, and takes one tile after another
//   a producer warp   loads 64 columns of a and rows of b at a time with the Tensor Memory Accelerator (TMA), through a
//                     ring of stages
//   two warpgroups    own half of the tile's rows each, and multiply a stage when it is there. Neither waits for the
//                     other one, so that one can write its results while the other still multiplies
//   results           in bf16 go through shared memory, from where TMA writes them while the block goes on. Those in
//                     fp32, where K is long, are written by the threads that have them
//
// The blocks can share tiles (tile_work.h), whose pieces a second kernel adds in a fixed order. The number of blocks is
// a part of the choice that is kept in products.json, so the bits do not depend on the GPU.
//
// Only machine code for sm_90a has these kernels. README.md has their floor and what the emulator counts.
#include "matmul_hopper.h"
#ifdef __CUDACC__
#include "gelu.h"
#include "hopper.cuh"
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

// A block computes M × N of c at a time, of which each warpgroup has half of the rows. It has as many stages as fit,
// with 64 of K each.
template <int M_, int N_, Epilogue epilogue_>
struct ProductTiling {
    static constexpr int M = M_, N = N_, rows = M / 2;
    static constexpr Epilogue epilogue = epilogue_;
    static constexpr int stage_bytes   = (M + N) * 128;
    // Of each warpgroup: its results, if they are bf16; else half of the 8 columns of 64 ones that both read.
    static constexpr int out_bytes     = epilogue == Epilogue::fp32_sums ? 512 : rows * N * 2;
    static constexpr int stages        = ((226 << 10) - 1024 - 2 * out_bytes) / stage_bytes;
    static constexpr int shared        = 1024 + stages * stage_bytes + 2 * out_bytes;
    static constexpr int barriers      = 2 * stages + 2;
    static_assert(M % 128 == 0 && N % 64 == 0 && stages >= 3);
};

struct HopperOperands {
    CUtensorMap a, b, c, pre;  // c and pre where results are bf16
    void* out;                 // c (M, N)
    bf16* pre_data;            // pre (M, N), read for a slope
    const bf16* bias;          // (N), may be null
    Gelu form;                 // of gelu or its slope
    bool keeps_pre;            // pre is written
    bool adds;                 // += in place of =, where results are fp32
    float* row_sums;           // (M), may be null
    float* pieces;             // a tile of sums for each slot, as the threads hold them
    float* piece_row_sums;     // M sums for each slot
    int M, N;
    TileWork work;
};

// ---- shared memory --------------------------------------------------------------------------------------------------

// Where a part of an operand lies in shared memory: 64 of K of so many lines. A line is a row of a, or a column of b.
// Shared memory has rows of 128 bytes, which are swizzled. A row holds 64 of K of one line (K-major), or with `across`
// 64 lines for one of K (MN-major); then the tile is lines/64 blocks of 64 such rows.
template <int lines, bool across>
struct OperandTile {
    static constexpr int block_bytes = across ? 64 * 128 : 0;
    uint32_t address;
    __device__ void copy(const CUtensorMap& map, int line, int k, uint32_t barrier) const {
        if constexpr (across)
#pragma unroll
            for (int i = 0; i < lines / 64; i++)
                copy_box(address + i * block_bytes, map, line + 64 * i, 0, k, 0, barrier);
        else
            copy_box(address, map, k, 0, line, 0, barrier);
    }
    // The lines from `line` on, a multiple of 64, and the 16 of K from k on.
    __device__ uint64_t matrix(int line, int k) const {
        return across ? matrix_descriptor(address + line / 64 * block_bytes + k * 128, block_bytes)
                      : matrix_descriptor(address + line * 128 + k * 2, 0);
    }
};
inline CUtensorMap map_of_operand(const void* x, int64_t rows, int64_t columns, int lines, bool across) {
    const cuuint64_t bytes = cuuint64_t(columns) * sizeof(bf16);
    return tensor_map(static_cast<const bf16*>(x), {cuuint64_t(columns), 1, cuuint64_t(rows), 1},
                      {bytes, bytes, cuuint64_t(rows) * bytes}, {64, 1, across ? 64u : cuuint32_t(lines), 1});
}

template <class Tiling, bool columns_a, bool columns_b>
struct ProductMemory {
    using A = OperandTile<Tiling::M, columns_a>;
    using B = OperandTile<Tiling::N, columns_b>;
    uint32_t tiles, barriers;

    __device__ explicit ProductMemory(const uint64_t* barriers)
        : tiles((uint32_t(__cvta_generic_to_shared(shared_memory)) + 1023) / 1024 * 1024),
          barriers(uint32_t(__cvta_generic_to_shared(barriers))) {}
    __device__ A a(int stage) const { return {tiles + stage * Tiling::stage_bytes}; }
    __device__ B b(int stage) const { return {a(stage).address + Tiling::M * 128}; }
    // The results of a warpgroup in bf16; or, from group 0 on, a matrix of 8 columns of ones, in the layout of b.
    __device__ uint32_t out(int group) const {
        return tiles + Tiling::stages * Tiling::stage_bytes + group * Tiling::out_bytes;
    }
    __device__ uint32_t full(int stage) const { return barriers + 16 * stage; }
    __device__ uint32_t empty(int stage) const { return full(stage) + 8; }
    __device__ uint32_t pre_full(int group) const { return barriers + 16 * Tiling::stages + 8 * group; }
    __device__ void init() const {
        for (int i = 0; i < Tiling::stages; i++) {
            init_barrier(full(i), 1);
            init_barrier(empty(i), 8);
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

// ---- epilogues
// --------------------------------------------------------------------------------------------------------

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
// Calls f(form), where form.value is that of the product at compile time.
template <class F>
__device__ inline void for_form(Gelu form, F f) {
    if (form == Gelu::tanh)
        f(std::integral_constant<Gelu, Gelu::tanh>{});
    else
        f(std::integral_constant<Gelu, Gelu::erf>{});
}

// All threads of a warpgroup wait for each other.
__device__ inline void wait_for_group(int group) { asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory"); }

__device__ inline void store_matrices(uint32_t address, const uint32_t (&m)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(m[0]), "r"(m[1]),
                 "r"(m[2]), "r"(m[3])
                 : "memory");
}
// Where a warpgroup puts its results in bf16: in blocks of 64 columns, whose rows have 128 bytes and are swizzled.
template <class Tiling>
struct ResultTile {
    static constexpr int blocks = Tiling::N / 64, block_bytes = Tiling::rows * 128;
    uint32_t address;
    int row, column;  // where it lies in c

    // stmatrix and ldmatrix take 16 rows of two neighbouring blocks of 8 columns, n and n + 1, of which the lanes of a
    // warp hold what wgmma gives them. This lane's address is that of row l%16 of block n + l/16.
    __device__ uint32_t at(int m, int n) const {
        const int lane = threadIdx.x % 32, r = 64 * m + threadIdx.x / 32 % 4 * 16 + lane % 16;
        return address + n / 8 * block_bytes + r * 128 + ((n % 8 + lane / 16) ^ (r % 8)) * 16;
    }
    __device__ void load(const CUtensorMap& map, uint32_t barrier) const {
        arrive_expecting(barrier, Tiling::out_bytes);
#pragma unroll
        for (int i = 0; i < blocks; i++) copy_box(address + i * block_bytes, map, column + 64 * i, 0, row, 0, barrier);
    }
    // All threads of the warpgroup call it when they have written their part.
    __device__ void store(const CUtensorMap& map, int group, bool leads) const {
        fence_for_copies();
        wait_for_group(group);
        if (!leads) return;
#pragma unroll
        for (int i = 0; i < blocks; i++) store_box(map, column + 64 * i, 0, row, 0, address + i * block_bytes);
        commit_stores();
    }
    // Writes word(m, n, i) for the sums i and i + 1 of each block.
    template <class Word>
    __device__ void fill(Word word) const {
#pragma unroll
        for (int m = 0; m < Tiling::rows / 64; m++)
#pragma unroll
            for (int n = 0; n < Tiling::N / 8; n += 2)
                store_matrices(at(m, n), {word(m, n, 0), word(m, n, 2), word(m, n + 1, 0), word(m, n + 1, 2)});
    }
};

// Of 16 rows and 8 columns of sums, wgmma gives four to each lane: columns 2 (t%4) and 2 (t%4) + 1 of one row, and of
// the row 8 below. This is the first of these rows, within a tile, for thread t of the two warpgroups.
template <class Tiling>
__device__ inline int row_of(int t, int m) {
    return t / 128 * Tiling::rows + 64 * m + t % 128 / 32 * 16 + t % 32 / 4;
}

// Stores the epilogue of four sums to c, as a lane holds them: two in this row, two 8 rows below.
template <Epilogue epilogue>
__device__ inline void store_four(const HopperOperands& p, int row, int column, const float4& four) {
    if (column >= p.N) return;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (row + 8 * i >= p.M) continue;
        const int64_t at = int64_t(row + 8 * i) * p.N + column;
        Floats<2> c      = {i ? four.z : four.x, i ? four.w : four.y};
        if constexpr (epilogue == Epilogue::fp32_sums) {
            float* const to = static_cast<float*>(p.out) + at;
            if (p.adds) {
                const Floats<2> before = load<2>(to);
                c                      = {before[0] + c[0], before[1] + c[1]};
            }
            store(to, c);
        } else {
            if (p.bias) {
                const Floats<2> bias = load<2>(p.bias + column);
                c                    = {c[0] + bias[0], c[1] + bias[1]};
            }
            if (epilogue == Epilogue::bf16_gelu && p.keeps_pre) store(p.pre_data + at, c);
            if (epilogue == Epilogue::bf16_gelu || epilogue == Epilogue::bf16_slope)
                for_form(p.form, [&](auto form) {
                    constexpr Gelu kind = decltype(form)::value;
                    if (epilogue == Epilogue::bf16_gelu) {
                        c = {gelu_in_product<kind>(c[0]), gelu_in_product<kind>(c[1])};
                    } else {
                        const Floats<2> pre = load<2>(p.pre_data + at);
                        c = {c[0] * gelu_slope_in_product<kind>(pre[0]), c[1] * gelu_slope_in_product<kind>(pre[1])};
                    }
                });
            store(static_cast<bf16*>(p.out) + at, c);
        }
    }
}

// ---- the kernel -----------------------------------------------------------------------------------------------------

// One lane runs it for the whole block.
template <class Tiling, bool columns_a, bool columns_b>
__device__ inline void bring_operands(const ProductMemory<Tiling, columns_a, columns_b>& at, const HopperOperands& p) {
    RingPlace<Tiling::stages> place;
    p.work.each_piece(blockIdx.x, [&](const Piece& piece) {
        const StepsInTurns turns(p.work, piece);
        for (int i = 0; i < piece.steps; i++, place.next()) {
            const uint32_t full = at.full(place.stage);
            const int k         = 64 * turns.step(blockIdx.x, i);
            wait_for_phase(at.empty(place.stage), place.parity ^ 1);
            arrive_expecting(full, Tiling::stage_bytes);
            at.a(place.stage).copy(p.a, piece.row * Tiling::M, k, full);
            at.b(place.stage).copy(p.b, piece.column * Tiling::N, k, full);
        }
    });
}

// What a thread holds of its warpgroup's half of a tile, for every 64 rows.
template <class Tiling>
struct TileSums {
    static constexpr int parts = Tiling::rows / 64;
    float c[parts][Tiling::N / 2];
    float of_row[parts][4];  // of rows of a: [0] and [1] are both that of the first row, [2] and [3] of the one 8 below
};

// Multiplies a piece of a tile. Products of one stage are still under way when those of the next one are issued.
template <class Tiling, bool columns_a, bool columns_b>
__device__ inline void multiply_piece(TileSums<Tiling>& sums, const ProductMemory<Tiling, columns_a, columns_b>& at,
                                      RingPlace<Tiling::stages>& place, const Piece& piece, int group, bool sums_rows) {
    constexpr int parts = TileSums<Tiling>::parts;
    int before          = 0;
    for (int i = 0; i < piece.steps; i++) {
        const auto a     = at.a(place.stage);
        const auto b     = at.b(place.stage);
        const auto row_a = [&](int m, int k) { return a.matrix(group * Tiling::rows + 64 * m, k); };
        const bool adds  = i > 0;
        wait_for_phase(at.full(place.stage), place.parity);
        // The sum of a row of a is its product with a column of ones.
        if (Tiling::epilogue == Epilogue::fp32_sums && sums_rows) {
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
            for (int m = 0; m < parts; m++)
                wgmma<columns_b, columns_a>(Constant<Tiling::N>{}, sums.c[m], row_a(m, k), b.matrix(0, k),
                                            adds || k > 0);
        commit_products();
        if (adds) {
            wait_for_products<1>();
            release(at.empty(before));
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
    release(at.empty(before));
}

// Stores the tile in fp32.
template <class Tiling>
__device__ inline void end_in_fp32(const HopperOperands& p, const TileSums<Tiling>& sums, const Piece& piece,
                                   bool sums_rows) {
    const int t = threadIdx.x - 128;
#pragma unroll
    for (int m = 0; m < TileSums<Tiling>::parts; m++) {
        const int row = piece.row * Tiling::M + row_of<Tiling>(t, m);
#pragma unroll
        for (int n = 0; n < Tiling::N / 8; n++) {
            const float* c = sums.c[m] + 4 * n;
            store_four<Epilogue::fp32_sums>(p, row, piece.column * Tiling::N + 8 * n + t % 4 * 2,
                                            {c[0], c[1], c[2], c[3]});
        }
        for (int i = 0; i < 2; i++)
            if (sums_rows && t % 4 == 0 && row + 8 * i < p.M) p.row_sums[row + 8 * i] = sums.of_row[m][2 * i];
    }
}

// Keeps the sums of a piece for add_pieces_kernel.
template <class Tiling>
__device__ inline void keep_sums(const HopperOperands& p, const TileSums<Tiling>& sums, const Piece& piece,
                                 bool sums_rows) {
    const int t      = threadIdx.x - 128;
    float4* const to = reinterpret_cast<float4*>(p.pieces + int64_t(piece.slot) * Tiling::M * Tiling::N) + t;
#pragma unroll
    for (int m = 0; m < TileSums<Tiling>::parts; m++) {
#pragma unroll
        for (int n = 0; n < Tiling::N / 8; n++) {
            const float* c                      = sums.c[m] + 4 * n;
            to[(m * (Tiling::N / 8) + n) * 256] = {c[0], c[1], c[2], c[3]};
        }
        for (int i = 0; i < 2; i++)
            if (Tiling::epilogue == Epilogue::fp32_sums && sums_rows && t % 4 == 0)
                p.piece_row_sums[piece.slot * Tiling::M + row_of<Tiling>(t, m) + 8 * i] = sums.of_row[m][2 * i];
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
    wait_for_room();
    if constexpr (Tiling::epilogue == Epilogue::bf16_sums) {
        result.fill(word);
    } else {
        if (p.keeps_pre) {
            result.fill(word);
            result.store(p.pre, group, leads);
            wait_for_room();
        }
        for_form(p.form, [&](auto form) {
            constexpr Gelu kind = decltype(form)::value;
            result.fill([&](int m, int n, int i) {
                const float* c = sums.c[m] + 4 * n + i;
                return bf16_pair(gelu_in_product<kind>(c[0]), gelu_in_product<kind>(c[1]));
            });
        });
    }
    result.store(p.c, group, leads);
}

template <class Tiling, bool columns_a, bool columns_b>
__device__ inline void compute_product(const ProductMemory<Tiling, columns_a, columns_b>& at, const HopperOperands& p) {
    constexpr Epilogue epilogue = Tiling::epilogue;
    const int group             = computing_warpgroup();
    const bool leads            = threadIdx.x % 128 == 0;
    RingPlace<Tiling::stages> place;
    uint32_t pre_parity = 0;
    p.work.each_piece(blockIdx.x, [&](const Piece& piece) {
        const ResultTile<Tiling> result{at.out(group), piece.row * Tiling::M + group * Tiling::rows,
                                        piece.column * Tiling::N};
        if (epilogue == Epilogue::bf16_slope && piece.slot < 0 && leads) {
            wait_until_read();
            result.load(p.pre, at.pre_full(group));
        }
        TileSums<Tiling> sums;
        const bool sums_rows = p.row_sums && piece.column == 0;
        multiply_piece(sums, at, place, piece, group, sums_rows);
        if (piece.slot >= 0) {
            keep_sums(p, sums, piece, sums_rows);
        } else if constexpr (epilogue == Epilogue::fp32_sums) {
            end_in_fp32(p, sums, piece, sums_rows);
        } else if constexpr (epilogue == Epilogue::bf16_slope) {
            wait_for_phase(at.pre_full(group), pre_parity);
            pre_parity ^= 1;
            end_in_slope(p, sums, result, group, leads);
        } else {
            end_in_bf16(p, sums, result, group, leads);
        }
    });
    if (leads) wait_for_stores();
}

template <class Tiling, bool columns_a, bool columns_b>
__global__ void __launch_bounds__(hopper_threads, 1) product_hopper_kernel(const __grid_constant__ HopperOperands p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    __shared__ uint64_t barriers[Tiling::barriers];
    const ProductMemory<Tiling, columns_a, columns_b> at(barriers);
    divide_block<40, 232>([&] { at.init(); },
                          [&] {
                              if (threadIdx.x == 0) bring_operands(at, p);
                              __syncwarp();
                          },
                          [&] { compute_product(at, p); });
#endif
}

// Adds the pieces of each tile that several blocks computed, in the order of these blocks, and stores it. A block adds
// an eighth of a tile.
template <class Tiling>
__global__ void __launch_bounds__(256) add_pieces_kernel(const __grid_constant__ HopperOperands p) {
    constexpr int parts = 8, across = Tiling::N / 8, fours = Tiling::rows / 64 * across;
    const TileWork& work = p.work;
    const int tile = work.whole + blockIdx.x / parts, part = blockIdx.x % parts, t = threadIdx.x;
    const int first = work.first_block(tile), last = work.last_block(tile);
    if (first == last) return;
    // Only the first block may have had another tile before this one.
    const int first_slot = work.slot(first, tile);
    const auto add_up    = [&](const auto* pieces, int stride, auto add) {
        auto sum = pieces[int64_t(first_slot) * stride];
        for (int block = first + 1; block <= last; block++) sum = add(sum, pieces[int64_t(2 * block) * stride]);
        return sum;
    };
    const Piece place = work.piece(tile, 0, 0);
    for (int i = part * fours / parts; i < (part + 1) * fours / parts; i++) {
        const float4 sum = add_up(reinterpret_cast<const float4*>(p.pieces) + i * 256 + t, Tiling::M * Tiling::N / 4,
                                  [](const float4& a, const float4& b) {
                                      return float4{a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
                                  });
        store_four<Tiling::epilogue>(p, place.row * Tiling::M + row_of<Tiling>(t, i / across),
                                     place.column * Tiling::N + i % across * 8 + t % 4 * 2, sum);
    }
    const int row = place.row * Tiling::M + t;
    if (p.row_sums && place.column == 0 && part == 0 && t < Tiling::M && row < p.M)
        p.row_sums[row] = add_up(p.piece_row_sums + t, Tiling::M, [](float a, float b) { return a + b; });
}

// ---- ways to launch it ----------------------------------------------------------------------------------------------

std::string HopperWay::str() const {
    return fmt::format("hopper {}x{}, {} blocks{}", M, N, blocks, split ? ", split sums" : "");
}

// Calls f(M, N) for each size of tiles that there is.
template <class F>
static void each_hopper_tile(F f) {
    f(Constant<128>{}, Constant<256>{});
    f(Constant<128>{}, Constant<192>{});
    f(Constant<256>{}, Constant<128>{});
}
template <class F>
static void for_hopper_tile(const HopperWay& way, F f) {
    each_hopper_tile([&](auto M, auto N) {
        if (way.M == M && way.N == N) f(M, N);
    });
}
static TileWork work_of(const Product& p, const HopperWay& way) {
    return divide_tiles(ceil_div(p.M, way.M), ceil_div(p.N, way.N), ceil_div(p.K, 64), way.blocks, way.split);
}
// The bytes of the pieces of shared tiles.
static size_t bytes_of_pieces(const HopperWay& way) {
    return way.split ? size_t(2 * way.blocks) * way.M * (way.N + 1) * sizeof(float) : 0;
}

// Whether the kernels can compute a product: in bf16, with rows that are multiples of 16 bytes, and with the epilogues
// that each kind of product has in a model. Products that fill no tile are left to cuBLASLt.
static bool multiplies_on_hopper(const Product& p) {
    if (p.in != DType::BF16 || p.alignment < 16 || std::min({p.M, p.N, p.K}) < 64 ||
        std::max({p.M, p.N, p.K}) > 1 << 30)
        return false;
    if ((p.a_transposed ? p.M : p.K) % 8 || (p.b_transposed ? p.K : p.N) % 8 || p.N % 8) return false;
    if (p.out == DType::F32)
        return p.a_transposed && !p.b_transposed && !p.bias && !p.gelu && !p.slope && !(p.accumulate && p.row_sums);
    if (p.a_transposed || p.accumulate || p.row_sums) return false;
    if (p.slope) return !p.b_transposed && !p.bias && !p.gelu;
    return !p.gelu || p.b_transposed;
}
// Whether each block gets a step, the pieces find room, and no number is too large for an int.
static bool shares_well(const Product& p, const HopperWay& way) {
    const int64_t tiles  = ceil_div(p.M, way.M) * ceil_div(p.N, way.N),
                  shared = (tiles - unshared_tiles(tiles, way.blocks)) * ceil_div(p.K, 64);
    return shared >= way.blocks && shared < INT32_MAX && bytes_of_pieces(way) <= workspace_bytes;
}
bool can_take(const Product& p, const HopperWay& way) {
    bool known = false;
    for_hopper_tile(way, [&](auto, auto) { known = true; });
    return known && multiplies_on_hopper(p) && way.blocks > 0 && way.blocks <= 1024 &&
           (!way.split || shares_well(p, way));
}
std::optional<HopperWay> read_hopper_way(const std::string& text) {
    HopperWay way;
    if (std::sscanf(text.c_str(), "hopper %dx%d, %d blocks", &way.M, &way.N, &way.blocks) != 3) return {};
    way.split = text.find(", split") != std::string::npos;
    return way.str() == text ? std::optional(way) : std::nullopt;
}

// Calls f(tiling, columns_a, columns_b) with what compute this product in this way.
template <class F>
static void for_hopper_kernel(const Product& p, const HopperWay& way, F f) {
    constexpr Constant<0> rows{};
    constexpr Constant<1> columns{};
    for_hopper_tile(way, [&](auto M, auto N) {
        const auto with = [&](auto epilogue, auto a, auto b) {
            f(ProductTiling<M, N, static_cast<Epilogue>(int(epilogue))>{}, a, b);
        };
        if (p.out == DType::F32)
            with(Constant<int(Epilogue::fp32_sums)>{}, columns, columns);
        else if (p.slope)
            with(Constant<int(Epilogue::bf16_slope)>{}, rows, columns);
        else if (p.gelu)
            with(Constant<int(Epilogue::bf16_gelu)>{}, rows, rows);
        else if (p.b_transposed)
            with(Constant<int(Epilogue::bf16_sums)>{}, rows, rows);
        else
            with(Constant<int(Epilogue::bf16_sums)>{}, rows, columns);
    });
}

bool has_hopper_products(const Queue& q) {
    if (!is_hopper(q)) return false;
    static const bool is_compiled =
        has_machine_code(product_hopper_kernel<ProductTiling<128, 256, Epilogue::bf16_sums>, false, false>);
    return is_compiled;
}

std::vector<HopperWay> hopper_ways(const Product& p, const Queue& q) {
    std::vector<HopperWay> ways;
    if (std::min(p.M, p.N) < 128 || !has_hopper_products(q)) return ways;
    each_hopper_tile([&](int M, int N) {
        for (const bool split : {false, true}) {
            HopperWay way{M, N, q.limits.multiProcessorCount, split};
            const int tiles = work_of(p, way).tiles();
            if (!split) way.blocks = std::min(way.blocks, tiles);
            while (split && bytes_of_pieces(way) > workspace_bytes) way.blocks--;
            if (can_take(p, way)) ways.push_back(way);
        }
    });
    return ways;
}

void run_on_hopper(const Product& p, const HopperWay& way, const Operands& o, void* workspace, Queue& q) {
    HopperOperands x{};
    for_hopper_kernel(p, way, [&](auto tiling, auto columns_a, auto columns_b) {
        using Tiling             = decltype(tiling);
        constexpr bool across[2] = {columns_a != 0, columns_b != 0};
        x.a = map_of_operand(o.a, across[0] ? p.K : p.M, across[0] ? p.M : p.K, Tiling::M, across[0]);
        x.b = map_of_operand(o.b, across[1] ? p.K : p.N, across[1] ? p.N : p.K, Tiling::N, across[1]);
        if (p.out == DType::BF16) x.c = map_of_operand(o.c, p.M, p.N, Tiling::rows, false);
        if (p.slope || p.keeps_pre) x.pre = map_of_operand(o.pre, p.M, p.N, Tiling::rows, false);
        x.bias           = p.bias ? static_cast<const bf16*>(o.bias) : nullptr;
        x.form           = p.slope.value_or(p.gelu.value_or(Gelu::tanh));
        x.keeps_pre      = p.keeps_pre;
        x.out            = o.c;
        x.pre_data       = static_cast<bf16*>(o.pre);
        x.adds           = p.accumulate;
        x.row_sums       = p.row_sums ? static_cast<float*>(o.bias) : nullptr;
        x.pieces         = static_cast<float*>(workspace);
        x.piece_row_sums = x.pieces + int64_t(2 * way.blocks) * way.M * way.N;
        x.M              = int(p.M);
        x.N              = int(p.N);
        x.work           = work_of(p, way);
        launch(product_hopper_kernel<Tiling, across[0], across[1]>, {way.blocks, hopper_threads, Tiling::shared}, q, x);
        if (way.split) launch(add_pieces_kernel<Tiling>, {8 * int64_t(x.work.tiles() - x.work.whole), 256}, q, x);
    });
}

}  // namespace gpu
#endif
