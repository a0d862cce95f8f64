// queue.cu - see queue.cuh
#ifdef __CUDACC__
#include "gpu.cuh"

namespace gpu {

constexpr int64_t slot_bytes = 1 << 20;  // enough for a copy at the full rate, and for 16 cores to share
constexpr size_t slot_count  = 8;        // the host may be this many copies ahead of the GPU

Queue::Queue(int index, bool sync_each) : index_(index), sync_each_(sync_each) {
    CUDA_RUN(cudaSetDevice(index_));
    CUDA_RUN(cudaGetDeviceProperties(&limits, index_));
    CUDA_RUN(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA_RUN(cudaMalloc(&bad, sizeof(BadId)));
    CUDA_RUN(cudaMemsetAsync(bad, 0, sizeof(BadId), stream));
    CUDA_RUN(cudaMalloc(&counters, most_counters * sizeof(uint32_t)));
    CUDA_RUN(cudaMemsetAsync(counters, 0, most_counters * sizeof(uint32_t), stream));
    CUDA_RUN(cudaMallocHost(&answer_, sizeof(Answer)));
    slots_.resize(slot_count);
    for (Slot& s : slots_) {
        CUDA_RUN(cudaMallocHost(&s.memory, slot_bytes));
        CUDA_RUN(cudaEventCreateWithFlags(&s.copied, cudaEventDisableTiming));
    }
}

// Statuses are not looked at: at the end of a program that failed, nothing here can succeed.
Queue::~Queue() {
    cudaStreamSynchronize(stream);
    products.reset();
    for (Slot& s : slots_) {
        cudaEventDestroy(s.copied);
        cudaFreeHost(s.memory);
    }
    cudaFree(scratch_);
    cudaFree(bad);
    cudaFree(counters);
    cudaFreeHost(answer_);
    cudaStreamDestroy(stream);
}

void* Queue::reserve_scratch(int64_t bytes) {
    if (bytes <= scratch_bytes_) return scratch_;
    wait();
    CUDA_RUN(cudaFree(scratch_));
    scratch_       = nullptr;
    scratch_bytes_ = 0;
    CUDA_RUN(cudaMalloc(&scratch_, size_t(bytes)));
    scratch_bytes_ = bytes;
    return scratch_;
}

cudaError_t Queue::fault() {
    const cudaError_t status = cudaGetLastError();
    return status == cudaSuccess && sync_each_ ? cudaStreamSynchronize(stream) : status;
}

void Queue::launched(const Grid& g) {
    const cudaError_t status = fault();
    if (status == cudaSuccess) return;
    throw_at<RunError>(g.file, g.line,
                       "{}: CUDA: {} ({}) in a kernel of {} blocks × {} threads, {} bytes of shared memory", op,
                       cudaGetErrorName(status), cudaGetErrorString(status), g.blocks, g.threads, g.shared);
}

void Queue::upload(Tensor dst, const Fill& fill) {
    const int64_t size = size_of(dst.dtype), most = slot_bytes / size;  // elements of a slot
    for (int64_t first = 0, count; first < dst.numel(); first += count) {
        count      = std::min(most, dst.numel() - first);
        Slot& slot = slots_[next_slot_++ % slot_count];
        CUDA_RUN(cudaEventSynchronize(slot.copied));
        fill(slot.memory, first, count);
        CUDA_RUN(cudaMemcpyAsync(static_cast<char*>(dst.ptr) + first * size, slot.memory, size_t(count * size),
                                 cudaMemcpyDefault, stream));
        CUDA_RUN(cudaEventRecord(slot.copied, stream));
    }
}

void Queue::download(void* dst, const void* src, int64_t bytes) {
    const bool few = bytes <= int64_t(sizeof answer_->bytes);
    CUDA_RUN(cudaMemcpyAsync(few ? answer_->bytes : dst, src, size_t(bytes), cudaMemcpyDefault, stream));
    wait();
    if (few) std::memcpy(dst, answer_->bytes, size_t(bytes));
}

void Queue::wait() {
    CUDA_RUN(cudaMemcpyAsync(&answer_->bad, bad, sizeof(BadId), cudaMemcpyDeviceToHost, stream));
    expect_success(cudaStreamSynchronize(stream), answer_->bad);
}

void Queue::expect_success(cudaError_t status, const BadId& met) {
    if (status != cudaSuccess)
        throw_at<RunError>(__FILE__, __LINE__,
                           "CUDA: {} ({}) in one of the ops up to {}; run again, waiting after every kernel (sync), to "
                           "learn in which",
                           cudaGetErrorName(status), cudaGetErrorString(status), op);
    if (ready(&met)) return;
    CUDA_RUN(cudaMemsetAsync(bad, 0, sizeof(BadId), stream));
    met.rule.complain(met.at, met.id);
}

// One block reads all ids, so that it finds the first bad one without atomics. A thread has 8 loads in flight.
template <int W>
static __global__ void __launch_bounds__(1024)
    check_ids_kernel(BadId* bad, const int32_t* ids, int64_t n, IdRule rule) {
    __shared__ int64_t firsts[32];
    int64_t first       = n;
    const bool is_ready = ready(bad);
#pragma unroll 8
    for (int64_t i = threadIdx.x; i < n / W; i += blockDim.x) {
        const Word<4 * W> word = reinterpret_cast<const Word<4 * W>*>(ids)[i];
        for (int k = 0; k < W; k++)
            if (!rule.allows(reinterpret_cast<const int32_t*>(&word)[k])) first = min(first, i * W + k);
    }
    for (int64_t i = n - n % W + threadIdx.x; i < n; i += blockDim.x)
        if (!rule.allows(ids[i])) first = min(first, i);
    for (int w = 16; w; w /= 2) first = min(first, __shfl_xor_sync(~0u, first, w));
    if (threadIdx.x % 32 == 0) firsts[threadIdx.x / 32] = first;
    __syncthreads();
    if (threadIdx.x != 0 || !is_ready) return;
    for (int warp = 1; warp < int(blockDim.x / 32); warp++) first = min(first, firsts[warp]);
    if (first < n) *bad = {1, ids[first], first, rule};
}

void Queue::expect_ids(Tensor ids, const IdRule& rule) {
    for_width<float>(aligned(ids.ptr), [&](auto width) {
        launch(check_ids_kernel<width>, {1, 1024, 0, rule.file, rule.line}, *this, bad, ids.data<int32_t>(),
               ids.numel(), rule);
    });
    if (sync_each_) wait();
}

}  // namespace gpu
#endif
