// embedding.cu - token and position lookup
//
//   out[n] = wte[token[n]] + wpe[position[n]]        out (B,T,C), tokens (B,T), wte (Vp,C), wpe (maxT,C) or null
//   dwte[token[n]] += dout[n],  dwpe[position[n]] += dout[n]
//
//   Without positions, position[n] is n mod T. Every id is checked before any memory is touched.
#include "cpu.h"
#include "ops.h"

namespace cpu {

static void expect_ids(const char* op, const char* what, Tensor ids, int64_t rows) {
    const int32_t* id = ids.data<int32_t>();
    for (int64_t n = 0; n < ids.numel(); n++)
        CHECK(id[n] >= 0 && id[n] < rows, "{}: {} at ({}, {}) is {}, but the table has {} rows", op, what,
              n / ids.shape[-1], n % ids.shape[-1], id[n], rows);
}

// The rows of both tables that row n reads.
struct Lookup {
    const int32_t* token;
    const int32_t* position;  // null: n mod T
    int64_t T;
    Lookup(const char* op, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe)
        : token(tokens.data<int32_t>()),
          position(positions ? positions.data<int32_t>() : nullptr),
          T(tokens.shape[-1]) {
        expect_ids(op, "token", tokens, wte.shape[0]);
        if (wpe && positions) expect_ids(op, "position", positions, wpe.shape[0]);
    }
    int64_t position_of(int64_t n) const { return position ? position[n] : n % T; }
};

template <class T>
static void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe) {
    const Lookup at("embedding_forward", tokens, positions, wte, wpe);
    const int64_t C = wte.shape[1];
    T* rows         = out.data<T>();
    const T* words  = wte.data<T>();
    const T* where  = wpe ? wpe.data<T>() : nullptr;
    parallel_ranges(tokens.numel(), 16, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; n++) {
            const T* word = words + at.token[n] * C;
            const T* here = where ? where + at.position_of(n) * C : nullptr;
            for_lanes(C, [=](int64_t i, auto k) {
                store(rows + n * C + i, here ? load(word + i, k) + load(here + i, k) : load(word + i, k), k);
            });
        }
    });
}

// Threads own columns, not rows: each walks all rows in order and adds its columns, so a token that occurs twice needs
// neither atomics nor sorting, and every sum has one order.
template <class T>
static void embedding_backward(Tensor dout, Tensor dwte, Tensor dwpe, Tensor tokens, Tensor positions) {
    const Lookup at("embedding_backward", tokens, positions, dwte, dwpe);
    const int64_t N = tokens.numel(), C = dwte.shape[1];
    const T* rows = dout.data<T>();
    float* words  = dwte.data<float>();
    float* where  = dwpe ? dwpe.data<float>() : nullptr;
    parallel_ranges((C + lanes - 1) / lanes, 4, [=](int64_t begin, int64_t end) {
        const int64_t first = begin * lanes, count = std::min(end * lanes, C) - first;
        for (int64_t n = 0; n < N; n++) {
            const T* row = rows + n * C + first;
            float* word  = words + at.token[n] * C + first;
            float* here  = where ? where + at.position_of(n) * C + first : nullptr;
            for_lanes(count, [=](int64_t i, auto k) {
                const floats d = load(row + i, k);
                store(word + i, load(word + i, k) + d, k);
                if (here) store(here + i, load(here + i, k) + d, k);
            });
        }
    });
}

}  // namespace cpu

static void expect_lookup(const char* op, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe) {
    CHECK(tokens && tokens.shape.dims == 2 && tokens.dtype == DType::I32, "{}: tokens is {}, expected (B, T) int32", op,
          tokens.str());
    CHECK(wte && wte.shape.dims == 2, "{}: the token table is {}, expected (Vp, C)", op, wte.str());
    const int64_t C = wte.shape[1], T = tokens.shape[1];
    CHECK(!wpe || (wpe.shape.dims == 2 && wpe.shape[1] == C && wpe.dtype == wte.dtype),
          "{}: the position table is {}, expected (maxT, {}) {} because the token table is {}", op, wpe.str(), C,
          name_of(wte.dtype), wte.str());
    CHECK(!wpe || positions || T <= wpe.shape[0], "{}: {} tokens in a row, but the position table is {}", op, T,
          wpe.str());
    CHECK(!positions || (positions.shape == tokens.shape && positions.dtype == DType::I32),
          "{}: positions is {}, expected {} int32 because tokens is {}", op, positions.str(), tokens.shape.str(),
          tokens.str());
}

void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe, Stream s) {
    expect_lookup(__func__, tokens, positions, wte, wpe);
    expect(out, Shape({tokens.shape[0], tokens.shape[1], wte.shape[1]}), wte.dtype, wte);
    RUN_ON(s, embedding_forward, out, tokens, positions, wte, wpe);
}

void embedding_backward(Tensor dwte, Tensor dwpe, Tensor dout, Tensor tokens, Tensor positions, Stream s) {
    expect_lookup(__func__, tokens, positions, dwte, dwpe);
    expect(dwte, dwte.shape, DType::F32, dwte);
    expect(dout, Shape({tokens.shape[0], tokens.shape[1], dwte.shape[1]}), dout.dtype, dwte);
    RUN_ON(s, embedding_backward, dout, dwte, dwpe, tokens, positions);
}
