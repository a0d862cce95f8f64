// matmul.cu - matrix products: oneDNN on the CPU
//
//   forward    out (N,OC) = x (N,IC) · wᵀ (IC,OC) + b
//   backward   dx (N,IC) = dy (N,OC) · w (OC,IC);   dw (OC,IC) += dyᵀ (OC,N) · x (N,IC);   db (OC) += Σ_n dy
//
// A few rows against a large weight is what generation does one token at a time. There the weight is read once and that
// is the whole cost, so up to `few_rows` rows take a kernel of our own, a dot product per output that streams w at the
// speed of the memory; oneDNN would first rearrange w into blocks.
#include <dnnl.hpp>
#include <map>
#include <mutex>
#include <tuple>

#include "cpu.h"
#include "ops.h"

// ---- oneDNN
// -------------------------------------------------------------------------------------------------------------

namespace cpu {

// One product c (M,N) = a (M,K) · b (K,N), each operand row-major or transposed in memory.
struct Product {
    int64_t M, N, K;
    DType in, out;
    bool a_transposed, b_transposed;
    bool accumulate;  // c += instead of c =
    bool bias;        // + bias (N), in the dtype of the inputs
    int gelu;         // -1 none, else a Gelu
    auto key() const { return std::tie(M, N, K, in, out, a_transposed, b_transposed, accumulate, bias, gelu); }
    bool operator<(const Product& o) const { return key() < o.key(); }
    std::string str() const {
        return fmt::format("({}, {}) {} = ({}, {}){} {} · ({}, {}){}{}", M, N, name_of(out), M, K,
                           a_transposed ? "ᵀ" : "", name_of(in), K, N, b_transposed ? "ᵀ" : "", bias ? " + bias" : "");
    }
};

struct OneDnn {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    std::map<Product, dnnl::matmul> kernels;  // building one takes about a millisecond
    std::mutex lock;
};

static dnnl::memory::data_type type_of(DType t) {
    return t == DType::BF16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}
static dnnl::memory::desc matrix(int64_t rows, int64_t cols, DType t, bool transposed) {
    using tag = dnnl::memory::format_tag;
    return {{rows, cols}, type_of(t), transposed ? tag::ba : tag::ab};
}

static dnnl::matmul build(const Product& p, const dnnl::engine& engine) {
    const auto a = matrix(p.M, p.K, p.in, p.a_transposed), b = matrix(p.K, p.N, p.in, p.b_transposed);
    const auto c    = matrix(p.M, p.N, p.out, false);
    const auto bias = p.bias ? matrix(1, p.N, p.in, false) : dnnl::memory::desc();
    dnnl::post_ops after;
    dnnl::primitive_attr attr;
    const auto gelu =
        Gelu(p.gelu) == Gelu::tanh ? dnnl::algorithm::eltwise_gelu_tanh : dnnl::algorithm::eltwise_gelu_erf;
    if (p.accumulate) after.append_sum(1.f);
#if DNNL_VERSION_MAJOR >= 3
    if (p.gelu >= 0) after.append_eltwise(gelu, 0.f, 0.f);
    attr.set_post_ops(after);
    return dnnl::matmul(dnnl::matmul::primitive_desc(engine, a, b, bias, c, attr));
#else
    if (p.gelu >= 0) after.append_eltwise(1.f, gelu, 0.f, 0.f);
    attr.set_post_ops(after);
    return dnnl::matmul({dnnl::matmul::desc(a, b, bias, c), attr, engine});
#endif
}

static void multiply(const Product& p, void* c, const void* a, const void* b, const void* bias) try {
    static OneDnn dnn;  // a cache of compiled kernels; what it holds never changes a result
    const std::lock_guard<std::mutex> guard(dnn.lock);
    auto found = dnn.kernels.find(p);
    if (found == dnn.kernels.end()) found = dnn.kernels.emplace(p, build(p, dnn.engine)).first;
    const auto wrap = [&](int64_t rows, int64_t cols, DType t, bool transposed, const void* ptr) {
        return dnnl::memory(matrix(rows, cols, t, transposed), dnn.engine, const_cast<void*>(ptr));
    };
    std::unordered_map<int, dnnl::memory> args = {{DNNL_ARG_SRC, wrap(p.M, p.K, p.in, p.a_transposed, a)},
                                                  {DNNL_ARG_WEIGHTS, wrap(p.K, p.N, p.in, p.b_transposed, b)},
                                                  {DNNL_ARG_DST, wrap(p.M, p.N, p.out, false, c)}};
    if (p.bias) args.emplace(DNNL_ARG_BIAS, wrap(1, p.N, p.in, false, bias));
    found->second.execute(dnn.stream, args);
    dnn.stream.wait();
} catch (const dnnl::error& e) {
    throw_at<RunError>(__FILE__, __LINE__, "oneDNN: {} (status {}) for {}", e.what(), int(e.status), p.str());
}

// ---- a few rows
// -----------------------------------------------------------------------------------------------------------

// Measured on 2 cores of a Zen 4: 4 rows of a 768 × 50304 bf16 weight here take what oneDNN takes for 1.
constexpr int64_t few_rows = 4;

// Four outputs at a time for R rows: 4 R running sums in registers, each weight read once for all rows.
template <int R, class T>
static void few_rows_forward(T* out, const T* x, const T* w, const T* b, int64_t IC, int64_t OC) {
    constexpr int64_t G = 4;
    parallel_ranges((OC + G - 1) / G, std::max<int64_t>(1, 16384 / (G * IC)), [=](int64_t begin, int64_t end) {
        for (int64_t o = begin * G; o < std::min(end * G, OC); o += G) {
            const int64_t group = std::min(G, OC - o);
            floats acc[R][G]    = {};
            for_lanes(IC, [&](int64_t i, auto n) {
                floats xs[R];
                for (int r = 0; r < R; r++) xs[r] = load(x + r * IC + i, n);
                for (int g = 0; g < G; g++) {
                    const floats ws = load(w + (o + std::min<int64_t>(g, group - 1)) * IC + i, n);
                    for (int r = 0; r < R; r++) acc[r][g] += xs[r] * ws;
                }
            });
            for (int r = 0; r < R; r++)
                for (int g = 0; g < group; g++) out[r * OC + o + g] = T(sum(acc[r][g]) + (b ? float(b[o + g]) : 0.f));
        }
    });
}

template <class T>
static bool few_rows_forward(Tensor out, Tensor x, Tensor w, Tensor b) {
    const int64_t N = x.shape[0], IC = x.shape[1], OC = w.shape[0];
    const auto run = [&](auto rows) {
        few_rows_forward<decltype(rows)::value>(out.data<T>(), x.data<T>(), w.data<T>(), b ? b.data<T>() : nullptr, IC,
                                                OC);
    };
    static_assert(few_rows == 4, "one case per number of rows");
    switch (N) {
        case 1:
            run(std::integral_constant<int, 1>{});
            return true;
        case 2:
            run(std::integral_constant<int, 2>{});
            return true;
        case 3:
            run(std::integral_constant<int, 3>{});
            return true;
        case 4:
            run(std::integral_constant<int, 4>{});
            return true;
        default:
            return false;
    }
}

// ---- the op on the CPU
// ----------------------------------------------------------------------------------------------------

template <class T>
static void matmul_forward(Tensor out, Tensor x, Tensor w, Tensor b, int gelu) {
    if (gelu < 0 && few_rows_forward<T>(out, x, w, b)) return;
    multiply({x.shape[0], w.shape[0], x.shape[1], x.dtype, out.dtype, false, true, false, bool(b), gelu}, out.ptr,
             x.ptr, w.ptr, b.ptr);
}

// Column sums in slabs of 64 columns, rows in runs of 64, so that no sum is longer than 64 + N/64 terms.
template <class T>
static void add_column_sums(Tensor db, Tensor dy) {
    const int64_t N = dy.shape[0], OC = dy.shape[1];
    float* out             = db.data<float>();
    const T* in            = dy.data<T>();
    constexpr int64_t slab = 4 * lanes;
    parallel_ranges((OC + slab - 1) / slab, std::max<int64_t>(1, 16384 / (slab * N + 1)),
                    [=](int64_t begin, int64_t end) {
                        for (int64_t c = begin * slab; c < std::min(end * slab, OC); c += lanes) {
                            const int64_t n = std::min<int64_t>(lanes, OC - c);
                            floats total    = {};
                            if (n <= 0) break;
                            for (int64_t r = 0; r < N; r += 64) {
                                floats run = {};
                                for (int64_t i = r; i < std::min(r + 64, N); i++)
                                    run += n == lanes ? load(in + i * OC + c) : load(in + i * OC + c, n);
                                total += run;
                            }
                            store(out + c, load(out + c, n) + total, n);
                        }
                    });
}

template <class T>
static void matmul_backward(Tensor dy, Tensor x, Tensor w, Tensor dx, Tensor dw, Tensor db) {
    const int64_t N = x.shape[0], IC = x.shape[1], OC = w.shape[0];
    if (dx) multiply({N, IC, OC, dy.dtype, dx.dtype, false, false, false, false, -1}, dx.ptr, dy.ptr, w.ptr, nullptr);
    multiply({OC, IC, N, dy.dtype, DType::F32, true, false, true, false, -1}, dw.ptr, dy.ptr, x.ptr, nullptr);
    if (db) add_column_sums<T>(db, dy);
}

}  // namespace cpu

// ---- the doors
// ------------------------------------------------------------------------------------------------------------

static void expect_product(const char* op, Tensor out, Tensor x, Tensor w) {
    CHECK(x && w && x.shape.dims == 2 && w.shape.dims == 2 && x.shape[1] == w.shape[1] && x.dtype == w.dtype,
          "{}: x is {} and w is {}, expected (N, IC) and (OC, IC) of one dtype", op, x.str(), w.str());
    CHECK(out && out.shape == Shape({x.shape[0], w.shape[0]}) && out.dtype == x.dtype,
          "{}: the (N, OC) side is {}, expected {} {} because x is {} and w is {}", op, out.str(),
          Shape({x.shape[0], w.shape[0]}).str(), name_of(x.dtype), x.str(), w.str());
}

void matmul_forward(Tensor out, Tensor x, Tensor w, Tensor b, Stream s) {
    expect_product("matmul_forward", out, x, w);
    expect_maybe(b, Shape({w.shape[0]}), w.dtype, w);
    RUN_ON(s, matmul_forward, out, x, w, b, -1);
}

void matmul_gelu_forward(Tensor act, Tensor pre, Tensor x, Tensor w, Tensor b, Gelu kind, Stream s) {
    expect_product("matmul_gelu_forward", act, x, w);
    expect_maybe(b, Shape({w.shape[0]}), w.dtype, w);
    expect_maybe(pre, act.shape, act.dtype, act);
    // Inside oneDNN's product where it can be: its tanh form is as good as ours; its erf form is too coarse for fp32.
    if (!pre && x.shape[0] > cpu::few_rows && kind == Gelu::tanh) {
        RUN_ON(s, matmul_forward, act, x, w, b, int(kind));
        return;
    }
    matmul_forward(pre ? pre : act, x, w, b, s);
    gelu_forward(act, pre ? pre : act, kind, s);
}

void matmul_backward(Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w, Stream s) {
    expect_product("matmul_backward", dy, x, w);
    expect(dw, w.shape, DType::F32, w);
    expect_maybe(dx, x.shape, x.dtype, x);
    expect_maybe(db, Shape({w.shape[0]}), DType::F32, w);
    RUN_ON(s, matmul_backward, dy, x, w, dx, dw, db);
}

std::string backends() {
    const dnnl_version_t* v = dnnl_version();
    return fmt::format("oneDNN {}.{}.{}, without a CUDA half", v->major, v->minor, v->patch);
}
