// test_cublas.cpp - the products against references in double precision, and the calls that the real library refuses
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "catch.h"
#include "device.h"

namespace {

// Matrices of every type are raw bytes, so that one test covers all types.
size_t bytes_of(cudaDataType t) { return t == CUDA_R_64F ? 8 : t == CUDA_R_32F ? 4 : 2; }
template <class F> void with_type(cudaDataType t, F f) {
    switch (t) {
        case CUDA_R_64F: return f(double());
        case CUDA_R_32F: return f(float());
        case CUDA_R_16F: return f(__half());
        default: return f(__nv_bfloat16());
    }
}
void store(std::vector<char>& to, size_t i, cudaDataType t, double x) {
    with_type(t, [&]<class T>(T value) {
        value = T(x);
        std::memcpy(&to[i * sizeof value], &value, sizeof value);
    });
}
double load(const std::vector<char>& from, size_t i, cudaDataType t) {
    double x = 0;
    with_type(t, [&]<class T>(T value) {
        std::memcpy(&value, &from[i * sizeof value], sizeof value);
        x = double(value);
    });
    return x;
}
std::vector<char> bytes(const std::vector<double>& x, cudaDataType t) {
    std::vector<char> out(x.size() * bytes_of(t));
    for (size_t i = 0; i < x.size(); i++) store(out, i, t, x[i]);
    return out;
}
double rounding(cudaDataType t) {
    return t == CUDA_R_64F ? 1e-15 : t == CUDA_R_32F ? 1e-6 : t == CUDA_R_16F ? 1e-3 : 8e-3;
}

double gelu(double x) { return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }
double gelu_slope(double x) {
    const double h = 1e-6;
    return (gelu(x + h) - gelu(x - h)) / (2 * h);
}

struct Lt {
    cublasLtHandle_t handle  = nullptr;
    cublasLtMatmulDesc_t op  = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulPreference_t preference = nullptr;
    Lt(cublasComputeType_t compute, cudaDataType scale) {
        cublasLtCreate(&handle);
        cublasLtMatmulDescCreate(&op, compute, scale);
        cublasLtMatmulPreferenceCreate(&preference);
    }
    ~Lt() {
        for (auto layout : {a, b, c})
            if (layout) cublasLtMatrixLayoutDestroy(layout);
        cublasLtMatmulPreferenceDestroy(preference);
        cublasLtMatmulDescDestroy(op);
        cublasLtDestroy(handle);
    }
    template <class T> void set(cublasLtMatmulDescAttributes_t id, T value) {
        REQUIRE(cublasLtMatmulDescSetAttribute(op, id, &value, sizeof value) == CUBLAS_STATUS_SUCCESS);
    }
    void batch(int count, int64_t sa, int64_t sb, int64_t sc) {
        const int64_t strides[]          = {sa, sb, sc};
        cublasLtMatrixLayout_t layouts[] = {a, b, c};
        for (int i = 0; i < 3; i++) {
            cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
            cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &strides[i], 8);
        }
    }
    cublasStatus_t heuristic(cublasLtMatmulHeuristicResult_t& result) {
        int found = 0;
        return cublasLtMatmulAlgoGetHeuristic(handle, op, a, b, c, c, preference, 1, &result, &found);
    }
};

}  // namespace

TEST_CASE("cublasLtMatmul agrees with double precision", "[cublas]") {
    struct Types {
        cudaDataType in, out;
        cublasComputeType_t compute;
        double tolerance;
    };
    const auto types = GENERATE(Types{CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F, 1e-6},
                                Types{CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32, 1e-6},
                                Types{CUDA_R_16BF, CUDA_R_16BF, CUBLAS_COMPUTE_32F, 8e-3},
                                Types{CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F, 1e-6},
                                Types{CUDA_R_16F, CUDA_R_16F, CUBLAS_COMPUTE_32F, 1e-3},
                                Types{CUDA_R_16F, CUDA_R_32F, CUBLAS_COMPUTE_32F, 1e-6});
    const bool ta = GENERATE(false, true), tb = GENERATE(false, true);
    const int batches = GENERATE(1, 3);
    const float alpha = GENERATE(1.f, 0.5f), beta = GENERATE(0.f, 2.f);
    const int m = 24, n = 17, k = 33, pad = 3;
    CAPTURE(int(types.in), int(types.out), int(types.compute), ta, tb, batches, alpha, beta);

    const int ar = ta ? k : m, ac = ta ? m : k, br = tb ? n : k, bc = tb ? k : n;
    const int lda = ar + pad, ldb = br + pad, ldc = m + pad;
    const auto a = numbers(size_t(lda * ac * batches), 1), b = numbers(size_t(ldb * bc * batches), 2),
               c = numbers(size_t(ldc * n * batches), 3);
    DeviceArray<char> da(bytes(a, types.in)), db(bytes(b, types.in)), dc(bytes(c, types.out));

    Lt lt(types.compute, CUDA_R_32F);
    lt.set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t(ta ? CUBLAS_OP_T : CUBLAS_OP_N));
    lt.set(CUBLASLT_MATMUL_DESC_TRANSB, int32_t(tb ? CUBLAS_OP_T : CUBLAS_OP_N));
    cublasLtMatrixLayoutCreate(&lt.a, types.in, uint64_t(ar), uint64_t(ac), lda);
    cublasLtMatrixLayoutCreate(&lt.b, types.in, uint64_t(br), uint64_t(bc), ldb);
    cublasLtMatrixLayoutCreate(&lt.c, types.out, m, n, ldc);
    lt.batch(batches, lda * ac, ldb * bc, ldc * n);
    cublasLtMatmulHeuristicResult_t found;
    REQUIRE(lt.heuristic(found) == CUBLAS_STATUS_SUCCESS);
    REQUIRE(cublasLtMatmul(lt.handle, lt.op, &alpha, da.data, lt.a, db.data, lt.b, &beta, dc.data, lt.c, dc.data, lt.c,
                           &found.algo, nullptr, 0, nullptr) == CUBLAS_STATUS_SUCCESS);
    const auto got = dc.host();
    double worst   = 0;
    for (int batch = 0; batch < batches; batch++)
        for (int j = 0; j < n; j++)
            for (int i = 0; i < ldc; i++) {
                const size_t at = size_t(batch * ldc * n + j * ldc + i);
                double expected = c[at];
                if (i < m) {
                    double sum = 0;
                    for (int l = 0; l < k; l++)
                        sum += a[size_t(batch * lda * ac + (ta ? i * lda + l : l * lda + i))] *
                               b[size_t(batch * ldb * bc + (tb ? l * ldb + j : j * ldb + l))];
                    expected = alpha * sum + beta * c[at];
                }
                worst = std::max(worst, std::abs(load(got, at, types.out) - expected) / (1 + std::abs(expected)));
            }
    CHECK(worst <= types.tolerance);
}

TEST_CASE("the epilogues of cublasLtMatmul agree with double precision", "[cublas]") {
    const auto type     = GENERATE(CUDA_R_32F, CUDA_R_16BF, CUDA_R_16F);
    const auto epilogue = GENERATE(CUBLASLT_EPILOGUE_RELU, CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_RELU_BIAS,
                                   CUBLASLT_EPILOGUE_RELU_AUX_BIAS, CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS,
                                   CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS, CUBLASLT_EPILOGUE_DGELU,
                                   CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_DRELU_BGRAD,
                                   CUBLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADB);
    const int m = 40, n = 19, k = 21;
    CAPTURE(int(type), int(epilogue));
    const bool relu = epilogue & CUBLASLT_EPILOGUE_RELU, gelu_forward = epilogue & CUBLASLT_EPILOGUE_GELU;
    const bool dgelu = epilogue & 64, drelu = epilogue & 8, adds = epilogue & CUBLASLT_EPILOGUE_BIAS,
               aux  = epilogue & 128;
    const bool of_a = epilogue == CUBLASLT_EPILOGUE_BGRADA, of_b = epilogue == CUBLASLT_EPILOGUE_BGRADB;
    const bool gradient = of_a || of_b || (epilogue & 16);
    const int aux_ld    = relu || drelu ? 128 : 48;

    const auto a = numbers(m * k, 1), b = numbers(k * n, 2), bias = numbers(std::max(m, n), 3),
               z = numbers(aux_ld * n, 4);
    DeviceArray<char> da(bytes(a, type)), db(bytes(b, type)), dd(m * n * bytes_of(type)), dbias(bytes(bias, type));
    std::vector<char> mask(size_t(aux_ld * n / 8));
    for (size_t i = 0; i < mask.size(); i++) mask[i] = char(i * 37);
    DeviceArray<char> daux(drelu || relu ? mask : bytes(z, type));

    Lt lt(CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&lt.a, type, m, k, m);
    cublasLtMatrixLayoutCreate(&lt.b, type, k, n, k);
    cublasLtMatrixLayoutCreate(&lt.c, type, m, n, m);
    lt.set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(epilogue));
    lt.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(dbias.data));
    if (aux) {
        lt.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<void*>(daux.data));
        lt.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t(aux_ld));
    }
    const float one = 1, zero = 0;
    REQUIRE(cublasLtMatmul(lt.handle, lt.op, &one, da.data, lt.a, db.data, lt.b, &zero, dd.data, lt.c, dd.data, lt.c,
                           nullptr, nullptr, 0, nullptr) == CUBLAS_STATUS_SUCCESS);

    const auto got = dd.host(), got_aux = daux.host(), got_bias = dbias.host();
    const double tolerance = rounding(type);
    std::vector<double> expected_gradient(std::max(m, n));
    double worst = 0, worst_aux = 0, worst_bias = 0;
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            double x = 0;
            for (int l = 0; l < k; l++) x += a[size_t(l * m + i)] * b[size_t(j * k + l)];
            if (adds) x += bias[size_t(i)];
            const bool bit = got_aux[size_t(j * aux_ld + i) / 8] >> (i % 8) & 1;
            if (aux && relu) CHECK(bit == (x > 0));
            if (aux && gelu_forward)
                worst_aux =
                    std::max(worst_aux, std::abs(load(got_aux, size_t(j * aux_ld + i), type) - x) / (1 + std::abs(x)));
            if (relu) x = std::max(x, 0.0);
            if (gelu_forward) x = gelu(x);
            if (dgelu) x *= gelu_slope(z[size_t(j * aux_ld + i)]);
            if (drelu) x = bit ? x : 0;
            if (epilogue & 16) expected_gradient[size_t(i)] += x;
            worst = std::max(worst, std::abs(load(got, size_t(j * m + i), type) - x) / (1 + std::abs(x)));
        }
    for (int l = 0; l < k; l++) {
        for (int i = 0; i < m && of_a; i++) expected_gradient[size_t(i)] += a[size_t(l * m + i)];
        for (int j = 0; j < n && of_b; j++) expected_gradient[size_t(j)] += b[size_t(j * k + l)];
    }
    for (int i = 0; i < (of_b ? n : m) && gradient; i++)
        worst_bias = std::max(worst_bias, std::abs(load(got_bias, size_t(i), type) - expected_gradient[size_t(i)]) /
                                              (1 + std::abs(expected_gradient[size_t(i)])));
    CHECK(worst <= tolerance);
    CHECK(worst_aux <= tolerance);
    CHECK(worst_bias <= tolerance);
}

TEST_CASE("cublasLtMatmul refuses what the real library refuses", "[cublas]") {
    DeviceArray<float> x(std::vector<float>(64 * 64 + 1, 1.f));
    const float one = 1, zero = 0;
    auto attempt = [&](auto change, cublasComputeType_t compute = CUBLAS_COMPUTE_32F, cudaDataType in = CUDA_R_32F) {
        Lt lt(compute, CUDA_R_32F);
        cublasLtMatrixLayoutCreate(&lt.a, in, 32, 32, 32);
        cublasLtMatrixLayoutCreate(&lt.b, in, 32, 32, 32);
        cublasLtMatrixLayoutCreate(&lt.c, CUDA_R_32F, 32, 32, 32);
        float *a = x.data, *d = x.data + 2048;
        change(lt, a);
        return cublasLtMatmul(lt.handle, lt.op, &one, a, lt.a, x.data, lt.b, &zero, d, lt.c, d, lt.c, nullptr, nullptr,
                              0, nullptr);
    };
    CHECK(attempt([](Lt&, float*&) {}) == CUBLAS_STATUS_SUCCESS);
    CHECK(attempt([](Lt& lt, float*&) {
              const uint64_t r = 31;
              cublasLtMatrixLayoutSetAttribute(lt.a, CUBLASLT_MATRIX_LAYOUT_ROWS, &r, 8);
          }) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(attempt([](Lt& lt, float*&) {
              const int64_t ld = 31;
              cublasLtMatrixLayoutSetAttribute(lt.a, CUBLASLT_MATRIX_LAYOUT_LD, &ld, 8);
          }) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(attempt([](Lt& lt, float*&) { lt.set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(CUBLASLT_EPILOGUE_BIAS)); }) ==
          CUBLAS_STATUS_INVALID_VALUE);
    CHECK(attempt([&](Lt& lt, float*&) {
              lt.set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(CUBLASLT_EPILOGUE_GELU_AUX));
              lt.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<void*>(x.data));
              lt.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t(36));
          }) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(attempt([](Lt&, float*& a) { a = reinterpret_cast<float*>(reinterpret_cast<char*>(a) + 2); }) ==
          CUBLAS_STATUS_INVALID_VALUE);
    CHECK(attempt([](Lt&, float*& a) { a = nullptr; }) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(attempt([](Lt&, float*&) {}, CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_16BF) == CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(attempt([](Lt&, float*&) {}, CUBLAS_COMPUTE_32F, CUDA_R_8I) == CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(attempt([](Lt& lt, float*&) {
              const int32_t row = CUBLASLT_ORDER_ROW;
              cublasLtMatrixLayoutSetAttribute(lt.c, CUBLASLT_MATRIX_LAYOUT_ORDER, &row, 4);
              lt.set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(CUBLASLT_EPILOGUE_RELU));
          }) == CUBLAS_STATUS_NOT_SUPPORTED);
    const int32_t wrong = 1;
    Lt lt(CUBLAS_COMPUTE_32F, CUDA_R_32F);
    CHECK(cublasLtMatmulDescSetAttribute(lt.op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &wrong, 4) ==
          CUBLAS_STATUS_INVALID_VALUE);
}

TEST_CASE("cublas: products, vectors, pointer modes", "[cublas]") {
    cublasHandle_t h;
    REQUIRE(cublasCreate(&h) == CUBLAS_STATUS_SUCCESS);
    const int n  = 37;
    const auto x = numbers(n * n, 5), y = numbers(n * n, 6);
    DeviceArray<float> dx(std::vector<float>(x.begin(), x.end())), dy(std::vector<float>(y.begin(), y.end())),
        dz(n * n);
    const float alpha = 2, beta = 0;
    REQUIRE(cublasSgemm(h, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &alpha, dx.data, n, dy.data, n, &beta, dz.data, n) ==
            CUBLAS_STATUS_SUCCESS);
    const auto z = dz.host();
    double worst = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int l = 0; l < n; l++) sum += x[size_t(i * n + l)] * y[size_t(j * n + l)];
            worst = std::max(worst, std::abs(z[size_t(j * n + i)] - 2 * sum));
        }
    CHECK(worst < 1e-5);
    float dot = 0, norm = 0;
    int largest = 0;
    REQUIRE(cublasSdot(h, n, dx.data, 1, dy.data, 1, &dot) == CUBLAS_STATUS_SUCCESS);
    REQUIRE(cublasSnrm2(h, n, dx.data, 1, &norm) == CUBLAS_STATUS_SUCCESS);
    REQUIRE(cublasIsamax(h, n, dx.data, 1, &largest) == CUBLAS_STATUS_SUCCESS);
    double expected = 0, square = 0;
    for (int i = 0; i < n; i++) {
        expected += x[size_t(i)] * y[size_t(i)];
        square += x[size_t(i)] * x[size_t(i)];
        CHECK(std::abs(x[size_t(largest - 1)]) >= std::abs(x[size_t(i)]));
    }
    CHECK(std::abs(dot - expected) < 1e-5);
    CHECK(std::abs(norm - std::sqrt(square)) < 1e-5);
    REQUIRE(cublasSaxpy(h, n, &alpha, dx.data, 1, dy.data, 1) == CUBLAS_STATUS_SUCCESS);
    CHECK(dy.host()[3] == float(y[3] + 2 * x[3]));
    DeviceArray<float> scalar(1);
    cublasSetPointerMode(h, CUBLAS_POINTER_MODE_DEVICE);
    REQUIRE(cublasSdot(h, n, dx.data, 1, dx.data, 1, scalar.data) == CUBLAS_STATUS_SUCCESS);
    CHECK(std::abs(scalar.host()[0] - square) < 1e-5);
    cublasDestroy(h);
}

// The last row of C lies outside of the matrix, which has 3 of 4 rows. A and B may be null, because nothing is summed.
TEST_CASE("a product with k = 0 scales C by beta, and one without rows or columns does nothing", "[cublas]") {
    const auto type    = GENERATE(CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_16BF);
    const bool device  = GENERATE(false, true);
    const auto compute = type == CUDA_R_64F ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
    const auto scalar  = type == CUDA_R_64F ? CUDA_R_64F : CUDA_R_32F;
    CAPTURE(int(type), device);
    cublasHandle_t h;
    REQUIRE(cublasCreate(&h) == CUBLAS_STATUS_SUCCESS);
    for (const double factor : {0., 1., -2.}) {
        DeviceArray<char> c(bytes({1, 2, 3, 4, 5, 6, 7, 8}, type));
        const auto alpha = bytes({NAN}, scalar), beta = bytes({factor}, scalar);
        DeviceArray<char> on_device_alpha(alpha), on_device_beta(beta);
        cublasSetPointerMode(h, device ? CUBLAS_POINTER_MODE_DEVICE : CUBLAS_POINTER_MODE_HOST);
        const auto product = [&](int m, int n, cublasOperation_t t) {
            return cublasGemmEx(h, t, CUBLAS_OP_N, m, n, 0, device ? on_device_alpha.data : alpha.data(), nullptr, type,
                                3, nullptr, type, 1, device ? on_device_beta.data : beta.data(), c.data, type, 4,
                                compute, CUBLAS_GEMM_DEFAULT);
        };
        CHECK(product(0, 2, CUBLAS_OP_N) == CUBLAS_STATUS_SUCCESS);
        CHECK(product(3, 0, CUBLAS_OP_N) == CUBLAS_STATUS_SUCCESS);
        CHECK(product(3, 2, CUBLAS_OP_N) == CUBLAS_STATUS_SUCCESS);
        CHECK(product(3, 2, CUBLAS_OP_T) == CUBLAS_STATUS_SUCCESS);
        const auto got = c.host();
        for (size_t i = 0; i < 8; i++) CHECK(load(got, i, type) == double(i + 1) * (i % 4 == 3 ? 1 : factor * factor));
    }
    cublasDestroy(h);
}

TEST_CASE("cublas refuses scalars that are null", "[cublas]") {
    cublasHandle_t h;
    REQUIRE(cublasCreate(&h) == CUBLAS_STATUS_SUCCESS);
    DeviceArray<float> x(std::vector<float>(4, 1.f)), y(std::vector<float>(4, 2.f));
    const float one           = 1;
    const float* const no     = nullptr;
    const cublasOperation_t n = CUBLAS_OP_N;
    CHECK(cublasSaxpy(h, 4, no, x.data, 1, y.data, 1) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(cublasSscal(h, 4, no, x.data, 1) == CUBLAS_STATUS_INVALID_VALUE);
    for (const auto& [alpha, beta] : {std::pair(no, &one), std::pair(&one, no)}) {
        CHECK(cublasSgemm(h, n, n, 2, 2, 2, alpha, x.data, 2, x.data, 2, beta, y.data, 2) ==
              CUBLAS_STATUS_INVALID_VALUE);
        CHECK(cublasSgemv(h, n, 2, 2, alpha, x.data, 2, x.data, 1, beta, y.data, 1) == CUBLAS_STATUS_INVALID_VALUE);
        CHECK(cublasSgeam(h, n, n, 2, 2, alpha, x.data, 2, beta, x.data, 2, y.data, 2) == CUBLAS_STATUS_INVALID_VALUE);
    }
    CHECK(cublasSgemv(h, n, 0, 2, &one, x.data, 1, x.data, 1, &one, y.data, 1) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasSgemv(h, n, 2, 2, &one, x.data, 2, x.data, 0, &one, y.data, 1) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(y.host() == std::vector<float>(4, 2.f));
    cublasDestroy(h);
}

TEST_CASE("cublas refuses unknown operations and arrays of pointers that are null", "[cublas]") {
    cublasHandle_t h;
    REQUIRE(cublasCreate(&h) == CUBLAS_STATUS_SUCCESS);
    DeviceArray<float> x(std::vector<float>(4, 1.f));
    DeviceArray<float*> list(std::vector<float*>{x.data});
    const float one = 1, zero = 0;
    const auto product = [&](cublasOperation_t t) {
        return cublasSgemm(h, t, CUBLAS_OP_N, 2, 2, 2, &one, x.data, 2, x.data, 2, &zero, x.data, 2);
    };
    CHECK(product(cublasOperation_t(7)) == CUBLAS_STATUS_INVALID_VALUE);
    const auto batched = [&](float** a, int batches) {
        return cublasSgemmBatched(h, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, a, 2, list.data, 2, &zero, list.data, 2,
                                  batches);
    };
    CHECK(batched(nullptr, 1) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(batched(list.data, -1) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(batched(list.data, 0) == CUBLAS_STATUS_SUCCESS);
    cublasDestroy(h);
}
