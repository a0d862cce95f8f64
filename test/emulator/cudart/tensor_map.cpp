// tensor_map.cpp - cuTensorMapEncodeTiled, the one function of the driver that programs can ask for
//
// The driver refuses a map without saying why. Here the rule that it breaks is printed.
#include <cuda.h>

#include <cstring>

#include "engine/bulk.h"
#include "runtime.h"

namespace emu {
namespace {

// The type of an element; none: the emulator lacks it.
ptx::Type element_type(CUtensorMapDataType type) {
    switch (type) {
        case CU_TENSOR_MAP_DATA_TYPE_UINT8: return ptx::Type::u8;
        case CU_TENSOR_MAP_DATA_TYPE_UINT16: return ptx::Type::u16;
        case CU_TENSOR_MAP_DATA_TYPE_FLOAT16: return ptx::Type::f16;
        case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16: return ptx::Type::bf16;
        case CU_TENSOR_MAP_DATA_TYPE_UINT32: return ptx::Type::u32;
        case CU_TENSOR_MAP_DATA_TYPE_INT32: return ptx::Type::s32;
        case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
        case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32: return ptx::Type::f32;
        case CU_TENSOR_MAP_DATA_TYPE_UINT64: return ptx::Type::u64;
        case CU_TENSOR_MAP_DATA_TYPE_INT64: return ptx::Type::s64;
        case CU_TENSOR_MAP_DATA_TYPE_FLOAT64: return ptx::Type::f64;
        default: return ptx::Type::none;
    }
}

CUresult refuse(const std::string& why, CUresult result = CUDA_ERROR_INVALID_VALUE) {
    std::fprintf(stderr, "emulate: cuTensorMapEncodeTiled: %s\n", why.c_str());
    return result;
}

CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                      const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                      CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
    const auto text = [](auto n) { return std::to_string(n); };
    if (!map || !address || !sizes || !box || !steps) return refuse("a pointer is null");
    if (reinterpret_cast<uintptr_t>(map) % 64) return refuse("the address of the map is no multiple of 64");
    if (rank < 1 || rank > 5) return refuse("a tensor has 1 to 5 dimensions, not " + text(rank));
    if (rank > 1 && !strides) return refuse("the strides are null");
    const ptx::Type element = element_type(type);
    const int bytes         = ptx::bytes_of(element);
    if (element == ptx::Type::none)
        return refuse("data type " + text(int(type)) + ", which the emulator lacks", CUDA_ERROR_NOT_SUPPORTED);
    if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE)
        return refuse("an interleaved layout, which the emulator lacks", CUDA_ERROR_NOT_SUPPORTED);
    if (swizzle > CU_TENSOR_MAP_SWIZZLE_128B)
        return refuse("swizzle " + text(int(swizzle)) + ", which devices of compute capability 9.0 lack",
                      CUDA_ERROR_NOT_SUPPORTED);
    if (address_of(address) % 16) return refuse("the address of the tensor is no multiple of 16");
    TensorMap m{};
    m.magic = TensorMap::kMagic, m.address = address_of(address), m.rank = uint8_t(rank), m.element = uint8_t(bytes);
    m.type = element;
    for (cuuint32_t d = 0; d < rank; d++) {
        const std::string dimension = "dimension " + text(d);
        if (!sizes[d] || sizes[d] > 1ull << 32)
            return refuse(dimension + " has size " + text(sizes[d]) + "; 1 to 4294967296 is allowed");
        if (!box[d] || box[d] > 256)
            return refuse(dimension + " of the box is " + text(box[d]) + "; 1 to 256 is allowed");
        if (!steps[d] || steps[d] > 8)
            return refuse("the element stride of " + dimension + " is " + text(steps[d]) + "; 1 to 8 is allowed");
        if (steps[d] > 1 && d)
            return refuse("element strides above 1, which the emulator lacks", CUDA_ERROR_NOT_SUPPORTED);
        if (d && (strides[d - 1] % 16 || strides[d - 1] >= 1ull << 40))
            return refuse("the stride of " + dimension + " is " + text(strides[d - 1]) +
                          " bytes; it must be a multiple of 16 below 1099511627776");
        m.last[d] = uint32_t(sizes[d] - 1), m.box[d] = uint16_t(box[d]);
        if (d) m.strides[d - 1] = strides[d - 1];
    }
    const cuuint32_t row = box[0] * cuuint32_t(bytes), width = 16u << swizzle;
    if (row % 16) return refuse("a row of the box has " + text(row) + " bytes; it must be a multiple of 16");
    if (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && row > width)
        return refuse("a row of the box has " + text(row) + " bytes, which a swizzle of " + text(width) +
                      " bytes cannot hold");
    if (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && row < width)  // the manual does not say where these rows lie
        return refuse("a row of the box has " + text(row) + " bytes and the swizzle " + text(width) +
                          ", a layout that the emulator lacks; choose a narrower swizzle or a wider box",
                      CUDA_ERROR_NOT_SUPPORTED);
    const bool floats = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ||
                        type >= CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    if (fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA && !floats)
        return refuse("only elements that are floats can be filled with NaN");
    m.swizzle = uint8_t((1u << swizzle) - 1);
    m.fill    = fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA ? 0xff : 0;
    std::memset(map, 0, sizeof *map);
    static_assert(sizeof m <= sizeof *map);
    std::memcpy(map, &m, sizeof m);
    return CUDA_SUCCESS;
}

cudaError_t entry_point(const char* symbol, void** function, cudaDriverEntryPointQueryResult* status) {
    if (!symbol || !function) return cudaErrorInvalidValue;
    const bool known = !std::strcmp(symbol, "cuTensorMapEncodeTiled");
    *function        = known ? reinterpret_cast<void*>(&encode_tiled) : nullptr;
    if (status) *status = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    if (!known)
        std::fprintf(stderr, "emulate: the program asks for the driver function %s, which the emulator lacks\n",
                     symbol);
    return known || status ? cudaSuccess : cudaErrorSymbolNotFound;
}

}  // namespace
}  // namespace emu

using namespace emu;

extern "C" cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** function, unsigned long long,
                                               cudaDriverEntryPointQueryResult* status) {
    return CALL.run([&] { return entry_point(symbol, function, status); }, symbol);
}
extern "C" cudaError_t cudaGetDriverEntryPoint_ptsz(const char* symbol, void** function, unsigned long long,
                                                    cudaDriverEntryPointQueryResult* status) {
    return CALL.run([&] { return entry_point(symbol, function, status); }, symbol);
}
#if CUDART_VERSION >= 12050
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
    return CALL.run([&] { return entry_point(symbol, function, status); }, symbol);
}
#endif
