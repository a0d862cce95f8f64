// product.cpp - the matrix product behind every cublas and cublasLt call
//
// oneDNN computes the product. Passes before and after it do what oneDNN lacks: f16 inputs, tf32 rounding, epilogues.
// oneDNN's matrices are row-major. A column-major D = op(A) op(B) is the row-major Dᵀ = op(B)ᵀ op(A)ᵀ, so no operand
// has to be transposed in memory.
#include "product.h"

#include <immintrin.h>
#include <dnnl.hpp>

#include <cmath>
#include <cstring>
#include <memory>
#include <unordered_map>

namespace emu {
namespace {

struct Bf16 {
    uint16_t bits;
    operator float() const {
        const uint32_t u = uint32_t(bits) << 16;
        float f;
        std::memcpy(&f, &u, 4);
        return f;
    }
    Bf16(float f) {  // rounds to the nearest, ties to even
        uint32_t u;
        std::memcpy(&u, &f, 4);
        bits = f != f ? 0x7fff : uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
};
struct Half {
    uint16_t bits;
    operator float() const { return _cvtsh_ss(bits); }
    Half(float f) : bits(_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT)) {}
};

// tf32 keeps 10 of the 23 bits of mantissa. The value is rounded to the nearest, ties away from zero.
float to_tf32(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    if ((u & 0x7f800000) != 0x7f800000) u = (u + 0x1000) & 0xffffe000;
    std::memcpy(&f, &u, 4);
    return f;
}

template <class Body> void with_type(cudaDataType type, Body body) {
    switch (type) {
        case CUDA_R_32F: return body(float{});
        case CUDA_R_64F: return body(double{});
        case CUDA_R_16F: return body(Half{0.f});
        case CUDA_R_16BF: return body(Bf16{0.f});
        default: give_up("internal: a matrix product of a type that check_product lets through by mistake");
    }
}

std::byte* host(Address a) { return Memory::get().host(a); }

// These read or write element i of a vector of any type.
double get(cudaDataType type, Address base, int64_t i) {
    double value = 0;
    with_type(type, [&]<class T>(T) { value = double(reinterpret_cast<T*>(host(base))[i]); });
    return value;
}
void put(cudaDataType type, Address base, int64_t i, double value) {
    with_type(type, [&]<class T>(T) { reinterpret_cast<T*>(host(base))[i] = T(value); });
}

// cuBLASLt documents the tanh form: gelu(x) = x/2 (1 + tanh u) with u = sqrt(2/pi) (x + 0.044715 x^3).
constexpr float gelu_scale = 0.7978845608f;
float gelu(float x) { return 0.5f * x * (1 + std::tanh(gelu_scale * (x + 0.044715f * x * x * x))); }
float gelu_slope(float x) {
    const float t = std::tanh(gelu_scale * (x + 0.044715f * x * x * x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * gelu_scale * (1 + 3 * 0.044715f * x * x);
}

bool has(const Product& p, unsigned bits) { return (p.epilogue & bits) == bits; }
bool forward_bias(const Product& p) { return has(p, CUBLASLT_EPILOGUE_BIAS); }
bool drelu(const Product& p) { return has(p, 8); }
bool dgelu(const Product& p) { return has(p, 64); }
bool bias_gradient(const Product& p) { return p.epilogue & (16 | CUBLASLT_EPILOGUE_BGRADA | CUBLASLT_EPILOGUE_BGRADB); }
bool uses_aux(const Product& p) { return has(p, 128); }
bool uses_relu_mask(const Product& p) { return uses_aux(p) && (has(p, CUBLASLT_EPILOGUE_RELU) || drelu(p)); }

bool known_epilogue(unsigned e) {
    switch (e) {
        case CUBLASLT_EPILOGUE_DEFAULT:
        case CUBLASLT_EPILOGUE_RELU:
        case CUBLASLT_EPILOGUE_RELU_AUX:
        case CUBLASLT_EPILOGUE_BIAS:
        case CUBLASLT_EPILOGUE_RELU_BIAS:
        case CUBLASLT_EPILOGUE_RELU_AUX_BIAS:
        case CUBLASLT_EPILOGUE_DRELU:
        case CUBLASLT_EPILOGUE_DRELU_BGRAD:
        case CUBLASLT_EPILOGUE_GELU:
        case CUBLASLT_EPILOGUE_GELU_AUX:
        case CUBLASLT_EPILOGUE_GELU_BIAS:
        case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
        case CUBLASLT_EPILOGUE_DGELU:
        case CUBLASLT_EPILOGUE_DGELU_BGRAD:
        case CUBLASLT_EPILOGUE_BGRADA:
        case CUBLASLT_EPILOGUE_BGRADB: return true;
        default: return false;
    }
}

bool is_fast(cublasComputeType_t c) {
    return c == CUBLAS_COMPUTE_32F_FAST_TF32 || c == CUBLAS_COMPUTE_32F_FAST_16BF || c == CUBLAS_COMPUTE_32F_FAST_16F;
}
bool is_32f(cublasComputeType_t c) { return c == CUBLAS_COMPUTE_32F || c == CUBLAS_COMPUTE_32F_PEDANTIC || is_fast(c); }

// --- the multiplication ---------------------------------------------------------------------------------------------

// A matrix as oneDNN takes it: `rows` x `cols` with any strides, in f32 or bf16.
struct View {
    const void* data;
    bool bf16;
    int64_t rows, cols, row_stride, col_stride, batches, batch_stride;
};

View view_of(const Matrix& x, bool transpose) {
    const bool swap = x.row_major != transpose;  // whether the elements of a row of op(X) are adjacent in memory
    View v{host(x.data), x.type == CUDA_R_16BF, x.rows, x.cols, 1, x.ld, x.batches, x.batch_stride};
    if (transpose) std::swap(v.rows, v.cols);
    if (swap) std::swap(v.row_stride, v.col_stride);
    return v;
}

dnnl::engine& cpu() {
    static auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
    return *engine;
}

dnnl::matmul::primitive_desc plan_of(const dnnl::memory::desc& src, const dnnl::memory::desc& weights,
                                     const dnnl::memory::desc& result) {
#if DNNL_VERSION_MAJOR >= 3
    return {cpu(), src, weights, result};
#else
    return {dnnl::matmul::desc(src, weights, result), cpu()};
#endif
}

// oneDNN refuses products of bf16 where the processor has no AVX-512, or where DNNL_MAX_CPU_ISA forbids it.
bool multiplies_bf16() {
    static const bool yes = [] {
        const dnnl::memory::desc one({1, 1}, dnnl::memory::data_type::bf16, {1, 1});
        try {
            plan_of(one, one, one);
        } catch (const dnnl::error&) { return false; }
        return true;
    }();
    return yes;
}

// Computes dst = left * right. dst is row-major with the leading dimension dst_ld.
void multiply(const View& left, const View& right, void* dst, bool dst_bf16, int64_t dst_ld, int64_t dst_batch_stride) {
    using namespace dnnl;
    const int64_t batches = std::max(left.batches, right.batches);
    auto describe         = [&](const View& v) {
        const auto type = v.bf16 ? memory::data_type::bf16 : memory::data_type::f32;
        if (batches == 1) return memory::desc({v.rows, v.cols}, type, {v.row_stride, v.col_stride});
        const bool same = v.batches == 1 || v.batch_stride == 0;  // the whole batch shares one matrix
        return memory::desc({same ? 1 : batches, v.rows, v.cols}, type,
                                    {same ? v.rows * v.cols : v.batch_stride, v.row_stride, v.col_stride});
    };
    const View out{dst, dst_bf16, left.rows, right.cols, dst_ld, 1, batches, dst_batch_stride};
    const auto src = describe(left), weights = describe(right), result = describe(out);
    try {
        stream s(cpu());
        matmul(plan_of(src, weights, result))
            .execute(s, {{DNNL_ARG_SRC, memory(src, cpu(), const_cast<void*>(left.data))},
                         {DNNL_ARG_WEIGHTS, memory(weights, cpu(), const_cast<void*>(right.data))},
                         {DNNL_ARG_DST, memory(result, cpu(), dst)}});
        s.wait();
    } catch (const dnnl::error& e) {  // must not reach the program, which would wait for this product for ever
        give_up(std::string("a matrix product: oneDNN says \"") + e.what() + '"');
    }
}

// Makes a contiguous copy of the operand in float, rounded by the compute type, for types that oneDNN lacks.
View rounded(const Matrix& x, bool transpose, cublasComputeType_t compute, std::vector<float>& storage) {
    const int64_t vectors = x.vectors(), length = x.length();
    const int batches = x.batch_stride == 0 ? 1 : x.batches;
    storage.resize(size_t(vectors * length * batches));
    with_type(x.type, [&]<class T>(T) {
        const T* in = reinterpret_cast<const T*>(host(x.data));
#pragma omp parallel for collapse(2)
        for (int batch = 0; batch < batches; batch++)
            for (int64_t v = 0; v < vectors; v++) {
                const T* from = in + batch * x.batch_stride + v * x.ld;
                float* to     = storage.data() + (batch * vectors + v) * length;
                for (int64_t i = 0; i < length; i++) {
                    const float f = float(from[i]);
                    to[i]         = compute == CUBLAS_COMPUTE_32F_FAST_TF32   ? to_tf32(f)
                                    : compute == CUBLAS_COMPUTE_32F_FAST_16BF ? float(Bf16(f))
                                    : compute == CUBLAS_COMPUTE_32F_FAST_16F  ? float(Half(f))
                                                                              : f;
                }
            }
    });
    Matrix copy       = x;
    copy.type         = CUDA_R_32F;
    copy.ld           = length;
    copy.batches      = batches;
    copy.batch_stride = vectors * length;
    View v            = view_of(copy, transpose);
    v.data            = storage.data();
    return v;
}

// The operands of the row-major product: A and B, or when D is column-major the transposed B and A.
struct Operands {
    View left, right;
    std::vector<float> left_storage, right_storage;
};
void prepare(const Product& p, Operands& o) {
    auto take = [&](const Matrix& x, bool transpose, std::vector<float>& storage) {
        const bool bf16   = x.type == CUDA_R_16BF;
        const bool direct = bf16 ? multiplies_bf16() : x.type == CUDA_R_32F && !is_fast(p.compute);
        return direct ? view_of(x, transpose) : rounded(x, transpose, bf16 ? CUBLAS_COMPUTE_32F : p.compute, storage);
    };
    if (p.d.row_major) {
        o.left  = take(p.a, p.transpose_a, o.left_storage);
        o.right = take(p.b, p.transpose_b, o.right_storage);
    } else {  // Dᵀ = op(B)ᵀ op(A)ᵀ
        o.left  = take(p.b, !p.transpose_b, o.left_storage);
        o.right = take(p.a, !p.transpose_a, o.right_storage);
    }
    if (o.left.bf16 != o.right.bf16) give_up("internal: A and B of different types reached the matrix product");
}

double scalar(const Scalar& s, cudaDataType type) { return s.device ? get(type, s.device, 0) : s.value; }

// Computes a product in f64, plainly. Programs use it to check other results.
void run_double(const Product& p, double alpha, double beta) {
    auto at = [](const Matrix& x, bool transpose, int64_t r, int64_t c) {
        if (transpose) std::swap(r, c);
        return x.row_major ? r * x.ld + c : r + c * x.ld;
    };
    for (int batch = 0; batch < p.d.batches; batch++) {
        auto base = [&](const Matrix& x) { return reinterpret_cast<double*>(host(x.data)) + batch * x.batch_stride; };
        const double *a = base(p.a), *b = base(p.b), *c = beta != 0 ? base(p.c) : nullptr;
        double* d = base(p.d);
#pragma omp parallel for
        for (int64_t j = 0; j < p.n(); j++)
            for (int64_t i = 0; i < p.m(); i++) {
                double sum = 0;
                for (int64_t l = 0; l < p.k(); l++)
                    sum += a[at(p.a, p.transpose_a, i, l)] * b[at(p.b, p.transpose_b, l, j)];
                d[at(p.d, false, i, j)] = alpha * sum + (c ? beta * c[at(p.c, false, i, j)] : 0);
            }
    }
}

// Applies alpha, beta, bias, activation and conversion to the float sums, one run of adjacent elements of D at a time.
void finish(const Product& p, const float* sums, float alpha, float beta) {
    const int64_t vectors = p.d.vectors(), length = p.d.length();
    const bool column = !p.d.row_major;
    std::vector<double> gradient(bias_gradient(p) ? size_t(p.m()) : 0);
    for (int batch = 0; batch < p.d.batches; batch++) {
        std::vector<float> bias;
        if (forward_bias(p))
            for (int64_t i = 0; i < p.m(); i++)
                bias.push_back(float(get(p.bias_type, p.bias, batch * p.bias_batch_stride + i)));
        with_type(p.d.type, [&]<class T>(T) {
            const T* c = beta != 0 ? reinterpret_cast<const T*>(host(p.c.data)) + batch * p.c.batch_stride : nullptr;
            T* d       = reinterpret_cast<T*>(host(p.d.data)) + batch * p.d.batch_stride;
            auto row   = [&](int64_t v, float* line) {
                const float* sum = sums + (batch * vectors + v) * length;
                for (int64_t i = 0; i < length; i++) line[i] = alpha * sum[i];
                if (c)
                    for (int64_t i = 0; i < length; i++) line[i] += beta * float(c[v * p.c.ld + i]);
                if (!bias.empty())
                    for (int64_t i = 0; i < length; i++) line[i] += column ? bias[size_t(i)] : bias[size_t(v)];
                if (uses_relu_mask(p)) {
                    auto* mask        = reinterpret_cast<uint8_t*>(host(p.aux));
                    const int64_t bit = batch * p.aux_batch_stride + v * p.aux_ld;
                    for (int64_t i = 0; i < length; i++) {
                        uint8_t& byte      = mask[(bit + i) / 8];
                        const uint8_t flag = uint8_t(1 << (bit + i) % 8);
                        if (drelu(p)) line[i] = byte & flag ? line[i] : 0;
                        else byte = line[i] > 0 ? byte | flag : byte & ~flag;
                    }
                } else if (uses_aux(p)) {
                    with_type(p.aux_type, [&]<class A>(A) {
                        A* aux = reinterpret_cast<A*>(host(p.aux)) + batch * p.aux_batch_stride + v * p.aux_ld;
                        if (dgelu(p))
                            for (int64_t i = 0; i < length; i++) line[i] *= gelu_slope(float(aux[i]));
                        else
                            for (int64_t i = 0; i < length; i++) aux[i] = A(line[i]);
                    });
                }
                if (has(p, CUBLASLT_EPILOGUE_RELU))
                    for (int64_t i = 0; i < length; i++) line[i] = line[i] < 0 ? 0 : line[i];  // keeps NaN
                if (has(p, CUBLASLT_EPILOGUE_GELU))
                    for (int64_t i = 0; i < length; i++) line[i] = gelu(line[i]);
                for (int64_t i = 0; i < length; i++) d[v * p.d.ld + i] = T(line[i]);
            };
            if (has(p, 16)) {  // the bias gradient sums over the columns, which are added in order
                std::vector<float> line(static_cast<size_t>(length));
                std::fill(gradient.begin(), gradient.end(), 0);
                for (int64_t v = 0; v < vectors; v++) {
                    row(v, line.data());
                    for (int64_t i = 0; i < length; i++) gradient[size_t(i)] += double(line[size_t(i)]);
                }
                for (int64_t i = 0; i < p.m(); i++)
                    put(p.bias_type, p.bias, batch * p.bias_batch_stride + i, gradient[size_t(i)]);
                return;
            }
#pragma omp parallel
            {
                std::vector<float> line(static_cast<size_t>(length));
#pragma omp for
                for (int64_t v = 0; v < vectors; v++) row(v, line.data());
            }
        });
    }
}

// The epilogues BGRADA and BGRADB sum an input over k.
void input_gradient(const Product& p) {
    const bool of_a     = has(p, CUBLASLT_EPILOGUE_BGRADA);
    const Matrix& x     = of_a ? p.a : p.b;
    const bool sum_rows = of_a ? p.transpose_a : !p.transpose_b;  // k runs over the rows as they are stored
    for (int batch = 0; batch < p.d.batches; batch++) {
        std::vector<double> sum(size_t(of_a ? p.m() : p.n()));
        with_type(x.type, [&]<class T>(T) {
            const T* in = reinterpret_cast<const T*>(host(x.data)) + batch * x.batch_stride;
            for (int64_t v = 0; v < x.vectors(); v++)
                for (int64_t i = 0; i < x.length(); i++)
                    sum[size_t(sum_rows == x.row_major ? i : v)] += double(in[v * x.ld + i]);
        });
        for (size_t i = 0; i < sum.size(); i++)
            put(p.bias_type, p.bias, batch * p.bias_batch_stride + int64_t(i), sum[i]);
    }
}

void run_product(const Product& p) {
    // Without anything to sum, C is scaled by beta even where alpha is NaN.
    const double alpha = p.k() ? scalar(p.alpha, p.scale_type) : 0, beta = scalar(p.beta, p.scale_type);
    if (p.a.type == CUDA_R_64F) return run_double(p, alpha, beta);
    const int64_t vectors = p.d.vectors(), length = p.d.length();
    const bool direct = p.k() && alpha == 1 && beta == 0 &&
                        (p.d.type == CUDA_R_32F || (p.d.type == CUDA_R_16BF && multiplies_bf16())) &&
                        (p.epilogue == CUBLASLT_EPILOGUE_DEFAULT || p.epilogue == CUBLASLT_EPILOGUE_BGRADA ||
                         p.epilogue == CUBLASLT_EPILOGUE_BGRADB);
    static std::vector<float> sums;  // the caller holds the runtime's lock
    Operands o;
    if (p.k()) prepare(p, o);
    if (direct) {
        // The result has the type of the inputs, or is f32 for bf16 inputs: check_product refuses all else.
        multiply(o.left, o.right, host(p.d.data), p.d.type == CUDA_R_16BF && o.left.bf16, p.d.ld, p.d.batch_stride);
    } else {
        sums.resize(size_t(vectors * length * p.d.batches));
        if (p.k()) multiply(o.left, o.right, sums.data(), false, length, vectors * length);
        else std::fill(sums.begin(), sums.end(), 0.f);
        finish(p, sums.data(), float(alpha), float(beta));
    }
    if (p.epilogue & (CUBLASLT_EPILOGUE_BGRADA | CUBLASLT_EPILOGUE_BGRADB)) input_gradient(p);
}

// --- checks ---------------------------------------------------------------------------------------------------------

bool check_range(Address a, size_t bytes, Access access, const std::string& what, uint32_t op, int device) {
    return Memory::get().check_device(a, bytes, access, what.c_str(), op, device);
}

bool check_matrix(const Matrix& x, Access access, const std::string& what, uint32_t op, int device) {
    const size_t element = size_of(x.type);
    const int batches    = x.batch_stride == 0 ? 1 : x.batches;
    for (int batch = 0; batch < batches; batch++) {
        const Address base = x.data + size_t(batch * x.batch_stride) * element;
        const bool dense   = x.ld == x.length();
        const size_t bytes = size_t(x.length() * (dense ? x.vectors() : 1)) * element;
        for (int64_t v = 0; v < (dense ? 1 : x.vectors()); v++) {
            const Address line = base + size_t(v * x.ld) * element;
            if (!check_range(line, bytes, access, what, op, device)) return false;
            if (access == Access::Write) Memory::get().mark_written(line, bytes);
        }
    }
    return true;
}

bool check_memory(const Product& p, const std::string& where, uint32_t op, int device) {
    auto name = [&](const char* part) { return std::string(p.function) + ": " + part + ", " + where; };
    for (const Scalar* s : {&p.alpha, &p.beta})
        if (s->device &&
            !check_range(s->device, size_of(p.scale_type), Access::Read, name("alpha or beta"), op, device))
            return false;
    const bool reads_c = scalar(p.beta, p.scale_type) != 0;
    if (!check_matrix(p.a, Access::Read, name("A"), op, device) ||
        !check_matrix(p.b, Access::Read, name("B"), op, device))
        return false;
    if (reads_c && !check_matrix(p.c, Access::Read, name("C"), op, device)) return false;
    if (forward_bias(p) || bias_gradient(p)) {
        const Access access = forward_bias(p) ? Access::Read : Access::Write;
        Matrix bias;
        bias.type         = p.bias_type;
        bias.rows         = has(p, CUBLASLT_EPILOGUE_BGRADB) ? p.n() : p.m();
        bias.cols         = 1;
        bias.ld           = bias.rows;
        bias.batches      = p.d.batches;
        bias.batch_stride = p.bias_batch_stride;
        bias.data         = p.bias;
        if (!check_matrix(bias, access, name("bias"), op, device)) return false;
    }
    if (uses_aux(p)) {
        const Access access = drelu(p) || dgelu(p) ? Access::Read : Access::Write;
        Matrix aux;
        aux.type                = p.aux_type;
        aux.rows                = p.m();
        aux.cols                = p.n();
        aux.ld                  = p.aux_ld;
        aux.batches             = p.d.batches;
        aux.batch_stride        = p.aux_batch_stride;
        aux.data                = p.aux;
        const size_t mask_bytes = size_t((p.n() - 1) * p.aux_ld + (p.m() + 7) / 8 * 8) / 8;
        if (uses_relu_mask(p) ? !check_range(p.aux, mask_bytes, access, name("aux"), op, device)
                              : !check_matrix(aux, access, name("aux"), op, device))
            return false;
        if (uses_relu_mask(p) && access == Access::Write) Memory::get().mark_written(p.aux, mask_bytes);
    }
    return check_matrix(p.d, Access::Write, name("D"), op, device);
}

void count_product(const Product& p) {
    char name[160];
    std::snprintf(name, sizeof name, "%s %c%c %s->%s %lldx%lldx%lld", p.function, p.transpose_a ? 'T' : 'N',
                  p.transpose_b ? 'T' : 'N', name_of(p.a.type), name_of(p.d.type), static_cast<long long>(p.m()),
                  static_cast<long long>(p.n()), static_cast<long long>(p.k()));
    Counters counters;
    counters.launches  = 1;
    const double flops = 2.0 * double(p.m()) * double(p.n()) * double(p.k()) * p.d.batches;
    (p.a.type == CUDA_R_32F && !is_fast(p.compute) ? counters.flops : counters.tensor_flops) = flops;
    // Each operand counts once, which is a lower bound.
    const auto pass = [&](Address from, double bytes, bool write) {
        counters.global_bytes += uint64_t(bytes);
        count_bytes(from, uint64_t(bytes), write, counters);
    };
    const auto matrix = [&](const Matrix& x, bool write) {
        for (int batch = 0; batch < (x.batch_stride ? x.batches : 1); batch++)
            pass(x.data + size_t(batch * x.batch_stride) * size_of(x.type),
                 double(x.vectors() * x.length()) * double(size_of(x.type)), write);
    };
    matrix(p.a, false), matrix(p.b, false);
    if (scalar(p.beta, p.scale_type) != 0) matrix(p.c, false);
    matrix(p.d, true);
    const double biases = double(has(p, CUBLASLT_EPILOGUE_BGRADB) ? p.n() : p.m()) * double(size_of(p.bias_type));
    if (forward_bias(p) || bias_gradient(p)) pass(p.bias, biases, bias_gradient(p));
    if (uses_aux(p) && !uses_relu_mask(p)) pass(p.aux, double(p.m() * p.n()) * double(size_of(p.aux_type)), !dgelu(p));
    count(name, counters);
}

}  // namespace

size_t size_of(cudaDataType type) {
    switch (type) {
        case CUDA_R_32F: return 4;
        case CUDA_R_64F: return 8;
        case CUDA_R_16F:
        case CUDA_R_16BF: return 2;
        default: return 0;
    }
}

const char* name_of(cudaDataType type) {
    switch (type) {
        case CUDA_R_32F: return "f32";
        case CUDA_R_64F: return "f64";
        case CUDA_R_16F: return "f16";
        case CUDA_R_16BF: return "bf16";
        default: return "a type the emulator lacks";
    }
}

cublasStatus_t say(cublasStatus_t status, const std::string& why) {
    std::fprintf(stderr, "emulate: %s: %s: %s\n", resolve_sites(call_site()).c_str(), cublasLtGetStatusName(status),
                 why.c_str());
    return status;
}

Scalar scalar_of(const void* value, cudaDataType type, bool on_device) {
    if (on_device) return {0, address_of(value)};
    switch (type) {
        case CUDA_R_64F: return {*static_cast<const double*>(value), 0};
        case CUDA_R_16F: return {*static_cast<const Half*>(value), 0};
        default: return {*static_cast<const float*>(value), 0};
    }
}

cublasStatus_t check_product(const Product& p, std::string& why) {
    auto invalid = [&](const std::string& text) { return refuse(why, CUBLAS_STATUS_INVALID_VALUE, text); };
    auto lacking = [&](const std::string& text) { return refuse(why, CUBLAS_STATUS_NOT_SUPPORTED, text); };
    auto shape   = [](const Matrix& x) {
        std::string text = "(";
        return text.append(std::to_string(x.rows)).append(",").append(std::to_string(x.cols)).append(")");
    };

    for (const Matrix* x : {&p.a, &p.b, &p.c, &p.d}) {
        const int64_t least = p.sums_may_be_empty && (x == &p.a || x == &p.b) ? 0 : 1;
        if (x->rows < least || x->cols < least) return invalid("a matrix has the shape " + shape(*x));
        if (x->ld < std::max<int64_t>(1, x->length()))
            return invalid("the leading dimension " + std::to_string(x->ld) + " is less than " +
                           std::to_string(std::max<int64_t>(1, x->length())));
        if (x->batches < 1) return invalid("the batch count is " + std::to_string(x->batches));
        if (x->batches != p.d.batches) return invalid("A, B, C and D have different batch counts");
        if (!size_of(x->type))
            return lacking("the emulator lacks data type " + std::to_string(x->type) + " (fp8, integer or complex)");
    }
    const int64_t kb = p.transpose_b ? p.b.cols : p.b.rows;
    if ((p.transpose_a ? p.a.cols : p.a.rows) != p.m() || (p.transpose_b ? p.b.rows : p.b.cols) != p.n() || kb != p.k())
        return invalid("the shapes of op(A), op(B) and D do not match: A " + shape(p.a) + (p.transpose_a ? "ᵀ" : "") +
                       ", B " + shape(p.b) + (p.transpose_b ? "ᵀ" : "") + ", D " + shape(p.d));
    if (p.c.rows != p.d.rows || p.c.cols != p.d.cols) return invalid("C is " + shape(p.c) + ", D is " + shape(p.d));
    if (p.c.row_major != p.d.row_major) return invalid("C and D have different orders");

    const std::string types = std::string("A ") + name_of(p.a.type) + ", B " + name_of(p.b.type) + ", C " +
                              name_of(p.c.type) + ", D " + name_of(p.d.type);
    if (p.a.type != p.b.type || p.c.type != p.d.type)
        return lacking("the combination of types is not supported: " + types);
    bool known = false;
    if (is_32f(p.compute)) {
        known =
            p.scale_type == CUDA_R_32F && (p.d.type == p.a.type || p.d.type == CUDA_R_32F) && p.a.type != CUDA_R_64F;
        if (is_fast(p.compute) && p.a.type != CUDA_R_32F) known = false;
    } else if (p.compute == CUBLAS_COMPUTE_64F || p.compute == CUBLAS_COMPUTE_64F_PEDANTIC) {
        known = p.scale_type == CUDA_R_64F && p.a.type == CUDA_R_64F && p.d.type == CUDA_R_64F;
        if (p.epilogue != CUBLASLT_EPILOGUE_DEFAULT) return lacking("epilogues are not supported in f64");
    } else if (p.compute == CUBLAS_COMPUTE_16F || p.compute == CUBLAS_COMPUTE_16F_PEDANTIC) {
        known = p.scale_type == CUDA_R_16F && p.a.type == CUDA_R_16F && p.d.type == CUDA_R_16F;
    }
    if (!known) return lacking("compute type " + std::to_string(p.compute) + " is not supported with " + types);

    if (!known_epilogue(p.epilogue)) return invalid("unknown epilogue " + std::to_string(p.epilogue));
    if (p.epilogue != CUBLASLT_EPILOGUE_DEFAULT && p.d.row_major)
        return lacking("epilogues are not supported with D in row-major order");
    if ((forward_bias(p) || bias_gradient(p)) && p.bias_type != p.d.type && p.bias_type != CUDA_R_32F)
        return lacking(std::string("a bias of ") + name_of(p.bias_type) + " is not supported with D of " +
                       name_of(p.d.type));
    if (uses_relu_mask(p)) {
        if (p.aux_ld % 128 || p.aux_ld < p.m())
            return invalid("the leading dimension of aux is " + std::to_string(p.aux_ld) +
                           ", expected a multiple of 128 ≥ " + std::to_string(p.m()));
        if (p.d.batches > 1 && p.aux_batch_stride % 128)
            return invalid("the batch stride of aux is not a multiple of 128");
    } else if (uses_aux(p)) {
        if (p.aux_ld % 8 || p.aux_ld < p.m())
            return invalid("the leading dimension of aux is " + std::to_string(p.aux_ld) +
                           ", expected a multiple of 8 ≥ " + std::to_string(p.m()));
        if (p.d.batches > 1 && p.aux_batch_stride % 8) return invalid("the batch stride of aux is not a multiple of 8");
        if (p.aux_type != p.d.type) return lacking("an aux matrix of another type than D is not supported");
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_pointers(const Product& p, std::string& why) {
    auto invalid = [&](const std::string& text) { return refuse(why, CUBLAS_STATUS_INVALID_VALUE, text); };
    const struct {
        const char* name;
        Address at;
        size_t alignment;
        bool wanted;
    } rows[] = {{"A", p.a.data, size_of(p.a.type), p.k() > 0},
                {"B", p.b.data, size_of(p.b.type), p.k() > 0},
                {"C", p.c.data, size_of(p.c.type), p.beta.device || p.beta.value != 0},
                {"D", p.d.data, size_of(p.d.type), true},
                {"the bias", p.bias, size_of(p.bias_type), forward_bias(p) || bias_gradient(p)},
                {"the aux matrix", p.aux, 16, uses_aux(p)}};
    for (const auto& row : rows) {
        if (!row.wanted) continue;
        if (!row.at) return invalid(std::string(row.name) + " is a null pointer");
        if (row.at % row.alignment) return invalid(std::string(row.name) + " is not aligned to its elements");
    }
    if (p.c.data == p.d.data && (p.beta.device || p.beta.value != 0) &&
        (p.c.ld != p.d.ld || (p.d.batches > 1 && p.c.batch_stride != p.d.batch_stride)))
        return invalid("C and D share their memory but have different leading dimensions or batch strides");
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t submit_product(const Product& product, cudaStream_t stream) {
    Work work{cudaGraphNodeTypeKernel, call_site()};
    work.run = [product, where = work.what, device = current_device()](uint32_t op) {
        const Matrix& d = product.d;
        if (options().check != Check::Off) {
            if (!check_memory(product, where, op, device)) return cudaErrorIllegalAddress;
        } else {
            for (int b = 0; b < d.batches; b++)
                for (int64_t v = 0; v < d.vectors(); v++)
                    Memory::get().mark_written(d.data + size_t(b * d.batch_stride + v * d.ld) * size_of(d.type),
                                               size_t(d.length()) * size_of(d.type));
        }
        run_product(product);
        if (!options().profile.empty()) count_product(product);
        return cudaSuccess;
    };
    return submit(stream, std::move(work)) == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // namespace emu
