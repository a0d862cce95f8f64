// tensor.h - the table of dtypes; Shape; and Tensor, a view of memory that somebody else owns
//
// A Tensor is a pointer, a dtype and a shape, row-major and contiguous, and is passed by value. A null Tensor means
// that the model has no such weight; the op then skips it. The Stream knows which machine the memory belongs to
// (device.h).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>

#include "check.h"

#ifdef __CUDACC__
#define HD __host__ __device__ inline
#else
#define HD inline
#endif

// ceil_div is n / d, rounded up. round_up is the smallest multiple of `step` that is not below n. Both need n >= 0.
HD constexpr int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }
HD constexpr int64_t round_up(int64_t n, int64_t step) { return ceil_div(n, step) * step; }

// ---- dtypes ---------------------------------------------------------------------------------------------------------
//
// To add a dtype, add a row and a C++ type here, a load and a store in cpu.h and in gpu.cuh, a case in product.h, which
// holds the names of dtypes in oneDNN and cuBLASLt, and one in collective.cu, which has those in NCCL.

// The upper half of an IEEE float: 8 exponent bits, 7 stored bits of precision. Rounds to nearest, ties to even. A NaN
// stays a NaN (quieted), so hostile values survive storage.
struct bf16 {
    uint16_t bits;
    bf16() = default;
    HD explicit bf16(float f) {
        union {
            float f;
            uint32_t u;
        } x{f};
        const uint32_t rounded = x.u + 0x7fffu + ((x.u >> 16) & 1u);
        const uint32_t quieted = x.u | 0x00400000u;
        bits                   = uint16_t(((x.u & 0x7fffffffu) > 0x7f800000u ? quieted : rounded) >> 16);
    }
    HD operator float() const {
        union {
            uint32_t u;
            float f;
        } x{uint32_t(bits) << 16};
        return x.f;
    }
};

// IEEE half: 5 exponent bits, 10 stored bits of precision. Every value has an exact float, subnormal ones included. It
// is a dtype of files only, which no op computes in.
struct fp16 {
    uint16_t bits;
    fp16() = default;
    // Rounds to nearest, ties to even; what is too large becomes infinite.
    explicit fp16(float f) {
        uint32_t u;
        std::memcpy(&u, &f, 4);
        const uint32_t sign = (u >> 16) & 0x8000u, rest = u & 0x7fffffffu;
        if (rest > 0x7f800000u)
            bits = uint16_t(sign | 0x7e00u);  // NaN
        else if (rest >= 0x477ff000u)
            bits = uint16_t(sign | 0x7c00u);  // 65520 rounds up
        else if (rest < 0x38800000u)
            bits = uint16_t(sign | uint32_t(std::lrint(std::fabs(f) * 0x1p24f)));  // subnormal
        else
            bits = uint16_t(sign | ((rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13));
    }
    operator float() const {
        const uint32_t sign = uint32_t(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
        const uint32_t exponent_shift = rest >= 0x7c00u ? 255 - 31 : 127 - 15;  // infinity and NaN stay what they are
        const uint32_t normal         = sign | ((rest << 13) + (exponent_shift << 23));
        float f;
        std::memcpy(&f, &normal, 4);
        return rest < 0x0400u ? (sign ? -0x1p-24f : 0x1p-24f) * float(rest) : f;
    }
};
static_assert(sizeof(bf16) == 2 && sizeof(fp16) == 2, "two bytes in files and in memory");

enum class DType : uint8_t { F32, BF16, F16, I32 };

struct DTypeRow {
    DType dtype;
    int64_t size;        // bytes of an element
    const char* name;    // the name in options, messages and the records of a run
    const char* stored;  // the name in safetensors files
    const char* torch;   // the torch_dtype in a config.json of Hugging Face
    bool computes;       // ops take it for activations and weights
    bool weights;        // files may hold weights in it
};
// clang-format off
constexpr DTypeRow dtype_rows[] = {
    // dtype       size             name     stored  torch        computes  weights
    {DType::F32,   sizeof(float),   "fp32",  "F32",  "float32",   true,     true },
    {DType::BF16,  sizeof(bf16),    "bf16",  "BF16", "bfloat16",  true,     true },
    {DType::F16,   sizeof(fp16),    "fp16",  "F16",  "float16",   false,    true },
    {DType::I32,   sizeof(int32_t), "int32", "I32",  "int32",     false,    false},
};
template <class T> constexpr DType dtype_of = T::has_no_dtype;
template <> inline constexpr DType dtype_of<float>   = DType::F32;
template <> inline constexpr DType dtype_of<bf16>    = DType::BF16;
template <> inline constexpr DType dtype_of<fp16>    = DType::F16;
template <> inline constexpr DType dtype_of<int32_t> = DType::I32;
// clang-format on

constexpr const DTypeRow& row_of(DType t) { return dtype_rows[int(t)]; }
static_assert(row_of(DType::F32).dtype == DType::F32 && row_of(DType::BF16).dtype == DType::BF16 &&
                  row_of(DType::F16).dtype == DType::F16 && row_of(DType::I32).dtype == DType::I32,
              "the rows stand in the order of the enum");
constexpr int64_t size_of(DType t) { return row_of(t).size; }
inline const char* name_of(DType t) { return row_of(t).name; }

// The row with this text in a column, or null: find_dtype(&DTypeRow::stored, "BF16").
inline const DTypeRow* find_dtype(const char* DTypeRow::*column, const std::string& text) {
    for (const DTypeRow& row : dtype_rows)
        if (row.*column == text) return &row;
    return nullptr;
}

// Calls f with the TypeTag of a dtype's C++ type, so that the caller chooses a template's instance once:
// for_dtype(t, [&](auto tag) { using T = typename decltype(tag)::type; … }). for_dtype is for the dtypes that ops
// compute in, for_float for these and those that files hold.
template <class T>
struct TypeTag {
    using type = T;
};
template <class F>
void for_dtype(DType t, F f) {
    switch (t) {
        case DType::F32: return f(TypeTag<float>{});
        case DType::BF16: return f(TypeTag<bf16>{});
        default: CHECK_CALL(false, "ops compute in fp32 or bf16, not in {}", name_of(t));
    }
}
template <class F>
void for_float(DType t, F f) {
    if (t == DType::F16) return f(TypeTag<fp16>{});
    for_dtype(t, f);
}

// ---- shapes and tensors ---------------------------------------------------------------------------------------------

struct Shape {
    static constexpr int max_dims = 5;
    int64_t dim[max_dims]         = {};
    int dims                      = 0;

    Shape() = default;
    Shape(std::initializer_list<int64_t> list) {
        CHECK_CALL(list.size() <= max_dims, "a shape has at most {} dimensions, got {}", max_dims, list.size());
        for (int64_t d : list) dim[dims++] = d;
    }
    int64_t operator[](int i) const { return dim[i < 0 ? dims + i : i]; }
    int64_t numel() const {
        int64_t n = 1;
        for (int i = 0; i < dims; i++) n *= dim[i];
        return n;
    }
    bool operator==(const Shape& o) const {
        if (dims != o.dims) return false;
        for (int i = 0; i < dims; i++)
            if (dim[i] != o.dim[i]) return false;
        return true;
    }
    bool operator!=(const Shape& o) const { return !(*this == o); }
    std::string str() const {
        std::string s = "(";
        for (int i = 0; i < dims; i++) s += (i ? ", " : "") + std::to_string(dim[i]);
        return s + ")";
    }
};

struct Tensor {
    void* ptr   = nullptr;
    DType dtype = DType::F32;
    Shape shape;

    explicit operator bool() const { return ptr != nullptr; }
    int64_t numel() const { return shape.numel(); }
    int64_t bytes() const { return numel() * size_of(dtype); }
    // Returns the elements. Throws CallError when they are of another type than T.
    template <class T>
    T* data() const {
        CHECK_CALL(dtype == dtype_of<T>, "tensor {} holds {}, not {}", shape.str(), name_of(dtype),
                   name_of(dtype_of<T>));
        return static_cast<T*>(ptr);
    }
    // The same, or null for a null tensor.
    template <class T>
    T* data_or_null() const {
        return ptr ? data<T>() : nullptr;
    }
    // The same elements under another shape.
    Tensor view(Shape s) const {
        CHECK_CALL(s.numel() == numel(), "cannot view {} as {}: {} elements against {}", shape.str(), s.str(), numel(),
                   s.numel());
        return Tensor{ptr, dtype, s};
    }
    // Rows [first, first + count) of the leading dimension; a null tensor has null rows.
    Tensor rows(int64_t first, int64_t count) const {
        if (!ptr) return *this;
        CHECK_CALL(first >= 0 && count >= 0 && first + count <= shape[0], "rows {}..{} of {}", first, first + count,
                   shape.str());
        Tensor t       = *this;
        t.shape.dim[0] = count;
        t.ptr          = static_cast<char*>(ptr) + first * (shape[0] ? numel() / shape[0] : 0) * size_of(dtype);
        return t;
    }
    std::string str() const { return ptr ? shape.str() + " " + name_of(dtype) : "null"; }
};

// ---- what an op expects of its arguments ----------------------------------------------------------------------------
//
// Each throws a CallError that names the op, the tensor, what it is and what was expected.

inline void expect_at(const char* file, int line, const char* op, const Tensor& t, const char* name, const Shape& shape,
                      DType dtype, const Tensor& because, const char* because_name) {
    if (t.ptr && t.shape == shape && t.dtype == dtype) return;
    throw_at<CallError>(file, line, "{}: {} is {}, expected {} {} because {} is {}", op, name, t.str(), shape.str(),
                        name_of(dtype), because_name, because.str());
}
// t has this shape and dtype. `because` is the tensor that they follow from: expect(y, x.shape, x.dtype, x).
#define expect(t, shape, dtype, because) expect_at(__FILE__, __LINE__, __func__, t, #t, shape, dtype, because, #because)
// t is null or has this shape and dtype.
#define expect_maybe(t, shape, dtype, because)   \
    do {                                         \
        if (t) expect(t, shape, dtype, because); \
    } while (0)
// t is not null.
#define expect_there(t) CHECK_CALL(t, "{}: {} is null, expected a tensor", __func__, #t)
// t is not null and has this dtype.
#define expect_dtype(t, of_dtype)                                                                                \
    CHECK_CALL((t) && (t).dtype == (of_dtype), "{}: {} is {}, expected a tensor of {}", __func__, #t, (t).str(), \
               name_of(of_dtype))
