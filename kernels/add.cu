// add.cu - out = a + b, the residual stream's step
//
//   out, a, b share any one shape; out may be a or b. The sum is taken in float and rounded once to the tensor's dtype.
#include "cpu.h"
#include "ops.h"

namespace cpu {

template <class T>
static void add_forward(Tensor out, Tensor a, Tensor b) {
    T* to          = out.data<T>();
    const T* left  = a.data<T>();
    const T* right = b.data<T>();
    parallel_lanes(a.numel(), [=](int64_t i, auto n) { store(to + i, load(left + i, n) + load(right + i, n), n); });
}

}  // namespace cpu

void add_forward(Tensor out, Tensor a, Tensor b, Stream s) {
    expect(a, a.shape, a.dtype, a);
    expect(b, a.shape, a.dtype, a);
    expect(out, a.shape, a.dtype, a);
    RUN_ON(s, add_forward, out, a, b);
}
