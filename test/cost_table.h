// cost_table.h - the costs of the ops as the table of kernels/README.md, which bench_ops --costs prints and a test
// compares
#pragma once
#include <functional>
#include <string>

#include "kernels/ops.h"

// The limits of an H100 (SXM) by NVIDIA's data sheet: bytes of memory and FLOPs of dense products, per second.
struct H100 {
    static constexpr double bytes = 3.35e12;
    static double flops(DType x) { return x == DType::BF16 ? 989e12 : 67e12; }
    // The seconds that it needs at least.
    static double bound(const Cost& cost, DType x) { return std::max(cost.bytes / bytes, cost.flops / flops(x)); }
};

// Markdown, for one sequence of 1024 tokens through GPT-2 124M, whose table of Vp rows makes 124,475,904 weights.
inline std::string cost_table() {
    const int64_t B = 1, T = 1024, N = B * T, C = 768, H = 12, D = 64, F = 3072, Vp = 50304, weights = 124475904;
    struct Row {
        const char* op;
        std::function<Cost(DType)> cost;
    };
    const Row rows[] = {
        {"embedding_forward", [&](DType x) { return embedding_forward_cost(B, T, C, x); }},
        {"embedding_backward", [&](DType x) { return embedding_backward_cost(B, T, C, x); }},
        {"layernorm_forward", [&](DType x) { return layernorm_forward_cost(N, C, x); }},
        {"add_layernorm_forward", [&](DType x) { return add_layernorm_forward_cost(N, C, x); }},
        {"… of a parallel block, with two norms", [&](DType x) { return add_layernorm_forward_cost(N, C, x, 2, 2); }},
        {"layernorm_backward", [&](DType x) { return layernorm_backward_cost(N, C, x); }},
        {"matmul_forward, C to 3C", [&](DType x) { return matmul_forward_cost(N, C, 3 * C, x); }},
        {"matmul_backward, C to 3C", [&](DType x) { return matmul_backward_cost(N, C, 3 * C, x); }},
        {"matmul_forward, C to Vp, one row", [&](DType x) { return matmul_forward_cost(1, C, Vp, x); }},
        {"matmul_gelu_forward, C to F", [&](DType x) { return matmul_gelu_forward_cost(N, C, F, x); }},
        {"matmul_gelu_backward, F to C", [&](DType x) { return matmul_gelu_backward_cost(N, F, C, x); }},
        {"rope_forward, a quarter of D", [&](DType x) { return rope_cost(N, H, D / 4, x); }},
        {"attention_forward", [&](DType x) { return attention_forward_cost(B, T, H, D, x); }},
        {"attention_backward", [&](DType x) { return attention_backward_cost(B, T, H, D, x); }},
        {"attention_cached, all rows new", [&](DType x) { return attention_cached_cost(B, T, 0, T, H, D, x); }},
        {"attention_cached, one new row", [&](DType x) { return attention_cached_cost(B, 1, T - 1, T, H, D, x); }},
        {"gelu_forward", [&](DType x) { return gelu_forward_cost(N * F, x); }},
        {"gelu_backward", [&](DType x) { return gelu_backward_cost(N * F, x); }},
        {"dropout", [&](DType x) { return dropout_cost(N * C, x); }},
        {"add_forward", [&](DType x) { return add_forward_cost(N * C, x); }},
        {"scale_shift", [&](DType x) { return scale_shift_cost(N, C, x); }},
        {"cross_entropy, loss only", [&](DType x) { return cross_entropy_loss_cost(N, Vp, x); }},
        {"cross_entropy, with gradient", [&](DType x) { return cross_entropy_cost(N, Vp, x); }},
        {"choose, one row", [&](DType x) { return choose_cost(1, Vp, x); }},
        {"adamw, all weights", [&](DType x) { return adamw_cost(weights, x); }},
        {"muon_momentum, F × C", [&](DType) { return muon_momentum_cost(F * C); }},
        {"muon_orthogonalise, F × C", [&](DType x) { return muon_orthogonalise_cost(F, C, x); }},
        {"muon_apply, F × C", [&](DType x) { return muon_apply_cost(F * C, x); }},
        {"squared_norm, all gradients", [&](DType) { return sum_cost(weights); }},
    };
    std::string table =
        "| op | MB fp32 | MB bf16 | GFLOP | scratch KB | bf16 on an H100 is bound by |\n|---|--:|--:|--:|--:|---|\n";
    for (const Row& row : rows) {
        const Cost fp32 = row.cost(DType::F32), bf16 = row.cost(DType::BF16);
        const bool products = bf16.flops / H100::flops(DType::BF16) > bf16.bytes / H100::bytes;
        table += fmt::format("| {} | {:.2f} | {:.2f} | {} | {} | {} |\n", row.op, fp32.bytes / 1e6, bf16.bytes / 1e6,
                             bf16.flops ? fmt::format("{:.3f}", bf16.flops / 1e9) : "",
                             bf16.scratch ? fmt::format("{:.1f}", double(bf16.scratch) / 1e3) : "",
                             products ? "products" : "memory");
    }
    return table;
}
