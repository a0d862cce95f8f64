// cublaslt.cuh - products on a GPU: cuBLASLt, and which of its algorithms each product takes
//
// cuBLASLt has several algorithms for a product and guesses which is the fastest. On an H100 (2026-11-26) its first
// guess was right for most products of GPT-2 124M, and up to 15 % slower than its best for those of the head. So each
// product can be timed, once and on operands of its own, and what was chosen can be given to the next program.
#pragma once
#include <algorithm>
#include <map>
#include <memory>

#include "gpu.cuh"
#include "measure.h"
#include "product.h"

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

// What cuBLASLt needs for one Product. It is kept, so that an algorithm is chosen once.
struct Prepared {
    cublasLtMatmulDesc_t op  = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulAlgo_t algo{};
    bool found = false;  // cuBLASLt has an algorithm for it
};

struct Products {
    cublasLtHandle_t handle = nullptr;
    void* workspace         = nullptr;
    std::map<Product, Prepared> prepared;
    std::function<void(const ProductChoice&)> timed;  // hears of each product that is timed; null: none is

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

inline cublasLtEpilogue_t epilogue_of(const Product& p) {
    if (p.slope) return CUBLASLT_EPILOGUE_DGELU;
    if (p.row_sums) return CUBLASLT_EPILOGUE_BGRADB;
    if (p.gelu && p.keeps_pre) return p.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    if (p.gelu) return p.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    return p.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

// What a product reads and writes. pre is read for a slope, and written when the product keeps it. bias receives the
// row sums when the product has those.
struct Operands {
    void* c;
    const void *a, *b;
    void *pre, *bias;
};

inline void run(const Product& p, const Prepared& plan, const Operands& o, const Products& lt, cudaStream_t stream) {
    const auto set = [&](cublasLtMatmulDescAttributes_t what, const void* pointer) {
        LT_RUN(cublasLtMatmulDescSetAttribute(plan.op, what, &pointer, sizeof pointer), p);
    };
    if (p.bias || p.row_sums) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, o.bias);
    if (p.slope || p.keeps_pre) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, o.pre);
    const float one = 1.f, keep = p.accumulate ? 1.f : 0.f;
    LT_RUN(cublasLtMatmul(lt.handle, plan.op, &one, o.b, plan.a, o.a, plan.b, &keep, o.c, plan.c, o.c, plan.c,
                          &plan.algo, lt.workspace, workspace_bytes, stream),
           p);
}

// cuBLASLt's matrices are column-major. Our row-major c = a b is its cᵀ = bᵀ aᵀ, so b is its first operand, and a
// matrix that is not transposed for us is not transposed for it. fp32 products are true fp32, not tf32.
inline void describe(Prepared& plan, const Product& p) {
    const auto operation = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    const auto first = operation(p.b_transposed), second = operation(p.a_transposed);
    const auto epilogue = epilogue_of(p);
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
    if (p.slope || p.keeps_pre) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.N);
    // What chooses and checks algorithms takes these pointers for their alignment alone (cublasLt.h). run() sets them.
    const auto place = reinterpret_cast<const void*>(uintptr_t(p.alignment));
    if (p.bias || p.row_sums) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, place);
    if (p.slope || p.keeps_pre) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, place);
    const auto matrix = [&](cublasLtMatrixLayout_t* m, DType t, int64_t rows, int64_t columns) {  // as cuBLASLt sees it
        LT_RUN(cublasLtMatrixLayoutCreate(m, cublaslt_type(t), rows, columns, rows), p);
    };
    p.b_transposed ? matrix(&plan.a, p.in, p.K, p.N) : matrix(&plan.a, p.in, p.N, p.K);
    p.a_transposed ? matrix(&plan.b, p.in, p.M, p.K) : matrix(&plan.b, p.in, p.K, p.M);
    matrix(&plan.c, p.out, p.N, p.M);
}

// ---- the choice of an algorithm -------------------------------------------------------------------------------------

// Returns up to `most` algorithms, in the order in which cuBLASLt expects them to be fast.
inline std::vector<cublasLtMatmulAlgo_t> candidates(const Product& p, const Prepared& plan, const Products& lt,
                                                    int most) {
    cublasLtMatmulPreference_t want = nullptr;
    LT_RUN(cublasLtMatmulPreferenceCreate(&want), p);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
        LT_RUN(cublasLtMatmulPreferenceSetAttribute(want, what, &value, sizeof value), p);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(workspace_bytes));
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
    std::vector<cublasLtMatmulAlgo_t> all;
    for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < count; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS) all.push_back(results[i].algo);
    CHECK_RUN(!all.empty() || p.gelu || p.slope || p.row_sums, "cuBLASLt has no algorithm for {}: {}", p.str(),
              cublasLtGetStatusName(status));
    return all;
}

// Fills an operand with numbers in [-1, 1), because a GPU takes less power for zeros and clocks higher.
template <class T>
static __global__ void noise_kernel(T* out, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) out[i] = T(float(int32_t(uint32_t(i) * 2654435761u)) * 0x1p-31f);
}

// Times the algorithms on operands of its own, and returns the medians in seconds. It returns nothing when there is no
// memory for the operands.
inline std::vector<double> seconds_of(const std::vector<cublasLtMatmulAlgo_t>& algorithms, const Product& p,
                                      Prepared plan, const Products& lt, Queue& q) {
    const int64_t in = size_of(p.in), c_bytes = p.M * p.N * size_of(p.out),
                  parts[] = {p.M * p.K * in, p.K * p.N * in, p.slope || p.keeps_pre ? c_bytes : 0,
                             std::max(p.M, p.N) * 4, c_bytes};
    int64_t bytes         = 0, at[5];
    for (int i = 0; i < 5; i++) at[i] = std::exchange(bytes, bytes + round_up(parts[i], 256));
    char* memory = nullptr;
    if (cudaMalloc(&memory, size_t(bytes)) != cudaSuccess) {
        cudaGetLastError();
        return {};
    }
    const std::shared_ptr<void> freed_at_the_end(memory, [](void* m) { cudaFree(m); });
    const auto fill = [&](auto* out, int64_t n) {
        launch(noise_kernel<std::decay_t<decltype(*out)>>, {ceil_div(n, 256), 256}, q, out, n);
    };
    p.in == DType::F32 ? fill(reinterpret_cast<float*>(memory), at[4] / 4)
                       : fill(reinterpret_cast<bf16*>(memory), at[4] / 2);
    CUDA_RUN(cudaMemsetAsync(memory + at[4], 0, size_t(parts[4]), q.stream));
    const Operands o{memory + at[4], memory + at[0], memory + at[1], memory + at[2], memory + at[3]};
    std::vector<double> medians;
    for (const cublasLtMatmulAlgo_t& algorithm : algorithms) {
        plan.algo    = algorithm;
        auto seconds = seconds_per_call(stream_of(q), 1, 7, [&] { run(p, plan, o, lt, q.stream); });
        std::nth_element(seconds.begin(), seconds.begin() + 3, seconds.end());
        medians.push_back(seconds[3]);
    }
    return medians;
}

// The eight words of an algorithm in hexadecimal. cuBLASLt promises that they can be kept for the same version of it.
inline std::string text_of(const cublasLtMatmulAlgo_t& algorithm) {
    std::string text;
    for (const uint64_t word : algorithm.data) text += fmt::format("{:016x}", word);
    return text;
}

// Prepares a product with the algorithm that was chosen for it before. `origin` says in messages where it comes from.
inline void prepare(const ProductChoice& choice, const std::string& origin, Products& lt) {
    const std::optional<Product> p = read_product(choice.product);
    CHECK(p, "{}: '{}' are not the words of a product; without this line cuBLASLt chooses", origin, choice.product);
    cublasLtMatmulAlgo_t algorithm{};
    const bool whole = choice.algorithm.size() == 16 * std::size(algorithm.data) &&
                       choice.algorithm.find_first_not_of("0123456789abcdef") == std::string::npos;
    for (size_t i = 0; whole && i < std::size(algorithm.data); i++)
        algorithm.data[i] = std::stoull(choice.algorithm.substr(16 * i, 16), nullptr, 16);
    const auto [found, is_new] = lt.prepared.try_emplace(*p);
    Prepared& plan             = found->second;
    if (is_new) describe(plan, *p);
    cublasLtMatmulHeuristicResult_t needs{};
    const bool known = whole && cublasLtMatmulAlgoCheck(lt.handle, plan.op, plan.a, plan.b, plan.c, plan.c, &algorithm,
                                                        &needs) == CUBLAS_STATUS_SUCCESS;
    CHECK(known && needs.workspaceSize <= workspace_bytes,
          "{}: {} is no algorithm of cuBLASLt for the product {}; without this line cuBLASLt chooses", origin,
          choice.algorithm, p->str());
    plan.algo  = algorithm;
    plan.found = true;
}

// Chooses the fastest algorithm where products are timed, and else cuBLASLt's first. Its first also stays when no other
// is 2 % faster. Nothing can be timed while a graph is recorded.
inline void choose(Prepared& plan, const Product& p, Products& lt, Queue& q) {
    cudaStreamCaptureStatus recording = cudaStreamCaptureStatusNone;
    CUDA_RUN(cudaStreamIsCapturing(q.stream, &recording));
    const bool timed = lt.timed && recording == cudaStreamCaptureStatusNone;
    const auto all   = candidates(p, plan, lt, timed ? 8 : 1);
    plan.found       = !all.empty();
    if (!plan.found) return;
    plan.algo = all[0];
    if (!timed) return;
    ProductChoice choice{p.str(), text_of(all[0]), 0, 0};
    if (const std::vector<double> seconds = seconds_of(all, p, plan, lt, q); !seconds.empty()) {
        const size_t best = size_t(std::min_element(seconds.begin(), seconds.end()) - seconds.begin());
        const size_t mine = seconds[best] < 0.98 * seconds[0] ? best : 0;
        plan.algo         = all[mine];
        choice            = {p.str(), text_of(all[mine]), seconds[mine], seconds[0]};
    }
    lt.timed(choice);
}

// ---- a product ------------------------------------------------------------------------------------------------------

inline Products& products_of(Queue& q) {
    if (!q.products) q.products = std::make_shared<Products>();
    return *q.products;
}

// Computes c. bias is read, or receives the row sums of a; pre is read for a slope, or written. When cuBLASLt has no
// algorithm that includes the gelu, slope or sums, it does nothing and returns false.
inline bool multiply(Product p, Tensor c, Tensor a, Tensor b, Queue& q, Tensor bias = {}, Tensor pre = {}) {
    uintptr_t all = 16;
    for (const Tensor& t : {c, a, b, bias, pre}) all |= uintptr_t(t.ptr);
    p.alignment                = int(all & -all);
    p.tf32                     = q.tf32 && p.in == DType::F32;
    Products& lt               = products_of(q);
    const auto [found, is_new] = lt.prepared.try_emplace(p);
    Prepared& plan             = found->second;
    if (is_new) {
        describe(plan, p);
        choose(plan, p, lt, q);
    }
    if (!plan.found) return false;
    run(p, plan, {c.ptr, a.ptr, b.ptr, pre.ptr, bias.ptr}, lt, q.stream);
    const cudaError_t fault = q.fault();
    CHECK_RUN(fault == cudaSuccess, "{}: CUDA: {} ({}) in the product {}", q.op, cudaGetErrorName(fault),
              cudaGetErrorString(fault), p.str());
    return true;
}

}  // namespace gpu
