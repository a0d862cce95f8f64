// cublaslt.cuh - products on a GPU: cuBLASLt, and which of its algorithms each product takes, or which of ours
//
// cuBLASLt has several algorithms for a product and guesses which is the fastest. On an H100 (2026-11-26) its first
// guess was right for most products of GPT-2 124M, and up to 15 % slower than its best for those of the head. On a
// Hopper, our own kernels are further ways (matmul_hopper.cu). So each product can be timed, once and on operands of
// its own, and what was chosen can be given to the next program.
#pragma once
#include <algorithm>
#include <map>
#include <memory>

#include "gpu.cuh"
#include "hopper.cuh"
#include "matmul_hopper.h"
#include "measure.h"

namespace gpu {

inline std::string version_of_cublaslt() {
    const size_t v = cublasLtGetVersion();
    return fmt::format("cuBLASLt {}.{}.{}", v / 10000, v % 10000 / 100, v % 100);
}

inline void check(cublasStatus_t status, const char* call, const Product& p, const char* file, int line) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw_at<RunError>(file, line, "cuBLASLt: {} from {}\n    {}", cublasLtGetStatusName(status), call, p.str());
}
#define LT_RUN(call, p) check(call, #call, p, __FILE__, __LINE__)

// How a product is computed: by an algorithm of cuBLASLt, or by our own kernels.
struct Way {
    cublasLtMatmulAlgo_t algorithm{};
    std::optional<HopperWay> ours = {};
};

// What cuBLASLt needs for one Product. It is kept, so that a way is chosen once.
struct Prepared {
    cublasLtMatmulDesc_t op  = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    Way way;
    bool found        = false;  // there is a way
    bool gelu_follows = false;  // cuBLASLt computes the product alone, and our op gelu or its slope
};

struct Products {
    cublasLtHandle_t handle = nullptr;
    void* workspace         = nullptr;
    std::map<Product, Prepared> prepared;
    std::function<void(const ProductChoice&)> on_timed;  // hears of each product that is timed; null: none is

    Products() {
        const cublasStatus_t status = cublasLtCreate(&handle);
        CHECK_RUN(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt: {} from cublasLtCreate", cublasLtGetStatusName(status));
        CUDA_RUN(cudaMalloc(&workspace, workspace_bytes));
    }
    ~Products() {
        for (auto& [product, plan] : prepared) {
            cublasLtMatrixLayoutDestroy(plan.a);
            cublasLtMatrixLayoutDestroy(plan.b);
            cublasLtMatrixLayoutDestroy(plan.c);
            cublasLtMatmulDescDestroy(plan.op);
        }
        cudaFree(workspace);
        cublasLtDestroy(handle);
    }
};

// Whether cuBLASLt itself may compute gelu or its slope. It has the tanh form only, and reads or writes gelu's input in
// rows that are multiples of 16 bytes. Its accuracy is not documented: in bf16 rounding hides the error, in fp32 it
// would not. Where it writes gelu's input too, that saves a launch and a read: llm.c measured that a step of GPT-2 124M
// takes 60.5 ms in place of 61.5 on an H100.
inline bool may_include_gelu(const Product& p) {
    const bool has_input = p.slope || p.keeps_pre;
    return p.out == DType::BF16 && p.gelu != Gelu::erf && p.slope != Gelu::erf &&
           (!has_input || (p.N * size_of(p.out) % 16 == 0 && p.alignment >= 16));
}
inline bool includes_gelu(const Product& p, const Prepared& plan) { return (p.gelu || p.slope) && !plan.gelu_follows; }
// Whether cuBLASLt itself reads or writes gelu's input.
inline bool has_auxiliary(const Product& p, const Prepared& plan) {
    return includes_gelu(p, plan) && (p.slope || p.keeps_pre);
}
inline cublasLtEpilogue_t epilogue_of(const Product& p, const Prepared& plan) {
    if (p.row_sums) return CUBLASLT_EPILOGUE_BGRADB;
    if (!includes_gelu(p, plan)) return p.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    if (p.slope) return CUBLASLT_EPILOGUE_DGELU;
    if (p.keeps_pre) return p.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    return p.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
}

inline void run(const Product& p, const Prepared& plan, const Operands& o, const Products& lt, Queue& q) {
    if (plan.way.ours) return run_on_hopper(p, *plan.way.ours, o, lt.workspace, q);
    const auto set = [&](cublasLtMatmulDescAttributes_t what, const void* pointer) {
        LT_RUN(cublasLtMatmulDescSetAttribute(plan.op, what, &pointer, sizeof pointer), p);
    };
    if (p.bias || p.row_sums) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, o.bias);
    if (has_auxiliary(p, plan)) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, o.pre);
    void* const c   = plan.gelu_follows && p.keeps_pre ? o.pre : o.c;
    const float one = 1.f, keep = p.accumulate ? 1.f : 0.f;
    LT_RUN(cublasLtMatmul(lt.handle, plan.op, &one, o.b, plan.a, o.a, plan.b, &keep, c, plan.c, c, plan.c,
                          &plan.way.algorithm, lt.workspace, cublaslt_workspace_bytes, q.stream),
           p);
    if (!plan.gelu_follows) return;
    const auto matrix = [&](void* data) { return Tensor{data, p.out, Shape({p.M, p.N})}; };
    if (p.slope)
        gelu_backward(matrix(o.c), matrix(o.c), matrix(o.pre), *p.slope, stream_of(q));
    else
        gelu_forward(matrix(o.c), matrix(c), *p.gelu, stream_of(q));
}

// Returns up to `most` algorithms of cuBLASLt, in the order in which it expects them to be fast.
inline std::vector<Way> candidates(const Product& p, const Prepared& plan, const Products& lt, int most) {
    cublasLtMatmulPreference_t want = nullptr;
    LT_RUN(cublasLtMatmulPreferenceCreate(&want), p);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
        LT_RUN(cublasLtMatmulPreferenceSetAttribute(want, what, &value, sizeof value), p);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(cublaslt_workspace_bytes));
    // Partial sums must be added in fp32 and in a fixed order, not in the output in any order.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    for (const auto what : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        prefer(what, uint32_t(p.alignment));
    std::vector<cublasLtMatmulHeuristicResult_t> results(most);
    int count                   = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(lt.handle, plan.op, plan.a, plan.b, plan.c, plan.c,
                                                                 want, most, results.data(), &count);
    LT_RUN(cublasLtMatmulPreferenceDestroy(want), p);
    std::vector<Way> all;
    for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < count; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS) all.push_back({results[i].algo});
    CHECK_RUN(!all.empty() || includes_gelu(p, plan) || p.row_sums, "cuBLASLt has no algorithm for {}: {}", p.str(),
              cublasLtGetStatusName(status));
    return all;
}

// Describes the product to cuBLASLt, and decides whether gelu is part of it or follows.
//
// cuBLASLt's matrices are column-major. Our row-major c = a b is its cᵀ = bᵀ aᵀ, so b is its first operand, and a
// matrix that is not transposed for us is not transposed for it. Products of fp32 are exact to fp32 without --tf32.
inline void describe(Prepared& plan, const Product& p, const Products& lt) {
    const auto operation = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    const auto first = operation(p.b_transposed), second = operation(p.a_transposed);
    plan.gelu_follows   = (p.gelu || p.slope) && !may_include_gelu(p);
    const auto epilogue = epilogue_of(p, plan);
    LT_RUN(cublasLtMatmulDescCreate(&plan.op, p.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
           p);
    const auto set = [&](cublasLtMatmulDescAttributes_t what, const auto& value) {
        LT_RUN(cublasLtMatmulDescSetAttribute(plan.op, what, &value, sizeof value), p);
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, first);
    set(CUBLASLT_MATMUL_DESC_TRANSB, second);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (p.bias) set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cublaslt_type(p.in));
    if (p.row_sums) set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
    if (has_auxiliary(p, plan)) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.N);
    // The functions that choose and check algorithms use only the alignment of these pointers (cublasLt.h). run() sets
    // the pointers themselves.
    const auto place = reinterpret_cast<const void*>(uintptr_t(p.alignment));
    if (p.bias || p.row_sums) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, place);
    if (has_auxiliary(p, plan)) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, place);
    const auto matrix = [&](cublasLtMatrixLayout_t* m, DType t, int64_t rows, int64_t columns) {  // as cuBLASLt sees it
        LT_RUN(cublasLtMatrixLayoutCreate(m, cublaslt_type(t), rows, columns, rows), p);
    };
    p.b_transposed ? matrix(&plan.a, p.in, p.K, p.N) : matrix(&plan.a, p.in, p.N, p.K);
    p.a_transposed ? matrix(&plan.b, p.in, p.M, p.K) : matrix(&plan.b, p.in, p.K, p.M);
    matrix(&plan.c, p.out, p.N, p.M);
    if (!includes_gelu(p, plan) || !candidates(p, plan, lt, 1).empty()) return;
    plan.gelu_follows = true;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(p, plan));
}

// ---- the choice of a way --------------------------------------------------------------------------------------------

// Fills an operand with random numbers in [-1, 1): a GPU takes less power for zeros and clocks higher, and only sums of
// numbers that do not depend on each other show every mistake. The finaliser of MurmurHash3 (Appleby 2011) makes each
// number from its index.
template <class T>
static __global__ void noise_kernel(T* out, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= n) return;
    uint32_t x = uint32_t(i);
    x          = (x ^ (x >> 16)) * 0x85ebca6bu;
    x          = (x ^ (x >> 13)) * 0xc2b2ae35u;
    out[i]     = T(float(int32_t(x ^ (x >> 16))) * 0x1p-31f);
}

// worst = the largest |x - right| / (2^-7 |right| + absolute), or 0 where that is below 1, which rounding explains. It
// is the bits of a float, because floats that are not negative have the order of their bits, and atomicMax is for
// integers.
template <class T>
static __global__ void compare_products_kernel(uint32_t* worst, const T* x, const T* right, int64_t n, float absolute) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float difference = fabsf(float(x[i]) - float(right[i])) / (0x1p-7f * fabsf(float(right[i])) + absolute);
    if (!(difference < 1.f)) atomicMax(worst, __float_as_uint(isnan(difference) ? INFINITY : difference));
}

// Operands of random numbers, on which a product is timed in its ways. If there is no memory for them, has_memory() is
// false, and nothing else may be called.
class ProductTrial {
  public:
    // compares: agree() will be called, which needs results twice.
    ProductTrial(const Product& p, bool compares, Products& lt, Queue& q) : p_(p), lt_(lt), q_(q) {
        const int64_t c = p.M * p.N * size_of(p.out), vector = std::max(p.M, p.N) * 4,
                      pre     = p.slope || p.keeps_pre ? c : 0;
        // a, b; pre, a vector and c; the same for a second result; the largest difference
        const int64_t parts[] = {p.M * p.K * size_of(p.in),
                                 p.K * p.N * size_of(p.in),
                                 pre,
                                 vector,
                                 c,
                                 compares && p.keeps_pre ? c : 0,
                                 vector,
                                 compares ? c : 0,
                                 256};
        int64_t bytes         = 0, at[std::size(parts)];
        for (size_t i = 0; i < std::size(parts); i++) at[i] = std::exchange(bytes, bytes + round_up(parts[i], 256));
        char* memory = nullptr;
        if (cudaMalloc(&memory, size_t(bytes)) != cudaSuccess) {
            cudaGetLastError();
            return;
        }
        memory_.reset(memory, [](void* m) { cudaFree(m); });
        const auto part = [&](int i) { return memory + at[i]; };

        worst_     = reinterpret_cast<uint32_t*>(part(8));
        operands_  = {part(4), part(0), part(1), part(2), part(3)};
        reference_ = {part(7), part(0), part(1), p.slope ? part(2) : part(5), p.row_sums ? part(6) : part(3)};
        p.in == DType::F32 ? fill<float>(memory, bytes) : fill<bf16>(memory, bytes);
    }
    bool has_memory() const { return bool(memory_); }

    // Returns the median time of a call, in seconds.
    double seconds(Prepared plan, const Way& way) {
        plan.way     = way;
        auto seconds = seconds_per_call(stream_of(q_), 1, 7, [&] { run(p_, plan, operands_, lt_, q_); });
        std::nth_element(seconds.begin(), seconds.begin() + 3, seconds.end());
        return seconds[3];
    }

    // Returns whether our kernel computes what an algorithm of cuBLASLt computes, and warns if not.
    bool agree(Prepared plan, const Way& theirs, const Way& ours) {
        if (p_.accumulate)  // to the same random numbers
            CUDA_RUN(cudaMemcpyAsync(reference_.c, operands_.c, size_t(p_.M * p_.N * size_of(p_.out)),
                                     cudaMemcpyDeviceToDevice, q_.stream));
        CUDA_RUN(cudaMemsetAsync(worst_, 0, sizeof *worst_, q_.stream));
        // These bytes are NaNs, so that what our kernel leaves unwritten does not pass for a result.
        const auto spoil = [&](void* x, int64_t bytes) {
            CUDA_RUN(cudaMemsetAsync(x, 0xff, size_t(bytes), q_.stream));
        };
        const int64_t c = p_.M * p_.N * size_of(p_.out);
        if (!p_.accumulate) spoil(operands_.c, c);
        if (p_.keeps_pre) spoil(operands_.pre, c);
        if (p_.row_sums) spoil(operands_.bias, p_.M * int64_t(sizeof(float)));
        spoil(lt_.workspace, workspace_bytes);
        plan.way = theirs;
        run(p_, plan, reference_, lt_, q_);
        plan.way = ours;
        run(p_, plan, operands_, lt_, q_);
        wait_for_trial(q_, "without --tune", p_.str());
        compare(p_.out, operands_.c, reference_.c, p_.M * p_.N);
        if (p_.keeps_pre) compare(p_.out, operands_.pre, reference_.pre, p_.M * p_.N);
        if (p_.row_sums) compare(DType::F32, operands_.bias, reference_.bias, p_.M);
        uint32_t worst = 0;
        q_.download(&worst, worst_, sizeof worst);
        if (!worst) return true;
        float difference;
        std::memcpy(&difference, &worst, sizeof difference);
        fmt::print(stderr,
                   "warning: {}: our kernel ({}) differs from cuBLASLt by {:.3g} times what rounding explains in the "
                   "product {}, so it is not used. Please report this line and what nvidia-smi prints.\n",
                   q_.op, ours.ours->str(), difference, p_.str());
        return false;
    }

  private:
    template <class T>
    void fill(char* memory, int64_t bytes) {
        const int64_t n = bytes / sizeof(T);
        launch(noise_kernel<T>, {ceil_div(n, 256), 256}, q_, reinterpret_cast<T*>(memory), n);
    }
    void compare(DType t, const void* x, const void* right, int64_t n) {
        const Grid grid(ceil_div(n, 256), 256);
        const float absolute = 0x1p-12f * std::sqrt(float(p_.K));
        const auto launch_as = [&](auto* type) {
            using T = std::decay_t<decltype(*type)>;
            launch(compare_products_kernel<T>, grid, q_, worst_, static_cast<const T*>(x), static_cast<const T*>(right),
                   n, absolute);
        };
        t == DType::F32 ? launch_as(static_cast<float*>(nullptr)) : launch_as(static_cast<bf16*>(nullptr));
    }
    const Product& p_;
    Products& lt_;
    Queue& q_;
    std::shared_ptr<char> memory_;
    Operands operands_{}, reference_{};
    uint32_t* worst_ = nullptr;
};

// A way in words: our kernel's, or the eight words of an algorithm in hexadecimal. cuBLASLt promises that they can be
// kept for the same version of it.
inline std::string text_of(const Way& way) {
    if (way.ours) return way.ours->str();
    std::string text;
    for (const uint64_t word : way.algorithm.data) text += fmt::format("{:016x}", word);
    return text;
}

// Reads what text_of() wrote. It returns nothing where that is no way to compute this product.
inline std::optional<Way> read_way(const std::string& text, const Product& p, const Prepared& plan, const Products& lt,
                                   const Queue& q) {
    Way way;
    way.ours = read_hopper_way(text);
    if (way.ours) return can_take(p, *way.ours) && has_hopper_products(q) ? std::optional(way) : std::nullopt;
    auto& words = way.algorithm.data;
    if (text.size() != 16 * std::size(words) || text.find_first_not_of("0123456789abcdef") != std::string::npos)
        return {};
    for (size_t i = 0; i < std::size(words); i++) words[i] = std::stoull(text.substr(16 * i, 16), nullptr, 16);
    cublasLtMatmulHeuristicResult_t needs{};
    const bool known = cublasLtMatmulAlgoCheck(lt.handle, plan.op, plan.a, plan.b, plan.c, plan.c, &way.algorithm,
                                               &needs) == CUBLAS_STATUS_SUCCESS;
    return known && needs.workspaceSize <= cublaslt_workspace_bytes ? std::optional(way) : std::nullopt;
}

// Prepares a product with the way that was chosen for it before. `origin` says in messages where it comes from.
inline void prepare(const ProductChoice& choice, const std::string& origin, Products& lt, const Queue& q) {
    const std::optional<Product> p = read_product(choice.product);
    CHECK(p, "{}: '{}' are not the words of a product; without this line cuBLASLt chooses", origin, choice.product);
    const auto [found, is_new] = lt.prepared.try_emplace(*p);
    Prepared& plan             = found->second;
    if (is_new) describe(plan, *p, lt);
    const std::optional<Way> way = read_way(choice.algorithm, *p, plan, lt, q);
    CHECK(way,
          "{}: {} is no algorithm of cuBLASLt, and no kernel of ours, for the product {}; without this line cuBLASLt "
          "chooses",
          origin, choice.algorithm, p->str());
    plan.way   = *way;
    plan.found = true;
}

// Chooses the fastest way where products are timed, and else cuBLASLt's first. Its first also stays when no other is
// 2 % faster. Nothing can be timed while a graph is recorded.
inline void choose(Prepared& plan, const Product& p, Products& lt, Queue& q) {
    cudaStreamCaptureStatus recording = cudaStreamCaptureStatusNone;
    CUDA_RUN(cudaStreamIsCapturing(q.stream, &recording));
    const bool timed = lt.on_timed && recording == cudaStreamCaptureStatusNone;
    auto all         = candidates(p, plan, lt, timed ? 8 : 1);
    plan.found       = !all.empty();
    if (!plan.found) return;
    plan.way = all[0];
    if (!timed) return;
    ProductChoice choice{p.str(), text_of(all[0]), 0, 0};
    const std::vector<HopperWay> ways = hopper_ways(p, q);
    if (ProductTrial trial(p, !ways.empty(), lt, q); trial.has_memory()) {
        for (const HopperWay& ours : ways)
            if (const Way way{{}, ours}; trial.agree(plan, all[0], way)) all.push_back(way);
        size_t best = 0;
        std::vector<double> seconds;
        for (const Way& way : all) {
            seconds.push_back(trial.seconds(plan, way));
            choice.ways.push_back(text_of(way));
            if (seconds.back() < seconds[best]) best = seconds.size() - 1;
            if (!way.ours || (choice.seconds_of_ours > 0 && choice.seconds_of_ours <= seconds.back())) continue;
            choice.ours            = text_of(way);
            choice.seconds_of_ours = seconds.back();
        }
        if (seconds[best] >= 0.98 * seconds[0]) best = 0;
        plan.way                = all[best];
        choice.algorithm        = text_of(all[best]);
        choice.seconds          = seconds[best];
        choice.seconds_of_first = seconds[0];
    }
    lt.on_timed(choice);
}

// ---- a product ------------------------------------------------------------------------------------------------------

inline Products& products_of(Queue& q) {
    if (!q.products) q.products = std::make_shared<Products>();
    return *q.products;
}

// Computes c. bias is read, or receives the row sums of a; pre is read for a slope, or written. When cuBLASLt has no
// algorithm that includes the sums, it does nothing and returns false.
inline bool multiply(Product p, Tensor c, Tensor a, Tensor b, Queue& q, Tensor bias = {}, Tensor pre = {}) {
    uintptr_t all = 16;
    for (const Tensor& t : {c, a, b, bias, pre}) all |= uintptr_t(t.ptr);
    p.alignment                = int(all & -all);
    p.tf32                     = q.tf32 && p.in == DType::F32;
    Products& lt               = products_of(q);
    const auto [found, is_new] = lt.prepared.try_emplace(p);
    Prepared& plan             = found->second;
    if (is_new) {
        describe(plan, p, lt);
        choose(plan, p, lt, q);
    }
    if (!plan.found) return false;
    run(p, plan, {c.ptr, a.ptr, b.ptr, pre.ptr, bias.ptr}, lt, q);
    const cudaError_t fault = q.fault();
    CHECK_RUN(fault == cudaSuccess, "{}: CUDA: {} ({}) in the product {}", q.op, cudaGetErrorName(fault),
              cudaGetErrorString(fault), p.str());
    return true;
}

}  // namespace gpu
