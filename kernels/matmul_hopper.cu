// matmul_hopper.cu - the ways to compute a product with our kernel for Hopper, and how to launch one
//
// Products are cuBLASLt's unless somebody measured that one of these ways is faster (`--tune`, cublaslt.cuh). A way is
// the size of the tiles, the number of blocks, whether pairs of blocks load b together, and whether blocks share tiles.
// products.json keeps it, so the bits do not depend on the GPU.
#include "matmul_hopper.h"
#ifdef __CUDACC__
#include "matmul_hopper.cuh"

namespace gpu {

std::string HopperWay::str() const {
    return fmt::format("hopper {}x{}, {} blocks{}{}", M, N, blocks, pairs ? " in pairs" : "",
                       split ? ", split sums" : "");
}

// Calls f(M, N) for each size of tiles that there is.
template <class F>
static void each_hopper_tile(F f) {
    f(Constant<128>{}, Constant<256>{});
    f(Constant<128>{}, Constant<192>{});
    f(Constant<128>{}, Constant<320>{});
    f(Constant<256>{}, Constant<128>{});
}
static int blocks_together(const HopperWay& way) { return way.pairs ? 2 : 1; }
// The work of clusters of blocks.
static TileWork work_of(const Product& p, const HopperWay& way) {
    const int together = blocks_together(way);
    return divide_tiles(ceil_div(p.M, together * way.M), ceil_div(p.N, way.N), ceil_div(p.K, 64), way.blocks / together,
                        way.split);
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
// Whether no number is too large for an int, and where tiles are shared, each cluster gets a step and the pieces find
// room.
static bool divides_well(const Product& p, const HopperWay& way) {
    const int together = blocks_together(way), clusters = way.blocks / together;
    const int64_t tiles  = ceil_div(p.M, together * way.M) * ceil_div(p.N, way.N),
                  shared = (tiles - unshared_tiles(tiles, clusters)) * ceil_div(p.K, 64);
    if (tiles > INT32_MAX / 2) return false;
    return !way.split || (shared >= clusters && shared < INT32_MAX && bytes_of_pieces(way) <= workspace_bytes);
}
std::optional<HopperWay> read_hopper_way(const std::string& text) {
    HopperWay way;
    if (std::sscanf(text.c_str(), "hopper %dx%d, %d blocks", &way.M, &way.N, &way.blocks) != 3) return {};
    way.pairs = text.find(" in pairs") != std::string::npos;
    way.split = text.find(", split") != std::string::npos;
    return way.str() == text ? std::optional(way) : std::nullopt;
}

// Calls f(tiling, columns_a, columns_b) with what compute this product in this way, if there is a kernel for it.
template <class F>
static void for_hopper_kernel(const Product& p, const HopperWay& way, F f) {
    constexpr Constant<0> rows{};
    constexpr Constant<1> columns{};
    each_hopper_tile([&](auto M, auto N) {
        const auto with = [&](auto epilogue, auto a, auto b) {
            using Tiling = ProductTiling<M, N, static_cast<Epilogue>(int(epilogue))>;
            if constexpr (Tiling::exists) f(Tiling{}, a, b);
        };
        if (way.M != M || way.N != N) return;
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
bool can_take(const Product& p, const HopperWay& way) {
    bool exists = false;
    for_hopper_kernel(p, way, [&](auto, auto, auto) { exists = true; });
    return exists && multiplies_on_hopper(p) && way.blocks > 0 && way.blocks <= 1024 &&
           way.blocks % blocks_together(way) == 0 && divides_well(p, way);
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
        for (const bool pairs : {false, true})
            for (const bool split : {false, true}) {
                HopperWay way{M, N, q.limits.multiProcessorCount, pairs, split};
                const int together = blocks_together(way), tiles = work_of(p, way).tiles();
                if (pairs && p.M <= M) continue;
                if (!split) way.blocks = std::min(way.blocks, together * tiles);
                way.blocks -= way.blocks % together;
                while (split && bytes_of_pieces(way) > workspace_bytes) way.blocks -= together;
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
        using Memory             = ProductMemory<Tiling, across[0], across[1]>;
        x.a = map_of_matrix(o.a, across[0] ? p.K : p.M, across[0] ? p.M : p.K, Memory::A::box_rows);
        x.b = map_of_matrix(o.b, across[1] ? p.K : p.N, across[1] ? p.N : p.K, Memory::B::box_rows);
        if (p.out == DType::BF16) x.c = map_of_matrix(o.c, p.M, p.N, Tiling::rows);
        if (p.slope || p.keeps_pre) x.pre = map_of_matrix(o.pre, p.M, p.N, Tiling::rows);
        x.sums           = p.out == DType::F32 ? static_cast<float*>(o.c) : nullptr;
        x.bias           = p.bias ? static_cast<const bf16*>(o.bias) : nullptr;
        x.form           = p.slope.value_or(p.gelu.value_or(Gelu::tanh));
        x.keeps_pre      = p.keeps_pre;
        x.adds           = p.accumulate;
        x.row_sums       = p.row_sums ? static_cast<float*>(o.bias) : nullptr;
        x.pieces         = static_cast<float*>(workspace);
        x.piece_row_sums = x.pieces + int64_t(2 * way.blocks) * way.M * way.N;
        x.ended          = q.counters;
        x.M              = int(p.M);
        x.N              = int(p.N);
        x.together       = blocks_together(way);
        x.work           = work_of(p, way);
        launch(product_hopper_kernel<Tiling, across[0], across[1]>,
               Grid(way.blocks, hopper_threads, Tiling::shared).in_clusters(x.together), q, x);
    });
}

}  // namespace gpu
#endif
