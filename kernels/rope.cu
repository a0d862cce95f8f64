// rope.cu - rotary position embedding: q and k are rotated by their position, so that q·k depends on their distance
//
//   for i < dim/2:   (a, b) = (x_i, x_{i + dim/2})   becomes   (a cos φ - b sin φ, b cos φ + a sin φ)
//                    φ = position · base^(-2i/dim)
//
//   Coordinates from dim on, and v, stay as they are. Backward rotates the other way, because the transpose of a
//   rotation is its inverse. Angles are computed in double: near 2047 neighbouring floats are 1.2e-4 apart.
//
// The rotation is in place. Arithmetic is in fp32, storage in the tensor's dtype.
#include <cmath>
#include <vector>

#include "cpu.h"
#include "ops.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

// Returns φ / position, in radians.
inline double radians_per_position(int64_t pair, Rope rope) {
    return pow(double(rope.base), -2. * double(pair) / double(rope.dim));
}

// One pair on the GPU, and a vector of pairs on the CPU.
template <class F>
struct Pair {
    F a, b;
};
template <class F>
HD Pair<F> rotated(F a, F b, F cosine, F sine) {
    return {a * cosine - b * sine, b * cosine + a * sine};
}

namespace cpu {

// Rotates one head. cosine and sine are (pairs).
template <class X>
void rotate_head(X* head, const float* cosine, const float* sine, int64_t pairs) {
    for_lanes(pairs, [=](int64_t i, auto n) {
        const auto pair = rotated(load(head + i, n), load(head + pairs + i, n), load(cosine + i, n), load(sine + i, n));
        store(head + i, pair.a, n);
        store(head + pairs + i, pair.b, n);
    });
}

// direction: +1 forward, -1 backward.
template <class X>
void rope(Tensor qkv, Tensor positions, Rope rope, float direction) {
    const int64_t B = qkv.shape[0], T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4], pairs = rope.dim / 2;
    const int32_t* at = positions.data_or_null<int32_t>();
    X* const x        = qkv.data<X>();

    std::vector<double> speed(pairs);
    for (int64_t i = 0; i < pairs; i++) speed[i] = radians_per_position(i, rope);

    // All heads of a row share its cosines and sines. If no positions are given, all sequences of the batch do as well.
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
                for (int64_t h = 0; h < 2 * H; h++) rotate_head(q + h * D, cosine.data(), sine.data(), pairs);
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

#ifdef __CUDACC__
namespace gpu {

constexpr int max_pairs = 128;  // heads up to 256 wide

// φ / position for each pair, in units of π: an argument of the kernel.
struct Speeds {
    double of[max_pairs];
};

// A block per row (b,t) computes its cosines and sines once, and rotates all heads of q and k. A thread rotates W pairs
// at a time, so that it accesses 16 bytes of a and of b where dim/2 and D allow it.
template <int W, class X>
static __global__ void rope_kernel(X* qkv, const int32_t* positions, Speeds speed, int T, int H, int D, int pairs,
                                   float direction) {
    __shared__ float cosine[max_pairs], sine[max_pairs];
    const int64_t row     = blockIdx.x;
    const double position = positions ? positions[row] : row % T;
    for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
        double s, c;
        sincospi(speed.of[i] * position, &s, &c);
        cosine[i] = float(c);
        sine[i]   = float(s) * direction;
    }
    __syncthreads();
    X* const q      = qkv + row * 3 * H * D;  // H heads of q, then H heads of k
    const int steps = pairs / W;
    for (int i = threadIdx.x; i < 2 * H * steps; i += blockDim.x) {
        const int pair = i % steps * W;
        X* const head  = q + int64_t(i / steps) * D;
        Floats<W> a = load<W>(head + pair), b = load<W>(head + pairs + pair);
        for (int k = 0; k < W; k++) {
            const auto next = rotated(a[k], b[k], cosine[pair + k], sine[pair + k]);
            a[k]            = next.a;
            b[k]            = next.b;
        }
        store(head + pair, a);
        store(head + pairs + pair, b);
    }
}

template <class X>
static void rope(Tensor qkv, Tensor positions, Rope r, float direction, Queue& q) {
    const int64_t T = qkv.shape[1], H = qkv.shape[3], D = qkv.shape[4], pairs = r.dim / 2;
    X* const x        = qkv.data<X>();
    const int32_t* at = positions.data_or_null<int32_t>();
    CHECK(pairs <= max_pairs, "rope: rope.dim is {}, expected at most {} on a GPU", r.dim, 2 * max_pairs);
    Speeds speed{};
    for (int64_t i = 0; i < pairs; i++) speed.of[i] = radians_per_position(i, r) / 3.14159265358979323846;
    for_width<X>(aligned(x) && pairs % wide<X> == 0 && D % wide<X> == 0, [&](auto width) {
        const int64_t vectors = 2 * H * pairs / width;
        const int threads     = int(std::clamp<int64_t>(round_up(vectors, 32), 32, 256));
        launch(rope_kernel<width, X>, {qkv.shape[0] * T, threads}, q, x, at, speed, int(T), int(H), int(D), int(pairs),
               direction);
    });
}
template <class X>
static void rope_forward(Tensor qkv, Tensor positions, Rope r, Queue& q) {
    rope<X>(qkv, positions, r, 1.f, q);
}
template <class X>
static void rope_backward(Tensor dqkv, Tensor positions, Rope r, Queue& q) {
    rope<X>(dqkv, positions, r, -1.f, q);
}

}  // namespace gpu
#endif

static void check_rope(const char* op, const Tensor& x, const Tensor& positions, const Rope& rope) {
    CHECK_CALL(x && x.shape.dims == 5 && x.shape[2] == 3, "{}: qkv is {}, expected (B,T,3,H,D)", op, x.str());
    CHECK_CALL(rope.dim >= 0 && rope.dim % 2 == 0 && rope.dim <= x.shape[4],
               "{}: rope.dim is {}, expected an even number up to the head width {}", op, rope.dim, x.shape[4]);
    CHECK_CALL(rope.base > 0 && std::isfinite(rope.base), "{}: rope.base is {}, expected a positive number", op,
               rope.base);
    expect_maybe(positions, (Shape{x.shape[0], x.shape[1]}), DType::I32, x);
}

void rope_forward(Tensor qkv, Tensor positions, Rope rope, Stream s) {
    check_rope(__func__, qkv, positions, rope);
    if (rope.dim) RUN_ON(s, qkv.dtype, rope_forward, qkv, positions, rope);
}

void rope_backward(Tensor dqkv, Tensor positions, Rope rope, Stream s) {
    check_rope(__func__, dqkv, positions, rope);
    if (rope.dim) RUN_ON(s, dqkv.dtype, rope_backward, dqkv, positions, rope);
}

// The rotating coordinates of q and k are read and written.
Cost rope_cost(int64_t N, int64_t H, int64_t dim, DType x) { return {4. * double(N * H * dim * size_of(x))}; }
