// numbers.cu - half, bfloat16, double, 64-bit integers and special functions against the host's results
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../check.h"

__global__ void floats(float* out, const float* in, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float x = in[i];
    float* o      = out + i * 12;
    o[0] = expf(x), o[1] = logf(fabsf(x) + 0.1f), o[2] = sinf(x), o[3] = cosf(x), o[4] = tanhf(x),
    o[5] = sqrtf(fabsf(x));
    o[6] = rsqrtf(fabsf(x) + 1), o[7] = erff(x), o[8] = powf(fabsf(x), 1.5f), o[9] = x / 3.7f, o[10] = __expf(x);
    o[11] = log1pf(fabsf(x));
}
__global__ void halves(float* out, const float* in, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const __half2 h       = __floats2half2_rn(in[i], 2.f);
    const __nv_bfloat16 b = __float2bfloat16(in[i]);
    const __half2 r       = __hfma2(h, h, __float2half2_rn(1.f));
    out[i * 3]            = __low2float(r);
    out[i * 3 + 1]        = __bfloat162float(b * __float2bfloat16(3.f));
    out[i * 3 + 2]        = __half2float(hexp(__float2half(in[i] / 8)));
}
__global__ void wide(double* out, long long* integers, const float* in, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    out[i]            = exp(double(in[i])) + sqrt(fabs(double(in[i]))) / 7.0;
    const long long x = (long long)(in[i] * 1e9f), d = i % 7 - 3;
    integers[i] = (d ? x / d + x % d : __mul64hi(x, x * 12345)) ^ (x << (i % 64)) ^ __popcll(x);
}

bool close(double a, double b, double tolerance) { return std::fabs(a - b) <= tolerance * (1 + std::fabs(b)); }

int main() {
    const int n = 1000;
    std::vector<float> x(n);
    for (int i = 0; i < n; i++) x[i] = float(i - 500) / 60;
    Device<float> in(x), out(n * 12), h(n * 3);
    Device<double> d(n);
    Device<long long> l(n);
    floats<<<4, 256>>>(out, in, n);
    halves<<<4, 256>>>(h, in, n);
    wide<<<4, 256>>>(d, l, in, n);
    CUDA(cudaGetLastError());
    const auto y = out.host();
    const auto z = h.host();
    const auto w = d.host();
    const auto k = l.host();
    for (int i = 0; i < n; i++) {
        const double v = x[i], a = std::fabs(v);
        const double expected[] = {std::exp(v),      std::log(a + 0.1f), std::sin(v),          std::cos(v),
                                   std::tanh(v),     std::sqrt(a),       1 / std::sqrt(a + 1), std::erf(v),
                                   std::pow(a, 1.5), v / 3.7f,           std::exp(v),          std::log1p(a)};
        for (int j = 0; j < 12; j++) EXPECT(close(y[i * 12 + j], expected[j], 4e-6));
        EXPECT(close(z[i * 3], v * v + 1, 3e-3) && close(z[i * 3 + 1], 3 * v, 1e-2));
        EXPECT(close(z[i * 3 + 2], std::exp(v / 8), 2e-3));
        EXPECT(close(w[i], std::exp(v) + std::sqrt(a) / 7, 1e-15));
        const long long t = (long long)(x[i] * 1e9f), q = i % 7 - 3;
        const long long hi = (long long)(((__int128)t * (long long)((unsigned long long)t * 12345)) >> 64);
        EXPECT(k[i] == ((q ? t / q + t % q : hi) ^ (long long)((unsigned long long)t << (i % 64)) ^
                        __builtin_popcountll((unsigned long long)t)));
    }
    std::puts("ok");
}
