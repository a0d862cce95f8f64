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
#include "rotation.h"
#ifdef __CUDACC__
#include "gpu.cuh"
#endif

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

// A block rotates all heads of q and k of a few rows, and each thread W pairs at a time, so that it accesses 16 bytes
// of a and of b where dim/2 and D allow it. Two of these are in flight while the block computes the cosines and sines
// of its rows, which all heads share: 64 bytes of a thread, and 64 KB of the 1024 threads that a multiprocessor has.
//
// A table of cosines and sines in memory would cost a launch (2 us on an H100, where the op takes 17 us at N = 32768, a
// quarter of D = 64 and H = 12) or memory between ops. Computing them for each row takes less than 1 us there.
constexpr int rope_threads = 256;

template <int W, class X>
static __global__ void __launch_bounds__(rope_threads, 4)
    rope_kernel(X* qkv, const int32_t* positions, Speeds speed, int64_t N, int T, int H, int D, int pairs, int rows,
                float sign) {
    extern __shared__ uint4 memory[];
    float* const cosines = reinterpret_cast<float*>(memory);  // of each row and pair
    float* const sines   = cosines + rows * pairs;
    const int64_t first  = int64_t(blockIdx.x) * rows;
    const int steps = pairs / W, per_row = 2 * H * steps, count = int(min(int64_t(rows), N - first)) * per_row;
    constexpr int at_once = 2;
    for (int begin = 0; begin < count; begin += at_once * rope_threads) {
        Packed<W, X> a_packed[at_once], b_packed[at_once];
        X* head[at_once];
        int pair[at_once];  // the first of the W pairs, counted over the rows of the block
        for (int u = 0; u < at_once; u++) {
            const int i = begin + u * rope_threads + int(threadIdx.x);
            if (i >= count) continue;
            const int row = i / per_row, in_row = i % per_row, step = in_row % steps * W;
            head[u]     = qkv + ((first + row) * 3 * H + in_row / steps) * D + step;  // H heads of q, then H heads of k
            pair[u]     = row * pairs + step;
            a_packed[u] = load_packed<W>(head[u]);
            b_packed[u] = load_packed<W>(head[u] + pairs);
        }
        if (begin == 0) {
            for (int i = threadIdx.x; i < rows * pairs; i += rope_threads) {
                const int64_t n       = min(first + i / pairs, N - 1);
                const double position = positions ? positions[n] : int(n % T);
                direction(speed.of[i % pairs] * position, cosines[i], sines[i]);
            }
            __syncthreads();
        }
        for (int u = 0; u < at_once; u++) {
            if (begin + u * rope_threads + int(threadIdx.x) >= count) continue;
            Floats<W> a = unpack<W, X>(a_packed[u]), b = unpack<W, X>(b_packed[u]);
            const Floats<W> cosine = load<W>(cosines + pair[u]), sine = load<W>(sines + pair[u]);
            for (int k = 0; k < W; k++) {
                const auto next = rotated(a[k], b[k], cosine[k], sine[k] * sign);
                a[k]            = next.a;
                b[k]            = next.b;
            }
            store(head[u], a);
            store(head[u] + pairs, b);
        }
    }
}

template <class X>
static void rope(Tensor qkv, Tensor positions, Rope r, float direction, Queue& q) {
    const int64_t T = qkv.shape[1], N = qkv.shape[0] * T, H = qkv.shape[3], D = qkv.shape[4], pairs = r.dim / 2;
    X* const x         = qkv.data<X>();
    const int32_t* at  = positions.data_or_null<int32_t>();
    const Speeds speed = speeds_of(r);
    for_width<X>(aligned(x) && pairs % wide<X> == 0 && D % wide<X> == 0, [&](auto width) {
        const int64_t per_row = 2 * H * pairs / width;
        const int64_t rows    = std::clamp<int64_t>(2 * rope_threads / per_row, 1, std::clamp<int64_t>(N, 1, 32));
        launch(rope_kernel<width, X>, {ceil_div(N, rows), rope_threads, 2 * rows * pairs * int64_t(sizeof(float))}, q,
               x, at, speed, N, int(T), int(H), int(D), int(pairs), int(rows), direction);
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
