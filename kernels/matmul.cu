// matmul.cu - matrix products: oneDNN on the CPU, cuBLASLt on a GPU
//
//   forward    out (N,OC) = x (N,IC) · wᵀ (IC,OC) + b
//   backward   dx (N,IC) = dy (N,OC) · w (OC,IC);   dw (OC,IC) += dyᵀ (OC,N) · x (N,IC);   db (OC) += Σ_n dy
//              through gelu: x = gelu(pre), and dpre = dx ∘ gelu'(pre) is wanted in place of dx
//
// A few rows against a large weight is what generation does one token at a time. There the weight is read once and that
// is the whole cost, so up to `few_rows` rows take a kernel of our own, a dot product per output that streams w at the
// speed of the memory; oneDNN would first rearrange w into blocks.
#include <dnnl.hpp>
#include <map>
#include <mutex>
#include <tuple>

#include "cpu.h"
#include "ops.h"
#ifdef __CUDACC__
#include <cublasLt.h>

#include "gpu.cuh"
#endif

// One product c (M,N) = a (M,K) · b (K,N), each operand row-major or transposed in memory. What a library prepares for
// it is kept under it as the key.
struct Product {
    int64_t M, N, K;
    DType in, out;
    bool a_transposed, b_transposed;
    bool accumulate;        // c += instead of c =
    bool bias;              // + bias (N), in the dtype of the inputs
    int gelu;               // -1 none, else a Gelu
    bool slope    = false;  // c = (a · b) ∘ gelu'(pre) and not gelu of it
    bool sums     = false;  // sums (M) = row sums of a as well
    int alignment = 0;      // of all pointers, in bytes, where it matters
    auto key() const {
        return std::tie(M, N, K, in, out, a_transposed, b_transposed, accumulate, bias, gelu, slope, sums, alignment);
    }
    bool operator<(const Product& o) const { return key() < o.key(); }
    std::string str() const {
        return fmt::format("({}, {}) {} = ({}, {}){} {} · ({}, {}){}{}", M, N, name_of(out), M, K,
                           a_transposed ? "ᵀ" : "", name_of(in), K, N, b_transposed ? "ᵀ" : "", bias ? " + bias" : "");
    }
};

// ---- oneDNN ---------------------------------------------------------------------------------------------------------

namespace cpu {

struct OneDnn {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    std::map<Product, dnnl::matmul> kernels;  // building one takes about a millisecond
    std::mutex lock;
};

static dnnl::memory::data_type type_of(DType t) {
    return t == DType::BF16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}
static dnnl::memory::desc matrix(int64_t rows, int64_t cols, DType t, bool transposed) {
    using tag = dnnl::memory::format_tag;
    return {{rows, cols}, type_of(t), transposed ? tag::ba : tag::ab};
}

static dnnl::matmul build(const Product& p, const dnnl::engine& engine) {
    const auto a = matrix(p.M, p.K, p.in, p.a_transposed), b = matrix(p.K, p.N, p.in, p.b_transposed);
    const auto c    = matrix(p.M, p.N, p.out, false);
    const auto bias = p.bias ? matrix(1, p.N, p.in, false) : dnnl::memory::desc();
    dnnl::post_ops after;
    dnnl::primitive_attr attr;
    const auto gelu =
        Gelu(p.gelu) == Gelu::tanh ? dnnl::algorithm::eltwise_gelu_tanh : dnnl::algorithm::eltwise_gelu_erf;
    if (p.accumulate) after.append_sum(1.f);
#if DNNL_VERSION_MAJOR >= 3
    if (p.gelu >= 0) after.append_eltwise(gelu, 0.f, 0.f);
    attr.set_post_ops(after);
    return dnnl::matmul(dnnl::matmul::primitive_desc(engine, a, b, bias, c, attr));
#else
    if (p.gelu >= 0) after.append_eltwise(1.f, gelu, 0.f, 0.f);
    attr.set_post_ops(after);
    return dnnl::matmul({dnnl::matmul::desc(a, b, bias, c), attr, engine});
#endif
}

static void multiply(const Product& p, void* c, const void* a, const void* b, const void* bias) try {
    static OneDnn dnn;  // a cache of compiled kernels; what it holds never changes a result
    const std::lock_guard<std::mutex> guard(dnn.lock);
    auto found = dnn.kernels.find(p);
    if (found == dnn.kernels.end()) found = dnn.kernels.emplace(p, build(p, dnn.engine)).first;
    const auto wrap = [&](int64_t rows, int64_t cols, DType t, bool transposed, const void* ptr) {
        return dnnl::memory(matrix(rows, cols, t, transposed), dnn.engine, const_cast<void*>(ptr));
    };
    std::unordered_map<int, dnnl::memory> args = {{DNNL_ARG_SRC, wrap(p.M, p.K, p.in, p.a_transposed, a)},
                                                  {DNNL_ARG_WEIGHTS, wrap(p.K, p.N, p.in, p.b_transposed, b)},
                                                  {DNNL_ARG_DST, wrap(p.M, p.N, p.out, false, c)}};
    if (p.bias) args.emplace(DNNL_ARG_BIAS, wrap(1, p.N, p.in, false, bias));
    found->second.execute(dnn.stream, args);
    dnn.stream.wait();
} catch (const dnnl::error& e) {
    throw_at<RunError>(__FILE__, __LINE__, "oneDNN: {} (status {}) for {}", e.what(), int(e.status), p.str());
}

// ---- a few rows ---------------------------------------------------------------------------------------------------

// Measured on 2 cores of a Zen 4: 4 rows of a 768 × 50304 bf16 weight here take what oneDNN takes for 1.
constexpr int64_t few_rows = 4;

// Four outputs at a time for R rows: 4 R running sums in registers, each weight read once for all rows.
template <int R, class T>
static void few_rows_forward(T* out, const T* x, const T* w, const T* b, int64_t IC, int64_t OC) {
    constexpr int64_t G = 4;
    parallel_ranges((OC + G - 1) / G, std::max<int64_t>(1, 16384 / (G * IC)), [=](int64_t begin, int64_t end) {
        for (int64_t o = begin * G; o < std::min(end * G, OC); o += G) {
            const int64_t group = std::min(G, OC - o);
            floats acc[R][G]    = {};
            for_lanes(IC, [&](int64_t i, auto n) {
                floats xs[R];
                for (int r = 0; r < R; r++) xs[r] = load(x + r * IC + i, n);
                for (int g = 0; g < G; g++) {
                    const T* const at = w + (o + std::min<int64_t>(g, group - 1)) * IC + i;
                    __builtin_prefetch(at + G * IC);  // the same place in the next group: rows are too short for the
                    const floats ws = load(at, n);    // processor's own prefetching to get going
                    for (int r = 0; r < R; r++) acc[r][g] += xs[r] * ws;
                }
            });
            for (int r = 0; r < R; r++)
                for (int g = 0; g < group; g++) out[r * OC + o + g] = T(sum(acc[r][g]) + (b ? float(b[o + g]) : 0.f));
        }
    });
}

template <class T>
static bool few_rows_forward(Tensor out, Tensor x, Tensor w, Tensor b) {
    const int64_t N = x.shape[0], IC = x.shape[1], OC = w.shape[0];
    const auto run = [&](auto rows) {
        few_rows_forward<decltype(rows)::value>(out.data<T>(), x.data<T>(), w.data<T>(), b ? b.data<T>() : nullptr, IC,
                                                OC);
    };
    static_assert(few_rows == 4, "one case per number of rows");
    switch (N) {
        case 1: run(std::integral_constant<int, 1>{}); return true;
        case 2: run(std::integral_constant<int, 2>{}); return true;
        case 3: run(std::integral_constant<int, 3>{}); return true;
        case 4: run(std::integral_constant<int, 4>{}); return true;
        default: return false;
    }
}

// ---- the op on the CPU --------------------------------------------------------------------------------------------

template <class T>
static void matmul_forward(Tensor out, Tensor x, Tensor w, Tensor b, int gelu) {
    if (gelu < 0 && few_rows_forward<T>(out, x, w, b)) return;
    multiply({x.shape[0], w.shape[0], x.shape[1], x.dtype, out.dtype, false, true, false, bool(b), gelu}, out.ptr,
             x.ptr, w.ptr, b.ptr);
}

// gelu(x wᵀ + b) inside oneDNN's product where that is as good as gelu.cu: its erf form is too coarse for fp32.
template <class T>
static void fused_gelu(Tensor act, Tensor pre, Tensor x, Tensor w, Tensor b, Gelu kind, bool* done) {
    *done = !pre && x.shape[0] > few_rows && kind == Gelu::tanh;
    if (*done) matmul_forward<T>(act, x, w, b, int(kind));
}

// Column sums in slabs of 64 columns, rows in runs of 64, so that no sum is longer than 64 + N/64 terms.
template <class T>
static void column_sums(Tensor db, Tensor dy, Into into) {
    const int64_t N = dy.shape[0], OC = dy.shape[1];
    float* out             = db.data<float>();
    const T* in            = dy.data<T>();
    constexpr int64_t slab = 4 * lanes;
    parallel_ranges((OC + slab - 1) / slab, std::max<int64_t>(1, 16384 / (slab * N + 1)),
                    [=](int64_t begin, int64_t end) {
                        for (int64_t c = begin * slab; c < std::min(end * slab, OC); c += lanes) {
                            const int64_t n = std::min<int64_t>(lanes, OC - c);
                            floats total    = {};
                            if (n <= 0) break;
                            for (int64_t r = 0; r < N; r += 64) {
                                floats run = {};
                                for (int64_t i = r; i < std::min(r + 64, N); i++)
                                    run += n == lanes ? load(in + i * OC + c) : load(in + i * OC + c, n);
                                total += run;
                            }
                            store(out + c, into == Into::add ? load(out + c, n) + total : total, n);
                        }
                    });
}

template <class T>
static void matmul_backward(Tensor dy, Tensor x, Tensor w, Tensor dx, Tensor dw, Tensor db, Into into) {
    const int64_t N = x.shape[0], IC = x.shape[1], OC = w.shape[0];
    if (dx) multiply({N, IC, OC, dy.dtype, dx.dtype, false, false, false, false, -1}, dx.ptr, dy.ptr, w.ptr, nullptr);
    multiply({OC, IC, N, dy.dtype, DType::F32, true, false, into == Into::add, false, -1}, dw.ptr, dy.ptr, x.ptr,
             nullptr);
    if (db) column_sums<T>(db, dy, into);
}

// oneDNN's products end in no slope of gelu.
template <class T>
static void fused_gelu_slope(Tensor, Tensor, Tensor, Tensor, Gelu, bool* done) {
    *done = false;
}

}  // namespace cpu

// ---- cuBLASLt -------------------------------------------------------------------------------------------------------

#ifdef __CUDACC__
namespace gpu {

static void check(cublasStatus_t status, const char* call, const Product& p, const char* file, int line) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw_at<RunError>(file, line, "cuBLASLt: {} from {}\n    {}, pointers aligned to {} bytes",
                       cublasLtGetStatusName(status), call, p.str(), p.alignment);
}
#define LT_RUN(call, p) check(call, #call, p, __FILE__, __LINE__)

// What cuBLASLt needs for one Product. Found once, then kept: asking for the best algorithm takes tens of microseconds.
struct Plan {
    cublasLtMatmulDesc_t op  = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulAlgo_t algo{};
    bool found = false;
};

// Its workspace is as large as NVIDIA advises for Hopper; older GPUs need an eighth of it.
constexpr size_t workspace_bytes = 32 << 20;

struct Products {
    cublasLtHandle_t handle = nullptr;
    void* workspace         = nullptr;
    std::map<Product, Plan> plans;

    Products() {
        const cublasStatus_t status = cublasLtCreate(&handle);
        CHECK_RUN(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt: {} from cublasLtCreate", cublasLtGetStatusName(status));
        CUDA_RUN(cudaMalloc(&workspace, workspace_bytes));
    }
    ~Products() {
        for (auto& [product, plan] : plans) {
            cublasLtMatrixLayoutDestroy(plan.a);
            cublasLtMatrixLayoutDestroy(plan.b);
            cublasLtMatrixLayoutDestroy(plan.c);
            cublasLtMatmulDescDestroy(plan.op);
        }
        cudaFree(workspace);
        cublasLtDestroy(handle);
    }
};

static cudaDataType_t type_of(DType t) { return t == DType::BF16 ? CUDA_R_16BF : CUDA_R_32F; }

static cublasLtEpilogue_t epilogue_of(const Product& p) {
    if (p.slope) return CUBLASLT_EPILOGUE_DGELU;
    if (p.sums) return CUBLASLT_EPILOGUE_BGRADB;
    if (p.gelu < 0) return p.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    return p.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
}

// cuBLASLt counts by columns, so our row-major c = a b is its cᵀ = bᵀ aᵀ: b comes first, and a matrix that lies in
// memory as we write it is one that cuBLASLt reads as it is. fp32 products are true fp32, not tf32.
static Plan plan_of(const Product& p, const Products& lt) {
    Plan plan;
    const auto no_yes = [](bool t) { return t ? CUBLAS_OP_T : CUBLAS_OP_N; };
    const auto op_a = no_yes(p.b_transposed), op_b = no_yes(p.a_transposed);
    const auto epilogue = epilogue_of(p);
    LT_RUN(cublasLtMatmulDescCreate(&plan.op, CUBLAS_COMPUTE_32F, CUDA_R_32F), p);
    const auto set = [&](cublasLtMatmulDescAttributes_t what, const auto& value) {
        LT_RUN(cublasLtMatmulDescSetAttribute(plan.op, what, &value, sizeof value), p);
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, op_a);
    set(CUBLASLT_MATMUL_DESC_TRANSB, op_b);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (p.bias) set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(p.in));
    if (p.sums) set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
    if (p.slope) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.N);
    const auto matrix = [&](cublasLtMatrixLayout_t* m, DType t, int64_t rows, int64_t columns) {  // as cuBLASLt sees it
        LT_RUN(cublasLtMatrixLayoutCreate(m, type_of(t), rows, columns, rows), p);
    };
    p.b_transposed ? matrix(&plan.a, p.in, p.K, p.N) : matrix(&plan.a, p.in, p.N, p.K);
    p.a_transposed ? matrix(&plan.b, p.in, p.M, p.K) : matrix(&plan.b, p.in, p.K, p.M);
    matrix(&plan.c, p.out, p.N, p.M);

    cublasLtMatmulPreference_t want = nullptr;
    LT_RUN(cublasLtMatmulPreferenceCreate(&want), p);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
        LT_RUN(cublasLtMatmulPreferenceSetAttribute(want, what, &value, sizeof value), p);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(workspace_bytes));
    // Parts of a sum are added in fp32 and in a fixed order, not in the output as they come.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    for (const auto what : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        prefer(what, uint32_t(p.alignment));
    cublasLtMatmulHeuristicResult_t best{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(lt.handle, plan.op, plan.a, plan.b, plan.c, plan.c, want, 1, &best, &count);
    LT_RUN(cublasLtMatmulPreferenceDestroy(want), p);
    plan.found = status == CUBLAS_STATUS_SUCCESS && count > 0;
    plan.algo  = best.algo;
    CHECK_RUN(plan.found || p.gelu >= 0 || p.sums, "cuBLASLt has no algorithm for {}, pointers aligned to {} bytes: {}",
              p.str(), p.alignment, cublasLtGetStatusName(status));
    return plan;
}

// bias: what is added, or where the row sums of a go. False, and nothing done, when cuBLASLt has no algorithm with that
// gelu or those sums.
static bool multiply(Product p, void* c, const void* a, const void* b, const void* bias, Queue& q,
                     const void* pre = nullptr) {
    const uintptr_t all = uintptr_t(c) | uintptr_t(a) | uintptr_t(b) | uintptr_t(pre);
    p.alignment         = int(std::min<uintptr_t>(all & -all, 16));
    if (!q.products) q.products = std::make_shared<Products>();
    Products& lt     = *q.products;
    const auto known = lt.plans.find(p);
    Plan& plan       = known != lt.plans.end() ? known->second : lt.plans.emplace(p, plan_of(p, lt)).first->second;
    if (!plan.found) return false;
    const auto set = [&](cublasLtMatmulDescAttributes_t what, const void* pointer) {
        LT_RUN(cublasLtMatmulDescSetAttribute(plan.op, what, &pointer, sizeof pointer), p);
    };
    if (p.bias || p.sums) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    if (p.slope) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, pre);
    const float one = 1.f, keep = p.accumulate ? 1.f : 0.f;
    LT_RUN(cublasLtMatmul(lt.handle, plan.op, &one, b, plan.a, a, plan.b, &keep, c, plan.c, c, plan.c, &plan.algo,
                          lt.workspace, workspace_bytes, q.stream),
           p);
    const cudaError_t fault = q.fault();
    CHECK_RUN(fault == cudaSuccess, "{}: CUDA: {} ({}) in the product {}", q.op, cudaGetErrorName(fault),
              cudaGetErrorString(fault), p.str());
    return true;
}

template <class T>
static void matmul_forward(Tensor out, Tensor x, Tensor w, Tensor b, int gelu, Queue& q) {
    multiply({x.shape[0], w.shape[0], x.shape[1], x.dtype, out.dtype, false, true, false, bool(b), gelu}, out.ptr,
             x.ptr, w.ptr, b.ptr, q);
}

// In the product where it is free: cuBLASLt has the tanh form only, and says nothing of its accuracy, which bf16 hides
// and fp32 would not. Not where `pre` is kept, though cuBLASLt could (GELU_AUX_BIAS): it takes gelu of the fp32 sums,
// while a backward pass that recomputes act only has `pre` as it was rounded, and recomputing must not change a bit.
template <class T>
static void fused_gelu(Tensor act, Tensor pre, Tensor x, Tensor w, Tensor b, Gelu kind, bool* done, Queue& q) {
    *done = !pre && kind == Gelu::tanh && std::is_same_v<T, bf16> &&
            multiply({x.shape[0], w.shape[0], x.shape[1], x.dtype, act.dtype, false, true, false, bool(b), int(kind)},
                     act.ptr, x.ptr, w.ptr, b.ptr, q);
}

// dpre = (dy w) ∘ gelu'(pre) in one product, for the tanh form in bf16 as above. Rows of `pre` have to be multiples of 16
// bytes.
template <class T>
static void fused_gelu_slope(Tensor dpre, Tensor dy, Tensor w, Tensor pre, Gelu kind, bool* done, Queue& q) {
    const int64_t N = dy.shape[0], OC = w.shape[0], IC = w.shape[1];
    *done = kind == Gelu::tanh && std::is_same_v<T, bf16> && IC % wide<T> == 0 && aligned(dpre.ptr, pre.ptr) &&
            multiply({N, IC, OC, dy.dtype, dpre.dtype, false, false, false, false, int(kind), true}, dpre.ptr, dy.ptr,
                     w.ptr, nullptr, q, pre.ptr);
}

// db = or += column sums of dy, in one launch. A block has 64 bytes of columns of bf16 (or fp32): 4 lanes side by side;
// its other lanes and warps take rows apart and meet at the end, always in the same order.
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
static void matmul_backward(Tensor dy, Tensor x, Tensor w, Tensor dx, Tensor dw, Tensor db, Into into, Queue& q) {
    const int64_t N = x.shape[0], IC = x.shape[1], OC = w.shape[0];
    if (dx)
        multiply({N, IC, OC, dy.dtype, dx.dtype, false, false, false, false, -1}, dx.ptr, dy.ptr, w.ptr, nullptr, q);
    // The bias gradient comes with dw, which reads dy anyway; but cuBLASLt can only set it.
    Product product{OC, IC, N, dy.dtype, DType::F32, true, false, into == Into::add, false, -1};
    product.sums = db && into == Into::set;
    if (multiply(product, dw.ptr, dy.ptr, x.ptr, db.ptr, q) && product.sums) return;
    if (product.sums) product.sums = false, multiply(product, dw.ptr, dy.ptr, x.ptr, nullptr, q);
    if (db) column_sums<T>(db, dy, into, q);
}

}  // namespace gpu
#endif

// ---- the doors ----------------------------------------------------------------------------------------------------

static void expect_product(const char* op, Tensor out, Tensor x, Tensor w) {
    CHECK(x && w && x.shape.dims == 2 && w.shape.dims == 2 && x.shape[1] == w.shape[1] && x.dtype == w.dtype,
          "{}: x is {} and w is {}, expected (N, IC) and (OC, IC) of one dtype", op, x.str(), w.str());
    CHECK(out && out.shape == Shape({x.shape[0], w.shape[0]}) && out.dtype == x.dtype,
          "{}: the (N, OC) side is {}, expected {} {} because x is {} and w is {}", op, out.str(),
          Shape({x.shape[0], w.shape[0]}).str(), name_of(x.dtype), x.str(), w.str());
}

void matmul_forward(Tensor out, Tensor x, Tensor w, Tensor b, Stream s) {
    expect_product("matmul_forward", out, x, w);
    expect_maybe(b, Shape({w.shape[0]}), w.dtype, w);
    RUN_ON(s, matmul_forward, out, x, w, b, -1);
}

void matmul_gelu_forward(Tensor act, Tensor pre, Tensor x, Tensor w, Tensor b, Gelu kind, Stream s) {
    expect_product("matmul_gelu_forward", act, x, w);
    expect_maybe(b, Shape({w.shape[0]}), w.dtype, w);
    expect_maybe(pre, act.shape, act.dtype, act);
    bool done = false;
    RUN_ON(s, fused_gelu, act, pre, x, w, b, kind, &done);
    if (done) return;
    matmul_forward(pre ? pre : act, x, w, b, s);
    gelu_forward(act, pre ? pre : act, kind, s);
}

void matmul_backward(Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Into into, Stream s) {
    expect_product("matmul_backward", dy, x, w);
    expect(dw, w.shape, DType::F32, w);
    expect_maybe(dx, x.shape, x.dtype, x);
    expect_maybe(db, Shape({w.shape[0]}), DType::F32, w);
    RUN_ON(s, matmul_backward, dy, x, w, dx, dw, db, into);
}

void matmul_gelu_backward(Tensor dpre, Tensor dw, Tensor db, Tensor dy, Tensor act, Tensor w, Tensor pre, Gelu kind,
                          Into into, Stream s) {
    expect_product("matmul_gelu_backward", dy, act, w);
    expect(dpre, act.shape, act.dtype, act);
    expect(pre, act.shape, act.dtype, act);
    bool done = false;
    RUN_ON(s, fused_gelu_slope, dpre, dy, w, pre, kind, &done);
    matmul_backward(done ? Tensor{} : dpre, dw, db, dy, act, w, into, s);
    if (!done) gelu_backward(dpre, dpre, pre, kind, s);
}

int64_t matmul_workspace([[maybe_unused]] Stream s) {
#ifdef __CUDACC__
    if (s.where == Machine::cuda) return gpu::workspace_bytes;
#endif
    return 0;
}

std::string backends() {
    const dnnl_version_t* v = dnnl_version();
    const std::string cpu   = fmt::format("oneDNN {}.{}.{}", v->major, v->minor, v->patch);
#ifdef __CUDACC__
    const size_t lt = cublasLtGetVersion();
    return fmt::format("{}, CUDA {}.{}, cuBLASLt {}.{}.{}", cpu, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10,
                       lt / 10000, lt % 10000 / 100, lt % 100);
#else
    return cpu + ", without a CUDA half";
#endif
}
