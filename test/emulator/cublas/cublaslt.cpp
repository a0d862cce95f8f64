// cublaslt.cpp - libcublasLt: descriptors, heuristics, matmul
//
// Calls that cuBLASLt's documentation forbids are refused with the same status, so that the emulator does not hide
// mistakes. Unlike cuBLASLt, the emulator prints the reason.
#include <cstdio>
#include <cstring>
#include <new>

#include "product.h"

namespace emu {
namespace {

// These structs lie inside of the API's opaque structs, which the program may copy and free.
struct Layout {
    uint32_t magic;
    int32_t type, order;
    uint32_t batch_mode;
    uint64_t rows, cols;
    int64_t ld;
    int32_t batches;
    int32_t unused;
    int64_t batch_stride, plane_offset;
};

struct Desc {
    int32_t compute, scale_type, pointer_mode, transpose_a, transpose_b, transpose_c, fill_mode;
    uint32_t epilogue;
    void* bias;
    int64_t bias_batch_stride;
    void* aux;
    int64_t aux_ld, aux_batch_stride, alpha_batch_stride;
    int32_t sm_target, aux_type, bias_type;
    uint8_t fast_accumulation, unused[3];
    const void* scale[8];  // of A, B, C, D, amax of D, aux scale, aux amax, D out; for fp8 only
};

struct Preference {
    uint32_t search_mode, reduction_mask, alignment[4];
    uint64_t workspace, implementations;
    float waves;
};

constexpr uint32_t layout_magic = 0x4c61796f;
constexpr uint64_t algo_magic   = 0x656d75416c676f00;
struct Algo {
    uint64_t magic;
    uint32_t alignment[4];  // of A, B, C and D, as the preference promised it
    uint32_t number;        // of the candidate: all of them compute the same
};

static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t));
static_assert(sizeof(Desc) <= sizeof(cublasLtMatmulDescOpaque_t));
static_assert(sizeof(Preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t));
static_assert(sizeof(Algo) <= sizeof(cublasLtMatmulAlgo_t));

Layout& in(cublasLtMatrixLayout_t x) { return *reinterpret_cast<Layout*>(x); }
Desc& in(cublasLtMatmulDesc_t x) { return *reinterpret_cast<Desc*>(x); }
Preference& in(cublasLtMatmulPreference_t x) { return *reinterpret_cast<Preference*>(x); }

// An attribute of the API is a field of a struct, with this number, offset and size.
struct Field {
    int id;
    size_t offset, bytes;
};
#define FIELD(id, type, member) \
    { id, offsetof(type, member), sizeof(type::member) }
const Field layout_fields[] = {
    FIELD(CUBLASLT_MATRIX_LAYOUT_TYPE, Layout, type),
    FIELD(CUBLASLT_MATRIX_LAYOUT_ORDER, Layout, order),
    FIELD(CUBLASLT_MATRIX_LAYOUT_ROWS, Layout, rows),
    FIELD(CUBLASLT_MATRIX_LAYOUT_COLS, Layout, cols),
    FIELD(CUBLASLT_MATRIX_LAYOUT_LD, Layout, ld),
    FIELD(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, Layout, batches),
    FIELD(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, Layout, batch_stride),
    FIELD(CUBLASLT_MATRIX_LAYOUT_PLANE_OFFSET, Layout, plane_offset),
    FIELD(8 /* BATCH_MODE, CUDA 13 */, Layout, batch_mode),
};
const Field desc_fields[] = {
    FIELD(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, Desc, compute),
    FIELD(CUBLASLT_MATMUL_DESC_SCALE_TYPE, Desc, scale_type),
    FIELD(CUBLASLT_MATMUL_DESC_POINTER_MODE, Desc, pointer_mode),
    FIELD(CUBLASLT_MATMUL_DESC_TRANSA, Desc, transpose_a),
    FIELD(CUBLASLT_MATMUL_DESC_TRANSB, Desc, transpose_b),
    FIELD(CUBLASLT_MATMUL_DESC_TRANSC, Desc, transpose_c),
    FIELD(CUBLASLT_MATMUL_DESC_FILL_MODE, Desc, fill_mode),
    FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE, Desc, epilogue),
    FIELD(CUBLASLT_MATMUL_DESC_BIAS_POINTER, Desc, bias),
    FIELD(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, Desc, bias_batch_stride),
    FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, Desc, aux),
    FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, Desc, aux_ld),
    FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, Desc, aux_batch_stride),
    FIELD(CUBLASLT_MATMUL_DESC_ALPHA_VECTOR_BATCH_STRIDE, Desc, alpha_batch_stride),
    FIELD(CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, Desc, sm_target),
    FIELD(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, Desc, scale[0]),
    FIELD(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, Desc, scale[1]),
    FIELD(CUBLASLT_MATMUL_DESC_C_SCALE_POINTER, Desc, scale[2]),
    FIELD(CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, Desc, scale[3]),
    FIELD(CUBLASLT_MATMUL_DESC_AMAX_D_POINTER, Desc, scale[4]),
    FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, Desc, aux_type),
    FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_SCALE_POINTER, Desc, scale[5]),
    FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_AMAX_POINTER, Desc, scale[6]),
    FIELD(CUBLASLT_MATMUL_DESC_FAST_ACCUM, Desc, fast_accumulation),
    FIELD(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, Desc, bias_type),
    FIELD(36 /* D_OUT_SCALE_POINTER, CUDA 12.8 */, Desc, scale[7]),
};
const Field preference_fields[] = {
    FIELD(CUBLASLT_MATMUL_PREF_SEARCH_MODE, Preference, search_mode),
    FIELD(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, Preference, workspace),
    FIELD(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, Preference, reduction_mask),
    FIELD(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, Preference, alignment[0]),
    FIELD(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, Preference, alignment[1]),
    FIELD(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, Preference, alignment[2]),
    FIELD(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, Preference, alignment[3]),
    FIELD(CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT, Preference, waves),
    FIELD(CUBLASLT_MATMUL_PREF_IMPL_MASK, Preference, implementations),
};
#undef FIELD

template <size_t N>
cublasStatus_t set(void* object, const Field (&fields)[N], int id, const void* value, size_t bytes) {
    if (!object || !value) return CUBLAS_STATUS_INVALID_VALUE;
    for (const Field& field : fields) {
        if (field.id != id) continue;
        if (bytes != field.bytes)
            return say(CUBLAS_STATUS_INVALID_VALUE, "attribute " + std::to_string(id) + " has " +
                                                        std::to_string(field.bytes) + " bytes, not " +
                                                        std::to_string(bytes));
        std::memcpy(static_cast<char*>(object) + field.offset, value, bytes);
        return CUBLAS_STATUS_SUCCESS;
    }
    return say(CUBLAS_STATUS_INVALID_VALUE, "unknown attribute " + std::to_string(id));
}
template <size_t N>
cublasStatus_t get(const void* object, const Field (&fields)[N], int id, void* value, size_t bytes, size_t* written) {
    if (!object) return CUBLAS_STATUS_INVALID_VALUE;
    for (const Field& field : fields) {
        if (field.id != id) continue;
        if (written) *written = field.bytes;
        if (bytes == 0 && written) return CUBLAS_STATUS_SUCCESS;
        if (bytes != field.bytes || !value) return CUBLAS_STATUS_INVALID_VALUE;
        std::memcpy(value, static_cast<const char*>(object) + field.offset, bytes);
        return CUBLAS_STATUS_SUCCESS;
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

// Describes the call as a Product. When that is refused, `why` gets the reason.
cublasStatus_t describe(Product& p, cublasLtMatmulDesc_t op, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                        cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, std::string& why) {
    auto invalid = [&](const std::string& text) { return refuse(why, CUBLAS_STATUS_INVALID_VALUE, text); };
    auto lacking = [&](const std::string& text) { return refuse(why, CUBLAS_STATUS_NOT_SUPPORTED, text); };
    if (!op || !a || !b || !c || !d) return invalid("a descriptor is null");
    const cublasLtMatrixLayout_t layouts[] = {a, b, c, d};
    Matrix* matrices[]                     = {&p.a, &p.b, &p.c, &p.d};
    for (int i = 0; i < 4; i++) {
        const Layout& x = in(layouts[i]);
        if (x.magic != layout_magic) return invalid("a layout was never created");
        if (x.order != CUBLASLT_ORDER_COL && x.order != CUBLASLT_ORDER_ROW)
            return lacking("the emulator lacks memory order " + std::to_string(x.order));
        if (x.plane_offset || x.batch_mode)
            return lacking("the emulator lacks planar complex data and arrays of pointers");
        *matrices[i] = {cudaDataType(x.type),          int64_t(x.rows), int64_t(x.cols), x.ld,
                        x.order == CUBLASLT_ORDER_ROW, x.batches,       x.batch_stride,  0};
    }
    const Desc& o = in(op);
    for (const void* scale : o.scale)
        if (scale) return lacking("the emulator lacks scale and amax pointers, which are for fp8");
    if (o.transpose_c != CUBLAS_OP_N) return lacking("the emulator lacks a transposed C");
    if (o.fill_mode != CUBLAS_FILL_MODE_FULL) return lacking("the emulator lacks fill modes");
    if (o.pointer_mode != CUBLASLT_POINTER_MODE_HOST && o.pointer_mode != CUBLASLT_POINTER_MODE_DEVICE)
        return lacking("the emulator lacks pointer mode " + std::to_string(o.pointer_mode));
    for (int t : {o.transpose_a, o.transpose_b})
        if (t != CUBLAS_OP_N && t != CUBLAS_OP_T && t != CUBLAS_OP_C)
            return invalid("unknown operation " + std::to_string(t));
    p.transpose_a       = o.transpose_a != CUBLAS_OP_N;
    p.transpose_b       = o.transpose_b != CUBLAS_OP_N;
    p.compute           = cublasComputeType_t(o.compute);
    p.scale_type        = cudaDataType(o.scale_type);
    p.epilogue          = o.epilogue;
    p.bias              = address_of(o.bias);
    p.bias_type         = o.bias_type >= 0 ? cudaDataType(o.bias_type) : p.d.type;
    p.bias_batch_stride = o.bias_batch_stride;
    p.aux               = address_of(o.aux);
    p.aux_type          = o.aux_type >= 0 ? cudaDataType(o.aux_type) : p.d.type;
    p.aux_ld            = o.aux_ld;
    p.aux_batch_stride  = o.aux_batch_stride;
    return check_product(p, why);
}

}  // namespace
}  // namespace emu

using namespace emu;

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
    *handle = reinterpret_cast<cublasLtHandle_t>(new char[1]);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete[] reinterpret_cast<char*>(handle);
    return CUBLAS_STATUS_SUCCESS;
}

const char* cublasLtGetStatusName(cublasStatus_t status) {
#define NAME(x) \
    case x: return #x;
    switch (status) {
        NAME(CUBLAS_STATUS_SUCCESS)
        NAME(CUBLAS_STATUS_NOT_INITIALIZED)
        NAME(CUBLAS_STATUS_ALLOC_FAILED)
        NAME(CUBLAS_STATUS_INVALID_VALUE)
        NAME(CUBLAS_STATUS_ARCH_MISMATCH)
        NAME(CUBLAS_STATUS_MAPPING_ERROR)
        NAME(CUBLAS_STATUS_EXECUTION_FAILED)
        NAME(CUBLAS_STATUS_INTERNAL_ERROR)
        NAME(CUBLAS_STATUS_NOT_SUPPORTED)
        NAME(CUBLAS_STATUS_LICENSE_ERROR)
    }
#undef NAME
    return "CUBLAS_STATUS_UNKNOWN";
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS: return "success";
        case CUBLAS_STATUS_NOT_INITIALIZED: return "the library was not initialized";
        case CUBLAS_STATUS_ALLOC_FAILED: return "the resource allocation failed";
        case CUBLAS_STATUS_INVALID_VALUE: return "an unsupported value or parameter was passed to the function";
        case CUBLAS_STATUS_ARCH_MISMATCH:
            return "the function requires an architectural feature absent from the device";
        case CUBLAS_STATUS_MAPPING_ERROR: return "an access to GPU memory space failed";
        case CUBLAS_STATUS_EXECUTION_FAILED: return "the function failed to launch on the GPU";
        case CUBLAS_STATUS_INTERNAL_ERROR: return "an internal operation failed";
        case CUBLAS_STATUS_NOT_SUPPORTED: return "the functionality requested is not supported";
        case CUBLAS_STATUS_LICENSE_ERROR: return "the functionality requested requires some license";
    }
    return "unknown status";
}
size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
size_t cublasLtGetCudartVersion() { return CUDART_VERSION; }
cublasStatus_t cublasLtGetProperty(libraryPropertyType type, int* value) {
    if (!value) return CUBLAS_STATUS_INVALID_VALUE;
    *value = type == MAJOR_VERSION ? CUBLAS_VER_MAJOR : type == MINOR_VERSION ? CUBLAS_VER_MINOR : CUBLAS_VER_PATCH;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtHeuristicsCacheGetCapacity(size_t* capacity) {
    *capacity = 0;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtHeuristicsCacheSetCapacity(size_t) { return CUBLAS_STATUS_SUCCESS; }
unsigned cublasLtDisableCpuInstructionsSetMask(unsigned) { return 0; }
cublasStatus_t cublasLtLoggerSetCallback(cublasLtLoggerCallback_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtLoggerSetFile(FILE*) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtLoggerOpenFile(const char*) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtLoggerSetLevel(int) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtLoggerSetMask(int) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtLoggerForceDisable() { return CUBLAS_STATUS_SUCCESS; }

// --- layouts --------------------------------------------------------------------------------------------------------

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t bytes, cudaDataType type,
                                                 uint64_t rows, uint64_t cols, int64_t ld) {
    if (!layout) return CUBLAS_STATUS_INVALID_VALUE;
    if (bytes < sizeof(Layout)) return CUBLAS_STATUS_ALLOC_FAILED;
    std::memset(layout, 0, bytes);
    Layout& x = in(layout);
    x.magic   = layout_magic;
    x.type    = type;
    x.rows    = rows;
    x.cols    = cols;
    x.ld      = ld;
    x.batches = 1;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
    if (!layout) return CUBLAS_STATUS_INVALID_VALUE;
    *layout = new cublasLtMatrixLayoutOpaque_t;
    return cublasLtMatrixLayoutInit_internal(*layout, sizeof **layout, type, rows, cols, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(const cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t id,
                                                const void* value, size_t bytes) {
    SITE;
    return set(layout, layout_fields, id, value, bytes);
}
cublasStatus_t cublasLtMatrixLayoutGetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t id,
                                                void* value, size_t bytes, size_t* written) {
    return get(layout, layout_fields, id, value, bytes, written);
}

// --- operation ------------------------------------------------------------------------------------------------------

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t op, size_t bytes, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
    if (!op) return CUBLAS_STATUS_INVALID_VALUE;
    if (bytes < sizeof(Desc)) return CUBLAS_STATUS_ALLOC_FAILED;
    std::memset(op, 0, bytes);
    Desc& o      = in(op);
    o.compute    = compute;
    o.scale_type = scale;
    o.fill_mode  = CUBLAS_FILL_MODE_FULL;
    o.epilogue   = CUBLASLT_EPILOGUE_DEFAULT;
    o.aux_type = o.bias_type = -1;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* op, cublasComputeType_t compute, cudaDataType_t scale) {
    if (!op) return CUBLAS_STATUS_INVALID_VALUE;
    *op = new cublasLtMatmulDescOpaque_t;
    return cublasLtMatmulDescInit_internal(*op, sizeof **op, compute, scale);
}
cublasStatus_t cublasLtMatmulDescDestroy(const cublasLtMatmulDesc_t op) {
    delete op;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t op, cublasLtMatmulDescAttributes_t id,
                                              const void* value, size_t bytes) {
    SITE;
    return set(op, desc_fields, id, value, bytes);
}
cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t op, cublasLtMatmulDescAttributes_t id, void* value,
                                              size_t bytes, size_t* written) {
    return get(op, desc_fields, id, value, bytes, written);
}

// --- preference, heuristics -----------------------------------------------------------------------------------------

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference, size_t bytes) {
    if (!preference) return CUBLAS_STATUS_INVALID_VALUE;
    if (bytes < sizeof(Preference)) return CUBLAS_STATUS_ALLOC_FAILED;
    std::memset(preference, 0, bytes);
    in(preference) = {CUBLASLT_SEARCH_BEST_FIT, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}, 0, ~0ull, 0};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    if (!preference) return CUBLAS_STATUS_INVALID_VALUE;
    *preference = new cublasLtMatmulPreferenceOpaque_t;
    return cublasLtMatmulPreferenceInit_internal(*preference, sizeof **preference);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(const cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t id, const void* value,
                                                    size_t bytes) {
    SITE;
    return set(preference, preference_fields, id, value, bytes);
}
cublasStatus_t cublasLtMatmulPreferenceGetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t id, void* value, size_t bytes,
                                                    size_t* written) {
    return get(preference, preference_fields, id, value, bytes, written);
}

static void fill_algo(cublasLtMatmulAlgo_t& out, const uint32_t (&alignment)[4], uint32_t number = 0) {
    Algo algo{algo_magic, {}, number};
    // No kernel of cuBLASLt needs an alignment of more than 16 bytes. The preference may have promised less.
    for (int i = 0; i < 4; i++) algo.alignment[i] = std::min(alignment[i], 16u);
    std::memset(&out, 0, sizeof out);
    std::memcpy(&out, &algo, sizeof algo);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t op,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* returned) {
    SITE;
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!preference || requested <= 0 || !results || !returned)
        return say(CUBLAS_STATUS_INVALID_VALUE, "a pointer is null, or no results are requested");
    *returned = 0;
    Product p;
    std::string why;
    if (const cublasStatus_t status = describe(p, op, a, b, c, d, why)) return say(status, why);
    *returned = std::min(requested, 3);  // a program that times its candidates has some
    for (int i = 0; i < *returned; i++) {
        results[i] = {{}, 0, CUBLAS_STATUS_SUCCESS, 1, {}};
        fill_algo(results[i].algo, in(preference).alignment, uint32_t(i));
    }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetIds(cublasLtHandle_t, cublasComputeType_t, cudaDataType_t, cudaDataType_t,
                                        cudaDataType_t, cudaDataType_t, cudaDataType_t, int requested, int ids[],
                                        int* returned) {
    if (requested <= 0 || !ids || !returned) return CUBLAS_STATUS_INVALID_VALUE;
    ids[0]    = 0;
    *returned = 1;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t, cublasComputeType_t, cudaDataType_t, cudaDataType_t,
                                      cudaDataType_t, cudaDataType_t, cudaDataType_t, int id,
                                      cublasLtMatmulAlgo_t* algo) {
    if (id != 0 || !algo) return CUBLAS_STATUS_INVALID_VALUE;
    fill_algo(*algo, {16, 16, 16, 16});
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t op, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algo, cublasLtMatmulHeuristicResult_t* result) {
    SITE;
    Algo ours;
    if (algo) std::memcpy(&ours, algo, sizeof ours);
    if (!handle || !algo || ours.magic != algo_magic) return CUBLAS_STATUS_INVALID_VALUE;
    Product p;
    std::string why;
    const cublasStatus_t status = describe(p, op, a, b, c, d, why);
    if (result) *result = {*algo, 0, status, 1, {}};
    return status;
}
cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t* algo, cublasLtMatmulAlgoConfigAttributes_t,
                                                    const void*, size_t) {
    return algo ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;  // tiles and stages do not matter here
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t, void* value, size_t bytes,
                                                    size_t* written) {
    if (!algo) return CUBLAS_STATUS_INVALID_VALUE;
    if (value) std::memset(value, 0, bytes);
    if (written) *written = bytes ? bytes : 4;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCapGetAttribute(const cublasLtMatmulAlgo_t* algo, cublasLtMatmulAlgoCapAttributes_t,
                                                 void* value, size_t bytes, size_t* written) {
    if (!algo) return CUBLAS_STATUS_INVALID_VALUE;
    if (value) std::memset(value, 0, bytes);
    if (written) *written = 0;
    return CUBLAS_STATUS_SUCCESS;
}

// --- the product ----------------------------------------------------------------------------------------------------

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t op, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* chosen, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    SITE;
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    Product p;
    std::string why;
    if (const cublasStatus_t status = describe(p, op, a_layout, b_layout, c_layout, d_layout, why))
        return say(status, why);
    if (!alpha || !beta) return say(CUBLAS_STATUS_INVALID_VALUE, "alpha or beta is a null pointer");
    const bool on_device = in(op).pointer_mode == CUBLASLT_POINTER_MODE_DEVICE;
    p.alpha              = scalar_of(alpha, p.scale_type, on_device);
    p.beta               = scalar_of(beta, p.scale_type, on_device);
    p.a.data             = address_of(a);
    p.b.data             = address_of(b);
    p.c.data             = address_of(c);
    p.d.data             = address_of(d);
    if (const cublasStatus_t status = check_pointers(p, why)) return say(status, why);

    if (chosen) {
        Algo algo;
        std::memcpy(&algo, chosen, sizeof algo);
        if (algo.magic != algo_magic)
            return say(CUBLAS_STATUS_INVALID_VALUE, "the algo comes neither from a heuristic nor from AlgoInit");
        const Address pointers[] = {p.a.data, p.b.data, p.c.data, p.d.data};
        for (int i = 0; i < 4; i++)
            if (algo.alignment[i] && pointers[i] % algo.alignment[i])
                return say(CUBLAS_STATUS_NOT_SUPPORTED, std::string("the algo was chosen for ") + "ABCD"[i] +
                                                            " aligned to " + std::to_string(algo.alignment[i]) +
                                                            " bytes, and it is not; say so in the preference " +
                                                            "(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_…_BYTES)");
    }
    if (workspace_bytes && (!workspace || address_of(workspace) % 16))
        return say(CUBLAS_STATUS_INVALID_VALUE, "the workspace is null or not aligned to 16 bytes");
    std::lock_guard guard(runtime_lock());
    return submit_product(p, stream);
}

// --- conversions of layout, which the emulator lacks -----------------------------------------------------------------

cublasStatus_t cublasLtMatrixTransform(cublasLtHandle_t, cublasLtMatrixTransformDesc_t, const void*, const void*,
                                       cublasLtMatrixLayout_t, const void*, const void*, cublasLtMatrixLayout_t, void*,
                                       cublasLtMatrixLayout_t, cudaStream_t) {
    SITE;
    return say(CUBLAS_STATUS_NOT_SUPPORTED, "the emulator lacks it");
}
cublasStatus_t cublasLtMatrixTransformDescInit_internal(cublasLtMatrixTransformDesc_t, size_t, cudaDataType) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixTransformDescCreate(cublasLtMatrixTransformDesc_t* desc, cudaDataType) {
    *desc = new cublasLtMatrixTransformDescOpaque_t{};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixTransformDescDestroy(cublasLtMatrixTransformDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixTransformDescSetAttribute(cublasLtMatrixTransformDesc_t,
                                                       cublasLtMatrixTransformDescAttributes_t, const void*, size_t) {
    return CUBLAS_STATUS_SUCCESS;
}
