// product.h - D = epilogue(alpha op(A) op(B) + beta C) on device memory, at the processor's full speed
//
// cublasLtMatmul and the GEMMs of cublas describe their work as a Product. check_product() and check_pointers() check
// it as cuBLASLt's documentation says, and submit_product() queues it.
#pragma once
#include <cublasLt.h>

#include <string>

#include "runtime.h"

namespace emu {

struct Matrix {
    cudaDataType type = CUDA_R_32F;
    int64_t rows = 0, cols = 0, ld = 0;
    bool row_major       = false;
    int batches          = 1;
    int64_t batch_stride = 0;  // in elements
    Address data         = 0;
    // The matrix is stored as vectors() runs of length() adjacent elements, which begin ld apart.
    int64_t vectors() const { return row_major ? rows : cols; }
    int64_t length() const { return row_major ? cols : rows; }
};

// The value of alpha or beta, or else its address on the device, from which it is read when the product runs.
struct Scalar {
    double value   = 0;
    Address device = 0;
};
Scalar scalar_of(const void* value, cudaDataType type, bool on_device);

struct Product {
    Matrix a, b, c, d;
    bool transpose_a = false, transpose_b = false;
    cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
    cudaDataType scale_type     = CUDA_R_32F;
    Scalar alpha{1, 0}, beta{0, 0};
    unsigned epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    Address bias = 0, aux = 0;
    cudaDataType bias_type = CUDA_R_32F, aux_type = CUDA_R_32F;
    int64_t bias_batch_stride = 0, aux_ld = 0, aux_batch_stride = 0;
    const char* function   = "cublasLtMatmul";
    bool sums_may_be_empty = false;  // cublas allows k = 0, which gives beta C; cublasLt does not

    int64_t m() const { return d.rows; }
    int64_t n() const { return d.cols; }
    int64_t k() const { return transpose_a ? a.rows : a.cols; }
};

size_t size_of(cudaDataType type);  // bytes; 0 for a type that the emulator lacks
const char* name_of(cudaDataType type);

// Checks shapes, types, layouts and the epilogue. When one is wrong, `why` gets the reason.
cublasStatus_t check_product(const Product& product, std::string& why);

// Checks that no pointer is missing and that all are aligned to their elements.
cublasStatus_t check_pointers(const Product& product, std::string& why);

// Prints why the program's call is answered with this status, and returns the status.
cublasStatus_t say(cublasStatus_t status, const std::string& why);

inline cublasStatus_t refuse(std::string& why, cublasStatus_t status, const std::string& text) {
    why = text;
    return status;
}

cublasStatus_t submit_product(const Product& product, cudaStream_t stream);

}  // namespace emu
