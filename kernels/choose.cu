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
#include <cfloat>
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

// A cluster of up to 8 blocks chooses for one row, in few passes over it. Each block has its share of the row, which it
// reads from memory in the first pass, and from its cache in the others.
//
//   1   the likeliest id and the range of the logits. A greedy choice ends here
//   2   with top-k or top-p: how many ids are in each of 512 equal parts of this range, and the sum of their weights.
//       A place in the order of logits is looked for in these sums first. Without top-k the range ends where weights
//       become 0, and all ids below are in the last part
//   3   for each place: the ids of its part are collected in shared memory, and divided further like in a radix sort,
//       by logits as integers and then by ids. If a block has too many of them, each of these steps is a pass over the
//       whole row
//
// Without top-p the choice is a place in the order of ids, which is found by the sums of ranges of ids.
//
// After a pass the blocks exchange what they found, and each of them continues with all of it. So all come to the same
// choice. They wait for each other twice for a greedy one, three times without top-k and top-p, and seven with top-p.
constexpr int choose_bits = 9, choose_bins = 1 << choose_bits, choose_threads = choose_bins, most_members = 2048;
constexpr int choose_warps = choose_threads / 32;

// One row of logits. A warp has `range` of them, counted over the cluster, and this block those from `begin` to `end`.
template <class T>
struct Row {
    const T* logits;
    int V, range, begin, end;

    // W: the logits that a thread reads at a time.
    __device__ Row(const T* logits, int V, int W) : logits(logits), V(V) {
        const int step  = choose_warps * cluster_blocks() * 32 * W,
                  share = (V + step - 1) / step * 32 * W * choose_warps;
        range           = share / choose_warps;
        begin           = min(V, block_in_cluster() * share);
        end             = min(V, begin + share);
    }
    __device__ float at(int id) const { return load<1>(logits + id)[0]; }
};

// The integer that has the place of a logit in the order of logits. The two zeros are equal.
template <class T>
__device__ uint32_t place_of(float logit) {
    const uint32_t bits = __float_as_uint(logit + 0.f);
    return (bits & 0x80000000u ? ~bits : bits | 0x80000000u) >> (32 - 8 * int(sizeof(T)));
}

// An id of the part that is divided further: its place in the order, and its weight.
struct Member {
    uint64_t key, weight;
};

struct ChoiceMemory {
    uint32_t low[choose_bins], high[choose_bins];  // the two halves of 64-bit sums
    uint32_t counts[choose_bins];                  // how many ids of this block's share each part has
    Member members[most_members];                  // those of one part
    uint64_t of_warp[choose_warps], of_range[choose_warps];
    uint64_t likeliest, least, left;  // hold what this block found, and the others read it
    uint64_t before;                  // the sum before what was found
    int found, members_here;
};

__device__ inline void add_to_bin(ChoiceMemory& m, uint32_t bin, uint64_t x) {
    const uint32_t low = uint32_t(x), old = atomicAdd(&m.low[bin], low);
    const uint32_t high = uint32_t(x >> 32) + (old + low < old);
    if (high) atomicAdd(&m.high[bin], high);
}
// Every thread owns a bin.
__device__ inline void clear_bins(ChoiceMemory& m) {
    __syncthreads();
    m.low[threadIdx.x] = m.high[threadIdx.x] = 0;
    __syncthreads();
}
__device__ inline uint64_t sum_in_bin(const ChoiceMemory& m) {
    return uint64_t(m.high[threadIdx.x]) << 32 | m.low[threadIdx.x];
}

__device__ inline uint64_t block_min(uint64_t x, ChoiceMemory& m) {
    for (int w = 16; w; w /= 2) x = min(x, __shfl_xor_sync(~0u, x, w));
    __syncthreads();
    if (threadIdx.x % 32 == 0) m.of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    for (int w = 0; w < choose_warps; w++) x = min(x, m.of_warp[w]);
    return x;
}

// Every thread of a cluster calls f(the number of each of its blocks). `own` is where this block keeps its number for
// the others, and is used once.
template <class F>
__device__ inline void exchange(uint64_t x, uint64_t& own, F f) {
    if (threadIdx.x == 0) own = x;
    wait_for_cluster();
    for (int b = 0; b < cluster_blocks(); b++) f(*of_block(&own, b));
}
__device__ inline uint64_t cluster_min(uint64_t x, uint64_t& own, ChoiceMemory& m) {
    x = block_min(x, m);
    exchange(x, own, [&](uint64_t other) { x = min(x, other); });
    return x;
}

// Returns the sum of x over all threads before this one, and in `all` the sum over the block.
__device__ inline uint64_t sum_before(uint64_t x, uint64_t& all, ChoiceMemory& m) {
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
    for (int w = 0; w < choose_warps; w++) {
        if (w == warp) sum += all;
        all += m.of_warp[w];
    }
    return sum - x;
}

// The thread at whose x the running sum over the block first exceeds `target`.
struct Located {
    int thread;
    uint64_t before, target;  // the sum of x over the threads before it
};
// target_of(all) gets the sum over the block.
template <class Target>
__device__ inline Located locate(uint64_t x, Target target_of, ChoiceMemory& m) {
    uint64_t all;
    const uint64_t before = sum_before(x, all, m), target = target_of(all);
    if (before <= target && target < before + x) {
        m.found  = threadIdx.x;
        m.before = before;
    }
    __syncthreads();
    return {m.found, m.before, target};
}

// Calls f(id, logit) for the logits of a row from `begin`, a multiple of W, to `end`. They are shared by the block.
template <int W, class T, class F>
__device__ inline void each_logit(const Row<T>& row, int begin, int end, F f) {
    const int whole = begin + max(0, end - begin) / W * W, rest = whole + int(threadIdx.x);
    for (int i = begin + threadIdx.x * W; i < whole; i += choose_threads * W) {
        const Floats<W> x = load<W>(row.logits + i);
        for (int k = 0; k < W; k++) f(i + k, x[k]);
    }
    if (W > 1 && rest < end) f(rest, row.at(rest));
}
// The same for this block's share of the row.
template <int W, class T, class F>
__device__ inline void each_own(const Row<T>& row, F f) {
    each_logit<W>(row, row.begin, row.end, f);
}

// Goes through the ids in their order, and returns the first one at which the sum of weight(id, logit) exceeds
// target_of(the sum of all). Each warp adds up its range of ids. Then every block divides the range that has the place.
template <int W, class T, class Target, class Weight>
__device__ int find_by_id(const Row<T>& row, Target target_of, Weight weight, ChoiceMemory& m) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const auto of_vector = [&](int i) {
        uint64_t sum = 0;
        if (i >= row.V) return sum;
        const Floats<W> x = load<W>(row.logits + i);
        for (int k = 0; k < W; k++)
            if (i + k < row.V) sum += weight(i + k, x[k]);
        return sum;
    };
    uint64_t mine   = 0;
    const int begin = row.begin + warp * row.range;
    for (int i = begin + lane * W; i < min(row.end, begin + row.range); i += 32 * W) mine += of_vector(i);
    mine = warp_sum(mine);
    if (lane == 0) m.of_range[warp] = mine;
    wait_for_cluster();
    const bool has_range = int(threadIdx.x) < choose_warps * cluster_blocks();
    const Located at     = locate(
            has_range ? *of_block(&m.of_range[threadIdx.x % choose_warps], threadIdx.x / choose_warps) : 0, target_of, m);
    const int first = at.thread * row.range;
    uint64_t before = at.before, all;
    for (int i = first + int(threadIdx.x) * W; i - int(threadIdx.x) * W < min(row.V, first + row.range);
         i += choose_threads * W, before += all) {
        const uint64_t vector = i < first + row.range ? of_vector(i) : 0;
        uint64_t sum          = before + sum_before(vector, all, m);
        if (sum <= at.target && at.target < sum + vector)
            for (int k = 0; k < W && i + k < row.V; k++) {
                const uint64_t w = weight(i + k, row.at(i + k));
                if (at.target < sum + w) {
                    m.found = i + k;
                    break;
                }
                sum += w;
            }
    }
    __syncthreads();
    return m.found;
}

// The order of falling logits, and of rising ids where logits are equal. Ids come in the order of their keys.
template <class T>
struct LogitOrder {
    uint32_t best;  // the place of the largest logit
    int id_bits;
    float half, scale;  // half of the largest logit; parts for each half of a unit below it

    __device__ LogitOrder(float best, float least, int V)
        : best(place_of<T>(best)),
          id_bits(0),
          half(.5f * best),
          scale(fminf(float(choose_bins) / fmaxf(half - .5f * least, FLT_MIN), FLT_MAX)) {
        while (V - 1 >> id_bits) id_bits++;
    }
    __device__ uint64_t key(int id, float logit) const {
        return uint64_t(best - place_of<T>(logit)) << id_bits | uint32_t(id);
    }
    __device__ int id(uint64_t key) const { return int(key & ((uint64_t(1) << id_bits) - 1)); }
    // Which of the parts a logit is in. It never falls when logits fall. Half of each logit is taken because the
    // difference of two can be too large for a float. The intrinsics see to it that all passes round alike.
    __device__ int part(float logit) const {
        return int(fminf(__fmul_rn(__fmaf_rn(-.5f, logit, half), scale), choose_bins - 1));
    }
};

// The key at which a running sum in the order of keys first exceeds some number, and the sum before it.
struct Found {
    uint64_t key, before;
};

// Finds the key at which the sum of weight(key, logit) exceeds `target`, among those of one part.
template <int W, class T, class Weight>
__device__ Found find_in_part(const Row<T>& row, const LogitOrder<T>& order, int part, uint64_t target, Weight weight,
                              ChoiceMemory& m) {
    bool fit = true;
    for (int b = 0; b < cluster_blocks(); b++) fit &= of_block(&m, b)->counts[part] <= most_members;
    const auto each_member = [&](auto f) {
        for (int b = 0; fit && b < cluster_blocks(); b++) {
            const ChoiceMemory& other = *of_block(&m, b);
            for (int i = threadIdx.x; i < other.members_here; i += choose_threads)
                f(other.members[i].key, other.members[i].weight);
        }
        if (!fit)
            each_logit<W>(row, 0, row.V, [&](int id, float logit) {
                if (order.part(logit) == part) f(order.key(id, logit), weight(order.key(id, logit), logit));
            });
    };
    wait_for_cluster();  // the others have read the bins and the members of this block
    if (threadIdx.x == 0) m.members_here = 0;
    __syncthreads();
    if (fit) {
        each_own<W>(row, [&](int id, float logit) {
            if (order.part(logit) == part) m.members[atomicAdd(&m.members_here, 1)].key = uint64_t(id);
        });
        __syncthreads();
        for (int i = threadIdx.x; i < m.members_here; i += choose_threads) {
            const int id       = int(m.members[i].key);
            const uint64_t key = order.key(id, row.at(id));
            m.members[i]       = {key, weight(key, row.at(id))};
        }
        wait_for_cluster();
    }
    uint64_t first = UINT64_MAX, last = 0, before = 0;
    each_member([&](uint64_t key, uint64_t) {
        first = min(first, key);
        last  = max(last, key);
    });
    first     = block_min(first, m);
    last      = ~block_min(~last, m);
    int shift = max(0, 64 - __clzll(int64_t(last - first)) - choose_bits);
    for (;; shift = max(0, shift - choose_bits)) {
        clear_bins(m);
        each_member([&](uint64_t key, uint64_t weight) {
            if (key < first || (key - first) >> shift >= choose_bins || weight == 0) return;
            add_to_bin(m, uint32_t((key - first) >> shift), weight);
        });
        __syncthreads();
        const Located at = locate(
            sum_in_bin(m), [&](uint64_t) { return target - before; }, m);
        first += uint64_t(at.thread) << shift;
        before += at.before;
        if (shift == 0) return {first, before};
    }
}

// Returns the id that is chosen of a row, or -1.
template <int W, class T>
__device__ int32_t choose_row(const Row<T>& row, const Rule& rule, float u, ChoiceMemory& m) {
    float best = -INFINITY, least = INFINITY;
    int best_id    = INT_MAX;
    bool is_finite = true;
    each_own<W>(row, [&](int id, float logit) {
        best_id = logit > best ? id : best_id;
        best    = fmaxf(best, logit);
        least   = fminf(least, logit);
        is_finite &= fabsf(logit) <= FLT_MAX;
    });
    // The likeliest id has the largest logit, and of equal ones the smallest id. It is the least of these keys. That of
    // logits that are not all finite is less, and has the id -1.
    const uint64_t likeliest = uint64_t(~place_of<float>(best)) << 32 | uint32_t(best_id);
    best_id                  = int(uint32_t(cluster_min(is_finite ? likeliest : uint32_t(-1), m.likeliest, m)));
    if (best_id < 0 || rule.temperature == 0) return best_id;

    best = row.at(best_id);
    if (rule.top_k == row.V) {
        least = best - 28 * rule.temperature;  // ids below have no weight, and share the last part
    } else {
        const uint32_t place = uint32_t(cluster_min(place_of<float>(least), m.least, m));
        least                = __uint_as_float(place & 0x80000000u ? place & 0x7fffffffu : ~place);
    }
    const LogitOrder<T> order(best, least, row.V);
    const auto weight_of = [&](float logit) {
        return in_units(portable_exp<uint32_t>((logit - best) / rule.temperature));
    };
    uint64_t last_key   = UINT64_MAX;  // the key of the last id that may be chosen
    const auto weight   = [&](uint64_t key, float logit) { return key <= last_key ? weight_of(logit) : 0; };
    uint64_t count_here = 0, weight_here = 0;  // how many ids this thread's part has, and their weights
    if (rule.top_k < row.V || rule.top_p < 1) {
        m.counts[threadIdx.x] = 0;
        clear_bins(m);
        each_own<W>(row, [&](int, float logit) {
            const int part = order.part(logit);
            atomicAdd(&m.counts[part], 1);
            if (rule.top_p == 1) return;
            if (const uint64_t w = weight_of(logit)) add_to_bin(m, part, w);
        });
        wait_for_cluster();
        for (int b = 0; b < cluster_blocks(); b++) {
            const ChoiceMemory& other = *of_block(&m, b);
            count_here += other.counts[threadIdx.x];
            weight_here += sum_in_bin(other);
        }
    }
    // Three places in the order of logits: the last id of the top k, the last one of top-p, and the choice.
    enum { last_of_k, last_of_p, choice };
    uint64_t kept = 0;
    for (int what = rule.top_k < row.V ? last_of_k : last_of_p; rule.top_p < 1 || what == last_of_k; what++) {
        const Located part = locate(
            what == last_of_k ? count_here : weight_here,
            [&](uint64_t all) {
                return what == last_of_k   ? uint64_t(rule.top_k - 1)
                       : what == last_of_p ? sum_to_keep(rule.top_p, all) - 1
                                           : sum_to_exceed(u, kept);
            },
            m);
        const Found found = find_in_part<W>(
            row, order, part.thread, part.target - part.before,
            [&](uint64_t key, float logit) { return what == last_of_k ? 1 : weight(key, logit); }, m);
        const int id = order.id(found.key);
        if (what == choice) return id;
        if (what == last_of_p) kept = part.before + found.before + weight_of(row.at(id));
        if (what == last_of_k) {
            last_key = found.key;
            if (rule.top_p == 1) break;
            uint64_t own = 0, left = 0;  // the weights of this part that are left
            each_own<W>(row, [&](int id, float logit) {
                if (order.part(logit) == part.thread) own += weight(order.key(id, logit), logit);
            });
            exchange(block_sum(own), m.left, [&](uint64_t other) { left += other; });
            if (int(threadIdx.x) >= part.thread) weight_here = int(threadIdx.x) == part.thread ? left : 0;
        }
    }
    return find_by_id<W>(
        row, [&](uint64_t all) { return sum_to_exceed(u, all); },
        [&](int id, float logit) { return weight(order.key(id, logit), logit); }, m);
}

template <int W, class T>
static __global__ void __launch_bounds__(choose_threads, 1)
    choose_kernel(int32_t* ids, int32_t* drawn, int32_t* positions, const T* logits, int V, int64_t Vp, Rule rule) {
    __shared__ ChoiceMemory m;
    wait_for_kernels();
    const int n      = int(blockIdx.x) / cluster_blocks();
    const float u    = philox_uniform(rule.key, rule.sequence + n, drawn[n]);
    const int32_t id = choose_row<W>(Row<T>(logits + n * Vp, V, W), rule, u, m);
    wait_for_cluster();  // the others may still read this block's memory, or drawn[n]
    if (threadIdx.x != 0 || block_in_cluster() != 0) return;
    ids[n] = id;
    drawn[n]++;
    if (positions) positions[n]++;
}

template <class T>
static void choose(Tensor ids, Tensor drawn, Tensor positions, Tensor logits, int64_t V, const Rule& rule, Queue& q) {
    const int64_t N = logits.shape[0], Vp = logits.shape[1];
    for_width<T>(Vp % wide<T> == 0 && aligned(logits.ptr), [&](auto width) {
        // With few rows a row gets more blocks, up to 128 in all. 8 are the most that every GPU with clusters allows.
        const auto kernel = choose_kernel<width, T>;
        int blocks        = 1;
        if (compiled_for_hopper(kernel, q))
            while (blocks < 8 && 2 * blocks * N <= 128) blocks *= 2;
        launch_early(kernel, Grid(N * blocks, choose_threads).in_clusters(blocks), q, ids.data<int32_t>(),
                     drawn.data<int32_t>(), positions.data_or_null<int32_t>(), logits.data<T>(), int(V), Vp, rule);
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
