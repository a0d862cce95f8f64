// tensor.h - DType, Shape and Tensor: a view of memory that somebody else owns
//
// A Tensor is passed by value: pointer, element type, shape; row-major and contiguous. A null Tensor stands for "this
// model has no such weight", and an op skips it. Which machine the memory lives on is the Stream's business (device.h).
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>

#include "check.h"

#ifdef __CUDACC__
#define HD __host__ __device__ inline
#else
#define HD inline
#endif

HD int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

enum class DType : uint8_t { F32, BF16, I32 };

inline int64_t size_of(DType t) { return t == DType::BF16 ? 2 : 4; }
inline const char* name_of(DType t) { return t == DType::F32 ? "fp32" : t == DType::BF16 ? "bf16" : "int32"; }

// The upper half of an IEEE float: 8 exponent bits, 7 stored bits of precision. Rounds to nearest, ties to even; a NaN
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
static_assert(sizeof(bf16) == 2, "bf16 is two bytes in files and in memory");

template <class T>
struct dtype_of_type;
template <>
struct dtype_of_type<float> {
    static constexpr DType value = DType::F32;
};
template <>
struct dtype_of_type<bf16> {
    static constexpr DType value = DType::BF16;
};
template <>
struct dtype_of_type<int32_t> {
    static constexpr DType value = DType::I32;
};

struct Shape {
    static constexpr int max_dims = 5;
    int64_t dim[max_dims]         = {};
    int dims                      = 0;

    Shape() = default;
    Shape(std::initializer_list<int64_t> list) {
        CHECK(list.size() <= max_dims, "a shape has at most {} dimensions, got {}", max_dims, list.size());
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
    // Elements, after checking that they are what the caller thinks they are.
    template <class T>
    T* data() const {
        CHECK(dtype == dtype_of_type<T>::value, "tensor {} holds {}, not {}", shape.str(), name_of(dtype),
              name_of(dtype_of_type<T>::value));
        return static_cast<T*>(ptr);
    }
    // The same elements under another shape.
    Tensor view(Shape s) const {
        CHECK(s.numel() == numel(), "cannot view {} as {}: {} elements against {}", shape.str(), s.str(), numel(),
              s.numel());
        return Tensor{ptr, dtype, s};
    }
    // Rows [first, first + count) of the leading dimension; a null tensor has null rows.
    Tensor rows(int64_t first, int64_t count) const {
        if (!ptr) return *this;
        CHECK(first >= 0 && count >= 0 && first + count <= shape[0], "rows {}..{} of {}", first, first + count,
              shape.str());
        Tensor t       = *this;
        t.shape.dim[0] = count;
        t.ptr          = static_cast<char*>(ptr) + first * (shape[0] ? numel() / shape[0] : 0) * size_of(dtype);
        return t;
    }
    std::string str() const { return ptr ? shape.str() + " " + name_of(dtype) : "null"; }
};

// The door of every op: `expect(y, "y", {N, C}, x.dtype, "because x is …")`.
inline void expect_at(const char* file, int line, const char* op, const Tensor& t, const char* name, const Shape& shape,
                      DType dtype, const Tensor& because, const char* because_name) {
    if (t.ptr && t.shape == shape && t.dtype == dtype) return;
    throw_at<InputError>(file, line, "{}: {} is {}, expected {} {} because {} is {}", op, name, t.str(), shape.str(),
                         name_of(dtype), because_name, because.str());
}
// expect(t, shape, dtype, because): t must be there and have that shape and dtype. expect_maybe: the same, or null.
#define expect(t, shape, dtype, because) expect_at(__FILE__, __LINE__, __func__, t, #t, shape, dtype, because, #because)
// expect_there(t): t must not be null.
#define expect_there(t) CHECK(t, "{}: {} is null, expected a tensor", __func__, #t)
// expect_dtype(t, dtype): t must be there, of any shape, and have that dtype.
#define expect_dtype(t, of_dtype)                                                                           \
    CHECK((t) && (t).dtype == (of_dtype), "{}: {} is {}, expected a tensor of {}", __func__, #t, (t).str(), \
          name_of(of_dtype))
#define expect_maybe(t, shape, dtype, because)   \
    do {                                         \
        if (t) expect(t, shape, dtype, because); \
    } while (0)

// Calls f with the TypeTag of the C++ type behind a floating dtype, so that an op picks its instance once:
// for_dtype(t, [&](auto tag) { using T = typename decltype(tag)::type; … }).
template <class T>
struct TypeTag {
    using type = T;
};
template <class F>
inline void for_dtype(DType t, F f) {
    switch (t) {
        case DType::F32: return f(TypeTag<float>{});
        case DType::BF16: return f(TypeTag<bf16>{});
        default: fail("this op works on fp32 and bf16, got {}", name_of(t));
    }
}
