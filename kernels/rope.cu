// rope.cu - rotary position embedding: q and k turn with their position, so q·k depends on the distance between them
//
//   for i < dim/2:   (a, b) = (x_i, x_{i + dim/2})   becomes   (a cos φ - b sin φ, b cos φ + a sin φ)
//                    φ = position · base^(-2i/dim)
//
//   Coordinates from dim on, and v, stay as they are. Backward turns the other way: a rotation's transpose is its
//   inverse. Angles are computed in double: at position 2047 the steps of a float are 1.2e-4.
//
// Rotates in place. Arithmetic in fp32, storage in the tensor's dtype.
#include <cmath>
#include <vector>

#include "cpu.h"
#include "ops.h"

// Angle per step of position.
HD double rope_speed(int64_t pair, Rope rope) { return pow(double(rope.base), -2. * double(pair) / double(rope.dim)); }

namespace cpu {

// a, b = a cos - b sin, b cos + a sin over the pairs of one head. cosine and sine are (dim/2).
template <class X>
void rotate(X* a, X* b, const float* cosine, const float* sine, int64_t pairs) {
    for_lanes(pairs, [=](int64_t i, auto n) {
        const floats ai = load(a + i, n), bi = load(b + i, n), c = load(cosine + i, n), s = load(sine + i, n);
        store(a + i, ai * c - bi * s, n);
        store(b + i, bi * c + ai * s, n);
    });
}

// direction: +1 forward, -1 backward.
template <class X>
void rope(Tensor qkv, Tensor positions, Rope rope, float direction) {
    const int64_t B = qkv.shape[0], T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4], pairs = rope.dim / 2;
    const int32_t* at = positions ? positions.data<int32_t>() : nullptr;
    X* const x        = qkv.data<X>();

    std::vector<double> speed(pairs);
    for (int64_t i = 0; i < pairs; i++) speed[i] = rope_speed(i, rope);

    // The cosines and sines of a row serve all its heads and, without given positions, all sequences of the batch.
    parallel_ranges(T, 1, [&](int64_t begin, int64_t end) {
        std::vector<float> cosine(pairs), sine(pairs);
        for (int64_t t = begin; t < end; t++)
            for (int64_t b = 0; b < B; b++) {
                if (b == 0 || at)
                    for (int64_t i = 0; i < pairs; i++) {
                        const double angle = speed[i] * double(at ? at[b * T + t] : t);
                        cosine[i]          = float(std::cos(angle));
                        sine[i]            = float(std::sin(angle)) * direction;
                    }
                X* const q = x + (b * T + t) * 3 * H * D;  // H heads of q, then H heads of k
                for (int64_t h = 0; h < 2 * H; h++)
                    rotate(q + h * D, q + h * D + pairs, cosine.data(), sine.data(), pairs);
            }
    });
}
template <class X>
void rope_forward(Tensor qkv, Tensor positions, Rope r) {
    rope<X>(qkv, positions, r, 1.f);
}
template <class X>
void rope_backward(Tensor dqkv, Tensor positions, Rope r) {
    rope<X>(dqkv, positions, r, -1.f);
}

}  // namespace cpu

static void check_rope(const char* op, const Tensor& x, const Tensor& positions, const Rope& rope) {
    CHECK(x && x.shape.dims == 5 && x.shape[2] == 3, "{}: qkv is {}, expected (B,T,3,H,D)", op, x.str());
    CHECK(rope.dim >= 0 && rope.dim % 2 == 0 && rope.dim <= x.shape[4],
          "{}: rope.dim is {}, expected an even number up to the head width {}", op, rope.dim, x.shape[4]);
    CHECK(rope.base > 0 && std::isfinite(rope.base), "{}: rope.base is {}, expected a positive number", op, rope.base);
    expect_maybe(positions, (Shape{x.shape[0], x.shape[1]}), DType::I32, x);
}

void rope_forward(Tensor qkv, Tensor positions, Rope rope, Stream s) {
    check_rope(__func__, qkv, positions, rope);
    if (rope.dim) RUN_ON(s, rope_forward, qkv, positions, rope);
}

void rope_backward(Tensor dqkv, Tensor positions, Rope rope, Stream s) {
    check_rope(__func__, dqkv, positions, rope);
    if (rope.dim) RUN_ON(s, rope_backward, dqkv, positions, rope);
}
