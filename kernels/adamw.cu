// adamw.cu - one update of a table of weights (Loshchilov & Hutter 2017: arXiv 1711.05101, algorithm 2)
//
//   g  = min(1, clip / norm) · grad
//   m  = β1 m + (1 - β1) g           m̂ = m / (1 - β1^step)
//   v  = β2 v + (1 - β2) g²          v̂ = v / (1 - β2^step)
//   master -= lr (m̂ / (√v̂ + eps) + weight_decay · master)
//   w  = master, rounded to w's dtype
//
//   The five tensors of a row have one shape; grad_norm2 is (1) and holds norm². The op only moves memory: 28 bytes a
//   weight in fp32, where w is its own master, and 30 in bf16.
#include "cpu.h"
#include "ops.h"
#include "update.h"
#ifdef __CUDACC__
#include "adamw_offloaded.cuh"
#endif

AdamWUpdate adamw_update(float lr, float beta1, float beta2, int64_t step) {
    CHECK_CALL(step >= 1 && step <= UINT32_MAX, "adamw: step is {}, expected 1 (the first update) to 2^32 - 1", step);
    CHECK_CALL(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "adamw: beta1 is {} and beta2 {}, expected [0, 1)",
               beta1, beta2);
    const auto hat = [&](double beta) { return float(1 / (1 - std::pow(beta, double(step)))); };
    return {lr, hat(beta1), hat(beta2), uint32_t(step)};
}

// The numbers in the formula that stay the same from update to update. 1 - β is computed in double, because in float
// few of its digits are left when β is close to 1.
struct AdamWFactors {
    float beta1, beta2, one_minus_beta1, one_minus_beta2, eps, clip;
    explicit AdamWFactors(const AdamWRule& r)
        : beta1(r.beta1),
          beta2(r.beta2),
          one_minus_beta1(float(1 - double(r.beta1))),
          one_minus_beta2(float(1 - double(r.beta2))),
          eps(r.eps),
          clip(r.clip) {}
};

HD float root_of(float x) { return sqrtf(x); }
inline cpu::floats root_of(cpu::floats x) {
    for (int i = 0; i < cpu::lanes; i++) x[i] = std::sqrt(x[i]);
    return x;
}

// The formula above, for one element on the GPU and for a vector of them on the CPU.
template <class F>
struct AdamWElement {
    F master, m, v;
};
template <class F>
HD AdamWElement<F> adamw_element(F master, F m, F v, F grad, float grad_factor, float weight_decay,
                                 const AdamWFactors& f, const AdamWUpdate& u) {
    const F g = grad * grad_factor;
    m         = m * f.beta1 + g * f.one_minus_beta1;
    v         = v * f.beta2 + g * g * f.one_minus_beta2;
    master    = master - u.lr * (m * u.m_hat / (root_of(v * u.v_hat) + f.eps) + weight_decay * master);
    return {master, m, v};
}

namespace cpu {

template <class T>
static void adamw(const AdamWTable& table, Tensor grad_norm2, Tensor loss, Tensor update, AdamWRule rule) {
    const float grad_factor = clip_factor(*grad_norm2.data<float>(), loss.data_or_null<float>(), rule.clip);
    if (grad_factor < 0) return;
    const AdamWUpdate numbers = *static_cast<const AdamWUpdate*>(update.ptr);
    const AdamWFactors factors(rule);
    for (const AdamWRow& row : table.rows) {
        T* w                     = row.w.data<T>();
        float* master            = row.master.data<float>();
        float* m                 = row.m.data<float>();
        float* v                 = row.v.data<float>();
        const float* grad        = row.grad.data<float>();
        const float weight_decay = row.weight_decay;
        const Rounding rounding  = row.rounding;
        parallel_lanes(row.grad.numel(), [=](int64_t i, auto n) {
            const auto next = adamw_element(load(master + i, n), load(m + i, n), load(v + i, n), load(grad + i, n),
                                            grad_factor, weight_decay, factors, numbers);
            store(m + i, next.m, n);
            store(v + i, next.v, n);
            store_weights(w, master, next.master, i, n, rounding, numbers.step);
        });
    }
}

static void round_at_random(Tensor w, Tensor master, Rounding rounding, uint32_t step) {
    bf16* to          = w.data<bf16>();
    const float* from = master.data<float>();
    parallel_lanes(w.numel(), [=](int64_t i, auto n) { store_at_random(to, load(from + i, n), i, n, rounding, step); });
}

}  // namespace cpu

#ifdef __CUDACC__
namespace gpu {

// The table as the kernel reads it. There is a TableRow for each AdamWRow, and a TableChunk for each block, which says
// that the block updates elements [chunk · index, chunk · (index + 1)) of a row. A chunk of 4096 elements is 112 KB to
// move, so reading its entry costs little beside it.
struct TableRow {
    void* w;
    float *master, *m, *v;
    const float* grad;
    int64_t n;
    Rounding rounding;
    float weight_decay;
    int32_t is_wide;  // whether every tensor is aligned for 4 elements at a time, 16 bytes of fp32
};
struct TableChunk {
    int32_t row, index;
};
static_assert(sizeof(TableRow) == 72 && sizeof(TableChunk) == 8, "both are sent as whole numbers of int32");
constexpr int64_t chunk = 4096;

static bool in_host_memory(const void* p) {
    cudaPointerAttributes place;
    CUDA_RUN(cudaPointerGetAttributes(&place, p));
    return place.type == cudaMemoryTypeHost;
}

static void upload(AdamWTable& t, const Device& device) {
    if (in_host_memory(t.rows[0].m.ptr)) return void(t.offloaded = std::make_shared<OffloadedAdamW>(t));
    std::vector<TableRow> rows;
    std::vector<TableChunk> chunks;
    for (const AdamWRow& r : t.rows) {
        for (int64_t i = 0; i < ceil_div(r.w.numel(), chunk); i++) chunks.push_back({int32_t(rows.size()), int32_t(i)});
        rows.push_back({r.w.ptr, r.master.data<float>(), r.m.data<float>(), r.v.data<float>(), r.grad.data<float>(),
                        r.w.numel(), r.rounding, r.weight_decay,
                        aligned(r.w.ptr, r.master.ptr, r.m.ptr, r.v.ptr, r.grad.ptr)});
    }
    const Shape rows_shape{int64_t(rows.size()), 18}, chunks_shape{int64_t(chunks.size()), 2};
    t.memory.plan(rows_shape, DType::I32);
    t.memory.plan(chunks_shape, DType::I32);
    t.memory.allocate(device);
    t.gpu_rows   = t.memory.take(rows_shape, DType::I32);
    t.gpu_chunks = t.memory.take(chunks_shape, DType::I32);
    from_host(t.gpu_rows, rows.data(), device.stream());
    from_host(t.gpu_chunks, chunks.data(), device.stream());
}

// Weights may be their own masters, so neither pointer is __restrict__.
template <class T>
static __global__ void adamw_kernel(const TableRow* rows, const TableChunk* chunks, const float* grad_norm2,
                                    const float* loss, const AdamWUpdate* update, AdamWFactors factors) {
    const float grad_factor = clip_factor(*grad_norm2, loss, factors.clip);
    if (grad_factor < 0) return;
    const AdamWUpdate numbers = *update;
    const TableChunk mine     = chunks[blockIdx.x];
    const TableRow row        = rows[mine.row];
    T* const w                = static_cast<T*>(row.w);
    const auto update_at      = [&](int64_t i, auto width) {
        const Floats<width> grad = load<width>(row.grad + i);
        Floats<width> m = load<width>(row.m + i), v = load<width>(row.v + i), master = load<width>(row.master + i);
        for (int j = 0; j < width; j++) {
            const auto next =
                adamw_element(master[j], m[j], v[j], grad[j], grad_factor, row.weight_decay, factors, numbers);
            master[j] = next.master;
            m[j]      = next.m;
            v[j]      = next.v;
        }
        store(row.m + i, m);
        store(row.v + i, v);
        store_weights(w, row.master, master, i, row.rounding, numbers.step);
    };
    const int64_t first = mine.index * chunk, end = min(row.n, first + chunk);
    const int64_t wide_end = row.is_wide ? end / 4 * 4 : first;
    for (int64_t i = first + 4 * threadIdx.x; i < wide_end; i += 4 * blockDim.x) update_at(i, Constant<4>{});
    for (int64_t i = wide_end + threadIdx.x; i < end; i += blockDim.x) update_at(i, Constant<1>{});
}

template <class T>
static void adamw(const AdamWTable& t, Tensor grad_norm2, Tensor loss, Tensor update, AdamWRule rule, Queue& q) {
    if (t.offloaded) return t.offloaded->run(grad_norm2, loss, update, rule, q);
    CHECK_CALL(t.gpu_rows, "adamw: the table was made for the CPU, but the stream is of a GPU");
    launch(adamw_kernel<T>, {t.gpu_chunks.shape[0], 256}, q, static_cast<const TableRow*>(t.gpu_rows.ptr),
           static_cast<const TableChunk*>(t.gpu_chunks.ptr), grad_norm2.data<float>(), loss.data_or_null<float>(),
           static_cast<const AdamWUpdate*>(update.ptr), AdamWFactors(rule));
}

template <int W>
static __global__ void round_at_random_kernel(bf16* w, const float* master, int64_t n, Rounding rounding,
                                              uint32_t step) {
    for_grid<W>(n, [=](int64_t i, auto width) { store(w + i, at_random(load<width>(master + i), i, rounding, step)); });
}

static void round_at_random(Tensor w, Tensor master, Rounding rounding, uint32_t step, Queue& q) {
    const int64_t n = w.numel();
    for_width<float>(aligned(w.ptr, master.ptr), [&](auto width) {
        launch(round_at_random_kernel<width>, grid_over(n, width), q, w.data<bf16>(), master.data<float>(), n, rounding,
               step);
    });
}

}  // namespace gpu
#endif

AdamWTable::AdamWTable(std::vector<AdamWRow> all, const Device& device) : rows(std::move(all)) {
    if (rows.empty()) return;
    dtype = rows[0].w.dtype;
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

std::vector<Event> AdamWTable::updated() const {
#ifdef __CUDACC__
    if (offloaded) return offloaded->updated();
#endif
    return {};
}
int64_t AdamWTable::staging_bytes() { return Staging::slots * Staging::slot_bytes; }

void adamw(const AdamWTable& table, Tensor grad_norm2, Tensor loss, Tensor update, AdamWRule rule, Stream s) {
    expect(grad_norm2, Shape({1}), DType::F32, grad_norm2);
    expect_maybe(loss, Shape({1}), DType::F32, grad_norm2);
    static_assert(sizeof(AdamWUpdate) == 16, "it is sent as four int32");
    expect(update, Shape({4}), DType::I32, grad_norm2);
    if (table.rows.empty()) return;
    RUN_ON(s, table.dtype, adamw, table, grad_norm2, loss, update, rule);
}

void round_at_random(Tensor w, Tensor master, Rounding rounding, uint32_t step, Stream s) {
    expect_dtype(w, DType::BF16);
    expect(master, w.shape, DType::F32, w);
    RUN_UNTYPED(s, round_at_random, w, master, rounding, step);
}

// Four fp32 numbers are read and three written for each weight, and w as well where it is not its own master.
Cost adamw_cost(int64_t weights, DType x) {
    return {double(weights) * double(7 * size_of(DType::F32) + (x == DType::F32 ? 0 : size_of(x)))};
}
