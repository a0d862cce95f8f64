// attention_variants.cu - instantiates the attention kernels on tensor cores with other tilings than the ops use
//
// Which tiling is the fastest depends on the GPU: on its shared memory, and on how many warps hide the latency of its
// tensor cores. bench_ops --variants measures these. The fastest of them belong into ForwardTilingOf of
// kernels/attention_tensor.cuh and QueryTilingOf and KeyTilingOf of attention_tensor_backward.cuh, or into their like
// in attention_hopper.cuh and attention_hopper_backward.cuh.
#include "test/attention_variants.h"

#ifdef __CUDACC__
#include "kernels/attention_hopper.cuh"
#include "kernels/attention_hopper_backward.cuh"

using namespace gpu;

static Problem problem_of(const AttentionTensors& t) {
    return problem(t.qkv, {}, 0, t.scale, t.qkv.shape[1], {t.dqkv, t.dout, t.out, t.qkv});
}

// `kernel` gives the registers and the blocks, which are unknown (0) where the GPU cannot run it.
template <class Tiling, class Kernel, class Run>
static AttentionVariant variant(const char* what, const std::string& how, int products, Kernel kernel, Run run) {
    AttentionVariant v{fmt::format("{} D {}: M {} N {}{}", what, Tiling::D, Tiling::M, Tiling::N, how),
                       Tiling::D,
                       products,
                       0,
                       0,
                       run};
    cudaFuncAttributes attributes{};
    CUDA_RUN(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tiling::shared));
    CUDA_RUN(cudaFuncGetAttributes(&attributes, kernel));
    CUDA_RUN(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&v.blocks, kernel, tensor_threads, Tiling::shared));
    v.registers = attributes.numRegs;
    return v;
}

template <int D, int M, int N, int stages, int blocks, bool q>
static AttentionVariant forward() {
    using Tiling      = ForwardTiling<D, M, N, stages, blocks, q>;
    const auto kernel = attention_forward_kernel<Tiling>;
    const auto how    = fmt::format(", {} stages{}", stages, q ? ", q in registers" : "");
    return variant<Tiling>("forward", how, 2, kernel, [=](const AttentionTensors& t, Stream s) {
        launch(kernel, grid_of<Tiling>(t.qkv), queue_of(s), heads_of<bf16>(t.out), t.lse.data<float>(),
               inputs<bf16>(t.qkv), problem_of(t));
    });
}
template <int D, int M, int N, int stages, int blocks, bool q, bool dout>
static AttentionVariant backward_q() {
    using Tiling      = QueryTiling<D, M, N, stages, blocks, q, dout>;
    const auto kernel = attention_backward_q_kernel<Tiling>;
    const auto how    = fmt::format(", {} stages{}{}", stages, q ? ", q" : "", dout ? ", dout in registers" : "");
    return variant<Tiling>("dq", how, 3, kernel, [=](const AttentionTensors& t, Stream s) {
        launch(kernel, grid_of<Tiling>(t.qkv), queue_of(s), heads_of_qkv<bf16>(t.dqkv, 0), t.delta.data<float>(),
               heads_of<const bf16>(t.dout), heads_of<const bf16>(t.out), t.lse.data<float>(), inputs<bf16>(t.qkv),
               problem_of(t));
    });
}
template <int D, int M, int N, int blocks, bool k>
static AttentionVariant backward_kv() {
    using Tiling      = KeyTiling<D, M, N, blocks, k>;
    const auto kernel = attention_backward_kv_kernel<Tiling>;
    const auto how    = fmt::format("{}{}", k ? ", k in registers" : "", Tiling::in_one_block ? "" : ", two blocks");
    return variant<Tiling>("dk, dv", how, 4, kernel, [=](const AttentionTensors& t, Stream s) {
        launch(kernel, grid_of<Tiling>(t.qkv), queue_of(s), heads_of_qkv<bf16>(t.dqkv, 1),
               heads_of_qkv<bf16>(t.dqkv, 2), heads_of<const bf16>(t.dout), t.delta.data<float>(), t.lse.data<float>(),
               inputs<bf16>(t.qkv), problem_of(t));
    });
}

static std::vector<AttentionVariant> for_any_gpu() {
    // clang-format off: a table
    //               D   M   N  stages blocks own rows in registers
    return {forward<64, 2, 64, 2, 2, true>(),
            forward<64, 2, 64, 2, 2, false>(),
            forward<64, 2, 32, 2, 3, false>(),
            forward<64, 2, 32, 3, 2, true>(),
            forward<64, 1, 64, 2, 3, true>(),
            forward<64, 1, 32, 2, 4, true>(),
            forward<128, 2, 32, 2, 2, false>(),
            forward<128, 1, 64, 2, 2, true>(),
            forward<128, 1, 32, 2, 3, false>(),
            forward<256, 1, 32, 2, 2, false>(),
            backward_q<64, 2, 32, 2, 2, true, true>(),
            backward_q<64, 2, 32, 3, 2, true, true>(),
            backward_q<64, 2, 32, 2, 2, false, false>(),
            backward_q<64, 2, 64, 2, 2, false, false>(),
            backward_q<64, 1, 64, 2, 3, true, true>(),
            backward_q<64, 1, 32, 2, 4, true, true>(),
            backward_q<128, 1, 32, 2, 2, true, true>(),
            backward_q<128, 2, 32, 2, 2, false, false>(),
            backward_q<256, 1, 16, 2, 2, false, false>(),
            backward_kv<64, 2, 32, 2, false>(),
            backward_kv<64, 2, 16, 2, true>(),
            backward_kv<64, 1, 64, 2, true>(),
            backward_kv<64, 1, 32, 3, true>(),
            backward_kv<128, 1, 32, 2, true>(),
            backward_kv<128, 1, 64, 2, false>(),
            backward_kv<128, 2, 32, 2, false>(),
            backward_kv<256, 1, 16, 2, false>()};
    // clang-format on
}

// The kernels for Hopper: N streamed rows at a time, through so many stages.
template <class Tiling, class Run>
static AttentionVariant hopper_variant(const char* what, int products, Run run) {
    return {fmt::format("{} on Hopper D {}: N {}, {} stages", what, Tiling::D, Tiling::N, Tiling::stages),
            Tiling::D,
            products,
            168,
            1,
            run};
}
template <int D, int N, int stages>
static AttentionVariant hopper_forward() {
    using Tiling = HopperTiling<D, N, stages, 1>;
    return hopper_variant<Tiling>("forward", 2, [](const AttentionTensors& t, Stream s) {
        forward_hopper<Tiling>(heads_of<bf16>(t.out), t.lse.data<float>(), inputs<bf16>(t.qkv), problem_of(t), t.qkv,
                               queue_of(s));
    });
}
template <int D, int N, int stages>
static AttentionVariant hopper_backward_q() {
    using Tiling = HopperTiling<D, N, stages, D <= 128 ? 3 : 2>;
    return hopper_variant<Tiling>("dq", 3, [](const AttentionTensors& t, Stream s) {
        backward_q_hopper<Tiling>(heads_of_qkv<bf16>(t.dqkv, 0), t.delta.data<float>(), heads_of<const bf16>(t.dout),
                                  heads_of<const bf16>(t.out), t.lse.data<float>(), inputs<bf16>(t.qkv), problem_of(t),
                                  t.qkv, queue_of(s));
    });
}
template <int D, int N, int stages>
static AttentionVariant hopper_backward_kv() {
    using Tiling = HopperTiling<D, N, stages, 2, D <= 128 ? 128 : 64>;
    return hopper_variant<Tiling>("dk, dv", 4, [](const AttentionTensors& t, Stream s) {
        backward_kv_hopper<Tiling>(heads_of_qkv<bf16>(t.dqkv, 1), heads_of_qkv<bf16>(t.dqkv, 2),
                                   heads_of<const bf16>(t.dout), t.delta.data<float>(), t.lse.data<float>(),
                                   inputs<bf16>(t.qkv), problem_of(t), t.qkv, queue_of(s));
    });
}

static std::vector<AttentionVariant> for_hopper() {
    // clang-format off
    //                     D    N  stages
    return {hopper_forward<64, 128, 2>(),
            hopper_forward<64, 128, 3>(),
            hopper_forward<64, 64, 4>(),
            hopper_forward<128, 128, 2>(),
            hopper_forward<128, 64, 3>(),
            hopper_forward<256, 64, 2>(),
            hopper_backward_q<64, 128, 2>(),
            hopper_backward_q<64, 64, 3>(),
            hopper_backward_q<128, 64, 2>(),
            hopper_backward_q<256, 48, 2>(),
            hopper_backward_q<256, 32, 3>(),
            hopper_backward_kv<64, 64, 2>(),
            hopper_backward_kv<64, 48, 3>(),
            hopper_backward_kv<128, 48, 2>(),
            hopper_backward_kv<128, 32, 3>(),
            hopper_backward_kv<256, 64, 2>(),
            hopper_backward_kv<256, 48, 2>()};
    // clang-format on
}

std::vector<AttentionVariant> attention_variants(bool hopper) {
    std::vector<AttentionVariant> all = for_any_gpu();
    if (hopper)
        for (const AttentionVariant& v : for_hopper()) all.push_back(v);
    return all;
}
#else
std::vector<AttentionVariant> attention_variants(bool) { return {}; }
#endif
