// gelu.h - the formula of gelu, for gelu.cu and for products that end in it; gelu.cu says what it computes
#pragma once
#include "cpu.h"
#include "ops.h"

// The formulas are written once: F is a float on the GPU and a vector of floats on the CPU.
HD float exp_of(float x) { return expf(x); }
inline cpu::floats exp_of(cpu::floats x) { return cpu::exp(x); }

// min(|x|, 16). From 16 on, both forms equal 0 or x in float, and with the limit x³ stays finite. A NaN stays a NaN.
template <class F>
HD F limited_abs(F x) {
    const F a = x < 0.f ? -x : x;
    return a > 16.f ? F{} + 16.f : a;
}

// R(a) = exp(a²/2) Φ(-a), which is Mills' ratio over √(2π), as a polynomial in u = (a/4) / (1 + a/4). Its coefficients
// minimise the largest relative error over 0 <= a <= 5, which is 4e-9. In float Φ is within 0.6 · 2^-24.
template <class F>
HD F mills(F a) {
    const F u = 0.25f * a / (1.f + 0.25f * a);
    F p       = u * -0.037324246019f + 0.12148743123f;
    p         = p * u - 0.065967433155f;
    p         = p * u - 0.1949057132f;
    p         = p * u + 0.10270446539f;
    p         = p * u + 0.87201941013f;
    p         = p * u - 2.1065044403f;
    p         = p * u + 2.4042263031f;
    p         = p * u - 1.5957689285f;
    return p * u + 0.5f;
}

template <Gelu kind, class F>
HD F gelu(F x) {
    const F a = limited_abs(x);
    if constexpr (kind == Gelu::tanh) {
        const F e = exp_of(-1.5957691216f * a * (1.f + 0.044715f * a * a));  // exp(-|2u|), at most 1
        return x * (x < 0.f ? e : F{} + 1.f) / (1.f + e);
    } else {
        const F tail = exp_of(-0.5f * a * a) * mills(a);
        return x * (x < 0.f ? tail : 1.f - tail);
    }
}
