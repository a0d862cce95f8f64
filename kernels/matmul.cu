// matmul.cu - matrix products: oneDNN on the CPU, cuBLASLt on a GPU
//
//   forward    out (N,OC) = x (N,IC) · wᵀ (IC,OC) + b, or gelu of that
//   backward   dx (N,IC) = dy (N,OC) · w (OC,IC)
//              dw (OC,IC) = or += dyᵀ (OC,N) · x (N,IC)
//              db (OC) = or += Σ_n dy
//              if x = gelu(pre), dpre = dx ∘ gelu'(pre) takes the place of dx
//
// Generation multiplies a few rows by a large weight, one token at a time. Reading the weight once is then the whole
// cost. So up to `dot_rows` rows on the CPU take a kernel of our own, which computes a dot product per output and
// streams w at the speed of the memory. oneDNN would first rearrange w into blocks.
//
// A build with ONEDNN=0 defines GPT_NO_ONEDNN. It trains and runs on GPUs only.
#include <map>
#include <memory>
#include <mutex>

#include "cpu.h"
#include "host.h"
#include "ops.h"
#include "product.h"
#ifdef __CUDACC__
#include "cublaslt.cuh"
#include "matmul_few_rows.cuh"
#endif

// ---- oneDNN ---------------------------------------------------------------------------------------------------------

namespace cpu {

#ifdef GPT_NO_ONEDNN
static void multiply(const Product& p, Tensor, Tensor, Tensor, Tensor = {}) {
    fail("{} on the CPU: this program was built without oneDNN (ONEDNN=0), so it multiplies on GPUs only", p.str());
}
#else
// How memory holds the operands of a product.
struct Layouts {
    dnnl::memory::desc a, b, c, bias;
    explicit Layouts(const Product& p)
        : a(matrix(p.M, p.K, p.in, p.a_transposed)),
          b(matrix(p.K, p.N, p.in, p.b_transposed)),
          c(matrix(p.M, p.N, p.out)),
          bias(p.bias ? matrix(1, p.N, p.in) : dnnl::memory::desc()) {}
    static dnnl::memory::desc matrix(int64_t rows, int64_t columns, DType t, bool transposed = false) {
        using tag = dnnl::memory::format_tag;
        return {{rows, columns}, onednn_type(t), transposed ? tag::ba : tag::ab};
    }
};

static dnnl::matmul build(const Product& p, const dnnl::engine& engine) {
    const Layouts l(p);
    dnnl::post_ops after;
    dnnl::primitive_attr attr;
    const auto gelu = p.gelu == Gelu::tanh ? dnnl::algorithm::eltwise_gelu_tanh : dnnl::algorithm::eltwise_gelu_erf;
    if (p.accumulate) after.append_sum(1.f);
#if DNNL_VERSION_MAJOR >= 3
    if (p.gelu) after.append_eltwise(gelu, 0.f, 0.f);
    attr.set_post_ops(after);
    return dnnl::matmul(dnnl::matmul::primitive_desc(engine, l.a, l.b, l.bias, l.c, attr));
#else
    if (p.gelu) after.append_eltwise(1.f, gelu, 0.f, 0.f);
    attr.set_post_ops(after);
    return dnnl::matmul({dnnl::matmul::desc(l.a, l.b, l.bias, l.c), attr, engine});
#endif
}

struct OneDnn {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    std::map<Product, dnnl::matmul> kernels;  // kept, because oneDNN compiles code for each
    std::mutex lock;
    const bool has_bf16 = multiplies_bf16();

    bool multiplies_bf16() const try {
        build({1, 1, 1, DType::BF16, DType::BF16}, engine);
        return true;
    } catch (const dnnl::error&) { return false; }
};

// oneDNN multiplies bf16 only where the CPU has AVX-512, or on Arm its own instructions for bf16. Elsewhere the product
// is one in fp32, of operands that are widened for this call.
static Tensor widened(std::unique_ptr<float[]>& memory, Tensor t) {
    if (!t || t.dtype == DType::F32) return t;
    memory.reset(new float[t.numel()]);
    const Tensor wide{memory.get(), DType::F32, t.shape};
    copy(wide, t, Stream{});
    return wide;
}

static OneDnn& onednn() {
    static OneDnn dnn;  // a cache of compiled kernels, which changes no result
    return dnn;
}

static void multiply(const Product& p, Tensor c, Tensor a, Tensor b, Tensor bias = {}) try {
    OneDnn& dnn = onednn();
    if (p.in == DType::BF16 && !dnn.has_bf16) {
        std::unique_ptr<float[]> memory[4];
        Product wide = p;
        wide.in = wide.out = DType::F32;
        const Tensor out   = widened(memory[0], c);
        multiply(wide, out, widened(memory[1], a), widened(memory[2], b), widened(memory[3], bias));
        if (out.ptr != c.ptr) copy(c, out, Stream{});
        return;
    }
    const std::lock_guard<std::mutex> guard(dnn.lock);
    auto found = dnn.kernels.find(p);
    if (found == dnn.kernels.end()) found = dnn.kernels.emplace(p, build(p, dnn.engine)).first;
    const Layouts l(p);
    std::unordered_map<int, dnnl::memory> args = {{DNNL_ARG_SRC, {l.a, dnn.engine, a.ptr}},
                                                  {DNNL_ARG_WEIGHTS, {l.b, dnn.engine, b.ptr}},
                                                  {DNNL_ARG_DST, {l.c, dnn.engine, c.ptr}}};
    if (p.bias) args.emplace(DNNL_ARG_BIAS, dnnl::memory(l.bias, dnn.engine, bias.ptr));
    found->second.execute(dnn.stream, args);
    dnn.stream.wait();
} catch (const dnnl::error& e) {
    throw_at<RunError>(__FILE__, __LINE__, "oneDNN: {} (status {}) for {}", e.what(), int(e.status), p.str());
}
#endif

// ---- a few rows -----------------------------------------------------------------------------------------------------

// Measured on 2 cores of a Zen 4 (2026-11-22): 4 rows times a 768 × 50304 bf16 weight take as long here as 1 row by
// oneDNN.
constexpr int64_t dot_rows = 4;

// Multiplies R rows of x by four rows of w at a time. The 4 R running sums stay in registers, and each weight is read
// once for all rows.
template <int R, class T>
static void dots_forward(T* out, const T* x, const T* w, const T* b, int64_t IC, int64_t OC) {
    constexpr int64_t G = 4;
    parallel_ranges(ceil_div(OC, G), std::max<int64_t>(1, 16384 / (G * IC)), [=](int64_t begin, int64_t end) {
        for (int64_t o = begin * G; o < std::min(end * G, OC); o += G) {
            const int64_t group = std::min(G, OC - o);
            floats acc[R][G]    = {};
            for_lanes(IC, [&](int64_t i, auto n) {
                floats xs[R];
                for (int r = 0; r < R; r++) xs[r] = load(x + r * IC + i, n);
                for (int g = 0; g < G; g++) {
                    const T* const at = w + (o + std::min<int64_t>(g, group - 1)) * IC + i;
                    // This is the same column of the next four rows. Rows are too short for the processor to prefetch.
                    __builtin_prefetch(at + G * IC);
                    const floats ws = load(at, n);
                    for (int r = 0; r < R; r++) acc[r][g] += xs[r] * ws;
                }
            });
            for (int r = 0; r < R; r++)
                for (int g = 0; g < group; g++) out[r * OC + o + g] = T(sum(acc[r][g]) + (b ? float(b[o + g]) : 0.f));
        }
    });
}

template <class T>
static bool dots_forward(Tensor out, Tensor x, Tensor w, Tensor b) {
    const int64_t N = x.shape[0], IC = x.shape[1], OC = w.shape[0];
    const auto run = [&](auto rows) {
        dots_forward<decltype(rows)::value>(out.data<T>(), x.data<T>(), w.data<T>(), b.data_or_null<T>(), IC, OC);
    };
    static_assert(dot_rows == 4, "one case per number of rows");
    switch (N) {
        case 1: run(std::integral_constant<int, 1>{}); return true;
        case 2: run(std::integral_constant<int, 2>{}); return true;
        case 3: run(std::integral_constant<int, 3>{}); return true;
        case 4: run(std::integral_constant<int, 4>{}); return true;
        default: return false;
    }
}

// ---- the CPU half ---------------------------------------------------------------------------------------------------

template <class T>
static void matmul_forward(Tensor out, Tensor x, Tensor w, Tensor b) {
    if (dots_forward<T>(out, x, w, b)) return;
    multiply(product_for_out(x, w, b), out, x, w, b);
}

// oneDNN can apply gelu to its product. We use that for the tanh form only: its erf form is less accurate than gelu.cu
// in fp32.
template <class T>
static void matmul_gelu_forward(Tensor act, Tensor pre, Tensor x, Tensor w, Tensor b, Gelu kind) {
    if (!pre && x.shape[0] > dot_rows && kind == Gelu::tanh) {
        Product p = product_for_out(x, w, b);
        p.gelu    = kind;
        return multiply(p, act, x, w, b);
    }
    const Tensor product = pre ? pre : act;
    matmul_forward<T>(product, x, w, b);
    gelu_forward(act, product, kind, Stream{});
}

template <class T>
static void norm_matmul_forward(Tensor out, const Norm& norm, Tensor x, Tensor w, Tensor b, std::optional<Gelu> kind,
                                float eps) {
    layernorm_forward(norm.out, norm.mean, norm.rstd, x, norm.w, norm.b, eps, Stream{});
    if (kind)
        matmul_gelu_forward<T>(out, Tensor{}, norm.out, w, b, *kind);
    else
        matmul_forward<T>(out, norm.out, w, b);
}

template <class T>
static void matmul_add_forward(Tensor out, Tensor residual, Tensor x, Tensor w, Tensor b) {
    matmul_forward<T>(out, x, w, b);
    add_forward(out, residual, out, Stream{});
}

static void matmul(Tensor out, const Factor& a, const Factor& b) {
    multiply(product_of(a, b), out, a.matrix, b.matrix);
}

// Sums the columns of dy. Rows are summed in groups of 64, and then the sums of the groups are added, so that no sum of
// floats has more than 64 or N/64 terms.
template <class T>
static void column_sums(Tensor db, Tensor dy, Into into) {
    const int64_t N = dy.shape[0], OC = dy.shape[1];
    float* out             = db.data<float>();
    const T* in            = dy.data<T>();
    constexpr int64_t slab = 4 * lanes;
    parallel_ranges(ceil_div(OC, slab), std::max<int64_t>(1, 16384 / (slab * N + 1)), [=](int64_t begin, int64_t end) {
        const int64_t first = begin * slab;
        for_lanes(std::min(end * slab, OC) - first, [=](int64_t i, auto n) {
            float* const to = out + first + i;
            floats total    = {};
            for (int64_t group = 0; group < N; group += 64) {
                floats of_group = {};
                for (int64_t r = group; r < std::min(group + 64, N); r++) of_group += load(in + r * OC + first + i, n);
                total += of_group;
            }
            store(to, into == Into::add ? load(to, n) + total : total, n);
        });
    });
}

template <class T>
static void matmul_backward(Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Into into) {
    if (dx) multiply(product_of(dy, w), dx, dy, w);
    multiply(product_for_dw(dy, x, into), dw, dy, x);
    if (db) column_sums<T>(db, dy, into);
}

template <class T>
static void matmul_gelu_backward(Tensor dpre, Tensor dw, Tensor db, Tensor dy, Tensor act, Tensor w, Tensor pre,
                                 Gelu kind, Into into) {
    matmul_backward<T>(dpre, dw, db, dy, act, w, into);
    gelu_backward(dpre, dpre, pre, kind, Stream{});
}

}  // namespace cpu

// ---- cuBLASLt -------------------------------------------------------------------------------------------------------

#ifdef __CUDACC__
namespace gpu {

template <class T>
static void matmul_forward(Tensor out, Tensor x, Tensor w, Tensor b, Queue& q) {
    if (few_rows_forward<T>(out, x, w, b, {}, 0.f, {}, {}, q)) return;
    multiply(product_for_out(x, w, b), out, x, w, q, b);
}

template <class T>
static void matmul_gelu_forward(Tensor act, Tensor pre, Tensor x, Tensor w, Tensor b, Gelu kind, Queue& q) {
    if (!pre && few_rows_forward<T>(act, x, w, b, {}, 0.f, kind, {}, q)) return;
    Product p   = product_for_out(x, w, b);
    p.gelu      = kind;
    p.keeps_pre = bool(pre);
    multiply(p, act, x, w, q, b, pre);
}

template <class T>
static void norm_matmul_forward(Tensor out, const Norm& norm, Tensor x, Tensor w, Tensor b, std::optional<Gelu> kind,
                                float eps, Queue& q) {
    if (few_rows_forward<T>(out, x, w, b, norm, eps, kind, {}, q)) return;
    layernorm_forward(norm.out, norm.mean, norm.rstd, x, norm.w, norm.b, eps, stream_of(q));
    if (kind)
        matmul_gelu_forward<T>(out, Tensor{}, norm.out, w, b, *kind, q);
    else
        matmul_forward<T>(out, norm.out, w, b, q);
}

template <class T>
static void matmul_add_forward(Tensor out, Tensor residual, Tensor x, Tensor w, Tensor b, Queue& q) {
    if (few_rows_forward<T>(out, x, w, b, {}, 0.f, {}, residual, q)) return;
    matmul_forward<T>(out, x, w, b, q);
    add_forward(out, residual, out, stream_of(q));
}

static void matmul(Tensor out, const Factor& a, const Factor& b, Queue& q) {
    multiply(product_of(a, b), out, a.matrix, b.matrix, q);
}

// db = or += the column sums of dy, in one launch. A block sums 64 bytes of columns, which 4 lanes read at a time. Its
// other lanes and its other warps take other rows, and their sums are added in a fixed order at the end.
constexpr int sum_threads = 512;

template <int W, int across, class T>
static __global__ void __launch_bounds__(sum_threads)
    column_sums_kernel(float* db, const T* dy, int64_t N, int64_t OC, Into into) {
    constexpr int down = 32 / across, warps = sum_threads / 32;
    __shared__ float of_warp[warps][across * W];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t column = (int64_t(blockIdx.x) * across + lane % across) * W;
    Floats<W> sum{};
    if (column < OC) {
#pragma unroll 8
        for (int64_t n = warp * down + lane / across; n < N; n += warps * down) {
            const Floats<W> v = load<W>(dy + n * OC + column);
            for (int k = 0; k < W; k++) sum[k] += v[k];
        }
    }
    for (int k = 0; k < W; k++) {
        for (int w = across; w < 32; w *= 2) sum[k] += __shfl_xor_sync(~0u, sum[k], w);
        if (lane < across) of_warp[warp][lane * W + k] = sum[k];
    }
    __syncthreads();
    const int64_t mine = int64_t(blockIdx.x) * across * W + threadIdx.x;
    if (threadIdx.x >= across * W || mine >= OC) return;
    float total = 0;
    for (int i = 0; i < warps; i++) total += of_warp[i][threadIdx.x];
    db[mine] = into == Into::add ? db[mine] + total : total;
}

template <class T>
static void column_sums(Tensor db, Tensor dy, Into into, Queue& q) {
    const int64_t N = dy.shape[0], OC = dy.shape[1];
    for_width<T>(OC % wide<T> == 0 && aligned(dy.ptr), [&](auto width) {
        constexpr int across = width == 1 ? 32 : 4;
        launch(column_sums_kernel<width, across, T>, {ceil_div(OC, across * width), sum_threads}, q, db.data<float>(),
               dy.data<T>(), N, OC, into);
    });
}

template <class T>
static void matmul_backward(Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Into into, Queue& q) {
    if (dx) multiply(product_of(dy, w), dx, dy, w, q);
    // The product for dw reads dy and can also sum its columns for db. But it can only overwrite db, not add to it.
    Product p = product_for_dw(dy, x, into);
    if (db && into == Into::set) {
        p.row_sums = true;
        if (multiply(p, dw, dy, x, q, db)) return;
        p.row_sums = false;
    }
    multiply(p, dw, dy, x, q);
    if (db) column_sums<T>(db, dy, into, q);
}

template <class T>
static void matmul_gelu_backward(Tensor dpre, Tensor dw, Tensor db, Tensor dy, Tensor act, Tensor w, Tensor pre,
                                 Gelu kind, Into into, Queue& q) {
    Product p = product_of(dy, w);
    p.slope   = kind;
    multiply(p, dpre, dy, w, q, {}, pre);
    matmul_backward<T>({}, dw, db, dy, act, w, into, q);
}

}  // namespace gpu
#endif

// ---- the ops --------------------------------------------------------------------------------------------------------

static void expect_product(const char* op, Tensor out, Tensor x, Tensor w) {
    CHECK_CALL(x && w && x.shape.dims == 2 && w.shape.dims == 2 && x.shape[1] == w.shape[1] && x.dtype == w.dtype,
               "{}: x is {} and w is {}, expected (N, IC) and (OC, IC) of one dtype", op, x.str(), w.str());
    CHECK_CALL(out && out.shape == Shape({x.shape[0], w.shape[0]}) && out.dtype == x.dtype,
               "{}: the (N, OC) side is {}, expected {} {} because x is {} and w is {}", op, out.str(),
               Shape({x.shape[0], w.shape[0]}).str(), name_of(x.dtype), x.str(), w.str());
}

void matmul_forward(Tensor out, Tensor x, Tensor w, Tensor b, Stream s) {
    expect_product(__func__, out, x, w);
    expect_maybe(b, Shape({w.shape[0]}), w.dtype, w);
    RUN_ON(s, x.dtype, matmul_forward, out, x, w, b);
}

void matmul_gelu_forward(Tensor act, Tensor pre, Tensor x, Tensor w, Tensor b, Gelu kind, Stream s) {
    expect_product(__func__, act, x, w);
    expect_maybe(b, Shape({w.shape[0]}), w.dtype, w);
    expect_maybe(pre, act.shape, act.dtype, act);
    RUN_ON(s, x.dtype, matmul_gelu_forward, act, pre, x, w, b, kind);
}

void norm_matmul_forward(Tensor out, const Norm& norm, Tensor x, Tensor w, Tensor b, std::optional<Gelu> gelu,
                         float eps, Stream s) {
    expect_product(__func__, out, x, w);
    expect_maybe(b, Shape({w.shape[0]}), w.dtype, w);
    for (const Tensor& weight : {norm.w, norm.b}) expect(weight, Shape({x.shape[1]}), x.dtype, x);
    for (const Tensor& of_row : {norm.mean, norm.rstd}) expect(of_row, Shape({x.shape[0]}), DType::F32, x);
    expect(norm.out, x.shape, x.dtype, x);
    RUN_ON(s, x.dtype, norm_matmul_forward, out, norm, x, w, b, gelu, eps);
}

void matmul_add_forward(Tensor out, Tensor residual, Tensor x, Tensor w, Tensor b, Stream s) {
    expect_product(__func__, out, x, w);
    expect_maybe(b, Shape({w.shape[0]}), w.dtype, w);
    expect(residual, out.shape, out.dtype, out);
    CHECK_CALL(residual.ptr != out.ptr, "matmul_add_forward: out and residual are the same tensor");
    RUN_ON(s, x.dtype, matmul_add_forward, out, residual, x, w, b);
}

void matmul_backward(Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Into into, Stream s) {
    expect_product(__func__, dy, x, w);
    expect(dw, w.shape, DType::F32, w);
    expect_maybe(dx, x.shape, x.dtype, x);
    expect_maybe(db, Shape({w.shape[0]}), DType::F32, w);
    RUN_ON(s, dy.dtype, matmul_backward, dx, dw, db, dy, x, w, into);
}

void matmul_gelu_backward(Tensor dpre, Tensor dw, Tensor db, Tensor dy, Tensor act, Tensor w, Tensor pre, Gelu kind,
                          Into into, Stream s) {
    expect_product(__func__, dy, act, w);
    expect(dw, w.shape, DType::F32, w);
    expect_maybe(db, Shape({w.shape[0]}), DType::F32, w);
    expect(dpre, act.shape, act.dtype, act);
    expect(pre, act.shape, act.dtype, act);
    RUN_ON(s, dy.dtype, matmul_gelu_backward, dpre, dw, db, dy, act, w, pre, kind, into);
}

void matmul(Tensor out, Factor a, Factor b, Stream s) {
    CHECK_CALL(a.matrix && b.matrix && a.matrix.shape.dims == 2 && b.matrix.shape.dims == 2 &&
                   columns_of(a) == rows_of(b) && a.matrix.dtype == b.matrix.dtype,
               "matmul: a is {}{} and b is {}{}, expected (M, K) and (K, N) of one dtype", a.matrix.str(),
               a.transposed ? " transposed" : "", b.matrix.str(), b.transposed ? " transposed" : "");
    expect(out, Shape({rows_of(a), columns_of(b)}), a.matrix.dtype, a.matrix);
    RUN_UNTYPED(s, matmul, out, a, b);
}

Cost matmul_cost(int64_t M, int64_t N, int64_t K, DType x) {
    return {double((M * K + K * N + M * N) * size_of(x)), 2. * double(M) * double(N * K)};
}
Cost matmul_forward_cost(int64_t N, int64_t IC, int64_t OC, DType x) { return matmul_cost(N, OC, IC, x); }
Cost matmul_backward_cost(int64_t N, int64_t IC, int64_t OC, DType x) {
    return {double((N * OC + 2 * N * IC + IC * OC) * size_of(x)) + 4. * double(IC * OC + OC),
            2 * matmul_cost(N, OC, IC, x).flops};
}
Cost matmul_gelu_forward_cost(int64_t N, int64_t IC, int64_t OC, DType x) {
    return matmul_forward_cost(N, IC, OC, x) + Cost{double(N * OC * size_of(x))};
}
Cost matmul_gelu_backward_cost(int64_t N, int64_t IC, int64_t OC, DType x) {
    return matmul_backward_cost(N, IC, OC, x) + Cost{double(N * IC * size_of(x))};
}

int64_t matmul_workspace(Machine where) { return where == Machine::cuda ? workspace_bytes : 0; }
int64_t matmul_copies([[maybe_unused]] int64_t M, [[maybe_unused]] int64_t N, [[maybe_unused]] int64_t K,
                      [[maybe_unused]] DType in, [[maybe_unused]] DType out) {
#ifndef GPT_NO_ONEDNN
    if (in == DType::BF16 && !cpu::onednn().has_bf16) return 4 * (M * K + K * N + (out == in ? M * N : 0));
#endif
    return 0;
}

bool has_cpu_products() {
#ifdef GPT_NO_ONEDNN
    return false;
#else
    return true;
#endif
}

std::string product_library([[maybe_unused]] const Device& device) {
#ifdef __CUDACC__
    if (device.where() == Machine::cuda) return fmt::format("{} on {}", gpu::version_of_cublaslt(), device.name());
#endif
    return "";
}
void choose_products([[maybe_unused]] const Device& device, [[maybe_unused]] const std::vector<ProductChoice>& choices,
                     [[maybe_unused]] const std::string& origin,
                     [[maybe_unused]] std::function<void(const ProductChoice&)> timed) {
    CHECK_CALL(device.where() == Machine::cuda, "choose_products: only the products of a GPU can be chosen");
#ifdef __CUDACC__
    gpu::Queue& q     = gpu::queue_of(device.stream());
    gpu::Products& lt = gpu::products_of(q);
    for (const ProductChoice& choice : choices) gpu::prepare(choice, origin, lt, q);
    lt.on_timed = std::move(timed);
#endif
}

std::string backends() {
#ifdef GPT_NO_ONEDNN
    const std::string cpu = "without oneDNN";
#else
    const dnnl_version_t* v = dnnl_version();
    const std::string cpu   = fmt::format("oneDNN {}.{}.{}", v->major, v->minor, v->patch);
#endif
#ifdef __CUDACC__
    return fmt::format("{}, CUDA {}.{}, {}", cpu, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10,
                       gpu::version_of_cublaslt());
#else
    return cpu + (host::has_cuda_half() ? ", a CUDA half for GPUs" : ", without a CUDA half");
#endif
}
