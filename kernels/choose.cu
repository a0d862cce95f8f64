// choose.cu - chooses the next token from logits: the likeliest, or one at random by temperature, top-k and top-p
//
//   weight of id v    w_v = ⌊2^40 exp((l_v - max l) / temperature)⌋
//   top-k             leaves the first k ids; ids are ordered by falling logits, and equal logits by rising ids
//   top-p             leaves the shortest prefix of this order whose weights add up to p Σ w or more
//   the choice        the first id, in order of ids, or with top-p < 1 in order of logits, at which the running sum of
//                     the weights that are left exceeds u Σ w, for a random number u in [0, 1)
//
// Weights are integers, so their sums are exact in every order, and both machines choose the same id. A unit of 2^-40
// is fine enough: u has 24 bits, and what 50,000 ids lose by rounding down is less than a unit of u.
//
//   logits (N,Vp), of which the first V count; ids, drawn, positions (N) int32.
#include <algorithm>
#include <climits>
#include <numeric>
#include <vector>

#include "cpu.h"
#include "ops.h"
#include "random.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

// Sampling as both halves use it.
struct Rule {
    float temperature, top_p;
    int64_t top_k;     // 1..V
    uint64_t key;      // of the random numbers
    int64_t sequence;  // the number of the first row's sequence
};

// weight: exp((logit - max) / temperature).
HD uint64_t in_units(float weight) { return uint64_t(int64_t(weight * 0x1p40f)); }
// The sum that the ids left by top-p have to reach, and the sum that the chosen id has to exceed. Products of doubles
// have the same bits everywhere.
HD uint64_t sum_to_keep(float top_p, uint64_t total) {
    const double sum = double(top_p) * double(total);
    return uint64_t(sum) + (double(uint64_t(sum)) < sum);
}
HD uint64_t sum_to_exceed(float u, uint64_t total) { return uint64_t(double(u) * double(total)); }

namespace cpu {

// The memory of a thread: the logits of a row as floats, their weights, and the ids that are left.
struct Candidates {
    std::vector<float> logit, weight;
    std::vector<int32_t> ids;
    uint64_t weight_of(int32_t id) const { return in_units(weight[id]); }
    uint64_t total() const {
        return std::accumulate(ids.begin(), ids.end(), uint64_t(0),
                               [this](uint64_t t, int32_t id) { return t + weight_of(id); });
    }
};

template <class T>
static int32_t choose_row(Candidates& c, const T* logits, int64_t V, const Rule& rule, float u) {
    c.logit.resize(V);
    float* const x    = c.logit.data();
    const float first = float(logits[0]);
    floats most = broadcast(-INFINITY), not_finite = {};
    for_lanes(V, [&](int64_t i, auto n) {
        const floats l = load(logits + i, n, first);
        store(x + i, l, n);
        most = max(most, l);
        not_finite += l - l;  // adds 0, or NaN if l is not finite
    });
    if (sum(not_finite) != 0) return -1;
    const float best = max(most);
    if (rule.temperature == 0) return int32_t(std::find(x, x + V, best) - x);

    const auto better         = [&](int32_t a, int32_t b) { return x[a] != x[b] ? x[a] > x[b] : a < b; };
    std::vector<int32_t>& ids = c.ids;
    c.weight.resize(V);
    host::exp_shifted(c.weight.data(), x, V, best, rule.temperature);
    ids.resize(V);
    std::iota(ids.begin(), ids.end(), 0);
    if (rule.top_k < V) {
        std::nth_element(ids.begin(), ids.begin() + (rule.top_k - 1), ids.end(), better);
        ids.resize(rule.top_k);
        std::sort(ids.begin(), ids.end());
    }
    uint64_t total = c.total();
    if (rule.top_p < 1) {
        // Ids that weigh less than `light` weigh together less than top-p may leave out. They come last in the order
        // and need not be sorted. A margin of e^-0.001 is more than weights can be off by rounding.
        const uint64_t wanted = sum_to_keep(rule.top_p, total), light = (total - wanted) / ids.size();
        const double lowest = best + rule.temperature * (std::log(double(light) * 0x1p-40) - 1e-3);
        ids.erase(std::remove_if(ids.begin(), ids.end(), [&](int32_t id) { return x[id] < lowest; }), ids.end());
        std::sort(ids.begin(), ids.end(), better);
        uint64_t kept = 0;
        size_t n      = 0;
        while (kept < wanted) kept += c.weight_of(ids[n++]);
        ids.resize(n);
        total = kept;
    }
    uint64_t left = sum_to_exceed(u, total);
    for (const int32_t id : ids) {
        const uint64_t w = c.weight_of(id);
        if (left < w) return id;
        left -= w;
    }
    return ids.back();  // is not reached, because u < 1
}

template <class T>
static void choose(Tensor ids, Tensor drawn, Tensor positions, Tensor logits, int64_t V, const Rule& rule) {
    const int64_t Vp = logits.shape[1];
    const T* const x = logits.data<T>();
    int32_t *id = ids.data<int32_t>(), *d = drawn.data<int32_t>(), *position = positions.data_or_null<int32_t>();
    parallel_ranges(logits.shape[0], 1, [=](int64_t begin, int64_t end) {
        Candidates c;
        for (int64_t n = begin; n < end; n++) {
            id[n] = choose_row(c, x + n * Vp, V, rule, philox_uniform(rule.key, rule.sequence + n, d[n]));
            d[n]++;
            if (position) position[n]++;
        }
    });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// A block chooses for one row. It reads the row several times; the first time from memory, then from its cache. A sum
// up to some place in the order of logits is found as in a radix sort: logits become integers of the same order, a
// histogram of the weights over 512 ranges of these integers says which range the place is in, and the next histogram
// divides that range. bf16 takes at most two histograms, fp32 at most four.
constexpr int choose_bits = 9, choose_bins = 1 << choose_bits, choose_threads = choose_bins;

// The integer that has the place of a logit in the order of logits. The two zeros are equal.
template <class T>
__device__ uint32_t place_of(float logit) {
    const uint32_t bits = __float_as_uint(logit + 0.f);
    return (bits & 0x80000000u ? ~bits : bits | 0x80000000u) >> (32 - 8 * int(sizeof(T)));
}

struct BlockMemory {
    uint32_t low[choose_bins], high[choose_bins];  // the two halves of 64-bit sums
    uint64_t of_warp[choose_threads / 32];
    uint64_t before;  // the sum before what was found
    int found;
    uint32_t lowest;  // the lowest place of a logit
};

// Returns x + the values of all threads before this one, and in `all` the sum over the block.
__device__ inline uint64_t sum_before(uint64_t x, uint64_t& all, BlockMemory& m) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t sum = x;
    for (int d = 1; d < 32; d *= 2) {
        const uint64_t left = __shfl_up_sync(~0u, sum, d);
        if (lane >= d) sum += left;
    }
    __syncthreads();
    if (lane == 31) m.of_warp[warp] = sum;
    __syncthreads();
    all = 0;
    for (int w = 0; w < choose_threads / 32; w++) {
        if (w == warp) sum += all;
        all += m.of_warp[w];
    }
    return sum - x;
}

// Calls f(id, logit) for the first V logits of a row, shared by the block.
template <int W, class T, class F>
__device__ inline void each_logit(const T* row, int V, F f) {
    for (int i = threadIdx.x * W; i < V; i += choose_threads * W) {
        const Floats<W> x = load<W>(row + i);
        for (int k = 0; k < W; k++)
            if (i + k < V) f(i + k, x[k]);
    }
}

// Where a running sum of weights first exceeds some number.
struct Found {
    uint32_t place;  // of the logit
    int id;
    uint64_t before;  // the sum of the weights before it
};

// Goes through the ids in their order, and finds the first one at which the sum of weight(id, logit) exceeds `target`.
// Each warp adds up a range of ids. The warp whose range has the place divides it among its lanes.
template <int W, class T, class Weight>
__device__ Found find_by_id(const T* row, int V, uint64_t target, Weight weight, BlockMemory& m) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = choose_threads / 32;
    const int range = (V + warps * 32 * W - 1) / (warps * 32 * W) * 32 * W, begin = min(V, warp * range),
              end        = min(V, begin + range);
    const auto of_vector = [&](int i) {
        uint64_t sum = 0;
        if (i >= end) return sum;
        const Floats<W> x = load<W>(row + i);
        for (int k = 0; k < W; k++)
            if (i + k < V) sum += weight(i + k, x[k]);
        return sum;
    };
    uint64_t mine = 0, all;
    for (int i = begin + lane * W; i < end; i += 32 * W) mine += of_vector(i);
    mine            = warp_sum(mine);
    uint64_t before = sum_before(lane == 0 ? mine : 0, all, m);
    before          = __shfl_sync(~0u, before, 0);
    if (before <= target && target < before + mine)
        for (int i = begin + lane * W; i - lane * W < end; i += 32 * W) {
            const uint64_t vector = of_vector(i);
            uint64_t sum          = vector;
            for (int d = 1; d < 32; d *= 2) {
                const uint64_t left = __shfl_up_sync(~0u, sum, d);
                if (lane >= d) sum += left;
            }
            uint64_t at = before + sum - vector;
            if (at <= target && target < at + vector) {
                for (int k = 0; k < W && i + k < V; k++) {
                    const uint64_t w = weight(i + k, load<1>(row + i + k)[0]);
                    if (target < at + w) {
                        m.found  = i + k;
                        m.before = at;
                        break;
                    }
                    at += w;
                }
            }
            before += __shfl_sync(~0u, sum, 31);
        }
    __syncthreads();
    const Found found{place_of<T>(load<1>(row + m.found)[0]), m.found, m.before};
    __syncthreads();
    return found;
}

// Does the same in the order of falling logits. target_of(total) gets the sum of all weights. The places of the logits
// are `best` - range to `best`.
template <int W, class T, class Target, class Weight>
__device__ Found find_by_logit(const T* row, int V, uint32_t best, uint32_t range, Target target_of, Weight weight,
                               BlockMemory& m) {
    uint32_t first  = 0;  // distances from `best` are looked for in [first, first + choose_bins << shift)
    uint64_t before = 0, target = 0;
    const int first_shift = max(0, 32 - __clz(int(range)) - choose_bits);
    for (int shift = first_shift;; shift = max(0, shift - choose_bits)) {
        m.low[threadIdx.x] = m.high[threadIdx.x] = 0;
        __syncthreads();
        each_logit<W>(row, V, [&](int id, float logit) {
            const uint32_t distance = best - place_of<T>(logit), bin = (distance - first) >> shift;
            if (distance < first || bin >= choose_bins) return;
            const uint64_t w = weight(id, logit);
            if (w == 0) return;
            const uint32_t low = uint32_t(w), old = atomicAdd(&m.low[bin], low);
            const uint32_t high = uint32_t(w >> 32) + (old + low < old);
            if (high) atomicAdd(&m.high[bin], high);
        });
        __syncthreads();
        uint64_t all;
        const uint64_t mine = uint64_t(m.high[threadIdx.x]) << 32 | m.low[threadIdx.x],
                       at   = before + sum_before(mine, all, m);
        if (shift == first_shift) target = target_of(all);
        if (at <= target && target < at + mine) {
            m.found  = threadIdx.x;
            m.before = at;
        }
        __syncthreads();
        first += uint32_t(m.found) << shift;
        before = m.before;
        __syncthreads();
        if (shift == 0) break;
    }
    // What is left are ids with equal logits.
    const uint32_t place = best - first;
    const auto equal     = [&](int id, float logit) {
        return place_of<T>(logit) == place ? weight(id, logit) : uint64_t(0);
    };
    Found found = find_by_id<W>(row, V, target - before, equal, m);
    found.before += before;
    return found;
}

template <int W, class T>
static __global__ void __launch_bounds__(choose_threads)
    choose_kernel(int32_t* ids, int32_t* drawn, int32_t* positions, const T* logits, int V, int64_t Vp, Rule rule) {
    __shared__ BlockMemory m;
    wait_for_kernels();
    const T* const row = logits + blockIdx.x * Vp;
    const auto answer  = [&](int id) {
        if (threadIdx.x != 0) return;
        ids[blockIdx.x] = id;
        drawn[blockIdx.x]++;
        if (positions) positions[blockIdx.x]++;
    };
    // The likeliest id has the largest place, and of equal places the smallest id.
    uint64_t likeliest = 0;
    uint32_t lowest    = UINT32_MAX;
    bool is_finite     = true;
    if (threadIdx.x == 0) m.lowest = lowest;
    each_logit<W>(row, V, [&](int id, float logit) {
        const uint32_t place = place_of<T>(logit);
        likeliest            = max(likeliest, uint64_t(place) << 32 | uint32_t(INT_MAX - id));
        lowest               = min(lowest, place);
        is_finite            = is_finite && isfinite(logit);
    });
    for (int w = 16; w; w /= 2) likeliest = max(likeliest, __shfl_xor_sync(~0u, likeliest, w));
    if (threadIdx.x % 32 == 0) m.of_warp[threadIdx.x / 32] = likeliest;
    is_finite = __syncthreads_and(is_finite);
    atomicMin(&m.lowest, lowest);
    __syncthreads();
    for (int w = 0; w < choose_threads / 32; w++) likeliest = max(likeliest, m.of_warp[w]);
    const int best_id = INT_MAX - int(uint32_t(likeliest));
    if (!is_finite || rule.temperature == 0) return answer(is_finite ? best_id : -1);

    const uint32_t best = uint32_t(likeliest >> 32), range = best - m.lowest;
    const float best_logit = load<1>(row + best_id)[0];
    const float u          = philox_uniform(rule.key, rule.sequence + blockIdx.x, drawn[blockIdx.x]);
    Found last{0, INT_MAX, 0};  // the last id, in the order of logits, that may be chosen
    const auto weight = [&](int id, float logit) {
        const uint32_t place = place_of<T>(logit);
        if (place < last.place || (place == last.place && id > last.id)) return uint64_t(0);
        return in_units(portable_exp<uint32_t>((logit - best_logit) / rule.temperature));
    };
    if (rule.top_k < V)
        last = find_by_logit<W>(
            row, V, best, range, [&](uint64_t) { return uint64_t(rule.top_k - 1); },
            [](int, float) { return uint64_t(1); }, m);
    if (rule.top_p < 1) {
        const auto by_logit = [&](auto target_of) {
            return find_by_logit<W>(row, V, best, range, target_of, weight, m);
        };
        last                = by_logit([&](uint64_t total) { return sum_to_keep(rule.top_p, total) - 1; });
        const uint64_t kept = last.before + weight(last.id, load<1>(row + last.id)[0]);
        return answer(by_logit([&](uint64_t) { return sum_to_exceed(u, kept); }).id);
    }
    uint64_t total = 0;
    each_logit<W>(row, V, [&](int id, float logit) { total += weight(id, logit); });
    total = block_sum(total);
    answer(find_by_id<W>(row, V, sum_to_exceed(u, total), weight, m).id);
}

template <class T>
static void choose(Tensor ids, Tensor drawn, Tensor positions, Tensor logits, int64_t V, const Rule& rule, Queue& q) {
    const int64_t N = logits.shape[0], Vp = logits.shape[1];
    for_width<T>(Vp % wide<T> == 0 && aligned(logits.ptr), [&](auto width) {
        launch_early(choose_kernel<width, T>, {N, choose_threads}, q, ids.data<int32_t>(), drawn.data<int32_t>(),
                     positions.data_or_null<int32_t>(), logits.data<T>(), int(V), Vp, rule);
    });
}

}  // namespace gpu
#endif

void choose(Tensor ids, Tensor drawn, Tensor positions, Tensor logits, int64_t V, int64_t first, const Sampling& how,
            Stream s) {
    CHECK_CALL(logits && logits.shape.dims == 2, "choose: logits is {}, expected (N, Vp)", logits.str());
    const int64_t most = std::min<int64_t>(logits.shape[1], 1 << 23);  // the sum of so many weights fits into 64 bits
    CHECK_CALL(V >= 1 && V <= most, "choose: V is {}, expected 1..{} because logits is {}", V, most, logits.str());
    const Shape rows{logits.shape[0]};
    expect(ids, rows, DType::I32, logits);
    expect(drawn, rows, DType::I32, logits);
    expect_maybe(positions, rows, DType::I32, logits);
    CHECK_CALL(how.temperature >= 0 && std::isfinite(how.temperature),
               "choose: the temperature is {}, expected 0 (greedy) or a positive number", how.temperature);
    CHECK_CALL(how.top_k >= 0, "choose: top_k is {}, expected 0 (all) or more", how.top_k);
    CHECK_CALL(how.top_p > 0 && how.top_p <= 1, "choose: top_p is {}, expected more than 0, at most 1", how.top_p);
    const Rule rule{how.temperature, how.top_p, how.top_k ? std::min(how.top_k, V) : V,
                    Random(how.seed, "sample").key(), first};
    RUN_ON(s, logits.dtype, choose, ids, drawn, positions, logits, V, rule);
}

// The logits are read once. 20 bytes of a row are its id, and its draws and position, which are read and written.
Cost choose_cost(int64_t N, int64_t V, DType x) { return {double(N * V * size_of(x)) + 20. * double(N)}; }
