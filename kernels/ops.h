// ops.h - every operation once: what it computes, shapes, and whether results are written (=) or added to (+=)
//
//   B batch · T time · N = B·T rows · C width · H heads · D = C/H · F feed-forward width · V vocabulary · Vp padded
//   vocabulary
//
// Results first, then inputs, then numbers, stream last. Activations and weights share one dtype (fp32 or bf16) called
// x below; gradients of weights, means, log-sum-exps, losses and optimizer state are fp32; ids are int32. Sums are fp32
// in a fixed order, the same for any number of threads. Every op checks its shapes and throws InputError. A null tensor
// where "or null" is said means that the model has no such thing.
#pragma once
// Shapes stand in a column beside the names, so:
// clang-format off
#include "arena.h"
#include "device.h"
#include "tensor.h"

enum class Gelu : uint8_t { tanh, erf };  // "gelu_new" and "gelu" in Hugging Face's words
enum class Into : uint8_t { set, add };   // overwrite a gradient (the first micro-step of a step) or accumulate into it

struct Rope {
    int64_t dim = 0;        // leading coordinates of each head that rotate; 0: none. Pairs are (i, i + dim/2)
    float base  = 10000.f;  // angle of pair i at position p: p · base^(-2i/dim)
};

// ---- embedding.cu ---------------------------------------------------------------------------------------------------
// out = wte[token] + wpe[position]. Position of row n is positions[n], or n mod T when positions is null.
void embedding_forward(Tensor out /*=*/,                                          // (B,T,C) x
                       Tensor tokens, Tensor positions,                           // (B,T) int32, (B,T) int32 or null
                       Tensor wte, Tensor wpe, Stream s);                         // (Vp,C) x, (maxT,C) x or null
void embedding_backward(Tensor dwte /*+=*/, Tensor dwpe /*+=*/,                   // (Vp,C) fp32, (maxT,C) fp32 or null
                        Tensor dout, Tensor tokens, Tensor positions, Stream s);  // (B,T,C) x, (B,T), (B,T) or null

// ---- layernorm.cu (Ba, Kiros, Hinton 2016: arXiv 1607.06450) -----------------------------------------------------------
// y = (x - mean) rstd w + b over each row, variance without Bessel's correction.
void layernorm_forward(Tensor y /*=*/, Tensor mean /*=*/, Tensor rstd /*=*/,       // (N,C) x, (N) fp32, (N) fp32
                       Tensor x, Tensor w, Tensor b, float eps, Stream s);         // (N,C) x, (C) x, (C) x
void layernorm_backward(Tensor dx /*+=*/, Tensor dw /*into*/, Tensor db /*into*/,  // (N,C) x, (C) fp32, (C) fp32
                        Tensor dy, Tensor x, Tensor w, Tensor mean, Tensor rstd,   // (N,C) x, (N,C) x, (C) x, (N), (N)
                        Into into, Stream s);
// sum = a + b (rounded to x), then y = layernorm(sum): one pass over memory; equals the pair of ops to the bit.
void add_layernorm_forward(Tensor sum /*=*/, Tensor y /*=*/, Tensor mean /*=*/,
                           Tensor rstd /*=*/,  // (N,C) x, (N,C) x, (N), (N)
                           Tensor a, Tensor b, Tensor w, Tensor bias, float eps,
                           Stream s);  // (N,C) x, (N,C) x, (C) x, (C) x

// ---- matmul.cu --------------------------------------------------------------------------------------------------------
// out = x wᵀ + b, with w stored (OC,IC) as PyTorch's Linear does.
void matmul_forward(Tensor out /*=*/,                         // (N,OC) x
                    Tensor x, Tensor w, Tensor b, Stream s);  // (N,IC) x, (OC,IC) x, (OC) x or null
// act = gelu(x wᵀ + b); pre, when not null, receives x wᵀ + b for the backward pass.
void matmul_gelu_forward(Tensor act /*=*/, Tensor pre /*= or null*/,          // (N,OC) x, (N,OC) x
                         Tensor x, Tensor w, Tensor b, Gelu kind, Stream s);  // (N,IC) x, (OC,IC) x, (OC) x or null
// dx = dy w; dw and db = or += dyᵀ x and the column sums of dy. dx null: not wanted.
void matmul_backward(Tensor dx /*= or null*/, Tensor dw /*into*/,
                     Tensor db /*into, or null*/,                          // (N,IC) x, (OC,IC) fp32, (OC) fp32
                     Tensor dy, Tensor x, Tensor w, Into into, Stream s);  // (N,OC) x, (N,IC) x, (OC,IC) x
// The same for act = gelu(pre) as the product's input: dpre = (dy w) ∘ gelu'(pre).
void matmul_gelu_backward(Tensor dpre /*=*/, Tensor dw /*into*/,
                          Tensor db /*into, or null*/,  // (N,IC) x, (OC,IC) fp32, (OC) fp32
                          Tensor dy, Tensor act, Tensor w, Tensor pre,
                          Gelu kind,  // (N,OC) x, (N,IC) x, (OC,IC) x, (N,IC) x
                          Into into, Stream s);
int64_t matmul_workspace(Stream s);  // bytes that products take on this machine beside their operands, from the first on
std::string backends();              // the libraries that products run on, with their versions, and CUDA's

// out = a b for any matrices of one dtype; transposed(a) stands for aᵀ.
struct Factor {
    Tensor matrix;
    bool transposed = false;
    Factor(Tensor t) : matrix(t) {}
};
inline Factor transposed(Tensor t) {
    Factor f(t);
    f.transposed = true;
    return f;
}
void matmul(Tensor out /*=*/, Factor a, Factor b, Stream s);  // (M,N) x, (M,K) x, (K,N) x

// ---- rope.cu (Su et al. 2021: arXiv 2104.09864) -------------------------------------------------------------------------
// Rotates q and k in place: (a, b) → (a cos - b sin, b cos + a sin). Backward rotates the gradient the other way.
// Position of row n is positions[n], or n mod T when positions is null.
void rope_forward(Tensor qkv /*in place*/, Tensor positions, Rope rope,
                  Stream s);  // (B,T,3,H,D) x, (B,T) int32 or null
void rope_backward(Tensor dqkv /*in place*/, Tensor positions, Rope rope,
                   Stream s);  // (B,T,3,H,D) x, (B,T) int32 or null

// ---- attention.cu (Milakov & Gimelshein 2018: arXiv 1805.02867; Dao et al. 2022: arXiv 2205.14135) ------------------------
// Causal attention with an online softmax; row t sees s with max(start, t - window + 1) <= s <= t. lse is the log of the sum of
// exp(scale q·k) of each row, all that backward needs to recompute the probabilities.
// starts[b,t], when not null, is the first row of the document that t belongs to; else start is 0.
void attention_forward(Tensor out /*=*/, Tensor lse /*=*/,  // (B,T,H,D) x, (B,H,T) fp32
                       Tensor qkv, Tensor starts, float scale, int64_t window,
                       Stream s);           // (B,T,3,H,D) x, (B,T) int32 or null
void attention_backward(Tensor dqkv /*=*/,  // (B,T,3,H,D) x
                        Tensor dout, Tensor out, Tensor lse, Tensor qkv,
                        Tensor starts,  // (B,T,H,D) x ×2, (B,H,T), (B,T,3,H,D) x, (B,T)
                        float scale, int64_t window, Stream s);
// For generation: appends the k and v of T new rows to the caches at [past, past + T), then attends to everything so far.
void attention_cached(Tensor out /*=*/, Tensor k_cache /*=*/,
                      Tensor v_cache /*=*/,  // (B,T,H,D) x, (B,H,S,D) x, (B,H,S,D) x
                      Tensor qkv, int64_t past, float scale, int64_t window, Stream s);  // (B,T,3,H,D) x

// ---- gelu.cu (Hendrycks & Gimpel 2016: arXiv 1606.08415) ------------------------------------------------------------------
void gelu_forward(Tensor y /*=*/, Tensor x, Gelu kind, Stream s);               // any one shape, x
void gelu_backward(Tensor dx /*=*/, Tensor dy, Tensor x, Gelu kind, Stream s);  // any one shape, x; dx may be dy

// ---- add.cu -----------------------------------------------------------------------------------------------------------------
void add_forward(Tensor out /*=*/, Tensor a, Tensor b, Stream s);  // any one shape, x; out may be a or b

// ---- cross_entropy.cu ---------------------------------------------------------------------------------------------------
// losses = log Σ_v exp(logits_v) - logits_target over the first V columns; the padding [V, Vp) takes no part.
// grad_scale ≠ 0: logits are overwritten with grad_scale (softmax - onehot), padding with 0. A target of -1 means "no
// target here": loss 0, gradient 0.
void cross_entropy(Tensor losses /*=*/, Tensor logits /*= when grad_scale*/,  // (N) fp32, (N,Vp) x
                   Tensor targets, int64_t V, float grad_scale, Stream s);    // (N) int32

// ---- adamw.cu (Loshchilov & Hutter 2017: arXiv 1711.05101) ----------------------------------------------------------------
struct AdamWRule {
    float beta1, beta2, eps;
    float clip;  // gradients are scaled by min(1, clip / norm); 0: never
};
// A weight and its state; any one shape. In fp32 w is its own master: the same tensor twice.
struct AdamWRow {
    Tensor w /*=*/, master /*+=*/, m /*+=*/, v /*+=*/, grad;  // x, fp32, fp32, fp32, fp32
    float weight_decay;                                       // 0 for rows that don't decay
    uint64_t rounding = 0;  // not 0: bf16 weights round up or down at random, by this key and the step
};
// What one update goes over. Checked once, and brought to the GPU once: an update of any number of rows is one launch.
struct AdamWTable {
    AdamWTable() = default;
    AdamWTable(std::vector<AdamWRow> rows, const Device& device);

    std::vector<AdamWRow> rows;
    DType dtype = DType::F32;  // of the weights
    Arena memory{"adamw table"};
    Tensor gpu_rows, gpu_chunks;  // int32, as the kernel reads them; null on the CPU
};
// What is new in every update. The op reads it from the device's memory, so that a step can be queued again as it is (a
// CUDA graph).
struct AdamWUpdate {
    float lr, m_hat, v_hat;  // m_hat = 1 / (1 - β1^step), v_hat = 1 / (1 - β2^step)
    uint32_t step;           // 1 for the first update
};
AdamWUpdate adamw_update(float lr, float beta1, float beta2, int64_t step);
// For each row: m = β1 m + (1-β1) g; v = β2 v + (1-β2) g²; master -= lr (m̂ / (√v̂ + eps) + decay master); w = round(master).
// Does nothing at all when grad_norm2 or loss is not finite, so a bad step never reaches the weights.
void adamw(const AdamWTable& table /*+=*/, Tensor grad_norm2, Tensor loss,  // (1) fp32, (1) fp32 or null
           Tensor update, AdamWRule rule, Stream s);                        // (4) int32: an AdamWUpdate
// The rounding of update `step` by itself: w = master, up or down at random by the row's key.
void round_at_random(Tensor w /*=*/, Tensor master, uint64_t key, uint32_t step,
                     Stream s);  // any one shape; bf16, fp32

// ---- muon.cu (Jordan 2024: https://kellerjordan.github.io/posts/muon) -----------------------------------------------------
struct MuonUpdate {
    float lr;
    uint32_t step;  // 1 for the first update
};
// Working memory of muon_orthogonalise; m is the smaller of R and C.
struct MuonSpace {
    Tensor product, gram, gram2, norm2;  // (R,C) x, (m,m) x, (m,m) x, (1) fp32
};
// With g = min(1, clip / norm) grad: momentum = β momentum + g, and grad = g + β momentum. Neither this nor muon_apply changes
// anything when grad_norm2 or loss is not finite.
void muon_momentum(Tensor momentum /*+=*/, Tensor grad /*in place*/, Tensor grad_norm2, Tensor loss,  // (…) fp32 ×2, (1) fp32, (1) fp32 or null
                   float beta, float clip, Stream s);
// x = u with singular values near 1, by five steps of the quintic Newton-Schulz iteration.
void muon_orthogonalise(Tensor x /*=*/, Tensor u, const MuonSpace& space, Stream s);  // (R,C) x, (R,C) fp32
// master -= lr (scale x + decay master); w = round(master), up or down at random when rounding is not 0.
void muon_apply(Tensor w /*=*/, Tensor master /*+=*/, Tensor x,    // any one shape: x, fp32, x
                Tensor grad_norm2, Tensor loss, Tensor update,     // (1) fp32, (1) fp32 or null, (2) int32: a MuonUpdate
                float scale, float weight_decay, uint64_t rounding, Stream s);

// ---- reduce.cu ------------------------------------------------------------------------------------------------------------
void squared_norm(Tensor out /*=*/, Tensor x, Stream s);       // (1) fp32, any shape fp32
void sum(Tensor out /*+=*/, Tensor x, float scale, Stream s);  // (1) fp32, any shape fp32; out += scale Σ x
