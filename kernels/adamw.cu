// adamw.cu - one fused update (Loshchilov & Hutter 2017: arXiv 1711.05101, algorithm 2)
//
//   g  = min(1, clip / norm) · grad
//   m  = β1 m + (1 - β1) g           m̂ = m / (1 - β1^step)
//   v  = β2 v + (1 - β2) g²          v̂ = v / (1 - β2^step)
//   master -= lr (m̂ / (√v̂ + eps) + weight_decay · master)
//   w  = master, rounded to w's dtype
//
//   The five tensors of a row share one shape; grad_norm2 is (1) and holds norm². Memory is the cost: 28 bytes a
//   parameter in fp32, where w is its own master, and 30 in bf16.
#include "cpu.h"
#include "ops.h"
#include "rounding.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

AdamWUpdate adamw_update(float lr, float beta1, float beta2, int64_t step) {
    CHECK(step >= 1 && step <= UINT32_MAX, "adamw: step is {}, expected 1 (the first update) to 2^32 - 1", step);
    CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "adamw: beta1 is {} and beta2 {}, expected [0, 1)", beta1,
          beta2);
    const auto hat = [&](double beta) { return float(1 / (1 - std::pow(beta, double(step)))); };
    return {lr, hat(beta1), hat(beta2), uint32_t(step)};
}

// 1 - β, taken in double: close to 1, a float of β has few digits left of it.
struct AdamWShares {
    float m, v;
    explicit AdamWShares(const AdamWRule& r) : m(float(1 - double(r.beta1))), v(float(1 - double(r.beta2))) {}
};

namespace cpu {

inline floats root(floats x) {
    for (int i = 0; i < lanes; i++) x[i] = std::sqrt(x[i]);
    return x;
}

template <class T>
static void adamw(const AdamWTable& table, Tensor grad_norm2, Tensor loss, Tensor update, AdamWRule r) {
    const float norm2 = *grad_norm2.data<float>();
    if (!std::isfinite(norm2) || (loss && !std::isfinite(*loss.data<float>()))) return;
    const float norm = std::sqrt(norm2), shrink = r.clip > 0 && norm > r.clip ? r.clip / norm : 1.f;
    const AdamWUpdate u = *static_cast<const AdamWUpdate*>(update.ptr);
    const AdamWShares share(r);
    for (const AdamWRow& row : table.rows) {
        T* w               = row.w.data<T>();
        float* master      = row.master.data<float>();
        float* m           = row.m.data<float>();
        float* v           = row.v.data<float>();
        const float* grad  = row.grad.data<float>();
        const float decay  = row.weight_decay;
        const uint64_t key = row.rounding;
        parallel_lanes(row.grad.numel(), [=](int64_t i, auto n) {
            const floats g    = load(grad + i, n) * shrink;
            const floats mean = load(m + i, n) * r.beta1 + g * share.m;
            const floats var  = load(v + i, n) * r.beta2 + g * g * share.v;
            const floats old  = load(master + i, n);
            const floats now  = old - u.lr * (mean * u.m_hat / (root(var * u.v_hat) + r.eps) + decay * old);
            store(m + i, mean, n);
            store(v + i, var, n);
            store(master + i, now, n);
            if constexpr (std::is_same_v<T, bf16>)
                if (key) return store_at_random(w, now, i, n, key, u.step);
            store(w + i, now, n);
        });
    }
}

static void round_at_random(Tensor w, Tensor master, uint64_t key, uint32_t step) {
    bf16* w_at             = w.data<bf16>();
    const float* master_at = master.data<float>();
    parallel_lanes(w.numel(),
                   [=](int64_t i, auto n) { store_at_random(w_at, load(master_at + i, n), i, n, key, step); });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// A table in device memory: an AdamWRow as the kernel reads it, and for each block elements [chunk · index,
// chunk · (index + 1)) of a row. 4096 elements are 112 KB to move, beside which finding them costs little.
struct Row {
    void* w;
    float *master, *m, *v;
    const float* grad;
    int64_t n;
    uint64_t rounding;
    float weight_decay;
    int32_t wide;  // 4 elements at a time, 16 bytes of each fp32 tensor
};
struct Chunk {
    int32_t row, index;
};
static_assert(sizeof(Row) == 64 && sizeof(Chunk) == 8, "whole numbers of int32");
constexpr int64_t chunk = 4096;

static void upload(AdamWTable& t, const Device& device) {
    std::vector<Row> rows;
    std::vector<Chunk> chunks;
    for (const AdamWRow& r : t.rows) {
        for (int64_t i = 0; i < ceil_div(r.w.numel(), chunk); i++) chunks.push_back({int32_t(rows.size()), int32_t(i)});
        rows.push_back({r.w.ptr, r.master.data<float>(), r.m.data<float>(), r.v.data<float>(), r.grad.data<float>(),
                        r.w.numel(), r.rounding, r.weight_decay,
                        aligned(r.w.ptr, r.master.ptr, r.m.ptr, r.v.ptr, r.grad.ptr)});
    }
    const Shape of_rows{int64_t(rows.size()), 16}, of_chunks{int64_t(chunks.size()), 2};
    t.memory.plan(of_rows, DType::I32);
    t.memory.plan(of_chunks, DType::I32);
    t.memory.allocate(device);
    t.gpu_rows   = t.memory.take(of_rows, DType::I32);
    t.gpu_chunks = t.memory.take(of_chunks, DType::I32);
    from_host(t.gpu_rows, rows.data(), device.stream());
    from_host(t.gpu_chunks, chunks.data(), device.stream());
}

// Weights may be their own masters, so neither is __restrict__.
template <class T>
static __global__ void adamw_kernel(const Row* rows, const Chunk* chunks, const float* grad_norm2, const float* loss,
                                    const AdamWUpdate* update, AdamWRule r, AdamWShares share) {
    const float norm2 = *grad_norm2;
    if (!isfinite(norm2) || (loss && !isfinite(*loss))) return;
    const float norm = sqrtf(norm2), shrink = r.clip > 0 && norm > r.clip ? r.clip / norm : 1.f;
    const AdamWUpdate u = *update;
    const Chunk mine    = chunks[blockIdx.x];
    const Row row       = rows[mine.row];
    T* const w          = static_cast<T*>(row.w);
    const auto step     = [&](int64_t i, auto width) {
        Floats<width> g = load<width>(row.grad + i), mean = load<width>(row.m + i), var = load<width>(row.v + i),
                      now = load<width>(row.master + i);
        for (int j = 0; j < width; j++) {
            const float gj = g[j] * shrink;
            mean[j]        = mean[j] * r.beta1 + gj * share.m;
            var[j]         = var[j] * r.beta2 + gj * gj * share.v;
            now[j] -= u.lr * (mean[j] * u.m_hat / (sqrtf(var[j] * u.v_hat) + r.eps) + row.weight_decay * now[j]);
        }
        store(row.m + i, mean);
        store(row.v + i, var);
        store(row.master + i, now);
        if constexpr (std::is_same_v<T, bf16>) {
            if (row.rounding) now = at_random(now, i, row.rounding, u.step);
            store(w + i, now);
        } else if (w != row.master) {
            store(w + i, now);
        }
    };
    const int64_t first = mine.index * chunk, end = min(row.n, first + chunk);
    const int64_t wide_end = row.wide ? end / 4 * 4 : first;
    for (int64_t i = first + 4 * threadIdx.x; i < wide_end; i += 4 * blockDim.x) step(i, Constant<4>{});
    for (int64_t i = wide_end + threadIdx.x; i < end; i += blockDim.x) step(i, Constant<1>{});
}

template <class T>
static void adamw(const AdamWTable& t, Tensor grad_norm2, Tensor loss, Tensor update, AdamWRule r, Queue& q) {
    CHECK(t.gpu_rows, "adamw: this table was made for the CPU");
    launch(adamw_kernel<T>, {t.gpu_chunks.shape[0], 256}, q, static_cast<const Row*>(t.gpu_rows.ptr),
           static_cast<const Chunk*>(t.gpu_chunks.ptr), grad_norm2.data<float>(), static_cast<const float*>(loss.ptr),
           static_cast<const AdamWUpdate*>(update.ptr), r, AdamWShares(r));
}

template <int W>
static __global__ void round_at_random_kernel(bf16* w, const float* master, int64_t n, uint64_t key, uint32_t step) {
    for_grid<W>(n, [=](int64_t i, auto width) { store(w + i, at_random(load<width>(master + i), i, key, step)); });
}

static void round_at_random(Tensor w, Tensor master, uint64_t key, uint32_t step, Queue& q) {
    const int64_t n = w.numel();
    for_width<float>(aligned(w.ptr, master.ptr), [&](auto width) {
        launch(round_at_random_kernel<width>, grid_over(n, width), q, w.data<bf16>(), master.data<float>(), n, key,
               step);
    });
}

}  // namespace gpu
#endif

AdamWTable::AdamWTable(std::vector<AdamWRow> all, const Device& device) : rows(std::move(all)) {
    CHECK(!rows.empty(), "adamw: a table without rows");
    const Tensor& first = rows[0].w;
    dtype               = first.dtype;
    for (const AdamWRow& row : rows) {
        const Tensor &w = row.w, &master = row.master, &m = row.m, &v = row.v, &grad = row.grad;
        expect_dtype(w, dtype);
        expect(master, w.shape, DType::F32, w);
        expect(m, w.shape, DType::F32, w);
        expect(v, w.shape, DType::F32, w);
        expect(grad, w.shape, DType::F32, w);
    }
#ifdef __CUDACC__
    if (device.where() == Machine::cuda) gpu::upload(*this, device);
#else
    (void)device;
#endif
}

void adamw(const AdamWTable& table, Tensor grad_norm2, Tensor loss, Tensor update, AdamWRule rule, Stream s) {
    CHECK(!table.rows.empty(), "adamw: a table without rows");
    expect(grad_norm2, Shape({1}), DType::F32, grad_norm2);
    expect_maybe(loss, Shape({1}), DType::F32, grad_norm2);
    static_assert(sizeof(AdamWUpdate) == 16, "four words");
    expect(update, Shape({4}), DType::I32, grad_norm2);
    RUN_ON(s, table.dtype, adamw, table, grad_norm2, loss, update, rule);
}

void round_at_random(Tensor w, Tensor master, uint64_t key, uint32_t step, Stream s) {
    expect_dtype(w, DType::BF16);
    expect(master, w.shape, DType::F32, w);
    RUN_UNTYPED(s, round_at_random, w, master, key, step);
}
