// attention_decode.cuh - attention of one new row of each sequence over a cache, for generation
//
// A query reads all its keys and values once, so memory bandwidth is everything. A block begins to load old keys and
// values while the kernel that computes the query still runs. Many blocks run at once, so some load while others add.
//
// The cache is split into parts of part_keys rows. There is a block for each part, head and sequence, and blocks whose
// part has no keys yet end at once, so that the launch is the same for every length. Each block leaves an unnormalised
// result. The last block of a head to end adds the head's results in the order of the parts, so that the bits are the
// same every time.
#pragma once
#include "attention_tiles.cuh"
#include "rotation.h"

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
    p.begin(b);
    (which ? v_cache : k_cache).at(b, h)[p.past + t][d] = qkv[((row * 3 + 1 + which) * p.H + h) * p.D + d];
}

// 8 elements of a row as memory holds them.
template <class X>
struct Eight {
    static constexpr int W = wide<X>;
    uint4 words[8 / W];
    __device__ void to_floats(float (&x)[8]) const {
        for (int j = 0; j < 8; j += W) {
            const Floats<W> some = unpack<W, X>(words[j / W]);
            for (int u = 0; u < W; u++) x[j + u] = some[u];
        }
    }
};
// Elements [8 i, 8 i + 8) of a row of D, with zeros past its end. They are read 16 bytes at a time if is_wide.
template <class X>
__device__ inline Eight<X> load_eight(const X* row, int i, int D, bool is_wide) {
    Eight<X> e;
    constexpr int W = wide<X>;
    for (int j = 0; j < 8; j += W) {
        const int d = 8 * i + j;
        if (is_wide) {
            e.words[j / W] = d < D ? load_packed<W>(row + d) : uint4{};
        } else {
            const auto at = [&](int u) { return d + u < D ? float(row[d + u]) : 0.f; };
            if constexpr (W == 4)
                e.words[j / W] = {__float_as_uint(at(0)), __float_as_uint(at(1)), __float_as_uint(at(2)),
                                  __float_as_uint(at(3))};
            else
                e.words[j / W] = {bf16_pair(at(0), at(1)), bf16_pair(at(2), at(3)), bf16_pair(at(4), at(5)),
                                  bf16_pair(at(6), at(7))};
        }
    }
    return e;
}

// A row of floats in shared memory, of which each of L lanes has 8: two chunks of 16 bytes. The first chunks of all
// lanes lie side by side, and the second chunks begin half of the banks later. So neither accessing chunks nor
// accessing columns has conflicts.
template <int L>
struct alignas(16) LaneRow {
    static constexpr int second_chunks = 4 * L + (L >= 8 ? 16 : 0);
    float at[second_chunks + 4 * L];
    __device__ float& operator[](int d) { return at[d / 4 % 2 * second_chunks + d / 8 * 4 + d % 4]; }
    __device__ void store(int lane, const float (&x)[8]) {
        *reinterpret_cast<float4*>(at + 4 * lane)                 = {x[0], x[1], x[2], x[3]};
        *reinterpret_cast<float4*>(at + second_chunks + 4 * lane) = {x[4], x[5], x[6], x[7]};
    }
    __device__ void load(int lane, float (&x)[8]) const {
        const float4 a = *reinterpret_cast<const float4*>(at + 4 * lane),
                     b = *reinterpret_cast<const float4*>(at + second_chunks + 4 * lane);
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    }
};

// How the decode kernel shares its work.
struct DecodeParts {
    int part_keys, parts;  // rows of the cache in each part, and parts of the cache
    float* results;        // (B,H,parts,D+2): D sums, the maximum m and the sum l of each part
    uint32_t* counters;    // (B,H)
};

// A group of L lanes holds a row, 8 elements in each lane, so that a warp reads 32 / L consecutive keys. Every group
// runs an online softmax over every groups-th key of the part; in the end the block adds the groups in order. The block
// whose part has the new row's place appends it.
constexpr int decode_threads = 128;

template <class X, int L>
__global__ void __launch_bounds__(decode_threads, L <= 2           ? 3
                                                  : sizeof(X) == 2 ? 8
                                                                   : 6)
    attention_decode_kernel(Heads<X> out, Inputs<X> x, Heads<X> k_cache, Heads<X> v_cache, Problem p, DecodeParts work,
                            Speeds speed, int pairs, BadId* bad, IdRule rule) {
    constexpr int groups = decode_threads / L, in_flight = 16 / int(sizeof(X)) / 2;  // keys that a group loads at once
    __shared__ LaneRow<L> sums[groups], q_row, k_row;
    __shared__ float maxs[groups], ls[groups];
    const int part = blockIdx.x % work.parts, head = blockIdx.x / work.parts, b = head / p.H, h = head % p.H;
    const int lane = threadIdx.x % L, group = threadIdx.x / L;
    p.begin(b);
    const int first_key = p.first_key(b, 0), first_part = first_key / work.part_keys;
    const int begin = max(first_key, part * work.part_keys), end = min(p.past + 1, (part + 1) * work.part_keys);
    let_next_begin();
    if (threadIdx.x == 0 && part == 0 && h == 0 && !rule.allows(p.positions[b])) {
        wait_for_kernels();
        report(bad, p.positions[b], b, rule);
    }
    if (begin >= end) return;
    const int count      = p.past / work.part_keys - first_part + 1;  // parts that have keys
    const bool appends   = end == p.past + 1;
    const X *const new_q = x.q.at(b, h)[0], *const new_k = x.k.at(b, h)[0], *const new_v = x.v.at(b, h)[0];
    const auto old_k = k_cache.at(b, h), old_v = v_cache.at(b, h);

    Eight<X> k[in_flight], v[in_flight];
    const auto key_at = [&](int key, int u) { return min(key + u * groups + group, end - 1); };
    const auto fetch  = [&](int key, bool of_cache, bool of_new_row) {
#pragma unroll
        for (int u = 0; u < in_flight; u++) {
            const int at      = key_at(key, u);  // past the end it is the last key, with weight 0
            const bool is_new = at == p.past;
            if (!(is_new ? of_new_row : of_cache)) continue;
            k[u] = load_eight<X>(is_new ? new_k : old_k[at], lane, p.D, p.is_wide);
            v[u] = load_eight<X>(is_new ? new_v : old_v[at], lane, p.D, p.is_wide);
        }
    };
    fetch(begin, true, false);  // while the kernel that computes the new row still runs
    wait_for_kernels();
    fetch(begin, false, true);

    // The rotated query and key are rounded as rope_forward rounds them.
    for (int d = threadIdx.x; d < p.D; d += decode_threads) {
        if (d < pairs) {
            float c, s;
            direction(speed.of[d] * p.past, c, s);
            const auto rotate = [&](LaneRow<L>& to, const X* from) {
                const auto pair = rotated(float(from[d]), float(from[d + pairs]), c, s);
                to[d]           = float(X(pair.a));
                to[d + pairs]   = float(X(pair.b));
            };
            rotate(q_row, new_q);
            if (appends) rotate(k_row, new_k);
        } else if (d >= 2 * pairs) {
            q_row[d] = float(new_q[d]);
            if (appends) k_row[d] = float(new_k[d]);
        }
    }
    for (int d = p.D + threadIdx.x; d < 8 * L; d += decode_threads) q_row[d] = k_row[d] = 0.f;
    __syncthreads();
    if (appends)
        for (int d = threadIdx.x; d < p.D; d += decode_threads) {
            old_k[p.past][d] = X(k_row[d]);
            old_v[p.past][d] = new_v[d];
        }

    float q[8], acc[8] = {}, m = -FLT_MAX, l = 0.f;
    q_row.load(lane, q);
    for (int key = begin;;) {
        float s[in_flight], new_max = m;
#pragma unroll
        for (int u = 0; u < in_flight; u++) {
            float key_row[8];
            if (pairs && key_at(key, u) == p.past)
                k_row.load(lane, key_row);
            else
                k[u].to_floats(key_row);
            s[u] = 0.f;
            for (int j = 0; j < 8; j++) s[u] = fmaf(q[j], key_row[j], s[u]);
            for (int j = L / 2; j; j /= 2) s[u] += __shfl_xor_sync(~0u, s[u], j);
            s[u]    = key + u * groups + group < end ? s[u] * p.scale : -INFINITY;
            new_max = fmaxf(new_max, s[u]);
        }
        const float rescale = expf(m - new_max);
        m                   = new_max;
        l *= rescale;
        for (float& a : acc) a *= rescale;
#pragma unroll
        for (int u = 0; u < in_flight; u++) {
            const float weight = expf(s[u] - m);
            float value[8];
            v[u].to_floats(value);
            l += weight;
            for (int j = 0; j < 8; j++) acc[j] = fmaf(weight, value[j], acc[j]);
        }
        key += groups * in_flight;
        if (key >= end) break;
        fetch(key, true, true);
    }

    sums[group].store(lane, acc);
    if (lane == 0) {
        maxs[group] = m;
        ls[group]   = l;
    }
    __syncthreads();
    float block_max = -FLT_MAX, block_l = 0.f;
    for (int g = 0; g < groups; g++) block_max = fmaxf(block_max, maxs[g]);
    for (int g = 0; g < groups; g++) block_l += expf(maxs[g] - block_max) * ls[g];
    const auto y        = out.at(b, h)[0];
    float* const result = work.results + int64_t(blockIdx.x) * (p.D + 2);
    for (int d = threadIdx.x; d < p.D; d += decode_threads) {
        float total = 0.f;
        for (int g = 0; g < groups; g++) total += expf(maxs[g] - block_max) * sums[g][d];
        if (count == 1)
            y[d] = X(total / block_l);
        else
            result[d] = total;
    }
    if (count == 1) return;
    if (threadIdx.x == 0) {
        result[p.D]     = block_max;
        result[p.D + 1] = block_l;
    }

    // The last block of this head adds the results of its parts in order.
    if (!is_last_of(count, &work.counters[head])) return;
    const float* const first = work.results + (int64_t(head) * work.parts + first_part) * (p.D + 2);
    const auto of_part       = [&](int c, int d) { return __ldcg(first + c * (p.D + 2) + d); };
    float all_max = -FLT_MAX, all_l = 0.f;
    for (int c = 0; c < count; c++) all_max = fmaxf(all_max, of_part(c, p.D));
    for (int c = 0; c < count; c++) all_l += expf(of_part(c, p.D) - all_max) * of_part(c, p.D + 1);
    for (int d = threadIdx.x; d < p.D; d += decode_threads) {
        float total = 0.f;
        for (int c = 0; c < count; c++) total += expf(of_part(c, p.D) - all_max) * of_part(c, d);
        y[d] = X(total / all_l);
    }
}

}  // namespace gpu
