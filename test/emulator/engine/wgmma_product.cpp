// wgmma_product.cpp - the arithmetic of wgmma: 64 rows times up to 256 columns, 32 bytes deep
#include <array>
#include <utility>

#include "convert8.h"
#include "floats.h"
#include "wgmma.h"

namespace emu {
namespace {

using ptx::Type;

template <int Exponent> const float* table8() {
    static const auto table = [] {
        std::array<float, 256> all;
        for (int v = 0; v < 256; v++) all[size_t(v)] = from_fp8<Exponent>(uint8_t(v));
        return all;
    }();
    return table.data();
}

template <Type T> constexpr int kPerChunk = T == Type::tf32 ? 4 : T == Type::f16 || T == Type::bf16 ? 8 : 16;

template <Type T> inline void unpack(const std::byte* chunk, float* to) {
    constexpr int n = kPerChunk<T>;
    std::conditional_t<n == 4, uint32_t, std::conditional_t<n == 8, uint16_t, uint8_t>> v[n];
    std::memcpy(v, chunk, sizeof v);
    for (int k = 0; k < n; k++) {
        if constexpr (T == Type::tf32) to[k] = as_float(v[k] & ~0x1fffu);
        else if constexpr (T == Type::bf16) to[k] = bf16_to_float(v[k]);
        else if constexpr (T == Type::f16) to[k] = half_to_float(v[k]);
        else to[k] = table8 < T == Type::e4m3x2 ? 4 : 5 > ()[v[k]];
    }
}

// c (8 rows, 16 columns) += a (8 rows, K) · b (K, 16)
template <int K> inline void block(float* c, const float* __restrict a, const float* __restrict b) {
    float sum[8][16];
    std::memcpy(sum, c, sizeof sum);
#pragma GCC unroll 4
    for (int k = 0; k < K; k++)
#pragma GCC unroll 8
        for (int m = 0; m < 8; m++) {
            const float x = a[m * K + k];
#pragma GCC unroll 1
            for (int n = 0; n < 16; n++) sum[m][n] = __builtin_fmaf(x, b[k * 16 + n], sum[m][n]);
        }
    std::memcpy(c, sum, sizeof sum);
}

template <Type A, Type B>
void multiply(float* c, const Operands& a, const Operands& b, uint32_t n, bool negative, uint32_t warps) {
    constexpr int per = kPerChunk<A>, K = 2 * per;
    static_assert(per == kPerChunk<B>);
    alignas(64) float left[kWgmmaRows * K], right[16 * K], part[16][K];
    const int rows = int(kWgmmaRows);
    if (a.transposed)
        for (int k = 0; k < K; k++)
            for (int m = 0; m < rows; m += per) {
                alignas(64) float some[per];
                unpack<A>(a.chunk[k * (rows / per) + m / per], some);
                for (int e = 0; e < per; e++) left[(m + e) * K + k] = some[e];
            }
    else
        for (int m = 0; m < rows * 2; m++)
            if (warps >> m / 32 & 1) unpack<A>(a.chunk[m], left + m * per);
    if (negative)
        for (float& x : left) x = -x;
    const int columns = int(n);
    for (int j = 0; j < columns; j += 16, c += kWgmmaRows * 16) {
        const int here = std::min(16, columns - j);
        if (here < 16) std::memset(right, 0, sizeof right);
        if (b.transposed)
            for (int k = 0; k < K; k++)
                for (int e = 0; e < here; e += per)
                    unpack<B>(b.chunk[k * (columns / per) + (j + e) / per], right + k * 16 + e);
        else {
            for (int e = 0; e < here; e++) {
                unpack<B>(b.chunk[(j + e) * 2], part[e]);
                unpack<B>(b.chunk[(j + e) * 2 + 1], part[e] + per);
            }
            for (int k = 0; k < K; k++)
                for (int e = 0; e < here; e++) right[k * 16 + e] = part[e][k];
        }
        for (int m = 0; m < rows; m += 8)
            if (warps >> m / 16 & 1) block<K>(c + m * 16, left + m * K, right);
    }
}

}  // namespace

Descriptor::Descriptor(uint64_t bits)
    : start(uint32_t(bits & 0x3fff) << 4),
      leading(uint32_t(bits >> 16 & 0x3fff) << 4),
      stride(uint32_t(bits >> 32 & 0x3fff) << 4),
      base(uint32_t(bits >> 49 & 7)),
      swizzle(bits >> 62 ? 4 - uint32_t(bits >> 62) : 0) {}

void multiply_warpgroup(Type at, Type bt, float* c, const Operands& a, const Operands& b, uint32_t n, bool negative,
                        uint32_t warps) {
    switch (at) {
        case Type::bf16: return multiply<Type::bf16, Type::bf16>(c, a, b, n, negative, warps);
        case Type::f16: return multiply<Type::f16, Type::f16>(c, a, b, n, negative, warps);
        case Type::tf32: return multiply<Type::tf32, Type::tf32>(c, a, b, n, negative, warps);
        case Type::e4m3x2:
            return bt == at ? multiply<Type::e4m3x2, Type::e4m3x2>(c, a, b, n, negative, warps)
                            : multiply<Type::e4m3x2, Type::e5m2x2>(c, a, b, n, negative, warps);
        default:
            return bt == at ? multiply<Type::e5m2x2, Type::e5m2x2>(c, a, b, n, negative, warps)
                            : multiply<Type::e5m2x2, Type::e4m3x2>(c, a, b, n, negative, warps);
    }
}

}  // namespace emu
