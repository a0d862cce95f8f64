// attention_decode.cuh - attention of a few new rows against a long cache, for generation
//
// One query reads all its keys and values once, so memory bandwidth is everything. The keys of a query are split into
// `parts`, one block each, so that a few queries occupy the whole GPU. attention_decode_kernel leaves an unnormalised
// result for every part. attention_combine_kernel adds these in order, so that the result is the same every time.
#pragma once
#include "attention_tiles.cuh"

namespace gpu {

// Appends the k and v of qkv (B,T,3,H,D) to the caches (B,H,S,D), one V to a thread. A V is an element or 16 bytes of
// them, and p.D and the strides count Vs.
template <class V>
__global__ void attention_append_kernel(Heads<V> k_cache, Heads<V> v_cache, const V* qkv, Problem p, int B) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= int64_t(B) * p.T * 2 * p.H * p.D) return;
    const int d = i % p.D, h = i / p.D % p.H, which = i / p.D / p.H % 2;  // 0 means k, 1 means v
    const int64_t row = i / p.D / p.H / 2;
    const int b = row / p.T, t = row % p.T;
    (which ? v_cache : k_cache).at(b, h)[p.past + t][d] = qkv[((row * 3 + 1 + which) * p.H + h) * p.D + d];
}

// x = elements [8 i, 8 i + 8) of a row of D, with zeros past its end. It reads 16 bytes at a time if is_wide.
template <class X>
__device__ inline void load_eight(float (&x)[8], const X* row, int i, int D, bool is_wide) {
    constexpr int W = wide<X>;
    for (int j = 0; j < 8; j += W) {
        const int d = 8 * i + j;
        if (is_wide) {
            const Floats<W> some = d < D ? load<W>(row + d) : Floats<W>{};
            for (int u = 0; u < W; u++) x[j + u] = some[u];
        } else {
            for (int u = 0; u < W; u++) x[j + u] = d + u < D ? float(row[d + u]) : 0.f;
        }
    }
}

// Computes one query against one part of its keys. A group of L lanes holds a row, 8 elements in each lane, so that a
// warp reads 32 / L consecutive keys. Every group runs an online softmax over every groups-th key; in the end the block
// adds the groups in order. The result of a part is D sums, the maximum m and the sum l.
//
// New rows are read from qkv, not from the cache, because this kernel also appends them. The block with the first part
// of query t appends row t.
constexpr int decode_threads = 128;

template <class X, int L>
__global__ void __launch_bounds__(decode_threads)
    attention_decode_kernel(float* parts, Inputs<X> x, Heads<X> k_cache, Heads<X> v_cache, Problem p, int count) {
    constexpr int groups = decode_threads / L, keys_in_flight = 4;  // keys that a group loads before it uses the first
    // In shared memory, the 8 sums of a lane are two chunks of 16 bytes. The first chunks of all lanes lie side by
    // side, and the second chunks begin half of the banks later. So neither writing chunks nor reading columns has
    // conflicts.
    constexpr int second_chunks = 4 * L + (L >= 8 ? 16 : 0);
    __shared__ __align__(16) float sums[groups][second_chunks + 4 * L];
    __shared__ float maxs[groups], ls[groups];
    const int part = blockIdx.x % count, t = blockIdx.x / count % p.T, head = blockIdx.x / count / p.T;
    const int b = head / p.H, h = head % p.H;
    const int lane = threadIdx.x % L, group = threadIdx.x / L;
    const int first_key = p.first_key(b, t), n = p.past + t + 1 - first_key;
    const int begin  = first_key + int(int64_t(n) * part / count);
    const int end    = first_key + int(int64_t(n) * (part + 1) / count);
    const auto new_k = x.k.at(b, h), new_v = x.v.at(b, h);
    const auto old_k = k_cache.at(b, h), old_v = v_cache.at(b, h);
    if (part == 0)
        for (int d = threadIdx.x; d < p.D; d += decode_threads) {
            old_k[p.past + t][d] = new_k[t][d];
            old_v[p.past + t][d] = new_v[t][d];
        }

    float q[8], acc[8] = {}, m = -FLT_MAX, l = 0.f;
    load_eight(q, x.q.at(b, h)[t], lane, p.D, p.is_wide);
    for (int key = begin; key < end; key += groups * keys_in_flight) {
        float k[keys_in_flight][8], v[keys_in_flight][8], s[keys_in_flight];
#pragma unroll
        for (int u = 0; u < keys_in_flight; u++) {
            const int at = min(key + u * groups + group, end - 1);  // past the end it is the last key, with weight 0
            load_eight(k[u], at < p.past ? old_k[at] : new_k[at - p.past], lane, p.D, p.is_wide);
            load_eight(v[u], at < p.past ? old_v[at] : new_v[at - p.past], lane, p.D, p.is_wide);
        }
        float new_max = m;
#pragma unroll
        for (int u = 0; u < keys_in_flight; u++) {
            s[u] = 0.f;
            for (int j = 0; j < 8; j++) s[u] = fmaf(q[j], k[u][j], s[u]);
            for (int j = L / 2; j; j /= 2) s[u] += __shfl_xor_sync(~0u, s[u], j);
            s[u]    = key + u * groups + group < end ? s[u] * p.scale : -INFINITY;
            new_max = fmaxf(new_max, s[u]);
        }
        const float rescale = expf(m - new_max);
        m                   = new_max;
        l *= rescale;
        for (float& a : acc) a *= rescale;
#pragma unroll
        for (int u = 0; u < keys_in_flight; u++) {
            const float weight = expf(s[u] - m);
            l += weight;
            for (int j = 0; j < 8; j++) acc[j] = fmaf(weight, v[u][j], acc[j]);
        }
    }

    float* const group_sums                                           = sums[group];
    *reinterpret_cast<float4*>(group_sums + 4 * lane)                 = {acc[0], acc[1], acc[2], acc[3]};
    *reinterpret_cast<float4*>(group_sums + second_chunks + 4 * lane) = {acc[4], acc[5], acc[6], acc[7]};
    if (lane == 0) {
        maxs[group] = m;
        ls[group]   = l;
    }
    __syncthreads();
    float block_max = -FLT_MAX, block_l = 0.f;
    for (int g = 0; g < groups; g++) block_max = fmaxf(block_max, maxs[g]);
    for (int g = 0; g < groups; g++) block_l += expf(maxs[g] - block_max) * ls[g];
    float* const result = parts + int64_t(blockIdx.x) * (p.D + 2);
    for (int d = threadIdx.x; d < p.D; d += decode_threads) {
        float total = 0.f;
        for (int g = 0; g < groups; g++)
            total += expf(maxs[g] - block_max) * sums[g][d / 4 % 2 * second_chunks + d / 8 * 4 + d % 4];
        result[d] = total;
    }
    if (threadIdx.x == 0) {
        result[p.D]     = block_max;
        result[p.D + 1] = block_l;
    }
}

// out = the parts of each query, added in order.
template <class X>
__global__ void __launch_bounds__(64) attention_combine_kernel(Heads<X> out, const float* parts, Problem p, int count) {
    const int t = blockIdx.x % p.T, head = blockIdx.x / p.T, D = p.D;
    const float* first = parts + int64_t(blockIdx.x) * count * (D + 2);
    const auto of_part = [=](int c, int d) { return first[c * (D + 2) + d]; };  // d = D: m, d = D + 1: l
    float m = -FLT_MAX, l = 0.f;
    for (int c = 0; c < count; c++) m = fmaxf(m, of_part(c, D));
    for (int c = 0; c < count; c++) l += expf(of_part(c, D) - m) * of_part(c, D + 1);
    for (int d = threadIdx.x; d < D; d += 64) {
        float total = 0.f;
        for (int c = 0; c < count; c++) total += expf(of_part(c, D) - m) * of_part(c, d);
        out.at(head / p.H, head % p.H)[t][d] = X(total / l);
    }
}

}  // namespace gpu
