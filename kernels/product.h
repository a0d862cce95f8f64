// product.h - one matrix product, as oneDNN and cuBLASLt are asked for it
#pragma once
#ifndef GPT_NO_ONEDNN
#include <dnnl.hpp>
#endif
#ifdef __CUDACC__
#include <cublasLt.h>
#endif
#include <cstdio>
#include <optional>
#include <string>
#include <tuple>

#include "ops.h"

// The names of a dtype in the libraries.
#ifndef GPT_NO_ONEDNN
inline dnnl::memory::data_type onednn_type(DType t) {
    switch (t) {
        case DType::F32: return dnnl::memory::data_type::f32;
        case DType::BF16: return dnnl::memory::data_type::bf16;
        default: CHECK_CALL(false, "oneDNN multiplies fp32 and bf16 here, not {}", name_of(t));
    }
}
#endif
#ifdef __CUDACC__
inline cudaDataType_t cublaslt_type(DType t) {
    switch (t) {
        case DType::F32: return CUDA_R_32F;
        case DType::BF16: return CUDA_R_16BF;
        default: CHECK_CALL(false, "cuBLASLt multiplies fp32 and bf16 here, not {}", name_of(t));
    }
}
#endif

// The workspace of cuBLASLt has the size that NVIDIA advises for Hopper. Older GPUs need an eighth of it. It is also
// the workspace of matmul_hopper.cuh, whose kernels need more to split sums.
constexpr size_t cublaslt_workspace_bytes = 32 << 20, workspace_bytes = 42 << 20;

// One product c (M,N) = a (M,K) · b (K,N). It is also the key under which a library's preparation for it is kept.
struct Product {
    int64_t M, N, K;
    DType in, out;                      // in is the dtype of a and b, out that of c
    bool a_transposed         = false;  // memory holds aᵀ, row-major
    bool b_transposed         = false;  // memory holds bᵀ, row-major
    bool accumulate           = false;  // c += in place of c =
    bool bias                 = false;  // a vector (N), in the dtype of a and b, is added to every row
    std::optional<Gelu> gelu  = {};     // c = gelu(a · b + bias)
    bool keeps_pre            = false;  // a · b + bias is written as well, in the dtype of c
    std::optional<Gelu> slope = {};     // c = (a · b) ∘ gelu'(pre)
    bool row_sums             = false;  // the row sums (M) of a are written as well, in fp32
    int alignment             = 0;      // divides all operands' addresses, in bytes; cuBLASLt needs it
    bool tf32                 = false;  // operands in fp32 are rounded to TF32
    auto key() const {
        return std::tie(M, N, K, in, out, a_transposed, b_transposed, accumulate, bias, gelu, keeps_pre, slope,
                        row_sums, alignment, tf32);
    }
    bool operator<(const Product& o) const { return key() < o.key(); }
    // Says all of it in words: two products with the same words are the same.
    std::string str() const {
        std::string words =
            fmt::format("({}, {}) {} = ({}, {}){} {} · ({}, {}){}{}", M, N, name_of(out), M, K, a_transposed ? "ᵀ" : "",
                        name_of(in), K, N, b_transposed ? "ᵀ" : "", bias ? " + bias" : "");
        if (gelu) words += fmt::format(", gelu {}", *gelu == Gelu::tanh ? "tanh" : "erf");
        if (keeps_pre) words += " with its input";
        if (slope) words += fmt::format(", gelu' {}", *slope == Gelu::tanh ? "tanh" : "erf");
        if (accumulate) words += ", added";
        if (row_sums) words += ", with row sums";
        if (tf32) words += ", TF32";
        if (alignment) words += fmt::format(", aligned to {} bytes", alignment);
        return words;
    }
};

// Returns the product that str() describes by these words, or nothing when it describes none so.
inline std::optional<Product> read_product(const std::string& words) {
    const auto says = [&](const std::string& part) { return words.find(part) != std::string::npos; };
    const auto gelu = [&](const std::string& name) -> std::optional<Gelu> {
        if (says(name + " tanh")) return Gelu::tanh;
        return says(name + " erf") ? std::optional(Gelu::erf) : std::nullopt;
    };
    const std::string mark = "ᵀ", dot = "·";
    std::string plain = words;
    for (size_t at; (at = plain.find(mark)) != std::string::npos;) plain.erase(at, mark.size());
    long long M = 0, N = 0, K = 0;
    char out[8] = "", in[8] = "";
    std::sscanf(plain.c_str(), "(%lld, %lld) %7[a-z0-9] = (%*d, %lld) %7[a-z0-9]", &M, &N, out, &K, in);
    const DTypeRow *out_row = find_dtype(&DTypeRow::name, out), *in_row = find_dtype(&DTypeRow::name, in);
    if (!out_row || !in_row || !out_row->computes || !in_row->computes || M < 1 || N < 1 || K < 1) return {};
    Product p{M, N, K, in_row->dtype, out_row->dtype};
    p.a_transposed    = words.find(mark) < words.find(dot);
    p.b_transposed    = words.find(mark, words.find(dot)) != std::string::npos;
    p.bias            = says(" + bias");
    p.gelu            = gelu(", gelu");
    p.keeps_pre       = says(" with its input");
    p.slope           = gelu(", gelu'");
    p.accumulate      = says(", added");
    p.row_sums        = says(", with row sums");
    p.tf32            = says(", TF32");
    const size_t last = words.rfind(", aligned to ");
    if (last != std::string::npos) std::sscanf(words.c_str() + last, ", aligned to %d", &p.alignment);
    return p.str() == words ? std::optional(p) : std::nullopt;
}

// What a product on a GPU reads and writes. pre is read for a slope, and written when the product keeps it. bias
// receives the row sums when the product has those.
struct Operands {
    void* c;
    const void *a, *b;
    void *pre, *bias;
};

inline int64_t rows_of(const Factor& f) { return f.matrix.shape[f.transposed ? 1 : 0]; }
inline int64_t columns_of(const Factor& f) { return f.matrix.shape[f.transposed ? 0 : 1]; }
inline Product product_of(const Factor& a, const Factor& b) {
    Product p{rows_of(a), columns_of(b), columns_of(a), a.matrix.dtype, a.matrix.dtype};
    p.a_transposed = a.transposed;
    p.b_transposed = b.transposed;
    return p;
}
// out = x wᵀ + b, where b may be null.
inline Product product_for_out(Tensor x, Tensor w, Tensor b) {
    Product p = product_of(x, transposed(w));
    p.bias    = bool(b);
    return p;
}
// dw = or += dyᵀ x, in fp32.
inline Product product_for_dw(Tensor dy, Tensor x, Into into) {
    Product p    = product_of(transposed(dy), x);
    p.out        = DType::F32;
    p.accumulate = into == Into::add;
    return p;
}
