#include "reduce.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace emu {
namespace {

// The type in which a reduction computes.
template <class T> using Wide = std::conditional_t<std::is_integral_v<T> || std::is_same_v<T, double>, T, float>;

template <class T>
void reduce_as(T* out, const std::vector<const void*>& inputs, size_t count, ncclRedOp_t op,
               const std::vector<double>& scale) {
    using W = Wide<T>;
    // Sums and products of integers wrap as on the GPU, so they are computed in the unsigned type.
    using A = typename std::conditional_t<std::is_integral_v<W>, std::make_unsigned<W>, std::type_identity<W>>::type;
    for (size_t i = 0; i < count; i++) {
        auto value = [&](size_t rank) {
            const W x = static_cast<W>(static_cast<const T*>(inputs[rank])[i]);
            return scale.empty() ? x : static_cast<W>(x * static_cast<W>(scale[rank]));
        };
        W sum = value(0);
        for (size_t rank = 1; rank < inputs.size(); rank++) {
            const W x = value(rank);
            switch (int(op)) {
                case ncclProd: sum = static_cast<W>(A(sum) * A(x)); break;
                case ncclMax: sum = std::max(sum, x); break;
                case ncclMin: sum = std::min(sum, x); break;
                default: sum = static_cast<W>(A(sum) + A(x)); break;  // sum, average, pre-multiplied sum
            }
        }
        if (op == ncclAvg) sum = static_cast<W>(sum / static_cast<W>(inputs.size()));
        out[i] = static_cast<T>(sum);
    }
}

template <class Body> void with_type(ncclDataType_t type, Body body) {
    switch (type) {
        case ncclInt8: return body(int8_t{});
        case ncclUint8: return body(uint8_t{});
        case ncclInt32: return body(int32_t{});
        case ncclUint32: return body(uint32_t{});
        case ncclInt64: return body(int64_t{});
        case ncclUint64: return body(uint64_t{});
        case ncclFloat16: return body(__half{});
        case ncclFloat32: return body(float{});
        case ncclFloat64: return body(double{});
        case ncclBfloat16: return body(__nv_bfloat16{});
#if NCCL_VERSION_CODE >= 22400
        case ncclFloat8e4m3: return body(__nv_fp8_e4m3{});
        case ncclFloat8e5m2: return body(__nv_fp8_e5m2{});
#endif
        default: return;
    }
}

}  // namespace

size_t size_of(ncclDataType_t type) {
    size_t bytes = 0;
    with_type(type, [&](auto x) { bytes = sizeof x; });
    return bytes;
}

const char* name_of(ncclDataType_t type) {
    static const char* names[] = {"int8", "uint8", "int32",  "uint32",   "int64",    "uint64",
                                  "half", "float", "double", "bfloat16", "fp8_e4m3", "fp8_e5m2"};
    return unsigned(type) < std::size(names) ? names[type] : "?";
}

const char* name_of(ncclRedOp_t op) {
    static const char* names[] = {"sum", "prod", "max", "min", "avg"};
    return unsigned(op) < std::size(names) ? names[op] : "premulsum";
}

void reduce(void* out, const std::vector<const void*>& inputs, size_t count, ncclDataType_t type, ncclRedOp_t op,
            const std::vector<double>& scale) {
    with_type(type, [&]<class T>(T) { reduce_as(static_cast<T*>(out), inputs, count, op, scale); });
}

double scalar_of(const void* value, ncclDataType_t type) {
    double out = 0;
    with_type(type, [&]<class T>(T) { out = double(static_cast<Wide<T>>(*static_cast<const T*>(value))); });
    return out;
}

}  // namespace emu
