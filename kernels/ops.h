// ops.h - declares every operation: what it computes, its shapes, how it writes its results, and what it costs
//
//   B batch · T time · N = B·T rows · C width · H heads · D = C/H · F feed-forward width
//   V vocabulary · Vp padded vocabulary
//
// Results come first, then inputs, then numbers, and the stream last. `=` marks a result that is overwritten, `+=` one
// that is added to, and `into` one for which the argument of that name decides. Activations and weights share one
// dtype, fp32 or bf16, which is called x below. Gradients of weights, means, log-sum-exps, losses and optimizer state
// are fp32. Ids are int32. Sums are taken in fp32 and in a fixed order, the same for any number of threads.
//
// Every op checks its shapes and throws CallError. Tensors marked "or null" may be null: then the model lacks such a
// tensor, or the result is not wanted.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arena.h"
#include "device.h"
#include "dropout.h"
#include "tensor.h"
// The columns of shapes are set by hand.
// clang-format off

namespace gpu {
class OffloadedAdamW;
}

enum class Gelu : uint8_t { tanh, erf };  // "gelu_new" and "gelu" in Hugging Face's words
enum class Into : uint8_t { set, add };   // overwrite a gradient, as the first micro-batch of a step does, or add to it

struct Rope {
    int64_t dim = 0;        // leading coordinates of each head that rotate; 0: none. Pairs are (i, i + dim/2)
    float base  = 10000.f;  // angle of pair i at position p: p · base^(-2i/dim)
};

// The cost of one call of an op by its formula, with Into::set.
//   bytes    every input is read once, every result written once, and a result that is added to is read as well
//   flops    multiplications and additions of matrix products
//   scratch  bytes of Queue::scratch() that the GPU half needs between its kernels
struct Cost {
    double bytes = 0, flops = 0;
    int64_t scratch = 0;
    Cost operator+(const Cost& o) const {
        return {bytes + o.bytes, flops + o.flops, scratch > o.scratch ? scratch : o.scratch};
    }
    Cost operator*(double n) const { return {bytes * n, flops * n, scratch}; }
};

// ---- dropout.cu (Srivastava et al. 2014) ----------------------------------------------------------------------------
// out = x / (1 - rate) where the mask of `drop` keeps the element (dropout.h), else 0. Backward is the same op on a
// gradient. Where an op below takes a `drop`, it does so in its own pass, with the same bits; a rate of 0 drops nothing.
void dropout(Tensor out /*=*/, Tensor x, const Dropout& drop, Stream s);          // (N,C) x; out may be x
Cost dropout_cost(int64_t numel, DType x);

// ---- embedding.cu ---------------------------------------------------------------------------------------------------
// out = wte[token] + wpe[position]. The position of row n is positions[n], or n mod T when positions is null. `drop`
// drops elements of the sum.
void embedding_forward(Tensor out /*=*/,                                          // (B,T,C) x
                       Tensor tokens, Tensor positions,                           // (B,T) int32, (B,T) int32 or null
                       Tensor wte, Tensor wpe,                                    // (Vp,C) x, (maxT,C) x or null
                       Stream s, const Dropout& drop = {});
void embedding_backward(Tensor dwte /*+=*/, Tensor dwpe /*+=*/,                   // (Vp,C) fp32, (maxT,C) fp32 or null
                        Tensor dout, Tensor tokens, Tensor positions, Stream s);  // (B,T,C) x, (B,T), (B,T) or null
// These costs include a position table and assume that all tokens differ.
Cost embedding_forward_cost (int64_t B, int64_t T, int64_t C, DType x);
Cost embedding_backward_cost(int64_t B, int64_t T, int64_t C, DType x);

// ---- layernorm.cu (Ba, Kiros, Hinton 2016: arXiv 1607.06450) --------------------------------------------------------
// The norm of the same rows by other weights, or null: the two branches of a parallel block may have one each.
struct SecondNorm {
    Tensor out /*=*/, w, b;                                                        // (N,C) x, (C) x, (C) x
};
// y = (x - mean) rstd w + b over each row; the variance is without Bessel's correction.
void layernorm_forward(Tensor y /*=*/, Tensor mean /*=*/, Tensor rstd /*=*/,       // (N,C) x, (N) fp32, (N) fp32
                       Tensor x, Tensor w, Tensor b, float eps, Stream s,          // (N,C) x, (C) x, (C) x
                       const SecondNorm& second = {});
void layernorm_backward(Tensor dx /*+=*/, Tensor dw /*into*/, Tensor db /*into*/,  // (N,C) x, (C) fp32, (C) fp32
                        Tensor dy, Tensor x, Tensor w, Tensor mean, Tensor rstd,   // (N,C) x, (N,C) x, (C) x, (N), (N)
                        Into into, Stream s,
                        const Dropout& drop = {}, Tensor dropped /*=*/ = {},       // (N,C) x: dx with the mask of `drop`
                        Into dx_into = Into::add);                                 // set: dx =
// A tensor to add, and the dropout that its elements go through first.
struct Addend {
    Tensor x{};                                                                    // (N,C) x or null
    Dropout drop{};
};
// Computes sum = a + b, rounded to x, and y = layernorm(sum). It reads memory once and gives the same bits as the two
// ops. A parallel block ends with c as well: then sum = a + b is followed by sum += c. sum may be a.
void add_layernorm_forward(Tensor sum /*=*/, Tensor y /*=*/,                       // (N,C) x, (N,C) x
                           Tensor mean /*=*/, Tensor rstd /*=*/,                   // (N) fp32, (N) fp32
                           Tensor a, const Addend& b, Tensor w, Tensor bias,       // (N,C) x, (N,C) x, (C) x, (C) x
                           float eps, Stream s,
                           const Addend& c = {}, const SecondNorm& second = {});
// What a layernorm writes, and its weights.
struct Norm {
    Tensor out, mean, rstd, w, b;                                                  // (N,C) x, (N), (N), (C) x, (C) x
    SecondNorm second{};
};
// addends: b, or b and c. norms: 2 with a second one.
Cost layernorm_forward_cost    (int64_t N, int64_t C, DType x, int norms = 1);
Cost layernorm_backward_cost   (int64_t N, int64_t C, DType x);
Cost add_layernorm_forward_cost(int64_t N, int64_t C, DType x, int addends = 1, int norms = 1);

// ---- matmul.cu ------------------------------------------------------------------------------------------------------
// out = x wᵀ + b, with w stored (OC,IC) as PyTorch's Linear does.
void matmul_forward(Tensor out /*=*/,                                     // (N,OC) x
                    Tensor x, Tensor w, Tensor b, Stream s);              // (N,IC) x, (OC,IC) x, (OC) x or null
// act = gelu(x wᵀ + b). pre, when not null, receives x wᵀ + b for the backward pass. On a GPU in bf16, the tanh form may
// be taken of the sums before they are rounded to pre, so that gelu_forward(pre) differs from act by its rounding.
void matmul_gelu_forward(Tensor act /*=*/, Tensor pre /*=*/,              // (N,OC) x, (N,OC) x or null
                         Tensor x, Tensor w, Tensor b,                    // (N,IC) x, (OC,IC) x, (OC) x or null
                         Gelu kind, Stream s);
// The two products of each half of a block, for generation. With few rows the time of a GPU goes into launches, so up to
// few_rows rows take one kernel each. The bits are those of the separate ops, with
// matmul_gelu_forward() for gelu, for any number of rows.
//   norm_matmul_forward    out = y wᵀ + b, or gelu of that, for y = layernorm(x). norm.out may or may not receive y.
//   matmul_add_forward     out = residual + (x wᵀ + b), with the product rounded to x. out is not the residual.
constexpr int64_t few_rows = 8;
void norm_matmul_forward(Tensor out /*=*/, const Norm& norm /*=*/,        // (N,OC) x, of x
                         Tensor x, Tensor w, Tensor b,                    // (N,IC) x, (OC,IC) x, (OC) x or null
                         std::optional<Gelu> gelu, float eps, Stream s);
void matmul_add_forward(Tensor out /*=*/, Tensor residual,                // (N,OC) x, (N,OC) x
                        Tensor x, Tensor w, Tensor b, Stream s);          // (N,IC) x, (OC,IC) x, (OC) x or null
// dx = dy w; dw and db = or += dyᵀ x and the column sums of dy. A null dx is not computed.
void matmul_backward(Tensor dx /*=*/, Tensor dw /*into*/,                 // (N,IC) x or null, (OC,IC) fp32
                     Tensor db /*into*/,                                  // (OC) fp32 or null
                     Tensor dy, Tensor x, Tensor w, Into into, Stream s); // (N,OC) x, (N,IC) x, (OC,IC) x
// Computes the same when the input x is act = gelu(pre). In place of dx it gives dpre = (dy w) ∘ gelu'(pre).
void matmul_gelu_backward(Tensor dpre /*=*/, Tensor dw /*into*/,          // (N,IC) x, (OC,IC) fp32
                          Tensor db /*into*/,                             // (OC) fp32 or null
                          Tensor dy, Tensor act, Tensor w, Tensor pre,    // (N,OC) x, (N,IC) x, (OC,IC) x, (N,IC) x
                          Gelu kind, Into into, Stream s);
// Forward costs leave out the bias, backward costs include its gradient. matmul_gelu_forward_cost includes pre.
Cost matmul_forward_cost      (int64_t N, int64_t IC, int64_t OC, DType x);
Cost matmul_backward_cost     (int64_t N, int64_t IC, int64_t OC, DType x);
Cost matmul_gelu_forward_cost (int64_t N, int64_t IC, int64_t OC, DType x);
Cost matmul_gelu_backward_cost(int64_t N, int64_t IC, int64_t OC, DType x);
// The bytes that products take beside their operands on a GPU, from the first one on.
int64_t matmul_workspace(Machine where);
// The bytes that the product (M,K) · (K,N) takes on this CPU beside its operands: where it has no instructions for bf16,
// their copies in fp32.
int64_t matmul_copies(int64_t M, int64_t N, int64_t K, DType in, DType out);
std::string backends();              // the libraries that products run on: "oneDNN 3.7.1, CUDA 13.0, …"
bool has_cpu_products();             // false in a build with ONEDNN=0

// The way that a product is computed on a GPU: an algorithm of cuBLASLt, or a kernel of ours. It means something to one
// version of cuBLASLt on one kind of GPU.
struct ProductChoice {
    std::string product, algorithm;            // sizes, dtypes and what else it does; the way, in words
    double seconds = 0, seconds_of_first = 0;  // medians of it and of cuBLASLt's first choice; 0: not timed
    std::string ours     = {};                 // the fastest of our kernels; empty: none was timed
    double seconds_of_ours = 0;
    std::vector<std::string> ways = {};        // all that were timed, cuBLASLt's first one in front
};
// From now on the products of a GPU are computed in these ways. Any other product takes cuBLASLt's first choice or, when
// `timed` is given, the fastest way: all are timed when the product is met first, for a few milliseconds on memory of its
// own, and `timed` hears of the choice. `origin` says in messages where the choices come from. A choice that is no way to
// compute its product is an InputError.
void choose_products(const Device& device, const std::vector<ProductChoice>& choices, const std::string& origin,
                     std::function<void(const ProductChoice&)> timed);
std::string product_library(const Device& device);  // what choices hold for: "cuBLASLt 13.1.0 on NVIDIA H100"

// out = a b for any matrices of one dtype; transposed(a) stands for aᵀ.
struct Factor {
    Tensor matrix;
    bool transposed = false;
    Factor(Tensor t) : matrix(t) {}
};
inline void expect_elements(const char* op, const Factor& f) { expect_elements(op, f.matrix); }
inline Factor transposed(Tensor t) {
    Factor f(t);
    f.transposed = true;
    return f;
}
void matmul(Tensor out /*=*/, Factor a, Factor b, Stream s);              // (M,N) x, (M,K) x, (K,N) x
Cost matmul_cost(int64_t M, int64_t N, int64_t K, DType x);

// ---- rope.cu (Su et al. 2021: arXiv 2104.09864) ---------------------------------------------------------------------
// Rotates q and k in place: (a, b) becomes (a cos - b sin, b cos + a sin). Backward rotates the gradient the other way.
// The position of row n is positions[n], or n mod T when positions is null.
void rope_forward (Tensor qkv /*in place*/,                                // (B,T,3,H,D) x
                   Tensor positions, Rope rope, Stream s);                 // (B,T) int32 or null
void rope_backward(Tensor dqkv /*in place*/,                               // (B,T,3,H,D) x
                   Tensor positions, Rope rope, Stream s);                 // (B,T) int32 or null
Cost rope_cost(int64_t N, int64_t H, int64_t dim, DType x);                // forward and backward cost the same

// ---- attention.cu (Milakov & Gimelshein 2018: arXiv 1805.02867; Dao et al. 2022: arXiv 2205.14135) ------------------
// Causal attention with an online softmax. Row t sees rows s with max(start, t - window + 1) <= s <= t, where start is
// starts[b,t], the first row of the document that t belongs to, or 0 without starts. lse is the log of the sum of
// exp(scale q·k) of each row, which is all that backward needs to recompute the probabilities.
// With a rate in `drop`, probabilities are dropped before they are multiplied with v; lse is that of all of them.
// lse is rounded to fp32. So from scores (scale q·k) of 1e5 on, backward recomputes probabilities that are wrong in the
// third digit, and from about 1.5e9 on bf16 on a GPU gives NaN.
// A NaN or an infinity in v also reaches rows that do not see it, if their tile includes it, because 0 · NaN is NaN.
void attention_forward(Tensor out /*=*/, Tensor lse /*=*/,                // (B,T,H,D) x, (B,H,T) fp32
                       Tensor qkv, Tensor starts,                         // (B,T,3,H,D) x, (B,T) int32 or null
                       float scale, int64_t window, Stream s, const Dropout& drop = {});
void attention_backward(Tensor dqkv /*=*/,                                // (B,T,3,H,D) x
                        Tensor dout, Tensor out, Tensor lse,              // (B,T,H,D) x, (B,T,H,D) x, (B,H,T) fp32
                        Tensor qkv, Tensor starts,                        // (B,T,3,H,D) x, (B,T) int32 or null
                        float scale, int64_t window, Stream s, const Dropout& drop = {});
// Rotates q and k as rope_forward does, appends the k and v of T new rows to the caches, and attends to all rows so far.
// Row t of sequence b goes to row positions[b,t] = positions[b,0] + t of the caches, and sees the rows up to there; so
// sequences may have any lengths. positions is read from the device's memory, so that the CUDA graph of a step can be
// launched again as it is. Generation uses it.
void attention_cached(Tensor out /*=*/,                                   // (B,T,H,D) x
                      Tensor k_cache /*=*/, Tensor v_cache /*=*/,         // (B,H,S,D) x, (B,H,S,D) x
                      Tensor qkv /*is overwritten*/, Tensor positions,    // (B,T,3,H,D) x, (B,T) int32
                      Rope rope, float scale, int64_t window, Stream s);
// These costs assume no window and no documents. attention_cached_cost is that of T new rows after
// `past` cached ones, in caches of S rows.
Cost attention_forward_cost (int64_t B, int64_t T, int64_t H, int64_t D, DType x);
Cost attention_backward_cost(int64_t B, int64_t T, int64_t H, int64_t D, DType x);
Cost attention_cached_cost  (int64_t B, int64_t T, int64_t past, int64_t S, int64_t H, int64_t D, DType x);
// In bf16 the first results of a run on a Hopper GPU are compared with those of other kernels, a sequence at a time.
// Returns the bytes of scratch memory that a call takes for that, forward or backward.
int64_t attention_trial_scratch(int64_t T, int64_t H, int64_t D, DType x);

// ---- gelu.cu (Hendrycks & Gimpel 2016: arXiv 1606.08415) ------------------------------------------------------------
void gelu_forward(Tensor y /*=*/, Tensor x, Gelu kind, Stream s);               // any one shape, x
void gelu_backward(Tensor dx /*=*/, Tensor dy, Tensor x, Gelu kind, Stream s);  // any one shape, x; dx may be dy
Cost gelu_forward_cost (int64_t numel, DType x);
Cost gelu_backward_cost(int64_t numel, DType x);

// ---- add.cu ---------------------------------------------------------------------------------------------------------
// out = a + b. `drop` drops elements of b before they are added.
void add_forward(Tensor out /*=*/, Tensor a, Tensor b, Stream s, const Dropout& drop = {});  // one shape, x; out may be a or b
Cost add_forward_cost(int64_t numel, DType x);

// ---- scale_shift.cu -------------------------------------------------------------------------------------------------
// x = x · scale + shift, by column. It has no backward pass: only generation uses it.
void scale_shift(Tensor x /*in place*/, Tensor scale, Tensor shift, Stream s);  // (N,C) x, (C) fp32, (C) fp32
Cost scale_shift_cost(int64_t N, int64_t C, DType x);

// ---- cross_entropy.cu -----------------------------------------------------------------------------------------------
// losses = log Σ_v exp(logits_v) - logits_target over the first V columns; the padding [V, Vp) takes no part. When
// grad_scale ≠ 0, the logits are overwritten with grad_scale (softmax - onehot), and the padding with 0. A target of -1
// means that the row has none: its loss and its gradient are 0. With scales, the loss and the gradient of row n are
// multiplied by scales_n; a null tensor leaves them as they are.
void cross_entropy(Tensor losses /*=*/, Tensor logits /*= when grad_scale*/,                // (N) fp32, (N,Vp) x
                   Tensor targets, Tensor scales, int64_t V, float grad_scale, Stream s);   // (N) int32, (N) fp32
Cost cross_entropy_cost     (int64_t N, int64_t Vp, DType x);                 // with the gradient
Cost cross_entropy_loss_cost(int64_t N, int64_t Vp, DType x);                 // without, when grad_scale is 0

// ---- choose.cu (top-p: Holtzman et al. 2019: arXiv 1904.09751) --------------------------------------------------------
struct Sampling {
    float temperature = 1.f;  // logits are divided by it; 0: always the likeliest token
    int64_t top_k     = 0;    // choose among this many of the likeliest tokens; 0: among all
    float top_p       = 1.f;  // choose among the fewest likeliest tokens that together have this probability
    uint64_t seed     = 1337;
};
// Chooses an id from the first V logits of each row, by the softmax of logits / temperature. Of equal logits, the one
// with the smaller id counts as likelier. A row in which one of the V logits is not finite gets the id -1.
// Row n belongs to sequence first + n, and the choice takes the random number drawn[n] of that sequence,
// Random(seed, "sample", first + n).uniform(drawn[n]). Then drawn[n] and positions[n] are increased by 1, so that a CUDA
// graph of a step of generation can be launched again as it is. Both machines choose the same ids.
void choose(Tensor ids /*=*/, Tensor drawn /*+= 1*/, Tensor positions /*+= 1*/,  // (N) int32, the last one or null
            Tensor logits, int64_t V, int64_t first,                             // (N,Vp) x
            const Sampling& how, Stream s);
Cost choose_cost(int64_t N, int64_t V, DType x);

// ---- adamw.cu (Loshchilov & Hutter 2017: arXiv 1711.05101) ----------------------------------------------------------
struct AdamWRule {
    float beta1, beta2, eps;
    float clip;  // gradients are scaled by min(1, clip / norm); 0: never
};
// How a bf16 weight is rounded: to nearest, or up or down at random when there is a key. Where a process has only a part
// of the weight, `first` is the element of the weight at which the part begins, a multiple of 4.
struct Rounding {
    uint64_t key  = 0;
    int64_t first = 0;
};
// A weight or a part of it, and its state, of any one shape. In fp32 w is its own master: the same tensor twice.
struct AdamWRow {
    Tensor w /*=*/, master /*+=*/, m /*+=*/, v /*+=*/, grad;  // x, fp32, fp32, fp32, fp32
    float weight_decay;                                       // 0 for rows that don't decay
    Rounding rounding = {};
    int64_t group     = 0;  // rows of one group lie behind each other in a table, and are needed at the same time
};
// The rows that adamw() updates. They are checked and copied to the GPU once, so that each update is a single launch.
// A table may have no rows.
//
// Where the state of weights on a GPU is in host memory (Memory::host), the CPU updates them, with the same bits, while
// the GPU goes on. The groups are updated in the order of the table. Weights, gradients and state of group g may be used
// after wait_for(updated()[g], stream), and adamw() may be called again when its stream has waited for all groups.
struct AdamWTable {
    AdamWTable() = default;
    AdamWTable(std::vector<AdamWRow> rows, const Device& device);

    // Returns an event for each group of the last update. They are null where the stream of adamw() does all the work.
    std::vector<Event> updated() const;

    std::vector<AdamWRow> rows;
    DType dtype = DType::F32;  // the dtype of the weights
    Arena memory{"adamw table"};
    Tensor gpu_rows, gpu_chunks;  // int32, as the kernel reads them; null on the CPU
    std::shared_ptr<gpu::OffloadedAdamW> offloaded;
    static int64_t staging_bytes();  // of host memory, where the state is there
};
// The numbers that differ from update to update. The op reads them from the device's memory, so that the CUDA graph of a
// step can be launched again as it is.
struct AdamWUpdate {
    float lr, m_hat, v_hat;  // m_hat = 1 / (1 - β1^step), v_hat = 1 / (1 - β2^step)
    uint32_t step;           // 1 for the first update
};
AdamWUpdate adamw_update(float lr, float beta1, float beta2, int64_t step);
// For each row, with g the clipped gradient, m̂ = m_hat m and v̂ = v_hat v:
//   m = β1 m + (1-β1) g,   v = β2 v + (1-β2) g²,   master -= lr (m̂ / (√v̂ + eps) + decay master),   w = round(master)
// When grad_norm2 or loss is not finite it changes nothing, so that a bad step never reaches the weights.
void adamw(const AdamWTable& table /*+=*/, Tensor grad_norm2, Tensor loss,  // (1) fp32, (1) fp32 or null
           Tensor update, AdamWRule rule, Stream s);                        // (4) int32: an AdamWUpdate
// Repeats only the rounding of update `step`: w = master, rounded up or down at random by the row's key.
void round_at_random(Tensor w /*=*/, Tensor master,                  // any one shape; bf16, fp32
                     Rounding rounding, uint32_t step, Stream s);
Cost adamw_cost(int64_t weights, DType x);

// ---- muon.cu (Jordan 2024: https://kellerjordan.github.io/posts/muon) -----------------------------------------------
struct MuonUpdate {
    float lr;
    uint32_t step;  // 1 for the first update
};
// Working memory of muon_orthogonalise; m is the smaller of R and C.
struct MuonSpace {
    Tensor product, gram, gram2, norm2;  // (R,C) x, (m,m) x, (m,m) x, (1) fp32
};
// With g = min(1, clip / norm) grad: momentum = β momentum + g, and grad = g + β momentum. Neither this nor muon_apply
// changes anything when grad_norm2 or loss is not finite.
void muon_momentum(Tensor momentum /*+=*/, Tensor grad /*in place*/,   // any one shape, fp32
                   Tensor grad_norm2, Tensor loss,                     // (1) fp32, (1) fp32 or null
                   float beta, float clip, Stream s);
// x = u with singular values near 1, by five steps of the quintic Newton-Schulz iteration.
void muon_orthogonalise(Tensor x /*=*/, Tensor u, const MuonSpace& space, Stream s);  // (R,C) x, (R,C) fp32
// master -= lr (scale x + decay master); w = round(master).
void muon_apply(Tensor w /*=*/, Tensor master /*+=*/, Tensor x,    // any one shape: x, fp32, x
                Tensor grad_norm2, Tensor loss, Tensor update,     // (1) fp32, (1) fp32 or null, (2) int32: a MuonUpdate
                float scale, float weight_decay, Rounding rounding, Stream s);
Cost muon_momentum_cost     (int64_t numel);
Cost muon_orthogonalise_cost(int64_t R, int64_t C, DType x);
Cost muon_apply_cost        (int64_t numel, DType x);

// ---- reduce.cu ------------------------------------------------------------------------------------------------------
void squared_norm(Tensor out /*=*/, Tensor x, Stream s);       // (1) fp32, any shape fp32
void sum(Tensor out /*+=*/, Tensor x, float scale, Stream s);  // (1) fp32, any shape fp32; out += scale Σ x
Cost sum_cost(int64_t numel);                                  // both cost the same
